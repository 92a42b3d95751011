"""Transformers as onnxruntime's quantizers and optimizers write them.

qdq_*: quantize_static with QuantizeLinear and DequantizeLinear. qop_*: quantize_static with QLinear operators. dynamic_*:
quantize_dynamic, whose scales are computed at run time. optimizer_*: float graphs with fused operators.
"""

import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime
import torch
from base_vit import INPUT, Dims, Fixture, export, images, main, vit
from onnx import ModelProto
from onnxruntime import GraphOptimizationLevel
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions
from torch import Tensor, nn

PRODUCTS = ["MatMul", "Gemm", "Conv"]
EVERYTHING = [
    *(*PRODUCTS, "Add", "Mul", "Div", "Softmax", "LayerNormalization", "Gelu", "Erf", "Transpose", "Reshape"),
    *("Concat", "Gather", "Slice", "Squeeze"),
]
U8, S8, U16, S16 = QuantType.QUInt8, QuantType.QInt8, QuantType.QUInt16, QuantType.QInt16
U4, S4 = QuantType.QUInt4, QuantType.QInt4

FLOAT = {"DefaultTensorType": onnx.TensorProto.FLOAT}
"""Where the quantizer cannot infer the type of what operators of com.microsoft compute."""

Change = Callable[[ModelProto], ModelProto]


def through_files(change: Callable[[Path, Path], object]) -> Change:
    """A tool that reads one file and writes another, on models."""

    def changed(model: ModelProto) -> ModelProto:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "source.onnx", Path(folder) / "target.onnx"
            onnx.save(model, source)
            change(source, target)
            return onnx.load(target)

    return changed


class Images(CalibrationDataReader):
    def __init__(self, dims: Dims) -> None:
        self.feeds = iter([{INPUT: image} for image in images(dims)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def static(
    dims: Dims,
    model: ModelProto,
    activations: QuantType = U8,
    weights: QuantType = S8,
    *,
    ops: list[str] | None = PRODUCTS,
    per_channel: bool = False,
    qoperator: bool = False,
    **extra: Any,
) -> ModelProto:
    """quantize_static; `extra` are its extra_options."""
    return through_files(
        lambda source, target: quantize_static(
            source,
            target,
            Images(dims),
            quant_format=QuantFormat.QOperator if qoperator else QuantFormat.QDQ,
            op_types_to_quantize=ops,
            per_channel=per_channel,
            activation_type=activations,
            weight_type=weights,
            extra_options=extra,
        )
    )(model)


def opset_kept(make: Callable[[], ModelProto]) -> ModelProto:
    """As older releases of onnxruntime quantize to 16 bits: opset 17 stays, Q and DQ are those of com.microsoft."""
    quantizer = import_module("onnxruntime.quantization.quantize")
    with patch.object(quantizer, "update_opset_version", lambda model, *_, **__: model):
        return make()


def dynamic(model: ModelProto, weights: QuantType, ops: list[str], **options: Any) -> ModelProto:
    return through_files(
        lambda source, target: quantize_dynamic(
            source, target, op_types_to_quantize=ops, weight_type=weights, **options
        )
    )(model)


preprocessed = through_files(lambda source, target: quant_pre_process(source, target))


def optimized(model: ModelProto, level: str = "EXTENDED") -> ModelProto:
    """What onnxruntime writes as its optimized graph."""

    def change(source: Path, target: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(GraphOptimizationLevel, f"ORT_ENABLE_{level}")
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 3
        onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    return through_files(change)(model)


def fused(dims: Dims, model: ModelProto, model_type: str = "vit", **choices: bool) -> ModelProto:
    """onnxruntime.transformers.optimizer; `choices` are attributes of its FusionOptions."""
    options = FusionOptions(model_type)
    for name, choice in choices.items():
        assert hasattr(options, name), name
        setattr(options, name, choice)

    def change(source: Path, target: Path) -> None:
        result = optimizer.optimize_model(
            str(source),
            model_type,
            num_heads=dims.heads,
            hidden_size=dims.features,
            optimization_options=options,
            opt_level=0,
        )
        result.save_model_to_file(str(target))

    return through_files(change)(model)


def blockwise(model: ModelProto, quant_format: QuantFormat) -> ModelProto:
    """int4 weights with one scale for each 16 values along the reduction axis."""
    config = DefaultWeightOnlyQuantConfig(block_size=16, is_symmetric=True, quant_format=quant_format)
    quantizer = MatMulNBitsQuantizer(model, algo_config=config)
    quantizer.process()
    return quantizer.model.model


class Cnn(nn.Module):
    """A convolutional network with what a transformer has not: pooling, sigmoids, concatenation of channels."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.stem = nn.Conv2d(dims.channels, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.left, self.right = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 5, 1)
        self.last = nn.Conv2d(11, 12, 3, stride=2, padding=(1, 0))
        self.pool = nn.AvgPool2d(2)
        self.head = nn.Linear(12, dims.classes)
        generator = torch.Generator().manual_seed(dims.seed)
        for parameter in self.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + 0.05)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        x = x * x.sigmoid()
        x = self.pool(x + self.depthwise(x))
        x = torch.cat([self.left(x), nn.functional.leaky_relu(self.right(x), 0.2)], dim=1)
        x = nn.functional.adaptive_avg_pool2d(self.last(x), 1).flatten(1)
        return self.head(x).softmax(-1)


def cnn(dims: Dims) -> ModelProto:
    return export(Cnn(dims), dims, 17)


def mixed(dims: Dims) -> ModelProto:
    """8-bit activations, 16-bit ones around a LayerNormalization: requantization by a chain of Q and DQ."""
    model = vit(dims, 21, dynamo=True)
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    name = norms[1].output[0]
    override = {name: [{"quant_type": U16, "convert": {"quant_type": U8, "recv_nodes": set[str]()}}]}
    override[name][0]["convert"]["recv_nodes"] = {
        node.name for node in model.graph.node if name in node.input and node.op_type == "MatMul"
    }
    return static(dims, model, ops=EVERYTHING, TensorQuantOverrides=override)


def fixtures() -> dict[str, Fixture]:
    qdq = "QuantizeLinear DequantizeLinear"
    contrib = "com.microsoft.QuantizeLinear com.microsoft.DequantizeLinear"
    return {
        "qdq_u8s8_tensor_17": Fixture(lambda d: static(d, vit(d, 17)), qdq),
        "qdq_u8s8_channel_preprocessed_17": Fixture(
            lambda d: static(d, preprocessed(vit(d, 17, dynamic_batch=True)), per_channel=True), qdq
        ),
        "qdq_u8s8_matmul_only_20": Fixture(
            lambda d: static(d, vit(d, 20, dynamo=True, gelu="tanh"), ops=["MatMul"]), qdq + " Gelu"
        ),
        "qdq_s8s8_channel_everything_18": Fixture(
            lambda d: static(d, vit(d, 18, dynamo=True, fused_qkv=True), S8, ops=EVERYTHING, per_channel=True),
            qdq + " Erf",
        ),
        "qdq_s8s8_symmetric_20": Fixture(
            lambda d: static(
                d,
                preprocessed(vit(d, 20, dynamo=True, dynamic_batch=True)),
                S8,
                per_channel=True,
                ActivationSymmetric=True,
            ),
            qdq,
        ),
        "qdq_u8u8_asymmetric_everything_20": Fixture(
            lambda d: static(d, vit(d, 20, dynamo=True), U8, U8, ops=EVERYTHING, WeightSymmetric=False), qdq
        ),
        "qdq_float_weights_20": Fixture(
            lambda d: static(
                d,
                vit(d, 20, dynamo=True, fused_qkv=True),
                S8,
                AddQDQPairToWeight=True,
                QuantizeBias=False,
                DedicatedQDQPair=True,
            ),
            qdq,
        ),
        "qdq_s8s8_optimum_11": Fixture(
            lambda d: static(d, vit(d, 11), S8, ops=["MatMul", "Add", "Conv", "Gemm"]), qdq + " ReduceMean"
        ),
        "qdq_u16s8_contrib_17": Fixture(
            lambda d: opset_kept(lambda: static(d, vit(d, 17), U16, per_channel=True)), contrib
        ),
        "qdq_u16s8_21": Fixture(lambda d: static(d, vit(d, 21, dynamo=True), U16, ops=EVERYTHING), qdq),
        "qdq_s16s8_channel_21": Fixture(
            lambda d: static(d, vit(d, 21, dynamo=True, fused_qkv=True), S16, per_channel=True), qdq
        ),
        "qdq_s16s16_21": Fixture(lambda d: static(d, vit(d, 21, dynamo=True), S16, S16, per_channel=True), qdq),
        "qdq_mixed_u8_u16_21": Fixture(mixed, qdq),
        "qdq_u8s4_channel_21": Fixture(
            lambda d: static(d, vit(d, 21, dynamo=True), U8, S4, ops=["MatMul"], per_channel=True), qdq
        ),
        "qdq_s8u4_21": Fixture(
            lambda d: static(
                d, vit(d, 21, dynamo=True, fused_qkv=True), S8, U4, ops=["MatMul", "Gemm"], per_channel=True
            ),
            qdq,
        ),
        "qdq_u8s4_contrib_17": Fixture(
            lambda d: static(d, vit(d, 17), U8, S4, ops=["MatMul"], per_channel=True), contrib
        ),
        "qdq_after_optimizer_17": Fixture(
            lambda d: static(d, preprocessed(fused(d, vit(d, 17))), per_channel=True),
            qdq + " com.microsoft.SkipLayerNormalization",
        ),
        "qdq_after_graph_optimization_17": Fixture(
            lambda d: static(d, optimized(vit(d, 17)), S8, ops=["MatMul", "FusedMatMul", "Conv"]),
            qdq + " com.microsoft.FusedMatMul",
        ),
        "qdq_blockwise_int4_21": Fixture(
            lambda d: blockwise(vit(d, 21, dynamo=True), QuantFormat.QDQ), "DequantizeLinear"
        ),
        "blockwise_matmulnbits_21": Fixture(
            lambda d: blockwise(vit(d, 21, dynamo=True), QuantFormat.QOperator), "com.microsoft.MatMulNBits"
        ),
        "qop_u8s8_17": Fixture(
            lambda d: static(d, vit(d, 17), ops=None, qoperator=True),
            "QLinearMatMul QLinearConv com.microsoft.QGemm com.microsoft.QLinearAdd com.microsoft.QLinearMul "
            "com.microsoft.QLinearSoftmax com.microsoft.QLinearConcat",
        ),
        "qop_s8s8_channel_17": Fixture(
            lambda d: static(d, vit(d, 17, fused_qkv=True), S8, qoperator=True, per_channel=True),
            "QLinearMatMul QLinearConv com.microsoft.QGemm",
        ),
        "qop_u8u8_asymmetric_18": Fixture(
            lambda d: static(
                d, vit(d, 18, dynamo=True), U8, U8, ops=["MatMul", "Add"], qoperator=True, WeightSymmetric=False
            ),
            "QLinearMatMul com.microsoft.QLinearAdd",
        ),
        "qop_cnn_17": Fixture(
            lambda d: static(d, cnn(d), ops=None, qoperator=True, per_channel=True),
            "QLinearConv com.microsoft.QGemm com.microsoft.QLinearAdd com.microsoft.QLinearMul "
            "com.microsoft.QLinearConcat com.microsoft.QLinearSigmoid com.microsoft.QLinearLeakyRelu "
            "com.microsoft.QLinearAveragePool com.microsoft.QLinearGlobalAveragePool com.microsoft.QLinearSoftmax",
        ),
        "qop_cnn_s8s8_17": Fixture(
            lambda d: static(d, cnn(d), S8, ops=None, qoperator=True),
            "QLinearConv com.microsoft.QGemm com.microsoft.QLinearAveragePool",
        ),
        "dynamic_u8_17": Fixture(
            lambda d: dynamic(vit(d, 17), U8, ["MatMul", "Conv"]),
            "DynamicQuantizeLinear MatMulInteger ConvInteger",
        ),
        "dynamic_s8_channel_18": Fixture(
            lambda d: dynamic(vit(d, 18, dynamo=True, fused_qkv=True), S8, ["MatMul"], per_channel=True),
            "DynamicQuantizeLinear MatMulInteger",
        ),
        "dynamic_optimum_11": Fixture(
            lambda d: dynamic(vit(d, 11), S8, ["MatMul"], extra_options={"MatMulConstBOnly": False}),
            "DynamicQuantizeLinear MatMulInteger ReduceMean",
        ),
        "dynamic_optimized_17": Fixture(
            lambda d: optimized(
                dynamic(vit(d, 17), S8, ["MatMul"], per_channel=True, extra_options={"MatMulConstBOnly": False})
            ),
            "com.microsoft.DynamicQuantizeMatMul",
        ),
        "dynamic_attention_17": Fixture(
            lambda d: dynamic(fused(d, vit(d, 17, divide=True)), S8, ["MatMul", "Attention"], extra_options=FLOAT),
            "com.microsoft.QAttention",
            blocks=2,
        ),
        "optimizer_attention_17": Fixture(
            lambda d: fused(d, vit(d, 17, divide=True)), "com.microsoft.Attention", blocks=2
        ),
        "optimizer_multi_head_attention_17": Fixture(
            lambda d: fused(d, vit(d, 17, divide=True), use_multi_head_attention=True),
            "com.microsoft.MultiHeadAttention",
            blocks=2,
        ),
        "optimizer_fast_gelu_17": Fixture(
            lambda d: fused(d, vit(d, 17), enable_gelu_approximation=True), "com.microsoft.FastGelu"
        ),
    }


if __name__ == "__main__":
    main(fixtures(), __doc__)
