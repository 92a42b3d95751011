"""add, sub and mul; of the float operations those that IEEE 754 defines to the last bit."""

from collections.abc import Callable
from typing import TypeAlias

from xdsl.dialects import arith, math
from xdsl.ir import Operation, SSAValue

from qvit.dialects.ops.elementwise import AddOp, ArithmeticOp, DivOp, FloatBinaryOp, MulOp, ReluOp, SqrtOp, SubOp
from qvit.dialects.types import element_of, int_type, shape_of
from qvit.transforms.lower.stage import Kernel, Stage, broadcast_dims, integer_element, resize

_Binary: TypeAlias = Callable[[SSAValue, SSAValue], Operation]
_INTEGER: dict[type[Operation], _Binary] = {AddOp: arith.AddiOp, SubOp: arith.SubiOp, MulOp: arith.MuliOp}
_FLOAT: dict[type[Operation], _Binary] = {
    AddOp: arith.AddfOp,
    SubOp: arith.SubfOp,
    MulOp: arith.MulfOp,
    DivOp: arith.DivfOp,
}


def arithmetic(s: Stage, op: ArithmeticOp | FloatBinaryOp, a: SSAValue, b: SSAValue) -> SSAValue:
    """Integers in the result's type, modulo 2^bits: exact where the exact result fits, as the dialect demands."""
    shape = shape_of(op.result)
    k = Kernel(s, element_of(op.result), len(shape))
    left = k.read(a, broadcast_dims(shape_of(op.lhs), shape))
    right = k.read(b, broadcast_dims(shape_of(op.rhs), shape))
    result = int_type(element_of(op.result))
    if result is None:
        return k.finish_new(k.emit(_FLOAT[type(op)](left, right)), shape)
    left = resize(k, left, integer_element(op.lhs), result.bits)
    right = resize(k, right, integer_element(op.rhs), result.bits)
    return k.finish_new(k.emit(_INTEGER[type(op)](left, right)), shape)


def sqrt(s: Stage, op: SqrtOp, x: SSAValue) -> SSAValue:
    k = Kernel(s, element_of(op.result), len(shape_of(op.result)))
    return k.finish_new(k.emit(math.SqrtOp(k.read(x))), shape_of(op.result))


def relu(s: Stage, op: ReluOp, x: SSAValue) -> SSAValue:
    element = element_of(op.result)
    k = Kernel(s, element, len(shape_of(op.result)))
    return k.finish_new(k.emit(arith.MaximumfOp(k.read(x), k.constant(0.0, element))), shape_of(op.result))
