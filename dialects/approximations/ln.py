"""`ln`: layer normalisation fused with the requantize behind it, without division and square root, rounded once."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt, sqrt
from typing import ClassVar

import numpy as np

from qvit.dialects.approximations.base import (
    Built,
    Interval,
    LayerNormApproximation,
    LayerNormSpec,
    bit_length,
    require,
    require_options,
)
from qvit.dialects.semantics.integers import Array, Int64, IntType, magnitude, saturate, widen

_STARTS = np.array([isqrt((1 << 36) // (2 * i + 65)) for i in range(96)], np.int64)
"""2^15 / sqrt(w / 2^30) for w in the middle of each of 96 pieces of 2^30..2^32: where Newton's iteration starts."""

_GUARD_MOST = 20
UNIT = 24
"""Fraction bits of the normalised value u."""


def normalise(variance: Int64) -> tuple[Int64, Int64]:
    """(w, half): w = variance / 4^half, floored, is in 2^30 .. 2^32 - 1."""
    half = (bit_length(variance) - 31) >> 1
    return (variance >> np.maximum(2 * half, 0)) << np.maximum(-2 * half, 0), half


def reciprocal_sqrt(w: Int64) -> Int64:
    """2^45 / sqrt(w) for w in 2^30 .. 2^32 - 1, as 2^29 .. 2^30 - 1; relative error within [-1.3e-8, 2e-9].

    Two Newton steps from a table; every product is below 2^63.
    """
    y = _STARTS[(w >> 25) - 32] << 15
    for _ in range(2):
        y = (y * ((3 << 29) - _high_product((y * y) >> 29, w))) >> 30
    return y


def _high_product(a: Int64, b: Int64) -> Int64:
    """(a b) >> 32 for a < 2^31, b < 2^32: the product is below 2^63."""
    return (a * b) >> 32


@dataclass(frozen=True)
class Ln(LayerNormApproximation):
    """y = saturate(((u G >> 32) + B + 2^(guard - 1)) >> guard), u = (C x - sum x) / sqrt(C^2 var + epsilon) with 24 fraction bits.

    G = round(gamma / S_out 2^(guard + 8)), B = round((beta / S_out + zero point) 2^guard) a channel; epsilon = round(C^2 eps
    / S^2). The sum and the variance are exact, no mean is rounded. Before the last rounding the result is off by at most
    1.5 / 2^guard + |gamma / S_out| / 2^24 + 1.4e-8 |y| + sqrt(C) / 2^(guard + 9) units: never more than one unit from the
    correctly rounded one. gamma = 0 gives beta, a constant row too.
    """

    guard: int
    epsilon: int

    name: ClassVar[str] = "ln"
    source: ClassVar[str] = "exact variance, Newton's reciprocal square root from a table, one rounding"
    tables: ClassVar[tuple[str, ...]] = ("gain", "offset")

    RECIPROCAL: ClassVar[int] = 1 << 30
    """The bound of what a deviation is multiplied by."""

    def verify(self) -> None:
        if not 1 <= self.guard <= _GUARD_MOST:
            raise ValueError(f"{self.name}: guard must be in 1..{_GUARD_MOST}, found {self.guard}")
        if not 0 <= self.epsilon < 1 << 62:
            raise ValueError(f"{self.name}: epsilon must be in 0..2^62 - 1, found {self.epsilon}")

    @classmethod
    def build(cls, spec: LayerNormSpec, **options: int) -> Built:
        require_options(options)
        channels, output = len(spec.gamma), spec.output
        gain, offset = spec.gamma / float(output.scale), spec.beta / float(output.scale) + output.zero_point
        require(np.isfinite(gain).all() and np.isfinite(offset).all(), "gamma and beta must be finite")
        g, b = float(np.abs(gain).max()), float(np.abs(offset).max())

        def fits(guard: int) -> bool:
            sum_fits = 2.0**guard * (sqrt(channels) * g + b + 1) <= 2.0**30
            return sum_fits and 2.0 ** (guard + 8) * g <= 2.0**30

        guard = next((guard for guard in range(_GUARD_MOST, 0, -1) if fits(guard)), None)
        require(
            guard is not None,
            f"gamma / output scale reaches {g:.4g}, beta / output scale {b:.4g}, too much for 32 bits:"
            " use a larger output scale",
        )
        assert guard is not None
        epsilon = round(channels**2 * Fraction(spec.epsilon) / spec.input.scale**2)
        require(epsilon < 1 << 62, f"epsilon {spec.epsilon} is beyond the codes' variance: their scale is too small")
        word = IntType(32)
        gains = np.rint(gain * 2.0 ** (guard + 8)).astype(np.int64)
        offsets = np.rint(offset * 2.0**guard).astype(np.int64)
        scale = np.array(float(output.scale))
        return Built(cls(guard, epsilon), ((gains, word), (offsets, word)), (output.type,), scale, output.zero_point)

    @staticmethod
    def normalised(deviation: Int64, variance: Int64) -> Int64:
        """deviation / sqrt(variance) with 24 fraction bits; variance is in 1 .. 2^62 - 1."""
        w, half = normalise(variance)
        return (deviation * reciprocal_sqrt(w)) >> (45 - UNIT + half)

    @staticmethod
    def largest(channels: int) -> int:
        """The largest |u|: |C x_i - sum| <= sqrt((C - 1) C^2 var), times 1 + 2^-25, and 1 below by the floor."""
        return isqrt((channels - 1) << (2 * UNIT)) + isqrt(channels) + 2

    def apply(self, x: Int64, tables: Sequence[Array], result: IntType) -> Array:
        gain, offset = map(widen, tables)
        channels = x.shape[-1]
        if channels * magnitude(x) >= 1 << 30:
            raise OverflowError(f"rows of {channels} with |x| up to {magnitude(x)}: their product must be below 2^30")
        total = x.sum(-1, keepdims=True)
        variance = np.maximum(channels * (x * x).sum(-1, keepdims=True) - total * total + self.epsilon, 1)
        u = self.normalised(channels * x - total, variance)
        return saturate((((u * gain) >> 32) + offset + (1 << (self.guard - 1))) >> self.guard, result)

    def intermediates(
        self, codes: Interval, channels: int, tables: Sequence[Array], result: IntType
    ) -> dict[str, Interval]:
        gain, offset = (magnitude(widen(t)) for t in tables)
        spread, most = codes[1] - codes[0], max(abs(codes[0]), abs(codes[1]))
        # Popoviciu: the variance of numbers in an interval is at most a quarter of its squared length
        variance = channels * channels * spread * spread // 4 + self.epsilon
        u = self.largest(channels)
        scaled = (u * gain >> 32) + 1
        return {
            "sum": (channels * codes[0], channels * codes[1]),
            "squares": (0, channels * most * most),
            "C squares": (0, channels * channels * most * most),
            "variance": (1, max(variance, 1)),
            "w": (1 << 30, (1 << 32) - 1),
            "deviation": (-(channels - 1) * spread, (channels - 1) * spread),
            "deviation rsqrt": (
                -((channels - 1) * spread * self.RECIPROCAL),
                (channels - 1) * spread * self.RECIPROCAL,
            ),
            "u": (-u, u),
            "u gain": (-u * gain, u * gain),
            "rounded": (-scaled - offset, scaled + offset + (1 << (self.guard - 1))),
            "y": (result.lo, result.hi),
        }

    def check(self, codes: Interval, channels: int, tables: Sequence[Array]) -> None:
        most = channels * max(abs(codes[0]), abs(codes[1]))
        require(most < 1 << 30, f"channels times |x| reaches {most}, 2^30 or more: use narrower codes")
        found = self.intermediates(codes, channels, tables, IntType(8))
        words = {"variance": 63, "u": 32, "u gain": 62, "rounded": 32}
        for name, bits in words.items():
            lo, hi = found[name]
            fits = IntType(bits).lo <= lo and hi <= IntType(bits).hi
            require(
                fits, f"{name} reaches {max(-lo, hi)}, beyond {bits} bits: use narrower codes or a larger output scale"
            )
