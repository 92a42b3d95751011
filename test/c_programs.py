"""Emitted C programs, built with any compiler and any flags, and run as programs of their own."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qvit.backends.c import Sources
from qvit.backends.c.step import type_of
from qvit.dialects.semantics.integers import Array
from qvit.dialects.types import shape_of

WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror")
FORMS = ("dyadic", "pot")
"""The factors that C computes with."""


def equal(found: Sequence[Array], expected: Sequence[Array]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        np.testing.assert_array_equal(ours, theirs)


def compile_c(command: Sequence[str], folder: Path) -> None:
    """Run a compiler in the folder of a program; its messages are the failure."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def run_main(sources: Sources, command: Sequence[str], folder: Path, inputs: Sequence[Array]) -> list[Array]:
    """The results of the program's own main, built by `command`, on files; what it writes to stderr is a failure."""
    sources.write(folder)
    compile_c([*command, "-o", "main", "model.c", "main.c"], folder)
    given, made = sources.program.inputs, sources.program.outputs
    for k, (port, array) in enumerate(zip(given, inputs, strict=True)):
        (folder / f"in{k}").write_bytes(np.ascontiguousarray(array, type_of(port.value).dtype).tobytes())
    files = [*(f"in{k}" for k in range(len(given))), *(f"out{k}" for k in range(len(made)))]
    done = subprocess.run(["./main", "model.weights", *files], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    arrays = [
        np.frombuffer((folder / f"out{k}").read_bytes(), type_of(port.value).dtype) for k, port in enumerate(made)
    ]
    return [array.reshape(shape_of(port.value)) for array, port in zip(arrays, made, strict=True)]
