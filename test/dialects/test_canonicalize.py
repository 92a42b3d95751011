"""Folders and canonicalization patterns: what is left, that it computes the same, and whose names it carries."""

from collections.abc import Sequence
from itertools import permutations

import ir_text
import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.transforms.canonicalize import CanonicalizePass

from qvit.backends.interpreter import run
from qvit.dialects.provenance import sources
from qvit.dialects.semantics.integers import IntType
from qvit.dialects.types import integer_of


def canonical(module: ModuleOp) -> ModuleOp:
    result = module.clone()
    CanonicalizePass().apply(ir_text.context(), result)
    result.verify()
    return result


def operations(module: ModuleOp) -> list[str]:
    """The names of the operations of the only function, without its return."""
    return [op.name.removeprefix("qvit.") for op in module.walk() if op.name.startswith("qvit.")]


def check(body: Sequence[str] | str, left: list[str]) -> ModuleOp:
    """Canonicalization leaves these operations, and the same values bit for bit."""
    before = ir_text.parse(ir_text.function(body))
    after = canonical(before)
    assert operations(after) == left
    function = before.body.block.first_op
    assert function is not None
    rng = np.random.default_rng(0)
    inputs = []
    for argument in function.regions[0].block.args:
        shape, t = argument.type.get_shape(), integer_of(argument) or IntType(8)  # pyright: ignore
        inputs.append(rng.integers(t.lo, t.hi, shape, np.int64, endpoint=True))
    expected, found = (list(run(m, inputs).values()) for m in (before, after))
    for a, b in zip(expected, found, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tolist() == b.tolist()
    return after


@pytest.mark.parametrize(
    ("body", "left"),
    [
        # reshape
        ("%y = qvit.reshape %a : tensor<2x3xi8> -> tensor<2x3xi8>", []),
        ("%y = qvit.reshape %a : tensor<2x3xi8> -> tensor<3x2xi8>", ["reshape"]),
        (
            [
                "%x = qvit.reshape %a : tensor<2x3xi8> -> tensor<6xi8>",
                "%y = qvit.reshape %x : tensor<6xi8> -> tensor<3x2xi8>",
            ],
            ["reshape"],
        ),
        (
            [
                "%x = qvit.reshape %a : tensor<2x3xi8> -> tensor<6xi8>",
                "%y = qvit.reshape %x : tensor<6xi8> -> tensor<2x3xi8>",
            ],
            [],
        ),
        (
            [
                "%x = qvit.reshape %a : tensor<2x3xi8> -> tensor<6xi8>",
                "%y = qvit.reshape %x : tensor<6xi8> -> tensor<3x2xi8>",
                "%z = qvit.reshape %y : tensor<3x2xi8> -> tensor<1x6xi8>",
            ],
            ["reshape"],
        ),
        # transpose
        ("%y = qvit.transpose %a [0, 1] : tensor<2x2xi8> -> tensor<2x2xi8>", []),
        ("%y = qvit.transpose %a [1, 0] : tensor<2x2xi8> -> tensor<2x2xi8>", ["transpose"]),
        (
            [
                "%x = qvit.transpose %a [1, 2, 0] : tensor<2x3x4xi8> -> tensor<3x4x2xi8>",
                "%y = qvit.transpose %x [2, 0, 1] : tensor<3x4x2xi8> -> tensor<2x3x4xi8>",
            ],
            [],
        ),
        (
            [
                "%x = qvit.transpose %a [1, 0] : tensor<2x3xi8> -> tensor<3x2xi8>",
                "%y = qvit.reshape %x : tensor<3x2xi8> -> tensor<6xi8>",
            ],
            ["transpose", "reshape"],
        ),
        # slice
        ("%y = qvit.slice %a axis 1 start 0 size 3 step 1 : tensor<2x3xi8> -> tensor<2x3xi8>", []),
        ("%y = qvit.slice %a axis 1 start 0 size 2 step 1 : tensor<2x3xi8> -> tensor<2x2xi8>", ["slice"]),
        ("%y = qvit.slice %a axis 1 start 2 size 3 step -1 : tensor<2x3xi8> -> tensor<2x3xi8>", ["slice"]),
        # concat, broadcast
        ("%y = qvit.concat %a axis 0 : (tensor<2x3xi8>) -> tensor<2x3xi8>", []),
        ("%y = qvit.concat %a, %b axis 0 : (tensor<2xi8>, tensor<3xi8>) -> tensor<5xi8>", ["concat"]),
        ("%y = qvit.broadcast %a : tensor<2x3xi8> -> tensor<2x3xi8>", []),
        ("%y = qvit.broadcast %a : tensor<3xi8> -> tensor<2x3xi8>", ["broadcast"]),
        # clip: all codes of the type are in the bounds, or not
        ("%y = qvit.clip %a : tensor<2x3xi8>", []),
        ("%y = qvit.clip %a {low = -128 : i64, high = 127 : i64} : tensor<2x3xi8>", []),
        ("%y = qvit.clip %a {high = dense<[7, 7, 7]> : tensor<3xi64>, axis = 1 : i64} : tensor<2x3xi4>", []),
        ("%y = qvit.clip %a {high = dense<[7, 7, 6]> : tensor<3xi64>, axis = 1 : i64} : tensor<2x3xi4>", ["clip"]),
        ("%y = qvit.clip %a {low = 1 : i64} : tensor<2x3xui8>", ["clip"]),
        ("%y = qvit.clip %a : tensor<2x3xf32>", ["clip"]),
        # requantize: everything the same, or one thing not
        ("%y = qvit.requantize %a by #qvit.real<1.0> : tensor<9xi8> -> tensor<9xi8>", []),
        ("%y = qvit.requantize %a by #qvit.pot<0> : tensor<9xi8> -> tensor<9xi8>", []),
        (
            "%y = qvit.requantize %a by #qvit.pot<0> input_zero_point <3> zero_point <3> rounding floor"
            " : tensor<9xi8> -> tensor<9xi8>",
            [],
        ),
        ("%y = qvit.requantize %a by #qvit.pot<1> : tensor<9xi8> -> tensor<9xi8>", ["requantize"]),
        ("%y = qvit.requantize %a by #qvit.real<2.0> : tensor<9xi8> -> tensor<9xi8>", ["requantize"]),
        ("%y = qvit.requantize %a by #qvit.real<1.0 / 2.0> : tensor<9xi8> -> tensor<9xi8>", ["requantize"]),
        ("%y = qvit.requantize %a by #qvit.pot<0> : tensor<9xi8> -> tensor<9xui8>", ["requantize"]),
        ("%y = qvit.requantize %a by #qvit.pot<0> : tensor<9xi8> -> tensor<9xi4>", ["requantize"]),
        ("%y = qvit.requantize %a by #qvit.pot<0> zero_point <1> : tensor<9xi8> -> tensor<9xi8>", ["requantize"]),
        ("%y = qvit.requantize %a by #qvit.pot<0> input_zero_point <1> : tensor<9xi8> -> tensor<9xi8>", ["requantize"]),
        (
            "%y = qvit.requantize %a by #qvit.pot<0> divided_by %b : (tensor<9xi32>, tensor<1xi32>) -> tensor<9xi32>",
            ["requantize"],
        ),
        (
            "%y = qvit.requantize %a by #qvit.real<1.0> divided_by %b : (tensor<9xi32>, tensor<1xi32>) -> tensor<9xi32>",
            ["requantize"],
        ),
        (
            "%y = qvit.requantize %a by #qvit.pot<0> input_zero_point <[1, 2]> zero_point <[1, 2]> axis 0"
            " : tensor<2xi8> -> tensor<2xi8>",
            [],
        ),
        (
            "%y = qvit.requantize %a by #qvit.pot<0> input_zero_point <[1, 2]> zero_point <[2, 1]> axis 0"
            " : tensor<2xi8> -> tensor<2xi8>",
            ["requantize"],
        ),
    ],
)
def test_what_is_left(body: str | list[str], left: list[str]) -> None:
    check(body, left)


def test_transposes_compose_exhaustively() -> None:
    for p in permutations(range(3)):
        for q in permutations(range(3)):
            shapes = [(2, 3, 4)]
            for order in (p, q):
                shapes.append(tuple(shapes[-1][i] for i in order))
            a, b, c = ("tensor<" + "x".join(map(str, s)) + "xi8>" for s in shapes)
            same = [p[i] for i in q] == [0, 1, 2]
            check(
                [f"%x = qvit.transpose %a {list(p)} : {a} -> {b}", f"%y = qvit.transpose %x {list(q)} : {b} -> {c}"],
                [] if same else ["transpose"],
            )


def test_values_with_other_uses_stay() -> None:
    body = [
        "%x = qvit.reshape %a : tensor<2x3xi8> -> tensor<6xi8>",
        "%z = qvit.reshape %x : tensor<6xi8> -> tensor<3x2xi8>",
        "%f = qvit.reshape %z : tensor<3x2xi8> -> tensor<6xi8>",
        "%y = qvit.add %x, %f : (tensor<6xi8>, tensor<6xi8>) -> tensor<6xi32>",
    ]
    after = check(body, ["reshape", "reshape", "add"])
    assert all(str(op.operands[0].type) == "tensor<2x3xi8>" for op in after.walk() if op.name == "qvit.reshape")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (
            "%x = qvit.reshape %a {qvit.src = [SRC]} : tensor<2x3xi8> -> tensor<6xi8>",
            "%y = qvit.reshape %x {qvit.src = [SRC]} : tensor<6xi8> -> tensor<3x2xi8>",
        ),
        (
            "%x = qvit.transpose %a [1, 0, 2] {qvit.src = [SRC]} : tensor<2x3x4xi8> -> tensor<3x2x4xi8>",
            "%y = qvit.transpose %x [2, 0, 1] {qvit.src = [SRC]} : tensor<3x2x4xi8> -> tensor<4x3x2xi8>",
        ),
    ],
)
def test_rewrites_carry_the_names_of_both(first: str, second: str) -> None:
    after = check([first.replace("SRC", '"p", "q"'), second.replace("SRC", '"r", "p"')], [first.split()[2][5:]])
    (op,) = (op for op in after.walk() if op.name.startswith("qvit."))
    assert sources(op) == ("q", "r", "p")  # each once, the replaced value's own name last
