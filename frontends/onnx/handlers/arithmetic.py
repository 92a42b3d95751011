"""Elementwise operators, casts, comparisons and selection."""

from typing import Any

import numpy as np
from xdsl.dialects.builtin import IntegerType, Signedness
from xdsl.ir import SSAValue

from qvit.dialects.attributes import PotAttr, QParamsAttr
from qvit.dialects.ops.elementwise import (
    AddOp,
    ArithmeticOp,
    ClipOp,
    CompareOp,
    DivOp,
    ErfOp,
    FloatBinaryOp,
    FloatUnaryOp,
    MulOp,
    PowOp,
    ReluOp,
    SelectOp,
    SigmoidOp,
    SqrtOp,
    SubOp,
    TanhOp,
)
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp, RequantizeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import inherit
from qvit.dialects.semantics.integers import Array, IntType
from qvit.dialects.types import BOOLEAN, element_dtype, element_of, element_type, int_type, integer_of, is_float
from qvit.frontends.builder import Constant, Value
from qvit.frontends.onnx.graph import Handler, Node


def _binary(op: type[ArithmeticOp] | type[FloatBinaryOp]) -> Handler:
    return lambda node: node.emit(op(node.float_tensor(0), node.float_tensor(1)))


def _unary(op: type[FloatUnaryOp]) -> Handler:
    return lambda node: node.emit(op(node.float_tensor(0)))


def _bounds(node: Node) -> tuple[Array | None, Array | None]:
    """Clip's two bounds, which are numbers or not there."""
    low, high = node.optional_constant(1, "the lower bound"), node.optional_constant(2, "the upper bound")
    for bound in (low, high):
        if bound is not None and bound.size != 1:
            node.refuse(f"a bound has shape {bound.shape}, expected one number", "the model is damaged")
    return low, high


def _clip(node: Node) -> Value:
    low, high = _bounds(node)
    value = node.value(0)
    if isinstance(value, Constant) and value.array.dtype.kind not in "iu":
        return Constant(node.outputs[0], np.clip(value.array, low, high))
    codes = integer_of(value) if isinstance(value, SSAValue) else int_type(element_type(value.array.dtype))
    if codes is None:
        ends = [None if bound is None or np.isinf(bound).all() else bound.item() for bound in (low, high)]
        return node.emit(ClipOp(node.float_tensor(0), *ends))
    return _clip_codes(node, value, codes.lo if low is None else low.item(), codes.hi if high is None else high.item())


def _clip_codes(node: Node, value: Value, low: int, high: int) -> Value:
    """Bounds between a quantizer and its dequantizer say how many bits the codes have (Brevitas' QCDQ)."""
    if low > high:
        node.refuse(f"the bounds {low} and {high} leave nothing between them", "the model is damaged")
    signed = low < 0
    bits = next(b for b in range(1 + signed, 65) if IntType(b, signed).lo <= low and high <= IntType(b, signed).hi)
    element = IntegerType(bits, Signedness.SIGNLESS if signed else Signedness.UNSIGNED)
    if isinstance(value, Constant):
        return node.emit(ConstantOp(np.clip(value.array, low, high), element))
    quantize, codes = value.owner, IntType(bits, signed)
    if isinstance(quantize, QuantizeOp) and (
        (zero := quantize.params.zero_point.number) is not None and codes.lo <= zero <= codes.hi
    ):
        # what saturated in the wider type, and then was clipped, saturates in the narrower one
        narrow = QuantizeOp(quantize.input, quantize.params, element, quantize.rounding.data)
        inherit(narrow, quantize)
        value = node.emit(narrow)
        if (low, high) == (codes.lo, codes.hi):
            return value
    return node.emit(ClipOp(value, low, high))


_STORED_CODES = ("int8", "uint8", "int4", "uint4", "int2", "uint2")


def _cast(node: Node) -> Value:
    from onnx import helper

    return _cast_to(node, np.dtype(helper.tensor_dtype_to_np_dtype(node.attributes["to"])))


def _cast_like(node: Node) -> Value:
    like = node.value(1)
    if isinstance(like, Constant):
        return _cast_to(node, like.array.dtype)
    element = element_of(like)
    return _cast_to(node, np.dtype(np.bool_) if element == BOOLEAN else element_dtype(element))


def _cast_to(node: Node, dtype: np.dtype[Any]) -> Value:
    value = node.value(0)
    if isinstance(value, Constant) and not (value.array.dtype.name in _STORED_CODES and value.array.ndim > 1):
        return Constant(node.outputs[0], value.array.astype(dtype))
    target, tensor = element_type(dtype), node.tensor(0)
    source = element_of(tensor)
    if target == source:
        return tensor
    if dtype.kind == "f" and not is_float(source):  # codes that a scale multiplies next, or a mask
        return node.emit(DequantizeOp(tensor, QParamsAttr.of(1.0), target))
    if dtype.kind == "b":
        return node.emit(CompareOp(tensor, node.number(0, tensor), "ne"))
    if int_type(target) is not None and not is_float(source):  # ONNX wraps what does not fit; ours saturates
        return node.emit(RequantizeOp(tensor, PotAttr.of(0), target))
    node.refuse(f"a cast from {source} to {target} is not read", "only casts from integers are")


def _compare(predicate: str) -> Handler:
    return lambda node: node.emit(CompareOp(node.tensor(0), node.tensor(1), predicate))


def _is_nan(node: Node) -> Value:
    x = node.float_tensor(0)
    return node.emit(CompareOp(x, x, "ne"))  # NaN alone differs from itself


def leaky_relu(node: Node, x: SSAValue) -> SSAValue:
    """x, or alpha x where it is negative."""
    positive = node.emit(CompareOp(x, node.number(0, x), "ge"))
    return node.emit(SelectOp(positive, x, node.emit(MulOp(x, node.number(node.attribute("alpha", 0.01), x)))))


def _leaky_relu(node: Node) -> Value:
    return leaky_relu(node, node.float_tensor(0))


def _boolean(node: Node, index: int) -> SSAValue:
    tensor = node.tensor(index)
    if element_of(tensor) != BOOLEAN:
        node.refuse(f"input {index} has elements of type {element_of(tensor)}, expected bool", "the model is damaged")
    return tensor


def _where(node: Node) -> Value:
    return node.emit(SelectOp(_boolean(node, 0), node.tensor(1), node.tensor(2)))


def _not(node: Node) -> Value:
    x = _boolean(node, 0)
    return node.emit(CompareOp(x, node.number(0, x), "eq"))


def _and(node: Node) -> Value:
    a, b = _boolean(node, 0), _boolean(node, 1)
    return node.emit(SelectOp(a, b, node.number(0, a)))


def _or(node: Node) -> Value:
    a, b = _boolean(node, 0), _boolean(node, 1)
    return node.emit(SelectOp(a, node.number(1, a), b))


def _identity(node: Node) -> Value:
    return node.value(0)


def _dropout(node: Node) -> Value:
    if len(node.outputs) > 1:
        node.refuse(f"its mask {node.outputs[1]!r} is used", "export the model for inference")
    if node.has(2) and node.constant(2, "training_mode").any():
        node.refuse("it drops elements at random (training_mode)", "export the model for inference")
    return node.value(0)


ARITHMETIC: dict[tuple[str, str], Handler] = {
    ("", "Add"): _binary(AddOp),
    ("", "Sub"): _binary(SubOp),
    ("", "Mul"): _binary(MulOp),
    ("", "Div"): _binary(DivOp),
    ("", "Pow"): _binary(PowOp),
    ("", "Sqrt"): _unary(SqrtOp),
    ("", "Erf"): _unary(ErfOp),
    ("", "Tanh"): _unary(TanhOp),
    ("", "Sigmoid"): _unary(SigmoidOp),
    ("", "Relu"): _unary(ReluOp),
    ("", "LeakyRelu"): _leaky_relu,
    ("", "Clip"): _clip,
    ("", "Cast"): _cast,
    ("", "CastLike"): _cast_like,
    ("", "Equal"): _compare("eq"),
    ("", "Less"): _compare("lt"),
    ("", "LessOrEqual"): _compare("le"),
    ("", "Greater"): _compare("gt"),
    ("", "GreaterOrEqual"): _compare("ge"),
    ("", "IsNaN"): _is_nan,
    ("", "Where"): _where,
    ("", "Not"): _not,
    ("", "And"): _and,
    ("", "Or"): _or,
    ("", "Identity"): _identity,
    ("", "Dropout"): _dropout,
}
