"""--delay-dequant: let integers flow through the products, and dequantize behind them."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import GreedyRewritePatternApplier, PatternRewriteWalker

from qvit.dialects.atomic import write_text
from qvit.dialects.ops.elementwise import AddOp, DivOp, MulOp
from qvit.dialects.ops.quantization import DequantizeOp
from qvit.dialects.provenance import Remark, describe, grouped
from qvit.dialects.weights import Weights
from qvit.transforms.delay.folds import FOLDS, is_bias
from qvit.transforms.delay.moves import MOVES
from qvit.transforms.delay.products import PRODUCTS
from qvit.transforms.rule import Rule, Session
from qvit.transforms.statistics import float_elements, is_integer_product, macs, macs_integer, macs_total, qdq_ops

RULES: tuple[type[Rule], ...] = (*MOVES, *FOLDS, *PRODUCTS)
"""All rules of the pass, in the order in which they are tried on an operation."""


@dataclass(frozen=True)
class BeforeAfter:
    """A figure of the module before and after the pass."""

    before: int
    after: int


@dataclass(frozen=True)
class Report:
    """What --delay-dequant did, and what it could not do.

    moved: products that take integers now, by source node; rules: how often each rule was applied, and how exact it is;
    blocked: what kept dequantization in front of a product or another operation; notes: what stays in float without
    blocking a product.
    """

    macs_total: int
    macs_integer: BeforeAfter
    float_elements: BeforeAfter
    qdq_ops: BeforeAfter
    moved: list[dict[str, Any]]
    rules: dict[str, dict[str, Any]]
    blocked: list[Remark]
    notes: list[Remark]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    def table(self) -> str:
        """A short summary for people."""
        total = max(self.macs_total, 1)
        integer = self.macs_integer
        lines = [
            "delay-dequant                before         after",
            f"  integer MACs     {integer.before / total:>14.1%}{integer.after / total:>14.1%}   of {self.macs_total:,}",
            f"  float elements   {self.float_elements.before:>14,}{self.float_elements.after:>14,}",
            f"  quantize + dq    {self.qdq_ops.before:>14,}{self.qdq_ops.after:>14,}",
            f"  products moved   {len(self.moved):>28,}",
        ]
        for name, rule in self.rules.items():
            bound = f" ({rule['bound']:.3g})" if "bound" in rule else ""
            lines.append(f"    {name:<32}{rule['count']:>6} x {rule['exactness']}{bound}")
        lines += grouped("blocked", self.blocked)
        lines += grouped("notes", self.notes)
        return "\n".join(lines) + "\n"


def delay_dequant(module: ModuleOp, *, allow_bounded: bool = False, accumulator_bits: int = 32) -> Report:
    """Move every dequantize behind the products as far as the rules allow; the module is rewritten in place.

    allow_bounded: also apply rules that are exact only up to a bound, which the report states. accumulator_bits: 32 or
    64; products whose sums could overflow it stay in float.
    """
    before = macs_integer(module), float_elements(module), qdq_ops(module)
    already = {op for op in module.walk() if is_integer_product(op)}
    session = Session(Weights(module), allow_bounded, accumulator_bits)
    rules = [rule(session) for rule in RULES]
    PatternRewriteWalker(GreedyRewritePatternApplier(list(rules))).rewrite_module(module)
    moved = [op for op in module.walk() if is_integer_product(op) and op not in already]
    blocked, notes = explain(module, rules)
    return Report(
        macs_total(module),
        BeforeAfter(before[0], macs_integer(module)),
        BeforeAfter(before[1], float_elements(module)),
        BeforeAfter(before[2], qdq_ops(module)),
        [{"src": describe(op), "op": op.name, "macs": macs(op)} for op in moved],
        {
            name: {"count": count, "exactness": session.exactness[name].value}
            | ({"bound": session.bounds[name]} if name in session.bounds else {})
            for name, count in sorted(session.applied.items())
        },
        blocked,
        notes,
    )


def explain(module: ModuleOp, rules: list[Rule]) -> tuple[list[Remark], list[Remark]]:
    """Why each rule left what it left: (blocked, notes)."""
    blocked: list[Remark] = []
    notes: list[Remark] = []
    for op in module.walk():
        remarks = [remark for rule in rules for remark in rule.why_not(op)]
        (notes if _is_behind_product(op) else blocked).extend(remarks)
        if (note := _float_bias(op)) is not None:
            notes.append(note)
    return blocked, notes


def _is_behind_product(op: Operation) -> bool:
    """Whether a constant multiplies a dequantized accumulator: what it cannot fold into blocks no product."""
    if not isinstance(op, MulOp | DivOp):
        return False
    dequantized = (operand.owner for operand in op.operands)
    return any(isinstance(dq, DequantizeOp) and _is_accumulator(dq.input) for dq in dequantized)


def _is_accumulator(value: SSAValue) -> bool:
    return isinstance(value.owner, Operation) and is_integer_product(value.owner)


def _float_bias(op: Operation) -> Remark | None:
    """A bias that stays a float addition behind the dequantize of an integer product."""
    if not isinstance(op, AddOp) or not isinstance(dq := op.lhs.owner, DequantizeOp) or not is_bias(op.rhs):
        return None
    if not isinstance(product := dq.input.owner, Operation) or not is_integer_product(product):
        return None
    quantized = isinstance(op.rhs.owner, DequantizeOp)
    stored = "is not stored at exactly input scale x weight scale" if quantized else "is stored in float"
    return Remark(describe(op), "bias", f"the bias {stored}: it stays a float addition (--allow-bounded rounds it in)")


@dataclass(frozen=True)
class DelayDequantPass(ModulePass):
    """Move dequantization behind matrix products, so that they run on integers.

    Legal on any module of the qvit dialect. Afterwards every linear layer, convolution and product of activations whose
    operands are quantized, with scales that do not vary along the contracted axis, takes integers, and its accumulator
    cannot overflow. Every rule applied is bit-exact or real-exact unless allow-bounded is set. `report=FILE` writes what
    was done, and what could not be and why, as JSON, and prints a short table on stderr.
    """

    name: ClassVar[str] = "delay-dequant"

    allow_bounded: bool = False
    accumulator: int = 32
    report: str = ""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        self.run(op)

    def run(self, module: ModuleOp) -> Report:
        """`apply`, which cannot return what was done."""
        if self.accumulator not in (32, 64):
            raise ValueError(f"delay-dequant: accumulator must be 32 or 64, found {self.accumulator}")
        if self.report.endswith(".html"):
            raise ValueError(f"delay-dequant: its report is JSON; for a page, use qvit-opt --report {self.report}")
        result = delay_dequant(module, allow_bounded=self.allow_bounded, accumulator_bits=self.accumulator)
        if self.report:
            write_report(result, Path(self.report))
        return result


def write_report(report: Report, path: Path) -> None:
    """The JSON into a file, the table onto stderr."""
    write_text(path, report.to_json())
    sys.stderr.write(report.table())
