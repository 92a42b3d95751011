"""ITA's functions: `ita`, a softmax by shifts alone over a stream of scores, and `ita_gelu`, GELU of 8-bit codes.

ITA's requantize, an unsigned multiplier of 8 bits, a shift and an addend, rounded half up, is `qvit.requantize` by a
dyadic factor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import log, log2, sqrt
from typing import ClassVar

import numpy as np

from qvit.dialects.approximations.base import (
    Built,
    FunctionApproximation,
    FunctionSpec,
    Interval,
    SoftmaxApproximation,
    SoftmaxSpec,
    require,
    require_options,
)
from qvit.dialects.approximations.iptq import require_gelu
from qvit.dialects.semantics.integers import Array, Int64, IntType, fit

_ONE = 256
"""What the largest entry of a row adds to its sum."""

_DIVIDEND = 255 * 256

_LAST_SHIFT = 5
"""Scores of scale ln 2 / 2^shift, shift 0..5: 32 is the most octaves that 8 bits have in ITA's own configurations."""


@dataclass(frozen=True)
class Ita(SoftmaxApproximation):
    """y = floor(65280 / sum) >> d(x), sum = sum 256 >> d(x), d(x) = round((max x - x) / 2^shift), half up.

    The scores have scale ln 2 / 2^shift, so that a shift by d is the exponential. They are read in groups of `group`: where
    a group raises the maximum, the sum so far is shifted right by d of the rise, so it depends on their order. y is in
    units of 1 / 256. No multiplication. Sound for at most 255 entries, but coarse: an entry is 2^-d of an 8-bit reciprocal,
    so that rows of 197 sum to anything from 0.04 to 1.3.
    """

    shift: int
    group: int

    name: ClassVar[str] = "ita"
    source: ClassVar[str] = "ITA (arXiv 2307.03493), streaming softmax"

    def verify(self) -> None:
        if not 0 <= self.shift <= _LAST_SHIFT:
            raise ValueError(f"ita: shift must be in 0..{_LAST_SHIFT}, found {self.shift}")
        if not 1 <= self.group < 1 << 31:
            raise ValueError(f"ita: group must be in 1..2^31 - 1, found {self.group}")

    @classmethod
    def preferred_scale(cls, scale: Fraction) -> Fraction:
        """The least ln 2 / 2^shift that is not below `scale`, so that no score is clipped; at most ln 2."""
        return next(s for s in map(_scale, range(_LAST_SHIFT, -1, -1)) if s >= scale or s == _scale(0))

    @classmethod
    def build(cls, spec: SoftmaxSpec, **options: int) -> Built:
        require_options(options, "group")
        found = spec.scores.scale
        shift = min(max(round(-log2(float(found) / log(2))), 0), _LAST_SHIFT)
        require(
            abs(found / _scale(shift) - 1) <= Fraction(1, 1024),
            f"the scores' scale is {float(found):.6g}, it must be ln 2 / 2^k, k = 0..{_LAST_SHIFT}: requantize them to"
            f" {float(cls.preferred_scale(found)):.6g}",
        )
        built = cls(shift, options.get("group", 16))
        return Built(built, (), (IntType(8, False),), np.array(1 / 256))

    def _octaves(self, difference: Int64) -> Int64:
        """round(difference / 2^shift), half up, where it matters: beyond 62 all is shifted out."""
        return np.minimum((difference + ((1 << self.shift) >> 1)) >> self.shift, 62)

    def sums(self, x: Int64, mask: Array | None) -> tuple[Int64, Int64, Array]:
        """(row maximum, sum, where an entry takes part) of rows [..., N]; the sum is 0 for a row without entries."""
        keep = np.broadcast_to(True if mask is None else mask != 0, x.shape)
        lowest = x.min(-1, keepdims=True)
        top, total = lowest, np.zeros_like(lowest)
        for start in range(0, x.shape[-1], self.group):
            codes, kept = x[..., start : start + self.group], keep[..., start : start + self.group]
            highest = np.maximum(top, np.where(kept, codes, lowest).max(-1, keepdims=True))
            weights = np.where(kept, _ONE >> self._octaves(np.maximum(highest - codes, 0)), 0)
            total = (total >> self._octaves(highest - top)) + weights.sum(-1, keepdims=True)
            top = highest
        return top, total, keep

    def apply(
        self, x: Int64, tables: Sequence[Array], mask: Array | None, results: Sequence[IntType]
    ) -> tuple[Array, ...]:
        top, total, keep = self.sums(x, mask)
        reciprocal = _DIVIDEND // np.maximum(total, 1)
        return (fit(np.where(keep, reciprocal >> self._octaves(np.maximum(top - x, 0)), 0), results[0]),)

    def intermediates(self, codes: Interval, length: int, tables: Sequence[Array]) -> dict[str, Interval]:
        spread = codes[1] - codes[0]
        return {
            "shift": (0, (spread + ((1 << self.shift) >> 1)) >> self.shift),
            "weight": (0, _ONE),
            "sum": (_ONE, _ONE * length),  # the row's maximum adds 256, and nothing is taken away afterwards
            "reciprocal": (_DIVIDEND // (_ONE * length), _DIVIDEND // _ONE),
            "y": (0, _DIVIDEND // _ONE),
        }

    def check(self, codes: Interval, length: int, tables: Sequence[Array]) -> None:
        require(
            _ONE * length <= _DIVIDEND,
            f"a flat row of {length} entries has reciprocal {_DIVIDEND} // {_ONE * length} = 0, and only zeros:"
            " at most 255 entries, or use sm8",
        )


def _scale(shift: int) -> Fraction:
    return Fraction(log(2)) / (1 << shift)


_A, _B = Fraction("-0.2888"), -1.769
"""erf(u) = sgn(u) (a (min(|u|, -b) + b)^2 + 1) (I-BERT)."""

_SHORT = IntType(16)
_MULTIPLIER, _MULTIPLIER_SHIFT = 127, 20


@dataclass(frozen=True)
class ItaGelu(FunctionApproximation):
    """y = x (sgn(x) (d^2 + c) + c), d = min(|x|, -b) + b, of x not below -127; the scale of y is negative.

    I-BERT's parabola for the error function, b = round(-1.769 sqrt 2 / S) and c = round(-2 / (0.2888 S^2)) in 16 bits, as in
    ITA. They are for scales between 0.0147, below which c does not fit, and 0.041, above which ITA's multiplier of 7 bits
    for requantizing to the same scale, 2^20 / (2 |c|), does not. The parabola errs by up to 0.018.
    """

    b: int
    c: int

    name: ClassVar[str] = "ita_gelu"
    source: ClassVar[str] = "ITA (arXiv 2307.03493), i-GELU on 8 bits; I-BERT (arXiv 2101.01321)"
    centred: ClassVar[bool] = True

    def verify(self) -> None:
        if not (_SHORT.lo <= self.b < 0 and _SHORT.lo <= self.c < 0):
            raise ValueError(f"ita_gelu: b and c must be in -32768..-1, found {self.b} and {self.c}")

    @classmethod
    def build(cls, spec: FunctionSpec, **options: int) -> Built:
        require_options(options)
        require_gelu(cls.name, spec.function)
        codes, s = spec.input.type, spec.input.scale
        require(codes.bits <= 8, f"ita_gelu takes codes of 8 bits, found {codes}: use poly-gelu, lin or quad")
        b, c = round(_B * sqrt(2) / float(s)), round(2 / (_A * s * s))
        require(b < 0 and c < 0, f"scale {float(s):.4g} is too coarse: use one between 0.0147 and 0.041, or table")
        built = cls(max(b, _SHORT.lo), max(c, _SHORT.lo))
        return Built(built, (), (IntType(32),), np.array(float(s) / (2 * built.c)))

    def apply(self, x: Int64, tables: Sequence[Array], result: IntType) -> Array:
        x = np.maximum(x, -127)
        d = np.minimum(np.abs(x), -self.b) + self.b
        return fit(x * (np.sign(x) * (d * d + self.c) + self.c), result)

    def intermediates(self, codes: Interval, tables: Sequence[Array], result: IntType) -> dict[str, Interval]:
        lowest, highest = max(codes[0], -127), max(codes[1], -127)
        square = self.b * self.b
        total = (min(2 * self.c, -square), max(square + 2 * self.c, 0))
        return {
            "d": (self.b, min(max(abs(lowest), abs(highest)) + self.b, 0)),
            "d^2": (0, square),
            "sum": total,
            "y": (max(highest, 0) * 2 * self.c, min(lowest, 0) * -square),
        }

    def check(self, codes: Interval, tables: Sequence[Array]) -> None:
        require(
            codes[0] >= -128 and codes[1] <= 127,
            f"ita-gelu takes 8-bit codes, these are {codes[0]}..{codes[1]}: requantize them, or use poly-gelu",
        )
        require(
            self.c > _SHORT.lo and self.b * self.b <= _SHORT.hi,
            f"c = {self.c} (at least -32767) or b = {self.b} (b^2 at most 32767) does not fit 16 bits: the scale must be"
            " at least 0.0147",
        )
        multiplier = round(Fraction(1 << _MULTIPLIER_SHIFT, -2 * self.c))
        require(
            multiplier <= _MULTIPLIER,
            f"the multiplier behind it is 2^{_MULTIPLIER_SHIFT} / (2 * {-self.c}) = {multiplier}, beyond {_MULTIPLIER}:"
            " the scale must be at most 0.041",
        )
