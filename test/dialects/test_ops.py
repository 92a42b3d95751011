"""Every operation: its text in both forms, its constructor, and each of its verifier's rules violated once."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import ir_text
import numpy as np
import pytest
from xdsl.dialects import test as test_dialect
from xdsl.dialects.builtin import IntegerType, Signedness, i8, i32, i64
from xdsl.ir import Operation, SSAValue
from xdsl.parser import Parser
from xdsl.traits import Pure
from xdsl.utils.exceptions import ParseError, VerifyException

from qvit.dialects.approximations import Ln, Sm8, Sm8Late, Table
from qvit.dialects.attributes import DyadicAttr, PotAttr, QParamsAttr, ZeroPointAttr, dense_array
from qvit.dialects.ops import approximated, elementwise, nonlinear, products, quantization, shape, weights
from qvit.dialects.qvit import Qvit
from qvit.dialects.semantics.integers import Rounding

OPERATIONS = list(Qvit.operations)
ui8 = IntegerType(8, Signedness.UNSIGNED)


def example(op: type[Operation]) -> str:
    blocks = re.findall(r"```mlir\n(.*?)```", inspect.getdoc(op) or "", re.S)
    assert len(blocks) == 1, f"{op.name}: expected one example in its documentation"
    return blocks[0].strip()


def check_round_trip(op: str) -> None:
    """The text is what both forms print again."""
    module = ir_text.parse(ir_text.with_operands(op))
    assert str(module.body.block.last_op) == op
    generic = ir_text.generic(module)
    name = op.split(" = ", 1)[1].split()[0]
    assert f'"{name}"(' in generic
    from_generic = ir_text.parse(generic)
    assert str(from_generic) == str(module)
    assert ir_text.generic(from_generic) == generic
    assert from_generic.is_structurally_equivalent(module)


def test_every_operation_has_its_own_name() -> None:
    names = [op.name for op in OPERATIONS]
    assert len(set(names)) == len(names)
    assert all(name.startswith("qvit.") for name in names)


@pytest.mark.parametrize("op", OPERATIONS, ids=lambda op: op.name)
def test_the_documented_example(op: type[Operation]) -> None:
    check_round_trip(example(op))
    assert isinstance(ir_text.parse_op(example(op)), op)


@pytest.mark.parametrize("op", OPERATIONS, ids=lambda op: op.name)
def test_operations_are_pure(op: type[Operation]) -> None:
    assert op.has_trait(Pure)


# Optional parts, alone and all together; `qvit.src` and other attributes stand at the end.
FORMS = """
%q = qvit.quantize %x <0.02> rounding half_up : tensor<4xf32> -> tensor<4xi8>
%q = qvit.quantize %x <0.02, zero_point = -3> rounding floor : tensor<4xf64> -> tensor<4xi4>
%q = qvit.quantize %x <[0.5, 0.25], zero_point = [1, 2], axis = 1> : tensor<4x2xf32> -> tensor<4x2xui8>
%q = qvit.quantize %x <0.02> {qvit.src = ["a", "b"]} : tensor<4xf32> -> tensor<4xi8>
%y = qvit.dequantize %q <-0.02 * 0.0> : tensor<4xi32> -> tensor<4xf64>
%y = qvit.requantize %x by #qvit.real<0.02 / 0.05> : tensor<4xi32> -> tensor<4xi8>
%y = qvit.requantize %x by #qvit.pot<-3> input_zero_point <1> rounding half_away : tensor<4xui8> -> tensor<4xi8>
%y = qvit.requantize %x by #qvit.dyadic<-5, 62> input_zero_point <1> zero_point <2> rounding floor {qvit.src = ["a"]} : tensor<4xi32> -> tensor<4xi8>
%y = qvit.requantize %x by #qvit.dyadic<[1, -2], [3, 4]> zero_point <[5, 6]> axis 1 : tensor<4x2xi32> -> tensor<4x2xi8>
%y = qvit.requantize %x by #qvit.dyadic<1518500250, 30> divided_by %z : (tensor<3x2x4xi32>, tensor<3x2x1xi32>) -> tensor<3x2x4xi8>
%y = qvit.requantize %x by #qvit.real<0.02 / 0.05> divided_by %z : (tensor<4xi32>, tensor<ui32>) -> tensor<4xi8>
%y = qvit.requantize %x by #qvit.pot<[1, -2]> divided_by %z input_zero_point <1> zero_point <2> axis 1 rounding half_up {qvit.src = ["a"]} : (tensor<4x2xi32>, tensor<4x1xi64>) -> tensor<4x2xi8>
%y = qvit.add_requant %a by #qvit.real<0.02 / 0.05>, %b by #qvit.real<[1.0, 2.0]> axis 1 : (tensor<4x2xi16>, tensor<4x2xi8>) -> tensor<4x2xi8>
%y = qvit.add_requant %a by #qvit.pot<0>, %b by #qvit.dyadic<1, 0> round_each : (tensor<4xi16>, tensor<4xi8>) -> tensor<4xi8>
%y = qvit.add_requant %a by #qvit.dyadic<3, [1, 2]>, %b by #qvit.pot<-3> lhs_zero_point <1> rhs_zero_point <2> zero_point <3> axis 1 rounding half_away round_each : (tensor<4x2xi32>, tensor<4x2xi32>) -> tensor<4x2xi8>
%q = qvit.threshold %x, %t lowest 0 : (tensor<4xi32>, tensor<3xi16>) -> tensor<4xui2>
%c = qvit.matmul %a, %b : (tensor<2x3xf32>, tensor<3x4xf32>) -> tensor<2x4xf32>
%c = qvit.matmul %a, %b lhs_zero_point <1> rhs_zero_point <[1, 2, 3, 4]> : (tensor<2x3xi8>, tensor<3x4xi8>) -> tensor<2x4xi64>
%c = qvit.shift_matmul %q, %v : (tensor<2x3xui5>, tensor<3x4xi8>) -> tensor<2x4xi32>
%c = qvit.shift_matmul %q, %v rhs_zero_point <[1, 2, 3, 4]> {qvit.src = ["a"]} : (tensor<5x1x2x3xui5>, tensor<4x3x4xi16>) -> tensor<5x4x2x4xi64>
%y = qvit.linear %x, %w : (tensor<2x3xf64>, tensor<4x3xf64>) -> tensor<2x4xf64>
%y = qvit.linear %x, %w, %b input_zero_point <1> weight_zero_point <[1, 2]> : (tensor<3xi8>, tensor<2x3xi8>, tensor<2xi64>) -> tensor<2xi64>
%y = qvit.conv2d %x, %w : (tensor<1x1x4x4xf32>, tensor<2x1x3x3xf32>) -> tensor<1x2x2x2xf32>
%y = qvit.conv2d %x, %w, %b input_zero_point <1> weight_zero_point <2> {strides = array<i64: 2, 1>, padding = array<i64: 1, 0, 2, 0>, dilations = array<i64: 1, 2>, groups = 2 : i64} : (tensor<1x2x4x4xi8>, tensor<4x1x3x2xi8>, tensor<4xi32>) -> tensor<1x4x3x2xi32>
%y = qvit.conv_transpose2d %x, %w, %b {strides = array<i64: 2, 1>, padding = array<i64: 1, 0, 0, 1>, dilations = array<i64: 1, 2>, groups = 2 : i64, output_padding = array<i64: 1, 0>} : (tensor<1x4x3x3xf32>, tensor<4x3x2x2xf32>, tensor<6xf32>) -> tensor<1x6x6x4xf32>
%y = qvit.conv2d %x, %w : (tensor<1x1x2x3xf32>, tensor<1x1x2x3xf32>) -> tensor<1x1x1x1xf32>
%y = qvit.conv_transpose2d %x, %w : (tensor<1x1x1x1xf32>, tensor<1x1x1x1xf32>) -> tensor<1x1x1x1xf32>
%y = qvit.gelu %x tanh : tensor<4xf32>
%y = qvit.layer_norm %x, %g axis 1 epsilon 1.000000e-01 : (tensor<2x3x4xf32>, tensor<3x4xf32>) -> tensor<2x3x4xf32>
%y = qvit.layer_norm %x, %g axis 0 epsilon 0.000000e+00 : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>
%y = qvit.reduce_mean %x {axes = array<i64: 0, 2>, keepdims = false} : tensor<2x3x4xf32> -> tensor<3xf32>
%y = qvit.reduce_sum %x {axes = array<i64: 0, 2>, keepdims = true} : tensor<2x3x4xui8> -> tensor<1x3x1xi64>
%y = qvit.argmax %x {axis = 0 : i64, keepdims = true} : tensor<2x3xf32> -> tensor<1x3xi64>
%y = qvit.resize %x {mode = "cubic", coordinates = "align_corners", scales = array<f64: 5.000000e-01, 2.000000e+00>, cubic_a = -5.000000e-01 : f64} : tensor<4x4xf32> -> tensor<2x8xf32>
%y = qvit.slice %x axis 0 start 4 size 3 step -2 : tensor<5xi8> -> tensor<3xi8>
%y = qvit.reshape %x : tensor<i8> -> tensor<1x1xi8>
%y = qvit.transpose %x [] : tensor<i8> -> tensor<i8>
%y = qvit.concat %x axis 0 : (tensor<5xi8>) -> tensor<5xi8>
%y = qvit.gather %x, %i axis 1 : (tensor<5x6xf32>, tensor<2x3xui8>) -> tensor<5x2x3xf32>
%y = qvit.gather %x, %i axis 0 : (tensor<5xf32>, tensor<i64>) -> tensor<f32>
%y = qvit.broadcast %x : tensor<i8> -> tensor<2xi8>
%y = qvit.add %a, %b : (tensor<ui8>, tensor<4xi4>) -> tensor<4xi64>
%y = qvit.clip %x {low = 5.000000e-01 : f64} : tensor<4xf32>
%y = qvit.clip %x : tensor<4xi8>
%y = qvit.clip %x {qvit.src = ["a"], low = -8 : i64, high = -8 : i64} : tensor<4xi4>
%y = qvit.clip %x {low = dense<[-8, 0]> : tensor<2xi64>, axis = 1 : i64} : tensor<3x2xi4>
%y = qvit.clip %x {low = dense<[0, 5]> : tensor<2xi64>, high = dense<[0, 7]> : tensor<2xi64>, axis = 0 : i64} : tensor<2xui3>
%y = qvit.compare %a, %b {predicate = "ne"} : (tensor<ui1>, tensor<4xui1>) -> tensor<4xui1>
%y = qvit.compare %a, %b {qvit.src = ["a"], predicate = "ge"} : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xui1>
%y = qvit.select %c, %a, %b : (tensor<ui1>, tensor<2x1xi8>, tensor<3xi8>) -> tensor<2x3xi8>
%y = qvit.resize %x {mode = "nearest_floor", coordinates = "asymmetric", scales = array<f64: 2.000000e+00, 2.000000e+00>} : tensor<2x2xf32> -> tensor<4x4xf32>
%p = qvit.int_softmax %x tables(%t : tensor<256xui16>) mask(%m : tensor<2x1x5xui1>) by #qvit.sm8<top = 127> {qvit.src = ["a"]} : (tensor<2x3x5xi4>) -> tensor<2x3x5xi8>
%p, %s = qvit.int_softmax %x tables(%t : tensor<256xui16>) by #qvit.sm8_late : (tensor<3x5xi8>) -> (tensor<3x5xui8>, tensor<3x1xi32>)
%p = qvit.int_softmax %x tables(%t : tensor<256xui16>) by #qvit.sm8<top = 255> : (tensor<5xi8>) -> tensor<5xui8>
%y = qvit.int_function %x tables(%t : tensor<16xi8>) input_zero_point <-3> by #qvit.table<lowest = -8> {qvit.src = ["a"]} : (tensor<i4>) -> tensor<i8>
%y = qvit.int_layer_norm %x tables(%g, %b : tensor<4xi32>, tensor<4xi32>) by #qvit.ln<guard = 20, epsilon = 7> {qvit.src = ["a"]} : (tensor<4xi32>) -> tensor<4xui8>
%w = qvit.weight "a\\22b \\\\c" {qvit.src = ["d"]} : tensor<f64>
%c = qvit.constant dense<-7> : tensor<i4>
%c = qvit.constant dense<[0, 15]> : tensor<2xui4>
%c = qvit.constant dense<[[1.000000e-01, -0.000000e+00]]> : tensor<1x2xf32>
%c = qvit.constant dense<> : tensor<0xi8>
%c = qvit.constant dense<5> : tensor<3xi8>
"""  # noqa: E501


@pytest.mark.parametrize("op", FORMS.strip().splitlines(), ids=lambda op: op.split(" = ", 1)[1][:60])
def test_forms(op: str) -> None:
    check_round_trip(op)


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        # defaults are not printed
        (
            "%q = qvit.quantize %x <1.0, zero_point = 0> rounding half_even : tensor<4xf32> -> tensor<4xi8>",
            "%q = qvit.quantize %x <1.0> : tensor<4xf32> -> tensor<4xi8>",
        ),
        (
            "%y = qvit.conv2d %x, %w {strides = array<i64: 1, 1>, groups = 1 : i64} :"
            " (tensor<1x1x4x4xf32>, tensor<2x1x3x3xf32>) -> tensor<1x2x2x2xf32>",
            "%y = qvit.conv2d %x, %w : (tensor<1x1x4x4xf32>, tensor<2x1x3x3xf32>) -> tensor<1x2x2x2xf32>",
        ),
        # one text for one number
        (
            "%y = qvit.dequantize %q <1 * 0.10 / 1.0e+1> : tensor<4xi8> -> tensor<4xf32>",
            "%y = qvit.dequantize %q <1.0 * 0.1 / 10.0> : tensor<4xi8> -> tensor<4xf32>",
        ),
        (
            "%y = qvit.dequantize %q <1.0, axis = 0, zero_point = [1, 2]> : tensor<2xi8> -> tensor<2xf32>",
            "%y = qvit.dequantize %q <1.0, zero_point = [1, 2], axis = 0> : tensor<2xi8> -> tensor<2xf32>",
        ),
        (
            "%c = qvit.constant dense<[7, 7]> : tensor<2xi8>",
            "%c = qvit.constant dense<7> : tensor<2xi8>",
        ),
    ],
)
def test_other_ways_to_write(written: str, printed: str) -> None:
    assert str(ir_text.parse_op(written)) == printed
    check_round_trip(printed)


# --- constructors ---


def make(*types: str) -> list[SSAValue]:
    """Values of these types."""
    types_ = [Parser(ir_text.context(), f"tensor<{t}>").parse_type() for t in types]
    return list(test_dialect.TestOp(result_types=types_).results)


CONSTRUCTED: list[tuple[tuple[str, ...], Callable[..., Operation], str]] = [
    (
        ("4xf32",),
        lambda x: quantization.QuantizeOp(x, QParamsAttr.of(0.5, 128), ui8, Rounding.FLOOR),
        "qvit.quantize %1 <0.5, zero_point = 128> rounding floor : tensor<4xf32> -> tensor<4xui8>",
    ),
    (
        ("4xi8",),
        lambda x: quantization.DequantizeOp(x, QParamsAttr.of(0.5)),
        "qvit.dequantize %1 <0.5> : tensor<4xi8> -> tensor<4xf32>",
    ),
    (
        ("4x2xi32",),
        lambda x: quantization.RequantizeOp(x, PotAttr.of(3), i8, axis=1),
        "qvit.requantize %1 by #qvit.pot<3> : tensor<4x2xi32> -> tensor<4x2xi8>",  # no vector, no axis
    ),
    (
        ("4x2xi32",),
        lambda x: quantization.RequantizeOp(x, PotAttr.of(np.array([1, 2])), i8, axis=1),
        "qvit.requantize %1 by #qvit.pot<[1, 2]> axis 1 : tensor<4x2xi32> -> tensor<4x2xi8>",
    ),
    (
        ("4xi32",),
        lambda x: quantization.RequantizeOp(
            x, DyadicAttr.of(3, 1), i8, (ZeroPointAttr.of(1), ZeroPointAttr.of(2)), rounding=Rounding.HALF_UP
        ),
        "qvit.requantize %1 by #qvit.dyadic<3, 1> input_zero_point <1> zero_point <2> rounding half_up"
        " : tensor<4xi32> -> tensor<4xi8>",
    ),
    (
        ("4x2xi32", "4x1xi32"),
        lambda x, z: quantization.RequantizeOp(x, PotAttr.of(3), i8, divisor=z),
        "qvit.requantize %1 by #qvit.pot<3> divided_by %2 : (tensor<4x2xi32>, tensor<4x1xi32>) -> tensor<4x2xi8>",
    ),
    (
        ("4xi16", "4xi8"),
        lambda a, b: quantization.AddRequantOp(
            a, PotAttr.of(1), b, DyadicAttr.of(1, 2), i8, (1, 0, 3), Rounding.FLOOR, round_each=True
        ),
        "qvit.add_requant %1 by #qvit.pot<1>, %2 by #qvit.dyadic<1, 2>"
        " lhs_zero_point <1> zero_point <3> rounding floor round_each"
        " : (tensor<4xi16>, tensor<4xi8>) -> tensor<4xi8>",
    ),
    (
        ("4xi16", "4xi8"),
        lambda a, b: quantization.AddRequantOp(a, PotAttr.of(1), b, PotAttr.of(2), i8),
        "qvit.add_requant %1 by #qvit.pot<1>, %2 by #qvit.pot<2> : (tensor<4xi16>, tensor<4xi8>) -> tensor<4xi8>",
    ),
    (
        ("4x2xi16", "4x2xi8"),
        lambda a, b: quantization.AddRequantOp(a, PotAttr.of(np.array([1, 2])), b, PotAttr.of(2), i8, axis=1),
        "qvit.add_requant %1 by #qvit.pot<[1, 2]>, %2 by #qvit.pot<2> axis 1"
        " : (tensor<4x2xi16>, tensor<4x2xi8>) -> tensor<4x2xi8>",
    ),
    (
        ("4x2xi16", "2x3xi32"),
        lambda x, t: quantization.ThresholdOp(x, t, -1, i8, axis=1),
        "qvit.threshold %1, %2 lowest -1 axis 1 : (tensor<4x2xi16>, tensor<2x3xi32>) -> tensor<4x2xi8>",
    ),
    (
        ("5x1x2x3xi8", "4x3x4xi8"),
        lambda a, b: products.MatmulOp(a, b, (0, 5)),
        "qvit.matmul %1, %2 rhs_zero_point <5> : (tensor<5x1x2x3xi8>, tensor<4x3x4xi8>) -> tensor<5x4x2x4xi32>",
    ),
    (
        ("2x3xf32", "3x4xf32"),
        lambda a, b: products.MatmulOp(a, b),
        "qvit.matmul %1, %2 : (tensor<2x3xf32>, tensor<3x4xf32>) -> tensor<2x4xf32>",
    ),
    (
        ("5x1x2x3xui5", "4x3x4xui8"),
        lambda q, v: products.ShiftMatmulOp(q, v, 128, i64),
        "qvit.shift_matmul %1, %2 rhs_zero_point <128>"
        " : (tensor<5x1x2x3xui5>, tensor<4x3x4xui8>) -> tensor<5x4x2x4xi64>",
    ),
    (
        ("2x3xui5", "3x4xi8"),
        lambda q, v: products.ShiftMatmulOp(q, v),
        "qvit.shift_matmul %1, %2 : (tensor<2x3xui5>, tensor<3x4xi8>) -> tensor<2x4xi32>",
    ),
    (
        ("2x3xi8", "4x3xi8", "4xi64"),
        lambda x, w, b: products.LinearOp(x, w, b, (1, None), i64),
        "qvit.linear %1, %2, %3 input_zero_point <1>"
        " : (tensor<2x3xi8>, tensor<4x3xi8>, tensor<4xi64>) -> tensor<2x4xi64>",
    ),
    (
        ("2x4x9x8xi8", "6x2x3x2xi8"),
        lambda x, w: products.Conv2dOp(x, w, None, (2, 1), (1, 2, 0, 3), (2, 3), 2),
        "qvit.conv2d %1, %2 {strides = array<i64: 2, 1>, padding = array<i64: 1, 2, 0, 3>,"
        " dilations = array<i64: 2, 3>, groups = 2 : i64}"
        " : (tensor<2x4x9x8xi8>, tensor<6x2x3x2xi8>) -> tensor<2x6x3x10xi32>",
    ),
    (
        ("2x4x3x5xf32", "4x3x3x2xf32"),
        lambda x, w: products.ConvTranspose2dOp(x, w, None, (2, 3), (1, 2, 0, 3), (2, 3), 2, (1, 0)),
        "qvit.conv_transpose2d %1, %2 {strides = array<i64: 2, 3>, padding = array<i64: 1, 2, 0, 3>,"
        " dilations = array<i64: 2, 3>, groups = 2 : i64, output_padding = array<i64: 1, 0>}"
        " : (tensor<2x4x3x5xf32>, tensor<4x3x3x2xf32>) -> tensor<2x6x9x11xf32>",
    ),
    (
        ("2x2x4x4xi8", "6x2x2x2xi8"),
        lambda x, w: products.Conv2dOp(x, w),
        "qvit.conv2d %1, %2 : (tensor<2x2x4x4xi8>, tensor<6x2x2x2xi8>) -> tensor<2x6x3x3xi32>",
    ),
    (
        ("2x4x3x3xf32", "4x3x2x2xf32"),
        lambda x, w: products.ConvTranspose2dOp(x, w),
        "qvit.conv_transpose2d %1, %2 : (tensor<2x4x3x3xf32>, tensor<4x3x2x2xf32>) -> tensor<2x3x4x4xf32>",
    ),
    (
        ("2x1xi8", "3xi8"),
        lambda a, b: elementwise.AddOp(a, b),
        "qvit.add %1, %2 : (tensor<2x1xi8>, tensor<3xi8>) -> tensor<2x3xi32>",
    ),
    (
        ("2xi8", "2xi8"),
        lambda a, b: elementwise.SubOp(a, b, i64),
        "qvit.sub %1, %2 : (tensor<2xi8>, tensor<2xi8>) -> tensor<2xi64>",
    ),
    (
        ("2xf64", "2xf64"),
        lambda a, b: elementwise.MulOp(a, b),
        "qvit.mul %1, %2 : (tensor<2xf64>, tensor<2xf64>) -> tensor<2xf64>",
    ),
    (
        ("2xf32", "f32"),
        lambda a, b: elementwise.PowOp(a, b),
        "qvit.pow %1, %2 : (tensor<2xf32>, tensor<f32>) -> tensor<2xf32>",
    ),
    (("2xf32",), lambda x: elementwise.TanhOp(x), "qvit.tanh %1 : tensor<2xf32>"),
    (
        ("2xui2",),
        lambda x: elementwise.ClipOp(x, 1, 3),
        "qvit.clip %1 {low = 1 : i64, high = 3 : i64} : tensor<2xui2>",
    ),
    (
        ("3x2xi4",),
        lambda x: elementwise.ClipOp(x, np.array([-2, -8]), 3, 1),
        "qvit.clip %1 {low = dense<[-2, -8]> : tensor<2xi64>, high = 3 : i64, axis = 1 : i64} : tensor<3x2xi4>",
    ),
    (
        ("3x2xi4",),
        lambda x: elementwise.ClipOp(x, None, 3, 1),
        "qvit.clip %1 {high = 3 : i64} : tensor<3x2xi4>",
    ),
    (("2xf32",), lambda x: elementwise.ClipOp(x, None, 3), "qvit.clip %1 {high = 3.000000e+00 : f64} : tensor<2xf32>"),
    (
        ("2x1xi8", "3xi8"),
        lambda a, b: elementwise.CompareOp(a, b, "le"),
        'qvit.compare %1, %2 {predicate = "le"} : (tensor<2x1xi8>, tensor<3xi8>) -> tensor<2x3xui1>',
    ),
    (
        ("4x1x1xui1", "2x1xi8", "3xi8"),
        lambda c, a, b: elementwise.SelectOp(c, a, b),
        "qvit.select %1, %2, %3 : (tensor<4x1x1xui1>, tensor<2x1xi8>, tensor<3xi8>) -> tensor<4x2x3xi8>",
    ),
    (("2x3xf32",), lambda x: nonlinear.SoftmaxOp(x, 1), "qvit.softmax %1 axis 1 : tensor<2x3xf32>"),
    (("2xf32",), lambda x: nonlinear.GeluOp(x), "qvit.gelu %1 : tensor<2xf32>"),
    (("2xf32",), lambda x: nonlinear.GeluOp(x, tanh=True), "qvit.gelu %1 tanh : tensor<2xf32>"),
    (
        ("2x3xf32", "3xf32"),
        lambda x, g: nonlinear.LayerNormOp(x, g, None, 0.5, 1),
        "qvit.layer_norm %1, %2 axis 1 epsilon 5.000000e-01 : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<2x3xf32>",
    ),
    (
        ("2x3xf32", *["3xf32"] * 4),
        lambda *values: nonlinear.BatchNormOp(*values, 0.5),
        "qvit.batch_norm %1, %2, %3, %4, %5 epsilon 5.000000e-01"
        " : (tensor<2x3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>) -> tensor<2x3xf32>",
    ),
    (
        ("2x3x4xf32",),
        lambda x: nonlinear.ReduceMeanOp(x, [0, 2], True),
        "qvit.reduce_mean %1 {axes = array<i64: 0, 2>, keepdims = true} : tensor<2x3x4xf32> -> tensor<1x3x1xf32>",
    ),
    (
        ("2x3x4xf32",),
        lambda x: nonlinear.ReduceMeanOp(x, [1], False),
        "qvit.reduce_mean %1 {axes = array<i64: 1>, keepdims = false} : tensor<2x3x4xf32> -> tensor<2x4xf32>",
    ),
    (
        ("2x3x4xi8",),
        lambda x: nonlinear.ReduceSumOp(x, [0, 2], True),
        "qvit.reduce_sum %1 {axes = array<i64: 0, 2>, keepdims = true} : tensor<2x3x4xi8> -> tensor<1x3x1xi32>",
    ),
    (
        ("2x3x4xi16",),
        lambda x: nonlinear.ReduceSumOp(x, [1], False, i64),
        "qvit.reduce_sum %1 {axes = array<i64: 1>, keepdims = false} : tensor<2x3x4xi16> -> tensor<2x4xi64>",
    ),
    (
        ("2x3xui8",),
        lambda x: nonlinear.ArgmaxOp(x, 1, False),
        "qvit.argmax %1 {axis = 1 : i64, keepdims = false} : tensor<2x3xui8> -> tensor<2xi64>",
    ),
    (
        ("7x4x4xf32",),
        lambda x: nonlinear.ResizeOp(x, (8, 2), (2, 0.5), "nearest", "asymmetric"),
        'qvit.resize %1 {mode = "nearest", coordinates = "asymmetric",'
        " scales = array<f64: 2.000000e+00, 5.000000e-01>}"
        " : tensor<7x4x4xf32> -> tensor<7x8x2xf32>",
    ),
    (
        ("3x5xi8", "256xui16", "5xui1"),
        lambda x, t, m: approximated.IntSoftmaxOp(x, Sm8(255), [t], [ui8], m),
        "qvit.int_softmax %1 tables(%2 : tensor<256xui16>) mask(%3 : tensor<5xui1>) by #qvit.sm8<top = 255>"
        " : (tensor<3x5xi8>) -> tensor<3x5xui8>",
    ),
    (
        ("2x3x5xi8", "256xui16"),
        lambda x, t: approximated.IntSoftmaxOp(x, Sm8Late(), [t], [ui8, i32]),
        "qvit.int_softmax %2 tables(%3 : tensor<256xui16>) by #qvit.sm8_late"  # %0 and %1 are its results
        " : (tensor<2x3x5xi8>) -> (tensor<2x3x5xui8>, tensor<2x3x1xi32>)",
    ),
    (
        ("2x3xi8", "256xui8"),
        lambda x, t: approximated.IntFunctionOp(x, Table(-128), [t], ui8),
        "qvit.int_function %1 tables(%2 : tensor<256xui8>) by #qvit.table<lowest = -128>"
        " : (tensor<2x3xi8>) -> tensor<2x3xui8>",
    ),
    (
        ("2xi8", "256xui8"),
        lambda x, t: approximated.IntFunctionOp(x, Table(-128), [t], ui8, input_zero_point=5),
        "qvit.int_function %1 tables(%2 : tensor<256xui8>) input_zero_point <5> by #qvit.table<lowest = -128>"
        " : (tensor<2xi8>) -> tensor<2xui8>",
    ),
    (
        ("2x3xi16", "3xi32", "3xi32"),
        lambda x, g, b: approximated.IntLayerNormOp(x, Ln(16, 0), [g, b], i8),
        "qvit.int_layer_norm %1 tables(%2, %3 : tensor<3xi32>, tensor<3xi32>) by #qvit.ln<guard = 16, epsilon = 0>"
        " : (tensor<2x3xi16>) -> tensor<2x3xi8>",
    ),
    (("2x3xi8",), lambda x: shape.ReshapeOp(x, (6,)), "qvit.reshape %1 : tensor<2x3xi8> -> tensor<6xi8>"),
    (
        ("2x3x4xi8",),
        lambda x: shape.TransposeOp(x, (1, 2, 0)),
        "qvit.transpose %1 [1, 2, 0] : tensor<2x3x4xi8> -> tensor<3x4x2xi8>",
    ),
    (
        ("2x3xi8",),
        lambda x: shape.SliceOp(x, 1, 1, 2),
        "qvit.slice %1 axis 1 start 1 size 2 step 1 : tensor<2x3xi8> -> tensor<2x2xi8>",
    ),
    (
        ("2x3xi8", "2x1xi8"),
        lambda *values: shape.ConcatOp(values, 1),
        "qvit.concat %1, %2 axis 1 : (tensor<2x3xi8>, tensor<2x1xi8>) -> tensor<2x4xi8>",
    ),
    (
        ("2x3x4xi8", "5x6xi32"),
        lambda x, i: shape.GatherOp(x, i, 1),
        "qvit.gather %1, %2 axis 1 : (tensor<2x3x4xi8>, tensor<5x6xi32>) -> tensor<2x5x6x4xi8>",
    ),
    (("1x3xi8",), lambda x: shape.BroadcastOp(x, (2, 3)), "qvit.broadcast %1 : tensor<1x3xi8> -> tensor<2x3xi8>"),
    (
        ("1x2x4x4xi8", "2x2x2x2xi8", "2xi32"),
        lambda x, w, b: products.Conv2dOp(x, w, b, zero_points=(3, -4)),
        "qvit.conv2d %1, %2, %3 input_zero_point <3> weight_zero_point <-4>"
        " : (tensor<1x2x4x4xi8>, tensor<2x2x2x2xi8>, tensor<2xi32>) -> tensor<1x2x3x3xi32>",
    ),
    (
        ("2x3xi8", "4x3xi8"),
        lambda x, w: products.LinearOp(x, w, zero_points=(0, ZeroPointAttr.of(np.array([1, 2, 3, 4])))),
        "qvit.linear %1, %2 weight_zero_point <[1, 2, 3, 4]> : (tensor<2x3xi8>, tensor<4x3xi8>) -> tensor<2x4xi32>",
    ),
    (
        ("7x4x4xf32",),
        lambda x: nonlinear.ResizeOp(x, (8, 2), (2, 0.5), "cubic", "asymmetric", -0.5),
        'qvit.resize %1 {mode = "cubic", coordinates = "asymmetric",'
        " scales = array<f64: 2.000000e+00, 5.000000e-01>, cubic_a = -5.000000e-01 : f64}"
        " : tensor<7x4x4xf32> -> tensor<7x8x2xf32>",
    ),
]


@pytest.mark.parametrize(("types", "build", "text"), CONSTRUCTED, ids=lambda v: v if isinstance(v, str) else "")
def test_constructors(types: tuple[str, ...], build: Callable[..., Operation], text: str) -> None:
    operands = make(*types)
    op = build(*operands)
    op.verify()
    assert list(op.operands) == operands
    assert str(op).split(" = ", 1)[1] == text


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: products.MatmulOp(*make("2x3xi8", "4x3xi8")),
            "contracted dimensions differ: 3 in (2, 3), 4 in (4, 3)",
        ),
        (
            lambda: products.LinearOp(*make("2x3xi8", "4x2xi8")),
            "contracted dimensions differ: 3 in (2, 3), 2 in (4, 2)",
        ),
        (lambda: elementwise.AddOp(*make("2x3xi8", "4x3xi8")), "shapes (2, 3) and (4, 3) do not broadcast"),
        (lambda: shape.ConcatOp(make("2x3xi8", "4x2xi8"), 0), "shapes (2, 3), (4, 2) differ outside axis 0"),
    ],
)
def test_constructors_refuse(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(VerifyException, match=re.escape(message)):
        build()


def test_constants_from_arrays() -> None:
    assert str(weights.ConstantOp(np.array([1, 2], np.uint8))).endswith("dense<[1, 2]> : tensor<2xui8>")
    assert str(weights.ConstantOp(np.array([[1], [-2]]), i8)).endswith("dense<[[1], [-2]]> : tensor<2x1xi8>")
    assert str(weights.ConstantOp(np.array(0.5, np.float32))).endswith("dense<5.000000e-01> : tensor<f32>")


# --- verifiers ---

# An operation, and under it a part of the message: it names the operand or attribute, the rule, and the values.
RULES = r"""
# types
%q = qvit.quantize %x <1.0> : tensor<4xi32> -> tensor<4xi8>
    input: expected a tensor of f32 or f64, found tensor<4xi32>
%q = qvit.quantize %x <1.0> : tensor<4xf32> -> tensor<4xf32>
    result: expected a tensor of integers, found tensor<4xf32>
%q = qvit.quantize %x <1.0> : tensor<?xf32> -> tensor<?xi8>
    expected static dimensions, found tensor<?xf32>
%q = qvit.quantize %x <1.0> : tensor<4xf32> -> tensor<4xi65>
    element type i65 is none of f32, f64, i1..i64, ui1..ui32
%q = qvit.quantize %x <1.0> : tensor<4xf16> -> tensor<4xi8>
    input: expected a tensor of f32 or f64, found tensor<4xf16>

# quantize
%q = qvit.quantize %x <1.0> : tensor<4xf32> -> tensor<5xi8>
    result: expected shape (4,), found (5,)
%q = qvit.quantize %x <1.0, zero_point = 128> : tensor<4xf32> -> tensor<4xi8>
    result: zero point 128 is outside i8 (-128..127)
%q = qvit.quantize %x <1.0, zero_point = -1> : tensor<4xf32> -> tensor<4xui8>
    result: zero point -1 is outside ui8 (0..255)
%q = qvit.quantize %x <0.0> : tensor<4xf32> -> tensor<4xi8>
    params: a quantizer divides by its scale; it must be positive, found 0.0
%q = qvit.quantize %x <1.0 / -0.5> : tensor<4xf32> -> tensor<4xi8>
    it must be positive, found -0.5
%q = qvit.quantize %x <[1.0, 2.0], axis = 1> : tensor<2xf32> -> tensor<2xi8>
    input: axis 1 is outside the 1 dimensions of tensor<2xf32>
%q = qvit.quantize %x <[1.0, 2.0], axis = -1> : tensor<2xf32> -> tensor<2xi8>
    input: axis -1 is outside the 1 dimensions
%q = qvit.quantize %x <[1.0, 2.0], axis = 0> : tensor<3xf32> -> tensor<3xi8>
    input: dimension 0 of tensor<3xf32> has 3 elements, the vector has 2
%q = qvit.quantize %x <1.0, axis = 0> : tensor<3xf32> -> tensor<3xi8>
    axis must be given exactly when the scale or the zero point is a vector
%q = qvit.quantize %x <[1.0, 2.0, 3.0]> : tensor<3xf32> -> tensor<3xi8>
    axis must be given exactly when the scale or the zero point is a vector
%q = qvit.quantize %x <[1.0, 2.0], zero_point = [1, 2, 3], axis = 0> : tensor<3xf32> -> tensor<3xi8>
    scale and zero_point have different lengths: 2 and 3
%q = qvit.quantize %x <[1.0, 2.0] * [1.0], axis = 0> : tensor<2xf32> -> tensor<2xi8>
    vectors of one scale have different lengths: [1, 2]
%q = qvit.quantize %x <@"k" : tensor<2x2xf32>, axis = 0> : tensor<2xf32> -> tensor<2xi8>
    expected a vector, found tensor<2x2xf32>
%q = qvit.quantize %x <@"k" : i8, axis = 0> : tensor<2xf32> -> tensor<2xi8>
    expected a tensor type, found i8
%q = qvit.quantize %x <1.0> rounding up : tensor<4xf32> -> tensor<4xi8>
    Expected one of 'floor', 'half_away', 'half_even', 'half_up'
%q = qvit.quantize %x <1.0e+309 : f64> : tensor<2xf32> -> tensor<2xi8>
    a scale's factors must be finite, found inf
%q = qvit.quantize %x <[1.0, 0.0], axis = 0> : tensor<2xf32> -> tensor<2xi8>
    params: a quantizer divides by its scale; it must be positive, found 0.0
%q = qvit.quantize %x <1.0, zero_point = [0, 300], axis = 0> : tensor<2xf32> -> tensor<2xi8>
    result: zero point 300 is outside i8 (-128..127)
%q = qvit.quantize %x <1.0, zero_point = [0, 1.5], axis = 0> : tensor<2xf32> -> tensor<2xi8>
    expected integers of type i32, found 1.5
%q = qvit.quantize %x <1.0, zero_point = [0, 3000000000], axis = 0> : tensor<2xf32> -> tensor<2xui32>
    expected integers of type i32, found 3000000000
%q = qvit.quantize %x <[1, 2] : i8, axis = 0> : tensor<2xf32> -> tensor<2xi8>
    a scale's factors are f32 or f64, found i8
%q = qvit.quantize %x <@"k" : tensor<2xi8>, axis = 0> : tensor<2xf32> -> tensor<2xi8>
    a scale's factors are f32 or f64, found i8
%q = qvit.quantize %x <1.0 : f16> : tensor<2xf32> -> tensor<2xi8>
    a scale's factors are f32 or f64, found f16
%q = qvit.quantize %x <[], axis = 0> : tensor<2xf32> -> tensor<2xi8>
    expected at least one number
%q = qvit.quantize %x <1.0, zero_point = [1.0, 2.0] : f32, axis = 0> : tensor<2xf32> -> tensor<2xi8>
    a zero point is an integer, or a vector of integers; found tensor<2xf32>
%q = qvit.quantize %x <1.0, zero_point = @"k" : tensor<2xf32>, axis = 0> : tensor<2xf32> -> tensor<2xi8>
    a zero point is an integer, or a vector of integers; found tensor<2xf32>
%q = qvit.quantize %x <1.0> : tensor<4xf32> -> tensor<4xui64>
    element type ui64 is none of f32, f64, i1..i64, ui1..ui32
%q = qvit.quantize %x <1.0> : tensor<4xf32> -> tensor<4xui33>
    element type ui33 is none of f32, f64, i1..i64, ui1..ui32
%q = qvit.quantize %x <1.0> : tensor<4xf32> -> tensor<4xi0>
    element type i0 is none of f32, f64, i1..i64, ui1..ui32
%q = qvit.quantize %x <1.0e+39> : tensor<2xf32> -> tensor<2xi8>
    a scale's factors must be finite, 1e+39 is not as f32

# dequantize
%y = qvit.dequantize %q <1.0> : tensor<4xf32> -> tensor<4xf32>
    input: expected a tensor of integers, found tensor<4xf32>
%y = qvit.dequantize %q <1.0> : tensor<4xi8> -> tensor<4xi8>
    result: expected a tensor of f32 or f64, found tensor<4xi8>
%y = qvit.dequantize %q <1.0> : tensor<4xi8> -> tensor<2x2xf32>
    result: expected shape (4,), found (2, 2)
%y = qvit.dequantize %q <1.0, zero_point = 200> : tensor<4xi8> -> tensor<4xf32>
    input: zero point 200 is outside i8 (-128..127)
%y = qvit.dequantize %q <[1.0], axis = 1> : tensor<4x2xi8> -> tensor<4x2xf32>
    input: dimension 1 of tensor<4x2xi8> has 2 elements, the vector has 1
%y = qvit.dequantize %q <[1.0, 1.0e+39], axis = 0> : tensor<2xi8> -> tensor<2xf32>
    a scale's factors must be finite, found inf
%y = qvit.dequantize %q <1.0 / 0.0> : tensor<4xi8> -> tensor<4xf32>
    a scale's denominators must not be 0

# requantize
%y = qvit.requantize %x by #qvit.pot<1> : tensor<4xf32> -> tensor<4xi8>
    input: expected a tensor of integers, found tensor<4xf32>
%y = qvit.requantize %x by #qvit.pot<1> : tensor<4xi8> -> tensor<4xf32>
    result: expected a tensor of integers, found tensor<4xf32>
%y = qvit.requantize %x by #qvit.pot<1> : tensor<4xi8> -> tensor<1x4xi8>
    result: expected shape (4,), found (1, 4)
%y = qvit.requantize %x by #qvit.pot<[1, 2]> : tensor<2xi8> -> tensor<2xi8>
    axis must be given exactly when a parameter is a vector; vectors: form
%y = qvit.requantize %x by #qvit.pot<1> axis 0 : tensor<2xi8> -> tensor<2xi8>
    axis must be given exactly when a parameter is a vector; vectors: none
%y = qvit.requantize %x by #qvit.pot<[1, 2]> axis 0 : tensor<3xi8> -> tensor<3xi8>
    form: dimension 0 of tensor<3xi8> has 3 elements, the vector has 2
%y = qvit.requantize %x by #qvit.pot<[1, 2, 3]> zero_point <[1, 2]> axis 0 : tensor<3xi8> -> tensor<3xi8>
    zero_point: dimension 0 of tensor<3xi8> has 3 elements, the vector has 2
%y = qvit.requantize %x by #qvit.pot<1> input_zero_point <[1, 2]> axis 1 : tensor<2xi8> -> tensor<2xi8>
    input_zero_point: axis 1 is outside the 1 dimensions
%y = qvit.requantize %x by #qvit.pot<1> input_zero_point <128> : tensor<2xi8> -> tensor<2xui8>
    input: zero point 128 is outside i8 (-128..127)
%y = qvit.requantize %x by #qvit.pot<1> zero_point <-1> : tensor<2xi8> -> tensor<2xui8>
    result: zero point -1 is outside ui8 (0..255)
%y = qvit.requantize %x by #qvit.pot<63> : tensor<2xi8> -> tensor<2xi8>
    shift must be in -31..62, found 63
%y = qvit.requantize %x by #qvit.pot<-32> : tensor<2xi8> -> tensor<2xi8>
    shift must be in -31..62, found -32
%y = qvit.requantize %x by #qvit.pot<[62, 63]> axis 0 : tensor<2xi8> -> tensor<2xi8>
    shift must be in -31..62, found 63
%y = qvit.requantize %x by #qvit.dyadic<1, 63> : tensor<2xi8> -> tensor<2xi8>
    shift must be in 0..62, found 63
%y = qvit.requantize %x by #qvit.dyadic<1, -1> : tensor<2xi8> -> tensor<2xi8>
    shift must be in 0..62, found -1
%y = qvit.requantize %x by #qvit.dyadic<2147483648, 1> : tensor<2xi8> -> tensor<2xi8>
    multiplier must be in -2147483647..2147483647, found 2147483648
%y = qvit.requantize %x by #qvit.dyadic<-2147483648, 1> : tensor<2xi8> -> tensor<2xi8>
    multiplier must be in -2147483647..2147483647, found -2147483648
%y = qvit.requantize %x by #qvit.dyadic<[1, -2147483648], 1> axis 0 : tensor<2xi8> -> tensor<2xi8>
    multiplier must be in -2147483647..2147483647, found -2147483648
%y = qvit.requantize %x by #qvit.dyadic<[1, 2], [1, 2, 3]> axis 0 : tensor<2xi8> -> tensor<2xi8>
    vectors of different lengths: [2, 3]
%y = qvit.requantize %x by #qvit.zero_point<1> : tensor<2xi8> -> tensor<2xi8>
    qvit.zero_point<1>
%y = qvit.requantize %x by #qvit.pot<1> zero_point <[0, 300]> axis 0 : tensor<2xi8> -> tensor<2xi8>
    result: zero point 300 is outside i8 (-128..127)
%y = qvit.requantize %x by #qvit.pot<[0, 1.5]> axis 0 : tensor<2xi8> -> tensor<2xi8>
    expected integers of type i32, found 1.5
%y = qvit.requantize %x by #qvit.pot<@"k" : tensor<2xf32>> axis 0 : tensor<2xi8> -> tensor<2xi8>
    shift is an integer, or a vector of integers; found tensor<2xf32>
%y = qvit.requantize %x by #qvit.dyadic<[0.5, 1.5] : f64, 3> axis 0 : tensor<2xi8> -> tensor<2xi8>
    multiplier is an integer, or a vector of integers; found tensor<2xf64>
%y = qvit.requantize %x by #qvit.real<1.0 / 0.0> : tensor<2xi8> -> tensor<2xi8>
    a scale's denominators must not be 0
%y = qvit.requantize %x by #qvit.pot<1> divided_by %z : (tensor<4x2xi32>, tensor<4x1xf32>) -> tensor<4x2xi8>
    divisor: expected a tensor of integers, found tensor<4x1xf32>
%y = qvit.requantize %x by #qvit.pot<1> divided_by %z : (tensor<4x2xi32>, tensor<4x1xi16>) -> tensor<4x2xi8>
    divisor: expected elements of type i32, ui32 or i64, found i16
%y = qvit.requantize %x by #qvit.pot<1> divided_by %z : (tensor<4x2xi32>, tensor<4x3xi32>) -> tensor<4x2xi8>
    shapes (4, 3) and (4, 2) do not broadcast
%y = qvit.requantize %x by #qvit.pot<1> divided_by %z : (tensor<1x2xi32>, tensor<4x1xi32>) -> tensor<1x2xi8>
    divisor: expected a shape that broadcasts to (1, 2), found (4, 1)
%y = qvit.requantize %x by #qvit.pot<1> divided_by %z : (tensor<2xi32>, tensor<1x2xi32>) -> tensor<2xi8>
    divisor: expected a shape that broadcasts to (2,), found (1, 2)

# add_requant
%y = qvit.add_requant %a by #qvit.pot<1>, %b by #qvit.pot<1> : (tensor<4xf32>, tensor<4xi8>) -> tensor<4xi8>
    lhs: expected a tensor of integers, found tensor<4xf32>
%y = qvit.add_requant %a by #qvit.pot<1>, %b by #qvit.pot<1> : (tensor<4xi8>, tensor<4xf32>) -> tensor<4xi8>
    rhs: expected a tensor of integers, found tensor<4xf32>
%y = qvit.add_requant %a by #qvit.pot<1>, %b by #qvit.pot<1> : (tensor<4xi8>, tensor<4xi8>) -> tensor<4xf32>
    result: expected a tensor of integers, found tensor<4xf32>
%y = qvit.add_requant %a by #qvit.pot<1>, %b by #qvit.pot<1> : (tensor<2x4xi8>, tensor<4xi8>) -> tensor<2x4xi8>
    lhs, rhs: expected equal shapes, found (2, 4) and (4,)
%y = qvit.add_requant %a by #qvit.pot<1>, %b by #qvit.pot<1> : (tensor<4xi8>, tensor<4xi8>) -> tensor<5xi8>
    result: expected shape (4,), found (5,)
%y = qvit.add_requant %a by #qvit.pot<1>, %b by #qvit.pot<1> lhs_zero_point <128> : (tensor<4xi8>, tensor<4xi8>) -> tensor<4xi8>
    lhs: zero point 128 is outside i8
%y = qvit.add_requant %a by #qvit.pot<1>, %b by #qvit.pot<1> rhs_zero_point <128> : (tensor<4xi8>, tensor<4xi8>) -> tensor<4xi8>
    rhs: zero point 128 is outside i8
%y = qvit.add_requant %a by #qvit.pot<1>, %b by #qvit.pot<1> zero_point <128> : (tensor<4xi8>, tensor<4xi8>) -> tensor<4xi8>
    result: zero point 128 is outside i8
%y = qvit.add_requant %a by #qvit.pot<1>, %b by #qvit.pot<1> rhs_zero_point <[1, 2]> : (tensor<2xi8>, tensor<2xi8>) -> tensor<2xi8>
    rhs: expected one zero point for the whole tensor
%y = qvit.add_requant %a by #qvit.pot<1>, %b by #qvit.pot<[1, 2]> : (tensor<2xi8>, tensor<2xi8>) -> tensor<2xi8>
    axis must be given exactly when a form has a vector
%y = qvit.add_requant %a by #qvit.pot<1>, %b by #qvit.pot<1> axis 0 : (tensor<2xi8>, tensor<2xi8>) -> tensor<2xi8>
    axis must be given exactly when a form has a vector
%y = qvit.add_requant %a by #qvit.pot<1>, %b by #qvit.pot<[1, 2]> axis 0 : (tensor<3xi8>, tensor<3xi8>) -> tensor<3xi8>
    rhs_form: dimension 0 of tensor<3xi8> has 3 elements, the vector has 2
%y = qvit.add_requant %a by #qvit.real<[1.0, 2.0]>, %b by #qvit.pot<1> : (tensor<2xi8>, tensor<2xi8>) -> tensor<2xi8>
    axis must be given exactly when a form has a vector
%y = qvit.add_requant %a by #qvit.zero_point<1>, %b by #qvit.pot<1> : (tensor<3xi8>, tensor<3xi8>) -> tensor<3xi8>
    #qvit.zero_point<1>
%y = qvit.add_requant %a by #qvit.pot<1>, %b by #qvit.zero_point<1> : (tensor<3xi8>, tensor<3xi8>) -> tensor<3xi8>
    #qvit.zero_point<1>

# threshold
%q = qvit.threshold %x, %t lowest 0 : (tensor<4xf32>, tensor<3xi8>) -> tensor<4xi8>
    input: expected a tensor of integers
%q = qvit.threshold %x, %t lowest 0 : (tensor<4xi8>, tensor<3xf32>) -> tensor<4xi8>
    thresholds: expected a tensor of integers
%q = qvit.threshold %x, %t lowest 0 : (tensor<4xi8>, tensor<3xi8>) -> tensor<4xf32>
    result: expected a tensor of integers
%q = qvit.threshold %x, %t lowest 0 : (tensor<4xi8>, tensor<3xi8>) -> tensor<3xi8>
    result: expected shape (4,), found (3,)
%q = qvit.threshold %x, %t lowest 0 : (tensor<4xi8>, tensor<4x3xi8>) -> tensor<4xi8>
    thresholds: expected [levels], or [dimension, levels] with an axis, found shape (4, 3)
%q = qvit.threshold %x, %t lowest 0 axis 0 : (tensor<4xi8>, tensor<3xi8>) -> tensor<4xi8>
    thresholds: expected [levels], or [dimension, levels] with an axis, found shape (3,)
%q = qvit.threshold %x, %t lowest 0 axis 0 : (tensor<4xi8>, tensor<3x2xi8>) -> tensor<4xi8>
    input: dimension 0 of tensor<4xi8> has 4 elements, the vector has 3
%q = qvit.threshold %x, %t lowest -1 : (tensor<4xi8>, tensor<3xi8>) -> tensor<4xui2>
    result: codes -1..2 do not fit ui2 (0..3)
%q = qvit.threshold %x, %t lowest 1 : (tensor<4xi8>, tensor<3xi8>) -> tensor<4xui2>
    result: codes 1..4 do not fit ui2 (0..3)

# matmul
%c = qvit.matmul %a, %b : (tensor<3xi8>, tensor<3x4xi8>) -> tensor<4xi32>
    lhs, rhs: expected at least two dimensions, found (3,) and (3, 4)
%c = qvit.matmul %a, %b : (tensor<2x3xi8>, tensor<3xi8>) -> tensor<2xi32>
    lhs, rhs: expected at least two dimensions, found (2, 3) and (3,)
%c = qvit.matmul %a, %b : (tensor<2x3xi8>, tensor<4x3xi8>) -> tensor<2x3xi32>
    lhs, rhs: contracted dimensions differ: 3 in (2, 3), 4 in (4, 3)
%c = qvit.matmul %a, %b : (tensor<2x2x3xi8>, tensor<3x3x4xi8>) -> tensor<2x2x4xi32>
    shapes (2,) and (3,) do not broadcast
%c = qvit.matmul %a, %b : (tensor<2x3xi8>, tensor<3x4xi8>) -> tensor<4x2xi32>
    result: expected shape (2, 4), found (4, 2)
%c = qvit.matmul %a, %b : (tensor<2x3xi8>, tensor<3x4xi8>) -> tensor<2x4xi16>
    result: integers accumulate in i32 or i64, found i16
%c = qvit.matmul %a, %b : (tensor<2x3xi8>, tensor<3x4xi8>) -> tensor<2x4xui32>
    result: integers accumulate in i32 or i64, found ui32
%c = qvit.matmul %a, %b : (tensor<2x3xi8>, tensor<3x4xi8>) -> tensor<2x4xf32>
    result: integers accumulate in i32 or i64, found f32
%c = qvit.matmul %a, %b : (tensor<2x3xi8>, tensor<3x4xf32>) -> tensor<2x4xf32>
    operands must be all floats or all integers, found lhs i8, rhs f32
%c = qvit.matmul %a, %b : (tensor<2x3xf32>, tensor<3x4xf64>) -> tensor<2x4xf32>
    element types differ: lhs f32, rhs f64, result f32
%c = qvit.matmul %a, %b : (tensor<2x3xf32>, tensor<3x4xf32>) -> tensor<2x4xi32>
    result: expected a tensor of f32 or f64, found tensor<2x4xi32>
%c = qvit.matmul %a, %b lhs_zero_point <1> : (tensor<2x3xf32>, tensor<3x4xf32>) -> tensor<2x4xf32>
    lhs_zero_point: zero points belong to integer operands
%c = qvit.matmul %a, %b rhs_zero_point <128> : (tensor<2x3xui8>, tensor<3x4xi8>) -> tensor<2x4xi32>
    rhs_zero_point: zero point 128 is outside i8 (-128..127)
%c = qvit.matmul %a, %b lhs_zero_point <[1, 2]> : (tensor<2x3xi8>, tensor<3x4xi8>) -> tensor<2x4xi32>
    lhs_zero_point: only one zero point for the whole tensor is possible here
%c = qvit.matmul %a, %b rhs_zero_point <[1, 2, 3]> : (tensor<2x3xi8>, tensor<3x4xi8>) -> tensor<2x4xi32>
    rhs_zero_point: dimension 1 of tensor<3x4xi8> has 4 elements, the vector has 3
%c = qvit.matmul %a, %b rhs_zero_point <[0, 300]> : (tensor<2x3xi8>, tensor<3x2xi8>) -> tensor<2x2xi32>
    rhs_zero_point: zero point 300 is outside i8 (-128..127)

# shift_matmul
%c = qvit.shift_matmul %q, %v : (tensor<2x3xi8>, tensor<3x4xi8>) -> tensor<2x4xi32>
    lhs: expected elements of type ui5, found i8
%c = qvit.shift_matmul %q, %v : (tensor<2x3xui5>, tensor<3x4xf32>) -> tensor<2x4xi32>
    rhs: expected a tensor of integers, found tensor<3x4xf32>
%c = qvit.shift_matmul %q, %v : (tensor<2x3xui5>, tensor<3x4xi8>) -> tensor<2x4xi16>
    result: integers accumulate in i32 or i64, found i16
%c = qvit.shift_matmul %q, %v : (tensor<2x3xui5>, tensor<3x4xi8>) -> tensor<2x4xf32>
    result: integers accumulate in i32 or i64, found f32
%c = qvit.shift_matmul %q, %v : (tensor<2x3xui5>, tensor<4x3xi8>) -> tensor<2x3xi32>
    lhs, rhs: contracted dimensions differ: 3 in (2, 3), 4 in (4, 3)
%c = qvit.shift_matmul %q, %v : (tensor<2x3xui5>, tensor<3x4xi8>) -> tensor<4x2xi32>
    result: expected shape (2, 4), found (4, 2)
%c = qvit.shift_matmul %q, %v rhs_zero_point <128> : (tensor<2x3xui5>, tensor<3x4xi8>) -> tensor<2x4xi32>
    rhs_zero_point: zero point 128 is outside i8 (-128..127)
%c = qvit.shift_matmul %q, %v rhs_zero_point <[1, 2, 3]> : (tensor<2x3xui5>, tensor<3x4xi8>) -> tensor<2x4xi32>
    rhs_zero_point: dimension 1 of tensor<3x4xi8> has 4 elements, the vector has 3

# linear
%y = qvit.linear %x, %w : (tensor<2x3xi8>, tensor<3xi8>) -> tensor<2xi32>
    weight: expected [outputs, inputs], found shape (3,)
%y = qvit.linear %x, %w : (tensor<i8>, tensor<3x1xi8>) -> tensor<3xi32>
    input: expected at least one dimension, found a scalar
%y = qvit.linear %x, %w : (tensor<2x3xi8>, tensor<3x4xi8>) -> tensor<2x4xi32>
    input, weight: contracted dimensions differ: 3 in (2, 3), 4 in (3, 4)
%y = qvit.linear %x, %w : (tensor<2x3xi8>, tensor<4x3xi8>) -> tensor<4xi32>
    result: expected shape (2, 4), found (4,)
%y = qvit.linear %x, %w, %b : (tensor<2x3xi8>, tensor<4x3xi8>, tensor<4xi64>) -> tensor<2x4xi32>
    bias: expected tensor<4xi32>, found tensor<4xi64>
%y = qvit.linear %x, %w, %b : (tensor<2x3xf32>, tensor<4x3xf32>, tensor<1xf32>) -> tensor<2x4xf32>
    bias: expected tensor<4xf32>, found tensor<1xf32>
%y = qvit.linear %x, %w : (tensor<2x3xi8>, tensor<4x3xf32>) -> tensor<2x4xi32>
    operands must be all floats or all integers, found input i8, weight f32
%y = qvit.linear %x, %w : (tensor<2x3xi8>, tensor<4x3xi8>) -> tensor<2x4xi8>
    result: integers accumulate in i32 or i64, found i8
%y = qvit.linear %x, %w input_zero_point <-129> : (tensor<2x3xi8>, tensor<4x3xi8>) -> tensor<2x4xi32>
    input_zero_point: zero point -129 is outside i8 (-128..127)
%y = qvit.linear %x, %w input_zero_point <[1, 2, 3]> : (tensor<2x3xi8>, tensor<4x3xi8>) -> tensor<2x4xi32>
    input_zero_point: only one zero point for the whole tensor is possible here
%y = qvit.linear %x, %w weight_zero_point <[1, 2, 3]> : (tensor<2x3xi8>, tensor<4x3xi8>) -> tensor<2x4xi32>
    weight_zero_point: dimension 0 of tensor<4x3xi8> has 4 elements, the vector has 3
%y = qvit.linear %x, %w weight_zero_point <1> : (tensor<2x3xf32>, tensor<4x3xf32>) -> tensor<2x4xf32>
    weight_zero_point: zero points belong to integer operands

# conv2d
%y = qvit.conv2d %x, %w : (tensor<1x4x4xi8>, tensor<1x1x2x2xi8>) -> tensor<1x3x3xi32>
    input, weight: expected 4 dimensions, found (1, 4, 4) and (1, 1, 2, 2)
%y = qvit.conv2d %x, %w : (tensor<1x3x4x4xi8>, tensor<2x1x2x2xi8>) -> tensor<1x2x3x3xi32>
    input, weight: 3 input and 2 output channels in 1 groups do not fit (2, 1, 2, 2)
%y = qvit.conv2d %x, %w {groups = 2 : i64} : (tensor<1x2x4x4xi8>, tensor<3x1x2x2xi8>) -> tensor<1x3x3x3xi32>
    input, weight: 2 input and 3 output channels in 2 groups do not fit (3, 1, 2, 2)
%y = qvit.conv2d %x, %w {dilations = array<i64: 4, 1>} : (tensor<1x1x4x4xi8>, tensor<1x1x2x2xi8>) -> tensor<1x1x1x3xi32>
    input: (1, 1, 4, 4) with padding [0, 0, 0, 0] is smaller than the kernel's reach 5
%y = qvit.conv2d %x, %w {strides = array<i64: 0, 1>} : (tensor<1x1x4x4xi8>, tensor<1x1x2x2xi8>) -> tensor<1x1x3x3xi32>
    strides: expected 2 numbers, at least 1, found [0, 1]
%y = qvit.conv2d %x, %w {strides = array<i64: 1>} : (tensor<1x1x4x4xi8>, tensor<1x1x2x2xi8>) -> tensor<1x1x3x3xi32>
    strides: expected 2 numbers, at least 1, found [1]
%y = qvit.conv2d %x, %w {padding = array<i64: 0, 0, -1, 0>} : (tensor<1x1x4x4xi8>, tensor<1x1x2x2xi8>) -> tensor<1x1x3x3xi32>
    padding: expected 4 numbers, at least 0, found [0, 0, -1, 0]
%y = qvit.conv2d %x, %w {padding = array<i64: 1, 1>} : (tensor<1x1x4x4xi8>, tensor<1x1x2x2xi8>) -> tensor<1x1x3x3xi32>
    padding: expected 4 numbers, at least 0, found [1, 1]
%y = qvit.conv2d %x, %w {dilations = array<i64: 1, 0>} : (tensor<1x1x4x4xi8>, tensor<1x1x2x2xi8>) -> tensor<1x1x3x3xi32>
    dilations: expected 2 numbers, at least 1, found [1, 0]
%y = qvit.conv2d %x, %w {groups = 0 : i64} : (tensor<1x1x4x4xi8>, tensor<1x1x2x2xi8>) -> tensor<1x1x3x3xi32>
    groups: expected at least 1, found 0
%y = qvit.conv2d %x, %w : (tensor<1x1x4x4xi8>, tensor<1x1x2x2xi8>) -> tensor<1x1x4x4xi32>
    result: expected shape (1, 1, 3, 3), found (1, 1, 4, 4)
%y = qvit.conv2d %x, %w, %b : (tensor<1x1x4x4xi8>, tensor<1x1x2x2xi8>, tensor<1xi8>) -> tensor<1x1x3x3xi32>
    bias: expected tensor<1xi32>, found tensor<1xi8>
%y = qvit.conv2d %x, %w : (tensor<1x1x4x4xi8>, tensor<1x1x2x2xf32>) -> tensor<1x1x3x3xi32>
    operands must be all floats or all integers, found input i8, weight f32
%y = qvit.conv2d %x, %w input_zero_point <200> : (tensor<1x1x4x4xi8>, tensor<1x1x2x2xi8>) -> tensor<1x1x3x3xi32>
    input_zero_point: zero point 200 is outside i8
%y = qvit.conv2d %x, %w weight_zero_point <[1, 2]> : (tensor<1x1x4x4xi8>, tensor<1x1x2x2xi8>) -> tensor<1x1x3x3xi32>
    weight_zero_point: dimension 0 of tensor<1x1x2x2xi8> has 1 elements, the vector has 2

# conv_transpose2d
%y = qvit.conv_transpose2d %x, %w : (tensor<1x1x4x4xi8>, tensor<1x1x2x2xi8>) -> tensor<1x1x5x5xi8>
    input: expected a tensor of f32 or f64, found tensor<1x1x4x4xi8>
%y = qvit.conv_transpose2d %x, %w : (tensor<1x4x4xf32>, tensor<1x1x2x2xf32>) -> tensor<1x5x5xf32>
    input, weight: expected 4 dimensions, found (1, 4, 4) and (1, 1, 2, 2)
%y = qvit.conv_transpose2d %x, %w : (tensor<1x2x4x4xf32>, tensor<1x1x2x2xf32>) -> tensor<1x1x5x5xf32>
    input, weight: 2 input channels in 1 groups do not fit (1, 1, 2, 2)
%y = qvit.conv_transpose2d %x, %w {groups = 2 : i64} : (tensor<1x3x4x4xf32>, tensor<3x1x2x2xf32>) -> tensor<1x2x5x5xf32>
    input, weight: 3 input channels in 2 groups do not fit (3, 1, 2, 2)
%y = qvit.conv_transpose2d %x, %w : (tensor<1x1x4x4xf32>, tensor<1x1x2x2xf32>) -> tensor<1x1x8x8xf32>
    result: expected shape (1, 1, 5, 5), found (1, 1, 8, 8)
%y = qvit.conv_transpose2d %x, %w {strides = array<i64: 2, -1>} : (tensor<1x1x4x4xf32>, tensor<1x1x2x2xf32>) -> tensor<1x1x8x8xf32>
    strides: expected 2 numbers, at least 1, found [2, -1]
%y = qvit.conv_transpose2d %x, %w, %b : (tensor<1x1x4x4xf32>, tensor<1x3x2x2xf32>, tensor<1xf32>) -> tensor<1x3x5x5xf32>
    bias: expected tensor<3xf32>, found tensor<1xf32>
%y = qvit.conv_transpose2d %x, %w {output_padding = array<i64: 1>} : (tensor<1x1x4x4xf32>, tensor<1x1x2x2xf32>) -> tensor<1x1x6x5xf32>
    output_padding: expected 2 numbers, at least 0, found [1]
%y = qvit.conv_transpose2d %x, %w {output_padding = array<i64: -1, 0>} : (tensor<1x1x4x4xf32>, tensor<1x1x2x2xf32>) -> tensor<1x1x4x5xf32>
    output_padding: expected 2 numbers, at least 0, found [-1, 0]
%y = qvit.conv_transpose2d %x, %w {padding = array<i64: 1, 1, 1, 1>} : (tensor<1x1x1x1xf32>, tensor<1x1x1x1xf32>) -> tensor<1x1x0x0xf32>
    padding: [1, 1, 1, 1] leaves nothing of the 1 x 1 pixels
%y = qvit.conv_transpose2d %x, %w {padding = array<i64: 0, 0, 1, 0>} : (tensor<1x1x1x2xf32>, tensor<1x1x1x1xf32>) -> tensor<1x1x0x2xf32>
    padding: [0, 0, 1, 0] leaves nothing of the 1 x 2 pixels
%y = qvit.conv_transpose2d %x, %w {padding = array<i64: 1, 0>} : (tensor<1x1x1x1xf32>, tensor<1x1x1x1xf32>) -> tensor<1x1x0x0xf32>
    padding: expected 4 numbers, at least 0, found [1, 0]
%y = qvit.conv_transpose2d %x, %w {groups = 0 : i64} : (tensor<1x1x1x1xf32>, tensor<1x1x1x1xf32>) -> tensor<1x1x1x1xf32>
    groups: expected at least 1, found 0
%y = qvit.conv_transpose2d %x, %w {dilations = array<i64: 0, 1>} : (tensor<1x1x1x1xf32>, tensor<1x1x1x1xf32>) -> tensor<1x1x1x1xf32>
    dilations: expected 2 numbers, at least 1, found [0, 1]

# elementwise
%y = qvit.add %a, %b : (tensor<4xi8>, tensor<4xf32>) -> tensor<4xi32>
    operands must be all floats or all integers, found lhs i8, rhs f32
%y = qvit.sub %a, %b : (tensor<4xi8>, tensor<4xi8>) -> tensor<4xi8>
    result: integers accumulate in i32 or i64, found i8
%y = qvit.mul %a, %b : (tensor<4xf32>, tensor<4xf64>) -> tensor<4xf64>
    element types differ: lhs f32, rhs f64, result f64
%y = qvit.add %a, %b : (tensor<4xf32>, tensor<3xf32>) -> tensor<4xf32>
    shapes (4,) and (3,) do not broadcast
%y = qvit.mul %a, %b : (tensor<4x1xf32>, tensor<3xf32>) -> tensor<4x1xf32>
    result: expected shape (4, 3), found (4, 1)
%y = qvit.div %a, %b : (tensor<4xi8>, tensor<4xi8>) -> tensor<4xi8>
    lhs: expected a tensor of f32 or f64, found tensor<4xi8>
%y = qvit.pow %a, %b : (tensor<4xf32>, tensor<2xf32>) -> tensor<4xf32>
    shapes (4,) and (2,) do not broadcast
%y = qvit.div %a, %b : (tensor<4xf32>, tensor<1xf32>) -> tensor<1xf32>
    result: expected shape (4,), found (1,)
%y = qvit.pow %a, %b : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf64>
    element types differ: lhs f32, rhs f32, result f64
%y = qvit.sqrt %x : tensor<4xi8>
    input: expected a tensor of f32 or f64, found tensor<4xi8>
%y = qvit.erf %x : tensor<4xi8>
    input: expected a tensor of f32 or f64, found tensor<4xi8>
%y = qvit.tanh %x : tensor<4xi8>
    input: expected a tensor of f32 or f64, found tensor<4xi8>
%y = qvit.sigmoid %x : tensor<4xi8>
    input: expected a tensor of f32 or f64, found tensor<4xi8>
%y = qvit.relu %x : tensor<4xi8>
    input: expected a tensor of f32 or f64, found tensor<4xi8>
%y = qvit.gelu %x : tensor<4xi8>
    input: expected a tensor of f32 or f64, found tensor<4xi8>

# clip, compare, select
%y = qvit.clip %x {low = 1.0 : f64, high = 0.5 : f64} : tensor<4xf32>
    bounds: expected low <= high, found 1.0 and 0.5
%y = qvit.clip %x {low = 1 : i64, high = 0 : i64} : tensor<4xi8>
    bounds: expected low <= high, found 1 and 0
%y = qvit.clip %x {high = 0x7FF8000000000000 : f64} : tensor<4xf32>
    high: expected a float, found
%y = qvit.clip %x {low = 0 : i64} : tensor<4xf32>
    low: expected a float, found 0 : i64
%y = qvit.clip %x {low = -9 : i64} : tensor<4xi4>
    low: expected an integer of i4 (-8..7), found -9 : i64
%y = qvit.clip %x {high = 8 : i64} : tensor<4xi4>
    high: expected an integer of i4 (-8..7), found 8 : i64
%y = qvit.clip %x {low = 1.0 : f64} : tensor<4xi4>
    low: expected an integer of i4 (-8..7), found 1.000000e+00 : f64
%y = qvit.clip %x {low = dense<[-2, -9]> : tensor<2xi64>, axis = 0 : i64} : tensor<2xi4>
    low: expected an integer of i4 (-8..7), found dense<[-2, -9]>
%y = qvit.clip %x {low = dense<[1, 2]> : tensor<2xi64>, high = 1 : i64, axis = 0 : i64} : tensor<2xi4>
    bounds: expected low <= high, found [1 2] and 1
%y = qvit.clip %x {low = dense<[1, 2]> : tensor<2xi32>, axis = 0 : i64} : tensor<2xi4>
    low: expected a vector of i64, found tensor<2xi32>
%y = qvit.clip %x {low = dense<[1.0, 2.0]> : tensor<2xf64>, axis = 0 : i64} : tensor<2xf32>
    low: expected a float, found
%y = qvit.clip %x {low = dense<[1, 2]> : tensor<2xi64>, axis = 1 : i64} : tensor<2x3xi4>
    low: dimension 1 of tensor<2x3xi4> has 3 elements, the vector has 2
%y = qvit.clip %x {low = dense<[1, 2]> : tensor<2xi64>, axis = 2 : i64} : tensor<2x3xi4>
    low: axis 2 is outside the 2 dimensions
%y = qvit.clip %x {low = dense<[1, 2]> : tensor<2xi64>} : tensor<2x3xi4>
    axis must be given exactly when a bound is a vector
%y = qvit.clip %x {low = 1 : i64, axis = 0 : i64} : tensor<2x3xi4>
    axis must be given exactly when a bound is a vector
%y = qvit.clip %x : tensor<4xf16>
    element type f16 is none of f32, f64, i1..i64, ui1..ui32
%y = qvit.compare %a, %b {predicate = "slt"} : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xui1>
    predicate: expected one of eq, ne, lt, le, gt, ge, found 'slt'
%y = qvit.compare %a, %b {predicate = "lt"} : (tensor<4xf32>, tensor<4xi8>) -> tensor<4xui1>
    rhs: expected elements of type f32, found i8
%y = qvit.compare %a, %b {predicate = "lt"} : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xi1>
    result: expected elements of type ui1, found i1
%y = qvit.compare %a, %b {predicate = "lt"} : (tensor<4xf32>, tensor<4xf32>) -> tensor<1xui1>
    result: expected shape (4,), found (1,)
%y = qvit.compare %a, %b {predicate = "lt"} : (tensor<4xf32>, tensor<3xf32>) -> tensor<4xui1>
    shapes (4,) and (3,) do not broadcast
%y = qvit.compare %a, %b {predicate = "lt"} : (tensor<4xf16>, tensor<4xf16>) -> tensor<4xui1>
    element type f16 is none of
%y = qvit.select %c, %a, %b : (tensor<4xi1>, tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
    condition: expected elements of type ui1, found i1
%y = qvit.select %c, %a, %b : (tensor<4xui1>, tensor<4xf32>, tensor<4xf64>) -> tensor<4xf32>
    rhs: expected elements of type f32, found f64
%y = qvit.select %c, %a, %b : (tensor<4xui1>, tensor<4xi8>, tensor<4xi8>) -> tensor<4xi32>
    result: expected elements of type i8, found i32
%y = qvit.select %c, %a, %b : (tensor<4xui1>, tensor<4xf16>, tensor<4xf16>) -> tensor<4xf16>
    element type f16 is none of
%y = qvit.select %c, %a, %b : (tensor<4xui1>, tensor<4xi8>, tensor<i8>) -> tensor<2x4xi8>
    result: expected shape (4,), found (2, 4)
%y = qvit.select %c, %a, %b : (tensor<4xui1>, tensor<3xi8>, tensor<i8>) -> tensor<4xi8>
    shapes (4,) and (3,) and () do not broadcast

# float functions
%y = qvit.softmax %x axis 1 : tensor<4xf32>
    axis: 1 is outside the 1 dimensions of tensor<4xf32>
%y = qvit.softmax %x axis -1 : tensor<4xf32>
    axis: -1 is outside the 1 dimensions of tensor<4xf32>
%y = qvit.softmax %x axis 0 : tensor<4xi8>
    input: expected a tensor of f32 or f64, found tensor<4xi8>
%y = qvit.layer_norm %x, %g axis 1 epsilon 1.0 : (tensor<2x3xi8>, tensor<3xi8>) -> tensor<2x3xi8>
    input: expected a tensor of f32 or f64
%y = qvit.layer_norm %x, %g axis 1 epsilon 1.0 : (tensor<2x3xf32>, tensor<3xf64>) -> tensor<2x3xf32>
    element types differ: input f32, gamma f64, result f32
%y = qvit.layer_norm %x, %g axis 1 epsilon 1.0 : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<6xf32>
    result: expected shape (2, 3), found (6,)
%y = qvit.layer_norm %x, %g axis 2 epsilon 1.0 : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<2x3xf32>
    axis: 2 is outside the 2 dimensions
%y = qvit.layer_norm %x, %g axis 0 epsilon 1.0 : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<2x3xf32>
    gamma: expected shape (2, 3), found (3,)
%y = qvit.layer_norm %x, %g, %b axis 1 epsilon 1.0 : (tensor<2x3xf32>, tensor<3xf32>, tensor<1xf32>) -> tensor<2x3xf32>
    beta: expected shape (3,), found (1,)
%y = qvit.layer_norm %x, %g axis 1 epsilon -1.0 : (tensor<2x3xf32>, tensor<3xf32>) -> tensor<2x3xf32>
    epsilon: expected at least 0, found -1.0
%y = qvit.batch_norm %x, %p, %p, %p, %p epsilon 1.0 : (tensor<2x3xi8>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>) -> tensor<2x3xi8>
    input: expected a tensor of f32 or f64
%y = qvit.batch_norm %x, %p, %p, %p, %p epsilon 1.0 : (tensor<3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>
    input: expected a channel dimension 1, found tensor<3xf32>
%y = qvit.batch_norm %x, %p, %p, %p, %v epsilon 1.0 : (tensor<2x3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<2xf32>) -> tensor<2x3xf32>
    variance: expected [3], found tensor<2xf32>
%y = qvit.batch_norm %x, %p, %p, %p, %p epsilon 1.0 : (tensor<2x3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>) -> tensor<6xf32>
    result: expected shape (2, 3), found (6,)
%y = qvit.batch_norm %x, %p, %p, %p, %p epsilon -1.0 : (tensor<2x3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>) -> tensor<2x3xf32>
    epsilon: expected at least 0, found -1.0
%y = qvit.reduce_mean %x {axes = array<i64: 2>, keepdims = true} : tensor<2x3xf32> -> tensor<2x1xf32>
    axis: 2 is outside the 2 dimensions of tensor<2x3xf32>
%y = qvit.reduce_mean %x {axes = array<i64: 1>, keepdims = true} : tensor<2x3xf32> -> tensor<2xf32>
    result: expected shape (2, 1), found (2,)
%y = qvit.reduce_mean %x {axes = array<i64: 1>, keepdims = false} : tensor<2x3xf32> -> tensor<2x1xf32>
    result: expected shape (2,), found (2, 1)
%y = qvit.reduce_mean %x {axes = array<i64: 1>, keepdims = true} : tensor<2x3xi8> -> tensor<2x1xi8>
    input: expected a tensor of f32 or f64
%y = qvit.reduce_mean %x {axes = array<i64: 1, 1>, keepdims = true} : tensor<2x3xf32> -> tensor<2x1xf32>
    axes: expected different ones, found [1, 1]
%y = qvit.reduce_sum %x {axes = array<i64: 1>, keepdims = true} : tensor<2x3xf32> -> tensor<2x1xf32>
    input: expected a tensor of integers, found tensor<2x3xf32>
%y = qvit.reduce_sum %x {axes = array<i64: 1>, keepdims = true} : tensor<2x3xi8> -> tensor<2x1xi16>
    result: integers accumulate in i32 or i64, found i16
%y = qvit.reduce_sum %x {axes = array<i64: 2>, keepdims = true} : tensor<2x3xi8> -> tensor<2x1xi32>
    axis: 2 is outside the 2 dimensions of tensor<2x3xi8>
%y = qvit.reduce_sum %x {axes = array<i64: 1, 1>, keepdims = true} : tensor<2x3xi8> -> tensor<2x1xi32>
    axes: expected different ones, found [1, 1]
%y = qvit.reduce_sum %x {axes = array<i64: 1>, keepdims = false} : tensor<2x3xi8> -> tensor<2x1xi32>
    result: expected shape (2,), found (2, 1)
%y = qvit.argmax %x {axis = 1 : i64, keepdims = true} : tensor<2x3xbf16> -> tensor<2x1xi64>
    element type bf16 is none of f32, f64, i1..i64, ui1..ui32
%y = qvit.argmax %x {axis = 1 : i64, keepdims = true} : tensor<2x3xi8> -> tensor<2x1xi8>
    result: expected elements of type i64, found i8
%y = qvit.argmax %x {axis = 2 : i64, keepdims = true} : tensor<2x3xi8> -> tensor<2x1xi64>
    axis: 2 is outside the 2 dimensions of tensor<2x3xi8>
%y = qvit.argmax %x {axis = 1 : i64, keepdims = true} : tensor<2x3xi8> -> tensor<2xi64>
    result: expected shape (2, 1), found (2,)
%y = qvit.argmax %x {axis = 1 : i64, keepdims = false} : tensor<2x0xi8> -> tensor<2xi64>
    input: axis 1 of tensor<2x0xi8> has no element
%y = qvit.resize %x {mode = "linear", coordinates = "asymmetric", scales = array<f64: 2.0, 2.0>} : tensor<2x2xi8> -> tensor<4x4xi8>
    input: expected a tensor of f32 or f64
%y = qvit.resize %x {mode = "linear", coordinates = "asymmetric", scales = array<f64: 2.0, 2.0>} : tensor<1x2x2xf32> -> tensor<2x4x4xf32>
    result: only the last two dimensions of (1, 2, 2) may change, found (2, 4, 4)
%y = qvit.resize %x {mode = "linear", coordinates = "asymmetric", scales = array<f64: 2.0, 2.0>} : tensor<2xf32> -> tensor<4xf32>
    result: only the last two dimensions of (2,) may change, found (4,)
%y = qvit.resize %x {mode = "area", coordinates = "asymmetric", scales = array<f64: 2.0, 2.0>} : tensor<2x2xf32> -> tensor<4x4xf32>
    mode: expected one of ('nearest', 'nearest_floor', 'linear', 'cubic'), found 'area'
%y = qvit.resize %x {mode = "linear", coordinates = "corners", scales = array<f64: 2.0, 2.0>} : tensor<2x2xf32> -> tensor<4x4xf32>
    coordinates: expected one of ('half_pixel', 'pytorch_half_pixel', 'align_corners', 'asymmetric'), found 'corners'
%y = qvit.resize %x {mode = "linear", coordinates = "asymmetric", scales = array<f64: 2.0, 0.0>} : tensor<2x2xf32> -> tensor<4x4xf32>
    scales: expected two positive numbers, found (2.0, 0.0)
%y = qvit.resize %x {mode = "linear", coordinates = "asymmetric", scales = array<f64: 2.0>} : tensor<2x2xf32> -> tensor<4x4xf32>
    scales: expected two positive numbers, found (2.0,)
%y = qvit.resize %x {mode = "linear", coordinates = "asymmetric", scales = array<f64: 2.0, 2.0>} : tensor<2x2xf32> -> tensor<4xf32>
    result: only the last two dimensions of (2, 2) may change, found (4,)

# integer functions
%y = qvit.int_softmax %x tables(%t : tensor<256xui16>) by #qvit.sm8<top = 255> : (tensor<4xf32>) -> tensor<4xui8>
    input: expected a tensor of integers, found tensor<4xf32>
%y = qvit.int_softmax %x tables(%t : tensor<256xui16>) by #qvit.table<lowest = 0> : (tensor<4xi8>) -> tensor<4xui8>
    approximation: table is not one of softmax
%y = qvit.int_softmax %x tables(%t : tensor<256xui16>) by #qvit.sm8<top = 256> : (tensor<4xi8>) -> tensor<4xui8>
    sm8: top, the result for a probability of 1, must be in 1..255, found 256
%y = qvit.int_softmax %x tables(%t : tensor<256xui16>) by #qvit.sm8 : (tensor<4xi8>) -> tensor<4xui8>
    sm8: expected the parameters top; found none
%y = qvit.int_softmax %x by #qvit.sm8<top = 255> : (tensor<4xi8>) -> tensor<4xui8>
    tables: sm8 takes 1 (exponentials), found 0
%y = qvit.int_softmax %x tables(%t : tensor<256xf32>) by #qvit.sm8<top = 255> : (tensor<4xi8>) -> tensor<4xui8>
    exponentials: expected a tensor of integers, found tensor<256xf32>
%y = qvit.int_softmax %x tables(%t : tensor<2x128xui16>) by #qvit.sm8<top = 255> : (tensor<4xi8>) -> tensor<4xui8>
    exponentials: expected a vector, found tensor<2x128xui16>
%y = qvit.int_softmax %x tables(%t : tensor<256xui16>) by #qvit.sm8<top = 255> : (tensor<i8>) -> tensor<ui8>
    input: expected at least one dimension, found a scalar
%y = qvit.int_softmax %x tables(%t : tensor<256xui16>) by #qvit.sm8<top = 255> : (tensor<4xi8>) -> tensor<4xf32>
    result: expected a tensor of integers, found tensor<4xf32>
%y = qvit.int_softmax %x tables(%t : tensor<256xui16>) by #qvit.sm8<top = 255> : (tensor<4xi8>) -> tensor<1xui8>
    result: expected shape (4,), found (1,)
%y, %z = qvit.int_softmax %x tables(%t : tensor<256xui16>) by #qvit.sm8<top = 255> : (tensor<4xi8>) -> (tensor<4xui8>, tensor<1xi32>)
    results: sm8 has 1, found 2
%y = qvit.int_softmax %x tables(%t : tensor<256xui16>) by #qvit.sm8_late : (tensor<4xi8>) -> tensor<4xui8>
    results: sm8_late has 2, found 1
%y, %z = qvit.int_softmax %x tables(%t : tensor<256xui16>) by #qvit.sm8_late : (tensor<3x4xi8>) -> (tensor<3x4xui8>, tensor<3xi32>)
    result: expected shape (3, 1), found (3,)
%y = qvit.int_softmax %x tables(%t : tensor<256xui16>) mask(%m : tensor<4xi8>) by #qvit.sm8<top = 255> : (tensor<4xi8>) -> tensor<4xui8>
    mask: expected elements of type ui1, found i8
%y = qvit.int_softmax %x tables(%t : tensor<256xui16>) mask(%m : tensor<2x4xui1>) by #qvit.sm8<top = 255> : (tensor<4xi8>) -> tensor<4xui8>
    mask: (2, 4) does not broadcast to (4,)
%y = qvit.int_softmax %x tables(%t : tensor<256xui16>) mask(%m : tensor<3xui1>) by #qvit.sm8<top = 255> : (tensor<4xi8>) -> tensor<4xui8>
    shapes (3,) and (4,) do not broadcast
%y = qvit.int_function %x tables(%t : tensor<256xi8>) by #qvit.ln<guard = 1, epsilon = 0> : (tensor<4xi8>) -> tensor<4xi8>
    approximation: ln is not one of elementwise functions
%y = qvit.int_function %x tables(%t : tensor<256xi8>) by #qvit.table<lowest = -128> : (tensor<4xf32>) -> tensor<4xi8>
    input: expected a tensor of integers, found tensor<4xf32>
%y = qvit.int_function %x tables(%t : tensor<256xi8>) by #qvit.table<lowest = -128> : (tensor<4xi8>) -> tensor<4xf32>
    result: expected a tensor of integers, found tensor<4xf32>
%y = qvit.int_function %x tables(%t : tensor<256xi8>) by #qvit.table<lowest = -128> : (tensor<4xi8>) -> tensor<5xi8>
    result: expected shape (4,), found (5,)
%y = qvit.int_function %x tables(%t : tensor<256xi8>) by #qvit.table<lowest = -128, highest = 127> : (tensor<4xi8>) -> tensor<4xi8>
    table: expected the parameters lowest; found lowest, highest
%y = qvit.int_function %x tables(%t : tensor<256xi8>) input_zero_point <128> by #qvit.table<lowest = -128> : (tensor<4xi8>) -> tensor<4xi8>
    input: zero point 128 is outside i8 (-128..127)
%y = qvit.int_function %x tables(%t : tensor<256xi8>) input_zero_point <[1, 2]> by #qvit.table<lowest = -128> : (tensor<2xi8>) -> tensor<2xi8>
    input_zero_point: only one zero point for the whole tensor is possible here
%y = qvit.int_layer_norm %x tables(%g, %b : tensor<4xi32>, tensor<4xi32>) by #qvit.sm8<top = 1> : (tensor<4xi8>) -> tensor<4xi8>
    approximation: sm8 is not one of layer normalisation
%y = qvit.int_layer_norm %x tables(%g, %b : tensor<4xi32>, tensor<4xi32>) by #qvit.ln<guard = 0, epsilon = 0> : (tensor<4xi8>) -> tensor<4xi8>
    ln: guard must be in 1..20, found 0
%y = qvit.int_layer_norm %x tables(%g, %b : tensor<4xi32>, tensor<4xi32>) by #qvit.ln<guard = 1, guard = 1> : (tensor<4xi8>) -> tensor<4xi8>
    ln: guard is given twice
%y = qvit.int_layer_norm %x tables(%g, %b : tensor<4xi32>, tensor<4xi32>) by #qvit.ln<guard = 1, epsilon = 0> : (tensor<4xf32>) -> tensor<4xi8>
    input: expected a tensor of integers, found tensor<4xf32>
%y = qvit.int_layer_norm %x tables(%g : tensor<4xi32>) by #qvit.ln<guard = 1, epsilon = 0> : (tensor<4xi8>) -> tensor<4xi8>
    tables: ln takes 2 (gain, offset), found 1
%y = qvit.int_layer_norm %x tables(%g, %b : tensor<4xi32>, tensor<2xi32>) by #qvit.ln<guard = 1, epsilon = 0> : (tensor<2x4xi8>) -> tensor<2x4xi8>
    offset: expected one number a channel, (4,), found tensor<2xi32>
%y = qvit.int_layer_norm %x tables(%g, %b : tensor<4xi32>, tensor<4xi32>) by #qvit.ln<guard = 1, epsilon = 0> : (tensor<i8>) -> tensor<i8>
    input: expected at least one dimension, found a scalar
%y = qvit.int_layer_norm %x tables(%g, %b : tensor<4xi32>, tensor<4xi32>) by #qvit.ln<guard = 1, epsilon = 0> : (tensor<4xi8>) -> tensor<4xf32>
    result: expected a tensor of integers, found tensor<4xf32>
%y = qvit.int_layer_norm %x tables(%g, %b : tensor<4xi32>, tensor<4xi32>) by #qvit.ln<guard = 1, epsilon = 0> : (tensor<4xi8>) -> tensor<3xi8>
    result: expected shape (4,), found (3,)

# shape
%y = qvit.reshape %x : tensor<2x3xi8> -> tensor<5xi8>
    result: 5 elements in (5,), 6 in (2, 3)
%y = qvit.reshape %x : tensor<2x3xi8> -> tensor<6xui8>
    result: expected elements of type i8, found ui8
%y = qvit.transpose %x [0, 0] : tensor<2x3xi8> -> tensor<2x2xi8>
    permutation: expected an order of 0..1, found [0, 0]
%y = qvit.transpose %x [0] : tensor<2x3xi8> -> tensor<2xi8>
    permutation: expected an order of 0..1, found [0]
%y = qvit.transpose %x [1, 0] : tensor<2x3xi8> -> tensor<2x3xi8>
    result: expected shape (3, 2), found (2, 3)
%y = qvit.transpose %x [1, 0] : tensor<2x3xi8> -> tensor<3x2xi16>
    result: expected elements of type i8, found i16
%y = qvit.slice %x axis 1 start 0 size 1 step 1 : tensor<4xi8> -> tensor<1xi8>
    axis: 1 is outside the 1 dimensions of tensor<4xi8>
%y = qvit.slice %x axis 0 start 4 size 1 step 1 : tensor<4xi8> -> tensor<1xi8>
    elements 4, 5, .. 4 are not all in the 4 of dimension 0
%y = qvit.slice %x axis 0 start -1 size 1 step 1 : tensor<4xi8> -> tensor<1xi8>
    elements -1, 0, .. -1 are not all in the 4 of dimension 0
%y = qvit.slice %x axis 0 start 1 size 3 step 2 : tensor<4xi8> -> tensor<3xi8>
    elements 1, 3, .. 5 are not all in the 4 of dimension 0
%y = qvit.slice %x axis 0 start 1 size 3 step -1 : tensor<4xi8> -> tensor<3xi8>
    elements 1, 0, .. -1 are not all in the 4 of dimension 0
%y = qvit.slice %x axis 0 start 1 size 0 step 1 : tensor<4xi8> -> tensor<0xi8>
    elements 1, 2, .. 0 are not all in the 4 of dimension 0
%y = qvit.slice %x axis 0 start 1 size 2 step 0 : tensor<4xi8> -> tensor<2xi8>
    elements 1, 1, .. 1 are not all in the 4 of dimension 0
%y = qvit.slice %x axis 0 start 1 size 2 step 1 : tensor<4xi8> -> tensor<3xi8>
    result: expected shape (2,), found (3,)
%y = qvit.slice %x axis 0 start 1 size 2 step 1 : tensor<4xi8> -> tensor<2xi4>
    result: expected elements of type i8, found i4
%y = qvit.concat axis 0 : () -> tensor<4xi8>
    inputs: expected at least one, found none
%y = qvit.concat %a axis 1 : (tensor<4xi8>) -> tensor<4xi8>
    axis: 1 is outside the 1 dimensions of the operands
%y = qvit.concat %a, %b axis 0 : (tensor<4x2xi8>, tensor<4x3xi8>) -> tensor<8x2xi8>
    inputs: shapes (4, 2), (4, 3) differ outside axis 0
%y = qvit.concat %a, %b axis 0 : (tensor<4xi8>, tensor<4x3xi8>) -> tensor<8xi8>
    inputs: shapes (4,), (4, 3) differ outside axis 0
%y = qvit.concat %a, %b axis 1 : (tensor<4x2xi8>, tensor<4x3xi8>) -> tensor<4x6xi8>
    result: expected shape (4, 5), found (4, 6)
%y = qvit.concat %a, %b axis 0 : (tensor<4xi8>, tensor<4xui8>) -> tensor<8xi8>
    result: expected elements of type ui8, found i8
%y = qvit.gather %x, %i axis 0 : (tensor<4x3xi8>, tensor<2xf32>) -> tensor<2x3xi8>
    indices: expected a tensor of integers, found tensor<2xf32>
%y = qvit.gather %x, %i axis 2 : (tensor<4x3xi8>, tensor<2xi32>) -> tensor<4x3xi8>
    axis: 2 is outside the 2 dimensions of tensor<4x3xi8>
%y = qvit.gather %x, %i axis 1 : (tensor<4x3xi8>, tensor<2xi32>) -> tensor<2x3xi8>
    result: expected shape (4, 2), found (2, 3)
%y = qvit.gather %x, %i axis 1 : (tensor<4x3xi8>, tensor<2xi32>) -> tensor<4x2xi32>
    result: expected elements of type i8, found i32
%y = qvit.broadcast %x : tensor<3xi8> -> tensor<3x2xi8>
    shapes (3,) and (3, 2) do not broadcast
%y = qvit.broadcast %x : tensor<3xi8> -> tensor<1xi8>
    result: expected shape (3,), found (1,)
%y = qvit.broadcast %x : tensor<3xi8> -> tensor<2x3xi16>
    result: expected elements of type i8, found i16

# constants
%w = qvit.weight "k" : tensor<?xi8>
    expected static dimensions, found tensor<?xi8>
%w = qvit.weight "k" : tensor<2xbf16>
    element type bf16 is none of f32, f64, i1..i64, ui1..ui32
%c = qvit.constant dense<1.0> : tensor<2xf16>
    element type f16 is none of f32, f64, i1..i64, ui1..ui32
%c = qvit.constant dense<1> : vector<2xi8>
    vector<2xi8> should be of base attribute tensor
"""  # noqa: E501


def cases(text: str) -> list[tuple[str, str]]:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return list(zip(lines[::2], lines[1::2], strict=True))


def rule_id(value: str) -> str:
    return value.split(" = ", 1)[1].split(" ")[0] if value.startswith("%") else value[:40]


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize(("op", "message"), cases(RULES), ids=rule_id)
def test_rules(op: str, message: str) -> None:
    with pytest.raises((VerifyException, ParseError)) as error:
        ir_text.parse(ir_text.with_operands(op))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "op",
    [
        "%y = qvit.requantize %x by #qvit.pot<1> divided_by %x : tensor<4xi32> -> tensor<4xi8>",
        "%y = qvit.requantize %x by #qvit.pot<1> : (tensor<4xi32>, tensor<4xi32>) -> tensor<4xi8>",
        "%y = qvit.requantize %x by #qvit.pot<1> : (tensor<4xi32>) -> tensor<4xi8>",
    ],
)
def test_a_divisor_and_its_type_go_together(op: str) -> None:
    with pytest.raises((VerifyException, ParseError)):
        ir_text.parse(f'%x = "test.op"() : () -> tensor<4xi32>\n{op}')


def test_every_operation_has_a_rule() -> None:
    assert {op.split(" = ")[1].split()[0] for op, _ in cases(RULES)} == {op.name for op in OPERATIONS}


@pytest.mark.parametrize(
    "line",
    [
        'qvit.constant dense<"0x000080FF0000803F"> : tensor<2xf32>',
        'qvit.constant dense<"0x000000000000F87F000000000000F07F"> : tensor<2xf64> {qvit.src = ["mask"]}',
    ],
)
def test_infinities_are_written_as_bytes(line: str) -> None:
    """Elsewhere xDSL writes an infinity among numbers as its bits, and reads these as an integer."""
    op = ir_text.parse_op(f"%y = {line}")
    assert str(op).partition(" = ")[2] == line
    assert not np.isfinite(dense_array(op.properties["value"])).all()
