"""Integers in the place of real factors, and how exactly they compute what the factors do.

Factors and steps are one, or one for each channel; one of either stands for all channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

from qvit.dialects.semantics.integers import Rounding
from qvit.transforms.requant.equality import Step, equal_codes
from qvit.transforms.requant.multipliers import LARGEST, Dyadic, aligned, at_shift, neighbour, normalised
from qvit.transforms.rule import require

FIXED_SHIFT = 32
T = TypeVar("T")


@dataclass(frozen=True)
class Choice:
    """A number for each factor, and whether it is proven to give the same codes.

    bound: by how much of a code, before rounding, the others can be off.
    """

    numbers: Sequence[Dyadic]
    equal: Sequence[bool]
    bound: float = 0.0


def spread(values: Sequence[T], count: int) -> Sequence[T]:
    """`count` values, of which a single one stands for all."""
    return values if len(values) == count else [*values] * count


def free(factors: Sequence[Fraction], steps: Sequence[Step], rounding: Rounding) -> Choice:
    """Multipliers of 31 bits, each at the shift that gives it these."""
    nearest = [normalised(f) or Dyadic(LARGEST.multiplier * (1 if f > 0 else -1), 0) for f in factors]
    choice = _proven(factors, nearest, steps, rounding)
    for factor, equal in zip(factors, choice.equal, strict=True):
        require(
            equal or normalised(factor) is not None,
            f"its factor {float(factor):.6g} is beyond 2^31, and not all codes but those of 0 saturate",
        )
    return choice


def fixed(factors: Sequence[Fraction], steps: Sequence[Step], rounding: Rounding) -> Choice | None:
    """Multipliers for the one shift 32 that give the same codes in all channels; None if there are none."""
    nearest = [Dyadic(at_shift(f, FIXED_SHIFT), FIXED_SHIFT) for f in factors]
    if any(d.overflows for d in nearest):
        return None
    choice = _proven(factors, nearest, steps, rounding)
    return choice if all(choice.equal) else None


def _proven(
    factors: Sequence[Fraction], nearest: Sequence[Dyadic], steps: Sequence[Step], rounding: Rounding
) -> Choice:
    """The nearest numbers; their neighbours, where these give the same codes and the nearest do not."""
    numbers, equal = [*nearest], _equal(factors, nearest, steps, rounding)
    others = {i: d for i, ok in enumerate(equal) if not ok and (d := neighbour(nearest[i], factors[i])) is not None}
    if others:
        own = [steps[i] for i in others] if len(steps) == len(factors) else steps
        for i, ok in zip(others, _equal([factors[i] for i in others], [*others.values()], own, rounding), strict=True):
            if ok:
                numbers[i], equal[i] = others[i], True
    off = [Fraction(0) if ok else relative(f, d) for f, d, ok in zip(factors, numbers, equal, strict=True)]
    return Choice(numbers, equal, bound(factors, off, steps))


def _equal(
    factors: Sequence[Fraction], numbers: Sequence[Dyadic], steps: Sequence[Step], rounding: Rounding
) -> list[bool]:
    count = max(len(factors), len(steps))
    after = [d.factor for d in spread(numbers, count)]
    equal = equal_codes(spread(factors, count), after, spread(steps, count), rounding)
    return equal if len(factors) == count else [all(equal)]


def divided(factors: Sequence[Fraction], numbers: Sequence[Dyadic], steps: Sequence[Step]) -> Choice:
    """The numbers for factors that are divided at run time: the reciprocal, floor(m 2^k / z), rounds once more.

    It is more than |m| / 2, so that its rounding is below 2 / |m| relative; a divisor is at least 1.
    """
    off = [
        relative(f, d) + (Fraction(2, abs(d.multiplier)) if d.multiplier else 0)
        for f, d in zip(factors, numbers, strict=True)
    ]
    return Choice(numbers, [f == 0 for f in factors], bound(factors, off, steps))


def relative(factor: Fraction, number: Dyadic) -> Fraction:
    return abs(1 - number.factor / factor) if factor else Fraction(0)


def bound(factors: Sequence[Fraction], off: Sequence[Fraction], steps: Sequence[Step]) -> float:
    """What factors that are `off`, relative, put a result off by, in codes before rounding.

    Where the codes saturate, both do, as long as they are less than 1/2 apart.
    """
    count = max(len(factors), len(steps))
    bounds = [Fraction(0)]
    for f, o, step in zip(spread(factors, count), spread(off, count), spread(steps, count), strict=True):
        size = step.reach * abs(f)
        bounds.append(o * (min(size, step.beyond) if 2 * o * step.beyond <= 1 else size))
    return float(max(bounds))


def common(factors: tuple[Sequence[Fraction], Sequence[Fraction]], reaches: tuple[int, int]) -> tuple[Choice, Choice]:
    """Multipliers at one shift for both terms of a sum that is rounded once, channel by channel."""
    count = max(map(len, factors))
    sides: tuple[list[Dyadic], list[Dyadic]] = [], []
    off: list[Fraction] = []
    for pair in zip(spread(factors[0], count), spread(factors[1], count), strict=True):
        found = aligned(pair, reaches)
        texts = " and ".join(f"{float(f):.6g}" for f in pair)
        require(found, f"there is no shift for the factors {texts} at which the sum of the products has 62 bits")
        assert found is not None
        off.append(sum((r * abs(f - d.factor) for r, f, d in zip(reaches, pair, found, strict=True)), Fraction(0)))
        for side, number in zip(sides, found, strict=True):
            side.append(number)
    left, right = (Choice(side, [o == 0 for o in off], float(max(off))) for side in sides)
    return left, right
