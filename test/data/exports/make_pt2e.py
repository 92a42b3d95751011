"""Transformers quantized by torchao's PT2E with the x86 and the XNNPACK quantizer, exported to ONNX by torch."""

import torch
from base_vit import Dims, Fixture, Vit, export, images, main
from onnx import ModelProto
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)
from torchao.testing.pt2e._xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config


def x86():
    return X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())


def xnnpack(per_channel: bool):
    return XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=per_channel))


def quantized(dims: Dims, quantizer, opset: int, fold: bool = True, **form: bool) -> ModelProto:
    batches = [torch.from_numpy(image) for image in images(dims)]
    program = torch.export.export(Vit(dims, **form), (batches[0],)).module()
    prepared = prepare_pt2e(program, quantizer)
    for batch in batches:
        prepared(batch)
    return export(convert_pt2e(prepared, fold_quantize=fold), dims, opset, dynamo=True)


def fixtures() -> dict[str, Fixture]:
    qdq = "QuantizeLinear DequantizeLinear"
    return {
        "pt2e_x86_20": Fixture(lambda d: quantized(d, x86(), 20), qdq + " Transpose"),
        "pt2e_x86_21": Fixture(lambda d: quantized(d, x86(), 21, fused_qkv=True), qdq + " Transpose"),
        "pt2e_xnnpack_channel_20": Fixture(lambda d: quantized(d, xnnpack(True), 20), qdq),
        "pt2e_xnnpack_tensor_18": Fixture(lambda d: quantized(d, xnnpack(False), 18, fused_qkv=True), qdq),
        "pt2e_float_weights_20": Fixture(lambda d: quantized(d, x86(), 20, fold=False), qdq),
    }


if __name__ == "__main__":
    main(fixtures(), __doc__)
