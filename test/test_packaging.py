"""dialects/ is installed as qvit.dialects and so on, from a wheel and in place."""

import importlib
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest

# They share one wheel: run them in one worker.
pytestmark = pytest.mark.xdist_group("packaging")

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS: dict[str, str] = PROJECT["tool"]["setuptools"]["package-dir"]  # "qvit.dialects": "dialects"
COMMANDS: dict[str, str] = PROJECT["project"]["scripts"]


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def pip(*arguments: str | Path, cwd: Path) -> None:
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, cwd=cwd)


@dataclass(frozen=True)
class Environment:
    """A fresh environment that has the wheel, somewhere outside the tree."""

    folder: Path

    def install(self, wheel: Path, *options: str) -> None:
        venv.create(self.folder, symlinks=True)
        pip("--python", self.folder / "bin" / "python", "install", *options, wheel, cwd=self.folder)

    def run(self, program: str, *arguments: str) -> str:
        return run(self.folder / "bin" / program, *arguments, cwd=self.folder)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves files in the tree, and packs those that it left there earlier."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in FOLDERS.values():
        copytree(ROOT / name, folder / "tree" / name, ignore=ignore_patterns("__pycache__"))
    for file in ROOT.iterdir():
        if file.is_file():
            copy(file, folder / "tree")
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "./tree", cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """With the third-party packages of the environment that runs the tests, so that no network is needed."""
    environment = Environment(tmp_path_factory.mktemp("installed"))
    environment.install(wheel, "--no-deps", "--no-index")
    packages = sysconfig.get_path("purelib", vars={"base": str(environment.folder)})
    # Of a folder named in a .pth file Python reads no .pth files, so it does not see the editable install there.
    Path(packages, "third_party.pth").write_text(sysconfig.get_path("purelib"))
    return environment


def test_wheel_has_the_packages_and_nothing_else(wheel: Path):
    expected = {
        f"qvit/{file.relative_to(ROOT)}"
        for name in FOLDERS.values()
        for file in (ROOT / name).rglob("*")
        if file.is_file() and file.suffix != ".md" and "__pycache__" not in file.parts
    }
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    # What is missing lies in a folder without __init__.py, or is data that package-data does not name.
    assert found == expected


@pytest.mark.parametrize("package", FOLDERS)
def test_wheel_is_typed(wheel: Path, package: str):
    assert f"{package.replace('.', '/')}/py.typed" in zipfile.ZipFile(wheel).namelist()


@pytest.mark.parametrize("package", FOLDERS)
def test_wheel_imports(installed: Environment, package: str):
    file = installed.run("python", "-c", f"import {package}; print({package}.__file__)")
    assert Path(file).is_relative_to(installed.folder)


@pytest.mark.parametrize("command", COMMANDS)
def test_wheel_commands(installed: Environment, command: str):
    assert command in installed.run(command, "--help")


def test_wheel_is_found_by_xdsl_opt(installed: Environment):
    code = "from xdsl.universe import Universe; print(*Universe.get_multiverse().all_passes)"
    ours = importlib.import_module("qvit.transforms.universe").UNIVERSE
    assert set(ours.all_passes) <= set(installed.run("python", "-c", code).split())


@pytest.mark.slow
def test_wheel_brings_what_it_needs(wheel: Path, tmp_path: Path):
    environment = Environment(tmp_path / "environment")
    environment.folder.mkdir()
    environment.install(wheel)  # from the package index
    (environment.folder / "empty.mlir").write_text("builtin.module {}")
    assert "builtin.module" in environment.run("qvit-opt", "empty.mlir")


@pytest.mark.parametrize(("package", "folder"), FOLDERS.items())
def test_editable_install_is_this_tree(package: str, folder: str):
    assert importlib.import_module(package).__file__ == str(ROOT / folder / "__init__.py")
