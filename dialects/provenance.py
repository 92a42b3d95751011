"""Where an operation came from: the names of the source graph's nodes, carried through every rewrite."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from xdsl.dialects.builtin import ArrayAttr, StringAttr
from xdsl.ir import Operation, SSAValue
from xdsl.utils.hints import isa

SRC = "qvit.src"
"""The attribute: an array of node names. The last one names the node whose value the operation's result is."""


NAME = "qvit.name"
"""Attribute of the arguments and results of a function: what the source graph calls them."""


@dataclass(frozen=True)
class Remark:
    """Something that could not be done: the source node it concerns, the rule, and the reason."""

    src: str
    rule: str
    reason: str


def grouped(title: str, remarks: Sequence[Remark]) -> Iterator[str]:
    """Lines of a table: how many there are, and for each rule its count and its first one."""
    yield f"  {title:<16} {len(remarks):>28,}"
    for rule in dict.fromkeys(r.rule for r in remarks):
        mine = [r for r in remarks if r.rule == rule]
        yield f"    {len(mine)} x {rule}, first {mine[0].src}: {mine[0].reason}"


def sources(op: Operation) -> tuple[str, ...]:
    """The names of the source nodes that `op` stands for; empty if it has none. A weight is named by its key."""
    attr = op.attributes.get(SRC)
    if not isa(attr, ArrayAttr):
        key = op.properties.get("key")
        return (key.data,) if isinstance(key, StringAttr) else ()
    return tuple(name.data for name in attr if isinstance(name, StringAttr))


def set_sources(op: Operation, names: Iterable[str]) -> None:
    """Replace the names of `op`; duplicates are dropped, order is kept by last occurrence."""
    unique = tuple(reversed(dict.fromkeys(reversed(tuple(names)))))
    if unique:
        op.attributes[SRC] = ArrayAttr([StringAttr(name) for name in unique])
    else:
        op.attributes.pop(SRC, None)


def inherit(new: Operation, *replaced: Operation) -> None:
    """Give `new` the union of the sources of the operations that it replaces, in their order.

    List the operation whose result `new` stands for last: its own name then stays last.
    """
    set_sources(new, [name for op in (new, *replaced) for name in sources(op)])


def describe(op: Operation | SSAValue) -> str:
    """How messages name an operation: its node's name, or its kind if it has none."""
    if isinstance(op, SSAValue):
        return describe(op.owner) if isinstance(op.owner, Operation) else "an argument of the function"
    names = sources(op)
    return names[-1] if names else op.name
