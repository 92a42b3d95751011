"""The tools called in this process, in a folder of their own."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from data.tool_call import Done, Tool

from qvit.tools import qvit_asm, qvit_compile, qvit_opt, qvit_run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _tool(
    main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Tool:
    def call(*arguments: str | Path, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        return Done(status, *capsys.readouterr())

    return call


@pytest.fixture
def opt(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Tool:
    return _tool(qvit_opt.main, capsys, monkeypatch)


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Tool:
    return _tool(qvit_run.main, capsys, monkeypatch)


@pytest.fixture
def tool(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Tool:
    """qvit-compile"""
    return _tool(qvit_compile.main, capsys, monkeypatch)


@pytest.fixture
def asm(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Tool:
    return _tool(qvit_asm.main, capsys, monkeypatch)
