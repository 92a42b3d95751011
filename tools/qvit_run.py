"""qvit-run: execute a module on a backend."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from qvit.tools.arguments import ArgumentParser, UsageError
from qvit.tools.registry import VERSION

EPILOG = """\
examples:
  qvit-run model.mlir --input image.npy --output logits.npy
  qvit-run model.onnx --input input_image=photo.npy --trace codes/
  qvit-run compiled/model.mlir --input image.npy --compare interpreter,c
  qvit-run compiled/model.mlir --input image.npy --backend systolic --machine large --timeline run.json
  qvit-run program.qisa --input codes.npy

Without --output, the shape, type and range of each result are printed. A compiled model runs from real numbers to real
numbers: @quantize_inputs, @main, @dequantize_outputs; --function main takes and gives codes. The backend c compiles @main
with the system's C compiler, the backend systolic lowers it for a machine and simulates that; the functions around it are
interpreted. A program of a machine (.qisa, or what --lower-to-systolic made) is simulated on the machine it is for.
Exit status: 0 success; 1 failure, with one line on stderr; 2 wrong usage.
"""


BACKENDS = ("interpreter", "c", "systolic")


def _backends(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if len(names) < 2 or len(set(names)) < len(names) or not set(names) <= set(BACKENDS):
        raise argparse.ArgumentTypeError(f"expected different backends such as {','.join(BACKENDS)}, found {text!r}")
    return names


def parser() -> argparse.ArgumentParser:
    arguments = ArgumentParser(
        prog="qvit-run",
        description="Execute a model (.mlir, .onnx or .pt2) on arrays from .npy files.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = arguments.add_argument
    add("model", type=Path, help="a .mlir file, a .onnx or .pt2 model, or a .qisa program")
    add("--input", action="append", default=[], metavar="[NAME=]FILE", help="an input, by name or in order")
    add("--output", action="append", default=[], metavar="[NAME=]FILE", help="where a result goes, likewise")
    add("--backend", choices=BACKENDS, default="interpreter", help="what runs @main (default interpreter)")
    add(
        "--compare",
        type=_backends,
        metavar="A,B,...",
        help="run @main on all of these backends; fail at the first tensor that differs",
    )
    add("--threads", type=int, default=1, metavar="N", help="that compute in the backend c (default 1)")
    add("--machine", default="", metavar="NAME|FILE", help="that the backend systolic simulates (default small)")
    add("--timeline", type=Path, metavar="FILE.json", help="what each unit did when, for ui.perfetto.dev")
    add("--utilisation", action="store_true", help="print what each source node took of the machine")
    add("--function", default="", metavar="NAME", help="run this function of the module alone")
    add("--float32", action="store_true", help="run float operations in float32 instead of float64")
    add("--trace", type=Path, metavar="DIR", help="keep every integer tensor, by the name of its source node")
    add("--outputs", default="", metavar="NAME,...", help="end an .onnx or .pt2 graph at these tensors")
    add("--dim", action="append", default=[], metavar="NAME=N", help="fix a dynamic dimension of an .onnx model")
    add("--calibrate", type=Path, metavar="FILE.npz", help="freeze an .onnx model's dynamic quantization on samples")
    add("--version", action="version", version=f"qvit {VERSION}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    try:
        args = parser().parse_args(argv)
    except UsageError as error:
        print(f"qvit-run: {error}\ntry qvit-run --help", file=sys.stderr)
        return 2
    try:
        from qvit.tools.run_driver import run

        return run(args)
    except KeyboardInterrupt:  # before the driver can say so
        print("qvit-run: interrupted", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
