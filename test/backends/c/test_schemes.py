"""Whole models of every scheme, as the project makes it and as published: C has the interpreter's integers."""

from pathlib import Path

import pytest
from c_programs import equal
from whole_programs import transformer

from qvit.backends.c.loader import load
from qvit.transforms.pipelines import SCHEMES


@pytest.mark.parametrize("published", [False, True], ids=["sound", "published"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_vision_transformer(scheme: str, published: bool, tmp_path: Path) -> None:
    whole = transformer(scheme, published)
    equal(load(whole.module, cache=tmp_path, flags=("-O1",))(*whole.codes), whole.expected)
