"""The schemes: what each asks of quantization, and the passes that take a quantized module to integers, in their order.

Passes run on modules with quantize and dequantize operations, from post-training quantization here (`qvit-compile`) or from
elsewhere (`qvit-opt model_int8.onnx --best`):

1. delay-dequant: products take codes. First, for all that follows matches what then stands between products. Biases are
   rounded into accumulators (`bounded`), else every one of them would stay a float addition.
2. integerize: what stands between dequantize and quantize becomes one integer operation, by the scheme's approximations.
   Before requantize is lowered, for it makes requantizes of its own, by real factors.
3. threshold, in lin-shah: requantize becomes comparators. While factors are real numbers, so that the thresholds are exact.
4. lower-requant: real factors become multipliers and shifts, or shifts alone. After all that makes or folds factors:
   products of multipliers would round twice.
5. canonicalize, cse, dce: what is left without a use, and what was made twice.
6. range-analysis: no accumulator, sum or intermediate overflows, with the actual weights. On the final operations.
7. verify-integer-only: no float is left. Last, as it is the promise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass
from xdsl.transforms.canonicalize import CanonicalizePass
from xdsl.transforms.common_subexpression_elimination import CommonSubexpressionElimination
from xdsl.utils.exceptions import DiagnosticException

from qvit.dialects.semantics.integers import Rounding
from qvit.dialects.semantics.pot import Exponent
from qvit.transforms.delay_dequant import DelayDequantPass
from qvit.transforms.integerize import IntegerizePass, IntegerReport
from qvit.transforms.lower_requant import LowerRequantPass
from qvit.transforms.ptq.approximate import Rows, choose_approximations
from qvit.transforms.ptq.observers import ADAPTIVE, Observer, Quantizer
from qvit.transforms.ptq.scheme import Mixed, Quantization, all_roles
from qvit.transforms.ptq.sites import Role
from qvit.transforms.ptq.weights import Fit, WeightQuantizer
from qvit.transforms.range_analysis import RangeAnalysisPass
from qvit.transforms.threshold import ThresholdPass
from qvit.transforms.verify_integer_only import VerifyIntegerOnlyPass

WIDE = Quantizer(16, symmetric=True, margin=2.0)
"""What no product takes: 16 bits leave room for a margin of 2 (the residual stream of unseen inputs reaches farther)."""


@dataclass(frozen=True)
class Scheme:
    """A way from floats to integers.

    published: its approximations as printed in the papers, where those differ. candidates: approximations among which, where
    there are samples, each operation takes the one with the least error, the cheaper ones first. threshold: where quantizers
    are comparators.
    """

    name: str
    summary: str
    quantization: Quantization
    integerize: IntegerizePass
    lower: LowerRequantPass
    published: Mapping[str, str] = field(default_factory=dict[str, str])
    candidates: tuple[str, ...] = ()
    threshold: ThresholdPass | None = None

    def passes(self, *, published: bool = False, unchecked: bool = False) -> tuple[ModulePass, ...]:
        """In the order that the file's docstring gives reasons for."""
        changes: dict[str, Any] = {**(self.published if published else {}), "unchecked": unchecked}
        return (
            DelayDequantPass(allow_bounded=True),
            replace(self.integerize, **changes),
            *([self.threshold] if self.threshold is not None else []),
            self.lower,
            CanonicalizePass(),
            CommonSubexpressionElimination(),
            RangeAnalysisPass(report_only=unchecked, unchecked=unchecked),
            VerifyIntegerOnlyPass(),
        )


def _scheme(name: str, summary: str, quantization: Quantization, **passes: Any) -> Scheme:
    lower = {key: passes.pop(key) for key in ("form", "rounding") if key in passes}
    published, candidates = passes.pop("published", {}), passes.pop("candidates", ())
    threshold = passes.pop("threshold", None)
    lowering = LowerRequantPass(**lower, allow_bounded=True)
    return Scheme(name, summary, quantization, IntegerizePass(**passes), lowering, published, candidates, threshold)


_SIGNED = Quantizer(8, symmetric=True)
_UNSIGNED = Quantizer(8, margin=1.1)

BEST = _scheme(
    "best",
    "Our own functions: late division of attention, tables, exact normalisation; one rounding for each step.",
    Quantization(
        all_roles(
            _UNSIGNED,
            WIDE,
            pixels=Quantizer(8),  # a pixel's range is known
            attention=Quantizer(8, symmetric=True, margin=1.1),  # no zero points in products of activations
            probabilities=None,  # weights relative to the row's maximum, divided by its sum behind the product
            # e^(-255/16) is nothing: whatever the range of a layer, this is as fine as softmax can tell
            scores=Quantizer(16, symmetric=True, scale=1 / 16),
            hidden=Quantizer(8, observer=Observer.MSE, margin=1.1),  # a few large values, many small ones
        ),
        WeightQuantizer(8),
        smoothing=0.5,
        centre_keys=True,
        rounding=Rounding.HALF_UP,  # an add and a shift
    ),
    softmax="sm8-late+sw-late",
    function="table+quad+lin",
    layer_norm="ln",
    rounding="half_up",
)

I_VIT = _scheme(
    "i-vit",
    "I-ViT: Shiftmax, ShiftGELU, I-LayerNorm, dyadic requantization; symmetric throughout, residual stream of 16 bits.",
    Quantization(
        all_roles(
            _SIGNED,
            WIDE,
            probabilities=Quantizer(16, symmetric=True, scale=2.0**-15),  # Shiftmax gives 15 fraction bits
            scores=_SIGNED,
            function=_SIGNED,
        ),
        WeightQuantizer(8),
    ),
    softmax="shiftmax",
    function="shiftgelu+table",  # what is no GELU has no other way
    layer_norm="i-layernorm",
    round_each=True,
    rounding="half_even",
    published={
        "softmax": "shiftmax-published",
        "function": "shiftgelu-published",
        "layer_norm": "i-layernorm-published",
    },
)

I_BERT = _scheme(
    "i-bert",
    "I-BERT: polynomial exponential and GELU, exact integer square root, dyadic requantization; symmetric throughout.",
    Quantization(
        all_roles(
            _SIGNED,
            WIDE,
            probabilities=Quantizer(8, scale=2.0**-8),  # i-softmax gives 8 fraction bits
            scores=_SIGNED,
            function=_SIGNED,
        ),
        WeightQuantizer(8),
    ),
    softmax="i-softmax",
    function="i-gelu+table",  # as in i-vit
    layer_norm="ibert-layernorm",
    rounding="half_even",
    published={"function": "i-gelu-published", "layer_norm": "ibert-layernorm-published"},
)

IPTQ_VIT = _scheme(
    "iptq-vit",
    "IPTQ-ViT: for each operation the shift-based or polynomial approximation that loses least on the samples.",
    Quantization(
        all_roles(
            _UNSIGNED,
            WIDE,
            pixels=Quantizer(8),
            attention=_SIGNED,
            probabilities=Quantizer(8, scale=2.0**-8),
            scores=_SIGNED,
            function=_SIGNED,
            hidden=Quantizer(8, observer=Observer.MSE, margin=1.1),
        ),
        WeightQuantizer(8),
    ),
    softmax="bit-softmax+shiftmax+i-softmax",
    function="poly-gelu+shiftgelu+i-gelu+table",
    layer_norm="i-layernorm+ibert-layernorm",
    candidates=(
        *("bit-softmax", "shiftmax", "i-softmax"),
        *("poly-gelu", "shiftgelu", "i-gelu"),
        *("i-layernorm", "ibert-layernorm"),
    ),
    rounding="half_up",
    published={"softmax": "bit-softmax-published"},
)

_POWER = Quantizer(8, symmetric=True, power_of_two=ADAPTIVE)
"""By the squared error of the samples' codes."""

P2_VIT = _scheme(
    "p2-vit",
    "P2-ViT: every scale a power of two, so that requantization is a shift; attention of 4 bits, products of shifts.",
    Quantization(
        all_roles(
            _POWER,
            replace(WIDE, power_of_two=Exponent.CEIL),
            probabilities=None,  # powers of two themselves, which the product behind shifts by
            scores=_POWER,
            function=_POWER,
        ),
        WeightQuantizer(8, per_channel=False, power_of_two=ADAPTIVE),
        smoothing=0.5,
        smooth_to_powers=True,
        rounding=Rounding.HALF_UP,
    ),
    softmax="lis",
    function="table",
    layer_norm="ptf-layernorm",  # any scale of its operand; no more error than ln
    form="pot",
    rounding="half_up",
    published={"softmax": "lis-published"},
)

P2_VIT_MIXED = replace(
    P2_VIT,
    name="p2-vit-mixed",
    summary="P2-ViT with weights of 4 bits a channel, and of 8 bits in the layers that a search on the samples chooses.",
    quantization=replace(
        P2_VIT.quantization,
        weights=WeightQuantizer(4, power_of_two=ADAPTIVE),
        mixed=Mixed(WeightQuantizer(8, per_channel=False, power_of_two=ADAPTIVE)),
    ),
)

FQ_VIT = _scheme(
    "fq-vit",
    "FQ-ViT: attention of 4 bits, products of shifts; normalisation with powers of two for channels; unsigned activations.",
    Quantization(
        all_roles(
            Quantizer(8),
            Quantizer(8),
            probabilities=None,
            residual=Quantizer(8, channel_factors=True),
        ),
        WeightQuantizer(8),
    ),
    softmax="lis",
    function="table",
    layer_norm="ptf-layernorm",
    rounding="half_even",
    published={"softmax": "lis-published", "layer_norm": "ptf-layernorm-published"},
)

NARROW = 8
"""Quantizers of fewer bits take the range with the least squared error: clipping costs less than coarse steps."""


def at_bits(scheme: Scheme, weights: int, activations: int) -> Scheme:
    """The scheme with weights and operands of products of so many bits (2 to 8), at its first and last layers of 8.

    Scales that a scheme gives itself (probabilities) become those of the same range. What no product takes keeps its bits.
    """
    roles = dict(scheme.quantization.roles)
    for role in (Role.LINEAR, Role.HIDDEN, Role.ATTENTION, Role.PROBABILITIES):
        if (operand := roles.get(role)) is not None and not operand.power_of_two:
            observer = Observer.MSE if activations < NARROW else operand.observer
            scale = operand.scale * 2.0 ** (operand.bits - activations)
            roles[role] = replace(operand, bits=activations, observer=observer, scale=scale)
        elif operand is not None:
            roles[role] = replace(operand, bits=activations)
    fit = Fit.MSE if weights < NARROW else scheme.quantization.weights.fit
    quantizer, mixed = replace(scheme.quantization.weights, bits=weights, fit=fit), scheme.quantization.mixed
    if mixed is not None and mixed.wide.bits <= weights:
        mixed = None  # no layer would be wider
    changed = replace(scheme.quantization, roles=roles, weights=quantizer, mixed=mixed, ends=8)
    return replace(scheme, quantization=changed)


LIN_SHAH = at_bits(
    _scheme(
        "lin-shah",
        "Lin and Shah: weights and operands of 3 bits, quantizers of comparators, no division in softmax and normalisation.",
        Quantization(
            all_roles(
                Quantizer(8, symmetric=True),
                WIDE,
                pixels=Quantizer(8),
                attention=Quantizer(8, symmetric=True),
                probabilities=Quantizer(8),
                scores=Quantizer(8, symmetric=True),  # with a bias on them; else see raw_scores
                function=Quantizer(4, symmetric=True, observer=Observer.MSE),  # 15 comparators, and a table of 16
                hidden=Quantizer(8, observer=Observer.MSE),
            ),
            WeightQuantizer(8),
            rounding=Rounding.HALF_UP,  # a comparator takes what equals its threshold
            raw_scores=True,  # the scale of a product is in the exponent of its softmax
        ),
        softmax="threshold-softmax",
        function="table",
        layer_norm="threshold-layernorm+ln",  # the latter into the residual stream, as in BERT
        rounding="half_up",
        threshold=ThresholdPass(),
    ),
    weights=3,
    activations=3,
)
"""What trains at other widths is `at_bits` of it."""

SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme for scheme in (BEST, I_VIT, I_BERT, FQ_VIT, P2_VIT, P2_VIT_MIXED, IPTQ_VIT, LIN_SHAH)
}
"""All schemes by name."""


def run_scheme(
    module: ModuleOp,
    scheme: Scheme,
    *,
    published: bool = False,
    unchecked: bool = False,
    rows: Rows | None = None,
    layers: Mapping[str, tuple[str, ...]] | None = None,
    context: Context | None = None,
) -> dict[str, object]:
    """All passes of a scheme, in place; what each reports, by its name. DiagnosticException where something stays in float.

    rows: what samples gave, for schemes with candidates. layers: approximations of single operations, in the place of those
    that the rows would choose.
    """
    reports: dict[str, object] = {}
    for step in scheme.passes(published=published, unchecked=unchecked):
        if isinstance(step, IntegerizePass):
            choices = choose_approximations(module, rows, scheme.candidates) if rows and not published else []
            reports["choices"] = choices
            chosen = {choice.src: (choice.chosen,) for choice in choices}
            reports[step.name] = report = step.run(module, layers or chosen)
            if report.left:
                raise DiagnosticException(left_in_float(report))
        elif isinstance(step, DelayDequantPass | ThresholdPass | LowerRequantPass | RangeAnalysisPass):
            reports[step.name] = step.run(module)
        else:
            step.apply(context or Context(), module)
    return reports


def left_in_float(report: IntegerReport) -> str:
    """What cannot become integers, one line a reason."""
    reasons: dict[str, list[str]] = {}
    for remark in report.left:
        reasons.setdefault(remark.reason, []).append(remark.src)
    lines = [f"{len(report.left)} operations stay in float:"]
    for reason, names in reasons.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines.append(f"  {names[0]}{more}: {reason}")
    return "\n".join(lines)


@dataclass(frozen=True)
class SchemePass(ModulePass):
    """What the passes of schemes share: all of a scheme's passes, in their order."""

    name: ClassVar[str] = "scheme"
    scheme: ClassVar[Scheme]

    published: bool = False
    unchecked: bool = False

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        run_scheme(op, self.scheme, published=self.published, unchecked=self.unchecked, context=ctx)


def scheme_pass(scheme: Scheme) -> type[SchemePass]:
    """The pass `--<scheme>`."""
    text = f"""{scheme.summary}

    Legal on modules whose tensors are quantized: delay-dequant, integerize, lower-requant, canonicalize, cse,
    range-analysis and verify-integer-only, one after another. `published` takes the approximations as the papers print
    them, which refuses where their conditions fail; `unchecked` takes them there too. Afterwards @main has no float.
    """
    parts: dict[str, Any] = {"name": scheme.name, "scheme": scheme, "__doc__": text, "__module__": __name__}
    return dataclass(frozen=True)(type(f"{scheme.name.title().replace('-', '')}Pass", (SchemePass,), parts))


SCHEME_PASSES: dict[str, type[SchemePass]] = {name: scheme_pass(scheme) for name, scheme in SCHEMES.items()}
"""The pass of each scheme, by name."""
