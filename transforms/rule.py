"""What every rewrite rule states: its name, how exact it is, and, where it declines, why.

A rule is an ordinary xDSL pattern: it can be used alone, in anybody's rewriter. Inside a pass the rules share a
`Session`, which collects what was applied and reads the weights.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from xdsl.ir import Operation
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern

from qvit.dialects.provenance import Remark, describe, inherit, set_sources, sources
from qvit.dialects.weights import Weights


class Exactness(StrEnum):
    """What a rewrite keeps (transforms/README.md)."""

    BIT_EXACT = "bit-exact"
    """Equal results, bit for bit, for every input."""
    REAL_EXACT = "real-exact"
    """Equal over the real numbers; a float evaluation may round differently."""
    BOUNDED = "bounded"
    """Off by at most a stated bound. Applied only where the user allows it."""


class Declined(Exception):
    """Raised while a rule matches: it concerns the operation, but side conditions fail. The arguments are the reasons."""


def require(condition: object, reason: str) -> None:
    """A rule's side condition."""
    if not condition:
        raise Declined(reason)


@dataclass
class Session:
    """What the rules of one pass share."""

    weights: Weights
    allow_bounded: bool = False
    accumulator_bits: int = 32
    applied: Counter[str] = field(default_factory=Counter[str])
    exactness: dict[str, Exactness] = field(default_factory=dict[str, Exactness])
    bounds: dict[str, float] = field(default_factory=dict[str, float])

    def count(self, rule: str, exactness: Exactness, bound: float | None = None) -> None:
        self.applied[rule] += 1
        self.exactness[rule] = exactness
        if bound is not None:
            self.bounds[rule] = max(bound, self.bounds.get(rule, 0.0))


@dataclass
class Rewrite:
    """The replacement for an operation: new operations, the last one's result stands for the old result.

    replaced: the operations, besides the root, that the new ones stand for.
    """

    new: Sequence[Operation]
    replaced: Sequence[Operation] = ()
    existing: Operation | None = None
    """Instead of new operations: one that is there already, and makes the same value."""
    also: tuple[str, Exactness, float] | None = None
    """A second rule that took part, with its exactness and bound."""


class Rule(RewritePattern, ABC):
    """One rewrite. `plan` matches: a Rewrite, None where the rule does not concern the operation, or Declined."""

    name: ClassVar[str]
    exactness: ClassVar[Exactness]

    def __init__(self, session: Session | None = None) -> None:
        self._session = session

    def session(self, op: Operation) -> Session:
        """The pass's session; a rule that is used alone makes one for each operation."""
        return self._session or Session(Weights.of(op))

    @abstractmethod
    def plan(self, op: Operation) -> Rewrite | None:
        """Match; side conditions come before any operation is made, for a new operation uses its operands at once."""

    def why_not(self, op: Operation) -> list[Remark]:
        """The reasons for which the rule leaves `op`; empty if it does not concern it (or would take it)."""
        try:
            rewrite = self.plan(op)
        except Declined as declined:
            return [Remark(describe(op), self.name, str(reason)) for reason in declined.args]
        if rewrite is not None:
            for new in rewrite.new:
                new.drop_all_references()  # nobody inserts them: they must not count as users
        return []

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        try:
            rewrite = self.plan(op)
        except Declined:
            return
        if rewrite is None:
            return
        session = self.session(op)
        if rewrite.existing is not None:
            inherit(rewrite.existing, *rewrite.replaced, op)
            rewriter.replace(op, [], rewrite.existing.results)
        else:
            _carry_names(rewrite, op)
            rewriter.replace(op, rewrite.new)
        session.count(self.name, self.exactness)
        if rewrite.also is not None:
            session.count(*rewrite.also)


def _carry_names(rewrite: Rewrite, op: Operation) -> None:
    """The last new operation takes all sources, its own last name being the root's; the others take the root's."""
    *before, last = rewrite.new
    for new in before:
        if not sources(new):
            set_sources(new, sources(op))
    inherit(last, *rewrite.replaced, op)
    if last.results[0].name_hint is None:
        last.results[0].name_hint = op.results[0].name_hint
