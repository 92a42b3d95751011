"""`i_softmax`: I-BERT's softmax, whose exponential is a shift and a polynomial; and `i_softmax_published`, to the letter."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor, log
from typing import ClassVar

import numpy as np

from qvit.dialects.approximations.base import (
    Built,
    Interval,
    SoftmaxApproximation,
    SoftmaxSpec,
    from_maximum,
    require,
    require_options,
    require_positive,
)
from qvit.dialects.approximations.normalised import (
    LARGEST,
    check_sum,
    normalise,
    normalised_intermediates,
    probabilities,
    verify_probabilities,
)
from qvit.dialects.approximations.shift_exponential import check_octave, octave_of, octaves_below, verify_octave
from qvit.dialects.semantics.integers import Array, Int64, IntType, Rounding, fit, round_shift, saturate

_A, _B = Fraction(35815147, 10**8), Fraction(96963238, 10**8)
"""e^x is about a x^2 + b x + 1 for -ln 2 < x <= 0: off by at most 0.0021."""
_LN2 = Fraction(6931, 10**4)
_WIDE = IntType(16)


@dataclass(frozen=True)
class ISoftmaxPublished(SoftmaxApproximation):
    """y = (E' F) >> (32 - bits), F = floor(2^32 / sum E'), E' = clip16(round(E multiplier / 2^shift)), half even.

    With d = x - max, at least n x0: q = floor(d / x0), r = d - x0 q, E = floor((r (r + b) + c) 2^(n - q)). The requantize to
    16 bits in the middle maps the row's maximum to 32767. y stands for y / 2^bits and is floored: at 8 bits a row of 197
    sums to 0.6 to 0.7. x0 = floor(-0.6931 / S) makes octaves up to a code too long: a probability is off by up to 0.014 at
    S = 1/20, 0.11 at 1/8, 0.34 at 0.3. A row without entries is 0.
    """

    x0: int
    b: int
    c: int
    n: int
    multiplier: int
    shift: int
    bits: int

    name: ClassVar[str] = "i_softmax_published"
    source: ClassVar[str] = "I-BERT (arXiv 2101.01321), section 3.5: i-exp and i-softmax, as published"

    def verify(self) -> None:
        ranges = {
            "x0": (-(1 << 14), -1),
            "b": (0, 1 << 24),
            "c": (1, 1 << 30),
            "n": (1, 62),
            "multiplier": (1, (1 << 31) - 1),
            "shift": (0, 127),
            "bits": (1, 16),
        }
        for name, (lo, hi) in ranges.items():
            value = self.parameters[name]
            if not lo <= value <= hi:
                raise ValueError(f"{self.name}: {name} must be in {lo}..{hi}, found {value}")
        if self.b < -self.x0:
            raise ValueError(f"{self.name}: b must be at least -x0 = {-self.x0}, found {self.b}")

    @classmethod
    def build(cls, spec: SoftmaxSpec, **options: int) -> Built:
        """Options: n (30 in the published code), bits (8 there)."""
        require_options(options, "n", "bits")
        require_positive(spec.scores.scale)
        scale, n, bits = spec.scores.scale, options.get("n", 30), options.get("bits", 8)
        x0, b, c = floor(-_LN2 / scale), floor(_B / _A / scale), floor(1 / _A / scale**2)
        require(
            x0 >= -(1 << 14) and 1 <= c <= 1 << 30,
            f"scores of a scale of {float(scale):.4g} are out of the range of i-exp: a scale in 5.2e-5..1.6 is needed, or i-softmax",
        )
        # the largest exponential, c 2^n, becomes 32767
        factor = Fraction(_WIDE.hi, c << n)
        multiplier, shift = dyadic(factor)
        approximation = cls(x0, b, c, n, multiplier, shift, bits)
        return Built(approximation, (), (IntType(bits, False),), np.array(2.0**-bits))

    def apply(
        self, x: Int64, tables: Sequence[Array], mask: Array | None, results: Sequence[IntType]
    ) -> tuple[Array, ...]:
        d, keep = from_maximum(x, mask)
        e = np.where(keep, self._exponentials(d), 0)
        # the maximum is in the sum unless a row has no entry
        total = np.maximum(e.sum(-1, keepdims=True), self.peak)
        return (fit((e * ((1 << 32) // total)) >> (32 - self.bits), results[0]),)

    @property
    def peak(self) -> int:
        """E' of a row's maximum, 32767 by a multiplier made for it; at least 1."""
        return max(int(self._exponentials(np.zeros(1, np.int64))[0]), 1)

    def _polynomials(self, d: Int64) -> tuple[Int64, Int64]:
        """(z, q): r (r + b) + c and the octaves, for d codes below the maximum."""
        x = np.maximum(-d, self.n * self.x0)
        q = x // self.x0
        r = x - q * self.x0
        return np.maximum(r * (r + self.b) + self.c, 0), q

    def _exponentials(self, d: Int64) -> Int64:
        """E' of 16 bits. E is z shifted left, so a shift remains, and the product with the multiplier has 61 bits."""
        z, q = self._polynomials(d)
        # E multiplier / 2^shift, and beyond 62 bits of a shift the result is 0 as it is at 62
        right = np.minimum(self.shift - self.n + q, 62)
        return saturate(round_shift(z * self.multiplier, right, Rounding.HALF_EVEN), _WIDE).astype(np.int64)

    def intermediates(self, codes: Interval, length: int, tables: Sequence[Array]) -> dict[str, Interval]:
        d = np.arange(min(codes[1] - codes[0], -self.n * self.x0) + 1)
        z, q = self._polynomials(d)
        e = self._exponentials(d)
        peak, most = self.peak, int(e.max())
        total = peak, max(length * most, peak)
        # E' <= sum; F is floored
        product = peak * ((1 << 32) // peak) if peak >= most else 1 << 32
        return {
            "x": (-int(d[-1]), 0),
            "q": (0, int(q.max())),
            "polynomial": (int(z.min()), int(z.max())),
            "exponential": (0, int((z.astype(object) << (self.n - q)).max())),
            "requantize product": (0, int(z.max()) * self.multiplier),
            "e": (0, most),
            "sum": total,
            "reciprocal": ((1 << 32) // total[1], (1 << 32) // total[0]),
            "product": (0, product),
            "y": (0, product >> (32 - self.bits)),
        }

    def check(self, codes: Interval, length: int, tables: Sequence[Array]) -> None:
        require(
            self.x0 <= -2,
            f"x0 = {self.x0} leaves no code between two powers of two: use scores of a scale below 0.69, or i-softmax",
        )
        d = np.arange(min(codes[1] - codes[0], -self.n * self.x0) + 1)
        e = self._exponentials(d)
        require(
            self.peak == _WIDE.hi,
            f"the requantize maps the maximum to {self.peak}, expected {_WIDE.hi}: see multiplier and shift",
        )
        require(
            length * int(e.max()) < 1 << 31,
            f"the sum of {length} exponentials may reach {length * int(e.max())}, beyond 31 bits: use shorter rows, or i-softmax",
        )


def _constants(scale: Fraction, bits: int) -> tuple[int, int, int, int]:
    """(up, octave, b, c), the octave of bits + 1 bits."""
    up, octave = octave_of(scale, bits)
    step = log(2) / octave
    return up, octave, round(float(_B / _A) / step), round(float(1 / _A) / step**2)


@dataclass(frozen=True)
class ISoftmax(SoftmaxApproximation):
    """y = round(one E / sum E), at most top, as `normalise` divides; E = (c - r (b - r)) >> q; y stands for y / one.

    d = max - x is q octaves and r < octave steps, as in `shiftmax`: I-BERT's polynomial with constants to nearest, on
    octaves of 2^9 steps or more where rows are shorter than 350, of at least 2^4. From 31 octaves on E is 0. A probability is
    off by at most 0.0010 (the polynomial's 0.0021) + N / c + 1 / (2 one) + 2^-10, half the rounding of an octave.
    """

    up: int
    octave: int
    b: int
    c: int
    one: int
    top: int

    name: ClassVar[str] = "i_softmax"
    source: ClassVar[str] = "after I-BERT's i-softmax: finer octaves, one requantize less, a normalised reciprocal"

    def verify(self) -> None:
        verify_octave(self.name, self.up, self.octave)
        verify_probabilities(self.name, self.one, self.top)
        if not (self.octave <= self.b < 1 << 15 and self.octave * self.b <= self.c <= LARGEST):
            raise ValueError(
                f"{self.name}: octave <= b < 2^15 and octave b <= c < 2^31 are expected, found {self.octave}, {self.b}, {self.c}"
            )

    @classmethod
    def build(cls, spec: SoftmaxSpec, **options: int) -> Built:
        """Options: bits of the probabilities, see `probabilities`."""
        require_options(options, "bits")
        candidates = [_constants(spec.scores.scale, bits) for bits in range(9, 3, -1)]
        fitting = [found for found in candidates if spec.length * found[-1] <= LARGEST]
        require(fitting, f"rows of {spec.length} scores are too long: {LARGEST // candidates[-1][-1]} are possible")
        one, top, type, scale = probabilities(spec, options)
        return Built(cls(*fitting[0], one, top), (), (type,), scale)

    def _polynomials(self, d: Int64) -> tuple[Int64, Int64]:
        """(c - r (b - r), q)."""
        q, r = octaves_below(d, self.up, self.octave)
        return self.c - r * (self.b - r), q

    def apply(
        self, x: Int64, tables: Sequence[Array], mask: Array | None, results: Sequence[IntType]
    ) -> tuple[Array, ...]:
        d, keep = from_maximum(x, mask)
        polynomials, q = self._polynomials(d)
        e = np.where(keep, polynomials >> np.minimum(q, 31), 0)
        return (normalise(e, self.c, self.one, self.top, results[0]),)

    def intermediates(self, codes: Interval, length: int, tables: Sequence[Array]) -> dict[str, Interval]:
        # r (b - r) grows up to b / 2, and is smaller than its value there
        r = min(self.octave - 1, self.b // 2)
        polynomial = {"polynomial": (self.c - r * (self.b - r), self.c)}
        return polynomial | normalised_intermediates(self.c, length, self.one, self.top)

    def check(self, codes: Interval, length: int, tables: Sequence[Array]) -> None:
        check_octave(self.octave)
        check_sum(self.c, length)


def dyadic(factor: Fraction) -> tuple[int, int]:
    """(m, e) with 2^30 <= m < 2^31 and m / 2^e nearest to a positive factor, ties up (I-BERT, I-ViT)."""
    e = 31
    while factor * (1 << e) < 1 << 30:
        e += 1
    while e > 0 and factor * (1 << e) >= 1 << 31:
        e -= 1
    m = floor(factor * (1 << e) + Fraction(1, 2))
    return (m, e) if m < 1 << 31 else (m >> 1, e - 1)
