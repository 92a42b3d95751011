"""How each operation carries intervals from its operands to its integer results."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from xdsl.ir import Operation

from qvit.dialects.ops.approximated import IntFunctionOp, IntLayerNormOp, IntSoftmaxOp
from qvit.dialects.ops.elementwise import AddOp, ClipOp, CompareOp, MulOp, SelectOp, SubOp
from qvit.dialects.ops.nonlinear import ArgmaxOp, ReduceSumOp
from qvit.dialects.ops.products import Conv2dOp, LinearOp, MatmulOp, ShiftMatmulOp
from qvit.dialects.ops.quantization import AddRequantOp, QuantizeOp, RequantizeOp, ThresholdOp
from qvit.dialects.ops.shape import BroadcastOp, ConcatOp, GatherOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp, WeightOp
from qvit.transforms.ranges import approximated, products, quantization, values
from qvit.transforms.ranges.interval import Range

Transfer: TypeAlias = Callable[..., Range | tuple[Range, ...]]
"""(analysis, op) -> the interval of its result, or of all of them; it measures what has to fit."""

# A dict's type cannot say that its values fit their keys.
TRANSFERS: Mapping[type[Operation], Transfer] = {
    QuantizeOp: quantization.quantize,
    RequantizeOp: quantization.requantize,
    AddRequantOp: quantization.add_requant,
    ThresholdOp: quantization.threshold,
    MatmulOp: products.matmul,
    ShiftMatmulOp: products.shift_matmul,
    LinearOp: products.linear,
    Conv2dOp: products.conv2d,
    AddOp: values.add,
    SubOp: values.sub,
    MulOp: values.mul,
    ReduceSumOp: values.reduce_sum,
    ArgmaxOp: values.argmax,
    ClipOp: values.clip,
    CompareOp: values.compare,
    SelectOp: values.select,
    IntSoftmaxOp: approximated.int_softmax,
    IntFunctionOp: approximated.int_function,
    IntLayerNormOp: approximated.int_layer_norm,
    ReshapeOp: values.reshape,
    TransposeOp: values.transpose,
    SliceOp: values.slice_,
    ConcatOp: values.concat,
    GatherOp: values.gather,
    BroadcastOp: values.broadcast,
    ConstantOp: values.constant,
    WeightOp: values.constant,
}
"""Every operation that has an integer result."""
