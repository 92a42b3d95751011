"""What the fast kernels take together and what they leave alone; the integers are those of the interpreter either way."""

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import ir_text
import numpy as np
import pytest
from c_programs import CHOOSING, WARNINGS, compile_c, equal, run_files
from kernel_library import VARIANTS, Array, library
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Region, SSAValue

from qvit.backends.c import Loaded, emit, load
from qvit.backends.c.fuse import HEADERS, attention_scratch, linear_scratch, packed_scratch
from qvit.backends.c.program import program_of
from qvit.backends.c.weights import ByteOrder
from qvit.backends.interpreter import find_function, input_names, run
from qvit.dialects.approximations import Ln, Quad, Sm8Late
from qvit.dialects.approximations.base import Codes, FunctionSpec, LayerNormSpec, SoftmaxSpec
from qvit.dialects.functions import MAIN
from qvit.dialects.semantics.integers import IntType
from qvit.dialects.types import integer_of, shape_of

RNG = np.random.default_rng(11)


def constant(name: str, values: Any, element: str) -> str:
    values = np.asarray(values)
    shape = "x".join((*map(str, values.shape), element))
    return f"%{name} = qvit.constant dense<{values.tolist()}> : tensor<{shape}>\n"


def module(arguments: str, body: str, result: str, kind: str) -> ModuleOp:
    """@main; its result is a value of the body."""
    return ir_text.parse(
        f"func.func @main({arguments}) -> {kind} attributes {{qvit.integer_only}} {{\n{body}func.return {result} : {kind}\n}}"
    )


def steps(program: ModuleOp) -> list[str]:
    """The operations of each fast step, and `-` for others."""
    return [
        " ".join(op.name.removeprefix("qvit.") for op in step.ops) if step.headers == HEADERS else "-"
        for step in program_of(program).steps
    ]


def inputs(program: ModuleOp) -> list[Array]:
    arrays: list[Array] = []
    for argument in find_function(program, MAIN).args:
        held = integer_of(argument)
        assert held is not None
        array = RNG.integers(held.lo, held.hi + 1, shape_of(argument)).astype(held.dtype)
        array.flat[0], array.flat[-1] = held.lo, held.hi
        arrays.append(array)
    return arrays


def require_same(program: ModuleOp, variants: Sequence[str] = VARIANTS[-1:]) -> None:
    """With one thread and three; without optimisation, for here compiling takes longest: test_kernels.py has every variant
    optimised."""
    sources, flags = emit(program), ("-O0", "-DQVIT_THREADS=3", "-pthread")
    loaded = [Loaded(sources, (*flags, f'-DQVIT_VARIANT="{v}"'), threads=n) for v in variants for n in (1, 3)]
    for _ in range(2):
        arrays = inputs(program)
        expected = run(
            program, dict(zip(input_names(find_function(program, MAIN)), arrays, strict=True)), function=MAIN
        )
        for call in loaded:
            for found, wanted in zip(call(*arrays), expected.values(), strict=True):
                assert (found == wanted).all()


N, K = 21, 13
WEIGHT = RNG.integers(-128, 128, (N, K))
CHANNELS = f"#qvit.dyadic<{RNG.integers(1 << 30, 1 << 31, N).tolist()}, {RNG.integers(30, 41, N).tolist()}>"
ONE = "#qvit.dyadic<1518500250, 39>"


def layer(
    *,
    held: str = "ui8",
    zero: str = " input_zero_point <119>",
    bias: Any = None,
    form: str = CHANNELS,
    before: str = "",
    after: str = " zero_point <3>",
    axis: str = " axis 1",
    rounding: str = "half_up",
    result: str = "i8",
    more: str = "",
) -> ModuleOp:
    bias = RNG.integers(-9999, 9999, N) if bias is None else bias
    body = constant("w", WEIGHT, "i8") + constant("b", bias, "i32")
    body += f"%0 = qvit.linear %x, %w, %b{zero} : (tensor<5x{K}x{held}>, tensor<{N}x{K}xi8>, tensor<{N}xi32>) -> tensor<5x{N}xi32>\n"
    body += f"%1 = qvit.requantize %0 by {form}{before}{after}{axis} rounding {rounding}"
    body += f" : tensor<5x{N}xi32> -> tensor<5x{N}x{result}>\n{more}"
    return module(f"%x : tensor<5x{K}x{held}>", body, "%1", f"tensor<5x{N}x{result}>")


LAYERS: list[dict[str, Any]] = [
    {},
    {"held": "i8", "zero": " input_zero_point <-5>"},
    {"held": "ui4", "zero": ""},
    {"result": "ui8"},
    {"result": "i16", "after": " zero_point <-300>"},
    {"result": "i4"},
    {"result": "i32", "after": ""},
    {"form": ONE, "axis": "", "before": " input_zero_point <77>"},
    {"form": "#qvit.pot<9>", "axis": ""},
    {"form": "#qvit.pot<-2>", "axis": "", "result": "i16"},
]


@pytest.mark.parametrize("options", LAYERS, ids=str)
def test_linear_and_requantize_are_one_step(options: dict[str, Any]) -> None:
    program = layer(**options)
    assert steps(program) == ["linear requantize"]
    require_same(program)


@pytest.mark.parametrize(
    "options",
    [{"rounding": "half_even"}, {"result": "ui16"}, {"form": "#qvit.pot<-31>", "axis": ""}],
    ids=str,
)
def test_what_kernels_do_not_take_stays_apart(options: dict[str, Any]) -> None:
    program = layer(**options)
    assert steps(program) == ["linear", "-"]
    require_same(program)


def test_sums_that_could_overflow_stay_apart() -> None:
    assert steps(layer(bias=[(1 << 31) - 99999] * N)) == ["-", "-"]


def test_sums_that_others_use_are_kept() -> None:
    more = f"%2 = qvit.requantize %0 by {ONE} rounding half_up : tensor<5x{N}xi32> -> tensor<5x{N}xi8>\n"
    program = layer(more=more)
    assert steps(program) == ["linear", "-", "-"]
    require_same(program)


def narrow(kind: str, outputs: int, depth: int) -> ModuleOp:
    """A layer with weights of fewer than 8 bits."""
    bits, low = int(kind.lstrip("ui")), 0 if kind.startswith("u") else -(1 << int(kind[1:]) - 1)
    wide = f"tensor<7x{outputs}x"
    body = constant("w", RNG.integers(low, low + (1 << bits), (outputs, depth)), kind)
    body += (
        f"%0 = qvit.linear %x, %w input_zero_point <119> : (tensor<7x{depth}xui8>, tensor<{outputs}x{depth}x{kind}>)"
    )
    body += f" -> {wide}i32>\n%1 = qvit.requantize %0 by {ONE} rounding half_up : {wide}i32> -> {wide}i16>\n"
    return module(f"%x : tensor<7x{depth}xui8>", body, "%1", f"{wide}i16>")


@pytest.mark.parametrize("kind", ["i4", "i3", "i2", "ui4", "ui3", "ui2", "ui1", "i7"])
@pytest.mark.parametrize(("outputs", "depth"), [pytest.param(64, 48, marks=pytest.mark.slow), (37, 61)])
def test_weights_of_fewer_bits_are_packed(kind: str, outputs: int, depth: int) -> None:
    """The file has their bits, of panels padded to 16 columns and steps of 4, behind a header and beside biases."""
    program = narrow(kind, outputs, depth)
    assert steps(program) == ["linear requantize"]
    bits, columns = int(kind.lstrip("ui")), -(-outputs // 16) * 16
    panels, vectors = columns * -(-depth // 4) * 4 * bits // 8, 3 * -(-4 * columns // 64) * 64
    assert len(emit(program).weights) == 64 + -(-panels // 64) * 64 + vectors
    require_same(program, VARIANTS)


def function(approximation: Quad, tables: Sequence[Array], source: str, result: str, name: str) -> str:
    """Its constants and the operation."""
    text = "".join(constant(f"t{i}", table, "i16") for i, table in enumerate(tables))
    fields = ", ".join(f"{key} = {value}" for key, value in approximation.parameters.items())
    types = ", ".join(f"tensor<{len(table)}xi16>" for table in tables)
    return (
        f"{text}%{name} = qvit.int_function %{source} tables(%t0, %t1, %t2 : {types})"
        f" by #qvit.quad<{fields}> : (tensor<5x{N}xi16>) -> tensor<5x{N}x{result}>\n"
    )


def quad(kind: str, result: str, behind: bool) -> ModuleOp:
    """A function of 16-bit codes, alone or behind a layer."""
    held = {"ui8": IntType(8, False), "i8": IntType(8), "i16": IntType(16)}[result]
    spec = FunctionSpec(
        kind, Codes(Fraction(1, 4096), 0, IntType(16)), Codes(Fraction(1, 40), 5 if held.bits == 8 else 0, held)
    )
    built = Quad.build(spec)
    approximation = built.approximation
    assert isinstance(approximation, Quad)
    tables = [table for table, _ in built.tables]
    arguments = f"%x : tensor<5x{K}xui8>" if behind else f"%1 : tensor<5x{N}xi16>"
    before = linear_text("i16") if behind else ""
    return module(
        arguments, before + function(approximation, tables, "1", result, "2"), "%2", f"tensor<5x{N}x{result}>"
    )


@pytest.mark.parametrize(("kind", "result"), [("gelu", "ui8"), ("tanh", "i8"), ("silu", "i16")])
def test_quad_behind_a_layer_and_alone(kind: str, result: str) -> None:
    for behind, expected in ((False, ["int_function"]), (True, ["linear requantize int_function"])):
        program = quad(kind, result, behind)
        assert steps(program) == expected
        require_same(program)


def linear_text(result: str) -> str:
    return (
        constant("w", WEIGHT, "i8")
        + f"%0 = qvit.linear %x, %w input_zero_point <100> : (tensor<5x{K}xui8>, tensor<{N}x{K}xi8>) -> tensor<5x{N}xi32>\n"
        + f"%1 = qvit.requantize %0 by #qvit.dyadic<1518500250, 33> rounding half_up : tensor<5x{N}xi32> -> tensor<5x{N}x{result}>\n"
    )


def table(held: str, codes: tuple[int, int], zero: int, result: str, behind: bool) -> ModuleOp:
    """A table of codes, alone or behind a layer."""
    length = codes[1] - codes[0] + 1
    values = RNG.integers(0, 256, length) if result == "ui8" else RNG.integers(-128, 128, length)
    less = f" input_zero_point <{zero}>" if zero else ""
    text = constant("t", values, result)
    text += f"%2 = qvit.int_function %1 tables(%t : tensor<{length}x{result}>){less}"
    text += f" by #qvit.table<lowest = {codes[0] - zero}> : (tensor<5x{N}x{held}>) -> tensor<5x{N}x{result}>\n"
    arguments = f"%x : tensor<5x{K}xui8>" if behind else f"%1 : tensor<5x{N}x{held}>"
    before = linear_text(held) if behind else ""
    return module(arguments, before + text, "%2", f"tensor<5x{N}x{result}>")


@pytest.mark.parametrize(
    ("held", "codes", "zero", "result"),
    [("i8", (-128, 127), 0, "ui8"), ("ui8", (0, 255), 7, "i8"), ("i4", (-8, 7), 3, "i8"), ("ui8", (0, 255), 0, "ui8")],
)
def test_table_behind_a_layer_and_alone(held: str, codes: tuple[int, int], zero: int, result: str) -> None:
    for behind, ops in ((False, "int_function"), (True, "linear requantize int_function")):
        program = table(held, codes, zero, result, behind)
        assert steps(program) == [ops]
        require_same(program)


def layer_norm(result: str) -> ModuleOp:
    held = {"ui8": IntType(8, False), "i8": IntType(8), "i16": IntType(16)}[result]
    codes = Codes(Fraction(1, 1000), 0, IntType(16))
    scale = Fraction(1, 32 if held.bits == 8 else 4000)
    built = Ln.build(LayerNormSpec(RNG.normal(0, 1, N), RNG.normal(0, 1, N), 1e-6, codes, Codes(scale, 3, held)))
    fields = ", ".join(f"{key} = {value}" for key, value in built.approximation.parameters.items())
    body = "".join(constant(f"t{i}", table, "i32") for i, (table, _) in enumerate(built.tables))
    body += f"%y = qvit.int_layer_norm %x tables(%t0, %t1 : tensor<{N}xi32>, tensor<{N}xi32>) by #qvit.ln<{fields}>"
    body += f" : (tensor<2x5x{N}xi16>) -> tensor<2x5x{N}x{result}>\n"
    return module(f"%x : tensor<2x5x{N}xi16>", body, "%y", f"tensor<2x5x{N}x{result}>")


@pytest.mark.parametrize("result", ["ui8", "i8", "i16"])
def test_layer_norm(result: str) -> None:
    program = layer_norm(result)
    assert steps(program) == ["int_layer_norm"]
    require_same(program)


def test_layer_norms_that_derive_from_ln_stay_apart() -> None:
    tables = "".join(constant(f"t{i}", RNG.integers(-(1 << 20), 1 << 20, N), "i32") for i in range(2))
    body = f"{tables}%y = qvit.int_layer_norm %x tables(%t0, %t1 : tensor<{N}xi32>, tensor<{N}xi32>)"
    body += f" by #qvit.ibert_layernorm<guard = 16, epsilon = 4> : (tensor<5x{N}xi16>) -> tensor<5x{N}xi8>\n"
    program = module(f"%x : tensor<5x{N}xi16>", body, "%y", f"tensor<5x{N}xi8>")
    assert steps(program) == ["-"]
    require_same(program)


def residual(
    forms: tuple[str, str], options: str = "", kinds: tuple[str, str, str] = ("i16", "i16", "i16")
) -> ModuleOp:
    a, b, y = (f"tensor<5x{N}x{kind}>" for kind in kinds)
    body = f"%y = qvit.add_requant %a by {forms[0]}, %b by {forms[1]}{options} : ({a}, {b}) -> {y}\n"
    return module(f"%a : {a}, %b : {b}", body, "%y", y)


EQUAL = ("#qvit.dyadic<1498102421, 31>", "#qvit.dyadic<1318926238, 31>")


@pytest.mark.parametrize(
    ("forms", "expected"),
    [
        (EQUAL, True),
        (("#qvit.dyadic<1000, 20>", "#qvit.dyadic<1318926238, 31>"), True),
        (("#qvit.dyadic<2147483647, 30>", EQUAL[0]), False),
    ],
)
def test_residual_add(forms: tuple[str, str], expected: bool) -> None:
    """The smaller shift is made up for by a larger multiplier, where that has 31 bits."""
    program = residual(forms, " rounding half_up")
    assert steps(program) == (["add_requant"] if expected else ["-"])
    require_same(program)


@pytest.mark.parametrize("options", ["", " rounding half_up round_each"])
def test_residual_adds_that_round_otherwise(options: str) -> None:
    program = residual(EQUAL, options)
    assert steps(program) == ["-"]
    require_same(program)
    assert steps(residual(EQUAL, " rounding half_up", ("i16", "i8", "i16"))) == ["-"]


def convolution(held: str = "ui8", zero: int = 114, padding: str = "", result: str = "i16") -> ModuleOp:
    shape = "2x5x4x3" if padding else "2x5x3x2"
    weight = constant("w", RNG.integers(-128, 128, (5, 3, 2, 3)), "i8")
    geometry = "{strides = array<i64: 2, 3>" + (f", padding = array<i64: {padding}>" if padding else "") + "}"
    body = (
        weight
        + f"%0 = qvit.conv2d %x, %w input_zero_point <{zero}> {geometry} : (tensor<2x3x6x7x{held}>, tensor<5x3x2x3xi8>)"
    )
    body += f" -> tensor<{shape}xi32>\n"
    body += f"%1 = qvit.requantize %0 by {ONE} rounding half_up : tensor<{shape}xi32> -> tensor<{shape}x{result}>\n"
    return module(f"%x : tensor<2x3x6x7x{held}>", body, "%1", f"tensor<{shape}x{result}>")


@pytest.mark.parametrize(("held", "zero"), [("ui8", 114), ("i8", -3)])
@pytest.mark.parametrize("padding", ["", "1, 2, 1, 1"])
def test_convolution(held: str, zero: int, padding: str) -> None:
    program = convolution(held, zero, padding)
    assert steps(program) == ["conv2d requantize"]
    require_same(program)


def narrow_convolution(kind: str) -> ModuleOp:
    bits, low = int(kind.lstrip("ui")), 0 if kind.startswith("u") else -(1 << int(kind[1:]) - 1)
    body = constant("w", RNG.integers(low, low + (1 << bits), (35, 3, 5, 2)), kind)
    body += "%0 = qvit.conv2d %x, %w input_zero_point <9> {strides = array<i64: 2, 2>} : (tensor<2x3x9x6xui8>,"
    body += f" tensor<35x3x5x2x{kind}>) -> tensor<2x35x3x3xi32>\n"
    body += f"%1 = qvit.requantize %0 by {ONE} rounding half_up : tensor<2x35x3x3xi32> -> tensor<2x35x3x3xi16>\n"
    return module("%x : tensor<2x3x9x6xui8>", body, "%1", "tensor<2x35x3x3xi16>")


@pytest.mark.parametrize(("kind", "bits"), [("i4", 4), ("ui2", 2)])
def test_convolution_with_weights_of_fewer_bits(kind: str, bits: int) -> None:
    program = narrow_convolution(kind)
    assert steps(program) == ["conv2d requantize"]
    assert len(emit(program).weights) == 64 + 48 * 32 * bits // 8 + 3 * 192
    require_same(program, VARIANTS)


def test_convolutions_with_other_results_stay_apart() -> None:
    assert steps(convolution(result="i8")) == ["-", "-"]


BATCH, HEADS, TOKENS, DEPTH = 2, 3, 7, 5


def attention(*, turned: bool = True, exporter: str = "transpose", scores: str = "i16", zero: str = "") -> ModuleOp:
    """exporter: how heads are cut: by a transpose; by one of five dimensions, and another one for keys; not at all."""
    apart, together = f"{BATCH}x{HEADS}x{TOKENS}x{DEPTH}", f"{BATCH}x{TOKENS}x{HEADS}x{DEPTH}"
    keys, square = f"{BATCH}x{HEADS}x{DEPTH}x{TOKENS}", f"{BATCH}x{HEADS}x{TOKENS}x{TOKENS}"
    rows = f"{BATCH}x{HEADS}x{TOKENS}x1"
    flat = apart if exporter == "none" else f"{BATCH}x{TOKENS}x{HEADS * DEPTH}"
    e = Sm8Late.build(
        SoftmaxSpec(Codes(Fraction(1, 16), 0, IntType(16)), Codes(Fraction(1, 255), 0, IntType(8, False)))
    ).tables[0][0]
    body = constant("e", e, "ui16")
    for name in "qkv":
        match exporter:
            case "transpose":
                body += f"%{name}1 = qvit.reshape %{name} : tensor<{flat}xi8> -> tensor<{together}xi8>\n"
                body += (
                    f"%{name}2 = qvit.transpose %{name}1 [0, 2, 1, 3] : tensor<{together}xi8> -> tensor<{apart}xi8>\n"
                )
            case "five":
                five, moved = f"{BATCH}x{TOKENS}x1x{HEADS}x{DEPTH}", f"1x{BATCH}x{HEADS}x{TOKENS}x{DEPTH}"
                body += f"%{name}1 = qvit.reshape %{name} : tensor<{flat}xi8> -> tensor<{five}xi8>\n"
                body += (
                    f"%{name}5 = qvit.transpose %{name}1 [2, 0, 3, 1, 4] : tensor<{five}xi8> -> tensor<{moved}xi8>\n"
                )
                body += f"%{name}2 = qvit.reshape %{name}5 : tensor<{moved}xi8> -> tensor<{apart}xi8>\n"
            case _:
                body += f"%{name}2 = qvit.reshape %{name} : tensor<{flat}xi8> -> tensor<{apart}xi8>\n"
    body += f"""\
%k3 = qvit.transpose %k2 [0, 1, 3, 2] : tensor<{apart}xi8> -> tensor<{keys}xi8>
%0 = qvit.matmul %q2, %k3{zero} : (tensor<{apart}xi8>, tensor<{keys}xi8>) -> tensor<{square}xi32>
%1 = qvit.requantize %0 by #qvit.dyadic<1269676543, 37> rounding half_up : tensor<{square}xi32> -> tensor<{square}x{scores}>
%p, %z = qvit.int_softmax %1 tables(%e : tensor<256xui16>) by #qvit.sm8_late
    : (tensor<{square}x{scores}>) -> (tensor<{square}xui8>, tensor<{rows}xi32>)
%2 = qvit.matmul %p, %v2 : (tensor<{square}xui8>, tensor<{apart}xi8>) -> tensor<{apart}xi32>
%3 = qvit.requantize %2 by #qvit.dyadic<1302929007, 30> divided_by %z zero_point <141> rounding half_up
    : (tensor<{apart}xi32>, tensor<{rows}xi32>) -> tensor<{apart}xui8>
"""
    if turned:
        body += f"%4 = qvit.transpose %3 [0, 2, 1, 3] : tensor<{apart}xui8> -> tensor<{together}xui8>\n"
    arguments = ", ".join(f"%{name} : tensor<{flat}xi8>" for name in "qkv")
    result = ("%4", together) if turned else ("%3", apart)
    return module(arguments, body, result[0], f"tensor<{result[1]}xui8>")


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("exporter", ["transpose", "five", "none"])
@pytest.mark.parametrize("scores", ["i16", "i8"])
def test_attention_is_one_step(turned: bool, exporter: str, scores: str) -> None:
    program = attention(turned=turned, exporter=exporter, scores=scores)
    (found,) = steps(program)
    assert "matmul requantize int_softmax matmul requantize" in found
    require_same(program)


def test_attention_with_zero_points_stays_apart() -> None:
    program = attention(zero=" lhs_zero_point <3>")
    assert not any("int_softmax" in step for step in steps(program))
    require_same(program)


def test_scratch_is_what_the_kernels_need() -> None:
    kernels = library()
    for k in (1, 3, 4, 63, 64, 197, 768, 3072):
        assert linear_scratch(k) == kernels.linear_scratch(k)
        assert packed_scratch(k) == kernels.packed_scratch(k)
        for depth, width in ((1, 1), (30, 33), (64, 64), (80, 70)):
            assert attention_scratch(k, depth, width) >= kernels.attention_scratch(k, depth, width)


def test_a_variant_that_the_processor_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="QVIT_VARIANT"):
        load(layer(), variant="mmx")


# --- all of them as one program ---


def merged(modules: Sequence[ModuleOp]) -> ModuleOp:
    """One @main with the arguments and the results of all, one after another."""
    functions = [find_function(module, MAIN).clone() for module in modules]
    block = Block(arg_types=[type_ for function in functions for type_ in function.function_type.inputs])
    arguments = iter(block.args)
    returned: list[SSAValue] = []
    for function in functions:
        for argument in function.args:
            argument.replace_all_uses_with(next(arguments))
        for op in list(function.body.block.ops):
            op.detach()
            if isinstance(op, ReturnOp):
                returned += op.operands
                op.drop_all_references()
            else:
                block.add_op(op)
    block.add_op(ReturnOp(*returned))
    types = ([value.type for value in block.args], [value.type for value in returned])
    return ModuleOp([FuncOp(MAIN, types, Region(block))])


@cache
def everything() -> ModuleOp:
    """All that fuses, in every form that this file has."""
    return merged(
        [
            *(layer(**options) for options in LAYERS),
            *(narrow(kind, 37, 61) for kind in ("i4", "ui3", "i2", "ui1", "i7")),
            *(quad("gelu", result, behind) for result in ("ui8", "i16") for behind in (False, True)),
            *(table("i4", (-8, 7), 3, "i8", behind) for behind in (False, True)),
            *(layer_norm(result) for result in ("ui8", "i8", "i16")),
            residual(EQUAL, " rounding half_up"),
            *(convolution(*options) for options in (("ui8", 114, ""), ("i8", -3, "1, 2, 1, 1"))),
            narrow_convolution("i4"),
            *(attention(exporter=exporter) for exporter in ("transpose", "five")),
            attention(turned=False, scores="i8"),
        ]
    )


def test_everything_is_fused() -> None:
    assert "-" not in steps(everything())


EMULATED: dict[str, tuple[str, tuple[str, ...], ByteOrder, tuple[str, ...]]] = {
    "aarch64": ("aarch64-linux-gnu-gcc", ("qemu-aarch64", "-cpu", "max"), "little", ("portable", "neon")),
    "s390x": ("s390x-linux-gnu-gcc", ("qemu-s390x",), "big", ("portable",)),
}
SANITIZED = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
BUILDS = {
    f"{cc} {' '.join(flags)}": (cc, flags) for cc in ("gcc", "clang") for flags in (("-O0",), ("-O3",), SANITIZED)
}


def require_everywhere(
    command: Sequence[str], prefix: Sequence[str], order: ByteOrder, variants: Sequence[str], folder: Path
) -> None:
    """The interpreter's integers, by a program that is built once and takes each variant in turn."""
    program = everything()
    sources, arrays = emit(program, order), inputs(program)
    expected = list(
        run(program, dict(zip(input_names(find_function(program, MAIN)), arrays, strict=True)), function=MAIN).values()
    )
    sources.write(folder)
    compile_c([*command, "-std=c11", *WARNINGS, *CHOOSING, "-o", "main", "model.c", "main.c"], folder)
    for variant in variants:
        equal(run_files(sources, [*prefix, "./main"], folder, arrays, variant=variant, order=order), expected)


@pytest.mark.slow
@pytest.mark.parametrize("build", BUILDS)
def test_every_build(build: str, tmp_path: Path) -> None:
    compiler, flags = BUILDS[build]
    require_everywhere([compiler, *flags], (), "little", VARIANTS, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("flags", ["-O0", "-O3"])
@pytest.mark.parametrize("machine", EMULATED)
def test_other_machines(machine: str, flags: str, tmp_path: Path) -> None:
    compiler, emulator, order, variants = EMULATED[machine]
    require_everywhere([compiler, flags, "-static"], emulator, order, variants, tmp_path)
