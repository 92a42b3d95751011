"""Binaries: what is written is what is read, equal programs are equal bytes, and every damage is refused."""

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_programs import LOOSE, NESTED, contents, programs

from qvit.backends.systolic.container import ContainerError, load_program, save_program
from qvit.backends.systolic.isa import WORD_BYTES, Halt, IsaError, Load, Loop, encode, isa_digest
from qvit.backends.systolic.machine import load_machine, parse_machine
from qvit.backends.systolic.program import Port, Program
from qvit.dialects.semantics.integers import IntType

PROGRAM = Program(
    load_machine("small"),
    [Load(rows=1, node=2), Loop(length=1, count=3), Load(run=5), Halt()],
    {0: np.arange(65, dtype=np.uint8), 128: np.arange(3, dtype=np.uint8)},
    4096,
    [Port("image", 256, (2, 3), IntType(4))],
    [Port("é", 512, (), IntType(32))],
    ["a", "b"],
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "p.qisa"
    save_program(PROGRAM, path)
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=programs(st.one_of(NESTED, LOOSE)))
def test_a_file_gives_the_program_again(tmp_path: Path, program: Program) -> None:
    path = tmp_path / "p.qisa"
    save_program(program, path)
    found = load_program(path)
    assert contents(found) == contents(program)
    first = path.read_bytes()
    save_program(found, path)
    assert path.read_bytes() == first


def test_the_documented_layout(file: Path) -> None:
    content = file.read_bytes()
    assert content[:16] == b"QVITISA\0" + struct.pack("<II", 1, 0)
    assert content[16:48] == hashlib.sha256(content[48:]).digest()
    (size,) = struct.unpack_from("<Q", content, 48)
    description = json.loads(content[56 : 56 + size])
    assert parse_machine(description.pop("machine"), "m") == PROGRAM.machine
    assert description == {
        "isa": isa_digest(),
        "dram": 4096,
        "inputs": [{"name": "image", "address": 256, "type": "i4", "shape": [2, 3]}],
        "outputs": [{"name": "é", "address": 512, "type": "i32", "shape": []}],
        "nodes": ["a", "b"],
        "words": 4,
        "data": [[0, 65], [128, 3]],
    }
    at = -(-(56 + size) // 64) * 64
    assert content[at : at + 4 * WORD_BYTES] == b"".join(map(encode, PROGRAM.instructions))
    assert content[at + 128 : at + 128 + 65] == bytes(range(65))
    assert content[at + 256 :] == bytes(range(3)) + bytes(61)


def test_data_are_read_only(file: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        load_program(file).data[0][0] = 1


def test_every_byte_counts(file: Path) -> None:
    content = file.read_bytes()
    damaged = bytearray(content)
    for at in range(len(content)):
        damaged[at] ^= 0x10
        file.write_bytes(damaged)
        with pytest.raises(ContainerError, match=r"p\.qisa: "):
            load_program(file)
        damaged[at] ^= 0x10


def test_every_length_counts(file: Path) -> None:
    content = file.read_bytes()
    for size in range(len(content)):
        file.write_bytes(content[:size])
        with pytest.raises(ContainerError, match=r"p\.qisa: "):
            load_program(file)
    file.write_bytes(content + b"\0")
    with pytest.raises(ContainerError, match="damaged"):
        load_program(file)


def sealed(content: bytes) -> bytes:
    """With the checksum that it should have."""
    return content[:16] + hashlib.sha256(content[48:]).digest() + content[48:]


Change = Callable[[dict[str, Any]], object]


def described(file: Path, change: Change) -> bytes:
    """The file with another description."""
    content = file.read_bytes()
    (size,) = struct.unpack_from("<Q", content, 48)
    description = json.loads(content[56 : 56 + size])
    change(description)
    return with_text(content, json.dumps(description).encode())


def with_text(content: bytes, text: bytes) -> bytes:
    (size,) = struct.unpack_from("<Q", content, 48)
    front = struct.pack("<Q", len(text)) + text
    rest = content[-(-(56 + size) // 64) * 64 :]
    return sealed(content[:48] + front + bytes(-(48 + len(front)) % 64) + rest)


MESSAGES: dict[str, tuple[Change, str]] = {
    "other instructions": (
        lambda d: d.update(isa="0" * 64),
        "found 000000000000: another version of qvit made the program",
    ),
    "no machine": (lambda d: d.pop("machine"), "the description has no machine"),
    "broken machine": (lambda d: d.update(machine="rows ="), "machine: no TOML"),
    "machine's type": (lambda d: d.update(machine=3), "the description: machine: expected str, found 3"),
    "true for a number": (lambda d: d.update(dram=True), "the description: dram: expected int, found true"),
    "negative": (lambda d: d.update(dram=-1), "the description: dram: expected no negative number, found -1"),
    "more words": (lambda d: d.update(words=6), "as the description says"),
    "more words than fit": (lambda d: d.update(words=1 << 70), "as the description says"),
    "fewer words": (lambda d: d.update(words=2), "as the description says"),
    "larger data": (lambda d: d.update(data=[[0, 65], [128, 65]]), "as the description says"),
    "data with an end": (lambda d: d.update(data=[[0, 65, 1], [128, 3]]), "expected address and bytes, found 3 values"),
    "data at a name": (lambda d: d.update(data=[["a", 65], [128, 3]]), 'data: expected int, found "a"'),
    "data over data": (lambda d: d.update(data=[[0, 65], [64, 3]]), "data at 0x40: expected ascending addresses"),
    "data at one address": (lambda d: d.update(data=[[0, 65], [0, 3]]), "two data have one address"),
    "data outside": (lambda d: d.update(dram=130), "data at 0x80 ends at 0x83, beyond the 0x82 bytes"),
    "nodes": (lambda d: d.update(nodes=["a"]), "instruction 0, load: node 2 is none of the program's 1 nodes"),
    "a node's type": (lambda d: d.update(nodes=["a", 2]), "a node: expected str, found 2"),
    "port": (lambda d: d.update(inputs=["image"]), 'a port: expected dict, found "image"'),
    "port without type": (lambda d: d["inputs"][0].pop("type"), "the description has no type"),
    "port's type": (lambda d: d["inputs"][0].update(type="f32"), "image: there is no type f32"),
    "port's shape": (lambda d: d["inputs"][0].update(shape=[-2, 3]), "shape: expected no negative number, found -2"),
    "port's address": (lambda d: d["inputs"][0].update(address=1.5), "address: expected int, found 1.5"),
    "port outside": (
        lambda d: d["inputs"][0].update(address=4093),
        "input image ends at 0x1003, beyond the 0x1000 bytes",
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_descriptions_that_are_none(file: Path, name: str) -> None:
    change, message = MESSAGES[name]
    file.write_bytes(described(file, change))
    with pytest.raises(ContainerError) as error:
        load_program(file)
    assert str(error.value).startswith(f"{file}: ")
    assert message in str(error.value)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b"[" * 100_000], ids=repr)
def test_a_description_that_is_no_table(file: Path, text: bytes) -> None:
    file.write_bytes(with_text(file.read_bytes(), text))
    with pytest.raises(ContainerError, match="the description is no (JSON|table)"):
        load_program(file)


def test_a_description_that_is_longer_than_the_file(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(sealed(content[:48] + struct.pack("<Q", 1 << 60) + content[56:]))
    with pytest.raises(ContainerError, match="expected a description of 1152921504606846976 bytes"):
        load_program(file)


def test_a_word_that_is_none(file: Path) -> None:
    content = file.read_bytes()
    at = content.index(encode(PROGRAM.instructions[2]))
    file.write_bytes(sealed(content[:at] + b"\0" + content[at + 1 :]))
    with pytest.raises(ContainerError, match="instruction 2: there is no opcode 0x00"):
        load_program(file)


OTHERS = {
    "nothing": (b"", "expected a program, which starts with"),
    "text": (b'.machine "small"\n', "expected a program, which starts with"),
    "the start alone": (b"QVITISA\0", "damaged: expected at least 56 bytes, found 8"),
    "another version": (
        b"QVITISA\0" + struct.pack("<II", 2, 0) + bytes(48),
        "expected version 1 of the layout, found 2",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files(tmp_path: Path, name: str) -> None:
    content, message = OTHERS[name]
    (tmp_path / "p.qisa").write_bytes(content)
    with pytest.raises(ContainerError, match=message):
        load_program(tmp_path / "p.qisa")


def test_what_is_no_program_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "p.qisa"
    path.write_bytes(b"before")
    for wrong in (
        replace(PROGRAM, instructions=[]),
        replace(PROGRAM, instructions=[Load(rows=-1), Halt()]),
        replace(PROGRAM, data={0: np.zeros(4, np.int8)}),
        replace(PROGRAM, data={0: np.zeros((2, 2), np.uint8)}),
        replace(PROGRAM, data={8: np.zeros(4, np.uint8), 0: np.zeros(4, np.uint8)}),
        replace(PROGRAM, inputs=[Port("a", -1, (), IntType(8))]),
    ):
        with pytest.raises(IsaError):
            save_program(wrong, path)
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["p.qisa"]


def test_no_place(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        save_program(PROGRAM, tmp_path / "nowhere" / "p.qisa")
