"""Where every tensor lies: one arena, planned before the program runs, whose parts are shared by tensors in turn."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

ALIGNMENT = 64
"""Bytes; a cache line and the widest vector register."""


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class Buffer:
    """`size` bytes that are in use from step `first` to step `last`, both included."""

    key: Hashable
    size: int
    first: int
    last: int

    def meets(self, other: "Buffer") -> bool:
        """Whether both are in use at some step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Plan:
    """offsets: the first byte of each buffer, a multiple of ALIGNMENT; size: bytes of the arena; least: what no plan can
    undercut, the largest sum of the buffers that are in use at one step."""

    offsets: Mapping[Hashable, int]
    size: int
    least: int


def place(buffers: Sequence[Buffer]) -> Plan:
    """The largest buffer first, each in the lowest gap that is free while it is in use."""
    placed: list[tuple[int, Buffer]] = []  # by offset
    for buffer in sorted(buffers, key=lambda b: (-b.size, b.first)):
        offset = 0
        for start, other in placed:
            if other.meets(buffer):
                if offset + aligned(buffer.size) <= start:
                    break
                offset = max(offset, start + aligned(other.size))
        placed.append((offset, buffer))
        placed.sort(key=lambda pair: pair[0])
    size = max((offset + aligned(buffer.size) for offset, buffer in placed), default=0)
    return Plan({buffer.key: offset for offset, buffer in placed}, size, _least(buffers))


def _least(buffers: Sequence[Buffer]) -> int:
    change: dict[int, int] = {}
    for buffer in buffers:
        change[buffer.first] = change.get(buffer.first, 0) + aligned(buffer.size)
        change[buffer.last + 1] = change.get(buffer.last + 1, 0) - aligned(buffer.size)
    held = most = 0
    for step in sorted(change):
        held += change[step]
        most = max(most, held)
    return most
