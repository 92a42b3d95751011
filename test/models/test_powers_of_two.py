"""P2-ViT's schemes on whole models: every factor is a power of two, and what was chosen is the same for the same seed."""

import numpy as np
import pytest
from import_matrix import feeds, fixture_path, load, symbols
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp

from qvit.backends.interpreter import find_function, input_names, run
from qvit.dialects.attributes import PotAttr
from qvit.dialects.ops.approximated import IntLayerNormOp
from qvit.dialects.ops.nonlinear import ReduceSumOp
from qvit.dialects.ops.products import MatmulOp, ShiftMatmulOp
from qvit.dialects.ops.quantization import AddRequantOp, RequantizeOp
from qvit.dialects.semantics.integers import Rounding
from qvit.dialects.weights import Weights
from qvit.frontends.onnx import import_onnx
from qvit.tools.compiler import Compiled, compile_model
from qvit.transforms.pipelines import SCHEMES

Inputs = dict[str, NDArray[np.generic]]


def batch(name: str, seed: int) -> Inputs:
    """Random pictures."""
    proto, rng = load(fixture_path(name)), np.random.default_rng(seed)
    return {key: rng.normal(0.3, 1, x.shape).astype(x.dtype) for key, x in feeds(proto, symbols(proto)).items()}


def read(name: str) -> ModuleOp:
    proto = load(fixture_path(name))
    return import_onnx(proto, (), symbols(proto))[0]


def compiled(name: str, scheme: str, seed: int = 0) -> Compiled:
    return compile_model(read(name), [batch(name, i) for i in range(3)], SCHEMES[scheme], seed=seed)


def execute(module: ModuleOp, inputs: Inputs) -> NDArray[np.generic]:
    """The result of all three stages; @main with floats forbidden."""
    values = [inputs[key] for key in input_names(find_function(module, "quantize_inputs"))]
    for stage in ("quantize_inputs", "main", "dequantize_outputs"):
        values = list(run(module, values, function=stage, integers_only=stage == "main").values())
    return values[0]


def forms(module: ModuleOp) -> list[object]:
    found: list[object] = []
    for op in module.walk():
        if isinstance(op, RequantizeOp):
            found.append(op.form)
        elif isinstance(op, AddRequantOp):
            found += [op.lhs_form, op.rhs_form]
    return found


@pytest.mark.parametrize("name", ["plain_legacy17", "timm_vit_mean_legacy17"])
def test_every_requantize_is_a_shift(name: str) -> None:
    found, inputs = compiled(name, "p2-vit"), batch(name, 3)
    assert len(forms(found.module)) > 10
    assert all(isinstance(form, PotAttr) for form in forms(found.module))
    roundings = {op.rounding.data for op in found.module.walk() if isinstance(op, RequantizeOp | AddRequantOp)}
    assert roundings == {Rounding.HALF_UP}
    kinds = [type(op) for op in found.module.walk()]
    assert kinds.count(ShiftMatmulOp) == kinds.count(MatmulOp) > 0  # values by shifts, scores by products
    assert (ReduceSumOp in kinds) == ("mean" in name)
    execute(found.module, inputs)


def test_the_residual_stream_of_fq_vit_has_factors() -> None:
    found = compiled("plain_legacy17", "fq-vit")
    weights = Weights(found.module)
    norms = [op for op in found.module.walk() if isinstance(op, IntLayerNormOp)]
    factors = [weights.array(op.tables[0]) for op in norms]
    assert all(f is not None and set(f.tolist()) <= {0, 1, 2, 3} for f in factors)
    assert any(f is not None and f.any() for f in factors)
    chosen = [choice for choice in found.choices.tensors if choice.factors]
    assert {choice.role for choice in chosen} == {"residual"}
    assert {choice.bits for choice in chosen} == {8}


def test_mixed_precision_is_the_same_for_the_same_seed() -> None:
    first, second = (compiled("plain_legacy17", "p2-vit-mixed", seed=4) for _ in range(2))
    assert str(first.module) == str(second.module)
    assert first.choices.mixed == second.choices.mixed
    choice = first.choices.mixed
    assert choice is not None
    assert choice.cost <= 1.1
    assert choice.fitness <= choice.coarse
    bits = {w.src: w.bits for w in first.choices.weights}
    assert {layer.bits for layer in choice.layers} == {4, 8}
    assert all(bits[layer.src] <= layer.bits for layer in choice.layers)
    assert all(w.error <= w.nearest_error for w in first.choices.weights)
    inputs = batch("plain_legacy17", 9)
    (expected,) = run(read("plain_legacy17"), inputs).values()
    x, y = expected.ravel(), execute(first.module, inputs).ravel().astype(np.float64)
    assert x @ y / np.linalg.norm(x) / np.linalg.norm(y) > 0.9
