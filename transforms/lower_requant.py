"""--lower-requant: integers in the place of the real factors of requantize and add_requant, and how exact that is."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import ClassVar, TypeAlias

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass
from xdsl.utils.exceptions import DiagnosticException

from qvit.dialects.atomic import write_text
from qvit.dialects.attributes import DyadicAttr, Form, PotAttr, RealAttr, RoundingAttr, ZeroPointAttr
from qvit.dialects.ops.quantization import AddRequantOp, RequantizeOp
from qvit.dialects.provenance import Remark, describe, grouped
from qvit.dialects.semantics.integers import Array, Rounding
from qvit.dialects.types import integer_of
from qvit.dialects.weights import Weights
from qvit.transforms.requant.choice import Choice, bound, common, divided, fixed, free, spread
from qvit.transforms.requant.equality import Step
from qvit.transforms.requant.multipliers import Dyadic, never_ties, normalised, octaves, pot_shift
from qvit.transforms.rule import Declined, Exactness, require

Bounds: TypeAlias = Callable[[SSAValue], tuple[int, int] | None]
"""The lowest and the highest code that a value takes, where that is known; a dictionary's `get` is one."""

FORMS = ("dyadic", "pot")
NEAREST = (Rounding.HALF_UP, Rounding.HALF_EVEN, Rounding.HALF_AWAY)


@dataclass(frozen=True)
class Lowered:
    """An operation with a new form.

    bounded: how many of its channels are not proven to give the same codes for every operand; these can be off by
    `bound` of a code before rounding.
    """

    src: str
    op: str
    form: str
    exactness: Exactness
    channels: int
    bounded: int
    bound: float


@dataclass(frozen=True)
class Report:
    """What --lower-requant did, and what it could not do.

    rounded: how many operations took the asked rounding, proven to be the same; left: what kept its form, and why;
    notes: what else is not as asked.
    """

    lowered: list[Lowered]
    rounded: int
    left: list[Remark]
    notes: list[Remark]

    def count(self, key: str) -> dict[str, int]:
        """How many operations were lowered, by `form` or `exactness`."""
        return dict(sorted(Counter(str(getattr(op, key)) for op in self.lowered).items()))

    def to_json(self) -> str:
        counts = {key: self.count(key) for key in ("form", "exactness")}
        return json.dumps({"counts": counts, **asdict(self)}, indent=2) + "\n"

    def table(self) -> str:
        """A short summary for people."""
        lines = ["lower-requant", f"  {'lowered':<16} {len(self.lowered):>28,}"]
        lines += [f"    {form:<32}{count:>6}" for form, count in self.count("form").items()]
        for exactness, count in self.count("exactness").items():
            worst = f" ({max(op.bound for op in self.lowered):.3g})" if exactness == Exactness.BOUNDED else ""
            lines.append(f"    {exactness:<32}{count:>6}{worst}")
        lines.append(f"  {'rounding changed':<16} {self.rounded:>28,}")
        lines += grouped("left", self.left)
        lines += grouped("notes", self.notes)
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Options:
    """What is asked of the pass.

    form: "dyadic", or "pot" for powers of two alone. rounding: what another mode to nearest becomes where no operand
    ties. fixed32: the shift 32 for whole tensors where that gives the same codes. allow_bounded: also take multipliers
    that are not proven to give the same codes. nearest: always the nearest multiplier, without proofs, so that the result
    follows from the factor alone; bounded, and quick. bounds: ranges of operands that are narrower than their types'.
    """

    form: str = "dyadic"
    rounding: Rounding = Rounding.HALF_UP
    fixed32: bool = False
    allow_bounded: bool = False
    nearest: bool = False
    bounds: Bounds = field(default=lambda _: None)


def lower_requant(module: ModuleOp, options: Options | None = None) -> Report:
    """Give every requantize and add_requant a form of integers, in place, as far as that is proven or allowed."""
    lowering = _Lowering(Weights(module), options or Options())
    for op in module.walk():
        if isinstance(op, RequantizeOp | AddRequantOp):
            lowering.lower(op)
    return Report(lowering.lowered, lowering.rounded, lowering.left, lowering.notes)


@dataclass(frozen=True)
class _Plan:
    """New forms, by the names of the properties, and how exact they are in each channel."""

    forms: Mapping[str, Form]
    equal: Sequence[bool] = (True,)
    bound: float = 0.0


@dataclass
class _Lowering:
    """One run of the pass, and what it has to report."""

    weights: Weights
    options: Options
    lowered: list[Lowered] = field(default_factory=list[Lowered])
    rounded: int = 0
    left: list[Remark] = field(default_factory=list[Remark])
    notes: list[Remark] = field(default_factory=list[Remark])

    def lower(self, op: RequantizeOp | AddRequantOp) -> None:
        try:
            if isinstance(op, RequantizeOp):
                plan = self._divided(op) if op.divisor is not None else self._requantize(op)
            else:
                plan = self._add_each(op) if op.round_each is not None else self._add_once(op)
            if any(op.properties[name] != form for name, form in plan.forms.items()):
                self._apply(op, plan)
        except Declined as declined:
            self.left.append(Remark(describe(op), self.options.form, str(declined)))
            return
        self._round(op)

    def _apply(self, op: RequantizeOp | AddRequantOp, plan: _Plan) -> None:
        bounded, channels = plan.equal.count(False), len(plan.equal)
        require(
            not bounded or self.options.allow_bounded,
            f"its multipliers are not proven to give the same codes in {bounded} of {channels} channels: off by at most"
            f" {plan.bound:.3g} before rounding (--allow-bounded takes them)",
        )
        op.properties.update(plan.forms)
        if not any(isinstance(p, Form | ZeroPointAttr) and p.length for p in op.properties.values()):
            op.properties.pop("axis", None)  # vectors of equal numbers became numbers
        form = "dyadic" if any(isinstance(f, DyadicAttr) for f in plan.forms.values()) else "pot"
        exactness = Exactness.BOUNDED if bounded else Exactness.BIT_EXACT
        self.lowered.append(Lowered(describe(op), op.name, form, exactness, channels, bounded, plan.bound))

    def _note(self, op: RequantizeOp | AddRequantOp, rule: str, reason: str) -> None:
        self.notes.append(Remark(describe(op), rule, reason))

    # --- forms ---

    def _requantize(self, op: RequantizeOp) -> _Plan:
        factors, steps = self.weights.exact_factors(op.form), self._steps(op)
        if (pot := _pot(factors)) is not None:
            return _Plan({"form": pot})
        self._require_dyadic(factors)
        if self.options.fixed32:
            if (choice := fixed(factors, steps, op.rounding.data)) is not None:
                return _Plan({"form": _dyadic(choice.numbers)})
            self._note(op, "fixed32", "no multipliers at the shift 32 give the same codes in all channels")
        if not isinstance(op.form, RealAttr):
            return _Plan({})
        choice = self._free(factors, steps, op.rounding.data)
        return _Plan({"form": _dyadic(choice.numbers)}, choice.equal, choice.bound)

    def _divided(self, op: RequantizeOp) -> _Plan:
        factors, pot = self.weights.exact_factors(op.form), _pot(self.weights.exact_factors(op.form))
        if isinstance(op.form, RealAttr):
            if pot is None:
                self._require_dyadic(factors)
                numbers = [_normalised(f) for f in factors]
            else:  # as the form is defined
                numbers = [Dyadic(1 << 30, (pot_shift(f) or 0) + 30) for f in factors]
            choice = divided(factors, numbers, self._steps(op))
            return _Plan({"form": pot or _dyadic(numbers)}, choice.equal, choice.bound)
        if isinstance(op.form, DyadicAttr):
            if pot is not None and (self.weights.values(op.form.multiplier) == 1 << 30).all():
                return _Plan({"form": pot})
            self._require_dyadic(factors)
        return _Plan({})

    def _add_each(self, op: AddRequantOp) -> _Plan:
        """Each term is a requantize whose result does not saturate."""
        forms: dict[str, Form] = {}
        terms: list[Choice] = []
        for name, (form, value, zero_point) in zip(("lhs_form", "rhs_form"), _terms(op), strict=True):
            factors = self.weights.exact_factors(form)
            if (pot := _pot(factors)) is not None:
                forms[name] = pot
                continue
            self._require_dyadic(factors)
            if isinstance(form, RealAttr):
                ((first, last),) = self._range(value, zero_point)
                most = int(max(abs(first), abs(last)) * max(map(abs, factors))) + 2
                terms.append(self._free(factors, [Step(first, last, -most, most)], op.rounding.data))
                forms[name] = _dyadic(terms[-1].numbers)
        channels = max((len(term.equal) for term in terms), default=1)
        equal = [all(channel) for channel in zip(*(spread(t.equal, channels) for t in terms), strict=True)]
        return _Plan(forms, equal or [True], sum(term.bound for term in terms))

    def _add_once(self, op: AddRequantOp) -> _Plan:
        """Both terms over one power of two, so that a backend adds the products and rounds the sum."""
        left, right = (self.weights.exact_factors(form) for form in (op.lhs_form, op.rhs_form))
        pots = {"lhs_form": _pot(left), "rhs_form": _pot(right)}
        if all(pots.values()):
            return _Plan({name: pot for name, pot in pots.items() if pot is not None})
        for factors, pot in zip((left, right), pots.values(), strict=True):
            if pot is None:
                self._require_dyadic(factors)
        real = isinstance(op.lhs_form, RealAttr) or isinstance(op.rhs_form, RealAttr)
        if not real and self._shifts(op.lhs_form) == self._shifts(op.rhs_form):
            return _Plan({})
        ranges = [self._range(value, zero_point)[0] for _, value, zero_point in _terms(op)]
        reaches = [max(abs(first), abs(last)) for first, last in ranges]
        a, b = common((left, right), (reaches[0], reaches[1]))
        if not real and not all(a.equal):
            self._note(op, "shift", "its multipliers have no common shift that keeps them")
            return _Plan({})
        return _Plan({"lhs_form": _dyadic(a.numbers), "rhs_form": _dyadic(b.numbers)}, a.equal, a.bound)

    def _free(self, factors: Sequence[Fraction], steps: Sequence[Step], rounding: Rounding) -> Choice:
        if not self.options.nearest:
            return free(factors, steps, rounding)
        numbers = [_normalised(f) for f in factors]
        # the nearest is off by half a unit: one bound for all channels, of the least precise and the largest
        off = Fraction(1, 2 * min((abs(d.multiplier) for d in numbers if d.multiplier), default=1) - 1)
        return Choice(numbers, [False] * len(numbers), bound([max(factors, key=abs)], [off], steps))

    def _require_dyadic(self, factors: Sequence[Fraction]) -> None:
        require(self.options.form == "dyadic", _no_pot(factors))

    # --- ranges ---

    def _range(self, value: SSAValue, zero_point: ZeroPointAttr | None) -> list[tuple[int, int]]:
        """The lowest and highest code less the zero point: one pair, or one for each channel."""
        codes = integer_of(value)
        assert codes is not None  # verified
        lo, hi = self.options.bounds(value) or (codes.lo, codes.hi)
        return [(lo - z, hi - z) for z in np.atleast_1d(self.weights.zero_point(zero_point)).tolist()]

    def _steps(self, op: RequantizeOp) -> list[Step]:
        codes = integer_of(op.result)
        assert codes is not None  # verified
        before = self._range(op.input, op.input_zero_point)
        after = np.atleast_1d(self.weights.zero_point(op.zero_point)).tolist()
        count = max(len(before), len(after))
        pairs = zip(spread(before, count), spread(after, count), strict=True)
        return [Step(first, last, codes.lo - z, codes.hi - z) for (first, last), z in pairs]

    def _shifts(self, form: Form) -> list[int]:
        return [] if isinstance(form, RealAttr) else np.unique(self.weights.values(form.shift)).tolist()

    # --- rounding ---

    def _round(self, op: RequantizeOp | AddRequantOp) -> None:
        """The asked rounding, where the operation's own gives nothing else."""
        mode = op.rounding.data
        if mode not in NEAREST or mode is self.options.rounding:
            return
        if isinstance(op, RequantizeOp) and op.divisor is not None:
            reason = "divisors decide what lies half-way between two codes"
        elif isinstance(op, AddRequantOp) and op.round_each is None:
            reason = "a sum of two products can lie half-way between two codes"
        elif self._never_ties(op):
            op.properties["rounding"] = RoundingAttr(self.options.rounding)
            self.rounded += 1
            return
        else:
            reason = "some operands lie half-way between two codes"
        self._note(op, "rounding", f"{reason}: it stays {mode}")

    def _never_ties(self, op: RequantizeOp | AddRequantOp) -> bool:
        """Whether no operand lies half-way between two codes; for requantize, none that does not saturate."""
        if isinstance(op, RequantizeOp):
            numbers, steps = self._numbers(op.form), self._steps(op)
            count = max(len(numbers), len(steps))
            pairs = zip(spread(numbers, count), spread(steps, count), strict=True)
            return all(never_ties(d, step.unsaturated(d.factor)) for d, step in pairs)
        reaches = [max(map(abs, self._range(value, zero_point)[0])) for _, value, zero_point in _terms(op)]
        terms = zip((op.lhs_form, op.rhs_form), reaches, strict=True)
        return all(never_ties(number, reach) for form, reach in terms for number in self._numbers(form))

    def _numbers(self, form: Form) -> list[Dyadic]:
        assert not isinstance(form, RealAttr)
        multiplier = np.array(1) if isinstance(form, PotAttr) else self.weights.values(form.multiplier)
        pairs = np.broadcast_arrays(*map(np.atleast_1d, (multiplier, self.weights.values(form.shift))))
        return [Dyadic(m, s) for m, s in zip(*(numbers.tolist() for numbers in pairs), strict=True)]


def _terms(op: AddRequantOp) -> list[tuple[Form, SSAValue, ZeroPointAttr | None]]:
    """(form, operand, its zero point)"""
    return [(op.lhs_form, op.lhs, op.lhs_zero_point), (op.rhs_form, op.rhs, op.rhs_zero_point)]


def _number_or_vector(numbers: Sequence[int]) -> int | Array:
    return numbers[0] if len(set(numbers)) == 1 else np.array(numbers)


def _dyadic(numbers: Sequence[Dyadic]) -> DyadicAttr:
    return DyadicAttr.of(
        _number_or_vector([d.multiplier for d in numbers]), _number_or_vector([d.shift for d in numbers])
    )


def _pot(factors: Sequence[Fraction]) -> PotAttr | None:
    """The form of factors that are all powers of two, exactly."""
    shifts = [shift for f in factors if (shift := pot_shift(f)) is not None]
    return PotAttr.of(_number_or_vector(shifts)) if len(shifts) == len(factors) else None


def _normalised(factor: Fraction) -> Dyadic:
    if (number := normalised(factor)) is None:
        raise Declined(f"its factor {float(factor):.6g} is beyond 2^31")
    return number


def _no_pot(factors: Sequence[Fraction]) -> str:
    """Why not: the first factor that is no power of two, the nearest one, and how far it is."""
    others = [(i, f) for i, f in enumerate(factors) if pot_shift(f) is None]
    if not others:
        return "its multipliers are not 2^30, of which the form pot takes reciprocals"
    i, factor = others[0]
    channel = f" of channel {i}" if len(factors) > 1 else ""
    more = f" ({len(others)} of {len(factors)} channels)" if len(factors) > 1 else ""
    text = f"its factor {float(factor):.6g}{channel} is no power of two"
    if factor <= 0:
        return f"{text}: it is not positive{more}"
    exponent = round(octaves(factor))
    off = octaves(factor) - exponent
    return f"{text}: it is {abs(off):.3g} octaves {'above' if off > 0 else 'below'} 2^{exponent}{more}"


@dataclass(frozen=True)
class LowerRequantPass(ModulePass):
    """Give requantize and add_requant integers in the place of real factors, and prove how exact that is.

    `form=dyadic` (default): multiplier / 2^shift with 31 bits and a shift of its own in each channel; powers of two become
    `#qvit.pot`, which is bit-exact. `form=pot`: powers of two alone. `rounding=half_up|half_even|half_away` (default
    half_up) replaces another mode to nearest where no operand lies half-way between two codes. `fixed32` takes the shift
    32 for a whole tensor where that gives the same codes.

    A new form is bit-exact if all operands, over the whole range of their type, get the same codes; this is proven for
    each channel, for codes of up to 8 bits always. Others are bounded, and taken with allow-bounded alone. What keeps a
    real factor, or under form=pot another than a power of two, is an error that says why; with `partial` it stays.
    `nearest` takes the nearest multipliers without looking for others, as training does at each step.
    `report=FILE` writes what was done as JSON, and prints a short table on stderr.
    """

    name: ClassVar[str] = "lower-requant"

    form: str = "dyadic"
    rounding: str = "half_up"
    fixed32: bool = False
    allow_bounded: bool = False
    nearest: bool = False
    partial: bool = False
    report: str = ""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        left = self.run(op).left
        if left:
            sys.stderr.write(_kept(left))

    def run(self, module: ModuleOp) -> Report:
        """`apply`, which cannot return what was done. DiagnosticException lists what keeps its factor, unless `partial`."""
        if self.form not in FORMS:
            raise ValueError(f"lower-requant: form must be dyadic or pot, found {self.form}")
        if self.rounding not in NEAREST:
            raise ValueError(f"lower-requant: rounding must be {', '.join(NEAREST)}, found {self.rounding}")
        if self.report.endswith(".html"):
            raise ValueError(f"lower-requant: its report is JSON, found {self.report}")
        options = Options(self.form, Rounding(self.rounding), self.fixed32, self.allow_bounded, self.nearest)
        result = lower_requant(module, options)
        if self.report:
            write_text(Path(self.report), result.to_json())
            sys.stderr.write(result.table())
        if result.left and not self.partial:
            raise DiagnosticException("lower-requant: " + _kept(result.left).rstrip())
        return result


def _kept(left: Sequence[Remark]) -> str:
    """What keeps its factor, and why, for people."""
    lines = [f"{len(left)} operations keep their factors:", *(f"  {r.src}: {r.reason}" for r in left)]
    return "\n".join(lines) + "\n"
