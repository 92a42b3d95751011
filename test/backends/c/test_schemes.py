"""Whole models of every scheme, as the project makes it and as published: C has the interpreter's integers."""

from contextlib import nullcontext
from pathlib import Path

import pytest
from c_programs import equal
from float_exports import FLOAT, ONCE, batch, compiled
from whole_programs import transformer
from xdsl.utils.exceptions import DiagnosticException

from qvit.backends.c.loader import load
from qvit.backends.interpreter import run
from qvit.dialects.functions import QUANTIZE_INPUTS
from qvit.transforms.pipelines import SCHEMES


@pytest.mark.parametrize("published", [False, True], ids=["sound", "published"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_vision_transformer(scheme: str, published: bool, tmp_path: Path) -> None:
    whole = transformer(scheme, published)
    equal(load(whole.module, cache=tmp_path, flags=("-O1",))(*whole.codes), whole.expected)


def check(name: str, scheme: str, folder: Path) -> None:
    module = compiled(name, scheme).module
    codes = list(run(module, batch(name, 77), function=QUANTIZE_INPUTS).values())
    found = load(module, cache=folder, flags=("-O0",))(*codes)
    equal(found, list(run(module, codes, integers_only=True).values()))


@pytest.mark.parametrize(
    "name",
    [
        *("deit_dynamo20", "swin_dynamo20", "mobilevit_dynamo20", "dinov2_swiglu_dynamo20"),
        *("bert_dynamo20", "torch_encoder_dynamo20", "vit_quick_gelu_dynamo20", "timm_vit_mean_legacy17"),
    ],
)
def test_an_architecture(name: str, tmp_path: Path) -> None:
    check(name, "best", tmp_path)


REFUSED = ("dinov2", "torch_encoder", "vit_quick_gelu")
"""Means of some numbers of tokens, and the factor of quick GELU, that powers of two are not: there is no C to be made."""


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOAT)
def test_every_float_export(name: str, tmp_path: Path) -> None:
    """By every scheme; one ViT in forty forms is, read, the same graph, for which one does."""
    for scheme in SCHEMES if name in ONCE else ("best",):
        refused = scheme.startswith("p2-vit") and name.startswith(REFUSED)
        with pytest.raises(DiagnosticException, match="is no power of two") if refused else nullcontext():
            check(name, scheme, tmp_path)
