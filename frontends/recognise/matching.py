"""What recognisers share: steps from a value to what makes or uses it, and how they decline."""

from collections.abc import Iterator
from typing import TypeVar

from xdsl.ir import Operation, SSAValue

from qvit.dialects.ops.elementwise import AddOp, MulOp
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.provenance import describe
from qvit.dialects.weights import Weights

OpT = TypeVar("OpT", bound=Operation)


class Decline(Exception):
    """Raised inside a recogniser; the message is the reason."""


def require(condition: object, reason: str) -> None:
    if not condition:
        raise Decline(reason)


def made_by(value: SSAValue, kind: type[OpT], what: str) -> OpT:
    """The operation of `kind` that makes `value`; declines, saying what stands there instead."""
    owner = value.owner
    if isinstance(owner, kind):
        return owner
    found = owner.name if isinstance(owner, Operation) else "a function argument"
    if isinstance(owner, QuantizeOp | DequantizeOp):
        raise Decline(f"{what} is quantized ({describe(owner)})")
    raise Decline(f"{what}: expected {kind.name}, found {found}")


def only_user(value: SSAValue) -> Operation | None:
    uses = list(value.uses)
    return uses[0].operation if len(uses) == 1 else None


def scalar(value: SSAValue, weights: Weights) -> float | None:
    """The number that a constant holds in all its elements, None if it is none or varies."""
    array = weights.array(value)
    return float(array.flat[0]) if array is not None and array.size == 1 else None


def other(op: AddOp | MulOp, operand: SSAValue) -> SSAValue:
    return op.rhs if op.lhs is operand else op.lhs


def factors(value: SSAValue, depth: int = 2) -> Iterator[SSAValue]:
    """The factors of a product, through multiplications that nothing else uses."""
    op = value.owner
    if isinstance(op, MulOp) and depth:
        for operand in (op.lhs, op.rhs):
            inner = operand.owner
            shared = not isinstance(inner, MulOp) or only_user(operand) is not op
            yield from [operand] if shared else factors(operand, depth - 1)
    else:
        yield value
