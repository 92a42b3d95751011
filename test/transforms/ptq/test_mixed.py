"""Mixed precision: the search on problems whose answer is known, and the choice on a module."""

from itertools import product
from typing import Any

import ir_text
import numpy as np
import pytest
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from qvit.backends.interpreter import find_function, input_names, run
from qvit.dialects.attributes import dense
from qvit.dialects.ops.products import Conv2dOp, LinearOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.transforms.ptq.calibrate import Calibration, calibrate
from qvit.transforms.ptq.insert import insert
from qvit.transforms.ptq.mixed import EVALUATIONS, Bits, Budget, Layer, choose_bits, coarse, omega, search
from qvit.transforms.ptq.observers import Quantizer
from qvit.transforms.ptq.scheme import Mixed, Override, Quantization, all_roles
from qvit.transforms.ptq.statistics import Statistics
from qvit.transforms.ptq.weights import WeightQuantizer

Array = NDArray[Any]


def layers_of(seed: int, count: int) -> list[Layer]:
    rng = np.random.default_rng(seed)
    return [
        Layer(f"l{i}", int(rng.integers(1, 50)), float(wide + rng.uniform(0, 1)), float(wide))
        for i, wide in enumerate(rng.uniform(0, 0.01, count))
    ]


def best_of_all(layers: list[Layer], budget: Budget) -> float:
    return min(omega(layers, bits) for bits in product((False, True), repeat=len(layers)) if budget.holds(bits))


@pytest.mark.parametrize("seed", range(6))
def test_search_stays_within_the_budget_and_comes_near_the_best(seed: int) -> None:
    layers = layers_of(seed, 10)
    budget = Budget.of(layers, 4, 8, 1.3)
    seen: list[Bits] = []

    def fitness(bits: Bits) -> float:
        seen.append(bits)
        return omega(layers, bits)

    bits, start, history, evaluations = search(layers, budget, fitness, seed)
    assert all(budget.holds(b) for b in seen)
    assert len(seen) == len(set(seen)) == evaluations <= EVALUATIONS
    assert len(history) == 8
    assert [start, *history] == sorted([start, *history], reverse=True)
    assert omega(layers, bits) == history[-1] == min(map(lambda b: omega(layers, b), seen))
    narrow = sum(layer.narrow for layer in layers)
    assert narrow - history[-1] >= 0.95 * (narrow - best_of_all(layers, budget))


def test_the_fine_search_finds_what_the_layers_alone_do_not_tell() -> None:
    """Wide weights in layers 3, 8 and 14 alone help, which the layers' own errors say nothing of."""
    layers = [Layer(f"l{i}", 10, 1.0 + i / 100, 0.0) for i in range(20)]
    budget = Budget.of(layers, 4, 8, 1 + 3 / 20)
    bits, start, history, _ = search(layers, budget, lambda b: 3.0 - b[3] - b[8] - b[14], 0)
    assert start > history[-1]
    assert sum(bits[i] for i in (3, 8, 14)) == 3 - history[-1] >= 2


def test_the_same_seed_gives_the_same_choice() -> None:
    layers = layers_of(3, 12)
    budget = Budget.of(layers, 4, 8, 1.2)
    first, second = (search(layers, budget, lambda b: omega(layers, b), 5) for _ in range(2))
    assert first == second


def test_progress_is_told() -> None:
    layers, told = layers_of(3, 6), list[tuple[int, int]]()
    budget = Budget.of(layers, 4, 8, 1.2)
    *_, evaluations = search(layers, budget, lambda b: omega(layers, b), 5, lambda *step: told.append(step))
    assert [done for done, _ in told] == [*range(1, evaluations + 1), EVALUATIONS]
    assert {total for _, total in told} == {EVALUATIONS}


def test_coarse_choices_are_ranked_and_have_pairs() -> None:
    layers = layers_of(9, 9)
    budget = Budget.of(layers, 4, 8, 2.0)  # everything fits
    found = coarse(layers, budget, np.random.default_rng(0))
    scores = [omega(layers, bits) for bits in found]
    assert scores == sorted(scores)
    assert found[0] == (True,) * 9
    assert all(bits[i] == bits[i + 1] for bits in found for i in range(0, 8, 2))


def test_a_budget_of_nothing_leaves_all_narrow() -> None:
    layers = layers_of(2, 5)
    bits, *_ = search(layers, Budget.of(layers, 4, 8, 1.0), lambda b: omega(layers, b))
    assert bits == (False,) * 5


def test_the_cost_is_multiply_accumulates_times_bits() -> None:
    layers = [Layer("a", 30, 1, 0), Layer("b", 10, 1, 0)]
    budget = Budget.of(layers, 4, 8, 1.5)
    assert budget.cost((False, False)) == 1
    assert budget.cost((False, True)) == pytest.approx((30 * 4 + 10 * 8) / (40 * 4))
    assert budget.cost((True, False)) == pytest.approx((30 * 8 + 10 * 4) / (40 * 4))
    assert [budget.holds(b) for b in ((False, True), (True, False))] == [True, False]


def test_a_budget_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match="must be at least 1, found 0.9"):
        Mixed(WeightQuantizer(8), 0.9)


# --- on a module -------------------------------------------------------------------------------------------------------

NAMES = ("first", "second", "third", "fourth")


def chain(patch: bool = False) -> ModuleOp:
    """Four layers, one behind another, of which the third's weights are hard to tell with few bits."""
    rng = np.random.default_rng(1)
    lines = ["%0 = qvit.reshape %x : tensor<5x6xf32> -> tensor<5x6xf32>"]
    if patch:
        lines = [
            "%i = qvit.reshape %x : tensor<5x6xf32> -> tensor<1x1x5x6xf32>",
            "%k = qvit.constant dense<0.7> : tensor<1x1x1x1xf32>",
            '%c = qvit.conv2d %i, %k {strides = array<i64: 1, 1>, qvit.src = ["patch"]} '
            ": (tensor<1x1x5x6xf32>, tensor<1x1x1x1xf32>) -> tensor<1x1x5x6xf32>",
            "%0 = qvit.reshape %c : tensor<1x1x5x6xf32> -> tensor<5x6xf32>",
        ]
    for i, name in enumerate(NAMES):
        lines += [
            f"%w{i} = qvit.constant dense<1.0> : tensor<6x6xf32>",
            f'%{i + 1} = qvit.linear %{i}, %w{i} {{qvit.src = ["{name}"]}} '
            ": (tensor<5x6xf32>, tensor<6x6xf32>) -> tensor<5x6xf32>",
        ]
    module = ir_text.parse(ir_text.function(lines, {"%x": "tensor<5x6xf32>"}))
    constants = [op for op in module.walk() if isinstance(op, ConstantOp) and "6x6" in str(op.result.type)]
    for i, op in enumerate(constants):
        # few bits tell one of -1, 1; of others they do not
        matrix = rng.standard_normal((6, 6)) if i == 2 else rng.choice([-1.0, 1.0], (6, 6))
        op.properties["value"] = dense(matrix.astype(np.float32))
    return module


def quantization(*overrides: Override, budget: float = 1.25) -> Quantization:
    wide = Quantizer(16, symmetric=True)
    mixed = Mixed(WeightQuantizer(8, per_channel=False), budget)
    return Quantization(all_roles(wide, wide), WeightQuantizer(3), overrides=overrides, mixed=mixed)


def calibrated(module: ModuleOp) -> tuple[dict[SSAValue, Statistics], Any]:
    function = find_function(module)
    batches = [{"x": np.random.default_rng(i).standard_normal((5, 6)).astype(np.float32)} for i in range(3)]
    names = input_names(function)
    batches = [dict(zip(names, b.values(), strict=True)) for b in batches]

    def observed(m: ModuleOp, inputs: Any, observe: Any) -> None:
        run(m, inputs, observe=observe)

    statistics = calibrate(module, function, batches, observed, names, Calibration(function, gram=True))

    def execute(candidate: ModuleOp) -> list[Array]:
        return [array for batch in batches for array in run(candidate, batch).values()]

    return dict(statistics), execute


@pytest.mark.parametrize("by_outputs", [False, True])
def test_the_layer_that_needs_it_gets_more_bits(by_outputs: bool) -> None:
    module = chain()
    text = str(module)
    statistics, execute = calibrated(module)
    asked = quantization(budget=1 + 5 / 12)  # one of four layers: 5 bits of 3 more in a quarter of all
    chosen, choice = choose_bits(module, find_function(module), asked, statistics, execute if by_outputs else None)
    assert str(module) == text
    assert [layer.bits for layer in choice.layers] == [3, 3, 8, 3]
    assert [layer.src for layer in choice.layers] == list(NAMES)
    assert [layer.macs for layer in choice.layers] == [5 * 6 * 6] * 4
    assert choice.cost == pytest.approx(1 + 5 / 12)
    assert choice.fitness == choice.history[-1] <= choice.coarse
    choices = insert(module, find_function(module), asked, statistics, chosen)
    assert [(w.src, w.channels) for w in choices.weights] == list(zip(NAMES, (6, 6, 1, 6), strict=True))


def test_the_fitness_is_the_difference_of_the_outputs() -> None:
    """It is what the module computes that is made of the choice."""
    module = chain()
    statistics, execute = calibrated(module)
    wanted, asked = execute(module), quantization(budget=1 + 5 / 12)
    chosen, choice = choose_bits(module, find_function(module), asked, statistics, execute)
    insert(module, find_function(module), asked, statistics, chosen)
    off = [np.square(a - b).mean() for a, b in zip(execute(module), wanted, strict=True)]
    assert choice.fitness == pytest.approx(float(np.mean(off)), rel=1e-12)


def test_convolutions_are_wide_and_overridden_layers_stay() -> None:
    module = chain(patch=True)
    statistics, execute = calibrated(module)
    asked = quantization(Override("third", weights=True, settings={"bits": 5}), budget=1 + 5 / 9)
    chosen, choice = choose_bits(module, find_function(module), asked, statistics, execute)
    assert [layer.src for layer in choice.layers] == ["first", "second", "fourth"]
    wide = {op for op in module.walk() if isinstance(op, Conv2dOp)}
    assert wide <= chosen.keys()
    assert not any(isinstance(op, LinearOp) and "third" in str(op.attributes) for op in chosen)
