"""Attention, of ONNX (opset 23) and of com.microsoft, written out as its two products and the softmax between them.

ONNX multiplies queries and keys by the square root of the scale each; here the scores are multiplied once.
"""

from math import sqrt

import numpy as np
from xdsl.ir import SSAValue

from qvit.dialects.ops.elementwise import AddOp, SelectOp, TanhOp
from qvit.dialects.ops.nonlinear import SoftmaxOp
from qvit.dialects.ops.products import LinearOp, MatmulOp
from qvit.dialects.ops.shape import GatherOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.types import BOOLEAN, element_dtype, element_of, shape_of
from qvit.frontends.builder import Value
from qvit.frontends.onnx.graph import Handler, Node
from qvit.frontends.onnx.handlers.products import scaled


def _split_heads(node: Node, x: SSAValue, heads: int) -> SSAValue:
    """[batch, tokens, heads * size] -> [batch, heads, tokens, size]."""
    batch, tokens, width = shape_of(x)
    if heads <= 0 or width % heads:
        node.refuse(f"{width} features do not fall into {heads} heads", "the model is damaged")
    parts = node.emit(ReshapeOp(x, [batch, tokens, heads, width // heads]))
    return node.emit(TransposeOp(parts, [0, 2, 1, 3]))


def _join_heads(node: Node, x: SSAValue) -> SSAValue:
    """[batch, heads, tokens, size] -> [batch, tokens, heads * size]."""
    batch, heads, tokens, size = shape_of(x)
    return node.emit(ReshapeOp(node.emit(TransposeOp(x, [0, 2, 1, 3])), [batch, tokens, heads * size]))


def _masked(node: Node, scores: SSAValue, mask: SSAValue) -> SSAValue:
    """A mask of truth values lets through where it is true; one of numbers is added."""
    if element_of(mask) != BOOLEAN:
        return node.emit(AddOp(scores, mask))
    return node.emit(SelectOp(mask, scores, node.number(-np.inf, scores)))


def _causal(node: Node, scores: SSAValue) -> SSAValue:
    """Minus infinity above the diagonal."""
    rows, columns = shape_of(scores)[-2:]
    hidden = np.triu(np.full((rows, columns), -np.inf), 1).astype(element_dtype(element_of(scores)))
    return node.emit(AddOp(scores, node.emit(ConstantOp(hidden, element_of(scores)))))


def _repeated(node: Node, x: SSAValue, heads: int) -> SSAValue:
    """Grouped-query attention: each head of keys and values serves several heads of queries."""
    own = shape_of(x)[1]
    if own == heads:
        return x
    if heads % own:
        node.refuse(f"{heads} query heads do not share {own} key heads evenly", "the model is damaged")
    which = node.emit(ConstantOp(np.repeat(np.arange(own, dtype=np.int32), heads // own)))
    return node.emit(GatherOp(x, which, 1))


def _attend(
    node: Node, q: SSAValue, k: SSAValue, v: SSAValue, scale: float, mask: SSAValue | None, causal: bool
) -> SSAValue:
    """softmax(q k^T * scale + mask) v; all [batch, heads, tokens, size]."""
    keys = node.emit(TransposeOp(_repeated(node, k, shape_of(q)[1]), [0, 1, 3, 2]))
    scores = scaled(node, node.emit(MatmulOp(q, keys)), scale)
    if softcap := node.attribute("softcap", 0.0):
        bounded = node.emit(TanhOp(scaled(node, scores, 1 / softcap)))
        scores = scaled(node, bounded, softcap)
    if mask is not None:
        scores = _masked(node, scores, mask)
    if causal:
        scores = _causal(node, scores)
    probabilities = node.emit(SoftmaxOp(scores, 3))
    return node.emit(MatmulOp(probabilities, _repeated(node, v, shape_of(q)[1])))


def _attention(node: Node) -> Value:
    if node.has(4) or node.has(5) or len(node.outputs) > 1:
        node.refuse("a cache of keys and values, or the scores as an output, is not read", "export it without a cache")
    if node.has(6):
        node.refuse("nonpad_kv_seqlen is not read", "export the model without a cache")
    q, k, v = (node.float_tensor(i) for i in range(3))
    ranks = {len(shape_of(x)) for x in (q, k, v)}
    if ranks not in ({3}, {4}):
        node.refuse(f"its inputs have {sorted(ranks)} dimensions, expected 3 or 4", "the model is damaged")
    joined = ranks == {3}
    if joined:
        heads, kv_heads = node.attribute("q_num_heads", 0), node.attribute("kv_num_heads", 0)
        q, k, v = (_split_heads(node, x, h) for x, h in ((q, heads), (k, kv_heads), (v, kv_heads)))
    scale = node.attribute("scale", 0.0) or 1 / sqrt(shape_of(q)[-1])
    mask = node.tensor(3) if node.has(3) else None
    result = _attend(node, q, k, v, scale, mask, bool(node.attribute("is_causal", 0)))
    return _join_heads(node, result) if joined else result


def _multi_head_attention(node: Node) -> Value:
    """(query, key, value, bias) of com.microsoft, each [batch, tokens, features]; the bias is of all three."""
    heads = node.attribute("num_heads", 0)
    mask = node.tensor(5) if node.has(5) else None
    if node.has(4) or any(node.has(i) for i in range(6, len(node.inputs))) or len(node.outputs) > 1:
        node.refuse("key_padding_mask and caches are not read", "run the optimizer without this fusion")
    parts = [node.float_tensor(i) for i in range(3)]
    if any(len(shape_of(x)) != 3 for x in parts):
        node.refuse("packed queries, keys and values are not read", "run the optimizer without this fusion")
    if node.has(3):
        start, biased = 0, list[SSAValue]()
        for x in parts:
            width = shape_of(x)[-1]
            biased.append(node.emit(AddOp(x, node.emit(SliceOp(node.float_tensor(3), 0, start, width)))))
            start += width
        parts = biased
    q, k, v = (_split_heads(node, x, heads) for x in parts)
    scale = node.attribute("scale", 0.0) or 1 / sqrt(shape_of(q)[-1])
    return _join_heads(node, _attend(node, q, k, v, scale, mask, bool(node.attribute("unidirectional", 0))))


def _packed_attention(node: Node) -> Value:
    """com.microsoft's Attention: (input, weight, bias)."""
    if any(node.has(i) for i in range(3, len(node.inputs))) or len(node.outputs) > 1:
        node.refuse("masks and caches are not read", "run the optimizer without this fusion")
    return packed(node, node.float_tensor(0), node.float_tensor(1), node.float_tensor(2) if node.has(2) else None)


def packed(node: Node, x: SSAValue, weight: SSAValue, bias: SSAValue | None) -> SSAValue:
    """Attention whose queries, keys and values are one projection of x: weight [features, 3 * width]."""
    if node.attribute("do_rotary", 0):
        node.refuse("rotary positions are not read", "run the optimizer without this fusion")
    projected = node.emit(LinearOp(x, node.emit(TransposeOp(weight, [1, 0])), bias))
    total = shape_of(projected)[-1]
    sizes = node.attribute("qkv_hidden_sizes", [total // 3] * 3)
    if sum(sizes) != total or len(sizes) != 3:
        node.refuse(f"qkv_hidden_sizes {sizes} do not add up to {total}", "the model is damaged")
    starts = (0, sizes[0], sizes[0] + sizes[1])
    parts = [node.emit(SliceOp(projected, 2, start, size)) for start, size in zip(starts, sizes, strict=True)]
    q, k, v = (_split_heads(node, x, node.attribute("num_heads", 0)) for x in parts)
    scale = node.attribute("scale", 0.0) or 1 / sqrt(shape_of(q)[-1])
    return _join_heads(node, _attend(node, q, k, v, scale, None, bool(node.attribute("unidirectional", 0))))


ATTENTION: dict[tuple[str, str], Handler] = {
    ("", "Attention"): _attention,
    ("com.microsoft", "MultiHeadAttention"): _multi_head_attention,
    ("com.microsoft", "Attention"): _packed_attention,
}
