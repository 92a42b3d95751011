"""What vector instructions find in CBUF: records of requantization and blocks of functions, as bytes."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qvit.backends.systolic.isa import RECORD
from qvit.dialects.approximations import APPROXIMATIONS
from qvit.dialects.approximations.base import Approximation
from qvit.dialects.semantics.integers import Array, Int64, IntType, fit

WORD = IntType(32)


@dataclass(frozen=True)
class Records:
    """Constants of requantization, int64 vectors of one length: (x + bias - zero) multiplier / 2^shift."""

    multiplier: Int64
    shift: Int64
    bias: Int64
    zero: Int64

    def data(self) -> bytes:
        """RECORD bytes each; OverflowError where a number does not fit i32."""
        columns = (self.multiplier, self.shift, self.bias, self.zero)
        return np.stack([fit(column, WORD) for column in columns], 1).astype("<i4").tobytes()

    def part(self, first: int, last: int) -> "Records":
        """Records first .. last - 1."""
        columns = (self.multiplier, self.shift, self.bias, self.zero)
        return Records(*(column[first:last] for column in columns))

    @classmethod
    def read(cls, data: Array) -> "Records":
        """From uint8 [n * RECORD]."""
        found = np.frombuffer(data.tobytes(), "<i4").reshape(-1, RECORD // 4).astype(np.int64)
        return cls(found[:, 0], found[:, 1], found[:, 2], found[:, 3])


_HEAD = struct.Struct("<HHi")
_TABLE = struct.Struct("<IBBH")


@dataclass(frozen=True)
class Block:
    """The constants of an approximation. zero_point: what is subtracted from the operand first; tables: vectors with their
    types.

    Bytes: the numbers of parameters and of tables (u16 each), the zero point (i32), the parameters (i64 each, in the order
    of their names), then each table: its length (u32), the bits of its type (u8), whether that is signed (u8), two zeros,
    and its elements, padded to a multiple of 8 bytes.
    """

    approximation: Approximation
    zero_point: int
    tables: Sequence[tuple[Array, IntType]]

    def data(self) -> bytes:
        parameters = list(self.approximation.parameters.values())
        parts = [
            _HEAD.pack(len(parameters), len(self.tables), self.zero_point),
            struct.pack(f"<{len(parameters)}q", *parameters),
        ]
        for table, held in self.tables:
            content = fit(table, held).astype(held.dtype.newbyteorder("<")).tobytes()
            parts += [_TABLE.pack(len(table), held.bits, held.signed, 0), content, bytes(-len(content) % 8)]
        return b"".join(parts)

    @classmethod
    def read(cls, function: int, data: bytes) -> tuple["Block", int]:
        """(the block at the start of data, its bytes); ValueError where it is damaged."""
        if function >= len(APPROXIMATIONS):
            raise ValueError(f"there is no function {function}")
        kind = APPROXIMATIONS[function]
        try:
            count, tables, zero = _HEAD.unpack_from(data)
            names = kind.parameter_names()
            if count != len(names) or tables != len(kind.tables):
                raise ValueError(
                    f"{kind.name} has {len(names)} parameters and {len(kind.tables)} tables, the block {count} and {tables}"
                )
            at = _HEAD.size
            values = struct.unpack_from(f"<{count}q", data, at)
            at += 8 * count
            found: list[tuple[Array, IntType]] = []
            for _ in range(tables):
                length, bits, signed, rest = _TABLE.unpack_from(data, at)
                if rest or signed > 1 or not 1 <= bits <= 64:
                    raise ValueError(f"a table of {kind.name} has a damaged type")
                held = IntType(bits, bool(signed))
                at += _TABLE.size
                size = length * held.dtype.itemsize
                if at + size + -size % 8 > len(data):
                    raise ValueError(f"a table of {kind.name} reaches beyond the memory")
                found.append((np.frombuffer(data, held.dtype.newbyteorder("<"), length, at).astype(held.dtype), held))
                at += size + -size % 8
        except struct.error as error:
            raise ValueError(f"the block of {kind.name} reaches beyond the memory") from error
        return cls(kind.of(dict(zip(names, values, strict=True))), zero, found), at
