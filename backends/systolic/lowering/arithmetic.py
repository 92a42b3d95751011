"""Sums, products, comparisons and reductions of whole tensors, which hardly any model leaves as such."""

from collections.abc import Sequence
from math import prod

import numpy as np
from xdsl.ir import Operation, SSAValue

from qvit.backends.systolic.isa import Arith, Arithmetic, Memory, Reduce, Reduction
from qvit.backends.systolic.lowering.build import Builder, blocks, element, refuse
from qvit.backends.systolic.lowering.tasks import Place
from qvit.backends.systolic.lowering.tensors import Home, Matrix, View
from qvit.backends.systolic.lowering.vectors import Tile, rows_of
from qvit.dialects.ops.elementwise import AddOp, ClipOp, CompareOp, MulOp, SelectOp, SubOp
from qvit.dialects.ops.nonlinear import ReduceSumOp
from qvit.dialects.semantics.integers import Array, IntType
from qvit.dialects.types import shape_of

ARITHMETIC = (AddOp, SubOp, MulOp, ClipOp, CompareOp, SelectOp, ReduceSumOp)
ROWS, COLUMNS = 64, 4096
"""Of what one instruction takes, at most."""

_BINARY = {AddOp: Arithmetic.ADD, SubOp: Arithmetic.SUB, MulOp: Arithmetic.MUL}
_RELATIONS = {
    "eq": (Arithmetic.EQ, False, False),
    "ne": (Arithmetic.EQ, False, True),
    "lt": (Arithmetic.LT, False, False),
    "le": (Arithmetic.LE, False, False),
    "gt": (Arithmetic.LT, True, False),
    "ge": (Arithmetic.LE, True, False),
}
"""(instruction, with its operands exchanged, then the opposite of it)"""

_Side = SSAValue | Array
"""An operand: a tensor, or numbers that broadcast against the result."""


def arithmetic(b: Builder, op: Operation) -> None:
    """An operation of `ARITHMETIC`: its result gets a home."""
    if isinstance(op, ReduceSumOp):
        _reduce_sum(b, op)
        return
    result = op.results[0]
    home, shape = b.new_home(result), shape_of(result)
    b.define(result, View.of(home, shape))
    columns = shape[-1] if shape else 1
    whole = Matrix(home, 0, home.elements // max(columns, 1), columns, columns, 1)
    for first, last in blocks(whole.rows, ROWS):
        with b.scope():
            for left, right in blocks(columns, COLUMNS):
                b.at(op)
                place = Place(b.temporary("tile", Memory.SPM, 1), 0, 1, 1, 1)
                tile = Tile(place, Memory.SPM, home.type, first, last - first, left, right - left)
                with b.written(whole.part(first, last, left, right)) as target:
                    _tile(b, op, tile, target, shape)


def _tile(b: Builder, op: Operation, tile: Tile, target: Place, shape: Sequence[int]) -> None:
    match op:
        case AddOp() | SubOp() | MulOp():
            _emit(b, _BINARY[type(op)], (op.lhs, op.rhs), tile, target, shape)
        case CompareOp():
            operation, exchanged, opposite = _RELATIONS[op.predicate.data]
            sides: tuple[_Side, _Side] = (op.rhs, op.lhs) if exchanged else (op.lhs, op.rhs)
            _emit(b, operation, sides, tile, target, shape)
            if opposite:
                _emit(b, Arithmetic.EQ, (target, np.array(0)), tile, target, shape)
        case ClipOp():
            low, high = op.bounds
            _emit(b, Arithmetic.MAX, (op.input, np.array(tile.type.lo if low is None else low)), tile, target, shape)
            if high is not None:
                _emit(b, Arithmetic.MIN, (target, np.array(high)), tile, target, shape)
        case SelectOp():
            condition, left, right = op.operands
            mask = rows_of(b, b.view(condition).broadcast(shape), tile)
            _emit(b, Arithmetic.SELECT, (left, right), tile, target, shape, mask)
        case _:
            raise AssertionError(op.name)


def _emit(
    b: Builder,
    operation: Arithmetic,
    sides: tuple[_Side | Place, _Side | Place],
    tile: Tile,
    target: Place,
    shape: Sequence[int],
    mask: Place | None = None,
) -> None:
    """One instruction; a side that is a place has the elements of the result."""
    found: list[tuple[Place, IntType]] = []
    for side in sides:
        if isinstance(side, Place):
            found.append((side, tile.type))
        elif isinstance(side, np.ndarray):
            found.append((rows_of(b, _constant(b, side, tile.type, shape), tile), tile.type))
        else:
            found.append((rows_of(b, b.view(side).broadcast(shape), tile), element(side)))
    (a, a_type), (other, b_type) = found
    if mask is not None and mask.stride * a_type.dtype.itemsize != a.stride:
        assert b.op is not None
        raise refuse(b.op, "its condition does not lie as its operands", "give all of them the result's shape")
    values = {
        "operation": operation,
        "a_row": a.stride,
        "a_type": a_type,
        "b_row": other.stride,
        "b_type": b_type,
        "target_row": target.stride,
        "target_type": tile.type,
        "rows": tile.rows,
        "columns": tile.columns,
    }
    places = {"a": a, "b": other, "target": target, **({} if mask is None else {"mask": mask})}
    b.emit(Arith, values, places, (a, other, *(() if mask is None else (mask,))), (target,))


def _constant(b: Builder, numbers: Array, held: IntType, shape: Sequence[int]) -> View:
    """Numbers in all places: whole rows are stored, and what lies in front of the axis of a vector repeats."""
    whole = tuple(shape) or (1,)
    first = next((i for i, d in enumerate(numbers.shape[:-1]) if d > 1), len(whole) - 1)
    kept = whole[first:]
    content = np.ascontiguousarray(np.broadcast_to(numbers, whole)[(0,) * first], held.dtype)
    home = Home("numbers", content.size, held, None, b.stored(content.ravel().view(np.uint8)))
    return View.of(home, kept).broadcast(whole)


def _reduce_sum(b: Builder, op: ReduceSumOp) -> None:
    view, axes = b.view(op.input), sorted(a % len(shape_of(op.input)) for a in op.axes.get_values())
    kept = [a for a in range(len(view.shape)) if a not in axes]
    turned = view.transposed([*kept, *axes])
    length = prod(view.shape[a] for a in axes)
    rows = [view.shape[a] for a in kept]
    flat = turned.reshaped((*rows, length))
    if flat is None:
        raise refuse(op, f"it sums over axes {axes}, whose elements no stride reaches", "sum over one axis at a time")
    home, held = b.new_home(op.result), element(op.input)
    b.define(op.result, View.of(home, shape_of(op.result)))
    before = 0
    for matrix in flat.rows():
        for first, last in blocks(
            matrix.rows, max(1, b.machine.memory.activations // 16 // (length * view.home.itemsize))
        ):
            with b.scope():
                b.at(op)
                source = b.read(matrix.part(first, last))
                with b.written(Matrix(home, before + first, last - first, 1, 1, 1)) as target:
                    values = {
                        "operation": Reduction.SUM,
                        "source_row": source.stride,
                        "source_type": held,
                        "target_type": home.type,
                        "rows": last - first,
                        "columns": length,
                    }
                    b.emit(Reduce, values, {"source": source, "target": target}, (source,), (target,))
        before += matrix.rows
