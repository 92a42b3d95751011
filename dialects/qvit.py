"""The dialect object: every operation and attribute of `qvit`, and how folded constants come back as operations."""

from xdsl.dialect_interfaces.constant_materialization import ConstantMaterializationInterface
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr
from xdsl.ir import Attribute, Dialect, Operation
from xdsl.utils.hints import isa

from qvit.dialects.approximation_attributes import ATTRIBUTES
from qvit.dialects.attributes import (
    DyadicAttr,
    PotAttr,
    QParamsAttr,
    RealAttr,
    RoundingAttr,
    ScaleAttr,
    WeightFileAttr,
    WeightRefAttr,
    ZeroPointAttr,
)
from qvit.dialects.ops.approximated import IntFunctionOp, IntLayerNormOp, IntSoftmaxOp
from qvit.dialects.ops.elementwise import (
    AddOp,
    ClipOp,
    CompareOp,
    DivOp,
    ErfOp,
    MulOp,
    PowOp,
    ReluOp,
    SelectOp,
    SigmoidOp,
    SqrtOp,
    SubOp,
    TanhOp,
)
from qvit.dialects.ops.nonlinear import (
    ArgmaxOp,
    BatchNormOp,
    GeluOp,
    LayerNormOp,
    ReduceMeanOp,
    ReduceSumOp,
    ResizeOp,
    SoftmaxOp,
)
from qvit.dialects.ops.products import Conv2dOp, ConvTranspose2dOp, LinearOp, MatmulOp, ShiftMatmulOp
from qvit.dialects.ops.quantization import AddRequantOp, DequantizeOp, QuantizeOp, RequantizeOp, ThresholdOp
from qvit.dialects.ops.shape import BroadcastOp, ConcatOp, GatherOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp, WeightOp


class _Constants(ConstantMaterializationInterface):
    def materialize_constant(self, value: Attribute, type: Attribute) -> Operation | None:
        return ConstantOp(value) if isa(value, DenseIntOrFPElementsAttr) and value.type == type else None


Qvit = Dialect(
    "qvit",
    [
        QuantizeOp,
        DequantizeOp,
        RequantizeOp,
        AddRequantOp,
        ThresholdOp,
        MatmulOp,
        ShiftMatmulOp,
        LinearOp,
        Conv2dOp,
        ConvTranspose2dOp,
        AddOp,
        SubOp,
        MulOp,
        DivOp,
        PowOp,
        SqrtOp,
        ErfOp,
        TanhOp,
        SigmoidOp,
        ReluOp,
        ClipOp,
        CompareOp,
        SelectOp,
        SoftmaxOp,
        GeluOp,
        LayerNormOp,
        BatchNormOp,
        ReduceMeanOp,
        ReduceSumOp,
        ArgmaxOp,
        ResizeOp,
        IntSoftmaxOp,
        IntFunctionOp,
        IntLayerNormOp,
        ReshapeOp,
        TransposeOp,
        SliceOp,
        ConcatOp,
        GatherOp,
        BroadcastOp,
        WeightOp,
        ConstantOp,
    ],
    [
        RoundingAttr,
        ScaleAttr,
        ZeroPointAttr,
        QParamsAttr,
        RealAttr,
        DyadicAttr,
        PotAttr,
        WeightRefAttr,
        WeightFileAttr,
        *ATTRIBUTES.values(),
    ],
    [_Constants()],
)
"""The dialect, for `Context.load_dialect`."""
