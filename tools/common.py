"""What the tools share: modules as files, and turning every failure into one line and an exit status."""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from xdsl.context import Context
from xdsl.dialects import get_all_dialects
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation
from xdsl.parser import Parser
from xdsl.utils.exceptions import DiagnosticException, ParseError, VerifyException
from xdsl.utils.lexer import Span

from qvit.backends.interpreter import ExecutionError
from qvit.backends.systolic.universe import UNIVERSE as MACHINES
from qvit.dialects.atomic import replacing
from qvit.dialects.provenance import Remark, describe
from qvit.dialects.weights import WeightError, externalize, free_path, has_large_tensors, rebase
from qvit.frontends.errors import ImportRefused
from qvit.tools.arguments import UsageError
from qvit.tools.extensions import extensions
from qvit.tools.progress import progress
from qvit.transforms.universe import UNIVERSE

if TYPE_CHECKING:
    from qvit.tools.samples import Pixels


def register_dialects(context: Context) -> None:
    """All of xDSL's dialects, ours and those of extensions, loaded when first met."""
    ours = UNIVERSE.all_dialects | MACHINES.all_dialects
    for name, factory in {**get_all_dialects(), **ours, **extensions().all_dialects}.items():
        context.register_dialect(name, factory)


class InvalidModule(Exception):
    """A module does not verify; the message names the operation."""


def verify(module: ModuleOp) -> None:
    """InvalidModule names the first operation that breaks a rule: xDSL's own error would print the whole module."""
    try:
        module.verify()
    except VerifyException as error:
        culprit = next((op for op in module.walk() if not _verifies(op)), module)
        reason = " ".join(str(error).split())  # some of xDSL's have several lines
        raise InvalidModule(f"{describe(culprit)} ({culprit.name}): {reason}") from error


def _verifies(op: Operation) -> bool:
    try:
        op.verify(verify_nested_ops=False)
    except VerifyException:
        return False
    return True


_STRING = re.compile(r"""//[^\n]*+|"(?:[^"\\\n\v\f]++|\\(?:["nt\\]|[0-9A-Fa-f]{2}))*+(?P<end>"?)""")


def _require_closed_strings(text: str, name: str) -> None:
    """InvalidModule for a string that does not end where it should: xDSL's lexer would take time exponential in its length."""
    for match in _STRING.finditer(text):
        if match["end"] == "":
            start = match.start()
            line, column = text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start)
            raise InvalidModule(
                f"{name}:{line}:{column}: the string that begins here has no end; close it, or mend its escapes"
            )


def parse_mlir(context: Context, text: str, name: str, folder: Path) -> ModuleOp:
    """IR as text; the paths of its weight files, relative to `folder`, are made to hold from the working directory."""
    _require_closed_strings(text, name)
    parser = Parser(context, text, name)
    try:
        with progress(f"reading {name}"):
            module = parser.parse_module()
    except (VerifyException, AssertionError) as error:
        # of an attribute or type, which has no place of its own; xDSL asserts what follows in a complex number
        place = Span(parser.pos, parser.pos, parser.lexer.input).get_location()
        raise InvalidModule(f"{place}: {error}") from error
    verify(module)
    rebase(module, lambda path: folder / path)
    return module


def read_mlir(path: Path) -> ModuleOp:
    """A .mlir file, verified, its weight files found beside it."""
    context = Context()
    register_dialects(context)
    return parse_mlir(context, path.read_text(), str(path), path.parent)


def require_place(path: Path) -> None:
    """OSError where no file can be written to `path`, to be told before any work."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {path.parent}")


def write_mlir(module: ModuleOp, path: Path) -> None:
    """Write a module to a .mlir file, whole or not at all; its large new tensors go into a .safetensors file beside it.

    The module itself stays as it is. OSError if the file cannot be written there.
    """
    require_place(path)
    module = module.clone()
    with ExitStack() as files:
        # closed in reverse order: the weights are in place when the text that names them is
        text = files.enter_context(replacing(path))
        if has_large_tensors(module):
            weights = free_path(module, path.with_suffix(".safetensors"))
            externalize(module, weights, files.enter_context(replacing(weights)))
        rebase(module, lambda file: Path(os.path.relpath(file, path.parent)))
        text.write_text(str(module) + "\n")


def read_onnx(
    path: Path,
    outputs: Sequence[str],
    dims: Mapping[str, int],
    samples: Path | None = None,
    pixels: "Pixels | None" = None,
    optional: bool = False,
) -> tuple[ModuleOp, list[Remark]]:
    """An ONNX model, and the remarks of the reader and its recognisers, which are also said on stderr, one line a rule.

    samples: for --calibrate, with `pixels` for images. optional: they are for more than dynamic quantization, which the
    model need not have.
    """
    from qvit.frontends.onnx import import_onnx, load_onnx

    ranges: Mapping[str, tuple[float, float]] = {}
    if samples is not None:
        from qvit.tools.calibration import is_dynamic, measured_ranges

        model = load_onnx(path)
        if is_dynamic(model) or not optional:
            with progress(f"measuring {path.name}"):
                ranges = measured_ranges(model, samples, dims, pixels)
    with progress(f"reading {path.name}"):
        module, remarks = import_onnx(load_onnx(path), outputs, dims, ranges)
    _say(remarks)
    return module, remarks


def read_exported(path: Path, outputs: Sequence[str]) -> tuple[ModuleOp, list[Remark]]:
    """A program that torch.export.save wrote, and the remarks, as `read_onnx`."""
    from qvit.frontends.torch import from_exported, load_exported

    with progress(f"reading {path.name}"):
        module, remarks = from_exported(load_exported(path), outputs)
    _say(remarks)
    return module, remarks


def _say(remarks: Sequence[Remark]) -> None:
    """Remarks on stderr, one line a rule."""
    for rule in dict.fromkeys(remark.rule for remark in remarks):
        mine: list[Remark] = [remark for remark in remarks if remark.rule == rule]
        more = f" and {len(mine) - 1} more" if len(mine) > 1 else ""
        print(f"note: {rule} at {mine[0].src}{more}: {mine[0].reason}", file=sys.stderr)


def parse_dims(options: Sequence[str]) -> dict[str, int]:
    """["batch=1"] -> {"batch": 1}."""
    dims: dict[str, int] = {}
    for option in options:
        name, equals, number = option.rpartition("=")
        if not equals or not number.isdigit() or int(number) < 1:
            raise UsageError(f"--dim expects NAME=N with N at least 1, found {option!r}")
        dims[name] = int(number)
    return dims


def guarded(tool: str, body: Callable[[], None]) -> int:
    """Run a tool; every failure that a user can cause becomes one line on stderr. Returns the exit status."""
    try:
        body()
    except UsageError as error:
        print(f"{tool}: {error}", file=sys.stderr)
        print(f"try {tool} --help", file=sys.stderr)
        return 2
    except ParseError as error:
        print(f"{tool}: error: {error.span.get_location()}: {error.msg}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"{tool}: interrupted{f'; {interrupt}' if str(interrupt) else ''}", file=sys.stderr)
        return 1
    except RecursionError:
        print(f"{tool}: error: the input is nested too deeply", file=sys.stderr)
        return 1
    except MemoryError as error:
        print(
            f"{tool}: error: not enough memory: {str(error) or 'a tensor of the input is too large'}", file=sys.stderr
        )
        return 1
    except (
        ImportRefused,
        WeightError,
        ExecutionError,
        InvalidModule,
        DiagnosticException,
        OSError,
        OverflowError,
        ValueError,
    ) as error:
        print(f"{tool}: error: {error}", file=sys.stderr)
        return 1
    return 0
