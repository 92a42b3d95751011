"""From codes to codes. Rounding and saturation keep the order of numbers, so the ends go through the operation itself."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from qvit.dialects.approximations.base import RangeError
from qvit.dialects.approximations.sm8 import Sm8Late
from qvit.dialects.approximations.sw import SwLate
from qvit.dialects.attributes import DyadicAttr, PotAttr, RealAttr
from qvit.dialects.ops.approximated import IntSoftmaxOp
from qvit.dialects.ops.products import MatmulOp
from qvit.dialects.ops.quantization import AddRequantOp, QuantizeOp, RequantizeOp, ThresholdOp
from qvit.dialects.semantics import quantization
from qvit.dialects.semantics.integers import Array, IntType, widen
from qvit.dialects.types import integer_of, shape_of
from qvit.transforms.ranges.approximated import results_of
from qvit.transforms.ranges.interval import WORD, Analysis, Range
from qvit.transforms.ranges.products import less

_NARROWER = "requantize narrower codes, or by a smaller multiplier"


def _result(op: QuantizeOp | RequantizeOp | AddRequantOp | ThresholdOp) -> IntType:
    type = integer_of(op.result)
    assert type is not None
    return type


def _axis(op: RequantizeOp | AddRequantOp | ThresholdOp) -> int | None:
    return None if op.axis is None else op.axis.value.data


def _spread(end: Array, axis: int | None, shape: tuple[int, ...]) -> Array:
    """The numbers with all dimensions, and one for each index of the axis that parameters lie along."""
    ones = tuple(d if i == axis else 1 for i, d in enumerate(shape))
    return np.broadcast_to(end, np.broadcast_shapes(end.shape, ones))


def _factor(a: Analysis, form: DyadicAttr | PotAttr, axis: int | None, rank: int) -> tuple[Array, Array]:
    """(multiplier, shift), laid along the axis; a power of two is multiplier 1."""
    shift = quantization.along(a.weights.values(form.shift).astype(np.int64), axis, rank)
    if isinstance(form, PotAttr):
        return np.array(1, np.int64), shift
    return quantization.along(a.weights.values(form.multiplier).astype(np.int64), axis, rank), shift


def _product(a: Analysis, op: RequantizeOp | AddRequantOp, name: str, x: Range, factor: tuple[Array, Array]) -> Range:
    """x times the multiplier, and times the power of two of a shift to the left."""
    multiplier, shift = factor
    powers = np.asarray(1 << np.maximum(-shift, 0))
    product = x.times(Range.exactly(multiplier)).times(Range.exactly(powers))
    a.measure(op, name, product, WORD, _NARROWER)
    return product


def quantize(_: Analysis, op: QuantizeOp) -> Range:
    """A real number may be anything."""
    return Range.of_type(_result(op))


def requantize(a: Analysis, op: RequantizeOp) -> Range:
    shape, axis, result, form, rounding = shape_of(op.input), _axis(op), _result(op), op.form, op.rounding.data
    x, rank = a.of(op.input), len(shape)
    zeros = (op.input_zero_point, op.zero_point)
    before, after = (quantization.along(a.weights.zero_point(z), axis, rank) for z in zeros)
    centred = x.minus(Range.exactly(before))
    if before.any():
        a.measure(op, "operand less its zero point", centred, WORD, _NARROWER)
    if isinstance(form, DyadicAttr | PotAttr):
        multiplier, shift = _factor(a, form, axis, rank)
        if op.divisor is not None:
            centred, multiplier, shift = _divided(a, op, centred, form, (multiplier, shift))
        _product(a, op, "product", centred, (multiplier, shift))

    def through(end: Array, divisor: Array | None = None) -> Array:
        end = _spread(end, axis, shape)
        if isinstance(form, PotAttr | DyadicAttr):
            multiplier, shift = _factor(a, form, axis, rank)
            if isinstance(form, PotAttr):
                return quantization.requantize_pot(end, shift, (before, after), rounding, result, divisor)
            return quantization.requantize_dyadic(end, multiplier, shift, (before, after), rounding, result, divisor)
        factors = a.weights.exact_scale(form.scale)
        vector = axis if form.scale.length is not None else None
        return quantization.requantize_real(end, factors, vector, (before, after), rounding, result, divisor)

    if op.divisor is None:
        return Range.around(through(x.lo), through(x.hi))
    found = Range.around(*(through(end, z) for end in (x.lo, x.hi) for z in _divisors(a.of(op.divisor))))
    average = _average(a, op)
    if average is None:
        return found
    values, share = average
    factors = [factor * share for factor in a.weights.exact_factors(form)]
    vector = axis if form.length is not None else None
    ends = (_spread(end, axis, shape) for end in (values.lo, values.hi))
    none = np.array(0)
    return found.common(
        Range.around(*(quantization.requantize_real(e, factors, vector, (none, after), rounding, result) for e in ends))
    )


def _divided(
    a: Analysis, op: RequantizeOp, x: Range, form: DyadicAttr | PotAttr, factor: tuple[Array, Array]
) -> tuple[Range, Array, Array]:
    """What is multiplied where there is a divisor z of n bits: by R = floor(m 2^(n - 1) / z), |m| / 2 - 1 < |R| <= |m|."""
    assert op.divisor is not None
    multiplier, shift = (np.array(1 << 30), factor[1] + 30) if isinstance(form, PotAttr) else factor
    lengths = max(a.of(op.divisor).ends[1], 1).bit_length() - 1
    dividend = Range.exactly(np.abs(multiplier)).times(Range.of(0, 1 << lengths))
    a.measure(op, "dividend of the reciprocal", dividend, WORD, "divide by narrower integers")
    return x.with_zero(), multiplier, shift


def _divisors(z: Range) -> list[Array]:
    """Divisors of which one gives the largest and one the smallest quotient, for operands of either sign.

    Over the reals that is the case at the ends. The reciprocal floor(m 2^(n - 1) / z) / 2^(n - 1) never increases among the
    z of n bits, so there it is the case at the first or the last of those. A divisor below 1 ends the run.
    """
    lo, hi = (max(end, 1) for end in z.ends)
    powers = [1 << n for n in range(lo.bit_length(), hi.bit_length())]
    return [np.array(z) for z in sorted({lo, hi, *powers, *(power - 1 for power in powers)})]


def _average(a: Analysis, op: RequantizeOp) -> tuple[Range, Fraction] | None:
    """Where attention is divided late: the values, 0 among them, and a share with |quotient| <= share |value|.

    The quotient is sum_j p_j v_j / z. The weights p_j >= 0 and z = sum_j E_j are the results of one int_softmax, so it lies
    between min(v, 0) and max(v, 0) times sum_j p_j / sum_j E_j. (p_j, E_j) depends on d_j, the distance from the row's
    maximum, alone, and d_0 = 0 for some entry. Let r be the largest of (p(0) + (N - 1) p(d)) / (E(0) + (N - 1) E(d)). Then
    (N - 1) (p(d) - r E(d)) <= r E(0) - p(0) for every d, where the right side is not negative (take d = 0); summed up over
    at most N - 1 other entries, sum_j p_j <= r sum_j E_j. A reciprocal that is rounded towards 0 makes the quotient smaller.
    """
    product = op.input.owner
    if not isinstance(product, MatmulOp) or not isinstance(softmax := product.lhs.owner, IntSoftmaxOp):
        return None
    approximation, results = softmax.approximation.data, tuple(softmax.results)
    if not isinstance(approximation, Sm8Late | SwLate) or (product.lhs, op.divisor) != results:
        return None
    tables = [a.weights.array(table) for table in softmax.tables]
    (lo, hi), length = a.of(softmax.input).ends, shape_of(softmax.input)[-1]
    known = [table for table in tables if table is not None]
    if product.lhs_zero_point is not None or op.input_zero_point is not None or not known or hi - lo >= 1 << 16:
        return None
    try:
        approximation.check((lo, hi), length, known)
    except RangeError:
        return None  # told where the softmax is analysed
    pairs = np.array([[hi, code] for code in range(hi, lo - 1, -1)], np.int64)
    weights, sums = (widen(found) for found in approximation.apply(pairs, known, None, results_of(softmax)))
    one = int(sums[0, 0]) // 2
    share = max(
        Fraction(int(weights[0, 0]) + (length - 1) * int(p), one + (length - 1) * (int(z) - one))
        for p, z in zip(weights[:, 1], sums[:, 0], strict=True)
    )
    columns = len(shape_of(product.rhs)) - 1
    values = less(a.of(product.rhs), product.rhs_zero_point, a).only_along([columns], columns + 1)
    return values.with_zero().each(lambda end: end.reshape(-1)), share


def add_requant(a: Analysis, op: AddRequantOp) -> Range:
    """The ends of both operands, each with each: a factor may be negative."""
    shape, axis, rank = shape_of(op.lhs), _axis(op), len(shape_of(op.lhs))
    x, y, left, right = a.of(op.lhs), a.of(op.rhs), op.lhs_form, op.rhs_form
    z_a, z_b, z = (a.weights.zero_point(zero) for zero in (op.lhs_zero_point, op.rhs_zero_point, op.zero_point))
    rest = ((z_a, z_b, z), op.rounding.data, op.round_each is not None, _result(op))
    if isinstance(left, RealAttr) or isinstance(right, RealAttr):
        factors = a.weights.exact_factors(left), a.weights.exact_factors(right)
        axis_a, axis_b = (axis if form.length is not None else None for form in (left, right))

        def through(one: Array, other: Array) -> Array:
            return quantization.add_requant_real(one, other, factors, (axis_a, axis_b), *rest)

    else:
        (m_a, s_a), (m_b, s_b) = (_factor(a, form, axis, rank) for form in (left, right))
        products = (
            _product(a, op, "product of lhs", x.minus(Range.exactly(z_a)), (m_a, s_a)),
            _product(a, op, "product of rhs", y.minus(Range.exactly(z_b)), (m_b, s_b)),
        )
        if op.round_each is None:
            _measure_sum(a, op, products, (s_a, s_b))

        def through(one: Array, other: Array) -> Array:
            return quantization.add_requant(one, other, (m_a, m_b), (s_a, s_b), *rest)

    ends = np.broadcast_arrays(*(_spread(end, axis, shape) for end in (x.lo, x.hi, y.lo, y.hi)))
    return Range.around(*(through(one, other) for one in ends[:2] for other in ends[2:]))


def _measure_sum(a: Analysis, op: AddRequantOp, products: Sequence[Range], shifts: Sequence[Array]) -> None:
    """The sum that is rounded once: of both products, over the power of two of the larger shift."""
    right = [np.maximum(shift, 0) for shift in shifts]
    common = np.maximum(*right)
    powers = [Range.exactly(np.asarray(1 << (common - shift))) for shift in right]
    aligned = [product.times(power) for product, power in zip(products, powers, strict=True)]
    advice = "use shifts that are closer to each other (--lower-requant does), or narrower codes"
    a.measure(op, "sum of products", aligned[0].plus(aligned[1]), WORD, advice)


def threshold(a: Analysis, op: ThresholdOp) -> Range:
    """Levels that are not constants may all be passed, or none."""
    levels, lowest, axis = a.weights.array(op.thresholds), op.lowest.value.data, _axis(op)
    if levels is None:
        return Range.of(lowest, lowest + shape_of(op.thresholds)[-1])
    shape, result = shape_of(op.input), _result(op)
    x = a.of(op.input).each(lambda end: _spread(end, axis, shape))
    return x.each(lambda end: quantization.threshold(end, levels, axis, lowest, result))
