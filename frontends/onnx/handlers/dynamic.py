"""Dynamic quantization: scales that the model computes from each input, frozen at import.

DynamicQuantizeLinear is read in one of two ways. Measuring, it hands on the real numbers, so that the graph computes in
float and its inputs' ranges can be observed. Frozen, it is a quantize with the scale that its formula gives for the
measured range. Without a range it is refused: a scale known at run time only is a float by nature.
"""

import numpy as np
from xdsl.dialects.builtin import IntegerType, Signedness
from xdsl.ir import SSAValue

from qvit.dialects.attributes import QParamsAttr
from qvit.dialects.ops.elementwise import AddOp
from qvit.dialects.ops.products import MatmulOp
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.semantics.integers import Array
from qvit.dialects.types import element_of, is_float, shape_of
from qvit.frontends.builder import Constant, Value
from qvit.frontends.onnx.graph import Handler, Node
from qvit.frontends.onnx.handlers.attention import packed
from qvit.frontends.onnx.handlers.products import convolution
from qvit.frontends.onnx.handlers.quantization import to_reals


def frozen(low: float, high: float) -> tuple[Array, Array]:
    """(scale, zero point) of uint8 codes for values from low to high: the formula of ONNX DynamicQuantizeLinear."""
    top, bottom = np.float32(max(high, 0)), np.float32(min(low, 0))
    scale = (top - bottom) / np.float32(255)
    if scale == 0:
        scale = np.float32(1)  # all zero: any scale holds it
    return np.array(scale), np.clip(np.rint(0 - bottom / scale), 0, 255).astype(np.uint8)


def _codes(node: Node) -> tuple[SSAValue, Array, Array]:
    """Input 0 as codes, with their scale and zero point; as it is, at scale 1, while its range is being measured."""
    x, name, ranges = node.float_tensor(0), node.input_names[0], node.graph.ranges
    if ranges is None:
        return x, np.array(1, np.float32), np.array(0, np.uint8)
    if name not in ranges:
        node.refuse(
            "its scale is computed from each input at run time, in float",
            "freeze it on sample inputs with --calibrate samples.npz, or quantize the model statically",
        )
    scale, zero = frozen(*ranges[name])
    quantize = QuantizeOp(x, QParamsAttr.of(scale, zero.astype(np.int64)), IntegerType(8, Signedness.UNSIGNED))
    # codes inside of a fused node have a name of their own in traces: the node's is that of its product
    src = node.name if node.op_type == "DynamicQuantizeLinear" else f"{node.name}.codes"
    return node.graph.emit(quantize, src), scale, zero


def _quantize(node: Node) -> list[Value]:
    codes, scale, zero = _codes(node)
    return [codes, Constant(f"{node.name}.scale", scale), Constant(f"{node.name}.zero_point", zero)]


def _reals(node: Node, at: int, zero_at: int, axis: int) -> SSAValue:
    """Codes less their zero point as real numbers of scale 1; what was never quantized stays as it is."""
    tensor = node.tensor(at)
    if is_float(element_of(tensor)):
        return tensor
    zero = node.optional_constant(zero_at, "the zero point")
    zero = np.zeros((), np.int64) if zero is None else zero.astype(np.int64)
    zero = zero.reshape(-1) if zero.size > 1 else zero.reshape(())
    return node.graph.emit(DequantizeOp(tensor, QParamsAttr.of(1.0, zero, node.axis(axis, len(shape_of(tensor))))))


def _matmul_integer(node: Node) -> Value:
    """The sums of products of integers, as real numbers: a Cast to float, which follows, changes nothing then."""
    return node.emit(MatmulOp(_reals(node, 0, 2, -2), _reals(node, 1, 3, -1)))


def _conv_integer(node: Node) -> Value:
    return convolution(node, _reals(node, 0, 2, 1), _reals(node, 1, 3, 0), None)


def _dequantized(node: Node, at: int, scale_at: int, zero_at: int, axis: int) -> SSAValue:
    tensor = node.tensor(at)
    return tensor if is_float(element_of(tensor)) else to_reals(node, at, scale_at, zero_at, axis)


def _dynamic_quantize_matmul(node: Node) -> Value:
    """A quantized as DynamicQuantizeLinear does, times dequantized B, plus a bias (com.microsoft)."""
    a, scale, zero = _codes(node)
    if not is_float(element_of(a)):
        a = node.emit(DequantizeOp(a, QParamsAttr.of(scale, zero.astype(np.int64))))
    return _biased(node, node.emit(MatmulOp(a, _dequantized(node, 1, 2, 3, -1))), 4)


def _matmul_integer_to_float(node: Node) -> Value:
    """(A, B, their scales, their zero points, bias): dequantized A times dequantized B, plus the bias (com.microsoft)."""
    product = MatmulOp(_dequantized(node, 0, 2, 4, -2), _dequantized(node, 1, 3, 5, -1))
    return _biased(node, node.emit(product), 6)


def _attention(node: Node) -> Value:
    """com.microsoft's QAttention: (input, weight, bias, the scales of both, mask, the zero points of both, past)."""
    if node.has(5) or node.has(8) or len(node.outputs) > 1:
        node.refuse("masks and caches are not read", "run the optimizer without this fusion")
    x, weight = _dequantized(node, 0, 3, 6, -1), _dequantized(node, 1, 4, 7, 1)
    return packed(node, x, weight, node.float_tensor(2))


def _biased(node: Node, product: SSAValue, at: int) -> SSAValue:
    return node.emit(AddOp(product, node.float_tensor(at))) if node.has(at) else product


DYNAMIC: dict[tuple[str, str], Handler] = {
    ("", "DynamicQuantizeLinear"): _quantize,
    ("", "MatMulInteger"): _matmul_integer,
    ("", "ConvInteger"): _conv_integer,
    ("com.microsoft", "DynamicQuantizeMatMul"): _dynamic_quantize_matmul,
    ("com.microsoft", "MatMulIntegerToFloat"): _matmul_integer_to_float,
    ("com.microsoft", "QAttention"): _attention,
}

MEASURED = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul")
"""Operators that quantize their first input with a scale of their own."""
