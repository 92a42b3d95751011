"""What all lowerings share: the operations that replace one operation, and linalg.generic under construction.

Upstream's arithmetic works on signless integers, so a tensor of uiN becomes one of iN with the same bits; what is
unsigned is known from the type of the old operand, and extended accordingly.
"""

from collections.abc import Sequence

import numpy as np
from xdsl.dialects import arith, tensor
from xdsl.dialects.builtin import (
    AffineMapAttr,
    AnyFloat,
    DenseIntOrFPElementsAttr,
    FloatAttr,
    IndexType,
    IntegerAttr,
    IntegerType,
    TensorType,
)
from xdsl.dialects.linalg.attrs import IteratorTypeAttr
from xdsl.dialects.linalg.ops import FillOp, GenericOp, YieldOp
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.ir.affine import AffineConstantExpr, AffineDimExpr, AffineExpr, AffineMap
from xdsl.utils.hints import isa

from qvit.dialects.attributes import dense
from qvit.dialects.semantics.integers import Array, IntType
from qvit.dialects.types import element_dtype, element_of, int_type
from qvit.dialects.weights import Weights


class NotLowered(Exception):
    """An operation has no lowering that computes the same; the argument is the reason, for people."""


def require(condition: object, reason: str) -> None:
    """A side condition of a lowering."""
    if not condition:
        raise NotLowered(reason)


def signless(type: Attribute) -> Attribute:
    """The type that upstream's arithmetic takes: uiN and tensors of it become iN, all others stay."""
    if isa(type, IntegerType):
        return IntegerType(type.width.data)
    if isa(type, TensorType):
        return TensorType(signless(type.element_type), type.get_shape())
    return type


def signless_dense(array: Array, element: Attribute) -> DenseIntOrFPElementsAttr:
    """An array as an inline tensor of signless elements, those of unsigned types by their bits."""
    integer = int_type(element)
    if integer is not None and not integer.signed:
        wide = array.astype(np.int64)
        array = np.where(wide >> (integer.bits - 1), wide - (1 << integer.bits), wide)
    return dense(array, signless(element))


def scalar(number: float, type: Attribute) -> arith.ConstantOp:
    if isa(type, IntegerType | IndexType):
        return arith.ConstantOp(IntegerAttr(int(number), type))
    assert isinstance(type, AnyFloat)
    return arith.ConstantOp(FloatAttr(number, type))


class Stage:
    """The operations that replace one operation of the dialect, in order; they are put in place when all are made."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.block = Block()

    def emit(self, op: Operation) -> SSAValue:
        self.block.add_op(op)
        return op.results[0]

    def constant(self, array: Array, element: Attribute) -> SSAValue:
        return self.emit(arith.ConstantOp(signless_dense(array, element)))

    def empty(self, shape: Sequence[int], element: Attribute) -> SSAValue:
        return self.emit(tensor.EmptyOp([], TensorType(signless(element), shape)))

    def filled(self, shape: Sequence[int], number: int, element: Attribute) -> SSAValue:
        """An integer everywhere."""
        value = self.emit(scalar(number, signless(element)))
        return self.emit(FillOp([value], [self.empty(shape, element)]))

    def discard(self) -> None:
        """Drop all operations: a lowering was refused half-way."""
        for op in reversed(list(self.block.ops)):
            op.detach()
            op.erase()


def dims(*indices: int) -> tuple[AffineExpr, ...]:
    return tuple(AffineDimExpr(i) for i in indices)


def broadcast_dims(shape: Sequence[int], result: Sequence[int]) -> tuple[AffineExpr, ...]:
    """Where an operand is read that NumPy's rules broadcast to the result: its own dimensions of size 1 at 0."""
    first = len(result) - len(shape)
    return tuple(
        AffineConstantExpr(0) if size == 1 and result[first + i] != 1 else AffineDimExpr(first + i)
        for i, size in enumerate(shape)
    )


class Kernel:
    """A linalg.generic under construction: what is computed at one point of a loop nest.

    loops: the dimensions of the result, all parallel, and after them `reduced` dimensions of a sum. Vectors of
    parameters lie along the dimension `axis`.
    """

    def __init__(self, stage: Stage, element: Attribute, loops: int, reduced: int = 0, axis: int | None = None) -> None:
        self.stage = stage
        self.loops, self.reduced, self.axis = loops, reduced, axis
        self.body = Block(arg_types=[signless(element)])
        self._inputs: list[SSAValue] = []
        self._maps: list[Sequence[AffineExpr]] = []

    @property
    def accumulator(self) -> SSAValue:
        """The element of the result before this point."""
        return self.body.args[-1]

    def emit(self, op: Operation) -> SSAValue:
        self.body.add_op(op)
        return op.results[0]

    def read(self, value: SSAValue, at: Sequence[AffineExpr] | None = None) -> SSAValue:
        """The element of a tensor at this point of the nest, or where `at` says."""
        self._inputs.append(value)
        self._maps.append(dims(*range(self.loops)) if at is None else at)
        return self.body.insert_arg(signless(element_of(value)), len(self._inputs) - 1)

    def constant(self, number: float, type: Attribute) -> SSAValue:
        return self.emit(scalar(number, type))

    def parameter(self, numbers: Sequence[float], type: Attribute) -> SSAValue:
        """One number, or the one of a vector along `axis`."""
        if len(set(numbers)) == 1:
            return self.constant(numbers[0], type)
        assert self.axis is not None
        return self.read(self.stage.constant(np.array(numbers, element_dtype(type)), type), dims(self.axis))

    def finish(self, value: SSAValue, into: SSAValue) -> SSAValue:
        """The whole operation, `value` being the element of the result; `into` is what the accumulator starts from."""
        self.body.add_op(YieldOp(value))
        rank = self.loops + self.reduced
        maps = [*self._maps, dims(*range(self.loops))]
        kinds = [IteratorTypeAttr.parallel()] * self.loops + [IteratorTypeAttr.reduction()] * self.reduced
        return self.stage.emit(
            GenericOp(
                self._inputs,
                [into],
                Region(self.body),
                [AffineMapAttr(AffineMap(rank, 0, tuple(at))) for at in maps],
                kinds,
                [into.type],
            )
        )

    def finish_new(self, value: SSAValue, shape: Sequence[int]) -> SSAValue:
        """As `finish`, for a kernel without sums."""
        return self.finish(value, self.stage.empty(shape, self.accumulator.type))


def resize(k: Kernel, value: SSAValue, before: IntType, bits: int) -> SSAValue:
    """An integer of the type `before` in `bits` bits: extended by its sign or by zeros, or cut off."""
    if bits == before.bits:
        return value
    target = IntegerType(bits)
    if bits < before.bits:
        return k.emit(arith.TruncIOp(value, target))
    return k.emit(arith.ExtSIOp(value, target) if before.signed else arith.ExtUIOp(value, target))


def integer_element(value: SSAValue) -> IntType:
    """The integer type of a tensor that verifiers have found to hold integers."""
    integer = int_type(element_of(value))
    assert integer is not None
    return integer


def move(stage: Stage, value: SSAValue, at: Sequence[AffineExpr], shape: Sequence[int]) -> SSAValue:
    """A tensor of that shape, every element read where `at` says."""
    k = Kernel(stage, element_of(value), len(shape))
    return k.finish_new(k.read(value, at), shape)
