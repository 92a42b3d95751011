"""--lower-to-linalg computes what the interpreter computes: every case, by an evaluator of plain MLIR in NumPy."""

import hashlib
from io import StringIO
from pathlib import Path

import ir_text
import numpy as np
import plain_mlir
import pytest
from linalg_cases import CASES, Case, integer_block, reference
from safetensors.numpy import save_file
from xdsl.dialects.builtin import ModuleOp
from xdsl.printer import Printer

from qvit.transforms.lower_to_linalg import lower_to_linalg


def lowered(module: ModuleOp) -> ModuleOp:
    assert lower_to_linalg(module) == []
    module.verify()
    assert "qvit" not in ir_text.generic(module)
    return module


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_same_to_the_last_bit(case: Case) -> None:
    expected = case.reference()
    (found,) = plain_mlir.run(lowered(ir_text.parse(case.text)), case.name, expected.inputs)
    np.testing.assert_array_equal(found, expected.result)


def test_a_whole_block() -> None:
    """Read in float, made integer, lowered; the codes of the result are those of the interpreter."""
    module = integer_block()
    expected = reference(module, "main", [np.random.default_rng(1).normal(size=(7, 16)).astype(np.float32)])
    assert len(np.unique(expected.result)) > 50
    (found,) = plain_mlir.run(lowered(module), "main", expected.inputs)
    np.testing.assert_array_equal(found, expected.result)


def test_weights_and_vectors_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    rng = np.random.default_rng(3)
    tensors = {"w": rng.integers(-128, 128, (70, 5), np.int8), "s": rng.random(70, np.float32)}
    save_file(tensors, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    lines = [
        "%y = qvit.linear %x, %w : (tensor<4x5xi8>, tensor<70x5xi8>) -> tensor<4x70xi32>",
        '%z = qvit.dequantize %y <0.3 * @"s" : tensor<70xf32>, axis = 1> : tensor<4x70xi32> -> tensor<4x70xf32>',
    ]
    body = ir_text.function(['%w = qvit.weight "w" : tensor<70x5xi8>', *lines], {"%x": "tensor<4x5xi8>"})
    listed = f'qvit.weights = [#qvit.weight_file<"{path}", "{digest}">]'
    module = ir_text.parse(f"builtin.module attributes {{{listed}}} {{{body}}}")
    expected = reference(module, "main", [rng.integers(-128, 128, (4, 5), np.int8)])
    (found,) = plain_mlir.run(lowered(module), "main", expected.inputs)
    np.testing.assert_array_equal(found, expected.result)


REFUSED = [
    (
        "%y = qvit.requantize %x by #qvit.real<0.5> : tensor<2xi32> -> tensor<2xi8>",
        "qvit.requantize (its factor is a real number; dyadic factors and powers of two are lowered)",
    ),
    (
        "%y = qvit.requantize %x by #qvit.dyadic<3, 2> divided_by %z"
        " : (tensor<2x2xi32>, tensor<2x1xi32>) -> tensor<2x2xi8>",
        "qvit.requantize (it has a divisor, whose bit length decides how far to shift)",
    ),
    (
        "%y = qvit.add_requant %a by #qvit.pot<1>, %b by #qvit.real<0.5>"
        " : (tensor<2xi8>, tensor<2xi8>) -> tensor<2xi8>",
        "qvit.add_requant (its factor is a real number; dyadic factors and powers of two are lowered)",
    ),
    (
        "%y = qvit.requantize %x by #qvit.dyadic<3, 2> : tensor<2xi64> -> tensor<2xi8>",
        "qvit.requantize (it needs more than 64 bits for an intermediate result in"
        " -27670116110564327424..27670116110564327421)",
    ),
    (
        "%y = qvit.add_requant %a by #qvit.dyadic<65537, 0>, %b by #qvit.pot<50>"
        " : (tensor<2xi8>, tensor<2xi8>) -> tensor<2xi8>",
        "qvit.add_requant (it needs more than 64 bits for an intermediate result in"
        " -9444877080927366283264..9371088978732621234176)",
    ),
    (
        "%y = qvit.quantize %x <0.5> : tensor<2xf64> -> tensor<2xi64>",
        "qvit.quantize (codes of i64 are beyond what floats hold exactly)",
    ),
    (
        "%y = qvit.quantize %x <1.0e-30 * 1.0e-30> : tensor<2xf32> -> tensor<2xi8>",
        "qvit.quantize (its scale is 0.0..0.0 in f32)",
    ),
    (
        "%y = qvit.dequantize %x <0.5, zero_point = 1> : tensor<2xi64> -> tensor<2xf32>",
        "qvit.dequantize (it needs more than 64 bits for an intermediate result in"
        " -9223372036854775809..9223372036854775806)",
    ),
    (
        "%y = qvit.matmul %a, %b : (tensor<2x3xf32>, tensor<3x2xf32>) -> tensor<2x2xf32>",
        "qvit.matmul (it is a product of floats, whose sums depend on their order)",
    ),
    ("%y = qvit.softmax %x axis 0 : tensor<2xf32>", "qvit.softmax (there is no lowering of it)"),
]


@pytest.mark.parametrize(("line", "reason"), REFUSED)
def test_what_is_refused_and_why(line: str, reason: str) -> None:
    module = ir_text.parse(ir_text.function(line))
    before = str(module)
    (remark,) = lower_to_linalg(module)
    assert f"{remark.rule} ({remark.reason})" == reason
    assert str(module) == before  # nothing of a lowering that was refused half-way


def test_the_border_of_64_bits() -> None:
    """The largest product that fits, by the numbers themselves: (2^32 - 1) (2^31 - 1) < 2^63."""
    line = "%y = qvit.requantize %x by #qvit.dyadic<2147483647, 40> : tensor<2xui32> -> tensor<2xi32>"
    assert lower_to_linalg(ir_text.parse(ir_text.function(line))) == []


def test_operations_inside_others_are_reported() -> None:
    module = ir_text.parse(
        """
func.func @main(%x: tensor<2xui8>) -> tensor<2xui8> {
  %y = "test.op"(%x) ({
    %z = qvit.broadcast %x {qvit.src = ["inner"]} : tensor<2xui8> -> tensor<3x2xui8>
    "test.termop"(%z) : (tensor<3x2xui8>) -> ()
  }) : (tensor<2xui8>) -> tensor<2xui8>
  func.return %y : tensor<2xui8>
}
"""
    )
    assert [(r.src, r.rule) for r in lower_to_linalg(module)] == [("inner", "qvit.broadcast")]
    module.verify()


def test_source_nodes_become_locations() -> None:
    line = "%y = qvit.relu %x {qvit.src = SRC} : tensor<2xf32>"
    for names, expected in ((["a"], 'loc("a")'), (["a", "b"], 'loc(fused["a", "b"])')):
        text = line.replace("SRC", str(names).replace("'", '"'))
        module = ir_text.parse(ir_text.function(text, {"%x": "tensor<2xf32>"}))
        assert lower_to_linalg(module) == []
        stream = StringIO()
        Printer(stream, print_debuginfo=True).print_op(module)
        assert stream.getvalue().count(expected) >= 3  # of the operation, its accumulator, and what is in its body
