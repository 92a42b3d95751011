"""Operations that only move elements, and constants."""

from collections.abc import Iterator, Sequence

from xdsl.dialects import arith, tensor
from xdsl.dialects.builtin import ArrayAttr, IndexType, IntegerAttr, TensorType, i64
from xdsl.dialects.linalg.ops import IndexOp
from xdsl.ir import SSAValue
from xdsl.ir.affine import AffineConstantExpr

from qvit.dialects.ops.shape import BroadcastOp, ConcatOp, GatherOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp, WeightOp
from qvit.dialects.types import element_of, shape_of
from qvit.transforms.lower.bounded import code
from qvit.transforms.lower.stage import (
    Kernel,
    Stage,
    broadcast_dims,
    dims,
    integer_element,
    move,
    signless,
)


def constant(s: Stage, op: ConstantOp | WeightOp) -> SSAValue:
    """Inline, whatever its size: the text of plain MLIR stands alone."""
    array = s.weights.array(op.result)
    assert array is not None
    return s.constant(array, element_of(op.result))


def reshape(s: Stage, op: ReshapeOp, x: SSAValue) -> SSAValue:
    return reshape_to(s, x, shape_of(op.result))


def split(s: Stage, x: SSAValue, axis: int, parts: int) -> SSAValue:
    """One dimension as two: its parts, and the elements of each."""
    shape = shape_of(x)
    return reshape_to(s, x, (*shape[:axis], parts, shape[axis] // parts, *shape[axis + 1 :]))


def reshape_to(s: Stage, x: SSAValue, shape: Sequence[int]) -> SSAValue:
    """Collapse what differs, then expand it: dimensions that both shapes have stay apart."""
    before, element = shape_of(x), element_of(x)
    if not before or not shape:  # one element; xDSL does not take upstream's form of it
        return move(s, x, [AffineConstantExpr(0)] * len(before), shape)
    groups = list(_common(before, shape))
    middle = [size for _, _, size in groups]
    if len(middle) < len(before):
        collapsed = TensorType(element, middle)
        properties = {"reassociation": _reassociation(len(a) for a, _, _ in groups)}
        x = s.emit(tensor.CollapseShapeOp(operands=[x], result_types=[collapsed], properties=properties))
    if len(middle) < len(shape):
        expanded = TensorType(element, shape)
        x = s.emit(tensor.ExpandShapeOp(x, [], _reassociation(len(b) for _, b, _ in groups), shape, expanded))
    return x


def _common(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[Sequence[int], Sequence[int], int]]:
    """The shortest runs of dimensions of both shapes, in order, that hold equally many elements, and how many.

    Dimensions of size 1 that are left over at the end join the last run.
    """
    if 0 in before:
        yield before, after, 0
        return
    i = j = 0
    while i < len(before):
        first_i, first_j, a, b = i, j, before[i], after[j]
        i, j = i + 1, j + 1
        while a != b or (i < len(before)) != (j < len(after)):
            if j == len(after) or (a <= b and i < len(before)):
                i, a = i + 1, a * before[i]
            else:
                j, b = j + 1, b * after[j]
        yield before[first_i:i], after[first_j:j], a


def _reassociation(lengths: Iterator[int]) -> ArrayAttr[ArrayAttr[IntegerAttr]]:
    groups: list[ArrayAttr[IntegerAttr]] = []
    start = 0
    for length in lengths:
        groups.append(ArrayAttr([IntegerAttr(i, i64) for i in range(start, start + length)]))
        start += length
    return ArrayAttr(groups)


def transpose(s: Stage, op: TransposeOp, x: SSAValue) -> SSAValue:
    return move(s, x, dims(*(op.order.index(i) for i in range(len(op.order)))), shape_of(op.result))


def broadcast(s: Stage, op: BroadcastOp, x: SSAValue) -> SSAValue:
    return move(s, x, broadcast_dims(shape_of(op.input), shape_of(op.result)), shape_of(op.result))


def concat(s: Stage, op: ConcatOp, *parts: SSAValue) -> SSAValue:
    return s.emit(tensor.ConcatOp(parts, op.axis.value.data, TensorType(element_of(parts[0]), shape_of(op.result))))


def slice_(s: Stage, op: SliceOp, x: SSAValue) -> SSAValue:
    """A slice; walking backwards, which tensor.extract_slice cannot, elements one by one."""
    axis, start, size, step = op.extent
    shape = shape_of(op.input)
    if step > 0:
        offsets = [start if i == axis else 0 for i in range(len(shape))]
        sizes = [size if i == axis else length for i, length in enumerate(shape)]
        strides = [step if i == axis else 1 for i in range(len(shape))]
        return s.emit(tensor.ExtractSliceOp(x, offsets, sizes, strides, TensorType(element_of(x), shape_of(op.result))))
    k = Kernel(s, element_of(op.result), len(shape))
    index = k.emit(arith.MuliOp(k.emit(IndexOp(axis)), k.constant(step, IndexType())))
    index = k.emit(arith.AddiOp(index, k.constant(start, IndexType())))
    before, after = _indices(k, axis), _indices(k, len(shape) - axis - 1, axis + 1)
    return k.finish_new(_extract(k, x, [*before, index, *after]), shape_of(op.result))


def _indices(k: Kernel, count: int, first: int = 0) -> list[SSAValue]:
    return [k.emit(IndexOp(i)) for i in range(first, first + count)]


def _extract(k: Kernel, x: SSAValue, indices: Sequence[SSAValue]) -> SSAValue:
    return k.emit(tensor.ExtractOp(x, indices, signless(element_of(x))))


def gather(s: Stage, op: GatherOp, x: SSAValue, indices: SSAValue) -> SSAValue:
    """Elements at computed places."""
    axis, rank, taken = op.axis.value.data, len(shape_of(op.result)), len(shape_of(op.indices))
    k = Kernel(s, element_of(op.result), rank)
    found = code(k, k.read(indices, dims(*range(axis, axis + taken))), integer_element(op.indices))
    after = len(shape_of(op.input)) - axis - 1
    index = k.emit(arith.IndexCastOp(found.value, IndexType()))
    return k.finish_new(
        _extract(k, x, [*_indices(k, axis), index, *_indices(k, after, axis + taken)]), shape_of(op.result)
    )
