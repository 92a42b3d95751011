"""Multipliers and shifts with multiplier / 2^shift next to a real factor. Numbers alone, exact."""

from dataclasses import dataclass
from fractions import Fraction
from math import log2

from qvit.dialects.semantics.integers import Rounding, round_fraction

BITS = 31
MAX_SHIFT = 62
POT_SHIFTS = range(-31, MAX_SHIFT + 1)
SUM_BITS = 62
"""Two products and half a unit stay within a word of 64 bits: the sum of the products has 62."""


@dataclass(frozen=True)
class Dyadic:
    """multiplier / 2^shift."""

    multiplier: int
    shift: int

    @property
    def factor(self) -> Fraction:
        return self.multiplier / Fraction(2) ** self.shift

    @property
    def overflows(self) -> bool:
        """Whether the multiplier has more than 31 bits."""
        return abs(self.multiplier) >> BITS > 0


LARGEST = Dyadic((1 << BITS) - 1, 0)


def at_shift(factor: Fraction, shift: int) -> int:
    """The nearest multiplier for this shift; ties away from 0, as I-ViT has it."""
    return round_fraction(factor * (1 << shift), Rounding.HALF_AWAY)


def normalised(factor: Fraction) -> Dyadic | None:
    """The nearest multiplier of 31 bits, 2^30 <= |m| < 2^31 (I-ViT, QuantAct); of fewer where the shift ends at 62.

    0 is 0 / 2^0. A multiplier that rounds to 2^31 is 2^30 at one shift less. None for a factor of 2^31 or more.
    """
    if factor == 0:
        return Dyadic(0, 0)
    shift = BITS - 1 - _floor_log2(abs(factor.numerator), factor.denominator)
    if shift < 0:
        return None
    shift = min(shift, MAX_SHIFT)
    # at_shift without rational numbers, of which a model has thousands
    size, sign = abs(factor.numerator), -1 if factor < 0 else 1
    nearest = Dyadic(sign * (((size << (shift + 1)) // factor.denominator + 1) >> 1), shift)
    if nearest.overflows:
        return Dyadic(nearest.multiplier // 2, shift - 1) if shift > 0 else None
    return nearest


def _floor_log2(numerator: int, denominator: int) -> int:
    guess = numerator.bit_length() - denominator.bit_length()
    return guess if numerator << max(-guess, 0) >= denominator << max(guess, 0) else guess - 1


def neighbour(nearest: Dyadic, factor: Fraction) -> Dyadic | None:
    """The multiplier on the other side of the factor, at the same shift; None if there is none of 31 bits.

    The multipliers that compute the same as the factor are an interval about it: where neither of the two next to it
    does, none of this shift does.
    """
    other = Dyadic(nearest.multiplier + (1 if nearest.factor < factor else -1), nearest.shift)
    return None if nearest.factor == factor or other.overflows else other


def pot_shift(factor: Fraction) -> int | None:
    """s for a factor of exactly 2^-s, -31 <= s <= 62; None for others."""
    if factor <= 0 or (factor.numerator & (factor.numerator - 1)) or (factor.denominator & (factor.denominator - 1)):
        return None
    shift = factor.denominator.bit_length() - factor.numerator.bit_length()
    return shift if shift in POT_SHIFTS else None


def octaves(factor: Fraction) -> float:
    """log2 |factor|, of numbers that may be beyond floats."""
    return log2(abs(factor.numerator)) - log2(factor.denominator)


def aligned(factors: tuple[Fraction, Fraction], reaches: tuple[int, int]) -> tuple[Dyadic, Dyadic] | None:
    """Multipliers of two factors at one shift, for a sum x1 m1 + x2 m2 that is rounded once.

    The largest shift, at most 62, with |m| < 2^31 and |x1 m1| + |x2 m2| < 2^62 for all |x| up to their reach. None if
    there is no such shift. Where the factors have multipliers of this kind that equal them, these are found.
    """
    shifts = [d.shift for f in factors if f and (d := normalised(f)) is not None]
    if len(shifts) < sum(f != 0 for f in factors):
        return None
    for shift in range(min(shifts, default=0), -1, -1):
        multipliers = [at_shift(f, shift) for f in factors]
        if sum(reach * abs(m) for reach, m in zip(reaches, multipliers, strict=True)) < 1 << SUM_BITS:
            left, right = multipliers
            return Dyadic(left, shift), Dyadic(right, shift)
    return None


def never_ties(number: Dyadic, reach: int) -> bool:
    """Whether x * multiplier / 2^shift is half-way between two integers for no |x| up to `reach`.

    With v trailing zeros in the multiplier, a tie needs an x other than 0 that 2^(shift-1-v) divides. Without ties all
    modes of rounding to nearest are one.
    """
    multiplier, shift = number.multiplier, number.shift
    zeros = (multiplier & -multiplier).bit_length() - 1
    return multiplier == 0 or shift <= zeros or reach < 1 << (shift - 1 - zeros)
