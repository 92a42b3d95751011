"""Operators that move elements."""

from typing import Any, cast

import numpy as np
from xdsl.ir import SSAValue

from qvit.dialects.ops.shape import BroadcastOp, ConcatOp, GatherOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.types import element_dtype, element_of, integer_of, shape_of
from qvit.frontends.builder import Constant, Value
from qvit.frontends.torch.graph import Handler, Node


def _reshape(node: Node) -> Value:
    """view, reshape, flatten, squeeze, unsqueeze ...: torch.export knows the new shape."""
    x = node.tensor("self")
    return x if shape_of(x) == node.shape else node.emit(ReshapeOp(x, node.shape))


def _permute(node: Node) -> Value:
    x = node.tensor("self")
    return node.emit(TransposeOp(x, [d % len(shape_of(x)) for d in node.argument("dims")]))


def _transpose(node: Node) -> Value:
    x = node.tensor("self")
    order = list(range(len(shape_of(x))))
    a, b = node.axis("dim0", len(order)), node.axis("dim1", len(order))
    order[a], order[b] = order[b], order[a]
    return node.emit(TransposeOp(x, order)) if a != b else x


def _matrix_transpose(node: Node) -> Value:
    """t, .T, .mT: the last two dimensions."""
    x = node.tensor("self")
    *leading, last = range(len(shape_of(x)))
    return node.emit(TransposeOp(x, [*leading[:-1], last, leading[-1]])) if leading else x


def _expand(node: Node) -> Value:
    x = node.tensor("self")
    if shape_of(x) == node.shape:
        return x
    missing = len(node.shape) - len(shape_of(x))
    return node.emit(
        BroadcastOp(node.emit(ReshapeOp(x, [1] * missing + list(shape_of(x)))) if missing else x, node.shape)
    )


def _slice_of(node: Node, x: SSAValue, axis: int, start: int, size: int, step: int = 1) -> SSAValue:
    whole = (start, size, step) == (0, shape_of(x)[axis], 1)
    return x if whole else node.emit(SliceOp(x, axis, start, size, step))


def _slice(node: Node) -> Value:
    x = node.tensor("self")
    axis = node.axis("dim", len(shape_of(x)))
    extent = range(shape_of(x)[axis])[node.argument("start") : node.argument("end") : node.argument("step")]
    if not extent:
        node.refuse(f"nothing is left of axis {axis}", "export the model without this slice")
    return _slice_of(node, x, axis, extent.start, len(extent), extent.step)


def _select(node: Node) -> Value:
    x = node.tensor("self")
    axis = node.axis("dim", len(shape_of(x)))
    index = cast(int, node.argument("index")) % shape_of(x)[axis]
    return node.emit(ReshapeOp(_slice_of(node, x, axis, index, 1), node.shape))


def _parts(node: Node, sizes: list[int]) -> list[Value]:
    x = node.tensor("self")
    axis = node.axis("dim", len(shape_of(x)))
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    return [_slice_of(node, x, axis, start, size) for start, size in zip(starts, sizes, strict=True)]


def _split(node: Node) -> list[Value]:
    """split, chunk, split_with_sizes: torch.export knows the parts."""
    axis = node.axis("dim", len(node.fake[0].shape))
    return _parts(node, [part.shape[axis] for part in node.fake])


def _unbind(node: Node) -> list[Value]:
    x = node.tensor("self")
    axis = node.axis("dim", len(shape_of(x)))
    shape = [d for i, d in enumerate(shape_of(x)) if i != axis]
    return [
        node.emit(ReshapeOp(part, shape))
        for part in _parts(node, [1] * shape_of(x)[axis])
        if isinstance(part, SSAValue)
    ]


def _tensors(node: Node) -> list[SSAValue]:
    return [node.graph.ssa(value) for value in node.argument("tensors")]


def _cat(node: Node) -> Value:
    tensors = [t for t in _tensors(node) if shape_of(t) != (0,)]  # torch skips empty vectors
    return tensors[0] if len(tensors) == 1 else node.emit(ConcatOp(tensors, node.axis("dim", len(node.shape))))


def _stack(node: Node) -> Value:
    axis = node.axis("dim", len(node.shape))
    apart = [1 if i == axis else d for i, d in enumerate(node.shape)]
    return node.emit(ConcatOp([node.emit(ReshapeOp(t, apart)) for t in _tensors(node)], axis))


def _lookup(node: Node, x: SSAValue, indices: "Value", axis: int, name: str) -> SSAValue:
    if isinstance(indices, Constant):
        array = np.where(indices.array < 0, indices.array + shape_of(x)[axis], indices.array)
        return node.emit(GatherOp(x, node.graph.ssa(Constant(f"{node.name}.{name}", array.astype(np.int32))), axis))
    if integer_of(indices) is None:
        node.refuse(f"{name} have elements of type {element_of(indices)}, expected integers", "check the model")
    return node.emit(GatherOp(x, indices, axis))


def _embedding(node: Node) -> Value:
    return _lookup(node, node.tensor("weight"), node.argument("indices"), 0, "indices")


def _index_select(node: Node) -> Value:
    x = node.tensor("self")
    return _lookup(node, x, node.argument("index"), node.axis("dim", len(shape_of(x))), "indices")


def _index(node: Node) -> Value:
    """x[:, i]: one index, along one axis."""
    x, indices = node.tensor("self"), list(node.argument("indices"))
    given = [(axis, value) for axis, value in enumerate(indices) if value is not None]
    if len(given) != 1:
        return _index_of_several(node, x, given)
    ((axis, value),) = given
    if isinstance(value, Constant) and value.array.dtype.kind == "b":
        value = Constant(f"{node.name}.indices", np.flatnonzero(value.array))
    return _lookup(node, x, value, axis, "indices")


def _index_of_several(node: Node, x: SSAValue, given: list[tuple[int, Value]]) -> Value:
    """x[i, j] of the first axes, i and j constant: rows of x flattened."""
    axes = [axis for axis, _ in given]
    arrays = [value.array for _, value in given if isinstance(value, Constant)]
    shape = shape_of(x)
    if axes != list(range(len(axes))) or len(arrays) < len(given):
        node.refuse(f"it indexes the axes {axes} with tensors", "index one axis, or the first ones with constants")
    numbers = np.arange(np.prod(shape[: len(axes)]), dtype=np.int32).reshape(shape[: len(axes)])
    flat = numbers[tuple(arrays)]
    rows = node.emit(ReshapeOp(x, [numbers.size, *shape[len(axes) :]]))
    return node.emit(GatherOp(rows, node.graph.ssa(Constant(f"{node.name}.indices", flat)), 0))


def _roll(node: Node) -> Value:
    """Each axis cut in two, the parts exchanged."""
    x = node.tensor("self")
    rank = len(shape_of(x))
    shifts: list[int] = node.argument("shifts")
    dims: list[int] = node.argument("dims")
    for shift, dim in zip(shifts, dims, strict=True):
        axis = dim % rank
        length = shape_of(x)[axis]
        if first := shift % length:
            x = node.emit(
                ConcatOp(
                    [
                        _slice_of(node, x, axis, length - first, first),
                        _slice_of(node, x, axis, 0, length - first),
                    ],
                    axis,
                )
            )
    return x


def _flip(node: Node) -> Value:
    x = node.tensor("self")
    dims: list[int] = node.argument("dims")
    for dim in dims:
        axis = dim % len(shape_of(x))
        x = node.emit(SliceOp(x, axis, shape_of(x)[axis] - 1, shape_of(x)[axis], -1))
    return x


def _pad(node: Node) -> Value:
    """torch counts from the last axis: (low, high) of each. A constant is concatenated, other modes repeat elements."""
    x, amounts = node.tensor("self"), list(node.argument("pad"))
    mode, number = node.argument("mode") or "constant", node.argument("value") or 0
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    for i, (low, high) in enumerate(zip(amounts[::2], amounts[1::2], strict=True)):
        axis = len(shape_of(x)) - 1 - i
        if low < 0 or high < 0:
            kept = shape_of(x)[axis] - max(-low, 0) - max(-high, 0)
            x = _slice_of(node, x, axis, max(-low, 0), kept)
            low, high = max(low, 0), max(high, 0)
        if low == high == 0:
            continue
        if modes[mode] != "constant":
            # NumPy's stubs do not know a mode that is no literal
            where = np.asarray(cast(Any, np.pad)(np.arange(shape_of(x)[axis]), (low, high), modes[mode]), np.int32)
            x = node.emit(GatherOp(x, node.emit(ConstantOp(where)), axis))
            continue
        x = _filled(node, x, axis, low, high, number)
    return x


def _filled(node: Node, x: SSAValue, axis: int, low: int, high: int, number: float) -> SSAValue:
    element = element_of(x)

    def edge(count: int) -> list[SSAValue]:
        shape = [count if i == axis else d for i, d in enumerate(shape_of(x))]
        return [node.emit(ConstantOp(np.full(shape, number, element_dtype(element)), element))] if count else []

    return node.emit(ConcatOp([*edge(low), x, *edge(high)], axis))


def _repeat(node: Node) -> Value:
    """[a, b] repeated r and s times: broadcast as [r, a, s, b], then merged."""
    x, repeats = node.tensor("self"), list(node.argument("repeats"))
    shape = [1] * (len(repeats) - len(shape_of(x))) + list(shape_of(x))
    apart = [length for d in shape for length in (1, d)]
    wide = [length for d, count in zip(shape, repeats, strict=True) for length in (count, d)]
    return node.emit(ReshapeOp(node.emit(BroadcastOp(node.emit(ReshapeOp(x, apart)), wide)), node.shape))


SHAPES: dict[str, Handler] = {
    **{
        f"aten.{name}": _reshape
        for name in (
            "view.default",
            "reshape.default",
            "_unsafe_view.default",
            "flatten.using_ints",
            "unflatten.int",
            "squeeze.default",
            "squeeze.dim",
            "squeeze.dims",
            "unsqueeze.default",
            "view_as.default",
        )
    },
    "aten.permute.default": _permute,
    "aten.transpose.int": _transpose,
    "aten.swapaxes.default": _transpose,
    "aten.t.default": _matrix_transpose,
    "aten.numpy_T.default": _matrix_transpose,
    "aten.mT.default": _matrix_transpose,
    "aten.expand.default": _expand,
    "aten.expand_as.default": _expand,
    "aten.broadcast_to.default": _expand,
    "aten.slice.Tensor": _slice,
    "aten.narrow.default": lambda node: _slice_of(
        node,
        node.tensor("self"),
        node.axis("dim", len(node.shape)),
        node.argument("start"),
        node.argument("length"),
    ),
    "aten.select.int": _select,
    "aten.split.Tensor": _split,
    "aten.split_with_sizes.default": _split,
    "aten.split.sizes": _split,
    "aten.chunk.default": _split,
    "aten.tensor_split.sections": _split,
    "aten.unbind.int": _unbind,
    "aten.cat.default": _cat,
    "aten.concat.default": _cat,
    "aten.stack.default": _stack,
    "aten.embedding.default": _embedding,
    "aten.index_select.default": _index_select,
    "aten.index.Tensor": _index,
    "aten.roll.default": _roll,
    "aten.flip.default": _flip,
    "aten.pad.default": _pad,
    "aten.constant_pad_nd.default": _pad,
    "aten.repeat.default": _repeat,
}
