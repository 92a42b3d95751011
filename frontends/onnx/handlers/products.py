"""Matrix products and convolutions."""

from collections.abc import Sequence

from xdsl.ir import SSAValue

from qvit.dialects.ops.elementwise import AddOp, MulOp
from qvit.dialects.ops.products import Conv2dOp, ConvTranspose2dOp, LinearOp, MatmulOp
from qvit.dialects.ops.shape import ReshapeOp, TransposeOp
from qvit.dialects.types import shape_of
from qvit.frontends.builder import Value
from qvit.frontends.onnx.graph import Handler, Node


def _matmul(node: Node) -> Value:
    """A vector is a matrix of one row (left) or one column (right), and the result drops that dimension."""
    lhs, rhs = node.float_tensor(0), node.float_tensor(1)
    vectors = [len(shape_of(lhs)) == 1, len(shape_of(rhs)) == 1]
    if vectors[0]:
        lhs = node.emit(ReshapeOp(lhs, (1, *shape_of(lhs))))
    if vectors[1]:
        rhs = node.emit(ReshapeOp(rhs, (*shape_of(rhs), 1)))
    product = node.emit(MatmulOp(lhs, rhs))
    if not any(vectors):
        return product
    *batch, rows, columns = shape_of(product)
    shape = [*batch, *([] if vectors[0] else [rows]), *([] if vectors[1] else [columns])]
    return node.emit(ReshapeOp(product, shape))


def scaled(node: Node, value: SSAValue, factor: float) -> SSAValue:
    """value * factor; nothing for 1."""
    return value if factor == 1.0 else node.emit(MulOp(value, node.number(factor, value)))


def gemm(node: Node, a: SSAValue, b: SSAValue, c: SSAValue | None) -> SSAValue:
    """alpha A' B' + beta C as a linear layer, whose weight is B'^T."""
    if node.attribute("transA", 0):
        a = node.graph.emit(TransposeOp(a, [1, 0]))
    if not node.attribute("transB", 0):
        b = node.graph.emit(TransposeOp(b, [1, 0]))
    alpha = node.attribute("alpha", 1.0)
    if c is None:
        return scaled(node, node.emit(LinearOp(a, b)), alpha)
    c = scaled(node, c, node.attribute("beta", 1.0))
    if alpha == 1.0 and shape_of(c) == (shape_of(b)[0],):
        return node.emit(LinearOp(a, b, c))
    return node.emit(AddOp(scaled(node, node.emit(LinearOp(a, b)), alpha), c))


def _gemm(node: Node) -> Value:
    return gemm(node, node.float_tensor(0), node.float_tensor(1), node.float_tensor(2) if node.has(2) else None)


def padding(node: Node, kernel: Sequence[int], input: Sequence[int]) -> list[int]:
    """pads (top, left, bottom, right) of a window of `kernel` over the last two dimensions of `input`."""
    stated = node.attribute("kernel_shape", list(kernel))
    if list(stated) != list(kernel):
        node.refuse(f"kernel_shape is {list(stated)}, the weight's is {list(kernel)}", "the model is damaged")
    mode = node.attribute("auto_pad", b"NOTSET").decode()
    if mode == "VALID":
        return [0, 0, 0, 0]
    if mode == "NOTSET":
        return list(node.attribute("pads", [0, 0, 0, 0]))
    if mode not in ("SAME_UPPER", "SAME_LOWER") or node.op_type == "ConvTranspose":
        node.refuse(f"auto_pad {mode} is not read", "export the model with explicit pads")
    strides, dilations = node.attribute("strides", [1, 1]), node.attribute("dilations", [1, 1])
    low, high = list[int](), list[int]()
    for size, width, stride, dilation in zip(input[-2:], kernel, strides, dilations, strict=True):
        reach = (width - 1) * dilation + 1
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        small, large = total // 2, total - total // 2
        low.append(small if mode == "SAME_UPPER" else large)
        high.append(large if mode == "SAME_UPPER" else small)
    return [*low, *high]


def two_dimensional(node: Node) -> None:
    if (rank := len(node.shape(0))) != 4:
        node.refuse(f"its input has {rank} dimensions, expected 4 (NCHW)", "only 2-D convolutions are read")


def convolution(node: Node, x: SSAValue, weight: SSAValue, bias: SSAValue | None) -> SSAValue:
    """A 2-D convolution with the node's strides, pads, dilations and groups."""
    two_dimensional(node)
    return node.emit(
        Conv2dOp(
            x,
            weight,
            bias,
            strides=node.attribute("strides", [1, 1]),
            padding=padding(node, shape_of(weight)[2:], shape_of(x)),
            dilations=node.attribute("dilations", [1, 1]),
            groups=node.attribute("group", 1),
        )
    )


def _conv(node: Node) -> Value:
    bias = node.float_tensor(2) if node.has(2) else None
    return convolution(node, node.float_tensor(0), node.float_tensor(1), bias)


def _conv_transpose(node: Node) -> Value:
    two_dimensional(node)
    if "output_shape" in node.attributes:
        node.refuse("output_shape is not read", "export the model with explicit pads")
    weight = node.float_tensor(1)
    return node.emit(
        ConvTranspose2dOp(
            node.float_tensor(0),
            weight,
            node.float_tensor(2) if node.has(2) else None,
            strides=node.attribute("strides", [1, 1]),
            padding=padding(node, shape_of(weight)[2:], node.shape(0)),
            dilations=node.attribute("dilations", [1, 1]),
            groups=node.attribute("group", 1),
            output_padding=node.attribute("output_padding", [0, 0]),
        )
    )


def _fused_matmul(node: Node) -> Value:
    """alpha A' B', the last two dimensions of either transposed on request (com.microsoft)."""
    if node.attribute("transBatchA", 0) or node.attribute("transBatchB", 0):
        node.refuse("transBatchA and transBatchB are not read", "run the transformer optimizer without this fusion")
    lhs, rhs = (
        _swapped(node, node.float_tensor(i)) if node.attribute(name, 0) else node.float_tensor(i)
        for i, name in enumerate(("transA", "transB"))
    )
    return scaled(node, node.emit(MatmulOp(lhs, rhs)), node.attribute("alpha", 1.0))


def _swapped(node: Node, value: SSAValue) -> SSAValue:
    *batch, rows, columns = range(len(shape_of(value)))
    return node.emit(TransposeOp(value, [*batch, columns, rows]))


PRODUCTS: dict[tuple[str, str], Handler] = {
    ("", "MatMul"): _matmul,
    ("", "Gemm"): _gemm,
    ("", "Conv"): _conv,
    ("", "ConvTranspose"): _conv_transpose,
    ("com.microsoft", "FusedMatMul"): _fused_matmul,
}
