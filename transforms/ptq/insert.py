"""Writes quantize and dequantize operations into a float module, with scales from statistics."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import BlockArgument, Operation, SSAValue, Use
from xdsl.rewriter import InsertPoint, Rewriter

from qvit.dialects.attributes import QParamsAttr, ScaleAttr, float_value
from qvit.dialects.ops.nonlinear import SoftmaxOp
from qvit.dialects.ops.products import Conv2dOp, LinearOp, MatmulOp
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import describe, set_sources, sources
from qvit.dialects.semantics.integers import Array, IntType, Rounding
from qvit.dialects.semantics.quantization import quantize
from qvit.dialects.types import element_of, integer_element, is_float, shape_of
from qvit.dialects.weights import Weights
from qvit.transforms.ptq.observers import Choice, Quantizer, choose
from qvit.transforms.ptq.scheme import Quantization
from qvit.transforms.ptq.sites import (
    MOVES,
    Role,
    Site,
    channels,
    find_sites,
    heads_of,
    mean_of,
    role,
    same_rows,
    sums,
    use_role,
)
from qvit.transforms.ptq.statistics import Statistics, joined, of_constant
from qvit.transforms.ptq.weights import WeightCodes, WeightQuantizer, quantize_weights


@dataclass(frozen=True)
class TensorChoice:
    """What was chosen for a tensor. low, high: what was seen of it.

    octaves: how far the scale moved to a power of two; factors: the scale of channel c is scale 2^factors[c].
    """

    src: str
    role: Role
    bits: int
    signed: bool
    scale: float
    zero_point: int
    low: float
    high: float
    octaves: float
    factors: tuple[int, ...] = ()


@dataclass(frozen=True)
class WeightChoice:
    """What was chosen for the weights of a layer. sqnr: of the weights, in dB; octaves: how far scales moved, one each.

    nearest_error, error: of the layer's output, where powers of two were chosen by it; away: how many of the scales are not
    the nearest powers of two.
    """

    src: str
    bits: int
    channels: int
    sqnr: float
    octaves: tuple[float, ...]
    nearest_error: float
    error: float
    away: int = 0


@dataclass(frozen=True)
class LayerBits:
    """The bits of a layer's weights, and the error of its output with few and with many, relative to its power."""

    src: str
    macs: int
    bits: int
    narrow_error: float
    wide_error: float


@dataclass(frozen=True)
class MixedChoice:
    """Which layers got wider weights (`mixed.py`).

    layers: those that could; cost: multiply-accumulates times bits over those of narrow weights everywhere, at most `budget`;
    coarse, fitness: of the choice before and after the fine search, the smaller the better; history: the best one's after
    each generation.
    """

    layers: tuple[LayerBits, ...]
    budget: float
    cost: float
    coarse: float
    fitness: float
    history: tuple[float, ...]
    evaluations: int


@dataclass
class Choices:
    """All that was chosen."""

    tensors: list[TensorChoice] = field(default_factory=list[TensorChoice])
    weights: list[WeightChoice] = field(default_factory=list[WeightChoice])
    mixed: MixedChoice | None = None


StatisticsOf = Callable[[SSAValue], Statistics]


def insert(
    module: ModuleOp,
    function: FuncOp,
    quantization: Quantization,
    statistics: Mapping[SSAValue, Statistics],
    chosen: Mapping[Operation, WeightQuantizer] | None = None,
) -> Choices:
    """Quantize every site and every weight of `function`, in place. statistics: of every producer of a site.

    chosen: the quantizers of single layers' weights, in the place of those that `quantization` has for them.
    """
    weights, choices = Weights(module), Choices()

    def statistics_of(value: SSAValue) -> Statistics:
        array = weights.array(value)
        return statistics[value] if array is None else of_constant(array)

    ends = end_layers(function) if quantization.ends else set[Operation]()
    for site in find_sites(function):
        _quantize_site(site, quantization, statistics_of, weights, choices, ends)
    for op in list(function.walk()):
        if isinstance(op, LinearOp | Conv2dOp) and is_float(element_of(op.weight)):
            quantizer = (chosen or {}).get(op) or quantization.weight_quantizer(sources(op))
            if op in ends:
                quantizer = replace(quantizer, bits=max(quantizer.bits, quantization.ends))
            _quantize_layer(op, quantizer, weights, choices, statistics)
    return choices


def end_layers(function: FuncOp) -> set[Operation]:
    """Layers that take the model's input, or whose result the caller gets, but for operations that move elements."""
    found: set[Operation] = set()
    for op in function.walk():
        if not isinstance(op, LinearOp | Conv2dOp):
            continue
        value = op.input
        while isinstance(value.owner, MOVES):
            value = value.owner.operands[0]
        behind = [op.result]
        for result in behind:  # grows while it is walked
            behind += [r for use in result.uses if isinstance(use.operation, MOVES) for r in use.operation.results]
        if isinstance(value, BlockArgument) or any(isinstance(u.operation, ReturnOp) for r in behind for u in r.uses):
            found.add(op)
    return found


def _names(values: Sequence[SSAValue]) -> list[str]:
    return [name for v in values for name in (sources(v.owner) if isinstance(v.owner, Operation) else ("input",))]


def _quantize_site(
    site: Site,
    quantization: Quantization,
    statistics_of: StatisticsOf,
    weights: Weights,
    choices: Choices,
    ends: Set[Operation],
) -> None:
    made = [*site.producers, *site.constants]
    main = role(site)
    quantizer = quantization.quantizer(main, _names(made))
    raw = quantization.raw_scores and main is Role.SCORES and all(sums(p) for p in site.producers)
    if quantizer is None or raw:
        return
    if any(use.operation in ends for use in site.uses):
        quantizer = replace(quantizer, bits=max(quantizer.bits, quantization.ends))
    seen = joined([statistics_of(value) for value in made])
    narrower = _narrower(site, quantizer, quantization, ends)
    choice = choose(seen, quantizer)
    if quantizer.channel_factors and channels(site) and seen.sample_rows.size:
        choice = choice.by_channels(seen.sample_rows, quantizer.type)
    if quantizer.power_of_two and (count := mean_of(site)):
        choice = choice.of_mean(count)
    choices.tensors.append(_tensor_choice(site, main, quantizer, choice, seen))
    codes, rounding = quantizer.type, quantization.rounding
    of_heads = _of_heads(site, seen, quantizer) if quantization.per_head and _scales_pass(site, quantization) else None
    for value in site.producers:
        _behind(value, of_heads or _params(value, choice), codes, rounding)
    for value in site.constants:
        _constant(value, _params(value, choice), codes, rounding, weights)
    for use, its_role, its in narrower:
        its_choice = choose(seen, its)
        choices.tensors.append(_tensor_choice(site, its_role, its, its_choice, seen))
        _in_front(use, QParamsAttr.of(its_choice.scale, its_choice.zero_point), its.type, rounding)


def _scales_pass(site: Site, quantization: Quantization) -> bool:
    """Whether scales of heads reach a requantize: those of values do not where a softmax divides behind the product."""
    if role(site) is not Role.ATTENTION:
        return False
    values = any(
        use.index == 1 and isinstance(use.operation, MatmulOp) and isinstance(use.operation.lhs.owner, SoftmaxOp)
        for use in site.uses
    )
    return not values or Role.PROBABILITIES in quantization.roles


def _of_heads(site: Site, seen: Statistics, quantizer: Quantizer) -> QParamsAttr | None:
    """A scale for each head, along the last axis of what the layers make; None where there are none."""
    heads = heads_of(site)
    if heads is None or not quantizer.symmetric or not seen.sample_rows.size:
        return None
    size = seen.sample_rows.shape[1] // heads
    scales: list[float] = []
    for head in range(heads):
        mine = slice(head * size, (head + 1) * size)
        low, high = float(seen.channel_low[mine].min()), float(seen.channel_high[mine].max())
        scales.append(
            choose(replace(seen, low=low, high=high, sample=seen.sample_rows[:, mine].ravel()), quantizer).scale
        )
    return QParamsAttr.of(np.repeat(np.array(scales, np.float32), size), 0, len(shape_of(site.producers[0])) - 1)


def _params(value: SSAValue, choice: Choice) -> QParamsAttr:
    """Of one scale, or one for each channel along the last axis."""
    if choice.factors is None:
        over = [float_value(float(choice.over))]
        return QParamsAttr.of(ScaleAttr.of(float_value(choice.scale), over=over), choice.zero_point)
    scales = np.ldexp(np.float32(choice.scale), choice.factors)
    return QParamsAttr.of(scales.astype(np.float32), choice.zero_point, len(shape_of(value)) - 1)


def _narrower(
    site: Site, quantizer: Quantizer, quantization: Quantization, ends: Set[Operation]
) -> list[tuple[Use, Role, Quantizer]]:
    """Uses that take fewer bits than the site's codes have: they are requantized in front of them."""
    found: list[tuple[Use, Role, Quantizer]] = []
    for use in site.uses:
        if (its_role := use_role(site, use)) is None:
            continue
        its = quantization.quantizer(its_role, _names([*site.producers, *site.constants]))
        if its is not None and use.operation in ends:
            its = replace(its, bits=max(its.bits, quantization.ends))
        if its is not None and its.bits < quantizer.bits:
            found.append((use, its_role, its))
    return found


def _tensor_choice(site: Site, role: Role, quantizer: Quantizer, choice: Choice, seen: Statistics) -> TensorChoice:
    codes = quantizer.type
    numbers = (choice.real_scale, choice.zero_point, seen.low, seen.high, choice.octaves)
    factors = () if choice.factors is None else tuple(choice.factors.tolist())
    return TensorChoice(site.name, role, codes.bits, codes.signed, *numbers, factors)


def _pair(value: SSAValue, params: QParamsAttr, codes: IntType, rounding: Rounding) -> tuple[QuantizeOp, DequantizeOp]:
    q = QuantizeOp(value, params, integer_element(codes), rounding)
    dq = DequantizeOp(q.result, params, element_of(value))
    if isinstance(value.owner, Operation):
        for op in (q, dq):
            set_sources(op, sources(value.owner))
    return q, dq


def _behind(value: SSAValue, params: QParamsAttr, codes: IntType, rounding: Rounding) -> None:
    """value => dq(q(value)) for all its users."""
    q, dq = _pair(value, params, codes, rounding)
    owner = value.owner
    point = InsertPoint.after(owner) if isinstance(owner, Operation) else InsertPoint.at_start(owner)
    value.replace_uses_with_if(dq.result, lambda use: use.operation is not q)
    Rewriter.insert_op([q, dq], point)


def _in_front(use: Use, params: QParamsAttr, codes: IntType, rounding: Rounding) -> None:
    """op(x) => op(dq(q(x)))."""
    q, dq = _pair(use.operation.operands[use.index], params, codes, rounding)
    Rewriter.insert_op([q, dq], InsertPoint.before(use.operation))
    use.operation.operands[use.index] = dq.result


def _constant(value: SSAValue, params: QParamsAttr, codes: IntType, rounding: Rounding, weights: Weights) -> None:
    """A constant's codes, dequantized."""
    array = weights.array(value)
    assert array is not None
    scale, zero = weights.scale(params.scale), weights.zero_point(params.zero_point)
    made = quantize(array.astype(np.float64), scale, zero, rounding, codes)
    _replace_constant(value, made, params, codes)


def _replace_constant(value: SSAValue, codes: Array, params: QParamsAttr, type: IntType) -> None:
    assert isinstance(value.owner, Operation)
    constant = ConstantOp(codes, integer_element(type))
    dq = DequantizeOp(constant.result, params, element_of(value))
    for op in (constant, dq):
        set_sources(op, sources(value.owner))
    Rewriter.replace_op(value.owner, [constant, dq])


def _quantize_layer(
    op: LinearOp | Conv2dOp,
    quantizer: WeightQuantizer,
    weights: Weights,
    choices: Choices,
    statistics: Mapping[SSAValue, Statistics],
) -> None:
    array = weights.array(op.weight)
    if array is None:
        return
    gram = second_moments(op, statistics) if quantizer.needs_gram else None
    count = _mean_in_front(op, weights) if quantizer.power_of_two else 1
    made = quantize_weights(array, quantizer, gram, count)
    choices.weights.append(_weight_choice(op, array, made, quantizer.bits))
    op.operands[1] = dequantized_weights(op, made, quantizer.type)


def _mean_in_front(op: LinearOp | Conv2dOp, weights: Weights) -> int:
    """The odd n of an input whose scale is a power of two over n: of weights in units of n, the product's is one again."""
    value = op.input
    while isinstance(move := value.owner, MOVES):
        value = move.operands[0]
    if not isinstance(dq := value.owner, DequantizeOp) or dq.params.axis_index is not None:
        return 1
    (scale,) = weights.exact_scale(dq.params.scale)
    return scale.denominator // (scale.denominator & -scale.denominator) if scale > 0 else 1


def dequantized_weights(op: LinearOp | Conv2dOp, made: WeightCodes, codes: IntType) -> SSAValue:
    """Codes of the layer's weights, dequantized in front of it."""
    axis = 0 if made.scale.ndim else None
    constant = ConstantOp(made.codes, integer_element(codes))
    dq = DequantizeOp(constant.result, QParamsAttr.of(made.scale if axis == 0 else float(made.scale), 0, axis))
    if isinstance(op.weight.owner, Operation):
        for new in (constant, dq):
            set_sources(new, sources(op.weight.owner))
    Rewriter.insert_op([constant, dq], InsertPoint.before(op))
    return dq.result


def second_moments(op: LinearOp | Conv2dOp, statistics: Mapping[SSAValue, Statistics]) -> Array | None:
    """The second moments [K, K] of a linear layer's input, where they were gathered."""
    found = statistics.get(same_rows(op.input)) if isinstance(op, LinearOp) else None
    return found.gram if found is not None and found.gram.size else None


def _weight_choice(op: LinearOp | Conv2dOp, array: Array, made: WeightCodes, bits: int) -> WeightChoice:
    noise = float(((array - made.real()) ** 2).sum())
    power = float((array.astype(np.float64) ** 2).sum())
    sqnr = 10 * np.log10(power / noise) if noise and power else np.inf
    octaves = np.log2(np.atleast_1d(made.scale / made.ideal))
    moved = tuple(float(v) for v in octaves) if np.any(octaves) else ()
    errors = (made.nearest_error, made.error, made.away)
    return WeightChoice(describe(op), bits, made.scale.size, float(sqnr), moved, *errors)
