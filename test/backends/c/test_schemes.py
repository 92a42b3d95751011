"""Whole models of every scheme, as the project makes it and as published: C has the interpreter's integers."""

from pathlib import Path

import numpy as np
import pytest
from import_matrix import feeds, fixture_path, symbols
from import_matrix import load as load_onnx

from qvit.backends.c.loader import load
from qvit.backends.interpreter import run
from qvit.dialects.functions import QUANTIZE_INPUTS
from qvit.frontends.onnx import import_onnx
from qvit.tools.compiler import compile_model
from qvit.transforms.pipelines import SCHEMES


@pytest.mark.parametrize("published", [False, True], ids=["sound", "published"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_vision_transformer(scheme: str, published: bool, tmp_path: Path) -> None:
    proto = load_onnx(fixture_path("vit_legacy17"))
    rng = np.random.default_rng(0)
    shapes = {name: array.shape for name, array in feeds(proto, symbols(proto)).items()}
    batches = [{name: rng.normal(0.3, 1, shape) for name, shape in shapes.items()} for _ in range(3)]
    module, _ = import_onnx(proto, (), symbols(proto))
    # of random weights some published forms hold for no layer
    compile_model(module, batches[:2], SCHEMES[scheme], published=published, unchecked=published)
    codes = list(run(module, batches[2], function=QUANTIZE_INPUTS).values())
    found, expected = load(module, cache=tmp_path)(*codes), run(module, codes, integers_only=True).values()
    assert [a.tolist() for a in found] == [a.tolist() for a in expected]
