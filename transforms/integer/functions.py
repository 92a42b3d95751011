"""Softmax, elementwise functions and layer normalisation between dequantize and quantize: an approximation each."""

from collections.abc import Callable, Mapping

import numpy as np
from xdsl.ir import Operation, SSAValue

from qvit.dialects.approximations import FUNCTION, LAYER_NORM, SOFTMAX
from qvit.dialects.approximations.base import (
    Built,
    Codes,
    FunctionApproximation,
    FunctionSpec,
    LayerNormApproximation,
    LayerNormSpec,
    RangeError,
    SoftmaxApproximation,
    SoftmaxSpec,
)
from qvit.dialects.attributes import RealAttr, ScaleAttr, ZeroPointAttr, float_value
from qvit.dialects.ops.approximated import IntFunctionOp, IntLayerNormOp, IntSoftmaxOp
from qvit.dialects.ops.elementwise import ErfOp, SigmoidOp, TanhOp
from qvit.dialects.ops.nonlinear import GeluOp, LayerNormOp, SoftmaxOp
from qvit.dialects.ops.products import MatmulOp, ShiftMatmulOp
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp, RequantizeOp
from qvit.dialects.provenance import describe
from qvit.dialects.semantics.integers import Array, Int64, IntType, minus, widen
from qvit.dialects.semantics.products import LOG_FRACTION
from qvit.dialects.types import element_of, integer_element, integer_of, shape_of
from qvit.dialects.weights import Weights
from qvit.transforms.integer.rules import (
    IntegerRule,
    IntegerSession,
    build_first,
    codes_of,
    constants,
    dequantized,
    tables_of,
    to_wanted,
)
from qvit.transforms.requant.multipliers import pot_shift
from qvit.transforms.rule import Declined, Rewrite, require

_LATE = {name: kind for name, kind in SOFTMAX.items() if kind.late}
_LOGARITHMIC = {name: kind for name, kind in SOFTMAX.items() if kind.logarithmic}
_LINEAR = {name: kind for name, kind in SOFTMAX.items() if name not in _LATE and name not in _LOGARITHMIC}
"""Which approximations make probabilities that any quantizer can stand behind."""


def _asked(op: SoftmaxOp, session: IntegerSession, known: Mapping[str, object]) -> list[str]:
    """Those of `known` that are asked for."""
    return [name for name in session.asked.names(session.asked.softmax, op, SOFTMAX) if name in known]


def _softmax(
    op: SoftmaxOp, session: IntegerSession, known: Mapping[str, type[SoftmaxApproximation]], output: QuantizeOp | None
) -> tuple[DequantizeOp, Built]:
    """The scores' dequantize and an approximation of those `known`; output: the quantizer behind, where there is one."""
    scores = dequantized(op.input, "scores")
    shape = shape_of(op.input)
    require(
        op.axis.value.data == len(shape) - 1, f"softmax along axis {op.axis.value.data} of {shape}: expected the last"
    )
    codes = codes_of(scores.params, scores.input, session.weights, "scores")
    wanted = None if output is None else codes_of(output.params, output.result, session.weights, "the result")
    asked = session.asked

    def build(kind: type[SoftmaxApproximation]) -> Built:
        built = kind.build(SoftmaxSpec(codes, shape[-1], wanted))
        approximation = built.approximation
        assert isinstance(approximation, SoftmaxApproximation)
        if not asked.unchecked:
            approximation.check((codes.type.lo, codes.type.hi), shape[-1], tables_of(built))
        return built

    names = _asked(op, session, known)
    asked_for = ", ".join(asked.names(asked.softmax, op, SOFTMAX))
    require(names, f"its probabilities are quantized, and none of {asked_for} divides in front of the product")
    name, built = build_first(names, known, build)
    session.chosen[describe(op)] = name
    return scores, built


def _attention(op: Operation) -> tuple[MatmulOp, SoftmaxOp] | None:
    """(product, softmax) of q(softmax(s) v)"""
    if not isinstance(op, QuantizeOp) or not isinstance(product := op.input.owner, MatmulOp):
        return None
    return (product, softmax) if isinstance(softmax := product.lhs.owner, SoftmaxOp) else None


def _int_softmax(scores: DequantizeOp, built: Built, mask: SSAValue | None) -> tuple[list[Operation], IntSoftmaxOp]:
    tables = constants(built)
    op = IntSoftmaxOp(
        scores.input, built.approximation, [t.result for t in tables], [integer_element(r) for r in built.results], mask
    )
    return [*tables, op], op


class Softmax(IntegerRule):
    """q(softmax(dq(x))) => int_softmax(x), requantized to q's codes. bounded."""

    name = "softmax"

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, QuantizeOp) or not isinstance(softmax := op.input.owner, SoftmaxOp):
            return None
        session = self.session(op)
        scores, built = _softmax(softmax, session, _LINEAR, op)
        new, integer = _int_softmax(scores, built, softmax.mask)
        return Rewrite([*new, *to_wanted(integer.outputs[0], built, op, session.weights)], [scores, softmax])


class LateSoftmax(IntegerRule):
    """q(softmax(dq(x)) dq(v)) => requantize(weights v, divided by the rows' sums), weights and sums by int_softmax. bounded."""

    name = "late-softmax"

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, QuantizeOp) or (found := _attention(op)) is None:
            return None
        (product, softmax), session = found, self.session(op)
        if not _asked(softmax, session, _LATE):
            asked_for = ", ".join(session.asked.names(session.asked.softmax, softmax, SOFTMAX))
            require(
                _asked(softmax, session, _LOGARITHMIC),
                f"its probabilities are not quantized, and none of {asked_for} divides behind the product",
            )
            return None
        values = dequantized(product.rhs, "values")
        codes = codes_of(values.params, values.input, session.weights, "values")
        scores, built = _softmax(softmax, session, _LATE, None)
        largest = max(abs(codes.type.lo - codes.zero_point), abs(codes.type.hi - codes.zero_point))
        reach = shape_of(product.lhs)[-1] * built.results[0].hi * largest
        accumulator = IntType(32)
        require(
            reach <= accumulator.hi, f"the accumulator could overflow: sums reach {reach}, i32 ends at {accumulator.hi}"
        )
        new, integer = _int_softmax(scores, built, softmax.mask)
        late, sums = integer.outputs
        integer_product = MatmulOp(late, values.input, (0, values.params.zero_point), integer_element(accumulator))
        scale = ScaleAttr.of(float_value(built.scale)).times(*values.params.scale.above, over=values.params.scale.below)
        requantize = RequantizeOp(
            integer_product.result,
            RealAttr(scale.times(*op.params.scale.below, over=op.params.scale.above)),
            element_of(op.result),
            (ZeroPointAttr.of(0), op.params.zero_point),
            None,
            op.rounding.data,
            divisor=sums,
        )
        return Rewrite([*new, integer_product, requantize], [scores, softmax, values, product])


class LogarithmicAttention(IntegerRule):
    """q(softmax(dq(x)) dq(v)) => requantize(shift_matmul(codes, v)), codes of powers of two by int_softmax. bounded."""

    name = "logarithmic-attention"

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, QuantizeOp) or (found := _attention(op)) is None:
            return None
        (product, softmax), session = found, self.session(op)
        if not _asked(softmax, session, _LOGARITHMIC):
            return None
        values = dequantized(product.rhs, "values")
        codes = codes_of(values.params, values.input, session.weights, "values")
        scores, built = _softmax(softmax, session, _LOGARITHMIC, None)
        largest = max(abs(codes.type.lo - codes.zero_point), abs(codes.type.hi - codes.zero_point))
        reach = (3 * largest) << (LOG_FRACTION - 1)  # the powers of a row sum to at most 3/2
        accumulator = IntType(32 if reach <= IntType(32).hi else 64)
        new, integer = _int_softmax(scores, built, softmax.mask)
        shifted = ShiftMatmulOp(
            integer.outputs[0], values.input, values.params.zero_point, integer_element(accumulator)
        )
        scale = values.params.scale.times(float_value(built.scale), float_value(2.0**-LOG_FRACTION))
        requantize = RequantizeOp(
            shifted.result,
            RealAttr(scale.times(*op.params.scale.below, over=op.params.scale.above)),
            element_of(op.result),
            (ZeroPointAttr.of(0), op.params.zero_point),
            None,
            op.rounding.data,
        )
        return Rewrite([*new, shifted, requantize], [scores, softmax, values, product])


NAMES: dict[type[Operation], Callable[[Operation], str]] = {
    GeluOp: lambda op: "gelu_tanh" if isinstance(op, GeluOp) and op.tanh is not None else "gelu",
    SigmoidOp: lambda _: "sigmoid",
    TanhOp: lambda _: "tanh",
    ErfOp: lambda _: "erf",
}
"""Elementwise functions, as `dialects/approximations/functions.py` calls them."""


class Function(IntegerRule):
    """q(f(dq(x))) => int_function(x), requantized to q's codes; f a GELU, sigmoid, tanh or erf. bounded."""

    name = "function"

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, QuantizeOp) or not isinstance(made := op.input.owner, Operation):
            return None
        if (naming := NAMES.get(type(made))) is None:
            return None
        session = self.session(op)
        operand = dequantized(made.operands[0], "operand")
        weights, asked, function = session.weights, session.asked, naming(made)
        spec = FunctionSpec(
            function,
            codes_of(operand.params, operand.input, weights, "operand"),
            codes_of(op.params, op.result, weights, "the result"),
        )

        def build(kind: type[FunctionApproximation]) -> Built:
            built = kind.build(spec)
            approximation, codes = built.approximation, spec.input
            assert isinstance(approximation, FunctionApproximation)
            offset = codes.zero_point if kind.centred else 0
            if not asked.unchecked:
                approximation.check((codes.type.lo - offset, codes.type.hi - offset), tables_of(built))
            return built

        name, built = build_first(asked.names(asked.function, made, FUNCTION), FUNCTION, build)
        session.chosen[describe(made)] = name
        tables = constants(built)
        offset = spec.input.zero_point if FUNCTION[name].centred else 0
        integer = IntFunctionOp(
            operand.input, built.approximation, [t.result for t in tables], integer_element(built.results[0]), offset
        )
        return Rewrite([*tables, integer, *to_wanted(integer.result, built, op, weights)], [operand, made])


def constant_array(value: SSAValue, weights: Weights) -> Array | None:
    """The real numbers of a constant, also of a dequantized one; None if `value` is not constant."""
    if not isinstance(dq := value.owner, DequantizeOp):
        array = weights.array(value)
        return None if array is None else array.astype(np.float64)
    codes = weights.array(dq.input)
    if codes is None or (dq.params.axis_index is not None and codes.ndim != 1):
        return None
    return minus(widen(codes), weights.zero_point(dq.params.zero_point)) * weights.scale(dq.params.scale)


def _normalised_codes(operand: DequantizeOp, last: int, weights: Weights) -> tuple[Codes, Int64 | None]:
    """(codes, factors): the scale of channel c is that of the codes times 2^factors[c]; without where it is one for all."""
    params = operand.params
    if params.axis_index is None:
        return codes_of(params, operand.input, weights, "operand"), None
    require(params.axis_index == last, f"operand has a scale along axis {params.axis_index}, expected the last or none")
    scales, zero_point, integer = weights.exact_scale(params.scale), params.zero_point.number, integer_of(operand.input)
    require(min(scales) > 0, f"operand has the scale {float(min(scales)):.6g}, expected positive numbers")
    require(zero_point is not None, "operand has a zero point for each channel, expected one")
    assert integer is not None
    shifts = [pot_shift(scale / min(scales)) for scale in scales]
    factors = [-shift for shift in shifts if shift is not None]
    require(len(factors) == len(scales), "operand has scales for its channels that differ by more than powers of two")
    return Codes(min(scales), zero_point or 0, integer), np.array(factors)


class LayerNorm(IntegerRule):
    """q(layer_norm(dq(x), gamma, beta)) => int_layer_norm(x), requantized to q's codes. bounded."""

    name = "layer-norm"

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, QuantizeOp) or not isinstance(norm := op.input.owner, LayerNormOp):
            return None
        session = self.session(op)
        operand = dequantized(norm.input, "operand")
        weights, asked, shape = session.weights, session.asked, shape_of(norm.input)
        require(norm.axis.value.data == len(shape) - 1, f"normalisation over more than the last axis of {shape}")
        gamma = constant_array(norm.gamma, weights)
        beta = np.zeros(shape[-1]) if norm.beta is None else constant_array(norm.beta, weights)
        if gamma is None or beta is None:
            raise Declined("gamma and beta must be constants")
        codes, factors = _normalised_codes(operand, len(shape) - 1, weights)
        output = codes_of(op.params, op.result, weights, "the result")
        spec = LayerNormSpec(gamma, beta, norm.epsilon.value.data, codes, output, factors)

        def build(kind: type[LayerNormApproximation]) -> Built:
            if factors is not None and not kind.takes_factors:
                raise RangeError("it takes one scale for all channels, and there is one for each")
            built = kind.build(spec)
            approximation = built.approximation
            assert isinstance(approximation, LayerNormApproximation)
            if not asked.unchecked:
                # the mean is subtracted, so codes may be taken relative to any of them
                approximation.check((codes.type.lo, codes.type.hi), shape[-1], tables_of(built))
            return built

        name, built = build_first(asked.names(asked.layer_norm, norm, LAYER_NORM), LAYER_NORM, build)
        session.chosen[describe(norm)] = name
        tables = constants(built)
        integer = IntLayerNormOp(
            operand.input, built.approximation, [t.result for t in tables], integer_element(built.results[0])
        )
        return Rewrite([*tables, integer, *to_wanted(integer.result, built, op, weights)], [operand, norm])


FUNCTIONS: tuple[type[IntegerRule], ...] = (Softmax, LateSoftmax, LogarithmicAttention, Function, LayerNorm)
"""The rules that approximate."""
