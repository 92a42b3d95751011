"""Transformers as NNCF quantizes ONNX: post-training quantization, and compression of weights."""

from dataclasses import replace

import nncf
from base_vit import INPUT, Dims, Fixture, images, main, vit
from nncf import CompressWeightsMode, ModelType, QuantizationPreset
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
from onnx import ModelProto


def feeds(dims: Dims) -> nncf.Dataset:
    return nncf.Dataset(images(dims), lambda image: {INPUT: image})


def quantized(dims: Dims, model: ModelProto, preset: QuantizationPreset, **options) -> ModelProto:
    return nncf.quantize(model, feeds(dims), preset=preset, model_type=ModelType.TRANSFORMER, subset_size=6, **options)


def compressed(model: ModelProto, mode: CompressWeightsMode, **options) -> ModelProto:
    """Without the convolution, for NNCF 3.4.0 gives its weight scales of rank 4, and without Gemm, where groups fail."""
    scope = nncf.IgnoredScope(types=["Conv", "Gemm"])
    return nncf.compress_weights(model, mode=mode, ignored_scope=scope, **options)


def fixtures() -> dict[str, Fixture]:
    qdq = "QuantizeLinear DequantizeLinear"
    mixed, performance = QuantizationPreset.MIXED, QuantizationPreset.PERFORMANCE
    no_smoothing = AdvancedQuantizationParameters(smooth_quant_alpha=-1.0)
    return {
        "nncf_mixed_17": Fixture(lambda d: quantized(d, vit(d, 17), mixed), qdq),
        "nncf_performance_20": Fixture(lambda d: quantized(d, vit(d, 20, dynamo=True), performance), qdq),
        "nncf_unsmoothed_18": Fixture(
            lambda d: quantized(d, vit(d, 18, dynamo=True, fused_qkv=True), mixed, advanced_parameters=no_smoothing),
            qdq,
        ),
        "nncf_weights_int8_sym_20": Fixture(
            lambda d: compressed(vit(d, 20, dynamo=True), CompressWeightsMode.INT8_SYM), "DequantizeLinear"
        ),
        "nncf_weights_int8_asym_17": Fixture(
            lambda d: compressed(vit(d, 17, fused_qkv=True), CompressWeightsMode.INT8_ASYM), "DequantizeLinear"
        ),
        "nncf_weights_int8_conv_20": Fixture(
            lambda d: nncf.compress_weights(vit(d, 20, dynamo=True), mode=CompressWeightsMode.INT8_ASYM),
            "DequantizeLinear",
            runs=False,  # the scales of rank 4 of the convolution's weight are outside ONNX
        ),
        "nncf_weights_int4_sym_21": Fixture(
            lambda d: compressed(vit(d, 21, dynamo=True), CompressWeightsMode.INT4_SYM, group_size=-1, all_layers=True),
            "DequantizeLinear",
        ),
        "nncf_weights_int4_grouped_21": Fixture(
            lambda d: compressed(
                vit(replace(d, head=12, hidden=32, heads=2), 21, dynamo=True),
                CompressWeightsMode.INT4_ASYM,
                group_size=8,
                all_layers=True,
            ),
            "DequantizeLinear",
        ),
    }


if __name__ == "__main__":
    main(fixtures(), __doc__)
