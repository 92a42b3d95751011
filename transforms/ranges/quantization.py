"""From codes to codes. Rounding and saturation keep the order of numbers, so the ends go through the operation itself."""

import numpy as np

from qvit.dialects.attributes import DyadicAttr, PotAttr
from qvit.dialects.ops.quantization import AddRequantOp, QuantizeOp, RequantizeOp, ThresholdOp
from qvit.dialects.semantics import quantization
from qvit.dialects.semantics.integers import Array, IntType
from qvit.dialects.types import integer_of, shape_of
from qvit.transforms.ranges.interval import WORD, Analysis, Range

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
        _product(a, op, "product", centred, (multiplier, shift))

        def through(end: Array) -> Array:
            if isinstance(form, PotAttr):
                return quantization.requantize_pot(end, shift, (before, after), rounding, result)
            return quantization.requantize_dyadic(end, multiplier, shift, (before, after), rounding, result)
    else:
        factors = a.weights.exact_scale(form.scale)
        vector = axis if form.scale.length is not None else None

        def through(end: Array) -> Array:
            return quantization.requantize_real(end, factors, vector, (before, after), rounding, result)

    return Range.around(*(through(_spread(end, axis, shape)) for end in (x.lo, x.hi)))


def add_requant(a: Analysis, op: AddRequantOp) -> Range:
    """The ends of both operands, each with each: a factor may be negative."""
    shape, axis, rank = shape_of(op.lhs), _axis(op), len(shape_of(op.lhs))
    x, y = a.of(op.lhs), a.of(op.rhs)
    z_a, z_b, z = (a.weights.zero_point(zero) for zero in (op.lhs_zero_point, op.rhs_zero_point, op.zero_point))
    left, right = (_factor(a, form, axis, rank) for form in (op.lhs_form, op.rhs_form))
    products = (
        _product(a, op, "product of lhs", x.minus(Range.exactly(z_a)), left),
        _product(a, op, "product of rhs", y.minus(Range.exactly(z_b)), right),
    )
    if op.round_each is None:
        shifts = [np.maximum(shift, 0) for _, shift in (left, right)]
        common = np.maximum(*shifts)
        powers = [Range.exactly(np.asarray(1 << (common - shift))) for shift in shifts]
        aligned = [product.times(power) for product, power in zip(products, powers, strict=True)]
        advice = "use shifts that are closer to each other (--lower-requant does), or narrower codes"
        a.measure(op, "sum of products", aligned[0].plus(aligned[1]), WORD, advice)

    def through(one: Array, other: Array) -> Array:
        (m_a, s_a), (m_b, s_b) = left, right
        one, other = (_spread(end, axis, shape) for end in (one, other))
        each = op.round_each is not None
        return quantization.add_requant(
            one, other, (m_a, m_b), (s_a, s_b), (z_a, z_b, z), op.rounding.data, each, _result(op)
        )

    return Range.around(*(through(one, other) for one in (x.lo, x.hi) for other in (y.lo, y.hi)))


def threshold(a: Analysis, op: ThresholdOp) -> Range:
    """Levels that are not constants may all be passed, or none."""
    levels, lowest, axis = a.weights.array(op.thresholds), op.lowest.value.data, _axis(op)
    if levels is None:
        return Range.of(lowest, lowest + shape_of(op.thresholds)[-1])
    shape, result = shape_of(op.input), _result(op)
    x = a.of(op.input).each(lambda end: _spread(end, axis, shape))
    return x.each(lambda end: quantization.threshold(end, levels, axis, lowest, result))
