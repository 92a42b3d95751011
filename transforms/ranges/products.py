"""Accumulators of products, bounded with the actual weights."""

from collections.abc import Sequence

import numpy as np

from qvit.dialects.approximations.base import SoftmaxApproximation
from qvit.dialects.attributes import ZeroPointAttr
from qvit.dialects.ops.approximated import IntSoftmaxOp
from qvit.dialects.ops.products import Conv2dOp, LinearOp, MatmulOp, ShiftMatmulOp
from qvit.dialects.semantics.products import LOG_FRACTION
from qvit.dialects.semantics.quantization import along
from qvit.dialects.types import integer_of, shape_of
from qvit.transforms.ranges.interval import Analysis, Range, total, wider


def less(codes: Range, zero_point: ZeroPointAttr | None, a: Analysis, axis: int = 0, rank: int = 1) -> Range:
    """Codes less their zero point; a vector of those lies along an axis."""
    return codes.minus(Range.exactly(along(a.weights.zero_point(zero_point), axis, rank)))


def _accumulate(
    a: Analysis,
    op: MatmulOp | ShiftMatmulOp | LinearOp | Conv2dOp,
    codes: Range,
    weight: Range,
    shape: Sequence[int],
    axes: tuple[int, ...],
    skips: bool = False,
    bias: Range | None = None,
    proven: Range | None = None,
) -> Range:
    """The sums of codes * weight, which broadcast to `shape`, along `axes`, plus the bias: one interval an output.

    The bounds of a sum are reached where the weights are constants and the codes are free: each code at the end that the
    sign of its weight asks for. Any sum of some of the products alone is a sum where the other codes are 0, so no partial
    sum in any order leaves the bounds that hold if every code may also be 0; and the bias may come first or last. `skips`
    says that padding does leave out products. `proven` holds all sums of some of the products for reasons of its own.
    """
    type = integer_of(op.result)
    assert type is not None

    def sums(x: Range) -> Range:
        return total(x.times(weight).moved(shape, lambda terms: terms), axes).each(lambda end: end.reshape(-1))

    partial = sums(codes.with_zero())
    straddles = codes.lo.max() <= 0 <= codes.hi.min()
    result = partial if straddles or skips else sums(codes)
    if proven is not None:
        partial, result = partial.common(proven), result.common(proven)
    if bias is not None:
        partial, result = partial.plus(bias.with_zero()), result.plus(bias)
    a.measure(op, "accumulator", partial, type, wider(type))
    return result


def matmul(a: Analysis, op: MatmulOp) -> Range:
    """Summed up over rows and batches: one interval for each column."""
    return _matrices(a, op, less(a.of(op.lhs), op.lhs_zero_point, a))


def _matrices(a: Analysis, op: MatmulOp | ShiftMatmulOp, lhs: Range, rows_at_most: int | None = None) -> Range:
    """rows_at_most: what no sum of numbers of a row of lhs, which are not negative, exceeds."""
    depth, columns = shape_of(op.rhs)[-2:]
    ranks = len(shape_of(op.lhs)), len(shape_of(op.rhs))
    lhs = lhs.only_along([ranks[0] - 1], ranks[0])
    rhs = less(a.contents(op.rhs), op.rhs_zero_point, a).only_along([ranks[1] - 2, ranks[1] - 1], ranks[1])
    rhs = rhs.each(lambda end: end.reshape(end.shape[-2:]))
    proven = None
    if rows_at_most is not None:
        one = rhs.with_zero().only_along([1], 2)
        proven = one.times(Range.exactly(np.array(rows_at_most))).each(lambda end: end.reshape(-1))
    rows = lhs.each(lambda end: end.reshape(-1, 1))
    return _accumulate(a, op, rows, rhs, (depth, columns), (0,), proven=proven)


def shift_matmul(a: Analysis, op: ShiftMatmulOp) -> Range:
    """As of the powers of two; those of a row of a logarithmic softmax sum to at most 3/2."""
    softmax = op.lhs.owner
    approximation = softmax.approximation.data if isinstance(softmax, IntSoftmaxOp) else None
    logarithmic = isinstance(approximation, SoftmaxApproximation) and approximation.logarithmic
    codes = a.of(op.lhs)
    powers = Range.of((1 << LOG_FRACTION) >> codes.hi, (1 << LOG_FRACTION) >> codes.lo)
    return _matrices(a, op, powers, 3 << (LOG_FRACTION - 1) if logarithmic else None)


def linear(a: Analysis, op: LinearOp) -> Range:
    """One interval for each output channel."""
    rank = len(shape_of(op.input))
    codes = less(a.of(op.input), op.input_zero_point, a).only_along([rank - 1], rank)
    weight = less(a.contents(op.weight), op.weight_zero_point, a, 0, 2)
    bias = None if op.bias is None else a.contents(op.bias)
    return _accumulate(a, op, codes.each(lambda end: end.reshape(-1)), weight, shape_of(op.weight), (1,), bias=bias)


def conv2d(a: Analysis, op: Conv2dOp) -> Range:
    """One interval for each output channel."""
    groups, channels = op.geometry[3], shape_of(op.input)[1]
    outputs, group_channels, *kernel = shape_of(op.weight)
    shape = (groups, outputs // groups, group_channels, kernel[0] * kernel[1])
    codes = less(a.of(op.input), op.input_zero_point, a).only_along([1], 4)
    codes = codes.moved((1, channels, 1, 1), lambda end: end.reshape(groups, 1, group_channels, 1))
    weight = less(a.contents(op.weight), op.weight_zero_point, a, 0, 4)
    weight = weight.moved(shape_of(op.weight), lambda end: end.reshape(shape))
    bias = None if op.bias is None else a.contents(op.bias)
    padded = any(op.geometry[1])
    return _accumulate(a, op, codes, weight, shape, (2, 3), padded, bias).each(lambda end: end.reshape(-1, 1, 1))
