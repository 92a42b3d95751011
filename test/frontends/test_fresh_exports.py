"""One export of each family with random sizes, so that nothing fits the stored fixtures alone.

The exporters live in an environment of their own, which `make test-all` makes: .venv-exporters. QVIT_SEED repeats a run.
"""

import os
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from import_matrix import ROWS, check, load, refusal

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("fresh")]

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("QVIT_SEED", random.SystemRandom().randrange(1 << 20)))
SCRIPTS = {
    "make_transformers.py": ("vit", "deit", "swin", "dinov2", "mobilevit", "bert"),
    "make_timm.py": ("timm",),
    "make_plain.py": ("plain", "torch"),
    "make_onnxruntime.py": ("qdq", "qop", "dynamic", "optimizer", "blockwise"),
    "make_nncf.py": ("nncf",),
    "make_brevitas.py": ("qcdq", "qonnx"),
    "make_pt2e.py": ("pt2e",),
    "make_cast_mul.py": ("cast", "weight"),
}


def chosen(families: tuple[str, ...]) -> Iterator[str]:
    """Two fixtures of each family, others each time."""
    for family in families:
        names = sorted(name for name in ROWS if name.split("_")[0] == family)
        yield from random.Random(f"{SEED} {family}").sample(names, min(2, len(names)))


def kinds(cells: list[str]) -> list[str]:
    """What is recognised and what stays in float, without counts."""
    return [re.sub(r"\d+ ", "", cell) for cell in (cells[0], *cells[2:3])]


def export(script: str, folder: Path, *arguments: str) -> None:
    python = ROOT / ".venv-exporters/bin/python"
    made = subprocess.run(
        [python, ROOT / "test/data/exports" / script, folder, *arguments], capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr[-2000:]


@pytest.mark.parametrize(
    ("script", "name"),
    [("make_transformers.py", "swin_12_blocks_legacy17"), ("make_timm.py", "timm_swin_12_blocks_legacy17")],
)
def test_swin_of_twelve_blocks(script: str, name: str, tmp_path: Path) -> None:
    """Over 3,000 nodes, most of them constants and shape arithmetic."""
    export(script, tmp_path, name)
    (read,) = check(load(tmp_path / f"{name}.onnx"))
    assert "12 gelu, 12 softmax" in read


@pytest.mark.parametrize("script", SCRIPTS)
def test_fresh_sizes(script: str, tmp_path: Path) -> None:
    names = list(chosen(SCRIPTS[script]))
    export(script, tmp_path, *names, "--fresh", str(SEED))
    for name in names:
        path = next(p for p in (tmp_path / f"{name}.onnx", tmp_path / f"{name}.onnx.gz") if p.exists())
        try:
            if ROWS[name][1].startswith("refused: "):
                refusal(load(path))
                continue
            tensors = tmp_path / f"{name}.npz"
            with np.load(tensors) if tensors.exists() else open(os.devnull) as file:
                found = check(load(path), dict(file) if tensors.exists() else None)
        except Exception as error:
            raise AssertionError(f"{name} with QVIT_SEED={SEED}: {error}") from error
        # sizes, and the number of blocks, change how much there is, but not what is recognised and what stays in float;
        # except that sums of 16-bit codes overflow only from some size on
        if "overflow" not in " ".join(found + ROWS[name]):
            assert kinds(found) == kinds(ROWS[name][1:]), f"{name} with QVIT_SEED={SEED}"
