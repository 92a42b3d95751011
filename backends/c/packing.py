"""Weights laid out as the fast kernels read them: kernels/qk_gemm.h says what follows a product."""

from dataclasses import dataclass

import numpy as np

from qvit.backends.c.weights import PACKED_FROM
from qvit.dialects.semantics.integers import Array, IntType, widen

I8 = IntType(8)
BLOCK = 16
"""Columns are taken in blocks of so many, and vectors have so many times n elements."""
STEP = 4
"""Along k, so many codes stand side by side."""


def panels(n: int) -> list[int]:
    """The columns of each panel: 48, the last panel 16 to 64, so that no narrow one is left over."""
    widths: list[int] = []
    left = -(-n // BLOCK)
    while left:
        width = 3 if left > 4 else left
        widths.append(width * BLOCK)
        left -= width
    return widths


def pack(weight: Array) -> Array:
    """weight [n, k] of int8 -> bytes, panel after panel, each [k / 4, columns, 4], zeros where n or k is beyond."""
    n, k = weight.shape
    padded = np.zeros((sum(panels(n)), -(-k // STEP) * STEP), np.int8)
    padded[:n, :k] = weight
    parts: list[Array] = []
    first = 0
    for width in panels(n):
        panel = padded[first : first + width].reshape(width, -1, STEP)
        parts.append(panel.transpose(1, 0, 2).reshape(-1))
        first += width
    return np.concatenate(parts) if parts else np.zeros(0, np.int8)


def unpack(packed: Array, n: int, k: int) -> Array:
    """The inverse of `pack`: [n, k]."""
    depth = -(-k // STEP) * STEP
    rows: list[Array] = []
    at = 0
    for width in panels(n):
        panel = packed[at : at + width * depth].reshape(-1, width, STEP)
        rows.append(panel.transpose(1, 0, 2).reshape(width, depth))
        at += width * depth
    return np.concatenate(rows)[:n, :k]


def tighten(panels: Array, bits: int) -> Array:
    """Panels whose weights have `bits` bits, 1..7, without gaps: what `qk_*_unpack` reads, bits / 8 as many bytes.

    A group of 64 weights has first the lowest 4 bits of each, if bits & 4, then the next 2, if bits & 2, and the highest,
    if bits & 1: of w bits, byte i has those of weight i + 8 w j at its bit w j.
    """
    groups = panels.view(np.uint8).reshape(-1, 64)
    parts: list[Array] = []
    below = 0
    for width in (4, 2, 1):
        if bits & width:
            field = (groups >> below & ((1 << width) - 1)).reshape(-1, 8 // width, 8 * width)
            at = np.arange(0, 8, width, dtype=np.uint8)[:, None]
            parts.append(np.bitwise_or.reduce(field << at, axis=1))
            below += width
    return np.concatenate(parts, axis=1).reshape(-1).view(np.int8)


def pad(vector: Array) -> Array:
    """A vector [n] of int32 with zeros up to whole blocks."""
    padded = np.zeros(-(-len(vector) // BLOCK) * BLOCK, np.int32)
    padded[: len(vector)] = vector
    return padded


@dataclass(frozen=True)
class Packed:
    """Of a linear layer, what the kernels read: see qk_layer. All vectors are padded; held: the type of a weight in panels."""

    panels: Array
    bias: Array
    mult: Array
    shift: Array
    held: IntType

    @property
    def sign(self) -> int:
        """qk_layer.sign."""
        return 1 << (self.held.bits - 1) if self.held.signed and self.held.bits < 8 else 0


def layer(
    weight: Array,
    bias: Array | None,
    input_zero_point: int,
    signed: bool,
    mult: Array,
    shift: Array,
    held: IntType = I8,
) -> Packed | None:
    """sum_k (x - zx) w + bias, for operands of 8 bits as unsigned bytes: x + 128 where they are signed.

    weight [n, k] of -128..127, bias [n] integers, mult and shift scalars or [n]. held: the type of the weights, which are
    kept in as many bits where they are worth it. None where the kernels' 32-bit sums could
    overflow, in any order of additions, or a multiplier or a shift is out of their range.
    """
    weight, n = widen(weight), len(weight)
    narrow = held.bits < 8 and weight.size >= PACKED_FROM
    zero_point = input_zero_point + (128 if signed else 0)
    offset = (0 if bias is None else widen(bias)) - zero_point * weight.sum(axis=1)
    mult, shift = np.broadcast_to(mult, n), np.broadcast_to(shift, n)
    # partial sums begin with the offset and add products of codes 0..255
    reach = np.abs(offset) + 255 * np.abs(weight).sum(axis=1)
    if reach.max(initial=0) >= 1 << 31 or (np.abs(mult) >= 1 << 31).any() or (shift < 0).any() or (shift > 62).any():
        return None
    panels = pack(weight.astype(np.int8))
    panels = tighten(panels, held.bits) if narrow else panels
    return Packed(panels, pad(offset), pad(mult), pad(shift), held if narrow else I8)
