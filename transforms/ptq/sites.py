"""The tensors of a float module that need codes, and what for.

A site is a set of float tensors that must share one scale, because operations that only move elements connect them. Its role
says what its codes are used for, and so which quantizer of a scheme it takes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import BlockArgument, Operation, SSAValue, Use

from qvit.dialects.ops.elementwise import AddOp, ClipOp, DivOp, MulOp, ReluOp, SelectOp, SigmoidOp, TanhOp
from qvit.dialects.ops.nonlinear import ArgmaxOp, GeluOp, LayerNormOp, ReduceMeanOp, SoftmaxOp
from qvit.dialects.ops.products import Conv2dOp, LinearOp, MatmulOp
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.ops.shape import BroadcastOp, ConcatOp, GatherOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp, WeightOp
from qvit.dialects.provenance import describe
from qvit.dialects.types import element_of, is_float, shape_of

PRODUCTS = (Conv2dOp, LinearOp, MatmulOp)
MOVES = (ReshapeOp, TransposeOp, SliceOp, ConcatOp, GatherOp, BroadcastOp)
CONSTANTS = (ConstantOp, WeightOp)
FUNCTIONS = (ClipOp, GeluOp, MulOp, ReluOp, SigmoidOp, TanhOp)


class Role(StrEnum):
    """What the codes of a site are for."""

    PIXELS = "pixels"
    """The model's input, into a product."""
    LINEAR = "linear"
    """The input of linear layers and convolutions."""
    HIDDEN = "hidden"
    """The same, where an elementwise function made it: the hidden layer of an MLP."""
    ATTENTION = "attention"
    """An operand of a product of activations: queries, keys, values."""
    PROBABILITIES = "probabilities"
    """The result of a softmax."""
    SCORES = "scores"
    """The operand of a softmax."""
    FUNCTION = "function"
    """The operand of an elementwise function."""
    BRANCH = "branch"
    """The result of a product, into an addition."""
    RESIDUAL = "residual"
    """Everything else: the residual stream."""


@dataclass
class Site:
    """Tensors of one scale.

    values: all of them; producers: those that are no results of moves, constants apart; constants: constant ones; uses: by
    operations that are no moves.
    """

    values: list[SSAValue] = field(default_factory=list[SSAValue])
    producers: list[SSAValue] = field(default_factory=list[SSAValue])
    constants: list[SSAValue] = field(default_factory=list[SSAValue])
    uses: list[Use] = field(default_factory=list[Use])

    @property
    def name(self) -> str:
        """How reports call it: the source node of what makes it."""
        made = (*self.producers, *self.constants)
        value = made[0]
        return describe(value) if isinstance(value.owner, Operation) else f"input {value.name_hint or ''}".strip()


def is_scaling(op: Operation) -> bool:
    """A product with constants on one side: it changes what codes mean, not the codes."""
    if not isinstance(op, MulOp | DivOp):
        return False
    return isinstance(op.rhs.owner, CONSTANTS) or (isinstance(op, MulOp) and isinstance(op.lhs.owner, CONSTANTS))


def is_constant(value: SSAValue) -> bool:
    """A constant, or one that is only moved."""
    owner = value.owner
    if isinstance(owner, MOVES):
        return all(is_constant(operand) for operand in owner.operands)
    return isinstance(owner, CONSTANTS)


def _float_operands(op: Operation) -> list[SSAValue]:
    return [operand for operand in op.operands if is_float(element_of(operand))]


def find_sites(function: FuncOp) -> list[Site]:
    """Every site of a function that has a use for codes, in program order."""
    leader: dict[SSAValue, SSAValue] = {}

    def find(value: SSAValue) -> SSAValue:
        while leader[value] is not value:
            leader[value] = leader[leader[value]]
            value = leader[value]
        return value

    values: list[SSAValue] = []
    for value in _values(function):
        if is_float(element_of(value)):
            leader[value] = value
            values.append(value)
    for op in function.walk():
        if isinstance(op, MOVES):
            for operand in _float_operands(op):
                leader[find(operand)] = find(op.results[0])
    sites: dict[SSAValue, Site] = {}
    for value in values:
        site = sites.setdefault(find(value), Site())
        site.values.append(value)
        if isinstance(value.owner, CONSTANTS):
            site.constants.append(value)
        elif not isinstance(value.owner, MOVES):
            site.producers.append(value)
        site.uses += [use for use in value.uses if not isinstance(use.operation, MOVES)]
    return [site for site in sites.values() if needs_codes(site)]


def _values(function: FuncOp) -> Iterator[SSAValue]:
    yield from function.args
    for op in function.walk():
        if op is not function:
            yield from op.results


def channels(site: Site) -> int | None:
    """How many lie along the last axis of all of a site's tensors, where each may have a scale of its own; None if none may.

    Its moves keep that axis, sums make it (of additions and products), and additions and normalisations alone take it.
    """
    if not all(isinstance(p.owner, (AddOp, *PRODUCTS)) for p in site.producers):
        return None
    counts = {shape_of(value)[-1:] for value in site.values}
    moves = [value.owner for value in site.values if isinstance(value.owner, MOVES)]
    if counts == {()} or len(counts) != 1 or not all(map(_keeps_last, moves)):
        return None
    takers = [use.operation for use in site.uses]
    if not all(isinstance(op, AddOp | QuantizeOp) or (isinstance(op, LayerNormOp) and _over_last(op)) for op in takers):
        return None
    return counts.pop()[0]


def _over_last(op: LayerNormOp) -> bool:
    return op.axis.value.data == len(shape_of(op.input)) - 1


def _keeps_last(op: Operation) -> bool:
    """Of a move whose operands and result have as many elements along their last axes: whether these are the same ones."""
    match op:
        case TransposeOp():
            return op.order[-1] == len(op.order) - 1
        case GatherOp():
            return op.axis.value.data != len(shape_of(op.result)) - 1
        case _:
            return True


def heads_of(site: Site) -> int | None:
    """Into how many heads a linear layer's results fall, of which a product of activations takes one at a time; None for others."""
    operands = [use.operation.operands[use.index] for use in site.uses]
    counts = {shape_of(v)[-3] if len(shape_of(v)) > 2 else 0 for v in operands}
    if site.constants or len(counts) != 1 or not all(isinstance(use.operation, MatmulOp) for use in site.uses):
        return None
    (heads,), channels = counts, {shape_of(p)[-1] for p in site.producers}
    if heads < 2 or len(channels) != 1 or not all(isinstance(p.owner, LinearOp) for p in site.producers):
        return None
    (width,) = channels
    apart = any(shape_of(v)[-2:] == (heads, width // heads) for v in site.values if isinstance(v.owner, ReshapeOp))
    return heads if width % heads == 0 and apart else None


def mean_of(site: Site) -> int | None:
    """Of how many numbers a site is the mean; None for another site, or where not only layers, norms and the caller take it."""
    counts = {p.owner.count if isinstance(p.owner, ReduceMeanOp) else None for p in site.producers}
    takers = [use.operation for use in site.uses if use_role(site, use) is not None]
    alone = all(isinstance(op, LinearOp | LayerNormOp | ReturnOp) for op in takers) and not site.constants
    return counts.pop() if len(counts) == 1 and alone else None


def same_rows(value: SSAValue) -> SSAValue:
    """The first of the tensors that have the same rows along the last axis, in another order at most."""
    while isinstance(move := value.owner, ReshapeOp | TransposeOp):
        if shape_of(move.input)[-1:] != shape_of(value)[-1:] or not _keeps_last(move):
            break
        value = move.input
    return value


def needs_codes(site: Site) -> bool:
    """Not where the codes are there already, in one scale, where nobody takes them, or where they would only be parameters."""
    stated = [p.owner.params if isinstance(p.owner, DequantizeOp) else None for p in site.producers]
    if stated and not site.constants and stated[0] is not None and stated.count(stated[0]) == len(stated):
        return False
    return any(use_role(site, use) is not None for use in site.uses)


def use_role(site: Site, use: Use) -> Role | None:
    """What one use takes the site's codes for; None where it takes none."""
    op, operand = use.operation, use.operation.operands[use.index]
    match op:
        case QuantizeOp():
            return None
        case ReturnOp():
            # a product's sums are an output as they are
            return None if all(sums(p) for p in site.producers) else Role.RESIDUAL
        case Conv2dOp() | LinearOp():
            if use.index != 0:
                return None  # weights and biases have quantizers of their own
            if any(isinstance(p, BlockArgument) for p in site.producers):
                return Role.PIXELS
            return Role.HIDDEN if any(isinstance(p.owner, FUNCTIONS) for p in site.producers) else Role.LINEAR
        case MatmulOp():
            softmax = any(isinstance(p.owner, SoftmaxOp) for p in site.producers)
            return Role.PROBABILITIES if softmax else Role.ATTENTION
        case SoftmaxOp():
            return Role.SCORES
        case LayerNormOp():
            return Role.RESIDUAL if operand is op.input else None
        case AddOp():
            if is_constant(op.lhs) and is_constant(op.rhs):
                return None
            if op.rhs is operand and not site.producers and _is_bias(op):
                return None
            return Role.BRANCH if site.producers and all(_behind_product(p) for p in site.producers) else Role.RESIDUAL
        case _ if is_scaling(op):
            return None if operand in (v for v in op.operands if is_constant(v)) else _role_behind(site, op)
        case ArgmaxOp() | ReduceMeanOp() | SelectOp():
            return Role.RESIDUAL
        case GeluOp() | MulOp():
            return Role.FUNCTION
        case _:
            return Role.FUNCTION if len(op.operands) == 1 else Role.RESIDUAL


def _is_bias(op: AddOp) -> bool:
    """A vector behind a product joins its accumulator."""
    return _behind_product(op.lhs) and len(shape_of(op.rhs)) == 1


def _behind_product(value: SSAValue) -> bool:
    """Made by a product, or by scaling one."""
    owner = value.owner
    if isinstance(owner, MulOp | DivOp) and is_scaling(owner):
        return any(_behind_product(v) for v in owner.operands if not is_constant(v))
    return isinstance(owner, PRODUCTS)


def sums(value: SSAValue) -> bool:
    """Behind a product whose integer sums have a scale; those of a softmax are still to be divided by its own sums."""
    if not _behind_product(value):
        return False
    owner = value.owner
    while isinstance(owner, MulOp | DivOp):
        owner = next(v for v in owner.operands if not is_constant(v)).owner
    return not (isinstance(owner, MatmulOp) and isinstance(owner.lhs.owner, SoftmaxOp))


def _role_behind(site: Site, op: Operation) -> Role | None:
    """Of a scaling: a product's sums take the factor into their scale and need no codes; others need them in front."""
    return None if all(sums(p) for p in site.producers) else Role.FUNCTION


PRECEDENCE = (
    Role.RESIDUAL,
    Role.BRANCH,
    Role.SCORES,
    Role.FUNCTION,
    Role.PROBABILITIES,
    Role.ATTENTION,
    Role.PIXELS,
    Role.HIDDEN,
    Role.LINEAR,
)
"""Which role a site takes that has several uses: the one that is served worst by the others' codes."""


def role(site: Site) -> Role:
    """The site's role."""
    roles = {use_role(site, use) for use in site.uses}
    return next(r for r in PRECEDENCE if r in roles)
