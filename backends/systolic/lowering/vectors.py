"""Elementwise and rowwise operations on tiles: some rows and columns of a tensor."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from xdsl.ir import Operation, SSAValue

from qvit.backends.systolic.constants import Block, Records
from qvit.backends.systolic.isa import (
    FUNCTIONS,
    RECORD,
    ROUNDINGS,
    AddRequantize,
    Copy,
    Function,
    Memory,
    Requantize,
    Threshold,
)
from qvit.backends.systolic.lowering.build import Builder, element, refuse
from qvit.backends.systolic.lowering.tasks import Place
from qvit.backends.systolic.lowering.tensors import Matrix, View
from qvit.dialects.attributes import DyadicAttr, Form, PotAttr
from qvit.dialects.ops.approximated import IntFunctionOp, IntLayerNormOp, IntSoftmaxOp
from qvit.dialects.ops.quantization import AddRequantOp, RequantizeOp, ThresholdOp
from qvit.dialects.ops.shape import ReshapeOp
from qvit.dialects.semantics.integers import Array, Int64, IntType
from qvit.dialects.types import shape_of

I32 = IntType(32)


@dataclass(frozen=True)
class Tile:
    """Elements [rows, columns] of a tensor: rows first .. of all its rows, columns left .. of its last dimension.

    place: where they lie in `memory`; axis: the dimension of the columns, -1 for the last; bias: int64, one for each column of
    the tensor, to be added, which the next requantize does; span: the columns whose constants are loaded together.
    """

    place: Place
    memory: Memory
    type: IntType
    first: int
    rows: int
    left: int
    columns: int
    bias: Array | None = None
    axis: int = -1
    span: tuple[int, int] | None = None


Here = dict[SSAValue, Place]
"""Values of which only the rows at hand exist."""


def constant(b: Builder, op: Operation, value: SSAValue, what: str) -> Array:
    found = b.weights.array(value)
    if found is None:
        raise refuse(op, f"{what} is computed at run time, the vector unit takes constants", "fold it before")
    return found


# --- rows of other tensors ---


def rows_of(b: Builder, view: View, tile: Tile) -> Place:
    """The tile's rows and columns of another tensor of the same rows, in SPM."""
    if tile.columns != view.shape[-1] and view.shape[-1] == 1 and tile.columns > 1:
        view = view.broadcast((*view.shape[:-1], tile.left + tile.columns))
    parts: list[Matrix] = []
    before, last = 0, tile.first + tile.rows
    for matrix in view.rows():
        start, end = max(tile.first - before, 0), min(last - before, matrix.rows)
        if start < end:
            parts.append(matrix.part(start, end, tile.left, tile.left + tile.columns))
        before += matrix.rows
        if before >= last:
            break
    if len(parts) == 1:
        return b.read(parts[0])
    size = view.home.itemsize
    run = tile.columns * size
    target = Place(b.temporary(view.home.name, Memory.SPM, tile.rows * run), 0, tile.rows, run, run)
    at = 0
    for part in parts:
        source = b.read(part)
        piece = Place(target.buffer, at * run, part.rows, run, run)
        values = {"planes": 1, "rows": part.rows, "run": run, "source_row": source.stride, "target_row": run}
        b.emit(Copy, values, {"source": source, "target": piece}, (source,), (piece,))
        at += part.rows
    return target


def side_by_side(b: Builder, place: Place) -> Place:
    """The rows of a place one behind the other."""
    size = place.rows * place.run
    target = Place(b.temporary("rows", Memory.SPM, size), 0, place.rows, place.run, place.run)
    values = {"planes": 1, "rows": place.rows, "run": place.run, "source_row": place.stride, "target_row": place.run}
    b.emit(Copy, values, {"source": place, "target": target}, (place,), (target,))
    return target


# --- records ---


def _along(b: Builder, op: Operation, values: Array, axis: int | None, tile: Tile) -> Int64:
    """Constants: [1], or one for each column of the tensor."""
    if values.ndim == 0:
        return values.astype(np.int64).reshape(1)
    shape = shape_of(op.results[0])
    if axis is None or axis == tile.axis % len(shape):
        return values.astype(np.int64)
    if len(np.unique(values)) == 1:
        return values.astype(np.int64)[:1]
    return values.astype(np.int64)[_index(op, axis, tile)].reshape(1)


def _index(op: Operation, axis: int, tile: Tile) -> int:
    """The index along an axis that is not the columns', which all rows of the tile share."""
    shape = shape_of(op.results[0])
    inner = prod(shape[axis + 1 : -1])
    indices = {(row // inner) % shape[axis] for row in (tile.first, tile.first + tile.rows - 1)}
    if len(indices) == 1 and tile.rows <= inner:
        return indices.pop()
    raise refuse(op, f"its constants lie along axis {axis}, which is not the last", "use one scale for the tensor")


def _numbers(b: Builder, op: Operation, form: Form) -> tuple[Array, Array]:
    """(multiplier, shift)"""
    match form:
        case DyadicAttr():
            return b.numbers(form.multiplier), b.numbers(form.shift)
        case PotAttr():
            return np.array(1), b.numbers(form.shift)
        case _:
            raise refuse(op, "it multiplies by a real number", "run --lower-requant")


def _records(*columns: Int64) -> Records:
    length = max(len(column) for column in columns)
    multiplier, shift, bias, zero = (np.broadcast_to(column, length) for column in columns)
    return Records(multiplier, shift, bias, zero)


def _placed(b: Builder, records: Records, tile: Tile, each: int = 1, divided: bool = False) -> Place:
    """The tile's records in CBUF: the one for all, or `each` for each of its columns, loaded with those of the span."""
    if len(records.shift) == each:
        return b.records(records, divided)
    left, right = tile.span or (tile.left, tile.left + tile.columns)
    part = b.records(records.part(left * each, right * each), divided)
    size = tile.columns * each * RECORD
    return Place(part.buffer, (tile.left - left) * each * RECORD, 1, size, size)


def _scalar_zero(b: Builder, op: Operation, zero: Array) -> int:
    if zero.ndim and len(np.unique(zero)) > 1:
        raise refuse(op, "its result has a zero point for each channel", "use one for the tensor")
    return int(zero.reshape(-1)[0])


# --- operations ---


def vector(b: Builder, op: Operation, tile: Tile, target: Place, here: Here) -> Tile:
    """One operation on a tile; its result is written to `target`, in SPM."""
    b.at(op)
    match op:
        case RequantizeOp():
            return _requantize(b, op, tile, target, here)
        case AddRequantOp():
            return _add_requantize(b, op, tile, target)
        case IntFunctionOp() | IntLayerNormOp() | IntSoftmaxOp():
            return _function(b, op, tile, target, here)
        case ThresholdOp():
            return _threshold(b, op, tile, target)
        case _:
            raise refuse(op, "no vector instruction computes it", "leave it out of the integer function")


def _result(op: Operation, tile: Tile, target: Place) -> Tile:
    return replace(tile, place=target, memory=Memory.SPM, type=element(op.results[0]), bias=None)


def _source(tile: Tile) -> dict[str, Any]:
    return {
        "source_memory": tile.memory,
        "source_row": tile.place.stride,
        "source_type": tile.type,
        "rows": tile.rows,
        "columns": tile.columns,
    }


def requantized(
    b: Builder,
    tile: Tile,
    target: Place,
    result: IntType,
    records: Records,
    rounding: int,
    zero: int,
    divisors: Place | None,
) -> None:
    at = _placed(b, records, tile, divided=divisors is not None)
    values = {
        **_source(tile),
        "target_row": target.stride,
        "target_type": result,
        "per_column": int(len(records.shift) > 1),
        "divided": int(divisors is not None),
        "rounding": rounding,
        "zero_point": zero,
    }
    places = {"source": tile.place, "target": target, "records": at}
    reads = [tile.place, at]
    if divisors is not None:
        places["divisors"] = divisors
        reads.append(divisors)
    b.emit(Requantize, values, places, tuple(reads), (target,))


def plain(b: Builder, tile: Tile, target: Place) -> Tile:
    """The sums as they are, with their bias, out of ACC."""
    bias = np.zeros(1, np.int64) if tile.bias is None else tile.bias
    one, none = np.ones(1, np.int64), np.zeros(1, np.int64)
    requantized(b, tile, target, I32, _records(one, none, bias, none), 0, 0, None)
    return replace(tile, place=target, memory=Memory.SPM, type=I32, bias=None)


def _requantize(b: Builder, op: RequantizeOp, tile: Tile, target: Place, here: Here) -> Tile:
    axis = None if op.axis is None else op.axis.value.data
    multiplier, shift = _numbers(b, op, op.form)
    divisors: Place | None = None
    if op.divisor is not None:
        if isinstance(op.form, PotAttr):
            multiplier, shift = np.array(1 << 30), shift + 30
        if op.divisor in here:
            divisors = here[op.divisor]
        else:
            column = replace(tile, left=0, columns=1)
            view = b.view(op.divisor).broadcast((*shape_of(op.result)[:-1], 1))
            divisors = rows_of(b, view, column)
            if divisors.stride != 4:
                divisors = side_by_side(b, divisors)
    bias = np.zeros(1, np.int64) if tile.bias is None else tile.bias
    numbers = (_along(b, op, values, axis, tile) for values in (multiplier, shift))
    before = _along(b, op, b.numbers(op.input_zero_point), axis, tile)
    records = _records(*numbers, bias, before)
    result, zero = element(op.result), _scalar_zero(b, op, b.numbers(op.zero_point))
    requantized(b, tile, target, result, records, ROUNDINGS.index(op.rounding.data), zero, divisors)
    return _result(op, tile, target)


def _add_requantize(b: Builder, op: AddRequantOp, tile: Tile, target: Place) -> Tile:
    axis = None if op.axis is None else op.axis.value.data
    sides: list[tuple[Place, IntType]] = []
    shape = shape_of(op.result)
    for value in (op.lhs, op.rhs):
        if b.has_view(value):
            sides.append((rows_of(b, b.view(value).broadcast(shape), tile), element(value)))
        else:  # the tile itself
            sides.append((tile.place, tile.type))
    columns: list[Int64] = []
    forms = ((op.lhs_form, op.lhs_zero_point), (op.rhs_form, op.rhs_zero_point))
    result_zero = np.array([_scalar_zero(b, op, b.numbers(op.zero_point))])
    rows: list[Records] = []
    for (form, zero), offset in zip(forms, (result_zero, np.zeros(1, np.int64)), strict=True):
        numbers = (_along(b, op, values, axis, tile) for values in _numbers(b, op, form))
        rows.append(_records(*numbers, offset, _along(b, op, b.numbers(zero), axis, tile)))
    length = max(len(r.shift) for r in rows)
    columns = [
        np.stack([np.broadcast_to(getattr(r, name), length) for r in rows], 1).reshape(-1)
        for name in ("multiplier", "shift", "bias", "zero")
    ]
    at = _placed(b, Records(*columns), tile, 2)
    (left, left_type), (right, right_type) = sides
    values = {
        "a_row": left.stride,
        "a_type": left_type,
        "b_row": right.stride,
        "b_type": right_type,
        "target_row": target.stride,
        "target_type": element(op.result),
        "rows": tile.rows,
        "columns": tile.columns,
        "per_column": int(length > 1),
        "round_each": int(op.round_each is not None),
        "rounding": ROUNDINGS.index(op.rounding.data),
    }
    b.emit(
        AddRequantize, values, {"a": left, "b": right, "target": target, "records": at}, (left, right, at), (target,)
    )
    return _result(op, tile, target)


def sums_of(op: Operation, rows: int) -> int:
    """The bytes of the second result of that many rows, 0 without one."""
    return 4 * rows if isinstance(op, IntSoftmaxOp) and len(op.outputs) > 1 else 0


def _function(
    b: Builder, op: IntFunctionOp | IntLayerNormOp | IntSoftmaxOp, tile: Tile, target: Place, here: Here
) -> Tile:
    approximation = op.approximation.data
    zero = b.numbers(op.input_zero_point) if isinstance(op, IntFunctionOp) else np.array(0)
    if zero.ndim:
        raise refuse(op, "its operand has a zero point for each channel", "use one for the tensor")
    tables = [(constant(b, op, value, "a table"), element(value)) for value in op.tables]
    block = b.block(Block(approximation, int(zero), tables))
    values: dict[str, Any] = {**_source(tile), "function": FUNCTIONS[approximation.name]}
    del values["source_memory"]
    values |= {"target_row": target.stride, "target_type": element(op.results[0])}
    places = {"source": tile.place, "target": target, "block": block}
    reads, writes = [tile.place, block], [target]
    if isinstance(op, IntSoftmaxOp):
        if len(op.outputs) > 1:
            places["sums"] = here[op.outputs[1]]
            writes.append(here[op.outputs[1]])
        if op.mask is not None:
            mask = rows_of(b, b.view(op.mask).broadcast(shape_of(op.input)), tile)
            if mask.stride not in (0, tile.columns):
                raise refuse(op, "the rows of its mask do not lie side by side", "give the mask all dimensions")
            values |= {"masked": 1, "mask_rows": int(mask.stride > 0)}
            places["mask"] = mask
            reads.append(mask)
    b.emit(Function, values, places, tuple(reads), tuple(writes))
    return _result(op, tile, target)


def _threshold(b: Builder, op: ThresholdOp, tile: Tile, target: Place) -> Tile:
    levels = constant(b, op, op.thresholds, "a threshold").astype(np.int64)
    if op.axis is not None and op.axis.value.data == tile.axis % len(shape_of(op.result)):
        levels = levels[tile.left : tile.left + tile.columns]
    elif op.axis is not None:
        levels = levels[_index(op, op.axis.value.data, tile)]
    if tile.bias is not None:  # x + b >= t where x >= t - b
        levels = (
            np.broadcast_to(levels, (tile.columns, levels.shape[-1]))
            - tile.bias[tile.left : tile.left + tile.columns, None]
        )
    levels, lowest = _reachable(op, levels, op.lowest.value.data)
    at = b.constants(levels.astype("<i4").tobytes(), "thresholds")
    values = {
        **_source(tile),
        "target_row": target.stride,
        "target_type": element(op.result),
        "per_column": int(levels.ndim > 1),
        "levels": levels.shape[-1],
        "lowest": lowest,
    }
    places = {"source": tile.place, "target": target, "thresholds": at}
    b.emit(Threshold, values, places, (tile.place, at), (target,))
    return _result(op, tile, target)


def _reachable(op: ThresholdOp, levels: Int64, lowest: int) -> tuple[Int64, int]:
    """(thresholds of 32 bits, the code below all of them): every x of 32 bits reaches what is below these, none what is
    beyond, which is left out."""
    within = levels <= I32.hi
    count = int(within.sum(-1).max())
    if not within[..., :count].all():
        raise refuse(op, f"a threshold of some channels, less its bias, is beyond {I32.hi}", "requantize before")
    if not count:
        return np.full((*levels.shape[:-1], 1), I32.lo), lowest - 1
    return levels[..., :count].clip(I32.lo), lowest


# --- chains ---


def run_tail(b: Builder, tail: Sequence[Operation], tile: Tile, result: Matrix, here: Here) -> None:
    """The operations of a tail on a tile; the last writes the tile's part of the result, a matrix of all rows."""
    steps = [op for op in tail if not isinstance(op, ReshapeOp)]
    final = result.part(tile.first, tile.first + tile.rows, tile.left, tile.left + tile.columns)
    with b.written(final) as target:
        if tile.memory is Memory.ACC and not (steps and isinstance(steps[0], (RequantizeOp, ThresholdOp))):
            tile = plain(b, tile, target if not steps else scratch(b, tile, I32))
        for op in steps:
            last = op is steps[-1]
            tile = vector(b, op, tile, target if last else scratch(b, tile, element(op.results[0])), here)


def scratch(b: Builder, tile: Tile, held: IntType) -> Place:
    """Room in SPM for a tile of that type."""
    run = tile.columns * held.dtype.itemsize
    return Place(b.temporary("tile", Memory.SPM, tile.rows * run), 0, tile.rows, run, run)
