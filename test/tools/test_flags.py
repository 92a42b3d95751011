"""How qvit-opt reads its command line: passes as flags, in their order, with options."""

import json
from pathlib import Path

import pytest
from data.tool_call import Tool
from xdsl.utils.arg_spec import parse_pipeline

from qvit.tools.common import UsageError, parse_dims
from qvit.tools.opt_driver import QvitOpt, spec_of, split_flags
from qvit.transforms.delay_dequant import DelayDequantPass

# --- from flags to xDSL's pipeline ---

SPECS = {
    "": ("p", {}),
    "a": ("p{a=true}", {"a": (True,)}),
    "a=1": ("p{a=1}", {"a": (1,)}),
    "a=-1": ("p{a=-1}", {"a": (-1,)}),
    "a=0.5": ("p{a=0.5}", {"a": (0.5,)}),
    "a=1,b": ("p{a=1 b=true}", {"a": (1,), "b": (True,)}),
    "b,a=1": ("p{b=true a=1}", {"b": (True,), "a": (1,)}),
    "a=false": ("p{a=false}", {"a": (False,)}),
    "a=shiftmax,b=table": ("p{a=shiftmax b=table}", {"a": ("shiftmax",), "b": ("table",)}),
    "a-b=c-d": ("p{a-b=c-d}", {"a_b": ("c-d",)}),
    "a=1,2,3": ("p{a=1,2,3}", {"a": (1, 2, 3)}),
    "a=1,-2,b=3,4": ("p{a=1,-2 b=3,4}", {"a": (1, -2), "b": (3, 4)}),
    "a=file.json": ('p{a="file.json"}', {"a": ("file.json",)}),
    "a=/tmp/a b/c.json": ('p{a="/tmp/a b/c.json"}', {"a": ("/tmp/a b/c.json",)}),
    "a=x=y.json": ('p{a="x=y.json"}', {"a": ("x=y.json",)}),
    "a=x.json,b": ('p{a="x.json" b=true}', {"a": ("x.json",), "b": (True,)}),
    "{a=1 b=true}": ("p{a=1 b=true}", {"a": (1,), "b": (True,)}),
    "{a=1,2}": ("p{a=1,2}", {"a": (1, 2)}),
}


@pytest.mark.parametrize("options", SPECS)
def test_options(options: str) -> None:
    text, values = SPECS[options]
    assert spec_of("p", options) == text
    (spec,) = parse_pipeline(text)
    assert {key.replace("-", "_"): value for key, value in spec.parameters.items()} == values


@pytest.mark.parametrize("name", ['a "quoted" name', "a\\b", 'a\\"b'])
def test_file_names_are_quoted(name: str) -> None:
    """The quoted text stands for the name again, as far as xDSL unescapes it."""
    (spec,) = parse_pipeline(spec_of("p", f"a={name}"))
    assert spec.parameters["a"] == (name,)


FLAGS = {
    "": ([], []),
    "in.mlir --cse --dce": (["cse", "dce"], ["in.mlir"]),
    "--dce in.mlir --cse": (["dce", "cse"], ["in.mlir"]),
    "--cse --cse": (["cse", "cse"], []),
    "--delay-dequant=accumulator=64,allow-bounded --cse": (
        ["delay-dequant{accumulator=64 allow-bounded=true}", "cse"],
        [],
    ),
    "--delay-dequant={accumulator=64}": (["delay-dequant{accumulator=64}"], []),
    "--cse -p dce,canonicalize --cse": (["cse", "dce,canonicalize", "cse"], []),
    "-p dce --cse": (["dce", "cse"], []),
    "--passes dce --cse": (["dce", "cse"], []),
    "--passes=dce --cse": (["dce", "cse"], []),
    "-o out.mlir --cse --report r.json -": (["cse"], ["-o", "out.mlir", "--report", "r.json", "-"]),
    "--csee --ce=1": ([], ["--csee", "--ce=1"]),
}


@pytest.mark.parametrize("line", FLAGS)
def test_split_flags(line: str) -> None:
    assert split_flags(line.split()) == FLAGS[line]


def test_pipeline_missing() -> None:
    with pytest.raises(UsageError, match="-p expects a pipeline"):
        split_flags(["in.mlir", "-p"])


@pytest.mark.parametrize(
    ("options", "dims"),
    [
        ([], {}),
        (["a=1"], {"a": 1}),
        (["a=1", "b=20"], {"a": 1, "b": 20}),
        (["a=1", "a=2"], {"a": 2}),
        (["a=b=3"], {"a=b": 3}),
    ],
    ids=str,
)
def test_dims(options: list[str], dims: dict[str, int]) -> None:
    assert parse_dims(options) == dims


@pytest.mark.parametrize("option", ["a", "a=", "a=0", "a=-1", "a=1.5", "a=b", ""])
def test_wrong_dims(option: str) -> None:
    with pytest.raises(UsageError, match="--dim expects NAME=N with N at least 1"):
        parse_dims([option])


# --- the passes run in that order, with those options ---

# delay-dequant leaves the dead %d; canonicalize removes it, and cse merges what is equal
PROGRAM = """
func.func @main(%q: tensor<2x4xi8>) -> tensor<2x3xf32> {
  %d = qvit.dequantize %q <0.5> {qvit.src = ["d"]} : tensor<2x4xi8> -> tensor<2x4xf32>
  %w = qvit.constant dense<1> : tensor<3x4xi8>
  %v = qvit.dequantize %w <0.25> : tensor<3x4xi8> -> tensor<3x4xf32>
  %b = qvit.constant dense<[1.0, 2.0, 3.0]> : tensor<3xf32>
  %y = qvit.linear %d, %v, %b {qvit.src = ["y"]} : (tensor<2x4xf32>, tensor<3x4xf32>, tensor<3xf32>) -> tensor<2x3xf32>
  func.return %y : tensor<2x3xf32>
}
"""


@pytest.fixture
def program(folder: Path) -> str:
    (folder / "in.mlir").write_text(PROGRAM)
    return "in.mlir"


def test_order(program: str, folder: Path) -> None:
    tool = QvitOpt([program, "--dce", "--report=r.json", "-p", "cse,canonicalize", "--delay-dequant", "--cse"])
    assert [p.name for p in tool.pipeline.passes] == ["dce", "cse", "canonicalize", "delay-dequant", "cse"]


def test_global_options_are_for_all_passes_that_have_them(program: str, folder: Path) -> None:
    tool = QvitOpt([program, "--delay-dequant", "--cse", "--delay-dequant=accumulator=64", "--allow-bounded"])
    first, _, second = tool.pipeline.passes
    assert (first, second) == (DelayDequantPass(True, 32), DelayDequantPass(True, 64))


@pytest.mark.parametrize(
    ("flags", "accumulator"),
    [
        (["--delay-dequant"], "i32"),
        (["--delay-dequant="], "i32"),
        (["--delay-dequant=accumulator=64"], "i64"),
        (["--delay-dequant={accumulator=64}"], "i64"),
        (["-p", "delay-dequant{accumulator=64}"], "i64"),
        (["-p", "cse,delay-dequant{accumulator=64},dce"], "i64"),
    ],
    ids=str,
)
def test_options_arrive(opt: Tool, program: str, flags: list[str], accumulator: str) -> None:
    assert f"-> tensor<2x3x{accumulator}>" in opt(program, *flags).succeeded()


@pytest.mark.parametrize(
    "flags",
    [
        ["--delay-dequant", "--allow-bounded"],
        ["--delay-dequant=allow-bounded"],
        ["--allow-bounded", "-p", "delay-dequant"],
    ],
)
def test_allow_bounded(opt: Tool, program: str, flags: list[str]) -> None:
    """The float bias joins the accumulator, rounded, only where that is allowed."""
    assert "qvit.add" in opt(program, "--delay-dequant").succeeded()
    said = opt(program, *flags).succeeded()
    assert "qvit.add" not in said
    assert "dense<[8, 16, 24]>" in said  # 1, 2, 3 in steps of 0.5 * 0.25


@pytest.mark.parametrize("bias", ["dense<[1, 2, 3]> : tensor<3xi32>", "dense<[1.0, 2.0, 3.0]> : tensor<3xf32>"])
def test_a_bias_joins_an_accumulator_of_64_bits(opt: Tool, folder: Path, bias: str) -> None:
    text = PROGRAM.replace("dense<[1.0, 2.0, 3.0]> : tensor<3xf32>", bias)
    if "i32" in bias:
        dequantize = "%e = qvit.dequantize %b <0.125> : tensor<3xi32> -> tensor<3xf32>\n  %y ="
        text = text.replace("%y =", dequantize).replace("%v, %b", "%v, %e")
    (folder / "in.mlir").write_text(text)
    said = opt("in.mlir", "--delay-dequant=accumulator=64", "--allow-bounded").succeeded()
    assert "tensor<3xi64>) -> tensor<2x3xi64>" in said


def test_report(opt: Tool, program: str, folder: Path) -> None:
    done = opt(program, "--delay-dequant", "--report", "r.json")
    assert done.status == 0
    assert done.err.splitlines()[0].split() == ["delay-dequant", "before", "after"]
    report = json.loads((folder / "r.json").read_text())
    assert report["macs_integer"] == {"before": 0, "after": 24}
    assert report["macs_total"] == 24
    assert [entry["src"] for entry in report["moved"]] == ["y"]
    assert report["blocked"] == []
    assert [entry["rule"] for entry in report["notes"]] == ["bias"]


def test_report_as_an_option(opt: Tool, program: str, folder: Path) -> None:
    done = opt(program, "--delay-dequant=report=a folder/r.json")
    assert "a folder" in done.failed()
    (folder / "a folder").mkdir()
    assert opt(program, "--delay-dequant=report=a folder/r.json").status == 0
    assert "macs_total" in json.loads((folder / "a folder" / "r.json").read_text())


# --- wrong usage: status 2, the message and where to look ---

WRONG = {
    "--frobnicate": "unknown flag --frobnicate",
    "--delay-dequan": "unknown flag --delay-dequan; did you mean --delay-dequant?",
    "--delay_dequant": "unknown flag --delay_dequant; did you mean --delay-dequant?",
    "--split-input": "unknown flag --split-input; did you mean --split-input-file?",
    "--wieghts-out w": "unknown flag --wieghts-out; did you mean --weights-out?",
    "-p delay-dequan": "unknown pass delay-dequan; did you mean delay-dequant?",
    "-p cse,csee": "unknown pass csee; did you mean cse?",
    "-p cse{": "cannot read the passes 'cse{'",
    "-p": "-p expects a pipeline",
    "--delay-dequant=acumulator=64": "--delay-dequant has no option acumulator; did you mean accumulator?",
    "--delay-dequant=x": "--delay-dequant has no option x; its options: ",
    "--cse=x": "--cse has no option x; its options: none",
    "--delay-dequant={accumulator=64": "cannot read the passes",
    "--delay-dequant=accumulator=many": "many",
    "--verify-integer-only=report-only=perhaps": "perhaps",
    "-o": "expected one argument",
    "--report r.json": "--report needs a pass that takes it, such as --delay-dequant",
    "--cse --report r.json": "--report needs a pass that takes it",
    "--delay-dequant --lower-requant --report r.json": (
        "--report is one file for one pass; give each its own: --delay-dequant=report=FILE --lower-requant=report=FILE"
    ),
    "--allow-bounded": "--allow-bounded needs a pass that takes it",
    "--outputs y": "--outputs, --dim and --calibrate are for .onnx input",
    "--dim a=1": "--outputs, --dim and --calibrate are for .onnx input",
    "--dim a": "--dim expects NAME=N",
    "--help-pass": "--help-pass expects the name of a pass",
    "--help-pass delay": "unknown pass delay",
    "--help-pass verify-integer": "unknown pass verify-integer; did you mean verify-integer-only?",
}


@pytest.mark.parametrize("flags", WRONG)
def test_wrong_usage(opt: Tool, program: str, flags: str) -> None:
    message = opt(program, *flags.split()).failed(2)
    assert message.startswith("qvit-opt: ")
    assert WRONG[flags] in message


@pytest.mark.parametrize("flags", ["--delay-dequant=accumulator=many", "--verify-integer-only=report-only=perhaps"])
def test_wrong_value_names_the_option(opt: Tool, program: str, flags: str) -> None:
    name, option, _ = flags.lstrip("-").split("=")
    message = opt(program, flags).failed(2)
    assert name in message
    assert option in message


def test_wrong_value(opt: Tool, program: str) -> None:
    message = opt(program, "--delay-dequant=accumulator=33").failed()
    assert message == "qvit-opt: error: delay-dequant: accumulator must be 32 or 64, found 33"


# --- --help-pass ---


def test_help_pass(opt: Tool) -> None:
    said = opt("--help-pass", "delay-dequant").succeeded()
    assert said.startswith("--delay-dequant\n\nMove dequantization behind matrix products")
    assert "  accumulator=int (default " in said
    assert "  allow-bounded=bool (default " in said


def test_help_pass_without_options(opt: Tool) -> None:
    said = opt("--help-pass", "cse").succeeded()
    assert said.startswith("--cse\n\n")
    assert "options:" not in said


def test_help_pass_of_a_pass_without_description(opt: Tool) -> None:
    assert "Merge equal operations." in opt("--help-pass", "cse").succeeded()
