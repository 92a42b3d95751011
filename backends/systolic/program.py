"""A program: words, what lies in DRAM when it starts, and where inputs and outputs are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from qvit.backends.systolic.isa import Halt, Instruction, IsaError, Loop, encode
from qvit.backends.systolic.machine import Machine
from qvit.dialects.semantics.integers import Array, IntType


@dataclass(frozen=True)
class Port:
    """A tensor of the caller in DRAM: row-major, elements as NumPy holds them, little endian, from `address` on (in bytes)."""

    name: str
    address: int
    shape: tuple[int, ...]
    type: IntType

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.type.dtype.itemsize


@dataclass(frozen=True)
class Program:
    """instructions: the words in their order, the last one, and no other, `halt`; data: bytes of DRAM (uint8 vectors) by
    address, ascending, without overlap: weights and constants; dram: bytes that it needs there; nodes: the names of source
    nodes, by the number less one that `node` has."""

    machine: Machine
    instructions: Sequence[Instruction]
    data: Mapping[int, Array]
    dram: int
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    nodes: Sequence[str] = field(default_factory=tuple[str, ...])


def require_whole(program: Program) -> None:
    """IsaError unless the program is what `Program` says: all of it lies in DRAM, nodes have names, fields fit, `halt` ends it.

    Whether the machine can run its instructions is another question.
    """
    if program.dram > program.machine.dram.bytes:
        raise IsaError(
            f"the program needs {program.dram} bytes of DRAM, the machine {program.machine.name} has "
            f"{program.machine.dram.bytes}"
        )
    end = 0
    for address, content in program.data.items():
        if content.dtype != "uint8" or content.ndim != 1:
            raise IsaError(
                f"data at 0x{address:x}: expected a vector of uint8, found {content.dtype}{list(content.shape)}"
            )
        if address < end:
            raise IsaError(f"data at 0x{address:x}: expected ascending addresses, what stands before ends at 0x{end:x}")
        end = address + len(content)
        _require_inside(program, f"data at 0x{address:x}", end)
    for what, ports in (("input", program.inputs), ("output", program.outputs)):
        for number, port in enumerate(ports):
            if port.name in [other.name for other in ports[:number]]:
                raise IsaError(f"{what} {port.name}: expected different names, found it twice")
            if port.address < 0 or min(port.shape, default=0) < 0:
                raise IsaError(f"{what} {port.name}: expected an address and dimensions that are not negative")
            _require_inside(program, f"{what} {port.name}", port.address + port.bytes)
    halts = [number for number, instruction in enumerate(program.instructions) if isinstance(instruction, Halt)]
    if halts != [len(program.instructions) - 1]:
        found = ", ".join(map(str, halts[:3])) or "none"
        raise IsaError(
            f"expected halt as instruction {len(program.instructions) - 1}, the last, and no other; found {found}"
        )
    for number, instruction in enumerate(program.instructions):
        if instruction.node > len(program.nodes):
            raise IsaError(
                f"instruction {number}, {instruction.mnemonic}: node {instruction.node} is none of the program's "
                f"{len(program.nodes)} nodes"
            )
        try:
            encode(instruction)
        except IsaError as error:
            raise IsaError(f"instruction {number}, {error}") from error


def _require_inside(program: Program, what: str, end: int) -> None:
    if end > program.dram:
        raise IsaError(
            f"{what} ends at 0x{end:x}, beyond the 0x{program.dram:x} bytes of DRAM that the program asks for"
        )


def loop_ends(instructions: Sequence[Instruction]) -> dict[int, int]:
    """By the index of each loop, the index behind its body; without those that are empty, not wholly inside the loop around
    them, or have the last word, `halt`, in them."""
    ends: dict[int, int] = {}
    around = [len(instructions) - 1]
    for index, instruction in enumerate(instructions):
        while len(around) > 1 and around[-1] <= index:
            around.pop()
        if isinstance(instruction, Loop) and index + 1 < (end := index + 1 + instruction.length) <= around[-1]:
            ends[index] = end
            around.append(end)
    return ends
