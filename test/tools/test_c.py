"""The C backend behind the tools: qvit-compile --target c, qvit-run --backend c and --compare."""

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from data.small_vit import Variant, images, vit
from data.tool_call import Tool, contents

from qvit.backends.c import emitters, program
from qvit.dialects.ops.elementwise import AddOp

COMPILED = """\
func.func @quantize_inputs(%x: tensor<2x3xf32> {qvit.name = "image"}) -> (tensor<2x3xi8> {qvit.name = "image"}) {
  %q = qvit.quantize %x <0.5> {qvit.src = ["image/q"]} : tensor<2x3xf32> -> tensor<2x3xi8>
  func.return %q : tensor<2x3xi8>
}
func.func @main(%q: tensor<2x3xi8> {qvit.name = "image"}) -> (tensor<3x2xi32> {qvit.name = "logits"}) attributes {qvit.integer_only} {
  %y = qvit.add %q, %q {qvit.src = ["twice"]} : (tensor<2x3xi8>, tensor<2x3xi8>) -> tensor<2x3xi32>
  %z = qvit.transpose %y [1, 0] {qvit.src = ["turned"]} : tensor<2x3xi32> -> tensor<3x2xi32>
  func.return %z : tensor<3x2xi32>
}
func.func @dequantize_outputs(%y: tensor<3x2xi32> {qvit.name = "logits"}) -> (tensor<3x2xf32> {qvit.name = "logits"}) {
  %r = qvit.dequantize %y <0.25> : tensor<3x2xi32> -> tensor<3x2xf32>
  func.return %r : tensor<3x2xf32>
}
"""
X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def compiled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    (folder / "model.mlir").write_text(COMPILED)
    np.save(folder / "x.npy", X)
    return folder


def test_a_model_in_c(run: Tool, compiled: Path) -> None:
    """From real numbers to real numbers; what C computes is traced."""
    run("model.mlir", "--input", "image=x.npy", "--backend", "c", "--output", "y.npy", "--trace", "codes").succeeded()
    np.testing.assert_array_equal(np.load("y.npy"), X.T)
    np.testing.assert_array_equal(np.load("codes/twice.npy"), X * 4)
    np.testing.assert_array_equal(np.load("codes/turned.npy"), X.T * 4)
    assert any((compiled / "cache").rglob("*.so"))


def test_main_alone(run: Tool, compiled: Path) -> None:
    np.save("q.npy", np.array([[1, 2, 3], [-4, -5, -6]]))
    run("model.mlir", "--function", "main", "--backend", "c", "--input", "q.npy", "--output", "y.npy").succeeded()
    np.testing.assert_array_equal(np.load("y.npy"), np.load("q.npy").T * 2)
    said = run("model.mlir", "--function", "quantize_inputs", "--backend", "c", "--input", "x.npy").failed(2)
    assert "only @main runs on other backends, and --function asks for @quantize_inputs" in said


def test_backends_that_agree(run: Tool, compiled: Path) -> None:
    said = run("model.mlir", "--input", "x.npy", "--compare", "interpreter,c", "--output", "y.npy").succeeded()
    assert said == "interpreter and c: 2 tensors of @main are equal\n"
    np.testing.assert_array_equal(np.load("y.npy"), X.T)


def test_threads(run: Tool, compiled: Path) -> None:
    for command in (["--backend", "c", "--output", "y.npy"], ["--compare", "interpreter,c", "--output", "y.npy"]):
        run("model.mlir", "--input", "x.npy", *command, "--threads", "3").succeeded()
        np.testing.assert_array_equal(np.load("y.npy"), X.T)
    for wrong in (["--threads", "2"], ["--backend", "c", "--threads", "0"]):
        said = run("model.mlir", "--input", "x.npy", *wrong).failed(2)
        assert "--threads is for the backend c, and 1 or more" in said


def test_backends_that_differ(run: Tool, compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first operation that differs is named, not those behind it, and nothing is written."""
    wrong = {**program.EMITTERS, AddOp: lambda ctx, op: _one_more(emitters.elementwise.arithmetic(ctx, op))}
    monkeypatch.setattr(program, "EMITTERS", wrong)
    said = run("model.mlir", "--input", "x.npy", "--compare", "c,interpreter", "--output", "y.npy").failed()
    assert said.endswith("twice (qvit.add): element [1, 2] is 20 in the interpreter, 21 in C (1 of 6 differ)")
    assert not Path("y.npy").exists()


def _one_more(step: program.Step) -> program.Step:
    return replace(step, body=f"{step.body}\ny[5] += 1;")


@pytest.mark.parametrize("text", ["interpreter", "c,c", "c,python", ""])
def test_backends_that_cannot_be_compared(run: Tool, compiled: Path, text: str) -> None:
    assert "expected different backends such as interpreter,c" in run("model.mlir", "--compare", text).failed(2)


def test_no_trace_of_a_comparison(run: Tool, compiled: Path) -> None:
    said = run("model.mlir", "--input", "x.npy", "--compare", "interpreter,c", "--trace", "codes").failed(2)
    assert "--trace keeps the tensors of one backend" in said


def test_no_compiler(run: Tool, compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    assert "no C compiler found" in run("model.mlir", "--input", "x.npy", "--backend", "c").failed()


def test_a_model_of_floats(run: Tool, compiled: Path) -> None:
    text = "func.func @main(%x: tensor<2x3xf32>) -> tensor<2x3xf32> {\n  func.return %x : tensor<2x3xf32>\n}\n"
    Path("floats.mlir").write_text(text)
    said = run("floats.mlir", "--input", "x.npy", "--backend", "c").failed()
    assert "an argument of the function: expected integers, found tensor<2x3xf32>" in said


# --- qvit-compile --target c ---


def test_the_target(tool: Tool, run: Tool, folder: Path) -> None:
    """A folder that make builds, whose program computes what the module does; a second run writes it again."""
    onnx.save(vit(Variant()), "small.onnx")
    np.savez("samples.npz", image=images(5))
    arguments = ["small.onnx", "--dim", "batch=2", "--calibrate", "samples.npz", "--target", "c", "-o", "out"]
    for _ in range(2):
        assert "C: " in tool(*arguments).succeeded().splitlines()[-1]
    assert {"c/model.c", "c/model.h", "c/model.weights", "c/main.c", "c/Makefile", "model.mlir"} <= contents(
        folder / "out"
    ).keys()
    np.save("x.npy", images(2))
    run("out/model.mlir", "--function", "quantize_inputs", "--input", "x.npy", "--output", "codes.npy").succeeded()
    subprocess.run(["make", "-C", "out/c", "CFLAGS=-O1"], check=True, capture_output=True)
    Path("codes.bin").write_bytes(np.load("codes.npy").tobytes())
    subprocess.run(["out/c/main", "out/c/model.weights", "codes.bin", "logits.bin"], check=True)
    run("out/model.mlir", "--function", "main", "--input", "codes.npy", "--output", "logits.npy").succeeded()
    assert Path("logits.bin").read_bytes() == np.load("logits.npy").tobytes()
    again = ["small.onnx", "--dim", "batch=2", "--calibrate", "samples.npz", "-o", "out"]
    assert "C: " not in tool(*again).succeeded()  # nor does C of an earlier model stay
    assert not (folder / "out" / "c").exists()


def test_a_folder_of_somebody_else(tool: Tool, folder: Path) -> None:
    (folder / "out" / "c").mkdir(parents=True)
    (folder / "out" / "c" / "theirs.c").write_text("")
    assert "out holds c: name a new folder" in tool("m.onnx", "--target", "c", "-o", "out").failed()
    assert (folder / "out" / "c" / "theirs.c").exists()


def test_a_weights_array(tool: Tool, folder: Path) -> None:
    onnx.save(vit(Variant()), "small.onnx")
    np.savez("samples.npz", image=images(5))
    arguments = ["small.onnx", "--dim", "batch=2", "--calibrate", "samples.npz", "-o", "out", "--weights-array"]
    assert "--weights-array is for --target c" in tool(*arguments).failed(2)
    tool(*arguments, "--target", "c").succeeded()
    assert "qvit_weights[" in Path("out/c/weights.c").read_text()


def test_an_unknown_target(tool: Tool, folder: Path) -> None:
    assert "invalid choice: 'fortran'" in tool("m.onnx", "--target", "fortran", "-o", "out").failed(2)
