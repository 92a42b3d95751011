"""qvit-opt behind its front door: xDSL's driver, with our passes as flags, our readers, and weights beside the output."""

import argparse
import dataclasses
import inspect
import os
import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO, StringIO
from itertools import accumulate
from pathlib import Path
from typing import IO, TYPE_CHECKING, ClassVar, cast

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass, PassPipeline, get_pass_option_infos
from xdsl.utils.arg_spec import ArgSpec, parse_pipeline
from xdsl.utils.exceptions import ArgSpecParseError, ParseError
from xdsl.xdsl_opt_main import xDSLOptMain

from qvit.dialects.atomic import replacing
from qvit.dialects.provenance import Remark
from qvit.dialects.weights import externalize, free_path, has_large_tensors, rebase
from qvit.frontends.errors import did_you_mean
from qvit.tools.arguments import ArgumentParser, UsageError
from qvit.tools.common import (
    guarded,
    parse_dims,
    parse_mlir,
    read_exported,
    read_onnx,
    register_dialects,
    require_place,
    verify,
)
from qvit.tools.extensions import extensions
from qvit.tools.progress import progress
from qvit.tools.registry import PASSES, pass_list

if TYPE_CHECKING:
    from qvit.transforms.delay_dequant import DelayDequantPass, Report


def pass_class(name: str) -> type[ModulePass]:
    """The class of a pass of the table, or of an extension."""
    if name not in PASSES:
        try:
            return extensions().all_passes[name]()
        except ImportError as error:
            raise ValueError(f"the extension's pass {name} cannot be loaded: {error}") from error
    module, attribute, _ = PASSES[name]
    found = getattr(import_module(module), attribute)
    return cast("type[ModulePass]", found[name] if isinstance(found, dict) else found)


def pass_names() -> list[str]:
    return [*PASSES, *extensions().all_passes]


_PLAIN = re.compile(r"[-+]?\d+(\.\d*)?|true|false|[A-Za-z_][A-Za-z0-9_-]*")


def spec_of(name: str, options: str) -> str:
    """`a=1,b` (shell-safe) or `{a=1 b=true}` (xDSL's own) -> xDSL's pipeline element."""
    if options.startswith("{") or not options:
        return name + options
    fields: list[str] = []
    for option in options.split(","):
        key, equals, value = option.partition("=")
        if not equals and fields and re.fullmatch(r"[-+]?\d+(\.\d*)?", key):
            fields[-1] += f",{key}"  # the next number of a list: sizes=1,2,3
            continue
        value = value if equals else "true"
        fields.append(f"{key}={value if _PLAIN.fullmatch(value) else _quoted(value)}")
    return f"{name}{{{' '.join(fields)}}}"


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def split_flags(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """(pipeline elements in the order of their flags, all other arguments). -p counts at its place."""
    pipeline: list[str] = []
    rest: list[str] = []
    passes = pass_names()
    words = iter(args)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag.startswith("--") and flag[2:] in passes:
            pipeline.append(spec_of(flag[2:], value))
        elif flag in ("-p", "--passes"):
            given = value if equals else next(words, None)
            if given is None:
                raise UsageError("-p expects a pipeline, such as -p 'delay-dequant,cse'")
            pipeline.append(given)
        else:
            rest.append(word)
    return pipeline, rest


@dataclass(frozen=True)
class _Kept(ModulePass):
    """--delay-dequant, its report kept for the page."""

    name: ClassVar[str] = "delay-dequant"

    inner: ModulePass
    reports: list["Report"]

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        self.reports.append(cast("DelayDequantPass", self.inner).run(op))


class QvitOpt(xDSLOptMain):
    """xDSL's driver with: our passes and those of extensions, `.onnx` input, weight files, output whole or not at all."""

    def __init__(self, args: Sequence[str]) -> None:
        self.available_frontends = {}
        self.available_passes = {}
        self.available_targets = {}
        self.ctx = Context()
        self.register_all_dialects()
        self.register_all_frontends()
        self.register_all_passes()
        self.register_all_targets()
        pipeline, rest = split_flags(args)
        parser = ArgumentParser(prog="qvit-opt", add_help=False, allow_abbrev=False)
        parser.also = [f"--{name}" for name in pass_names()]
        self.register_all_arguments(parser)
        self.args = parser.parse_args(rest)
        self.args.passes = ",".join(pipeline)
        self.ctx.allow_unregistered = self.args.allow_unregistered_dialect
        self.dims = parse_dims(self.args.dim)
        self.written: set[Path] = set()
        self.declined: list[Remark] = []
        self.reports: list[Report] = []
        self.page = Path(self.args.report) if self.args.report.endswith(".html") else None
        self.setup_pipeline()
        self._apply_global_options()

    def register_all_dialects(self) -> None:
        register_dialects(self.ctx)

    def register_all_passes(self) -> None:
        for name in pass_names():
            self.register_pass(name, lambda name=name: pass_class(name))

    def register_all_targets(self) -> None:
        from xdsl.targets import get_all_targets

        self.available_targets |= {"mlir": get_all_targets()["mlir"], **extensions().all_targets}

    def register_all_arguments(self, arg_parser: argparse.ArgumentParser) -> None:
        super().register_all_arguments(arg_parser)
        arg_parser.add_argument("--outputs", default="")
        arg_parser.add_argument("--dim", action="append", default=[])
        arg_parser.add_argument("--calibrate", type=Path)
        arg_parser.add_argument("--report", default="")
        arg_parser.add_argument("--allow-bounded", action="store_true")
        arg_parser.add_argument("--weights-out", type=Path)

    def register_all_frontends(self) -> None:
        self.available_frontends["mlir"] = self._parse_mlir
        self.available_frontends["onnx"] = self._parse_onnx
        self.available_frontends["pt2"] = self._parse_exported

    def _input_path(self) -> Path | None:
        return None if self.args.input_file in (None, "-") else Path(self.args.input_file)

    def _parse_mlir(self, io: IO[bytes]) -> ModuleOp:
        path = self._input_path()
        folder = Path() if path is None else path.parent
        return parse_mlir(self.ctx, io.read().decode(), self.get_input_name(), folder)

    def _parse_onnx(self, io: IO[bytes]) -> ModuleOp:
        path = self._input_path()
        assert path is not None
        outputs = [name for name in self.args.outputs.split(",") if name]
        module, self.declined = read_onnx(path, outputs, self.dims, self.args.calibrate)
        return module

    def _parse_exported(self, io: IO[bytes]) -> ModuleOp:
        path = self._input_path()
        assert path is not None
        if self.dims or self.args.calibrate:
            raise UsageError("--dim and --calibrate are for .onnx input")
        module, self.declined = read_exported(path, [name for name in self.args.outputs.split(",") if name])
        return module

    def prepare_input(self) -> tuple[list[tuple[IO[bytes], int]], str]:
        path = self._input_path()
        extension = self.args.frontend or ("mlir" if path is None else path.suffix[1:])
        if extension not in self.available_frontends:
            known = ", ".join(f".{e}" for e in self.available_frontends)
            raise UsageError(f"{path}: cannot tell its format from {path.suffix if path else ''!r}; known are {known}")
        if extension in ("onnx", "pt2"):
            if path is None:
                raise UsageError(f"a .{extension} model is read from a file, not from standard input")
            if not path.exists():
                raise FileNotFoundError(f"{path}: no such file")
            return [(BytesIO(), 0)], extension
        if self.args.outputs or self.dims or self.args.calibrate:
            raise UsageError("--outputs, --dim and --calibrate are for .onnx input, --outputs for .pt2 too")
        text = sys.stdin.buffer.read() if path is None else path.read_bytes()
        if not self.args.split_input_file:
            return [(BytesIO(text), 0)], extension
        parts = text.split(b"// -----")
        lines = accumulate([0, *[part.count(b"\n") for part in parts[:-1]]])
        return [(BytesIO(part), line) for part, line in zip(parts, lines, strict=True)], extension

    def setup_pipeline(self) -> None:
        try:
            specs = list(parse_pipeline(self.args.passes))
        except ArgSpecParseError as error:
            reason = str(error).splitlines()[-1].strip()
            raise UsageError(f"cannot read the passes {self.args.passes!r}: {reason}") from None
        for spec in specs:
            _require_pass(spec.name)
            _check_options(spec)
        super().setup_pipeline()

    def _apply_global_options(self) -> None:
        """--report and --allow-bounded are options of every pass that has them; a page is not a pass's to write."""
        if self.page and self.args.split_input_file:
            raise UsageError("a page is about one module: leave out --split-input-file, or write the report as .json")
        options = {"report": "" if self.page else self.args.report, "allow_bounded": self.args.allow_bounded}
        passes = list(self.pipeline.passes)
        for name, value in options.items():
            having = [i for i, p in enumerate(passes) if name in {f.name for f in dataclasses.fields(p)}]
            if value and not having:
                raise UsageError(f"--{name.replace('_', '-')} needs a pass that takes it, such as --delay-dequant")
            if name == "report" and value and len(having) > 1:
                flags = " ".join(f"--{passes[i].name}=report=FILE" for i in having)
                raise UsageError(f"--report is one file for one pass; give each its own: {flags}")
            for i in having if value else ():
                passes[i] = dataclasses.replace(passes[i], **{name: value})
        if self.page:
            passes = [_Kept(p, self.reports) if p.name == "delay-dequant" else p for p in passes]
        self.pipeline = PassPipeline(tuple(passes), self.pipeline.callback)

    def apply_passes(self, prog: ModuleOp) -> None:
        given = self.pipeline.callback

        def between(done: ModulePass | None, module: ModuleOp, coming: ModulePass | None) -> None:
            if given is not None:
                given(done, module, coming)
            step.what = coming.name if coming is not None else step.what

        # --print-between-passes and --time-passes print: standard output is for the module
        with progress("passes") as step, redirect_stdout(sys.stderr):
            PassPipeline(self.pipeline.passes, between).apply(self.ctx, prog)
        verify(prog)

    def _write_page(self, module: ModuleOp, path: Path) -> None:
        from qvit.tools.page.facts import module_facts
        from qvit.tools.page.render import page

        name = Path(self.args.input_file).name if self._input_path() else "standard input"
        report = self.reports[-1] if self.reports else None
        passes = [p.name for p in self.pipeline.passes]
        with progress("writing the page"):
            path.write_text(page(module_facts(module, name, passes, report, self.declined)), encoding="utf-8")
        if report is not None:
            sys.stderr.write(report.table())

    def _place_weights(self, module: ModuleOp, files: ExitStack) -> None:
        """Move large new tensors into a weight file; make the paths in the text relative to where it goes.

        The file takes its name when `files` closes: not before all else went well.
        """
        output = Path(self.args.output_file) if self.args.output_file else None
        if has_large_tensors(module):
            path = self._weights_path(module, output)
            with progress(f"writing {path.name}"):
                externalize(module, path, files.enter_context(replacing(path)))
        start = output.parent if output else Path()
        rebase(module, lambda path: Path(os.path.relpath(path, start)))

    def _weights_path(self, module: ModuleOp, output: Path | None) -> Path:
        if self.args.weights_out is None and output is None:
            raise UsageError(
                "there are new weights, which do not go into the text: name an output file with -o,"
                " or a weight file with --weights-out"
            )
        first = self.args.weights_out or cast(Path, output).with_suffix(".safetensors")
        path = free_path(module, first, self.written)
        self.written.add(path.resolve())
        return path

    def run(self) -> None:
        output = StringIO()
        target = self._output_path()
        chunks, extension = self.prepare_input()
        with ExitStack() as files:
            # closed in reverse order: the weights are in place when the text that names them is
            text = files.enter_context(replacing(target)) if target else None
            page = files.enter_context(replacing(self.page)) if self.page else None
            for i, (chunk, offset) in enumerate(chunks):
                if i > 0:
                    output.write("// -----\n")
                try:
                    module = self.parse_chunk(chunk, extension, offset)
                except ParseError as error:
                    error.span = dataclasses.replace(error.span, line_offset=offset)
                    raise
                assert module is not None
                self.apply_passes(module)
                if page is not None:
                    self._write_page(module, page)  # before new weights leave the module for a file
                    if target is None:
                        return  # who asks for a page alone does not want the text on the terminal
                self._place_weights(module, files)
                output.write(self.output_resulting_program(module))
            if text is not None:
                text.write_text(output.getvalue())
        if target is None:
            sys.stdout.write(output.getvalue())
            sys.stdout.flush()

    def _output_path(self) -> Path | None:
        """Where the text goes; OSError, before any work, where it cannot."""
        if not self.args.output_file:
            return None
        path = Path(self.args.output_file)
        require_place(path)
        return path


def _check_options(spec: ArgSpec) -> None:
    """UsageError for an option that the pass does not have, or a value of another type than the option's."""
    kind = pass_class(spec.name)
    types = {field.name.replace("_", "-"): field.expected_type for field in get_pass_option_infos(kind)}
    for option, value in spec.parameters.items():
        name = option.replace("_", "-")
        if name not in types:
            hint = did_you_mean(option, types) or f"; its options: {', '.join(types) or 'none'}"
            raise UsageError(f"--{spec.name} has no option {option}{hint}")
        try:
            kind.from_pass_spec(ArgSpec(spec.name, {option: value}))
        except ValueError:
            given = ",".join(map(str, value))
            raise UsageError(f"--{spec.name}: the option {name} is of type {types[name]}, found {given!r}") from None


def _require_pass(name: str) -> None:
    if name not in (known := pass_names()):
        raise UsageError(f"unknown pass {name}{did_you_mean(name, known)}")


def summary(name: str) -> str:
    """A pass in one line."""
    if name in PASSES:
        return PASSES[name][2]
    return inspect.cleandoc(pass_class(name).__doc__ or "").partition("\n")[0]


def help_pass(name: str) -> str:
    """A pass's description and options, from its class."""
    _require_pass(name)
    cls = pass_class(name)
    lines = [f"--{name}", "", inspect.cleandoc(cls.__doc__ or summary(name))]
    options = get_pass_option_infos(cls)
    if options:
        lines += ["", "options:"]
        lines += [
            f"  {o.name.replace('_', '-')}={o.expected_type} (default {o.default_value or 'empty'})" for o in options
        ]
    return "\n".join(lines)


def run(args: Sequence[str]) -> int:
    """The tool, apart from what the front door answers. Returns the exit status."""
    return guarded("qvit-opt", lambda: _run(args))


def _run(args: Sequence[str]) -> None:
    for i, word in enumerate(args):
        flag, equals, name = word.partition("=")
        if flag == "--list-passes":
            print(pass_list({name: summary(name) for name in pass_names()}))
            return
        if flag == "--help-pass":
            if not equals and i + 1 == len(args):
                raise UsageError("--help-pass expects the name of a pass")
            print(help_pass(name if equals else args[i + 1]))
            return
    QvitOpt(args).run()
