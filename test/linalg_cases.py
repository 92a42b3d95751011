"""Functions of the dialect and inputs for them: what --lower-to-linalg is tested on, here and in other compilers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ir_text
import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.dialects.func import FuncOp

from qvit.backends.interpreter import find_function, run
from qvit.dialects.types import element_dtype, int_type
from qvit.transforms.delay_dequant import delay_dequant
from qvit.transforms.lower_requant import lower_requant

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

    def reference(self, prepare: Callable[[Array], Array] = lambda x: x) -> "Run":
        """What the interpreter computes of the case's inputs, prepared."""
        module = ir_text.parse(self.text)
        inputs = inputs_of(find_function(module, self.name))
        return reference(module, self.name, [prepare(x) for x in inputs])


@dataclass(frozen=True)
class Run:
    """Inputs and the result of a function, as the lowered one holds them: uiN by its bits, as signed integers."""

    inputs: Sequence[Array]
    result: Array


def reference(module: ModuleOp, name: str, inputs: Sequence[Array]) -> Run:
    """What the interpreter computes, in the precision that the types say."""
    function = find_function(module, name)
    precision = np.float64 if "f64" in str(function.function_type) else np.float32
    (result,) = run(module, inputs, function=name, float_dtype=precision).values()
    types = [argument.type for argument in function.args]
    held = [in_memory(x, type) for x, type in zip(inputs, types, strict=True)]
    return Run(held, in_memory(result, function.function_type.outputs.data[0]))


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


def comparison_cases() -> Iterator[Case]:
    for element in ("ui8", "i64", "f32"):
        a, b = f"tensor<40x3x{element}>", f"tensor<3x{element}>"
        for predicate in ("eq", "ne", "lt", "le", "gt", "ge"):
            lines = [
                f'%c = qvit.compare %a, %b {{predicate = "{predicate}"}} : ({a}, {b}) -> tensor<40x3xui1>',
                f"%y = qvit.select %c, %a, %b : (tensor<40x3xui1>, {a}, {b}) -> {a}",
            ]
            yield Case(f"{predicate}_{element}", lines)


SINGLE = [
    ("compare", 'qvit.compare %a, %b {predicate = "lt"}', "(tensor<4x1xui8>, tensor<3xui8>) -> tensor<4x3xui1>"),
    ("clip", "qvit.clip %x {low = 3 : i64, high = 200 : i64}", "tensor<40xui8>"),
    ("clip_low", "qvit.clip %x {low = -9223372036854775807 : i64}", "tensor<40xi64>"),
    ("clip_nibbles", "qvit.clip %x {low = -7 : i64, high = 7 : i64}", "tensor<40xi4>"),
    (
        "clip_channels",
        "qvit.clip %x {low = dense<[-7, 0, -8]> : tensor<3xi64>, high = dense<[-7, 6, 7]> : tensor<3xi64>, axis = 1 : i64}",
        "tensor<9x3x2xi4>",
    ),
    (
        "clip_unsigned_channels",
        "qvit.clip %x {low = 2 : i64, high = dense<[255, 2]> : tensor<2xi64>, axis = 1 : i64}",
        "tensor<90x2xui8>",
    ),
    ("clip_floats", "qvit.clip %x {low = -0.1 : f64, high = 7.0 : f64}", "tensor<60xf32>"),
    ("clip_high", "qvit.clip %x {high = 0.1 : f64}", "tensor<60xf64>"),
    ("threshold", "qvit.threshold %x, %t lowest -4", "(tensor<9x3xi8>, tensor<7xi8>) -> tensor<9x3xi3>"),
    (
        "threshold_axis",
        "qvit.threshold %x, %t lowest 0 axis 1",
        "(tensor<9x3xui32>, tensor<3x15xi16>) -> tensor<9x3xui4>",
    ),
    ("threshold_bit", "qvit.threshold %x, %t lowest 0", "(tensor<9x3xi32>, tensor<1xi32>) -> tensor<9x3xui1>"),
    ("matmul", "qvit.matmul %a, %b", "(tensor<4x5xi8>, tensor<5x6xi8>) -> tensor<4x6xi32>"),
    (
        "matmul_batches",
        "qvit.matmul %a, %b lhs_zero_point <128> rhs_zero_point <-3>",
        "(tensor<2x1x4x5xui8>, tensor<3x5x6xi8>) -> tensor<2x3x4x6xi32>",
    ),
    (
        "matmul_columns",
        "qvit.matmul %a, %b rhs_zero_point <[1, 255, 7]>",
        "(tensor<4x5xi16>, tensor<5x3xui8>) -> tensor<4x3xi32>",
    ),
    ("matmul_wide", "qvit.matmul %a, %b lhs_zero_point <5>", "(tensor<4x3xi32>, tensor<3x2xi16>) -> tensor<4x2xi64>"),
    ("shift_matmul", "qvit.shift_matmul %q, %v", "(tensor<4x5xui5>, tensor<5x6xi8>) -> tensor<4x6xi32>"),
    (
        "shift_matmul_batches",
        "qvit.shift_matmul %q, %v rhs_zero_point <[1, 255, 7]>",
        "(tensor<2x1x4x5xui5>, tensor<3x5x3xui8>) -> tensor<2x3x4x3xi64>",
    ),
    ("linear", "qvit.linear %x, %w", "(tensor<4x5xi8>, tensor<3x5xi8>) -> tensor<4x3xi32>"),
    ("linear_vector", "qvit.linear %x, %w", "(tensor<5xui8>, tensor<3x5xi8>) -> tensor<3xi32>"),
    (
        "linear_bias",
        "qvit.linear %x, %w, %b input_zero_point <128> weight_zero_point <[1, -2, 3]>",
        "(tensor<2x4x5xui8>, tensor<3x5xi8>, tensor<3xi64>) -> tensor<2x4x3xi64>",
    ),
    ("conv2d", "qvit.conv2d %x, %w", "(tensor<2x3x5x6xi8>, tensor<4x3x2x3xi8>) -> tensor<2x4x4x4xi32>"),
    (
        "conv2d_all",
        "qvit.conv2d %x, %w, %b input_zero_point <200> weight_zero_point <[1, -2, 3, 4]>"
        " {strides = array<i64: 2, 1>, padding = array<i64: 1, 0, 2, 3>, dilations = array<i64: 1, 2>, groups = 2}",
        "(tensor<2x6x5x6xui8>, tensor<4x3x3x2xi8>, tensor<4xi64>) -> tensor<2x4x3x7xi64>",
    ),
    (
        "conv2d_depthwise",
        "qvit.conv2d %x, %w weight_zero_point <3> {groups = 3, padding = array<i64: 1, 1, 1, 1>}",
        "(tensor<1x3x5x5xi8>, tensor<3x1x3x3xui8>) -> tensor<1x3x5x5xi32>",
    ),
    (
        "conv2d_patches",
        "qvit.conv2d %x, %w input_zero_point <-128> {strides = array<i64: 3, 3>}",
        "(tensor<1x3x7x8xi8>, tensor<4x3x3x3xi8>) -> tensor<1x4x2x2xi32>",
    ),
    ("add", "qvit.add %a, %b", "(tensor<4x3xi8>, tensor<3xui16>) -> tensor<4x3xi32>"),
    ("sub", "qvit.sub %a, %b", "(tensor<4x3xui8>, tensor<4x1xui8>) -> tensor<4x3xi32>"),
    ("mul", "qvit.mul %a, %b", "(tensor<4x1xi32>, tensor<2x1x3xui32>) -> tensor<2x4x3xi64>"),
    ("add_scalar", "qvit.add %a, %b", "(tensor<i8>, tensor<i8>) -> tensor<i32>"),
    ("reshape", "qvit.reshape %x", "tensor<4x6xui8> -> tensor<2x3x4xui8>"),
    ("reshape_heads", "qvit.reshape %x", "tensor<4x6xi8> -> tensor<4x2x3xi8>"),
    ("reshape_ones", "qvit.reshape %x", "tensor<1x4x1x6x1xi8> -> tensor<4x1x6xi8>"),
    ("reshape_flat", "qvit.reshape %x", "tensor<4x1x6x1xf32> -> tensor<24x1x1x1xf32>"),
    ("reshape_same", "qvit.reshape %x", "tensor<4x6xi8> -> tensor<4x6xi8>"),
    ("transpose", "qvit.transpose %x [1, 2, 0]", "tensor<4x6x3xui8> -> tensor<6x3x4xui8>"),
    ("slice", "qvit.slice %x axis 1 start 1 size 3 step 2", "tensor<4x6x2xui8> -> tensor<4x3x2xui8>"),
    ("slice_back", "qvit.slice %x axis 1 start 5 size 3 step -2", "tensor<4x6x2xi8> -> tensor<4x3x2xi8>"),
    (
        "concat",
        "qvit.concat %a, %b, %c axis 1",
        "(tensor<2x1x3xui8>, tensor<2x4x3xui8>, tensor<2x2x3xui8>) -> tensor<2x7x3xui8>",
    ),
    ("gather", "qvit.gather %x, %i axis 1", "(tensor<2x256x3xi8>, tensor<2x5xui8>) -> tensor<2x2x5x3xi8>"),
    ("gather_one", "qvit.gather %x, %i axis 0", "(tensor<256x3xf32>, tensor<ui8>) -> tensor<3xf32>"),
    ("broadcast", "qvit.broadcast %x", "tensor<4x1xui8> -> tensor<3x4x5xui8>"),
]
"""(name, operation, its types)"""

CASES = [
    *requantize_cases(),
    *add_requant_cases(),
    *float_cases(),
    *comparison_cases(),
    *(Case(name, [f"%y = {operation} : {types}"]) for name, operation, types in SINGLE),
    Case(
        "reshape_scalar",
        ["%y = qvit.reshape %x : tensor<i8> -> tensor<1x1xi8>", "%z = qvit.reshape %y : tensor<1x1xi8> -> tensor<i8>"],
    ),
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
        wanted = (integer.lo, integer.hi, 0, 1, -1, 2, -2, 3, 5, 8, -8, 12, integer.lo + 1)
        edges = [v for v in wanted if integer.lo <= v <= integer.hi]
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
    integer = int_type(type.element_type)
    if integer is None:
        return array
    wide = array.astype(np.int64)
    if not integer.signed:
        wide = np.where(wide >> (integer.bits - 1), wide - (1 << integer.bits), wide)
    return wide.astype(f"int{array.dtype.itemsize * 8}")


def _weight(name: str, shape: Sequence[int], rng: np.random.Generator) -> list[str]:
    """An int8 weight [N, K] with a scale for each row, dequantized."""
    type, scales = f"tensor<{'x'.join(map(str, shape))}xi8>", rng.uniform(0.001, 0.004, shape[0]).astype(np.float32)
    params = f"<[{', '.join(map(str, scales))}], axis = 0>"
    return [
        f"%{name}_codes = qvit.constant dense<{rng.integers(-128, 128, shape).tolist()}> : {type}",
        f"%{name} = qvit.dequantize %{name}_codes {params} : {type} -> {type.replace('i8', 'f32')}",
    ]


def _quantized(name: str, shape: str, params: str, element: str = "i8") -> list[str]:
    """Quantize and dequantize %name: its codes are %name_q, its value %name_d."""
    return [
        f"%{name}_q = qvit.quantize %{name} {params} : tensor<{shape}xf32> -> tensor<{shape}x{element}>",
        f"%{name}_d = qvit.dequantize %{name}_q {params} : tensor<{shape}x{element}> -> tensor<{shape}xf32>",
    ]


def _head(name: str, index: int, order: str, shape: str) -> list[str]:
    """Query, key or value of two heads."""
    return [
        f"%{name}_0 = qvit.slice %qkv_h axis 1 start {index} size 1 step 1 : tensor<7x3x2x8xf32> -> tensor<7x1x2x8xf32>",
        f"%{name}_1 = qvit.reshape %{name}_0 : tensor<7x1x2x8xf32> -> tensor<7x2x8xf32>",
        f"%{name} = qvit.transpose %{name}_1 {order} : tensor<7x2x8xf32> -> tensor<{shape}xf32>",
    ]


def attention_block() -> str:
    """@main: an attention block (a ReLU in the place of softmax) and a residual, quantized as ONNX Runtime does it."""
    rng = np.random.default_rng(0)
    lines = [
        *_quantized("x", "7x16", "<0.02, zero_point = 128>", "ui8"),
        *_weight("w_qkv", (48, 16), rng),
        "%qkv = qvit.linear %x_d, %w_qkv : (tensor<7x16xf32>, tensor<48x16xf32>) -> tensor<7x48xf32>",
        *_quantized("qkv", "7x48", "<0.03, zero_point = 3>"),
        "%qkv_h = qvit.reshape %qkv_d : tensor<7x48xf32> -> tensor<7x3x2x8xf32>",
        *_head("q", 0, "[1, 0, 2]", "2x7x8"),
        *_head("k", 1, "[1, 2, 0]", "2x8x7"),
        *_head("v", 2, "[1, 0, 2]", "2x7x8"),
        "%s = qvit.matmul %q, %k : (tensor<2x7x8xf32>, tensor<2x8x7xf32>) -> tensor<2x7x7xf32>",
        *_quantized("s", "2x7x7", "<0.05>"),
        "%p = qvit.relu %s_d : tensor<2x7x7xf32>",
        *_quantized("p", "2x7x7", "<0.02>", "ui8"),
        "%a = qvit.matmul %p_d, %v : (tensor<2x7x7xf32>, tensor<2x7x8xf32>) -> tensor<2x7x8xf32>",
        *_quantized("a", "2x7x8", "<0.1, zero_point = -5>"),
        "%t = qvit.transpose %a_d [1, 0, 2] : tensor<2x7x8xf32> -> tensor<7x2x8xf32>",
        "%u = qvit.reshape %t : tensor<7x2x8xf32> -> tensor<7x16xf32>",
        *_weight("w_out", (16, 16), rng),
        "%o = qvit.linear %u, %w_out : (tensor<7x16xf32>, tensor<16x16xf32>) -> tensor<7x16xf32>",
        *_quantized("o", "7x16", "<0.04>"),
        "%r = qvit.add %o_d, %x_d : (tensor<7x16xf32>, tensor<7x16xf32>) -> tensor<7x16xf32>",
        "%y = qvit.quantize %r <0.05, zero_point = 120> : tensor<7x16xf32> -> tensor<7x16xui8>",
    ]
    return ir_text.function(lines)


def integer_block() -> ModuleOp:
    """`attention_block` after --delay-dequant, without real factors: its products are integer, and all of it lowers."""
    module = ir_text.parse(attention_block())
    report = delay_dequant(module)
    assert report.macs_integer.after == report.macs_total > 0
    assert len(lower_requant(module).lowered) == 4
    return module
