"""Every rule of --delay-dequant by itself: the values it keeps, the names it carries, what it says of itself.

A rule runs in a plain xDSL walker, without the pass around it. Values are compared before and after, with equality: bit
for bit in the interpreter where the rule says bit-exact, over the rational numbers where it says real-exact.
"""

from dataclasses import dataclass
from itertools import product

import ir_text
import numpy as np
import pytest
from random_graphs import Array, rational_run
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation
from xdsl.pattern_rewriter import PatternRewriteWalker

from qvit.backends.interpreter import run
from qvit.dialects.provenance import sources
from qvit.dialects.semantics.integers import IntType, Rounding
from qvit.dialects.types import integer_of, shape_of
from qvit.transforms.delay_dequant import RULES, delay_dequant
from qvit.transforms.rule import Exactness, Rule

BY_NAME: dict[str, type[Rule]] = {rule.name: rule for rule in RULES}
STAYS = {"conv_transpose2d-of-dequantize"}
"""Rules that only say why something stays."""


@dataclass(frozen=True)
class Case:
    """A function that returns the value of the operation `root`, which the rule replaces."""

    rule: str
    text: str
    names: str = "a dq b root"
    """The sources of what replaces the root: those of all that it stands for, the root's own name last."""


Q2X3 = "func.func @main(%q: tensor<2x3xi4>) -> "
DQ = '%x = qvit.dequantize %q <0.1 / 0.7, zero_point = 3> {qvit.src = ["a", "dq"]} : tensor<2x3xi4> -> tensor<2x3xf32>'
DQ_ROWS = DQ.replace("<0.1 / 0.7, zero_point = 3>", "<[0.1, 0.3] * 0.9, zero_point = [3, -5], axis = 0>")
DQ_COLUMNS = DQ.replace("<0.1 / 0.7, zero_point = 3>", "<0.1 / [0.3, 0.7, 0.9], zero_point = [3, -5, 1], axis = 1>")


def of_matrix(rule: str, root: str, dequantize: str, *before: str, names: str = Case.names) -> Case:
    """`root` takes %x, the dequantized 2x3 argument, and what the lines before make."""
    result = ir_text.result_type(root)
    root = root.replace(" : ", ' {qvit.src = ["b", "root"]} : ', 1)
    lines = "\n".join([dequantize, *before, f"%y = {root}", f"func.return %y : {result}"])
    return Case(rule, f"{Q2X3}{result} {{\n{lines}\n}}", names)


def constant(name: str, values: str, type_: str) -> str:
    return f"%{name} = qvit.constant dense<{values}> : {type_}"


MOVES = [
    ("transpose-of-dequantize", "qvit.transpose %x [1, 0] : tensor<2x3xf32> -> tensor<3x2xf32>"),
    ("reshape-of-dequantize", "qvit.reshape %x : tensor<2x3xf32> -> tensor<2x1x3xf32>"),
    ("slice-of-dequantize", "qvit.slice %x axis 0 start 1 size 2 step -1 : tensor<2x3xf32> -> tensor<2x3xf32>"),
    ("slice-of-dequantize", "qvit.slice %x axis 1 start 0 size 2 step 2 : tensor<2x3xf32> -> tensor<2x2xf32>"),
    ("gather-of-dequantize", "qvit.gather %x, %i axis 0 : (tensor<2x3xf32>, tensor<3xi32>) -> tensor<3x3xf32>"),
    ("gather-of-dequantize", "qvit.gather %x, %i axis 1 : (tensor<2x3xf32>, tensor<3xi32>) -> tensor<2x3xf32>"),
    ("broadcast-of-dequantize", "qvit.broadcast %x : tensor<2x3xf32> -> tensor<4x2x3xf32>"),
    ("concat-of-dequantize", "qvit.concat %x, %x axis 0 : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<4x3xf32>"),
    ("concat-of-dequantize", "qvit.concat %x, %x axis 1 : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x6xf32>"),
]
ZERO = constant("i", "0", "tensor<1xi32>")
INDICES = constant("i", "[1, 1, 0]", "tensor<3xi32>")
SCALAR, COLUMN = constant("c", "-1.3", "tensor<1x1xf32>"), constant("c", "[[1.7], [0.0]]", "tensor<2x1xf32>")
FACTOR = constant("k", "-1.3", "tensor<f32>")
BIAS, CODES = constant("d", "[0.1, 0.2, 0.3]", "tensor<3xf32>"), constant("e", "[1, 2, 3]", "tensor<3xi8>")
ADD_BIAS = '%s = qvit.add %x, %d {qvit.src = ["add"]} : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<2x3xf32>'
ADD_CODES = (
    '%f = qvit.dequantize %e <[0.1, 0.3, 0.7], axis = 0> {qvit.src = ["f"]} : tensor<3xi8> -> tensor<3xf32>',
    '%s = qvit.add %f, %x {qvit.src = ["add"]} : (tensor<3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>',
)
Q = "qvit.quantize %x {} : tensor<2x3xf32> -> tensor<2x3x{}>"


PRODUCT = """
func.func @main(%a: tensor<{a}x{e}>, %b: tensor<{b}x{e}>) -> tensor<{c}xf32> {{
  %x = qvit.dequantize %a <{s}> {{qvit.src = ["a", "dq"]}} : tensor<{a}x{e}> -> tensor<{a}xf32>
  %y = qvit.dequantize %b <{t}> {{qvit.src = ["w"]}} : tensor<{b}x{e}> -> tensor<{b}xf32>
  {bias}
  %z = qvit.{op} %x, %y{more} {{qvit.src = ["b", "root"]{geometry}}} : (tensor<{a}xf32>, tensor<{b}xf32>{type}) -> tensor<{c}xf32>
  func.return %z : tensor<{c}xf32>
}}
"""
EXACT_BIAS = (
    "%k = qvit.constant dense<[5, -7]> : tensor<2xi32>\n"
    '%d = qvit.dequantize %k <0.1 * [0.3, 0.7], axis = 0> {qvit.src = ["bias"]} : tensor<2xi32> -> tensor<2xf32>'
)
FLOAT_BIAS = "%d = qvit.constant dense<[0.1, 0.7]> : tensor<2xf32>"
GEOMETRY = ", padding = array<i64: 1, 0, 1, 2>, strides = array<i64: 2, 1>"


def of_product(
    op: str, a: str, b: str, c: str, s: str, t: str, bias: str = "", geometry: str = "", names: str = "a dq w b root"
) -> Case:
    more, type_ = (", %d", ", tensor<2xf32>") if bias else ("", "")
    text = PRODUCT.format(op=op, a=a, b=b, c=c, s=s, t=t, bias=bias, geometry=geometry, more=more, type=type_, e="i4")
    return Case(f"{op}-of-dequantize", text, names)


ROWS, COLUMNS = "[0.1, 0.3], axis = 0", "[0.3, 0.7], zero_point = [1, 2], axis = {}"
NUMBER = "0.1, zero_point = 3"

CASES = [
    *(of_matrix(rule, root, dq, INDICES) for (rule, root), dq in product(MOVES, (DQ, DQ_ROWS, DQ_COLUMNS))),
    *(
        Case(
            "transpose-of-dequantize",
            f"""func.func @main(%q: tensor<2x3x4xi4>) -> tensor<4x2x3xf32> {{
              %x = qvit.dequantize %q <{scale}> {{qvit.src = ["dq"]}} : tensor<2x3x4xi4> -> tensor<2x3x4xf32>
              %y = qvit.transpose %x [2, 0, 1] {{qvit.src = ["root"]}} : tensor<2x3x4xf32> -> tensor<4x2x3xf32>
              func.return %y : tensor<4x2x3xf32>
            }}""",
            "dq root",
        )
        for scale in (
            "[0.1, 0.3], axis = 0",
            "0.1, zero_point = [1, 2, 3], axis = 1",
            "0.1 * [0.1, 0.3, 0.7, 0.9], axis = 2",
        )
    ),
    # 1.8 * x / 1.8 is not always x in float: equal factors of what is left of two vectors must not cancel
    *(
        of_matrix(
            rule,
            root,
            DQ.replace("0.1 / 0.7, zero_point = 3", "1.85 * 1.77 * [1.8, 0.3] / [1.8, 0.9], axis = 0"),
            *before,
        )
        for rule, root, *before in (
            ("slice-of-dequantize", "qvit.slice %x axis 0 start 0 size 1 step 1 : tensor<2x3xf32> -> tensor<1x3xf32>"),
            (
                "gather-of-dequantize",
                "qvit.gather %x, %i axis 0 : (tensor<2x3xf32>, tensor<1xi32>) -> tensor<1x3xf32>",
                ZERO,
            ),
        )
    ),
    *(  # padding: codes at the zero point, wherever the scale lies
        of_matrix(
            "concat-of-dequantize",
            f"qvit.concat {order} axis {axis} : (tensor<{shapes[0]}xf32>, tensor<{shapes[1]}xf32>) -> tensor<{result}xf32>",
            dq,
            constant("n", "0.0", f"tensor<{padding}xf32>"),
        )
        for dq in (DQ, DQ_ROWS, DQ_COLUMNS)
        for order, axis, padding, result in (("%x, %n", 0, "1x3", "3x3"), ("%n, %x", 1, "2x2", "2x5"))
        for shapes in ((("2x3", padding) if order.startswith("%x") else (padding, "2x3")),)
    ),
    # a scale of one element, whose dimension goes or grows
    Case(
        "reshape-of-dequantize",
        """func.func @main(%q: tensor<1x3xi4>) -> tensor<3xf32> {
          %x = qvit.dequantize %q <[0.1] * 0.3, zero_point = [3], axis = 0> {qvit.src = ["dq"]} : tensor<1x3xi4> -> tensor<1x3xf32>
          %y = qvit.reshape %x {qvit.src = ["root"]} : tensor<1x3xf32> -> tensor<3xf32>
          func.return %y : tensor<3xf32>
        }""",
        "dq root",
    ),
    Case(
        "broadcast-of-dequantize",
        """func.func @main(%q: tensor<1x3xi4>) -> tensor<2x2x3xf32> {
          %x = qvit.dequantize %q <[0.1] * 0.3, zero_point = [3], axis = 0> {qvit.src = ["dq"]} : tensor<1x3xi4> -> tensor<1x3xf32>
          %y = qvit.broadcast %x {qvit.src = ["root"]} : tensor<1x3xf32> -> tensor<2x2x3xf32>
          func.return %y : tensor<2x2x3xf32>
        }""",
        "dq root",
    ),
    *(
        Case(
            "reshape-of-dequantize",
            f"""func.func @main(%q: tensor<3x4xi4>) -> tensor<3x2x2xf32> {{
              %x = qvit.dequantize %q <{scale}, axis = 1> {{qvit.src = ["dq"]}} : tensor<3x4xi4> -> tensor<3x4xf32>
              %y = qvit.reshape %x {{qvit.src = ["root"]}} : tensor<3x4xf32> -> tensor<3x2x2xf32>
              func.return %y : tensor<3x2x2xf32>
            }}""",
            "dq root",
        )
        for scale in (
            "[0.1, 0.1, 0.7, 0.7], zero_point = [1, 1, 2, 2]",
            "[0.1, 0.7, 0.1, 0.7] / 0.9, zero_point = [1, 2, 1, 2]",
        )
    ),
    Case(
        "concat-of-dequantize",
        """func.func @main(%p: tensor<2xi4>, %q: tensor<3xi4>) -> tensor<5xf32> {
          %x = qvit.dequantize %p <0.1 / 0.3 / 0.7, zero_point = 1> {qvit.src = ["dq"]} : tensor<2xi4> -> tensor<2xf32>
          %y = qvit.dequantize %q <[0.3, 0.7, 0.9] * 0.1, axis = 0> {qvit.src = ["dr"]} : tensor<3xi4> -> tensor<3xf32>
          %z = qvit.concat %x, %y axis 0 {qvit.src = ["root"]} : (tensor<2xf32>, tensor<3xf32>) -> tensor<5xf32>
          func.return %z : tensor<5xf32>
        }""",
        "dq dr root",
    ),
    Case(
        "concat-of-dequantize",
        """func.func @main(%p: tensor<1xi4>, %q: tensor<1xi4>) -> tensor<2xf32> {
          %x = qvit.dequantize %p <1.85 * 1.77 * [1.8] / [1.8], axis = 0> {qvit.src = ["dq"]} : tensor<1xi4> -> tensor<1xf32>
          %y = qvit.dequantize %q <1.85 * 1.77 * 1.8 / 1.8> {qvit.src = ["dr"]} : tensor<1xi4> -> tensor<1xf32>
          %z = qvit.concat %x, %y axis 0 {qvit.src = ["root"]} : (tensor<1xf32>, tensor<1xf32>) -> tensor<2xf32>
          func.return %z : tensor<2xf32>
        }""",
        "dq dr root",
    ),
    of_matrix(
        "mul-of-dequantize", "qvit.mul %x, %c : (tensor<2x3xf32>, tensor<1x1xf32>) -> tensor<2x3xf32>", DQ_ROWS, SCALAR
    ),
    of_matrix(
        "mul-of-dequantize", "qvit.mul %c, %x : (tensor<2x1xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>", DQ_ROWS, COLUMN
    ),
    of_matrix("mul-of-dequantize", "qvit.mul %x, %d : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<2x3xf32>", DQ, BIAS),
    of_matrix(
        "mul-of-dequantize", "qvit.div %x, %d : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<2x3xf32>", DQ_COLUMNS, BIAS
    ),
    of_matrix(
        "mul-of-dequantize", "qvit.div %x, %c : (tensor<2x3xf32>, tensor<1x1xf32>) -> tensor<2x3xf32>", DQ_ROWS, SCALAR
    ),
    *(
        of_matrix("mul-of-bias-add", root, DQ, FACTOR, BIAS, CODES, *add, names="add b root")
        for add in ((ADD_BIAS,), ADD_CODES)
        for root in (
            "qvit.mul %s, %k : (tensor<2x3xf32>, tensor<f32>) -> tensor<2x3xf32>",
            "qvit.mul %d, %s : (tensor<3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>",
        )
    ),
    Case(
        "quantize-back",
        """func.func @main(%q: tensor<2x3xi4>) -> tensor<2x3xi4> {
          %r = qvit.reshape %q {qvit.src = ["made"]} : tensor<2x3xi4> -> tensor<2x3xi4>
          %x = qvit.dequantize %r <[0.1, 0.3], zero_point = 3, axis = 0> {qvit.src = ["a", "dq"]} : tensor<2x3xi4> -> tensor<2x3xf32>
          %y = qvit.quantize %x <[0.1, 0.3], zero_point = 3, axis = 0> {qvit.src = ["b", "root"]} : tensor<2x3xf32> -> tensor<2x3xi4>
          func.return %y : tensor<2x3xi4>
        }""",
        "made a dq b root",
    ),
    of_matrix("quantize-of-dequantize", Q.format("<0.3, zero_point = 5>", "ui4"), DQ),
    of_matrix(
        "quantize-of-dequantize",
        Q.format("<0.3 / [0.7, 0.9], zero_point = [5, 0], axis = 0> rounding half_up", "i4"),
        DQ,
    ),
    of_matrix("quantize-of-dequantize", Q.format("<0.2, zero_point = [1, 0, -2], axis = 1> rounding floor", "i2"), DQ),
    of_matrix("quantize-of-dequantize", Q.format("<0.03> rounding half_away", "i8"), DQ_ROWS),
    of_matrix("quantize-of-dequantize", Q.format("<[0.03, 0.2] / 0.7, axis = 0>", "i8"), DQ_ROWS),
    of_matrix("quantize-of-dequantize", Q.format("<[0.3, 0.2, 0.1], axis = 1>", "i8"), DQ_COLUMNS),
    of_product("matmul", "2x3", "3x2", "2x2", NUMBER, "0.3 / 0.7, zero_point = -2"),
    of_product("matmul", "2x3", "3x2", "2x2", ROWS, "0.3, zero_point = -2"),
    of_product("matmul", "2x3", "3x2", "2x2", NUMBER, COLUMNS.format(1)),
    of_product("matmul", "2x3", "3x2", "2x2", ROWS, COLUMNS.format(1)),
    of_product("matmul", "2x3", "3x2", "2x2", "[0.1, 0.3] / 0.9, axis = 0", "0.7 / [0.3, 0.7], axis = 1"),
    of_product("matmul", "2x1x3", "3x2", "2x1x2", ROWS, COLUMNS.format(1)),
    of_product("matmul", "2x2x3", "2x3x2", "2x2x2", ROWS, "[0.3, 0.7], axis = 0"),
    of_product("matmul", "1x2x3", "2x3x2", "2x2x2", "[0.1], axis = 0", "[0.3, 0.7] / 0.9, axis = 0"),
    of_product("matmul", "2x2x3", "1x3x2", "2x2x2", "[0.1, 0.3], axis = 1", "[0.3], axis = 0"),
    of_product("matmul", "1x2x3", "1x1x3x2", "1x1x2x2", "[0.1, 0.3] / 0.9, axis = 1", "[0.7], axis = 1"),
    of_product("linear", "2x3", "2x3", "2x2", NUMBER, COLUMNS.format(0)),
    of_product("linear", "2x3", "2x3", "2x2", NUMBER, "[0.3, 0.7], axis = 0", EXACT_BIAS, names="a dq w bias b root"),
    of_product("linear", "2x3", "2x3", "2x2", NUMBER, COLUMNS.format(0), FLOAT_BIAS),
    of_product("linear", "2x3", "2x3", "2x2", ROWS, "0.3, zero_point = 1", EXACT_BIAS),
    of_product("linear", "2x3", "2x3", "2x2", ROWS, COLUMNS.format(0), FLOAT_BIAS),
    of_product("linear", "3", "2x3", "2", NUMBER, COLUMNS.format(0), FLOAT_BIAS),
    of_product("conv2d", "2x1x2x3", "2x1x2x2", "2x2x2x4", NUMBER, COLUMNS.format(0), "", GEOMETRY),
    of_product("conv2d", "2x1x2x3", "2x1x2x2", "2x2x2x4", ROWS, COLUMNS.format(0), FLOAT_BIAS, GEOMETRY),
    of_product(
        "conv2d",
        "2x1x2x3",
        "2x1x2x2",
        "2x2x1x2",
        NUMBER,
        "[0.3, 0.7], axis = 0",
        EXACT_BIAS,
        names="a dq w bias b root",
    ),
    of_product("conv2d", "1x2x2x2", "2x1x1x2", "1x2x2x1", NUMBER, COLUMNS.format(0), FLOAT_BIAS, ", groups = 2 : i64"),
]
each_case = pytest.mark.parametrize("case", CASES, ids=[f"{c.rule}-{i}" for i, c in enumerate(CASES)])


def function_of(module: ModuleOp) -> FuncOp:
    (function,) = (op for op in module.walk() if isinstance(op, FuncOp))
    return function


def some_inputs(module: ModuleOp, seed: int = 0) -> list[Array]:
    """Random codes of each argument's whole type."""
    rng = np.random.default_rng(seed)
    types = [(shape_of(a), integer_of(a)) for a in function_of(module).args]
    return [rng.integers(t.lo, t.hi, shape, endpoint=True).astype(t.dtype) for shape, t in types if t]


def apply(rule: Rule, module: ModuleOp) -> bool:
    """The rule alone, in xDSL's own walker; whether it did anything."""
    return PatternRewriteWalker(rule).rewrite_module(module)


def rewritten(case: Case) -> tuple[ModuleOp, ModuleOp]:
    before = ir_text.parse(case.text)
    after = before.clone()
    assert apply(BY_NAME[case.rule](), after), "the rule does not apply"
    after.verify()
    return before, after


def returned(module: ModuleOp) -> Operation:
    last = function_of(module).body.block.last_op
    assert last is not None
    owner = last.operands[0].owner
    assert isinstance(owner, Operation)
    return owner


# --- what a rule says of itself ---


def test_every_rule_has_a_case() -> None:
    assert {c.rule for c in CASES} | STAYS == set(BY_NAME)


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_states_what_it_does_and_how_exactly(rule: type[Rule]) -> None:
    assert isinstance(rule.exactness, Exactness)
    assert rule.name in STAYS or "=>" in (rule.__doc__ or "")


# --- what it keeps ---


@each_case
def test_values(case: Case) -> None:
    before, after = rewritten(case)
    for seed in range(3):
        inputs = some_inputs(before, seed)
        assert np.array_equal(*(rational_run(str(m), inputs)[0] for m in (before, after)))
        if BY_NAME[case.rule].exactness is Exactness.BIT_EXACT:
            for dtype in (np.float64, np.float32):
                a, b = (run(m, inputs, float_dtype=dtype)["output0"] for m in (before, after))
                assert a.dtype == b.dtype
                assert a.tolist() == b.tolist()


@each_case
def test_names(case: Case) -> None:
    before, after = rewritten(case)
    assert sources(returned(before))[-1] == "root"
    assert sources(returned(after)) == tuple(case.names.split())
    known = {name for op in before.walk() for name in sources(op)}
    made = [op for op in after.walk() if op.name.startswith("qvit.")]
    assert {name for op in made for name in sources(op)} == known
    # A constant that came without a name may stay without; what the rule makes has one.
    assert all(sources(op) for op in made if op.name != "qvit.constant")


@each_case
def test_nothing_is_left_to_do(case: Case) -> None:
    _, after = rewritten(case)
    assert not apply(BY_NAME[case.rule](), after)


@each_case
def test_why_not_changes_nothing(case: Case) -> None:
    """Also where a rule would apply: what it plans must not count as a user of the values that it reads."""
    module = ir_text.parse(case.text)
    text, users = str(module), uses(module)
    for rule in RULES:
        reasons = [reason for op in module.walk() for reason in rule().why_not(op)]
        assert (str(module), uses(module)) == (text, users)
        assert rule.name != case.rule or not reasons


def uses(module: ModuleOp) -> list[int]:
    return [len(list(value.uses)) for op in module.walk() for value in op.results]


# --- all codes ---

CODES_OF = {"i2": IntType(2), "i3": IntType(3), "i4": IntType(4), "ui3": IntType(3, False)}


def every_code(element: str, length: int) -> Array:
    """[codes^length, length]: every vector of codes is a row."""
    t = CODES_OF[element]
    rows = np.array(list(product(range(t.lo, t.hi + 1), repeat=length)), np.int64)
    return rows.astype(t.dtype)


def exhaustive(op: str, element: str) -> tuple[str, list[Array]]:
    """Every row against every column, of two elements each; conv2d with a padding of one."""
    rows = every_code(element, 2)
    n = len(rows)
    if op == "matmul":
        shapes, inputs = (f"{n}x2", f"2x{n}", f"{n}x{n}"), [rows, rows.T]
    elif op == "linear":
        shapes, inputs = (f"{n}x2", f"{n}x2", f"{n}x{n}"), [rows, rows]
    else:
        shapes, inputs = (f"{n}x1x1x2", f"{n}x1x1x2", f"{n}x{n}x1x2"), [r.reshape(n, 1, 1, 2) for r in (rows, rows)]
    geometry = ", padding = array<i64: 0, 1, 0, 0>" if op == "conv2d" else ""
    a, b, c = shapes
    text = PRODUCT.format(op=op, a=a, b=b, c=c, s="S", t="T", bias="", geometry=geometry, more="", type="", e=element)
    return text, inputs


@pytest.mark.parametrize(
    ("op", "element"),
    [*product(("matmul", "linear", "conv2d"), ("i2", "i3", "ui3")), ("matmul", "i4"), ("linear", "i4")],
)
def test_products_of_all_codes(op: str, element: str) -> None:
    text, inputs = exhaustive(op, element)
    zero = CODES_OF[element].lo + 1
    # Powers of two: float64 is exact, and the results are equal as floats.
    before = ir_text.parse(
        text.replace("<S>", f"<0.5, zero_point = {zero}>").replace("<T>", f"<0.125, zero_point = {zero + 1}>")
    )
    after = before.clone()
    assert apply(BY_NAME[f"{op}-of-dequantize"](), after)
    a, b = (run(m, inputs)["output0"] for m in (before, after))
    assert np.array_equal(a, b)
    # Any scales: the codes behind a quantize are equal.
    result = ir_text.result_type(text)
    codes = result.replace("f32", "i4")
    text = text.replace("<S>", f"<0.1, zero_point = {zero}>").replace("<T>", f"<0.3, zero_point = {zero + 1}>")
    text = text.replace(
        f"func.return %z : {result}", f"%o = qvit.quantize %z <0.07> : {result} -> {codes}\nfunc.return %o : {codes}"
    )
    before = ir_text.parse(text.replace(f") -> {result} {{\n  %x", f") -> {codes} {{\n  %x"))
    after = before.clone()
    report = delay_dequant(after)
    assert report.rules.keys() == {f"{op}-of-dequantize", "quantize-of-dequantize"}
    a, b = (run(m, inputs)["output0"] for m in (before, after))
    assert np.array_equal(a, b)
    assert len(np.unique(a)) > 4  # not everything saturates


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_quantize_back_of_all_codes(rounding: Rounding, dtype: type) -> None:
    """quantize(dq(q)) computes q for every code and scale, also where the float product and quotient are not exact."""
    codes = np.arange(-128, 128, dtype=np.int8).reshape(1, 256)
    scales = [str(np.float32(s)) for s in np.random.default_rng(0).uniform(1e-3, 2, 40)]
    params = [f"<{s}, zero_point = 7>" for s in (*scales, "0.1 * 0.7", "0.1 / 0.7", "0.05 * 0.07 / 0.9")]
    lines = [
        f"""%x{i} = qvit.dequantize %r {p} : tensor<1x256xi8> -> tensor<1x256xf32>
        %q{i} = qvit.quantize %x{i} {p} rounding {rounding} : tensor<1x256xf32> -> tensor<1x256xi8>"""
        for i, p in enumerate(params)
    ]
    names, type_ = ", ".join(f"%q{i}" for i in range(len(params))), "tensor<1x256xi8>"
    body = "\n".join([f"%r = qvit.reshape %q : {type_} -> {type_}", *lines])
    types = ", ".join([type_] * len(params))
    module = ir_text.parse(f"func.func @main(%q: {type_}) -> ({types}) {{\n{body}\nfunc.return {names} : {types}\n}}")
    after = module.clone()
    # half a step of error does not matter, unless the rounding is down: then the rule may decline
    assert apply(BY_NAME["quantize-back"](), after) or rounding is Rounding.FLOOR
    before, results = run(module, [codes], float_dtype=dtype), run(after, [codes], float_dtype=dtype)
    for name, expected in before.items():
        assert results[name].tolist() == expected.tolist()
