"""Weights and the linear layers that they belong to."""

import numpy as np
from xdsl.ir import Operation, SSAValue
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from qvit.dialects.attributes import QParamsAttr, ScaleAttr, float_value
from qvit.dialects.ops.elementwise import AddOp, MulOp, SubOp
from qvit.dialects.ops.products import LinearOp, MatmulOp
from qvit.dialects.ops.quantization import DequantizeOp
from qvit.dialects.ops.shape import ReshapeOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import Remark, describe, inherit, set_sources, sources
from qvit.dialects.semantics.integers import Array
from qvit.dialects.semantics.quantization import lengthwise
from qvit.dialects.types import element_of, integer_of, shape_of
from qvit.dialects.weights import Weights
from qvit.frontends.recognise.matching import Decline, only_user, require


def _weight_of(value: SSAValue, weights: Weights) -> tuple[DequantizeOp | None, Array] | None:
    """(dequantize, codes) of a quantized weight, (None, numbers) of a float one, None for anything else."""
    owner = value.owner
    if isinstance(owner, DequantizeOp):
        codes = weights.array(owner.input)
        return None if codes is None else (owner, codes)
    array = weights.array(value)
    return None if array is None else (None, array)


class TransposeOfWeight(RewritePattern):
    """transpose(weight) => the weight, stored transposed; a dequantize between them keeps its scale's axis. bit-exact."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: TransposeOp, rewriter: PatternRewriter) -> None:
        found = _weight_of(op.input, self.weights)
        if found is None:
            return
        dequantize, array = found
        source = (dequantize.input if dequantize else op.input).owner
        assert isinstance(source, Operation)
        stored = ConstantOp(array.transpose(op.order), element_of(source.results[0]))
        set_sources(stored, sources(source))
        new: list[Operation] = [stored]
        if dequantize is not None:
            axis = dequantize.params.axis_index
            params = dequantize.params.with_axis(None if axis is None else op.order.index(axis))
            new.append(DequantizeOp(stored.result, params, element_of(op.result)))
            inherit(new[-1], dequantize)
        inherit(new[-1], op)
        for made, old in zip(reversed(new), (op.input, source.results[0]), strict=False):
            made.results[0].name_hint = old.name_hint
        rewriter.replace(op, new)


class MatmulToLinear(RewritePattern):
    """matmul(x, W) => linear(x, W^T), W a weight [K, N]. bit-exact."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: MatmulOp, rewriter: PatternRewriter) -> None:
        if len(shape_of(op.rhs)) != 2 or _weight_of(op.rhs, self.weights) is None:
            return
        turned = TransposeOp(op.rhs, [1, 0])
        new = LinearOp(op.lhs, turned.result)
        inherit(new, op)
        rewriter.replace(op, [turned, new])


class BiasOfLinear(RewritePattern):
    """add(linear(x, W), b) => linear(x, W, b), b a weight [N]. real-exact."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: AddOp, rewriter: PatternRewriter) -> None:
        for linear_value, bias in ((op.lhs, op.rhs), (op.rhs, op.lhs)):
            linear = linear_value.owner
            if not isinstance(linear, LinearOp) or linear.bias is not None or only_user(linear.result) is not op:
                continue
            if shape_of(bias) != (shape_of(linear.weight)[0],) or _weight_of(bias, self.weights) is None:
                continue
            new = LinearOp(linear.input, linear.weight, bias)
            inherit(new, linear, op)
            rewriter.replace(op, new)
            return


class LinearOfReshape(RewritePattern):
    """reshape(linear(reshape(x), W)) => linear(x, W) where the reshapes only fold and unfold the rows. bit-exact."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: ReshapeOp, rewriter: PatternRewriter) -> None:
        linear = op.input.owner
        if not isinstance(linear, LinearOp) or only_user(linear.result) is not op:
            return
        before = linear.input.owner
        if not isinstance(before, ReshapeOp):
            return
        outer, inner = shape_of(before.input), shape_of(before.result)
        if outer[-1] != inner[-1] or shape_of(op.result) != (*outer[:-1], shape_of(linear.weight)[0]):
            return
        new = LinearOp(before.input, linear.weight, linear.bias)
        inherit(new, before, linear, op)
        rewriter.replace(op, new)


def _stored_codes(value: SSAValue, weights: Weights) -> DequantizeOp | None:
    """The dequantize of constant codes at scale 1: a weight that is stored as integers and cast."""
    dq = value.owner
    cast = isinstance(dq, DequantizeOp) and dq.params.scale == ScaleAttr.of() and weights.array(dq.input) is not None
    return dq if isinstance(dq, DequantizeOp) and cast else None


class QuantizedWeight(RewritePattern):
    """(float(q) - z) * s => dequantize(q, s, z), q constant integers, s and z constants along one axis. bit-exact."""

    rule = "quantized weight"

    def __init__(self, weights: Weights, declined: list[Remark]) -> None:
        self.weights, self.declined = weights, declined

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if not isinstance(op, MulOp | SubOp):
            return
        for value, constant in [(op.lhs, op.rhs), (op.rhs, op.lhs)][: 1 + isinstance(op, MulOp)]:
            dq, numbers = _stored_codes(value, self.weights), self.weights.array(constant)
            if dq is None or numbers is None:
                continue
            try:
                params = self._params(op, dq, numbers)
            except Decline as reason:
                self.declined.append(Remark(describe(op), self.rule, str(reason)))
                return
            new = DequantizeOp(dq.input, params, element_of(op.result))
            inherit(new, dq, op)
            rewriter.replace(op, new)
            return

    def _params(self, op: MulOp | SubOp, dq: DequantizeOp, numbers: Array) -> QParamsAttr:
        rank, before = len(shape_of(dq.result)), dq.params
        found = lengthwise(numbers, rank)
        require(found and shape_of(op.result) == shape_of(dq.result), f"its constant has shape {numbers.shape}")
        assert found is not None
        values, axis = found
        if isinstance(op, MulOp):
            require(np.isfinite(values).all() and (values > 0).all(), "the scale is not positive and finite")
            require(
                before.axis_index in (None, axis) or axis is None, "zero points and scale vary along different axes"
            )
            return before.with_scale(ScaleAttr.of(float_value(values)), before.axis_index if axis is None else axis)
        codes = integer_of(dq.input)
        assert codes is not None
        require(before.zero_point.number == 0, "zero points are subtracted twice")
        whole = (values == np.rint(values)).all() and codes.lo <= values.min() and values.max() <= codes.hi
        require(whole, f"what is subtracted is no zero point of {codes} ({codes.lo}..{codes.hi})")
        return QParamsAttr.of(before.scale, values.astype(np.int64), axis)
