"""The systolic backend behind the tools: qvit-run --backend systolic and --compare, qvit-compile --target systolic, .qisa files."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from data.small_vit import Variant, images, vit
from data.tool_call import Tool, contents
from xdsl.ir import Operation

from qvit.backends.systolic.isa import Arith, Arithmetic
from qvit.backends.systolic.lowering import lower as lowering
from qvit.backends.systolic.lowering.build import Builder

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
def compiled(folder: Path) -> Path:
    (folder / "model.mlir").write_text(COMPILED)
    np.save(folder / "x.npy", X)
    return folder


def test_a_model_on_a_machine(run: Tool, compiled: Path) -> None:
    """From real numbers to real numbers; what each unit did is kept, what each node took is printed."""
    options = ("--backend", "systolic", "--machine", "large", "--timeline", "t.json", "--utilisation")
    said = run("model.mlir", "--input", "image=x.npy", *options, "--output", "y.npy").succeeded()
    np.testing.assert_array_equal(np.load("y.npy"), X.T)
    assert said.startswith("large: ")
    assert "cycles, array 0.0 % used" in said
    assert any(line.startswith("twice ") for line in said.splitlines())
    assert {event["ph"] for event in json.loads(Path("t.json").read_text())["traceEvents"]} >= {"M", "X"}


def test_programs_run_as_they_are(run: Tool, opt: Tool, compiled: Path) -> None:
    """What --lower-to-systolic wrote, between the ends of the model and alone."""
    opt("model.mlir", "--lower-to-systolic=machine=small", "-o", "low.mlir").succeeded()
    run("low.mlir", "--input", "x.npy", "--output", "y.npy").succeeded()
    np.testing.assert_array_equal(np.load("y.npy"), X.T)
    np.save("q.npy", np.array([[1, 2, 3], [-4, -5, -6]]))
    run("low.mlir", "--function", "main", "--input", "q.npy", "--output", "codes.npy").succeeded()
    np.testing.assert_array_equal(np.load("codes.npy"), np.load("q.npy").T * 2)
    said = run("low.mlir", "--input", "x.npy", "--machine", "large").failed(2)
    assert "low.mlir is a program of the machine small: leave --machine out" in said
    assert "nothing but the simulator runs it" in run("low.mlir", "--input", "x.npy", "--backend", "c").failed(2)


def test_backends_that_agree(run: Tool, compiled: Path) -> None:
    for backends in ("interpreter,systolic", "systolic,c"):
        said = run("model.mlir", "--input", "x.npy", "--compare", backends, "--output", "y.npy").succeeded()
        assert said == f"{' and '.join(backends.split(','))}: 1 results of @main are equal\n"
        np.testing.assert_array_equal(np.load("y.npy"), X.T)
    said = run("model.mlir", "--input", "x.npy", "--compare", "interpreter,c,systolic", "--output", "y.npy").succeeded()
    assert said == "interpreter, c and systolic: 3 tensors of @main are equal\n"


def test_backends_that_differ(run: Tool, compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first operation whose result differs is named, not those behind it, and nothing is written."""
    right = lowering.arithmetic

    def wrong(b: Builder, op: Operation) -> None:
        right(b, op)
        (task,) = (task for task in b.tasks if task.kind is Arith)
        task.values = {**task.values, "operation": Arithmetic.SUB}

    monkeypatch.setattr(lowering, "arithmetic", wrong)
    said = run("model.mlir", "--input", "x.npy", "--compare", "interpreter,systolic", "--output", "y.npy").failed()
    assert "twice (qvit.add): element [0, 1] is 4 in the interpreter, 0 in the simulator (5 of 6 differ)" in said
    assert not Path("y.npy").exists()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--machine", "large"), "--machine, --timeline and --utilisation are for the backend systolic"),
        (("--backend", "systolic", "--trace", "t"), "a machine has bytes"),
        (("--compare", "interpreter,systolic", "--utilisation"), "are of one run"),
        (("--backend", "systolic", "--function", "quantize_inputs"), "only @main runs on other backends"),
    ],
)
def test_options_that_do_not_go_together(run: Tool, compiled: Path, options: tuple[str, ...], problem: str) -> None:
    assert problem in run("model.mlir", "--input", "x.npy", *options).failed(2)


def test_machines_that_there_are_not(run: Tool, compiled: Path) -> None:
    said = run("model.mlir", "--input", "x.npy", "--backend", "systolic", "--machine", "none").failed()
    assert "none: no such machine or file; machines are" in said
    said = run("model.mlir", "--input", "x.npy", "--backend", "systolic", "--machine", "p2-vit").succeeded()
    assert said.startswith("p2-vit: ")


def test_compile_for_a_machine(tool: Tool, run: Tool, folder: Path) -> None:
    """The program in the folder computes what the module does; a second run writes it again, or takes it away."""
    onnx.save(vit(Variant()), "small.onnx")
    np.savez("samples.npz", image=images(5))
    arguments = ["small.onnx", "--dim", "batch=2", "--calibrate", "samples.npz", "-o", "out"]
    for _ in range(2):
        assert "systolic: machine large, " in tool(*arguments, "--target", "systolic", "--machine", "large").succeeded()
    np.save("x.npy", images(2))
    run("out/model.mlir", "--function", "quantize_inputs", "--input", "x.npy", "--output", "codes.npy").succeeded()
    assert run("out/program.qisa", "--input", "codes.npy", "--output", "found.npy").succeeded().startswith("large: ")
    run("out/model.mlir", "--function", "main", "--input", "codes.npy", "--output", "logits.npy").succeeded()
    assert np.load("found.npy").tobytes() == np.load("logits.npy").tobytes()
    tool(*arguments).succeeded()
    assert "program.qisa" not in contents(folder / "out")
    assert "--machine is for --target systolic" in tool(*arguments, "--machine", "large").failed(2)
