"""Tasks: instructions whose addresses are still places in buffers, in an order in which they are right one after another."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qvit.backends.systolic.isa import Instruction, Memory, Queue


@dataclass(eq=False)
class Buffer:
    """Bytes of a memory, None: of DRAM.

    ring: used for a short time, and not to lie at once where the one before was, so that both can be in use; group: of the
    operations that use it. first, last: the numbers of the tasks between which it is in use; address: where it lies, once
    that is known.
    """

    name: str
    memory: Memory | None
    bytes: int
    ring: bool = True
    group: int = -1
    first: int = -1
    last: int = -1
    address: int = -1


@dataclass(frozen=True)
class Place:
    """`rows` times `run` bytes of a buffer, a row every `stride` bytes, from `offset` on."""

    buffer: Buffer
    offset: int
    rows: int
    run: int
    stride: int

    @property
    def end(self) -> int:
        return self.offset + (self.rows - 1) * self.stride + self.run

    def meets(self, other: "Place") -> bool:
        """Whether both, of one buffer, have a byte in common; True where that is hard to say."""
        if self.end <= other.offset or other.end <= self.offset:
            return False
        if self.stride != other.stride or not self.stride:
            return True
        (row, column), (other_row, other_column) = (divmod(p.offset, p.stride) for p in (self, other))
        if column + self.run > self.stride or other_column + other.run > other.stride:
            return True  # rows that go on in the next
        apart = column + self.run <= other_column or other_column + other.run <= column
        return not apart and row < other_row + other.rows and other_row < row + self.rows


@dataclass(eq=False)
class Task:
    """An instruction with `places` for its addresses, by field.

    reads, writes: what it touches; cycles: what the closed forms say; node: number of the source node; group: of the
    operations that are computed together; follows: numbers of tasks that must be done before, whatever the buffers say.
    """

    kind: type[Instruction]
    values: Mapping[str, Any]
    places: Mapping[str, Place]
    reads: tuple[Place, ...]
    writes: tuple[Place, ...]
    cycles: int
    node: int
    group: int
    follows: list[int] = field(default_factory=list[int])

    @property
    def queue(self) -> Queue:
        assert self.kind.queue is not None
        return self.kind.queue
