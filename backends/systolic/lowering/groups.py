"""Which operations are computed together, a tile or some rows at a time, so that what lies between needs no home."""

from collections.abc import Container, Iterable
from dataclasses import dataclass
from math import prod

from xdsl.ir import Operation, SSAValue

from qvit.dialects.approximations.base import FunctionApproximation
from qvit.dialects.ops.approximated import IntFunctionOp, IntLayerNormOp, IntSoftmaxOp
from qvit.dialects.ops.products import Conv2dOp, LinearOp, MatmulOp, ShiftMatmulOp
from qvit.dialects.ops.quantization import AddRequantOp, RequantizeOp, ThresholdOp
from qvit.dialects.ops.shape import ReshapeOp
from qvit.dialects.types import shape_of

PRODUCTS = (LinearOp, MatmulOp, ShiftMatmulOp, Conv2dOp)
ROWWISE = (IntLayerNormOp, IntSoftmaxOp, IntFunctionOp)


@dataclass(frozen=True)
class Chain:
    """An operation and elementwise ones behind it, each the only use of the one before; the last is the result."""

    head: Operation
    tail: tuple[Operation, ...]

    @property
    def ops(self) -> tuple[Operation, ...]:
        return (self.head, *self.tail)

    @property
    def result(self) -> SSAValue:
        return self.ops[-1].results[0]


@dataclass(frozen=True)
class Attention:
    """A product, a softmax of its rows, and the product of these with values."""

    scores: Chain
    softmax: IntSoftmaxOp
    values: Chain

    @property
    def ops(self) -> tuple[Operation, ...]:
        return (*self.scores.ops, self.softmax, *self.values.ops)

    @property
    def result(self) -> SSAValue:
        return self.values.result


Group = Chain | Attention


def groups(ops: Iterable[Operation]) -> dict[Operation, Group]:
    """The group of each operation that is in one; a group is computed where its last operation stands."""
    ordered = list(ops)
    found: dict[Operation, Group] = {}
    for op in ordered:
        if op in found:
            continue
        group: Group | None = None
        if isinstance(op, PRODUCTS):
            chain = _chain(op, found)
            group = _attention(chain, found) or chain
        elif isinstance(op, ROWWISE) or _elementwise(op):
            group = _chain(op, found)
        if group is not None:
            found.update({member: group for member in group.ops})
    return found


def rows_alike(op: Operation) -> int | None:
    """Of how many rows, one after another, the constants are the same; None where they are the same for all."""
    axis = op.axis if isinstance(op, (RequantizeOp, AddRequantOp, ThresholdOp)) else None
    shape = shape_of(op.results[0])
    if axis is None or axis.value.data == len(shape) - 1:
        return None
    return prod(shape[axis.value.data + 1 : -1])


def _elementwise(op: Operation) -> bool:
    if isinstance(op, IntFunctionOp):
        approximation = op.approximation.data
        return isinstance(approximation, FunctionApproximation) and not approximation.rowwise
    return isinstance(op, (RequantizeOp, AddRequantOp, ThresholdOp))


def _chain(head: Operation, taken: Container[Operation]) -> Chain:
    tail: list[Operation] = []
    value = head.results[0]
    # another result of a softmax must not keep it from being computed a few rows at a time
    while value.has_one_use():
        user = next(iter(value.uses)).operation
        if user in taken:
            break
        keeps_rows = isinstance(user, ReshapeOp) and shape_of(user.result)[-1:] == shape_of(value)[-1:]
        if not keeps_rows and not (_elementwise(user) and _same_place(user, value)):
            break
        if isinstance(head, Conv2dOp) and isinstance(user, (AddRequantOp, ReshapeOp)):
            break  # its channels lie last, those of others do not
        if isinstance(head, (LinearOp, *ROWWISE)) and rows_alike(user) is not None:
            break  # tiles of these have any rows
        tail.append(user)
        value = user.results[0]
    while tail and isinstance(tail[-1], ReshapeOp):
        tail.pop()
    return Chain(head, tuple(tail))


def _same_place(user: Operation, value: SSAValue) -> bool:
    """Whether each element of the user's result comes from the element of `value` at its place."""
    main = value in (user.lhs, user.rhs) if isinstance(user, AddRequantOp) else user.operands[0] is value
    return main and shape_of(user.results[0]) == shape_of(value)


def _attention(scores: Chain, taken: Container[Operation]) -> Attention | None:
    if not isinstance(scores.head, MatmulOp) or any(isinstance(op, ReshapeOp) for op in scores.tail):
        return None
    if not scores.result.has_one_use():
        return None
    softmax = next(iter(scores.result.uses)).operation
    if not isinstance(softmax, IntSoftmaxOp) or softmax.input is not scores.result:
        return None
    weights = softmax.outputs[0]
    if not weights.has_one_use():
        return None
    product = next(iter(weights.uses)).operation
    if not isinstance(product, (MatmulOp, ShiftMatmulOp)) or product.operands[0] is not weights:
        return None
    values = _chain(product, taken)
    for sums in softmax.outputs[1:]:
        if any(use.operation not in values.tail for use in sums.uses):
            return None
    return Attention(scores, softmax, values)
