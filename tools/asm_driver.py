"""qvit-asm behind its front door."""

import argparse
import os
from dataclasses import replace
from pathlib import Path

from qvit.backends.systolic.assembly import AssemblyError, format_program, parse_program
from qvit.backends.systolic.container import MAGIC, load_program, save_program
from qvit.backends.systolic.dialect import module_of, program_of
from qvit.backends.systolic.machine import Machine, load_machine
from qvit.backends.systolic.program import Program
from qvit.dialects.atomic import write_text
from qvit.tools.arguments import UsageError
from qvit.tools.common import guarded, read_mlir, require_place, write_mlir


def _is_binary(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _read(path: Path, machine: Machine | None) -> Program:
    if path.suffix == ".mlir":
        program = program_of(read_mlir(path))
    elif _is_binary(path):
        program = load_program(path)
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise AssemblyError(f"{path}: expected a program as text or binary, or a .mlir file; it is none") from error
        return parse_program(text, str(path), machine, lambda file: load_program(path.parent / file))
    return program if machine is None else replace(program, machine=machine)


def _run(args: argparse.Namespace) -> None:
    source: Path = args.input
    output: Path | None = args.output
    if args.data and not args.disassemble:
        raise UsageError("--data is about text: give -d too")
    if output is None and not args.disassemble:
        raise UsageError("no place for the result: give it with -o FILE.qisa, or -d for text")
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file")
    if output is not None:
        require_place(output)
    program = _read(source, load_machine(args.machine) if args.machine else None)
    if args.disassemble:
        refer = not args.data and source.suffix != ".mlir" and _is_binary(source)
        folder = Path() if output is None else output.parent
        text = format_program(program, Path(os.path.relpath(source, folder)).as_posix() if refer else None)
        if output is None:
            print(text, end="")
        else:
            write_text(output, text)
    elif output is not None and output.suffix == ".mlir":
        write_mlir(module_of(program), output)
    elif output is not None:
        save_program(program, output)


def run(args: argparse.Namespace) -> int:
    return guarded("qvit-asm", lambda: _run(args))
