"""qvit-opt behind its front door: xDSL's driver, with our passes as flags, our readers, and weights beside the output."""

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from io import BytesIO, StringIO
from itertools import accumulate
from pathlib import Path
from typing import IO, NoReturn, cast

from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass, PassPipeline, get_pass_option_infos
from xdsl.utils.arg_spec import parse_pipeline
from xdsl.utils.exceptions import ArgSpecParseError, ParseError
from xdsl.xdsl_opt_main import xDSLOptMain

from qvit.dialects.atomic import replacing
from qvit.dialects.weights import externalize, has_large_tensors, rebase, weight_files
from qvit.frontends.errors import did_you_mean
from qvit.tools.common import (
    UsageError,
    guarded,
    parse_dims,
    parse_mlir,
    read_onnx,
    register_dialects,
    verify,
)
from qvit.tools.registry import PASSES


def pass_class(name: str) -> type[ModulePass]:
    module, attribute, _ = PASSES[name]
    return cast("type[ModulePass]", getattr(import_module(module), attribute))


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
    words = iter(args)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag.startswith("--") and flag[2:] in PASSES:
            pipeline.append(spec_of(flag[2:], value))
        elif flag in ("-p", "--passes"):
            given = value if equals else next(words, None)
            if given is None:
                raise UsageError("-p expects a pipeline, such as -p 'delay-dequant,cse'")
            pipeline.append(given)
        else:
            rest.append(word)
    return pipeline, rest


class _Parser(argparse.ArgumentParser):
    """Errors are raised, and name the flag that was probably meant."""

    def error(self, message: str) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: (\S+)", message)
        if unknown:
            flag = unknown[1].partition("=")[0]
            known = [f"--{name}" for name in PASSES] + [o for a in self._actions for o in a.option_strings]
            message = f"unknown flag {flag}{did_you_mean(flag, known)}"
        raise UsageError(message)


class QvitOpt(xDSLOptMain):
    """xDSL's driver with: an explicit list of passes, `.onnx` input, weight files, output written whole or not at all."""

    def __init__(self, args: Sequence[str]) -> None:
        self.available_frontends = {}
        self.available_passes = {}
        self.available_targets = {}
        from xdsl.context import Context

        self.ctx = Context()
        self.register_all_dialects()
        self.register_all_frontends()
        self.register_all_passes()
        self.register_all_targets()
        pipeline, rest = split_flags(args)
        parser = _Parser(prog="qvit-opt", add_help=False, allow_abbrev=False)
        self.register_all_arguments(parser)
        self.args = parser.parse_args(rest)
        self.args.passes = ",".join(pipeline)
        self.ctx.allow_unregistered = self.args.allow_unregistered_dialect
        self.dims = parse_dims(self.args.dim)
        self.written: set[Path] = set()
        self.setup_pipeline()
        self._apply_global_options()

    def register_all_dialects(self) -> None:
        register_dialects(self.ctx)

    def register_all_passes(self) -> None:
        for name in PASSES:
            self.register_pass(name, lambda name=name: pass_class(name))

    def register_all_targets(self) -> None:
        from xdsl.targets import get_all_targets

        self.available_targets["mlir"] = get_all_targets()["mlir"]

    def register_all_arguments(self, arg_parser: argparse.ArgumentParser) -> None:
        super().register_all_arguments(arg_parser)
        arg_parser.add_argument("--outputs", default="")
        arg_parser.add_argument("--dim", action="append", default=[])
        arg_parser.add_argument("--report", default="")
        arg_parser.add_argument("--allow-bounded", action="store_true")
        arg_parser.add_argument("--weights-out", type=Path)

    def register_all_frontends(self) -> None:
        self.available_frontends["mlir"] = self._parse_mlir
        self.available_frontends["onnx"] = self._parse_onnx

    def _input_path(self) -> Path | None:
        return None if self.args.input_file in (None, "-") else Path(self.args.input_file)

    def _parse_mlir(self, io: IO[bytes]) -> ModuleOp:
        path = self._input_path()
        folder = Path() if path is None else path.parent
        return parse_mlir(self.ctx, io.read().decode(), self.get_input_name(), folder)

    def _parse_onnx(self, io: IO[bytes]) -> ModuleOp:
        path = self._input_path()
        assert path is not None
        return read_onnx(path, [name for name in self.args.outputs.split(",") if name], self.dims)

    def prepare_input(self) -> tuple[list[tuple[IO[bytes], int]], str]:
        path = self._input_path()
        extension = self.args.frontend or ("mlir" if path is None else path.suffix[1:])
        if extension not in self.available_frontends:
            known = ", ".join(f".{e}" for e in self.available_frontends)
            raise UsageError(f"{path}: cannot tell its format from {path.suffix if path else ''!r}; known are {known}")
        if extension == "onnx":
            if path is None:
                raise UsageError("an ONNX model is read from a file, not from standard input")
            if not path.exists():
                raise FileNotFoundError(f"{path}: no such file")
            return [(BytesIO(), 0)], extension
        if self.args.outputs or self.dims:
            raise UsageError("--outputs and --dim are for .onnx input")
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
            if spec.name not in PASSES:
                raise UsageError(f"unknown pass {spec.name}{did_you_mean(spec.name, list(PASSES))}")
            known = [field.name.replace("_", "-") for field in get_pass_option_infos(pass_class(spec.name))]
            for option in spec.parameters:
                if option.replace("_", "-") not in known:
                    hint = did_you_mean(option, known) or f"; its options: {', '.join(known) or 'none'}"
                    raise UsageError(f"--{spec.name} has no option {option}{hint}")
        try:
            super().setup_pipeline()
        except ValueError as error:
            raise UsageError(str(error)) from None

    def _apply_global_options(self) -> None:
        """--report and --allow-bounded are options of every pass that has them."""
        options = {"report": self.args.report, "allow_bounded": self.args.allow_bounded}
        passes = list(self.pipeline.passes)
        for name, value in options.items():
            having = [i for i, p in enumerate(passes) if name in {f.name for f in dataclasses.fields(p)}]
            if value and not having:
                raise UsageError(f"--{name.replace('_', '-')} needs a pass that takes it, such as --delay-dequant")
            for i in having if value else ():
                passes[i] = dataclasses.replace(passes[i], **{name: value})
        self.pipeline = PassPipeline(tuple(passes), self.pipeline.callback)

    def apply_passes(self, prog: ModuleOp) -> None:
        super().apply_passes(prog)
        verify(prog)

    def _place_weights(self, module: ModuleOp) -> None:
        """Move large new tensors into a weight file; make the paths in the text relative to where it goes."""
        output = Path(self.args.output_file) if self.args.output_file else None
        if has_large_tensors(module):
            externalize(module, self._weights_path(module, output))
        start = output.parent if output else Path()
        rebase(module, lambda path: Path(os.path.relpath(path, start)))

    def _weights_path(self, module: ModuleOp, output: Path | None) -> Path:
        if self.args.weights_out is None and output is None:
            raise UsageError(
                "there are new weights, which do not go into the text: name an output file with -o,"
                " or a weight file with --weights-out"
            )
        first = self.args.weights_out or cast(Path, output).with_suffix(".safetensors")
        listed = {Path(file.path.data).resolve() for file in weight_files(module)} | self.written
        path, number = first, 1
        while path.resolve() in listed:  # never overwrite a file that the module still reads
            path, number = first.with_suffix(f".{number}.safetensors"), number + 1
        self.written.add(path.resolve())
        return path

    def run(self) -> None:
        output = StringIO()
        chunks, extension = self.prepare_input()
        for i, (chunk, offset) in enumerate(chunks):
            try:
                if i > 0:
                    output.write("// -----\n")
                module = self.parse_chunk(chunk, extension, offset)
                assert module is not None
                self.apply_passes(module)
                self._place_weights(module)
                output.write(self.output_resulting_program(module))
            except ParseError as error:
                error.span = dataclasses.replace(error.span, line_offset=offset)
                raise
        if self.args.output_file:
            with replacing(Path(self.args.output_file)) as temporary:
                temporary.write_text(output.getvalue())
        else:
            sys.stdout.write(output.getvalue())
            sys.stdout.flush()


def help_pass(name: str) -> str:
    """A pass's description and options, from its class."""
    if name not in PASSES:
        raise UsageError(f"unknown pass {name}{did_you_mean(name, list(PASSES))}")
    import inspect

    cls = pass_class(name)
    lines = [f"--{name}", "", inspect.getdoc(cls) or PASSES[name][2]]
    options = get_pass_option_infos(cls)
    if options:
        lines += ["", "options:"]
        lines += [f"  {o.name.replace('_', '-')}={o.expected_type} (default {o.default_value!r})" for o in options]
    return "\n".join(lines)


def run(args: Sequence[str]) -> int:
    """The tool, apart from what the front door answers. Returns the exit status."""
    return guarded("qvit-opt", lambda: _run(args))


def _run(args: Sequence[str]) -> None:
    if "--help-pass" in args:
        following = args[args.index("--help-pass") + 1 :]
        if not following:
            raise UsageError("--help-pass expects the name of a pass")
        print(help_pass(following[0]))
        return
    QvitOpt(args).run()
