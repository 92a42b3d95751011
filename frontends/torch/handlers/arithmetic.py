"""Elementwise operators, casts, comparisons and selection."""

from typing import Any

import numpy as np
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
from qvit.dialects.ops.quantization import DequantizeOp, RequantizeOp
from qvit.dialects.types import element_of, element_type, int_type, is_float
from qvit.frontends.builder import Constant, Value
from qvit.frontends.torch.graph import Handler, Node


def _binary(op: type[ArithmeticOp] | type[FloatBinaryOp], lhs: str = "self", rhs: str = "other") -> Handler:
    """lhs op alpha rhs; alpha, where the operator has one, is almost always 1."""

    def handler(node: Node) -> Value:
        a, b = node.widened(node.float_tensor(lhs)), node.widened(node.float_tensor(rhs))
        if (alpha := node.argument("alpha")) not in (None, 1):
            b = node.emit(MulOp(b, node.number(alpha, b)))
        return node.emit(op(a, b))

    return handler


def _unary(op: type[FloatUnaryOp]) -> Handler:
    return lambda node: node.emit(op(node.float_tensor("self")))


def _negative(node: Node) -> Value:
    x = node.float_tensor("self")
    return node.emit(MulOp(x, node.number(-1.0, x)))


def _reciprocal(node: Node) -> Value:
    x = node.float_tensor("self")
    return node.emit(DivOp(node.number(1.0, x), x))


def _rsqrt(node: Node) -> Value:
    x = node.float_tensor("self")
    return node.emit(DivOp(node.number(1.0, x), node.emit(SqrtOp(x))))


def _power(node: Node) -> Value:
    x, exponent = node.float_tensor("self"), node.argument("exponent")
    if exponent == 2:
        return node.emit(MulOp(x, x))
    return node.emit(SqrtOp(x)) if exponent == 0.5 else node.emit(PowOp(x, node.number(float(exponent), x)))


def _silu(node: Node) -> Value:
    x = node.float_tensor("self")
    return node.emit(MulOp(x, node.emit(SigmoidOp(x))))


def _clamp(node: Node) -> Value:
    low, high = node.argument("min"), node.argument("max")
    low, high = (None if bound is None else float(bound) for bound in (low, high))
    return node.emit(ClipOp(node.float_tensor("self"), low, high))


def _hardtanh(node: Node) -> Value:
    return node.emit(
        ClipOp(node.float_tensor("self"), float(node.argument("min_val")), float(node.argument("max_val")))
    )


def _leaky_relu(node: Node) -> Value:
    x = node.float_tensor("self")
    positive = node.emit(CompareOp(x, node.number(0.0, x), "ge"))
    slope = node.emit(MulOp(x, node.number(node.argument("negative_slope"), x)))
    return node.emit(SelectOp(positive, x, slope))


def _same(node: Node) -> Value:
    """What only says how a tensor is stored."""
    return node.argument("self") if node.argument("self") is not None else node.argument("input")


def _dropout(node: Node) -> Value:
    if node.argument("train") and node.argument("p"):
        node.refuse("it drops elements at random", "call model.eval() before torch.export.export")
    return _same(node)


def _cast(node: Node) -> Value:
    """To the type of the result; casts of floats to integers are not read."""
    value = node.argument("self")
    wanted = np.dtype(str(node.fake.dtype).removeprefix("torch."))
    if isinstance(value, Constant):
        return Constant(f"{node.name}", value.array.astype(wanted))
    tensor, target = node.tensor("self"), element_type(wanted)
    source = element_of(tensor)
    if target == source:
        return tensor
    if wanted.kind == "f" and not is_float(source):
        return node.emit(DequantizeOp(tensor, QParamsAttr.of(1.0), target))
    if wanted.kind == "b":
        return node.emit(CompareOp(tensor, node.number(0, tensor), "ne"))
    if int_type(target) is not None and not is_float(source):  # torch wraps what does not fit; ours saturates
        return node.emit(RequantizeOp(tensor, PotAttr.of(0), target))
    node.refuse(f"a cast from {source} to {target} is not read", "only casts from integers are")


def _compare(predicate: str) -> Handler:
    def handler(node: Node) -> Value:
        a = node.tensor("self")
        other: Any = node.argument("other")
        b = node.number(other, a) if isinstance(other, bool | int | float) else node.tensor("other")
        return node.emit(CompareOp(a, b, predicate))

    return handler


def _not(node: Node) -> Value:
    x = node.boolean("self")
    return node.emit(CompareOp(x, node.number(0, x), "eq"))


def _and(node: Node) -> Value:
    a, b = node.boolean("self"), node.boolean("other")
    return node.emit(SelectOp(a, b, node.number(0, a)))


def _or(node: Node) -> Value:
    a, b = node.boolean("self"), node.boolean("other")
    return node.emit(SelectOp(a, node.number(1, a), b))


def _where(node: Node) -> Value:
    condition = node.boolean("condition")
    return node.emit(SelectOp(condition, _branch(node, "self"), _branch(node, "other")))


def _branch(node: Node, name: str) -> SSAValue:
    return node.tensor(name)


def _masked_fill(node: Node) -> Value:
    x, value = node.tensor("self"), node.argument("value")
    filling = node.tensor("value") if isinstance(value, Constant | SSAValue) else node.number(value, x)
    return node.emit(SelectOp(node.boolean("mask"), filling, x))


def _filled(number: float | None) -> Handler:
    """A constant of the shape of the result."""

    def handler(node: Node) -> Value:
        dtype = np.dtype(str(node.fake.dtype).removeprefix("torch."))
        fill = node.argument("fill_value") if number is None else number
        return Constant(node.name, np.full(node.shape, fill, dtype))

    return handler


ARITHMETIC: dict[str, Handler] = {
    **{f"aten.add.{kind}": _binary(AddOp) for kind in ("Tensor", "Scalar")},
    **{f"aten.sub.{kind}": _binary(SubOp) for kind in ("Tensor", "Scalar")},
    **{f"aten.mul.{kind}": _binary(MulOp) for kind in ("Tensor", "Scalar")},
    **{f"aten.div.{kind}": _binary(DivOp) for kind in ("Tensor", "Scalar")},
    **{f"aten.rsub.{kind}": _binary(SubOp, "other", "self") for kind in ("Tensor", "Scalar")},
    "aten.neg.default": _negative,
    "aten.reciprocal.default": _reciprocal,
    "aten.sqrt.default": _unary(SqrtOp),
    "aten.rsqrt.default": _rsqrt,
    "aten.pow.Tensor_Scalar": _power,
    "aten.erf.default": _unary(ErfOp),
    "aten.tanh.default": _unary(TanhOp),
    "aten.sigmoid.default": _unary(SigmoidOp),
    "aten.relu.default": _unary(ReluOp),
    "aten.silu.default": _silu,
    "aten.leaky_relu.default": _leaky_relu,
    "aten.relu6.default": lambda node: node.emit(ClipOp(node.float_tensor("self"), 0.0, 6.0)),
    "aten.clamp.default": _clamp,
    "aten.hardtanh.default": _hardtanh,
    "aten.dropout.default": _dropout,
    "aten.feature_dropout.default": _dropout,
    **{
        f"aten.{name}": _same
        for name in (
            "clone.default",
            "contiguous.default",
            "alias.default",
            "detach.default",
            "detach_.default",
            "lift_fresh_copy.default",
            "to.device",
        )
    },
    **{f"aten.to.{kind}": _cast for kind in ("dtype", "dtype_layout", "other")},
    "aten._to_copy.default": _cast,
    "aten.type_as.default": _cast,
    **{
        f"aten.{predicate}.{kind}": _compare(predicate)
        for predicate in ("eq", "ne", "lt", "le", "gt", "ge")
        for kind in ("Tensor", "Scalar")
    },
    "aten.logical_not.default": _not,
    "aten.bitwise_not.default": _not,
    "aten.logical_and.default": _and,
    "aten.__and__.Tensor": _and,
    "aten.bitwise_and.Tensor": _and,
    "aten.logical_or.default": _or,
    "aten.__or__.Tensor": _or,
    "aten.bitwise_or.Tensor": _or,
    "aten.where.self": _where,
    "aten.where.ScalarOther": _where,
    "aten.where.ScalarSelf": _where,
    "aten.masked_fill.Scalar": _masked_fill,
    "aten.masked_fill.Tensor": _masked_fill,
    "aten.zeros_like.default": _filled(0),
    "aten.ones_like.default": _filled(1),
    "aten.new_zeros.default": _filled(0),
    "aten.new_ones.default": _filled(1),
    "aten.full_like.default": _filled(None),
    "aten.new_full.default": _filled(None),
}
