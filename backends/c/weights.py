"""All constants of a program in one blob, packed once: a header, then tensors that start at multiples of 64 bytes.

The header (64 bytes) is the bytes "QVIT", the version and a mark of the byte order as 32-bit numbers, 4 bytes of 0, the
size of the blob as a 64-bit number, and the SHA-256 of what follows the header in little-endian order: the model.
Numbers, and elements wider than a byte, are in the byte order of the target. Elements of less than 8 bits are packed
without gaps, least significant bit first, where a tensor is large enough to be worth it; in panels as packing.py says.
"""

import hashlib
import struct
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from qvit.backends.c.plan import aligned
from qvit.dialects.semantics.integers import Array, IntType

MAGIC, VERSION, MARK = b"QVIT", 1, 0x01020304
HEADER = 64
PACKED_FROM = 1024
"""Elements from which on narrow types are packed; smaller tensors are used as they lie."""

ByteOrder: TypeAlias = Literal["little", "big"]


@dataclass(frozen=True)
class Constant:
    """Where a tensor lies: its first byte, and its bits where they are packed."""

    offset: int
    packed: IntType | None = None


def pack(array: Array, bits: int) -> bytes:
    """Integers in `bits` bits each, 1..8, least significant bit first, without gaps: what `qk_unpack` reads."""
    low = array.reshape(-1, 1).view(np.uint8)
    return np.packbits(np.unpackbits(low, axis=1, bitorder="little")[:, :bits], bitorder="little").tobytes()


@dataclass
class Blob:
    """The constants of a program; equal contents are kept once."""

    places: dict[Hashable, Constant] = field(default_factory=dict[Hashable, Constant])
    _parts: list[tuple[int, Array]] = field(default_factory=list[tuple[int, Array]])
    _known: dict[tuple[str, bytes], int] = field(default_factory=dict[tuple[str, bytes], int])
    size: int = HEADER

    def add(self, key: Hashable, array: Array, held: IntType | None = None) -> None:
        """A tensor under its key; held: the type of its elements, which says whether they are packed."""
        packed = held if held is not None and held.bits < 8 and array.size >= PACKED_FROM else None
        data = np.ascontiguousarray(array)
        if packed is not None:
            data = np.frombuffer(pack(data, packed.bits), np.uint8)
        content = (data.dtype.str, hashlib.sha256(data.data).digest())
        if content not in self._known:
            self._known[content] = self.size
            self._parts.append((self.size, data))
            self.size += aligned(data.nbytes)
        self.places[key] = Constant(self._known[content], packed)

    def digest(self) -> bytes:
        """SHA-256 of the tensors, whatever the byte order of the target: the model that they belong to."""
        total = hashlib.sha256()
        for part in self._body("little"):
            total.update(part)
        return total.digest()

    def data(self, order: ByteOrder = "little") -> bytes:
        """The whole blob, for a target of that byte order."""
        sign = "<" if order == "little" else ">"
        header = MAGIC + struct.pack(f"{sign}IIIQ", VERSION, MARK, 0, self.size) + self.digest()
        return b"".join([header.ljust(HEADER, b"\0"), *self._body(order)])

    def checksum(self, order: ByteOrder) -> int:
        """`qk_checksum` of what follows the header, on a machine of that byte order."""
        words = np.frombuffer(
            b"".join(self._body(order)), np.dtype(np.uint64).newbyteorder("<" if order == "little" else ">")
        )
        words = words.reshape(-1, 8)
        left = np.arange(len(words), 0, -1, dtype=np.uint64)
        total = 0
        for part in (*words.sum(axis=0, dtype=np.uint64), *np.einsum("t,ti->i", left, words)):
            total = (total ^ int(part)) * 0x9E3779B97F4A7C15 % (1 << 64)
            total ^= total >> 32
        return total

    def _body(self, order: ByteOrder) -> list[bytes]:
        sign = "<" if order == "little" else ">"
        ordered = [part.astype(part.dtype.newbyteorder(sign)).tobytes() for _, part in self._parts]
        return [part.ljust(aligned(len(part)), b"\0") for part in ordered]


def blob_of(constants: Mapping[Hashable, tuple[Array, IntType | None]]) -> Blob:
    blob = Blob()
    for key, (array, held) in constants.items():
        blob.add(key, array, held)
    return blob
