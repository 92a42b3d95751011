"""Products: linear layers, products of activations, attention and convolutions, tile by tile."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from xdsl.ir import Operation, SSAValue

from qvit.backends.systolic.isa import RECORD, MatrixMultiply, Memory
from qvit.backends.systolic.lowering.build import Builder, blocks, element, refuse
from qvit.backends.systolic.lowering.groups import Attention, Chain
from qvit.backends.systolic.lowering.moves import copy_into
from qvit.backends.systolic.lowering.tasks import Place
from qvit.backends.systolic.lowering.tensors import Home, Matrix, View
from qvit.backends.systolic.lowering.vectors import I32, Here, Tile, constant, plain, run_tail, scratch, sums_of, vector
from qvit.dialects.ops.products import Conv2dOp, LinearOp, MatmulOp, ShiftMatmulOp
from qvit.dialects.ops.shape import ReshapeOp
from qvit.dialects.semantics.integers import Array, IntType, widen
from qvit.dialects.types import shape_of

ROWS = 128
"""Rows of a tile, at most: what vectors work on while the array makes the next."""


def packed(weight: Array, bits: int) -> Array:
    """[n, k] of integers of `bits` bits -> uint8 [n, bytes]: without gaps, the first in the lowest bits, rows of whole bytes."""
    n, k = weight.shape
    if bits == 8:
        return np.ascontiguousarray(weight.astype(np.int8)).view(np.uint8)
    digits = (weight.astype(np.int64)[:, :, None] >> np.arange(bits)) & 1
    return np.packbits(digits.reshape(n, k * bits).astype(np.uint8), axis=1, bitorder="little")


def storage_bits(held: IntType) -> int:
    """The bits that a weight takes in memory."""
    return next(bits for bits in (2, 3, 4, 8) if bits >= held.bits)


@dataclass(frozen=True)
class Right:
    """The right operand of a product in a memory: its place, how it lies, its elements."""

    place: Place
    transposed: bool
    memory: Memory
    type: IntType
    zero: int


def multiply(
    b: Builder,
    left: tuple[Place, IntType, int],
    right: Right,
    acc: Place,
    shape: tuple[int, int, int],
    accumulate: bool = False,
    logarithmic: bool = False,
) -> None:
    """rows x depth x columns; left: (place, type, zero point)."""
    (place, held, zero), (rows, depth, columns) = left, shape
    values = {
        "a_row": place.stride,
        "a_type": held,
        "a_zero": zero,
        "b_row": right.place.stride,
        "b_memory": right.memory,
        "b_type": right.type,
        "b_zero": right.zero,
        "transposed": int(right.transposed),
        "acc_row": acc.stride,
        "accumulate": int(accumulate),
        "logarithmic": int(logarithmic),
        "dataflow": b.options.dataflow,
        "rows": rows,
        "depth": depth,
        "columns": columns,
    }
    reads = (place, right.place, *((acc,) if accumulate else ()))
    b.emit(MatrixMultiply, values, {"a": place, "b": right.place, "acc": acc}, reads, (acc,))


def _zero(b: Builder, op: Operation, zero: Array, what: str) -> int:
    if zero.ndim and len(np.unique(zero)) > 1:
        raise refuse(op, f"{what} has a zero point for each channel", "use one for the tensor")
    number = int(zero.reshape(-1)[0])
    if not -256 <= number < 256:
        raise refuse(op, f"{what} has the zero point {number}, beyond 9 bits", "quantize it to 8 bits")
    return number


def _operand(b: Builder, op: Operation, value: SSAValue, what: str, most: int) -> IntType:
    held = element(value)
    if held.bits > most:
        raise refuse(op, f"{what} has {held}, the array takes {most} bits", "requantize it")
    return held


def accumulators(b: Builder, rows: int, columns: int) -> Place:
    """Room for sums."""
    return Place(b.temporary("sums", Memory.ACC, 4 * rows * columns), 0, rows, 4 * columns, 4 * columns)


# --- linear layers ---


@dataclass(frozen=True)
class Layer:
    """A product with constant weights: `left` are its rows, weight [n, k], its bias int64 or None;
    axis: of its outputs; column: of the result, where they begin."""

    op: Operation
    left: Sequence[Matrix]
    type: IntType
    zero: int
    weight: Array
    weight_type: IntType
    weight_zero: int
    bias: Array | None
    axis: int = -1
    column: int = 0


def linear(b: Builder, chain: Chain, result: Matrix) -> None:
    op = chain.head
    assert isinstance(op, LinearOp)
    weight = constant(b, op, op.weight, "its weight")
    bias = None if op.bias is None else widen(constant(b, op, op.bias, "its bias"))
    layer = Layer(
        op,
        b.view(op.input).rows(),
        _operand(b, op, op.input, "its operand", 16),
        _zero(b, op, b.numbers(op.input_zero_point), "its operand"),
        weight,
        _operand(b, op, op.weight, "its weight", 8),
        _zero(b, op, b.numbers(op.weight_zero_point), "its weight"),
        bias,
    )
    layer_tiles(b, layer, chain.tail, result)


def layer_tiles(b: Builder, layer: Layer, tail: Sequence[Operation], result: Matrix) -> None:
    """All tiles of a layer. Weights come in once where its operand is at hand, else the operand does, some rows at a time."""
    memory, c = b.machine.memory, b.machine.array.columns
    n, k = layer.weight.shape
    bits = storage_bits(layer.weight_type)
    depths = blocks(k, max(memory.weights // 2 // c * 8 // bits // 8 * 8, 8), 8)
    row_bytes = max(-(-(last - first) * bits // 8) for first, last in depths)
    away = any(matrix.home.address is not None for matrix in layer.left)
    most = min(ROWS, _row_limit(b))
    if away:
        most = min(most, max(memory.activations // 4 // (k * layer.type.dtype.itemsize), 1))
    rows: list[tuple[Matrix, int]] = []
    before = 0
    for matrix in layer.left:
        for first, last in blocks(matrix.rows, most):
            rows.append((matrix.part(first, last), before + first))
        before += matrix.rows
    tallest = max(matrix.rows for matrix, _ in rows)
    columns = min(
        n,
        max(c, memory.weights // 2 // (row_bytes * len(depths)) // c * c),
        max(c, memory.accumulators // 2 // (4 * tallest) // c * c),
        max(c, memory.constants // 4 // RECORD // c * c),
    )
    across = _with_spans(blocks(n, columns, c), memory.constants // 4 // RECORD)
    if away:
        for row in rows:
            with b.scope():
                b.at(layer.op)
                b.read(row[0])  # once for all columns
                for part in across:
                    with b.scope():
                        _layer_tile(b, layer, tail, result, row, part, depths, bits)
    else:
        for part in across:
            with b.scope():
                for row in rows:
                    _layer_tile(b, layer, tail, result, row, part, depths, bits)


_Columns = tuple[int, int, tuple[int, int]]
"""The first column, the one behind the last, and the same of those whose constants are loaded together."""


def _with_spans(parts: Sequence[tuple[int, int]], most: int) -> list[_Columns]:
    """As many parts together as have at most `most` columns."""
    together = max(most // max(right - left for left, right in parts), 1)
    found: list[_Columns] = []
    for at, (left, right) in enumerate(parts):
        first = at // together * together
        span = (parts[first][0], parts[min(first + together, len(parts)) - 1][1])
        found.append((left, right, span))
    return found


def _layer_tile(
    b: Builder,
    layer: Layer,
    tail: Sequence[Operation],
    result: Matrix,
    row: tuple[Matrix, int],
    across: _Columns,
    depths: Sequence[tuple[int, int]],
    bits: int,
) -> None:
    """Rows, with the number of the first, times columns `across`, in parts of the contracted axis."""
    (matrix, first), (left, right, span) = row, across
    b.at(layer.op)
    whole = b.read(matrix)
    acc = accumulators(b, matrix.rows, right - left)
    size = layer.type.dtype.itemsize
    for start, end in depths:
        content = packed(layer.weight[left:right, start:end], bits)
        place = b.weight_tile(content, content.shape[1])
        weights = Right(place, True, Memory.WBUF, IntType(bits, layer.weight_type.signed), layer.weight_zero)
        a = Place(whole.buffer, whole.offset + start * size, whole.rows, (end - start) * size, whole.stride)
        shape = (matrix.rows, end - start, right - left)
        multiply(b, (a, layer.type, layer.zero), weights, acc, shape, start > 0)
    at = layer.column
    span = (span[0] + at, span[1] + at)
    tile = Tile(acc, Memory.ACC, I32, first, matrix.rows, left + at, right - left, layer.bias, layer.axis, span)
    run_tail(b, tail, tile, result, {})


# --- products of activations ---


@dataclass(frozen=True)
class Product:
    """matmul or shift_matmul of tensors that are computed at run time."""

    op: MatmulOp | ShiftMatmulOp
    right: Sequence[Matrix]
    right_type: IntType
    zeros: tuple[int, int]

    @classmethod
    def of(cls, b: Builder, op: MatmulOp | ShiftMatmulOp) -> "Product":
        leading = shape_of(op.result)[:-2]
        view = b.view(op.rhs)
        view = view.broadcast((*leading, *view.shape[-2:]))
        left = b.numbers(op.lhs_zero_point) if isinstance(op, MatmulOp) else np.array(0)
        zeros = (_zero(b, op, left, "lhs"), _zero(b, op, b.numbers(op.rhs_zero_point), "rhs"))
        return cls(op, list(view.matrices()), _operand(b, op, op.rhs, "rhs", 8), zeros)

    @property
    def logarithmic(self) -> bool:
        return isinstance(self.op, ShiftMatmulOp)


def _right(b: Builder, product: Product, index: int, left: int, right: int) -> Right:
    """Columns left..right - 1 of one right operand, as it lies or copied together."""
    matrix = product.right[index].part(0, product.right[index].rows, left, right)
    turned = matrix.turned()
    if not matrix.contiguous and turned.contiguous:
        return Right(b.read(turned), True, Memory.SPM, product.right_type, product.zeros[1])
    return Right(b.read(matrix), False, Memory.SPM, product.right_type, product.zeros[1])


def matmul(b: Builder, chain: Chain, result: Matrix) -> None:
    op = chain.head
    assert isinstance(op, (MatmulOp, ShiftMatmulOp))
    product = Product.of(b, op)
    leading = shape_of(op.result)[:-2]
    view = b.view(op.lhs)
    lefts = list(view.broadcast((*leading, *view.shape[-2:])).matrices())
    held = _operand(b, op, op.lhs, "lhs", 16)
    for index, left in enumerate(lefts):
        with b.scope():
            for columns in blocks(product.right[index].columns, _column_limit(b, min(left.rows, ROWS, _row_limit(b)))):
                for first, last in blocks(left.rows, min(ROWS, _row_limit(b))):
                    b.at(op)
                    a = b.read(left.part(first, last))
                    right = _right(b, product, index, *columns)
                    acc = accumulators(b, last - first, columns[1] - columns[0])
                    shape = (last - first, left.columns, columns[1] - columns[0])
                    multiply(b, (a, held, product.zeros[0]), right, acc, shape, False, product.logarithmic)
                    row = index * left.rows + first
                    tile = Tile(acc, Memory.ACC, I32, row, last - first, columns[0], columns[1] - columns[0])
                    run_tail(b, chain.tail, tile, result, {})


def _row_limit(b: Builder) -> int:
    """Rows whose sums of as many columns as the array has take half of the accumulators."""
    return max(1, b.machine.memory.accumulators // 2 // (4 * b.machine.array.columns))


def _column_limit(b: Builder, rows: int) -> int:
    c = b.machine.array.columns
    return max(c, b.machine.memory.accumulators // 2 // (4 * rows) // c * c)


def attention(b: Builder, group: Attention, result: Matrix) -> None:
    """A head at a time, some rows at a time: scores, softmax and the product with values; no scores have a home."""
    first_op, second_op = group.scores.head, group.values.head
    assert isinstance(first_op, MatmulOp)
    assert isinstance(second_op, (MatmulOp, ShiftMatmulOp))
    scores, values = Product.of(b, first_op), Product.of(b, second_op)
    leading = shape_of(first_op.result)[:-2]
    view = b.view(first_op.lhs)
    lefts = list(view.broadcast((*leading, *view.shape[-2:])).matrices())
    held = _operand(b, first_op, first_op.lhs, "lhs", 16)
    weights = _operand(b, second_op, second_op.lhs, "lhs", 16)
    keys = shape_of(first_op.result)[-1]
    most = b.machine.memory.accumulators // 2 // (4 * keys)
    if most < 1:
        raise refuse(
            first_op,
            f"machine {b.machine.name}: a row of {keys} sums takes {4 * keys} bytes, half of its accumulators"
            f" {b.machine.memory.accumulators // 2}",
            "give it more memory.accumulators",
        )
    for index, left in enumerate(lefts):
        with b.scope():
            for first, last in blocks(left.rows, min(most, attention_rows(b))):
                rows, row = last - first, index * left.rows + first
                b.at(first_op)
                a, right = b.read(left.part(first, last)), _right(b, scores, index, 0, keys)
                acc = accumulators(b, rows, keys)
                multiply(b, (a, held, scores.zeros[0]), right, acc, (rows, left.columns, keys))
                tile = Tile(acc, Memory.ACC, I32, row, rows, 0, keys)
                here: Here = {}
                tile = _in_scratch(b, group.scores.tail, tile, here)
                size = sums_of(group.softmax, rows)
                if size:
                    here[group.softmax.outputs[1]] = Place(b.temporary("row sums", Memory.SPM, size), 0, rows, 4, 4)
                target = scratch(b, tile, element(group.softmax.outputs[0]))
                tile = vector(b, group.softmax, tile, target, here)
                b.at(second_op)
                for columns in blocks(values.right[index].columns, _column_limit(b, rows)):
                    right = _right(b, values, index, *columns)
                    width = columns[1] - columns[0]
                    acc = accumulators(b, rows, width)
                    shape = (rows, keys, width)
                    multiply(b, (tile.place, weights, values.zeros[0]), right, acc, shape, False, values.logarithmic)
                    summed = Tile(acc, Memory.ACC, I32, row, rows, columns[0], width)
                    run_tail(b, group.values.tail, summed, result, here)


def attention_rows(b: Builder) -> int:
    """Rows that go through an attention head together: what keeps the array streaming, and vectors near behind."""
    return max(64, b.machine.array.rows)


def _in_scratch(b: Builder, tail: Sequence[Operation], tile: Tile, here: Here) -> Tile:
    if not tail:
        return plain(b, tile, scratch(b, tile, I32))
    for op in tail:
        tile = vector(b, op, tile, scratch(b, tile, element(op.results[0])), here)
    return tile


# --- convolutions ---


def conv2d(b: Builder, chain: Chain) -> View:
    """A layer of patches; the result lies with its channels last, and the view says so."""
    op = chain.head
    assert isinstance(op, Conv2dOp)
    weight = constant(b, op, op.weight, "its weight")
    bias = None if op.bias is None else widen(constant(b, op, op.bias, "its bias"))
    strides, padding, dilations, groups = op.geometry
    if any(isinstance(step, ReshapeOp) for step in chain.tail):
        raise refuse(op, "a reshape between a convolution and its requantize", "move it behind")
    batch, channels, height, width = shape_of(op.input)
    outputs, _, kh, kw = weight.shape
    high, wide = shape_of(op.result)[2:]
    held = _operand(b, op, op.input, "its operand", 8)
    zero = _zero(b, op, b.numbers(op.input_zero_point), "its operand")
    image = b.view(op.input)
    if any(padding):
        image = _padded(b, op, image, zero, padding)
        height, width = height + padding[0] + padding[2], width + padding[1] + padding[3]
    k, places = channels * kh * kw, high * wide
    patches = Home("patches", batch * places * k, held)
    b.at(op)
    for n in range(batch):
        for y in range(high):
            _patches(
                b,
                image,
                patches,
                (n, y * strides[0]),
                (n * high + y) * wide,
                wide,
                (channels, kh, kw),
                strides[1],
                dilations,
            )
    home = b.new_home(chain.result)
    result = Matrix(home, 0, batch * places, outputs, outputs, 1)
    mine, own = outputs // groups, k // groups
    for group in range(groups):
        left = Matrix(patches, group * own, batch * places, own, k, 1)
        layer = Layer(
            op,
            [left],
            held,
            zero,
            weight[group * mine : (group + 1) * mine].reshape(mine, own),
            _operand(b, op, op.weight, "its weight", 8),
            _zero(b, op, b.numbers(op.weight_zero_point), "its weight"),
            bias,
            1,
            group * mine,
        )
        layer_tiles(b, layer, chain.tail, result)
    return View(home, (batch, outputs, high, wide), (places * outputs, 1, wide * outputs, outputs))


def _patches(
    b: Builder,
    image: View,
    patches: Home,
    at: tuple[int, int],
    first: int,
    wide: int,
    kernel: Sequence[int],
    stride: int,
    dilations: Sequence[int],
) -> None:
    """Patches first .. first + wide - 1, those of a row of places: image and row of pixels `at`."""
    (n, row), (channels, kh, kw), size = at, kernel, image.home.itemsize
    k = channels * kh * kw
    side_by_side = image.strides[3] == 1 and dilations[1] == 1
    for c in range(channels):
        source = image.offset + n * image.strides[0] + c * image.strides[1] + row * image.strides[2]
        target = first * k + c * kh * kw
        place = Place(b.buffer(patches), target * size, wide, kh * kw * size, k * size)
        steps = {"source_plane": stride * image.strides[3] * size, "target_plane": k * size}
        if side_by_side:
            steps |= {"source_row": dilations[0] * image.strides[2] * size, "target_row": kw * size}
            counts = (wide, kh, kw * size)
            b.copy(image.home, source * size, place.buffer, target * size, counts, steps, (place,))
            continue
        for i in range(kh):
            at_row = source + i * dilations[0] * image.strides[2]
            steps |= {"source_row": dilations[1] * image.strides[3] * size, "target_row": size}
            to = (target + i * kw) * size
            b.copy(image.home, at_row * size, place.buffer, to, (wide, kw, size), steps, (place,))


def _padded(b: Builder, op: Conv2dOp, image: View, zero: int, padding: Sequence[int]) -> View:
    """The image with its zero point around it."""
    batch, channels, height, width = image.shape
    high, wide = height + padding[0] + padding[2], width + padding[1] + padding[3]
    held = image.home.type
    home = Home("padded", batch * channels * high * wide, held)
    size = held.dtype.itemsize
    b.at(op)
    border = b.stored(np.full(wide, zero, held.dtype).view(np.uint8))
    edge = Home("border", wide, held, None, border)
    everything = Place(b.buffer(home), 0, 1, home.bytes, home.bytes)
    steps = {"source_plane": 0, "source_row": 0, "target_plane": high * wide * size, "target_row": wide * size}
    b.copy(edge, 0, everything.buffer, 0, (batch * channels, high, wide * size), steps, (everything,))
    whole = View.of(home, (batch, channels, high, wide))
    copy_into(b, image, whole.sliced(2, padding[0], height, 1).sliced(3, padding[1], width, 1))
    return whole
