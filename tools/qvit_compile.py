"""qvit-compile: from a float model and sample inputs to a program of integers.

This module is the front door: `--help`, `--version` and `--list-schemes` are answered here, without importing xDSL.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from qvit.frontends.errors import did_you_mean
from qvit.tools.arguments import ArgumentParser, UsageError
from qvit.tools.registry import SCHEMES, VERSION, scheme_list

EPILOG = f"""\
schemes:
{scheme_list()}

examples:
  qvit-compile model.onnx --dim batch=1 --calibrate photos/ -o compiled/
  qvit-compile model.onnx --calibrate samples.npz --scheme i-vit --residual 32 -o compiled/
  qvit-compile model_int8.onnx -o compiled/                 a model that has all its scales needs no samples
  qvit-run compiled/model.mlir --input image.npy

DIR holds images alone: RGB for a model of 3 channels, grey for one of 1. FILE.npz has one array for each input, samples
along its first axis. What does not fill the last batch is filled up with the first samples.

The folder OUT gets model.mlir with model.safetensors, report.json, report.html and summary.txt; with --target c also a
folder c of C11 (model.h, model.c, kernels, model.weights, main.c, Makefile, CMakeLists.txt); with --target systolic also
program.qisa, which qvit-run simulates and qvit-asm -d shows; all or none of them. It must be new, or hold what an earlier
run wrote. A run that is interrupted while it calibrates goes on when started again.

Exit status: 0 success; 1 the input or a pass failed, with one line on stderr; 2 wrong usage.
"""


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers such as 0.5 or 0.485,0.456,0.406; found {text!r}") from None


def _positives(text: str) -> tuple[float, ...]:
    numbers = _numbers(text)
    if not all(number > 0 for number in numbers):
        raise argparse.ArgumentTypeError(f"expected positive numbers, found {text!r}")
    return numbers


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, found {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, found {text!r}")
    return int(text)


def _scheme(text: str) -> str:
    if text not in SCHEMES:
        known = f"; there are {', '.join(SCHEMES)}"
        raise argparse.ArgumentTypeError(f"unknown scheme {text!r}{did_you_mean(text, SCHEMES, known)}")
    return text


class _List(argparse.Action):
    """--list-schemes"""

    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> None:
        print(scheme_list())
        parser.exit()


def parser() -> argparse.ArgumentParser:
    arguments = ArgumentParser(
        prog="qvit-compile",
        description="Turn a model (.onnx, .pt2 of torch.export, or a .mlir of the qvit dialect) into a program of integers alone.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = arguments.add_argument
    add("model", type=Path, help="a .onnx or .pt2 model, float or quantized, or a .mlir file")
    add("-o", "--output", type=Path, required=True, metavar="OUT", help="the folder to write")
    add("--scheme", type=_scheme, default="best", metavar="NAME", help="how to get to integers (default best)")
    add(
        "--target", choices=("c", "systolic"), help="also write it as C, into OUT/c, or for a machine, OUT/program.qisa"
    )
    add("--machine", default="", metavar="NAME|FILE", help="with --target systolic: the machine (default small)")
    add("--weights-array", action="store_true", help="with --target c: the weights as a C array, too")
    add("--list-schemes", action=_List, nargs=0, help="list the schemes")

    samples = arguments.add_argument_group("samples, from which scales are chosen")
    add = samples.add_argument
    add("--calibrate", type=Path, metavar="DIR|FILE.npz", help="a folder of images, or arrays")
    add("--samples", type=_count, metavar="N", help="take only the first N of them")
    add("--crop", action="store_true", help="cut the middle out of images of another shape, not resize the whole")
    add("--mean", type=_numbers, metavar="M[,M,M]", help="of pixels / 255 (default: ImageNet's; grey 0.5)")
    add("--std", type=_positives, metavar="S[,S,S]", help="their deviation, likewise")
    add("--seed", type=_seed, default=0, metavar="N", help="of the values kept for statistics (default 0)")

    numbers = arguments.add_argument_group("numbers, in the place of the scheme's own")
    add = numbers.add_argument
    add("--weights-bits", type=int, choices=range(2, 9), metavar="2..8", help="bits of all weights")
    add(
        "--activation-bits",
        type=int,
        choices=range(2, 9),
        metavar="2..8",
        help="bits of what products take; with it, the first and the last layer keep 8 bits of weights and operands",
    )
    add(
        "--residual",
        type=int,
        choices=(8, 16, 32),
        help="bits of the residual stream (32: as many as layer normalisation takes of 32-bit words)",
    )
    add("--overrides", type=Path, metavar="FILE.toml", help="settings of single tensors and weights")
    add("--published", action="store_true", help="approximations as the papers print them")
    add("--unchecked", action="store_true", help="take an approximation even where its conditions do not hold")

    model = arguments.add_argument_group("the model")
    add = model.add_argument
    add("--outputs", default="", metavar="NAME,...", help="end an .onnx or .pt2 graph at these tensors")
    add("--dim", action="append", default=[], metavar="NAME=N", help="fix a dynamic dimension of an .onnx model")
    add("--version", action="version", version=f"qvit {VERSION}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    try:
        args = parser().parse_args(argv)
    except UsageError as error:
        print(f"qvit-compile: {error}\ntry qvit-compile --help", file=sys.stderr)
        return 2
    try:
        from qvit.tools.compile_driver import run

        return run(args)
    except KeyboardInterrupt:  # before the driver can say so
        print("qvit-compile: interrupted", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
