"""Exact integer arithmetic on machine words: every value carries its range, and is widened before it could overflow.

Ranges follow from types and from the numbers that operations carry, so that no assumption about data is needed; what
does not fit 64 bits is refused.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from xdsl.dialects import arith
from xdsl.dialects.builtin import IntegerType
from xdsl.ir import SSAValue

from qvit.dialects.semantics.integers import Array, IntType, Rounding
from qvit.transforms.lower.stage import Kernel, NotLowered, resize

WORDS = (32, 64)


@dataclass(frozen=True)
class Bounded:
    """A two's complement integer of `bits` bits that is known to lie in lo..hi."""

    value: SSAValue
    bits: int
    lo: int
    hi: int


Numbers: TypeAlias = Sequence[int]
"""What an operation carries: one number, or one for each index along an axis. Python's integers do not overflow."""


def numbers_of(array: Array) -> Numbers:
    return tuple(int(number) for number in array.ravel())


def together(*numbers: Numbers) -> Iterator[tuple[int, ...]]:
    """One number of each, index by index along the axis; a single one stands for a whole vector."""
    length = max(map(len, numbers))
    return zip(*(n if len(n) > 1 else [*n] * length for n in numbers), strict=True)


def _word(lo: int, hi: int) -> int:
    """The narrowest word that holds lo..hi."""
    for bits in WORDS:
        if IntType(bits).lo <= lo and hi <= IntType(bits).hi:
            return bits
    raise NotLowered(f"it needs more than 64 bits for an intermediate result in {lo}..{hi}")


def code(k: Kernel, value: SSAValue, type: IntType) -> Bounded:
    """An element of a tensor, in a word."""
    bits = _word(type.lo, type.hi)
    return Bounded(resize(k, value, type, bits), bits, type.lo, type.hi)


_Kind: TypeAlias = type[arith.AddiOp] | type[arith.SubiOp] | type[arith.MuliOp]


def _widen(k: Kernel, x: Bounded, bits: int) -> SSAValue:
    return resize(k, x.value, IntType(x.bits), max(bits, x.bits))


def _with(k: Kernel, kind: _Kind, combine: Callable[[int, int], int], x: Bounded, numbers: Numbers) -> Bounded:
    """x combined with numbers; the result's range is reached at the ends of x's."""
    ends = [combine(end, number) for end in (x.lo, x.hi) for number in numbers]
    lo, hi = min(ends), max(ends)
    bits = max(x.bits, _word(lo, hi), _word(min(numbers), max(numbers)))
    wide = _widen(k, x, bits)
    return Bounded(k.emit(kind(wide, k.parameter(numbers, IntegerType(bits)))), bits, lo, hi)


def add(k: Kernel, x: Bounded, numbers: Numbers) -> Bounded:
    return _with(k, arith.AddiOp, operator.add, x, numbers) if any(numbers) else x


def subtract(k: Kernel, x: Bounded, numbers: Numbers) -> Bounded:
    return _with(k, arith.SubiOp, operator.sub, x, numbers) if any(numbers) else x


def multiply(k: Kernel, x: Bounded, numbers: Numbers) -> Bounded:
    return x if set(numbers) == {1} else _with(k, arith.MuliOp, operator.mul, x, numbers)


def plus(k: Kernel, x: Bounded, y: Bounded) -> Bounded:
    lo, hi = x.lo + y.lo, x.hi + y.hi
    bits = max(x.bits, y.bits, _word(lo, hi))
    return Bounded(k.emit(arith.AddiOp(_widen(k, x, bits), _widen(k, y, bits))), bits, lo, hi)


def at_least(k: Kernel, x: Bounded, y: Bounded) -> SSAValue:
    """x >= y, as i1."""
    bits = max(x.bits, y.bits)
    return k.emit(arith.CmpiOp(_widen(k, x, bits), _widen(k, y, bits), "sge"))


def round_shift(k: Kernel, x: Bounded, shift: Numbers, rounding: Rounding) -> Bounded:
    """round(x / 2^shift), shift 0..62: the quotient of an arithmetic shift, and 1 more where the remainder asks for it.

    The remainder is compared with half of 2^shift (with 1 where the shift is 0, which it never reaches). Adding the half
    before shifting would take fewer operations, but could overflow.
    """
    if not any(shift):
        return x
    # a remainder below 2^shift, and 1 more, fit in the word
    bits = max(x.bits, _word(0, 1 << max(shift)))
    value, type = _widen(k, x, bits), IntegerType(bits)
    quotient = k.emit(arith.ShRSIOp(value, k.parameter(shift, type)))
    lo, hi = min(x.lo >> s for s in shift), max(x.hi >> s for s in shift)
    if rounding is Rounding.FLOOR:
        return Bounded(quotient, bits, lo, hi)
    remainder = k.emit(arith.AndIOp(value, k.parameter([(1 << s) - 1 for s in shift], type)))
    half = k.parameter([1 << max(s - 1, 0) for s in shift], type)
    match rounding:
        case Rounding.HALF_UP:
            up = k.emit(arith.CmpiOp(remainder, half, "sge"))
        case Rounding.HALF_EVEN:  # a tie goes up where the quotient is odd
            odd = k.emit(arith.AndIOp(quotient, k.constant(1, type)))
            up = k.emit(arith.CmpiOp(k.emit(arith.AddiOp(remainder, odd)), half, "sgt"))
        case Rounding.HALF_AWAY:  # a tie goes up where x is not negative; the shift gives -1 where it is
            sign = k.emit(arith.ShRSIOp(value, k.constant(bits - 1, type)))
            up = k.emit(arith.CmpiOp(k.emit(arith.AddiOp(remainder, sign)), half, "sge"))
    return Bounded(k.emit(arith.AddiOp(quotient, k.emit(arith.ExtUIOp(up, type)))), bits, lo, hi + 1)


def saturate(k: Kernel, x: Bounded, result: IntType) -> SSAValue:
    """min(max(x, lo), hi) in the bits of the type `result`."""
    bits = max(x.bits, _word(result.lo, result.hi))
    value, type = _widen(k, x, bits), IntegerType(bits)
    if x.lo < result.lo:
        value = k.emit(arith.MaxSIOp(value, k.constant(result.lo, type)))
    if x.hi > result.hi:
        value = k.emit(arith.MinSIOp(value, k.constant(result.hi, type)))
    return resize(k, value, IntType(bits), result.bits)
