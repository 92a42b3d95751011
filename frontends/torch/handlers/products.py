"""Matrix products, linear layers, convolutions, and attention written out as its two products and the softmax between."""

from collections.abc import Sequence
from math import sqrt

import numpy as np
from xdsl.ir import SSAValue

from qvit.dialects.ops.elementwise import AddOp, MulOp, SelectOp
from qvit.dialects.ops.nonlinear import SoftmaxOp
from qvit.dialects.ops.products import Conv2dOp, ConvTranspose2dOp, LinearOp, MatmulOp
from qvit.dialects.ops.shape import GatherOp, ReshapeOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.types import BOOLEAN, element_dtype, element_of, shape_of
from qvit.frontends.builder import Value
from qvit.frontends.torch.graph import Handler, Node


def _linear(node: Node) -> Value:
    bias = node.float_tensor("bias") if node.argument("bias") is not None else None
    return node.emit(LinearOp(node.float_tensor("input"), node.float_tensor("weight"), bias))


def _matmul(lhs: str, rhs: str) -> Handler:
    """A vector is a matrix of one row (left) or one column (right), and the result drops that dimension."""

    def handler(node: Node) -> Value:
        a, b = node.float_tensor(lhs), node.float_tensor(rhs)
        if len(shape_of(a)) == 1:
            a = node.emit(ReshapeOp(a, (1, *shape_of(a))))
        if len(shape_of(b)) == 1:
            b = node.emit(ReshapeOp(b, (*shape_of(b), 1)))
        product = node.emit(MatmulOp(a, b))
        return product if shape_of(product) == node.shape else node.emit(ReshapeOp(product, node.shape))

    return handler


def _addmm(node: Node) -> Value:
    """beta c + alpha a b, the right operand [K, N]: a linear layer."""
    a, b, c = node.float_tensor("mat1"), node.float_tensor("mat2"), node.float_tensor("self")
    weight = node.emit(TransposeOp(b, [1, 0]))
    if node.argument("alpha") == 1 and node.argument("beta") == 1 and shape_of(c) == (shape_of(weight)[0],):
        return node.emit(LinearOp(a, weight, c))
    product = scaled(node, node.emit(LinearOp(a, weight)), node.argument("alpha"))
    return node.emit(AddOp(product, scaled(node, c, node.argument("beta"))))


def _baddbmm(node: Node) -> Value:
    product = node.emit(MatmulOp(node.float_tensor("batch1"), node.float_tensor("batch2")))
    added = scaled(node, node.float_tensor("self"), node.argument("beta"))
    return node.emit(AddOp(scaled(node, product, node.argument("alpha")), added))


def scaled(node: Node, value: SSAValue, factor: float) -> SSAValue:
    """value * factor; nothing for 1."""
    return value if factor == 1 else node.emit(MulOp(value, node.number(factor, value)))


def _pair(numbers: Sequence[int]) -> list[int]:
    return list(numbers) * 2 if len(numbers) == 1 else list(numbers)


def _conv2d(node: Node) -> Value:
    x, weight = node.float_tensor("input"), node.float_tensor("weight")
    if len(shape_of(x)) != 4 or len(shape_of(weight)) != 4:
        node.refuse(f"its input has {len(shape_of(x))} dimensions, expected 4 (NCHW)", "only 2-D convolutions are read")
    bias = node.float_tensor("bias") if node.argument("bias") is not None else None
    strides, dilations = _pair(node.argument("stride")), _pair(node.argument("dilation"))
    padding = node.argument("padding")
    if isinstance(padding, str):
        kernel = shape_of(weight)[2:]
        total = [(k - 1) * d if padding == "same" else 0 for k, d in zip(kernel, dilations, strict=True)]
        padding, low = [t - t // 2 for t in total], [t // 2 for t in total]
    else:
        padding = low = _pair(padding)
    if node.argument("transposed"):
        extra = _pair(node.argument("output_padding"))
        edges = [*low, *padding]
        return node.emit(ConvTranspose2dOp(x, weight, bias, strides, edges, dilations, node.argument("groups"), extra))
    return node.emit(Conv2dOp(x, weight, bias, strides, [*low, *padding], dilations, node.argument("groups")))


def _conv_transpose2d(node: Node) -> Value:
    node.arguments["transposed"] = True
    return _conv2d(node)


def _attention(node: Node) -> Value:
    """softmax(q k^T * scale + mask) v, all [..., tokens, size]; torch's scaled_dot_product_attention without dropout."""
    if node.argument("dropout_p"):
        node.refuse("it drops probabilities at random", "call model.eval() before torch.export.export")
    q, k, v = (node.float_tensor(name) for name in ("query", "key", "value"))
    if node.argument("enable_gqa"):
        k, v = _repeated(node, k, shape_of(q)[-3]), _repeated(node, v, shape_of(q)[-3])
    *leading, rows, columns = range(len(shape_of(k)))
    keys = node.emit(TransposeOp(k, [*leading, columns, rows]))
    scale = node.argument("scale")
    scores = scaled(node, node.emit(MatmulOp(q, keys)), 1 / sqrt(shape_of(q)[-1]) if scale is None else scale)
    if node.argument("attn_mask") is not None:
        mask = node.tensor("attn_mask")
        if element_of(mask) == BOOLEAN:
            scores = node.emit(SelectOp(mask, scores, node.number(-np.inf, scores)))
        else:
            scores = node.emit(AddOp(scores, mask))
    if node.argument("is_causal"):
        length, width = shape_of(scores)[-2:]
        hidden = np.triu(np.full((length, width), -np.inf), 1).astype(element_dtype(element_of(scores)))
        scores = node.emit(AddOp(scores, node.emit(ConstantOp(hidden, element_of(scores)))))
    return node.emit(MatmulOp(node.emit(SoftmaxOp(scores, len(shape_of(scores)) - 1)), v))


def _repeated(node: Node, x: SSAValue, heads: int) -> SSAValue:
    """Grouped-query attention: each head of keys and values serves several heads of queries."""
    axis = len(shape_of(x)) - 3
    own = shape_of(x)[axis]
    if own == heads:
        return x
    which = node.emit(ConstantOp(np.repeat(np.arange(own, dtype=np.int32), heads // own)))
    return node.emit(GatherOp(x, which, axis))


PRODUCTS: dict[str, Handler] = {
    "aten.linear.default": _linear,
    "aten.matmul.default": _matmul("self", "other"),
    "aten.bmm.default": _matmul("self", "mat2"),
    "aten.mm.default": _matmul("self", "mat2"),
    "aten.addmm.default": _addmm,
    "aten.baddbmm.default": _baddbmm,
    "aten.conv2d.default": _conv2d,
    "aten.conv2d.padding": _conv2d,
    "aten.convolution.default": _conv2d,
    "aten.conv_transpose2d.input": _conv_transpose2d,
    "aten.scaled_dot_product_attention.default": _attention,
}
