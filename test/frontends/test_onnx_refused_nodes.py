"""Every refusal of the ONNX reader's handlers: it names the node, and says what was found and what to do."""

from typing import Any

import numpy as np
import pytest
from data.onnx_case import STEP, Case, Feed, c, cases, codes, f32, i64, x
from onnx import TensorProto

from qvit.frontends.errors import ImportRefused
from qvit.frontends.onnx import import_onnx


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
    refused("input 0 has elements of type int32, expected bfloat16, double", "Sqrt", WHOLE),
    refused("expected f32 or f64", "QuantizeLinear", WHOLE, STEP),
    refused("auto_pad SAME_LOWER", "ConvTranspose", PICTURE, c(3, 4, 2, 2), auto_pad="SAME_LOWER"),
    refused("output_shape", "ConvTranspose", PICTURE, c(3, 4, 2, 2), output_shape=[6, 6]),
    refused("3 dimensions, expected 4", "Conv", x(1, 3, 5), c(4, 3, 2)),
    refused("5 dimensions, expected 4", "Conv", x(1, 3, 5, 5, 5), c(4, 3, 2, 2, 2)),
    refused("mean or deviation is used", "LayerNormalization", x(2, 3), c(3), outputs=3),
    refused("select_last_index is not read", "ArgMax", x(2, 3), select_last_index=1),
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
    *(refused("its scale is not positive and finite", "QuantizeLinear", x(2, 3), f32(v)) for v in (0, np.nan, np.inf)),
    refused("its scale is not positive and finite", "QuantizeLinear", x(2, 3), f32(0.1, -0.1, 1)),
    *(
        refused("its scale is 0 or not finite", "DequantizeLinear", CODES, f32(0.1, v, 0.2))
        for v in (0, np.nan, np.inf)
    ),
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
    refused("it has 4 inputs, expected 5", "BatchNormalization", x(2, 3, 4), c(3), c(3), c(3)),
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
    refused("it has 1 inputs, expected 2", "Unsqueeze", x(2, 3)),
    refused("ONNX has this operator only from opset 20 on, and the model is of opset 17", "Gelu", x(2, 3)),
    refused("input 1 has elements of type float, expected int32, int64", "Gather", x(2, 3), f32(0, 1)),
    refused("it has 3 inputs, expected 2", "Mul", x(2, 3), x(2, 3), x(2, 3)),
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
    refused(
        "input 2 has elements of type int64, expected int8, uint8",
        "QuantizeLinear",
        x(2, 3),
        STEP,
        np.array(1, np.int64),
    ),
    refused("input 0 has elements of type float, expected int32, int8, uint8", "DequantizeLinear", x(2, 3), STEP),
    refused("it has 1 inputs, expected 2 to 3", "DequantizeLinear", CODES),
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
