"""--range-analysis: intervals of all integers, with the actual weights, and the proof that nothing overflows."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.utils.exceptions import DiagnosticException
from xdsl.utils.hints import isa

from qvit.dialects.approximations.base import Interval
from qvit.dialects.atomic import write_text
from qvit.dialects.provenance import Remark, describe
from qvit.dialects.semantics.integers import IntType
from qvit.dialects.types import int_type
from qvit.dialects.weights import Weights
from qvit.transforms.ranges.interval import Analysis, Quantity, Range
from qvit.transforms.ranges.table import TRANSFERS
from qvit.transforms.verify_integer_only import checked_functions

_TIGHTEST = 5


@dataclass(frozen=True)
class ValueRange:
    """The interval of a tensor that an operation makes; intervals: how many parts of it have one of their own."""

    src: str
    op: str
    type: str
    lo: int
    hi: int
    intervals: int


@dataclass(frozen=True)
class RangeReport:
    """What --range-analysis found.

    ranges: the interval of every integer tensor, finer than `values` where channels differ; quantities: every accumulator,
    sum and intermediate, with the narrowest signed type that is safe; failures: what may not fit, or is not known to;
    conditions: those of approximations that do not hold, so that their results may mean nothing.
    """

    ranges: Mapping[SSAValue, Range]
    values: list[ValueRange]
    quantities: list[Quantity]
    failures: list[Remark]
    conditions: list[Remark]

    @property
    def widest(self) -> Quantity | None:
        """The accumulator that needs most bits."""
        accumulators = [q for q in self.quantities if q.what == "accumulator"]
        return max(accumulators, key=lambda q: q.bits, default=None)

    @property
    def tightest(self) -> list[Quantity]:
        """The numbers with the least headroom, first those that do not fit."""
        return sorted(self.quantities, key=lambda q: q.headroom)[:_TIGHTEST]

    def to_json(self) -> str:
        names = ("values", "quantities", "failures", "conditions")
        return json.dumps({name: [asdict(entry) for entry in getattr(self, name)] for name in names}, indent=2) + "\n"

    def table(self) -> str:
        """A short summary for people."""
        lines = ["range-analysis", f"  values             {len(self.values):>8,}"]
        if self.widest is not None:
            lines.append(f"  widest accumulator {self.widest.bits:>8} bits of {self.widest.type}: {self.widest.src}")
        lines.append(f"  tightest of        {len(self.quantities):>8,}")
        lines += [
            f"    {q.headroom:>3} bits left of {q.type}: {q.src} ({q.op}), {q.what} {q.lo}..{q.hi}"
            for q in self.tightest
        ]
        for title, remarks in (("failures", self.failures), ("conditions", self.conditions)):
            if remarks or title == "failures":
                lines.append(f"  {title:<19}{len(remarks):>8,}")
                lines += [f"    {_told(remark)}" for remark in remarks]
        return "\n".join(lines) + "\n"


def _told(failure: Remark) -> str:
    return f"{failure.src}: {failure.rule}: {failure.reason}"


def _codes(value: SSAValue) -> IntType | None:
    """The integer type of a tensor's elements; None for other tensors, and for what is none."""
    return int_type(value.type.element_type) if isa(value.type, TensorType) else None


def _visit(a: Analysis, op: Operation) -> None:
    types = [_codes(result) for result in op.results]
    if not any(types):
        return
    if (transfer := TRANSFERS.get(type(op))) is None:
        a.fail(op, "the analysis does not know this operation: its results may be anything, its intermediates too")
        return
    found = transfer(a, op)
    ranges = found if isinstance(found, tuple) else (found,)
    for result, codes, interval in zip(op.results, types, ranges, strict=True):
        if codes is not None:
            a.ranges[result] = interval.within(codes).settled()


def analyse(module: ModuleOp) -> RangeReport:
    """Prove an interval for every integer tensor of the checked functions, and that everything fits its type.

    Arguments have the range of their type, and functions are independent. The module is not changed.
    """
    ranges: dict[SSAValue, Range] = {}
    quantities: list[Quantity] = []
    failures: list[Remark] = []
    conditions: list[Remark] = []
    for function in checked_functions(module):
        a = Analysis(Weights.of(function), ranges, quantities, failures, conditions)
        for argument in function.args:
            if (codes := _codes(argument)) is not None:
                a.ranges[argument] = Range.of_type(codes)
        for op in function.body.walk():
            _visit(a, op)
    values = [_value_range(value, found) for value, found in ranges.items()]
    return RangeReport(ranges, values, quantities, failures, conditions)


def _value_range(value: SSAValue, found: Range) -> ValueRange:
    lo, hi = found.ends
    op = value.owner.name if isinstance(value.owner, Operation) else "argument"
    return ValueRange(describe(value), op, str(value.type), lo, hi, found.lo.size)


def bounds(module: ModuleOp) -> dict[SSAValue, Interval]:
    """A proven interval (lowest, highest) for every integer tensor of the checked functions."""
    return {value: found.ends for value, found in analyse(module).ranges.items()}


@dataclass(frozen=True)
class RangeAnalysisPass(ModulePass):
    """Prove with the actual weights that no accumulator, sum or intermediate overflows; give the smallest safe widths.

    It analyses the functions tagged `qvit.integer_only`, else @main, and prints a short table on stderr. What may not fit
    the type that has to hold it, or is not known to, is an error that lists all of it, and so are conditions of
    approximations that do not hold, unless told `unchecked`; with `report-only` all is only told. `report=FILE` writes the
    interval of every tensor and the width of everything else as JSON. The module is not changed.
    """

    name: ClassVar[str] = "range-analysis"

    report_only: bool = False
    unchecked: bool = False
    report: str = ""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        sys.stderr.write(self.run(op).table())

    def run(self, module: ModuleOp) -> RangeReport:
        """`apply`, which cannot return what was found. DiagnosticException lists what is not proven, unless `report_only`."""
        if self.report.endswith(".html"):
            raise ValueError(f"range-analysis: its report is JSON; for a page, use qvit-opt --report {self.report}")
        found = analyse(module)
        if self.report:
            write_text(Path(self.report), found.to_json())
        wrong = found.failures if self.unchecked else [*found.failures, *found.conditions]
        if wrong and not self.report_only:
            count = f"range-analysis: {len(wrong)} numbers or conditions are not proven:"
            raise DiagnosticException("\n".join([count, *(f"  {_told(remark)}" for remark in wrong)]))
        return found
