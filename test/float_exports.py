"""The float exports of docs/import.md: inputs for them, and what compiling makes of them."""

import numpy as np
from import_matrix import ROWS, feeds, fixture_path, load, symbols
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp

from qvit.frontends.onnx import import_onnx
from qvit.tools.compiler import Compiled, compile_model
from qvit.transforms.pipelines import SCHEMES

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
