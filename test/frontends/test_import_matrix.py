"""Every row of docs/import.md: the fixture is read, or refused, as the row says, and computes what onnxruntime does."""

import numpy as np
import pytest
from import_matrix import EXPORTS, ROWS, check, fixture_path, load, refusal


def test_every_fixture_has_a_row() -> None:
    assert set(ROWS) == {path.name.split(".")[0] for path in EXPORTS.iterdir() if path.suffix in (".onnx", ".gz")}


@pytest.mark.parametrize("name", ROWS)
def test_row(name: str) -> None:
    path, (_, *cells) = fixture_path(name), ROWS[name]
    if cells[0].startswith("refused: "):
        problem = cells[0].removeprefix("refused: ").strip("`")
        assert problem in refusal(load(path))
        return
    tensors = path.with_suffix(".npz")
    outside = None
    if tensors.exists():  # what the quantizer's own executor computes
        with np.load(tensors) as file:
            outside = dict(file)
    found = check(load(path), outside)
    assert found == cells[: len(found)], f"| {' | '.join(found)} |"


@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith("dynamic")])
def test_dynamic_scales_need_samples(name: str) -> None:
    assert "freeze it on sample inputs with --calibrate" in refusal(load(fixture_path(name)))
