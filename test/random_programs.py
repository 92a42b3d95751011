"""Random instructions and programs of the systolic machine, by the encoding alone: most of them mean nothing."""

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from qvit.backends.systolic.isa import (
    INSTRUCTIONS,
    REGISTERS,
    Address,
    Bits,
    Halt,
    Increment,
    Instruction,
    Loop,
    fields_of,
)
from qvit.backends.systolic.machine import load_machine, machine_names
from qvit.backends.systolic.program import Port, Program
from qvit.dialects.semantics.integers import IntType

TYPES = [IntType(bits) for bits in range(1, 65)] + [IntType(bits, False) for bits in range(1, 33)]
REGISTER = st.integers(0, REGISTERS - 1)


def natural(width: int) -> st.SearchStrategy[int]:
    return st.one_of(
        st.integers(0, min(3, (1 << width) - 1)), st.integers(0, (1 << width) - 1), st.just((1 << width) - 1)
    )


def signed(width: int) -> st.SearchStrategy[int]:
    return st.integers(-(1 << (width - 1)), (1 << (width - 1)) - 1)


def values(bits: Bits) -> st.SearchStrategy[Any]:
    """All that a field may hold."""
    match bits.kind:
        case "address":
            return st.builds(Address, natural(bits.width - 5), REGISTER)
        case "increment" | "assignment":
            return st.builds(Increment, REGISTER, signed(bits.width - 5))
        case "type":
            return st.sampled_from(TYPES)
        case "enum":
            return st.integers(0, len(bits.names) - 1)
        case "signed":
            return signed(bits.width)
        case _:
            return natural(bits.width)


def instructions_of(kind: type[Instruction]) -> st.SearchStrategy[Instruction]:
    """Each field as by default, or anything."""
    fields = {name: st.one_of(st.just(getattr(kind(), name)), values(bits)) for name, bits in fields_of(kind).items()}
    return st.builds(kind, **fields)


INSTRUCTION = st.sampled_from(list(INSTRUCTIONS.values())).flatmap(instructions_of)
INNER = st.sampled_from([kind for kind in INSTRUCTIONS.values() if kind not in (Halt, Loop)]).flatmap(instructions_of)
LOOP = instructions_of(Loop)


def _nested(bodies: st.SearchStrategy[list[Instruction]]) -> st.SearchStrategy[list[Instruction]]:
    """Bodies one after another, some of them in loops."""

    def looped(loop: Instruction, body: list[Instruction]) -> list[Instruction]:
        return [replace(loop, length=len(body)), *body]

    part = st.one_of(bodies, st.builds(looped, LOOP, bodies))
    return st.lists(part, min_size=1, max_size=3).map(lambda parts: [i for body in parts for i in body])


NESTED = st.recursive(st.lists(INNER, min_size=1, max_size=3), _nested, max_leaves=6)
"""Instructions in which every loop is wholly inside the one around it."""
LOOSE = st.lists(st.one_of(INNER, LOOP, LOOP.map(lambda loop: replace(loop, length=loop.length % 5))), max_size=8)
"""Instructions whose loops end anywhere."""

NAME = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
MACHINE = st.sampled_from([load_machine(name) for name in machine_names()])
DRAM = 1 << 20


@st.composite
def programs(draw: st.DrawFn, bodies: st.SearchStrategy[list[Instruction]] = NESTED) -> Program:
    """Programs that are whole (`require_whole`)."""
    machine = draw(st.one_of(MACHINE, st.builds(lambda m, text: replace(m, description=text), MACHINE, NAME)))
    nodes = draw(st.lists(NAME, max_size=3))
    body = [replace(i, node=i.node % (len(nodes) + 1)) for i in draw(bodies)]
    data: dict[int, np.ndarray[Any, Any]] = {}
    end = 0
    for gap, content in draw(st.lists(st.tuples(st.integers(0, 100), st.binary(max_size=100)), max_size=3)):
        if end + gap not in data:
            data[end + gap] = np.frombuffer(content, np.uint8)
            end += gap + len(content)
    port = st.builds(
        Port, NAME, st.integers(0, 1000), st.lists(st.integers(0, 5), max_size=4).map(tuple), st.sampled_from(TYPES)
    )
    ports = st.lists(port, max_size=3, unique_by=lambda p: p.name)
    return Program(machine, [*body, Halt()], data, DRAM, draw(ports), draw(ports), nodes)


def contents(program: Program) -> tuple[object, ...]:
    """All of a program, to compare."""
    data = [(address, bytes(content)) for address, content in program.data.items()]
    ports = list(program.inputs), list(program.outputs)
    return program.machine, list(program.instructions), data, program.dram, *ports, list(program.nodes)
