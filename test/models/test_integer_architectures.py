"""Every float export of docs/import.md becomes integers: nothing is left in float, and the outputs stay close."""

import numpy as np
import pytest
from import_matrix import ROWS, feeds, fixture_path, load, symbols
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp

from qvit.backends.interpreter import find_function, input_names, run
from qvit.dialects.ops.approximated import IntSoftmaxOp
from qvit.dialects.types import integer_of
from qvit.frontends.onnx import import_onnx
from qvit.tools.compiler import Compiled, compile_model
from qvit.transforms.pipelines import SCHEMES
from qvit.transforms.verify_integer_only import floats_left

FLOAT = [name for name, cells in ROWS.items() if len(cells) == 2]
ONCE = {name for name in FLOAT if not name.startswith("plain_")} | {
    "plain_legacy17",
    "plain_dynamo20",
    "plain_dynamo23",
}
"""One ViT in forty forms is, read, the same graph: the other forms are slow tests."""
Inputs = dict[str, NDArray[np.generic]]


def batch(name: str, seed: int) -> Inputs:
    """Random pictures or tokens; masks show some tokens of each row, the first ones."""
    proto = load(fixture_path(name))
    rng = np.random.default_rng(seed)
    inputs: Inputs = {}
    for key, array in feeds(proto, symbols(proto)).items():
        if array.dtype.kind == "f":
            inputs[key] = rng.normal(0.3, 1, array.shape).astype(array.dtype)
        elif "mask" in key:
            shown = rng.integers(1, array.shape[-1], (*array.shape[:-1], 1), endpoint=True)
            inputs[key] = (np.arange(array.shape[-1]) < shown).astype(array.dtype)
        else:
            inputs[key] = rng.integers(0, 2 if "type" in key else 10, array.shape).astype(array.dtype)
    return inputs


def read(name: str) -> ModuleOp:
    proto = load(fixture_path(name))
    return import_onnx(proto, (), symbols(proto))[0]


def compiled(name: str, scheme: str = "best") -> Compiled:
    return compile_model(read(name), [batch(name, seed) for seed in range(3)], SCHEMES[scheme])


def execute(module: ModuleOp, inputs: Inputs) -> dict[str, NDArray[np.generic]]:
    values = [inputs[name] for name in input_names(find_function(module, "quantize_inputs"))]
    results: dict[str, NDArray[np.generic]] = {}
    for stage in ("quantize_inputs", "main", "dequantize_outputs"):
        results = run(module, values, function=stage)
        values = list(results.values())
    return results


def cosine(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def check(name: str) -> None:
    found = compiled(name)  # range-analysis and verify-integer-only are passes of the scheme, and raise
    found.module.verify()
    assert not floats_left(found.module)
    assert all(integer_of(value) for op in find_function(found.module).walk() for value in op.results)
    inputs = batch(name, 77)
    expected, integers = run(read(name), inputs), execute(found.module, inputs)
    assert expected.keys() == integers.keys()
    for key, array in expected.items():
        assert cosine(array, integers[key]) > 0.99, key


@pytest.mark.parametrize("name", [name for name in FLOAT if name in ONCE])
def test_an_architecture(name: str) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FLOAT if name not in ONCE])
def test_an_exporter(name: str) -> None:
    check(name)


@pytest.mark.parametrize("scheme", sorted(SCHEMES.keys() - {"best"}))
def test_other_schemes(scheme: str) -> None:
    """Convolutions, windows, masks known at run time."""
    for name in ("swin_dynamo20", "bert_dynamo20"):
        found, inputs = compiled(name, scheme), batch(name, 77)
        for key, array in run(read(name), inputs).items():
            assert cosine(array, execute(found.module, inputs)[key]) > 0.9, (name, key)


def test_window_masks_are_no_scores() -> None:
    """Swin's -100 is a mask of truth values, and takes no codes of the scores."""
    softmaxes = [op for op in compiled("swin_legacy17").module.walk() if isinstance(op, IntSoftmaxOp)]
    assert [op.mask is not None for op in softmaxes] == [False, True, False, True]


@pytest.mark.parametrize("name", ["bert_dynamo20", "bert_legacy17", "bert_dynamo23"])
def test_hidden_tokens_change_nothing(name: str) -> None:
    """Masks that are inputs stay exact: what other tokens a hidden place has is not seen."""
    module, inputs = compiled(name).module, batch(name, 5)
    inputs["attention_mask"][..., 4:] = 0
    other = {**inputs, "input_ids": inputs["input_ids"].copy()}
    other["input_ids"][..., 4:] = (other["input_ids"][..., 4:].astype(np.int64) + 3) % 10
    for key, array in execute(module, inputs).items():
        np.testing.assert_array_equal(array, execute(module, other)[key])
