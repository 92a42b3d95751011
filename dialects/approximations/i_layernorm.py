"""`i_layernorm`: layer normalisation with I-ViT's integer square root; and `i_layernorm_published`, to the letter."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, isqrt
from typing import ClassVar

import numpy as np

from qvit.dialects.approximations.base import (
    Built,
    Interval,
    LayerNormApproximation,
    LayerNormSpec,
    RangeError,
    bit_length,
    require,
    require_options,
)
from qvit.dialects.approximations.ln import UNIT, Ln
from qvit.dialects.approximations.normalised import LARGEST
from qvit.dialects.semantics.integers import Array, Int64, IntType, fit, magnitude, widen


def rounded_mean(x: Int64) -> Int64:
    """The mean over the last axis [..., 1], ties to even."""
    channels, total = x.shape[-1], x.sum(-1, keepdims=True)
    mean = total // channels
    twice = 2 * (total - mean * channels)
    return mean + ((twice > channels) | ((twice == channels) & (mean & 1 == 1)))


def sum_of_squares(y: Int64) -> Int64:
    """Over the last axis [..., 1]; OverflowError if it might not fit 62 bits."""
    if y.shape[-1] * magnitude(y) ** 2 >= 1 << 62:
        raise OverflowError(f"the squares of {y.shape[-1]} deviations of up to {magnitude(y)} may not fit 62 bits")
    return (y * y).sum(-1, keepdims=True)


def floor_sqrt(n: Int64) -> Int64:
    """floor(sqrt(n)) for 0 <= n < 2^62: Newton's iteration from 2^ceil(bits / 2), until it stops falling (I-BERT, algorithm 4)."""
    x = np.asarray(np.int64(1) << ((bit_length(n) + 1) >> 1))
    while True:
        following = (x + n // np.maximum(x, 1)) >> 1
        if (following >= x).all():
            return x
        x = np.minimum(x, following)


def published_bias(gamma: Array, beta: Array) -> Int64:
    """floor((beta / gamma) / (sqrt(C) / 2^30)) a channel, exactly, clamped to 32 bits; where gamma is 0, to the clamp or 0."""
    channels = len(gamma)

    def bias(g: float, b: float) -> int:
        if g == 0:
            return 0 if b == 0 else LARGEST if b > 0 else -LARGEST
        ratio = Fraction(b) / Fraction(g) * (1 << 30)
        square = ratio * ratio / channels
        root = isqrt(floor(square)) if ratio >= 0 else -isqrt(max(ceil(square) - 1, 0)) - 1
        return max(-LARGEST, min(root, LARGEST))

    return np.array([bias(float(g), float(b)) for g, b in zip(gamma, beta, strict=True)], np.int64)


def published_scale(gamma: Array) -> Array:
    """gamma sqrt(C) / 2^30: what a unit of the published results stands for, a channel."""
    return np.asarray(gamma, np.float64) * len(gamma) ** 0.5 * 2.0**-30


def check_bias(bias: Array, normalised: Interval) -> None:
    """RangeError unless the sums of normalised values and the bias fit 32 bits: |beta / gamma| < sqrt(C), about."""
    wide, word = widen(bias), IntType(32)
    bad = np.flatnonzero((wide + normalised[0] < word.lo) | (wide + normalised[1] > word.hi))
    if bad.size:
        raise RangeError(
            f"channel {bad[0]}: beta / gamma is too large, or gamma is 0: its bias {wide[bad[0]]} and normalised values in"
            f" {normalised[0]}..{normalised[1]} do not fit 32 bits; use the variant that is not the published one"
        )


def largest_squares(codes: Interval, channels: int) -> int:
    """The most that sum (x - round(mean))^2 reaches: Popoviciu's bound, and 1/4 for each rounded mean."""
    spread = codes[1] - codes[0]
    return channels * (spread * spread + 1) // 4


_CONVERGES = 183_184
"""From here on ten steps give the floor of the square root, but m + 1 for some (m + 1)^2 - 1; below, more is possible."""
_CONVERGES_TO = 1 << 44
HEADROOM = 7
"""Bits of a row's rms below the largest magnitude that a row is expected to have."""


@dataclass(frozen=True)
class ILayerNormPublished(LayerNormApproximation):
    """y = ((x - mean) F >> 1) + bias, F = floor((2^31 - 1) / k): k is ten Newton steps for the root of sum (x - mean)^2.

    mean is rounded half to even; k starts at 2^16 and is never below 64; bias = floor((beta / gamma) 2^30 / sqrt(C)).
    y stands for y gamma sqrt(C) / 2^30. Ten steps do not converge for sums below 183184: 83 for 63 at 4095. epsilon is
    ignored.
    """

    name: ClassVar[str] = "i_layernorm_published"
    source: ClassVar[str] = "I-ViT (arXiv 2207.01405), section 3.5: I-LayerNorm, as published"
    tables: ClassVar[tuple[str, ...]] = ("bias",)

    def verify(self) -> None:
        """It has no fields."""

    @classmethod
    def build(cls, spec: LayerNormSpec, **options: int) -> Built:
        require_options(options)
        require(np.isfinite(spec.gamma).all() and np.isfinite(spec.beta).all(), "gamma and beta must be finite")
        bias = published_bias(spec.gamma, spec.beta)
        return Built(cls(), ((bias, IntType(32)),), (IntType(32),), published_scale(spec.gamma))

    def apply(self, x: Int64, tables: Sequence[Array], result: IntType) -> Array:
        (bias,) = tables
        y = x - rounded_mean(x)
        squares = sum_of_squares(y)
        k = np.full_like(squares, 1 << 16)
        for _ in range(10):
            k = (k + squares // k) >> 1
        return fit(((y * (LARGEST // k)) >> 1) + widen(bias), result)

    def intermediates(
        self, codes: Interval, channels: int, tables: Sequence[Array], result: IntType
    ) -> dict[str, Interval]:
        (bias,) = tables
        spread, squares = codes[1] - codes[0], largest_squares(codes, channels)
        # after the first step k is at least the root, and falls until it is there; it halves at most
        root = max(1 << 16, ((1 << 16) + (squares >> 16)) >> 1, isqrt(squares) + 1)
        # |x - mean| <= floor(root of the squares) <= k, so |(x - mean) F| <= 2^31 - 1
        return {
            "sum": (channels * codes[0], channels * codes[1]),
            "mean": codes,
            "deviation": (-spread, spread),
            "squares": (0, squares),
            "root": (64, root),
            "quotient": (0, max(squares >> 16, isqrt(squares) + 2)),
            "reciprocal": (LARGEST // root, LARGEST // 64),
            "product": (-LARGEST, LARGEST),
            "u": (-(1 << 30), (1 << 30) - 1),
            "y": (int(widen(bias).min()) - (1 << 30), int(widen(bias).max()) + (1 << 30) - 1),
        }

    def check(self, codes: Interval, channels: int, tables: Sequence[Array]) -> None:
        (bias,) = tables
        check_bias(bias, (-(1 << 30), (1 << 30) - 1))
        squares = largest_squares(codes, channels)
        require(
            squares < _CONVERGES_TO,
            f"the sum of squares reaches {squares}: ten Newton steps from 2^16 converge below 2^44; use i-layernorm",
        )
        spread = codes[1] - codes[0]
        usual = channels * spread * spread >> 2 * (HEADROOM + 1)
        require(
            usual >= _CONVERGES,
            f"rows of {channels} codes in {codes[0]}..{codes[1]} whose rms is 1/128 of the largest have a sum of squares of"
            f" {usual}: ten Newton steps from 2^16 converge from {_CONVERGES} on; use finer codes, or i-layernorm",
        )


@dataclass(frozen=True)
class ILayerNorm(Ln):
    """As `ln`, but with an exact integer square root: u = (C x - sum x) F >> (37 - h), F = floor(2^61 / k).

    w = 4^h (C^2 var + epsilon) is in 2^60 .. 2^62, k = floor(sqrt(w)) by Newton's iteration from 2^31 until it converges.
    u is off by 2^-29 of itself and a unit of 2^-24; the rest is that of `ln`: gamma and beta are a multiplier and an
    offset, so gamma = 0 and a large beta / gamma are right, and the wanted codes come out by one rounding.
    """

    name: ClassVar[str] = "i_layernorm"
    source: ClassVar[str] = "after I-ViT's I-LayerNorm: exact mean, converged root, one rounding"

    RECIPROCAL: ClassVar[int] = 1 << 31

    @staticmethod
    def normalised(deviation: Int64, variance: Int64) -> Int64:
        h = np.maximum(62 - bit_length(variance), 0) >> 1
        root = floor_sqrt(variance << (2 * h))
        return (deviation * ((1 << 61) // root)) >> (61 - UNIT - h)

    def intermediates(
        self, codes: Interval, channels: int, tables: Sequence[Array], result: IntType
    ) -> dict[str, Interval]:
        ours = {"w": (1 << 60, (1 << 62) - 1), "root": (1 << 30, (1 << 31) - 1), "reciprocal": (1 << 30, 1 << 31)}
        return super().intermediates(codes, channels, tables, result) | ours
