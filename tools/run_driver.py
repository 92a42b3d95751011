"""qvit-run behind its front door."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from qvit.backends.interpreter import (
    ExecutionError,
    find_function,
    find_stages,
    input_names,
    output_names,
    run_model,
    trace_names,
)
from qvit.backends.interpreter import run as run_function
from qvit.dialects.atomic import replacing
from qvit.dialects.semantics.integers import Array
from qvit.frontends.errors import did_you_mean
from qvit.tools.arguments import UsageError
from qvit.tools.common import guarded, parse_dims, read_mlir, read_onnx
from qvit.tools.progress import progress


def _load(args: argparse.Namespace) -> ModuleOp:
    path: Path = args.model
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix == ".onnx":
        outputs = [name for name in args.outputs.split(",") if name]
        return read_onnx(path, outputs, parse_dims(args.dim), args.calibrate)[0]
    if args.outputs or args.dim or args.calibrate:
        raise UsageError("--outputs, --dim and --calibrate are for .onnx models")
    return read_mlir(path)


def _assign(options: Sequence[str], names: Sequence[str], what: str) -> dict[str, Path]:
    """["name=file", "file"] -> {name: file}; files without a name take the names left over, in order."""
    named: dict[str, Path] = {}
    bare: list[Path] = []
    for option in options:
        name, equals, file = option.partition("=")
        if not equals or (name not in names and Path(option).exists()):  # a path may hold a = too
            bare.append(Path(option))
        elif name in names:
            named[name] = Path(file)
        else:
            raise UsageError(f"there is no {what} {name!r}{did_you_mean(name, names)}; there are {', '.join(names)}")
    free = [name for name in names if name not in named]
    if len(bare) > len(free):
        raise UsageError(f"too many {what}s: the function has {', '.join(names) or 'none'}")
    return named | dict(zip(free, bare, strict=False))


def _array(path: Path) -> Array:
    """The array in a .npy file; ExecutionError says what it is instead."""
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise ExecutionError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # NumPy tries archives and pickles too, and raises what these raise
        raise ExecutionError(f"{path} is not a .npy file of numbers: {error}") from error
    if not isinstance(array, np.ndarray):
        raise ExecutionError(f"{path} holds several arrays; save each with numpy.save")
    return cast(Array, array)


def _save(path: Path, array: Array) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def trace_file(folder: Path, name: str) -> Path:
    """Where a trace keeps the tensor of a source node: its name as a path below the folder."""
    parts = [part.replace("..", "__") for part in name.split("/") if part not in ("", ".")]
    return folder.joinpath(*parts[:-1], f"{parts[-1] if parts else '_'}.npy")


def _run(args: argparse.Namespace) -> None:
    module = _load(args)
    functions = [find_function(module, args.function)] if args.function else find_stages(module)
    first, last = functions[0], functions[-1]
    files = _assign(args.input, input_names(first), "input")
    missing = [name for name in input_names(first) if name not in files]
    if missing:
        raise UsageError(f"no file for input {', '.join(missing)}: give it with --input {missing[0]}=FILE.npy")
    targets = _assign(args.output, output_names(last), "output")
    inputs = {name: _array(path) for name, path in files.items()}
    names = trace_names(module) if args.trace else {}

    def observe(op: Operation, result: Array) -> None:
        step.done += 1
        for name in names.get(op, ()):
            path = trace_file(args.trace, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            _save(path, result)

    dtype = np.float32 if args.float32 else np.float64
    with progress("running", total=sum(len(function.body.block.ops) for function in functions)) as step:
        if args.function:
            results = run_function(module, inputs, function=args.function, float_dtype=dtype, observe=observe)
        else:
            results = run_model(module, inputs, float_dtype=dtype, observe=observe)
    for name, array in results.items():
        if name in targets:
            _save(targets[name], array)
        elif not targets:
            extent = f"{array.min():.6g} .. {array.max():.6g}" if array.size else "empty"
            print(f"{name}: {array.dtype}{list(array.shape)}, {extent}")


def run(args: argparse.Namespace) -> int:
    return guarded("qvit-run", lambda: _run(args))
