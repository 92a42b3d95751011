"""`ptf_layernorm` and `ptf_layernorm_published`: layer normalisation of channels whose scales differ by powers of two.

Codes x of channel c stand for (x - zero_point) * S * 2^factor_c, so X = (x - zero_point) << factor_c has one scale. The
result is (M X + B) / 2^N with a mantissa M and a shift N for each token and channel, found at run time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import frexp, isfinite, isqrt, sqrt
from typing import ClassVar, TypeAlias

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
from qvit.dialects.approximations.ln import reciprocal_sqrt
from qvit.dialects.semantics.integers import Array, Int64, IntType, Rounding, magnitude, round_shift, saturate, widen

_MANTISSA = 255
_LAST_SHIFT = 31

Constants: TypeAlias = tuple[int, int, int]
"""(M, N, B) of a token and channel."""


def mantissa_and_shift(numerator: int, denominator: int) -> tuple[int, int]:
    """(M, N) of A = sqrt(numerator / denominator): N = clip(7 - floor(log2 A), 0, 31), M = min(255, floor(A 2^N)). Exact."""
    if numerator == 0:
        return 0, _LAST_SHIFT
    log2 = numerator.bit_length() - denominator.bit_length()
    low, high = numerator << max(-log2, 0), denominator << max(log2, 0)
    log2 -= low < high  # floor(log2 A^2); of A it is half of that, rounded down
    shift = min(max(7 - (log2 >> 1), 0), _LAST_SHIFT)
    return min(_MANTISSA, isqrt((numerator << (2 * shift)) // denominator)), shift


def round_with_root(numerator: int, denominator: int, sign: int, square: tuple[int, int]) -> int:
    """numerator / denominator + sign * sqrt(square), rounded half to even, exactly; `square` is a fraction >= 0."""
    # twice the number is (2 numerator + sign sqrt(T)) / denominator; half of it is a tie if that is an odd integer
    over, under = 4 * square[0] * denominator**2, square[1]
    root = isqrt(over // under)
    whole = root * root * under == over
    top = 2 * numerator + sign * root - (sign < 0 and not whole)
    twice, rest = divmod(top, denominator)
    nearest = (twice + 1) >> 1
    return nearest - (whole and rest == 0 and twice & nearest & 1)


def _ratio(power: int) -> tuple[int, int]:
    """2^power as a fraction."""
    return 1 << max(power, 0), 1 << max(-power, 0)


def _binary(x: float) -> tuple[int, int]:
    """(m, e), x = m 2^e, m odd or 0: exact."""
    fraction, exponent = frexp(x)
    m, e = int(fraction * 2.0**53), exponent - 53
    zeros = (m & -m).bit_length() - 1 if m else 0
    return (m >> zeros, e + zeros) if m else (0, 0)


def _binaries(values: Array) -> tuple[Int64, Int64]:
    pairs = [_binary(float(v)) for v in values]
    return np.array([m for m, _ in pairs], np.int64), np.array([e for _, e in pairs], np.int64)


def _operand(spec: LayerNormSpec) -> tuple[Int64, int]:
    """(factors, zero point)"""
    channels = len(spec.gamma)
    factors = np.zeros(channels, np.int64) if spec.factors is None else widen(spec.factors)
    require(len(factors) == channels, f"expected {channels} factors, one a channel, found {len(factors)}")
    require(
        factors.min() >= 0 and factors.max() <= 7,
        f"factors must be in 0..7, found {factors.min()}..{factors.max()}",
    )
    return factors, spec.input.zero_point


def _require_finite(spec: LayerNormSpec) -> None:
    finite = np.isfinite(spec.gamma).all() and np.isfinite(spec.beta).all() and isfinite(float(spec.output.scale))
    require(finite, "gamma and beta must be finite")


def _require_zero_points(name: str, *zero_points: int) -> None:
    for zero_point in zero_points:
        if not -(1 << 31) <= zero_point < 1 << 31:
            raise ValueError(f"{name}: zero points must fit 32 bits, found {zero_point}")


def _require_factors(name: str, factor: Array) -> None:
    if factor.size and (factor.min() < 0 or factor.max() > 7):
        raise ValueError(f"{name}: factors must be in 0..7, found {factor.min()}..{factor.max()}")


@dataclass(frozen=True)
class _Moments:
    """What holds for the sums over every row of `channels` codes in `codes`."""

    aligned: Interval
    spread: int
    total: Interval
    squares: int
    channels: int

    @classmethod
    def of(cls, codes: Interval, zero_point: int, factor: Array) -> "_Moments":
        ends = [((codes[0] - zero_point) << int(a), (codes[1] - zero_point) << int(a)) for a in factor]
        lo, hi = min(e[0] for e in ends), max(e[1] for e in ends)
        squares = sum(max(e[0] ** 2, e[1] ** 2) for e in ends)
        return cls((lo, hi), hi - lo, (sum(e[0] for e in ends), sum(e[1] for e in ends)), squares, len(ends))

    @property
    def most(self) -> int:
        return max(-self.aligned[0], self.aligned[1])

    @property
    def variance(self) -> int:
        """C^2 var: the variance of numbers in an interval is at most a quarter of its squared length (Popoviciu)."""
        return min(self.channels**2 * self.spread**2 // 4, self.channels * self.squares)

    def intervals(self) -> dict[str, Interval]:
        return {
            "aligned": self.aligned,
            "sum": self.total,
            "squares": (0, self.squares),
            "C squares": (0, self.channels * self.squares),
            "squared sum": (0, max(self.total[0] ** 2, self.total[1] ** 2)),
        }


@dataclass(frozen=True)
class PtfLayerNormPublished(LayerNormApproximation):
    """y = rne((sgn(gamma) M X + B) / 2^N), A = C |gamma| / (S_out sqrt(D)) = M / 2^N with a mantissa of 8 bits, rounded down.

    D = C sum X^2 - (sum X)^2; N = clip(7 - floor(log2 A), 0, 31), M = min(255, floor(A 2^N)), B = rne((beta - gamma sum X /
    sqrt(D)) / S_out 2^N), all exactly: gamma / S_out = gain 2^gain_power / denominator, beta / S_out likewise. epsilon is
    left out. As published (FQ-ViT, P2-ViT): M is off by up to 1/128, and 255 where A reaches 256, on rows that hardly
    vary. Where D = 0 the formula divides by 0; here the result is then beta. The published code has no saturation, a
    quantizer follows.
    """

    denominator: int
    input_zero_point: int
    zero_point: int

    name: ClassVar[str] = "ptf_layernorm_published"
    source: ClassVar[str] = "FQ-ViT (arXiv 2111.13824) section 3.3, P2-ViT (arXiv 2405.19915)"
    tables: ClassVar[tuple[str, ...]] = ("factor", "gain", "gain_power", "offset", "offset_power")
    takes_factors: ClassVar[bool] = True

    def verify(self) -> None:
        if not 1 <= self.denominator < 1 << 53:
            raise ValueError(f"ptf_layernorm_published: denominator must be in 1..2^53 - 1, found {self.denominator}")
        _require_zero_points(self.name, self.input_zero_point, self.zero_point)

    @classmethod
    def build(cls, spec: LayerNormSpec, **options: int) -> Built:
        require_options(options)
        _require_finite(spec)
        factors, input_zero_point = _operand(spec)
        denominator, power = _binary(float(spec.output.scale))
        (gain, gain_power), (offset, offset_power) = _binaries(spec.gamma), _binaries(spec.beta)
        tables = (
            (factors, IntType(8)),
            (gain, IntType(64)),
            (gain_power - power, IntType(16)),
            (offset, IntType(64)),
            (offset_power - power, IntType(16)),
        )
        built = cls(denominator, input_zero_point, spec.output.zero_point)
        return Built(built, tables, (spec.output.type,), np.array(float(spec.output.scale)), spec.output.zero_point)

    def constants(self, total: int, variance: int, tables: Sequence[Array]) -> list[Constants]:
        """(M, N, B) of each channel of a row whose sum is `total`, and D `variance`."""
        factor, *numbers = tables
        return [
            self._constants(total, variance, len(factor), channel) for channel in zip(*map(_ints, numbers), strict=True)
        ]

    def _constants(self, total: int, variance: int, channels: int, channel: tuple[int, ...]) -> Constants:
        gain, gain_power, offset, offset_power = channel
        (up, down), under = _ratio(gain_power), self.denominator
        # A^2, and what it is with sum X in the place of C
        square = (gain * up) ** 2, (under * down) ** 2 * max(variance, 1)
        mantissa, shift = mantissa_and_shift(channels**2 * square[0] * (variance > 0), square[1])
        up, down = _ratio(offset_power + shift)
        sign = -1 if gain * total > 0 else 1
        mean = (square[0] * total**2 * (variance > 0)) << (2 * shift), square[1]
        return mantissa, shift, round_with_root(offset * up, under * down, sign, mean)

    def apply(self, x: Int64, tables: Sequence[Array], result: IntType) -> Array:
        factor, gain = widen(tables[0]), widen(tables[1])
        _require_factors(self.name, factor)
        channels = x.shape[-1]
        aligned = ((x - self.input_zero_point) << factor).reshape(-1, channels)
        total = aligned.sum(-1)
        variance = channels * np.square(aligned).sum(-1) - total * total
        constants = [self.constants(int(s), int(d), tables) for s, d in zip(total, variance, strict=True)]
        mantissa, shift, offset = np.array(constants, np.int64).reshape(-1, channels, 3).transpose(2, 0, 1)
        y = round_shift(np.sign(gain) * mantissa * aligned + offset, shift, Rounding.HALF_EVEN)
        return saturate(y + self.zero_point, result).reshape(x.shape)

    def intermediates(
        self, codes: Interval, channels: int, tables: Sequence[Array], result: IntType
    ) -> dict[str, Interval]:
        moments = _Moments.of(codes, self.input_zero_point, tables[0])
        largest, offset = self._largest(tables), max(map(self._offset, *map(_ints, tables[3:])), default=0)
        least = max(0, 7 - (int(largest).bit_length() - 1)) if largest >= 1 else 0
        most = (int(offset) + 1 << _LAST_SHIFT) + (max(256, int(largest) + 1) * moments.most) + 1
        product = _MANTISSA * moments.most
        return {
            **moments.intervals(),
            "variance": (0, moments.variance),
            "M": (0, _MANTISSA),
            "N": (least, _LAST_SHIFT),
            "B": (-most, most),
            "M X": (-product, product),
            "rounded": (-most - product, most + product),
            "y": (result.lo, result.hi),
        }

    def _offset(self, offset: int, power: int) -> Fraction:
        """|beta| / S_out"""
        return Fraction(abs(offset)) * Fraction(2) ** power / self.denominator

    def _largest(self, tables: Sequence[Array]) -> Fraction:
        """A bound of A over all rows that are not constant: D is at least that of one step in one channel."""
        channels = len(tables[0])
        gain = max(map(self._offset, *map(_ints, tables[1:3])), default=Fraction(0))
        step = 1 << int(min(tables[0], default=0))
        # C / sqrt(D) <= C / (step sqrt(C - 1)), rounded up
        return gain * Fraction(channels, step * max(1, isqrt((channels - 1) << 40))) * (1 << 20 if channels > 1 else 0)

    def check(self, codes: Interval, channels: int, tables: Sequence[Array]) -> None:
        largest = self._largest(tables)
        gain = max(map(self._offset, *map(_ints, tables[1:3])), default=Fraction(0))
        require(
            largest < 256,
            f"the mantissa saturates at 255 on rows whose codes have a standard deviation below {float(gain) / 256:.3g},"
            f" gamma / output scale being up to {float(gain):.4g}, and nothing says that there are none: use ptf-layernorm",
        )
        found = self.intermediates(codes, channels, tables, IntType(8))
        for name in ("C squares", "rounded"):
            lo, hi = found[name]
            require(max(-lo, hi) < 1 << 62, f"{name} reaches {max(-lo, hi)}, beyond 62 bits: use narrower codes")


def _ints(values: Array) -> list[int]:
    return [int(v) for v in values]


@dataclass(frozen=True)
class PtfLayerNorm(LayerNormApproximation):
    """y = floor((sgn(G) M (C X - sum X) / 2^N + B) / 2^guard + 1/2), saturated; M = |G| / sqrt(D) with `bits` bits, rounded.

    D = C sum X^2 - (sum X)^2 + epsilon is exact, epsilon = round(C^2 eps / S^2). gamma / S_out = G 2^-power, |G| of `bits`
    bits; B = round((beta / S_out + zero point) 2^guard). M has bits - 1 to bits bits: the reciprocal square root of D, of
    30 bits, times |G|. Sound: no division, products below 2^63, no clipped shift, the mean is subtracted from X and not
    from a rounded product. Before the last rounding the result is off by at most |y - beta| (3 / 2^bits + 2e-8) + 1 / 2^guard
    units, where epsilon is 0: with 16 bits never more than one unit of 8-bit codes from the correctly rounded one. gamma =
    0 gives beta, a constant row too.
    """

    bits: int
    guard: int
    epsilon: int
    input_zero_point: int

    name: ClassVar[str] = "ptf_layernorm"
    source: ClassVar[str] = "power-of-two factors (FQ-ViT) with exact variance and one rounding"
    tables: ClassVar[tuple[str, ...]] = ("factor", "gain", "power", "offset")
    takes_factors: ClassVar[bool] = True

    def verify(self) -> None:
        if not 8 <= self.bits <= 24:
            raise ValueError(f"ptf_layernorm: bits must be in 8..24, found {self.bits}")
        if not 1 <= self.guard <= 20:
            raise ValueError(f"ptf_layernorm: guard must be in 1..20, found {self.guard}")
        if not 0 <= self.epsilon < 1 << 62:
            raise ValueError(f"ptf_layernorm: epsilon must be in 0..2^62 - 1, found {self.epsilon}")
        _require_zero_points(self.name, self.input_zero_point)

    @classmethod
    def build(cls, spec: LayerNormSpec, **options: int) -> Built:
        require_options(options, "bits")
        _require_finite(spec)
        factors, input_zero_point = _operand(spec)
        channels, output = len(spec.gamma), spec.output
        bits = options.get("bits", 16 if output.type.bits <= 8 else 24)
        gain, offset = spec.gamma / float(output.scale), spec.beta / float(output.scale) + output.zero_point
        g, b = float(np.abs(gain).max()), float(np.abs(offset).max())
        guards = (k for k in range(20, 0, -1) if 2.0**k * (sqrt(channels) * g + b + 1) <= 2.0**30)
        guard = next(guards, 0)
        require(guard, f"gamma / output scale reaches {g:.4g}, too much for 32 bits: use a larger output scale")
        epsilon = round(channels**2 * Fraction(spec.epsilon) / spec.input.scale**2)
        require(epsilon < 1 << 62, f"epsilon {spec.epsilon} is beyond the codes' variance: their scale is too small")
        gains, powers = _normalised(gain, bits)
        tables = (
            (factors, IntType(8)),
            (gains, IntType(32)),
            (powers, IntType(8)),
            (np.rint(offset * 2.0**guard).astype(np.int64), IntType(32)),
        )
        built = cls(bits, guard, epsilon, input_zero_point)
        return Built(built, tables, (output.type,), np.array(float(output.scale)), output.zero_point)

    def apply(self, x: Int64, tables: Sequence[Array], result: IntType) -> Array:
        factor, gain, power, offset = map(widen, tables)
        _require_factors(self.name, factor)
        channels = x.shape[-1]
        aligned = (x - self.input_zero_point) << factor
        total = aligned.sum(-1, keepdims=True)
        variance = channels * (aligned * aligned).sum(-1, keepdims=True) - total * total + self.epsilon
        variance = np.maximum(variance, 1)
        half = (bit_length(variance) - 31) >> 1  # 2^30 <= variance / 4^half < 2^32
        w = (variance >> np.maximum(2 * half, 0)) << np.maximum(-2 * half, 0)
        # 1 / sqrt(variance) = reciprocal_sqrt(w) / 2^(45 + half); 30 of the product's bits are dropped
        mantissa = (((reciprocal_sqrt(w) * np.abs(gain)) >> 29) + 1) >> 1
        product = np.sign(gain) * mantissa * (channels * aligned - total)
        shift = 15 + half + power - self.guard
        # a shift beyond 62 leaves only the sign, as one by 62 does
        scaled = (product << np.maximum(-shift, 0)) >> np.clip(shift, 0, 62)
        return saturate((scaled + offset + (1 << (self.guard - 1))) >> self.guard, result)

    def intermediates(
        self, codes: Interval, channels: int, tables: Sequence[Array], result: IntType
    ) -> dict[str, Interval]:
        moments = _Moments.of(codes, self.input_zero_point, tables[0])
        variance = max(moments.variance + self.epsilon, 1)
        largest, offset = magnitude(widen(tables[1])), magnitude(widen(tables[3]))
        mantissa = (((((1 << 30) - 1) * largest) >> 29) + 1) >> 1
        deviation = (channels - 1) * moments.spread
        # |C X - sum| <= sqrt((C - 1) D); M and G err by less than 1 + 2^(3 - bits) together
        gain = max(
            (abs(int(g)) * Fraction(2) ** -int(p) for g, p in zip(*tables[1:3], strict=True)), default=Fraction(0)
        )
        root = isqrt((channels - 1) << 20) + 1
        bound = gain * root * (1 << self.guard) * ((1 << self.bits) + 8) / (1 << (10 + self.bits))
        scaled = int(bound) + 1
        half = 1 << (self.guard - 1)
        return {
            **moments.intervals(),
            "variance": (1, variance),
            "w": (1 << 30, (1 << 32) - 1),
            "rsqrt gain": (0, ((1 << 30) - 1) * largest),
            "M": (0, mantissa),
            "deviation": (-deviation, deviation),
            "M deviation": (-mantissa * deviation, mantissa * deviation),
            "scaled": (-scaled, scaled),
            "rounded": (-scaled - offset, scaled + offset + half),
            "y": (result.lo, result.hi),
        }

    def check(self, codes: Interval, channels: int, tables: Sequence[Array]) -> None:
        found = self.intermediates(codes, channels, tables, IntType(8))
        words = {"rounded": 32, "C squares": 62, "squared sum": 62, "variance": 62, "M deviation": 62}
        for name, bits in words.items():
            lo, hi = found[name]
            fits = IntType(bits).lo <= lo and hi <= IntType(bits).hi
            require(
                fits, f"{name} reaches {max(-lo, hi)}, beyond {bits} bits: use narrower codes or a larger output scale"
            )


def _normalised(gain: Array, bits: int) -> tuple[Int64, Int64]:
    """(G, power), G / 2^power nearest to gain, 2^(bits - 1) <= |G| < 2^bits; what cannot reach 2^-30 units is 0."""
    fraction, exponent = np.frexp(gain)
    fraction = np.where(exponent > -40, fraction, 0)
    mantissa = np.rint(fraction * 2.0**bits).astype(np.int64)
    full = np.abs(mantissa) == 1 << bits  # rounded up to the next power of two
    return np.where(full, mantissa >> 1, mantissa), np.where(fraction != 0, bits - exponent - full, 0).astype(np.int64)
