"""Every operator that the ONNX reader knows, in its attribute forms, against onnxruntime."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from data.onnx_build import assert_same, model, node, opcounts, run_ort
from onnx import TensorProto, numpy_helper

from qvit.backends.interpreter import run
from qvit.frontends.errors import ImportRefused
from qvit.frontends.onnx import import_onnx
from qvit.frontends.onnx.handlers import HANDLERS

INT_MIN, INT_MAX = np.iinfo(np.int64).min, np.iinfo(np.int64).max


@dataclass(frozen=True)
class Feed:
    """An input that is known at run time only."""

    array: np.ndarray


def c(*shape: int, lo: float = -2, hi: float = 2) -> np.ndarray:
    """A float32 constant; equal shapes have equal values."""
    return np.random.default_rng([len(shape), *shape]).uniform(lo, hi, shape).astype(np.float32)


def x(*shape: int, lo: float = -2, hi: float = 2) -> Feed:
    """A float32 input; not the values of the constant of the same shape."""
    return Feed(np.random.default_rng([9, *shape]).uniform(lo, hi, shape).astype(np.float32))


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@dataclass(frozen=True)
class Case:
    """One node; inputs are Feeds, constants, or None where an optional one is left out."""

    op: str
    inputs: tuple[Feed | np.ndarray | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 17
    outputs: int = 1
    domain: str = ""

    @property
    def feeds(self) -> dict[str, np.ndarray]:
        return {f"x{i}": v.array for i, v in enumerate(self.inputs) if isinstance(v, Feed)}

    def proto(self) -> onnx.ModelProto:
        constants = {f"x{i}": v for i, v in enumerate(self.inputs) if isinstance(v, np.ndarray)}
        names = " ".join("-" if v is None else f"x{i}" for i, v in enumerate(self.inputs))
        outputs = " ".join(f"y{i}" for i in range(self.outputs))
        only = node(self.op, names, outputs, self.domain, **self.attributes)
        return model([only], self.feeds, outputs, constants, opset=self.opset)

    def __str__(self) -> str:
        shapes = [
            "-" if v is None else "x".join(map(str, (v.array if isinstance(v, Feed) else v).shape)) for v in self.inputs
        ]
        settings = [f"{k}={v}" for k, v in self.attributes.items()]
        return " ".join([f"{self.domain and 'ms.'}{self.op}{self.opset}", *shapes, *settings])


def cases(
    op: str,
    *inputs: Feed | np.ndarray | None,
    opsets: tuple[int, ...] = (17,),
    outputs: int = 1,
    domain: str = "",
    **attributes: Any,
) -> list[Case]:
    return [Case(op, inputs, attributes, opset, outputs, domain) for opset in opsets]


ALL = (13, 14, 17, 18, 20, 21)

ELEMENTWISE = [
    *(case for op in ("Add", "Sub", "Mul", "Div") for case in cases(op, x(2, 3, 4), c(4), opsets=(13, 14, 21))),
    *(case for op in ("Add", "Sub", "Mul", "Div") for case in cases(op, c(3, 1), x(2, 3, 4))),
    *(case for op in ("Add", "Sub", "Mul", "Div") for case in cases(op, x(1, 3), x(2, 1))),
    *cases("Add", x(2, 3), np.array(1.5, np.float32)),
    *cases("Pow", x(2, 3, lo=0.1), np.array(2, np.float32), opsets=(13, 15, 21)),
    *cases("Pow", x(2, 3), np.array(2, np.float32)),
    *cases("Pow", x(2, 3, lo=0.1), c(3)),
    *cases("Sqrt", x(2, 3, lo=0), opsets=(13, 21)),
    *cases("Erf", x(2, 3, lo=-4, hi=4), opsets=(13, 21)),
    *cases("Tanh", x(2, 3), opsets=(13, 21)),
    *cases("Sigmoid", x(2, 3, lo=-90, hi=90), opsets=(13, 21)),
    *cases("Relu", x(2, 3), opsets=(13, 14, 21)),
    *cases("Identity", x(2, 3), opsets=(13, 14, 21)),
    *cases("Dropout", x(2, 3), opsets=(13, 21)),
    *cases("Dropout", x(2, 3), np.array(0.5, np.float32), np.array(False)),
    *cases("Cast", x(2, 3), to=TensorProto.FLOAT, opsets=(13, 19, 21)),
    *cases("Gelu", x(2, 3, lo=-5, hi=5), opsets=(20, 21)),
    *cases("Gelu", x(2, 3, lo=-5, hi=5), approximate="none", opsets=(20,)),
    *cases("Gelu", x(2, 3, lo=-5, hi=5), approximate="tanh", opsets=(20, 21)),
    *cases("Gelu", x(2, 3, lo=-5, hi=5), domain="com.microsoft"),
]

PRODUCTS = [
    *cases("MatMul", x(3, 4), x(4, 5), opsets=(13, 21)),
    *cases("MatMul", x(3, 4), c(4, 5)),
    *cases("MatMul", x(2, 3, 4), c(4, 5)),
    *cases("MatMul", c(3, 4), x(4, 5)),
    *cases("MatMul", x(2, 3, 4, 5), x(2, 3, 5, 7)),
    *cases("MatMul", x(2, 1, 4, 5), x(3, 5, 7)),
    *cases("MatMul", x(2, 4, 5), c(2, 5, 3)),
    *cases("Gemm", x(3, 4), c(4, 5), opsets=(13, 21)),
    *cases("Gemm", x(3, 4), c(4, 5), c(5)),
    *cases("Gemm", x(3, 4), c(5, 4), c(5), transB=1),
    *cases("Gemm", x(4, 3), c(4, 5), c(5), transA=1),
    *cases("Gemm", x(4, 3), c(5, 4), c(5), transA=1, transB=1),
    *cases("Gemm", x(3, 4), x(4, 5), x(5)),
    *cases("Gemm", x(3, 4), c(4, 5), c(5), alpha=0.1),
    *cases("Gemm", x(3, 4), c(4, 5), c(5), beta=-2.5),
    *cases("Gemm", x(3, 4), c(4, 5), c(5), beta=0.0),
    *cases("Gemm", x(3, 4), c(5, 4), c(5), alpha=0.3, beta=1.7, transB=1),
    *cases("Gemm", x(3, 4), c(4, 5), alpha=0.3),
    *cases("Gemm", x(3, 4), c(4, 5), np.array(0.7, np.float32)),
    *cases("Gemm", x(3, 4), c(4, 5), c(1)),
    *cases("Gemm", x(3, 4), c(4, 5), c(3, 1)),
    *cases("Gemm", x(3, 4), c(4, 5), c(1, 5), alpha=2.0),
    *cases("Gemm", x(3, 4), c(4, 5), c(3, 5)),
    *cases("Gemm", x(3, 4), c(4, 1), c(1)),
    *cases("Conv", x(1, 3, 6, 5), c(4, 3, 2, 2), opsets=(13, 21)),
    *cases("Conv", x(2, 3, 6, 5), c(4, 3, 3, 2), c(4), pads=[1, 2, 0, 1]),
    *cases("Conv", x(1, 3, 7, 9), c(4, 3, 2, 3), c(4), strides=[2, 3], kernel_shape=[2, 3]),
    *cases("Conv", x(1, 3, 7, 9), c(4, 3, 2, 2), dilations=[2, 3]),
    *cases("Conv", x(1, 4, 5, 5), c(6, 2, 3, 3), c(6), group=2),
    *cases("Conv", x(1, 4, 5, 5), c(4, 1, 3, 3), group=4, pads=[1, 1, 1, 1], auto_pad="NOTSET"),
    *cases("Conv", x(1, 4, 6, 6), c(4, 4, 3, 3), auto_pad="VALID", strides=[2, 2]),
    *cases("Conv", x(1, 2, 5, 5), x(3, 2, 2, 2), x(3)),
    *cases("ConvTranspose", x(1, 3, 4, 5), c(3, 2, 2, 2), opsets=(13, 21)),
    *cases("ConvTranspose", x(2, 3, 4, 5), c(3, 2, 3, 2), c(2), strides=[2, 3], pads=[1, 0, 0, 1]),
    *cases("ConvTranspose", x(1, 3, 4, 5), c(3, 2, 3, 3), strides=[2, 2], output_padding=[1, 1], pads=[1, 1, 1, 1]),
    *cases("ConvTranspose", x(1, 4, 3, 3), c(4, 2, 2, 3), c(4), group=2, strides=[3, 2]),
    *cases("ConvTranspose", x(1, 2, 3, 4), c(2, 3, 2, 2), dilations=[2, 3]),
]

NORMALISATION = [
    *cases("Softmax", x(2, 3, 4), opsets=(13, 21)),
    *cases("Softmax", x(2, 3, 4), axis=1),
    *cases("Softmax", x(2, 3, 4), axis=-3),
    *cases("Softmax", x(2, 3, lo=-300, hi=300), axis=1),
    *cases("LayerNormalization", x(2, 3, 4), c(4), c(4), opsets=(17, 18, 21)),
    *cases("LayerNormalization", x(2, 3, 4), c(4)),
    *cases("LayerNormalization", x(2, 3, 4), c(4), None),
    *cases("LayerNormalization", x(2, 3, 4), c(3, 4), c(3, 4), axis=1),
    *cases("LayerNormalization", x(2, 3, 4), c(3, 4), axis=-2, epsilon=0.1),
    *cases("LayerNormalization", x(2, 3, 4), c(2, 3, 4), axis=0),
    *cases("LayerNormalization", x(2, 3, 4), x(4), x(4), stash_type=1),
    *cases("BatchNormalization", x(2, 3, 4, 5), c(3), c(3), c(3), c(3, lo=0.1), opsets=(13, 14, 15, 21)),
    *cases("BatchNormalization", x(2, 3), c(3), c(3), c(3), c(3, lo=0.1), epsilon=0.01, momentum=0.5),
    *cases("BatchNormalization", x(2, 3, 4), c(3), c(3), c(3), c(3, lo=0.1), training_mode=0),
    *cases("ReduceMean", x(2, 3, 4), axes=[1], opsets=(13, 14, 17)),
    *cases("ReduceMean", x(2, 3, 4), axes=[-1, 0], keepdims=0, opsets=(13, 17)),
    *cases("ReduceMean", x(2, 3, 4), opsets=(13, 17, 18, 21)),
    *cases("ReduceMean", x(2, 3, 4), keepdims=0, opsets=(17, 18)),
    *cases("ReduceMean", x(2, 3, 4), i64(-1), opsets=(18, 20, 21)),
    *cases("ReduceMean", x(2, 3, 4), i64(2, 0), keepdims=0, opsets=(18, 21)),
    *cases("ReduceMean", x(2, 3, 4), i64(), opsets=(18,)),
    *cases("ReduceMean", x(2, 3, 4), i64(), noop_with_empty_axes=1, opsets=(18,)),
    *cases("ReduceMean", x(2, 3, 4), None, noop_with_empty_axes=1, opsets=(18,)),
]

SHAPE = [
    *cases("Reshape", x(2, 3, 4), i64(6, 4), opsets=ALL),
    *cases("Reshape", x(2, 3, 4), i64(-1)),
    *cases("Reshape", x(2, 3, 4), i64(4, -1, 3)),
    *cases("Reshape", x(2, 3, 4), i64(0, -1)),
    *cases("Reshape", x(2, 3, 4), i64(0, 0, 2, -1)),
    *cases("Reshape", x(2, 3, 4), i64(4, 6), allowzero=1),
    *cases("Reshape", x(1), i64()),
    *cases("Reshape", x(), i64(1, 1)),
    *cases("Squeeze", x(1, 3, 1, 4), i64(0, 2), opsets=(13, 21)),
    *cases("Squeeze", x(1, 3, 1, 4), i64(-2)),
    *cases("Squeeze", x(1, 3, 1, 4)),
    *cases("Unsqueeze", x(3, 4), i64(0), opsets=(13, 21)),
    *cases("Unsqueeze", x(3, 4), i64(3, 0, 1)),
    *cases("Unsqueeze", x(3, 4), i64(-1, -3)),
    *cases("Flatten", x(2, 3, 4), opsets=(13, 21)),
    *cases("Flatten", x(2, 3, 4), axis=0),
    *cases("Flatten", x(2, 3, 4), axis=2),
    *cases("Flatten", x(2, 3, 4), axis=3),
    *cases("Flatten", x(2, 3, 4), axis=-1),
    *cases("Transpose", x(2, 3, 4), opsets=(13, 21)),
    *cases("Transpose", x(2, 3, 4), perm=[1, 2, 0]),
    *cases("Slice", x(5, 6), i64(1), i64(3), opsets=(13, 21)),
    *cases("Slice", x(5, 6), i64(1, 2), i64(4, 5), i64(1, 0)),
    *cases("Slice", x(5, 6), i64(-3), i64(-1), i64(-1)),
    *cases("Slice", x(5, 6), i64(1), i64(INT_MAX), i64(1), i64(2)),
    *cases("Slice", x(5, 6), i64(-100), i64(100), i64(0)),
    *cases("Slice", x(5, 6), i64(-1), i64(INT_MIN), i64(0), i64(-1)),
    *cases("Slice", x(5, 6), i64(4), i64(0), i64(1), i64(-2)),
    *cases("Slice", x(5, 6), i64(100), i64(-100), i64(1), i64(-4)),
    *cases("Slice", x(5, 6), i64(0, 0), i64(2, 2), None, i64(1, 1)),
    *cases("Slice", x(5, 6), np.array([1], np.int32), np.array([9], np.int32), np.array([1], np.int32)),
    *cases("Split", x(6, 4), outputs=3, opsets=(13, 17)),
    *cases("Split", x(6, 4), i64(1, 2, 3), outputs=3, opsets=(13, 18, 21)),
    *cases("Split", x(2, 6), i64(2, 4), outputs=2, axis=-1),
    *cases("Split", x(6, 4), outputs=3, num_outputs=3, opsets=(18, 21)),
    *cases("Split", x(7, 4), outputs=3, num_outputs=3, opsets=(18,)),  # 3, 3, 1
    *cases("Split", x(4, 7), outputs=2, num_outputs=2, axis=1, opsets=(18,)),
    *cases("Concat", x(2, 3), c(2, 4), axis=1, opsets=(13, 21)),
    *cases("Concat", x(2, 3), x(1, 3), c(2, 3), axis=-2),
    *cases("Concat", x(2, 3), axis=0),
    *cases("Gather", x(5, 4), np.array(2, np.int64), opsets=(13, 21)),
    *cases("Gather", x(5, 4), np.array(-1, np.int64), axis=1),
    *cases("Gather", x(5, 4), np.array(1, np.int32), axis=-1),
    *cases("Gather", x(5, 4), i64(0, -1, 2, 2)),
    *cases("Gather", x(2, 5, 4), i64(3, -5), axis=1),
    *cases("Gather", x(5, 4), np.array([[0, 1], [-2, 4]], np.int64)),
    *cases("Gather", x(5, 4), i64(1), axis=1),
    *cases("Expand", x(3, 1), i64(2, 3, 4), opsets=(13, 21)),
    *cases("Expand", x(1, 4), i64(3, 1)),
    *cases("Expand", x(3, 4), i64(1)),
    *cases("Expand", x(), i64(2, 2)),
]


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
MODES = ("nearest", "linear", "cubic")

RESIZE = [
    *(
        case
        for mode in MODES
        for coordinates in COORDINATES
        for case in (
            *cases(
                "Resize",
                x(1, 2, 3, 4),
                None,
                None,
                i64(1, 2, 7, 5),
                mode=mode,
                coordinate_transformation_mode=coordinates,
            ),
            *cases(
                "Resize",
                x(1, 2, 5, 6),
                None,
                None,
                i64(1, 2, 3, 4),
                mode=mode,
                coordinate_transformation_mode=coordinates,
            ),
            *cases(
                "Resize", x(1, 2, 3, 4), None, f32(1, 1, 2, 1.5), mode=mode, coordinate_transformation_mode=coordinates
            ),
        )
    ),
    *cases("Resize", x(1, 1, 3, 4), f32(), f32(1, 1, 2, 2), mode="linear", opsets=(13, 18, 19, 21)),
    *cases("Resize", x(1, 1, 3, 4), None, f32(), i64(1, 1, 6, 8), mode="linear", opsets=(13,)),
    *cases("Resize", x(1, 1, 3, 4), None, f32(1, 1, 2, 2), mode="cubic", cubic_coeff_a=-0.5),
    *cases(
        "Resize",
        x(1, 1, 3, 1),
        None,
        None,
        i64(1, 1, 1, 3),
        mode="linear",
        coordinate_transformation_mode="pytorch_half_pixel",
    ),
    *cases(
        "Resize",
        x(1, 1, 3, 1),
        None,
        None,
        i64(1, 1, 1, 3),
        mode="linear",
        coordinate_transformation_mode="align_corners",
    ),
    *cases("Resize", x(1, 1, 37, 37), None, f32(1, 1, 16 / 37, 16 / 37), mode="cubic"),
    *cases(
        "Resize", x(1, 1, 3, 4), None, f32(1, 1, 2.5, 1.3), mode="linear", coordinate_transformation_mode="asymmetric"
    ),
    *cases(
        "Resize",
        x(1, 1, 3, 4),
        None,
        None,
        i64(1, 1, 6, 9),
        mode="linear",
        keep_aspect_ratio_policy="stretch",
        opsets=(18,),
    ),
]


def spread(
    scale: float | np.ndarray, zero: int | np.ndarray, dtype: str, shape: tuple[int, ...], axis: int = 0
) -> Feed:
    """Numbers over the whole range of codes and past its ends, none of them near a tie."""
    random = np.random.default_rng(shape)
    info = np.iinfo(dtype)
    codes = random.integers(info.min - 9, info.max + 10, shape).astype(np.float64)
    codes.flat[:4] = info.min - 9, info.min, info.max, info.max + 9
    laid = [-1 if i == axis % len(shape) else 1 for i in range(len(shape))]
    scale, zero = (
        v.astype(np.float64).reshape(laid) if np.size(v) > 1 else float(np.reshape(v, ()))
        for v in map(np.asarray, (scale, zero))
    )
    return Feed(((codes + random.uniform(-0.4, 0.4, shape) - zero) * scale).astype(np.float32))


def codes(dtype: str, *shape: int) -> Feed:
    info = np.iinfo(dtype)
    return Feed(np.random.default_rng(shape).integers(info.min, info.max, shape, dtype, endpoint=True))


STEP = np.array(0.03, np.float32)
STEPS = f32(0.1, 0.02, 0.3, 0.7)
BY_8, BY_16 = (13, 17, 19, 21), (21,)  # 16 bits came with opset 21


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
    *(case for dtype in ("int8", "uint8", "int16", "uint16") for case in qdq(dtype, (17,), "com.microsoft")),
    *cases("QuantizeLinear", spread(STEP, 0, "uint8", (3, 5)), STEP, opsets=BY_8),  # no zero point: 0, and uint8
    *cases("QuantizeLinear", spread(STEPS, 0, "uint8", (3, 4), 1), STEPS, None),
    *cases("QuantizeLinear", spread(STEP, 0, "int8", (1, 3)), STEP.reshape(1), np.zeros(1, np.int8), axis=0),
    *cases("QuantizeLinear", c(3, 5), STEP, np.array(-7, np.int8)),
    *cases("DequantizeLinear", codes("int32", 7), STEP),
    *cases("DequantizeLinear", codes("int32", 4), STEPS, np.zeros(4, np.int32), axis=0),
    *cases("DequantizeLinear", codes("int32", 5).array, STEP),
    *cases("DequantizeLinear", codes("int8", 4, 3).array, STEPS, axis=-2),
]

LENIENT = [
    *cases("Unsqueeze", x(3, 4), np.array(1, np.int64)),  # onnxruntime takes a scalar for a list of one axis
    # 5 / 3 in float32 times 3 is below 5 as a real number, but 5 in float32, in which onnxruntime multiplies
    *cases("Resize", x(1, 1, 3, 3), None, f32(1, 1, 5 / 3, 5 / 3), mode="linear"),
]
TABLE = [*ELEMENTWISE, *PRODUCTS, *NORMALISATION, *SHAPE, *RESIZE, *QDQ, *LENIENT]


def test_every_handler_has_a_case() -> None:
    assert {(case.domain, case.op) for case in TABLE} == set(HANDLERS) - {("", "Shape")}


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_computes_what_onnxruntime_does(case: Case) -> None:
    expected = run_ort(case.proto(), case.feeds)
    module, _ = import_onnx(case.proto())
    for dtype in (np.float64, np.float32):
        assert_same(run(module, case.feeds, float_dtype=dtype), expected)


@pytest.mark.parametrize("dtype", ["int4", "uint4"])
def test_four_bits_are_read_or_refused(dtype: str) -> None:
    case = Case("DequantizeLinear", (np.array([0, 3, 7], dtype), STEP, np.array(1, dtype)), opset=21)
    try:
        module, _ = import_onnx(case.proto())
    except ImportRefused:
        return
    assert_same(run(module, {}), run_ort(case.proto(), {}))


# --- what is known at import disappears ---


SHAPES = [{}, {"start": 1}, {"start": -2, "end": -1}, {"end": 9}, {"start": -9, "end": 2}, {"start": 2, "end": 1}]


@pytest.mark.parametrize("settings", SHAPES, ids=str)
def test_shape(settings: dict[str, int]) -> None:
    """ones expanded to (part of) the shape of the input."""
    nodes = [node("Shape", "x", "s", **settings), node("Expand", "one s", "y")]
    feeds = {"x": x(2, 3, 4).array}
    proto = model(nodes, feeds, "y", {"one": f32(1)[0:1].reshape(())}, opset=15)
    assert_same(run(import_onnx(proto)[0], feeds), run_ort(proto, feeds))


FOLDED: dict[str, list[onnx.NodeProto]] = {
    "constant": [node("Constant", "", "k", value_floats=[1.0, 2.0, 3.0])],
    "identity": [node("Identity", "v", "k")],
    "arithmetic": [node("Sqrt", "v", "r"), node("Pow", "r v", "p"), node("Div", "p v", "q"), node("Neg", "q", "k")],
    "range": [node("Range", "zero three one", "r"), node("Cast", "r", "k", to=TensorProto.FLOAT)],
    "modulo": [node("Mod", "indices three", "m"), node("Cast", "m", "k", to=TensorProto.FLOAT)],
    "where": [node("GreaterOrEqual", "indices one", "g"), node("Not", "g", "n"), node("Where", "n v w", "k")],
    "fill": [node("Shape", "v", "s"), node("ConstantOfShape", "s", "k", value=numpy_helper.from_array(f32(2)))],
    "gather": [node("GatherElements", "v indices", "k", axis=0)],
    "ceil": [node("Ceil", "v", "k")],
    "transpose": [node("Unsqueeze", "v axis", "u"), node("Transpose", "u", "t"), node("Squeeze", "t axis1", "k")],
    "half": [node("Cast", "v", "h", to=TensorProto.FLOAT16), node("Cast", "h", "k", to=TensorProto.FLOAT)],
}


@pytest.mark.parametrize("name", FOLDED)
def test_constants_are_folded(name: str) -> None:
    feeds = {"x": x(2, 3).array}
    constants = {
        "v": f32(1.25, 2.5, 4.5),
        "w": f32(-1, -2, -3),
        "indices": i64(2, 0, 1),
        "axis": i64(0),
        "axis1": i64(1),
        **{word: np.array(n, np.int64) for n, word in enumerate(("zero", "one", "two", "three"))},
    }
    proto = model([*FOLDED[name], node("Add", "x k", "y")], feeds, "y", constants)
    module, _ = import_onnx(proto)
    assert opcounts(module) == {"add": 1}
    assert_same(run(module, feeds), run_ort(proto, feeds))


def test_a_position_table_is_resized_at_import() -> None:
    """37 x 37 positions to 16 x 16, between Reshapes and Transposes, as DINOv2 is exported."""
    nodes = [
        node("Reshape", "table grid", "g"),
        node("Transpose", "g", "t", perm=[0, 3, 1, 2]),
        node(
            "Resize", "t - - sizes", "r", mode="cubic", coordinate_transformation_mode="half_pixel", cubic_coeff_a=-0.75
        ),
        node("Transpose", "r", "u", perm=[0, 2, 3, 1]),
        node("Reshape", "u tokens", "p"),
        node("Add", "x p", "y"),
    ]
    constants = {"table": c(1, 1369, 2), "grid": i64(1, 37, 37, 2), "sizes": i64(1, 2, 16, 16), "tokens": i64(1, -1, 2)}
    feeds = {"x": x(1, 256, 2).array}
    proto = model(nodes, feeds, "y", constants)
    module, _ = import_onnx(proto)
    assert opcounts(module) == {"add": 1}
    assert_same(run(module, feeds), run_ort(proto, feeds))


# --- refusals ---


def refused(says: str, op: str, *inputs: Feed | np.ndarray | None, **attributes: Any) -> Any:
    """A parameter: what the refusal says, and the node."""
    (case,) = cases(op, *inputs, **attributes)
    return pytest.param(says, case, id=f"{case} {says}")


PICTURE, KERNEL = x(1, 3, 5, 5), c(4, 3, 2, 2)
WHOLE = Feed(np.ones((2, 3), np.int32))
CODES = codes("int8", 2, 3)
TWICE = i64(1, 3, 10, 10)

UNREAD = [
    refused("this operator is not read", "Selu", x(2)),
    refused("this operator is not read (domain com.microsoft)", "NGramRepeatBlock", x(2), domain="com.microsoft"),
    refused("cannot be evaluated on constants", "FusedMatMul", c(2, 2), c(2, 2), domain="com.microsoft"),
    refused("expected f32 or f64", "Add", x(2, 3), WHOLE),
    refused("expected f32 or f64", "Sqrt", WHOLE),
    refused("expected f32 or f64", "QuantizeLinear", WHOLE, STEP),
    refused("auto_pad SAME_LOWER", "ConvTranspose", PICTURE, c(3, 4, 2, 2), auto_pad="SAME_LOWER"),
    refused("output_shape", "ConvTranspose", PICTURE, c(3, 4, 2, 2), output_shape=[6, 6]),
    refused("3 dimensions, expected 4", "Conv", x(1, 3, 5), c(4, 3, 2)),
    refused("5 dimensions, expected 4", "Conv", x(1, 3, 5, 5, 5), c(4, 3, 2, 2, 2)),
    refused("mean or deviation is used", "LayerNormalization", x(2, 3), c(3), outputs=3),
    refused("training_mode", "BatchNormalization", x(2, 3, 4), c(3), c(3), c(3), c(3, lo=0.1), training_mode=1),
    refused("training", "Dropout", x(2, 3), STEP, np.array(True)),
    refused("mask", "Dropout", x(2, 3), outputs=2),
    refused("axes (input 1) depends on the model's input", "ReduceMean", x(2, 3), Feed(i64(1)), opsets=(18,)),
    refused("depends on the model's input", "Reshape", x(2, 3), Feed(i64(6))),
    refused("depends on the model's input", "Slice", x(2, 3), Feed(i64(0)), i64(1)),
    refused("depends on the model's input", "Expand", x(1, 3), Feed(i64(2, 3))),
    refused("a cast from f32 to i32", "Cast", x(2, 3), to=TensorProto.INT32),
    refused("a cast from f32 to f64", "Cast", x(2, 3), to=TensorProto.DOUBLE),
    refused("float16", "Cast", x(2, 3), to=TensorProto.FLOAT16),
    refused("bfloat16", "Cast", x(2, 3), to=TensorProto.BFLOAT16),
    refused("antialias", "Resize", PICTURE, None, None, TWICE, mode="linear", antialias=1, opsets=(18,)),
    refused("exclude_outside", "Resize", PICTURE, None, None, TWICE, mode="cubic", exclude_outside=1),
    refused("axes", "Resize", PICTURE, None, None, i64(10, 10), axes=[2, 3], opsets=(18,)),
    refused(
        "tf_crop_and_resize", "Resize", PICTURE, None, None, TWICE, coordinate_transformation_mode="tf_crop_and_resize"
    ),
    refused("nearest_mode ceil", "Resize", PICTURE, None, None, TWICE, nearest_mode="ceil"),
    refused("nearest_mode round_prefer_ceil", "Resize", PICTURE, None, None, TWICE, nearest_mode="round_prefer_ceil"),
    refused(
        "keep_aspect_ratio_policy",
        "Resize",
        PICTURE,
        None,
        None,
        i64(1, 3, 10, 15),
        keep_aspect_ratio_policy="not_larger",
        opsets=(18,),
    ),
    refused("only the last two dimensions", "Resize", PICTURE, None, f32(1, 2, 2, 2)),
    refused("scales (input 2) depends on the model's input", "Resize", PICTURE, None, Feed(f32(1, 1, 2, 2))),
    refused(
        "block_size",
        "QuantizeLinear",
        x(4, 3),
        c(2, 3, lo=0.1),
        np.zeros((2, 3), np.int8),
        axis=0,
        block_size=2,
        opsets=(21,),
    ),
    refused("block_size", "DequantizeLinear", codes("int8", 4, 3), c(2, 3, lo=0.1), axis=0, block_size=2, opsets=(21,)),
    refused("its scale has shape (2, 3)", "DequantizeLinear", CODES, c(2, 3, lo=0.1)),
    refused("its scale is float16", "QuantizeLinear", x(2, 3), STEP.astype(np.float16), opsets=(21,)),
    refused("codes of type float8", "QuantizeLinear", x(2, 3), STEP, np.zeros((), "float8_e4m3fn"), opsets=(19,)),
    refused("the scale (input 1) depends on the model's input", "QuantizeLinear", x(2, 3), Feed(STEP)),
    refused("the zero point (input 2) depends", "DequantizeLinear", CODES, STEP, Feed(np.array(0, np.int8))),
    *(
        refused("not positive and finite", "QuantizeLinear", x(2, 3), STEP * np.array(v, np.float32)[None])
        for v in (0, -1, np.nan, np.inf)
    ),
    *(refused("is 0 or not finite", "DequantizeLinear", CODES, f32(0.1, v, 0.2)) for v in (0, np.nan, np.inf)),
]
"""Valid nodes that the reader does not take, and nodes that no calibration should have made."""

DAMAGED = [
    refused("(2, 3) and (2, 4) do not broadcast", "Add", x(2, 3), x(2, 4)),
    refused("(2, 3) and (2, 4) do not broadcast", "Div", x(2, 3), x(2, 4)),
    refused("contracted dimensions differ", "MatMul", x(2, 3), c(4, 4)),
    refused("contracted dimensions differ", "Gemm", x(2, 3), c(4, 4)),
    refused("(2, 4) and (3,) do not broadcast", "Gemm", x(2, 3), c(3, 4), c(3)),
    refused("", "Gemm", x(2, 3), c(3)),
    refused("strides", "Conv", PICTURE, KERNEL, strides=[0, 1]),
    refused("strides", "Conv", PICTURE, KERNEL, strides=[1]),
    refused("", "Conv", PICTURE, KERNEL, strides=2),
    refused("dilations", "Conv", PICTURE, KERNEL, dilations=[0, 1]),
    refused("dilations", "Conv", PICTURE, KERNEL, dilations=[1]),
    refused("padding", "Conv", PICTURE, KERNEL, pads=[1, 1]),
    refused("padding", "Conv", PICTURE, KERNEL, pads=[-1, 0, 0, 0]),
    refused("bias", "Conv", PICTURE, KERNEL, c(3)),
    refused("groups", "Conv", PICTURE, KERNEL, group=0),
    refused("in 2 groups", "Conv", PICTURE, KERNEL, group=2),
    refused("expected 4 dimensions", "Conv", PICTURE, c(4, 3, 2)),
    refused("smaller than the kernel's reach", "Conv", PICTURE, c(4, 3, 6, 6)),
    refused("kernel_shape", "Conv", PICTURE, KERNEL, kernel_shape=[3, 3]),
    refused("", "ConvTranspose", PICTURE, c(3, 4, 2, 2), group=0),
    refused("", "ConvTranspose", PICTURE, c(3, 4, 2, 2), strides=[1]),
    refused("", "ConvTranspose", PICTURE, c(3, 4, 2, 2), output_padding=[1]),
    refused("", "ConvTranspose", PICTURE, c(3, 4, 2, 2), pads=[9, 9, 9, 9]),
    refused("axis 2 is outside the 2 dimensions", "Softmax", x(2, 3), axis=2),
    refused("", "Softmax", x(2, 3), axis="last"),
    refused("axis 5 is outside", "LayerNormalization", x(2, 3), c(3), axis=5),
    refused("gamma", "LayerNormalization", x(2, 3), c(2)),
    refused("beta", "LayerNormalization", x(2, 3), c(3), c(2)),
    refused("epsilon", "LayerNormalization", x(2, 3), c(3), epsilon=-1.0),
    pytest.param(
        "",
        Case("LayerNormalization", (x(2, 3), c(3)), {"epsilon": "tiny"}),
        id="epsilon is text",
    ),
    refused("gamma", "BatchNormalization", x(2, 3, 4), c(4), c(4), c(4), c(4)),
    refused("input 4 is missing", "BatchNormalization", x(2, 3, 4), c(3), c(3), c(3)),
    refused("approximate", "Gelu", x(2, 3), approximate="fast", opsets=(20,)),
    refused("axis 2 is outside", "ReduceMean", x(2, 3), axes=[2]),
    refused("axes", "ReduceMean", x(2, 3), np.array(1, np.int64), opsets=(18,)),
    refused("leaves two dimensions open", "Reshape", x(2, 3), i64(-1, -1)),
    refused("elements", "Reshape", x(2, 3), i64(5)),
    refused("elements", "Reshape", x(2, 3), i64(4, -1)),
    refused("elements", "Reshape", x(2, 3), i64(2, 3, 0)),
    refused("elements", "Reshape", x(2, 3), i64(0, 3), allowzero=1),
    refused("", "Reshape", x(2, 3), i64(-2, -3)),
    refused("elements", "Squeeze", x(2, 3), i64(0)),
    refused("axis 5 is outside", "Squeeze", x(2, 3), i64(5)),
    refused("axis 7 is outside", "Unsqueeze", x(2, 3), i64(7)),
    refused("it has no axes", "Unsqueeze", x(2, 3)),
    refused("axis 4 is outside", "Flatten", x(2, 3), axis=4),
    refused("permutation", "Transpose", x(2, 3), perm=[0, 0]),
    refused("permutation", "Transpose", x(2, 3), perm=[0]),
    refused("", "Transpose", x(2, 3), perm=[0, 2]),
    refused("nothing is left of axis 0", "Slice", x(2, 3), i64(1), i64(1)),
    refused("step", "Slice", x(2, 3), i64(0), i64(1), i64(0), i64(0)),
    refused("", "Slice", x(2, 3), i64(0), i64(1), i64(0, 1)),
    refused("", "Slice", x(2, 3), i64(0, 0, 0), i64(1, 1, 1)),
    refused("do not add up to the 5", "Split", x(5, 2), i64(1, 1), outputs=2),
    refused("", "Split", x(5, 2), i64(2, 3), outputs=3),
    refused("", "Split", x(5, 2), i64(5, 0), outputs=2),
    refused("", "Split", x(5, 2), i64(-1, 6), outputs=2),
    refused("", "Split", x(5, 2), outputs=2),  # 5 in equal parts; uneven ones came with opset 18
    refused("do not add up to the 5", "Split", x(5, 2), outputs=4, num_outputs=4, opsets=(18,)),
    refused("", "Split", x(6, 2), outputs=3, num_outputs=2, opsets=(18,)),
    refused("", "Split", x(6, 2), outputs=1, num_outputs=0, opsets=(18,)),
    refused("differ outside axis 0", "Concat", x(2, 3), x(2, 4), axis=0),
    refused("differ outside axis 0", "Concat", x(2), x(2, 3), axis=0),
    refused("axis 2 is outside", "Concat", x(2, 3), x(2, 3), axis=2),
    refused("expected elements of type i32", "Concat", x(2, 3), WHOLE, axis=0),
    refused("indices reach outside the 2", "Gather", x(2, 3), i64(2)),
    refused("indices reach outside the 2", "Gather", x(2, 3), i64(-3)),
    refused("axis 4 is outside", "Gather", x(2, 3), i64(0), axis=4),
    refused("broadcast", "Expand", x(2, 3), i64(2, 4)),
    refused("", "Expand", x(2, 3), i64(-1, 3)),
    refused("", "Cast", x(2, 3)),
    refused("", "Cast", x(2, 3), to=99),
    refused("neither sizes nor scales", "Resize", PICTURE),
    refused("", "Resize", PICTURE, None, None, i64(1, 3, 10)),
    refused("", "Resize", PICTURE, None, None, i64(1, 3, 0, 10)),
    refused("", "Resize", PICTURE, None, f32(1, 1, 2)),
    refused("", "Resize", PICTURE, None, f32(1, 1, -2, 2)),
    refused("", "Resize", PICTURE, None, f32(1, 1, np.nan, 2)),
    refused("", "Resize", PICTURE, None, f32(1, 1, np.inf, 2)),
    refused("mode bogus", "Resize", PICTURE, None, None, TWICE, mode="bogus"),
    refused("codes of type int64", "QuantizeLinear", x(2, 3), STEP, np.array(1, np.int64)),
    refused("expected integers", "DequantizeLinear", x(2, 3), STEP),
    refused("input 1 is missing", "DequantizeLinear", CODES),
    refused("axis 3 is outside", "DequantizeLinear", CODES, f32(1, 2, 3), axis=3),
    refused("axis 1 is outside the 1 dimensions", "QuantizeLinear", x(3), f32(1, 2, 3)),
    refused("different lengths", "DequantizeLinear", CODES, f32(1, 2, 3), np.array([0, 1], np.int8)),
    refused("", "DequantizeLinear", CODES, f32(1, 2, 3), np.zeros(2, np.int8)),
    refused("", "DequantizeLinear", CODES, STEP, np.zeros(3, np.int8)),
    refused("has 3 elements, the vector has 2", "DequantizeLinear", CODES, f32(1, 2)),
    refused("", "DequantizeLinear", CODES, f32()),
    refused("zero point 200 is outside i8", "DequantizeLinear", CODES, STEP, np.array(200, np.uint8)),
]
"""Nodes that break the rules of ONNX."""


@pytest.mark.parametrize(("says", "case"), [*UNREAD, *DAMAGED])
def test_refusals_name_the_node(says: str, case: Case) -> None:
    with pytest.raises(ImportRefused) as refusal:
        import_onnx(case.proto())
    message = str(refusal.value)
    assert says in message
    assert message.startswith(f"node 'y0' ({case.op}): ")
    assert "\n" not in message
