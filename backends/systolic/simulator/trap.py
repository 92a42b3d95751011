"""What stops a program: the machine cannot go on, or what it would do next means nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from qvit.backends.systolic.isa import Instruction
from qvit.backends.systolic.notation import instruction_text


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
