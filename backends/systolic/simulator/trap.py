"""What stops a program: the machine cannot go on, or what it would do next means nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from qvit.backends.systolic.isa import Address, Increment, Instruction, Queue
from qvit.dialects.semantics.integers import IntType


class Fault(ValueError):
    """A reason to stop, found where the instruction is not known; it becomes a `Trap`."""


class Trap(Exception):
    """number: of the word in the program; text: of the instruction; node: the source node, empty if none is known."""

    def __init__(self, number: int, text: str, node: str, reason: str) -> None:
        work = f" for {node}" if node else ""
        super().__init__(f"instruction {number} ({text}){work}: {reason}")
        self.number = number
        self.text = text
        self.node = node
        self.reason = reason


def _text(name: str, value: object) -> str:
    if isinstance(value, Address):
        return f"r{value.register}+{value.offset}" if value.register else str(value.offset)
    if isinstance(value, Increment):
        return f"r{value.register}+={value.step}"
    if isinstance(value, IntType):
        return str(value)
    if name in ("wait", "signal") and isinstance(value, int):
        return "|".join(queue.name for queue in Queue if value >> queue & 1)
    return str(value)


def instruction_text(instruction: Instruction) -> str:
    """One line for people: the mnemonic, and the fields that are not what they are by default."""
    shown = [
        f"{f.name}={_text(f.name, value)}"
        for f in fields(instruction)
        if (value := getattr(instruction, f.name)) != f.default
    ]
    return " ".join((instruction.mnemonic, *shown))


@dataclass(frozen=True)
class Listing:
    """Decoded words and the names of their source nodes."""

    instructions: Sequence[Instruction]
    nodes: Sequence[str]

    def node(self, number: int) -> str:
        """The source node of an instruction; empty where none is named."""
        return self.nodes[node - 1] if 0 < (node := self.instructions[number].node) <= len(self.nodes) else ""

    def trap(self, number: int, reason: object) -> Trap:
        return Trap(number, instruction_text(self.instructions[number]), self.node(number), str(reason))
