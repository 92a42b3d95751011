"""Machines as TOML: those that come with qvit, every error, and that what is written is what is read."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_programs import MACHINE

from qvit.backends.systolic.machine import (
    Array,
    Control,
    Machine,
    MachineError,
    Memories,
    Vector,
    builtin_name,
    format_machine,
    load_machine,
    machine_names,
    machine_text,
    parse_machine,
)

LEAST = """\
name = "least"
description = "only what has no default"
[array]
rows = 4
columns = 8
[memory]
activations = 1024
weights = 512
accumulators = 256
constants = 64
[vector]
lanes = 2
"""


def test_what_is_left_out_has_its_default() -> None:
    assert parse_machine(LEAST, "least.toml") == Machine(
        name="least",
        description="only what has no default",
        array=Array(rows=4, columns=8, operands=("a8w8",), shadow=True, logarithmic=False),
        memory=Memories(activations=1024, weights=512, accumulators=256, constants=64, banks=8, word=16),
        vector=Vector(lanes=2, functions=("*",), comparators=0),
        control=Control(queue=16, semaphore_bits=8, loops=4),
        energy="horowitz-45nm",
    )


def test_machines_that_come_with_qvit() -> None:
    assert machine_names() == ["baseline-fp", "large", "lin-shah", "p2-vit", "small"]
    for name in machine_names():
        assert load_machine(name).name == name
        assert builtin_name(load_machine(name)) == name
    assert load_machine("small").vector.has("ln")
    assert load_machine("p2-vit").vector.has("table")
    assert not load_machine("p2-vit").vector.has("ln")


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(LEAST)
    machine = load_machine(str(path))
    assert machine == parse_machine(machine_text(str(path)), "mine")
    assert builtin_name(machine) is None


def test_a_changed_machine_has_no_name_of_ours() -> None:
    small = load_machine("small")
    assert builtin_name(replace(small, control=replace(small.control, queue=17))) is None


@given(MACHINE, st.text(st.characters(exclude_categories=["Cs"])), st.booleans())
def test_what_is_written_is_what_is_read(machine: Machine, text: str, shadow: bool) -> None:
    changed = replace(machine, description=text, array=replace(machine.array, shadow=shadow))
    assert parse_machine(format_machine(changed), "text") == changed


WRONG = {
    "no TOML": ("rows = 4", "rows = ", "m: no TOML: "),
    "unknown key": ("name", "nme", "m: unknown key nme; known are name, description, array, memory"),
    "unknown key of a table": ("lanes", "lines", "m: vector: unknown key lines; known are lanes, depth"),
    "missing key": ('description = "only what has no default"\n', "", "m: description is missing"),
    "missing key of a table": ("columns = 8\n", "", "m: array: columns is missing"),
    "missing table": ("[vector]\nlanes = 2\n", "", "m: vector is missing"),
    "no table": ("[array]\nrows = 4\ncolumns = 8\n", "", "m: array must be a table", 'array = "big"\n'),
    "text for a number": ("rows = 4", 'rows = "4"', 'm: array: rows: expected a whole number, found "4"'),
    "float for a number": ("rows = 4", "rows = 4.0", "m: array: rows: expected a whole number, found 4.0"),
    "truth for a number": ("rows = 4", "rows = true", "m: array: rows: expected a whole number, found true"),
    "number for truth": ("rows = 4", "rows = 4\nshadow = 1", "m: array: shadow: expected true or false, found 1"),
    "number for text": ('name = "least"', "name = 1", "m: name: expected a string, found 1"),
    "text for a list": ("rows = 4", 'rows = 4\noperands = "a8w8"', "m: array: operands: expected a list of strings"),
    "list of numbers": (
        "rows = 4",
        "rows = 4\noperands = [8]",
        "m: array: operands: expected a list of strings, found [8]",
    ),
    "no rows": ("rows = 4", "rows = 0", "least: rows must be positive, found 0"),
    "no lanes": ("lanes = 2", "lanes = -1", "least: lanes must be positive, found -1"),
    "no loops": ("[vector]", "[control]\nloops = 0\n[vector]", "least: loops must be positive, found 0"),
    "no bytes a cycle": (
        "[vector]",
        "[dram]\nbytes_per_cycle = 0\n[vector]",
        "least: bytes_per_cycle must be positive",
    ),
    "crooked memory": (
        "weights = 512",
        "weights = 500",
        "least: memory.weights must be a multiple of 32 and at most 4194304, found 500",
    ),
    "memory that no address reaches": ("weights = 512", "weights = 4194336", "at most 4194304, found 4194336"),
    "DRAM that no address reaches": (
        "[vector]",
        "[dram]\nbytes = 4294967297\n[vector]",
        "least: dram.bytes must be at most 4294967296, found 4294967297",
    ),
    "dataflow": (
        "rows = 4",
        'rows = 4\ndataflows = ["input_stationary"]',
        "least: array.dataflows: unknown input_stationary; known are weight_stationary, output_stationary",
    ),
    "no dataflow": ("rows = 4", "rows = 4\ndataflows = []", "least: array.dataflows: at least one is needed"),
    "operands": ("rows = 4", 'rows = 4\noperands = ["a8w5"]', "least: array.operands: unknown a8w5; known are a16w8"),
    "requantize": ("lanes = 2", 'lanes = 2\nrequantize = ["float"]', "least: vector.requantize: unknown float"),
    "function": (
        "lanes = 2",
        'lanes = 2\nfunctions = ["sm9"]',
        "least: vector.functions: unknown sm9; known are *, sm8",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong(name: str) -> None:
    old, new, message, *front = WRONG[name]
    assert old in LEAST
    with pytest.raises(MachineError) as error:
        parse_machine("".join(front) + LEAST.replace(old, new, 1), "m")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_no_such_machine() -> None:
    with pytest.raises(
        MachineError, match=re.escape("medium: no such machine or file; machines are baseline-fp, large")
    ):
        load_machine("medium")


def test_no_text(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(MachineError, match="m.toml: no TOML: it is not UTF-8"):
        load_machine(str(tmp_path / "m.toml"))
