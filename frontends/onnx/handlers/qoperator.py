"""The QOperator form: operators that take and give codes, each with its scales as inputs.

Each becomes what it is defined as: the operands dequantized, the float operation, and the result quantized. So these
graphs are the same as Q/DQ graphs from here on.
"""

from collections.abc import Callable

from xdsl.ir import SSAValue

from qvit.dialects.attributes import QParamsAttr, ScaleAttr, float_value
from qvit.dialects.ops.elementwise import AddOp, ArithmeticOp, MulOp, SigmoidOp
from qvit.dialects.ops.products import MatmulOp
from qvit.dialects.ops.quantization import DequantizeOp
from qvit.dialects.ops.shape import ConcatOp
from qvit.dialects.types import shape_of
from qvit.frontends.builder import Value
from qvit.frontends.onnx.graph import Handler, Node
from qvit.frontends.onnx.handlers.arithmetic import leaky_relu
from qvit.frontends.onnx.handlers.nonlinear import average, global_average, softmax
from qvit.frontends.onnx.handlers.products import convolution, gemm
from qvit.frontends.onnx.handlers.quantization import parameters, to_codes, to_reals


def _binary(op: type[ArithmeticOp]) -> Handler:
    """(A, its scale and zero point, B, its, the result's)."""
    return lambda node: to_codes(node, node.emit(op(to_reals(node, 0, 1, 2), to_reals(node, 3, 4, 5))), 6, 7)


def _unary(body: Callable[[Node, SSAValue], SSAValue]) -> Handler:
    """(X, its scale and zero point, the result's)."""
    return lambda node: to_codes(node, body(node, to_reals(node, 0, 1, 2)), 3, 4)


def _matmul(node: Node) -> Value:
    """A's scale may go along its rows, B's along its columns."""
    a = to_reals(node, 0, 1, 2, axis=-2)
    b = to_reals(node, 3, 4, 5, axis=-1)
    return to_codes(node, node.emit(MatmulOp(a, b)), 6, 7)


def _bias(node: Node, at: int, x_scale_at: int, w_scale_at: int, factor: float = 1.0) -> SSAValue | None:
    """An int32 bias, whose scale is the product of the operands' scales and `factor`."""
    if not node.has(at):
        return None
    tensor = node.tensor(at)
    rank = len(shape_of(tensor))
    (s, _, _), (t, _, axis) = (parameters(node, rank, i, None, axis=0) for i in (x_scale_at, w_scale_at))
    if s.ndim:
        node.refuse("its input has a scale per channel", "quantize activations per tensor")
    scale = ScaleAttr.of(*(float_value(f) for f in (s, t, factor)))
    return node.graph.emit(DequantizeOp(tensor, QParamsAttr.of(scale, 0, axis)))


def _conv(node: Node) -> Value:
    x, weight = to_reals(node, 0, 1, 2), to_reals(node, 3, 4, 5, axis=0)
    return to_codes(node, convolution(node, x, weight, _bias(node, 8, 1, 4)), 6, 7)


def _gemm(node: Node) -> Value:
    """The bias has the scale alpha sa sb (com.microsoft); without a scale the result is float."""
    a = to_reals(node, 0, 1, 2)
    b = to_reals(node, 3, 4, 5, axis=0 if node.attribute("transB", 0) else 1)
    product = gemm(node, a, b, _bias(node, 6, 1, 4, node.attribute("alpha", 1.0)))
    return to_codes(node, product, 7, 8) if node.has(7) else product


def _softmax(node: Node) -> Value:
    """`opset` is that of the Softmax that it stands for."""
    x = to_reals(node, 0, 1, 2)
    return to_codes(node, softmax(node, x, coerced=node.attribute("opset", 13) < 13), 3, 4)


def _concat(node: Node) -> Value:
    """(the result's scale and zero point, then each tensor with its own)."""
    parts = [to_reals(node, i, i + 1, i + 2) for i in range(2, len(node.inputs), 3)]
    axis = node.axis(node.attributes["axis"], len(shape_of(parts[0])))
    return to_codes(node, node.emit(ConcatOp(parts, axis)), 0, 1)


def _channels_first(body: Callable[[Node, SSAValue], SSAValue]) -> Callable[[Node, SSAValue], SSAValue]:
    def pool(node: Node, x: SSAValue) -> SSAValue:
        if node.attribute("channels_last", 0):
            node.refuse("channels_last is not read", "quantize the model without the NHWC transformer")
        return body(node, x)

    return pool


def _sigmoid(node: Node, x: SSAValue) -> SSAValue:
    return node.emit(SigmoidOp(x))


QOPERATOR: dict[tuple[str, str], Handler] = {
    ("", "QLinearMatMul"): _matmul,
    ("", "QLinearConv"): _conv,
    ("com.microsoft", "QLinearAdd"): _binary(AddOp),
    ("com.microsoft", "QLinearMul"): _binary(MulOp),
    ("com.microsoft", "QLinearSigmoid"): _unary(_sigmoid),
    ("com.microsoft", "QLinearLeakyRelu"): _unary(leaky_relu),
    ("com.microsoft", "QLinearSoftmax"): _softmax,
    ("com.microsoft", "QLinearConcat"): _concat,
    ("com.microsoft", "QLinearAveragePool"): _unary(_channels_first(average)),
    ("com.microsoft", "QLinearGlobalAveragePool"): _unary(_channels_first(global_average)),
    ("com.microsoft", "QGemm"): _gemm,
}
