"""`threshold_softmax` and `threshold_layernorm`: quantizers of comparators behind softmax and layer normalisation.

Lin and Shah compare with multiples of a row's own aggregates instead of dividing by them: a probability reaches a code where
its exponential reaches that code's share of the row's sum, a normalised value where its square reaches the code's square of
the row's variance. Neither divides nor takes a root, and the scales are in the thresholds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, log2
from typing import ClassVar

import numpy as np

from qvit.dialects.approximations.base import (
    Built,
    Codes,
    Interval,
    LayerNormApproximation,
    LayerNormSpec,
    SoftmaxApproximation,
    SoftmaxSpec,
    from_maximum,
    require,
    require_options,
    require_positive,
)
from qvit.dialects.approximations.ln import normalise
from qvit.dialects.semantics.integers import Array, Int64, IntType, Rounding, fit, magnitude, round_fraction, widen

FRACTION = 16
"""Fraction bits of the exponent of 2."""
ONE = 1 << 15
"""e^0."""
SQUARE_FRACTION = 20
"""Fraction bits of the squared thresholds of a normalisation."""
MOST_CHANNELS = 1 << 10


def _levels(output: Codes) -> int:
    """How many comparators make codes of at most 8 bits."""
    require(
        output.type.bits <= 8,
        f"codes of {output.type.bits} bits would need {output.type.hi - output.type.lo} comparators",
    )
    return output.type.hi - output.type.lo


def _verify_levels(name: str, levels: int) -> None:
    """ValueError unless all comparators of some bits are there."""
    if levels not in (1, 3, 7, 15, 31, 63, 127, 255):
        raise ValueError(f"{name}: levels, one less than a power of two, must be in 1..255, found {levels}")


@dataclass(frozen=True)
class ThresholdSoftmax(SoftmaxApproximation):
    """y = #{m = 1..levels : 2 E M >= (2 m - 1) (sum E) 2^shift}, 2^shift / M the step of the codes: no division.

    E = (2^17 - f) >> (q + 2) for (row maximum - x) factor = q 2^16 + f, 0 <= f < 2^16: 2^-(q + f / 2^16), linear between
    powers of two, which is at most 6.2 % above it; factor = round(S log2(e) 2^16). Where the step is a power of two, M is 1
    and comparing takes shifts alone. The sum of a row without any entry counts as 2^15. Codes are rounded half up; beyond
    the last they saturate. 1 / step is off by at most 2^-12 relative.
    """

    factor: int
    multiplier: int
    shift: int
    levels: int

    name: ClassVar[str] = "threshold_softmax"
    source: ClassVar[str] = "Lin and Shah (arXiv 2508.20334): comparators at multiples of the row's sum"

    STEP_BITS: ClassVar[int] = 12
    LAST_OCTAVE: ClassVar[int] = 16
    """Entries so many octaves below the maximum are 0."""

    def verify(self) -> None:
        _verify_levels(self.name, self.levels)
        if not 1 <= self.factor < 1 << 32:
            raise ValueError(f"{self.name}: factor must be in 1..2^32 - 1, found {self.factor}")
        if not 1 <= self.multiplier < 1 << self.STEP_BITS:
            raise ValueError(
                f"{self.name}: multiplier must be in 1..{(1 << self.STEP_BITS) - 1}, found {self.multiplier}"
            )
        if not 0 <= self.shift < self.STEP_BITS:
            raise ValueError(f"{self.name}: shift must be in 0..{self.STEP_BITS - 1}, found {self.shift}")

    @classmethod
    def build(cls, spec: SoftmaxSpec, **options: int) -> Built:
        require_options(options)
        require_positive(spec.scores.scale)
        output = spec.output or Codes(Fraction(1, 256), 0, IntType(8, False))
        levels = _levels(output)
        require(output.type.lo == output.zero_point == 0, "probabilities are unsigned codes without a zero point")
        factor = round(float(spec.scores.scale) * log2(np.e) * (1 << FRACTION))
        require(1 <= factor < 1 << 32, f"scores of scale {float(spec.scores.scale):.4g}: expected 2^-17 to 2^15")
        multiplier, shift = cls.step(output.scale)
        made = cls(factor, multiplier, shift, levels)
        return Built(made, (), (output.type,), np.array(float(output.scale)))

    @classmethod
    def step(cls, scale: Fraction) -> tuple[int, int]:
        """(M, shift) with M / 2^shift next to 1 / scale, M as small as it can be."""
        inverse = 1 / scale
        require(
            1 <= inverse < (1 << cls.STEP_BITS) - 1,
            f"a step of {float(scale):.4g} for probabilities: expected 2^-{cls.STEP_BITS} to 1",
        )
        shift = cls.STEP_BITS - int(inverse).bit_length()
        multiplier = round_fraction(inverse * (1 << shift), Rounding.HALF_UP)
        if multiplier >> cls.STEP_BITS:
            multiplier, shift = multiplier // 2, shift - 1
        common = gcd(multiplier, 1 << shift)
        return multiplier // common, shift - (common.bit_length() - 1)

    def apply(
        self, x: Int64, tables: Sequence[Array], mask: Array | None, results: Sequence[IntType]
    ) -> tuple[Array, ...]:
        d, keep = from_maximum(x, mask)
        exponent = d * self.factor
        octaves = np.minimum(exponent >> FRACTION, self.LAST_OCTAVE)
        e = ((2 << FRACTION) - (exponent & ((1 << FRACTION) - 1))) >> (octaves + 2)
        e = np.where(keep, e, 0)
        total = np.maximum(e.sum(-1, keepdims=True), ONE)
        reached, unit = 2 * self.multiplier * e, total << self.shift
        # comparators whose thresholds rise: how many are reached is found by halves
        count = np.zeros(x.shape, np.int64)
        step = (self.levels + 1) >> 1
        while step:
            count += np.where(reached >= (2 * (count + step) - 1) * unit, step, 0)
            step >>= 1
        return (fit(count, results[0]),)

    def intermediates(self, codes: Interval, length: int, tables: Sequence[Array]) -> dict[str, Interval]:
        total = ONE * length
        return {
            "exponent": (0, (codes[1] - codes[0]) * self.factor),
            "e": (0, ONE),
            "sum": (ONE, total),
            "reached": (0, 2 * self.multiplier * ONE),
            "threshold": (ONE, (2 * self.levels - 1) * (total << self.shift)),
            "y": (0, self.levels),
        }

    def check(self, codes: Interval, length: int, tables: Sequence[Array]) -> None:
        found = self.intermediates(codes, length, tables)
        for name, bits in {"exponent": 63, "sum": 32, "threshold": 63}.items():
            require(found[name][1] <= IntType(bits).hi, f"{name} reaches {found[name][1]}, beyond {bits} bits")


@dataclass(frozen=True)
class ThresholdLayerNorm(LayerNormApproximation):
    """y = lowest + #{m : sign(d) d^2 2^20 >= T_mc w}, d / sqrt(w) the normalised x: neither division nor square root.

    d = sign_c (C x - sum x) 2^-half and w = (C sum x^2 - (sum x)^2 + epsilon) 4^-half, both floored in magnitude, half such
    that w is in 2^30 .. 2^32 - 1; epsilon = round(C^2 eps / S^2), and w is at least that of 1. T_mc = t |t| 2^20 for t = ((m -
    zero point - 1/2) S_out - beta_c) / |gamma_c|, the normalised value at which code m begins, at most C 2^20 in magnitude;
    for gamma = 0 that bound, with the sign that gives beta. The codes are those of the real normalisation, rounded half up,
    but where it is within 2^-15 of a standard deviation, and 2^-10 next to t = 0, of where a code begins.

    tables: sign [C], thresholds [levels C], those of the first comparator first.
    """

    levels: int
    lowest: int
    epsilon: int

    name: ClassVar[str] = "threshold_layernorm"
    source: ClassVar[str] = "Lin and Shah (arXiv 2508.20334), NormQ: comparators at multiples of the row's variance"
    tables: ClassVar[tuple[str, ...]] = ("sign", "thresholds")

    def verify(self) -> None:
        _verify_levels(self.name, self.levels)
        if not -128 <= self.lowest <= 0:
            raise ValueError(f"{self.name}: lowest must be in -128..0, found {self.lowest}")
        if not 0 <= self.epsilon < 1 << 61:
            raise ValueError(f"{self.name}: epsilon must be in 0..2^61 - 1, found {self.epsilon}")

    def table_length(self, name: str, channels: int) -> int:
        return channels * self.levels if name == "thresholds" else channels

    @classmethod
    def build(cls, spec: LayerNormSpec, **options: int) -> Built:
        require_options(options)
        levels, channels, output = _levels(spec.output), len(spec.gamma), spec.output
        require(channels <= MOST_CHANNELS, f"rows of {channels} channels: at most {MOST_CHANNELS} fit 62 bits, use ln")
        require(np.isfinite(spec.gamma).all() and np.isfinite(spec.beta).all(), "gamma and beta must be finite")
        epsilon = round(channels**2 * Fraction(spec.epsilon) / spec.input.scale**2)
        require(epsilon < 1 << 61, f"epsilon {spec.epsilon} is beyond the codes' variance: their scale is too small")
        codes = np.arange(output.type.lo + 1, output.type.hi + 1)[:, None]
        begins = (codes - output.zero_point - 0.5) * float(output.scale) - spec.beta
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            t = begins / np.abs(spec.gamma)
        t = np.where(np.isnan(t), -np.inf, t)  # 0 / 0: gamma is 0, and beta lies just where the code begins
        most = channels << SQUARE_FRACTION
        with np.errstate(over="ignore"):
            squares = np.clip(np.rint(t * np.abs(t) * (1 << SQUARE_FRACTION)), -most, most).astype(np.int64)
        sign = np.where(spec.gamma < 0, -1, 1)
        tables = (sign, IntType(8)), (squares.reshape(-1), IntType(32))
        made = cls(levels, output.type.lo, epsilon)
        return Built(made, tables, (output.type,), np.array(float(output.scale)), output.zero_point)

    def apply(self, x: Int64, tables: Sequence[Array], result: IntType) -> Array:
        sign, thresholds = map(widen, tables)
        channels = x.shape[-1]
        if channels > MOST_CHANNELS or channels * magnitude(x) >= 1 << 30:
            raise OverflowError(
                f"rows of {channels} with |x| up to {magnitude(x)}: expected {MOST_CHANNELS} at most, products below 2^30"
            )
        total = x.sum(-1, keepdims=True)
        variance = np.maximum(channels * (x * x).sum(-1, keepdims=True) - total * total + self.epsilon, 1)
        w, half = normalise(variance)
        deviation = sign * (channels * x - total)
        d = (np.abs(deviation) << np.maximum(-half, 0)) >> np.maximum(half, 0)
        reached = np.where(deviation < 0, -1, 1) * ((d * d) << SQUARE_FRACTION)
        levels, channel = thresholds.reshape(self.levels, channels), np.arange(channels, dtype=np.int64)
        # comparators whose thresholds rise: how many are reached is found by halves
        count = np.zeros(x.shape, np.int64)
        step = (self.levels + 1) >> 1
        while step:
            count += np.where(reached >= levels[count + step - 1, channel] * w, step, 0)
            step >>= 1
        return fit(count + self.lowest, result)

    def intermediates(
        self, codes: Interval, channels: int, tables: Sequence[Array], result: IntType
    ) -> dict[str, Interval]:
        spread, most = codes[1] - codes[0], max(abs(codes[0]), abs(codes[1]))
        # Popoviciu: the variance of numbers in an interval is at most a quarter of its squared length
        variance = channels * channels * spread * spread // 4 + self.epsilon
        top = (1 << 32) - 1
        # d^2 <= (C - 1) w, as no deviation is beyond sqrt(C - 1) standard deviations
        square = (channels - 1) * (top + 1) << SQUARE_FRACTION
        threshold = (channels << SQUARE_FRACTION) * top
        return {
            "sum": (channels * codes[0], channels * codes[1]),
            "squares": (0, channels * most * most),
            "C squares": (0, channels * channels * most * most),
            "variance": (1, max(variance, 1)),
            "w": (1 << 30, top),
            "deviation": (-(channels - 1) * spread, (channels - 1) * spread),
            "square": (-square, square),
            "threshold": (-threshold, threshold),
            "y": (self.lowest, self.lowest + self.levels),
        }

    def check(self, codes: Interval, channels: int, tables: Sequence[Array]) -> None:
        most = channels * max(abs(codes[0]), abs(codes[1]))
        require(most < 1 << 30, f"channels times |x| reaches {most}, 2^30 or more: use narrower codes")
        require(channels <= MOST_CHANNELS, f"rows of {channels} channels: at most {MOST_CHANNELS} fit 62 bits, use ln")
        sign, thresholds = map(widen, tables)
        require(set(np.unique(sign).tolist()) <= {-1, 1}, "signs must be -1 or 1")
        levels = thresholds.reshape(self.levels, channels)
        require((np.diff(levels, axis=0) >= 0).all(), "the thresholds of a channel must not fall")
        require(magnitude(thresholds) <= channels << SQUARE_FRACTION, "a threshold is beyond all normalised values")
