"""What a module of func, linalg, tensor, arith and math computes, in NumPy: for tests where no other compiler is at hand.

Written from upstream's documentation of these operations; it imports nothing of our compiler. (xDSL's own interpreter
has no ext, trunc, pad or slice, and runs one number at a time.) An iN is held sign-extended in int64, an index as int64.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects import arith, math, tensor
from xdsl.dialects.builtin import (
    DenseIntOrFPElementsAttr,
    Float32Type,
    Float64Type,
    FloatAttr,
    IndexType,
    IntegerAttr,
    IntegerType,
    ModuleOp,
    TensorType,
)
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.dialects.linalg.attrs import IteratorTypeAttr
from xdsl.dialects.linalg.ops import FillOp, GenericOp, IndexOp, YieldOp
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.ir.affine import AffineDimExpr, AffineMap

Array = NDArray[Any]


def bits(value: SSAValue) -> int:
    element = value.type.element_type if isinstance(value.type, TensorType) else value.type
    if isinstance(element, IndexType):
        return 64
    assert isinstance(element, IntegerType)
    assert element.signedness.data.name == "SIGNLESS"
    return element.width.data


def wrap(x: Array, width: int) -> Array:
    """x modulo 2^width, as two's complement."""
    high = np.int64(64 - width)
    return (np.asarray(x, np.int64) << high) >> high


def unsigned(x: Array, width: int) -> Array:
    assert width < 64
    return np.asarray(x, np.int64) & ((1 << width) - 1)


def float_type(type: Attribute) -> type[np.floating[Any]]:
    assert isinstance(type, Float32Type | Float64Type)
    return np.float32 if isinstance(type, Float32Type) else np.float64


COMPARISONS = (np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal)
FLOAT_COMPARISONS = {  # NumPy's: ordered, and unordered where it is "not equal"
    1: np.equal,
    2: np.greater,
    3: np.greater_equal,
    4: np.less,
    5: np.less_equal,
    13: np.not_equal,
}


def shift_right(x: Array, by: Array, width: int) -> Array:
    assert (by >= 0).all()
    assert (by < width).all()
    return x >> by


def to_integer(x: Array, width: int) -> Array:
    """Out of range it is poison, so nothing may rely on it."""
    assert np.isfinite(x).all()
    assert (np.abs(x) < 2.0 ** (width - 1)).all() or (x == -(2.0 ** (width - 1))).all()
    return x.astype(np.int64)


SCALAR: dict[type[Operation], Callable[..., Array]] = {
    arith.AddiOp: lambda op, a, b: wrap(a + b, bits(op.result)),
    arith.SubiOp: lambda op, a, b: wrap(a - b, bits(op.result)),
    arith.MuliOp: lambda op, a, b: wrap(a * b, bits(op.result)),
    arith.AndIOp: lambda op, a, b: a & b,
    arith.ShRSIOp: lambda op, a, b: shift_right(a, b, bits(op.result)),
    arith.MaxSIOp: lambda op, a, b: np.maximum(a, b),
    arith.MinSIOp: lambda op, a, b: np.minimum(a, b),
    arith.CmpiOp: lambda op, a, b: -COMPARISONS[op.predicate.value.data](a, b).astype(np.int64),
    arith.SelectOp: lambda op, c, a, b: np.where(c != 0, a, b),
    arith.ExtSIOp: lambda op, x: x,
    arith.ExtUIOp: lambda op, x: unsigned(x, bits(op.input)),
    arith.TruncIOp: lambda op, x: wrap(x, bits(op.result)),
    arith.IndexCastOp: lambda op, x: x,
    arith.AddfOp: lambda op, a, b: a + b,
    arith.SubfOp: lambda op, a, b: a - b,
    arith.MulfOp: lambda op, a, b: a * b,
    arith.DivfOp: lambda op, a, b: a / b,
    arith.MaximumfOp: lambda op, a, b: np.maximum(a, b),
    arith.MinimumfOp: lambda op, a, b: np.minimum(a, b),
    arith.CmpfOp: lambda op, a, b: -FLOAT_COMPARISONS[op.predicate.value.data](a, b).astype(np.int64),
    arith.SIToFPOp: lambda op, x: x.astype(float_type(op.result.type)),
    arith.UIToFPOp: lambda op, x: unsigned(x, bits(op.input)).astype(float_type(op.result.type)),
    arith.FPToSIOp: lambda op, x: to_integer(x, bits(op.result)),
    arith.ExtFOp: lambda op, x: x.astype(np.float64),
    math.RoundEvenOp: lambda op, x: np.rint(x),
    math.FloorOp: lambda op, x: np.floor(x),
    math.AbsFOp: lambda op, x: np.abs(x),
    math.CopySignOp: lambda op, a, b: np.copysign(a, b),
    math.SqrtOp: lambda op, x: np.sqrt(x),
}


def constant(op: arith.ConstantOp) -> Array:
    if isinstance(op.value, DenseIntOrFPElementsAttr):
        shape = op.value.get_shape()
        values = np.array(op.value.get_values())
        values = values if values.size > 1 or shape == () else np.broadcast_to(values, shape)
        return of_type(values.reshape(shape), op.value.get_element_type())
    assert isinstance(op.value, IntegerAttr | FloatAttr)
    return of_type(np.array(op.value.value.data), op.result.type)


def of_type(x: Array, element: Attribute) -> Array:
    return x.astype(np.int64) if isinstance(element, IntegerType | IndexType) else x.astype(float_type(element))


def loop_extents(maps: Sequence[AffineMap], shapes: Sequence[Sequence[int]]) -> list[int]:
    """How far every loop runs: a dimension of some operand says so."""
    extents: dict[int, int] = {}
    for map_, shape in zip(maps, shapes, strict=True):
        for expression, size in zip(map_.results, shape, strict=True):
            if isinstance(expression, AffineDimExpr):
                assert extents.setdefault(expression.position, size) == size
    return [extents[i] for i in range(maps[0].num_dims)]


def generic(op: GenericOp, values: dict[SSAValue, Array]) -> Array:
    """All parallel loops at once, the others one step after another."""
    maps = [attr.data for attr in op.indexing_maps]
    operands = [values[v] for v in op.operands]
    extents = loop_extents(maps, [x.shape for x in operands])
    parallel = [i for i, kind in enumerate(op.iterator_types) if kind == IteratorTypeAttr.parallel()]
    reduced = [i for i in range(len(extents)) if i not in parallel]
    assert maps[-1].results == tuple(AffineDimExpr(i) for i in parallel)
    grid = np.indices([extents[i] for i in parallel])
    accumulator = operands[-1]
    for step in product(*(range(extents[i]) for i in reduced)):
        position: dict[int, Any] = dict(zip(parallel, grid, strict=True)) | dict(zip(reduced, step, strict=True))
        point = [position[i] for i in range(len(extents))]
        elements = [
            np.broadcast_to(x[tuple(e.eval(point, []) for e in map_.results)], accumulator.shape)
            for x, map_ in zip(operands[:-1], maps[:-1], strict=True)
        ]
        accumulator = np.broadcast_to(
            run_block(op.body.block, [*elements, accumulator], values, point), accumulator.shape
        )
    return accumulator


def moved(op: Operation, values: dict[SSAValue, Array]) -> Array:
    x = values[op.operands[0]]
    match op:
        case tensor.CollapseShapeOp() | tensor.ExpandShapeOp():
            groups = [[int(i.value.data) for i in group] for group in op.reassociation]
            wide, narrow = sorted([x.shape, op.result.type.get_shape()], key=len, reverse=True)
            assert tuple(int(np.prod([wide[i] for i in group])) for group in groups) == narrow
            assert [i for group in groups for i in group] == list(range(len(wide))) or not groups
            return x.reshape(op.result.type.get_shape())
        case tensor.ExtractSliceOp():
            starts, steps = op.static_offsets.get_values(), op.static_strides.get_values()
            parts = zip(starts, op.result.type.get_shape(), steps, strict=True)
            return x[tuple(slice(start, start + (n - 1) * step + 1, step) for start, n, step in parts)]
        case tensor.ConcatOp():
            return np.concatenate([values[v] for v in op.inputs], op.dim.value.data)
        case tensor.PadOp():
            fill = run_block(op.region.block, [], values, [])
            widths = list(zip(op.static_low.get_values(), op.static_high.get_values(), strict=True))
            return np.pad(x, widths, constant_values=fill)
        case _:
            raise NotImplementedError(op.name)


def run_block(block: Block, arguments: Sequence[Array], outer: dict[SSAValue, Array], point: Sequence[Any]) -> Array:
    """A body: what its last operation yields."""
    values = outer | dict(zip(block.args[: len(arguments)], arguments, strict=True))
    for op in block.ops:
        match op:
            case YieldOp() | tensor.YieldOp():
                return values[op.operands[0]]
            case IndexOp():
                values[op.result] = point[op.dim.value.data]
            case tensor.ExtractOp():
                values[op.result] = values[op.tensor][tuple(values[i] for i in op.indices)]
            case arith.ConstantOp():
                values[op.result] = constant(op)
            case _:
                with np.errstate(all="ignore"):
                    values[op.results[0]] = SCALAR[type(op)](op, *(values[v] for v in op.operands))
    raise AssertionError("no yield")


def run(module: ModuleOp, name: str, inputs: Sequence[Array]) -> list[Array]:
    """The results of a function. Integers as they are in memory: uiN by its bits."""
    (function,) = [op for op in module.ops if isinstance(op, FuncOp) and op.sym_name.data == name]
    values = {v: of_type(x, v.type.element_type) for v, x in zip(function.args, inputs, strict=True)}
    for op in function.body.block.ops:
        match op:
            case ReturnOp():
                return [values[v] for v in op.operands]
            case arith.ConstantOp():
                values[op.result] = constant(op)
            case tensor.EmptyOp():
                garbage = np.full(op.tensor.type.get_shape(), 85)
                values[op.tensor] = of_type(garbage, op.tensor.type.element_type)
            case FillOp():
                shape = values[op.operands[1]].shape
                values[op.results[0]] = np.broadcast_to(values[op.operands[0]], shape)
            case GenericOp():
                values[op.results[0]] = generic(op, values)
            case _:
                values[op.results[0]] = moved(op, values)
    raise AssertionError("no func.return")
