"""qvit-run behind its front door."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
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
from qvit.backends.systolic.container import load_program
from qvit.backends.systolic.dialect import ProgramOp, program_of
from qvit.backends.systolic.lowering.lower import lower
from qvit.backends.systolic.machine import load_machine
from qvit.backends.systolic.program import Program
from qvit.backends.systolic.simulator.trace import chrome_trace, utilisation_table
from qvit.dialects.atomic import replacing, write_text
from qvit.dialects.functions import DEQUANTIZE_OUTPUTS, INTEGER_ONLY, MAIN, QUANTIZE_INPUTS, stages
from qvit.dialects.semantics.integers import Array
from qvit.frontends.errors import did_you_mean
from qvit.tools.arguments import UsageError
from qvit.tools.backends import compared, run_c, simulated, summary
from qvit.tools.common import guarded, parse_dims, read_exported, read_mlir, read_onnx
from qvit.tools.progress import progress


@dataclass(frozen=True)
class _Stage:
    """A function of the model, or a program of a machine in the place of @main: names of what goes in and comes out."""

    name: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    function: FuncOp | None

    @classmethod
    def of(cls, function: FuncOp) -> "_Stage":
        return cls(function.sym_name.data, input_names(function), output_names(function), function)


@dataclass(frozen=True)
class _Model:
    """What is run; program: where @main is one already. Without a module there is only the program."""

    module: ModuleOp
    program: Program | None
    stages: Sequence[_Stage]


def _load(args: argparse.Namespace) -> _Model:
    path: Path = args.model
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix == ".onnx":
        outputs = [name for name in args.outputs.split(",") if name]
        module = read_onnx(path, outputs, parse_dims(args.dim), args.calibrate)[0]
    elif path.suffix == ".pt2" and not args.dim and not args.calibrate:
        module = read_exported(path, [name for name in args.outputs.split(",") if name])[0]
    elif args.outputs or args.dim or args.calibrate:
        raise UsageError("--outputs is for .onnx and .pt2 models, --dim and --calibrate are for .onnx")
    elif path.suffix == ".qisa":
        program = load_program(path)
        return _Model(ModuleOp([]), program, [_program_stage(program)])
    else:
        module = read_mlir(path)
    program = program_of(module) if any(isinstance(op, ProgramOp) for op in module.ops) else None
    if args.function and not (program is not None and args.function == MAIN):
        return _Model(module, None, [_Stage.of(find_function(module, args.function))])
    if program is None:
        return _Model(module, None, [_Stage.of(function) for function in find_stages(module)])
    ends = {function.sym_name.data: _Stage.of(function) for function in stages(module)}
    ends[MAIN] = _program_stage(program)
    order = (MAIN,) if args.function else (QUANTIZE_INPUTS, MAIN, DEQUANTIZE_OUTPUTS)
    return _Model(module, program, [ends[name] for name in order if name in ends])


def _program_stage(program: Program) -> _Stage:
    return _Stage(MAIN, [port.name for port in program.inputs], [port.name for port in program.outputs], None)


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


def _check(args: argparse.Namespace, model: _Model) -> None:
    """UsageError for options that do not go together."""
    systolic = args.backend == "systolic" or "systolic" in (args.compare or ()) or model.program is not None
    if (args.compare or args.backend != "interpreter") and all(stage.name != MAIN for stage in model.stages):
        raise UsageError(f"only @{MAIN} runs on other backends, and --function asks for @{args.function}")
    if args.compare and args.trace:
        raise UsageError("--trace keeps the tensors of one backend: leave --compare out, and name it with --backend")
    if args.trace and systolic:
        raise UsageError(
            "--trace keeps the tensors of the interpreter or of C; a machine has bytes: --timeline says when"
        )
    if args.threads < 1 or (args.threads > 1 and not args.compare and args.backend != "c"):
        raise UsageError(f"--threads is for the backend c, and 1 or more; found {args.threads} with {args.backend}")
    if (args.machine or args.timeline or args.utilisation) and not systolic:
        raise UsageError("--machine, --timeline and --utilisation are for the backend systolic: name it with --backend")
    if args.compare and (args.timeline or args.utilisation):
        raise UsageError("--timeline and --utilisation are of one run: leave --compare out")
    if model.program is not None and (args.compare or args.backend == "c"):
        raise UsageError(f"{args.model} is a machine's program: nothing but the simulator runs it")
    if model.program is not None and args.machine:
        raise UsageError(f"{args.model} is a program of the machine {model.program.machine.name}: leave --machine out")


def _simulate(args: argparse.Namespace, program: Program, inputs: Sequence[Array]) -> dict[str, Array]:
    """The results of a program; what it took is printed, and kept where that is asked for."""
    result = simulated(program, inputs)
    print(summary(result))
    if args.utilisation:
        print(utilisation_table(result), end="")
    if args.timeline:
        write_text(args.timeline, chrome_trace(result))
    return dict(result.outputs)


def _run(args: argparse.Namespace) -> None:
    model = _load(args)
    _check(args, model)
    module, first, last = model.module, model.stages[0], model.stages[-1]
    machine = load_machine(args.machine or "small")
    files = _assign(args.input, first.inputs, "input")
    missing = [name for name in first.inputs if name not in files]
    if missing:
        raise UsageError(f"no file for input {', '.join(missing)}: give it with --input {missing[0]}=FILE.npy")
    targets = _assign(args.output, last.outputs, "output")
    inputs = {name: _array(path) for name, path in files.items()}
    names = trace_names(module) if args.trace else {}

    def observe(op: Operation, result: Array) -> None:
        step.done += 1
        for name in names.get(op, ()):
            path = trace_file(args.trace, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            _save(path, result)

    def in_order(arrays: dict[str, Array], stage: _Stage) -> list[Array]:
        """The user's inputs by name; between functions, results in the order of arguments."""
        return [arrays[name] for name in first.inputs] if stage is first else list(arrays.values())

    dtype = np.float32 if args.float32 else np.float64
    total = sum(len(stage.function.body.block.ops) for stage in model.stages if stage.function is not None)
    with progress("running", total=total) as step:
        results = inputs
        for stage in model.stages:
            given = in_order(results, stage)
            if stage.function is None:
                assert model.program is not None
                results = _simulate(args, model.program, given)
            elif args.compare and stage.name == MAIN:
                results, count = compared(module, given, args.compare, args.threads, machine)
                what = "tensors" if "c" in args.compare and "interpreter" in args.compare else "results"
                *others, last_one = args.compare
                print(f"{', '.join(others)} and {last_one}: {count} {what} of @{MAIN} are equal")
            elif args.backend == "c" and stage.name == MAIN:
                results = run_c(module, given, observe if args.trace else None, args.threads)
            elif args.backend == "systolic" and stage.name == MAIN:
                results = _simulate(args, lower(module, machine), given)
            else:
                results = run_function(
                    module,
                    given,
                    function=stage.name,
                    float_dtype=dtype,
                    integers_only=not args.function and INTEGER_ONLY in stage.function.attributes,
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
