"""Integer types, rounding modes, and exact division by powers of two: what all integer operations are made of."""

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
"""A NumPy array; its element type is in the docstring of what takes or makes it."""
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class IntType:
    """A two's complement (signed) or unsigned integer of `bits` bits, 1 to 64 (unsigned: to 32)."""

    bits: int
    signed: bool = True

    @property
    def lo(self) -> int:
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def hi(self) -> int:
        return (1 << (self.bits - 1 if self.signed else self.bits)) - 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """The narrowest NumPy type that holds it: one value an element, also below 8 bits."""
        width = next(w for w in (8, 16, 32, 64) if w >= self.bits)
        return np.dtype(f"{'int' if self.signed else 'uint'}{width}")

    def __str__(self) -> str:
        return f"{'i' if self.signed else 'ui'}{self.bits}"


class Rounding(StrEnum):
    """How a real number becomes an integer. Ties are numbers exactly between two integers."""

    HALF_EVEN = "half_even"
    """To nearest, ties to the even neighbour (ONNX, torch, IEEE 754)."""
    HALF_UP = "half_up"
    """To nearest, ties towards plus infinity: floor(x + 1/2), an add and a shift in hardware."""
    HALF_AWAY = "half_away"
    """To nearest, ties away from zero (OpenVINO, C's round)."""
    FLOOR = "floor"
    """Towards minus infinity: a bare arithmetic shift."""


def widen(x: Array) -> Int64:
    """Any integer array as int64, with the same values."""
    if x.dtype.kind not in "iub":
        raise TypeError(f"expected integers, found {x.dtype}")
    return x.astype(np.int64)


def fit(x: Array, result: IntType) -> Array:
    """x in the type `result`, exactly; OverflowError names the first value that does not fit."""
    if x.size and (x.min() < result.lo or x.max() > result.hi):
        bad = x[(x < result.lo) | (x > result.hi)].flat[0]
        raise OverflowError(f"{bad} does not fit {result} ({result.lo}..{result.hi})")
    return x.astype(result.dtype)


def saturate(x: Array, result: IntType) -> Array:
    """min(max(x, lo), hi) in the type `result`; x holds integers, as integers or as whole floats."""
    if x.dtype.kind != "f":
        return np.asarray(np.clip(x, result.lo, result.hi)).astype(result.dtype)
    # lo, a power of two or 0, is exact as a float; hi may round up to a float that is beyond the type
    top = x.dtype.type(result.hi)
    inside = np.clip(x, x.dtype.type(result.lo), np.nextafter(top, x.dtype.type(0)) if int(top) > result.hi else top)
    return np.where(x >= top, result.hi, inside.astype(result.dtype)).astype(result.dtype)


def magnitude(x: Array) -> int:
    """max |x|, exactly; 0 for an empty array."""
    return max(abs(int(x.min())), abs(int(x.max()))) if x.size else 0


def plus(a: Array, b: Array) -> Array:
    """The exact sum: int64 where it fits, Python integers (dtype object) where it does not."""
    if magnitude(a) + magnitude(b) < 1 << 63:
        return a + b
    return np.asarray(a.astype(object) + b.astype(object), object)


def minus(a: Array, b: Array) -> Array:
    """The exact difference, as `plus`."""
    if magnitude(a) + magnitude(b) < 1 << 63:
        return a - b
    return np.asarray(a.astype(object) - b.astype(object), object)


def multiply(a: Array, b: Array) -> Array:
    """The exact product, as `plus`."""
    if magnitude(a) * magnitude(b) < 1 << 63:
        return a * b
    return np.asarray(a.astype(object) * b.astype(object), object)


def round_shift(x: Array, shift: Array, rounding: Rounding, bound: int | None = None) -> Array:
    """round(x / 2^shift), exactly; a negative shift multiplies. x is int64 or object, shift broadcasts against it.

    bound: a number that |x| is known not to exceed; without it, x is searched for its largest.
    """
    shift = np.asarray(shift, np.int64)
    bound = magnitude(x) if bound is None else bound
    if (furthest := int(shift.min(initial=0))) < 0:
        left, bound, shift = np.maximum(-shift, 0), bound << -furthest, np.maximum(shift, 0)
        x = (x if bound < 1 << 63 else x.astype(object)) << left
    if shift.max(initial=0) > 62 and min(bound, magnitude(x)) < 1 << 61:
        shift = np.minimum(shift, 62)  # quotients by 2^62 and more lie within 1/2 of 0: all round alike
    if x.dtype == object or bound + (1 << int(shift.max(initial=0))) >= 1 << 63:
        return _round_shift_wide(x, shift, rounding)
    # Floors of shifted numbers. A shift of 0 leaves nothing to round: there one and half are 0.
    one = (shift > 0).astype(np.int64)
    half = (one << shift) >> 1
    match rounding:
        case Rounding.HALF_EVEN:  # up from a tie where the quotient is odd
            x = x + (half - one) + ((x >> shift) & one)
        case Rounding.HALF_UP:
            x = x + half
        case Rounding.HALF_AWAY:  # up from a tie where x is not negative
            x = x + half + ((x >> 63) & -one)
        case Rounding.FLOOR:
            pass
    return np.asarray(x >> shift)


def _round_shift_wide(x: Array, shift: Array, rounding: Rounding) -> Array:
    """`round_shift`, shift not negative, where adding a half could overflow: the remainder decides instead."""
    if x.dtype == object or shift.max(initial=0) > 62:
        x, shift = x.astype(object), shift.astype(object)
    quotient = x >> shift
    # Twice the remainder against 2^shift: comparing cannot overflow (2 * remainder < 2^63).
    twice, one = (x - (quotient << shift)) << 1, (shift * 0 + 1) << shift
    match rounding:
        case Rounding.HALF_EVEN:
            up = (twice > one) | ((twice == one) & ((quotient & 1) == 1))
        case Rounding.HALF_UP:
            up = twice >= one
        case Rounding.HALF_AWAY:
            up = (twice > one) | ((twice == one) & (x >= 0))
        case Rounding.FLOOR:
            up = twice < 0
    return _narrow(quotient + up)


def _narrow(x: Array) -> Array:
    """An object array as int64 where that is exact."""
    x = np.asarray(x)
    return x.astype(np.int64) if x.dtype == object and magnitude(x) < 1 << 63 else x


def round_fraction(x: Fraction, rounding: Rounding) -> int:
    """One exact rational, rounded."""
    match rounding:
        case Rounding.HALF_EVEN:
            return round(x)
        case Rounding.HALF_UP:
            return floor(x + Fraction(1, 2))
        case Rounding.HALF_AWAY:
            return floor(x + Fraction(1, 2)) if x >= 0 else -floor(-x + Fraction(1, 2))
        case Rounding.FLOOR:
            return floor(x)


def round_float(x: Array, rounding: Rounding) -> Array:
    """A float array, rounded to whole floats; infinities stay."""
    if rounding is Rounding.HALF_EVEN:
        return np.rint(x)
    if rounding is Rounding.HALF_AWAY:
        size = np.abs(x)
        return np.copysign(_half_up(size), x)
    return np.floor(x) if rounding is Rounding.FLOOR else _half_up(x)


def _half_up(x: Array) -> Array:
    """floor(x + 1/2), decided by the fraction: the sum could round."""
    whole = np.floor(x)
    with np.errstate(invalid="ignore"):  # infinity - infinity
        return whole + (x - whole >= 0.5)
