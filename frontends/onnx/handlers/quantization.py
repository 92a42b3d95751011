"""QuantizeLinear and DequantizeLinear, of ONNX and of com.microsoft."""

from typing import Any

import numpy as np
from xdsl.dialects.builtin import IntegerType, Signedness
from xdsl.ir import SSAValue
from xdsl.utils.hints import isa

from qvit.dialects.attributes import QParamsAttr
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.semantics.integers import Array, Rounding
from qvit.dialects.semantics.quantization import along, quantize
from qvit.dialects.types import element_of, int_type, is_float, shape_of
from qvit.frontends.builder import Constant, Value, storage
from qvit.frontends.onnx.graph import Handler, Node


def parameters(
    node: Node, rank: int, scale_at: int, zero_at: int | None, axis: int | None = None
) -> tuple[Array, Array, int | None]:
    """Scale, zero point (int64) and axis from two inputs: vectors along the axis, or numbers without one.

    axis: where the operator fixes it; else the node's attribute.
    """
    scale = node.constant(scale_at, "the scale")
    zero = None if zero_at is None else node.optional_constant(zero_at, "the zero point")
    if scale.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        node.refuse(f"its scale is {scale.dtype}", "only float32 scales are read")
    if not np.isfinite(scale).all() or not scale.all():
        node.refuse("its scale is 0 or not finite", "calibrate the model again: a range is empty or missing")
    zero = np.zeros((), np.int64) if zero is None else zero.astype(np.int64)
    if scale.size == 0 or zero.size not in (1, scale.size):
        node.refuse(
            f"scale and zero point have different lengths: {scale.size} and {zero.size}", "the model is damaged"
        )
    if scale.size == 1:
        return scale.reshape(()), zero.reshape(()), None
    if scale.ndim != 1:
        node.refuse(f"its scale has shape {scale.shape}", "quantize per tensor or per channel")
    axis = node.axis(node.attribute("axis", 1) if axis is None else axis, rank)
    return scale, zero.reshape(-1) if zero.size > 1 else zero.reshape(()), axis


def codes(node: Node, dtype: np.dtype[Any]) -> IntegerType:
    """The element type of codes that are stored in `dtype`."""
    try:
        element = storage(dtype)[1]
    except ValueError:  # the dialect has no such type
        element = None
    if isa(element, IntegerType) and element.width.data <= 32:
        return element
    node.refuse(f"codes of type {dtype} are not read", "quantize to integers of at most 16 bits")


def _require_positive(node: Node, scale_at: int) -> None:
    """A quantizer divides by its scale. Only a dequantizer's may be negative, as NNCF writes some weights'."""
    scale = node.constant(scale_at, "the scale")
    if not (np.isfinite(scale) & (scale > 0)).all():
        node.refuse("its scale is not positive and finite", "calibrate the model again: a range is empty or missing")


def to_codes(node: Node, value: SSAValue, scale_at: int, zero_at: int, axis: int | None = None) -> SSAValue:
    """quantize with the scale and zero point of two inputs; uint8 where there is no zero point."""
    _require_positive(node, scale_at)
    zero = node.optional_constant(zero_at, "the zero point")
    element = IntegerType(8, Signedness.UNSIGNED) if zero is None else codes(node, zero.dtype)
    params = QParamsAttr.of(*parameters(node, len(shape_of(value)), scale_at, zero_at, axis))
    return node.emit(QuantizeOp(value, params, element))


def to_reals(node: Node, at: int, scale_at: int, zero_at: int, axis: int | None = None) -> SSAValue:
    """dequantize of input `at` with the scale and zero point of two others; it belongs to what makes the codes."""
    tensor = node.tensor(at)
    if is_float(element_of(tensor)):
        node.refuse(f"input {at} has elements of type {element_of(tensor)}, expected integers", "the model is damaged")
    params = QParamsAttr.of(*parameters(node, len(shape_of(tensor)), scale_at, zero_at, axis))
    return node.graph.emit(DequantizeOp(tensor, params))


def _no_blocks(node: Node) -> None:
    if node.attribute("block_size", 0):
        node.refuse("scales of blocks (block_size) are not read", "quantize per tensor or per channel")


def _quantize(node: Node) -> Value:
    _no_blocks(node)
    from onnx import helper

    zero = node.optional_constant(2, "the zero point")
    stated = node.attribute("output_dtype", 0)
    dtype = zero.dtype if zero is not None else np.dtype(helper.tensor_dtype_to_np_dtype(stated) if stated else "u1")
    element, value = codes(node, dtype), node.value(0)
    _require_positive(node, 1)
    scale, zero_point, axis = parameters(node, len(node.shape(0)), 1, 2)
    type_ = int_type(element)
    if isinstance(value, Constant) and value.array.dtype == np.float32 and type_ is not None:
        # a weight that is quantized in the graph: fold it, in float32 as ONNX has it
        laid_scale, laid_zero = (along(v, axis, value.array.ndim) for v in (scale, zero_point))
        array = quantize(value.array, laid_scale, laid_zero, Rounding.HALF_EVEN, type_)
        return Constant(node.name, array.astype(dtype))
    return node.emit(QuantizeOp(node.float_tensor(0), QParamsAttr.of(scale, zero_point, axis), element))


def _dequantize(node: Node) -> Value:
    _no_blocks(node)
    tensor = node.tensor(0)
    if is_float(element_of(tensor)):
        node.refuse(f"its input has elements of type {element_of(tensor)}, expected integers", "the model is damaged")
    params = QParamsAttr.of(*parameters(node, len(shape_of(tensor)), 1, 2))
    return node.emit(DequantizeOp(tensor, params))


def _blocks(node: Node) -> Value:
    node.refuse("weights with a scale for each block are not read", "quantize per tensor or per channel")


QUANTIZATION: dict[tuple[str, str], Handler] = {
    ("", "QuantizeLinear"): _quantize,
    ("", "DequantizeLinear"): _dequantize,
    ("com.microsoft", "QuantizeLinear"): _quantize,
    ("com.microsoft", "DequantizeLinear"): _dequantize,
    ("com.microsoft", "MatMulNBits"): _blocks,
}
