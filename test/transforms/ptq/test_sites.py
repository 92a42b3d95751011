"""Which tensors need codes, which share a scale, and what for."""

import ir_text
import pytest

from qvit.backends.interpreter import find_function
from qvit.transforms.ptq.calibrate import producers
from qvit.transforms.ptq.sites import Role, find_sites, role, use_role

T, W, B = "tensor<4x8xf32>", "tensor<8x8xf32>", "tensor<8xf32>"
PARAMETERS = (
    f"%w = qvit.constant dense<0.5> : {W}",
    f"%b = qvit.constant dense<0.5> : {B}",
    f"%p = qvit.constant dense<0.25> : {T}",
)


def linear(name: str, of: str, bias: bool = True) -> str:
    more, type_ = (", %b", f", {B}") if bias else ("", "")
    return f'%{name} = qvit.linear %{of}, %w{more} {{qvit.src = ["{name}"]}} : ({T}, {W}{type_}) -> {T}'


def unary(name: str, op: str, of: str) -> str:
    return f'%{name} = qvit.{op} %{of} {{qvit.src = ["{name}"]}} : {T}'


def binary(name: str, op: str, a: str, b: str, types: str = f"({T}, {T}) -> {T}") -> str:
    return f'%{name} = qvit.{op} %{a}, %{b} {{qvit.src = ["{name}"]}} : {types}'


def norm(name: str, of: str) -> str:
    return f'%{name} = qvit.layer_norm %{of}, %b, %b axis 1 epsilon 1.0e-6 {{qvit.src = ["{name}"]}} : ({T}, {B}, {B}) -> {T}'


SOFTMAX = '%s = qvit.softmax %a axis 1 {qvit.src = ["s"]} : tensor<4x4xf32>'
SCORES = "(tensor<4x8xf32>, tensor<8x4xf32>) -> tensor<4x4xf32>"
KEYS = "%kt = qvit.transpose %k [1, 0] : tensor<4x8xf32> -> tensor<8x4xf32>"
VALUES = "(tensor<4x4xf32>, tensor<4x8xf32>) -> tensor<4x8xf32>"


def roles(*lines: str) -> dict[str, str]:
    """The site of each tensor by the name of what makes it."""
    module = ir_text.parse(ir_text.function([*PARAMETERS, *lines], {"%x": T}))
    return {site.name.replace("input x", "x"): role(site).value for site in find_sites(find_function(module))}


CASES: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "a layer": ((linear("y", "x"),), {"x": "pixels"}),
    "an encoder block": (
        (
            norm("n", "x"),
            *(linear(name, "n") for name in "qkv"),
            KEYS,
            binary("a", "matmul", "q", "kt", SCORES),
            SOFTMAX,
            binary("o", "matmul", "s", "v", VALUES),
            linear("proj", "o"),
            binary("r", "add", "x", "proj"),
            norm("m", "r"),
            linear("fc1", "m"),
            unary("g", "gelu", "fc1"),
            linear("fc2", "g"),
            binary("out", "add", "r", "fc2"),
        ),
        {
            "x": "residual",
            "n": "linear",
            **dict.fromkeys("qkv", "attention"),
            "a": "scores",
            "s": "probabilities",
            "o": "linear",
            "proj": "branch",
            "r": "residual",
            "m": "linear",
            "fc1": "function",
            "g": "hidden",
            "fc2": "branch",
            "out": "residual",
        },
    ),
    "a normalisation into both a layer and an addition": (
        (norm("n", "x"), linear("fc", "n"), binary("r", "add", "n", "fc")),
        {"x": "residual", "n": "residual", "fc": "branch", "r": "residual"},
    ),
    "SiLU: the operand of both, and the product": (
        (linear("c", "x"), unary("s", "sigmoid", "c"), binary("y", "mul", "c", "s"), linear("z", "y")),
        {"x": "pixels", "c": "function", "s": "function", "y": "hidden"},
    ),
    "scaled scores": (
        (
            linear("q", "x"),
            linear("k", "x"),
            KEYS,
            binary("t", "matmul", "q", "kt", SCORES),
            "%c = qvit.constant dense<0.25> : tensor<f32>",
            binary("a", "mul", "t", "c", "(tensor<4x4xf32>, tensor<f32>) -> tensor<4x4xf32>"),
            SOFTMAX,
        ),
        {"x": "pixels", "q": "attention", "k": "attention", "a": "scores", "s": "residual"},
    ),
    "attention that is an output: its sums are still to be divided": (
        (
            linear("q", "x"),
            linear("k", "x"),
            KEYS,
            binary("a", "matmul", "q", "kt", SCORES),
            SOFTMAX,
            binary("o", "matmul", "s", "k", VALUES),
        ),
        {"x": "pixels", "q": "attention", "k": "attention", "a": "scores", "s": "probabilities", "o": "residual"},
    ),
    "a bias that is added joins the product": (
        (linear("y", "x", False), binary("z", "add", "y", "b", f"({T}, {B}) -> {T}"), unary("u", "tanh", "z")),
        {"x": "pixels", "y": "branch", "z": "function", "u": "residual"},
    ),
    "a table of positions": (
        (linear("y", "x"), binary("z", "add", "y", "p"), norm("n", "z")),
        {"x": "pixels", "y": "branch", "qvit.constant": "residual", "z": "residual", "n": "residual"},
    ),
    "an average": (
        (norm("n", "x"), '%m = qvit.reduce_mean %n {axes = array<i64: 0>, keepdims = true, qvit.src = ["m"]}'
            " : tensor<4x8xf32> -> tensor<1x8xf32>"),
        {"x": "residual", "n": "residual", "m": "residual"},
    ),
    "a class": (
        (linear("y", "x"), f"%c = qvit.argmax %y {{axis = 1 : i64, keepdims = false}} : {T} -> tensor<4xi64>"),
        {"x": "pixels", "y": "residual"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "expected"), CASES.values(), ids=CASES.keys())
def test_roles(lines: tuple[str, ...], expected: dict[str, str]) -> None:
    assert roles(*lines) == expected


def test_moves_share_a_scale() -> None:
    """A token that is put in front, slices that swap places, a reshape: one site; its users take codes through them."""
    lines = (
        *PARAMETERS,
        "%c = qvit.constant dense<1.5> : tensor<1x8xf32>",
        linear("y", "x"),
        "%t = qvit.concat %c, %y axis 0 : (tensor<1x8xf32>, tensor<4x8xf32>) -> tensor<5x8xf32>",
        "%u = qvit.slice %t axis 0 start 0 size 2 step 1 : tensor<5x8xf32> -> tensor<2x8xf32>",
        "%v = qvit.slice %t axis 0 start 2 size 3 step 1 : tensor<5x8xf32> -> tensor<3x8xf32>",
        "%r = qvit.concat %v, %u axis 0 : (tensor<3x8xf32>, tensor<2x8xf32>) -> tensor<5x8xf32>",
        "%n = qvit.layer_norm %r, %b, %b axis 1 epsilon 1.0e-6 : (tensor<5x8xf32>, tensor<8xf32>, tensor<8xf32>) -> tensor<5x8xf32>",
        "%z = qvit.linear %v, %w : (tensor<3x8xf32>, tensor<8x8xf32>) -> tensor<3x8xf32>",
    )
    function = find_function(ir_text.parse(ir_text.function(lines, {"%x": T})))
    (pixels, site) = find_sites(function)
    assert role(pixels) is Role.PIXELS
    assert len(site.values) == 6
    assert [len(site.producers), len(site.constants)] == [1, 1]
    assert {use_role(site, use) for use in site.uses} == {Role.RESIDUAL, Role.LINEAR}
    assert role(site) is Role.RESIDUAL
    assert producers(function) == [function.args[0], site.producers[0]]


def test_tables_that_are_gathered_have_codes() -> None:
    lines = (
        "%t = qvit.constant dense<0.5> : tensor<9x8xf32>",
        "%e = qvit.gather %t, %i axis 0 : (tensor<9x8xf32>, tensor<4xi64>) -> tensor<4x8xf32>",
        "%b = qvit.constant dense<0.5> : tensor<8xf32>",
        norm("n", "e"),
    )
    (table, normed) = find_sites(find_function(ir_text.parse(ir_text.function(lines, {"%i": "tensor<4xi64>"}))))
    assert (len(table.constants), len(table.producers)) == (1, 0)
    assert role(table) is role(normed) is Role.RESIDUAL


def test_codes_that_are_there_stay() -> None:
    lines = (
        *PARAMETERS,
        "%x = qvit.dequantize %q <0.5> : tensor<4x8xi8> -> tensor<4x8xf32>",
        linear("y", "x"),
    )
    assert find_sites(find_function(ir_text.parse(ir_text.function(lines, {"%q": "tensor<4x8xi8>"})))) == []
