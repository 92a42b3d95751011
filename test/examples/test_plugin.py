"""examples/plugin installed like anybody's project, but beside the environment that runs the tests, which stays as it is."""

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

PLUGIN = Path(__file__).parents[2] / "examples/plugin"
OFFLINE = ["--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, installed into its folder `installed`: setuptools leaves files in the tree it builds."""
    folder = tmp_path_factory.mktemp("plugin") / "plugin"
    copytree(PLUGIN, folder, ignore=ignore_patterns("__pycache__", ".*"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", *OFFLINE, "--target", folder / "installed", folder]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def call(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in an environment that has the extension too."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(project / "installed"),
        "PYTHONWARNINGS": "error::DeprecationWarning",
    }
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)


def test_its_own_tests_pass(project: Path) -> None:
    done = call(project, "-m", "pytest", "-p", "no:cacheprovider", "-q")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout.splitlines()[-1]
    assert "skipped" not in done.stdout


def test_help_names_it_without_an_import(project: Path) -> None:
    code = (
        "import sys; from qvit.tools.qvit_opt import main; main(['--help']);"
        " print(*{'xdsl', 'numpy', 'qvit_npu'} & sys.modules.keys())"
    )
    *said, imported = call(project, "-c", code).stdout.splitlines()
    assert "  --list-passes lists those of the extensions too: npu" in said
    assert imported == ""


def test_this_environment_has_it_not(project: Path) -> None:
    assert "npu" not in {entry.name for entry in entry_points(group="xdsl.universe")}
