"""QONNX: Quant and BipolarQuant, which quantize and dequantize in one node (Brevitas, FINN, hls4ml)."""

from collections.abc import Callable

import numpy as np
from xdsl.dialects.builtin import IntegerType, Signedness

from qvit.dialects.attributes import QParamsAttr
from qvit.dialects.ops.elementwise import ClipOp
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.semantics.integers import Array, IntType, Rounding
from qvit.dialects.semantics.quantization import along, lengthwise
from qvit.frontends.builder import Constant, Value
from qvit.frontends.onnx.graph import Handler, Node

_ROUNDING = {
    "ROUND": Rounding.HALF_EVEN,
    "HALF_EVEN": Rounding.HALF_EVEN,
    "HALF_UP": Rounding.HALF_AWAY,  # QONNX rounds the magnitude
    "FLOOR": Rounding.FLOOR,
}

_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "ROUND": np.rint,
    "HALF_EVEN": np.rint,
    "HALF_UP": lambda x: np.sign(x) * np.floor(np.abs(x) + 0.5),
    "HALF_DOWN": lambda x: np.sign(x) * np.ceil(np.abs(x) - 0.5),
    "UP": lambda x: np.sign(x) * np.ceil(np.abs(x)),
    "DOWN": np.trunc,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
}
"""For weights, which are rounded at import."""


def _vector(node: Node, index: int, what: str, rank: int) -> tuple[Array, int | None]:
    """A number, or a vector and the axis along which its shape lays it (QONNX broadcasts, where ONNX has an axis)."""
    array = node.constant(index, what)
    found = lengthwise(array, rank)
    if found is None:
        node.refuse(f"{what} has shape {array.shape}", "quantize per tensor or per channel")
    return found


def _range(node: Node) -> tuple[IntType, int, int]:
    """The codes' type, and the lowest and highest code."""
    width = node.constant(3, "the bit width")
    bits = float(width.reshape(-1)[0]) if width.size == 1 else np.nan
    if not (bits.is_integer() and 1 <= bits <= 32):
        node.refuse(f"its bit width is {width.tolist()}", "only one whole number from 1 to 32 is read")
    signed, narrow = bool(node.attribute("signed", 1)), bool(node.attribute("narrow", 1))
    if signed and bits == 1:
        node.refuse("a signed code of one bit has no range", "use BipolarQuant")
    codes = IntType(int(bits), signed)
    return codes, codes.lo + (signed and narrow), codes.hi - (not signed and narrow)


def _quant(node: Node) -> Value:
    """(clip(round(x / scale + zero_point)) - zero_point) * scale."""
    rank = len(node.shape(0))
    (scale, axis), (zero, zero_axis) = _vector(node, 1, "the scale", rank), _vector(node, 2, "the zero point", rank)
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        node.refuse("its scale is not positive and finite", "calibrate the model again: a range is empty or missing")
    codes, low, high = _range(node)
    if (zero != np.rint(zero)).any() or zero.min() < low or zero.max() > high:
        node.refuse(
            f"its zero point {zero.min()}..{zero.max()} is not a whole number from {low} to {high}",
            "quantize with zero points that are codes themselves",
        )
    if None not in (axis, zero_axis) and axis != zero_axis:
        node.refuse("scale and zero point vary along different axes", "quantize per tensor or per channel")
    mode = node.attribute("rounding_mode", b"ROUND").decode().upper()
    axis = zero_axis if axis is None else axis
    params = QParamsAttr.of(scale, zero.astype(np.int64), axis)
    element = IntegerType(codes.bits, Signedness.SIGNLESS if codes.signed else Signedness.UNSIGNED)
    value = node.value(0)
    if isinstance(value, Constant):
        if mode not in _FUNCTIONS:
            node.refuse(f"rounding_mode {mode} is not one that QONNX has", f"it has {', '.join(_FUNCTIONS)}")
        stored = _FUNCTIONS[mode](value.array / along(scale, axis, rank) + along(zero, axis, rank)).clip(low, high)
        quantized = node.emit(ConstantOp(stored.astype(codes.dtype), element))
    else:
        quantized = node.emit(QuantizeOp(node.float_tensor(0), params, element, _rounding(node, mode, zero)))
        if (low, high) != (codes.lo, codes.hi):
            quantized = node.emit(ClipOp(quantized, low, high))
    return node.emit(DequantizeOp(quantized, params))


def _rounding(node: Node, mode: str, zero: Array) -> Rounding:
    """How activations are rounded: QONNX adds the zero point first, which moves ties where it is not neutral."""
    if mode not in _ROUNDING:
        node.refuse(f"rounding_mode {mode} is not read for activations", f"only {', '.join(_ROUNDING)} are")
    rounding = _ROUNDING[mode]
    if (rounding is Rounding.HALF_EVEN and (zero % 2).any()) or (rounding is Rounding.HALF_AWAY and zero.any()):
        node.remark("ties", "its zero point moves ties: a value midway between two codes may round to the other one")
    return rounding


def _bipolar(node: Node) -> Value:
    """scale where x >= 0, -scale elsewhere: codes 1 and -1 of two bits."""
    value = node.value(0)
    if not isinstance(value, Constant):
        node.refuse("activations of one bit are not read", "only weights are")
    scale, axis = _vector(node, 1, "the scale", value.array.ndim)
    quantized = node.emit(ConstantOp(np.where(value.array >= 0, 1, -1).astype(np.int8), IntegerType(2)))
    return node.emit(DequantizeOp(quantized, QParamsAttr.of(scale, 0, axis)))


_DOMAINS = ("qonnx.custom_op.general", "finn.custom_op.general", "onnx.brevitas")
"""Where Quant is defined today, and where older writers had it."""


def _trunc(node: Node) -> Value:
    """It drops low bits of codes whose scale is known only from the node before."""
    node.refuse("Trunc is not read", "quantize the result again with Quant")


QONNX: dict[tuple[str, str], Handler] = {
    (domain, op): handler
    for domain in _DOMAINS
    for op, handler in (("Quant", _quant), ("IntQuant", _quant), ("BipolarQuant", _bipolar), ("Trunc", _trunc))
}
