"""quantize, dequantize, the three forms of requantize, and the residual add.

Scales, zero points, multipliers and shifts arrive as arrays that broadcast against the tensor; see `along`. Real factors
arrive as rational numbers: one, or one for each index along an axis.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from qvit.dialects.semantics.integers import (
    Array,
    Int64,
    IntType,
    Rounding,
    fit,
    magnitude,
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


def quantize(
    x: Array, scale: Array, zero_point: Array, rounding: Rounding, result: IntType, inverse: bool = False
) -> Array:
    """q = saturate(round(x / scale) + zero_point), or with x * scale where `scale` is given as its inverse.

    ONNX QuantizeLinear divides, PT2E (quantized_decomposed.quantize_per_tensor) multiplies by the inverse, both with
    rounding half_even: in float32 that can be another code next to a tie. x: float; scale: positive, in x's precision. A
    NaN is a ValueError: it has no code.
    """
    if np.isnan(x).any():
        raise ValueError("cannot quantize NaN")
    if not (np.isfinite(scale) & (scale > 0)).all():
        raise ValueError(f"a quantizer's scale must be positive and finite, found {scale.min()}..{scale.max()}")
    if (zero_point < result.lo).any() or (zero_point > result.hi).any():
        raise ValueError(f"zero points {zero_point.min()}..{zero_point.max()} are outside {result}")
    # In float the addition of the zero point could round for huge |x|, but only where saturation follows anyway.
    ratio = x * scale if inverse else x / scale
    return saturate(round_float(ratio, rounding) + zero_point, result)


def dequantize(q: Array, scale: Array, zero_point: Array) -> Array:
    """y = (q - zero_point) * scale, in the precision of scale. ONNX DequantizeLinear."""
    return minus(widen(q), zero_point).astype(scale.dtype) * scale


def _limit(x: Array, zero_point: Array) -> int:
    """What |x - zero_point| cannot exceed, by x's type."""
    return max(-int(np.iinfo(x.dtype).min), int(np.iinfo(x.dtype).max)) + magnitude(zero_point)


def _scaled(x: Array, zero_point: Array, multiplier: Array) -> tuple[Array, int]:
    """(x - zero_point) * multiplier, exactly, and what its magnitude cannot exceed.

    In int64 where the type of x proves that it fits, so that large tensors are not searched for their largest element;
    else as `multiply`.
    """
    limit = _limit(x, zero_point)
    if max(limit, bound := limit * magnitude(multiplier)) < 1 << 63:
        return (widen(x) - zero_point) * multiplier.astype(np.int64), bound
    product = multiply(minus(widen(x), zero_point), multiplier)
    return product, magnitude(product)


def _offset(y: Array, zero_point: Array, result: IntType) -> Array:
    """saturate(y + zero_point)."""
    return saturate(plus(y, zero_point) if zero_point.any() else y, result)


def scale_and_round(
    x: Int64, factors: Sequence[Fraction], axis: int | None, rounding: Rounding, divisor: Array | None = None
) -> Array:
    """round(x * factor / divisor) over the reals, exactly; the divisor, positive integers, broadcasts against x."""
    x = np.asarray(x)
    if divisor is None and (dyadic := _dyadic_of([factors], [axis], x.ndim)) is not None:
        ((multiplier,), shift) = dyadic
        if (bound := max(magnitude(x), 1) * magnitude(multiplier)) < 1 << 63:
            return round_shift(x * multiplier.astype(np.int64), shift, rounding, bound)
    near = _near(x, factors, axis)
    if divisor is not None:
        divisor = np.broadcast_to(_positive(divisor), x.shape)
        near = np.asarray(near / divisor.astype(np.float64))

    def exact(index: tuple[int, ...]) -> Fraction:
        product = int(x[index]) * _factor_at(factors, axis, index)
        return product if divisor is None else product / int(divisor[index])

    return round_near(near, np.abs(near), exact, rounding)


def round_near(near: Array, size: Array, exact: Callable[[tuple[int, ...]], Fraction], rounding: Rounding) -> Array:
    """Real numbers, rounded; `near`, in float64, is off from them by less than 2^-50 of `size`.

    Only elements that lie closer than that to the boundary between two results are decided by `exact`, the rational
    number at an index.
    """
    with np.errstate(invalid="ignore"):  # what is not a number stays undecided
        offset = np.abs(near - np.floor(near) - 0.5)
        if rounding is Rounding.FLOOR:
            offset = 0.5 - offset  # floor changes at the integers, the others half-way between them
        undecided = ~(offset > size * 2.0**-50)  # all beyond 2^49 among them
    result = np.array(round_float(np.where(undecided, 0.0, near), rounding), np.int64)
    for index in map(tuple, np.argwhere(undecided)):
        number = round_fraction(exact(index), rounding)
        if result.dtype != object and abs(number) >= 1 << 63:
            result = result.astype(object)
        result[index] = number
    return result


def _near(x: Array, factors: Sequence[Fraction], axis: int | None) -> Array:
    """x * factor in float64: off by less than 2^-51 relative (x, the factor, and the product are each rounded)."""
    with np.errstate(invalid="ignore", over="ignore"):  # 0 times infinity, for a factor beyond floats
        numbers = np.array([_float(factor) for factor in factors])
        return np.asarray(x.astype(np.float64) * _laid(numbers, axis, x.ndim))


def _float(factor: Fraction) -> float:
    try:
        return float(factor)
    except OverflowError:
        return float("inf") if factor > 0 else float("-inf")


def _laid(values: Array, axis: int | None, rank: int) -> Array:
    """One number for all, or a vector along the axis."""
    return values.reshape(()) if axis is None else along(values, axis, rank)


def _factor_at(factors: Sequence[Fraction], axis: int | None, index: tuple[int, ...]) -> Fraction:
    return factors[0 if axis is None else index[axis]]


def _dyadic_of(
    terms: Sequence[Sequence[Fraction]], axes: Sequence[int | None], rank: int
) -> tuple[list[Array], Array] | None:
    """The factors of all terms over one power of two: ([numerators of each term], shift). None if one is not dyadic.

    Where all are, sums of products are integers, and need no rational numbers, though every second may be a tie.
    """
    denominators = {factor.denominator for factors in terms for factor in factors}
    if any(d & (d - 1) for d in denominators):
        return None
    common = max(denominators)
    numerators = [np.array([int(factor * common) for factor in factors], object) for factors in terms]
    laid = [_laid(numbers, axis, rank) for numbers, axis in zip(numerators, axes, strict=True)]
    return laid, np.array(common.bit_length() - 1)


def _positive(divisor: Array) -> Int64:
    if not (divisor > 0).all():
        raise ValueError(f"a divisor must be positive, found {divisor.min()}")
    return widen(divisor)


def reciprocal(multiplier: Array, divisor: Array) -> tuple[Array, Array]:
    """(R, k) with multiplier / divisor = R / 2^k, R rounded towards 0: |R| = floor(|multiplier| 2^k / divisor).

    k is the divisor's bit length less 1, so that R has as many bits as the multiplier, or one less: where that is 31
    bits, R is off by less than 2^-29 relative. divisor: positive integers of at most 63 bits.
    """
    divisor = _positive(divisor)
    length = np.frexp(divisor.astype(np.float64))[1].astype(np.int64)
    k = length - 1 - (divisor >> np.minimum(length - 1, 63) == 0)  # where the float rounded up to the next power of two
    size = np.abs(multiplier)
    if magnitude(size) << int(k.max(initial=0)) >= 1 << 63:
        wide = np.asarray(size.astype(object) << k.astype(object), object)
        return np.asarray(np.sign(multiplier) * (wide // divisor.astype(object))).astype(np.int64), k
    return np.sign(multiplier) * ((size << k) // divisor), k


def requantize_real(
    x: Array,
    factors: Sequence[Fraction],
    axis: int | None,
    zero_points: tuple[Array, Array],
    rounding: Rounding,
    result: IntType,
    divisor: Array | None = None,
) -> Array:
    """y = saturate(round((x - z_in) * factor / divisor) + z_out), exact over the reals."""
    z_in, z_out = zero_points
    return _offset(scale_and_round(minus(widen(x), z_in), factors, axis, rounding, divisor), z_out, result)


def requantize_dyadic(
    x: Array,
    multiplier: Array,
    shift: Array,
    zero_points: tuple[Array, Array],
    rounding: Rounding,
    result: IntType,
    divisor: Array | None = None,
) -> Array:
    """y = saturate(round((x - z_in) * multiplier / 2^shift) + z_out); the product is exact, shift is 0..62.

    I-BERT and I-ViT (QuantAct) with rounding half_even. A divisor, positive integers that broadcast against x, replaces
    the multiplier by its `reciprocal`: one division for each divisor, and the rounding of the product stays exact.
    """
    z_in, z_out = zero_points
    if divisor is not None:
        multiplier, more = reciprocal(multiplier, divisor)
        shift = shift + more
    product, bound = _scaled(x, z_in, multiplier)
    return _offset(round_shift(product, shift, rounding, bound), z_out, result)


def requantize_pot(
    x: Array,
    shift: Array,
    zero_points: tuple[Array, Array],
    rounding: Rounding,
    result: IntType,
    divisor: Array | None = None,
) -> Array:
    """y = saturate(round((x - z_in) / 2^shift) + z_out); a negative shift multiplies. P2-ViT, equation 6.

    With a divisor it is the dyadic form of multiplier 2^30, so that the reciprocal has 30 or 31 bits.
    """
    if divisor is not None:
        return requantize_dyadic(x, np.array(1 << 30), shift + 30, zero_points, rounding, result, divisor)
    z_in, z_out = zero_points
    centred, bound = _scaled(x, z_in, np.array(1))
    return _offset(round_shift(centred, shift, rounding, bound), z_out, result)


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
    if round_each:
        left, right = (
            round_shift(product, shift, rounding, bound)
            for (product, bound), shift in ((_scaled(a, z_a, m_a), s_a), (_scaled(b, z_b, m_b), s_b))
        )
        return _offset(plus(left, right), z, result)
    common = np.maximum(s_a, s_b)
    m_a, m_b = (np.asarray(m.astype(object) << (common - s).astype(object)) for m, s in ((m_a, s_a), (m_b, s_b)))
    (left, left_bound), (right, right_bound) = _scaled(a, z_a, m_a), _scaled(b, z_b, m_b)
    bound = left_bound + right_bound
    total = left + right if bound < 1 << 63 else plus(left, right)
    return _offset(round_shift(total, common, rounding, bound), z, result)


def add_requant_real(
    a: Array,
    b: Array,
    factors: tuple[Sequence[Fraction], Sequence[Fraction]],
    axes: tuple[int | None, int | None],
    zero_points: tuple[Array, Array, Array],
    rounding: Rounding,
    round_each: bool,
    result: IntType,
) -> Array:
    """`add_requant` by real factors: y = saturate(round(f_a * a' + f_b * b') + z), exact over the reals."""
    z_a, z_b, z = zero_points
    x = minus(widen(a), z_a), minus(widen(b), z_b)
    if round_each:
        left, right = (scale_and_round(*term, rounding) for term in zip(x, factors, axes, strict=True))
        return _offset(plus(left, right), z, result)
    if (dyadic := _dyadic_of(factors, axes, a.ndim)) is not None:
        multipliers, shift = dyadic
        if sum(max(magnitude(v), 1) * magnitude(m) for v, m in zip(x, multipliers, strict=True)) < 1 << 63:
            m_a, m_b = multipliers
            return add_requant(a, b, (m_a, m_b), (shift, shift), zero_points, rounding, False, result)
    left, right = (_near(*term) for term in zip(x, factors, axes, strict=True))

    def exact(index: tuple[int, ...]) -> Fraction:
        terms = (int(v[index]) * _factor_at(f, axis, index) for v, f, axis in zip(x, factors, axes, strict=True))
        return sum(terms, Fraction(0))

    with np.errstate(invalid="ignore"):  # infinity less infinity
        total, size = np.asarray(left + right), np.abs(left) + np.abs(right)
    return _offset(round_near(total, size, exact, rounding), z, result)


def threshold(x: Array, thresholds: Array, axis: int | None, lowest: int, result: IntType) -> Array:
    """q = lowest + #{m : x >= thresholds[m]}: the comparator form of a quantizer (Lin & Shah).

    thresholds: integers [M] or, one set for each index along `axis`, [dim, M]; non-decreasing along M.
    """
    x, levels = widen(x), widen(thresholds)
    if axis is None:
        return fit(np.searchsorted(levels, x, side="right") + lowest, result)
    rows = np.moveaxis(x, axis, 0)
    counts = np.empty(rows.shape, np.int64)
    for i, own in enumerate(levels):
        counts[i] = np.searchsorted(own, rows[i], side="right")  # how many are not greater
    return fit(np.moveaxis(counts, 0, axis) + lowest, result)
