"""Every operator with codes in or out that the ONNX reader knows, in its attribute forms, against onnxruntime.

Codes are equal. The data is chosen so that no float of onnxruntime's lies on a tie between two codes.
"""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from data.onnx_build import assert_same, graph, model, node, opcounts, run_ort
from data.onnx_case import STEP, STEPS, Case, Feed, assert_as_onnxruntime, c, cases, codes, f32, spread, x
from onnx import TensorProto
from xdsl.dialects.builtin import ModuleOp

from qvit.backends.interpreter import run
from qvit.dialects.ops.quantization import DequantizeOp
from qvit.dialects.types import element_of
from qvit.frontends.errors import ImportRefused
from qvit.frontends.onnx import import_onnx, import_to_measure
from qvit.frontends.onnx.handlers.dynamic import DYNAMIC as DYNAMIC_HANDLERS
from qvit.frontends.onnx.handlers.qonnx import QONNX as QONNX_HANDLERS
from qvit.frontends.onnx.handlers.qoperator import QOPERATOR as QOPERATOR_HANDLERS
from qvit.frontends.onnx.handlers.quantization import QUANTIZATION

MS = "com.microsoft"

# --- QuantizeLinear and DequantizeLinear ---

BY_8, BY_16 = (13, 17, 19, 21), (21,)  # 16 bits came with opset 21


def narrow(dtype: str, *shape: int) -> np.ndarray:
    """Codes of fewer than 8 bits: a constant, as NumPy's own functions do not know their type."""
    low, high = (-8, 8) if dtype == "int4" else (0, 16)
    return np.random.default_rng(shape).integers(low, high, shape).astype(dtype)


def qdq(dtype: str, opsets: tuple[int, ...], domain: str = "") -> list[Case]:
    """QuantizeLinear and DequantizeLinear with codes of one type: scalar, one element, along each axis."""
    zero = np.array(3, dtype)
    zeros = np.array([0, 1, 2, 99], dtype)
    rows: list[Case] = []
    for op, source in (
        ("QuantizeLinear", spread),
        ("DequantizeLinear", lambda s, z, dtype, shape, axis=0: codes(dtype, *shape)),
    ):
        rows += cases(op, source(STEP, zero, dtype, (3, 5)), STEP, zero, opsets=opsets, domain=domain)
        rows += cases(
            op, source(STEP, zero, dtype, (3, 5)), STEP.reshape(1), zero.reshape(1), opsets=opsets, domain=domain
        )
        for axis, shape in ((0, (4, 5)), (1, (2, 4, 3)), (-1, (3, 4)), (-2, (2, 4, 3))):
            rows += cases(
                op, source(STEPS, zeros, dtype, shape, axis), STEPS, zeros, axis=axis, opsets=opsets, domain=domain
            )
    rows += cases("DequantizeLinear", codes(dtype, 3, 4), STEP, opsets=opsets, domain=domain)
    rows += cases("DequantizeLinear", codes(dtype, 3, 4), STEPS, None, opsets=opsets, domain=domain)
    return rows


QDQ = [
    *qdq("int8", BY_8),
    *qdq("uint8", BY_8),
    *qdq("int16", BY_16),
    *qdq("uint16", BY_16),
    *(case for dtype in ("int8", "uint8", "int16", "uint16") for case in qdq(dtype, (17,), MS)),
    *cases("QuantizeLinear", spread(STEP, 0, "uint8", (3, 5)), STEP, opsets=BY_8),  # no zero point: 0, and uint8
    *cases("QuantizeLinear", spread(STEPS, 0, "uint8", (3, 4), 1), STEPS, None),
    *cases("QuantizeLinear", spread(STEP, 0, "int8", (1, 3)), STEP.reshape(1), np.zeros(1, np.int8), axis=0),
    *cases("QuantizeLinear", c(3, 5), STEP, np.array(-7, np.int8)),
    *cases("DequantizeLinear", codes("int32", 7), STEP),
    *cases("DequantizeLinear", codes("int32", 4), STEPS, np.zeros(4, np.int32), axis=0),
    *cases("DequantizeLinear", codes("int32", 5).array, STEP),
    *cases("DequantizeLinear", codes("int8", 4, 3).array, STEPS, axis=-2),
    *cases("DequantizeLinear", codes("int8", 4, 3), STEPS * f32(1, -1, 1, -1), axis=0),
    *cases("QuantizeLinear", spread(STEP, 0, "int8", (3, 5)), STEP, output_dtype=TensorProto.INT8, opsets=(21, 23)),
    *cases("QuantizeLinear", spread(STEP, 0, "uint16", (3, 5)), STEP, output_dtype=TensorProto.UINT16, opsets=(21,)),
    *(
        case
        for dtype in ("int4", "uint4")
        for case in (
            *cases("DequantizeLinear", narrow(dtype, 3, 4), STEP, np.array(1, dtype), opsets=(21, 23)),
            *cases("DequantizeLinear", narrow(dtype, 4, 3), STEPS, np.array([0, 1, 2, 3], dtype), axis=0, opsets=(21,)),
            *cases("DequantizeLinear", narrow(dtype, 3, 4), STEP, opsets=(21,)),
        )
    ),
]


# --- operators on codes: each operand is codes, a scale and a zero point ---


def n(value: int, dtype: str) -> np.ndarray:
    return np.array(value, dtype)


def scale(value: float) -> np.ndarray:
    return np.array(value, np.float32)


U8, I8 = n(120, "uint8"), n(-5, "int8")
A = codes("uint8", 5, 6), scale(0.021), n(131, "uint8")
B = codes("int8", 6, 4).array, scale(0.017), n(3, "int8")
COLUMNS = f32(0.017, 0.02, 0.003, 0.011)
PICTURE = codes("uint8", 2, 4, 6, 5), scale(0.031), n(117, "uint8")
KERNEL = codes("int8", 6, 4, 3, 2).array, scale(0.013), n(0, "int8")
KERNELS = KERNEL[0], f32(0.013, 0.02, 0.007, 0.011, 0.03, 0.005), np.zeros(6, np.int8)
BIAS = np.array([100, -2000, 3, 0, 50000, -70], np.int32)
BOTH = [("uint8", U8), ("int8", I8)]

QKV = (
    codes("uint8", 2, 5, 8),
    codes("int8", 8, 36).array,
    c(36),
    scale(0.01),
    scale(0.012),
    None,
    n(120, "uint8"),
    n(4, "int8"),
)

QOPERATOR = [
    *cases("QLinearMatMul", *A, *B, scale(0.05), U8, opsets=(11, 21)),
    *cases("QLinearMatMul", *A, B[0], COLUMNS, np.zeros(4, np.int8), scale(0.05), U8),
    *cases("QLinearMatMul", codes("int8", 2, 5, 6), scale(0.02), I8, *B, scale(0.05), I8),
    *cases("QLinearMatMul", *A, codes("uint8", 6, 4), scale(0.02), U8, scale(0.05), U8),
    *cases("QLinearConv", *PICTURE, *KERNEL, scale(0.09), U8, opsets=(11, 21)),
    *cases("QLinearConv", *PICTURE, *KERNELS, scale(0.09), U8, BIAS, pads=[1, 2, 0, 1], strides=[2, 1]),
    *cases("QLinearConv", *PICTURE, KERNEL[0][:, :2], *KERNELS[1:], scale(0.09), U8, BIAS, group=2, dilations=[2, 1]),
    *cases("QLinearConv", *PICTURE, *KERNEL, scale(0.09), U8, BIAS, auto_pad="SAME_UPPER", kernel_shape=[3, 2]),
    *(
        case
        for op in ("QLinearAdd", "QLinearMul")
        for dtype, zero in BOTH
        for left in (codes(dtype, 3, 4), codes(dtype, 3, 4).array)
        for case in (
            *cases(
                op, left, scale(0.021), zero, codes(dtype, 2, 3, 4), scale(0.043), zero, scale(0.0473), zero, domain=MS
            ),
            *cases(op, left, scale(0.021), zero, codes(dtype, 4), scale(0.043), zero, scale(0.0473), zero, domain=MS),
        )
    ),
    *(
        case
        for dtype, zero in BOTH
        for case in (
            *cases("QLinearSigmoid", codes(dtype, 3, 40), scale(0.043), zero, scale(0.0041), zero, domain=MS),
            *cases("QLinearLeakyRelu", codes(dtype, 3, 40), scale(0.043), zero, scale(0.05), zero, domain=MS),
            *cases("QLinearLeakyRelu", codes(dtype, 40), scale(0.04), zero, scale(0.05), zero, alpha=0.3, domain=MS),
            *cases(
                "QLinearConcat",
                scale(0.05),
                zero,
                codes(dtype, 2, 3),
                scale(0.021),
                zero,
                codes(dtype, 2, 4),
                scale(0.043),
                n(7, dtype),
                axis=-1,
                domain=MS,
            ),
            *cases(
                "QLinearGlobalAveragePool", codes(dtype, 2, 3, 5, 4), scale(0.043), zero, scale(0.011), zero, domain=MS
            ),
        )
    ),
    *(
        case
        for settings in (
            {},
            {"strides": [2, 1]},
            {"pads": [1, 0, 0, 1]},
            {"pads": [1, 0, 0, 1], "count_include_pad": 1},
            {"auto_pad": "SAME_LOWER"},
        )
        for case in cases(
            "QLinearAveragePool", *PICTURE, scale(0.02311), U8, kernel_shape=[3, 2], domain=MS, **settings
        )
    ),
    *cases("QGemm", *A, *B, domain=MS),
    *cases("QGemm", *A, *B, None, scale(0.05), U8, domain=MS),
    *cases("QGemm", *A, *B, BIAS[:4], scale(0.05), U8, domain=MS),
    *cases("QGemm", *A, B[0], COLUMNS, np.zeros(4, np.int8), BIAS[:4], scale(0.05), U8, domain=MS),
    *cases("QGemm", *A, B[0].T, COLUMNS, np.zeros(4, np.int8), BIAS[:4], scale(0.05), U8, transB=1, domain=MS),
    *cases("QGemm", *A, B[0].T, *B[1:], BIAS[:4], transB=1, alpha=0.4, domain=MS),
    *cases("QGemm", codes("int8", 6, 5), scale(0.02), I8, *B, BIAS[:4], scale(0.05), I8, transA=1, domain=MS),
    *cases("MatMulIntegerToFloat", A[0], B[0], A[1], B[1], domain=MS),
    *cases("MatMulIntegerToFloat", A[0], B[0], A[1], COLUMNS, A[2], np.array([1, -2, 3, 0], np.int8), c(4), domain=MS),
    *cases("QAttention", *QKV, domain=MS, num_heads=3),
    *cases("QAttention", *QKV[:-1], n(0, "int8"), domain=MS, num_heads=3, unidirectional=1, scale=0.3),
]

# onnxruntime's table of e^x is rounded to whole numbers, so that its results may be off by one
SOFTMAX = [
    *(
        case
        for dtype, zero in (("uint8", n(0, "uint8")), ("int8", n(-128, "int8")))
        for settings in ({"opset": 13, "axis": -1}, {"opset": 13, "axis": 1}, {"opset": 12, "axis": 1})
        for case in cases(
            "QLinearSoftmax", codes(dtype, 2, 3, 4), scale(0.043), zero, scale(1 / 256), zero, domain=MS, **settings
        )
    ),
]

TABLE = [*QDQ, *QOPERATOR]


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_computes_what_onnxruntime_does(case: Case) -> None:
    assert_as_onnxruntime(case)


@pytest.mark.parametrize("case", SOFTMAX, ids=str)
def test_softmax_of_codes_within_one_of_onnxruntime(case: Case) -> None:
    (expected,) = run_ort(case.proto(), case.feeds).values()
    (found,) = run(import_onnx(case.proto())[0], case.feeds).values()
    assert found.dtype == expected.dtype
    assert np.abs(found.astype(int) - expected).max() <= 1


# --- how many bits codes have ---


def element_types(module: ModuleOp) -> list[str]:
    """Of the codes that are dequantized."""
    return [str(element_of(op.input)) for op in module.walk() if isinstance(op, DequantizeOp)]


CLIPPED = {
    "signed": ("int8", (-8, 7), "i4", {"quantize": 1, "dequantize": 1}),
    "narrow": ("int8", (-7, 7), "i4", {"quantize": 1, "clip": 1, "dequantize": 1}),
    "unsigned": ("uint8", (0, 15), "ui4", {"quantize": 1, "dequantize": 1}),
    "unsigned in signed": ("int8", (0, 100), "ui7", {"quantize": 1, "clip": 1, "dequantize": 1}),
    "two bits": ("int8", (-1, 1), "i2", {"quantize": 1, "clip": 1, "dequantize": 1}),
    "one bit": ("uint8", (0, 1), "ui1", {"quantize": 1, "dequantize": 1}),
    "all of them": ("int8", (-128, 127), "i8", {"quantize": 1, "dequantize": 1}),
    "without the zero point": ("uint8", (5, 7), "ui3", {"quantize": 1, "clip": 1, "dequantize": 1}),
}


@pytest.mark.parametrize("name", CLIPPED)
@pytest.mark.parametrize("constant", [False, True])
def test_a_clip_says_how_many_bits_codes_have(name: str, constant: bool) -> None:
    """QuantizeLinear, Clip, DequantizeLinear, as Brevitas writes 4 bits: of activations and of weights."""
    dtype, (low, high), element, left = CLIPPED[name]
    nodes = graph("q = QuantizeLinear x s z\nk = Clip q low high\nd = DequantizeLinear k s z\ny = Add d f")
    values = spread(STEP, 0, dtype, (3, 5)).array
    feeds = {"f": values} if constant else {"x": values, "f": values}
    constants = {"s": STEP, "z": n(0, dtype), "low": n(low, dtype), "high": n(high, dtype)}
    proto = model(nodes, feeds, "y", {"x": values, **constants} if constant else constants)
    module, _ = import_onnx(proto)
    assert element_types(module) == [element]
    assert opcounts(module) == {"add": 1, **({"dequantize": 1} if constant else left)}
    assert_same(run(module, feeds), run_ort(proto, feeds))


def test_a_zero_point_outside_the_bounds_keeps_the_wide_codes() -> None:
    nodes = graph("q = QuantizeLinear x s z\nk = Clip q low high\ny = DequantizeLinear k s z")
    feeds = {"x": spread(STEP, 100, "uint8", (3, 5)).array}
    constants = {"s": STEP, "z": n(100, "uint8"), "low": n(5, "uint8"), "high": n(15, "uint8")}
    proto = model(nodes, feeds, "y", constants)
    module, _ = import_onnx(proto)
    assert element_types(module) == ["ui8"]
    assert_same(run(module, feeds), run_ort(proto, feeds))


@pytest.mark.parametrize(("dtype", "element"), [("int4", "i4"), ("uint4", "ui4"), ("int8", "i8")])
def test_weights_keep_their_bits(dtype: str, element: str) -> None:
    """onnxruntime has no kernel for 2 bits; the expected values are the formula's."""
    low, high = (-(1 << int(dtype[-1]) - 1), (1 << int(dtype[-1]) - 1) - 1) if dtype[0] == "i" else (0, 3)
    stored = np.random.default_rng(0).integers(low, high, (4, 5), endpoint=True)
    nodes = graph("d = DequantizeLinear w s axis=1\ny = MatMul x d")
    feeds, steps = {"x": x(3, 4).array}, f32(0.1, 0.2, 0.3, 0.4, 0.5)
    proto = model(nodes, feeds, "y", {"w": stored.astype(dtype), "s": steps}, opset=23)
    module, _ = import_onnx(proto)
    assert element_types(module) == [element]
    assert_same(run(module, feeds), {"y": feeds["x"] @ (stored * steps)})


# --- QONNX: no runtime has these operators, the expected values are the formula's ---

DOMAINS = ("qonnx.custom_op.general", "finn.custom_op.general", "onnx.brevitas")
ROUNDED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ROUND": np.rint,
    "HALF_EVEN": np.rint,
    "HALF_UP": lambda v: np.sign(v) * np.floor(np.abs(v) + 0.5),  # QONNX rounds the magnitude
    "FLOOR": np.floor,
}
ROUNDED_AT_IMPORT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "HALF_DOWN": lambda v: np.sign(v) * np.ceil(np.abs(v) - 0.5),
    "UP": lambda v: np.sign(v) * np.ceil(np.abs(v)),
    "DOWN": np.trunc,
    "CEIL": np.ceil,
}
TIES = Feed((np.arange(-24, 24, dtype=np.float32) / 2).reshape(4, 12))  # in halves of a step of 1


def quant(
    value: Feed | np.ndarray,
    step: np.ndarray,
    zero: np.ndarray,
    bits: float,
    domain: str = DOMAINS[0],
    **settings: object,
) -> Case:
    op = str(settings.pop("op", "Quant"))
    return cases(op, value, step, zero, np.array(bits, np.float32), domain=domain, **settings)[0]


def quantized(case: Case) -> np.ndarray:
    """(clip(round(x / scale + zero point)) - zero point) * scale, in float64."""
    value, step, zero, bits = (i.array if isinstance(i, Feed) else i for i in case.inputs)
    signed, narrow_ = case.attributes.get("signed", 1), case.attributes.get("narrow", 1)
    half = 2.0 ** (float(bits) - 1)
    low, high = (-half + narrow_, half - 1) if signed else (0, 2 * half - 1 - narrow_)
    rounded = (ROUNDED | ROUNDED_AT_IMPORT)[str(case.attributes.get("rounding_mode", "ROUND")).upper()]
    scaled = value.astype(np.float64) / step.astype(np.float64) + zero
    return (np.clip(rounded(scaled), low, high) - zero) * step


ONE, NONE = np.array(1, np.float32), np.array(0, np.float32)
BY_ROWS = f32(0.5, 0.25, 1, 2).reshape(4, 1)

QUANTS = [
    *(
        quant(value, STEP, NONE, 4, domain, op=op)
        for domain in DOMAINS
        for op in ("Quant", "IntQuant")
        for value in (x(3, 5), c(3, 5))
    ),
    *(
        quant(TIES, ONE, NONE, bits, signed=signed, narrow=narrow_, rounding_mode=mode)
        for bits in (2, 3, 8)
        for signed in (0, 1)
        for narrow_ in (0, 1)
        for mode in (*ROUNDED, "floor")
    ),
    *(
        quant(TIES.array, ONE, np.array(3, np.float32), 3, signed=0, rounding_mode=m)
        for m in ROUNDED | ROUNDED_AT_IMPORT
    ),
    *(quant(TIES.array / 1.5, ONE, NONE, 4, rounding_mode=m) for m in ROUNDED_AT_IMPORT),
    quant(x(3, 5), STEP, np.array(4, np.float32), 8, signed=0),
    quant(TIES, ONE, np.array(2, np.float32), 4, signed=0, narrow=0),  # an even zero point moves no tie
    quant(TIES, BY_ROWS, NONE, 4),
    quant(TIES.array, BY_ROWS, np.array([[1], [0], [-2], [3]], np.float32), 4, rounding_mode="FLOOR"),
    quant(x(4, 3, 2), BY_ROWS.reshape(1, 4, 1, 1)[0], np.array([0], np.float32), 5),
    quant(x(2, 3), STEP.reshape(1, 1), NONE.reshape(1), 1, signed=0, narrow=0),
]


@pytest.mark.parametrize("case", QUANTS, ids=str)
def test_quant(case: Case) -> None:
    module, remarks = import_onnx(case.proto())
    assert remarks == []
    assert_same(run(module, case.feeds), {"y0": quantized(case)}, 1e-7)


def test_a_zero_point_that_moves_ties_is_told() -> None:
    case = quant(x(3, 5), ONE, np.array(3, np.float32), 4, signed=0)
    module, remarks = import_onnx(case.proto())
    assert [(r.src, r.rule) for r in remarks] == [("y0", "ties")]
    assert "moves ties" in remarks[0].reason
    assert_same(run(module, case.feeds), {"y0": quantized(case)}, 1e-7)


BIPOLAR = [cases("BipolarQuant", c(4, 3), step, domain=domain)[0] for domain in DOMAINS for step in (STEP, BY_ROWS)]


@pytest.mark.parametrize("case", BIPOLAR, ids=str)
def test_bipolar_weights(case: Case) -> None:
    module, _ = import_onnx(case.proto())
    weight, step = case.inputs
    assert isinstance(weight, np.ndarray)
    assert isinstance(step, np.ndarray)
    assert element_types(module) == ["i2"]
    assert_same(run(module, {}), {"y0": np.where(weight >= 0, 1.0, -1.0) * step}, 1e-7)


# --- dynamic quantization ---

WEIGHT = codes("int8", 4, 5).array
DYNAMIC: dict[str, tuple[list[onnx.NodeProto], str]] = {
    "codes": ([node("DynamicQuantizeLinear", "x", "q s z")], "q s z"),
    "product": (
        [
            node("DynamicQuantizeLinear", "x", "q s z"),
            node("MatMulInteger", "q w z wz", "i"),
            node("Cast", "i", "f", to=TensorProto.FLOAT),
            node("Mul", "s ws", "m"),
            node("Mul", "f m", "y"),
        ],
        "q y",
    ),
    "product by columns": (
        [
            node("DynamicQuantizeLinear", "x", "q s z"),
            node("MatMulInteger", "q w z wzs", "i"),
            node("Cast", "i", "f", to=TensorProto.FLOAT),
            node("Mul", "s wss", "m"),
            node("Mul", "f m", "y"),
        ],
        "q y",
    ),
    "product without a zero point": (
        [
            node("DynamicQuantizeLinear", "x", "q s z"),
            node("MatMulInteger", "q w z", "i"),
            node("Cast", "i", "y", to=TensorProto.FLOAT),
        ],
        "q y",
    ),
    "convolution": (
        [
            node("DynamicQuantizeLinear", "image", "q s z"),
            node("ConvInteger", "q kernel z wz", "i", pads=[1, 0, 0, 1], strides=[1, 2]),
            node("Cast", "i", "f", to=TensorProto.FLOAT),
            node("Mul", "f s", "y"),
        ],
        "q y",
    ),
    "fused": ([node("DynamicQuantizeMatMul", "x w ws wz b", "y", MS)], "y"),
    "fused by columns": ([node("DynamicQuantizeMatMul", "x w wss", "y", MS)], "y"),
    "fused dequantization": (
        [node("DynamicQuantizeLinear", "x", "q s z"), node("MatMulIntegerToFloat", "q w s wss z wzs b", "y", MS)],
        "q y",
    ),
}
DYNAMIC_CONSTANTS = {
    "w": WEIGHT,
    "ws": STEP,
    "wz": n(3, "int8"),
    "wss": f32(0.1, 0.2, 0.3, 0.4, 0.5),
    "wzs": np.array([1, -2, 3, 0, 7], np.int8),
    "b": c(5),
    "kernel": codes("int8", 3, 2, 2, 2).array,
}
DYNAMIC_FEEDS = {"x": x(3, 4).array, "image": x(1, 2, 5, 6).array}


def dynamic(name: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    nodes, outputs = DYNAMIC[name]
    used = {i for one in nodes for i in one.input}
    feeds = {k: v for k, v in DYNAMIC_FEEDS.items() if k in used}
    constants = {k: v for k, v in DYNAMIC_CONSTANTS.items() if k in used}
    return model(nodes, feeds, outputs, constants), feeds


@pytest.mark.parametrize("name", DYNAMIC)
def test_frozen_to_the_range_of_one_input(name: str) -> None:
    """On the input whose range it is, a frozen scale is the one that onnxruntime computes."""
    proto, feeds = dynamic(name)
    ((tensor, array),) = feeds.items()
    module, _ = import_onnx(proto, ranges={tensor: (float(array.min()), float(array.max()))})
    assert_same(run(module, feeds), run_ort(proto, feeds))


@pytest.mark.parametrize(
    ("low", "high"), [(-1.0, 3.0), (0.5, 3.0), (-3.0, -0.5), (0.0, 0.0), (-1e-3, 1e3), (-0.1, 0.10000001)]
)
def test_the_frozen_scale_is_onnxruntimes(low: float, high: float) -> None:
    proto, _ = dynamic("codes")
    feeds = {"x": np.linspace(low, high, 12, dtype=np.float32).reshape(3, 4)}
    module, _ = import_onnx(proto, ranges={"x": (low, high)})
    found, expected = run(module, feeds), run_ort(proto, feeds)
    assert found["s"].astype(np.float32) == expected["s"]
    assert_same(found, expected)


@pytest.mark.parametrize("name", DYNAMIC)
def test_without_a_range_it_is_refused(name: str) -> None:
    with pytest.raises(ImportRefused, match=r"^node '.*' \(DynamicQuantize.*\): its scale is computed from each input"):
        import_onnx(dynamic(name)[0])


def test_what_is_measured() -> None:
    """The inputs of both dynamic quantizers, the second one's as the float graph has it."""
    nodes = [
        node("DynamicQuantizeLinear", "x", "q s z"),
        node("MatMulInteger", "q w z wz", "i"),
        node("Cast", "i", "f", to=TensorProto.FLOAT),
        node("Mul", "s ws", "m"),
        node("Mul", "f m", "h"),
        node("DynamicQuantizeMatMul", "h v vs", "y", MS),
    ]
    feeds = {"x": DYNAMIC_FEEDS["x"]}
    v = codes("int8", 5, 2).array
    proto = model(nodes, feeds, "y", {**DYNAMIC_CONSTANTS, "v": v, "vs": STEP})
    module = import_to_measure(proto)
    assert module is not None
    weight = (WEIGHT.astype(np.float64) - 3) * STEP
    assert_same(run(module, feeds), {"x": feeds["x"], "h": feeds["x"] @ weight})


def test_nothing_to_measure() -> None:
    assert import_to_measure(model(graph("y = Relu x"), {"x": x(2).array}, "y")) is None


def test_every_handler_has_a_case() -> None:
    one = {(case.domain, case.op) for case in (*TABLE, *SOFTMAX, *QUANTS, *BIPOLAR)}
    graphs = {(node.domain, node.op_type) for nodes, _ in DYNAMIC.values() for node in nodes}
    handlers = QUANTIZATION | QOPERATOR_HANDLERS | QONNX_HANDLERS | DYNAMIC_HANDLERS
    assert handlers.keys() - one - graphs == {
        (MS, "MatMulNBits"),
        *((domain, "Trunc") for domain in DOMAINS),
    }  # refused
