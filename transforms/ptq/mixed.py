"""Which layers get wider weights: P2-ViT's coarse-to-fine mixed precision, scored on calibration samples alone.

Coarse: random choices within a budget of multiply-accumulates times bits, pairs of consecutive layers alike, ranked by the
summed errors of the layers' outputs. The paper weighs |W - Q(W)|^2 with the trace of the Hessian; here the samples' second
moments stand for it, which give the output's error itself: tr((W - Q) M (W - Q)^T) / tr(W M W^T). Fine: an evolutionary
search from the best of these, whose fitness is how near the quantized model's outputs are to the float model's (the paper
takes the accuracy on its test set).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, SSAValue

from qvit.dialects.ops.products import Conv2dOp, LinearOp
from qvit.dialects.provenance import describe, sources
from qvit.dialects.semantics.integers import Array
from qvit.dialects.weights import Weights
from qvit.transforms.ptq.insert import LayerBits, MixedChoice, dequantized_weights, insert, second_moments
from qvit.transforms.ptq.scheme import Quantization
from qvit.transforms.ptq.statistics import Statistics
from qvit.transforms.ptq.weights import WeightCodes, WeightQuantizer, quantize_weights
from qvit.transforms.statistics import macs

Bits: TypeAlias = tuple[bool, ...]
"""For each layer, whether it has the wider weights."""
Fitness: TypeAlias = Callable[[Bits], float]
"""The smaller the better."""
Execute: TypeAlias = Callable[[ModuleOp], Sequence[Array]]
"""Runs a module on calibration samples: its outputs."""
Progress: TypeAlias = Callable[[int, int], None]
"""(evaluations done, evaluations in all)"""

DRAWN, KEPT, PARENTS, GENERATIONS, MUTATIONS, CROSSOVERS = 1000, 50, 25, 8, 10, 10
"""Of the search (P2-ViT's released code; how many are drawn is ours)."""
EVALUATIONS = PARENTS + GENERATIONS * (MUTATIONS + CROSSOVERS)


@dataclass(frozen=True)
class Layer:
    """One whose bits are to be chosen: its multiply-accumulates, and its output's relative error, narrow and wide."""

    name: str
    macs: int
    narrow: float
    wide: float


# --- the search --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Budget:
    """At most `most` times the cost of narrow weights everywhere; extra: what each layer adds to that cost, relative."""

    most: float
    extra: Array

    @staticmethod
    def of(layers: Sequence[Layer], narrow: int, wide: int, most: float) -> "Budget":
        counts = np.array([layer.macs for layer in layers], np.float64)
        return Budget(most, counts / counts.sum() * (wide - narrow) / narrow)

    def cost(self, bits: Bits) -> float:
        return 1 + float(self.extra[list(bits)].sum())

    def holds(self, bits: Bits) -> bool:
        return self.cost(bits) <= self.most + 1e-9

    def repaired(self, bits: Bits, rng: np.random.Generator) -> Bits:
        """Random layers become narrow until the budget holds."""
        wide = [i for i in rng.permutation(len(bits)).tolist() if bits[i]]
        while not self.holds(bits):
            bits = _with(bits, wide.pop(), False)
        return bits


def _with(bits: Bits, i: int, value: bool) -> Bits:
    return (*bits[:i], value, *bits[i + 1 :])


def omega(layers: Sequence[Layer], bits: Bits) -> float:
    """The summed relative errors of the layers' outputs."""
    return sum(layer.wide if wide else layer.narrow for layer, wide in zip(layers, bits, strict=True))


def coarse(layers: Sequence[Layer], budget: Budget, rng: np.random.Generator) -> list[Bits]:
    """The best choices within the budget by their summed errors, best first: a greedy one, and random ones of pairs."""
    found = {_greedy(layers, budget)}
    for _ in range(DRAWN):
        pairs = (rng.random(-(-len(layers) // 2)) < rng.random()).repeat(2)[: len(layers)]
        found.add(budget.repaired(tuple(map(bool, pairs)), rng))
    return sorted(found, key=lambda bits: (omega(layers, bits), bits))[:KEPT]


def _greedy(layers: Sequence[Layer], budget: Budget) -> Bits:
    """Layer after layer by error saved for its cost, as long as the budget holds."""
    bits = (False,) * len(layers)
    saved = [(layer.narrow - layer.wide) / extra for layer, extra in zip(layers, budget.extra, strict=True)]
    for i in sorted(range(len(layers)), key=lambda i: -saved[i]):
        if saved[i] > 0 and budget.holds(wider := _with(bits, i, True)):
            bits = wider
    return bits


def search(
    layers: Sequence[Layer],
    budget: Budget,
    fitness: Fitness,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> tuple[Bits, float, tuple[float, ...], int]:
    """(the best choice, the fitness before the fine search, the best fitness of each generation, evaluations).

    The same for the same seed. A choice is evaluated once.
    """
    rng = np.random.default_rng(seed)
    known: dict[Bits, float] = {}

    def evaluate(bits: Bits) -> float:
        if bits not in known:
            known[bits] = fitness(bits)
            progress(len(known), EVALUATIONS)
        return known[bits]

    def best(candidates: Sequence[Bits]) -> list[Bits]:
        return sorted(set(candidates), key=lambda bits: (evaluate(bits), bits))[:PARENTS]

    parents = best(coarse(layers, budget, rng)[:PARENTS])
    start, history = evaluate(parents[0]), list[float]()
    for _ in range(GENERATIONS):
        children = [budget.repaired(_mutated(_one(parents, rng), rng), rng) for _ in range(MUTATIONS)]
        pairs = [(_one(parents, rng), _one(parents, rng)) for _ in range(CROSSOVERS)]
        children += [budget.repaired(_crossed(a, b, rng), rng) for a, b in pairs]
        parents = best([*parents, *children])
        history.append(evaluate(parents[0]))
    progress(EVALUATIONS, EVALUATIONS)
    return parents[0], start, tuple(history), len(known)


def _one(parents: Sequence[Bits], rng: np.random.Generator) -> Bits:
    return parents[int(rng.integers(len(parents)))]


def _mutated(bits: Bits, rng: np.random.Generator) -> Bits:
    """Each layer is drawn anew with probability 1/2."""
    anew, drawn = (rng.random(len(bits)) < 0.5 for _ in range(2))
    return tuple(np.where(anew, drawn, bits).tolist())


def _crossed(a: Bits, b: Bits, rng: np.random.Generator) -> Bits:
    """Each layer from either parent."""
    return tuple(np.where(rng.random(len(a)) < 0.5, a, b).tolist())


# --- on a module -------------------------------------------------------------------------------------------------------


def choose_bits(
    module: ModuleOp,
    function: FuncOp,
    quantization: Quantization,
    statistics: Mapping[SSAValue, Statistics],
    execute: Execute | None = None,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> tuple[dict[Operation, WeightQuantizer], MixedChoice]:
    """The quantizer of each layer with wide weights, for `insert`, and how they were found.

    module: float, prepared for quantization; it is not changed. statistics: with second moments. execute: the fitness of a
    choice is then the mean squared difference of the quantized module's outputs from the float module's; without it, the
    summed errors of the layers. Convolutions (patch embeddings) are always wide, as in the paper; layers whose weights an
    override concerns stay as it says.
    """
    mixed, weights = quantization.mixed, Weights(module)
    assert mixed is not None
    narrow, wide = quantization.weights, mixed.wide

    def free(op: LinearOp | Conv2dOp) -> bool:
        return weights.array(op.weight) is not None and quantization.weight_quantizer(sources(op)) == narrow

    fixed: dict[Operation, WeightQuantizer] = {
        op: wide for op in function.walk() if isinstance(op, Conv2dOp) and free(op)
    }
    found = [op for op in function.walk() if isinstance(op, LinearOp) and free(op)]
    codes = [_both(op, narrow, wide, weights, statistics) for op in found]
    layers = [_layer(op, pair, weights, statistics) for op, pair in zip(found, codes, strict=True)]
    budget = Budget.of(layers, narrow.bits, wide.bits, mixed.budget)
    fitness: Fitness = partial(omega, layers)
    if execute is not None:
        wanted = execute(module)
        candidate = _Candidate.of(module, function, quantization, statistics, fixed)
        candidate.offer(found, codes, (narrow, wide))
        fitness = partial(candidate.difference, execute, wanted)
    bits, start, history, evaluations = search(layers, budget, fitness, seed, progress)
    chosen = [
        LayerBits(layer.name, layer.macs, (wide if is_wide else narrow).bits, layer.narrow, layer.wide)
        for layer, is_wide in zip(layers, bits, strict=True)
    ]
    choice = MixedChoice(tuple(chosen), mixed.budget, budget.cost(bits), start, history[-1], history, evaluations)
    return {**fixed, **{op: wide for op, is_wide in zip(found, bits, strict=True) if is_wide}}, choice


@dataclass
class _Candidate:
    """A quantized copy of the module, whose weights are exchanged."""

    module: ModuleOp
    copies: Mapping[SSAValue, SSAValue]
    layers: list[tuple[LinearOp, tuple[SSAValue, SSAValue]]] = field(
        default_factory=list[tuple[LinearOp, tuple[SSAValue, SSAValue]]]
    )

    @staticmethod
    def of(
        module: ModuleOp,
        function: FuncOp,
        quantization: Quantization,
        statistics: Mapping[SSAValue, Statistics],
        fixed: Mapping[Operation, WeightQuantizer],
    ) -> "_Candidate":
        copies: dict[SSAValue, SSAValue] = {}
        copy = module.clone(copies)
        main = next(op for op in copy.ops if isinstance(op, FuncOp) and op.sym_name == function.sym_name)
        chosen = {_owner(copies[op.results[0]]): quantizer for op, quantizer in fixed.items()}
        insert(copy, main, quantization, {copies[value]: seen for value, seen in statistics.items()}, chosen)
        return _Candidate(copy, copies)

    def offer(
        self,
        found: Sequence[LinearOp],
        codes: Sequence[tuple[WeightCodes, WeightCodes]],
        quantizers: tuple[WeightQuantizer, WeightQuantizer],
    ) -> None:
        """Both choices of codes for the copies of layers."""
        narrow, wide = (quantizer.type for quantizer in quantizers)
        for op, (few, many) in zip(found, codes, strict=True):
            layer = _owner(self.copies[op.result])
            assert isinstance(layer, LinearOp)
            self.layers.append(
                (layer, (dequantized_weights(layer, few, narrow), dequantized_weights(layer, many, wide)))
            )

    def difference(self, execute: Execute, wanted: Sequence[Array], bits: Bits) -> float:
        """The mean squared difference of the outputs from those wanted."""
        for (layer, pair), is_wide in zip(self.layers, bits, strict=True):
            layer.operands[1] = pair[is_wide]
        pairs = zip(execute(self.module), wanted, strict=True)
        return float(np.mean([np.square(np.subtract(a, b, dtype=np.float64)).mean() for a, b in pairs]))


def _owner(value: SSAValue) -> Operation:
    assert isinstance(value.owner, Operation)
    return value.owner


def _both(
    op: LinearOp,
    narrow: WeightQuantizer,
    wide: WeightQuantizer,
    weights: Weights,
    statistics: Mapping[SSAValue, Statistics],
) -> tuple[WeightCodes, WeightCodes]:
    array, moments = weights.array(op.weight), second_moments(op, statistics)
    assert array is not None
    first, second = (quantize_weights(array, quantizer, moments) for quantizer in (narrow, wide))
    return first, second


def _layer(
    op: LinearOp, codes: tuple[WeightCodes, WeightCodes], weights: Weights, statistics: Mapping[SSAValue, Statistics]
) -> Layer:
    """Errors without second moments are those of the weights."""
    array, moments = weights.array(op.weight), second_moments(op, statistics)
    assert array is not None
    real = array.astype(np.float64)
    m = np.eye(real.shape[1]) if moments is None else moments

    def power(x: Array) -> float:
        return float(((x @ m) * x).sum())

    narrow, wide = (power(real - made.real()) / (power(real) or 1.0) for made in codes)
    return Layer(describe(op), macs(op), narrow, wide)
