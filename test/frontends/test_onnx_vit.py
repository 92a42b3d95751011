"""Small vision transformers, as several exporters write them, float and quantized, against onnxruntime."""

from functools import cache
from itertools import count

import numpy as np
import onnx
import pytest
from data.onnx_build import assert_same, opcounts, run_ort
from data.small_vit import QUANTIZED, VARIANTS, Variant, images, quantized, vit
from model_trace import trace
from onnx import helper
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from qvit.backends.interpreter import run
from qvit.dialects.ops.quantization import QuantizeOp
from qvit.dialects.weights import Weights
from qvit.frontends.onnx import import_onnx
from qvit.transforms.delay_dequant import delay_dequant

# --- float ---


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_float(variant: Variant) -> None:
    batch = 2 + VARIANTS.index(variant) % 2
    proto, feeds = vit(variant), {"image": images(batch)}
    module, declined = import_onnx(proto, dims={"batch": batch})
    assert not declined
    expected = run_ort(proto, feeds)
    for dtype in (np.float64, np.float32):
        assert_same(run(module, feeds, float_dtype=dtype), expected)
    operations = opcounts(module)
    assert operations["layer_norm"] == 5
    assert operations["gelu"] == 2
    assert operations["linear"] == (13 if variant.qkv == "separate" else 9)
    assert operations["matmul"] == 4
    # The residual additions and the positions: every bias is in its linear layer, every norm and GELU in one operation.
    assert operations["add"] == 5
    assert not operations.keys() & {"sub", "pow", "sqrt", "erf", "reduce_mean", "broadcast"}


def test_the_batch_is_folded_into_shapes() -> None:
    """The class token is expanded by Shape, Gather, Unsqueeze, Concat: nothing of that is left."""
    module, _ = import_onnx(vit(Variant()), dims={"batch": 3})
    assert opcounts(module)["concat"] == 1
    assert "broadcast" not in opcounts(module)


# --- quantized ---


def distances(module: ModuleOp, image: np.ndarray) -> list[np.ndarray]:
    """For every quantize: how far each x / scale is from the nearest tie, as a share of what float32 may be off."""
    values: dict[SSAValue, np.ndarray] = {}
    found: list[np.ndarray] = []
    weights = Weights(module)

    def observe(op: Operation, result: np.ndarray) -> None:
        values[op.results[0]] = result
        if isinstance(op, QuantizeOp):
            assert op.params.axis_index is None
            ratio = values.get(op.input, image).astype(np.float64) / weights.scale(op.params.scale)
            found.append(np.abs(ratio - np.floor(ratio) - 0.5) / (2e-5 + 2e-6 * np.abs(ratio)))

    run(module, [image], observe=observe)
    return found


def image_without_ties(module: ModuleOp, batch: int) -> np.ndarray:
    """An input for which float32 and float64 agree on every code: the first with no number near a tie."""
    candidates = (images(batch, seed) for seed in count())
    return next(image for image in candidates if min(d.min() for d in distances(module, image)) > 1)


def with_codes(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """The model with the output of every QuantizeLinear as an output too, and the names of these nodes."""
    extended = onnx.ModelProto()
    extended.CopyFrom(proto)
    quantizers = [n for n in proto.graph.node if n.op_type == "QuantizeLinear"]
    extended.graph.output.extend(helper.make_empty_tensor_value_info(n.output[0]) for n in quantizers)
    return extended, [n.name for n in quantizers]


QUANTIZERS = {"u8s8": ("QUInt8", False), "s8s8": ("QInt8", False), "u8s8-add": ("QUInt8", True)}

QUANTIZED_MODELS = pytest.mark.parametrize(
    ("variant", "how"), [(v, how) for how in QUANTIZERS for v in QUANTIZED], ids=str
)


@cache
def quantized_model(variant: Variant, how: str) -> onnx.ModelProto:
    return quantized(variant, *QUANTIZERS[how])


@QUANTIZED_MODELS
def test_quantized(variant: Variant, how: str) -> None:
    """All codes are onnxruntime's, and --delay-dequant changes none of them while it takes all products to integers."""
    batch = 2 + QUANTIZED.index(variant) % 2
    proto = quantized_model(variant, how)
    module, _ = import_onnx(proto, dims={"batch": batch})
    image = image_without_ties(module, batch)

    extended, quantizers = with_codes(proto)
    logits, *codes = run_ort(extended, {"image": image}).values()
    found, traced = trace(module, image)
    assert_same({"logits": found}, {"logits": logits})
    assert_same({name: traced[name] for name in quantizers}, dict(zip(quantizers, codes, strict=True)))

    report = delay_dequant(module)
    module.verify()
    delayed, after = trace(module, image)
    assert report.macs_integer.before == 0
    assert report.macs_integer.after == report.macs_total
    assert_same({name: after[name] for name in traced}, traced)
    assert_same({"logits": delayed}, {"logits": found}, 1e-12)


@QUANTIZED_MODELS
def test_quantized_inside_of_a_function(variant: Variant, how: str) -> None:
    """Where the quantizer cut into a LayerNorm or GELU the recogniser says so, and declines nowhere else."""
    _, declined = import_onnx(quantized_model(variant, how), dims={"batch": 2})
    expected = []
    if how.endswith("add"):
        expected += ["layer_norm"] * 5 if variant.opset < 17 else []
        expected += ["gelu"] * 2 if variant.opset < 20 else []
    assert sorted(d.rule for d in declined) == sorted(expected)
    assert all(" is quantized (" in d.reason for d in declined)
