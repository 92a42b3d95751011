"""The quantized_decomposed operators of PT2E.

torch multiplies by the float32 reciprocal of a scale where ONNX divides by the scale. The quantizer keeps that: its scale is
one over that reciprocal, exactly, which can differ from the scale of its dequantizer in the last bit.
"""

from typing import Any

import numpy as np
from xdsl.dialects.builtin import IntegerType, Signedness
from xdsl.ir import Attribute, SSAValue

from qvit.dialects.attributes import QParamsAttr, ScaleAttr, float_value
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.semantics.integers import Array, IntType
from qvit.dialects.types import element_of, integer_of
from qvit.frontends.builder import Constant, Value
from qvit.frontends.torch.graph import Handler, Node


def _numbers(node: Node, name: str) -> Array:
    """A scale or zero point: a number of the call, or a constant tensor."""
    value: Any = node.argument(name)
    if isinstance(value, Constant):
        return value.array
    if isinstance(value, SSAValue):
        node.refuse(f"{name} is computed at run time", "quantize with static scales")
    return np.asarray(value)


def _codes(node: Node) -> Attribute:
    """The element type of the codes, as narrow as quant_min and quant_max say: all its numbers, or all but the lowest."""
    low, high = node.argument("quant_min"), node.argument("quant_max")
    signed = low < 0
    codes = next((c for bits in range(1 + signed, 33) if (c := IntType(bits, signed)).hi >= high), IntType(32))
    if high != codes.hi or low - codes.lo not in (0, 1):
        node.refuse(f"codes from {low} to {high} are not those of a number of bits", "quantize to a whole width")
    return IntegerType(codes.bits, Signedness.SIGNLESS if signed else Signedness.UNSIGNED)


def _params(node: Node, names: tuple[str, str], inverted: bool) -> QParamsAttr:
    """Scale and zero point, numbers or one for each channel; inverted: as torch's quantizers take them."""
    scale, zero = _numbers(node, names[0]), _numbers(node, names[1]).astype(np.int64)
    axis = node.argument("axis")
    if scale.size == 1 and axis is None:
        scale, zero = scale.reshape(()), zero.reshape(())
    # one scale is a number of Python, and its reciprocal rounds to float32 last; a tensor of scales is float32
    inverse = (1.0 / scale.astype(np.float64) if scale.ndim == 0 else np.float32(1) / scale).astype(np.float32)
    factor = float_value(_plain(inverse if inverted else scale.astype(np.float32)))
    made = ScaleAttr.of(over=[factor]) if inverted else ScaleAttr.of(factor)
    return QParamsAttr.of(made, _plain(zero), axis)


def _plain(array: Array) -> Any:
    """A number where there is only one."""
    return array if array.ndim else array.item()


def _quantize(scale: str, zero_point: str) -> Handler:
    def handler(node: Node) -> Value:
        element = _codes(node)
        return node.emit(QuantizeOp(node.float_tensor("input"), _params(node, (scale, zero_point), True), element))

    return handler


def _dequantize(scale: str, zero_point: str) -> Handler:
    def handler(node: Node) -> Value:
        value: Any = node.argument("input")
        constant = isinstance(value, Constant)
        codes = node.emit(ConstantOp(value.array, _codes(node))) if constant else node.tensor("input")
        if integer_of(codes) is None:
            node.refuse(f"its input has elements of type {element_of(codes)}, expected integers", "check the quantizer")
        params = _params(node, (scale, zero_point), False)
        for use in codes.uses:  # PT2E writes one for each user
            if isinstance(twin := use.operation, DequantizeOp) and twin.params == params:
                return twin.result
        return node.emit(DequantizeOp(codes, params))

    return handler


ONE, SEVERAL = ("scale", "zero_point"), ("scales", "zero_points")
QUANTIZATION: dict[str, Handler] = {
    "quantized_decomposed.quantize_per_tensor.default": _quantize(*ONE),
    "quantized_decomposed.quantize_per_tensor.tensor": _quantize(*ONE),
    "quantized_decomposed.quantize_per_channel.default": _quantize(*SEVERAL),
    "quantized_decomposed.dequantize_per_tensor.default": _dequantize(*ONE),
    "quantized_decomposed.dequantize_per_tensor.tensor": _dequantize(*ONE),
    "quantized_decomposed.dequantize_per_channel.default": _dequantize(*SEVERAL),
}
