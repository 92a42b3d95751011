"""Every operator that the ONNX reader knows, in its attribute forms, against onnxruntime."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from onnx_build import assert_same, model, node, run_ort
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
        shapes = ["-" if v is None else "x".join(map(str, (v.array if isinstance(v, Feed) else v).shape)) for v in self.inputs]
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
    *cases("Reshape", x(2, 3, 4), i64(0, 4, 0, 1), opsets=()),  # a 0 copies the dimension at its own place
    *cases("Reshape", x(2, 3, 4), i64(0, 0, 2, -1)),
    *cases("Reshape", x(2, 3, 4), i64(4, 6), allowzero=1),
    *cases("Reshape", x(1), i64()),
    *cases("Reshape", x(), i64(1, 1)),
    *cases("Squeeze", x(1, 3, 1, 4), i64(0, 2), opsets=(13, 21)),
    *cases("Squeeze", x(1, 3, 1, 4), i64(-2)),
    *cases("Squeeze", x(1, 3, 1, 4)),
    *cases("Squeeze", x(1, 3, 1, 4), None),
    *cases("Unsqueeze", x(3, 4), i64(0), opsets=(13, 21)),
    *cases("Unsqueeze", x(3, 4), i64(3, 0, 1)),
    *cases("Unsqueeze", x(3, 4), i64(-1, -3)),
    *cases("Unsqueeze", x(3, 4), np.array(1, np.int64)),
    *cases("Squeeze", x(3, 1), np.array(1, np.int64)),
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


def image(*shape: int) -> Feed:
    return x(*shape)


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
            *cases("Resize", image(1, 2, 3, 4), None, None, i64(1, 2, 7, 5), mode=mode, coordinate_transformation_mode=coordinates),
            *cases("Resize", image(1, 2, 5, 6), None, None, i64(1, 2, 3, 4), mode=mode, coordinate_transformation_mode=coordinates),
            *cases("Resize", image(1, 2, 3, 4), None, f32(1, 1, 2, 1.5), mode=mode, coordinate_transformation_mode=coordinates),
        )
    ),
    *cases("Resize", image(1, 1, 3, 4), f32(), f32(1, 1, 2, 2), mode="linear", opsets=(13, 18, 19, 21)),
    *cases("Resize", image(1, 1, 3, 4), None, f32(), i64(1, 1, 6, 8), mode="linear", opsets=(13,)),
    *cases("Resize", image(1, 1, 3, 4), None, f32(1, 1, 2, 2), mode="cubic", cubic_coeff_a=-0.5),
    *cases("Resize", image(1, 1, 3, 1), None, None, i64(1, 1, 1, 3), mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
    *cases("Resize", image(1, 1, 3, 1), None, None, i64(1, 1, 1, 3), mode="linear", coordinate_transformation_mode="align_corners"),
    # 5 / 3 in float32 times 3 is below 5 as a real number, but 5 in float32, in which onnxruntime multiplies
    *cases("Resize", image(1, 1, 3, 3), None, f32(1, 1, 5 / 3, 5 / 3), mode="linear"),
    *cases("Resize", image(1, 1, 37, 37), None, f32(1, 1, 16 / 37, 16 / 37), mode="cubic"),
    *cases("Resize", image(1, 1, 3, 4), None, f32(1, 1, 2.5, 1.3), mode="linear", coordinate_transformation_mode="asymmetric"),
    *cases("Resize", image(1, 1, 3, 4), None, None, i64(1, 1, 6, 9), mode="linear", keep_aspect_ratio_policy="stretch", opsets=(18,)),
]

SHAPE_OF = [
    *cases("Shape", x(2, 3, 4), opsets=(13, 21)),
    *cases("Shape", x(2, 3, 4), start=1, opsets=(15, 21)),
    *cases("Shape", x(2, 3, 4), start=-2, end=-1, opsets=(15,)),
    *cases("Shape", x(2, 3, 4), end=9, opsets=(15,)),
]

TABLE = [*ELEMENTWISE, *PRODUCTS, *NORMALISATION, *SHAPE, *RESIZE]


def reference(case: Case) -> dict[str, np.ndarray]:
    """onnx.reference for what onnxruntime lacks."""
    proto = case.proto()
    names = [output.name for output in proto.graph.output]
    return dict(zip(names, ReferenceEvaluator(proto).run(None, case.feeds), strict=True))
