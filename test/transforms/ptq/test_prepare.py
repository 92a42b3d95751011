"""Every rule that prepares a float module: before and after in float64, what it names, and where it declines."""

from dataclasses import dataclass

import ir_text
import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.pattern_rewriter import PatternRewriteWalker

from qvit.backends.interpreter import find_function, run
from qvit.dialects.ops.nonlinear import SoftmaxOp
from qvit.dialects.provenance import sources
from qvit.dialects.types import element_of, integer_of, is_float, shape_of
from qvit.dialects.weights import Weights
from qvit.transforms.ptq.masks import kept
from qvit.transforms.ptq.prepare import RULES, prepare
from qvit.transforms.rule import Exactness, Session

BY_NAME = {rule.name: rule for rule in RULES}


def numbers(*shape: int, seed: int = 0) -> str:
    rng = np.random.default_rng(seed)
    return f"dense<{(rng.integers(-32, 32, shape) / 16).tolist()}> : tensor<{'x'.join(map(str, shape))}xf64>"


W = f"%w = qvit.constant {numbers(6, 3)}"
B = f"%b = qvit.constant {numbers(6, seed=1)}"
K = f"%k = qvit.constant {numbers(4, 3, 1, 2, seed=2)}"
LINEAR = '%y = qvit.linear %x, %w, %b {qvit.src = ["fc"]} : (tensor<2x3xf64>, tensor<6x3xf64>, tensor<6xf64>) -> tensor<2x6xf64>'
CONV = (
    '%y = qvit.conv2d %x, %k {qvit.src = ["conv"]} : (tensor<1x3x2x4xf64>, tensor<4x3x1x2xf64>) -> tensor<1x4x2x3xf64>'
)
X = {"%x": "tensor<2x3xf64>"}
IMAGE = {"%x": "tensor<1x3x2x4xf64>"}
SCORES = {"%x": "tensor<2x3x3xf64>"}
SOFTMAX = '%z = qvit.softmax %s axis 2 {qvit.src = ["root"]} : tensor<2x3x3xf64>'
IDS = {"%x": "tensor<2x3x3xf64>", "%m": "tensor<1x3xi64>"}
NOT_ZERO = (
    "%o = qvit.constant dense<0> : tensor<i64>",
    '%c = qvit.compare %m, %o {predicate = "ne"} : (tensor<1x3xi64>, tensor<i64>) -> tensor<1x3xui1>',
)
LOW = "%l = qvit.constant dense<-1.0e30> : tensor<f64>"
ZERO = "%n = qvit.constant dense<0.0> : tensor<f64>"
WHERE = "%t = qvit.select %c, %n, %l : (tensor<1x3xui1>, tensor<f64>, tensor<f64>) -> tensor<1x3xf64>"
ADD = "%s = qvit.add %x, %t : (tensor<2x3x3xf64>, tensor<1x3xf64>) -> tensor<2x3x3xf64>"
CAST = "%d = qvit.dequantize %m <1.0> : tensor<1x3xi64> -> tensor<1x3xf64>"
ONE = "%e = qvit.constant dense<1.0> : tensor<f64>"
MINUS = "%f = qvit.sub %e, %d : (tensor<f64>, tensor<1x3xf64>) -> tensor<1x3xf64>"
TIMES = "%t = qvit.mul %f, %l : (tensor<1x3xf64>, tensor<f64>) -> tensor<1x3xf64>"


def bias(*rows: object) -> str:
    return f"%t = qvit.constant dense<{list(rows)}> : tensor<3x3xf64>"


ADD_BIAS = "%s = qvit.add %x, %t : (tensor<2x3x3xf64>, tensor<3x3xf64>) -> tensor<2x3x3xf64>"
CAUSAL = bias([0.0, -100.0, -100.0], [0.0, 0.0, -1000000.0], [0.0, 0.0, 0.0])


@dataclass(frozen=True)
class Case:
    rule: str
    lines: tuple[str, ...]
    arguments: dict[str, str]

    @property
    def module(self) -> ModuleOp:
        return ir_text.parse(ir_text.function(self.lines, self.arguments))


def moved(*tail: str) -> tuple[str, ...]:
    return (W, B, LINEAR, *tail)


CASES = [
    Case(
        "slice-of-transpose",
        (
            "%t = qvit.transpose %x [1, 0] : tensor<2x3xf64> -> tensor<3x2xf64>",
            '%z = qvit.slice %t axis 0 start 2 size 2 step -2 {qvit.src = ["root"]} : tensor<3x2xf64> -> tensor<2x2xf64>',
        ),
        X,
    ),
    Case(
        "slice-of-reshape",
        (
            "%t = qvit.reshape %x : tensor<2x6xf64> -> tensor<2x3x2xf64>",
            '%z = qvit.slice %t axis 1 start 1 size 2 step 1 {qvit.src = ["root"]} : tensor<2x3x2xf64> -> tensor<2x2x2xf64>',
        ),
        {"%x": "tensor<2x6xf64>"},
    ),
    Case(
        "slice-of-linear",
        moved(
            '%z = qvit.slice %y axis 1 start 4 size 2 step -2 {qvit.src = ["root"]} : tensor<2x6xf64> -> tensor<2x2xf64>'
        ),
        X,
    ),
    Case(
        "gather-one",
        (
            "%i = qvit.constant dense<1> : tensor<i64>",
            '%z = qvit.gather %x, %i axis 1 {qvit.src = ["root"]} : (tensor<2x3xf64>, tensor<i64>) -> tensor<2xf64>',
        ),
        X,
    ),
    Case(
        "slice-of-constant",
        (
            f"%t = qvit.constant {numbers(4, 2)}",
            '%z = qvit.slice %t axis 0 start 3 size 2 step -2 {qvit.src = ["root"]} : tensor<4x2xf64> -> tensor<2x2xf64>',
        ),
        X,
    ),
    Case(
        "factor-of-move",
        (
            "%c = qvit.constant dense<0.25> : tensor<f64>",
            "%t = qvit.transpose %x [1, 0] : tensor<2x3xf64> -> tensor<3x2xf64>",
            '%z = qvit.mul %c, %t {qvit.src = ["root"]} : (tensor<f64>, tensor<3x2xf64>) -> tensor<3x2xf64>',
        ),
        X,
    ),
    Case(
        "factor-of-move",
        (
            "%c = qvit.constant dense<[0.25, 0.5, 3.0]> : tensor<3xf64>",
            "%t = qvit.reshape %x : tensor<2x3xf64> -> tensor<1x2x3xf64>",
            '%z = qvit.mul %t, %c {qvit.src = ["root"]} : (tensor<1x2x3xf64>, tensor<3xf64>) -> tensor<1x2x3xf64>',
        ),
        X,
    ),
    Case(
        "factor-of-layer",
        moved(
            "%c = qvit.constant dense<4.0> : tensor<f64>",
            '%z = qvit.div %y, %c {qvit.src = ["root"]} : (tensor<2x6xf64>, tensor<f64>) -> tensor<2x6xf64>',
        ),
        X,
    ),
    Case(
        "factor-of-layer",
        moved(
            f"%c = qvit.constant {numbers(6, seed=5)}",
            '%z = qvit.mul %y, %c {qvit.src = ["root"]} : (tensor<2x6xf64>, tensor<6xf64>) -> tensor<2x6xf64>',
        ),
        X,
    ),
    Case(
        "factor-of-layer",
        (
            K,
            CONV,
            f"%c = qvit.constant {numbers(4, 1, 1, seed=5)}",
            '%z = qvit.mul %y, %c {qvit.src = ["root"]} : (tensor<1x4x2x3xf64>, tensor<4x1x1xf64>) -> tensor<1x4x2x3xf64>',
        ),
        IMAGE,
    ),
    Case(
        "factor-of-norm",
        (
            f"%g = qvit.constant {numbers(3, seed=3)}",
            f"%b = qvit.constant {numbers(3, seed=4)}",
            f"%c = qvit.constant {numbers(3, seed=5)}",
            '%y = qvit.layer_norm %x, %g, %b axis 1 epsilon 1.0e-6 {qvit.src = ["fc"]}'
            " : (tensor<2x3xf64>, tensor<3xf64>, tensor<3xf64>) -> tensor<2x3xf64>",
            '%z = qvit.mul %c, %y {qvit.src = ["root"]} : (tensor<3xf64>, tensor<2x3xf64>) -> tensor<2x3xf64>',
        ),
        X,
    ),
    Case(
        "factor-of-matmul",
        moved(
            f"%t = qvit.constant {numbers(6, 2, seed=6)}",
            "%c = qvit.constant dense<0.3> : tensor<f64>",
            "%p = qvit.matmul %y, %t : (tensor<2x6xf64>, tensor<6x2xf64>) -> tensor<2x2xf64>",
            '%z = qvit.mul %p, %c {qvit.src = ["root"]} : (tensor<2x2xf64>, tensor<f64>) -> tensor<2x2xf64>',
        ),
        X,
    ),
    Case(
        "bias-of-layer",
        moved(
            f"%c = qvit.constant {numbers(6, seed=5)}",
            '%z = qvit.add %c, %y {qvit.src = ["root"]} : (tensor<6xf64>, tensor<2x6xf64>) -> tensor<2x6xf64>',
        ),
        X,
    ),
    Case(
        "bias-of-layer",
        (
            K,
            CONV,
            f"%c = qvit.constant {numbers(4, 1, 1, seed=5)}",
            '%z = qvit.add %y, %c {qvit.src = ["root"]} : (tensor<1x4x2x3xf64>, tensor<4x1x1xf64>) -> tensor<1x4x2x3xf64>',
        ),
        IMAGE,
    ),
    Case(
        "batch-norm-of-conv",
        (
            K,
            CONV,
            *(f"%{n} = qvit.constant {numbers(4, seed=i)}" for i, n in enumerate("ghm")),
            "%v = qvit.constant dense<[0.5, 1.0, 2.0, 0.25]> : tensor<4xf64>",
            '%z = qvit.batch_norm %y, %g, %h, %m, %v epsilon 1.0e-5 {qvit.src = ["root"]}'
            " : (tensor<1x4x2x3xf64>, tensor<4xf64>, tensor<4xf64>, tensor<4xf64>, tensor<4xf64>) -> tensor<1x4x2x3xf64>",
        ),
        IMAGE,
    ),
    Case("hard-mask", (CAUSAL, ADD_BIAS, SOFTMAX), SCORES),
    Case("hard-mask", (bias([0.5, -100.5, -60.0], [0.25, 0.5, -99.0], [0.0, -1.0, 0.0]), ADD_BIAS, SOFTMAX), SCORES),
    Case("hard-mask", (*NOT_ZERO, LOW, ZERO, WHERE, ADD, SOFTMAX), IDS),
    Case("hard-mask", (*NOT_ZERO, LOW, ZERO, WHERE.replace("%n, %l", "%l, %n"), ADD, SOFTMAX), IDS),
    Case(
        "hard-mask",
        (
            *NOT_ZERO,
            LOW,
            "%s = qvit.select %c, %x, %l : (tensor<1x3xui1>, tensor<2x3x3xf64>, tensor<f64>) -> tensor<2x3x3xf64>",
            SOFTMAX,
        ),
        IDS,
    ),
    Case(
        "hard-mask",
        (
            *NOT_ZERO,
            LOW,
            "%s = qvit.select %c, %l, %x : (tensor<1x3xui1>, tensor<f64>, tensor<2x3x3xf64>) -> tensor<2x3x3xf64>",
            SOFTMAX,
        ),
        IDS,
    ),
    Case(
        "hard-mask",
        (
            *NOT_ZERO,
            '%l = qvit.constant dense<"0x000000000000F0FF"> : tensor<f64>',
            "%s = qvit.select %c, %x, %l : (tensor<1x3xui1>, tensor<2x3x3xf64>, tensor<f64>) -> tensor<2x3x3xf64>",
            SOFTMAX,
        ),
        IDS,
    ),
    Case("hard-mask", (CAST, ONE, LOW, MINUS, TIMES, ADD, SOFTMAX), IDS),
    Case("hard-mask", (CAST, LOW, TIMES.replace("%f", "%d"), ADD, SOFTMAX), IDS),
    Case(
        "hard-mask",
        (
            *NOT_ZERO,
            LOW,
            ZERO,
            WHERE,
            f"%u = qvit.constant {CAUSAL.split('constant ')[1]}",
            "%v = qvit.add %t, %u : (tensor<1x3xf64>, tensor<3x3xf64>) -> tensor<3x3xf64>",
            ADD_BIAS.replace("%t", "%v"),
            SOFTMAX,
        ),
        IDS,
    ),
    Case(
        "hard-mask",
        (
            *NOT_ZERO,
            LOW,
            ZERO,
            WHERE,
            "%v = qvit.broadcast %t : tensor<1x3xf64> -> tensor<2x1x3xf64>",
            ADD.replace("%t", "%v").replace("1x3xf64>)", "2x1x3xf64>)"),
            SOFTMAX,
        ),
        IDS,
    ),
    Case(
        "hard-mask",
        (
            "%p = qvit.reshape %x : tensor<2x3x3xf64> -> tensor<1x2x3x3xf64>",
            CAUSAL,
            "%r = qvit.add %p, %t : (tensor<1x2x3x3xf64>, tensor<3x3xf64>) -> tensor<1x2x3x3xf64>",
            "%s = qvit.reshape %r : tensor<1x2x3x3xf64> -> tensor<2x3x3xf64>",
            SOFTMAX,
        ),
        SCORES,
    ),
    Case(
        "hard-mask",
        (
            "%p = qvit.reshape %x : tensor<2x3x3xf64> -> tensor<1x2x3x3xf64>",
            *NOT_ZERO,
            LOW,
            ZERO,
            WHERE,
            "%r = qvit.add %p, %t : (tensor<1x2x3x3xf64>, tensor<1x3xf64>) -> tensor<1x2x3x3xf64>",
            "%s = qvit.reshape %r : tensor<1x2x3x3xf64> -> tensor<2x3x3xf64>",
            SOFTMAX,
        ),
        IDS,
    ),
    Case(  # the truth values have fewer dimensions than the mask
        "hard-mask",
        (
            *NOT_ZERO,
            "%l = qvit.constant dense<-1.0e30> : tensor<2x1x3xf64>",
            ZERO,
            "%u = qvit.select %c, %n, %l : (tensor<1x3xui1>, tensor<f64>, tensor<2x1x3xf64>) -> tensor<2x1x3xf64>",
            "%t = qvit.slice %u axis 0 start 1 size 2 step -1 : tensor<2x1x3xf64> -> tensor<2x1x3xf64>",
            ADD.replace("1x3xf64>)", "2x1x3xf64>)"),
            SOFTMAX,
        ),
        IDS,
    ),
    Case(
        "guard-of-mask",
        (
            *NOT_ZERO,
            ZERO,
            "%p = qvit.softmax %x mask(%c : tensor<1x3xui1>) axis 2 : tensor<2x3x3xf64>",
            '%g = qvit.compare %p, %p {predicate = "ne"} : (tensor<2x3x3xf64>, tensor<2x3x3xf64>) -> tensor<2x3x3xui1>',
            '%z = qvit.select %g, %n, %p {qvit.src = ["root"]} : (tensor<2x3x3xui1>, tensor<f64>, tensor<2x3x3xf64>) -> tensor<2x3x3xf64>',
        ),
        IDS,
    ),
]
each_case = pytest.mark.parametrize("case", CASES, ids=[f"{c.rule}-{i}" for i, c in enumerate(CASES)])


def inputs_of(module: ModuleOp, seed: int) -> list[np.ndarray]:
    """Random floats; integers are masks, of which some entry is 1 and some 0."""
    rng, found = np.random.default_rng(seed), list[np.ndarray]()
    for argument in find_function(module).args:
        if is_float(element_of(argument)):
            found.append(rng.normal(size=shape_of(argument)))
        else:
            found.append(np.array([[1, seed % 2, 0]]))
    return found


def apply(case: Case, module: ModuleOp) -> bool:
    rule = BY_NAME[case.rule](Session(Weights(module)))
    return PatternRewriteWalker(rule).rewrite_module(module)


def test_every_rule_has_a_case() -> None:
    assert {case.rule for case in CASES} == set(BY_NAME)
    assert len(BY_NAME) == len(RULES)


@each_case
def test_values(case: Case) -> None:
    """bit-exact rules to the bit, others up to what float64 rounds; what a mask of -50 leaves is less than that."""
    before, after = case.module, case.module
    assert apply(case, after)
    after.verify()
    for seed in range(6):
        inputs = inputs_of(before, seed)
        (expected,), (found,) = (run(m, inputs).values() for m in (before, after))
        if BY_NAME[case.rule].exactness is Exactness.BIT_EXACT:
            np.testing.assert_array_equal(found, expected)
        else:
            np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)


@each_case
def test_names(case: Case) -> None:
    module = case.module
    apply(case, module)
    last = find_function(module).body.block.last_op
    assert last is not None
    assert sources(last.operands[0].owner)[-1] == "root"  # pyright: ignore[reportArgumentType]


@each_case
def test_prepare_leaves_nothing(case: Case) -> None:
    module = case.module
    session = prepare(module)
    assert session.applied[case.rule] == 1
    module.verify()
    assert not any(rule().why_not(op) for op in module.walk() for rule in RULES)
    assert prepare(module).applied.total() == 0


def masked(case: Case) -> SoftmaxOp:
    module = case.module
    prepare(module)
    (softmax,) = (op for op in module.walk() if isinstance(op, SoftmaxOp))
    return softmax


def test_masks_are_small_and_integers() -> None:
    """A mask has length 1 where it does not change; a bias stays, without its large entries; run-time ones are integers."""
    for case in (c for c in CASES if c.rule == "hard-mask"):
        softmax = masked(case)
        assert softmax.mask is not None
        assert integer_of(softmax.mask) is not None
        if "%m" not in case.arguments:
            assert shape_of(softmax.mask) == (1, 3, 3)
        module = softmax.get_toplevel_object()
        assert isinstance(module, ModuleOp)
        arrays = [Weights(module).array(op.results[0]) for op in module.walk() if op.name == "qvit.constant"]
        assert all(a is None or a.min() > -50 for a in arrays)


def test_a_mask_that_hides_nothing_goes() -> None:
    always = ("%c = qvit.constant dense<1> : tensor<1x3xui1>", LOW)
    lines = (
        *always,
        "%s = qvit.select %c, %x, %l : (tensor<1x3xui1>, tensor<2x3x3xf64>, tensor<f64>) -> tensor<2x3x3xf64>",
        SOFTMAX,
    )
    assert masked(Case("hard-mask", lines, SCORES)).mask is None


def test_two_masks_are_one() -> None:
    lines = (*NOT_ZERO, CAUSAL, ADD_BIAS, SOFTMAX.replace("%s axis", "%s mask(%c : tensor<1x3xui1>) axis"))
    module, after = (Case("hard-mask", lines, IDS).module for _ in range(2))
    prepare(after)
    inputs = [np.random.default_rng(0).normal(size=(2, 3, 3)), np.array([[1, 0, 1]])]
    (expected,), (found,) = (run(m, inputs).values() for m in (module, after))
    np.testing.assert_allclose(found, expected, atol=1e-15)


STAYS = [
    Case("hard-mask", (bias([0.0, -49.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]), ADD_BIAS, SOFTMAX), SCORES),
    Case("hard-mask", (*NOT_ZERO, LOW.replace("-1.0e30", "-49.0"), ZERO, WHERE, ADD, SOFTMAX), IDS),
    Case("hard-mask", (CAST, ONE.replace("1.0", "2.0"), LOW, MINUS, TIMES, ADD, SOFTMAX), IDS),  # 2 - m is never 0
    Case(
        "slice-of-linear",
        moved(
            "%t = qvit.slice %y axis 1 start 0 size 2 step 1 : tensor<2x6xf64> -> tensor<2x2xf64>",
            "%u = qvit.tanh %y : tensor<2x6xf64>",
            "%z = qvit.concat %u, %t axis 1 : (tensor<2x6xf64>, tensor<2x2xf64>) -> tensor<2x8xf64>",
        ),
        X,
    ),
    Case(
        "slice-of-reshape",
        (
            "%t = qvit.reshape %x : tensor<2x3xf64> -> tensor<3x2xf64>",
            "%z = qvit.slice %t axis 1 start 1 size 1 step 1 : tensor<3x2xf64> -> tensor<3x1xf64>",
        ),
        X,
    ),
    Case(
        "factor-of-layer",
        moved(
            "%c = qvit.constant dense<4.0> : tensor<f64>",
            "%d = qvit.div %y, %c : (tensor<2x6xf64>, tensor<f64>) -> tensor<2x6xf64>",
            "%z = qvit.add %d, %y : (tensor<2x6xf64>, tensor<2x6xf64>) -> tensor<2x6xf64>",
        ),
        X,
    ),
    Case(
        "factor-of-layer",
        moved(
            f"%c = qvit.constant {numbers(2, 1)}",
            "%z = qvit.mul %y, %c : (tensor<2x6xf64>, tensor<2x1xf64>) -> tensor<2x6xf64>",
        ),
        X,
    ),
    Case(
        "bias-of-layer",
        moved(
            f"%c = qvit.constant {numbers(2, 6)}",
            "%z = qvit.add %y, %c : (tensor<2x6xf64>, tensor<2x6xf64>) -> tensor<2x6xf64>",
        ),
        X,
    ),
    Case(
        "gather-one",
        (
            "%i = qvit.constant dense<[1, 0]> : tensor<2xi64>",
            "%z = qvit.gather %x, %i axis 1 : (tensor<2x3xf64>, tensor<2xi64>) -> tensor<2x2xf64>",
        ),
        X,
    ),
    Case(
        "guard-of-mask",
        (
            ZERO,
            "%p = qvit.softmax %x axis 2 : tensor<2x3x3xf64>",
            '%g = qvit.compare %p, %p {predicate = "ne"} : (tensor<2x3x3xf64>, tensor<2x3x3xf64>) -> tensor<2x3x3xui1>',
            "%z = qvit.select %g, %n, %p : (tensor<2x3x3xui1>, tensor<f64>, tensor<2x3x3xf64>) -> tensor<2x3x3xf64>",
        ),
        SCORES,
    ),
]


@pytest.mark.parametrize("case", STAYS, ids=[f"{c.rule}-{i}" for i, c in enumerate(STAYS)])
def test_what_stays(case: Case) -> None:
    module = case.module
    text = str(module)
    assert not apply(case, module)
    assert str(module) == text


def test_a_row_without_an_entry_declines() -> None:
    module = Case(
        "hard-mask", (bias([0.0, 0.0, 0.0], [-60.0, -60.0, -60.0], [0.0, 0.0, 0.0]), ADD_BIAS, SOFTMAX), SCORES
    ).module
    rule = BY_NAME["hard-mask"]()
    reasons = [remark.reason for op in module.walk() for remark in rule.why_not(op)]
    assert reasons == ["the mask hides a whole row"]
    assert prepare(module).applied.total() == 0


def test_what_is_no_mask() -> None:
    module = Case("hard-mask", (*NOT_ZERO, LOW, ZERO, WHERE, ADD, SOFTMAX), IDS).module
    weights = Weights(module)
    found = [
        op.name
        for op in module.walk()
        if op.results and is_float(element_of(op.results[0])) and kept(op.results[0], weights) is not None
    ]
    assert found == ["qvit.constant", "qvit.constant", "qvit.select"]
