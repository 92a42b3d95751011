"""Scales that are powers of two: which exponent stands for a scale, exactly, and factors 2^a of channels (P2-ViT, FQ-ViT)."""

from enum import StrEnum

import numpy as np

from qvit.dialects.semantics.integers import Array, Int64, IntType

FACTORS = (0, 1, 2, 3)
"""The exponents a that a channel's factor 2^a may have (FQ-ViT)."""


class Exponent(StrEnum):
    """Which power of two stands for a scale."""

    FLOOR = "floor"
    """The largest that is not above it."""
    CEIL = "ceil"
    """The smallest that is not below it."""
    NEAREST = "nearest"
    """The nearest in the linear domain, the lower one at 3 * 2^k, in the middle."""


def exponent(scale: Array, choice: Exponent) -> Int64:
    """a, for 2^a in the place of a scale; float64 of any shape, positive and finite, else ValueError. Exact, by frexp."""
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ValueError("a power of two can stand for a positive finite scale only")
    fraction, power = np.frexp(np.asarray(scale, np.float64))  # scale = fraction * 2^power, 1/2 <= fraction < 1
    match choice:
        case Exponent.FLOOR:
            up = np.zeros_like(fraction, bool)
        case Exponent.CEIL:
            up = fraction > 0.5
        case Exponent.NEAREST:
            up = fraction > 0.75
    return np.asarray(power - 1 + up, np.int64)


def candidates(scale: Array) -> Int64:
    """The four exponents that adaptive rounding tries: floor - 1 .. floor + 2; float64 [...] -> [..., 4] (P2-ViT)."""
    return exponent(scale, Exponent.FLOOR)[..., None] + np.arange(-1, 3)


def channel_factors(x: Array, scale: float, zero_point: int, codes: IntType) -> Int64:
    """The factor 2^a of each channel with which it is quantized best; a of FACTORS, float64 x [..., C] -> [C] (FQ-ViT PTF).

    The channel's scale is scale / 8 * 2^a, `scale` and `zero_point` are those for the whole tensor. Best is the least mean
    squared error, the least a among equals.
    """
    x = x.reshape(-1, x.shape[-1])
    errors = [
        np.square(x - (np.clip(np.rint(x / s) + zero_point, codes.lo, codes.hi) - zero_point) * s).mean(0)
        for s in (scale / 8 * 2.0**a for a in FACTORS)
    ]
    return np.argmin(errors, axis=0)
