"""Exact changes of float weights that make ranges kinder: smoothing of layer normalisations, centring of keys."""

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass

import numpy as np
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from qvit.dialects.ops.elementwise import AddOp
from qvit.dialects.ops.nonlinear import LayerNormOp, SoftmaxOp
from qvit.dialects.ops.products import LinearOp, MatmulOp
from qvit.dialects.ops.shape import ReshapeOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import describe, set_sources, sources
from qvit.dialects.semantics.integers import Array
from qvit.dialects.semantics.pot import Exponent
from qvit.dialects.types import element_dtype, element_of, shape_of
from qvit.dialects.weights import Weights
from qvit.transforms.ptq.observers import powers as to_powers
from qvit.transforms.ptq.sites import is_constant, is_scaling
from qvit.transforms.ptq.statistics import Statistics
from qvit.transforms.rule import Declined, require


@dataclass(frozen=True)
class Smoothed:
    """A layer normalisation and the factors that went into the layers behind it: smallest and largest."""

    src: str
    low: float
    high: float


def _replace(op: Operation, index: int, array: Array) -> None:
    """Operand `index` becomes a constant."""
    old = op.operands[index]
    element = element_of(old)
    new = ConstantOp(array.astype(element_dtype(element)), element)
    if isinstance(old.owner, Operation):
        set_sources(new, sources(old.owner))
    Rewriter.insert_op(new, InsertPoint.before(op))
    op.operands[index] = new.result


def _layers_behind(value: SSAValue) -> Iterator[LinearOp]:
    """The linear layers that take a value as their input, reshaped at most; Declined if anything else takes it."""
    for use in value.uses:
        op = use.operation
        if isinstance(op, ReshapeOp) and shape_of(op.result)[-1:] == shape_of(value)[-1:]:
            yield from _layers_behind(op.result)
        elif isinstance(op, LinearOp):
            require(
                op.input is value and op.weight is not value,
                f"{describe(op)} takes it as something else than its input",
            )
            yield op
        else:
            raise Declined(f"{describe(op)} takes it, a {op.name}: expected linear layers alone")


@dataclass(frozen=True)
class Smoothable:
    """A layer normalisation with constant gamma and beta, and the linear layers with constant weights that alone take it."""

    norm: LayerNormOp
    constants: tuple[Array, ...]
    layers: tuple[tuple[LinearOp, Array], ...]

    @property
    def columns(self) -> Array:
        """The largest weight of each channel, float64 [C]."""
        return np.max([np.abs(matrix).max(0) for _, matrix in self.layers], 0).astype(np.float64)

    def divide(self, factor: Array) -> Smoothed:
        """Divide the normalisation's results by factors [C], and multiply the weights behind it, in place."""
        for i, array in enumerate(self.constants, start=1):
            _replace(self.norm, i, array / factor)
        for layer, matrix in self.layers:
            _replace(layer, 1, matrix * factor)
        return Smoothed(describe(self.norm), float(factor.min()), float(factor.max()))


def smoothable(norm: LayerNormOp, weights: Weights) -> Smoothable:
    """Declined with the reason where the results cannot be divided."""
    require(norm.axis.value.data == len(shape_of(norm.input)) - 1, "it normalises over more than the last axis")
    constants = [array for v in norm.operands[1:] if (array := weights.array(v)) is not None and array.ndim == 1]
    require(len(constants) == len(norm.operands) - 1, "its gamma and beta are not constant vectors")
    users = list(_layers_behind(norm.result))
    require(users, "nothing takes it")
    layers: list[tuple[LinearOp, Array]] = []
    for user in users:
        matrix = weights.array(user.weight)
        if matrix is None:
            raise Declined(f"the weights of {describe(user)} are not constant floats: smooth before quantization")
        layers.append((user, matrix))
    return Smoothable(norm, tuple(constants), tuple(layers))


def smooth(
    function: FuncOp, alpha: float, powers: bool, statistics: MutableMapping[SSAValue, Statistics], weights: Weights
) -> list[Smoothed]:
    """Divide the outputs of every layer normalisation by s_c and multiply the weights behind it: equal over the reals.

    s_c = a_c^alpha / w_c^(1 - alpha), a the channel's largest output and w its largest weight, over their geometric mean
    (SmoothQuant, alpha 1/2); with `powers` rounded to the nearest power of two (P2-ViT, 3.3). The statistics follow.
    """
    done: list[Smoothed] = []
    for norm in [op for op in function.walk() if isinstance(op, LayerNormOp)]:
        try:
            found = smoothable(norm, weights)
        except Declined:
            continue
        if (seen := statistics.get(norm.result)) is None:
            continue
        largest = np.maximum(np.abs(seen.channel_low), np.abs(seen.channel_high))
        factor = factors(largest, found.columns, alpha, powers)
        done.append(found.divide(factor))
        statistics[norm.result] = seen.per_channel(1 / factor)
    return done


def factors(largest: Array, column: Array, alpha: float, powers: bool) -> Array:
    """One for each channel; 1 where a channel or its weights are 0."""
    alive = (largest > 0) & (column > 0)
    factor = np.ones_like(largest)
    factor[alive] = largest[alive] ** alpha / column[alive] ** (1 - alpha)
    if alive.any():
        factor[alive] /= np.exp(np.log(factor[alive]).mean())
    return to_powers(factor, Exponent.NEAREST) if powers else factor


def _keys_of(softmax: SoftmaxOp) -> LinearOp | None:
    """The linear layer whose outputs are the keys of an attention: the right operand of the product before its softmax."""
    value = softmax.input
    while not isinstance(owner := value.owner, MatmulOp):
        if not isinstance(owner, AddOp | ReshapeOp) and not (isinstance(owner, Operation) and is_scaling(owner)):
            return None
        moving = [v for v in owner.operands if not is_constant(v)]
        if len(moving) != 1:
            return None
        value = moving[0]
    value = owner.rhs
    while isinstance(owner := value.owner, ReshapeOp | TransposeOp):
        if len(list(value.uses)) != 1:
            return None
        value = owner.input
    return owner if isinstance(owner, LinearOp) and len(list(value.uses)) == 1 else None


def centre_keys(function: FuncOp, statistics: MutableMapping[SSAValue, Statistics], weights: Weights) -> list[str]:
    """Subtract from the keys their mean over all tokens: it adds the same to a whole row of scores. Exact.

    Returns the names of the layers whose biases changed. The statistics follow.
    """
    done: list[str] = []
    for softmax in [op for op in function.walk() if isinstance(op, SoftmaxOp)]:
        layer = _keys_of(softmax)
        seen = None if layer is None else statistics.get(layer.result)
        if layer is None or seen is None or layer.bias is None or (bias := weights.array(layer.bias)) is None:
            continue
        mean = seen.channel_mean
        _replace(layer, 2, bias - mean)
        statistics[layer.result] = seen.per_channel(np.ones_like(mean), -mean)
        done.append(describe(layer))
    return done
