"""--integerize: softmax, functions, normalisations and additions on codes, and the ends of the model apart."""

import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import GreedyRewritePatternApplier, PatternRewriteWalker

from qvit.dialects.approximations import FUNCTION, LAYER_NORM, SOFTMAX
from qvit.dialects.atomic import write_text
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.ops.weights import ConstantOp, WeightOp
from qvit.dialects.provenance import Remark, describe
from qvit.dialects.types import element_of, is_float
from qvit.dialects.weights import Weights
from qvit.transforms.delay.folds import FOLDS
from qvit.transforms.delay.moves import MOVES
from qvit.transforms.integer.arithmetic import ARITHMETIC
from qvit.transforms.integer.ends import split_ends
from qvit.transforms.integer.functions import FUNCTIONS
from qvit.transforms.integer.rules import Asked, IntegerRule, IntegerSession
from qvit.transforms.rule import Rule

RULES: tuple[type[IntegerRule], ...] = (*ARITHMETIC, *FUNCTIONS)
"""The rules of the pass. Those of --delay-dequant that move dequantization and fold it run along."""


@dataclass(frozen=True)
class IntegerReport:
    """What --integerize did.

    rules: how often each was applied, and how exact it is; approximations: the one that each operation took, by source
    node; left: operations that stay in float, each with the reason.
    """

    rules: dict[str, dict[str, Any]]
    approximations: dict[str, str]
    left: list[Remark]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    def table(self) -> str:
        """A short summary for people."""
        lines = ["integerize"]
        lines += [f"  {name:<34}{rule['count']:>6} x {rule['exactness']}" for name, rule in self.rules.items()]
        taken = Counter(self.approximations.values())
        lines.append(f"  approximations: {', '.join(f'{count} x {name}' for name, count in taken.items()) or 'none'}")
        lines.append(f"  left in float  {len(self.left):>25}")
        lines += [f"    {remark.src}: {remark.reason}" for remark in self.left[:10]]
        return "\n".join(lines) + "\n"


def integerize(module: ModuleOp, asked: Asked | None = None) -> IntegerReport:
    """Replace what stands between dequantize and quantize by integer operations, in place, and split off the ends.

    Afterwards @quantize_inputs makes codes of the model's inputs, @main takes and gives integers alone, and
    @dequantize_outputs makes real numbers of its results; where something stays in float, @main keeps it and the report
    says why.
    """
    session = IntegerSession(Weights(module), allow_bounded=True, asked=asked or Asked())
    rules: list[Rule] = [rule(session) for rule in (*RULES, *MOVES, *FOLDS)]
    PatternRewriteWalker(GreedyRewritePatternApplier([*rules])).rewrite_module(module)
    for function in [op for op in module.ops if isinstance(op, FuncOp)]:
        split_ends(module, function)
    return IntegerReport(
        {
            name: {"count": count, "exactness": session.exactness[name].value}
            for name, count in sorted(session.applied.items())
        },
        session.chosen,
        _left(module, rules),
    )


def _left(module: ModuleOp, rules: list[Rule]) -> list[Remark]:
    """Every operation of @main that makes floats, with the reason of a rule where one has something to say."""
    found: list[Remark] = []
    for function in module.ops:
        if not isinstance(function, FuncOp) or function.sym_name.data != "main":
            continue
        for op in function.walk():
            made = [result for result in op.results if is_float(element_of(result))]
            if not made or isinstance(op, ConstantOp | WeightOp | DequantizeOp):
                continue  # a dequantize stands in front of what stays, and is no reason of its own
            found.append(_reason(op, rules))
    return found


def _reason(op: Operation, rules: list[Rule]) -> Remark:
    behind = [use.operation for result in op.results for use in result.uses]
    for candidate in (*(user for user in behind if isinstance(user, QuantizeOp)), op):
        for rule in rules:
            if remarks := rule.why_not(candidate):
                return Remark(describe(op), op.name, remarks[0].reason)
    quantized = any(isinstance(user, QuantizeOp) for user in behind)
    reason = "it has no integer form" if quantized else "its result has no quantizer"
    return Remark(describe(op), op.name, reason)


def parse_names(option: str, known: Mapping[str, object], what: str) -> tuple[str, ...]:
    """`table+quad` -> names, each known; ValueError otherwise."""
    names = tuple(option.split("+"))
    for name in names:
        if name not in known:
            raise ValueError(f"integerize: {what} is one of {', '.join(known)} (several with +), found {name!r}")
    return names


@dataclass(frozen=True)
class IntegerizePass(ModulePass):
    """Replace float functions between dequantize and quantize by integer ones, and split off the ends of the model.

    Legal on any module of the qvit dialect, best behind --delay-dequant. softmax, function and layer-norm name the
    approximations of docs/approximations.md, several with + to take the first whose conditions hold. `unchecked` takes one
    even where its conditions do not hold. `round-each` rounds both terms of an addition, as I-ViT does. Afterwards @main
    computes on integers alone, but for what the report (`report=FILE`, and a table on stderr) names with the reason.
    """

    name: ClassVar[str] = "integerize"

    softmax: str = "+".join(Asked.softmax)
    function: str = "+".join(Asked.function)
    layer_norm: str = "+".join(Asked.layer_norm)
    unchecked: bool = False
    round_each: bool = False
    report: str = ""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        sys.stderr.write(self.run(op).table())

    def asked(self) -> Asked:
        """The options, as the function takes them; ValueError for a name that is unknown."""
        return Asked(
            parse_names(self.softmax, SOFTMAX, "softmax"),
            parse_names(self.function, FUNCTION, "function"),
            parse_names(self.layer_norm, LAYER_NORM, "layer-norm"),
            self.unchecked,
            self.round_each,
        )

    def run(self, module: ModuleOp, layers: Mapping[str, tuple[str, ...]] | None = None) -> IntegerReport:
        """`apply`, which cannot return what was done. layers: other approximations for single operations, as in `Asked`."""
        report = integerize(module, replace(self.asked(), layers=layers or {}))
        if self.report:
            write_text(Path(self.report), report.to_json())
        return report
