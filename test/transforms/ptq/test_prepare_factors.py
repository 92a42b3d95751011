"""Constant factors behind a product of activations go into the layer that makes its left operand."""

import ir_text
import numpy as np
import pytest

from qvit.backends.interpreter import run
from qvit.transforms.ptq.prepare import prepare

HEAD = """func.func @main(%x: tensor<2x4x3xf32>, %k: tensor<2x3x4xf32>) -> tensor<2x4x4xf32> {
  %w = qvit.constant dense<[[1.0, 2.0, 3.0], [-1.0, 0.5, 0.0], [4.0, 1.0, 1.0]]> : tensor<3x3xf32>
  %b = qvit.constant dense<[1.0, 2.0, 3.0]> : tensor<3xf32>
  %s = qvit.constant dense<{factor}> : tensor<{shape}xf32>
  %y = qvit.linear %x, %w, %b : (tensor<2x4x3xf32>, tensor<3x3xf32>, tensor<3xf32>) -> tensor<2x4x3xf32>
  {moved}
  %p = qvit.matmul %q, %k : (tensor<2x4x3xf32>, tensor<2x3x4xf32>) -> tensor<2x4x4xf32>
  %z = qvit.mul %p, %s : (tensor<2x4x4xf32>, tensor<{shape}xf32>) -> tensor<2x4x4xf32>
  func.return %z : tensor<2x4x4xf32>
}"""
MOVED = """%t = qvit.transpose %y [1, 0, 2] : tensor<2x4x3xf32> -> tensor<4x2x3xf32>
  %q = qvit.transpose %t [1, 0, 2] : tensor<4x2x3xf32> -> tensor<2x4x3xf32>"""


def text(moved: str = MOVED, factor: str = "0.3", shape: str = "1") -> str:
    return HEAD.replace("{moved}", moved).replace("{factor}", factor).replace("{shape}", shape)


def test_the_attention_scale_goes_into_the_queries() -> None:
    module = ir_text.parse(text())
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape).astype(np.float32) for shape in ((2, 4, 3), (2, 3, 4))]
    (before,) = run(module, inputs).values()
    counts = prepare(module).applied
    module.verify()
    assert (counts["factor-of-matmul"], counts["factor-of-layer"]) == (1, 1)
    assert "qvit.mul" not in [op.name for op in module.walk()]
    (after,) = run(module, inputs).values()
    np.testing.assert_allclose(after, before, rtol=1e-6)


@pytest.mark.parametrize(
    "module",
    [
        text(moved="%q = qvit.relu %y : tensor<2x4x3xf32>"),  # not the layer's result any more
        text(factor="[0.1, 0.2, 0.3, 0.4]", shape="4"),  # a factor for each key
        text()
        .replace("%x: tensor<2x4x3xf32>", "%x: tensor<2x4x3xf32>, %y: tensor<2x4x3xf32>")
        .replace("  %y =", "  %u ="),
    ],
)
def test_others_stay(module: str) -> None:
    read = ir_text.parse(module)
    assert prepare(read).applied["factor-of-matmul"] == 0
    assert "qvit.mul" in [op.name for op in read.walk()]


def test_a_norm_takes_the_factor() -> None:
    norm = "%q = qvit.layer_norm %y, %b, %b axis 2 epsilon 1.0e-06 : (tensor<2x4x3xf32>, tensor<3xf32>, tensor<3xf32>)"
    module = ir_text.parse(text(moved=norm + " -> tensor<2x4x3xf32>"))
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape).astype(np.float32) for shape in ((2, 4, 3), (2, 3, 4))]
    (before,) = run(module, inputs).values()
    counts = prepare(module).applied
    assert (counts["factor-of-matmul"], counts["factor-of-norm"]) == (1, 1)
    assert "qvit.mul" not in [op.name for op in module.walk()]
    (after,) = run(module, inputs).values()
    np.testing.assert_allclose(after, before, rtol=1e-6)


def test_queries_that_are_used_elsewhere_stay() -> None:
    module = text().replace("-> tensor<2x4x4xf32> {", "-> (tensor<2x4x4xf32>, tensor<2x4x3xf32>) {", 1)
    module = module.replace("return %z : tensor<2x4x4xf32>", "return %z, %y : tensor<2x4x4xf32>, tensor<2x4x3xf32>")
    assert prepare(ir_text.parse(module)).applied["factor-of-matmul"] == 0
