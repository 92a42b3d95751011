"""matmul, shift_matmul, linear and conv2d on integers.

They compute in the accumulator's type modulo 2^bits: where the exact sum fits, as the dialect demands, the result is
exact, whatever happened on the way.
"""

from xdsl.dialects import arith, tensor
from xdsl.dialects.builtin import IndexType, TensorType
from xdsl.ir import Attribute, Block, Region, SSAValue
from xdsl.ir.affine import AffineDimExpr

from qvit.dialects.attributes import ZeroPointAttr
from qvit.dialects.ops.products import Conv2dOp, LinearOp, MatmulOp, ShiftMatmulOp
from qvit.dialects.semantics.integers import IntType
from qvit.dialects.types import element_of, int_type, shape_of
from qvit.transforms.lower.bounded import numbers_of
from qvit.transforms.lower.shape import reshape_to, split
from qvit.transforms.lower.stage import (
    Kernel,
    Stage,
    broadcast_dims,
    dims,
    integer_element,
    move,
    require,
    resize,
    scalar,
    signless,
)


def _require_integers(result: SSAValue) -> None:
    require(int_type(element_of(result)), "it is a product of floats, whose sums depend on their order")


def _centred(k: Kernel, value: SSAValue, type: IntType, zero_point: ZeroPointAttr | None) -> SSAValue:
    """value - zero_point in the accumulator's type."""
    accumulator = k.accumulator.type
    wide = resize(k, value, type, _bits(accumulator))
    if zero_point is None:
        return wide
    numbers = numbers_of(k.stage.weights.zero_point(zero_point))
    return k.emit(arith.SubiOp(wide, k.parameter(numbers, accumulator)))


def _bits(element: Attribute) -> int:
    integer = int_type(element)
    assert integer is not None
    return integer.bits


def _accumulate(k: Kernel, a: SSAValue, b: SSAValue) -> SSAValue:
    return k.emit(arith.AddiOp(k.accumulator, k.emit(arith.MuliOp(a, b))))


def _start(s: Stage, result: SSAValue, bias: SSAValue | None, channels: int) -> SSAValue:
    """What the sums start from: the bias along the dimension `channels`, or 0."""
    if bias is not None:
        return move(s, bias, dims(channels), shape_of(result))
    return s.filled(shape_of(result), 0, element_of(result))


def _matrices(s: Stage, op: MatmulOp | ShiftMatmulOp, a: SSAValue, b: SSAValue) -> tuple[Kernel, SSAValue, SSAValue]:
    """The kernel of a product of matrices, and its two elements."""
    rank = len(shape_of(op.result))
    batch, m, n, depth = shape_of(op.result)[:-2], rank - 2, rank - 1, rank
    k = Kernel(s, element_of(op.result), rank, reduced=1, axis=n)
    left = k.read(a, (*broadcast_dims(shape_of(op.lhs)[:-2], batch), *dims(m, depth)))
    return k, left, k.read(b, (*broadcast_dims(shape_of(op.rhs)[:-2], batch), *dims(depth, n)))


def matmul(s: Stage, op: MatmulOp, a: SSAValue, b: SSAValue) -> SSAValue:
    _require_integers(op.result)
    k, left, right = _matrices(s, op, a, b)
    left = _centred(k, left, integer_element(op.lhs), op.lhs_zero_point)
    right = _centred(k, right, integer_element(op.rhs), op.rhs_zero_point)
    return k.finish(_accumulate(k, left, right), _start(s, op.result, None, 0))


def shift_matmul(s: Stage, op: ShiftMatmulOp, q: SSAValue, b: SSAValue) -> SSAValue:
    """2^15 >> q is multiplied by: as a power of two, which a compiler that knows better may make a shift again."""
    k, left, right = _matrices(s, op, q, b)
    shift = _centred(k, left, integer_element(op.lhs), None)
    power = k.emit(arith.ShRSIOp(k.constant(1 << 15, k.accumulator.type), shift))
    right = _centred(k, right, integer_element(op.rhs), op.rhs_zero_point)
    return k.finish(_accumulate(k, power, right), _start(s, op.result, None, 0))


def linear(s: Stage, op: LinearOp, x: SSAValue, weight: SSAValue, bias: SSAValue | None = None) -> SSAValue:
    _require_integers(op.result)
    rank = len(shape_of(op.result))
    n, depth = rank - 1, rank
    k = Kernel(s, element_of(op.result), rank, reduced=1, axis=n)
    left, right = k.read(x, dims(*range(rank - 1), depth)), k.read(weight, dims(n, depth))
    left = _centred(k, left, integer_element(op.input), op.input_zero_point)
    right = _centred(k, right, integer_element(op.weight), op.weight_zero_point)
    return k.finish(_accumulate(k, left, right), _start(s, op.result, bias, n))


def conv2d(s: Stage, op: Conv2dOp, x: SSAValue, weight: SSAValue, bias: SSAValue | None = None) -> SSAValue:
    """A sum over (channel, kernel row, kernel column); groups are a dimension of their own before the channels."""
    _require_integers(op.result)
    strides, _, dilations, groups = op.geometry
    x, start = _padded(s, op, x), _start(s, op.result, bias, 1)
    weight, weight_type = _centred_weight(s, op, weight)
    if groups > 1:
        x, weight, start = split(s, x, 1, groups), split(s, weight, 0, groups), split(s, start, 1, groups)
    group = (1,) if groups > 1 else ()
    o, row, column, c, i, j = range(1 + len(group), 7 + len(group))
    rows = AffineDimExpr(row) * strides[0] + AffineDimExpr(i) * dilations[0]
    columns = AffineDimExpr(column) * strides[1] + AffineDimExpr(j) * dilations[1]
    k = Kernel(s, element_of(op.result), column + 1, reduced=3)
    left, right = k.read(x, (*dims(0, *group, c), rows, columns)), k.read(weight, dims(*group, o, c, i, j))
    left = _centred(k, left, integer_element(op.input), op.input_zero_point)
    y = k.finish(_accumulate(k, left, _centred(k, right, weight_type, None)), start)
    return reshape_to(s, y, shape_of(op.result))


def _padded(s: Stage, op: Conv2dOp, x: SSAValue) -> SSAValue:
    """Padding is of the real number 0, so of the code that stands for it."""
    top, left, bottom, right = op.padding.get_values()
    if not any((top, left, bottom, right)):
        return x
    element = element_of(op.input)
    zero_point = s.weights.zero_point(op.input_zero_point)
    body = Block(arg_types=[IndexType()] * 4)
    zero = scalar(int(zero_point), signless(element))
    body.add_ops([zero, tensor.YieldOp(zero)])
    batch, channels, height, width = shape_of(op.input)
    shape = (batch, channels, height + top + bottom, width + left + right)
    low, high = (0, 0, top, left), (0, 0, bottom, right)
    return s.emit(tensor.PadOp(x, [], [], Region(body), low, high, TensorType(signless(element), shape)))


def _centred_weight(s: Stage, op: Conv2dOp, weight: SSAValue) -> tuple[SSAValue, IntType]:
    """(weight - zero point, its element type): its channels are split into groups later, and vectors with them."""
    if op.weight_zero_point is None:
        return weight, integer_element(op.weight)
    element = element_of(op.result)
    k = Kernel(s, element, 4, axis=0)
    centred = _centred(k, k.read(weight), integer_element(op.weight), op.weight_zero_point)
    return k.finish_new(centred, shape_of(op.weight)), integer_element(op.result)
