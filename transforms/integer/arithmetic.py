"""Additions, products, means and clipping between dequantize and quantize: integer arithmetic, exact but for one rounding."""

from fractions import Fraction

import numpy as np
from xdsl.ir import Operation, SSAValue

from qvit.dialects.attributes import QParamsAttr, RealAttr, ScaleAttr, ZeroPointAttr, float_value
from qvit.dialects.ops.elementwise import AddOp, ClipOp, MulOp, ReluOp, SubOp
from qvit.dialects.ops.nonlinear import ArgmaxOp, ReduceMeanOp, ReduceSumOp
from qvit.dialects.ops.quantization import AddRequantOp, DequantizeOp, QuantizeOp, RequantizeOp
from qvit.dialects.ops.shape import BroadcastOp, ConcatOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.semantics.integers import IntType, round_fraction
from qvit.dialects.types import element_of, integer_element, integer_of, is_float, shape_of
from qvit.transforms.integer.rules import IntegerRule, codes_of, dequantized
from qvit.transforms.rule import Exactness, Rewrite, require

MINUS_ONE = float_value(-1.0)


def _over(scale: ScaleAttr, params: QParamsAttr) -> ScaleAttr:
    """scale / the scale of the wanted codes."""
    return scale.times(*params.scale.below, over=params.scale.above)


def _requantized(dq: DequantizeOp, q: QuantizeOp) -> RequantizeOp:
    """The codes of `dq` in the parameters of `q`, which have one scale."""
    return RequantizeOp(
        dq.input,
        RealAttr(_over(dq.params.scale, q.params)),
        element_of(q.result),
        (dq.params.zero_point, q.params.zero_point),
        dq.params.axis_index,
        q.rounding.data,
    )


class Addition(IntegerRule):
    """q(dq(a, s) + dq(b, t)) => add_requant(a, b) by s / u and t / u; a difference likewise, with -t. Real-exact.

    With `round_each` both terms are rounded, as I-ViT does; that is off by up to half a unit more.
    """

    name = "add"
    exactness = Exactness.REAL_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, QuantizeOp) or not isinstance(add := op.input.owner, AddOp | SubOp):
            return None
        session = self.session(op)
        pair = [dequantized(add.lhs, "lhs"), dequantized(add.rhs, "rhs")]
        shape = shape_of(add.result)
        new: list[Operation] = []
        forms: list[RealAttr] = []
        values: list[SSAValue] = []
        axes: set[int] = set()
        zero_points: list[int] = []
        zero = op.params.zero_point.number
        require(zero is not None, f"the wanted codes' zero point varies along axis {op.params.axis_index}")
        if op.params.axis_index is not None:
            axes.add(op.params.axis_index)
        for name, dq in zip(("lhs", "rhs"), pair, strict=True):
            zero_point, axis = dq.params.zero_point.number, dq.params.axis_index
            require(zero_point is not None, f"{name}'s zero point varies along axis {axis}")
            values.append(dq.input)
            if (before := shape_of(dq.input)) != shape:
                require(
                    axis is None or before[axis] == shape[axis + len(shape) - len(before)],
                    f"{name}'s scale lies along axis {axis}, which is repeated",
                )
                new.append(wide := BroadcastOp(dq.input, shape))
                values[-1] = wide.result
                axis = None if axis is None else axis + len(shape) - len(before)
            if axis is not None:
                axes.add(axis)
            scale = dq.params.scale
            if isinstance(add, SubOp) and name == "rhs":
                scale = scale.times(MINUS_ONE)
            forms.append(RealAttr(_over(scale, op.params)))
            zero_points.append(zero_point or 0)
        require(len(axes) <= 1, f"the scales lie along different axes: {sorted(axes)}")
        result = AddRequantOp(
            values[0],
            forms[0],
            values[1],
            forms[1],
            element_of(op.result),
            (zero_points[0], zero_points[1], zero or 0),
            op.rounding.data,
            session.asked.round_each,
            axes.pop() if axes else None,
        )
        return Rewrite([*new, result], [*pair, add])


class Product(IntegerRule):
    """q(dq(a, s) dq(b, t)) => requantize(a b) by s t / u, elementwise. Real-exact."""

    name = "mul"
    exactness = Exactness.REAL_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, QuantizeOp) or not isinstance(mul := op.input.owner, MulOp):
            return None
        pair = [dequantized(mul.lhs, "lhs"), dequantized(mul.rhs, "rhs")]
        new: list[Operation] = []
        values: list[SSAValue] = []
        reach = 1
        for name, dq in zip(("lhs", "rhs"), pair, strict=True):
            require(dq.params.axis_index is None, f"{name} has a scale along axis {dq.params.axis_index}")
            zero, codes = dq.params.zero_point.number or 0, integer_of(dq.input)
            assert codes is not None
            reach *= max(abs(codes.lo - zero), abs(codes.hi - zero))
            values.append(dq.input)
            if zero:
                new.append(constant := ConstantOp(np.array(zero, codes.dtype), integer_element(codes)))
                new.append(centred := SubOp(dq.input, constant.result))
                values[-1] = centred.result
        require(reach <= IntType(32).hi, f"products reach {reach}, beyond i32")
        product = MulOp(values[0], values[1])
        scale = pair[0].params.scale.times(*pair[1].params.scale.above, over=pair[1].params.scale.below)
        form = RealAttr(_over(scale, op.params))
        zero_points = (ZeroPointAttr.of(0), op.params.zero_point)
        result = RequantizeOp(product.result, form, element_of(op.result), zero_points, None, op.rounding.data)
        return Rewrite([*new, product, result], [*pair, mul])


class Mean(IntegerRule):
    """q(mean(dq(x, s))) => requantize(sum of x) by s / (n u). Real-exact."""

    name = "mean"
    exactness = Exactness.REAL_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, QuantizeOp) or not isinstance(mean := op.input.owner, ReduceMeanOp):
            return None
        dq = dequantized(mean.input, "operand")
        axes, count = mean.axes.get_values(), mean.count
        require(dq.params.axis_index is None, f"operand has a scale along axis {dq.params.axis_index}")
        zero, codes = dq.params.zero_point.number or 0, integer_of(dq.input)
        assert codes is not None
        reach = count * max(abs(codes.lo), abs(codes.hi))
        require(reach <= IntType(32).hi, f"sums of {count} codes reach {reach}, beyond i32")
        total = ReduceSumOp(dq.input, axes, mean.keeps)
        scale = dq.params.scale.times(over=[float_value(float(count))])
        before = ZeroPointAttr.of(zero * count)
        form, element_type = RealAttr(_over(scale, op.params)), element_of(op.result)
        result = RequantizeOp(total.result, form, element_type, (before, op.params.zero_point), None, op.rounding.data)
        return Rewrite([total, result], [dq, mean])


class Relu(IntegerRule):
    """q(relu(dq(x))) => max(requantize(x), zero point): rounding keeps order, so both orders give the same. Real-exact."""

    name = "relu"
    exactness = Exactness.REAL_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, QuantizeOp) or not isinstance(relu := op.input.owner, ReluOp):
            return None
        dq = dequantized(relu.input, "operand")
        require(
            op.params.axis_index is None,
            f"the wanted codes have a scale along axis {op.params.axis_index}, one number is needed",
        )
        codes = _requantized(dq, op)
        return Rewrite([codes, ClipOp(codes.result, op.params.zero_point.number, None)], [dq, relu])


class Clip(IntegerRule):
    """q(clip(dq(x), low, high)) => clip(requantize(x), q(low), q(high)): rounding keeps order. Real-exact."""

    name = "clip"
    exactness = Exactness.REAL_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, QuantizeOp) or not isinstance(clip := op.input.owner, ClipOp):
            return None
        dq = dequantized(clip.input, "operand")
        wanted = codes_of(op.params, op.result, self.session(op).weights, "the result")

        def code(bound: float | None) -> int | None:
            if bound is None:
                return None
            nearest = round_fraction(Fraction(bound) / wanted.scale, op.rounding.data) + wanted.zero_point
            return min(max(nearest, wanted.type.lo), wanted.type.hi)

        low, high = (code(None if bound is None else float(bound)) for bound in clip.bounds)
        codes = _requantized(dq, op)
        return Rewrite([codes, ClipOp(codes.result, low, high)], [dq, clip])


class Argmax(IntegerRule):
    """argmax(dq(x, s)) => argmax(x), s one positive number: the order of codes is that of the real numbers. Real-exact."""

    name = "argmax"
    exactness = Exactness.REAL_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, ArgmaxOp) or not is_float(element_of(op.input)):
            return None
        dq = dequantized(op.input, "operand")
        codes_of(dq.params, dq.input, self.session(op).weights, "operand")
        return Rewrite([ArgmaxOp(dq.input, op.axis.value.data, op.keeps)], [dq])


class QuantizeOfMove(IntegerRule):
    """q(move(x)) => move(q(x)), x no dequantized value, q of one scale: the quantizer goes to what makes x. bit-exact."""

    name = "quantize-of-move"
    exactness = Exactness.BIT_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, QuantizeOp) or op.params.axis_index is not None:
            return None
        move = op.input.owner
        if not isinstance(move, ReshapeOp | TransposeOp | SliceOp | ConcatOp | BroadcastOp):
            return None
        new = [QuantizeOp(v, op.params, element_of(op.result), op.rounding.data) for v in move.operands]
        results = [q.result for q in new]
        match move:
            case ReshapeOp():
                moved: Operation = ReshapeOp(results[0], shape_of(op.result))
            case TransposeOp():
                moved = TransposeOp(results[0], move.order)
            case SliceOp():
                moved = SliceOp(results[0], *move.extent)
            case BroadcastOp():
                moved = BroadcastOp(results[0], shape_of(op.result))
            case ConcatOp():
                moved = ConcatOp(results, move.axis.value.data)
        return Rewrite([*new, moved], [move])


ARITHMETIC: tuple[type[IntegerRule], ...] = (QuantizeOfMove, Addition, Product, Mean, Relu, Clip, Argmax)
"""The rules that round once."""
