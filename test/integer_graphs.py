"""Random graphs of integer operations, of every kind that --range-analysis knows, and inputs for them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from approximation_examples import CHANNELS, EXAMPLES
from numpy.typing import NDArray
from xdsl.dialects.builtin import FunctionType, IntegerType, ModuleOp, Signedness, TensorType, i32, i64
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Operation, Region, SSAValue

from qvit.dialects.approximations.base import FunctionApproximation, SoftmaxApproximation
from qvit.dialects.attributes import DyadicAttr, PotAttr, RealAttr, ScaleAttr, ZeroPointAttr, float_value
from qvit.dialects.ops.approximated import IntFunctionOp, IntLayerNormOp, IntSoftmaxOp
from qvit.dialects.ops.elementwise import AddOp, ClipOp, CompareOp, MulOp, SelectOp, SubOp
from qvit.dialects.ops.nonlinear import ArgmaxOp, ReduceSumOp
from qvit.dialects.ops.products import LOG_CODE, Conv2dOp, LinearOp, MatmulOp, ShiftMatmulOp
from qvit.dialects.ops.quantization import AddRequantOp, RequantizeOp, ThresholdOp
from qvit.dialects.ops.shape import BroadcastOp, ConcatOp, GatherOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.semantics.integers import IntType, Rounding
from qvit.dialects.types import BOOLEAN, element_of, int_type, integer_of, shape_of

Array = NDArray[Any]

_CODES = [IntegerType(n) for n in (2, 4, 8, 16)] + [IntegerType(n, Signedness.UNSIGNED) for n in (3, 8)]
_LARGEST = 96


def element(type: IntType) -> IntegerType:
    return IntegerType(type.bits) if type.signed else IntegerType(type.bits, Signedness.UNSIGNED)


def limits(value: SSAValue) -> IntType:
    type = integer_of(value)
    assert type is not None
    return type


def inputs_for(module: ModuleOp, rng: np.random.Generator, often: int) -> Iterator[list[Array]]:
    """Codes at the ends of their types, all alike and mixed, and then any codes."""
    (function,) = (op for op in module.ops if isinstance(op, FuncOp))
    arguments = [(shape_of(argument), limits(argument)) for argument in function.args]
    yield [np.full(shape, type.lo, type.dtype) for shape, type in arguments]
    yield [np.full(shape, type.hi, type.dtype) for shape, type in arguments]
    for i in range(often):
        yield [
            rng.choice([type.lo, type.hi], shape).astype(type.dtype)
            if i % 2
            else rng.integers(type.lo, type.hi, shape, np.int64, endpoint=True).astype(type.dtype)
            for shape, type in arguments
        ]


@dataclass
class Builder:
    """Grows a graph: every step adds an operation on tensors that are there already."""

    rng: np.random.Generator
    forms: Sequence[str] = ("dyadic", "pot", "real")
    sums: IntegerType = i64
    block: Block = field(default_factory=Block)
    pool: list[SSAValue] = field(default_factory=list[SSAValue])

    def one(self, *choices: Any) -> Any:
        return choices[self.rng.integers(len(choices))]

    def emit(self, op: Operation) -> SSAValue:
        self.block.add_op(op)
        self.pool += op.results
        return op.results[0]

    def fresh(self, shape: Sequence[int], type: IntegerType | None = None) -> SSAValue:
        """An argument or a constant."""
        codes = self.one(*_CODES) if type is None else type
        if self.one(True, False):
            value = self.block.insert_arg(TensorType(codes, shape), len(self.block.args))
            self.pool.append(value)
            return value
        return self.constant(shape, codes)

    def constant(self, shape: Sequence[int], codes: IntegerType) -> SSAValue:
        type = int_type(codes)
        assert type is not None
        return self.fixed(self.rng.integers(type.lo, type.hi, shape, np.int64, endpoint=True), codes)

    def fixed(self, numbers: Any, codes: IntegerType) -> SSAValue:
        """A constant that is no operand of later steps."""
        type = int_type(codes)
        assert type is not None
        op = ConstantOp(np.asarray(numbers).astype(type.dtype), codes)
        self.block.add_op(op)
        return op.result

    def value(self, most: int = 64) -> SSAValue:
        """One of the newest tensors of at most so many bits, or a new one."""
        found = [v for v in self.pool[-6:] if limits(v).bits <= most]
        return self.one(*found) if found else self.fresh((2, 3))

    def zero_point(self, value: SSAValue) -> int:
        type = limits(value)
        return int(self.rng.integers(max(type.lo, -300), min(type.hi, 300), endpoint=True))

    def numbers(self, low: int, high: int, length: int | None) -> Any:
        return self.rng.integers(low, high, length, endpoint=True)

    def form(self, length: int | None) -> Any:
        match self.one(*self.forms):
            case "dyadic":
                return DyadicAttr.of(self.numbers(-(2**31) + 1, 2**31 - 1, length), self.numbers(20, 45, None))
            case "pot":
                return PotAttr.of(self.numbers(-3, 20, length))
            case _:
                factors = self.rng.normal(0, self.one(0.01, 1.0), length)
                return RealAttr(ScaleAttr.of(float_value(np.float32(factors) if length is None else factors)))

    def axis(self, shape: Sequence[int]) -> tuple[int | None, int | None]:
        axis = int(self.rng.integers(len(shape))) if shape and self.one(True, False) else None
        return axis, None if axis is None else shape[axis]

    # --- steps ---

    def linear(self) -> None:
        x = self.value(16)
        if not (shape := shape_of(x)):
            return
        outputs = self.one(1, 2, 4)
        weight = self.fresh((outputs, shape[-1]))
        bias = self.fixed(self.numbers(-(2**20), 2**20, outputs), self.sums) if self.one(True, False) else None
        zero = ZeroPointAttr.of(self.numbers(0, 1, outputs)) if self.one(True, False) else None
        self.emit(LinearOp(x, weight, bias, (self.zero_point(x), zero), self.sums))

    def matmul(self) -> None:
        x = self.value(16)
        if len(shape := shape_of(x)) < 2:
            return
        batch = [d if self.one(True, False) else 1 for d in shape[:-2]]
        other = self.fresh([*batch, shape[-1], self.one(1, 3)])
        self.emit(MatmulOp(x, other, (self.zero_point(x), self.zero_point(other)), self.sums))

    def shift_matmul(self) -> None:
        codes = self.fresh(self.one((2, 3), (2, 1, 3)), LOG_CODE)
        values = self.fresh(self.one((3, 2), (2, 3, 1)))
        self.emit(ShiftMatmulOp(codes, values, self.zero_point(values), self.sums))

    def conv2d(self) -> None:
        x = self.fresh((1, 4, 3, 3))
        groups = self.one(1, 2)
        weight = self.fresh((2 * groups, 4 // groups, 2, 2))
        padding = self.one((0, 0, 0, 0), (1, 0, 1, 2))
        self.emit(Conv2dOp(x, weight, None, (1, 1), padding, (1, 1), groups, (self.zero_point(x), None), self.sums))

    def arithmetic(self) -> None:
        op = self.one(AddOp, SubOp, MulOp)
        x = self.value(16 if op is MulOp else 32)
        same = [v for v in self.pool if shape_of(v) == shape_of(x) and limits(v).bits <= 32]
        other = self.one(*same) if same and self.one(True, False) else self.fresh(shape_of(x)[-1:])
        self.emit(op(x, other, self.sums))

    def requantize(self) -> None:
        x = self.value(32)
        shape = shape_of(x)
        axis, length = self.axis(shape)
        result, form = self.one(*_CODES), self.form(length)
        zero_points = ZeroPointAttr.of(self.zero_point(x)), ZeroPointAttr.of(self.one(0, 1))
        rounding = self.one(*Rounding)
        divisor = None
        if self.one(True, False):
            codes = self.one(i32, IntegerType(32, Signedness.UNSIGNED))
            least = self.fixed(self.numbers(1, 1 << int(self.rng.integers(1, 20)), None), codes)
            more = self.fresh((*shape[:-1], 1) if shape else (), IntegerType(8, Signedness.UNSIGNED))
            divisor = self.emit(AddOp(more, least, i32)) if codes == i32 else least
        self.emit(RequantizeOp(x, form, result, zero_points, axis, rounding, divisor))

    def add_requant(self) -> None:
        x = self.value(16)
        axis, length = self.axis(shape_of(x))
        other = self.fresh(shape_of(x))
        forms = [self.form(self.one(length, None)) for _ in range(2)]
        axis = axis if any(form.length is not None for form in forms) else None
        zero_points = self.zero_point(x), self.zero_point(other), 0
        result, each = self.one(*_CODES), self.one(True, False)
        self.emit(AddRequantOp(x, forms[0], other, forms[1], result, zero_points, self.one(*Rounding), each, axis))

    def clip(self) -> None:
        x = self.value()
        type = limits(x)
        axis, length = self.axis(shape_of(x))
        ends = (max(type.lo, -200), min(type.hi, 200))
        low, high = np.sort(
            self.rng.integers(*ends, (2, *(() if length is None else (length,))), endpoint=True), axis=0
        )
        if length is None:
            low, high = int(low), int(high)
        self.emit(ClipOp(x, self.one(low, None), self.one(high, None), axis))

    def compare_and_select(self) -> None:
        x = self.value(32)
        codes = element_of(x)
        assert isinstance(codes, IntegerType)
        other = self.fresh(self.one(shape_of(x), shape_of(x)[-1:]), codes)
        condition = self.emit(CompareOp(x, other, self.one(*CompareOp.PREDICATES)))
        condition = condition if self.one(True, False) else self.fresh(shape_of(x), BOOLEAN)
        self.emit(SelectOp(condition, x, other))

    def threshold(self) -> None:
        x = self.value(16)
        axis, length = self.axis(shape_of(x))
        type = limits(x)
        levels = (3,) if length is None else (length, 3)
        numbers = np.sort(self.rng.integers(type.lo, type.hi, levels, endpoint=True))
        self.emit(ThresholdOp(x, self.fixed(numbers, element(type)), self.one(0, 2), IntegerType(8), axis))

    def reduce_sum(self) -> None:
        x = self.value(32)
        if shape := shape_of(x):
            axes = sorted({int(a) for a in self.rng.integers(len(shape), size=2)})
            self.emit(ReduceSumOp(x, axes, self.one(True, False), self.sums))

    def argmax(self) -> None:
        x = self.value(64)
        if shape := shape_of(x):
            self.emit(ArgmaxOp(x, self.one(*range(len(shape))), self.one(True, False)))

    def transpose(self) -> None:
        x = self.value()
        self.emit(TransposeOp(x, [int(p) for p in self.rng.permutation(len(shape_of(x)))]))

    def reshape(self) -> None:
        x = self.value()
        size = prod(shape_of(x))
        rows = self.one(*(d for d in range(1, size + 1) if size % d == 0))
        self.emit(ReshapeOp(x, self.one((rows, size // rows), (size,), (rows, 1, size // rows))))

    def slice(self) -> None:
        x = self.value()
        if shape := shape_of(x):
            axis = int(self.rng.integers(len(shape)))
            size = int(self.rng.integers(1, shape[axis], endpoint=True))
            forwards = self.one((0, size, 1), (shape[axis] - 1, size, -1))
            self.emit(SliceOp(x, axis, *forwards))

    def concat(self) -> None:
        x = self.value()
        codes = element_of(x)
        assert isinstance(codes, IntegerType)
        if (shape := shape_of(x)) and 2 * prod(shape) <= _LARGEST:
            self.emit(ConcatOp([x, self.fresh(shape, codes)], int(self.rng.integers(len(shape)))))

    def gather(self) -> None:
        x = self.value()
        if (shape := shape_of(x)) and 2 * prod(shape) <= _LARGEST:
            axis = int(self.rng.integers(len(shape)))
            if self.one(True, False) or shape[axis] < 2:
                indices = self.fixed(self.rng.integers(0, shape[axis], self.one((), (2,))), i32)
            else:
                indices = self.block.insert_arg(TensorType(BOOLEAN, (2,)), len(self.block.args))
            self.emit(GatherOp(x, indices, axis))

    def broadcast(self) -> None:
        x = self.value()
        if 2 * prod(shape_of(x)) <= _LARGEST:
            self.emit(BroadcastOp(x, (2, *shape_of(x))))

    def approximation(self) -> None:
        example = self.one(*EXAMPLES)
        built, codes = example.built, element(example.codes.type)
        x = self.fresh((2, CHANNELS), codes)
        tables = [self.fixed(table, element(type)) for table, type in built.tables]
        results = [element(type) for type in built.results]
        if isinstance(built.approximation, SoftmaxApproximation):
            mask = self.fresh((2, CHANNELS), BOOLEAN) if self.one(True, False) else None
            op = IntSoftmaxOp(x, built.approximation, tables, results, mask)
            self.emit(op)
            values = self.fresh((CHANNELS, 2))
            if built.approximation.logarithmic:
                self.emit(ShiftMatmulOp(op.outputs[0], values, self.zero_point(values), i32))
            if len(results) == 2:
                product = self.emit(MatmulOp(op.outputs[0], values, (0, self.zero_point(values)), i32))
                form = self.form(None)
                self.emit(RequantizeOp(product, form, IntegerType(16), divisor=op.outputs[1]))
            elif built.approximation.logarithmic:
                values = self.fresh((CHANNELS, 2))
                self.emit(ShiftMatmulOp(op.outputs[0], values, self.zero_point(values)))
        elif isinstance(built.approximation, FunctionApproximation):
            self.emit(IntFunctionOp(x, built.approximation, tables, results[0]))
        else:
            self.emit(IntLayerNormOp(x, built.approximation, tables, results[0]))


STEPS: tuple[Callable[[Builder], None], ...] = (
    Builder.linear,
    Builder.matmul,
    Builder.shift_matmul,
    Builder.conv2d,
    Builder.arithmetic,
    Builder.requantize,
    Builder.requantize,
    Builder.add_requant,
    Builder.clip,
    Builder.compare_and_select,
    Builder.threshold,
    Builder.reduce_sum,
    Builder.argmax,
    Builder.transpose,
    Builder.reshape,
    Builder.slice,
    Builder.concat,
    Builder.gather,
    Builder.broadcast,
    Builder.approximation,
)


def integer_graph(
    rng: np.random.Generator,
    steps: int = 8,
    forms: Sequence[str] = Builder.forms,
    every: bool = True,
    sums: IntegerType = i64,
) -> ModuleOp:
    """A module with one function @main, which returns every tensor that it makes, or only those that nothing takes.

    forms: of requantize's factors; sums: the type of products and sums.
    """
    builder = Builder(rng, forms, sums)
    builder.fresh(builder.one((3,), (2, 3), (2, 3, 4)))
    for _ in range(steps):
        builder.one(*STEPS)(builder)
    results = [r for op in builder.block.ops for r in op.results if every or not r.uses.get_length()]
    builder.block.add_op(ReturnOp(*results))
    type = FunctionType.from_lists([a.type for a in builder.block.args], [r.type for r in results])
    module = ModuleOp([FuncOp("main", type, Region(builder.block))])
    module.verify()
    return module
