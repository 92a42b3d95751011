"""Constants, elementwise operations, and operations that move elements."""

import numpy as np

from qvit.dialects.ops.elementwise import AddOp, ArithmeticOp, ClipOp, CompareOp, MulOp, SelectOp, SubOp
from qvit.dialects.ops.nonlinear import ArgmaxOp, ReduceSumOp
from qvit.dialects.ops.shape import BroadcastOp, ConcatOp, GatherOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp, WeightOp
from qvit.dialects.semantics import elementwise, shape
from qvit.dialects.semantics.integers import Array
from qvit.dialects.types import BOOLEAN, int_type, integer_of, shape_of
from qvit.transforms.ranges.interval import Analysis, Range, total, wider


def constant(a: Analysis, op: ConstantOp | WeightOp) -> Range:
    return a.contents(op.result)


def _fits(a: Analysis, op: ArithmeticOp, what: str, found: Range) -> Range:
    type = integer_of(op.result)
    assert type is not None
    a.measure(op, what, found, type, wider(type))
    return found


def add(a: Analysis, op: AddOp) -> Range:
    return _fits(a, op, "sum", a.of(op.lhs).plus(a.of(op.rhs)))


def sub(a: Analysis, op: SubOp) -> Range:
    return _fits(a, op, "difference", a.of(op.lhs).minus(a.of(op.rhs)))


def mul(a: Analysis, op: MulOp) -> Range:
    return _fits(a, op, "product", a.of(op.lhs).times(a.of(op.rhs)))


def reduce_sum(a: Analysis, op: ReduceSumOp) -> Range:
    """Partial sums in any order are sums where the other elements are 0."""
    axes, type = op.axes.get_values(), integer_of(op.result)
    assert type is not None
    x = a.of(op.input)
    partial, found = (total(r.moved(shape_of(op.input), lambda end: end), axes) for r in (x.with_zero(), x))
    a.measure(op, "accumulator", partial, type, wider(type))
    return found.each(lambda end: end.reshape(shape_of(op.result)))


def argmax(_: Analysis, op: ArgmaxOp) -> Range:
    return Range.around(np.array(0), np.array(shape_of(op.input)[op.axis.value.data] - 1))


def clip(a: Analysis, op: ClipOp) -> Range:
    return a.of(op.input).each(lambda end: elementwise.clip(end, *op.bounds))


def compare(a: Analysis, op: CompareOp) -> Range:
    """0 or 1 alone where the intervals decide it."""
    if integer_of(op.lhs) is None:
        truth = int_type(BOOLEAN)
        assert truth is not None
        return Range.of_type(truth)
    x, y = a.of(op.lhs), a.of(op.rhs)
    if op.predicate.data in ("gt", "le"):  # x > y is y < x; x <= y is not that
        x, y = y, x
    if op.predicate.data in ("eq", "ne"):
        always = (x.lo == x.hi) & (y.lo == y.hi) & (x.lo == y.lo)
        possible = (x.lo <= y.hi) & (y.lo <= x.hi)
    else:
        always, possible = x.hi < y.lo, x.lo < y.hi
    if op.predicate.data in ("ne", "le", "ge"):
        always, possible = ~possible, ~always
    return Range(np.asarray(always).astype(np.int64), np.asarray(possible).astype(np.int64))


def select(a: Analysis, op: SelectOp) -> Range:
    condition, x, y = a.of(op.condition), a.of(op.lhs), a.of(op.rhs)

    def chosen(one: Array, other: Array, either: Array) -> Array:
        return np.where(condition.lo == 1, one, np.where(condition.hi == 0, other, either))

    return Range(chosen(x.lo, y.lo, np.minimum(x.lo, y.lo)), chosen(x.hi, y.hi, np.maximum(x.hi, y.hi)))


def reshape(a: Analysis, op: ReshapeOp) -> Range:
    return a.of(op.input).moved(shape_of(op.input), lambda x: shape.reshape(x, shape_of(op.result)))


def transpose(a: Analysis, op: TransposeOp) -> Range:
    return a.of(op.input).moved(shape_of(op.input), lambda x: shape.transpose(x, op.order))


def slice_(a: Analysis, op: SliceOp) -> Range:
    return a.of(op.input).moved(shape_of(op.input), lambda x: shape.slice_(x, *op.extent))


def broadcast(a: Analysis, op: BroadcastOp) -> Range:
    return a.of(op.input).moved(shape_of(op.input), lambda x: shape.broadcast(x, shape_of(op.result)))


def concat(a: Analysis, op: ConcatOp) -> Range:
    parts = [a.of(part).moved(shape_of(part), lambda x: x) for part in op.inputs]
    axis = op.axis.value.data
    return Range(shape.concat([p.lo for p in parts], axis), shape.concat([p.hi for p in parts], axis))


def gather(a: Analysis, op: GatherOp) -> Range:
    """By indices that are not known, any slice may be taken; by some that are not there, the run ends."""
    axis, before, indices = op.axis.value.data, shape_of(op.input), a.weights.array(op.indices)
    if indices is not None and ((indices >= 0) & (indices < before[axis])).all():
        return a.of(op.input).moved(before, lambda x: shape.gather(x, indices, axis))
    others = [i for i in range(len(before)) if i != axis]
    found = a.of(op.input).only_along(others, len(before))
    ones = (1,) * len(shape_of(op.indices))
    return found.each(lambda end: end.reshape(*end.shape[:axis], *ones, *end.shape[axis + 1 :]))
