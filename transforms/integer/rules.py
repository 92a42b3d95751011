"""What the rules of --integerize share: the approximations that were asked for, codes, and the operations that follow."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TypeVar

import numpy as np
from xdsl.ir import Operation, SSAValue

from qvit.dialects.approximations.base import Approximation, Built, Codes, RangeError
from qvit.dialects.attributes import QParamsAttr, RealAttr, ScaleAttr, ZeroPointAttr, float_value
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp, RequantizeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import describe, sources
from qvit.dialects.semantics.integers import Array
from qvit.dialects.types import element_of, integer_element, integer_of
from qvit.dialects.weights import Weights
from qvit.transforms.rule import Declined, Exactness, Rule, Session, require

KindT = TypeVar("KindT", bound=Approximation)


@dataclass(frozen=True)
class Asked:
    """Which approximations to take, first to last: the first whose conditions hold. `unchecked`: whether they hold or not."""

    softmax: tuple[str, ...] = ("sm8-late", "sw")
    function: tuple[str, ...] = ("table", "quad", "lin")
    layer_norm: tuple[str, ...] = ("ln",)
    unchecked: bool = False
    round_each: bool = False
    """Whether additions round both operands (I-ViT), not their sum."""
    layers: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Other approximations for single operations, by a pattern of source node names."""

    def names(self, family: tuple[str, ...], op: Operation, known: Mapping[str, object]) -> tuple[str, ...]:
        """For one operation: of its layer where that names some of its family, else of the family."""
        for pattern, names in self.layers.items():
            mine = tuple(name for name in names if name in known)
            if mine and any(fnmatchcase(source, pattern) for source in sources(op)):
                return mine
        return family


@dataclass
class IntegerSession(Session):
    """A session, with what was asked for, and which approximation each operation took."""

    asked: Asked = field(default_factory=Asked)
    chosen: dict[str, str] = field(default_factory=dict[str, str])


class IntegerRule(Rule):
    """A rule of --integerize. What approximates is `bounded`: docs/approximations.md has the errors."""

    exactness = Exactness.BOUNDED

    def session(self, op: Operation) -> IntegerSession:
        return self._session if isinstance(self._session, IntegerSession) else IntegerSession(Weights.of(op))


def dequantized(value: SSAValue, operand: str) -> DequantizeOp:
    """The dequantize that makes an operand; Declined says what makes it instead."""
    owner = value.owner
    if isinstance(owner, DequantizeOp):
        return owner
    made = (
        f"made by {owner.name} at {describe(owner)}" if isinstance(owner, Operation) else "an argument of the function"
    )
    raise Declined(f"operand not quantized: {operand} is {made}; calibrate it, or give it a quantizer")


def codes_of(params: QParamsAttr, codes: SSAValue, weights: Weights, operand: str) -> Codes:
    """One scale and zero point for a whole tensor; Declined where they vary."""
    require(params.axis_index is None, f"{operand} has a scale along axis {params.axis_index}, one number is needed")
    (scale,) = weights.exact_scale(params.scale)
    require(scale > 0, f"{operand} has the scale {float(scale):.6g}, expected a positive number")
    zero_point = params.zero_point.number
    integer = integer_of(codes)
    assert zero_point is not None
    assert integer is not None
    return Codes(scale, zero_point, integer)


def build_first(
    names: Sequence[str], known: Mapping[str, type[KindT]], build: Callable[[type[KindT]], Built]
) -> tuple[str, Built]:
    """The first of several approximations that can be built and whose conditions hold; Declined has every reason."""
    reasons: list[str] = []
    for name in names:
        if name not in known:
            reasons.append(f"{name} is none of {', '.join(known)}")
            continue
        try:
            return name, build(known[name])
        except RangeError as error:
            reasons.append(f"{name}: {error}")
    raise Declined("; ".join(reasons))


def constants(built: Built) -> list[ConstantOp]:
    """The tables of an approximation."""
    return [ConstantOp(np.asarray(array), integer_element(codes)) for array, codes in built.tables]


def tables_of(built: Built) -> list[Array]:
    return [array for array, _ in built.tables]


def to_wanted(value: SSAValue, built: Built, quantize: QuantizeOp, weights: Weights) -> list[Operation]:
    """From the codes that an approximation gives to those that are wanted: nothing, or a requantize."""
    wanted = weights.scale(quantize.params.scale)
    zero_point = quantize.params.zero_point
    same = built.scale.ndim == 0 and float(built.scale) == float(wanted) and zero_point.number == built.zero_point
    if same and built.results[0] == integer_of(quantize.result):
        return []
    axis = None if built.scale.ndim == 0 else len(quantize.result.type.get_shape()) - 1
    factor = ScaleAttr.of(float_value(built.scale)).times(
        *quantize.params.scale.below, over=quantize.params.scale.above
    )
    before = ZeroPointAttr.of(built.zero_point)
    form, result = RealAttr(factor), element_of(quantize.result)
    return [RequantizeOp(value, form, result, (before, zero_point), axis, quantize.rounding.data)]
