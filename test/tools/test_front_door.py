"""What the tools answer before they import anything, and the table of passes that they answer from."""

import importlib
import inspect
import subprocess
import sys

import pytest

from qvit.backends.systolic.universe import UNIVERSE as MACHINES
from qvit.tools import qvit_opt, registry
from qvit.tools.opt_driver import pass_class
from qvit.tools.registry import PASSES, VERSION
from qvit.transforms import pipelines, universe
from qvit.transforms.universe import UNIVERSE

QUESTIONS = [
    ("qvit_opt", "--help"),
    ("qvit_opt", "-h"),
    ("qvit_opt", "--version"),
    ("qvit_opt", "--list-passes"),
    ("qvit_run", "--help"),
    ("qvit_compile", "--help"),
    ("qvit_compile", "--list-schemes"),
    ("qvit_asm", "--help"),
]


def answer(tool: str, *arguments: str, then: str = "") -> str:
    """What a tool prints in a process of its own, which ends with the statement `then`."""
    code = (
        f"import sys\nfrom qvit.tools.{tool} import main\ntry: main({list(arguments)})\nexcept SystemExit: pass\n{then}"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("tool", "question"), QUESTIONS)
def test_answers_import_neither_xdsl_nor_numpy(tool: str, question: str) -> None:
    heavy = "xdsl", "numpy", "onnx", "safetensors"
    said = answer(tool, question, then=f"print('imported:', *set({heavy}) & sys.modules.keys())")
    assert len(said.splitlines()) > 1
    assert said.splitlines()[-1].strip() == "imported:"


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert qvit_opt.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: qvit-opt ")
    for name, (_, _, summary) in PASSES.items():
        assert f"  --{name} " in said
        assert summary in said
    assert "{passes}" not in said
    assert "{{" not in said


@pytest.mark.parametrize("arguments", [["--help"], ["nowhere.mlir", "--help"], ["--no-such-flag", "-h"]], ids=str)
def test_help_wins(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert qvit_opt.main(arguments) == 0
    assert capsys.readouterr().out.startswith("usage: ")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert qvit_opt.main(["--version"]) == 0
    assert capsys.readouterr().out == f"qvit {VERSION}\n"


def test_list_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert qvit_opt.main(["--list-passes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [f"--{name}" for name in PASSES]


@pytest.mark.parametrize("tool", ["qvit_run", "qvit_compile", "qvit_asm"])
def test_version_of_the_others(tool: str) -> None:
    assert answer(tool, "--version") == f"qvit {VERSION}\n"


# --- the table of passes ---

OURS = [name for name, (module, _, _) in PASSES.items() if module.startswith("qvit.")]


def test_there_are_passes_of_ours_and_of_xdsl() -> None:
    assert {"delay-dequant", "verify-integer-only"} <= set(OURS)
    assert {"canonicalize", "cse", "dce"} <= PASSES.keys() - set(OURS)


@pytest.mark.parametrize("name", PASSES)
def test_flag_is_the_name_of_the_pass(name: str) -> None:
    assert pass_class(name).name == name


def test_every_scheme_is_a_pass() -> None:
    assert {name: scheme.summary for name, scheme in pipelines.SCHEMES.items()} == registry.SCHEMES
    assert set(universe.SCHEMES) == pipelines.SCHEMES.keys()


@pytest.mark.parametrize("name", [name for name in OURS if name not in registry.SCHEMES])
def test_flag_is_the_name_of_the_file(name: str) -> None:
    module, class_name, _ = PASSES[name]
    folder = "backends.systolic" if name == "lower-to-systolic" else "transforms"
    assert module == f"qvit.{folder}.{name.replace('-', '_')}"
    assert getattr(importlib.import_module(module), class_name).__module__ == module


@pytest.mark.parametrize("name", OURS)
def test_summary_is_the_first_line_of_the_docstring(name: str) -> None:
    assert (inspect.getdoc(pass_class(name)) or "").splitlines()[0] == PASSES[name][2]


def test_plain_xdsl_opt_has_our_passes() -> None:
    passes = {**UNIVERSE.all_passes, **MACHINES.all_passes}
    assert set(passes) == set(OURS)
    for name, load in passes.items():
        assert load() is pass_class(name)


def test_plain_xdsl_opt_has_our_dialects() -> None:
    for name, load in (UNIVERSE.all_dialects | MACHINES.all_dialects).items():
        assert load().name == name
    assert UNIVERSE.all_dialects.keys() | MACHINES.all_dialects.keys() == {"qvit", "qisa"}
