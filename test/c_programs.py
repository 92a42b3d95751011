"""Emitted C programs, built with any compiler and any flags, and run as programs of their own."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qvit.backends.c import Sources
from qvit.backends.c.step import type_of
from qvit.backends.c.weights import ByteOrder
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
    return run_files(sources, ["./main"], folder, inputs)


CHOOSING = ("-include", "stdlib.h", '-DQVIT_VARIANT=getenv("VARIANT")')
"""Flags by which a program takes the kernels that the environment names."""


def run_files(
    sources: Sources,
    program: Sequence[str],
    folder: Path,
    inputs: Sequence[Array],
    *,
    variant: str | None = None,
    order: ByteOrder = "little",
) -> list[Array]:
    """The results of a main that was built in the folder; variant: of one built with CHOOSING."""
    given, made = sources.program.inputs, sources.program.outputs
    sign = "<" if order == "little" else ">"
    for k, (port, array) in enumerate(zip(given, inputs, strict=True)):
        held = type_of(port.value).dtype.newbyteorder(sign)
        (folder / f"in{k}").write_bytes(np.ascontiguousarray(array, held).tobytes())
    files = [*(f"in{k}" for k in range(len(given))), *(f"out{k}" for k in range(len(made)))]
    environment = {**os.environ, **({} if variant is None else {"VARIANT": variant})}
    done = subprocess.run(
        [*program, "model.weights", *files], cwd=folder, capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    found: list[Array] = []
    for k, port in enumerate(made):
        held = type_of(port.value).dtype
        read = np.frombuffer((folder / f"out{k}").read_bytes(), held.newbyteorder(sign))
        found.append(read.astype(held).reshape(shape_of(port.value)))
        (folder / f"out{k}").unlink()
    return found
