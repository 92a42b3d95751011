"""Operations that move elements: views where strides say them, copies elsewhere."""

from collections.abc import Mapping
from itertools import product

from xdsl.ir import Operation, SSAValue

from qvit.backends.systolic.isa import Memory, Store
from qvit.backends.systolic.lowering.build import RUN_MOST, Builder, refuse
from qvit.backends.systolic.lowering.tasks import Place
from qvit.backends.systolic.lowering.tensors import Home, View
from qvit.dialects.ops.shape import BroadcastOp, ConcatOp, GatherOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.types import shape_of

MOVES = (TransposeOp, ReshapeOp, SliceOp, BroadcastOp, ConcatOp, GatherOp)


def move(b: Builder, op: Operation) -> View:
    """The result of an operation that moves elements."""
    match op:
        case TransposeOp():
            return b.view(op.input).transposed(op.order)
        case SliceOp():
            view = b.view(op.input).sliced(*op.extent)
            # no instruction goes backwards
            return view if op.extent[3] > 0 else View.of(copied(b, op.result, view), shape_of(op.result))
        case BroadcastOp():
            return b.view(op.input).broadcast(shape_of(op.result))
        case ReshapeOp():
            view, shape = b.view(op.input), shape_of(op.result)
            found = view.reshaped(shape)
            return found if found is not None else View.of(copied(b, op.result, view), shape)
        case ConcatOp():
            return _concat(b, op)
        case GatherOp():
            return _gather(b, op)
        case _:
            raise AssertionError(op.name)


def copied(b: Builder, value: SSAValue, view: View) -> Home:
    """A view's elements, row by row, in a home of their own."""
    home = b.new_home(value)
    copy_into(b, view, View.of(home, view.shape))
    return home


def _concat(b: Builder, op: ConcatOp) -> View:
    axis, whole = op.axis.value.data, View.of(b.new_home(op.result), shape_of(op.result))
    start = 0
    for value in op.inputs:
        size = shape_of(value)[axis]
        copy_into(b, b.view(value), whole.sliced(axis, start, size, 1))
        start += size
    return whole


def _gather(b: Builder, op: GatherOp) -> View:
    indices = b.weights.array(op.indices)
    if indices is None:
        raise refuse(op, "its indices are computed at run time", "look them up before the integer function")
    axis, view = op.axis.value.data, b.view(op.input)
    shape = shape_of(op.result)
    whole = View.of(b.new_home(op.result), shape)
    flat = indices.reshape(-1)
    target = whole.reshaped((*shape[:axis], len(flat), *shape[axis + indices.ndim :]))
    assert target is not None
    for at, index in enumerate(flat):
        copy_into(b, view.sliced(axis, int(index), 1, 1), target.sliced(axis, at, 1, 1))
    return whole


def copy_into(b: Builder, source: View, target: View) -> None:
    """Elements of one view to the same places of another, of the same shape; three dimensions an instruction."""
    size = source.home.itemsize
    dims = _merged(source, target)
    backwards = [dim for dim in dims if min(dim[1:]) < 0]
    dims = [dim for dim in dims if dim not in backwards]
    run = size
    if dims and dims[-1][1] == dims[-1][2] == 1:
        run = dims.pop()[0] * size
    if run > RUN_MOST:
        raise AssertionError("a run of more than a megabyte")
    inner = dims[-2:]
    planes, rows = [(1, 0, 0)] * (2 - len(inner)) + inner
    outer = [*backwards, *dims[:-2]]
    for index in product(*(range(n) for n, _, _ in outer)):
        sources = source.offset + sum(i * s for i, (_, s, _) in zip(index, outer, strict=True))
        targets = target.offset + sum(i * t for i, (_, _, t) in zip(index, outer, strict=True))
        counts = (planes[0], rows[0], run)
        steps = {
            "source_plane": planes[1] * size,
            "source_row": rows[1] * size,
            "target_plane": planes[2] * size,
            "target_row": rows[2] * size,
        }
        _copy(b, (source.home, sources * size), (target.home, targets * size), counts, steps)


def _copy(
    b: Builder, source: tuple[Home, int], target: tuple[Home, int], counts: tuple[int, int, int], steps: dict[str, int]
) -> None:
    """Between homes wherever they live."""
    planes, rows, run = counts
    away = source[0].address is not None and target[0].address is not None
    if away and planes * rows * run > b.machine.memory.activations // 8:  # by way of the chip, in halves
        for shift, part in _halves(counts, steps):
            starts = [(home, at + shift[end]) for end, (home, at) in (("source", source), ("target", target))]
            _copy(b, starts[0], starts[1], part, steps)
        return
    reach = (planes - 1) * steps["target_plane"] + (rows - 1) * steps["target_row"] + run
    place = Place(b.buffer(target[0]), target[1], 1, reach, reach)
    if planes == 1 and steps["target_row"]:
        place = Place(b.buffer(target[0]), target[1], rows, run, steps["target_row"])
    if target[0].address is None:
        b.copy(*source, place.buffer, target[1], counts, steps, (place,))
        return
    home, offset = source
    if home.address is not None:  # DRAM to DRAM, by way of SPM
        size = planes * rows * run
        between = b.temporary("copy", Memory.SPM, size)
        whole = Place(between, 0, 1, size, size)
        packed = {"target_plane": rows * run, "target_row": run}
        b.copy(home, offset, between, 0, counts, {**steps, **packed}, (whole,))
        steps = {**steps, "source_plane": rows * run, "source_row": run}
        reads = whole
    else:
        reach = (planes - 1) * steps["source_plane"] + (rows - 1) * steps["source_row"] + run
        reads = Place(b.buffer(home), offset, 1, reach, reach)
    b.emit(
        Store,
        {"planes": planes, "rows": rows, "run": run, **steps},
        {"source": reads, "target": place},
        (reads,),
        (place,),
    )


def _halves(
    counts: tuple[int, int, int], steps: Mapping[str, int]
) -> list[tuple[dict[str, int], tuple[int, int, int]]]:
    """Two parts of a copy: by how many bytes the source and the target of each are farther on, and its counts."""
    planes, rows, run = counts
    if planes > 1:
        half = planes // 2
        source, target = half * steps["source_plane"], half * steps["target_plane"]
        parts = (half, rows, run), (planes - half, rows, run)
    elif rows > 1:
        half = rows // 2
        source, target = half * steps["source_row"], half * steps["target_row"]
        parts = (1, half, run), (1, rows - half, run)
    else:
        source = target = half = run // 2
        parts = (1, 1, half), (1, 1, run - half)
    return [({"source": 0, "target": 0}, parts[0]), ({"source": source, "target": target}, parts[1])]


def _merged(source: View, target: View) -> list[tuple[int, int, int]]:
    """(size, source stride, target stride) of as few dimensions as walk the same way."""
    dims: list[tuple[int, int, int]] = []
    for size, a, b in zip(source.shape, source.strides, target.strides, strict=True):
        if size == 1:
            continue
        if dims and dims[-1][1] == a * size and dims[-1][2] == b * size:
            dims[-1] = (dims[-1][0] * size, a, b)
        else:
            dims.append((size, a, b))
    return dims
