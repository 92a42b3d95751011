"""Operators that move elements."""

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
from xdsl.ir import SSAValue

from qvit.dialects.ops.shape import BroadcastOp, ConcatOp, GatherOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.semantics.integers import Array
from qvit.dialects.types import element_dtype, element_of, integer_of, shape_of
from qvit.frontends.builder import Constant, Value
from qvit.frontends.onnx.graph import Folder, Handler, Node


def _shape(node: Node) -> Value:
    whole = node.shape(0)
    part = whole[node.attribute("start", 0) : node.attribute("end", len(whole))]
    return Constant(node.outputs[0], np.array(part, np.int64))


def _to_shape(node: Node, shape: Sequence[int]) -> Value:
    return node.emit(ReshapeOp(node.tensor(0), shape))


def _reshape(node: Node) -> Value:
    before = node.shape(0)
    sizes = [int(d) for d in node.constant(1, "the new shape")]
    if not node.attribute("allowzero", 0):
        sizes = [before[i] if d == 0 and i < len(before) else d for i, d in enumerate(sizes)]
    if sizes.count(-1) > 1:
        node.refuse(f"the new shape {sizes} leaves two dimensions open", "the model is damaged")
    if -1 in sizes:
        known = prod(d for d in sizes if d != -1)
        sizes[sizes.index(-1)] = prod(before) // max(known, 1)
    return _to_shape(node, sizes)


def _axes(node: Node) -> list[int] | None:
    """The axes, an input since opset 13 and an attribute before; some writers give one axis as a scalar."""
    if node.graph.opset < 13:
        return node.attribute("axes", None)
    given = node.optional_constant(1, "axes")
    return None if given is None else np.atleast_1d(given).tolist()


def _squeezed(node: Node) -> list[int]:
    before = node.shape(0)
    given = _axes(node)
    axes = [i for i, d in enumerate(before) if d == 1] if given is None else [node.axis(a, len(before)) for a in given]
    return [d for i, d in enumerate(before) if i not in axes]


def _squeeze(node: Node) -> Value:
    return _to_shape(node, _squeezed(node))


def _unsqueezed(node: Node) -> list[int]:
    shape = list(node.shape(0))
    given = _axes(node)
    if given is None:
        node.refuse("it has no axes", "the model is damaged: check it with onnx.checker")
    axes = [node.axis(a, len(shape) + len(given)) for a in given]
    if len(set(axes)) < len(axes):
        node.refuse(f"its axes {given} name one dimension twice", "the model is damaged")
    for axis in sorted(axes):
        shape.insert(axis, 1)
    return shape


def _unsqueeze(node: Node) -> Value:
    return _to_shape(node, _unsqueezed(node))


def _fold(shape_of_result: Callable[[Node], Sequence[int]]) -> Folder:
    """Constants take their new shape here: the reference evaluator does not know the form before opset 13."""

    def fold(node: Node, arrays: Sequence[Array | None]) -> Array:
        array = arrays[0]
        assert array is not None
        return array.reshape(tuple(shape_of_result(node)))

    return fold


def _flatten(node: Node) -> Value:
    before = node.shape(0)
    axis = node.attribute("axis", 1)
    axis = axis if axis == len(before) else node.axis(axis, len(before))
    return _to_shape(node, [prod(before[:axis]), prod(before[axis:])])


def _transpose(node: Node) -> Value:
    rank = len(node.shape(0))
    return node.emit(TransposeOp(node.tensor(0), node.attribute("perm", list(reversed(range(rank))))))


def _slice(node: Node) -> Value:
    value = node.tensor(0)
    starts, ends = node.constant(1, "starts").tolist(), node.constant(2, "ends").tolist()
    rank = len(shape_of(value))
    axes = node.optional_constant(3, "axes")
    steps = node.optional_constant(4, "steps")
    axes = list(range(len(starts))) if axes is None else [node.axis(a, rank) for a in axes.tolist()]
    steps = [1] * len(starts) if steps is None else steps.tolist()
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        extent = range(shape_of(value)[axis])[start:end:step]  # Python's slices clamp as ONNX's do
        if len(extent) == 0:
            node.refuse(f"nothing is left of axis {axis}", "the model is damaged")
        value = node.emit(SliceOp(value, axis, extent.start, len(extent), extent.step))
    return value


def _split(node: Node) -> list[Value]:
    value = node.tensor(0)
    axis = node.axis(node.attribute("axis", 0), len(shape_of(value)))
    length = shape_of(value)[axis]
    if node.has(1):
        sizes = node.constant(1, "the sizes of the parts").tolist()
    elif "split" in node.attributes:
        sizes = list(node.attributes["split"])
    else:
        count = node.attribute("num_outputs", len(node.outputs))
        if count != len(node.outputs) or (node.graph.opset < 18 and length % count):
            node.refuse(f"{length} elements do not fall into {len(node.outputs)} parts", "the model is damaged")
        part = -(-length // count)
        sizes = [min(part, length - i * part) for i in range(count)]
    if sum(sizes) != length or len(sizes) != len(node.outputs):
        outputs = f"{len(node.outputs)} outputs"
        node.refuse(
            f"parts {sizes} do not add up to the {length} elements of axis {axis}, or to {outputs}", "it is damaged"
        )
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    return [node.emit(SliceOp(value, axis, start, size)) for start, size in zip(starts, sizes, strict=True)]


def _concat(node: Node) -> Value:
    tensors = [node.tensor(i) for i in range(len(node.inputs))]
    return node.emit(ConcatOp(tensors, node.axis(node.attribute("axis", 0), len(shape_of(tensors[0])))))


def _gather(node: Node) -> Value:
    value = node.tensor(0)
    axis = node.axis(node.attribute("axis", 0), len(shape_of(value)))
    found = node.value(1)
    if not isinstance(found, Constant):
        return _lookup(node, value, found, axis)
    indices = found.array
    length = shape_of(value)[axis]
    if indices.size and not (-length <= indices.min() and indices.max() < length):
        node.refuse(f"indices reach outside the {length} elements of axis {axis}", "the model is damaged")
    indices = np.where(indices < 0, indices + length, indices)
    if indices.ndim == 0:
        part = node.emit(SliceOp(value, axis, int(indices), 1))
        shape = shape_of(part)
        return node.emit(ReshapeOp(part, (*shape[:axis], *shape[axis + 1 :])))
    constant = node.graph.ssa(Constant(f"{node.name}.indices", indices.astype(np.int32)))
    return node.emit(GatherOp(value, constant, axis))


def _lookup(node: Node, value: SSAValue, indices: SSAValue, axis: int) -> Value:
    """Rows of a table, such as embeddings of tokens. An index below 0 counts from the end in ONNX, and is an error here."""
    if integer_of(indices) is None:
        node.refuse(f"input 1 has elements of type {element_of(indices)}, expected integers", "the model is damaged")
    return node.emit(GatherOp(value, indices, axis))


def _gather_elements(node: Node) -> Value:
    """y[i, j] = x[i, index[i, j]] along the last axis: rows of x flattened."""
    value, indices = node.tensor(0), node.constant(1, "indices")
    shape = shape_of(value)
    axis = node.axis(node.attribute("axis", 0), len(shape))
    length = shape[axis]
    if indices.ndim != len(shape) or any(
        i > d for k, (i, d) in enumerate(zip(indices.shape, shape, strict=True)) if k != axis
    ):
        node.refuse(f"indices of shape {indices.shape} do not fit {shape}", "the model is damaged")
    if indices.size and not (-length <= indices.min() and indices.max() < length):
        node.refuse(f"indices reach outside the {length} elements of axis {axis}", "the model is damaged")
    numbers = np.arange(prod(shape), dtype=np.int32).reshape(shape)
    reached = tuple(slice(None if k == axis else d) for k, d in enumerate(indices.shape))
    flat = np.take_along_axis(numbers[reached], indices.astype(np.int64), axis)
    constant = node.graph.ssa(Constant(f"{node.name}.indices", flat))
    return node.emit(GatherOp(node.emit(ReshapeOp(value, [prod(shape)])), constant, 0))


def _gather_nd(node: Node) -> Value:
    """y[i, ...] = x[index[i], ...] for indices into the first dimensions."""
    value, indices = node.tensor(0), node.constant(1, "indices")
    shape = shape_of(value)
    if node.attribute("batch_dims", 0):
        node.refuse("batch_dims is not read", "export the model without it")
    depth = indices.shape[-1] if indices.ndim else 0
    if not 1 <= depth <= len(shape):
        node.refuse(f"indices of shape {indices.shape} do not fit {shape}", "the model is damaged")
    lengths = np.array(shape[:depth])
    if ((indices < -lengths) | (indices >= lengths)).any():
        node.refuse(f"indices reach outside {tuple(shape[:depth])}", "the model is damaged")
    numbers = np.arange(prod(shape[:depth]), dtype=np.int32).reshape(shape[:depth])
    flat = numbers[tuple(np.moveaxis(indices, -1, 0))]
    constant = node.graph.ssa(Constant(f"{node.name}.indices", flat))
    rows = node.emit(ReshapeOp(value, [prod(shape[:depth]), *shape[depth:]]))
    return node.emit(GatherOp(rows, constant, 0))


def _tile(node: Node) -> Value:
    """[a, b] repeated r and s times: broadcast as [r, a, s, b], then merged."""
    value, repeats = node.tensor(0), node.integers(1, "repeats")
    shape = shape_of(value)
    if len(repeats) != len(shape) or min(repeats, default=1) < 1:
        node.refuse(f"repeats are {repeats}, expected {len(shape)} positive numbers", "the model is damaged")
    apart = [length for d in shape for length in (1, d)]
    wide = [length for d, count in zip(shape, repeats, strict=True) for length in (count, d)]
    repeated = node.emit(BroadcastOp(node.emit(ReshapeOp(value, apart)), wide))
    return node.emit(ReshapeOp(repeated, [d * count for d, count in zip(shape, repeats, strict=True)]))


def _pad(node: Node) -> Value:
    """A constant at the edges is concatenated there; the other modes repeat elements of the tensor."""
    value = node.tensor(0)
    rank, shape = len(shape_of(value)), shape_of(value)
    amounts = node.integers(1, "pads")
    axes = range(rank) if not node.has(3) else [node.axis(a, rank) for a in node.integers(3, "axes")]
    if len(amounts) != 2 * len(axes):
        node.refuse(f"it has {len(amounts)} pads for {len(axes)} axes", "the model is damaged")
    mode = node.attribute("mode", b"constant").decode()
    if mode not in ("constant", "reflect", "edge", "wrap"):
        node.refuse(f"mode {mode} is not one that ONNX has", "the model is damaged")
    for axis, low, high in zip(axes, amounts, amounts[len(axes) :], strict=False):
        if low < 0 or high < 0:  # cut off
            start, kept = max(-low, 0), shape[axis] - max(-low, 0) - max(-high, 0)
            if kept < 1:
                node.refuse(f"nothing is left of axis {axis}", "the model is damaged")
            value = node.emit(SliceOp(value, axis, start, kept))
            low, high = max(low, 0), max(high, 0)
        if low == high == 0:
            continue
        if mode == "constant":
            value = _fill(node, value, axis, low, high)
        else:
            where = np.pad(np.arange(shape_of(value)[axis], dtype=np.int32), (low, high), mode)
            indices = node.graph.emit(ConstantOp(where), node.name)
            value = node.emit(GatherOp(value, indices, axis))
    return value


def _fill(node: Node, value: SSAValue, axis: int, low: int, high: int) -> SSAValue:
    number = node.optional_constant(2, "the value") if node.has(2) else None
    shape, element = list(shape_of(value)), element_of(value)
    parts = [value]
    for count, at in ((low, 0), (high, len(parts) + 1)):
        if count:
            shape[axis] = count
            filled = np.full(shape, 0 if number is None else number.item(), element_dtype(element))
            parts.insert(at, node.graph.emit(ConstantOp(filled, element), node.name))
    return node.emit(ConcatOp(parts, axis))


def _expand(node: Node) -> Value:
    value = node.tensor(0)
    shape = [int(d) for d in node.constant(1, "the new shape")]
    return node.emit(BroadcastOp(value, np.broadcast_shapes(shape_of(value), tuple(shape))))


SHAPES: dict[tuple[str, str], Handler] = {
    ("", "Shape"): _shape,
    ("", "Reshape"): _reshape,
    ("", "Squeeze"): _squeeze,
    ("", "Unsqueeze"): _unsqueeze,
    ("", "Flatten"): _flatten,
    ("", "Transpose"): _transpose,
    ("", "Slice"): _slice,
    ("", "Split"): _split,
    ("", "Concat"): _concat,
    ("", "Gather"): _gather,
    ("", "GatherElements"): _gather_elements,
    ("", "GatherND"): _gather_nd,
    ("", "Expand"): _expand,
    ("", "Tile"): _tile,
    ("", "Pad"): _pad,
}

FOLDERS: dict[tuple[str, str], Folder] = {("", "Squeeze"): _fold(_squeezed), ("", "Unsqueeze"): _fold(_unsqueezed)}
"""Operators that are folded here instead of by the reference evaluator."""
