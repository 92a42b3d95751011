"""A program: words, what lies in DRAM when it starts, and where inputs and outputs are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qvit.backends.systolic.isa import Instruction
from qvit.backends.systolic.machine import Machine
from qvit.dialects.semantics.integers import Array, IntType


@dataclass(frozen=True)
class Port:
    """A tensor of the caller in DRAM: row-major, elements as NumPy holds them, from `address` on (in bytes)."""

    name: str
    address: int
    shape: tuple[int, ...]
    type: IntType

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.type.dtype.itemsize


@dataclass(frozen=True)
class Program:
    """instructions: the words in their order, the last one `halt`; data: bytes of DRAM by address, ascending, without
    overlap: weights and constants; dram: bytes that it needs there; nodes: the names of source nodes, by the number less one
    that `node` has."""

    machine: Machine
    instructions: Sequence[Instruction]
    data: Mapping[int, Array]
    dram: int
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    nodes: Sequence[str] = field(default_factory=tuple[str, ...])
