"""--verify-integer-only: which functions it checks, and that no float hides from it."""

import ir_text
import pytest
from xdsl.context import Context
from xdsl.utils.exceptions import DiagnosticException

from qvit.transforms.verify_integer_only import FloatLeft, VerifyIntegerOnlyPass, checked_functions, floats_left

CLEAN = """
func.func @{name}(%q: tensor<2xi8>) -> tensor<2xi8> {attributes}{{
  %y = qvit.requantize %q by #qvit.pot<1> : tensor<2xi8> -> tensor<2xi8>
  func.return %y : tensor<2xi8>
}}
"""
FLOAT = """
func.func @{name}(%x: tensor<2xf32>) -> tensor<2xf32> {attributes}{{
  %y = qvit.relu %x {{qvit.src = ["relu_{name}"]}} : tensor<2xf32>
  func.return %y : tensor<2xf32>
}}
"""


def clean(name: str, tagged: bool = False) -> str:
    return CLEAN.format(name=name, attributes="attributes {qvit.integer_only} " if tagged else "")


def floating(name: str, tagged: bool = False) -> str:
    return FLOAT.format(name=name, attributes="attributes {qvit.integer_only} " if tagged else "")


@pytest.mark.parametrize(
    ("text", "checked"),
    [
        (floating("a") + clean("main") + floating("b"), ["main"]),
        (floating("a") + clean("b"), ["a", "b"]),
        (floating("main") + clean("a", True) + floating("b", True), ["a", "b"]),
        ("builtin.module @inner {" + clean("a", True) + "}" + floating("main"), ["a"]),
    ],
)
def test_which_functions_are_checked(text: str, checked: list[str]) -> None:
    assert [f.sym_name.data for f in checked_functions(ir_text.parse(text))] == checked


def test_nothing_is_said_of_integers(capsys: pytest.CaptureFixture[str]) -> None:
    module = ir_text.parse(clean("main") + floating("not_main"))
    text = str(module)
    VerifyIntegerOnlyPass().apply(Context(), module)
    VerifyIntegerOnlyPass(report_only=True).apply(Context(), module)
    assert str(module) == text
    assert capsys.readouterr() == ("", "")


def test_a_float_is_an_error_that_names_the_operation() -> None:
    module = ir_text.parse(floating("main"))
    with pytest.raises(DiagnosticException) as error:
        VerifyIntegerOnlyPass().apply(Context(), module)
    assert str(error.value).splitlines() == [
        "verify-integer-only: 3 operations keep a float:",
        "  @main: func.func (attribute function_type)",
        "  relu_main: qvit.relu (operand 0 tensor<2xf32>, result 0 tensor<2xf32>)",
        "  func.return: func.return (operand 0 tensor<2xf32>)",
    ]


def test_report_only_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    module = ir_text.parse(floating("main"))
    text = str(module)
    VerifyIntegerOnlyPass(report_only=True).apply(Context(), module)
    assert str(module) == text
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == "3 operations keep a float:"
    assert len(err.splitlines()) == 4


@pytest.mark.parametrize(
    ("op", "where"),
    [
        ('"test.op"() : () -> tensor<2xf16>', ["result 0 tensor<2xf16>"]),
        ('"test.op"() : () -> bf16', ["result 0 bf16"]),
        ('"test.op"() : () -> (i8, tensor<2xf64>)', ["result 1 tensor<2xf64>"]),
        ('"test.op"() : () -> vector<2xf32>', ["result 0 vector<2xf32>"]),
        ('"test.op"() : () -> memref<2xf32>', ["result 0 memref<2xf32>"]),
        ('"test.op"() : () -> complex<f32>', ["result 0 complex<f32>"]),
        ('"test.op"() : () -> tuple<i8, tensor<2xf32>>', ["result 0 tuple<i8, tensor<2xf32>>"]),
        ('"test.op"() {a = f32} : () -> i8', ["attribute a"]),
        ('"test.op"() {a = 1.0 : f32, b = 1 : i8, c = [[2.0 : f64]]} : () -> i8', ["attribute a", "attribute c"]),
        ('"test.op"() {a = dense<1.0> : tensor<2xf32>} : () -> i8', ["attribute a"]),
        ('"test.op"() {a = array<f32: 1.0>} : () -> i8', ["attribute a"]),
        ('"test.op"() {a = {b = {c = 1.0 : f32}}} : () -> i8', ["attribute a"]),
        ('"test.op"() {a = () -> f32} : () -> i8', ["attribute a"]),
        ('"test.op"() <{prop1 = #qvit.real<0.5>}> : () -> i8', ["attribute prop1"]),
        ('"test.op"() {a = #qvit.params<[0.5, 0.25], axis = 0>} : () -> i8', ["attribute a"]),
        ('"test.op"() {a = #qvit.weight_ref<@"w" : tensor<2xf32>>} : () -> i8', ["attribute a"]),
        ('"test.op"() ({ "test.op"() : () -> f32\n"test.termop"() : () -> () }) : () -> i8', ["result 0 f32"]),
        # none of these is a float
        ('"test.op"() {a = dense<1> : tensor<2xi32>, b = "f32", c = array<i64: 1>, d = index} : () -> ui8', []),
        ('"test.op"() {a = #qvit.dyadic<[3, 5], 9>, b = #qvit.weight_ref<@"w" : tensor<2xi8>>} : () -> i8', []),
        ('%q = "test.op"() : () -> tensor<2xi8>\n%y = qvit.clip %q {low = -7 : i64} : tensor<2xi8>', []),
    ],
)
def test_where_floats_hide(op: str, where: list[str]) -> None:
    left = floats_left(ir_text.parse(f"func.func @main() {{\n{op}\nfunc.return\n}}"))
    assert [f.where for f in left] == ([", ".join(where)] if where else [])


def test_what_is_said_of_an_operation() -> None:
    text = (
        'func.func @main() {\n%w = qvit.weight "w" : tensor<2xf32>\n%c = qvit.weight "v" : tensor<2xi8>\nfunc.return\n}'
    )
    assert floats_left(ir_text.parse(text)) == [FloatLeft("w", "qvit.weight", "result 0 tensor<2xf32>")]
