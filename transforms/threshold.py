"""--threshold: comparators in the place of requantize, with the scales in what they compare with (Lin & Shah)."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, i32
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import GreedyRewritePatternApplier, PatternRewriteWalker

from qvit.dialects.atomic import write_text
from qvit.dialects.ops.elementwise import ClipOp
from qvit.dialects.ops.products import LinearOp, MatmulOp
from qvit.dialects.ops.quantization import RequantizeOp, ThresholdOp
from qvit.dialects.ops.shape import ReshapeOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import Remark, grouped
from qvit.dialects.semantics.integers import IntType, magnitude
from qvit.dialects.types import element_of, integer_element, integer_of, shape_of
from qvit.dialects.weights import Weights
from qvit.transforms.requant.choice import spread
from qvit.transforms.requant.thresholds import thresholds
from qvit.transforms.rule import Exactness, Rewrite, Rule, Session, require


class RequantizeToThreshold(Rule):
    """requantize(x, f, z, y) => threshold(x, t), t[m] the least x whose code is lowest + 1 + m. bit-exact.

    Declined for codes of more than `bits` bits, for factors that are not positive (their codes fall), and where a divisor
    is known at run time only.
    """

    name = "requantize-to-threshold"
    exactness = Exactness.BIT_EXACT

    def __init__(self, session: Session | None = None, bits: int = 8) -> None:
        super().__init__(session)
        self.bits = bits

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, RequantizeOp):
            return None
        result, weights = integer_of(op.result), self.session(op).weights
        assert result is not None
        levels = result.hi - result.lo
        require(result.bits <= self.bits, f"codes of {result.bits} bits would need {levels:,} comparators for each")
        require(op.divisor is None, "it divides by what is known at run time only")
        factors = weights.exact_factors(op.form)
        require(min(factors) > 0, f"its factor {float(min(factors)):.6g} is not positive: codes would fall")
        before, after = (np.atleast_1d(weights.zero_point(z)).tolist() for z in (op.input_zero_point, op.zero_point))
        count = max(len(factors), len(before), len(after))
        zero_points = spread(before, count), spread(after, count)
        found = thresholds(spread(factors, count), zero_points, op.rounding.data, result)
        narrow = IntType(32).lo <= found.min() and found.max() <= IntType(32).hi
        codes = IntType(32 if narrow else 64)
        axis = op.axis.value.data if op.axis is not None and count > 1 else None
        constant = ConstantOp((found if axis is not None else found[0]).astype(codes.dtype), integer_element(codes))
        return Rewrite([constant, ThresholdOp(op.input, constant.result, result.lo, element_of(op.result), axis)])


NEVER = 1 << 30
"""In the place of a threshold that no operand reaches, and -2^30 of one that all do: they leave 32-bit arithmetic room."""


class ClipOfThreshold(Rule):
    """clip(threshold(x, t), low, high) => threshold(x, u), u[m] as t[m] for codes in low + 1..high. bit-exact.

    u[m] is -2^30 for codes up to low, which all x reach, and 2^30 for those beyond high, which none does: declined unless
    types and sizes of the operands of the product that makes x say that |x| < 2^30.
    """

    name = "clip-of-threshold"
    exactness = Exactness.BIT_EXACT

    def plan(self, op: Operation) -> Rewrite | None:
        if not isinstance(op, ClipOp) or not isinstance(inner := op.input.owner, ThresholdOp):
            return None
        weights, codes = self.session(op).weights, integer_of(op.result)
        levels = weights.array(inner.thresholds)
        assert codes is not None
        require(levels is not None, "its thresholds are known at run time only")
        assert levels is not None
        largest = _largest(inner.input, weights)
        require(largest < NEVER, f"its operand may reach {largest}, and thresholds that none reaches are {NEVER}")
        axes = {a.value.data for a in (inner.axis, op.axis) if a is not None}
        require(len(axes) < 2, f"thresholds and bounds lie along different axes, {sorted(axes)}")
        axis = axes.pop() if axes else None
        rows = levels.reshape(-1, levels.shape[-1]).astype(np.int64)
        reached = inner.lowest.value.data + 1 + np.arange(rows.shape[1])  # the code that each threshold begins
        ends = zip(op.bounds, (codes.lo, codes.hi), strict=True)
        low, high = (np.reshape(end if bound is None else bound, (-1, 1)) for bound, end in ends)
        rows = np.where(reached <= low, -NEVER, np.where(reached > high, NEVER, rows.clip(-NEVER, NEVER)))
        constant = ConstantOp(rows.astype(np.int32) if axis is not None else rows[0].astype(np.int32), i32)
        made = ThresholdOp(inner.input, constant.result, inner.lowest.value.data, element_of(op.result), axis)
        return Rewrite([constant, made], [inner])


def _largest(value: SSAValue, weights: Weights) -> int:
    """What no |x| exceeds, by types and sizes."""
    while isinstance(value.owner, ReshapeOp | TransposeOp):
        value = value.owner.input
    codes, product, bias = integer_of(value), value.owner, 0
    assert codes is not None
    most = 1 << codes.bits
    match product:
        case LinearOp():
            operands, depth = (product.input, product.weight), shape_of(product.input)[-1]
            if product.bias is not None:
                array = weights.array(product.bias)
                bias = most if array is None else magnitude(array)
        case MatmulOp():
            operands, depth = (product.lhs, product.rhs), shape_of(product.lhs)[-1]
        case _:
            return most
    a, b = (integer_of(operand) for operand in operands)
    assert a is not None
    assert b is not None
    return min(most, (depth << (a.bits + b.bits)) + bias)  # zero points are codes: no difference needs another bit


@dataclass(frozen=True)
class ThresholdReport:
    """What --threshold did. rewritten: requantizes; comparators: of the largest; left: what stays beside them, and why."""

    rewritten: int
    comparators: int
    left: Sequence[Remark]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    def table(self) -> str:
        """A short summary for people."""
        lines = ["threshold", f"  rewritten {self.rewritten:>34,}", f"  most comparators {self.comparators:>27,}"]
        return "\n".join([*lines, *grouped("left", self.left)]) + "\n"


def to_thresholds(module: ModuleOp, bits: int = 8) -> ThresholdReport:
    """Replace every requantize into codes of at most `bits` bits by comparators, with bounds behind it, in place."""
    session = Session(Weights(module))
    rules: list[Rule] = [RequantizeToThreshold(session, bits), ClipOfThreshold(session)]
    PatternRewriteWalker(GreedyRewritePatternApplier([*rules]), apply_recursively=False).rewrite_module(module)
    left = [remark for op in module.walk() for rule in rules for remark in rule.why_not(op)]
    made = [integer_of(op.result) for op in module.walk() if isinstance(op, ThresholdOp)]
    most = max((codes.hi - codes.lo for codes in made if codes is not None), default=0)
    return ThresholdReport(session.applied[RequantizeToThreshold.name], most, left)


@dataclass(frozen=True)
class ThresholdPass(ModulePass):
    """Replace requantize by comparators: a code is the number of thresholds that the accumulator reaches.

    A clip of the codes, as of heads with fewer bits, moves into the thresholds. Legal on any module of the qvit dialect, best
    behind --integerize, where factors are real numbers still: the thresholds are exact then, whatever rounding the
    requantize has. `bits` (default 8) is the most that the codes have; others stay, as do factors that are not positive or
    known at run time only. `report=FILE` writes what was done as JSON, and prints a short table on stderr.
    """

    name: ClassVar[str] = "threshold"

    bits: int = 8
    report: str = ""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        self.run(op)

    def run(self, module: ModuleOp) -> ThresholdReport:
        """`apply`, which cannot return what was done."""
        if not 1 <= self.bits <= 8:
            raise ValueError(f"threshold: bits must be in 1..8, found {self.bits}")
        result = to_thresholds(module, self.bits)
        if self.report:
            write_text(Path(self.report), result.to_json())
            sys.stderr.write(result.table())
        return result
