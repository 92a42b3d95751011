"""qvit-run: arrays in, arrays out."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from data.onnx_build import graph, model
from data.tool_call import Tool, contents

PROGRAM = """\
func.func @main(
  %x: tensor<2x3xf32> {qvit.name = "image"}, %y: tensor<2x3xf32> {qvit.name = "/mask/Mul"}, %n: tensor<3xi8>
) -> (tensor<2x3xf32> {qvit.name = "ratio"}, tensor<2x3xi8> {qvit.name = "/q/QuantizeLinear"}, tensor<3xi8>) {
  %r = qvit.div %x, %y {qvit.src = ["ratio"]} : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
  %q = qvit.quantize %r <0.1> {qvit.src = ["/a/q/Div", "/a/q/QuantizeLinear"]} : tensor<2x3xf32> -> tensor<2x3xi8>
  %t = qvit.transpose %q [1, 0] {qvit.src = ["../t"]} : tensor<2x3xi8> -> tensor<3x2xi8>
  %u = qvit.transpose %t [1, 0] : tensor<3x2xi8> -> tensor<2x3xi8>
  func.return %r, %u, %n : tensor<2x3xf32>, tensor<2x3xi8>, tensor<3xi8>
}
"""

X = np.arange(6, dtype=np.float32).reshape(2, 3)
Y = np.full((2, 3), 3, np.float32)
N = np.array([-128, 0, 127])


@pytest.fixture
def program(folder: Path) -> Path:
    (folder / "program.mlir").write_text(PROGRAM)
    for name, array in (("x", X), ("y", Y), ("n", N)):
        np.save(folder / f"{name}.npy", array)
    return folder


INPUTS = ["--input", "x.npy", "--input", "y.npy", "--input", "n.npy"]

# --- inputs ---

RIGHT = {
    "in order": ["x.npy", "y.npy", "n.npy"],
    "by name": ["/mask/Mul=y.npy", "input2=n.npy", "image=x.npy"],
    "named ones first": ["/mask/Mul=y.npy", "x.npy", "n.npy"],
    "named ones last": ["x.npy", "n.npy", "/mask/Mul=y.npy"],
}


@pytest.mark.parametrize("name", RIGHT)
def test_inputs(run: Tool, program: Path, name: str) -> None:
    options = [word for file in RIGHT[name] for word in ("--input", file)]
    run("program.mlir", *options, "--output", "ratio=r.npy", "--output", "output2=m.npy").succeeded()
    np.testing.assert_array_equal(np.load("r.npy"), X.astype(np.float64) / Y)
    np.testing.assert_array_equal(np.load("m.npy"), N)


WRONG: dict[str, tuple[list[str], int, str]] = {
    "none": ([], 2, "no file for input image, /mask/Mul, input2: give it with --input image=FILE.npy"),
    "one missing": (
        ["x.npy", "input2=n.npy"],
        2,
        "no file for input /mask/Mul: give it with --input /mask/Mul=FILE.npy",
    ),
    "one too many": (
        ["x.npy", "y.npy", "n.npy", "n.npy"],
        2,
        "too many inputs: the function has image, /mask/Mul, input2",
    ),
    "no such name": (["imag=x.npy"], 2, "there is no input 'imag'; did you mean image?"),
    "no such file": (["z.npy", "y.npy", "n.npy"], 1, "z.npy"),
    "shape": (["image=n.npy", "y.npy", "n.npy"], 1, "input 'image': expected shape (2, 3), found (3,)"),
    "floats for integers": (["x.npy", "y.npy", "f.npy"], 1, "input 'input2': expected i8, found float32"),
    "too large": (["x.npy", "y.npy", "large.npy"], 1, "input 'input2': values 0..200 do not fit i8"),
    "complex numbers": (["c.npy", "y.npy", "n.npy"], 1, "input 'image': expected floats, found complex64"),
    "text": (["s.npy", "y.npy", "n.npy"], 1, "input 'image': expected floats, found <U1"),
    "not a number": (["nan.npy", "y.npy", "n.npy"], 1, "/a/q/QuantizeLinear (qvit.quantize): cannot quantize NaN"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_inputs(run: Tool, program: Path, name: str) -> None:
    for file, array in {
        "f": N.astype(np.float32),
        "large": np.array([0, 1, 200]),
        "c": X.astype(np.complex64),
        "s": np.full((2, 3), "a"),
        "nan": X * np.nan,
    }.items():
        np.save(f"{file}.npy", array)
    before = contents(program)
    files, status, says = WRONG[name]
    options = [word for file in files for word in ("--input", file)]
    assert says in run("program.mlir", *options, "--output", "r.npy", "--trace", "codes").failed(status)
    assert contents(program) == before


DAMAGED: dict[str, Any] = {
    "empty": b"",
    "text": b"1 2 3\n",
    "header cut off": b"\x93NUMPY\x01\x00v\x00{'descr'",
    "an archive": b"PK\x03\x04 and so on",
    "objects": None,
    "several arrays": None,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_input(run: Tool, program: Path, name: str) -> None:
    match name:
        case "objects":
            np.save("bad.npy", np.array([{}, None], object), allow_pickle=True)
        case "several arrays":
            np.savez("bad.npz", x=X, y=Y)
            Path("bad.npz").rename("bad.npy")
        case _:
            Path("bad.npy").write_bytes(DAMAGED[name])
    assert "bad.npy" in run("program.mlir", "--input", "bad.npy", *INPUTS[2:]).failed()


# --- compiled models ---

COMPILED = """\
func.func @quantize_inputs(%x: tensor<2x3xf32> {qvit.name = "image"}) -> (tensor<2x3xi8> {qvit.name = "image"}) {
  %q = qvit.quantize %x <0.5> {qvit.src = ["image/q"]} : tensor<2x3xf32> -> tensor<2x3xi8>
  func.return %q : tensor<2x3xi8>
}
func.func @main(%q: tensor<2x3xi8> {qvit.name = "image"}) -> (tensor<2x3xi16> {qvit.name = "logits"}) attributes {qvit.integer_only} {
  %y = qvit.requantize %q by #qvit.FACTOR {qvit.src = ["twice"]} : tensor<2x3xi8> -> tensor<2x3xi16>
  func.return %y : tensor<2x3xi16>
}
func.func @dequantize_outputs(%y: tensor<2x3xi16> {qvit.name = "logits"}) -> (tensor<2x3xf32> {qvit.name = "logits"}) {
  %r = qvit.dequantize %y <0.25> : tensor<2x3xi16> -> tensor<2x3xf32>
  func.return %r : tensor<2x3xf32>
}
"""


def test_compiled_models_run_from_real_numbers_to_real_numbers(run: Tool, program: Path) -> None:
    Path("model.mlir").write_text(COMPILED.replace("FACTOR", "pot<-1>"))
    run("model.mlir", "--input", "image=x.npy", "--output", "logits=y.npy", "--trace", "codes").succeeded()
    np.testing.assert_array_equal(np.load("y.npy"), X)
    np.testing.assert_array_equal(np.load("codes/image/q.npy"), X * 2)
    np.testing.assert_array_equal(np.load("codes/twice.npy"), X * 4)


def test_one_function_of_a_compiled_model(run: Tool, program: Path) -> None:
    Path("model.mlir").write_text(COMPILED.replace("FACTOR", "pot<-1>"))
    np.save("codes.npy", np.array([[1, 2, 3], [-4, -5, -6]]))
    run("model.mlir", "--function", "main", "--input", "codes.npy", "--output", "y.npy").succeeded()
    np.testing.assert_array_equal(np.load("y.npy"), np.load("codes.npy") * 2)
    assert np.load("y.npy").dtype == np.int16
    assert "no function @mian" in run("model.mlir", "--function", "mian", "--input", "codes.npy").failed()


def test_a_promise_that_is_broken(run: Tool, program: Path) -> None:
    Path("model.mlir").write_text(COMPILED.replace("FACTOR", "real<2.0>"))
    said = run("model.mlir", "--input", "x.npy").failed()
    assert said.endswith(
        "twice (qvit.requantize): multiplies by the real number #qvit.scale<2.0>, in a run of integers only"
    )


# --- outputs ---


def test_without_output_results_are_described(run: Tool, program: Path) -> None:
    assert run("program.mlir", *INPUTS).succeeded().splitlines() == [
        "ratio: float64[2, 3], 0 .. 1.66667",
        "/q/QuantizeLinear: int8[2, 3], 0 .. 17",
        "output2: int8[3], -128 .. 127",
    ]


OUTPUTS = {
    "first": (["a.npy"], {"a.npy": "float64"}),
    "all in order": (["a.npy", "b.npy", "c.npy"], {"a.npy": "float64", "b.npy": "int8", "c.npy": "int8"}),
    "by name": (["output2=c.npy", "/q/QuantizeLinear=b.npy"], {"b.npy": "int8", "c.npy": "int8"}),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs(run: Tool, program: Path, name: str) -> None:
    files, expected = OUTPUTS[name]
    before = contents(program)
    assert run("program.mlir", *INPUTS, *(w for f in files for w in ("--output", f))).succeeded() == ""
    made = contents(program).keys() - before.keys()
    assert {file: str(np.load(file).dtype) for file in made} == expected


@pytest.mark.parametrize(
    ("files", "status", "says"),
    [
        (["ration=a.npy"], 2, "there is no output 'ration'; did you mean ratio?"),
        (["a.npy"] * 4, 2, "too many outputs"),
        (["nowhere/a.npy"], 1, "nowhere/"),
    ],
    ids=str,
)
def test_wrong_outputs(run: Tool, program: Path, files: list[str], status: int, says: str) -> None:
    before = contents(program)
    message = run("program.mlir", *INPUTS, *(w for f in files for w in ("--output", f))).failed(status)
    assert says in message
    assert contents(program) == before


def test_float32(run: Tool, program: Path) -> None:
    run("program.mlir", *INPUTS, "--float32", "--output", "a.npy").succeeded()
    np.testing.assert_array_equal(np.load("a.npy"), X / Y)
    assert np.load("a.npy").dtype == np.float32


# --- --trace ---


def test_trace(run: Tool, program: Path) -> None:
    """Integer tensors only, named by source node; a name cannot lead out of the folder."""
    before = contents(program)
    run("program.mlir", *INPUTS, "--trace", "codes").succeeded()
    made = contents(program).keys() - before.keys()
    assert made == {"codes/a/q/QuantizeLinear.npy", "codes/a/q/Div.npy", "codes/__/t.npy"}
    found = np.load("codes/a/q/QuantizeLinear.npy")
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found, np.rint(X / Y / 0.1))
    np.testing.assert_array_equal(np.load("codes/__/t.npy"), found.T)


def test_trace_into_a_file(run: Tool, program: Path) -> None:
    before = contents(program)
    assert "x.npy" in run("program.mlir", *INPUTS, "--trace", "x.npy").failed()
    assert contents(program) == before


# --- models ---


@pytest.fixture
def onnx_model(folder: Path) -> Path:
    nodes = graph(
        "/in/q = QuantizeLinear x s z\n/in/dq = DequantizeLinear /in/q s z\nwd = DequantizeLinear w s\n"
        "/fc/MatMul = MatMul /in/dq wd\ny = Relu /fc/MatMul"
    )
    constants = {
        "w": np.array([[1, -2], [3, 4], [-5, 6]], np.int8),
        "s": np.array(0.5, np.float32),
        "z": np.array(3, np.int8),
    }
    onnx.save(model(nodes, {"x": X}, "y", constants, dims={"x": ["batch", 3]}), folder / "model.onnx")
    np.save(folder / "x.npy", X)
    return folder


def test_onnx(run: Tool, onnx_model: Path) -> None:
    run("model.onnx", "--dim", "batch=2", "--input", "x=x.npy", "--output", "y=y.npy", "--trace", "t").succeeded()
    expected = X @ np.array([[0.5, -1], [1.5, 2], [-2.5, 3]])
    np.testing.assert_allclose(np.load("y.npy"), np.maximum(expected, 0), rtol=1e-12)
    np.testing.assert_array_equal(np.load("t/in/q.npy"), X / 0.5 + 3)


def test_onnx_is_what_qvit_opt_writes(run: Tool, opt: Tool, onnx_model: Path) -> None:
    opt("model.onnx", "--dim", "batch=2", "--delay-dequant", "-o", "model.mlir").succeeded()
    run("model.onnx", "--dim", "batch=2", "--input", "x.npy", "--output", "a.npy").succeeded()
    run("model.mlir", "--input", "x.npy", "--output", "b.npy").succeeded()
    np.testing.assert_array_equal(np.load("a.npy"), np.load("b.npy"))


def test_onnx_outputs(run: Tool, onnx_model: Path) -> None:
    said = run("model.onnx", "--dim", "batch=2", "--outputs", "/fc/MatMul,/in/q", "--input", "x.npy").succeeded()
    assert [line.partition(":")[0] for line in said.splitlines()] == ["/fc/MatMul", "/in/q"]
    assert "/in/q: int8[2, 3], 3 .. 13" in said


ONNX_ERRORS = {
    "dynamic": ([], 1, "fix it with --dim batch=1"),
    "dimension": (["--dim", "batch=2", "--dim", "seq=3"], 1, "no input has the dimension 'seq'"),
    "number": (["--dim", "batch"], 2, "--dim expects NAME=N"),
    "output": (["--dim", "batch=2", "--outputs", "/fc/Matmul"], 1, "did you mean "),
    "other batch": (["--dim", "batch=5"], 1, "input 'x': expected shape (5, 3), found (2, 3)"),
}


@pytest.mark.parametrize("name", ONNX_ERRORS)
def test_onnx_errors(run: Tool, onnx_model: Path, name: str) -> None:
    arguments, status, says = ONNX_ERRORS[name]
    assert says in run("model.onnx", *arguments, "--input", "x.npy").failed(status)


MODEL_ERRORS = {
    "nowhere.mlir": (1, "nowhere.mlir: no such file"),
    "nowhere.onnx": (1, "nowhere.onnx: no such file"),
    "x.npy": (1, "codec can't decode"),
    ".": (1, "Is a directory"),
}


@pytest.mark.parametrize("name", MODEL_ERRORS)
def test_wrong_model(run: Tool, program: Path, name: str) -> None:
    status, says = MODEL_ERRORS[name]
    assert says in run(name).failed(status)


def test_options_of_onnx_models(run: Tool, program: Path) -> None:
    assert "are for .onnx" in run("program.mlir", *INPUTS, "--outputs", "ratio").failed(2)
    assert "are for .onnx" in run("program.mlir", *INPUTS, "--dim", "batch=1").failed(2)


PROGRAMS: dict[str, Any] = {
    "no main": ("func.func @other() {\n  func.return\n}", "the module has no function @main"),
    "unknown operation": (
        'func.func @main() {\n  "test.op"() {qvit.src = ["/a"]} : () -> ()\n  func.return\n}',
        "/a: the interpreter does not know test.op",
    ),
    "no tensor": ("func.func @main(%a: i32) {\n  func.return\n}", "i32"),
    "parse error": ("func.func @main(%a: i32) {\n  func.retrun\n}", "program.mlir:3:1: "),
    "verify error": (PROGRAM.replace("[1, 0] {", "[0, 0] {"), "../t (qvit.transpose): permutation"),
    "overflow": (
        "func.func @main() -> tensor<i32> {\n  %a = qvit.constant dense<2000000000> : tensor<i32>\n"
        '  %b = qvit.add %a, %a {qvit.src = ["/sum"]} : (tensor<i32>, tensor<i32>) -> tensor<i32>\n'
        "  func.return %b : tensor<i32>\n}",
        "/sum (qvit.add): 4000000000 does not fit i32",
    ),
    "declaration": ("func.func private @main()", "@main"),
}


@pytest.mark.parametrize(("text", "says"), PROGRAMS.values(), ids=PROGRAMS)
def test_program_cannot_run(run: Tool, folder: Path, text: str, says: str) -> None:
    (folder / "program.mlir").write_text(text)
    np.save("a.npy", np.array(1))
    inputs = ["--input", "a.npy"] if "%a: i32" in text else []
    assert says in run("program.mlir", *(inputs or (INPUTS if "%n" in text else []))).failed()


# --- usage ---


def test_help(run: Tool) -> None:
    said = run("--help").succeeded()
    for flag in ("--input", "--output", "--trace", "--float32", "--outputs", "--dim", "--backend"):
        assert flag in said


USAGE = [[], ["program.mlir", "--inputs", "x.npy"], ["program.mlir", "--backend", "gpu"], ["program.mlir", "--input"]]


@pytest.mark.parametrize("arguments", USAGE, ids=str)
def test_wrong_usage(run: Tool, program: Path, arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.status, done.out) == (2, "")
    assert "qvit-run: " in done.err.splitlines()[-1] or "qvit-run --help" in done.err


@pytest.mark.parametrize("arguments", USAGE, ids=str)
def test_wrong_usage_is_said_as_qvit_opt_says_it(run: Tool, program: Path, arguments: list[str]) -> None:
    message = run(*arguments).failed(2)
    assert ("did you mean --input" in message) == ("--inputs" in arguments)
