"""LayerNorm, as exporters write it before opset 17."""

import numpy as np
from xdsl.ir import Operation, SSAValue
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern
from xdsl.rewriter import InsertPoint

from qvit.dialects.ops.elementwise import AddOp, DivOp, MulOp, PowOp, SqrtOp, SubOp
from qvit.dialects.ops.nonlinear import LayerNormOp, ReduceMeanOp
from qvit.dialects.ops.shape import TransposeOp
from qvit.dialects.ops.weights import ConstantOp, WeightOp
from qvit.dialects.provenance import Remark, describe, inherit
from qvit.dialects.types import element_of, shape_of
from qvit.dialects.weights import Weights
from qvit.frontends.recognise.matching import Decline, made_by, only_user, other, require, scalar


def _layer_norm_core(div: DivOp, weights: Weights) -> tuple[SSAValue, int, float, list[Operation]]:
    """(x, axis, epsilon, operations) of (x - mean) / sqrt(var + epsilon)."""
    root = made_by(div.rhs, SqrtOp, "the deviation")
    shifted = made_by(root.input, AddOp, "the variance plus epsilon")
    epsilon = scalar(shifted.rhs, weights)
    variance = shifted.lhs
    if epsilon is None:
        epsilon, variance = scalar(shifted.lhs, weights), shifted.rhs
    if epsilon is None:
        raise Decline("epsilon is not a constant number")
    squares_mean = made_by(variance, ReduceMeanOp, "the variance")
    square = squares_mean.input.owner
    if isinstance(square, PowOp):
        require(scalar(square.rhs, weights) == 2, "the deviations are raised to another power than 2")
        centred = square.lhs
    else:
        product = made_by(squares_mean.input, MulOp, "the squared deviations")
        require(product.lhs is product.rhs, "the deviations are not squared but multiplied by something else")
        centred, square = product.lhs, product
    require(centred is div.lhs, "the numerator and the variance are of different values")
    ops: list[Operation] = [square, squares_mean, shifted, root]
    turned = centred.owner if isinstance(centred.owner, TransposeOp) else None
    if turned is not None:  # an optimizer moved a transpose behind the subtraction
        centred = turned.input
    difference = made_by(centred, SubOp, "the numerator")
    mean = made_by(difference.rhs, ReduceMeanOp, "the mean")
    require(mean.input is difference.lhs, "the mean is of another value than it is subtracted from")
    axes, rank = mean.axes.get_values(), len(shape_of(mean.input))
    require(mean.keeps and squares_mean.keeps, "the reduced dimensions are dropped before they broadcast")
    if turned is not None:
        axes = tuple(sorted(turned.order.index(a) for a in axes))
    require(axes == squares_mean.axes.get_values(), f"mean and variance are over different axes: {axes}")
    require(list(axes) == list(range(rank - len(axes), rank)), f"axes {axes} are not the last ones")
    ops = [*([] if turned is None else [turned]), mean, difference, *ops]
    return mean.input, rank - len(axes), epsilon, ops


class RecogniseLayerNorm(RewritePattern):
    """(x - mean) / sqrt(mean((x - mean)^2) + eps) [* gamma [+ beta]] => layer_norm(x, gamma, beta)."""

    rule = "layer_norm"

    def __init__(self, weights: Weights, declined: list[Remark]) -> None:
        self.weights, self.declined = weights, declined

    @op_type_rewrite_pattern
    def match_and_rewrite(self, div: DivOp, rewriter: PatternRewriter) -> None:
        if not isinstance(div.rhs.owner, SqrtOp):
            return
        try:
            x, axis, epsilon, ops = _layer_norm_core(div, self.weights)
        except Decline as reason:
            self.declined.append(Remark(describe(div), self.rule, str(reason)))
            return
        turned = ops[0] if isinstance(ops[0], TransposeOp) else None
        shape = shape_of(div.result)[axis:]
        last, gamma, beta = self._affine(div, shape)
        replaced = [*ops, *dict.fromkeys([div, *last])]
        new: list[Operation] = []
        if turned is not None:
            x = self._turned(x, turned, rewriter)
        if gamma is None:
            ones = ConstantOp(np.ones(shape, np.float32), element_of(x))
            new.append(ones)
            gamma = ones.result
        norm = LayerNormOp(x, gamma, beta, epsilon, axis)
        inherit(norm, *replaced)
        root = replaced[-1]
        rewriter.insert([*new, norm], InsertPoint.before(root))
        rewriter.replace(root, [], [norm.result])

    def _turned(self, x: SSAValue, turned: TransposeOp, rewriter: PatternRewriter) -> SSAValue:
        """x transposed as `turned` is; the operation that does so already, if there is one, else a new one."""
        present = [use.operation for use in x.uses if isinstance(use.operation, TransposeOp)]
        same = next((op for op in present if op.order == turned.order), None)
        if same is None:
            same = TransposeOp(x, turned.order)
            inherit(same, turned)
        else:
            same.detach()  # it may stand behind the normalization
        after = InsertPoint.after(x.owner) if isinstance(x.owner, Operation) else InsertPoint.at_start(x.owner)
        rewriter.insert(same, after)
        return same.result

    def _affine(self, div: DivOp, shape: tuple[int, ...]) -> tuple[list[Operation], SSAValue | None, SSAValue | None]:
        """The multiplication by gamma and addition of beta that follow, as far as they are there."""
        scaled = only_user(div.result)
        if not isinstance(scaled, MulOp) or not self._is_parameter(gamma := other(scaled, div.result), shape):
            return [], None, None
        moved = only_user(scaled.result)
        if not isinstance(moved, AddOp) or not self._is_parameter(beta := other(moved, scaled.result), shape):
            return [scaled], gamma, None
        return [scaled, moved], gamma, beta

    def _is_parameter(self, value: SSAValue, shape: tuple[int, ...]) -> bool:
        return shape_of(value) == shape and isinstance(value.owner, ConstantOp | WeightOp)
