"""--delay-dequant on weights, biases, scales and factors that lie in a weight file: the same as on inline ones."""

import hashlib
from pathlib import Path

import ir_text
import numpy as np
import pytest
from random_graphs import Array
from safetensors.numpy import save_file
from xdsl.dialects.builtin import ModuleOp

from qvit.backends.interpreter import run
from qvit.transforms.delay_dequant import delay_dequant

TENSORS: dict[str, Array] = {
    "fc.weight": np.array([[1, -2, 3], [127, -128, 5]], np.int8),
    "fc.scale": np.array([0.3, 0.7], np.float32),
    "fc.bias": np.array([11, -12], np.int32),
    "fc.bias_scale": np.array([0.15, 0.35], np.float32),
    "layer_scale": np.array([0.1, -1.7], np.float32),
    "row": np.array([[0.9, 1.1]], np.float32),
    "wide": np.array([[2_000_000_000, 1]], np.int32),
}

# fc.bias_scale is exactly 0.5 * fc.scale: powers of two do not round.
TEXT = """
func.func @main(%q: tensor<2x3xi8>) -> tensor<2x2xi8> {
  %x = qvit.dequantize %q <0.5, zero_point = 3> : tensor<2x3xi8> -> tensor<2x3xf32>
  %w = qvit.weight "fc.weight" : tensor<2x3xi8>
  %u = qvit.dequantize %w <@"fc.scale" : tensor<2xf32>, axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %c = qvit.weight "fc.bias" : tensor<2xi32>
  %b = qvit.dequantize %c <@"fc.bias_scale" : tensor<2xf32>, axis = 0> : tensor<2xi32> -> tensor<2xf32>
  %y = qvit.linear %x, %u, %b {qvit.src = ["fc"]} : (tensor<2x3xf32>, tensor<2x3xf32>, tensor<2xf32>) -> tensor<2x2xf32>
  %l = qvit.weight "layer_scale" : tensor<2xf32>
  %z = qvit.mul %y, %l {qvit.src = ["ls"]} : (tensor<2x2xf32>, tensor<2xf32>) -> tensor<2x2xf32>
  %r = qvit.weight "row" : tensor<1x2xf32>
  %v = qvit.div %z, %r {qvit.src = ["div"]} : (tensor<2x2xf32>, tensor<1x2xf32>) -> tensor<2x2xf32>
  %t = qvit.slice %v axis 1 start 1 size 2 step -1 {qvit.src = ["slice"]} : tensor<2x2xf32> -> tensor<2x2xf32>
  %o = qvit.quantize %t <0.7> {qvit.src = ["q"]} : tensor<2x2xf32> -> tensor<2x2xi8>
  func.return %o : tensor<2x2xi8>
}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file(TENSORS, path)
    return path


def module_of(text: str, file: Path) -> ModuleOp:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    listed = f'qvit.weights = [#qvit.weight_file<"{file}", "{digest}">]'
    return ir_text.parse(f"builtin.module attributes {{{listed}}} {{{text}}}")


def test_values_and_references(file: Path) -> None:
    before, after = module_of(TEXT, file), module_of(TEXT, file)
    report = delay_dequant(after)
    after.verify()
    assert {name: rule["count"] for name, rule in report.rules.items()} == {
        "linear-of-dequantize": 1,
        "mul-of-dequantize": 2,
        "quantize-of-dequantize": 1,
        "slice-of-dequantize": 1,
    }
    assert report.blocked == report.notes == []
    text = str(after)
    assert 'qvit.weight "fc.bias" : tensor<2xi32>' in text
    # What was taken out of the file, and sliced, is written in place: the pass makes no files.
    assert "by #qvit.real<0.5 * [0.7, 0.3] * [-1.7, 0.1] / [1.1, 0.9] / 0.7> axis 1" in text
    codes = [np.array([[1, 2, 3], [-4, 50, -60]], np.int8)]
    assert run(before, codes)["output0"].tolist() == run(after, codes)["output0"].tolist()


def test_vectors_stay_references_where_nothing_changes_them(file: Path) -> None:
    text = TEXT.replace("start 1 size 2 step -1", "start 0 size 2 step 1")
    after = module_of(text.replace("qvit.slice %v axis 1", "qvit.slice %v axis 0"), file)
    delay_dequant(after)
    scale = '0.5 * @"fc.scale" : tensor<2xf32> * @"layer_scale" : tensor<2xf32> / [0.9, 1.1] / 0.7'
    assert f"by #qvit.real<{scale}> axis 1" in str(after)


def test_the_stored_codes_are_what_could_overflow(file: Path) -> None:
    text = """func.func @main(%q: tensor<1x2xi8>) -> tensor<1x1xf32> {
      %x = qvit.dequantize %q <0.5> : tensor<1x2xi8> -> tensor<1x2xf32>
      %w = qvit.weight "wide" : tensor<1x2xi32>
      %u = qvit.dequantize %w <0.5> : tensor<1x2xi32> -> tensor<1x2xf32>
      %y = qvit.linear %x, %u {qvit.src = ["fc"]} : (tensor<1x2xf32>, tensor<1x2xf32>) -> tensor<1x1xf32>
      func.return %y : tensor<1x1xf32>
    }"""
    (blocked,) = delay_dequant(module_of(text, file)).blocked
    assert f"reach {128 * 2_000_000_001}" in blocked.reason
