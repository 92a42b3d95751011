"""Element types: one table from the types of the IR to what holds them in NumPy."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from xdsl.dialects.builtin import (
    Float32Type,
    Float64Type,
    IntegerType,
    Signedness,
    TensorType,
    f32,
    f64,
)
from xdsl.ir import Attribute, SSAValue
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.hints import isa

from qvit.dialects.semantics.integers import IntType

BOOLEAN = IntegerType(1, Signedness.UNSIGNED)
"""Truth values: 1 is true."""

Tensor: TypeAlias = TensorType[Attribute]


def int_type(element: Attribute) -> IntType | None:
    """i2..i64 (signless: two's complement) and ui1..ui32; None for everything else."""
    if not isa(element, IntegerType):
        return None
    return IntType(element.width.data, element.signedness.data != Signedness.UNSIGNED)


def integer_element(integer: IntType) -> IntegerType:
    """The IR's element type of an integer: the inverse of `int_type`."""
    return IntegerType(integer.bits, Signedness.SIGNLESS if integer.signed else Signedness.UNSIGNED)


def is_float(element: Attribute) -> bool:
    """Whether an element type is one of the float types of the dialect, f32 or f64."""
    return isinstance(element, Float32Type | Float64Type)


def element_dtype(element: Attribute) -> np.dtype[Any]:
    """The NumPy type of one element; VerifyException for a type that the dialect does not have."""
    if element == f32:
        return np.dtype(np.float32)
    if element == f64:
        return np.dtype(np.float64)
    if (integer := int_type(element)) is not None and 1 <= integer.bits <= (64 if integer.signed else 32):
        return integer.dtype
    raise VerifyException(f"element type {element} is none of f32, f64, i1..i64, ui1..ui32")


def element_type(dtype: np.dtype[Any]) -> Attribute:
    """The IR's element type for a NumPy type; ValueError if there is none."""
    match dtype.kind:
        case "f" if dtype.itemsize in (4, 8):
            return f32 if dtype.itemsize == 4 else f64
        case "i":
            return IntegerType(8 * dtype.itemsize)
        case "u" if dtype.itemsize < 8:
            return IntegerType(8 * dtype.itemsize, Signedness.UNSIGNED)
        case "b":
            return BOOLEAN
        case _:
            raise ValueError(f"no element type for NumPy's {dtype}")


def tensor_type(value: SSAValue | Attribute) -> Tensor:
    """The tensor type of a value; VerifyException if it is none, or has a dynamic dimension."""
    found = value.type if isinstance(value, SSAValue) else value
    if not isa(found, TensorType):
        raise VerifyException(f"expected a tensor, found {found}")
    if any(d < 0 for d in found.get_shape()):
        raise VerifyException(f"expected static dimensions, found {found}")
    return found


def shape_of(value: SSAValue) -> tuple[int, ...]:
    """The dimensions of a tensor; VerifyException if it is none."""
    return tensor_type(value).get_shape()


def element_of(value: SSAValue) -> Attribute:
    """The element type of a tensor; VerifyException if it is none."""
    return tensor_type(value).element_type


def integer_of(value: SSAValue) -> IntType | None:
    """The integer type of a value's elements, None for floats."""
    return int_type(element_of(value))


def broadcast_shapes(*shapes: Sequence[int]) -> tuple[int, ...]:
    """NumPy's rule; VerifyException if the shapes do not fit."""
    try:
        return np.broadcast_shapes(*map(tuple, shapes))
    except ValueError:
        raise VerifyException(f"shapes {' and '.join(map(str, shapes))} do not broadcast") from None
