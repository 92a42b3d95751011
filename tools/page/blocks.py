"""Which block of a vision transformer an operation belongs to: by the names of its source nodes, else by structure."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from xdsl.ir import Operation

from qvit.dialects.ops.approximated import IntLayerNormOp, IntSoftmaxOp
from qvit.dialects.ops.nonlinear import LayerNormOp, SoftmaxOp
from qvit.dialects.ops.weights import ConstantOp, WeightOp
from qvit.dialects.provenance import sources

EMBEDDINGS, HEAD, ALL = "Embeddings", "Head", "All operations"

_NUMBERED = r"(?:\w*(?:block|layer|stage)s?|h)[._]\d+(?=[._]|$)"
_BLOCK = re.compile(rf"(?:^|\.)({_NUMBERED}(?:\.{_NUMBERED})*)", re.IGNORECASE)
_TWICE = re.compile(r"\b(\w+)\.(?=\1[._]\d)")
"""Exporters write the container before its element: /blocks/blocks.0/."""


def block_path(name: str) -> str | None:
    """'/vit/blocks/blocks.3/norm1/Add' -> 'vit.blocks.3'; None for a node of no numbered block."""
    path = _TWICE.sub("", name.replace("/", ".").lstrip("."))
    found = _BLOCK.search(path)
    return path[: found.end()] if found else None


def block_title(path: str) -> str:
    """'vit.blocks.3' -> 'Block 3', 'stages.1.blocks.0' -> 'Block 1.0'."""
    found = _BLOCK.search(path)
    assert found is not None
    return "Block " + ".".join(re.findall(r"(?<=[._])\d+", found[1]))


def constants(ops: Sequence[Operation]) -> set[Operation]:
    """Stored tensors, and what is computed from them alone: nothing that depends on the model's inputs."""
    found: set[Operation] = set()
    for op in ops:
        stored = isinstance(op, ConstantOp | WeightOp)
        if stored or (op.operands and all(value.owner in found for value in op.operands)):
            found.add(op)
    return found


def assign_blocks(ops: Sequence[Operation], constant: set[Operation]) -> dict[Operation, str]:
    """The block of every operation: a path such as 'blocks.0', or EMBEDDINGS, HEAD, ALL; in the order of computation.

    A constant belongs where it is first used, whatever its own name says: exporters name weights after the module, put
    them all first, and merge equal ones.
    """
    flow = [op for op in ops if op not in constant]
    blocks = _by_name(flow) or _by_structure(flow)
    position = {op: i for i, op in enumerate(ops)}
    for op in reversed(ops):
        if op in constant:
            users = [use.operation for result in op.results for use in result.uses if use.operation in blocks]
            first = min(users, key=position.__getitem__, default=None)
            blocks[op] = blocks[first] if first is not None else ALL
    return blocks


def _by_name(flow: Sequence[Operation]) -> dict[Operation, str]:
    """Nodes of no numbered block are EMBEDDINGS before the first one, HEAD behind the last, else of the one before."""
    paths = {op: block_path(sources(op)[-1]) if sources(op) else None for op in flow}
    return _filled(flow, {op: path for op, path in paths.items() if path is not None})


def _by_structure(flow: Sequence[Operation]) -> dict[Operation, str]:
    """Every softmax is an attention; its block begins at the layer_norm before it, and takes one more before the next."""
    marks: dict[Operation, str] = {}
    norms = [i for i, op in enumerate(flow) if isinstance(op, LayerNormOp | IntLayerNormOp)]
    attentions = [i for i, op in enumerate(flow) if isinstance(op, SoftmaxOp | IntSoftmaxOp)]
    starts = [max((n for n in norms if n < a), default=None) for a in attentions]
    if not starts or None in starts or len(set(starts)) < len(starts):
        return dict.fromkeys(flow, ALL)
    behind = [n for n in norms if n > attentions[-1]]
    end = (
        behind[1] if len(behind) > 1 else len(flow)
    )  # behind the last attention: the second norm of its block, the head's
    bounds = [*(start for start in starts if start is not None), end]
    for number, (start, stop) in enumerate(pairwise(bounds)):
        marks.update(dict.fromkeys(flow[start:stop], f"block.{number}"))
    return _filled(flow, marks)


def _filled(flow: Sequence[Operation], marks: Mapping[Operation, str]) -> dict[Operation, str]:
    if not marks:
        return {}
    last = max(i for i, op in enumerate(flow) if op in marks)
    current, blocks = EMBEDDINGS, dict[Operation, str]()
    for i, op in enumerate(flow):
        current = HEAD if i > last else marks.get(op, current)
        blocks[op] = current
    return blocks
