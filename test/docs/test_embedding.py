"""docs/embedding.md: its blocks run, in order, and its stable names exist and are documented."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from shutil import copy
from typing import Any

import pytest

from qvit.dialects.approximation_attributes import ATTRIBUTES
from qvit.dialects.qvit import Qvit

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs/embedding.md"
TEXT = DOCUMENT.read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.S | re.M)
ROWS = re.findall(r"^\| `([\w.]+)` \| (`.*?`) \|", TEXT, re.M)
OPERATIONS = list(Qvit.operations)
NAMES = [(module, name) for module, names in ROWS for name in re.findall(r"`(\w+)`", names)]


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert {language for language, _ in BLOCKS} == {"python", "sh", "toml"}
    assert TEXT.count("\n```") == 2 * len(BLOCKS)


def test_blocks_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a real model: the quantized ViT of the demo."""
    copy(ROOT / "examples/fashion_mnist/vit_int8.onnx", tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    names: dict[str, Any] = {}
    for language, block in BLOCKS:
        if language == "python":
            exec(compile(block, str(DOCUMENT), "exec"), names)
        elif language == "sh":
            subprocess.run(["bash", "-ec", block], env={**os.environ, "PATH": path}, check=True, capture_output=True)
    assert names["report"].macs_integer.after > names["report"].macs_integer.before
    assert len(names["codes"]) > 50
    assert "qvit.linear" in Path("wide.mlir").read_text()


def test_entry_points_are_those_of_the_example() -> None:
    stated = tomllib.loads("".join(block for language, block in BLOCKS if language == "toml"))
    example = tomllib.loads((ROOT / "examples/plugin/pyproject.toml").read_text())
    assert stated["project"]["entry-points"] == example["project"]["entry-points"]


def documented(module: str, name: str) -> bool:
    """Whether a class or function has a docstring; whether an assignment has one behind it."""
    value = getattr(importlib.import_module(module), name)
    if inspect.isclass(value) or inspect.isfunction(value):
        return bool(inspect.getdoc(value))
    body = ast.parse(inspect.getsource(importlib.import_module(module))).body
    for statement, behind in pairwise(body):
        targets = {t.id for t in ast.walk(statement) if isinstance(t, ast.Name) and isinstance(t.ctx, ast.Store)}
        if isinstance(statement, ast.Assign | ast.AnnAssign) and name in targets:
            return isinstance(behind, ast.Expr) and isinstance(behind.value, ast.Constant)
    return False


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_stable_names_are_documented(module: str, name: str) -> None:
    assert documented(module, name)


def test_the_table_is_read() -> None:
    lines = [line for line in TEXT.splitlines() if line.startswith("| `qvit.")]
    assert len(lines) == len(ROWS) + 1  # the row of all operations names none
    assert len(set(NAMES)) == len(NAMES) > 60


@pytest.mark.parametrize("op", OPERATIONS, ids=lambda op: op.name)
def test_operations_are_documented(op: type) -> None:
    assert op.__module__.startswith("qvit.dialects.ops.")
    assert inspect.getdoc(op)


def test_attributes_of_the_dialect_are_in_the_table() -> None:
    """Those of the approximations are made from classes of their own: the table has where to find them."""
    own = set(Qvit.attributes) - set(ATTRIBUTES.values())
    assert {("qvit.dialects.attributes", attribute.__name__) for attribute in own} <= set(NAMES)


def test_examples_use_stable_names_only() -> None:
    stable = {*NAMES, *((op.__module__, op.__name__) for op in OPERATIONS)}
    sources = [block for language, block in BLOCKS if language == "python"]
    sources += [file.read_text() for file in [ROOT / "examples/embed.py", *(ROOT / "examples/plugin").rglob("*.py")]]
    for statement in (s for source in sources for s in ast.walk(ast.parse(source)) if isinstance(s, ast.ImportFrom)):
        module = statement.module or ""
        if module.startswith("qvit."):
            assert {(module, alias.name) for alias in statement.names} <= stable


def test_the_version_of_xdsl() -> None:
    stated = re.search(r"now (0\.\d+)\.", TEXT)
    assert stated is not None
    assert f'"xdsl=={stated[1]}.*"' in (ROOT / "pyproject.toml").read_text()
