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


def _layers_behind(value: SSAValue) -> Iterator[LinearOp | None]:
    """The linear layers that take a value, reshaped at most; None for every other user."""
    for use in value.uses:
        op = use.operation
        if isinstance(op, LinearOp) and use.index == 0:
            yield op
        elif isinstance(op, ReshapeOp) and shape_of(op.result)[-1:] == shape_of(value)[-1:]:
            yield from _layers_behind(op.result)
        else:
            yield None


def smooth(
    function: FuncOp, alpha: float, powers: bool, statistics: MutableMapping[SSAValue, Statistics], weights: Weights
) -> list[Smoothed]:
    """Divide the outputs of every layer normalisation by s_c and multiply the weights behind it: equal over the reals.

    s_c = a_c^alpha / w_c^(1 - alpha), a the channel's largest output and w its largest weight, over their geometric mean
    (SmoothQuant, alpha 1/2); with `powers` rounded to the nearest power of two (P2-ViT, 3.3). The statistics follow.
    """
    done: list[Smoothed] = []
    for norm in [op for op in function.walk() if isinstance(op, LayerNormOp)]:
        layers = list(_layers_behind(norm.result))
        seen, arrays = statistics.get(norm.result), [weights.array(v) for v in norm.operands[1:]]
        if not layers or seen is None or any(a is None or a.ndim != 1 for a in arrays):
            continue
        found = [(layer, weights.array(layer.weight)) for layer in layers if layer is not None]
        matrices = [matrix for _, matrix in found if matrix is not None]
        if len(matrices) != len(layers):
            continue
        largest = np.maximum(np.abs(seen.channel_low), np.abs(seen.channel_high))
        column = np.max([np.abs(m).max(0) for m in matrices], 0).astype(np.float64)
        factor = _factors(largest, column, alpha, powers)
        for i, array in enumerate(arrays, start=1):
            assert array is not None
            _replace(norm, i, array / factor)
        for layer, matrix in found:
            assert matrix is not None
            _replace(layer, 1, matrix * factor)
        statistics[norm.result] = seen.per_channel(1 / factor)
        done.append(Smoothed(describe(norm), float(factor.min()), float(factor.max())))
    return done


def _factors(largest: Array, column: Array, alpha: float, powers: bool) -> Array:
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
