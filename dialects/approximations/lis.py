"""`lis` and `lis_published`: log-int-softmax, whose results are powers of two, codes 0..15 for 2^-code and 16 for 0.

The product with the values behind it is then one of shifts and additions (`qvit.shift_matmul`). Entries that take no part
have code 16. A result is at most 3/2 of E / sum E, so what the results of a row stand for sums to at most 3/2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import ClassVar

import numpy as np

from qvit.dialects.approximations.base import (
    Built,
    Interval,
    SoftmaxApproximation,
    SoftmaxSpec,
    bit_length,
    from_maximum,
    require,
    require_options,
)
from qvit.dialects.semantics.integers import Array, Int64, IntType, fit

ZERO_CODE = 16
"""Stands for 0."""

_CODE = IntType(5, False)

# e^(S r) = A S^2 (r (r + b) + c) on (-ln 2, 0], b and c in units of 1 / S and 1 / S^2 (I-BERT)
_A, _B = Fraction("0.35815147"), Fraction("0.96963238")
_LN2 = Fraction("0.6931")

_FINE = 256
"""An octave has at least so many steps in `lis`: with fewer, what is rounded in its constants would show."""

_WORD = 31


def log_codes(e: Int64, total: Int64) -> Int64:
    """round(log2(round(total / e))), the first half to even, the second up from 1.5 * 2^k on; 16 from 2^16 on, and where e = 0.

    e >= 0; the larger of the two is below 2^62.
    """
    quotient, rest = np.divmod(total, np.maximum(e, 1))
    t = quotient + ((2 * rest > e) | ((2 * rest == e) & (quotient & 1 == 1)))
    below = np.maximum(bit_length(t) - 1, 0)
    codes = below + (2 * (t - (1 << below)) >= (1 << below))
    return np.where(e > 0, np.minimum(codes, ZERO_CODE), ZERO_CODE)


def _require_widths(name: str, x0: int, b: int, c: int) -> None:
    if not (-(1 << 31) < x0 < 0 < b < 1 << 31 and 0 < c < 1 << 62):
        raise ValueError(f"{name}: expected -2^31 < x0 < 0 < b < 2^31 and 0 < c < 2^62, found {x0}, {b}, {c}")


def _octaves(p: Int64, x0: int, b: int, c: int) -> tuple[Int64, Int64]:
    """(q, z) with e^(S p) = 2^-q A S^2 z, of p <= 0."""
    q = p // x0
    r = p - x0 * q
    return q, np.maximum(r * (r + b) + c, 0)


def _least(x0: int, b: int, c: int) -> int:
    """The least z of an octave: the parabola's vertex -b / 2 lies below it, or just inside."""
    return max(0, min(r * (r + b) + c for r in {0, x0 + 1, max(-b // 2, x0 + 1), max(-b // 2 + 1, x0 + 1)}))


@dataclass(frozen=True)
class LisPublished(SoftmaxApproximation):
    """code = round(log2(round(sum E / E))), E = floor((r (r + b) + c) 2^(n - q)), max(x - max x, n x0) = q x0 + r.

    A parabola for the exponential in each octave (I-BERT); what lies below n octaves counts as 2^-n. round(sum E / E) is
    half even; its logarithm is rounded up from 1.5 * 2^k on. As published: FQ-ViT has n = 30, P2-ViT n = 32, and the sum
    takes 48 to 51 bits. A result is within [3/4, 3/2) times what it stands for, so rows do not sum to 1.
    """

    x0: int
    b: int
    c: int
    n: int

    name: ClassVar[str] = "lis_published"
    source: ClassVar[str] = "FQ-ViT (arXiv 2111.13824) section 3.4, with n = 32 P2-ViT (arXiv 2405.19915)"
    logarithmic: ClassVar[bool] = True

    def verify(self) -> None:
        _require_widths(self.name, self.x0, self.b, self.c)
        if not 1 <= self.n <= 32:
            raise ValueError(f"lis_published: n must be in 1..32, found {self.n}")

    @classmethod
    def build(cls, spec: SoftmaxSpec, **options: int) -> Built:
        require_options(options, "n")
        s = spec.scores.scale
        x0, b, c = floor(-_LN2 / s), floor(_B / _A / s), floor(1 / _A / s**2)
        require(
            b > 0 and c > 0, f"scores of scale {float(s):.4g} are too coarse for the exponential: use a smaller scale"
        )
        fits = max(-x0, b) < 1 << 31 and c < 1 << 62
        require(fits, f"scores of scale {float(s):.4g} are too fine for 64 bits: use a larger scale")
        return Built(cls(x0, b, c, options.get("n", 30)), (), (_CODE,), np.array(1.0))

    def apply(
        self, x: Int64, tables: Sequence[Array], mask: Array | None, results: Sequence[IntType]
    ) -> tuple[Array, ...]:
        d, keep = from_maximum(x, mask)
        q, z = _octaves(np.maximum(-d, self.n * self.x0), self.x0, self.b, self.c)
        e = np.where(keep, z << (self.n - q), 0)
        return (fit(log_codes(e, e.sum(-1, keepdims=True)), results[0]),)

    def intermediates(self, codes: Interval, length: int, tables: Sequence[Array]) -> dict[str, Interval]:
        deepest = min((codes[0] - codes[1]) // self.x0, self.n)
        most = self.c << self.n
        return {
            "q": (0, deepest),
            "r": (self.x0 + 1, 0),
            "z": (_least(self.x0, self.b, self.c), self.c),
            "e": (_least(self.x0, self.b, self.c) << (self.n - deepest), most),
            "sum": (most, length * most),
            "ratio": (1, length * most),
            "y": (0, ZERO_CODE),
        }

    def check(self, codes: Interval, length: int, tables: Sequence[Array]) -> None:
        require(
            self.x0 <= -2,
            f"x0 = {self.x0}: an octave is one step of the scores, whatever their scale: use lis, or a smaller scale",
        )
        total = length * self.c << self.n
        require(
            total < 1 << 62,
            f"the sum reaches N c 2^n = {length} * {self.c} * 2^{self.n}, {total.bit_length()} bits, beyond 62:"
            " use lis, or a larger scale",
        )


@dataclass(frozen=True)
class Lis(SoftmaxApproximation):
    """code = round(log2(round(sum E / E))) as `lis_published`, E = floor((r (r + b) + c) 2^(n - q)), (x - max x) 2^up = q x0 + r.

    Sound: the scores are refined by 2^up until an octave has at least 256 steps, n (it may be negative) is the largest for
    which the sum fits 31 bits for the rows' length, and an E that is less than 1 is 0.
    """

    up: int
    x0: int
    b: int
    c: int
    n: int

    name: ClassVar[str] = "lis"
    source: ClassVar[str] = "log-int-softmax (FQ-ViT) with constants that fit 31 bits"
    logarithmic: ClassVar[bool] = True

    def verify(self) -> None:
        _require_widths(self.name, self.x0, self.b, self.c)
        if not 0 <= self.up <= 24:
            raise ValueError(f"lis: up must be in 0..24, found {self.up}")
        if not 1 <= self.n + self.c.bit_length() <= 62:
            raise ValueError(f"lis: c * 2^n must have 1 to 62 bits, found {self.c} * 2^{self.n}")

    @classmethod
    def build(cls, spec: SoftmaxSpec, **options: int) -> Built:
        require_options(options)
        up = 0
        while spec.scores.scale * _FINE > _LN2 * (1 << up):
            up += 1
        s = spec.scores.scale / (1 << up)
        require(up <= 24, f"scores of scale {float(spec.scores.scale):.4g} are hardly numbers: use a smaller scale")
        x0, b, c = round(-_LN2 / s), round(_B / _A / s), round(1 / _A / s**2)
        fits = max(-x0, b) < 1 << 31 and c < 1 << 62
        require(fits, f"scores of scale {float(s):.4g} are too fine for 64 bits: use a larger scale")
        require(
            spec.length < 1 << (_WORD - ZERO_CODE), f"rows of {spec.length} entries are too long for a sum of 31 bits"
        )
        # N c 2^n < 2^31
        n = _WORD - (spec.length * c).bit_length()
        return Built(cls(up, x0, b, c, n), (), (_CODE,), np.array(1.0))

    @property
    def octaves(self) -> int:
        """From there on E is 0."""
        return self.n + self.c.bit_length()

    def apply(
        self, x: Int64, tables: Sequence[Array], mask: Array | None, results: Sequence[IntType]
    ) -> tuple[Array, ...]:
        d, keep = from_maximum(x, mask)
        q, z = _octaves(np.maximum(-d << self.up, self.octaves * self.x0), self.x0, self.b, self.c)
        e = np.where(keep, self._scaled(z, q), 0)
        return (fit(log_codes(e, e.sum(-1, keepdims=True)), results[0]),)

    def _scaled(self, z: Int64, q: Int64) -> Int64:
        """floor(z 2^(n - q))"""
        shift = self.n - q
        return (z << np.maximum(shift, 0)) >> np.maximum(-shift, 0)

    def intermediates(self, codes: Interval, length: int, tables: Sequence[Array]) -> dict[str, Interval]:
        deepest = min(((codes[0] - codes[1]) << self.up) // self.x0, self.octaves)
        most = (self.c << max(self.n, 0)) >> max(-self.n, 0)
        return {
            "q": (0, deepest),
            "r": (self.x0 + 1, 0),
            "z": (_least(self.x0, self.b, self.c), self.c),
            "e": (0, most),
            "sum": (most, length * most),
            "ratio": (1, length * most),
            "y": (0, ZERO_CODE),
        }

    def check(self, codes: Interval, length: int, tables: Sequence[Array]) -> None:
        _, most = self.intermediates(codes, length, tables)["e"]
        require(
            length * most < 1 << _WORD,
            f"the sum of {length} entries reaches {length * most}, beyond 31 bits: build it for rows of this length",
        )
        require(
            most >= 1 << (ZERO_CODE - 1),
            f"the largest exponential is {most}, less than 2^15: weights of 2^-15 would be lost",
        )
        require(
            (codes[1] - codes[0]) << self.up < 1 << 62,
            f"scores differ by up to {codes[1] - codes[0]}, too much for 64 bits after << {self.up}: use narrower codes",
        )
