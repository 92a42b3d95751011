"""Repeated instructions become loops."""

from collections.abc import Sequence

from qvit.backends.systolic.isa import Instruction


def rolled(instructions: Sequence[Instruction], depth: int) -> list[Instruction]:
    """The same sequence with loops of at most `depth` levels."""
    return list(instructions)
