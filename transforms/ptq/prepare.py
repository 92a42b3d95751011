"""Before quantization: every projection a linear layer of its own, constant factors in its weights. All on floats.

A fused projection (qkv) is split, so that each part gets its own scale, and factors (LayerScale, the attention scale) go
into weights, whose scales absorb them. Equal over the reals; the new weights are rounded to their float type.
"""

from collections.abc import Sequence

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.pattern_rewriter import GreedyRewritePatternApplier, PatternRewriteWalker

from qvit.dialects.ops.elementwise import AddOp, DivOp, MulOp
from qvit.dialects.ops.nonlinear import BatchNormOp, LayerNormOp
from qvit.dialects.ops.products import Conv2dOp, LinearOp, MatmulOp
from qvit.dialects.ops.shape import GatherOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import set_sources, sources
from qvit.dialects.semantics.integers import Array
from qvit.dialects.semantics.quantization import lengthwise
from qvit.dialects.semantics.shape import slice_
from qvit.dialects.types import element_dtype, element_of, is_float, shape_of
from qvit.dialects.weights import Weights
from qvit.transforms.ptq.masks import GuardOfMask, HardMask
from qvit.transforms.rule import Exactness, Rewrite, Rule, Session


def constant_like(value: SSAValue, array: Array) -> ConstantOp:
    """A constant that takes the place of `value`: its element type and source nodes."""
    element = element_of(value)
    new = ConstantOp(array.astype(element_dtype(element)), element)
    if isinstance(value.owner, Operation):
        set_sources(new, sources(value.owner))
    return new


def only_use(value: SSAValue) -> bool:
    return len(list(value.uses)) == 1


class SliceOfTranspose(Rule):
    """slice(transpose(x, p), a) => transpose(slice(x, p[a]), p), on floats. bit-exact."""

    name = "slice-of-transpose"
    exactness = Exactness.BIT_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, SliceOp) or not isinstance(inner := op.input.owner, TransposeOp):
            return None
        if not is_float(element_of(op.result)):
            return None
        axis, start, size, step = op.extent
        part = SliceOp(inner.input, inner.order[axis], start, size, step)
        return Rewrite([part, TransposeOp(part.result, inner.order)], [inner])


class SliceOfReshape(Rule):
    """slice(reshape(x), a) => reshape(slice(x, last axis)), where `a` is the first part into which x's last axis splits.

    On floats, and with step 1. bit-exact.
    """

    name = "slice-of-reshape"
    exactness = Exactness.BIT_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, SliceOp) or not isinstance(inner := op.input.owner, ReshapeOp):
            return None
        before, after = shape_of(inner.input), shape_of(inner.result)
        axis, start, size, step = op.extent
        inside = int(np.prod(after[axis + 1 :]))
        splits_last = after[:axis] == before[:-1] and after[axis] * inside == before[-1]
        if not splits_last or step != 1 or not is_float(element_of(op.result)):
            return None
        part = SliceOp(inner.input, len(before) - 1, start * inside, size * inside, 1)
        return Rewrite([part, ReshapeOp(part.result, shape_of(op.result))], [inner])


class SliceOfLinear(Rule):
    """slice(linear(x, W, b), last axis) => linear(x, W[rows], b[rows]), on floats. bit-exact."""

    name = "slice-of-linear"
    exactness = Exactness.BIT_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, SliceOp) or not isinstance(inner := op.input.owner, LinearOp):
            return None
        weights = self.session(op).weights
        axis, start, size, step = op.extent
        matrix = weights.array(inner.weight)
        if axis != len(shape_of(op.result)) - 1 or matrix is None or not is_float(element_of(op.result)):
            return None
        if not all(isinstance(use.operation, SliceOp) for use in inner.result.uses):
            return None  # whole rows are needed too: both would be computed
        rows = range(start, start + size * step, step)
        new: list[Operation] = [weight := constant_like(inner.weight, matrix[rows])]
        bias = None
        if inner.bias is not None:
            vector = weights.array(inner.bias)
            if vector is None:
                return None
            new.append(bias := constant_like(inner.bias, vector[rows]))
        return Rewrite([*new, LinearOp(inner.input, weight.result, None if bias is None else bias.result)], [inner])


class GatherOne(Rule):
    """gather(x, i, axis), i one constant index => reshape(slice(x, axis)), on floats. bit-exact."""

    name = "gather-one"
    exactness = Exactness.BIT_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, GatherOp) or not is_float(element_of(op.result)):
            return None
        weights = self.session(op).weights
        indices = weights.array(op.indices)
        if indices is None or indices.size != 1 or weights.array(op.input) is not None:
            return None
        part = SliceOp(op.input, op.axis.value.data, int(indices.reshape(())), 1)
        return Rewrite([part, ReshapeOp(part.result, shape_of(op.result))])


def _factor(op: Operation, weights: Weights) -> tuple[SSAValue, Array] | None:
    """(value, constant) of value * constant or value / constant."""
    if not isinstance(op, MulOp | DivOp) or not is_float(element_of(op.result)):
        return None
    pairs = [(op.lhs, op.rhs)] if isinstance(op, DivOp) else [(op.lhs, op.rhs), (op.rhs, op.lhs)]
    for value, constant in pairs:
        array = weights.array(constant)
        if array is not None and weights.array(value) is None and shape_of(value) == shape_of(op.result):
            array = array.astype(np.float64)
            return value, 1 / array if isinstance(op, DivOp) else array
    return None


class FactorOfMove(Rule):
    """move(x) * c => move(x * c), c one number, or a vector along the last axis of a reshape that keeps it. bit-exact.

    move is a reshape or a transpose; not a slice: the layer before that may have other parts, and is split first.
    """

    name = "factor-of-move"
    exactness = Exactness.BIT_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        found = _factor(op, self.session(op).weights)
        if found is None or not isinstance(op, MulOp | DivOp):
            return None
        value, constant = found
        move = value.owner
        if not isinstance(move, ReshapeOp | TransposeOp) or not only_use(value):
            return None
        last = shape_of(op.result)[-1:]
        keeps_last = isinstance(move, ReshapeOp) and shape_of(move.input)[-1:] == last == constant.shape[-1:]
        if constant.size != 1 and not (keeps_last and constant.size == last[0]):
            return None
        number = constant_like(op.result, constant.reshape(() if constant.size == 1 else last))
        scaled = MulOp(move.input, number.result)
        moved = move.clone({move.input: scaled.result})
        return Rewrite([number, scaled, moved], [move])


class FactorOfLayer(Rule):
    """linear(x, W, b) * c => linear(x, W c, b c), c a number or one an output; likewise conv2d. Real-exact.

    The products W c are rounded to the type of the weights.
    """

    name = "factor-of-layer"
    exactness = Exactness.REAL_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        session = self.session(op)
        found = _factor(op, session.weights)
        if found is None or not isinstance(layer := found[0].owner, LinearOp | Conv2dOp) or not only_use(found[0]):
            return None
        channel = 1 if isinstance(layer, Conv2dOp) else len(shape_of(layer.result)) - 1
        laid = lengthwise(found[1], len(shape_of(layer.result)))
        if laid is None or laid[1] not in (None, channel):
            return None
        return _scaled(layer, laid[0], None, session)


class FactorOfNorm(Rule):
    """layer_norm(x, gamma, beta) * c => layer_norm(x, gamma c, beta c), c a number or one a channel. Real-exact."""

    name = "factor-of-norm"
    exactness = Exactness.REAL_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        weights = self.session(op).weights
        found = _factor(op, weights)
        if found is None or not isinstance(norm := found[0].owner, LayerNormOp) or not only_use(found[0]):
            return None
        last = len(shape_of(norm.result)) - 1
        laid = lengthwise(found[1], last + 1)
        arrays = [weights.array(v) for v in norm.operands[1:]]
        if (
            laid is None
            or laid[1] not in (None, last)
            or norm.axis.value.data != last
            or any(a is None for a in arrays)
        ):
            return None
        new = [constant_like(v, np.asarray(a) * laid[0]) for v, a in zip(norm.operands[1:], arrays, strict=True)]
        gamma, beta = new[0].result, new[1].result if len(new) > 1 else None
        return Rewrite([*new, LayerNormOp(norm.input, gamma, beta, norm.epsilon.value.data, last)], [norm])


class FactorOfMatmul(Rule):
    """matmul(a, b) * c => matmul(a * c, b), c one number, where a layer or norm makes a, moved at most. Real-exact."""

    name = "factor-of-matmul"
    exactness = Exactness.REAL_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        found = _factor(op, self.session(op).weights)
        if found is None or found[1].size != 1 or not isinstance(product := found[0].owner, MatmulOp):
            return None
        value = product.lhs
        while only_use(value) and isinstance(move := value.owner, ReshapeOp | TransposeOp):
            value = move.input
        if (
            not only_use(found[0])
            or not only_use(value)
            or not isinstance(value.owner, LinearOp | Conv2dOp | LayerNormOp)
        ):
            return None
        number = constant_like(op.results[0], found[1].reshape(()))
        scaled = MulOp(product.lhs, number.result)
        return Rewrite([number, scaled, MatmulOp(scaled.result, product.rhs)], [product])


def _scaled(layer: LinearOp | Conv2dOp, factor: Array, offset: Array | None, session: Session) -> Rewrite | None:
    """The layer with its outputs times `factor` plus `offset`, each a number or one an output."""
    matrix = session.weights.array(layer.weight)
    vector = None if layer.bias is None else session.weights.array(layer.bias)
    if matrix is None or (layer.bias is not None and vector is None):
        return None
    rows = np.broadcast_to(factor, matrix.shape[:1])
    new: list[Operation] = [weight := constant_like(layer.weight, matrix * rows.reshape(-1, *[1] * (matrix.ndim - 1)))]
    total = (0 if vector is None else vector * rows) + (0 if offset is None else offset)
    bias = None
    if layer.bias is not None or offset is not None:
        new.append(bias := constant_like(layer.weight if layer.bias is None else layer.bias, np.asarray(total)))
    operand = None if bias is None else bias.result
    if isinstance(layer, LinearOp):
        new.append(LinearOp(layer.input, weight.result, operand))
    else:
        new.append(Conv2dOp(layer.input, weight.result, operand, *layer.geometry))
    return Rewrite(new, [layer])


class BiasOfLayer(Rule):
    """linear(x, W, b) + c => linear(x, W, b + c), c one an output; likewise conv2d. Real-exact: b + c is rounded."""

    name = "bias-of-layer"
    exactness = Exactness.REAL_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, AddOp):
            return None
        session = self.session(op)
        for value, other in ((op.lhs, op.rhs), (op.rhs, op.lhs)):
            array, layer, rank = session.weights.array(other), value.owner, len(shape_of(op.result))
            if array is None or not isinstance(layer, LinearOp | Conv2dOp) or shape_of(value) != shape_of(op.result):
                continue
            channel = 1 if isinstance(layer, Conv2dOp) else rank - 1
            laid = lengthwise(array.astype(np.float64), rank)
            if laid is not None and laid[1] in (None, channel) and only_use(value):
                return _scaled(layer, np.ones(()), np.broadcast_to(laid[0], shape_of(value)[channel]), session)
        return None


class SliceOfConstant(Rule):
    """slice(constant) => constant, on floats. bit-exact."""

    name = "slice-of-constant"
    exactness = Exactness.BIT_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, SliceOp) or not is_float(element_of(op.result)):
            return None
        array = self.session(op).weights.array(op.input)
        return None if array is None else Rewrite([constant_like(op.input, slice_(array, *op.extent))])


class BatchNormOfConv(Rule):
    """batch_norm(conv2d(x, W, b)) => conv2d(x, W f, b f + o), f = gamma / sqrt(variance + epsilon). Real-exact."""

    name = "batch-norm-of-conv"
    exactness = Exactness.REAL_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if (
            not isinstance(op, BatchNormOp)
            or not isinstance(layer := op.input.owner, Conv2dOp)
            or not only_use(op.input)
        ):
            return None
        session = self.session(op)
        arrays = [session.weights.array(v) for v in (op.gamma, op.beta, op.mean, op.variance)]
        if any(a is None for a in arrays):
            return None
        gamma, beta, mean, variance = (np.asarray(a, np.float64) for a in arrays)
        factor = gamma / np.sqrt(variance + op.epsilon.value.data)
        return _scaled(layer, factor, beta - mean * factor, session)


RULES: Sequence[type[Rule]] = (
    SliceOfTranspose,
    SliceOfReshape,
    SliceOfLinear,
    GatherOne,
    FactorOfMove,
    FactorOfLayer,
    FactorOfNorm,
    FactorOfMatmul,
    BatchNormOfConv,
    SliceOfConstant,
    BiasOfLayer,
    HardMask,
    GuardOfMask,
)


def prepare(module: ModuleOp) -> Session:
    """Apply all rules; the session has their counts."""
    session = Session(Weights(module))
    PatternRewriteWalker(GreedyRewritePatternApplier([rule(session) for rule in RULES])).rewrite_module(module)
    # a walk that rewrites nothing removes what is left without a use
    PatternRewriteWalker(GreedyRewritePatternApplier([])).rewrite_module(module)
    return session
