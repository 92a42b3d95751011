"""Past operations that only move elements, a dequantize goes with its scale's axis. All of these are bit-exact."""

from collections.abc import Callable, Sequence

import numpy as np
from xdsl.dialects.builtin import ArrayAttr
from xdsl.ir import Operation, SSAValue

from qvit.dialects.attributes import (
    Factor,
    QParamsAttr,
    ScaleAttr,
    Value,
    ZeroPointAttr,
    float_value,
    vector_length,
)
from qvit.dialects.ops.quantization import DequantizeOp
from qvit.dialects.ops.shape import BroadcastOp, ConcatOp, GatherOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import describe
from qvit.dialects.semantics.integers import Array
from qvit.dialects.semantics.quantization import along
from qvit.dialects.types import element_dtype, element_of, shape_of
from qvit.dialects.weights import Weights
from qvit.transforms.rule import Declined, Exactness, Rewrite, Rule, require


def map_vectors(params: QParamsAttr, weights: Weights, change: Callable[[Array], Array], axis: int) -> QParamsAttr:
    """The parameters with `change` applied to every vector: the scale's factors and the zero points."""

    def changed(factor: Factor) -> Factor:
        return factor if vector_length(factor) is None else float_value(change(weights.values(factor)))

    scale, zero = params.scale, params.zero_point
    if zero.length:
        zero = ZeroPointAttr.of(change(weights.zero_point(zero)))
    # not simplified: the factors are multiplied as before, so that floats round as before
    above, below = (ArrayAttr([changed(f) for f in side]) for side in (scale.above, scale.below))
    return QParamsAttr.of(ScaleAttr(above, below), zero, axis)


def _moved(dequantize: DequantizeOp, moved: Operation, params: QParamsAttr, result: SSAValue) -> Rewrite:
    """dq(moved(q))."""
    return Rewrite([moved, DequantizeOp(moved.results[0], params, element_of(result))], [dequantize])


class TransposeOfDequantize(Rule):
    """transpose(dq(q, s), p) => dq(transpose(q, p), s), the axis a of s becomes p^-1(a)."""

    name = "transpose-of-dequantize"
    exactness = Exactness.BIT_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, TransposeOp) or not isinstance(dq := op.input.owner, DequantizeOp):
            return None
        axis = dq.params.axis_index
        params = dq.params.with_axis(None if axis is None else op.order.index(axis))
        return _moved(dq, TransposeOp(dq.input, op.order), params, op.result)


def _split_axis(before: Sequence[int], after: Sequence[int], axis: int) -> tuple[int, int]:
    """The dimensions [first, last) of `after` whose product is dimension `axis` of `before`; Declined if there are none."""
    ahead, length = int(np.prod(before[:axis])), before[axis]
    first, product = 0, 1
    while product < ahead:
        product, first = product * after[first], first + 1
    while first < len(after) and after[first] == 1 and length != 1:
        first += 1
    last, inside = first, 1
    while last < len(after) and inside < length:
        inside, last = inside * after[last], last + 1
    if product != ahead or inside != length:
        raise Declined(f"the reshape to {tuple(after)} merges axis {axis} of {tuple(before)} with others")
    return first, last


class ReshapeOfDequantize(Rule):
    """reshape(dq(q, s)) => dq(reshape(q), s).

    A scale along an axis needs that axis to survive; where it is split, the scale may vary along one part only.
    """

    name = "reshape-of-dequantize"
    exactness = Exactness.BIT_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, ReshapeOp) or not isinstance(dq := op.input.owner, DequantizeOp):
            return None
        after = shape_of(op.result)
        params = dq.params
        if params.axis_index is not None:
            params = self._split(op, params, params.axis_index)
        return _moved(dq, ReshapeOp(dq.input, after), params, op.result)

    def _split(self, op: ReshapeOp, params: QParamsAttr, axis: int) -> QParamsAttr:
        before, after = shape_of(op.input), shape_of(op.result)
        first, last = _split_axis(before, after, axis)
        parts = after[first:last]
        wide = [i for i, d in enumerate(parts) if d != 1]
        weights = self.session(op).weights
        if not parts:
            return map_vectors(params, weights, lambda v: v[0], 0)
        if len(wide) <= 1:
            return params.with_axis(first + (wide[0] if wide else 0))
        vectors = [weights.values(f) for f in params.scale.factors if vector_length(f) is not None]
        if params.zero_point.length is not None:
            vectors.append(weights.zero_point(params.zero_point))
        for i in wide:
            others = tuple(j for j in range(len(parts)) if j != i)
            if all(np.ptp(v.reshape(parts), axis=others).max() == 0 for v in vectors):
                corner = tuple(slice(None) if j == i else 0 for j in range(len(parts)))
                return map_vectors(params, weights, lambda v, at=corner: v.reshape(parts)[at], first + i)
        raise Declined(f"the scale varies along more than one of the parts {parts} into which axis {axis} is split")


class SliceOfDequantize(Rule):
    """slice(dq(q, s)) => dq(slice(q), s), s sliced too where it lies along the sliced axis."""

    name = "slice-of-dequantize"
    exactness = Exactness.BIT_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, SliceOp) or not isinstance(dq := op.input.owner, DequantizeOp):
            return None
        axis, start, size, step = op.extent
        params = dq.params
        if params.axis_index == axis:
            taken = range(start, start + size * step, step)
            params = map_vectors(params, self.session(op).weights, lambda v: v[list(taken)], axis)
        return _moved(dq, SliceOp(dq.input, axis, start, size, step), params, op.result)


class GatherOfDequantize(Rule):
    """gather(dq(q, s), i) => dq(gather(q, i), s), s gathered too where it lies along the gathered axis."""

    name = "gather-of-dequantize"
    exactness = Exactness.BIT_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, GatherOp) or not isinstance(dq := op.input.owner, DequantizeOp):
            return None
        weights, params = self.session(op).weights, dq.params
        axis, gathered = params.axis_index, op.axis.value.data
        if axis == gathered:
            indices = weights.array(op.indices)
            where = f"the scale lies along the gathered axis {axis} and the indices"
            if indices is None:
                raise Declined(f"{where} are not constant")
            require(indices.ndim == 1, f"{where} have {indices.ndim} dimensions")
            length = shape_of(op.input)[gathered]
            require(np.all((indices >= 0) & (indices < length)), f"{where} leave its {length} elements")
            params = map_vectors(params, weights, lambda v: v[indices], gathered)
        elif axis is not None and axis > gathered:
            params = params.with_axis(axis + len(shape_of(op.indices)) - 1)
        return _moved(dq, GatherOp(dq.input, op.indices, gathered), params, op.result)


class BroadcastOfDequantize(Rule):
    """broadcast(dq(q, s)) => dq(broadcast(q), s)."""

    name = "broadcast-of-dequantize"
    exactness = Exactness.BIT_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, BroadcastOp) or not isinstance(dq := op.input.owner, DequantizeOp):
            return None
        before, after = shape_of(op.input), shape_of(op.result)
        params = dq.params
        if (axis := params.axis_index) is not None:
            moved = axis + len(after) - len(before)
            if before[axis] == after[moved]:
                params = params.with_axis(moved)
            else:  # one scale, repeated
                params = map_vectors(params, self.session(op).weights, lambda v: v[0], moved)
        return _moved(dq, BroadcastOp(dq.input, after), params, op.result)


class ConcatOfDequantize(Rule):
    """concat(dq(a, s), dq(b, t)) => dq(concat(a, b), [s, t]); one scale stays one where s = t.

    A constant of zeros among the operands (padding) becomes codes at the zero point.
    """

    name = "concat-of-dequantize"
    exactness = Exactness.BIT_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, ConcatOp):
            return None
        dequantizes = [owner for value in op.inputs if isinstance(owner := value.owner, DequantizeOp)]
        if not dequantizes:
            return None
        axis, first = op.axis.value.data, dequantizes[0]
        padding = first.params if first.params.axis_index != axis else QParamsAttr.of(1.0)
        params: list[QParamsAttr] = []
        for value in op.inputs:
            owner = value.owner
            zeros = self.session(op).weights.array(value)
            require(
                isinstance(owner, DequantizeOp) or (zeros is not None and not zeros.any()),
                f"operand {describe(value)} is not quantized",
            )
            params.append(owner.params if isinstance(owner, DequantizeOp) else padding)
        types = dict.fromkeys(str(element_of(dq.input)) for dq in dequantizes)
        require(len(types) == 1, f"the operands' codes have different types: {', '.join(types)}")
        joined = params[0]
        if any(p != joined for p in params) or joined.axis_index == axis:
            joined = self._join(op, params, axis)
        codes = [
            owner.input if isinstance(owner := value.owner, DequantizeOp) else self._zeros(op, value, padding, first)
            for value in op.inputs
        ]
        constants = [made for value in codes if isinstance(made := value.owner, ConstantOp) and made.parent is None]
        moved = ConcatOp(codes, axis)
        return Rewrite([*constants, moved, DequantizeOp(moved.result, joined, element_of(op.result))], dequantizes)

    def _zeros(self, op: ConcatOp, value: SSAValue, params: QParamsAttr, like: DequantizeOp) -> SSAValue:
        """The codes of a constant of zeros: its zero point everywhere."""
        element, shape = element_of(like.input), shape_of(value)
        zero = along(self.session(op).weights.zero_point(params.zero_point), params.axis_index, len(shape))
        return ConstantOp(np.broadcast_to(zero, shape).astype(element_dtype(element)), element).result

    def _join(self, op: ConcatOp, params: Sequence[QParamsAttr], axis: int) -> QParamsAttr:
        """One vector along the concatenated axis for each factor; missing factors are 1."""
        weights = self.session(op).weights
        for value, part in zip(op.inputs, params, strict=True):
            found = part.axis_index
            require(found in (None, axis), f"the scale of {describe(value)} lies along axis {found}, the others differ")
        lengths = [shape_of(value)[axis] for value in op.inputs]

        def column(values: Sequence[Value]) -> Array:
            arrays = [weights.values(v) for v in values]
            return np.concatenate([np.broadcast_to(a, (n,)) for a, n in zip(arrays, lengths, strict=True)])

        def join(sides: Sequence[Sequence[Factor]]) -> list[Factor]:
            one = float_value(1.0)
            depth = max(map(len, sides))
            padded = [[*side, *[one] * (depth - len(side))] for side in sides]
            return [float_value(column(level)) for level in zip(*padded, strict=True)]

        scales = [part.scale for part in params]
        # not simplified, as in map_vectors
        scale = ScaleAttr(*(ArrayAttr(join(side)) for side in ([s.above for s in scales], [s.below for s in scales])))
        zero = column([part.zero_point.value for part in params])
        return QParamsAttr.of(scale, ZeroPointAttr.of(zero), axis)


MOVES: tuple[type[Rule], ...] = (
    TransposeOfDequantize,
    ReshapeOfDequantize,
    SliceOfDequantize,
    GatherOfDequantize,
    BroadcastOfDequantize,
    ConcatOfDequantize,
)
"""The rules that move a dequantize past operations that move elements."""
