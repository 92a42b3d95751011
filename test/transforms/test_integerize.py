"""Every rule of --integerize by itself: the values it keeps, the names it carries, and why it declines; and the ends.

Rules that are real-exact are compared over the rational numbers, with equality. Those that approximate are compared with
the real function, within the bound that the approximation states.
"""

from collections.abc import Callable
from dataclasses import dataclass

import ir_text
import numpy as np
import pytest
from numpy.typing import NDArray
from random_graphs import rational_run
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation
from xdsl.pattern_rewriter import GreedyRewritePatternApplier, PatternRewriteWalker

from qvit.backends.interpreter import find_function, input_names, run, run_model
from qvit.dialects.ops.approximated import IntSoftmaxOp
from qvit.dialects.provenance import sources
from qvit.dialects.semantics import nonlinear
from qvit.dialects.types import integer_of, shape_of
from qvit.dialects.weights import Weights
from qvit.transforms.integer.rules import Asked, IntegerSession
from qvit.transforms.integerize import RULES, IntegerizePass, integerize
from qvit.transforms.lower_requant import LowerRequantPass
from qvit.transforms.rule import Exactness

Array = NDArray[np.generic]
BY_NAME = {rule.name: rule for rule in RULES}


@dataclass(frozen=True)
class Case:
    """A function of %q (and %r) whose last operation is what the rule replaces."""

    rule: str
    lines: tuple[str, ...]
    arguments: str = "%q: tensor<3x4xi4>"
    names: str = "dq op root"
    round_each: bool = False

    @property
    def text(self) -> str:
        type_ = ir_text.result_type(self.lines[-1])
        body = "\n".join(self.lines)
        return f"func.func @main({self.arguments}) -> {type_} {{\n{body}\nfunc.return %z : {type_}\n}}"


def tensor(shape: str, element: str) -> str:
    return f"tensor<{shape}x{element}>" if shape else f"tensor<{element}>"


def dq(name: str, of: str, params: str, shape: str = "3x4", codes: str = "i4", src: str = "dq") -> str:
    return (
        f'{name} = qvit.dequantize {of} <{params}> {{qvit.src = ["{src}"]}} : {tensor(shape, codes)}'
        f" -> {tensor(shape, 'f32')}"
    )


def q(params: str, shape: str = "3x4", codes: str = "i4", rounding: str = "", of: str = "%y") -> str:
    return (
        f'%z = qvit.quantize {of} <{params}>{rounding} {{qvit.src = ["root"]}} : {tensor(shape, "f32")}'
        f" -> {tensor(shape, codes)}"
    )


def op(text: str) -> str:
    return "%y = " + text.replace(" : ", ' {qvit.src = ["op"]} : ', 1)


TWO = "%q: tensor<3x4xi4>, %r: tensor<3x4xi4>"
SAME = "(tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>"
A, B = dq("%a", "%q", "0.1 / 0.7, zero_point = 3"), dq("%b", "%r", "0.3, zero_point = -2", src="dr")
A_ROWS = dq("%a", "%q", "[0.1, 0.3, 0.7] / 0.9, axis = 0")
B_ROWS = dq("%b", "%r", "0.7 * [0.3, 0.1, 0.9], axis = 0", src="dr")
MEAN = 'qvit.reduce_mean %a {axes = array<i64: 1>, keepdims = true, qvit.src = ["op"]} : tensor<3x4xf32> -> tensor<3x1xf32>'
ROUNDINGS = ("", " rounding half_up", " rounding half_away", " rounding floor")

EXACT = [
    *(
        Case(
            "add",
            (A, B, op(f"qvit.{kind} %a, %b : {SAME}"), q("0.05, zero_point = 1", codes=codes, rounding=mode)),
            TWO,
            "dq dr op root",
        )
        for kind, codes in (("add", "i8"), ("sub", "ui4"))
        for mode in ROUNDINGS
    ),
    Case("add", (A_ROWS, B, op(f"qvit.add %a, %b : {SAME}"), q("0.3")), TWO, "dq dr op root"),
    Case("add", (A_ROWS, B_ROWS, op(f"qvit.sub %a, %b : {SAME}"), q("0.3")), TWO, "dq dr op root"),
    Case("add", (A, B, op(f"qvit.add %a, %b : {SAME}"), q("0.05", codes="i8")), TWO, "dq dr op root", round_each=True),
    Case(
        "add",
        (
            A,
            dq("%b", "%r", "[0.1, 0.3, 0.7, 0.9], axis = 0", "4", src="dr"),
            op("qvit.add %a, %b : (tensor<3x4xf32>, tensor<4xf32>) -> tensor<3x4xf32>"),
            q("0.1", codes="i6"),
        ),
        "%q: tensor<3x4xi4>, %r: tensor<4xi4>",
        "dq dr op root",
    ),
    *(
        Case(
            "mul",
            (A, B, op(f"qvit.mul %a, %b : {SAME}"), q("0.07, zero_point = 2", rounding=mode)),
            TWO,
            "dq dr op root",
        )
        for mode in ROUNDINGS
    ),
    Case("mul", (A, op(f"qvit.mul %a, %a : {SAME}"), q("0.07", codes="ui4"))),
    *(Case("mean", (A, "%y = " + MEAN, q("0.07, zero_point = 2", "3x1", rounding=mode))) for mode in ROUNDINGS),
    Case(
        "mean",
        (
            A,
            "%y = "
            + MEAN.replace("i64: 1>, keepdims = true", "i64: 0, 1>, keepdims = false").replace("3x1xf32", "f32"),
            q("0.3", ""),
        ),
    ),
    *(
        Case("relu", (A, op("qvit.relu %a : tensor<3x4xf32>"), q(f"0.11, zero_point = {zero}", codes=codes)))
        for zero, codes in ((0, "ui4"), (-3, "i4"), (15, "ui4"))
    ),
    Case("relu", (A_ROWS, op("qvit.relu %a : tensor<3x4xf32>"), q("0.11"))),
    *(
        Case(
            "clip",
            (A, f'%y = qvit.clip %a {{{bounds}, qvit.src = ["op"]}} : tensor<3x4xf32>', q("0.11, zero_point = 1")),
        )
        for bounds in ("low = -0.5 : f64", "high = 0.3 : f64", "low = -0.3 : f64, high = 0.4 : f64", "low = 9.0 : f64")
    ),
    *(
        Case(
            "argmax",
            (
                dq("%a", "%q", "0.1 / 0.7, zero_point = 3"),
                f'%z = qvit.argmax %a {{axis = {axis} : i64, keepdims = {keeps}, qvit.src = ["root"]}}'
                f" : tensor<3x4xf32> -> tensor<{shape}xi64>",
            ),
            names="dq root",
        )
        for axis, keeps, shape in ((0, "true", "1x4"), (1, "false", "3"))
    ),
    *(
        Case(
            "quantize-of-move",
            (
                A,
                op("qvit.relu %a : tensor<3x4xf32>"),
                f'%m = qvit.{move} {{qvit.src = ["move"]}} : {types}',
                q("0.11", shape, of="%m"),
            ),
            names="move root",
        )
        for move, types, shape in (
            ("reshape %y", "tensor<3x4xf32> -> tensor<2x6xf32>", "2x6"),
            ("transpose %y [1, 0]", "tensor<3x4xf32> -> tensor<4x3xf32>", "4x3"),
            ("slice %y axis 1 start 3 size 2 step -2", "tensor<3x4xf32> -> tensor<3x2xf32>", "3x2"),
            ("broadcast %y", "tensor<3x4xf32> -> tensor<2x3x4xf32>", "2x3x4"),
            ("concat %y, %a axis 0", "(tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<6x4xf32>", "6x4"),
        )
    ),
]
each_exact = pytest.mark.parametrize("case", EXACT, ids=[f"{c.rule}-{i}" for i, c in enumerate(EXACT)])


def main_of(module: ModuleOp) -> FuncOp:
    return find_function(module)


def random_codes(module: ModuleOp, seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    found = [(shape_of(a), integer_of(a)) for a in main_of(module).args]
    return [rng.integers(t.lo, t.hi, shape, endpoint=True).astype(t.dtype) for shape, t in found if t is not None]


def session(module: ModuleOp, asked: Asked) -> IntegerSession:
    return IntegerSession(Weights(module), allow_bounded=True, asked=asked)


def apply(name: str, module: ModuleOp, asked: Asked | None = None) -> bool:
    """The rule alone."""
    rule = BY_NAME[name](session(module, asked or Asked()))
    return PatternRewriteWalker(GreedyRewritePatternApplier([rule])).rewrite_module(module)


def rewritten(case: Case) -> tuple[ModuleOp, ModuleOp]:
    before = ir_text.parse(case.text)
    after = before.clone()
    assert apply(case.rule, after, Asked(round_each=case.round_each)), "the rule does not apply"
    after.verify()
    return before, after


def returned(module: ModuleOp) -> Operation:
    last = main_of(module).body.block.last_op
    assert last is not None
    owner = last.operands[0].owner
    assert isinstance(owner, Operation)
    return owner


APPROXIMATING = {"softmax", "late-softmax", "logarithmic-attention", "function", "layer-norm"}


def test_every_rule_has_a_case() -> None:
    assert {c.rule for c in EXACT} | APPROXIMATING == set(BY_NAME)
    assert len(BY_NAME) == len(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_states_what_it_does_and_how_exactly(rule: type) -> None:
    assert "=>" in rule.__doc__
    assert rule.exactness.value.replace("-", " ") in rule.__doc__.lower().replace("-", " ")
    assert (rule.exactness is Exactness.BOUNDED) == (rule.name in APPROXIMATING)


@each_exact
def test_values(case: Case) -> None:
    before, after = rewritten(case)
    for seed in range(4):
        inputs = random_codes(before, seed)
        exact, found = (rational_run(str(m), inputs)[0] for m in (before, after))
        if case.round_each:  # each rounding is off by half a unit, the sum's too
            assert np.abs(exact - found).max() <= 1
        else:
            assert np.array_equal(exact, found)
        (interpreted,) = run(after, inputs).values()
        assert np.array_equal(interpreted, found)


@each_exact
def test_names(case: Case) -> None:
    before, after = rewritten(case)
    assert sources(returned(after)) == tuple(case.names.split())
    made = [o for o in after.walk() if o.name.startswith("qvit.")]
    assert all(sources(o) for o in made)
    assert {n for o in made for n in sources(o)} == {n for o in before.walk() for n in sources(o)}


@each_exact
def test_nothing_is_left_to_do(case: Case) -> None:
    _, after = rewritten(case)
    assert not apply(case.rule, after)


# --- approximations ---


def all_codes(module: ModuleOp) -> list[Array]:
    (argument,) = main_of(module).args
    codes = integer_of(argument)
    assert codes is not None
    return [np.arange(codes.lo, codes.hi + 1).astype(codes.dtype).reshape(shape_of(argument))]


def function_case(function: str, codes: str, count: int, scale: str, zero: int) -> Case:
    line = f"%y = qvit.{function} : tensor<1x{count}xf32>".replace(" : ", ' {qvit.src = ["op"]} : ', 1)
    a = dq("%a", "%q", f"{scale}, zero_point = {zero}", f"1x{count}", codes)
    return Case(
        "function", (a, line, q("0.03, zero_point = 100", f"1x{count}", "ui8")), f"%q: tensor<1x{count}x{codes}>"
    )


def erf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    from math import erf as scalar

    return np.array([scalar(v) for v in x.ravel()]).reshape(x.shape)


FUNCTIONS: list[tuple[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = [
    ("gelu %a", lambda x: x / 2 * (1 + erf(x / np.sqrt(2)))),
    ("gelu %a tanh", lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))),
    ("sigmoid %a", lambda x: 1 / (1 + np.exp(-x))),
    ("tanh %a", np.tanh),
    ("erf %a", erf),
]


@pytest.mark.parametrize(("name", "exact"), FUNCTIONS, ids=[n for n, _ in FUNCTIONS])
@pytest.mark.parametrize(("codes", "scale", "zero"), [("ui8", "0.04", 128), ("i8", "0.011", -7)], ids=["ui8", "i8"])
def test_functions_by_a_table(
    name: str, exact: Callable[..., NDArray[np.float64]], codes: str, scale: str, zero: int
) -> None:
    """A table is off by half a unit at most."""
    before, after = rewritten(function_case(name, codes, 256, scale, zero))
    assert [o.name for o in after.walk()].count("qvit.int_function") == 1
    assert sources(returned(after)) == ("dq", "op", "root")
    inputs = all_codes(before)
    (found,) = run(after, inputs).values()
    real = exact((inputs[0].astype(np.float64) - zero) * float(np.float32(scale))) / float(np.float32(0.03)) + 100
    assert np.abs(found - np.clip(real, 0, 255)).max() <= 0.5 + 1e-9


SOFTMAX = (
    dq("%a", "%q", "0.0625", "40x9", "i8"),
    '%y = qvit.softmax %a{} axis 1 {{qvit.src = ["op"]}} : tensor<40x9xf32>',
    q("1.0 / 255.0", "40x9", "ui8"),
)
MASK = "tensor<1x9xui1>"


@pytest.mark.parametrize("masked", [False, True])
def test_softmax(masked: bool) -> None:
    """sm8 is off by less than a unit."""
    line = SOFTMAX[1].format(f" mask(%m : {MASK})" if masked else "")
    arguments = "%q: tensor<40x9xi8>" + (f", %m: {MASK}" if masked else "")
    case = Case("softmax", (SOFTMAX[0], line, SOFTMAX[2]), arguments)
    before = ir_text.parse(case.text)
    after = before.clone()
    assert apply("softmax", after, Asked(softmax=("sm8",)))
    assert [o.name for o in after.walk()].count("qvit.requantize") == 0  # the codes are those that are wanted
    inputs = random_codes(before, 3)
    (found,) = run(after, inputs).values()
    real = nonlinear.softmax(inputs[0] * 0.0625, 1, inputs[1] if masked else None) * 255
    assert np.abs(found - real).max() < 1
    if masked:
        assert not found[np.broadcast_to(inputs[1] == 0, found.shape)].any()


LATE = (
    dq("%a", "%q", "0.0625", "40x9", "i8"),
    '%p = qvit.softmax %a axis 1 {qvit.src = ["sm"]} : tensor<40x9xf32>',
    dq("%v", "%r", "0.05, zero_point = 2", "9x3", "i8", "dv"),
    '%y = qvit.matmul %p, %v {qvit.src = ["op"]} : (tensor<40x9xf32>, tensor<9x3xf32>) -> tensor<40x3xf32>',
    q("0.04, zero_point = 1", "40x3", "i8"),
)


def test_late_softmax() -> None:
    """Weights of 255 for the largest are off by half a unit each, so their mean of values by N / 510 of the values' spread."""
    case = Case("late-softmax", LATE, "%q: tensor<40x9xi8>, %r: tensor<9x3xi8>")
    before, after = rewritten(case)
    (integer,) = (o for o in after.walk() if isinstance(o, IntSoftmaxOp))
    assert len(integer.outputs) == 2
    assert sources(returned(after)) == ("dq", "sm", "dv", "op", "root")
    inputs = random_codes(before, 4)
    (found,) = run(after, inputs).values()
    scores, values = inputs[0] * 0.0625, (inputs[1] - 2.0) * float(np.float32(0.05))
    real = nonlinear.softmax(scores, 1) @ values / float(np.float32(0.04)) + 1
    spread = np.ptp(values) / float(np.float32(0.04))
    assert np.abs(found - np.clip(real, -128, 127)).max() <= 9 / 510 * spread + 0.6


def test_layer_norm() -> None:
    """ln is never more than a unit off the correctly rounded one."""
    rng = np.random.default_rng(8)
    gamma, beta = (rng.normal(size=16).astype(np.float32) for _ in range(2))
    lines = (
        f"%g = qvit.constant dense<{gamma.tolist()}> : tensor<16xf32>",
        f"%b = qvit.constant dense<{beta.tolist()}> : tensor<16xf32>",
        dq("%a", "%q", "0.001", "50x16", "i16"),
        '%y = qvit.layer_norm %a, %g, %b axis 1 epsilon 1.0e-6 {qvit.src = ["op"]}'
        " : (tensor<50x16xf32>, tensor<16xf32>, tensor<16xf32>) -> tensor<50x16xf32>",
        q("0.03, zero_point = 120", "50x16", "ui8"),
    )
    before, after = rewritten(Case("layer-norm", lines, "%q: tensor<50x16xi16>"))
    assert sources(returned(after)) == ("dq", "op", "root")
    inputs = random_codes(before, 5)
    inputs[0][0] = 7  # a constant row gives beta
    (expected,), (found,) = (run(m, inputs).values() for m in (before, after))
    assert np.abs(expected.astype(int) - found.astype(int)).max() <= 1
    assert (expected != found).mean() < 0.01


# --- why not ---

F32 = "%a: tensor<3x4xf32>"
ROWS = "[0.1, 0.3, 0.7], axis = 0"
COLUMNS = "[0.1, 0.3, 0.7, 0.9], axis = 1"
DECLINED: list[tuple[str, str, Case]] = [
    (
        "add",
        "operand not quantized: rhs is an argument of the function",
        Case("add", (A, op(f"qvit.add %a, %b : {SAME}"), q("0.1")), "%q: tensor<3x4xi4>, %b: tensor<3x4xf32>"),
    ),
    (
        "add",
        "lhs is made by qvit.gelu at g",
        Case(
            "add",
            (A, '%g = qvit.gelu %a {qvit.src = ["g"]} : tensor<3x4xf32>', op(f"qvit.add %g, %a : {SAME}"), q("0.1")),
        ),
    ),
    (
        "add",
        "scales lie along different axes: [0, 1]",
        Case("add", (A_ROWS, dq("%b", "%r", COLUMNS), op(f"qvit.add %a, %b : {SAME}"), q("0.1")), TWO),
    ),
    (
        "add",
        "the scales lie along different axes: [0, 1]",
        Case(
            "add",
            (dq("%a", "%q", "[0.1, 0.2, 0.3, 0.4], axis = 1"), B, op(f"qvit.add %a, %b : {SAME}"), q(ROWS)),
            TWO,
        ),
    ),
    (
        "add",
        "lhs's zero point varies along axis 0",
        Case(
            "add",
            (dq("%a", "%q", "0.1, zero_point = [1, 2, 3], axis = 0"), B, op(f"qvit.add %a, %b : {SAME}"), q("0.1")),
            TWO,
        ),
    ),
    ("mul", "rhs has a scale along axis 0", Case("mul", (A, B_ROWS, op(f"qvit.mul %a, %b : {SAME}"), q("0.1")), TWO)),
    (
        "mul",
        "products reach 4294836225, beyond i32",
        Case(
            "mul",
            (dq("%a", "%q", "0.1", codes="ui16"), op(f"qvit.mul %a, %a : {SAME}"), q("0.1")),
            "%q: tensor<3x4xui16>",
        ),
    ),
    (
        "mean",
        "sums of 65538 codes reach 2147549184, beyond i32",
        Case(
            "mean",
            (
                dq("%a", "%q", "0.1", "65538", "i16"),
                "%y = qvit.reduce_mean %a {axes = array<i64: 0>, keepdims = false} : tensor<65538xf32> -> tensor<f32>",
                q("0.1", ""),
            ),
            "%q: tensor<65538xi16>",
        ),
    ),
    ("mean", "operand has a scale along axis 0", Case("mean", (A_ROWS, "%y = " + MEAN, q("0.1", "3x1")))),
    (
        "relu",
        "the wanted codes have a scale along axis 0",
        Case("relu", (A, op("qvit.relu %a : tensor<3x4xf32>"), q(ROWS))),
    ),
    (
        "clip",
        "the result has a scale along axis 0",
        Case("clip", (A, "%y = qvit.clip %a {low = 0.0 : f64} : tensor<3x4xf32>", q(ROWS))),
    ),
    (
        "argmax",
        "operand has a scale along axis 0",
        Case(
            "argmax",
            (A_ROWS, "%z = qvit.argmax %a {axis = 1 : i64, keepdims = false} : tensor<3x4xf32> -> tensor<3xi64>"),
        ),
    ),
    (
        "argmax",
        "the scale -0.1, expected a positive number",
        Case(
            "argmax",
            (
                dq("%a", "%q", "-0.1"),
                "%z = qvit.argmax %a {axis = 1 : i64, keepdims = false} : tensor<3x4xf32> -> tensor<3xi64>",
            ),
        ),
    ),
    (
        "function",
        "operand has a scale along axis 0",
        Case("function", (A_ROWS, op("qvit.tanh %a : tensor<3x4xf32>"), q("0.1"))),
    ),
    (
        "softmax",
        "softmax along axis 0 of (3, 4): expected the last",
        Case("softmax", (A, "%y = qvit.softmax %a axis 0 : tensor<3x4xf32>", q("0.1"))),
    ),
    (
        "softmax",
        "its probabilities are quantized, and none of sm8-late divides in front",
        Case("softmax", (A, "%y = qvit.softmax %a axis 1 : tensor<3x4xf32>", q("0.1"))),
    ),
    (
        "late-softmax",
        "values is an argument of the function",
        Case(
            "late-softmax",
            (
                A,
                "%p = qvit.softmax %a axis 1 : tensor<3x4xf32>",
                "%y = qvit.matmul %p, %v : (tensor<3x4xf32>, tensor<4x2xf32>) -> tensor<3x2xf32>",
                q("0.1", "3x2"),
            ),
            "%q: tensor<3x4xi4>, %v: tensor<4x2xf32>",
        ),
    ),
    (
        "layer-norm",
        "more than the last axis",
        Case(
            "layer-norm",
            (
                "%g = qvit.constant dense<1.0> : tensor<3x4xf32>",
                A,
                "%y = qvit.layer_norm %a, %g axis 0 epsilon 1.0e-6 : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>",
                q("0.1"),
            ),
        ),
    ),
    (
        "layer-norm",
        "gamma and beta must be constants",
        Case(
            "layer-norm",
            (
                A,
                "%y = qvit.layer_norm %a, %g axis 1 epsilon 1.0e-6 : (tensor<3x4xf32>, tensor<4xf32>) -> tensor<3x4xf32>",
                q("0.1"),
            ),
            "%q: tensor<3x4xi4>, %g: tensor<4xf32>",
        ),
    ),
]


@pytest.mark.parametrize(("rule", "reason", "case"), DECLINED, ids=[f"{r}-{why[:30]}" for r, why, _ in DECLINED])
def test_why_not(rule: str, reason: str, case: Case) -> None:
    module = ir_text.parse(case.text)
    text, asked = str(module), Asked(softmax=("sm8-late",))
    one = BY_NAME[rule](session(module, asked))
    reasons = [remark.reason for o in module.walk() for remark in one.why_not(o)]
    assert len(reasons) == 1
    assert reason in reasons[0]
    assert not apply(rule, module, asked)
    assert str(module) == text


def test_the_first_approximation_whose_conditions_hold() -> None:
    """A table takes codes of 8 bits; sixteen go to the next one, or are declined with every reason."""
    lines = (
        dq("%a", "%q", "0.001", "3x4", "i16"),
        op("qvit.gelu %a : tensor<3x4xf32>"),
        q("0.03", codes="i8"),
    )
    before = ir_text.parse(Case("function", lines, "%q: tensor<3x4xi16>").text)
    after = before.clone()
    report = integerize(after)
    assert report.approximations == {"op": "quad"}
    assert not report.left
    left = integerize(before.clone(), Asked(function=("table", "shiftgelu-published"))).left
    assert [(r.src, r.rule) for r in left] == [("op", "qvit.gelu")]
    assert "table: a table takes codes of at most 8 bits, found i16" in left[0].reason
    assert "; shiftgelu-published: " in left[0].reason
    forced = before.clone()
    report = integerize(forced, Asked(function=("shiftgelu-published",), unchecked=True))
    assert report.approximations == {"op": "shiftgelu-published"}
    report = integerize(before.clone(), Asked(layers={"o*": ("lin", "ln"), "op": ("quad",)}))
    assert report.approximations == {"op": "lin"}  # the first pattern that names some of its family


def test_reasons_for_what_stays() -> None:
    module = ir_text.parse("""
    func.func @main(%x: tensor<3x4xf32>, %q: tensor<3x4xi8>) -> (tensor<3x4xf32>, tensor<3x4xi8>) {
      %a = qvit.dequantize %q <0.1> {qvit.src = ["dq"]} : tensor<3x4xi8> -> tensor<3x4xf32>
      %y = qvit.tanh %a {qvit.src = ["no quantizer"]} : tensor<3x4xf32>
      %z = qvit.sqrt %a {qvit.src = ["no form"]} : tensor<3x4xf32>
      %w = qvit.quantize %z <0.1> {qvit.src = ["q"]} : tensor<3x4xf32> -> tensor<3x4xi8>
      func.return %y, %w : tensor<3x4xf32>, tensor<3x4xi8>
    }""")
    report = integerize(module)
    assert [(r.src, r.reason) for r in report.left] == [
        ("no quantizer", "its result has no quantizer"),
        ("no form", "it has no integer form"),
    ]
    assert "left in float" in report.table()
    assert '"reason": "it has no integer form"' in report.to_json()
    assert [op.sym_name.data for op in module.ops if isinstance(op, FuncOp)] == ["main"]


@pytest.mark.parametrize("options", [{"softmax": "sm9"}, {"function": "table+"}, {"layer_norm": "table"}], ids=str)
def test_unknown_approximations(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="is one of .*, found '"):
        IntegerizePass(**options).asked()


# --- the ends ---

ENDS = """
func.func @main(%x: tensor<2x3xf32> {qvit.name = "image"}, %i: tensor<4xi64> {qvit.name = "ids"})
    -> (tensor<2x3xf32> {qvit.name = "tokens"}, tensor<2xi64> {qvit.name = "class"}, tensor<4xi64> {qvit.name = "echo"}) {
  %p = qvit.quantize %x <0.5, zero_point = 1> {qvit.src = ["q"]} : tensor<2x3xf32> -> tensor<2x3xi8>
  %a = qvit.dequantize %p <0.5, zero_point = 1> {qvit.src = ["dq"]} : tensor<2x3xi8> -> tensor<2x3xf32>
  %r = qvit.relu %a {qvit.src = ["relu"]} : tensor<2x3xf32>
  %y = qvit.quantize %r <0.25> {qvit.src = ["qr"]} : tensor<2x3xf32> -> tensor<2x3xi8>
  %b = qvit.dequantize %y <0.25> {qvit.src = ["dqr"]} : tensor<2x3xi8> -> tensor<2x3xf32>
  %c = qvit.argmax %b {axis = 1 : i64, keepdims = false, qvit.src = ["argmax"]} : tensor<2x3xf32> -> tensor<2xi64>
  func.return %b, %c, %i : tensor<2x3xf32>, tensor<2xi64>, tensor<4xi64>
}"""


def test_ends() -> None:
    """Float and integer inputs; results that are dequantized, and results that are integers."""
    module = ir_text.parse(ENDS)
    rng = np.random.default_rng(3)
    inputs = {"image": rng.normal(size=(2, 3)).astype(np.float32) * 9, "ids": np.arange(4)}
    expected = run(module, inputs)
    assert not integerize(module).left
    module.verify()
    assert all(integer_of(value) for op in main_of(module).walk() for value in op.results)
    made = {op.name: sources(op) for op in main_of(module).walk() if sources(op)}
    assert made["qvit.argmax"][-1] == "argmax"
    assert made["qvit.clip"][-1] == "qr"
    LowerRequantPass().run(module)
    assert [op.sym_name.data for op in module.ops if isinstance(op, FuncOp)] == [
        "quantize_inputs",
        "main",
        "dequantize_outputs",
    ]
    assert "qvit.integer_only" in main_of(module).attributes
    found = run_model(module, inputs)
    assert list(found) == ["tokens", "class", "echo"]
    for name, array in expected.items():
        np.testing.assert_array_equal(array, found[name])


NOT_SPLIT = {
    "an argument with another use": ENDS.replace("func.return %b,", "func.return %x,"),
    "a result that stays in float": ENDS.replace(
        "func.return %b,", "%s = qvit.tanh %b : tensor<2x3xf32>\n  func.return %s,"
    ),
    "another function": ENDS + "\nfunc.func @other() { func.return }",
    "another name": ENDS.replace("@main", "@forward"),
}


@pytest.mark.parametrize("text", NOT_SPLIT.values(), ids=NOT_SPLIT.keys())
def test_ends_that_stay(text: str) -> None:
    module = ir_text.parse(text)
    before = [op.sym_name.data for op in module.ops if isinstance(op, FuncOp)]
    integerize(module)
    module.verify()
    assert [op.sym_name.data for op in module.ops if isinstance(op, FuncOp)] == before


def test_a_result_that_is_used_too() -> None:
    """The codes of a result go on inside; the same codes may be two results."""
    text = ENDS.replace("func.return %b, %c, %i :", "func.return %b, %c, %b :")
    text = text.replace("tensor<2xi64>, tensor<4xi64>\n", "tensor<2xi64>, tensor<2x3xf32>\n")
    module = ir_text.parse(text.replace('tensor<4xi64> {qvit.name = "echo"}', 'tensor<2x3xf32> {qvit.name = "echo"}'))
    inputs: dict[str, Array] = {"image": np.array([[0.6, -3, 2], [9, 9, 1]], np.float32), "ids": np.arange(4)}
    expected = run(module, inputs)
    integerize(module)
    LowerRequantPass().run(module)
    module.verify()
    for name, array in run_model(module, inputs).items():
        np.testing.assert_array_equal(array, expected[name])


def test_an_argument_that_is_quantized_in_several_ways() -> None:
    """Equal quantizers are one; others give @main more arguments, and the caller still gives one input."""
    module = ir_text.parse("""
    func.func @main(%x: tensor<2x3xf32> {qvit.name = "image"}, %y: tensor<3xf32> {qvit.name = "bias"})
        -> (tensor<2x3xi8>, tensor<2x3xi8>, tensor<2x3xi4>, tensor<3xi8>) {
      %a = qvit.quantize %x <0.5> {qvit.src = ["a"]} : tensor<2x3xf32> -> tensor<2x3xi8>
      %b = qvit.quantize %x <0.5> {qvit.src = ["b"]} : tensor<2x3xf32> -> tensor<2x3xi8>
      %c = qvit.quantize %x <0.5> {qvit.src = ["c"]} : tensor<2x3xf32> -> tensor<2x3xi4>
      %d = qvit.quantize %y <0.25> {qvit.src = ["d"]} : tensor<3xf32> -> tensor<3xi8>
      func.return %a, %b, %c, %d : tensor<2x3xi8>, tensor<2x3xi8>, tensor<2x3xi4>, tensor<3xi8>
    }""")
    inputs = {"image": np.linspace(-9, 9, 6).reshape(2, 3), "bias": np.array([-1.0, 0.3, 7])}
    expected = run(module, inputs)
    integerize(module)
    module.verify()
    assert [input_names(f) for f in module.ops if isinstance(f, FuncOp)][:2] == [
        ["image", "bias"],
        ["image", "image.1", "bias"],
    ]
    found = run_model(module, inputs)
    for name, array in expected.items():
        np.testing.assert_array_equal(array, found[name])
