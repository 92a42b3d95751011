"""`ibert_layernorm`: layer normalisation with a square root of 32 bits, after I-BERT; and `ibert_layernorm_published`."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import ClassVar

import numpy as np

from qvit.dialects.approximations.base import (
    Built,
    Interval,
    LayerNormApproximation,
    LayerNormSpec,
    require,
    require_options,
)
from qvit.dialects.approximations.i_layernorm import (
    HEADROOM,
    check_bias,
    floor_sqrt,
    largest_squares,
    published_bias,
    published_scale,
    rounded_mean,
    sum_of_squares,
)
from qvit.dialects.approximations.ln import UNIT, Ln, normalise
from qvit.dialects.semantics.integers import Array, Int64, IntType, fit, widen


@dataclass(frozen=True)
class IbertLayerNormPublished(LayerNormApproximation):
    """y = ((x - mean) F >> 1) + bias, F = floor(2^31 / k), k = 2^shift floor(sqrt(sum ((x - mean) >> shift)^2)).

    mean is rounded half to even; bias = floor((beta / gamma) 2^30 / sqrt(C)); y stands for y gamma sqrt(C) / 2^30; epsilon
    is ignored. The published code divides by 0 where the sum of squares is 0; here k is 2^shift then.
    """

    shift: int

    name: ClassVar[str] = "ibert_layernorm_published"
    source: ClassVar[str] = "I-BERT (arXiv 2101.01321), section 3.6: i-LayerNorm, as published"
    tables: ClassVar[tuple[str, ...]] = ("bias",)

    def verify(self) -> None:
        if not 0 <= self.shift <= 30:
            raise ValueError(f"{self.name}: shift must be in 0..30, found {self.shift}")

    @classmethod
    def build(cls, spec: LayerNormSpec, **options: int) -> Built:
        """Options: shift, which the published code calibrates; else the least for which no sum of squares passes 2^32."""
        require_options(options, "shift")
        require(np.isfinite(spec.gamma).all() and np.isfinite(spec.beta).all(), "gamma and beta must be finite")
        codes, channels = (spec.input.type.lo, spec.input.type.hi), len(spec.gamma)
        shift = options.get("shift", next(s for s in range(31) if cls(s).squares(codes, channels) < 1 << 32 or s == 30))
        bias = published_bias(spec.gamma, spec.beta)
        return Built(cls(shift), ((bias, IntType(32)),), (IntType(32),), published_scale(spec.gamma))

    def squares(self, codes: Interval, channels: int) -> int:
        """The most that the sum of squares reaches."""
        if self.shift == 0:
            return largest_squares(codes, channels)
        # by Minkowski's inequality the floors add at most sqrt(C) to the root
        root = isqrt(largest_squares(codes, channels) >> (2 * self.shift)) + 1 + isqrt(channels) + 1
        return min(root * root, channels * ((codes[0] - codes[1]) >> self.shift) ** 2)

    def apply(self, x: Int64, tables: Sequence[Array], result: IntType) -> Array:
        (bias,) = tables
        y = x - rounded_mean(x)
        root = np.maximum(floor_sqrt(sum_of_squares(y >> self.shift)), 1) << self.shift
        return fit(((y * ((1 << 31) // root)) >> 1) + widen(bias), result)

    @property
    def _normalised(self) -> Interval:
        """The range of u: y >= -2^shift k', y < 2^shift (k' + 1) for k' = max(|y >> shift|, 1), and the root is 2^shift k' or more."""
        return -(1 << 30), (1 << 31) - (1 << (30 - self.shift))

    def intermediates(
        self, codes: Interval, channels: int, tables: Sequence[Array], result: IntType
    ) -> dict[str, Interval]:
        (bias,) = tables
        (low, high), spread, squares = self._normalised, codes[1] - codes[0], self.squares(codes, channels)
        root = max(isqrt(squares), 1) << self.shift
        return {
            "sum": (channels * codes[0], channels * codes[1]),
            "mean": codes,
            "deviation": (-spread, spread),
            "shifted": (-spread >> self.shift, spread >> self.shift),
            "squares": (0, squares),
            "root": (1 << self.shift, root),
            "reciprocal": ((1 << 31) // root, 1 << (31 - self.shift)),
            "product": (2 * low, 2 * high),
            "u": (low, high),
            "y": (int(widen(bias).min()) + low, int(widen(bias).max()) + high),
        }

    def check(self, codes: Interval, channels: int, tables: Sequence[Array]) -> None:
        (bias,) = tables
        check_bias(bias, self._normalised)
        squares = self.squares(codes, channels)
        require(
            squares < 1 << 32,
            f"the sum of squares reaches {squares} with shift {self.shift}, beyond 2^32: use a larger shift, or ibert-layernorm",
        )
        usual = (codes[1] - codes[0]) >> (HEADROOM + 1)
        require(
            self.shift == 0 or usual >= 8 << self.shift,
            f"a shift of {self.shift} leaves less than 3 bits of deviations of {usual}, 1/128 of the largest that codes in"
            f" {codes[0]}..{codes[1]} have: use a smaller shift, finer codes, or ibert-layernorm",
        )


@dataclass(frozen=True)
class IbertLayerNorm(Ln):
    """As `ln`, but with an exact square root of 32 bits: u = (C x - sum x) F >> (22 + half), F = floor(2^46 / k).

    I-BERT's calibrated shift is one of each row's own: w = (C^2 var + epsilon) / 4^half is in 2^30 .. 2^32, k =
    floor(sqrt(w)) has 16 bits. u is too large by up to 2^-15 of itself: 0.004 units of an 8-bit result, 1 of a 16-bit one. The
    rest is that of `ln`: gamma = 0 and a large beta / gamma are right, and the wanted codes come out by one rounding.
    """

    name: ClassVar[str] = "ibert_layernorm"
    source: ClassVar[str] = "after I-BERT's i-LayerNorm: exact mean, a shift for each row, one rounding"

    RECIPROCAL: ClassVar[int] = 1 << 31

    @staticmethod
    def normalised(deviation: Int64, variance: Int64) -> Int64:
        w, half = normalise(variance)
        return (deviation * ((1 << 46) // floor_sqrt(w))) >> (46 - UNIT + half)

    @staticmethod
    def largest(channels: int) -> int:
        most = Ln.largest(channels)
        return most + (most >> 15) + 2

    def intermediates(
        self, codes: Interval, channels: int, tables: Sequence[Array], result: IntType
    ) -> dict[str, Interval]:
        ours = {"root": (1 << 15, (1 << 16) - 1), "reciprocal": (1 << 30, 1 << 31)}
        return super().intermediates(codes, channels, tables, result) | ours
