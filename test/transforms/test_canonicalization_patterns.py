"""The canonicalization patterns by themselves, in plain xDSL walkers; test/dialects/test_canonicalize.py runs the pass."""

from itertools import permutations
from math import prod

import ir_text
import numpy as np
import pytest
from random_graphs import rational_run
from xdsl.dialects.builtin import ModuleOp
from xdsl.pattern_rewriter import PatternRewriteWalker, RewritePattern

from qvit.dialects.provenance import sources
from qvit.transforms.canonicalization import ReshapeOfReshape, TransposeOfTranspose

RESHAPES = """func.func @main(%q: tensor<2x6xi8>) -> (tensor<3x4xi8>, tensor<12xi8>) {
  %x = qvit.reshape %q {qvit.src = ["a"]} : tensor<2x6xi8> -> tensor<12xi8>
  %y = qvit.reshape %x {qvit.src = ["b"]} : tensor<12xi8> -> tensor<1x12xi8>
  %z = qvit.reshape %y {qvit.src = ["c"]} : tensor<1x12xi8> -> tensor<3x4xi8>
  func.return %z, %x : tensor<3x4xi8>, tensor<12xi8>
}"""
TRANSPOSES = """func.func @main(%q: tensor<2x3x4xi8>) -> (tensor<{2}xi8>, tensor<{1}xi8>) {{
  %x = qvit.transpose %q {3} {{qvit.src = ["a"]}} : tensor<2x3x4xi8> -> tensor<{1}xi8>
  %y = qvit.transpose %x {4} {{qvit.src = ["b"]}} : tensor<{1}xi8> -> tensor<{2}xi8>
  func.return %y, %x : tensor<{2}xi8>, tensor<{1}xi8>
}}"""


def applied(pattern: RewritePattern, text: str, shape: tuple[int, ...]) -> ModuleOp:
    """The module behind the pattern; its values are the same, and each result keeps its name."""
    before, after = ir_text.parse(text), ir_text.parse(text)
    assert PatternRewriteWalker(pattern).rewrite_module(after)
    after.verify()
    inputs = [np.arange(prod(shape), dtype=np.int8).reshape(shape)]
    for a, b in zip(*(rational_run(str(m), inputs) for m in (before, after)), strict=True):
        assert np.array_equal(a, b)
    return after


def test_reshapes() -> None:
    after = applied(ReshapeOfReshape(), RESHAPES, (2, 6))
    names = {sources(op) for op in after.walk() if op.name == "qvit.reshape"}
    assert {("a",), ("a", "b", "c")} <= names
    assert all(str(op.operands[0].type) == "tensor<2x6xi8>" for op in after.walk() if op.name == "qvit.reshape")


@pytest.mark.parametrize("first", list(permutations(range(3))))
def test_transposes(first: tuple[int, ...]) -> None:
    for second in permutations(range(3)):
        shapes = [(2, 3, 4)]
        for order in (first, second):
            shapes.append(tuple(shapes[-1][i] for i in order))
        text = TRANSPOSES.format(*("x".join(map(str, s)) for s in shapes), list(first), list(second))
        after = applied(TransposeOfTranspose(), text, (2, 3, 4))
        assert [sources(op) for op in after.walk() if op.name == "qvit.transpose"] == [("a",), ("a", "b")]


@pytest.mark.parametrize("pattern", [ReshapeOfReshape(), TransposeOfTranspose()])
def test_one_alone_stays(pattern: RewritePattern) -> None:
    text = """func.func @main(%q: tensor<2x3xi8>) -> tensor<3x2xi8> {
      %x = qvit.transpose %q [1, 0] : tensor<2x3xi8> -> tensor<3x2xi8>
      %y = qvit.reshape %x : tensor<3x2xi8> -> tensor<2x3xi8>
      %z = qvit.transpose %y [1, 0] : tensor<2x3xi8> -> tensor<3x2xi8>
      func.return %z : tensor<3x2xi8>
    }"""
    module = ir_text.parse(text)
    assert not PatternRewriteWalker(pattern).rewrite_module(module)
    assert str(module) == str(ir_text.parse(text))


@pytest.mark.parametrize("pattern", [ReshapeOfReshape, TransposeOfTranspose])
def test_a_pattern_states_what_it_does(pattern: type[RewritePattern]) -> None:
    assert "=>" in (pattern.__doc__ or "")
    assert "bit-exact" in (pattern.__doc__ or "")
