"""Proofs that two factors give the same codes, over the whole range of the operand.

y(v) = min(max(round(v * f), low), high), v in first..last, steps up (down, for f < 0) at one threshold for each code:
two factors give the same codes exactly if these thresholds agree, or lie outside of the range together. Floats with a
stated error decide the many that lie far from every integer, rational numbers the rest.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import TypeAlias

import numpy as np

from qvit.dialects.semantics.integers import Array, Rounding, round_fraction

CHEAP = 1 << 20
"""So many thresholds take a tenth of a second."""


@dataclass(frozen=True)
class Step:
    """One channel of a requantize without its factor: v = x - z_in lies in first..last, codes less z_out in low..high."""

    first: int
    last: int
    low: int
    high: int

    @property
    def reach(self) -> int:
        return max(abs(self.first), abs(self.last))

    @property
    def beyond(self) -> int:
        """Where |v * factor| is this or more, the code is the lowest or the highest, however it is rounded."""
        return max(abs(self.low), abs(self.high)) + 1

    def unsaturated(self, factor: Fraction) -> int:
        """No |v| above this gives a code between the lowest and the highest."""
        return min(self.reach, floor(self.beyond / abs(factor))) if factor else self.reach

    def code(self, factor: Fraction, v: int, rounding: Rounding) -> int:
        return min(max(round_fraction(v * factor, rounding), self.low), self.high)


def threshold(factor: Fraction, code: int, rounding: Rounding) -> int:
    """The smallest v with round(v * factor) >= code; for a negative factor, the largest. factor is not 0."""
    boundary = code if rounding is Rounding.FLOOR else Fraction(2 * code - 1, 2)
    match rounding:
        case Rounding.HALF_EVEN:
            included = code % 2 == 0
        case Rounding.HALF_AWAY:
            included = code > 0
        case _:
            included = True
    v = boundary / factor
    if factor > 0:
        return ceil(v) if included else floor(v) + 1
    return floor(v) if included else ceil(v) - 1


def equal_codes(
    before: Sequence[Fraction], after: Sequence[Fraction], steps: Sequence[Step], rounding: Rounding
) -> list[bool]:
    """Channel by channel: whether both factors provably give the same code for every v of the step.

    Also False where codes have more than 8 bits, and there are more than CHEAP thresholds to compare.
    """
    channels = list(zip(before, after, steps, strict=True))
    equal = [f == g for f, g, _ in channels]
    compared: list[int] = []
    for i, (f, g, step) in enumerate(channels):
        if equal[i]:
            continue
        if (f > 0, f < 0) == (g > 0, g < 0):
            compared.append(i)
        else:  # one of them is 0: a monotone function and a constant, which the ends of the range decide
            equal[i] = all(step.code(f, v, rounding) == step.code(g, v, rounding) for v in (step.first, step.last))
    channels = [channels[i] for i in compared]
    codes = _codes(channels)
    if (count := codes.stop - codes.start) >= 1 << 8 and count * len(channels) > CHEAP:
        return equal
    for i, (f, g, step), row in zip(compared, channels, _undecided(channels, codes, rounding), strict=True):
        equal[i] = all(_agree(f, g, step, codes[j], rounding) for j in np.flatnonzero(row).tolist())
    return equal


Channel: TypeAlias = tuple[Fraction, Fraction, Step]
"""(factor before, factor after, step)"""


def _codes(channels: Sequence[Channel]) -> range:
    """The codes k of which some channel may make y >= k at some v, and not at others."""
    if not channels:
        return range(0)
    low, high = min(s.low for *_, s in channels), max(s.high for *_, s in channels)
    if high - low >= 1 << 8:
        ends = [v * factor for f, g, s in channels for v in (s.first, s.last) for factor in (f, g)]
        low, high = max(low, floor(min(ends))), min(high, ceil(max(ends)))
    return range(low + 1, high + 1)


def _undecided(channels: Sequence[Channel], codes: range, rounding: Rounding) -> Array:
    """[channels, codes]: where floats cannot tell that the thresholds agree.

    Over the reals y >= k begins at boundary / factor. Both factors put it within `slack` of t: t itself is off by less
    than 2^-50 relative, and the factors lie `apart`. Where no integer is that close to t, the thresholds are the same;
    where no v of the range is, neither is reached, or both are passed.
    """
    numbers = np.array(codes, np.int64)
    boundary = numbers.astype(np.float64) - (0.0 if rounding is Rounding.FLOOR else 0.5)

    def column(values: Iterable[float]) -> Array:
        return np.array(list(values), np.float64).reshape(-1, 1)

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # what is not a number stays undecided
        t = boundary / column(_float(f) for f, *_ in channels)
        apart = column(_float(abs(f - g) / min(abs(f), abs(g))) for f, g, _ in channels)
        slack = np.abs(t) * (apart * 1.001 + 2.0**-50)
        between = np.abs(t - np.rint(t)) > slack
        # the ends of the range, outwards to the next floats
        above = t - slack > np.nextafter(column(s.last for *_, s in channels), np.inf)
        below = t + slack < np.nextafter(column(s.first for *_, s in channels), -np.inf)
    saturated = (numbers <= column(s.low for *_, s in channels)) | (numbers > column(s.high for *_, s in channels))
    return ~(between | above | below | saturated)


def _float(factor: Fraction) -> float:
    try:
        return float(factor)
    except OverflowError:
        return float("inf") if factor > 0 else float("-inf")


def _agree(before: Fraction, after: Fraction, step: Step, code: int, rounding: Rounding) -> bool:
    """Whether the thresholds are equal, or outside of the range on the same side."""
    lo, hi = (step.first, step.last + 1) if before > 0 else (step.first - 1, step.last)
    t, u = (min(max(threshold(f, code, rounding), lo), hi) for f in (before, after))
    return t == u
