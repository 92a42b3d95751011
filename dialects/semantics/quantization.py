"""quantize, dequantize and the three forms of requantize.

Scales, zero points, multipliers and shifts arrive as arrays that broadcast against the tensor; see `along`.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from qvit.dialects.semantics.integers import (
    Array,
    Int64,
    IntType,
    Rounding,
    fit,
    minus,
    multiply,
    plus,
    round_float,
    round_fraction,
    round_shift,
    saturate,
    widen,
)


def along(values: Array, axis: int | None, rank: int) -> Array:
    """A vector laid along `axis` of a tensor of `rank` dimensions, so that it broadcasts; scalars stay scalars."""
    values = np.asarray(values)
    if axis is None or values.ndim == 0:
        return values
    return values.reshape([-1 if i == axis else 1 for i in range(rank)])


def lengthwise(values: Array, rank: int) -> tuple[Array, int | None] | None:
    """The inverse of `along`: what broadcasts against `rank` dimensions as (vector, axis) or (number, None).

    None if it varies along more than one axis, or enlarges the tensor.
    """
    wide = [i for i, d in enumerate(values.shape) if d != 1]
    if len(wide) > 1 or values.ndim > rank:
        return None
    return (values.reshape(-1), wide[0] + rank - values.ndim) if wide else (values.reshape(()), None)


def quantize(x: Array, scale: Array, zero_point: Array, rounding: Rounding, result: IntType) -> Array:
    """q = saturate(round(x / scale) + zero_point).

    ONNX QuantizeLinear (rounding half_even). x: float; scale: positive, in x's precision. A NaN is a ValueError: it has
    no code.
    """
    if np.isnan(x).any():
        raise ValueError("cannot quantize NaN")
    if not (np.isfinite(scale) & (scale > 0)).all():
        raise ValueError(f"a quantizer's scale must be positive and finite, found {scale.min()}..{scale.max()}")
    if (zero_point < result.lo).any() or (zero_point > result.hi).any():
        raise ValueError(f"zero points {zero_point.min()}..{zero_point.max()} are outside {result}")
    # In float the addition of the zero point could round for huge |x|, but only where saturation follows anyway.
    return saturate(round_float(x / scale, rounding) + zero_point, result)


def dequantize(q: Array, scale: Array, zero_point: Array) -> Array:
    """y = (q - zero_point) * scale, in the precision of scale. ONNX DequantizeLinear."""
    return minus(widen(q), zero_point).astype(scale.dtype) * scale


def scale_and_round(x: Int64, factors: Sequence[Fraction], axis: int | None, rounding: Rounding) -> Array:
    """round(x * factor) over the reals, exactly; one factor, or one for each index along `axis`.

    The product is first taken in float64, where it is off by less than 2^-51 relative; only elements that lie closer
    than that to the boundary between two results are decided again with rational numbers.
    """
    x, near = np.asarray(x), np.array([_near(factor) for factor in factors])
    with np.errstate(invalid="ignore", over="ignore"):  # 0 times infinity, for a factor beyond floats
        product = np.asarray(x.astype(np.float64) * (near[0] if axis is None else along(near, axis, x.ndim)))
        offset = np.abs(product - np.floor(product) - 0.5)
        if rounding is Rounding.FLOOR:
            offset = 0.5 - offset  # floor changes at the integers, the others half-way between them
        undecided = ~(offset > np.abs(product) * 2.0**-50)  # all beyond 2^49, and what is not a number
    result = np.array(round_float(np.where(undecided, 0.0, product), rounding), np.int64)
    for index in map(tuple, np.argwhere(undecided)):
        exact = round_fraction(int(x[index]) * factors[0 if axis is None else index[axis]], rounding)
        if result.dtype != object and abs(exact) >= 1 << 63:
            result = result.astype(object)
        result[index] = exact
    return result


def _near(factor: Fraction) -> float:
    try:
        return float(factor)
    except OverflowError:
        return float("inf") if factor > 0 else float("-inf")


def requantize_real(
    x: Array,
    factors: Sequence[Fraction],
    axis: int | None,
    zero_points: tuple[Array, Array],
    rounding: Rounding,
    result: IntType,
) -> Array:
    """y = saturate(round((x - z_in) * factor) + z_out), the product exact over the reals."""
    z_in, z_out = zero_points
    return saturate(plus(scale_and_round(minus(widen(x), z_in), factors, axis, rounding), z_out), result)


def requantize_dyadic(
    x: Array, multiplier: Array, shift: Array, zero_points: tuple[Array, Array], rounding: Rounding, result: IntType
) -> Array:
    """y = saturate(round((x - z_in) * multiplier / 2^shift) + z_out); the product is exact, shift is 0..62.

    I-BERT and I-ViT (QuantAct) with rounding half_even.
    """
    z_in, z_out = zero_points
    return saturate(plus(round_shift(multiply(minus(widen(x), z_in), multiplier), shift, rounding), z_out), result)


def requantize_pot(
    x: Array, shift: Array, zero_points: tuple[Array, Array], rounding: Rounding, result: IntType
) -> Array:
    """y = saturate(round((x - z_in) / 2^shift) + z_out); a negative shift multiplies. P2-ViT, equation 6."""
    z_in, z_out = zero_points
    return saturate(plus(round_shift(minus(widen(x), z_in), shift, rounding), z_out), result)


def add_requant(
    a: Array,
    b: Array,
    multipliers: tuple[Array, Array],
    shifts: tuple[Array, Array],
    zero_points: tuple[Array, Array, Array],
    rounding: Rounding,
    round_each: bool,
    result: IntType,
) -> Array:
    """The residual add: y = saturate(round(a' * m_a / 2^s_a + b' * m_b / 2^s_b) + z), a' = a - z_a, b' = b - z_b.

    With round_each both terms are rounded before they are added (I-ViT's QuantAct with an identity branch); without,
    the exact sum is rounded once. One saturation in either case.
    """
    (m_a, m_b), (s_a, s_b), (z_a, z_b, z) = multipliers, shifts, zero_points
    left, right = multiply(minus(widen(a), z_a), m_a), multiply(minus(widen(b), z_b), m_b)
    if round_each:
        rounded = plus(round_shift(left, s_a, rounding), round_shift(right, s_b, rounding))
        return saturate(plus(rounded, z), result)
    common = np.maximum(s_a, s_b)
    wide_a, wide_b = (x.astype(object) << (common - s).astype(object) for x, s in ((left, s_a), (right, s_b)))
    return saturate(plus(round_shift(np.asarray(wide_a + wide_b, object), common, rounding), z), result)


def threshold(x: Array, thresholds: Array, axis: int | None, lowest: int, result: IntType) -> Array:
    """q = lowest + #{m : x >= thresholds[m]}: the comparator form of a quantizer (Lin & Shah).

    thresholds: integers [M] or, one set for each index along `axis`, [dim, M]; non-decreasing along M.
    """
    x = widen(x)
    levels = np.moveaxis(widen(thresholds), -1, 0)
    count = np.zeros(x.shape, np.int64)
    for level in levels:
        count += x >= along(level, axis, x.ndim)
    return fit(count + lowest, result)
