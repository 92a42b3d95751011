"""From what was seen of a tensor to its scale and zero point."""

from dataclasses import dataclass, replace
from enum import StrEnum
from math import log2

import numpy as np

from qvit.dialects.semantics.integers import Array, Int64, IntType
from qvit.dialects.semantics.pot import FACTORS, Exponent, candidates, channel_factors, exponent
from qvit.transforms.ptq.statistics import Statistics

ADAPTIVE = "adaptive"
"""Of several powers of two the one with the least squared error (P2-ViT)."""
POWERS = (*Exponent, ADAPTIVE)
"""How a scale becomes a power of two."""


def require_power(name: str) -> None:
    """ValueError unless a setting `power_of_two` is "" or one of POWERS."""
    if name not in ("", *POWERS):
        raise ValueError(f"power_of_two must be one of {', '.join(POWERS)}, found {name!r}")


def powers(scale: Array, choice: Exponent) -> Array:
    """2^a in the place of each scale, float64."""
    return np.ldexp(1.0, exponent(scale, choice))


class Observer(StrEnum):
    """How a range is chosen."""

    MIN_MAX = "min-max"
    """Everything that was seen."""
    EMA = "ema"
    """The exponential moving average of the batches' ranges (I-ViT)."""
    PERCENTILE = "percentile"
    """All but the outermost values, as many on each side."""
    MSE = "mse"
    """The share of the range, of 1, 0.95 .. 0.3, whose codes are off by the least squared error."""


@dataclass(frozen=True)
class Quantizer:
    """How the codes of a tensor are chosen.

    bits: 2..32; symmetric: zero point 0, in signed codes; else unsigned codes with a zero point. margin: both ends of the
    range are multiplied by it, for inputs that reach farther than the samples. percentile: of the values that stay inside.
    power_of_two: the scale is rounded to one, up ("ceil"), down ("floor"), to the nearest, or as the mean squared error
    asks ("adaptive"); "" leaves it. scale: one that is given, for results whose range is known (0: none); with a zero point
    of 0. channel_factors: each channel has the scale / 8 times its own power of two, of 1, 2, 4 and 8 (FQ-ViT's power-of-two
    factor), where all that takes the tensor allows it.
    """

    bits: int = 8
    symmetric: bool = False
    observer: Observer = Observer.MIN_MAX
    margin: float = 1.0
    percentile: float = 99.99
    power_of_two: str = ""
    scale: float = 0.0
    channel_factors: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 32:
            raise ValueError(f"bits must be in 2..32, found {self.bits}")
        if not self.margin > 0:
            raise ValueError(f"margin must be positive, found {self.margin}")
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile must be in 50..100, found {self.percentile}")
        require_power(self.power_of_two)
        if not self.scale >= 0:
            raise ValueError(f"scale must be positive, or 0 for none, found {self.scale}")
        if not self.symmetric and self.bits > 16:
            raise ValueError(f"codes with a zero point have at most 16 bits, found {self.bits}")

    @property
    def type(self) -> IntType:
        return IntType(self.bits, self.symmetric)


@dataclass(frozen=True)
class Choice:
    """A scale and zero point. ideal: the scale before it was rounded to a power of two.

    over: the scale is divided by it, exactly. factors: int64 [C], the scale of channel c is scale 2^factors[c]; None where
    one is common to all.
    """

    scale: float
    zero_point: int
    ideal: float
    factors: Int64 | None = None
    over: int = 1

    def of_mean(self, count: int) -> "Choice":
        """A coarser scale that is a power of two over `count`: a mean of so many codes is then their sum, shifted."""
        return replace(self, scale=self.scale * 2.0 ** (count - 1).bit_length(), over=count)

    @property
    def real_scale(self) -> float:
        return self.scale / self.over

    def by_channels(self, rows: Array, codes: IntType) -> "Choice":
        """The same range with a factor for each channel, the best for sample rows [.., C]."""
        factors = channel_factors(rows.astype(np.float64), self.scale, self.zero_point, codes)
        base = 2.0 ** -max(FACTORS)
        return replace(self, scale=self.scale * base, ideal=self.ideal * base, factors=factors)

    @property
    def octaves(self) -> float:
        """How far the scale moved."""
        return log2(self.real_scale / self.ideal)


def choose(statistics: Statistics, quantizer: Quantizer) -> Choice:
    """The scale and zero point for what was seen. A tensor that was constantly 0 gets scale 1."""
    if quantizer.scale:
        return Choice(quantizer.scale, 0, quantizer.scale)
    low, high = _range(statistics, quantizer)
    if quantizer.observer is Observer.MSE:
        shares = [1 - 0.05 * i for i in range(15)]
        tried = [(_error(statistics, _fit(low * f, high * f, quantizer), quantizer), -f) for f in shares]
        share = -min(tried)[1]
        low, high = low * share, high * share
    choice = _fit(low, high, quantizer)
    if not quantizer.power_of_two:
        return choice
    scale = np.array(choice.scale)
    if quantizer.power_of_two != ADAPTIVE:
        return _at(float(powers(scale, Exponent(quantizer.power_of_two))), choice, low, quantizer)
    tried = [_at(2.0**a, choice, low, quantizer) for a in candidates(scale).tolist()]
    return min(tried, key=lambda c: _error(statistics, c, quantizer))


def _range(statistics: Statistics, quantizer: Quantizer) -> tuple[float, float]:
    """Both ends, 0 inside, with the margin."""
    low, high = statistics.low, statistics.high
    match quantizer.observer:
        case Observer.EMA:
            low, high = statistics.average_low, statistics.average_high
        case Observer.PERCENTILE if statistics.sample.size:
            outside = (100 - quantizer.percentile) / 2
            low, high = (float(v) for v in np.percentile(statistics.sample, [outside, 100 - outside]))
        case _:
            pass
    return min(low, 0.0) * quantizer.margin, max(high, 0.0) * quantizer.margin


def _fit(low: float, high: float, quantizer: Quantizer) -> Choice:
    """The finest float32 scale whose codes reach from low to high."""
    codes = quantizer.type
    if quantizer.symmetric:
        scale = max(high / codes.hi, -low / codes.hi)
        scale = float(np.float32(scale)) or 1.0
        return Choice(scale, 0, scale)
    scale = float(np.float32((high - low) / codes.hi)) or 1.0
    return Choice(scale, min(max(round(-low / scale), codes.lo), codes.hi), scale)


def _at(scale: float, ideal: Choice, low: float, quantizer: Quantizer) -> Choice:
    """The same range with another scale."""
    codes = quantizer.type
    zero = 0 if quantizer.symmetric else min(max(round(-low / scale), codes.lo), codes.hi)
    return replace(ideal, scale=scale, zero_point=zero)


def quantized(x: Array, choice: Choice, codes: IntType) -> Array:
    """The real numbers that the codes of x stand for."""
    code = np.clip(np.rint(x / choice.scale) + choice.zero_point, codes.lo, codes.hi)
    return (code - choice.zero_point) * choice.scale


def _error(statistics: Statistics, choice: Choice, quantizer: Quantizer) -> float:
    """The squared error of codes, over the sample and the ends of the range."""
    x = np.append(statistics.sample.astype(np.float64), [statistics.low, statistics.high])
    return float(((x - quantized(x, choice, quantizer.type)) ** 2).sum())
