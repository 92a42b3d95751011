"""The names of source nodes, read, set, inherited, and used in messages."""

import ir_text
import pytest
from xdsl.dialects import test as test_dialect
from xdsl.dialects.builtin import IntegerAttr
from xdsl.ir import Operation

from qvit.dialects.provenance import SRC, describe, inherit, set_sources, sources


def node(*names: str) -> Operation:
    op = test_dialect.TestOp()
    set_sources(op, names)
    return op


def test_sources() -> None:
    assert sources(node()) == ()
    assert sources(node("a", "b")) == ("a", "b")
    assert sources(ir_text.parse_op('%y = qvit.relu %x {qvit.src = ["a", "b"]} : tensor<2xf32>')) == ("a", "b")
    assert sources(ir_text.parse_op("%y = qvit.relu %x {qvit.src = [1 : i8]} : tensor<2xf32>")) == ()
    other = test_dialect.TestOp(attributes={SRC: IntegerAttr(1, 64)})
    assert sources(other) == ()


def test_weights_are_named_by_their_key() -> None:
    assert sources(ir_text.parse_op('%w = qvit.weight "fc1" : tensor<2xf32>')) == ("fc1",)
    assert sources(ir_text.parse_op('%w = qvit.weight "fc1" {qvit.src = ["a"]} : tensor<2xf32>')) == ("a",)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([], ()),
        (["a"], ("a",)),
        (["a", "b", "a"], ("b", "a")),  # by last occurrence
        (["a", "a", "b", "b"], ("a", "b")),
        (["c", "a", "b", "c", "a"], ("b", "c", "a")),
    ],
)
def test_set_sources(given: list[str], kept: tuple[str, ...]) -> None:
    op = node("old")
    set_sources(op, iter(given))
    assert sources(op) == kept
    assert (SRC in op.attributes) == bool(kept)


def test_inherit() -> None:
    new = node()
    inherit(new, node("a", "b"), node(), node("c"))
    assert sources(new) == ("a", "b", "c")
    inherit(new, node("b", "d"))  # its own come first
    assert sources(new) == ("a", "c", "b", "d")
    inherit(new)
    assert sources(new) == ("a", "c", "b", "d")
    empty = node()
    inherit(empty, node())
    assert SRC not in empty.attributes


def test_describe() -> None:
    assert describe(node("a", "b")) == "b"
    assert describe(node()) == "test.op"
    assert describe(ir_text.parse_op("%y = qvit.relu %x : tensor<2xf32>")) == "qvit.relu"
    relu = ir_text.parse_op('%y = qvit.relu %x {qvit.src = ["r"]} : tensor<2xf32>')
    assert describe(relu.results[0]) == "r"
    assert describe(relu.operands[0]) == "test.op"


def test_describe_arguments() -> None:
    module = ir_text.parse(ir_text.function("%y = qvit.relu %x : tensor<2xf32>"))
    (relu,) = (op for op in module.walk() if op.name == "qvit.relu")
    assert describe(relu.operands[0]) == "an argument of the function"
