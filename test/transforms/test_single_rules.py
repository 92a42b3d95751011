"""Single rules and recognisers in somebody else's rewriter: no pass, no session, beside patterns that are not ours."""

import hashlib
from pathlib import Path

import ir_text
import numpy as np
import pytest
from safetensors.numpy import save_file
from xdsl.dialects import test as test_dialect
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation
from xdsl.pattern_rewriter import (
    GreedyRewritePatternApplier,
    PatternRewriter,
    PatternRewriteWalker,
    RewritePattern,
    op_type_rewrite_pattern,
)

from qvit.dialects.ops.elementwise import ReluOp
from qvit.dialects.ops.products import LinearOp
from qvit.dialects.provenance import Remark
from qvit.dialects.weights import Weights
from qvit.frontends.recognise import BiasOfLinear, MatmulToLinear, RecogniseGelu, RecogniseLayerNorm, TransposeOfWeight
from qvit.transforms.delay.folds import MulOfDequantize, QuantizeOfDequantize
from qvit.transforms.delay.moves import TransposeOfDequantize
from qvit.transforms.delay.products import LinearOfDequantize, MatmulOfDequantize
from qvit.transforms.rule import Session

LAYER = """
func.func @main(%q: tensor<2x3xi8>, %r: tensor<3x2xi8>) -> (tensor<2x2xi8>, tensor<2x2xf32>) {
  %x = qvit.dequantize %q <0.5> {qvit.src = ["x"]} : tensor<2x3xi8> -> tensor<2x3xf32>
  %w = qvit.weight "fc.weight" : tensor<2x3xi8>
  %u = qvit.dequantize %w <0.25> {qvit.src = ["u"]} : tensor<2x3xi8> -> tensor<2x3xf32>
  %y = qvit.linear %x, %u {qvit.src = ["fc"]} : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x2xf32>
  %o = qvit.quantize %y <0.1> {qvit.src = ["o"]} : tensor<2x2xf32> -> tensor<2x2xi8>
  %v = qvit.dequantize %r <[0.5, 0.25, 0.75], axis = 0> {qvit.src = ["v"]} : tensor<3x2xi8> -> tensor<3x2xf32>
  %z = qvit.matmul %x, %v {qvit.src = ["qk"]} : (tensor<2x3xf32>, tensor<3x2xf32>) -> tensor<2x2xf32>
  %n = "test.op"(%z) : (tensor<2x2xf32>) -> tensor<2x2xf32>
  func.return %o, %n : tensor<2x2xi8>, tensor<2x2xf32>
}
"""


@pytest.fixture
def layer(tmp_path: Path) -> ModuleOp:
    """LAYER in a module that lists its weight file."""
    file = tmp_path / "fc.safetensors"
    save_file({"fc.weight": np.array([[100, -100, 100], [1, 2, 3]], np.int8)}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    listed = f'qvit.weights = [#qvit.weight_file<"{file}", "{digest}">]'
    return ir_text.parse(f"builtin.module attributes {{{listed}}} {{{LAYER}}}")


def kinds(module: ModuleOp) -> list[str]:
    return [op.name for op in module.walk() if op.name.startswith(("qvit.", "test."))]


def names(op: Operation) -> str:
    return str(op.attributes["qvit.src"])


class ReluForTest(RewritePattern):
    """A pattern that is not ours."""

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: test_dialect.TestOp, rewriter: PatternRewriter) -> None:
        rewriter.replace(op, ReluOp(op.operands[0]))


def test_one_rule_in_a_walker(layer: ModuleOp) -> None:
    assert PatternRewriteWalker(LinearOfDequantize(), apply_recursively=False).rewrite_module(layer)
    layer.verify()
    linear = next(op for op in layer.walk() if isinstance(op, LinearOp))
    assert str(linear.result.type) == "tensor<2x2xi32>"
    assert linear.result.uses.get_length() == 1
    assert kinds(layer).count("qvit.dequantize") == 4  # a pattern alone leaves what is no longer used


def test_rules_beside_other_patterns(layer: ModuleOp) -> None:
    patterns = [ReluForTest(), QuantizeOfDequantize(), LinearOfDequantize()]
    PatternRewriteWalker(GreedyRewritePatternApplier(patterns)).rewrite_module(layer)
    layer.verify()
    assert kinds(layer) == [
        *("qvit.dequantize", "qvit.weight", "qvit.linear", "qvit.requantize"),
        *("qvit.dequantize", "qvit.matmul", "qvit.relu"),
    ]
    assert [names(op) for op in layer.walk() if op.name == "qvit.requantize"] == ['["x", "u", "fc", "o"]']


def test_weights_of_a_module_inside_another(layer: ModuleOp) -> None:
    """Weight files are those of the innermost module that lists some."""
    outer = ModuleOp([layer])
    PatternRewriteWalker(LinearOfDequantize(), apply_recursively=False).rewrite_module(outer)
    assert "-> tensor<2x2xi32>" in str(outer)


def test_a_function_that_is_in_no_module() -> None:
    module = ir_text.parse(LAYER.replace('qvit.weight "fc.weight"', "qvit.constant dense<7>"))
    function = next(iter(module.ops))
    function.detach()
    assert PatternRewriteWalker(LinearOfDequantize(), apply_recursively=False).rewrite_region(function.regions[0])
    assert "-> tensor<2x2xi32>" in str(function)


def test_why_not(layer: ModuleOp) -> None:
    remarks = [remark for op in layer.walk() for remark in MatmulOfDequantize().why_not(op)]
    assert [(remark.src, remark.rule) for remark in remarks] == [("qk", "matmul-of-dequantize")]
    assert "scale along the contracted axis: rhs's" in remarks[0].reason


def test_options_and_counts_are_in_a_session(layer: ModuleOp) -> None:
    session = Session(Weights(layer), accumulator_bits=64)
    rules = [rule(session) for rule in (LinearOfDequantize, QuantizeOfDequantize, MulOfDequantize)]
    PatternRewriteWalker(GreedyRewritePatternApplier([*rules])).rewrite_module(layer)
    assert "-> tensor<2x2xi64>" in str(layer)
    assert session.applied == {"linear-of-dequantize": 1, "quantize-of-dequantize": 1}


def test_a_rule_of_moves() -> None:
    module = ir_text.parse(
        "func.func @main(%q: tensor<2x3xi8>) -> tensor<3x2xf32> {\n"
        "%x = qvit.dequantize %q <[0.5, 0.25], axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>\n"
        "%y = qvit.transpose %x [1, 0] : tensor<2x3xf32> -> tensor<3x2xf32>\n"
        "func.return %y : tensor<3x2xf32>\n}"
    )
    PatternRewriteWalker(TransposeOfDequantize()).rewrite_module(module)
    assert kinds(module)[-2:] == ["qvit.transpose", "qvit.dequantize"]
    assert "<[0.5, 0.25], axis = 1>" in str(module)


def test_recognisers_that_store_weights() -> None:
    module = ir_text.parse(
        "func.func @main(%x: tensor<2x3xf32>) -> tensor<2x2xf32> {\n"
        "%w = qvit.constant dense<[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]> : tensor<3x2xf32>\n"
        "%b = qvit.constant dense<[7.0, 8.0]> : tensor<2xf32>\n"
        "%y = qvit.matmul %x, %w : (tensor<2x3xf32>, tensor<3x2xf32>) -> tensor<2x2xf32>\n"
        "%z = qvit.add %y, %b : (tensor<2x2xf32>, tensor<2xf32>) -> tensor<2x2xf32>\n"
        "func.return %z : tensor<2x2xf32>\n}"
    )
    weights = Weights(module)
    patterns = [MatmulToLinear(weights), TransposeOfWeight(weights), BiasOfLinear(weights)]
    PatternRewriteWalker(GreedyRewritePatternApplier([*patterns])).rewrite_module(module)
    assert kinds(module) == ["qvit.constant", "qvit.constant", "qvit.linear"]
    assert "dense<[[1.000000e+00, 3.000000e+00, 5.000000e+00], [2.0" in str(module)


def test_recognisers_that_decline() -> None:
    module = ir_text.parse(
        "func.func @main(%x: tensor<2x3xf32>) -> tensor<2x3xf32> {\n"
        '%y = qvit.erf %x {qvit.src = ["erf"]} : tensor<2x3xf32>\n'
        "func.return %y : tensor<2x3xf32>\n}"
    )
    weights, declined = Weights(module), list[Remark]()
    patterns = [RecogniseLayerNorm(weights, declined), RecogniseGelu(weights, declined)]
    PatternRewriteWalker(GreedyRewritePatternApplier([*patterns]), apply_recursively=False).rewrite_module(module)
    assert [(remark.src, remark.rule) for remark in declined] == [("erf", "gelu")]
