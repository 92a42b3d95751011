"""Constants that multiply a dequantized tensor join its scale; a quantize behind a dequantize becomes a requantize."""

import numpy as np
from xdsl.dialects.builtin import AnyFloat, FloatAttr
from xdsl.ir import Operation, SSAValue

from qvit.dialects.attributes import Factor, RealAttr, WeightRefAttr, dense
from qvit.dialects.ops.elementwise import AddOp, DivOp, MulOp
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp, RequantizeOp
from qvit.dialects.ops.shape import ReshapeOp
from qvit.dialects.ops.weights import ConstantOp, WeightOp
from qvit.dialects.provenance import describe
from qvit.dialects.semantics.integers import Rounding
from qvit.dialects.semantics.quantization import lengthwise
from qvit.dialects.types import broadcast_shapes, element_of, shape_of
from qvit.dialects.weights import Weights
from qvit.transforms.rule import Declined, Exactness, Rewrite, Rule, require


def _is_constant(value: SSAValue) -> bool:
    return isinstance(value.owner, ConstantOp | WeightOp)


def constant_factor(value: SSAValue, rank: int, weights: Weights) -> tuple[Factor, int | None]:
    """A float constant as a factor of a scale, and the axis (of a tensor of `rank` dimensions) it varies along.

    Declined if it varies along more than one axis, or is not finite. A vector in a weight file stays a reference to it.
    """
    shape, array, element = shape_of(value), weights.array(value), element_of(value)
    assert array is not None
    assert isinstance(element, AnyFloat)  # it multiplies floats
    found = lengthwise(array, max(rank, array.ndim))
    if found is None:
        raise Declined(f"the constant {describe(value)} of shape {shape} varies along more than one axis")
    require(np.isfinite(array).all(), f"the constant {describe(value)} holds numbers that are not finite")
    values, axis = found
    if axis is None:
        return FloatAttr(float(values), element), None
    if len(shape) == 1 and isinstance(value.owner, WeightOp):
        return WeightRefAttr(value.owner.key, value.owner.result.type), axis
    return dense(values), axis


class MulOfDequantize(Rule):
    """mul(dq(q, s), c) => dq(q, s * c), c a constant number or vector. real-exact.

    Declined where s and c vary along different axes, or c enlarges the tensor.
    """

    name = "mul-of-dequantize"
    exactness = Exactness.REAL_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if isinstance(op, MulOp):
            pairs = [(op.lhs, op.rhs), (op.rhs, op.lhs)]
        elif isinstance(op, DivOp):
            pairs = [(op.lhs, op.rhs)]
        else:
            return None
        for value, constant in pairs:
            if isinstance(dq := value.owner, DequantizeOp) and _is_constant(constant):
                return self._fold(op, dq, constant)
        return None

    def _fold(self, op: MulOp | DivOp, dq: DequantizeOp, constant: SSAValue) -> Rewrite:
        before, after = shape_of(dq.result), shape_of(op.result)
        require(before == after, f"the constant {describe(constant)} enlarges the tensor from {before} to {after}")
        factor, axis = constant_factor(constant, len(before), self.session(op).weights)
        params = dq.params
        along = params.axis_index if axis is None else axis
        require(
            params.axis_index in (None, along),
            f"the scale lies along axis {params.axis_index}, the constant {describe(constant)} along axis {axis}",
        )
        if isinstance(op, DivOp):
            values = self.session(op).weights.values(factor)
            require(np.all(values != 0), f"the constant {describe(constant)} holds a 0 to divide by")
            scale = params.scale.times(over=[factor])
        else:
            scale = params.scale.times(factor)
        return Rewrite([DequantizeOp(dq.input, params.with_scale(scale, along), element_of(op.result))], [dq])


class MulOfBiasAdd(Rule):
    """mul(add(dq(q), c), k) => add(mul(dq(q), k), mul(c, k)), c and k constants. real-exact.

    It brings k to the dequantize, whose scale takes it in; c may be a dequantized constant.
    """

    name = "mul-of-bias-add"
    exactness = Exactness.REAL_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, MulOp):
            return None
        for value, k in ((op.lhs, op.rhs), (op.rhs, op.lhs)):
            add = value.owner
            if not isinstance(add, AddOp) or not _is_constant(k) or len(list(add.result.uses)) != 1:
                continue
            for moved, c in ((add.lhs, add.rhs), (add.rhs, add.lhs)):
                if isinstance(moved.owner, DequantizeOp) and is_bias(c) and not is_bias(moved):
                    for value in (moved, c):
                        after = broadcast_shapes(shape_of(value), shape_of(k))
                        require(after == shape_of(value), f"the constant {describe(k)} enlarges {describe(value)}")
                    left, right = MulOp(moved, k), MulOp(c, k)
                    return Rewrite([left, right, AddOp(left.result, right.result)], [add])
        return None


def is_bias(value: SSAValue) -> bool:
    """A constant, also dequantized or laid out for broadcasting."""
    owner = value.owner
    return _is_constant(value) or (isinstance(owner, DequantizeOp | ReshapeOp) and is_bias(owner.input))


class QuantizeBack(Rule):
    """quantize(dq(q, s, z), s, z) => q, the codes being of one type. bit-exact.

    (q - z) * s / s is within two roundings of the integer q - z, and rounds to it: to nearest, in any of its modes.
    """

    name = "quantize-back"
    exactness = Exactness.BIT_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, QuantizeOp) or not isinstance(dq := op.input.owner, DequantizeOp):
            return None
        same = dq.params == op.params and dq.input.type == op.result.type and op.rounding.data is not Rounding.FLOOR
        made = dq.input.owner
        return Rewrite([], [dq], made) if same and isinstance(made, Operation) else None


class QuantizeOfDequantize(Rule):
    """quantize(dq(q, s, z), t, y) => requantize(q, real<s / t>, z, y). real-exact.

    The float path rounds q * s and its quotient by t before it rounds to a code; requantize rounds once.
    """

    name = "quantize-of-dequantize"
    exactness = Exactness.REAL_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, QuantizeOp) or not isinstance(dq := op.input.owner, DequantizeOp):
            return None
        before, after = dq.params, op.params
        axes = {a for a in (before.axis_index, after.axis_index) if a is not None}
        require(
            len(axes) <= 1,
            f"the scales lie along different axes: {before.axis_index} before, {after.axis_index} after",
        )
        new = RequantizeOp(
            dq.input,
            RealAttr(before.scale.times(*after.scale.below, over=after.scale.above)),
            element_of(op.result),
            (before.zero_point, after.zero_point),
            axes.pop() if axes else None,
            op.rounding.data,
        )
        return Rewrite([new], [dq])


FOLDS: tuple[type[Rule], ...] = (MulOfDequantize, MulOfBiasAdd, QuantizeBack, QuantizeOfDequantize)
"""The rules that fold constants into scales, and a dequantize into a quantize."""
