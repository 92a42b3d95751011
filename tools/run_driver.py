"""qvit-run behind its front door."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation

from qvit.backends.interpreter import (
    ExecutionError,
    find_function,
    find_stages,
    input_names,
    output_names,
    trace_names,
)
from qvit.backends.interpreter import run as run_function
from qvit.dialects.atomic import replacing
from qvit.dialects.functions import INTEGER_ONLY, MAIN
from qvit.dialects.semantics.integers import Array
from qvit.frontends.errors import did_you_mean
from qvit.tools.arguments import UsageError
from qvit.tools.backends import compared, run_c
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
    if (args.compare or args.backend == "c") and all(f.sym_name.data != MAIN for f in functions):
        raise UsageError(f"only @{MAIN} runs in C, and --function asks for @{args.function}")
    if args.compare and args.trace:
        raise UsageError("--trace keeps the tensors of one backend: leave --compare out, and name it with --backend")
    if args.threads < 1 or (args.threads > 1 and not args.compare and args.backend != "c"):
        raise UsageError(f"--threads is for the backend c, and 1 or more; found {args.threads} with {args.backend}")
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

    def in_order(arrays: dict[str, Array], function: FuncOp) -> list[Array]:
        """The user's inputs by name; between functions, results in the order of arguments."""
        return [arrays[name] for name in input_names(first)] if function is first else list(arrays.values())

    dtype = np.float32 if args.float32 else np.float64
    with progress("running", total=sum(len(function.body.block.ops) for function in functions)) as step:
        results = inputs
        for function in functions:
            name = function.sym_name.data
            if args.compare and name == MAIN:
                results, count = compared(module, in_order(results, function), args.threads)
                print(f"{' and '.join(args.compare)}: {count} tensors of @{MAIN} are equal")
            elif args.backend == "c" and name == MAIN:
                results = run_c(module, in_order(results, function), observe if args.trace else None, args.threads)
            else:
                results = run_function(
                    module,
                    in_order(results, function),
                    function=name,
                    float_dtype=dtype,
                    integers_only=not args.function and INTEGER_ONLY in function.attributes,
                    observe=observe,
                )
    for name, array in results.items():
        if name in targets:
            _save(targets[name], array)
        elif not targets:
            extent = f"{array.min():.6g} .. {array.max():.6g}" if array.size else "empty"
            print(f"{name}: {array.dtype}{list(array.shape)}, {extent}")


def run(args: argparse.Namespace) -> int:
    return guarded("qvit-run", lambda: _run(args))
