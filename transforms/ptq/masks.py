"""Masks of attention, which exporters add to the scores as large negative numbers, become truth values.

As numbers they would take all the codes of the scores. What an entry of at most `HIDDEN` adds leaves e^-50 = 2e-22 of its
weight: nothing, at any width of codes. Rows whose entries are all hidden are 0 afterwards, as behind a guard against NaN.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from xdsl.dialects.builtin import TensorType
from xdsl.ir import Operation, SSAValue

from qvit.dialects.ops.elementwise import AddOp, CompareOp, DivOp, MulOp, SelectOp, SubOp
from qvit.dialects.ops.nonlinear import SoftmaxOp
from qvit.dialects.ops.quantization import DequantizeOp
from qvit.dialects.ops.shape import BroadcastOp, GatherOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.semantics.integers import Array
from qvit.dialects.types import BOOLEAN, element_dtype, element_of, integer_of, shape_of
from qvit.dialects.weights import Weights
from qvit.transforms.rule import Exactness, Rewrite, Rule, require

HIDDEN = -50.0
"""Entries of a mask that are at most this hide what they are added to."""

Keep: TypeAlias = Array | Callable[[list[Operation]], SSAValue]
"""Where a mask does not hide: truth values, or what appends operations that make them (rules match before they make any)."""

_ONE_OPERAND = (ReshapeOp, TransposeOp, SliceOp, BroadcastOp, GatherOp)


def _emit(op: Operation, new: list[Operation]) -> SSAValue:
    new.append(op)
    return op.results[0]


def _made(keep: Keep, new: list[Operation]) -> SSAValue:
    return keep(new) if callable(keep) else _emit(ConstantOp(keep.astype(np.uint8), BOOLEAN), new)


_FALSE: Array = np.array(0, np.uint8)


def _negated(condition: SSAValue, new: list[Operation]) -> SSAValue:
    return _emit(CompareOp(condition, _made(_FALSE, new), "eq"), new)


def _both(a: SSAValue, b: SSAValue, new: list[Operation]) -> SSAValue:
    return _emit(SelectOp(a, b, _made(_FALSE, new)), new)


def _condition(condition: SSAValue, negate: bool, weights: Weights) -> Keep:
    array = weights.array(condition)
    if array is not None:
        return (array != 0) != negate
    return lambda new: _negated(condition, new) if negate else condition


def _hides(number: float) -> bool | None:
    """Whether an entry of a mask hides: True for HIDDEN and below, False for 0, None for what is no mask."""
    return True if number <= HIDDEN else False if number == 0 else None


def _uniform(value: SSAValue, weights: Weights) -> float | None:
    """The number that a constant consists of."""
    array = weights.array(value)
    if array is None or array.size == 0 or not (array == array.flat[0]).all():
        return None
    return float(array.flat[0])


@dataclass(frozen=True)
class _Affine:
    """factor * (an integer tensor) + offset."""

    integer: SSAValue
    factor: float
    offset: float

    def plus(self, offset: float, factor: float = 1.0) -> "_Affine":
        return _Affine(self.integer, self.factor * factor, self.offset * factor + offset)


def _affine(value: SSAValue, weights: Weights) -> _Affine | None:
    """A cast from integers, and additions and multiplications of single numbers behind it."""
    op = value.owner
    if isinstance(op, DequantizeOp) and op.params.axis_index is None:
        (scale,) = weights.exact_scale(op.params.scale)
        return _Affine(op.input, float(scale), -float(scale) * (op.params.zero_point.number or 0))
    if not isinstance(op, AddOp | SubOp | MulOp | DivOp):
        return None
    left, right = _uniform(op.lhs, weights), _uniform(op.rhs, weights)
    if (inner := _affine(op.rhs if right is None else op.lhs, weights)) is None:
        return None
    match op, left, right:
        case AddOp(), float(c), _:
            return inner.plus(c)
        case SubOp(), float(c), _:
            return inner.plus(c, -1.0)
        case MulOp(), float(c), _:
            return inner.plus(0.0, c)
        case AddOp(), None, float(c):
            return inner.plus(c)
        case SubOp(), None, float(c):
            return inner.plus(-c)
        case MulOp(), None, float(c):
            return inner.plus(0.0, c)
        case DivOp(), None, float(c) if c:
            return inner.plus(0.0, 1 / c)
        case _:
            return None


def kept(value: SSAValue, weights: Weights) -> Keep | None:
    """The truth values for an additive mask of 0 and HIDDEN or less; None where `value` is none. They broadcast like it.

    Known are constants, select between two numbers, factor * m + offset of integers m that are 0 or 1, sums of masks, and
    all of these moved.
    """
    array = weights.array(value)
    if array is not None:
        shown = array == 0
        return shown if (shown | (array <= HIDDEN)).all() else None
    op = value.owner
    match op:
        case SelectOp():
            ends = [_uniform(v, weights) for v in (op.lhs, op.rhs)]
            hides = [None if end is None else _hides(end) for end in ends]
            if None in hides or hides[0] == hides[1]:
                return None
            return _condition(op.condition, bool(hides[0]), weights)
        case AddOp() if (a := kept(op.lhs, weights)) is not None and (b := kept(op.rhs, weights)) is not None:
            return lambda new: _both(_made(a, new), _made(b, new), new)
        case _ if isinstance(op, _ONE_OPERAND) and (inner := kept(op.operands[0], weights)) is not None:
            return lambda new: _moved(op, _made(inner, new), new)
        case _:
            return _kept_of_integers(value, weights)


def _moved(op: Operation, truth: SSAValue, new: list[Operation]) -> SSAValue:
    """The same move of truth values, which may have fewer dimensions than the mask that they stand for."""
    if (shape := shape_of(op.operands[0])) != shape_of(truth):
        truth = _emit(BroadcastOp(truth, shape), new)
    types = [TensorType(BOOLEAN, shape_of(op.results[0]))]
    operands = [truth, *op.operands[1:]]
    move = type(op).create(operands=operands, result_types=types, properties=op.properties, attributes=op.attributes)
    return _emit(move, new)


def _kept_of_integers(value: SSAValue, weights: Weights) -> Keep | None:
    """(1 - m) * -10000 and the like: of the integers 0 and 1 one shows and one hides."""
    if (found := _affine(value, weights)) is None:
        return None
    hides = _hides(found.offset), _hides(found.factor + found.offset)
    if None in hides or hides[0] == hides[1]:
        return None
    integer = integer_of(found.integer)
    assert integer is not None

    def build(new: list[Operation]) -> SSAValue:
        zero = _emit(ConstantOp(np.array(0, integer.dtype), element_of(found.integer)), new)
        return _emit(CompareOp(found.integer, zero, "ne" if hides[0] else "eq"), new)

    return build


@dataclass(frozen=True)
class _Masked:
    """Scores without their mask: the scores, what is added to them besides (None: nothing), and where the mask shows."""

    op: Operation
    scores: SSAValue
    added: Array | None
    keep: Keep


def _masked(op: Operation, weights: Weights) -> _Masked | None:
    if isinstance(op, SelectOp):
        for scores, low, swapped in ((op.lhs, op.rhs, False), (op.rhs, op.lhs, True)):
            array = weights.array(low)
            if array is not None and (array <= HIDDEN).all() and shape_of(scores) == shape_of(op.result):
                return _Masked(op, scores, None, _condition(op.condition, swapped, weights))
    if isinstance(op, AddOp):
        for scores, mask in ((op.lhs, op.rhs), (op.rhs, op.lhs)):
            if shape_of(scores) != shape_of(op.result) or weights.array(scores) is not None:
                continue
            array = weights.array(mask)
            if array is not None and (array <= HIDDEN).any():
                rest = np.where(array > HIDDEN, array, 0)
                return _Masked(op, scores, rest if rest.any() else None, array > HIDDEN)
            if array is None and (keep := kept(mask, weights)) is not None:
                return _Masked(op, scores, None, keep)
    return None


def _narrowed(array: Array) -> Array:
    """The array with length 1 along axes where it does not change: it broadcasts to the same."""
    for axis in range(array.ndim):
        first = array.take([0], axis)
        array = first if (array == first).all() else array
    return array


class HardMask(Rule):
    """softmax(x + m), m 0 or at most -50 => softmax(x, mask): `kept` says what masks are known. Bounded.

    Also softmax(select(mask, x, low)), and where rows were reshaped between mask and softmax. Other entries of a constant m
    (a position bias) stay added. Constant masks must leave an entry in each row; of masks that are known at run time, a row
    without any becomes 0.
    """

    name = "hard-mask"
    exactness = Exactness.BOUNDED

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, SoftmaxOp):
            return None
        weights, axis, shape = self.session(op).weights, op.axis.value.data, shape_of(op.input)
        reshapes: list[Operation] = []
        value = op.input
        while isinstance(made := value.owner, ReshapeOp) and axis == len(shape) - 1:
            if shape_of(made.input)[-1:] != shape[-1:]:
                return None
            reshapes.append(made)
            value = made.input
        if not isinstance(value.owner, Operation) or (found := _masked(value.owner, weights)) is None:
            return None
        scores, keep, before = found.scores, found.keep, shape_of(value)
        new: list[Operation] = []
        if callable(keep):
            mask = keep(new)
            if reshapes:
                mask = _emit(ReshapeOp(_emit(BroadcastOp(mask, before), new), shape), new)
        else:
            wide = np.broadcast_to(keep, before).reshape(shape)
            require(wide.any(axis).all(), "the mask hides a whole row")
            mask = None if wide.all() else _made(_narrowed(wide), new)
        if op.mask is not None:
            mask = op.mask if mask is None else _both(op.mask, mask, new)
        if found.added is not None:
            element = element_of(scores)
            added = ConstantOp(found.added.astype(element_dtype(element)), element)
            scores = _emit(AddOp(scores, _emit(added, new)), new)
        if reshapes:
            scores = _emit(ReshapeOp(scores, shape), new)
        return Rewrite([*new, SoftmaxOp(scores, axis, mask)], [found.op, *reshapes])


class GuardOfMask(Rule):
    """select(p != p, 0, p) => p, p = softmax(x, mask): it has no NaN, rows without an entry are 0. bit-exact."""

    name = "guard-of-mask"
    exactness = Exactness.BIT_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, SelectOp) or not isinstance(test := op.condition.owner, CompareOp):
            return None
        softmax = op.rhs.owner
        if test.predicate.data != "ne" or not test.lhs == test.rhs == op.rhs or not isinstance(softmax, SoftmaxOp):
            return None
        if softmax.mask is None or _uniform(op.lhs, self.session(op).weights) != 0:
            return None
        return Rewrite([], [test], existing=softmax)
