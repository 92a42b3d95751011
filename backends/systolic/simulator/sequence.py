"""The sequencer: loops and registers become a sequence of steps with addresses that are numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from qvit.backends.systolic.isa import (
    REGISTERS,
    Add,
    Halt,
    Increment,
    Instruction,
    Loop,
    Queue,
    Set,
    fields_of,
)
from qvit.backends.systolic.machine import Machine
from qvit.backends.systolic.simulator.trap import Listing

MOST_WORDS = 20_000_000
"""Beyond this many words a program counts as one that does not end."""


class Step(NamedTuple):
    """An instruction as it is handed to its queue. number: of its word in the program; word: how many words the sequencer
    takes until it has handed it on; addresses: in bytes, in the order of the fields."""

    number: int
    word: int
    instruction: Instruction
    queue: Queue
    addresses: tuple[int, ...]


@dataclass
class _Running:
    """A loop that is being run. end: the number of the word behind its body."""

    start: int
    end: int
    left: int
    increments: Sequence[Increment]


def _address_parts(instruction: Instruction) -> tuple[tuple[int, int], ...]:
    """(register, offset) of each address."""
    names = (name for name, bits in fields_of(type(instruction)).items() if bits.kind == "address")
    found = (getattr(instruction, name) for name in names)
    return tuple((address.register, address.offset) for address in found)


def _advance(registers: list[int], increments: Sequence[Increment]) -> None:
    for increment in increments:
        registers[increment.register] = (registers[increment.register] + increment.step) & 0xFFFFFFFF


def _enter(machine: Machine, listing: Listing, at: int, loop: Loop, running: Sequence[_Running]) -> _Running:
    """The loop of word `at`; a Trap where it is malformed."""
    end = at + 1 + loop.length
    inside = running[-1].end if running else len(listing.instructions) - 1
    if loop.length < 1 or loop.count < 1:
        raise listing.trap(at, f"a loop has 1 instruction and 1 turn at least, found {loop.length} and {loop.count}")
    if end > inside:
        raise listing.trap(at, f"the loop ends at {end}, beyond what it stands in, which ends at {inside}")
    if len(running) >= machine.control.loops:
        raise listing.trap(at, f"loops nest {len(running) + 1} deep, the machine has {machine.control.loops}")
    return _Running(at + 1, end, loop.count, loop.increments)


def unroll(machine: Machine, listing: Listing) -> tuple[list[Step], int]:
    """(the steps in their order, the words that the sequencer takes). A Trap where the program is malformed."""
    program = listing.instructions
    halts = [number for number, instruction in enumerate(program) if isinstance(instruction, Halt)]
    if not program or halts != [len(program) - 1]:
        raise listing.trap(halts[0] if halts else 0, "the last word of a program, and no other, is halt")
    for number, instruction in enumerate(program):
        if instruction.queue is None and (instruction.wait or instruction.signal):
            raise listing.trap(number, "the sequencer takes and gives no tokens")
    parts = [_address_parts(instruction) for instruction in program]
    registers = [0] * REGISTERS
    running: list[_Running] = []
    steps: list[Step] = []
    at = words = 0
    while True:
        instruction = program[at]
        words += 1
        if words > MOST_WORDS:
            raise listing.trap(at, f"more than {MOST_WORDS} words")
        if instruction.queue is not None:
            addresses = tuple([(registers[register] + offset) & 0xFFFFFFFF for register, offset in parts[at]])
            steps.append(Step(at, words, instruction, instruction.queue, addresses))
        elif isinstance(instruction, Halt):
            return steps, words
        elif isinstance(instruction, Loop):
            running.append(_enter(machine, listing, at, instruction, running))
        elif isinstance(instruction, Set):
            for increment in instruction.increments:
                registers[increment.register] = increment.step & 0xFFFFFFFF
        elif isinstance(instruction, Add):
            _advance(registers, instruction.increments)
        at += 1
        while running and at == running[-1].end:
            loop = running[-1]
            _advance(registers, loop.increments)
            loop.left -= 1
            if loop.left:
                at = loop.start
                break
            running.pop()
