"""quantize, dequantize, requantize, add_requant and threshold."""

import numpy as np
from xdsl.dialects import arith, math
from xdsl.dialects.builtin import Float32Type, Float64Type, IntegerType, f64
from xdsl.ir import SSAValue

from qvit.dialects.attributes import DyadicAttr, Form, RealAttr, ZeroPointAttr
from qvit.dialects.ops.quantization import AddRequantOp, DequantizeOp, QuantizeOp, RequantizeOp, ThresholdOp
from qvit.dialects.semantics.integers import IntType, Rounding
from qvit.dialects.types import element_dtype, element_of, shape_of
from qvit.dialects.weights import Weights
from qvit.transforms.lower.bounded import (
    Bounded,
    Numbers,
    add,
    at_least,
    code,
    multiply,
    numbers_of,
    plus,
    round_shift,
    saturate,
    subtract,
    together,
)
from qvit.transforms.lower.stage import Kernel, NotLowered, Stage, dims, integer_element, require, resize


def _float_element(value: SSAValue) -> Float32Type | Float64Type:
    element = element_of(value)
    assert isinstance(element, Float32Type | Float64Type)  # verified
    return element


def _zero_point(weights: Weights, zero_point: ZeroPointAttr | None) -> Numbers:
    return numbers_of(weights.zero_point(zero_point))


def quantize(s: Stage, op: QuantizeOp, x: SSAValue) -> SSAValue:
    """saturate(round(x / scale) + zero_point).

    The quotient is clamped as a float, to lo - zero_point..hi - zero_point: these are exact in f32 for codes of up to 16
    bits; wider ones go through f64.
    """
    element, result = _float_element(op.input), integer_element(op.result)
    require(result.bits <= 32, f"codes of {result} are beyond what floats hold exactly")
    scale = s.weights.scale(op.params.scale, element_dtype(element))
    require((np.isfinite(scale) & (scale > 0)).all(), f"its scale is {scale.min()}..{scale.max()} in {element}")
    zero_point = _zero_point(s.weights, op.params.zero_point)
    k = Kernel(s, element_of(op.result), len(shape_of(op.result)), axis=op.params.axis_index)
    y = round_float(
        k, k.emit(arith.DivfOp(k.read(x), k.parameter(scale.ravel().tolist(), element))), op.rounding.data, element
    )
    word = 32
    if result.bits > 16:
        word = 64
        y, element = (k.emit(arith.ExtFOp(y, f64)) if element != f64 else y), f64
    y = k.emit(arith.MaximumfOp(y, k.parameter([result.lo - z for z in zero_point], element)))
    y = k.emit(arith.MinimumfOp(y, k.parameter([result.hi - z for z in zero_point], element)))
    lo, hi = result.lo - max(zero_point), result.hi - min(zero_point)
    q = add(k, Bounded(k.emit(arith.FPToSIOp(y, IntegerType(word))), word, lo, hi), zero_point)
    return k.finish_new(resize(k, q.value, IntType(q.bits), result.bits), shape_of(op.result))


def round_float(k: Kernel, x: SSAValue, rounding: Rounding, element: Float32Type | Float64Type) -> SSAValue:
    """A float, rounded to a whole one; infinities stay."""
    if rounding is Rounding.HALF_EVEN:
        return k.emit(math.RoundEvenOp(x))
    if rounding is Rounding.HALF_AWAY:
        return k.emit(math.CopySignOp(_half_up(k, k.emit(math.AbsFOp(x)), element), x))
    return k.emit(math.FloorOp(x)) if rounding is Rounding.FLOOR else _half_up(k, x, element)


def _half_up(k: Kernel, x: SSAValue, element: Float32Type | Float64Type) -> SSAValue:
    """floor(x + 1/2), decided by the fraction: the sum could round."""
    whole = k.emit(math.FloorOp(x))
    fraction = k.emit(arith.SubfOp(x, whole))
    up = k.emit(arith.CmpfOp(fraction, k.constant(0.5, element), "oge"))
    return k.emit(arith.AddfOp(whole, k.emit(arith.UIToFPOp(up, element))))


def dequantize(s: Stage, op: DequantizeOp, q: SSAValue) -> SSAValue:
    """(q - zero_point) * scale; the difference is exact, its conversion and the product round to nearest even."""
    element = _float_element(op.result)
    scale = s.weights.scale(op.params.scale, element_dtype(element))
    k = Kernel(s, element, len(shape_of(op.result)), axis=op.params.axis_index)
    x = subtract(k, code(k, k.read(q), integer_element(op.input)), _zero_point(s.weights, op.params.zero_point))
    y = k.emit(arith.SIToFPOp(x.value, element))
    return k.finish_new(k.emit(arith.MulfOp(y, k.parameter(scale.ravel().tolist(), element))), shape_of(op.result))


def _dyadic(weights: Weights, form: Form) -> tuple[Numbers, Numbers]:
    """(multiplier, shift), shift 0..62; a power of two is a multiplier or a shift."""
    if isinstance(form, RealAttr):
        raise NotLowered("its factor is a real number; dyadic factors and powers of two are lowered")
    shift = numbers_of(weights.values(form.shift))
    if isinstance(form, DyadicAttr):
        return numbers_of(weights.values(form.multiplier)), shift
    return [1 << max(-s, 0) for s in shift], [max(s, 0) for s in shift]


def requantize(s: Stage, op: RequantizeOp, x: SSAValue, divisor: SSAValue | None = None) -> SSAValue:
    """saturate(round((x - z_in) * multiplier / 2^shift) + z_out), in integers."""
    require(divisor is None, "it has a divisor, whose bit length decides how far to shift")
    multiplier, shift = _dyadic(s.weights, op.form)
    axis = op.axis.value.data if op.axis is not None else None
    k = Kernel(s, element_of(op.result), len(shape_of(op.result)), axis=axis)
    y = subtract(k, code(k, k.read(x), integer_element(op.input)), _zero_point(s.weights, op.input_zero_point))
    y = round_shift(k, multiply(k, y, multiplier), shift, op.rounding.data)
    y = add(k, y, _zero_point(s.weights, op.zero_point))
    return k.finish_new(saturate(k, y, integer_element(op.result)), shape_of(op.result))


def add_requant(s: Stage, op: AddRequantOp, a: SSAValue, b: SSAValue) -> SSAValue:
    """Both terms over their common denominator, rounded once; with round_each, rounded and then added."""
    (m_a, s_a), (m_b, s_b) = (_dyadic(s.weights, form) for form in (op.lhs_form, op.rhs_form))
    z_a, z_b, z = (_zero_point(s.weights, v) for v in (op.lhs_zero_point, op.rhs_zero_point, op.zero_point))
    rounding = op.rounding.data
    common = [max(pair) for pair in together(s_a, s_b)]
    if op.round_each is None:
        m_a = [m << (c - shift) for m, shift, c in together(m_a, s_a, common)]
        m_b = [m << (c - shift) for m, shift, c in together(m_b, s_b, common)]
    axis = op.axis.value.data if op.axis is not None else None
    k = Kernel(s, element_of(op.result), len(shape_of(op.result)), axis=axis)
    left = multiply(k, subtract(k, code(k, k.read(a), integer_element(op.lhs)), z_a), m_a)
    right = multiply(k, subtract(k, code(k, k.read(b), integer_element(op.rhs)), z_b), m_b)
    if op.round_each is None:
        y = round_shift(k, plus(k, left, right), common, rounding)
    else:
        y = plus(k, round_shift(k, left, s_a, rounding), round_shift(k, right, s_b, rounding))
    return k.finish_new(saturate(k, add(k, y, z), integer_element(op.result)), shape_of(op.result))


def threshold(s: Stage, op: ThresholdOp, x: SSAValue, thresholds: SSAValue) -> SSAValue:
    """lowest, and 1 for each threshold that x reaches: a sum over the thresholds."""
    rank, result = len(shape_of(op.result)), integer_element(op.result)
    k = Kernel(s, element_of(op.result), rank, reduced=1)
    at = dims(rank) if op.axis is None else dims(op.axis.value.data, rank)
    value = code(k, k.read(x), integer_element(op.input))
    reached = at_least(k, value, code(k, k.read(thresholds, at), integer_element(op.thresholds)))
    count = k.emit(arith.AddiOp(k.accumulator, resize(k, reached, IntType(1, False), result.bits)))
    return k.finish(count, s.filled(shape_of(op.result), op.lowest.value.data, element_of(op.result)))
