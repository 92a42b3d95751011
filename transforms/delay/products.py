"""Dequantization goes behind the product: op(dq(a), dq(b)) => dq(op(a, b)) (Lin & Shah, section 3).

A scale passes a product when it does not vary along the contracted axis, and the integer product is taken only where
its accumulator provably cannot overflow. All are real-exact: the sums are the same real numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from xdsl.dialects.builtin import IntegerType
from xdsl.ir import Attribute, Operation, SSAValue

from qvit.dialects.attributes import QParamsAttr, ScaleAttr
from qvit.dialects.ops.elementwise import AddOp, DivOp, MulOp
from qvit.dialects.ops.products import Conv2dOp, ConvTranspose2dOp, LinearOp, MatmulOp
from qvit.dialects.ops.quantization import DequantizeOp
from qvit.dialects.ops.shape import ReshapeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import describe, set_sources, sources
from qvit.dialects.semantics.integers import Array, IntType, Rounding, magnitude, minus, widen
from qvit.dialects.semantics.quantization import along, round_near
from qvit.dialects.types import element_dtype, element_of, integer_of, is_float, shape_of
from qvit.dialects.weights import Weights
from qvit.transforms.rule import Declined, Exactness, Rewrite, Rule, Session, require


@dataclass(frozen=True)
class _Operand:
    """One operand of a product, and the axes that the product sums over."""

    name: str
    value: SSAValue
    contracted: tuple[int, ...]

    def problem(self) -> str | None:
        """Why a dequantize cannot pass it; None if it can."""
        owner = self.value.owner
        if not isinstance(owner, Operation):
            return f"operand not quantized: {self.name} is an argument of the function"
        if not isinstance(owner, DequantizeOp):
            return f"operand not quantized: {self.name} is made by {owner.name} at {describe(owner)}"
        if (axis := owner.params.axis_index) in self.contracted:
            return (
                f"scale along the contracted axis: {self.name}'s scale or zero point varies along axis {axis}, made by"
                f" {describe(owner)}; smoothing or re-parametrisation may remove it"
            )
        return None


def _dequantized(*operands: _Operand) -> list[DequantizeOp]:
    """The dequantize that makes each operand; Declined names every operand that cannot be passed."""
    problems = [problem for operand in operands if (problem := operand.problem()) is not None]
    if problems:
        raise Declined(*problems)
    return [owner for operand in operands if isinstance(owner := operand.value.owner, DequantizeOp)]


def _one_zero_point(params: QParamsAttr, operand: str) -> int:
    number, axis = params.zero_point.number, params.axis_index
    if number is None:
        raise Declined(f"{operand}'s zero point varies along axis {axis}; only one number is possible there")
    return number


def _largest_code(codes: SSAValue, zero_point: int, weights: Weights) -> int:
    """max |q - zero_point|: of the actual values of a constant, else of the whole type."""
    array = weights.array(codes)
    integer = integer_of(codes)
    assert integer is not None
    lo, hi = (int(array.min()), int(array.max())) if array is not None and array.size else (integer.lo, integer.hi)
    return max(abs(lo - zero_point), abs(hi - zero_point))


def _require_fits(reach: int, session: Session, what: str) -> IntegerType:
    """The accumulator type, if |sum| <= reach fits it; Declined with the numbers otherwise."""
    accumulator = IntType(session.accumulator_bits)
    require(
        reach <= accumulator.hi,
        f"the accumulator could overflow: {what} reach {reach}, {accumulator} ends at {accumulator.hi}",
    )
    return IntegerType(session.accumulator_bits)


class MatmulOfDequantize(Rule):
    """matmul(dq(a, s), dq(b, t)) => dq(matmul(a, b), s * t). real-exact.

    s is per tensor, per row or per batch index; t per tensor, per column or per batch index. Where s and t vary along
    different axes, s multiplies behind the dequantize.
    """

    name = "matmul-of-dequantize"
    exactness = Exactness.REAL_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, MatmulOp) or not is_float(element_of(op.lhs)):
            return None
        session = self.session(op)
        rank = len(shape_of(op.result))
        ranks = len(shape_of(op.lhs)), len(shape_of(op.rhs))
        a, b = _dequantized(_Operand("lhs", op.lhs, (ranks[0] - 1,)), _Operand("rhs", op.rhs, (ranks[1] - 2,)))
        za = _one_zero_point(a.params, "lhs")
        if b.params.axis_index != ranks[1] - 1:
            _one_zero_point(b.params, "rhs")
        depth = shape_of(op.lhs)[-1]
        zb = session.weights.zero_point(b.params.zero_point)
        reach_b = max(_largest_code(b.input, int(z), session.weights) for z in np.unique(zb))
        reach = depth * _largest_code(a.input, za, session.weights) * reach_b
        accumulator = _require_fits(reach, session, f"sums over {depth} products")
        left, right = (
            (p.scale, None if p.axis_index is None else p.axis_index + rank - r)
            for p, r in zip((a.params, b.params), ranks, strict=True)
        )
        scales = _combined(left, right, shape_of(op.result), element_of(op.result), session.weights)
        product = MatmulOp(a.input, b.input, (za, b.params.zero_point), accumulator)
        return Rewrite([product, *scales.apply(product.result, element_of(op.result))], [a, b])


@dataclass(frozen=True)
class _Scales:
    """What multiplies an accumulator: the parameters of one dequantize, and constants that multiply or divide behind it."""

    params: QParamsAttr
    behind: Sequence[tuple[type[MulOp] | type[DivOp], Array]] = ()

    def apply(self, acc: SSAValue, element: Attribute) -> list[Operation]:
        ops: list[Operation] = [DequantizeOp(acc, self.params, element)]
        for kind, values in self.behind:
            constant = ConstantOp(values, element)
            ops += [constant, kind(ops[-1].results[0], constant.result)]
        return ops


def _combined(
    left: tuple[ScaleAttr, int | None],
    right: tuple[ScaleAttr, int | None],
    shape: Sequence[int],
    element: Attribute,
    weights: Weights,
) -> _Scales:
    """s * t of (s, axis), (t, axis), the axes being those of the result; one scale where the vectors share an axis.

    Elsewhere s, or what is repeated along a longer dimension, multiplies behind: Declined if its numbers do not fit the
    element type of the result.
    """
    (s, s_axis), (t, t_axis) = ((scale, axis if scale.length is not None else None) for scale, axis in (left, right))
    repeated = [
        axis is not None and scale.length != shape[axis] for scale, axis in ((s, s_axis), (t, t_axis))
    ]  # a batch of one, broadcast
    if not any(repeated) and (s_axis is None or t_axis is None or s_axis == t_axis):
        axis = t_axis if s_axis is None else s_axis
        return _Scales(QParamsAttr.of(s.times(*t.above, over=t.below), 0, axis))
    inside, behind = (ScaleAttr.of(), [(s, s_axis), (t, t_axis)]) if repeated[1] else (t, [(s, s_axis)])
    constants: list[tuple[type[MulOp] | type[DivOp], Array]] = []
    dtype = element_dtype(element)
    for scale, axis in behind:
        sides = [(factor, MulOp) for factor in scale.above] + [(factor, DivOp) for factor in scale.below]
        for factor, kind in sides:
            values = weights.values(factor)
            require(
                np.array_equal(values.astype(dtype), values),
                f"scales along different axes: one has to multiply behind the product, and {factor} does not fit {element}",
            )
            constants.append((kind, along(values, axis, len(shape))))
    return _Scales(QParamsAttr.of(inside, 0, None if repeated[1] else t_axis), constants)


@dataclass(frozen=True)
class _Bias:
    """What becomes of a bias: it joins the accumulator as integers, or is added behind the dequantize."""

    integers: SSAValue | None = None
    new: tuple[Operation, ...] = ()
    behind: SSAValue | None = None
    reach: int = 0
    replaced: tuple[Operation, ...] = ()
    bound: float | None = None
    """By how much it is off, where it was rounded."""


def _exact_bias(dq: DequantizeOp, scale: ScaleAttr, weights: Weights) -> bool:
    """Whether a bias is stored as i32 at exactly the scale of the accumulator."""
    if dq.params.zero_point.number != 0 or integer_of(dq.input) != IntType(32):
        return False
    near = weights.scale(dq.params.scale), weights.scale(scale)
    if not np.allclose(*near, rtol=1e-12, atol=0):  # rational numbers are slow, and rarely needed to say no
        return False
    stored, wanted = weights.exact_scale(dq.params.scale), weights.exact_scale(scale)
    count = max(len(stored), len(wanted))
    return stored * (count // len(stored)) == wanted * (count // len(wanted))


class _LayerRule(Rule):
    """What linear layers and convolutions share: a weight with outputs along axis 0, and a bias."""

    exactness = Exactness.REAL_EXACT

    def layer(self, op: LinearOp | Conv2dOp, input_axes: Sequence[int], output_axis: int) -> Rewrite:
        """input_axes: the contracted axes of the input; output_axis: the result's channel axis."""
        weight_axes = range(1, len(shape_of(op.weight)))
        x, w = _dequantized(
            _Operand("input", op.input, tuple(input_axes)), _Operand("weight", op.weight, tuple(weight_axes))
        )
        session = self.session(op)
        zx = _one_zero_point(x.params, "input")
        left, right = (x.params.scale, x.params.axis_index), (w.params.scale, output_axis)
        element = element_of(op.result)
        scales = _combined(left, right, shape_of(op.result), element, session.weights)
        reach = self._reach(x, w, zx, session.weights)
        bias = self._bias(op, left, right, session)
        depth = int(np.prod(shape_of(op.weight)[1:]))
        accumulator = _require_fits(reach + bias.reach, session, f"sums over {depth} products")
        if isinstance(op, LinearOp):
            product = LinearOp(x.input, w.input, bias.integers, (zx, w.params.zero_point), accumulator)
        else:
            product = Conv2dOp(x.input, w.input, bias.integers, *op.geometry, (zx, w.params.zero_point), accumulator)
        new: list[Operation] = [*bias.new, product]
        new += scales.apply(product.result, element)
        if bias.behind is not None:
            new += _added(new[-1].results[0], bias.behind, output_axis)
        also = None if bias.bound is None else ("round-bias", Exactness.BOUNDED, bias.bound)
        return Rewrite(new, [x, w, *bias.replaced], also=also)

    def _reach(self, x: DequantizeOp, w: DequantizeOp, zx: int, weights: Weights) -> int:
        """The largest |sum (x - zx)(w - zw)| for any input codes, from the actual weights where they are constant."""
        largest = _largest_code(x.input, zx, weights)
        zw = weights.zero_point(w.params.zero_point)
        codes = weights.array(w.input)
        if codes is None:
            depth = int(np.prod(shape_of(w.input)[1:]))
            return largest * depth * max(_largest_code(w.input, int(z), weights) for z in np.unique(zw))
        size = codes.dtype.itemsize  # sums of magnitudes are taken in integers of twice the width at least
        rows = codes.reshape(codes.shape[0], -1).astype(np.int32 if size < 4 else np.int64 if size < 8 else object)
        if zw.any():
            rows = rows - (zw[:, None] if zw.ndim else zw)
        return largest * int(np.abs(rows).sum(axis=1, dtype=np.int64 if size < 8 else object).max())

    def _bias(
        self,
        op: LinearOp | Conv2dOp,
        left: tuple[ScaleAttr, int | None],
        right: tuple[ScaleAttr, int | None],
        session: Session,
    ) -> _Bias:
        """bias stored at exactly s * t joins the accumulator; another one stays a float addition, or joins rounded."""
        if op.bias is None:
            return _Bias()
        (s, s_axis), (t, _) = left, right
        dq = op.bias.owner if isinstance(op.bias.owner, DequantizeOp) else None
        if s.length is None or s_axis is None:
            scale = s.times(*t.above, over=t.below)
            if dq is not None and _exact_bias(dq, scale, session.weights):
                joined = self._joined(dq, session)
                if joined is not None:
                    return joined
            if session.allow_bounded and (rounded := self._rounded(op.bias, dq, scale, session)):
                return rounded
        return _Bias(behind=op.bias)

    def _joined(self, dq: DequantizeOp, session: Session) -> _Bias | None:
        """The bias's own codes, in the accumulator's type; None where only a constant could be widened to it."""
        reach = _largest_code(dq.input, 0, session.weights)
        if session.accumulator_bits == 32:
            return _Bias(dq.input, reach=reach, replaced=(dq,))
        codes = session.weights.array(dq.input)
        if codes is None:
            return None
        wide = ConstantOp(codes.astype(np.int64))
        if isinstance(dq.input.owner, Operation):
            set_sources(wide, sources(dq.input.owner))
        return _Bias(wide.result, (wide,), None, reach, (dq,))

    def _rounded(self, bias: SSAValue, dq: DequantizeOp | None, scale: ScaleAttr, session: Session) -> _Bias | None:
        """round(bias / (s * t)) in the accumulator's type: off by at most half a step of it."""
        weights = session.weights
        stored = weights.array(bias if dq is None else dq.input)
        if stored is None or not np.isfinite(stored).all():
            return None
        steps = np.broadcast_to(weights.scale(scale), stored.shape)
        if not steps.all():
            return None
        params = None if dq is None else dq.params
        zero = weights.zero_point(None if params is None else params.zero_point)
        numbers = stored if params is None else minus(widen(stored), zero)
        units = np.broadcast_to(np.ones(1) if params is None else weights.scale(params.scale), stored.shape)
        near = numbers.astype(np.float64) * units / steps  # each factor of a scale rounds once: less than 2^-50 in all

        def exact(index: tuple[int, ...]) -> Fraction:
            above = Fraction(1) if params is None else _at(weights.exact_scale(params.scale), index[0])
            return Fraction(numbers[index].item()) * above / _at(weights.exact_scale(scale), index[0])

        codes = round_near(near, np.abs(near), exact, Rounding.HALF_EVEN)
        reach = magnitude(codes)
        accumulator = IntType(session.accumulator_bits)
        if reach > accumulator.hi:
            return None
        constant = ConstantOp(codes.astype(accumulator.dtype))
        bound = float(np.abs(steps).max() / 2)
        return _Bias(constant.result, (constant,), None, reach, () if dq is None else (dq,), bound)


def _at(values: Sequence[Fraction], index: int) -> Fraction:
    """Of one value for all, or one for each."""
    return values[index if len(values) > 1 else 0]


def _added(value: SSAValue, bias: SSAValue, axis: int) -> list[Operation]:
    """value + bias, the bias along `axis`."""
    rank = len(shape_of(value))
    if axis == rank - 1:
        return [AddOp(value, bias)]
    laid = ReshapeOp(bias, [shape_of(bias)[0] if i == axis else 1 for i in range(axis, rank)])
    if isinstance(bias.owner, Operation):
        set_sources(laid, sources(bias.owner))
    return [laid, AddOp(value, laid.result)]


class LinearOfDequantize(_LayerRule):
    """linear(dq(x, s), dq(W, t), b) => dq(linear(x, W), s * t) + b. real-exact.

    s is per tensor or per row; t per tensor or per output. b joins the accumulator where it is stored as integers at
    exactly s * t, or, if bounded rewrites are allowed, rounded to it.
    """

    name = "linear-of-dequantize"

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, LinearOp) or not is_float(element_of(op.input)):
            return None
        rank = len(shape_of(op.input))
        return self.layer(op, [rank - 1], rank - 1)


class Conv2dOfDequantize(_LayerRule):
    """conv2d(dq(x, s), dq(W, t), b) => dq(conv2d(x, W), s * t) + b. real-exact.

    s is per tensor or per image; t per tensor or per output channel; padding is of code zero_point. b as for linear.
    """

    name = "conv2d-of-dequantize"

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, Conv2dOp) or not is_float(element_of(op.input)):
            return None
        return self.layer(op, [1, 2, 3], 1)


class ConvTranspose2dStays(Rule):
    """A transposed convolution has no integer form: it stays in float, and the report says so."""

    name = "conv_transpose2d-of-dequantize"
    exactness = Exactness.REAL_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if isinstance(op, ConvTranspose2dOp):
            _dequantized(_Operand("input", op.input, (1,)), _Operand("weight", op.weight, (0,)))
            raise Declined("conv_transpose2d has no integer form")
        return None


PRODUCTS: tuple[type[Rule], ...] = (MatmulOfDequantize, LinearOfDequantize, Conv2dOfDequantize, ConvTranspose2dStays)
"""The rules that move a dequantize behind products."""
