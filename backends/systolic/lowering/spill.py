"""Which tensors live in DRAM because the memory for activations has no room for them."""

from collections.abc import Iterable, Mapping

from xdsl.dialects.func import ReturnOp
from xdsl.ir import Operation, SSAValue

from qvit.backends.systolic.lowering.build import bytes_of
from qvit.backends.systolic.lowering.groups import Group
from qvit.dialects.ops.products import LinearOp
from qvit.dialects.ops.shape import BroadcastOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp, WeightOp

VIEWS = (TransposeOp, SliceOp, BroadcastOp, ReshapeOp)
AGAIN = 3
"""How often the weights of a layer come in again whose operand lives in DRAM, roughly."""


def spilled(ops: Iterable[Operation], found: Mapping[Operation, Group], end: Operation, budget: int) -> list[SSAValue]:
    """Where most is in use at once, the tensor goes whose way to DRAM and back costs least, until `budget` bytes suffice."""
    ordered = [*ops, end]
    when = {op: at for at, op in enumerate(ordered)}
    for group in set(found.values()):  # a group is computed where it ends
        when.update((op, when[group.ops[-1]]) for op in group.ops)
    root: dict[SSAValue, SSAValue] = {}
    first: dict[SSAValue, int] = {}
    last: dict[SSAValue, int] = {}
    cost: dict[SSAValue, int] = {}
    for op in ordered:
        for value in dict.fromkeys(op.operands):
            if (home := root.get(value, value)) in first:
                last[home] = max(last[home], when[op])
                cost[home] += bytes_of(value)
                if isinstance(op, LinearOp) and value is op.input:
                    cost[home] += AGAIN * bytes_of(op.weight)
        if isinstance(op, (ConstantOp, WeightOp, ReturnOp)):
            continue
        if isinstance(op, VIEWS) and op not in found:
            root[op.results[0]] = root.get(op.operands[0], op.operands[0])
        elif op not in found or op is found[op].ops[-1]:
            for value in op.results:
                first[value] = last[value] = when[op]
                cost[value] = bytes_of(value)
    out: list[SSAValue] = []
    while True:
        change = [0] * (len(ordered) + 1)
        for value, start in first.items():
            change[start] += bytes_of(value)
            change[last[value] + 1] -= bytes_of(value)
        held = most = peak = 0
        for at, delta in enumerate(change):
            held += delta
            if held > most:
                most, peak = held, at
        if most <= budget:
            return out
        live = [value for value, start in first.items() if start <= peak <= last[value]]
        enough = [value for value in live if bytes_of(value) >= most - budget]
        worst = min(enough, key=lambda v: cost[v]) if enough else min(live, key=lambda v: cost[v] / bytes_of(v))
        out.append(worst)
        del first[worst]
