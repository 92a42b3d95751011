"""What the codes of a module stand for: scales and zero points, from where they are stated to where they follow.

Quantize and dequantize state them; requantize, products and operations that move elements carry them on, both ways. The
numbers are for people to read: they are computed in float64.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Operation, SSAValue

from qvit.dialects.attributes import DyadicAttr, Form, PotAttr, QParamsAttr, ZeroPointAttr
from qvit.dialects.functions import stages
from qvit.dialects.ops.products import Conv2dOp, LinearOp, MatmulOp
from qvit.dialects.ops.quantization import AddRequantOp, DequantizeOp, QuantizeOp, RequantizeOp
from qvit.dialects.ops.shape import BroadcastOp, ConcatOp, GatherOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.semantics.integers import Array
from qvit.dialects.types import element_of, int_type, shape_of
from qvit.dialects.weights import Weights


@dataclass(frozen=True)
class Codes:
    """real = (code - zero_point) * scale; scale and zero point are 0-d, or vectors along `axis`."""

    scale: Array
    zero_point: Array
    axis: int | None = None

    @staticmethod
    def of(scale: Array, zero_point: Array, axis: int | None) -> "Codes":
        """The axis is dropped when nothing varies along it."""
        return Codes(scale, zero_point, axis if scale.ndim or zero_point.ndim else None)

    def real_range(self, lo: int, hi: int) -> tuple[float, float]:
        """The lowest and highest real number that codes lo..hi stand for, over all channels."""
        ends = [(code - self.zero_point) * self.scale for code in (lo, hi)]
        return float(np.min(ends)), float(np.max(ends))


Known: TypeAlias = dict[SSAValue, Codes]
ZERO = np.array(0, np.int64)
_MOVES = (ReshapeOp, TransposeOp, SliceOp, GatherOp, BroadcastOp, ConcatOp)


def codes_of(module: ModuleOp, told: Mapping[SSAValue, Codes] | None = None) -> Known:
    """The codes of every integer value of which the module tells; `told`: those that are known from elsewhere."""
    weights = Weights(module)
    known: Known = dict(told or {})
    ops = list(module.walk())
    passed = list(_passed(module))
    found = -1
    while found < len(known):  # forwards and backwards until nothing is new
        found = len(known)
        for pair in passed:
            for value, same in (pair, pair[::-1]):
                if same in known:
                    known.setdefault(value, known[same])
        for op in (*ops, *reversed(ops)):
            for value, codes in _implied(op, known, weights):
                if np.isfinite(codes.scale).all():
                    known.setdefault(value, codes)
    return known


def _passed(module: ModuleOp) -> Iterator[tuple[SSAValue, SSAValue]]:
    """What one stage of a compiled model returns, and the argument of the next that it becomes."""
    for function, following in pairwise(stages(module)):
        returned = function.body.block.last_op
        if isinstance(returned, ReturnOp):
            yield from zip(returned.operands, following.args, strict=False)


def _implied(op: Operation, known: Known, weights: Weights) -> Iterator[tuple[SSAValue, Codes]]:
    """What one operation says of the codes that it takes and makes."""
    match op:
        case QuantizeOp():
            yield op.result, stated(op.params, weights)
        case DequantizeOp():
            yield op.input, stated(op.params, weights)
        case RequantizeOp() if op.divisor is None:
            yield from _through_requantize(op, known, weights)
        case AddRequantOp():
            yield from _through_addition(op, known, weights)
        case MatmulOp():
            if (lhs := _per_tensor(op.lhs, known)) and (rhs := _per_tensor(op.rhs, known)):
                yield op.result, Codes(lhs.scale * rhs.scale, ZERO)
        case LinearOp() | Conv2dOp():
            yield from _through_layer(op, known, weights)
        case _ if isinstance(op, _MOVES):
            yield from _through_move(op.operands[: 1 if isinstance(op, GatherOp) else None], op.results[0], known)
        case _:
            pass


def stated(params: QParamsAttr, weights: Weights) -> Codes:
    """The codes of a quantizer or dequantizer."""
    return Codes.of(weights.scale(params.scale), weights.zero_point(params.zero_point), params.axis_index)


def _per_tensor(value: SSAValue, known: Known) -> Codes | None:
    codes = known.get(value)
    return codes if codes is not None and codes.axis is None else None


def _factor(form: Form, weights: Weights) -> Array:
    """The number, or vector, that a requantize multiplies by."""
    match form:
        case DyadicAttr():
            return weights.values(form.multiplier) * 2.0 ** -weights.values(form.shift).astype(np.float64)
        case PotAttr():
            return np.asarray(2.0 ** -weights.values(form.shift).astype(np.float64))
        case _:
            return weights.scale(form.scale)


def _through_requantize(op: RequantizeOp, known: Known, weights: Weights) -> Iterator[tuple[SSAValue, Codes]]:
    """scale of the result = scale of the input / factor."""
    axis = None if op.axis is None else op.axis.value.data
    factor = _factor(op.form, weights)
    sides: tuple[tuple[SSAValue, SSAValue, ZeroPointAttr | None, Callable[[Array], Array]], ...] = (
        (op.input, op.result, op.zero_point, lambda scale: scale / factor),
        (op.result, op.input, op.input_zero_point, lambda scale: scale * factor),
    )
    for source, target, zero_point, carry in sides:
        codes = known.get(source)
        if codes is None or (codes.axis is not None and axis is not None and codes.axis != axis):
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.asarray(carry(codes.scale))
        yield target, Codes.of(scale, weights.zero_point(zero_point), codes.axis if axis is None else axis)


def _through_addition(op: AddRequantOp, known: Known, weights: Weights) -> Iterator[tuple[SSAValue, Codes]]:
    """scale of the result = scale of either term / its factor, all of them numbers."""
    terms = ((op.lhs, op.lhs_form, op.lhs_zero_point), (op.rhs, op.rhs_form, op.rhs_zero_point))
    for value, form, zero_point in terms:
        factor = np.asarray(_factor(form, weights))
        if factor.ndim or factor == 0:
            continue
        if (codes := _per_tensor(value, known)) is not None:
            yield op.result, Codes(np.asarray(codes.scale / factor), weights.zero_point(op.zero_point))
        if (codes := _per_tensor(op.result, known)) is not None:
            yield value, Codes(np.asarray(codes.scale * factor), weights.zero_point(zero_point))


def _through_layer(op: LinearOp | Conv2dOp, known: Known, weights: Weights) -> Iterator[tuple[SSAValue, Codes]]:
    """scale of the accumulator = scale of the input * scale of the weight, which varies along its first axis."""
    if int_type(element_of(op.result)) is None:
        return
    channels = 1 if isinstance(op, Conv2dOp) else len(shape_of(op.result)) - 1
    x, weight, result = _per_tensor(op.input, known), known.get(op.weight), known.get(op.result)
    if x is not None and weight is not None and weight.axis in (None, 0):
        yield op.result, Codes.of(x.scale * weight.scale, ZERO, channels)
    if result is None or result.axis not in (None, channels):
        return
    if op.bias is not None:
        yield op.bias, Codes.of(result.scale, ZERO, 0)
    if x is not None and x.scale != 0:
        yield op.weight, Codes.of(result.scale / x.scale, weights.zero_point(op.weight_zero_point), 0)


def _through_move(operands: Iterable[SSAValue], result: SSAValue, known: Known) -> Iterator[tuple[SSAValue, Codes]]:
    """Moving elements keeps what they stand for, where that is the same for all of them."""
    operands = [value for value in operands if int_type(element_of(value)) is not None]
    if (codes := _per_tensor(result, known)) is not None:
        yield from ((value, codes) for value in operands)
    if operands and (same := _common([_per_tensor(value, known) for value in operands])) is not None:
        yield result, same


def _common(parts: Sequence[Codes | None]) -> Codes | None:
    first = parts[0]
    if first is None:
        return None
    equal = (p is not None and p.scale == first.scale and p.zero_point == first.zero_point for p in parts)
    return first if all(equal) else None
