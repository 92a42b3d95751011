"""What qvit-compile did, as data: scales, errors against float, approximations, widths and sizes."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import log10, prod
from typing import Any, cast

import numpy as np
from xdsl.dialects.builtin import ArrayAttr, ModuleOp
from xdsl.ir import Attribute, Operation, ParametrizedAttribute, SSAValue
from xdsl.utils.hints import isa

from qvit.backends.interpreter import find_function, input_names, run, run_model
from qvit.dialects.attributes import Dense, WeightRefAttr
from qvit.dialects.ops.quantization import QuantizeOp
from qvit.dialects.ops.weights import ConstantOp, WeightOp
from qvit.dialects.provenance import Remark
from qvit.dialects.semantics.integers import Array, IntType
from qvit.dialects.semantics.quantization import along, dequantize
from qvit.dialects.types import int_type, integer_of, shape_of
from qvit.dialects.weights import Weights
from qvit.tools.compiler import Compiled
from qvit.tools.page.codes import Codes, stated
from qvit.tools.quantizers import Place, places, quantizer_name
from qvit.transforms.integerize import IntegerReport
from qvit.transforms.lower_requant import Report as RequantReport
from qvit.transforms.pipelines import Scheme
from qvit.transforms.ptq.approximate import LayerChoice
from qvit.transforms.ptq.insert import MixedChoice, TensorChoice, WeightChoice
from qvit.transforms.range_analysis import RangeReport
from qvit.transforms.ranges.interval import Quantity
from qvit.transforms.statistics import operation_kinds

NO_ERROR = 300.0
"""The SQNR of what has no error at all, in dB: far above what 64-bit floats can tell."""


@dataclass(frozen=True)
class TensorLine:
    """A tensor and its codes.

    role: what the codes are for; scale, zero_point: of each channel where they vary; low, high: what the samples showed;
    used: the share of the codes' range that lies between these, above 1 where it was cut; saturated: the share of the
    compared samples' numbers that no code reaches; octaves: how far the scale moved to become a power of two; sqnr: of the
    integer program's codes against the float model, in dB. None: not known.
    """

    src: str
    role: str
    bits: int
    signed: bool
    scale: float | list[float]
    zero_point: int | list[int]
    low: float | None
    high: float | None
    used: float | None
    saturated: float | None
    octaves: float | None
    sqnr: float | None


@dataclass(frozen=True)
class WeightLine:
    """The weights of a layer. octaves: the least and the most that their scales moved; errors, away: see WeightChoice."""

    src: str
    bits: int
    channels: int
    sqnr: float
    octaves: tuple[float, float] | None
    nearest_error: float
    error: float
    away: int


@dataclass(frozen=True)
class SampleFacts:
    """The samples that the model was calibrated on."""

    what: str
    count: int
    batches: int


@dataclass(frozen=True)
class Sizes:
    """Bytes of the constants: of the model in 32-bit floats, of the integer program tightly packed, of the vectors in its
    requantize operations."""

    float: int
    integer: int
    requantize: int


@dataclass(frozen=True)
class CompileReport:
    """All of it. candidates: of operations that had a choice, with the dB of each; left: what stays in float, and why. Equal
    inputs and settings give equal reports."""

    tool: str
    version: str
    model: str
    sha256: str
    scheme: str
    summary: str
    passes: list[str]
    settings: Mapping[str, Any]
    samples: SampleFacts | None
    warnings: list[str]
    outputs: Mapping[str, float | None]
    tensors: list[TensorLine]
    weights: list[WeightLine]
    mixed: MixedChoice | None
    approximations: Mapping[str, str]
    candidates: list[LayerChoice]
    left: list[Remark]
    accumulators: list[Quantity]
    requantize: Mapping[str, Mapping[str, int]]
    operations: Mapping[str, int]
    sizes: Sizes

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @property
    def worst(self) -> list[TensorLine]:
        """The compared tensors, those with the least SQNR first."""
        compared = [line for line in self.tensors if line.sqnr is not None]
        return sorted(compared, key=lambda line: line.sqnr or 0.0)

    @property
    def widest(self) -> Quantity | None:
        """The accumulator that needs most bits."""
        return max(self.accumulators, key=lambda q: q.bits, default=None)

    def text(self) -> str:
        """A short summary for people."""
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        lines = [
            ("model", f"{self.model} (SHA-256 {self.sha256[:12]}…)"),
            ("scheme", f"{self.scheme}: {self.summary}"),
            ("settings", settings),
            ("samples", self.samples.what if self.samples else "none: the model has its scales"),
            ("in float", f"{len(self.left)} operations of @main"),
            ("approximations", counted(self.approximations.values())),
            ("requantize", ", ".join(f"{n} {form}" for form, n in self.requantize["form"].items()) or "none"),
        ]
        if self.widest is not None:
            widest = self.widest
            lines.append(("accumulators", f"at most {widest.bits} bits of {widest.type}, at {widest.src}"))
        sizes = self.sizes
        lines.append(("weights", f"{size(sizes.float)} in float, {size(sizes.integer)} in integers"))
        lines += self._powers()
        lines += [("output", f"{name}: {decibel(sqnr)} against float") for name, sqnr in self.outputs.items()]
        lines += [("least SQNR", f"{decibel(line.sqnr)} at {line.src} ({line.role})") for line in self.worst[:3]]
        lines += [("warning", text) for text in self.warnings]
        return "".join(f"{title:<15} {text}\n" for title, text in lines)

    def _powers(self) -> list[tuple[str, str]]:
        """What was chosen for weights whose scales are powers of two, and which of them got more bits."""
        lines: list[tuple[str, str]] = []
        adaptive = [line for line in self.weights if line.nearest_error]
        if adaptive:
            away, scales = (sum(getattr(line, name) for line in adaptive) for name in ("away", "channels"))
            error, nearest = (sum(getattr(line, name) for line in adaptive) for name in ("error", "nearest_error"))
            text = f"{away} of {scales} scales are not the nearest: output error {error / nearest:.1%} of theirs"
            lines.append(("powers of two", text))
        if self.mixed is not None:
            bits = counted([f"{layer.bits} bits" for layer in self.mixed.layers])
            lines.append(
                ("mixed precision", f"{bits}; {self.mixed.cost:.3f} of the narrow cost, at most {self.mixed.budget:g}")
            )
        return lines


def counted(names: Iterable[str]) -> str:
    """'9 x ln, 4 x quad'."""
    return ", ".join(f"{n} x {name}" for name, n in Counter(names).most_common()) or "none"


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def decibel(value: float | None) -> str:
    return "not compared" if value is None else "no error" if value >= NO_ERROR else f"{value:.1f} dB"


# --- measuring ---


def sqnr(exact: Array, found: Array) -> float:
    """10 log10 of the power of a signal over that of what is added to it; NO_ERROR where that is nothing."""
    exact = exact.astype(np.float64)
    signal, noise = float((exact**2).sum()), float(((exact - found) ** 2).sum())
    if noise == 0:
        return NO_ERROR
    return _limited(10 * log10(signal / noise)) if signal else -NO_ERROR


def _limited(decibels: float) -> float:
    """What JSON can say: no infinity."""
    return float(min(max(decibels, -NO_ERROR), NO_ERROR))


@dataclass(frozen=True)
class Measured:
    """Of one tensor: the SQNR of its codes, and the share of its numbers that no code reaches."""

    sqnr: float
    saturated: float


def measure(
    compiled: Compiled, found: Sequence[Place], inputs: Mapping[str, Array]
) -> tuple[dict[QuantizeOp, Measured], dict[str, float | None]]:
    """Run the float reference and the integer program on one batch, and compare at every quantizer and at the outputs."""
    assert compiled.reference is not None
    wanted = [place for place in found if place.codes is not None and place.reals is not None]
    reals: dict[SSAValue, Array] = {}
    taken = {place.reals for place in wanted}
    function = find_function(compiled.reference)
    reals |= {arg: inputs[name] for name, arg in zip(input_names(function), function.args, strict=True)}

    def keep(op: Operation, result: Array) -> None:
        if op.results[0] in taken:
            reals[op.results[0]] = result

    exact = run(compiled.reference, inputs, float_dtype=np.float32, observe=keep)
    by_codes: dict[SSAValue, list[Place]] = {}
    for place in wanted:
        if place.codes is not None:
            by_codes.setdefault(place.codes, []).append(place)
    weights = Weights(compiled.quantized)
    measured: dict[QuantizeOp, Measured] = {}

    def compare(op: Operation, result: Array) -> None:
        for place in by_codes.get(op.results[0], ()):
            if place.reals is not None:
                measured[place.quantizer] = _compared(place.quantizer, reals[place.reals], result, weights)

    results = run_model(compiled.module, inputs, observe=compare)
    return measured, {name: sqnr(exact[name], results[name]) for name in exact}


def _compared(op: QuantizeOp, reals: Array, codes: Array, weights: Weights) -> Measured:
    meaning, integer = stated(op.params, weights), integer_of(op.result)
    assert integer is not None
    scale, zero = (along(v, meaning.axis, codes.ndim) for v in (meaning.scale, meaning.zero_point))
    ideal = np.rint(reals / scale) + zero
    outside = (ideal < integer.lo) | (ideal > integer.hi)
    return Measured(sqnr(reals, dequantize(codes, scale, zero)), float(outside.mean()))


# --- the report ---


def tensor_lines(
    compiled: Compiled, found: Sequence[Place], measured: Mapping[QuantizeOp, Measured]
) -> list[TensorLine]:
    """One line a quantizer, and one for what was quantized at once: constants."""
    weights = Weights(compiled.quantized)
    left = list(compiled.choices.tensors)
    lines: list[TensorLine] = []
    for place in found:
        op = place.quantizer
        codes, integer = stated(op.params, weights), integer_of(op.result)
        assert integer is not None
        name = quantizer_name(op)
        alike = [c for c in compiled.choices.tensors if _same(c, codes, integer)]
        named = [c for c in alike if c.src == name]
        choice = next((c for c in named if c in left), None) or next(iter(named or alike), None)
        if choice in left:
            left.remove(choice)
        lines.append(_tensor_line(name, codes, integer, choice, measured.get(op)))
    for choice in left:
        codes = Codes(np.array(choice.scale), np.array(choice.zero_point))
        lines.append(_tensor_line(choice.src, codes, IntType(choice.bits, choice.signed), choice, None))
    return lines


def _same(choice: TensorChoice, codes: Codes, integer: IntType) -> bool:
    numbers = codes.axis is None and (choice.scale, choice.zero_point) == (float(codes.scale), int(codes.zero_point))
    return numbers and (choice.bits, choice.signed) == (integer.bits, integer.signed)


def _tensor_line(
    name: str, codes: Codes, integer: IntType, choice: TensorChoice | None, measured: Measured | None
) -> TensorLine:
    low, high = codes.real_range(integer.lo, integer.hi)
    return TensorLine(
        name,
        choice.role.value if choice else "",
        integer.bits,
        integer.signed,
        codes.scale.tolist(),
        codes.zero_point.tolist(),
        choice.low if choice else None,
        choice.high if choice else None,
        (choice.high - choice.low) / (high - low) if choice else None,
        measured.saturated if measured else None,
        choice.octaves if choice else None,
        measured.sqnr if measured else None,
    )


def _weight_line(choice: WeightChoice) -> WeightLine:
    octaves = (min(choice.octaves), max(choice.octaves)) if choice.octaves else None
    numbers = (_limited(choice.sqnr), octaves)
    return WeightLine(
        choice.src, choice.bits, choice.channels, *numbers, choice.nearest_error, choice.error, choice.away
    )


def _candidates(choices: object) -> list[LayerChoice]:
    found = cast(list[LayerChoice], choices or [])
    return [replace(c, scores={name: _limited(score) for name, score in c.scores.items()}) for c in found]


def constant_tensors(compiled: Compiled) -> list[str]:
    """Warnings about tensors that had one value alone on all samples: their scales say nothing of other inputs."""
    flat = [c for c in compiled.choices.tensors if c.low == c.high]
    if not flat:
        return []
    more = f" and {len(flat) - 1} more" if len(flat) > 1 else ""
    return [
        f"{flat[0].src}{more} had one value on all samples ({flat[0].low:g}): their scales may not suit other inputs"
    ]


def float_bytes(module: ModuleOp) -> int:
    """Bytes of a module's constants, were all of them 32-bit floats."""
    return 4 * sum(prod(shape_of(op.results[0])) for op in module.walk() if isinstance(op, ConstantOp | WeightOp))


def _integer_sizes(module: ModuleOp) -> tuple[int, int]:
    """Bytes of @main's constants, and of the vectors in its operations, tightly packed."""
    tensors = vectors = 0
    for op in find_function(module).walk():
        if isinstance(op, ConstantOp | WeightOp):
            bits = integer_of(op.results[0])
            tensors += -(-prod(shape_of(op.results[0])) * (bits.bits if bits else 32) // 8)
        elif op.name.startswith("qvit."):
            vectors += sum(map(_packed, op.properties.values()))
    return tensors, vectors


def _packed(attribute: Attribute) -> int:
    if isa(attribute, Dense) or isinstance(attribute, WeightRefAttr):
        codes = int_type(attribute.type.element_type)
        return -(-prod(attribute.type.get_shape()) * (codes.bits if codes else 32) // 8)
    if isa(attribute, ArrayAttr):
        return sum(map(_packed, attribute))
    if isinstance(attribute, ParametrizedAttribute) and attribute.name.startswith("qvit."):
        return sum(map(_packed, attribute.parameters))
    return 0


def compile_report(
    compiled: Compiled,
    scheme: Scheme,
    *,
    version: str,
    model: str,
    sha256: str,
    settings: Mapping[str, Any],
    samples: SampleFacts | None,
    batch: Mapping[str, Array] | None,
    floats: int,
) -> CompileReport:
    """batch: one of the samples, to compare on; floats: of `float_bytes`, before the model was compiled."""
    found = places(compiled.quantized, compiled.module, compiled.reference)
    measured: dict[QuantizeOp, Measured] = {}
    outputs: dict[str, float | None] = {}
    if batch is not None and compiled.reference is not None:
        measured, outputs = measure(compiled, found, batch)
    integer, ranges, requant = (compiled.reports.get(n) for n in ("integerize", "range-analysis", "lower-requant"))
    assert isinstance(integer, IntegerReport)
    assert isinstance(ranges, RangeReport)
    assert isinstance(requant, RequantReport)
    return CompileReport(
        "qvit-compile",
        version,
        model,
        sha256,
        scheme.name,
        scheme.summary,
        [step.name for step in scheme.passes()],
        settings,
        samples,
        constant_tensors(compiled),
        outputs,
        tensor_lines(compiled, found, measured),
        [_weight_line(choice) for choice in compiled.choices.weights],
        compiled.choices.mixed,
        integer.approximations,
        _candidates(compiled.reports.get("choices")),
        integer.left,
        [q for q in ranges.quantities if q.what == "accumulator"],
        {key: requant.count(key) for key in ("form", "exactness")},
        dict(operation_kinds(find_function(compiled.module))),
        Sizes(floats, *_integer_sizes(compiled.module)),
    )
