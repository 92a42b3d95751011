"""The emitted C as a program of its own: its start-up and memory, and its instructions as valgrind counts them.

The folder that the compiler writes is built with bench/driver.c, by the system's C compiler and the flags that stand here:
the same on every machine, so that counts of one compiler can be compared.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import models
from engines import PLAIN_C, Fresh, integer_module
from vit import SMALL, write

from qvit.backends.c.emit import emit
from qvit.backends.c.loader import find_compiler
from qvit.backends.c.step import CompileError

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

HERE = Path(__file__).parent
FLAGS = ("-std=c11", "-O3", "-g")
VARIANTS = {"portable": PLAIN_C, "avx2": ()}
"""Flags by kernels: the portable ones, and those that are chosen at run time where there is no AVX-512, as in valgrind."""


@dataclass(frozen=True)
class Program:
    """An executable made of an emitted folder, and its weights."""

    executable: Path
    weights: Path

    def command(self, rounds: int) -> list[str]:
        return [str(self.executable), str(self.weights), str(rounds)]

    def run(self, rounds: int) -> Fresh:
        return Fresh(**json.loads(output(self.command(rounds))))


def output(command: Sequence[str]) -> str:
    """What a command prints; Unavailable with its last words if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise models.Unavailable(f"`{' '.join(command)}` failed: {last}")
    return done.stdout


def emitted(module: "ModuleOp", folder: Path) -> None:
    """@main as C: model.h, model.c, model.weights and the kernels, in a folder."""
    try:
        emit(module).write(folder)
    except CompileError as error:
        raise models.Unavailable(str(error)) from None


def built(folder: Path, flags: Sequence[str] = ()) -> Program:
    """Compile an emitted folder with the driver."""
    executable = folder / "driver"
    files = [path for path in sorted(folder.glob("*.c")) if path.name != "main.c"]
    command = [
        *find_compiler(),
        *FLAGS,
        *flags,
        f"-I{folder}",
        str(HERE / "driver.c"),
        *map(str, files),
        "-o",
        str(executable),
    ]
    output(command)
    return Program(executable, folder / "model.weights")


# --- instructions ----------------------------------------------------------------------------------------------------


def instructions(program: Program) -> int:
    """What one inference executes, inside qvit_run."""
    counts = program.executable.with_name("callgrind.out")
    tool = ["valgrind", "--tool=callgrind", "--toggle-collect=qvit_run", f"--callgrind-out-file={counts}"]
    if shutil.which("valgrind") is None:
        raise models.Unavailable("valgrind is not installed")
    output([*tool, *program.command(0)])
    (total,) = re.findall(r"^(?:totals|summary): (\d+)$", counts.read_text(), re.MULTILINE)[:1]
    return int(total)


def small_module(folder: Path) -> "ModuleOp":
    """The model that is counted, by scheme best."""
    source = folder / "small.onnx"
    write(SMALL, source)
    return integer_module(source, "best")


def counted(folder: Path) -> dict[str, str | int]:
    """The compiler, and instructions of an inference by kernels."""
    module = small_module(folder)
    emitted(module, folder)
    version = output([*find_compiler(), "--version"]).splitlines()[0]
    return {"compiler": version} | {name: instructions(built(folder, flags)) for name, flags in VARIANTS.items()}
