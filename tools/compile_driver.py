"""qvit-compile behind its front door."""

import argparse
import hashlib
import json
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.exceptions import DiagnosticException

from qvit.backends.c import Sources, emit
from qvit.backends.systolic.container import save_program
from qvit.backends.systolic.lowering.lower import lower
from qvit.backends.systolic.machine import load_machine
from qvit.backends.systolic.program import Program
from qvit.dialects.atomic import replacing_folder
from qvit.dialects.ops.nonlinear import LayerNormOp
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import Remark
from qvit.dialects.types import shape_of
from qvit.dialects.weights import digest, inline, weight_files
from qvit.tools.arguments import UsageError
from qvit.tools.common import guarded, parse_dims, read_exported, read_mlir, read_onnx, verify, write_mlir
from qvit.tools.compile_report import CompileReport, SampleFacts, compile_report, float_bytes
from qvit.tools.compiler import Compiled, compile_model, with_quantization
from qvit.tools.progress import progress
from qvit.tools.registry import VERSION
from qvit.tools.samples import Pixels, Samples, read_samples
from qvit.transforms.pipelines import SCHEMES, Scheme, at_bits
from qvit.transforms.ptq.scheme import read_overrides
from qvit.transforms.ptq.sites import Role

FILES = ("model.mlir", "model.safetensors", "report.json", "report.html", "summary.txt", "statistics.npz")
TARGETS = ("c", "program.qisa")
STATE = ".calibration.npz"


# --- what is asked for ---


def _scheme(args: argparse.Namespace, channels: int) -> Scheme:
    """The scheme, with the numbers that options put in the place of its own. channels: of the widest layer normalisation."""
    scheme = SCHEMES[args.scheme]
    quantization = scheme.quantization
    if args.activation_bits is not None:
        scheme = at_bits(scheme, args.weights_bits or quantization.weights.bits, args.activation_bits)
        quantization = scheme.quantization
    elif args.weights_bits is not None:
        scheme = with_quantization(scheme, weights=replace(quantization.weights, bits=args.weights_bits))
    if args.residual is not None:
        bits = min(args.residual, _widest(channels))
        # 8 bits have none to spare for inputs that reach farther than the samples
        changes = {"bits": bits, "symmetric": True, "margin": 1.0 if bits == 8 else 2.0}
        roles = quantization.roles
        wide = {role: replace(roles[role], **changes) for role in (Role.RESIDUAL, Role.BRANCH) if role in roles}
        scheme = with_quantization(scheme, roles={**roles, **wide})
    if args.overrides is not None:
        scheme = with_quantization(scheme, overrides=read_overrides(args.overrides))
    return scheme


def _widest(channels: int) -> int:
    """The most bits that layer normalisation takes: channels |x| stays below 2^30, so that its sums and C x fit 32 bits."""
    return 31 - channels.bit_length()


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, by name, for the report and for the key of the calibration."""
    names = ("published", "unchecked", "weights_bits", "activation_bits", "residual", "outputs", "samples")
    found = {name.replace("_", "-"): value for name in names if (value := getattr(args, name))}
    if args.dim:
        found["dim"] = " ".join(args.dim)
    if args.overrides is not None:
        found["overrides"] = args.overrides.name
    return {"seed": args.seed, **found}


def _output(path: Path) -> Path:
    """Where results go; OSError, before any work, where they cannot."""
    path = path.resolve()
    if not path.exists():
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path} cannot be written: there is no folder {path.parent}")
        return path
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is a file; name a folder with -o")
    others = sorted(
        p.name
        for p in path.iterdir()
        if p.name not in (*FILES, *TARGETS) and not p.name.lstrip(".").startswith(STATE[1:])
    )
    if others or not _is_ours(path):
        others += [name for name in TARGETS if (path / name).exists() and not (path / "report.json").exists()]
        what = f"holds {others[0]}" if others else "holds a report of another program"
        raise FileExistsError(f"{path} {what}: name a new folder, or one that qvit-compile wrote")
    return path


def _is_ours(folder: Path) -> bool:
    """Whether an earlier run wrote what is there, if anything is."""
    report = folder / "report.json"
    if not report.exists():
        return not any((folder / name).exists() for name in (*FILES, *TARGETS))
    try:
        return json.loads(report.read_text())["tool"] == "qvit-compile"
    except (ValueError, KeyError, TypeError):
        return False


# --- the model ---


def _load(args: argparse.Namespace, pixels: Pixels) -> tuple[ModuleOp, list[Remark]]:
    path: Path = args.model
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix == ".onnx":
        outputs = [name for name in args.outputs.split(",") if name]
        return read_onnx(path, outputs, parse_dims(args.dim), args.calibrate, pixels, optional=True)
    if path.suffix == ".pt2" and not args.dim:
        return read_exported(path, [name for name in args.outputs.split(",") if name])
    if path.suffix not in (".mlir", ".pt2"):
        raise UsageError(f"{path}: cannot tell its format from {path.suffix!r}; known are .onnx, .pt2, .mlir")
    if args.outputs or args.dim:
        raise UsageError("--outputs is for .onnx and .pt2 models, --dim for .onnx")
    return read_mlir(path), []


def _channels(module: ModuleOp) -> int:
    """Of the widest layer normalisation; 1 where there is none."""
    return max((shape_of(op.input)[-1] for op in module.walk() if isinstance(op, LayerNormOp)), default=1)


def _is_quantized(module: ModuleOp) -> bool:
    return any(isinstance(op, QuantizeOp | DequantizeOp) for op in module.walk())


def _key(module: ModuleOp, samples: Samples, settings: Mapping[str, Any], scheme: Scheme) -> str:
    """Of a calibration: the model, the samples and all that their statistics depend on."""
    total = hashlib.sha256(f"{VERSION} {sorted(settings.items())} {scheme} {samples.digest}".encode())
    for file in weight_files(module):
        total.update(file.sha256.data.encode())
    for op in module.walk():
        total.update(f"{op.name} {[str(value.type) for value in op.results]}".encode())
        if isinstance(op, ConstantOp):
            total.update(op.value.data.data)
        else:
            total.update(str(sorted(op.properties.items())).encode())
    return total.hexdigest()


# --- compiling ---


@contextmanager
def _resumable(out: Path) -> Generator[Path]:
    """Where the state of a calibration is kept. It survives an interruption, and nothing else."""
    made = not out.exists()
    out.mkdir(exist_ok=True)
    state = out / STATE
    try:
        yield state
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and state.exists():
            raise KeyboardInterrupt("the same command goes on from here") from None
        state.unlink(missing_ok=True)
        if made:
            out.rmdir()
        raise


def _compiled(
    args: argparse.Namespace, module: ModuleOp, samples: Samples | None, scheme: Scheme, state: Path | None
) -> Compiled:
    options: dict[str, Any] = {"published": args.published, "unchecked": args.unchecked, "seed": args.seed}
    if samples is None:
        with progress("compiling"):
            return compile_model(module, [], scheme, **options)
    with progress("calibrating", total=len(samples)) as step:

        def count(done: int) -> None:
            step.done = done
            if done == len(samples):
                step.what = "compiling"

        def search(done: int, total: int) -> None:
            step.what = f"choosing bits, {done} of {total}"

        key = _key(module, samples, _settings(args), scheme)
        return compile_model(module, samples, scheme, **options, state=state, key=key, progress=count, searching=search)


def _report(
    args: argparse.Namespace, module: ModuleOp, samples: Samples | None, scheme: Scheme, state: Path | None
) -> tuple[Compiled, CompileReport]:
    floats = float_bytes(module)
    try:
        compiled = _compiled(args, module, samples, scheme, state)
    except DiagnosticException as error:
        advice = "; --calibrate DIR or FILE.npz adds the scales that are missing" if samples is None else ""
        raise DiagnosticException(f"{args.model.name}: {error}{advice}") from error
    verify(compiled.module)
    with progress("comparing with float"):
        report = compile_report(
            compiled,
            scheme,
            version=VERSION,
            model=args.model.name,
            sha256=digest(args.model),
            settings=_settings(args),
            samples=None if samples is None else SampleFacts(samples.note, samples.total, len(samples)),
            batch=None if samples is None else samples[0],
            floats=floats,
        )
    return compiled, report


def _compile(args: argparse.Namespace) -> None:
    out, pixels = _output(args.output), Pixels(args.mean, args.std, args.crop)
    if args.weights_array and args.target != "c":
        raise UsageError("--weights-array is for --target c")
    if args.machine and args.target != "systolic":
        raise UsageError("--machine is for --target systolic")
    machine = load_machine(args.machine or "small")
    _scheme(args, 1)  # what is wrong with its options is said before any work
    module, declined = _load(args, pixels)
    scheme = _scheme(args, _channels(module))
    if args.calibrate is None and not _is_quantized(module):
        raise UsageError(f"{args.model} is a float model: give samples for its scales, --calibrate DIR or FILE.npz")
    samples = None if args.calibrate is None else read_samples(args.calibrate, module, pixels, args.samples)
    with nullcontext() if samples is None else _resumable(out) as state:
        compiled, report = _report(args, module, samples, scheme, state)
        sources = emit(compiled.module) if args.target == "c" else None
        program = lower(compiled.module, machine) if args.target == "systolic" else None
        _write(out, compiled, report, declined, sources, args.weights_array, program)
    for warning in report.warnings:
        print(f"qvit-compile: warning: {warning}", file=sys.stderr)
    print(report.text(), end="")
    if sources is not None:
        print(sources.summary())
    if program is not None:
        words, data = len(program.instructions), sum(len(content) for content in program.data.values())
        print(f"systolic: machine {machine.name}, {words:,} words, {data / 2**20:.2f} MiB of weights and constants")


def _write(
    out: Path,
    compiled: Compiled,
    report: CompileReport,
    declined: list[Remark],
    sources: Sources | None,
    array: bool,
    program: Program | None,
) -> None:
    """The whole folder, or nothing."""
    from qvit.tools.page.compiled import compiled_page

    inline(compiled.module)  # the folder stands alone
    with progress(f"writing {out.name}"), replacing_folder(out) as folder:
        write_mlir(compiled.module, folder / "model.mlir")
        (folder / "report.json").write_text(report.to_json(), encoding="utf-8")
        (folder / "report.html").write_text(compiled_page(compiled, report, declined), encoding="utf-8")
        (folder / "summary.txt").write_text(report.text(), encoding="utf-8")
        if compiled.largest:
            np.savez(folder / "statistics.npz", **dict(compiled.largest))  # pyright: ignore[reportArgumentType]
        if sources is not None:
            (folder / "c").mkdir()
            sources.write(folder / "c", array)
        if program is not None:
            save_program(program, folder / "program.qisa")


def run(args: argparse.Namespace) -> int:
    return guarded("qvit-compile", lambda: _compile(args))
