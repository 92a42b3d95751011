"""The interpreter calls the semantics with what each operation says; and what it does around that."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import ir_text
import numpy as np
import pytest
from approximation_examples import CHANNELS, EXAMPLES, Example
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Operation, Region

from qvit.backends.interpreter import IMPLEMENTATIONS, ExecutionError, evaluate, run, trace_names
from qvit.dialects.approximations import SOFTMAX, Ln, Sm8, Sm8Late
from qvit.dialects.approximations.base import FunctionApproximation, LayerNormApproximation, SoftmaxApproximation
from qvit.dialects.ops.approximated import IntFunctionOp, IntLayerNormOp, IntSoftmaxOp
from qvit.dialects.qvit import Qvit
from qvit.dialects.semantics import elementwise, nonlinear, products, quantization, shape
from qvit.dialects.semantics.integers import IntType, Rounding, widen
from qvit.dialects.types import BOOLEAN, integer_element, integer_of

Array = NDArray[Any]
I8, UI8, I16, I32, I64 = IntType(8), IntType(8, False), IntType(16), IntType(32), IntType(64)


def n(value: int | Sequence[int]) -> Array:
    return np.array(value, np.int64)


def column(*values: float) -> Array:
    """Values along axis 0 of a matrix."""
    return np.array(values)[:, None]


ROW = np.array([3, -5])
ZERO = n(0)

# operation, and the call of the semantics that it stands for
Case = tuple[str, Callable[..., Array | tuple[Array, ...]]]
CASES: list[Case] = [
    (
        "%q = qvit.quantize %x <0.5 * 0.25, zero_point = 3> rounding half_up : tensor<4x2xf32> -> tensor<4x2xi8>",
        lambda x: quantization.quantize(x, np.float64(0.125), n(3), Rounding.HALF_UP, I8),
    ),
    (
        "%q = qvit.quantize %x <[0.5, 0.25] / 2.0, zero_point = [3, 7], axis = 1> : tensor<4x2xf32> -> tensor<4x2xui8>",
        lambda x: quantization.quantize(x, np.array([[0.25, 0.125]]), n([[3, 7]]), Rounding.HALF_EVEN, UI8),
    ),
    (
        "%y = qvit.dequantize %q <0.5, zero_point = 3> : tensor<4x2xi8> -> tensor<4x2xf32>",
        lambda q: quantization.dequantize(q, np.float64(0.5), n(3)),
    ),
    (
        "%y = qvit.dequantize %q <[0.5, 0.25], zero_point = [1, 2], axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>",
        lambda q: quantization.dequantize(q, column(0.5, 0.25), column(1, 2)),
    ),
    (
        "%y = qvit.requantize %x by #qvit.real<0.5 / 3.0> input_zero_point <1> zero_point <2> rounding half_away"
        " : tensor<4x2xi32> -> tensor<4x2xi8>",
        lambda x: quantization.requantize_real(x, [Fraction(1, 6)], None, (n(1), n(2)), Rounding.HALF_AWAY, I8),
    ),
    (
        "%y = qvit.requantize %x by #qvit.real<[0.5, 0.25]> axis 1 : tensor<4x2xi32> -> tensor<4x2xi8>",
        lambda x: quantization.requantize_real(
            x, [Fraction(1, 2), Fraction(1, 4)], 1, (ZERO, ZERO), Rounding.HALF_EVEN, I8
        ),
    ),
    (
        # only a zero point varies
        "%y = qvit.requantize %x by #qvit.real<0.5> zero_point <[1, 2]> axis 0 : tensor<2x3xi32> -> tensor<2x3xi8>",
        lambda x: quantization.requantize_real(x, [Fraction(1, 2)], None, (ZERO, column(1, 2)), Rounding.HALF_EVEN, I8),
    ),
    (
        "%y = qvit.requantize %x by #qvit.dyadic<[3, -5], 24> input_zero_point <1> axis 1"
        " : tensor<4x2xi32> -> tensor<4x2xi8>",
        lambda x: quantization.requantize_dyadic(x, ROW, n(24), (n(1), ZERO), Rounding.HALF_EVEN, I8),
    ),
    (
        "%y = qvit.requantize %x by #qvit.dyadic<3, [30, 31]> axis 0 rounding floor"
        " : tensor<2x3xi32> -> tensor<2x3xi8>",
        lambda x: quantization.requantize_dyadic(x, n(3), column(30, 31), (ZERO, ZERO), Rounding.FLOOR, I8),
    ),
    (
        "%y = qvit.requantize %x by #qvit.pot<[1, -1]> zero_point <[1, 2]> axis 1 : tensor<4x2xi8> -> tensor<4x2xi8>",
        lambda x: quantization.requantize_pot(x, n([1, -1]), (ZERO, n([1, 2])), Rounding.HALF_EVEN, I8),
    ),
    (
        "%y = qvit.requantize %x by #qvit.dyadic<[2147483647, -5], 30> divided_by %z input_zero_point <1> axis 1"
        " : (tensor<4x2xi32>, tensor<4x1xui32>) -> tensor<4x2xi32>",
        lambda x, z: quantization.requantize_dyadic(
            x, n([2**31 - 1, -5]), n(30), (n(1), ZERO), Rounding.HALF_EVEN, I32, z
        ),
    ),
    (
        "%y = qvit.requantize %x by #qvit.pot<[1, -1]> divided_by %z zero_point <3> axis 1 rounding half_up"
        " : (tensor<2x2xi32>, tensor<2xi32>) -> tensor<2x2xi32>",
        lambda x, z: quantization.requantize_pot(x, n([1, -1]), (ZERO, n(3)), Rounding.HALF_UP, I32, z),
    ),
    (
        "%y = qvit.requantize %x by #qvit.real<[3.0, 5.0] / 7.0> divided_by %z axis 0"
        " : (tensor<2x2xi64>, tensor<2x1xi64>) -> tensor<2x2xi32>",
        lambda x, z: quantization.requantize_real(
            x, [Fraction(3, 7), Fraction(5, 7)], 0, (ZERO, ZERO), Rounding.HALF_EVEN, I32, z
        ),
    ),
    (
        "%y = qvit.add_requant %a by #qvit.real<1.0 / 3.0>, %b by #qvit.dyadic<[3, -5], [1, 2]>"
        " lhs_zero_point <1> rhs_zero_point <2> zero_point <3> axis 0 rounding half_up round_each"
        " : (tensor<2x2xi8>, tensor<2x2xi16>) -> tensor<2x2xi16>",
        lambda a, b: quantization.add_requant_real(
            a,
            b,
            ([Fraction(1, 3)], [Fraction(3, 2), Fraction(-5, 4)]),
            (None, 0),
            (n(1), n(2), n(3)),
            Rounding.HALF_UP,
            True,
            I16,
        ),
    ),
    (
        "%y = qvit.add_requant %a by #qvit.pot<[-1, 1]>, %b by #qvit.real<[0.5, 0.75] / 3.0> axis 1"
        " : (tensor<2x2xi8>, tensor<2x2xi8>) -> tensor<2x2xi8>",
        lambda a, b: quantization.add_requant_real(
            a,
            b,
            ([Fraction(2), Fraction(1, 2)], [Fraction(1, 6), Fraction(1, 4)]),
            (1, 1),
            (ZERO, ZERO, ZERO),
            Rounding.HALF_EVEN,
            False,
            I8,
        ),
    ),
    (
        "%y = qvit.add_requant %a by #qvit.dyadic<3, 2>, %b by #qvit.pot<1> lhs_zero_point <1> rhs_zero_point <2>"
        " zero_point <3> rounding half_up : (tensor<4x2xi8>, tensor<4x2xi16>) -> tensor<4x2xi16>",
        lambda a, b: quantization.add_requant(
            a, b, (n(3), n(1)), (n(2), n(1)), (n(1), n(2), n(3)), Rounding.HALF_UP, False, I16
        ),
    ),
    (
        "%y = qvit.add_requant %a by #qvit.pot<[1, 2]>, %b by #qvit.dyadic<[3, -5], 1> axis 1 round_each"
        " : (tensor<4x2xi8>, tensor<4x2xi8>) -> tensor<4x2xi8>",
        lambda a, b: quantization.add_requant(
            a, b, (n(1), ROW), (n([1, 2]), n(1)), (ZERO, ZERO, ZERO), Rounding.HALF_EVEN, True, I8
        ),
    ),
    # square, so that a vector along the wrong axis would fit
    (
        "%y = qvit.requantize %x by #qvit.pot<[1, 3]> input_zero_point <[1, 2]> axis 0"
        " : tensor<2x2xi8> -> tensor<2x2xi8>",
        lambda x: quantization.requantize_pot(x, column(1, 3), (column(1, 2), ZERO), Rounding.HALF_EVEN, I8),
    ),
    (
        "%y = qvit.add_requant %a by #qvit.pot<[1, 3]>, %b by #qvit.dyadic<[3, -5], [1, 2]> axis 0"
        " : (tensor<2x2xi8>, tensor<2x2xi8>) -> tensor<2x2xi8>",
        lambda a, b: quantization.add_requant(
            a,
            b,
            (n(1), ROW[:, None]),
            (column(1, 3), column(1, 2)),
            (ZERO, ZERO, ZERO),
            Rounding.HALF_EVEN,
            False,
            I8,
        ),
    ),
    (
        "%q = qvit.threshold %x, %t lowest 0 axis 0 : (tensor<2x2xi8>, tensor<2x3xi8>) -> tensor<2x2xi8>",
        lambda x, t: quantization.threshold(x, t, 0, 0, I8),
    ),
    (
        "%q = qvit.threshold %x, %t lowest -4 axis 1 : (tensor<4x2xi8>, tensor<2x3xi8>) -> tensor<4x2xi8>",
        lambda x, t: quantization.threshold(x, t, 1, -4, I8),
    ),
    (
        "%q = qvit.threshold %x, %t lowest 0 : (tensor<4x2xi8>, tensor<3xi8>) -> tensor<4x2xui8>",
        lambda x, t: quantization.threshold(x, t, None, 0, UI8),
    ),
    (
        "%c = qvit.matmul %a, %b lhs_zero_point <1> rhs_zero_point <[3, -5]>"
        " : (tensor<4x3xi8>, tensor<3x2xi8>) -> tensor<4x2xi32>",
        lambda a, b: products.matmul(a, b, (n(1), ROW), I32),
    ),
    ("%c = qvit.matmul %a, %b : (tensor<4x3xf32>, tensor<3x2xf32>) -> tensor<4x2xf32>", products.matmul),
    (
        "%c = qvit.shift_matmul %q, %v rhs_zero_point <[3, -5]> : (tensor<4x3xui5>, tensor<3x2xi8>) -> tensor<4x2xi64>",
        lambda q, v: products.shift_matmul(q, v, ROW, I64),
    ),
    (
        "%y = qvit.linear %x, %w, %b input_zero_point <1> weight_zero_point <[3, -5]>"
        " : (tensor<4x3xi8>, tensor<2x3xi8>, tensor<2xi64>) -> tensor<4x2xi64>",
        lambda x, w, b: products.linear(x, w, b, (n(1), ROW), I64),
    ),
    ("%y = qvit.linear %x, %w : (tensor<4x3xf32>, tensor<2x3xf32>) -> tensor<4x2xf32>", products.linear),
    (
        "%y = qvit.conv2d %x, %w, %b input_zero_point <1> weight_zero_point <[3, -5]> {strides = array<i64: 2, 1>,"
        " padding = array<i64: 1, 0, 2, 3>, dilations = array<i64: 1, 2>, groups = 2 : i64}"
        " : (tensor<1x2x4x4xi8>, tensor<2x1x3x2xi8>, tensor<2xi32>) -> tensor<1x2x3x5xi32>",
        lambda x, w, b: products.conv2d(x, w, b, (2, 1), (1, 0, 2, 3), (1, 2), 2, (n(1), ROW), I32),
    ),
    (
        "%y = qvit.conv2d %x, %w : (tensor<1x2x4x4xf32>, tensor<3x2x3x2xf32>) -> tensor<1x3x2x3xf32>",
        lambda x, w: products.conv2d(x, w, None, (1, 1), (0, 0, 0, 0), (1, 1), 1),
    ),
    (
        "%y = qvit.conv_transpose2d %x, %w, %b {strides = array<i64: 2, 1>, padding = array<i64: 1, 0, 0, 2>,"
        " dilations = array<i64: 1, 2>, groups = 2 : i64, output_padding = array<i64: 1, 0>}"
        " : (tensor<1x2x3x3xf32>, tensor<2x3x2x2xf32>, tensor<6xf32>) -> tensor<1x6x6x3xf32>",
        lambda x, w, b: products.conv_transpose2d(x, w, b, (2, 1), (1, 0, 0, 2), (1, 2), 2, (1, 0)),
    ),
    (
        "%y = qvit.add %a, %b : (tensor<4x2xi8>, tensor<2xui8>) -> tensor<4x2xi32>",
        lambda a, b: elementwise.add(a, b, I32),
    ),
    ("%y = qvit.add %a, %b : (tensor<4x2xf32>, tensor<2xf32>) -> tensor<4x2xf32>", elementwise.add),
    (
        "%y = qvit.sub %a, %b : (tensor<4x2xi8>, tensor<2xui8>) -> tensor<4x2xi64>",
        lambda a, b: elementwise.sub(a, b, I64),
    ),
    ("%y = qvit.sub %a, %b : (tensor<4x2xf32>, tensor<f32>) -> tensor<4x2xf32>", elementwise.sub),
    (
        "%y = qvit.mul %a, %b : (tensor<4x2xi8>, tensor<4x1xi8>) -> tensor<4x2xi32>",
        lambda a, b: elementwise.mul(a, b, I32),
    ),
    ("%y = qvit.mul %a, %b : (tensor<4x2xf32>, tensor<4x1xf32>) -> tensor<4x2xf32>", elementwise.mul),
    ("%y = qvit.div %a, %b : (tensor<4x2xf32>, tensor<4x1xf32>) -> tensor<4x2xf32>", lambda a, b: a / b),
    ("%y = qvit.pow %a, %b : (tensor<4x2xf32>, tensor<f32>) -> tensor<4x2xf32>", lambda a, b: a**b),
    ("%y = qvit.sqrt %x : tensor<4xf32>", np.sqrt),
    ("%y = qvit.erf %x : tensor<4xf32>", elementwise.erf),
    ("%y = qvit.tanh %x : tensor<4xf32>", np.tanh),
    ("%y = qvit.sigmoid %x : tensor<4xf32>", elementwise.sigmoid),
    ("%y = qvit.relu %x : tensor<4xf32>", elementwise.relu),
    ("%y = qvit.clip %x {low = 0.5 : f64, high = 2.0 : f64} : tensor<4xf32>", lambda x: elementwise.clip(x, 0.5, 2)),
    ("%y = qvit.clip %x {low = -7 : i64} : tensor<40xi4>", lambda x: elementwise.clip(x, -7, None)),
    *(
        (
            f'%y = qvit.compare %a, %b {{predicate = "{predicate}"}} : (tensor<4x2xi2>, tensor<2xi2>) -> tensor<4x2xui1>',
            lambda a, b, predicate=predicate: elementwise.compare(a, b, predicate),
        )
        for predicate in elementwise.COMPARISONS
    ),
    (
        '%y = qvit.compare %a, %b {predicate = "lt"} : (tensor<4x2xf32>, tensor<f32>) -> tensor<4x2xui1>',
        lambda a, b: elementwise.compare(a, b, "lt"),
    ),
    (
        "%y = qvit.select %c, %a, %b : (tensor<2xui1>, tensor<f32>, tensor<4x2xf32>) -> tensor<4x2xf32>",
        elementwise.select,
    ),
    (
        "%y = qvit.select %c, %a, %b : (tensor<4x2xui1>, tensor<2xi8>, tensor<4x1xi8>) -> tensor<4x2xi8>",
        elementwise.select,
    ),
    ("%y = qvit.softmax %x axis 1 : tensor<2x3x4xf32>", lambda x: nonlinear.softmax(x, 1)),
    ("%y = qvit.gelu %x : tensor<4xf32>", nonlinear.gelu),
    ("%y = qvit.gelu %x tanh : tensor<4xf32>", lambda x: nonlinear.gelu(x, tanh=True)),
    (
        "%y = qvit.layer_norm %x, %g, %b axis 1 epsilon 1.0e-01"
        " : (tensor<2x3xf32>, tensor<3xf32>, tensor<3xf32>) -> tensor<2x3xf32>",
        lambda x, g, b: nonlinear.layer_norm(x, g, b, 0.1, 1),
    ),
    (
        "%y = qvit.layer_norm %x, %g axis 1 epsilon 1.0e-01"
        " : (tensor<2x3x4xf32>, tensor<3x4xf32>) -> tensor<2x3x4xf32>",
        lambda x, g: nonlinear.layer_norm(x, g, None, 0.1, 1),
    ),
    (
        "%y = qvit.batch_norm %x, %g, %b, %m, %v epsilon 1.0e-01"
        " : (tensor<2x3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>, tensor<3xf32>) -> tensor<2x3xf32>",
        lambda x, g, b, m, v: nonlinear.batch_norm(x, g, b, m, v, 0.1),
    ),
    (
        "%y = qvit.reduce_mean %x {axes = array<i64: 0, 2>, keepdims = true} : tensor<2x3x4xf32> -> tensor<1x3x1xf32>",
        lambda x: x.mean(axis=(0, 2), keepdims=True),
    ),
    (
        "%y = qvit.reduce_mean %x {axes = array<i64: 1>, keepdims = false} : tensor<2x3x4xf32> -> tensor<2x4xf32>",
        lambda x: x.mean(axis=1),
    ),
    (
        "%y = qvit.reduce_sum %x {axes = array<i64: 0, 2>, keepdims = true} : tensor<2x3x4xi8> -> tensor<1x3x1xi32>",
        lambda x: x.sum((0, 2), np.int32, keepdims=True),
    ),
    (
        "%y = qvit.reduce_sum %x {axes = array<i64: 1>, keepdims = false} : tensor<2x3x4xi32> -> tensor<2x4xi64>",
        lambda x: x.sum(1, np.int64),
    ),
    (
        "%y = qvit.argmax %x {axis = 1 : i64, keepdims = true} : tensor<2x3x4xf32> -> tensor<2x1x4xi64>",
        lambda x: x.argmax(1)[:, None],
    ),
    (
        "%y = qvit.argmax %x {axis = 2 : i64, keepdims = false} : tensor<2x3x4xi3> -> tensor<2x3xi64>",
        lambda x: x.argmax(2),
    ),
    (
        '%y = qvit.resize %x {mode = "cubic", coordinates = "asymmetric", scales = array<f64: 1.5, 0.5>, cubic_a = -0.5'
        " : f64}"
        " : tensor<2x4x4xf32> -> tensor<2x6x2xf32>",
        lambda x: nonlinear.resize(x, (6, 2), (1.5, 0.5), "cubic", "asymmetric", -0.5),
    ),
    (
        '%y = qvit.resize %x {mode = "linear", coordinates = "half_pixel", scales = array<f64: 2.1, 2.1>}'
        " : tensor<4x4xf32> -> tensor<8x8xf32>",
        lambda x: nonlinear.resize(x, (8, 8), (2.1, 2.1), "linear", "half_pixel"),
    ),
    (
        '%y = qvit.resize %x {mode = "cubic", coordinates = "half_pixel", scales = array<f64: 2.0, 2.0>}'
        " : tensor<4x4xf32> -> tensor<8x8xf32>",
        lambda x: nonlinear.resize(x, (8, 8), (2, 2), "cubic", "half_pixel", -0.75),
    ),
    (
        "%y = qvit.int_softmax %x tables(%t : tensor<256xui16>) mask(%m : tensor<4x1x5xui1>) by #qvit.sm8<top = 127>"
        " : (tensor<4x3x5xi8>) -> tensor<4x3x5xi8>",
        lambda x, t, m: Sm8(127).apply(widen(x), [t], m, [I8]),
    ),
    (
        "%y, %z = qvit.int_softmax %x tables(%t : tensor<256xui16>) by #qvit.sm8_late"
        " : (tensor<3x5xi8>) -> (tensor<3x5xui8>, tensor<3x1xi32>)",
        lambda x, t: Sm8Late().apply(widen(x), [t], None, [UI8, I32]),
    ),
    (
        "%y = qvit.int_function %x tables(%t : tensor<256xi8>) by #qvit.table<lowest = -128>"
        " : (tensor<3x5xi8>) -> tensor<3x5xi16>",
        lambda x, t: t[widen(x) + 128].astype(np.int16),
    ),
    (
        "%y = qvit.int_function %x tables(%t : tensor<31xi8>) input_zero_point <7> by #qvit.table<lowest = -15>"
        " : (tensor<3x5xi4>) -> tensor<3x5xi8>",
        lambda x, t: t[widen(x) - 7 + 15],
    ),
    (
        "%y = qvit.int_layer_norm %x tables(%g, %b : tensor<5xi32>, tensor<5xi32>) by #qvit.ln<guard = 9, epsilon = 3>"
        " : (tensor<3x5xi16>) -> tensor<3x5xi8>",
        lambda x, g, b: Ln(9, 3).apply(widen(x), [g, b], I8),
    ),
    ("%y = qvit.reshape %x : tensor<2x3xi8> -> tensor<3x2xi8>", lambda x: shape.reshape(x, (3, 2))),
    ("%y = qvit.transpose %x [1, 2, 0] : tensor<2x3x4xf32> -> tensor<3x4x2xf32>", lambda x: x.transpose(1, 2, 0)),
    (
        "%y = qvit.slice %x axis 1 start 3 size 2 step -2 : tensor<2x5xui8> -> tensor<2x2xui8>",
        lambda x: shape.slice_(x, 1, 3, 2, -2),
    ),
    (
        "%y = qvit.concat %a, %b, %c axis 1 : (tensor<2x1xi8>, tensor<2x3xi8>, tensor<2x2xi8>) -> tensor<2x6xi8>",
        lambda *parts: shape.concat(parts, 1),
    ),
    (
        "%y = qvit.gather %x, %i axis 1 : (tensor<2x5xf32>, tensor<2x2xui2>) -> tensor<2x2x2xf32>",
        lambda x, i: shape.gather(x, i, 1),
    ),
    ("%y = qvit.broadcast %x : tensor<2x1xi8> -> tensor<4x2x3xi8>", lambda x: shape.broadcast(x, (4, 2, 3))),
    ("%c = qvit.constant dense<[[1, 2], [3, -4]]> : tensor<2x2xi4>", lambda: np.array([[1, 2], [3, -4]], np.int8)),
    ("%c = qvit.constant dense<[0.5, 0.1]> : tensor<2xf32>", lambda: np.array([0.5, np.float32(0.1)], np.float64)),
]


def inputs_for(op: Operation) -> list[Array]:
    """Any codes for integers; positive numbers for floats, which square roots and powers want."""
    rng = np.random.default_rng(0)
    arrays: list[Array] = []
    for operand in op.operands:
        dimensions, t = operand.type.get_shape(), integer_of(operand)  # pyright: ignore
        if t is None:
            arrays.append(rng.random(dimensions) * 3 + 0.1)
        else:
            arrays.append(rng.integers(t.lo, t.hi, dimensions, np.int64, endpoint=True).astype(t.dtype))
        if op.name == "qvit.threshold" and len(arrays) == 2:
            arrays[1].sort(axis=-1)
        if op.name == "qvit.requantize" and len(arrays) == 2:
            arrays[1] = np.maximum(arrays[1], 1)  # a divisor
    return arrays


def only_op(module: ModuleOp) -> Operation:
    (op,) = (op for op in module.walk() if op.name.startswith("qvit."))
    return op


@pytest.mark.parametrize(
    ("text", "semantics"), CASES, ids=lambda v: v.split(" = ", 1)[1][:50] if isinstance(v, str) else ""
)
def test_every_operation(text: str, semantics: Callable[..., Array]) -> None:
    module = ir_text.parse(ir_text.function(text))
    op = only_op(module)
    inputs = inputs_for(op)
    expected = semantics(*inputs)
    check(module, op, inputs, expected if isinstance(expected, tuple) else (expected,))


def check(module: ModuleOp, op: Operation, inputs: Sequence[Array], expected: Sequence[Array]) -> None:
    """All results of the module's one operation, as `run` gives them; its first, as `evaluate` does."""
    results = run(module, inputs).values()
    for found, wanted, value in zip(
        (*results, evaluate(module, op, inputs)), (*expected, expected[0]), (*op.results, op.results[0]), strict=True
    ):
        assert found.dtype == wanted.dtype
        assert found.shape == value.type.get_shape()  # pyright: ignore
        assert found.tolist() == np.asarray(wanted).tolist()


MASKS = [(e, m) for e in EXAMPLES for m in (False, True) if not m or e.name in SOFTMAX]


@pytest.mark.parametrize(("example", "masked"), MASKS, ids=lambda v: getattr(v, "name", v))
def test_every_approximation(example: Example, masked: bool) -> None:
    """With the tables that it builds; softmax with a mask that leaves a row nothing, too."""
    approximation, built = example.built.approximation, example.built
    codes, elements = example.codes.type, [integer_element(t) for t in built.results]
    rng = np.random.default_rng(1)
    x = rng.integers(codes.lo, codes.hi, (4, CHANNELS), np.int64, endpoint=True)
    tables = [values.astype(t.dtype) for values, t in built.tables]
    mask = np.array([[1, 0, 1, 1, 0, 1], [0] * 6, [0, 0, 1, 0, 0, 0], [1] * 6], np.uint8)
    inputs = [x.astype(codes.dtype), *tables, *([mask] if masked else [])]
    types = [TensorType(integer_element(codes), x.shape)]
    types += [TensorType(integer_element(t), values.shape) for values, t in built.tables]
    types += [TensorType(BOOLEAN, mask.shape)] if masked else []
    block = Block(arg_types=types)
    operand, *constants = block.args
    vectors = constants[: len(tables)]
    match approximation:
        case SoftmaxApproximation():
            given = constants[len(tables)] if masked else None
            op = IntSoftmaxOp(operand, approximation, vectors, elements, given)
            expected = approximation.apply(x, tables, mask if masked else None, built.results)
        case FunctionApproximation():
            op = IntFunctionOp(operand, approximation, vectors, elements[0])
            expected = (approximation.apply(x, tables, built.results[0]),)
        case LayerNormApproximation():
            op = IntLayerNormOp(operand, approximation, vectors, elements[0])
            expected = (approximation.apply(x, tables, built.results[0]),)
        case _:
            raise AssertionError(approximation)
    block.add_ops([op, ReturnOp(*op.results)])
    function = FuncOp("main", (types, [r.type for r in op.results]), Region(block))
    module = ModuleOp([function])
    module.verify()
    check(module, op, inputs, expected)


def test_the_table_is_complete() -> None:
    weight = "qvit.weight"  # test_weights.py
    names = {op.name for op in Qvit.operations}
    assert {text.split(" = ", 1)[1].split()[0] for text, _ in CASES} == names - {weight}
    assert {op.name for op in IMPLEMENTATIONS} == names


# --- float32 ---


@pytest.mark.parametrize("text", [t for t, _ in CASES if "f32>" in t], ids=lambda t: t.split(" = ", 1)[1][:50])
def test_single_precision(text: str) -> None:
    module = ir_text.parse(ir_text.function(text))
    op = only_op(module)
    inputs = inputs_for(op)
    seen: list[Array] = []
    found = run(module, inputs, float_dtype=np.float32, observe=lambda _, value: seen.append(value))["output0"]
    if integer_of(op.results[0]) is None:
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, run(module, inputs)["output0"], rtol=2e-5, atol=2e-6)
        assert (seen[0] == found).all()


def test_precision_of_a_sum() -> None:
    # 2^24 + 1 + 1 is 2^24 in float32
    text = ir_text.function(
        [
            "%y = qvit.add %a, %b : (tensor<f32>, tensor<f32>) -> tensor<f32>",
            "%z = qvit.add %y, %b : (tensor<f32>, tensor<f32>) -> tensor<f32>",
        ]
    )
    inputs = [np.array(2**24), np.array(1)]
    module = ir_text.parse(text)
    assert run(module, inputs)["output0"] == 2**24 + 2
    assert run(module, inputs, float_dtype=np.float32)["output0"] == 2**24


# --- programs ---

PROGRAM = """
func.func @main(%a: tensor<2xi8> {qvit.name = "left"}, %b: tensor<2xi8>)
    -> (tensor<2xi32> {qvit.name = "sum"}, tensor<2xi8>) {
  %s = qvit.add %a, %b {qvit.src = ["node"]} : (tensor<2xi8>, tensor<2xi8>) -> tensor<2xi32>
  %d = qvit.mul %s, %s : (tensor<2xi32>, tensor<2xi32>) -> tensor<2xi32>
  %t = qvit.add %d, %s : (tensor<2xi32>, tensor<2xi32>) -> tensor<2xi32>
  func.return %t, %a : tensor<2xi32>, tensor<2xi8>
}
func.func @other(%x: tensor<2xf32>) -> tensor<2xf32> {
  func.return %x : tensor<2xf32>
}
"""
A, B = np.array([1, 2], np.int8), np.array([3, -4], np.int8)


def test_inputs_and_outputs_by_name_or_in_order() -> None:
    module = ir_text.parse(PROGRAM)
    for inputs in ([A, B], (A, B), {"left": A, "input1": B}, {"input1": B, "left": A}, [[1, 2], [3, -4]]):
        found = run(module, inputs)  # pyright: ignore
        assert list(found) == ["sum", "output1"]
        assert found["sum"].tolist() == [20, 2]
        assert found["output1"].tolist() == [1, 2]
        assert [v.dtype for v in found.values()] == [np.int32, np.int8]


def test_functions_by_name() -> None:
    module = ir_text.parse(PROGRAM)
    assert run(module, [np.array([1, 2])], function="other")["output0"].tolist() == [1.0, 2.0]
    with pytest.raises(ExecutionError, match="^the module has no function @third$"):
        run(module, [], function="third")


def test_inputs_are_not_changed() -> None:
    a = A.copy()
    found = run(ir_text.parse(PROGRAM), [a, B])
    found["output1"][0] = 99
    assert a.tolist() == A.tolist()


def test_observer_sees_every_operation_in_order() -> None:
    seen: list[tuple[str, list[int]]] = []
    run(ir_text.parse(PROGRAM), [A, B], observe=lambda op, value: seen.append((op.name, value.tolist())))
    assert seen == [("qvit.add", [4, -2]), ("qvit.mul", [16, 4]), ("qvit.add", [20, 2])]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([A], r"expected 2 inputs \(left, input1\), found 1"),
        ([A, B, B], r"expected 2 inputs \(left, input1\), found 3"),
        ({"left": A}, "expected inputs left, input1; found left"),
        ({}, "expected inputs left, input1; found none"),
        ({"left": A, "right": B}, "expected inputs left, input1; found left, right"),
        ([A, np.array([3])], r"input 'input1': expected shape \(2,\), found \(1,\)"),
        ([A, np.array([3.0, 4.0])], "input 'input1': expected i8, found float64"),
        ([A, np.array([True, False])], "input 'input1': expected i8, found bool"),
        ([A, np.array([0, 128])], r"input 'input1': values 0..128 do not fit i8"),
        ([np.array([-129, 0]), B], r"input 'left': values -129..0 do not fit i8"),
    ],
)
def test_inputs_are_checked(inputs: Any, message: str) -> None:
    with pytest.raises(ExecutionError, match=f"^{message}$"):
        run(ir_text.parse(PROGRAM), inputs)


def test_any_integers_that_fit() -> None:
    found = run(ir_text.parse(PROGRAM), [np.array([127, 0], np.uint64), np.array([-128, 0])])
    assert found["output1"].dtype == np.int8
    assert found["sum"].tolist() == [0, 0]


def test_truth_values_are_bool_or_bits() -> None:
    text = "%y = qvit.select %c, %a, %b : (tensor<2xui1>, tensor<2xi8>, tensor<2xi8>) -> tensor<2xi8>"
    module = ir_text.parse(ir_text.function(text))
    for condition in (np.array([True, False]), np.array([1, 0])):
        assert run(module, [condition, A, B])["output0"].tolist() == [1, -4]
    with pytest.raises(ExecutionError, match="^input 'input0': values 0..2 do not fit ui1$"):
        run(module, [np.array([0, 2]), A, B])


def test_float_inputs_are_checked() -> None:
    module = ir_text.parse(PROGRAM)
    with pytest.raises(ExecutionError, match="^input 'input0': expected floats, found bool$"):
        run(module, [np.array([True, False])], function="other")


@pytest.mark.parametrize(
    ("text", "inputs", "message"),
    [
        (
            '%y = qvit.add %a, %a {qvit.src = ["first", "residual"]} : (tensor<2xi32>, tensor<2xi32>) -> tensor<2xi32>',
            [np.array([1, 2**30])],
            "residual (qvit.add): 2147483648 does not fit i32 (-2147483648..2147483647)",
        ),
        (
            "%y = qvit.add %a, %a : (tensor<2xi32>, tensor<2xi32>) -> tensor<2xi32>",
            [np.array([1, 2**30])],
            "qvit.add (qvit.add): 2147483648 does not fit i32 (-2147483648..2147483647)",
        ),
        (
            '%q = qvit.quantize %x <1.0> {qvit.src = ["q"]} : tensor<2xf32> -> tensor<2xi8>',
            [np.array([0.0, np.nan])],
            "q (qvit.quantize): cannot quantize NaN",
        ),
        (
            '%y = qvit.gather %x, %i axis 0 {qvit.src = ["g"]} : (tensor<5xi8>, tensor<2xi8>) -> tensor<2xi8>',
            [np.zeros(5, int), np.array([0, 5])],
            "g (qvit.gather): gather: indices reach 0..5, axis 0 has 5",
        ),
        (
            '%q = qvit.matmul %x, %x {qvit.src = ["qk"]} : (tensor<1x1xi32>, tensor<1x1xi32>) -> tensor<1x1xi32>',
            [np.array([[-(2**16)]])],
            "qk (qvit.matmul): 4294967296",
        ),
    ],
)
def test_errors_name_the_source(text: str, inputs: list[Array], message: str) -> None:
    with pytest.raises(ExecutionError) as error:
        run(ir_text.parse(ir_text.function(text)), inputs)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("form", ["#qvit.real<0.3>", "#qvit.dyadic<3, 1>", "#qvit.pot<1>"])
@pytest.mark.parametrize("divisor", [0, -1])
def test_divisors_are_positive(form: str, divisor: int) -> None:
    text = f'%y = qvit.requantize %x by {form} divided_by %z {{qvit.src = ["pv"]}}'
    module = ir_text.parse(ir_text.function(f"{text} : (tensor<2x2xi32>, tensor<2x1xi32>) -> tensor<2x2xi8>"))
    message = rf"^pv \(qvit.requantize\): a divisor must be positive, found {divisor}$"
    with pytest.raises(ExecutionError, match=message):
        run(module, [np.ones((2, 2), int), np.array([[5], [divisor]])])


def test_unknown_operations() -> None:
    module = ir_text.parse(
        'func.func @main() -> tensor<2xi8> {\n%y = "test.op"() {qvit.src = ["n"]} : () -> tensor<2xi8>\n'
        "func.return %y : tensor<2xi8>\n}"
    )
    with pytest.raises(ExecutionError, match="^n: the interpreter does not know test.op$"):
        run(module, [])


def test_functions_without_return() -> None:
    module = ir_text.parse("func.func @main() { func.return }")
    only = next(op for op in module.walk() if op.name == "func.return")
    only.detach()
    with pytest.raises(ExecutionError, match="^@main has no func.return$"):
        run(module, [])


def test_nothing_in_nothing_out() -> None:
    assert run(ir_text.parse("func.func @main() { func.return }"), []) == {}


@pytest.mark.parametrize(
    ("program", "inputs", "message"),
    [
        (
            "func.func private @main(tensor<4xi8>) -> tensor<4xi8>",
            [np.zeros(4, int)],
            "@main is a declaration without a body",
        ),
        (
            "func.func @main(%a: i32) -> i32 { func.return %a : i32 }",
            [np.array(3)],
            "input 'input0': expected a tensor, found i32",
        ),
        (
            'func.func @main(%a: tensor<i8> {qvit.name = "x"}, %b: tensor<i8> {qvit.name = "x"}) -> tensor<i8> {\n'
            "  func.return %a : tensor<i8>\n}",
            [np.array(3), np.array(4)],
            "two inputs are called 'x'",
        ),
        (
            'func.func @main(%a: tensor<i8>) -> (tensor<i8> {qvit.name = "x"}, tensor<i8> {qvit.name = "x"}) {\n'
            "  func.return %a, %a : tensor<i8>, tensor<i8>\n}",
            [np.array(3)],
            "two outputs are called 'x'",
        ),
    ],
    ids=["declaration", "no tensor", "two inputs of one name", "two outputs of one name"],
)
def test_unusable_functions(program: str, inputs: list[Array], message: str) -> None:
    with pytest.raises(ExecutionError, match=f"^{message}$"):
        run(ir_text.parse(program), inputs)


# --- traces ---


def test_trace_names() -> None:
    module = ir_text.parse(
        """
func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {
  %q = qvit.quantize %x <0.5> {qvit.src = ["q"]} : tensor<2xf32> -> tensor<2xi8>
  %w = qvit.constant dense<3> : tensor<2xi8> {qvit.src = ["w"]}
  %s = qvit.add %q, %w {qvit.src = ["a", "shared", "s"]} : (tensor<2xi8>, tensor<2xi8>) -> tensor<2xi32>
  %r = qvit.requantize %s by #qvit.pot<1> {qvit.src = ["shared", "q", "r"]} : tensor<2xi32> -> tensor<2xi8>
  %p = qvit.reshape %r : tensor<2xi8> -> tensor<1x2xi8>
  %y = qvit.dequantize %r <0.5> {qvit.src = ["y"]} : tensor<2xi8> -> tensor<2xf32>
  func.return %y : tensor<2xf32>
}
"""
    )
    names = {op.results[0].name_hint: found for op, found in trace_names(module).items()}
    # integers only; the last name always; others where one operation alone claims them, and none ends in them
    assert {k: v for k, v in names.items() if v} == {"q": ["q"], "s": ["a", "s"], "r": ["r"]}
