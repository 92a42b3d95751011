"""Every operator that the ONNX reader knows, in its attribute forms, against onnxruntime."""

from math import nan

import numpy as np
import onnx
import pytest
from data.onnx_build import assert_same, model, node, opcounts, run_ort
from data.onnx_case import Case, Feed, assert_as_onnxruntime, c, cases, f32, i64, x
from onnx import TensorProto, numpy_helper

from qvit.backends.interpreter import run
from qvit.frontends.onnx import import_onnx
from qvit.frontends.onnx.handlers.arithmetic import ARITHMETIC
from qvit.frontends.onnx.handlers.attention import ATTENTION as ATTENTION_HANDLERS
from qvit.frontends.onnx.handlers.nonlinear import NONLINEAR
from qvit.frontends.onnx.handlers.products import PRODUCTS as PRODUCT_HANDLERS
from qvit.frontends.onnx.handlers.shape import SHAPES as SHAPE_HANDLERS

INT_MIN, INT_MAX = np.iinfo(np.int64).min, np.iinfo(np.int64).max
ALL = (11, 12, 13, 14, 17, 18, 20, 21)
MS = "com.microsoft"


def whole(dtype: str, *shape: int, lo: int = -3, hi: int = 4) -> Feed:
    """Integers that are known at run time only."""
    return Feed(np.random.default_rng(shape).integers(max(lo, np.iinfo(dtype).min), hi, shape).astype(dtype))


def truth(*shape: int) -> Feed:
    return Feed(np.random.default_rng([5, *shape]).integers(0, 2, shape).astype(bool))


def open_rows(*shape: int) -> Feed:
    """A mask that lets the first element of each row through, and some others."""
    mask = truth(*shape).array
    mask[..., 0] = True
    return Feed(mask)


ELEMENTWISE = [
    *(case for op in ("Add", "Sub", "Mul", "Div") for case in cases(op, x(2, 3, 4), c(4), opsets=(11, 13, 14, 21))),
    *(case for op in ("Add", "Sub", "Mul", "Div") for case in cases(op, c(3, 1), x(2, 3, 4))),
    *(case for op in ("Add", "Sub", "Mul", "Div") for case in cases(op, x(1, 3), x(2, 1))),
    *cases("Add", x(2, 3), np.array(1.5, np.float32)),
    *cases("Pow", x(2, 3, lo=0.1), np.array(2, np.float32), opsets=(12, 13, 15, 21)),
    *cases("Pow", x(2, 3), np.array(2, np.float32)),
    *cases("Pow", x(2, 3, lo=0.1), c(3)),
    *cases("Sqrt", x(2, 3, lo=0), opsets=(11, 13, 21)),
    *cases("Erf", x(2, 3, lo=-4, hi=4), opsets=(11, 13, 21)),
    *cases("Tanh", x(2, 3), opsets=(11, 13, 21)),
    *cases("Sigmoid", x(2, 3, lo=-90, hi=90), opsets=(11, 13, 21)),
    *cases("Relu", x(2, 3), opsets=(11, 13, 14, 21)),
    *cases("Identity", x(2, 3), opsets=(11, 13, 14, 21)),
    *cases("Dropout", x(2, 3), opsets=(13, 21)),
    *cases("Dropout", x(2, 3), ratio=0.3, opsets=(11,)),
    *cases("Dropout", x(2, 3), np.array(0.5, np.float32), np.array(False)),
    *cases("Cast", x(2, 3), to=TensorProto.FLOAT, opsets=(11, 13, 19, 21)),
    *cases("LeakyRelu", x(2, 3), opsets=(11, 16, 21)),
    *cases("LeakyRelu", x(2, 3), alpha=0.3),
    *cases("Clip", x(2, 3), np.array(-0.5, np.float32), np.array(1.5, np.float32), opsets=(11, 12, 13, 21)),
    *cases("Clip", x(2, 3), np.array(-0.5, np.float32)),
    *cases("Clip", x(2, 3), None, np.array(-0.5, np.float32)),
    *cases("Clip", x(2, 3), np.array(-np.inf, np.float32), np.array(1, np.float32)),
    *cases("Clip", x(2, 3)),
    *cases("Clip", c(2, 3), np.array(-0.5, np.float32), np.array(1.5, np.float32)),
    *cases("Clip", whole("int32", 2, 3), np.array(-1, np.int32), np.array(2, np.int32)),
    *cases("Clip", whole("uint8", 2, 3), None, np.array(2, np.uint8)),
    *cases("Clip", whole("int64", 2, 3)),
    *cases("Gelu", x(2, 3, lo=-5, hi=5), opsets=(20, 21)),
    *cases("Gelu", x(2, 3, lo=-5, hi=5), approximate="none", opsets=(20,)),
    *cases("Gelu", x(2, 3, lo=-5, hi=5), approximate="tanh", opsets=(20, 21)),
    *cases("Gelu", x(2, 3, lo=-5, hi=5), domain=MS),
    *cases("BiasGelu", x(2, 3), c(3), domain=MS),
    *cases("FastGelu", x(2, 3), domain=MS),
    *cases("FastGelu", x(2, 3), c(3), domain=MS),
    *cases("QuickGelu", x(2, 3), domain=MS),
    *cases("QuickGelu", x(2, 3), alpha=1.0, domain=MS),
]

MISSING = Feed(f32(1, nan, -2, nan))
RELATIONS = ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")

LOGIC = [
    *(
        case
        for op in RELATIONS
        for case in (
            *cases(op, whole("int32", 2, 3), whole("int32", 3), opsets=(12, 13, 21)),
            *cases(op, Feed(f32(1, nan, -2, 0.5)), f32(1, nan, 0, 0.25)),
            *cases(op, whole("int64", 2, 3), np.array(0, np.int64)),
        )
    ),
    *cases("IsNaN", MISSING, opsets=(13, 20)),
    *cases("Not", truth(3, 4)),
    *(
        case
        for op in ("And", "Or")
        for case in (*cases(op, truth(3, 4), truth(4)), *cases(op, truth(3, 4), truth(4).array))
    ),
    *cases("Where", truth(2, 3), x(2, 3), x(3), opsets=(11, 16)),
    *cases("Where", truth(3), c(2, 1), np.array(-np.inf, np.float32)),
    *cases("Where", truth(2, 1).array, x(2, 3), x(3)),
    *cases("Where", truth(2, 3), whole("int64", 2, 3), i64(7)),
    *cases("Where", truth(3), whole("uint8", 2, 3), whole("uint8", 1)),
    *cases("Cast", x(2, 3), to=TensorProto.BOOL),
    *cases("Cast", Feed(f32(0, -0.0, nan, 0.3)), to=TensorProto.BOOL),
    *cases("Cast", whole("int32", 2, 3), to=TensorProto.BOOL),
    *cases("Cast", truth(2, 3), to=TensorProto.FLOAT),
    *cases("Cast", truth(2, 3), to=TensorProto.INT64),
    *cases("Cast", whole("int8", 2, 3), to=TensorProto.FLOAT),
    *cases("Cast", whole("int64", 2, 3), to=TensorProto.FLOAT),
    *cases("Cast", whole("uint8", 2, 3), to=TensorProto.INT32),
    *cases("Cast", whole("int32", 2, 3), to=TensorProto.INT64),
    *cases("Cast", whole("int64", 2, 3), to=TensorProto.INT32),
    *cases("Cast", whole("int8", 2, 3).array, to=TensorProto.FLOAT),
    *cases("Cast", c(2, 3), to=TensorProto.INT32),
    *cases("CastLike", whole("int8", 2, 3), c(1), opsets=(15, 21)),
    *cases("CastLike", whole("int8", 2, 3), x(1)),
    *cases("CastLike", x(2, 3), truth(1)),
    *cases("CastLike", c(2, 3), truth(1)),
]

PRODUCTS = [
    *cases("MatMul", x(3), x(3, 4), opsets=(11, 13)),
    *cases("MatMul", x(2, 3), c(3)),
    *cases("MatMul", x(3), c(3)),
    *cases("MatMul", c(3), x(2, 3, 4)),
    *cases("MatMul", x(2, 4, 3), x(3)),
    *cases("FusedMatMul", x(3, 4), c(4, 5), domain=MS),
    *cases("FusedMatMul", x(4, 3), c(5, 4), transA=1, transB=1, alpha=0.25, domain=MS),
    *cases("FusedMatMul", x(2, 3, 4), x(2, 5, 4), transB=1, domain=MS),
    *cases("FusedMatMul", x(2, 2, 4, 3), x(2, 2, 4, 5), transA=1, alpha=-2.0, domain=MS),
    *(
        case
        for auto_pad in ("SAME_UPPER", "SAME_LOWER")
        for case in (
            *cases("Conv", x(1, 3, 6, 5), c(4, 3, 3, 2), auto_pad=auto_pad, opsets=(11, 13)),
            *cases("Conv", x(1, 3, 6, 5), c(4, 3, 4, 2), auto_pad=auto_pad, strides=[3, 2]),
            *cases("Conv", x(1, 3, 6, 5), c(4, 3, 1, 1), auto_pad=auto_pad, strides=[3, 2]),
        )
    ),
    *cases("MatMul", x(3, 4), x(4, 5), opsets=(11, 13, 21)),
    *cases("MatMul", x(3, 4), c(4, 5)),
    *cases("MatMul", x(2, 3, 4), c(4, 5)),
    *cases("MatMul", c(3, 4), x(4, 5)),
    *cases("MatMul", x(2, 3, 4, 5), x(2, 3, 5, 7)),
    *cases("MatMul", x(2, 1, 4, 5), x(3, 5, 7)),
    *cases("MatMul", x(2, 4, 5), c(2, 5, 3)),
    *cases("Gemm", x(3, 4), c(4, 5), opsets=(11, 13, 21)),
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
    *cases("Conv", x(1, 3, 6, 5), c(4, 3, 2, 2), opsets=(11, 13, 21)),
    *cases("Conv", x(2, 3, 6, 5), c(4, 3, 3, 2), c(4), pads=[1, 2, 0, 1]),
    *cases("Conv", x(1, 3, 7, 9), c(4, 3, 2, 3), c(4), strides=[2, 3], kernel_shape=[2, 3]),
    *cases("Conv", x(1, 3, 7, 9), c(4, 3, 2, 2), dilations=[2, 3]),
    *cases("Conv", x(1, 4, 5, 5), c(6, 2, 3, 3), c(6), group=2),
    *cases("Conv", x(1, 4, 5, 5), c(4, 1, 3, 3), group=4, pads=[1, 1, 1, 1], auto_pad="NOTSET"),
    *cases("Conv", x(1, 4, 6, 6), c(4, 4, 3, 3), auto_pad="VALID", strides=[2, 2]),
    *cases("Conv", x(1, 2, 5, 5), x(3, 2, 2, 2), x(3)),
    *cases("ConvTranspose", x(1, 3, 4, 5), c(3, 2, 2, 2), opsets=(11, 13, 21)),
    *cases("ConvTranspose", x(2, 3, 4, 5), c(3, 2, 3, 2), c(2), strides=[2, 3], pads=[1, 0, 0, 1]),
    *cases("ConvTranspose", x(1, 3, 4, 5), c(3, 2, 3, 3), strides=[2, 2], output_padding=[1, 1], pads=[1, 1, 1, 1]),
    *cases("ConvTranspose", x(1, 4, 3, 3), c(4, 2, 2, 3), c(4), group=2, strides=[3, 2]),
    *cases("ConvTranspose", x(1, 2, 3, 4), c(2, 3, 2, 2), dilations=[2, 3]),
]

POOL = x(2, 3, 7, 6)
NORMALISATION = [
    *cases("GlobalAveragePool", POOL, opsets=(11, 21)),
    *cases("GlobalAveragePool", x(2, 3, 5)),
    *cases("AveragePool", POOL, kernel_shape=[2, 3], opsets=(11, 19, 21)),
    *cases("AveragePool", POOL, kernel_shape=[2, 3], strides=[2, 1], pads=[1, 0, 0, 2]),
    *cases("AveragePool", POOL, kernel_shape=[2, 3], strides=[2, 2], pads=[1, 0, 0, 2], count_include_pad=1),
    *cases("AveragePool", POOL, kernel_shape=[3, 3], dilations=[1, 2], pads=[1, 1, 1, 1], opsets=(19,)),
    *cases("AveragePool", POOL, kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    *cases("AveragePool", POOL, kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_LOWER"),
    *cases("AveragePool", POOL, kernel_shape=[3, 2], auto_pad="VALID"),
    *cases("SkipLayerNormalization", x(2, 3, 4), x(2, 3, 4).array, c(4), domain=MS),
    *cases("SkipLayerNormalization", x(2, 3, 4), c(2, 3, 4), c(4), c(4), c(4), epsilon=0.01, domain=MS),
    *cases("SkipLayerNormalization", x(2, 3, 4), c(2, 3, 4), c(4), None, c(4), outputs="y0 - - y3", domain=MS),
    *cases("Softmax", x(2, 3, 4), opsets=(11, 12, 13, 21)),  # until 12 over axis 1 and all behind it
    *(case for axis in (0, 1, 2, -1, -2) for case in cases("Softmax", x(2, 3, 4), axis=axis, opsets=(12, 13))),
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
    *cases("ArgMax", x(2, 3, 4), opsets=(11, 13, 21)),
    *cases("ArgMax", x(2, 3, 4), axis=-1, keepdims=0, opsets=(11, 13)),
    *cases("ArgMax", whole("int32", 4, 5), axis=1, select_last_index=0, opsets=(13,)),
]

SQUARE = x(3, 3, 2)
SHAPE = [
    *cases("Gather", x(5, 4), whole("int64", 2, 3, lo=0), opsets=(11, 13)),
    *cases("Gather", x(5, 4), whole("int32", 2, lo=0), axis=-1),
    *cases("Gather", c(5, 4), whole("int64", 1, 6, lo=0)),
    *cases("Gather", c(5, 4), Feed(np.array(3, np.int64))),
    *cases("GatherElements", SQUARE, np.array([[[0, 1], [-1, 2]]], np.int64), axis=1, opsets=(11, 13)),
    *cases("GatherElements", SQUARE, np.array([[[0, 1]], [[2, -3]]], np.int32)),
    *cases("GatherElements", SQUARE, np.array([[[1, -2, 0, 1]]], np.int64), axis=-1),
    *cases("GatherND", SQUARE, np.array([[0, 1], [2, -1]], np.int64), opsets=(11, 12, 13)),
    *cases("GatherND", SQUARE, np.array([[[0], [-1]]], np.int64)),
    *cases("GatherND", SQUARE, i64(0, 1, 1)),
    *cases("Tile", x(2, 3), i64(1, 2), opsets=(11, 13)),
    *cases("Tile", x(2, 3), i64(3, 2)),
    *cases("Pad", x(2, 3), i64(0, 1, 2, 0), opsets=(11, 13, 18, 21)),
    *cases("Pad", x(2, 3), i64(1, 0, 0, 2), np.array(0.5, np.float32), mode="constant"),
    *cases("Pad", x(2, 3), i64(1, 0, 0, 2), f32(0.5)),
    *cases("Pad", whole("int32", 2, 3), i64(1, 0, 0, 2), np.array(-3, np.int32)),
    *cases("Pad", x(4, 5), i64(-1, 2, 1, -3), np.array(0.5, np.float32)),
    *cases("Pad", x(4, 5), i64(-1, -2, -1, 0)),
    *(
        case
        for mode, opset in (("reflect", 11), ("edge", 11), ("reflect", 18), ("edge", 18), ("wrap", 19))
        for case in (
            *cases("Pad", x(4, 5), i64(2, 3, 1, 0), mode=mode, opsets=(opset,)),
            *cases("Pad", x(4, 5), i64(-1, 2, 0, -2), mode=mode, opsets=(opset,)),
        )
    ),
    *cases("Pad", x(4, 5), i64(1, 2), None, i64(1), opsets=(18,)),
    *cases("Pad", x(4, 5, 3), i64(1, 2, 0, 1), np.array(2, np.float32), i64(-1, 0), opsets=(18, 21)),
    *cases("Pad", x(4, 5, 3), i64(1, 2, 0, 1), None, i64(-1, 0), mode="edge", opsets=(18,)),
    *cases("Reshape", x(2, 3, 4), i64(6, 4), opsets=ALL),
    *cases("Reshape", x(2, 3, 4), i64(-1)),
    *cases("Reshape", x(2, 3, 4), i64(4, -1, 3)),
    *cases("Reshape", x(2, 3, 4), i64(0, -1)),
    *cases("Reshape", x(2, 3, 4), i64(0, 0, 2, -1)),
    *cases("Reshape", x(2, 3, 4), i64(4, 6), allowzero=1),
    *cases("Reshape", x(1), i64()),
    *cases("Reshape", x(), i64(1, 1)),
    *cases("Squeeze", x(1, 3, 1, 4), i64(0, 2), opsets=(13, 21)),
    *cases("Squeeze", x(1, 3, 1, 4), axes=[0, -2], opsets=(11, 12)),
    *cases("Squeeze", x(1, 3, 1, 4), opsets=(11, 13)),
    *cases("Squeeze", x(1, 3, 1, 4), i64(-2)),
    *cases("Squeeze", x(1, 3, 1, 4)),
    *cases("Unsqueeze", x(3, 4), i64(0), opsets=(13, 21)),
    *cases("Unsqueeze", x(3, 4), axes=[-1, 0, 1], opsets=(11, 12)),
    *cases("Unsqueeze", x(3, 4), i64(3, 0, 1)),
    *cases("Unsqueeze", x(3, 4), i64(-1, -3)),
    *cases("Flatten", x(2, 3, 4), opsets=(11, 13, 21)),
    *cases("Flatten", x(2, 3, 4), axis=0),
    *cases("Flatten", x(2, 3, 4), axis=2),
    *cases("Flatten", x(2, 3, 4), axis=3),
    *cases("Flatten", x(2, 3, 4), axis=-1),
    *cases("Transpose", x(2, 3, 4), opsets=(11, 13, 21)),
    *cases("Transpose", x(2, 3, 4), perm=[1, 2, 0]),
    *cases("Slice", x(5, 6), i64(1), i64(3), opsets=(11, 13, 21)),
    *cases("Slice", x(5, 6), i64(1, 2), i64(4, 5), i64(1, 0)),
    *cases("Slice", x(5, 6), i64(-3), i64(-1), i64(-1)),
    *cases("Slice", x(5, 6), i64(1), i64(INT_MAX), i64(1), i64(2)),
    *cases("Slice", x(5, 6), i64(-100), i64(100), i64(0)),
    *cases("Slice", x(5, 6), i64(-1), i64(INT_MIN), i64(0), i64(-1)),
    *cases("Slice", x(5, 6), i64(4), i64(0), i64(1), i64(-2)),
    *cases("Slice", x(5, 6), i64(100), i64(-100), i64(1), i64(-4)),
    *cases("Slice", x(5, 6), i64(0, 0), i64(2, 2), None, i64(1, 1)),
    *cases("Slice", x(5, 6), np.array([1], np.int32), np.array([9], np.int32), np.array([1], np.int32)),
    *cases("Split", x(6, 4), outputs=3, opsets=(11, 13, 17)),
    *cases("Split", x(2, 6), outputs=3, split=[1, 2, 3], axis=1, opsets=(11, 12)),
    *cases("Split", x(6, 4), i64(1, 2, 3), outputs=3, opsets=(13, 18, 21)),
    *cases("Split", x(2, 6), i64(2, 4), outputs=2, axis=-1),
    *cases("Split", x(6, 4), outputs=3, num_outputs=3, opsets=(18, 21)),
    *cases("Split", x(7, 4), outputs=3, num_outputs=3, opsets=(18,)),  # 3, 3, 1
    *cases("Split", x(4, 7), outputs=2, num_outputs=2, axis=1, opsets=(18,)),
    *cases("Concat", x(2, 3), c(2, 4), axis=1, opsets=(11, 13, 21)),
    *cases("Concat", x(2, 3), x(1, 3), c(2, 3), axis=-2),
    *cases("Concat", x(2, 3), axis=0),
    *cases("Gather", x(5, 4), np.array(2, np.int64), opsets=(11, 13, 21)),
    *cases("Gather", x(5, 4), np.array(-1, np.int64), axis=1),
    *cases("Gather", x(5, 4), np.array(1, np.int32), axis=-1),
    *cases("Gather", x(5, 4), i64(0, -1, 2, 2)),
    *cases("Gather", x(2, 5, 4), i64(3, -5), axis=1),
    *cases("Gather", x(5, 4), np.array([[0, 1], [-2, 4]], np.int64)),
    *cases("Gather", x(5, 4), i64(1), axis=1),
    *cases("Expand", x(3, 1), i64(2, 3, 4), opsets=(11, 13, 21)),
    *cases("Expand", x(1, 4), i64(3, 1)),
    *cases("Expand", x(3, 4), i64(1)),
    *cases("Expand", x(), i64(2, 2)),
]


COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
MODES = ("nearest", "linear", "cubic")

RESIZE = [
    *cases("Resize", x(1, 2, 3, 4), f32(), f32(1, 1, 2, 1.5), mode="linear", opsets=(11, 12)),
    *(
        case
        for coordinates in COORDINATES
        for case in (
            *cases(
                "Resize",
                x(1, 2, 3, 4),
                None,
                None,
                i64(1, 2, 7, 5),
                nearest_mode="floor",
                coordinate_transformation_mode=coordinates,
            ),
            *cases(
                "Resize",
                x(1, 2, 3, 4),
                None,
                f32(1, 1, 2, 1.5),
                nearest_mode="floor",
                coordinate_transformation_mode=coordinates,
            ),
            *cases(
                "Resize",
                x(1, 1, 3, 5),
                None,
                None,
                i64(1, 1, 21, 3),
                nearest_mode="floor",
                coordinate_transformation_mode=coordinates,
            ),
        )
    ),
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


LENIENT = [
    *cases("Unsqueeze", x(3, 4), np.array(1, np.int64)),  # onnxruntime takes a scalar for a list of one axis
    # 5 / 3 in float32 times 3 is below 5 as a real number, but 5 in float32, in which onnxruntime multiplies
    *cases("Resize", x(1, 1, 3, 3), None, f32(1, 1, 5 / 3, 5 / 3), mode="linear"),
]

HEADS = x(2, 3, 5, 4), x(2, 3, 6, 4).array, x(2, 3, 6, 7)  # queries, keys, values
ROWS = x(2, 5, 12), x(2, 6, 12).array, x(2, 6, 21)  # of three heads
PACKED = x(2, 5, 8), c(8, 36), c(36)

ATTENTION = [
    *cases("Attention", *HEADS, opsets=(23,)),
    *cases("Attention", *HEADS, scale=0.3, softcap=0.7, opsets=(23,)),
    *cases("Attention", *HEADS, is_causal=1, opsets=(23,)),
    *cases("Attention", x(2, 6, 5, 4), *HEADS[1:], opsets=(23,)),
    *cases("Attention", *HEADS, c(5, 6), opsets=(23,)),
    *cases("Attention", *HEADS, x(2, 1, 5, 6), softcap=2.0, opsets=(23,)),
    *cases("Attention", *HEADS, open_rows(5, 6), opsets=(23,)),
    *cases("Attention", *HEADS, open_rows(2, 3, 5, 6).array, is_causal=1, opsets=(23,)),
    *cases("Attention", *ROWS, q_num_heads=3, kv_num_heads=3, opsets=(23,)),
    *cases("Attention", x(2, 5, 24), *ROWS[1:], c(5, 6), q_num_heads=6, kv_num_heads=3, is_causal=1, opsets=(23,)),
    *cases("MultiHeadAttention", x(2, 5, 12), x(2, 6, 12).array, x(2, 6, 12), num_heads=3, domain=MS),
    *cases("MultiHeadAttention", *ROWS, c(45), num_heads=3, scale=0.3, domain=MS),
    *cases("MultiHeadAttention", *ROWS, None, None, c(2, 3, 5, 6), num_heads=3, domain=MS),
    *cases("MultiHeadAttention", *ROWS, None, None, x(1, 1, 5, 6), num_heads=3, domain=MS),
    *cases("MultiHeadAttention", *[x(2, 5, 12)] * 3, num_heads=3, unidirectional=1, domain=MS),
    *cases("Attention", *PACKED, num_heads=3, domain=MS),
    *cases("Attention", *PACKED, num_heads=3, scale=0.3, unidirectional=1, domain=MS),
    *cases("Attention", *PACKED, num_heads=3, qkv_hidden_sizes=[9, 9, 18], domain=MS),
]

TABLE = [*ELEMENTWISE, *LOGIC, *PRODUCTS, *NORMALISATION, *SHAPE, *RESIZE, *LENIENT, *ATTENTION]


def test_every_handler_has_a_case() -> None:
    handlers = ARITHMETIC | PRODUCT_HANDLERS | NONLINEAR | SHAPE_HANDLERS | ATTENTION_HANDLERS
    assert {(case.domain, case.op) for case in TABLE} == handlers.keys() - {("", "Shape")}


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_computes_what_onnxruntime_does(case: Case) -> None:
    assert_as_onnxruntime(case)


@pytest.mark.parametrize(("mode", "pads"), [("SAME_UPPER", [2, 0, 2, 1]), ("SAME_LOWER", [2, 1, 2, 0])])
def test_same_padding_of_a_dilated_convolution(mode: str, pads: list[int]) -> None:
    """onnxruntime has no such kernel; it has one for the same pads written out."""
    (case,) = cases("Conv", x(1, 3, 6, 5), c(4, 3, 3, 2), dilations=[2, 1], auto_pad=mode)
    (explicit,) = cases("Conv", *case.inputs, dilations=[2, 1], pads=pads)
    module, _ = import_onnx(case.proto())
    assert_same(run(module, case.feeds), run_ort(explicit.proto(), case.feeds))


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
