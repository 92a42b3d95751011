"""Transformers of Brevitas layers: QCDQ, where Clip between Q and DQ holds the width, and QONNX (Quant, BipolarQuant, Trunc).

onnxruntime has no operators of QONNX. Beside each such model, NAME.npz holds an image and what the qonnx package computes
from it: "image", and under their names the output and each tensor that an operator of QONNX writes.
"""

import itertools
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from base_vit import INPUT, OUTPUT, Attention, Block, Dims, Fixture, Vit, fill, images, main
from brevitas import nn as qnn
from brevitas.export import export_onnx_qcdq, export_qonnx
from brevitas.graph.calibrate import calibration_mode
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8WeightPerChannelFloat,
    Int8WeightPerTensorFloat,
    Int32Bias,
    ShiftedUint8ActPerTensorFloat,
    ShiftedUint8WeightPerChannelFloat,
    SignedBinaryWeightPerTensorConst,
    SignedTernaryWeightPerTensorConst,
    Uint8ActPerTensorFloat,
)
from onnx import ModelProto
from torch import Tensor, nn


class QuantAttention(Attention):
    """Attention whose queries, keys, values and probabilities are quantized too."""

    def __init__(self, dims: Dims, linear: Any, identity: Any, unsigned: Any) -> None:
        super().__init__(dims, False, False, linear)
        self.q_quant, self.k_quant, self.v_quant = identity(), identity(), identity()
        self.p_quant = unsigned()

    def forward(self, x: Tensor) -> Tensor:
        tokens, heads, head = x.shape[1], self.dims.heads, self.dims.head
        layers = (self.query, self.key, self.value)
        q, k, v = (layer(x).reshape(-1, tokens, heads, head).transpose(1, 2) for layer in layers)
        scores = (self.q_quant(q * head**-0.5)) @ self.k_quant(k).transpose(-2, -1)
        mixed = self.p_quant(scores.softmax(dim=-1)) @ self.v_quant(v)
        return self.proj(mixed.transpose(1, 2).reshape(-1, tokens, heads * head))


class QuantVit(Vit):
    """Vit on Brevitas layers, with the same parameters."""

    def __init__(self, dims: Dims, linear: Any, conv: Any, identity: Any, unsigned: Any) -> None:
        super().__init__(dims, linear=linear, conv=conv)
        for block in self.blocks:
            assert isinstance(block, Block)
            block.attention = QuantAttention(dims, linear, identity, unsigned)
        self.blocks[0].norm1 = nn.Sequential(self.blocks[0].norm1, identity())
        fill(self, dims.seed)
        self.eval()


class QuantPool(nn.Module):
    """A convolution, then an average that is cut off to 8 bits (Trunc), which needs a quantized input."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        unsigned = {"act_quant": Uint8ActPerTensorFloat, "return_quant_tensor": True}
        self.input = qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, return_quant_tensor=True)
        self.conv = qnn.QuantConv2d(dims.channels, 6, 3, weight_quant=Int8WeightPerChannelFloat, bias=True)
        self.relu = qnn.QuantReLU(**unsigned)
        self.pool = qnn.TruncAvgPool2d(2, return_quant_tensor=False)
        fill(self, dims.seed)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        return self.pool(self.relu(self.conv(self.input(image)))).flatten(1)


class QuantForms(nn.Module):
    """Layers whose weights and activations differ in width, sign, range, rounding and in how scales are shared."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        weights: list[tuple[Any, dict[str, Any]]] = [
            (Int8WeightPerTensorFloat, {"bias_quant": Int32Bias}),
            (Int8WeightPerChannelFloat, {"weight_bit_width": 3, "weight_narrow_range": False}),
            (Int8WeightPerChannelFloat, {"weight_bit_width": 5, "weight_float_to_int_impl_type": "floor"}),
            (SignedTernaryWeightPerTensorConst, {"weight_scaling_const": 0.2}),
            (ShiftedUint8WeightPerChannelFloat, {"weight_bit_width": 6}),
        ]
        acts: list[tuple[Any, dict[str, Any]]] = [
            (Int8ActPerTensorFloat, {}),
            (Int8ActPerTensorFloat, {"bit_width": 4, "float_to_int_impl_type": "ceil", "narrow_range": True}),
            (Uint8ActPerTensorFloat, {"bit_width": 7, "float_to_int_impl_type": "round_to_zero"}),
            (ShiftedUint8ActPerTensorFloat, {"bit_width": 6, "float_to_int_impl_type": "floor"}),
            (Int8ActPerTensorFloat, {"bit_width": 12}),
        ]
        sizes = (dims.channels * dims.patch, 11, 9, 10, 7, dims.classes)
        self.acts = nn.ModuleList(
            qnn.QuantIdentity(act_quant=quant, return_quant_tensor=True, **options) for quant, options in acts
        )
        self.layers = nn.ModuleList(
            qnn.QuantLinear(*sizes[i : i + 2], bias=True, weight_quant=quant, **options)
            for i, (quant, options) in enumerate(weights)
        )
        self.slice = dims.patch
        fill(self, dims.seed)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        x = image[:, :, : self.slice, 0].flatten(1)
        for act, layer in zip(self.acts, self.layers, strict=True):
            x = layer(act(x))
        return x


def quantized(
    dims: Dims,
    weights: Any = Int8WeightPerChannelFloat,
    activations: Any = Int8ActPerTensorFloat,
    *,
    bits: int | None = None,
    act_bits: int | None = None,
    integer_bias: bool = False,
    **weight_options: Any,
) -> nn.Module:
    """A calibrated model. `bits` and `act_bits` replace the width of `weights` and `activations`."""
    options = {"weight_quant": weights, "bias_quant": Int32Bias if integer_bias else None, "input_quant": activations}
    options |= {f"weight_{key}": value for key, value in weight_options.items()}
    if bits is not None:
        options["weight_bit_width"] = bits
    width = {} if act_bits is None else {"bit_width": act_bits}
    options |= {f"input_{key}": value for key, value in width.items()}
    identity = partial(qnn.QuantIdentity, act_quant=activations, **width)
    unsigned = partial(qnn.QuantIdentity, act_quant=Uint8ActPerTensorFloat, **width)
    linear, conv = partial(qnn.QuantLinear, bias=True, **options), partial(qnn.QuantConv2d, bias=True, **options)
    return calibrated(QuantVit(dims, linear, conv, identity, unsigned), dims)


def calibrated(model: nn.Module, dims: Dims) -> nn.Module:
    with torch.no_grad(), calibration_mode(model):
        for image in images(dims):
            model(torch.from_numpy(image))
    return model.eval()


def exported(exporter: Any, model: nn.Module, dims: Dims, opset: int, dynamo: bool = False) -> ModelProto:
    names = {"input_names": [INPUT], "output_names": [OUTPUT]}
    if dynamo:
        names |= {"optimize": True, "external_data": False}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "model.onnx"
        image = torch.from_numpy(images(dims, 1)[0])
        exporter(model, args=(image,), export_path=str(path), opset_version=opset, dynamo=dynamo, **names)
        return onnx.load(path)


def renamed(model: ModelProto) -> ModelProto:
    """Quant under the name IntQuant, which QONNX prefers since there is FloatQuant, in its modes that Brevitas lacks."""
    modes = itertools.cycle(["HALF_UP", "UP", "ROUND", "HALF_DOWN", "DOWN"])
    for node in model.graph.node:
        if node.op_type == "Quant":
            node.op_type = "IntQuant"
            mode = next(attribute for attribute in node.attribute if attribute.name == "rounding_mode")
            mode.s = next(modes).encode()
    return model


def reference(model: ModelProto, dims: Dims) -> dict[str, np.ndarray]:
    """What the qonnx package computes: the results, and what each operator of QONNX writes."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    image = images(dims, 1, seed=2)[0]
    known = ModelProto()
    known.CopyFrom(model)
    for node in known.graph.node:
        for attribute in node.attribute:
            if attribute.s.upper() == b"ROUND_TO_ZERO":  # so Brevitas calls what the qonnx package knows as DOWN only
                attribute.s = b"DOWN"
    wrapped = ModelWrapper(known).transform(InferShapes())
    values = execute_onnx(wrapped, {INPUT: image}, return_full_exec_context=True)
    kept = {name for node in model.graph.node if node.domain.startswith("qonnx") for name in node.output}
    return {"image": image, OUTPUT: values[OUTPUT]} | {name: values[name] for name in sorted(kept)}


def fixtures() -> dict[str, Fixture]:
    def fixture(exporter: Any, opset: int, holds: str, dynamo: bool = False, **options: Any) -> Fixture:
        def make(dims: Dims) -> ModelProto:
            return exported(exporter, quantized(dims, **options), dims, opset, dynamo)

        return Fixture(make, holds, reference=reference if exporter is export_qonnx else None)

    qcdq = partial(fixture, export_onnx_qcdq)
    qonnx = partial(fixture, export_qonnx)
    chain, clip = "QuantizeLinear DequantizeLinear", " Clip"
    quant, bipolar = ("qonnx.custom_op.general." + name for name in ("Quant", "BipolarQuant"))
    return {
        "qcdq_s8_channel_17": qcdq(17, chain + clip),
        "qcdq_s8_bias_13": qcdq(13, chain, weights=Int8WeightPerTensorFloat, integer_bias=True),
        "qcdq_s4_channel_20": qcdq(20, chain + clip, True, bits=4, act_bits=4),
        "qcdq_s3_wide_18": qcdq(18, chain + clip, True, bits=3, act_bits=6, narrow_range=False),
        "qcdq_u8_shifted_17": qcdq(
            17, chain, weights=ShiftedUint8WeightPerChannelFloat, activations=ShiftedUint8ActPerTensorFloat
        ),
        "qonnx_s4_channel_17": qonnx(17, quant, bits=4, act_bits=4),
        "qonnx_u_shifted_20": qonnx(
            20,
            quant,
            True,
            weights=ShiftedUint8WeightPerChannelFloat,
            activations=ShiftedUint8ActPerTensorFloat,
            bits=5,
            act_bits=6,
        ),
        "qonnx_bipolar_17": qonnx(
            17, f"{quant} {bipolar}", weights=SignedBinaryWeightPerTensorConst, act_bits=5, scaling_const=0.3
        ),
        "qonnx_forms_13": Fixture(
            lambda d: exported(export_qonnx, calibrated(QuantForms(d), d), d, 13), quant, reference=reference
        ),
        "qonnx_int_quant_20": Fixture(
            lambda d: renamed(exported(export_qonnx, calibrated(QuantForms(d), d), d, 20, dynamo=True)),
            "qonnx.custom_op.general.IntQuant",
            reference=reference,
        ),
        "qonnx_trunc_17": Fixture(
            lambda d: exported(export_qonnx, calibrated(QuantPool(d), d), d, 17),
            f"{quant} qonnx.custom_op.general.Trunc",
            reference=reference,
        ),
    }


if __name__ == "__main__":
    main(fixtures(), __doc__)
