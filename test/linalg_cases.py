"""Functions of the dialect and inputs for them: what --lower-to-linalg is tested on, here and in other compilers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ir_text
import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import TensorType
from xdsl.dialects.func import FuncOp

from qvit.dialects.types import element_dtype, int_type

Array = NDArray[Any]
MODES = ("half_even", "half_up", "half_away", "floor")


@dataclass(frozen=True)
class Case:
    """A function: its name, and its lines; the operands of the first one are its arguments."""

    name: str
    lines: Sequence[str]

    @property
    def text(self) -> str:
        return ir_text.function(self.lines, name=self.name)


def requantize_cases() -> Iterator[Case]:
    """Rounding modes, signedness, forms; vectors and zero points along dimension 1."""
    big = "#qvit.dyadic<2147483647, 39>"
    vector = "#qvit.dyadic<[1518500250, -3, 2147483647], [62, 0, 33]>"
    for mode in MODES:
        for i, (form, rest, before, after) in enumerate(
            [
                ("#qvit.pot<3>", "", "i8", "i8"),
                ("#qvit.pot<1>", "zero_point <128>", "i8", "ui8"),
                ("#qvit.pot<0>", "", "i32", "ui8"),
                ("#qvit.pot<-3>", "", "ui8", "i8"),
                ("#qvit.pot<-31>", "", "i32", "i32"),
                ("#qvit.pot<31>", "zero_point <-3>", "i32", "i4"),
                ("#qvit.pot<62>", "", "i64", "i8"),
                ("#qvit.pot<[-2, 0, 30]>", "axis 1", "i32", "i16"),
                ("#qvit.dyadic<3, 2>", "input_zero_point <7> zero_point <5>", "i8", "i8"),
                ("#qvit.dyadic<-3, 2>", "input_zero_point <200>", "ui8", "i16"),
                (big, "zero_point <-128>", "i32", "i8"),
                (big, "input_zero_point <-2147483648> zero_point <65535>", "i32", "ui16"),
                (big, "input_zero_point <4294967295>", "ui32", "i32"),
                (vector, "axis 1", "i32", "i8"),
                (vector, "input_zero_point <[1, -2, 3]> zero_point <[0, 128, 255]> axis 1", "i32", "ui8"),
                ("#qvit.dyadic<1, 0>", "", "i32", "ui32"),
                ("#qvit.dyadic<5, 1>", "", "i16", "i64"),
                ("#qvit.dyadic<65537, 16>", "", "i16", "ui4"),
            ]
        ):
            types = f"tensor<40x3x{before}> -> tensor<40x3x{after}>"
            rounding = "" if mode == "half_even" else f"rounding {mode}"
            yield Case(f"requantize_{mode}_{i}", [f"%y = qvit.requantize %x by {form} {rest} {rounding} : {types}"])


def add_requant_cases() -> Iterator[Case]:
    for mode in MODES:
        for i, (left, right, rest, element, result) in enumerate(
            [
                ("#qvit.pot<1>", "#qvit.dyadic<3, 2>", "", "i8", "i8"),
                ("#qvit.pot<1>", "#qvit.pot<1>", "@round_each", "i8", "i8"),
                ("#qvit.dyadic<70001, 17>", "#qvit.dyadic<-5, 3>", "lhs_zero_point <128> zero_point <3>", "ui8", "ui8"),
                ("#qvit.dyadic<[1, 2, 3], 2>", "#qvit.pot<[-1, 3, 0]>", "rhs_zero_point <-7> axis 1", "i16", "i16"),
                ("#qvit.dyadic<2147483647, 30>", "#qvit.pot<[2, 3, 4]>", "axis 1 @round_each", "i16", "i32"),
            ]
        ):
            rest = rest.replace("@", f"rounding {mode} ") if "@" in rest else f"{rest} rounding {mode}"
            types = f"(tensor<40x3x{element}>, tensor<40x3x{element}>) -> tensor<40x3x{result}>"
            yield Case(
                f"add_requant_{mode}_{i}", [f"%y = qvit.add_requant %a by {left}, %b by {right} {rest} : {types}"]
            )


def float_cases() -> Iterator[Case]:
    for element in ("f32", "f64"):
        for mode in MODES:
            for i, (params, result) in enumerate(
                [
                    ("<0.5>", "i8"),
                    ("<0.1, zero_point = 128>", "ui8"),
                    ("<0.1 * 3.0 / 0.7, zero_point = -32768>", "i16"),
                    ("<[0.5, 0.001, 100.0], zero_point = [0, 3, -5], axis = 1>", "i8"),
                    ("<[1.0, 0.001, 0.1], zero_point = [0, 2147483647, -5], axis = 1>", "i32"),
                    ("<1.0, zero_point = 4294967295>", "ui32"),
                ]
            ):
                types = f"tensor<60x3x{element}> -> tensor<60x3x{result}>"
                rounding = "" if mode == "half_even" else f"rounding {mode}"
                yield Case(f"quantize_{element}_{mode}_{i}", [f"%y = qvit.quantize %x {params} {rounding} : {types}"])
        for i, (params, operand) in enumerate(
            [
                ("<0.1>", "i8"),
                ("<-0.1 * 3.0 / 0.7, zero_point = 128>", "ui8"),
                ("<[0.5, 0.001, 100.0], zero_point = [0, 3, -5], axis = 1>", "i32"),
                ("<0.3, zero_point = 2147483647>", "i32"),
                ("<0.3, zero_point = 1>", "ui32"),
                ("<0.3>", "i64"),
            ]
        ):
            types = f"tensor<60x3x{operand}> -> tensor<60x3x{element}>"
            yield Case(f"dequantize_{element}_{i}", [f"%y = qvit.dequantize %x {params} : {types}"])
        for op in ("add", "sub", "mul", "div"):
            types = f"(tensor<60x3x{element}>, tensor<3x{element}>) -> tensor<60x3x{element}>"
            yield Case(f"{op}_{element}", [f"%y = qvit.{op} %a, %b : {types}"])
        yield Case(f"relu_{element}", [f"%y = qvit.relu %x : tensor<60x3x{element}>"])
        yield Case(
            f"sqrt_{element}",
            [f"%r = qvit.relu %x : tensor<60x3x{element}>", f"%y = qvit.sqrt %r : tensor<60x3x{element}>"],
        )


CASES = [
    *requantize_cases(),
    *add_requant_cases(),
    *float_cases(),
    Case("threshold", ["%y = qvit.threshold %x, %t lowest -4 : (tensor<9x3xi8>, tensor<7xi8>) -> tensor<9x3xi3>"]),
    Case(
        "threshold_axis",
        ["%y = qvit.threshold %x, %t lowest 0 axis 1 : (tensor<9x3xui32>, tensor<3x15xi16>) -> tensor<9x3xui4>"],
    ),
    Case(
        "threshold_bit", ["%y = qvit.threshold %x, %t lowest 0 : (tensor<9x3xi32>, tensor<1xi32>) -> tensor<9x3xui1>"]
    ),
    Case("matmul", ["%y = qvit.matmul %a, %b : (tensor<4x5xi8>, tensor<5x6xi8>) -> tensor<4x6xi32>"]),
    Case(
        "matmul_batches",
        [
            "%y = qvit.matmul %a, %b lhs_zero_point <128> rhs_zero_point <-3> : (tensor<2x1x4x5xui8>, tensor<3x5x6xi8>) -> tensor<2x3x4x6xi32>"
        ],
    ),
    Case(
        "matmul_columns",
        [
            "%y = qvit.matmul %a, %b rhs_zero_point <[1, 255, 7]> : (tensor<4x5xi16>, tensor<5x3xui8>) -> tensor<4x3xi32>"
        ],
    ),
    Case(
        "matmul_wide",
        ["%y = qvit.matmul %a, %b lhs_zero_point <5> : (tensor<4x3xi32>, tensor<3x2xi16>) -> tensor<4x2xi64>"],
    ),
    Case("linear", ["%y = qvit.linear %x, %w : (tensor<4x5xi8>, tensor<3x5xi8>) -> tensor<4x3xi32>"]),
    Case("linear_vector", ["%y = qvit.linear %x, %w : (tensor<5xui8>, tensor<3x5xi8>) -> tensor<3xi32>"]),
    Case(
        "linear_bias",
        [
            "%y = qvit.linear %x, %w, %b input_zero_point <128> weight_zero_point <[1, -2, 3]> : (tensor<2x4x5xui8>, tensor<3x5xi8>, tensor<3xi64>) -> tensor<2x4x3xi64>"
        ],
    ),
    Case("conv2d", ["%y = qvit.conv2d %x, %w : (tensor<2x3x5x6xi8>, tensor<4x3x2x3xi8>) -> tensor<2x4x4x4xi32>"]),
    Case(
        "conv2d_all",
        [
            "%y = qvit.conv2d %x, %w, %b input_zero_point <200> weight_zero_point <[1, -2, 3, 4]> {strides = array<i64: 2, 1>, padding = array<i64: 1, 0, 2, 3>, dilations = array<i64: 1, 2>, groups = 2} : (tensor<2x6x5x6xui8>, tensor<4x3x3x2xi8>, tensor<4xi64>) -> tensor<2x4x3x7xi64>"
        ],
    ),
    Case(
        "conv2d_depthwise",
        [
            "%y = qvit.conv2d %x, %w weight_zero_point <3> {groups = 3, padding = array<i64: 1, 1, 1, 1>} : (tensor<1x3x5x5xi8>, tensor<3x1x3x3xui8>) -> tensor<1x3x5x5xi32>"
        ],
    ),
    Case(
        "conv2d_patches",
        [
            "%y = qvit.conv2d %x, %w input_zero_point <-128> {strides = array<i64: 3, 3>} : (tensor<1x3x7x8xi8>, tensor<4x3x3x3xi8>) -> tensor<1x4x2x2xi32>"
        ],
    ),
    Case("add", ["%y = qvit.add %a, %b : (tensor<4x3xi8>, tensor<3xui16>) -> tensor<4x3xi32>"]),
    Case("sub", ["%y = qvit.sub %a, %b : (tensor<4x3xui8>, tensor<4x1xui8>) -> tensor<4x3xi32>"]),
    Case("mul", ["%y = qvit.mul %a, %b : (tensor<4x1xi32>, tensor<2x1x3xui32>) -> tensor<2x4x3xi64>"]),
    Case("add_scalar", ["%y = qvit.add %a, %b : (tensor<i8>, tensor<i8>) -> tensor<i32>"]),
    Case("reshape", ["%y = qvit.reshape %x : tensor<4x6xui8> -> tensor<2x3x4xui8>"]),
    Case("reshape_heads", ["%y = qvit.reshape %x : tensor<4x6xi8> -> tensor<4x2x3xi8>"]),
    Case("reshape_ones", ["%y = qvit.reshape %x : tensor<1x4x1x6x1xi8> -> tensor<4x1x6xi8>"]),
    Case("reshape_flat", ["%y = qvit.reshape %x : tensor<4x1x6x1xf32> -> tensor<24x1x1x1xf32>"]),
    Case(
        "reshape_scalar",
        ["%y = qvit.reshape %x : tensor<i8> -> tensor<1x1xi8>", "%z = qvit.reshape %y : tensor<1x1xi8> -> tensor<i8>"],
    ),
    Case("reshape_same", ["%y = qvit.reshape %x : tensor<4x6xi8> -> tensor<4x6xi8>"]),
    Case("transpose", ["%y = qvit.transpose %x [1, 2, 0] : tensor<4x6x3xui8> -> tensor<6x3x4xui8>"]),
    Case("slice", ["%y = qvit.slice %x axis 1 start 1 size 3 step 2 : tensor<4x6x2xui8> -> tensor<4x3x2xui8>"]),
    Case("slice_back", ["%y = qvit.slice %x axis 1 start 5 size 3 step -2 : tensor<4x6x2xi8> -> tensor<4x3x2xi8>"]),
    Case(
        "concat",
        [
            "%y = qvit.concat %a, %b, %c axis 1 : (tensor<2x1x3xui8>, tensor<2x4x3xui8>, tensor<2x2x3xui8>) -> tensor<2x7x3xui8>"
        ],
    ),
    Case("gather", ["%y = qvit.gather %x, %i axis 1 : (tensor<2x256x3xi8>, tensor<2x5xui8>) -> tensor<2x2x5x3xi8>"]),
    Case("gather_one", ["%y = qvit.gather %x, %i axis 0 : (tensor<256x3xf32>, tensor<ui8>) -> tensor<3xf32>"]),
    Case("broadcast", ["%y = qvit.broadcast %x : tensor<4x1xui8> -> tensor<3x4x5xui8>"]),
    Case(
        "constants",
        [
            "%a = qvit.add %x, %x : (tensor<2x3xi8>, tensor<2x3xi8>) -> tensor<2x3xi32>",
            "%c = qvit.constant dense<[[255, 128, 127], [0, 1, 2]]> : tensor<2x3xui8>",
            "%y = qvit.add %a, %c : (tensor<2x3xi32>, tensor<2x3xui8>) -> tensor<2x3xi32>",
        ],
    ),
    Case(
        "constant_nibbles",
        [
            "%a = qvit.add %x, %x : (tensor<3xi8>, tensor<3xi8>) -> tensor<3xi32>",
            "%c = qvit.constant dense<[15, 8, 7]> : tensor<3xui4>",
            "%y = qvit.sub %a, %c : (tensor<3xi32>, tensor<3xui4>) -> tensor<3xi32>",
        ],
    ),
]


def values_of(type: TensorType, seed: int) -> Array:
    """Both ends of an integer type, small numbers, then random ones; for floats ties, huge and tiny ones too."""
    rng, shape = np.random.default_rng(seed), type.get_shape()
    size, integer = int(np.prod(shape)), int_type(type.element_type)
    if integer is not None:
        edges = [
            v
            for v in (integer.lo, integer.hi, 0, 1, -1, 2, -2, 3, 5, 8, -8, 12, integer.lo + 1)
            if integer.lo <= v <= integer.hi
        ]
        spread = rng.integers(1, integer.bits + 1, size)  # many small ones, so that not all is saturated
        bounds = [(max(integer.lo, -(1 << int(b))), min(integer.hi, (1 << int(b)) - 1)) for b in spread]
        random = [int(rng.integers(lo, hi, endpoint=True)) for lo, hi in bounds]
    else:
        edges = [k / 4 for k in range(-20, 20)] + [1e30, -1e30, np.inf, -np.inf, 1e-42, -0.0, 0.49999997, 127.5 * 0.1]
        random = list(rng.normal(size=size) * 10.0 ** rng.integers(-2, 5, size))
    chosen = [*edges, *random] if size > len(edges) else random
    return rng.permutation(np.array(chosen[:size])).reshape(shape).astype(element_dtype(type.element_type))


def inputs_of(function: FuncOp) -> list[Array]:
    """One array for each argument; thresholds do not decrease."""
    arrays = [values_of(argument.type, i) for i, argument in enumerate(function.args)]
    if function.sym_name.data.startswith("threshold"):
        arrays[1].sort(axis=-1)
    return arrays


def in_memory(array: Array, type: TensorType) -> Array:
    """The array as the lowered function holds it: uiN by its bits, as a signed integer."""
    integer = int_type(type.element_type)
    if integer is None:
        return array
    wide = array.astype(np.int64)
    if not integer.signed:
        wide = np.where(wide >> (integer.bits - 1), wide - (1 << integer.bits), wide)
    return wide.astype(f"int{array.dtype.itemsize * 8}")
