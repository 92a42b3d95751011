"""Integers; of the float operations those that IEEE 754 defines to the last bit."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from xdsl.dialects import arith, math
from xdsl.ir import Attribute, Operation, SSAValue

from qvit.dialects.ops.elementwise import (
    AddOp,
    ArithmeticOp,
    Bound,
    ClipOp,
    CompareOp,
    DivOp,
    FloatBinaryOp,
    MulOp,
    ReluOp,
    SelectOp,
    SqrtOp,
    SubOp,
)
from qvit.dialects.semantics.integers import IntType
from qvit.dialects.types import element_of, int_type, shape_of
from qvit.transforms.lower.bounded import code
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


def clip(s: Stage, op: ClipOp, x: SSAValue) -> SSAValue:
    element, (low, high) = element_of(op.result), op.bounds
    axis = None if op.axis is None else op.axis.value.data
    k = Kernel(s, element, len(shape_of(op.result)), axis=axis)
    y = k.read(x)

    def bound(number: Bound, type: Attribute) -> SSAValue:
        return k.parameter(np.ravel(number).tolist(), type)

    if (integer := int_type(element)) is None:
        y = y if low is None else k.emit(arith.MaximumfOp(y, bound(low, element)))
        y = y if high is None else k.emit(arith.MinimumfOp(y, bound(high, element)))
        return k.finish_new(y, shape_of(op.result))
    wide = code(k, y, integer)
    y, word = wide.value, IntType(wide.bits)
    y = y if low is None else k.emit(arith.MaxSIOp(y, bound(low, wide.value.type)))
    y = y if high is None else k.emit(arith.MinSIOp(y, bound(high, wide.value.type)))
    return k.finish_new(resize(k, y, word, integer.bits), shape_of(op.result))


_PREDICATES = {
    "eq": ("eq", "oeq"),
    "ne": ("ne", "une"),
    "lt": ("slt", "olt"),
    "le": ("sle", "ole"),
    "gt": ("sgt", "ogt"),
    "ge": ("sge", "oge"),
}
"""(of integers in a word, of floats): a NaN is only `ne` to anything."""


def compare(s: Stage, op: CompareOp, a: SSAValue, b: SSAValue) -> SSAValue:
    shape, integer = shape_of(op.result), int_type(element_of(op.lhs))
    of_integers, of_floats = _PREDICATES[op.predicate.data]
    k = Kernel(s, element_of(op.result), len(shape))
    left, right = k.read(a, broadcast_dims(shape_of(op.lhs), shape)), k.read(b, broadcast_dims(shape_of(op.rhs), shape))
    if integer is None:
        return k.finish_new(k.emit(arith.CmpfOp(left, right, of_floats)), shape)
    left, right = code(k, left, integer).value, code(k, right, integer).value
    return k.finish_new(k.emit(arith.CmpiOp(left, right, of_integers)), shape)


def select(s: Stage, op: SelectOp, condition: SSAValue, a: SSAValue, b: SSAValue) -> SSAValue:
    shape = shape_of(op.result)
    k = Kernel(s, element_of(op.result), len(shape))
    old = (op.condition, op.lhs, op.rhs)
    read = [k.read(v, broadcast_dims(shape_of(o), shape)) for v, o in zip((condition, a, b), old, strict=True)]
    return k.finish_new(k.emit(arith.SelectOp(*read)), shape)


def sqrt(s: Stage, op: SqrtOp, x: SSAValue) -> SSAValue:
    k = Kernel(s, element_of(op.result), len(shape_of(op.result)))
    return k.finish_new(k.emit(math.SqrtOp(k.read(x))), shape_of(op.result))


def relu(s: Stage, op: ReluOp, x: SSAValue) -> SSAValue:
    element = element_of(op.result)
    k = Kernel(s, element, len(shape_of(op.result)))
    return k.finish_new(k.emit(arith.MaximumfOp(k.read(x), k.constant(0.0, element))), shape_of(op.result))
