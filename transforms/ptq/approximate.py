"""Which approximation each operation takes: the one with the least error on rows that the samples gave (IPTQ-ViT).

IPTQ-ViT chooses layer by layer by a metric of sensitivity, perturbation and cost, whose exact form is not published. Here it
is the signal-to-noise ratio of the operation's codes, and within half a decibel the one that is named first: name the
cheaper ones first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from qvit.dialects.approximations import FUNCTION, LAYER_NORM, SOFTMAX
from qvit.dialects.approximations.base import (
    Approximation,
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
from qvit.dialects.approximations.functions import FUNCTIONS
from qvit.dialects.ops.nonlinear import LayerNormOp, SoftmaxOp
from qvit.dialects.ops.quantization import QuantizeOp
from qvit.dialects.provenance import describe
from qvit.dialects.semantics.integers import Array, Rounding, widen
from qvit.dialects.semantics.nonlinear import layer_norm, softmax
from qvit.dialects.semantics.quantization import quantize
from qvit.dialects.weights import Weights
from qvit.transforms.integer.functions import NAMES, constant_array
from qvit.transforms.integer.rules import codes_of, dequantized, tables_of
from qvit.transforms.rule import Declined

NEAR = 0.5  # dB
Rows = Callable[[str], Array | None]
"""What was seen of the tensor that a source node makes: float rows [R, N], or None."""


@dataclass(frozen=True)
class LayerChoice:
    """What was chosen for an operation, and the signal-to-noise ratio in dB of each candidate that could be built."""

    src: str
    chosen: str
    scores: Mapping[str, float]


def choose_approximations(module: ModuleOp, rows: Rows, candidates: Sequence[str]) -> list[LayerChoice]:
    """For every softmax, function and normalisation between dequantize and quantize that has more than one candidate."""
    weights, choices = Weights(module), list[LayerChoice]()
    for op in module.walk():
        if not isinstance(op, QuantizeOp) or not isinstance(made := op.input.owner, Operation):
            continue
        known = _family(made)
        names = [name for name in candidates if name in known]
        if len(names) < 2:
            continue
        try:
            layer = _Layer.of(made, op, rows, weights)
        except Declined:
            continue  # integerize says why
        if layer is None:
            continue
        scores: dict[str, float] = {}
        for name in names:
            try:
                scores[name] = layer.score(known[name])
            except (RangeError, OverflowError):
                continue
        if scores:
            best = max(scores.values())
            chosen = next(name for name in scores if scores[name] >= best - NEAR)
            choices.append(LayerChoice(describe(made), chosen, scores))
    return choices


def _family(op: Operation) -> Mapping[str, type[Approximation]]:
    if isinstance(op, SoftmaxOp):
        return SOFTMAX
    if isinstance(op, LayerNormOp):
        return LAYER_NORM
    return FUNCTION if type(op) in NAMES else {}


@dataclass(frozen=True)
class _Layer:
    """An operation with rows of its operand in float, their codes, and what it should give."""

    op: Operation
    rows: Array
    x: Codes
    y: Codes
    expected: Array
    gamma: Array | None = None
    beta: Array | None = None

    @staticmethod
    def of(op: Operation, behind: QuantizeOp, rows: Rows, weights: Weights) -> "_Layer | None":
        dq = dequantized(op.operands[0], "operand")
        seen = rows(describe(dq))
        if seen is None or not seen.size:
            return None
        x = codes_of(dq.params, dq.input, weights, "operand")
        y = codes_of(behind.params, behind.result, weights, "the result")
        wide = seen.astype(np.float64)
        if isinstance(op, SoftmaxOp):
            return _Layer(op, wide, x, y, softmax(wide, -1))
        if not isinstance(op, LayerNormOp):
            return _Layer(op, wide, x, y, FUNCTIONS[NAMES[type(op)](op)](wide))
        gamma = constant_array(op.gamma, weights)
        beta = np.zeros(wide.shape[-1]) if op.beta is None else constant_array(op.beta, weights)
        if gamma is None or beta is None:
            return None
        return _Layer(op, wide, x, y, layer_norm(wide, gamma, beta, op.epsilon.value.data, 1), gamma, beta)

    def score(self, kind: type[Approximation]) -> float:
        """The signal-to-noise ratio in dB; RangeError where the approximation cannot be built, or is not sound here."""
        codes = widen(_codes(self.rows, self.x))
        interval, length = (self.x.type.lo, self.x.type.hi), self.rows.shape[-1]
        if issubclass(kind, SoftmaxApproximation):
            built = kind.build(SoftmaxSpec(self.x, length, self.y))
            softmax_ = built.approximation
            assert isinstance(softmax_, SoftmaxApproximation)
            softmax_.check(interval, length, tables_of(built))
            found = softmax_.apply(codes, _tables(built), None, built.results)[0]
        elif issubclass(kind, FunctionApproximation):
            assert type(self.op) in NAMES
            built = kind.build(FunctionSpec(NAMES[type(self.op)](self.op), self.x, self.y))
            function, offset = built.approximation, self.x.zero_point if kind.centred else 0
            assert isinstance(function, FunctionApproximation)
            function.check((interval[0] - offset, interval[1] - offset), tables_of(built))
            found = function.apply(codes - offset, _tables(built), built.results[0])
        else:
            assert issubclass(kind, LayerNormApproximation)
            assert self.gamma is not None
            assert self.beta is not None
            assert isinstance(self.op, LayerNormOp)
            spec = LayerNormSpec(self.gamma, self.beta, self.op.epsilon.value.data, self.x, self.y)
            built = kind.build(spec)
            norm = built.approximation
            assert isinstance(norm, LayerNormApproximation)
            norm.check(interval, length, tables_of(built))
            found = norm.apply(codes, _tables(built), built.results[0])
        real = (widen(found) - built.zero_point) * built.scale
        wanted = (widen(_codes(real, self.y)) - self.y.zero_point) * float(self.y.scale)
        noise = float(((wanted - self.expected) ** 2).sum())
        return float(10 * np.log10(float((self.expected**2).sum()) / noise)) if noise else float("inf")


def _tables(built: Built) -> list[Array]:
    return [np.asarray(array) for array in tables_of(built)]


def _codes(x: Array, codes: Codes) -> Array:
    return quantize(x, np.array(float(codes.scale)), np.array(codes.zero_point), Rounding.HALF_EVEN, codes.type)
