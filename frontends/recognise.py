"""Recognisers: from the plain operators that exporters write to the operations that they mean.

They work on the dialect, not on the source graph, so that every reader shares them. Each takes its pattern whole or
declines with a reason; what is left as plain float operations still runs. `recognise` applies all of them.

A recogniser replaces constants such as float32(sqrt 2) by the number that was meant: equal up to float rounding.
"""

from collections.abc import Iterator
from math import isclose, sqrt
from typing import TypeVar

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.pattern_rewriter import (
    GreedyRewritePatternApplier,
    PatternRewriter,
    PatternRewriteWalker,
    RewritePattern,
    op_type_rewrite_pattern,
)
from xdsl.rewriter import InsertPoint

from qvit.dialects.ops.elementwise import AddOp, DivOp, ErfOp, MulOp, PowOp, SqrtOp, SubOp
from qvit.dialects.ops.nonlinear import GeluOp, LayerNormOp, ReduceMeanOp
from qvit.dialects.ops.products import LinearOp, MatmulOp
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.ops.shape import ReshapeOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp, WeightOp
from qvit.dialects.provenance import Remark, describe, inherit, set_sources, sources
from qvit.dialects.semantics.integers import Array
from qvit.dialects.types import element_of, shape_of
from qvit.dialects.weights import Weights

OpT = TypeVar("OpT", bound=Operation)


class _Decline(Exception):
    """Raised inside a recogniser; the message is the reason."""


def _require(condition: object, reason: str) -> None:
    if not condition:
        raise _Decline(reason)


def _made_by(value: SSAValue, kind: type[OpT], what: str) -> OpT:
    """The operation of `kind` that makes `value`; declines, saying what stands there instead."""
    owner = value.owner
    if isinstance(owner, kind):
        return owner
    found = owner.name if isinstance(owner, Operation) else "a function argument"
    if isinstance(owner, QuantizeOp | DequantizeOp):
        raise _Decline(f"{what} is quantized ({describe(owner)})")
    raise _Decline(f"{what}: expected {kind.name}, found {found}")


def _only_user(value: SSAValue) -> Operation | None:
    uses = list(value.uses)
    return uses[0].operation if len(uses) == 1 else None


def _scalar(value: SSAValue, weights: Weights) -> float | None:
    """The number that a constant holds in all its elements, None if it is none or varies."""
    array = weights.array(value)
    return float(array.flat[0]) if array is not None and array.size == 1 else None


def _other(op: AddOp | MulOp, operand: SSAValue) -> SSAValue:
    return op.rhs if op.lhs is operand else op.lhs


def _layer_norm_core(div: DivOp, weights: Weights) -> tuple[SSAValue, int, float, list[Operation]]:
    """(x, axis, epsilon, operations) of (x - mean) / sqrt(var + epsilon)."""
    root = _made_by(div.rhs, SqrtOp, "the deviation")
    shifted = _made_by(root.input, AddOp, "the variance plus epsilon")
    epsilon = _scalar(shifted.rhs, weights)
    variance = shifted.lhs
    if epsilon is None:
        epsilon, variance = _scalar(shifted.lhs, weights), shifted.rhs
    if epsilon is None:
        raise _Decline("epsilon is not a constant number")
    squares_mean = _made_by(variance, ReduceMeanOp, "the variance")
    square = squares_mean.input.owner
    if isinstance(square, PowOp):
        _require(_scalar(square.rhs, weights) == 2, "the deviations are raised to another power than 2")
        centred = square.lhs
    else:
        product = _made_by(squares_mean.input, MulOp, "the squared deviations")
        _require(product.lhs is product.rhs, "the deviations are not squared but multiplied by something else")
        centred, square = product.lhs, product
    _require(centred is div.lhs, "the numerator and the variance are of different values")
    ops: list[Operation] = [square, squares_mean, shifted, root]
    turned = centred.owner if isinstance(centred.owner, TransposeOp) else None
    if turned is not None:  # an optimizer moved a transpose behind the subtraction
        centred = turned.input
    difference = _made_by(centred, SubOp, "the numerator")
    mean = _made_by(difference.rhs, ReduceMeanOp, "the mean")
    _require(mean.input is difference.lhs, "the mean is of another value than it is subtracted from")
    axes, rank = mean.axes.get_values(), len(shape_of(mean.input))
    _require(mean.keeps and squares_mean.keeps, "the reduced dimensions are dropped before they broadcast")
    if turned is not None:
        axes = tuple(sorted(turned.order.index(a) for a in axes))
    _require(axes == squares_mean.axes.get_values(), f"mean and variance are over different axes: {axes}")
    _require(list(axes) == list(range(rank - len(axes), rank)), f"axes {axes} are not the last ones")
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
        except _Decline as reason:
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
        scaled = _only_user(div.result)
        if not isinstance(scaled, MulOp) or not self._is_parameter(gamma := _other(scaled, div.result), shape):
            return [], None, None
        moved = _only_user(scaled.result)
        if not isinstance(moved, AddOp) or not self._is_parameter(beta := _other(moved, scaled.result), shape):
            return [scaled], gamma, None
        return [scaled, moved], gamma, beta

    def _is_parameter(self, value: SSAValue, shape: tuple[int, ...]) -> bool:
        return shape_of(value) == shape and isinstance(value.owner, ConstantOp | WeightOp)


def _factors(value: SSAValue, depth: int = 2) -> Iterator[SSAValue]:
    """The factors of a product, through multiplications that nothing else uses."""
    op = value.owner
    if isinstance(op, MulOp) and depth:
        for operand in (op.lhs, op.rhs):
            inner = operand.owner
            shared = not isinstance(inner, MulOp) or _only_user(operand) is not op
            yield from [operand] if shared else _factors(operand, depth - 1)
    else:
        yield value


class RecogniseGelu(RewritePattern):
    """x * (1 + erf(x / sqrt 2)) * 0.5, the factors in any order => gelu(x)."""

    rule = "gelu"

    def __init__(self, weights: Weights, declined: list[Remark]) -> None:
        self.weights, self.declined = weights, declined

    @op_type_rewrite_pattern
    def match_and_rewrite(self, erf: ErfOp, rewriter: PatternRewriter) -> None:
        try:
            x, product, ops = self._match(erf)
        except _Decline as reason:
            self.declined.append(Remark(describe(erf), self.rule, str(reason)))
            return
        new = GeluOp(x)
        inherit(new, *ops, product)
        rewriter.replace(product, new)

    def _match(self, erf: ErfOp) -> tuple[SSAValue, MulOp, list[Operation]]:
        x, inner = self._argument(erf)
        plus = _only_user(erf.result)
        if isinstance(plus, QuantizeOp):
            raise _Decline(f"erf is quantized ({describe(plus)})")
        if not isinstance(plus, AddOp):
            raise _Decline("erf is not followed by an addition alone")
        _require(_scalar(_other(plus, erf.result), self.weights) == 1, "erf is added to something else than 1")
        ops: list[Operation] = [inner, erf, plus]
        top = _only_user(plus.result)
        if isinstance(top, QuantizeOp):
            raise _Decline(f"1 + erf is quantized ({describe(top)})")
        while isinstance(top, MulOp):
            factors = list(_factors(top.result))
            rest = [f for f in factors if f is not plus.result]
            halves = [f for f in rest if _scalar(f, self.weights) == 0.5]
            if len(factors) == 3 and len(halves) == 1 and any(f is x for f in rest):
                inside = [operand.owner for operand in top.operands if not any(operand is f for f in factors)]
                return x, top, [*ops, *(op for op in inside if isinstance(op, MulOp))]
            top = _only_user(top.result)
        raise _Decline("1 + erf is not multiplied by the argument and 0.5")

    def _argument(self, erf: ErfOp) -> tuple[SSAValue, Operation]:
        scaled = erf.input.owner
        if isinstance(scaled, DivOp):
            number = _scalar(scaled.rhs, self.weights)
            _require(number and isclose(number, sqrt(2), rel_tol=1e-6), "the argument of erf is not divided by sqrt 2")
            return scaled.lhs, scaled
        product = _made_by(erf.input, MulOp, "the argument of erf")
        for factor, x in ((product.rhs, product.lhs), (product.lhs, product.rhs)):
            number = _scalar(factor, self.weights)
            if number and isclose(number, sqrt(0.5), rel_tol=1e-6):
                return x, product
        raise _Decline("the argument of erf is not multiplied by 1 / sqrt 2")


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
            if not isinstance(linear, LinearOp) or linear.bias is not None or _only_user(linear.result) is not op:
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
        if not isinstance(linear, LinearOp) or _only_user(linear.result) is not op:
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


def recognise(module: ModuleOp) -> list[Remark]:
    """Apply every recogniser to a freshly imported module; returns what was declined, in program order."""
    weights, declined = Weights(module), list[Remark]()
    shapes = GreedyRewritePatternApplier(
        [MatmulToLinear(weights), TransposeOfWeight(weights), BiasOfLinear(weights), LinearOfReshape()]
    )
    PatternRewriteWalker(shapes).rewrite_module(module)
    functions = GreedyRewritePatternApplier([RecogniseLayerNorm(weights, declined), RecogniseGelu(weights, declined)])
    PatternRewriteWalker(functions, apply_recursively=False).rewrite_module(module)
    # a walk that rewrites nothing removes what the recognised operations left without a use
    PatternRewriteWalker(GreedyRewritePatternApplier([])).rewrite_module(module)
    return declined
