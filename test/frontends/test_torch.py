"""What torch.export makes of models is read as the ONNX reader reads the same models, and computes what torch computes."""

import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from import_matrix import fixture_path, symbols
from import_matrix import load as load_onnx
from torch import Tensor, nn
from torch.nn import functional as F
from xdsl.dialects.builtin import ModuleOp

from qvit.backends.interpreter import run
from qvit.frontends.onnx import import_onnx
from qvit.frontends.torch import from_exported
from qvit.tools.compiler import compile_model
from qvit.transforms.pipelines import SCHEMES

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "test/data/exports"))

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import make_pt2e
    import make_transformers
    from base_vit import Dims as SmallDims
    from base_vit import Vit, images
    from exporting import Dims
    from fashion_mnist.model import ViT
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
COUNTED = ("softmax", "gelu", "layer_norm", "linear", "matmul", "conv2d", "quantize", "dequantize", "sigmoid", "erf")


def counts(module: ModuleOp) -> dict[str, int]:
    found = Counter(op.name.removeprefix("qvit.") for op in module.walk())
    return {name: found[name] for name in COUNTED if found[name]}


def read(model: nn.Module, *inputs: Tensor) -> ModuleOp:
    module, declined = from_exported(torch.export.export(model, inputs))
    module.verify()
    assert not declined
    return module


def require_same(module: ModuleOp, model: nn.Module, *inputs: Tensor, atol: float = 1e-5) -> None:
    """The interpreter in float64 next to torch in float32."""
    with torch.no_grad():
        expected = model(*inputs)
    (found,) = run(module, [x.numpy() for x in inputs]).values()
    np.testing.assert_allclose(found, expected.numpy(), atol=atol)


@pytest.mark.parametrize("name", make_transformers.MODELS)
def test_transformers(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = make_transformers.MODELS[name](Dims())
    module = read(model, *inputs.values())
    require_same(module, model, *inputs.values())
    proto = load_onnx(fixture_path(f"{name}_dynamo20"))
    assert counts(module) == counts(import_onnx(proto, (), symbols(proto))[0])


def test_a_vit_as_timm_writes_it() -> None:
    torch.manual_seed(0)
    model, image = ViT().eval(), torch.randn(2, 1, 28, 28)
    module = read(model, image)
    require_same(module, model, image)
    proto = load_onnx(ROOT / "examples/fashion_mnist/vit.onnx")
    other = import_onnx(proto, (), {"batch": 2})[0]
    assert Counter(op.name for op in module.walk()) == Counter(op.name for op in other.walk())


@pytest.mark.parametrize("options", [{"batch_first": True, "activation": "gelu"}, {"norm_first": True}], ids=str)
def test_torchs_own_encoder(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(24, 2, 48, **options)
    model, x = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval(), torch.randn(2, 5, 24)
    module = read(model, x)
    require_same(module, model, x)
    assert counts(module)["layer_norm"] == 4


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(12, 24), nn.Parameter(torch.randn(1, 7, 24))
        self.norm, self.qkv, self.head = nn.LayerNorm(24), nn.Linear(24, 72), nn.Linear(24, 12)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.positions
        q, k, v = self.qkv(self.norm(x)).view(-1, 7, 3, 2, 12).permute(2, 0, 3, 1, 4)
        x = x + F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(-1, 7, 24)
        return self.head(x)


def test_a_decoder() -> None:
    """Token numbers come in, and no token sees a later one."""
    torch.manual_seed(0)
    model, tokens = Decoder().eval(), torch.randint(0, 12, (2, 7))
    module = read(model, tokens)
    require_same(module, model, tokens)
    later = tokens.clone()
    later[:, 4:] = (later[:, 4:] + 1) % 12
    (first,), (second,) = (run(module, [t.numpy()]).values() for t in (tokens, later))
    np.testing.assert_array_equal(first[:, :4], second[:, :4])


def test_it_becomes_integers() -> None:
    torch.manual_seed(0)
    model = ViT(dim=24, depth=1, heads=2).eval()
    module = read(model, torch.randn(2, 1, 28, 28))
    batches = [{"images": torch.randn(2, 1, 28, 28).numpy()} for _ in range(2)]
    compiled = compile_model(module, batches, SCHEMES["best"])  # with its proof that no float is left
    compiled.module.verify()


# --- single operators ---


class Call(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


X = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 7 - 1.5
IMAGE = torch.arange(2 * 3 * 6 * 6, dtype=torch.float32).reshape(2, 3, 6, 6) / 50 - 2
OPERATORS: dict[str, Any] = {
    "add alpha": lambda x: torch.add(x, x, alpha=2),
    "add number": lambda x: x + 1.5,
    "subtract from number": lambda x: 1 - x,
    "divide": lambda x: x / 3,
    "negate": lambda x: -x,
    "reciprocal": lambda x: torch.reciprocal(x + 5),
    "root": lambda x: torch.sqrt(x + 2),
    "inverse root": lambda x: torch.rsqrt(x + 2),
    "square": lambda x: x**2,
    "power": lambda x: (x + 2) ** 3,
    "erf": torch.erf,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "relu6": F.relu6,
    "leaky": lambda x: F.leaky_relu(x, 0.1),
    "clamp": lambda x: x.clamp(-1, 0.5),
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "where": lambda x: torch.where(x > 0, x, 2 * x),
    "fill": lambda x: x.masked_fill((x > 0) & ~(x > 1) | (x < -1), 7.0),
    "compare": lambda x: (x >= 0.5).float(),
    "mean": lambda x: x.mean(1),
    "mean of all": torch.mean,
    "sum": lambda x: x.sum((0, 2), keepdim=True),
    "softmax": lambda x: x.softmax(-1),
    "norm without affine": lambda x: F.layer_norm(x, (4,)),
    "transpose": lambda x: x.transpose(0, 2),
    "mT": lambda x: x.mT,
    "permute": lambda x: x.permute(2, 0, -2),
    "flatten": lambda x: x.flatten(1),
    "unflatten": lambda x: x.unflatten(2, (2, 2)),
    "squeeze": lambda x: x[:, :1].squeeze(1).unsqueeze(0),
    "expand": lambda x: x[:, :1].expand(-1, 5, -1) + 0,
    "select": lambda x: x[:, -1],
    "slice": lambda x: x[:, 1:, ::2],
    "split": lambda x: torch.cat(x.split(2, dim=1)[::-1], 1),
    "chunk": lambda x: x.chunk(2, 2)[1],
    "unbind": lambda x: x.unbind(1)[2],
    "stack": lambda x: torch.stack([x, 2 * x], 1),
    "roll": lambda x: torch.roll(x, (1, -2), (1, 2)),
    "flip": lambda x: x.flip(2),
    "pad": lambda x: F.pad(x, (1, 0, 2, 1), value=3.0),
    "crop": lambda x: F.pad(x, (-1, -1)),
    "reflect": lambda x: F.pad(x, (2, 1), mode="reflect"),
    "repeat": lambda x: x.repeat(2, 1, 3),
    "index": lambda x: x[:, torch.tensor([2, 0, -1])],
    "index by truth": lambda x: x[:, torch.tensor([True, False, True])],
    "index two axes": lambda x: x[torch.tensor([0, 1]), torch.tensor([2, 1])],
    "index select": lambda x: x.index_select(2, torch.tensor([3, 1])),
    "matmul": lambda x: x @ x.transpose(1, 2),
    "matmul vector": lambda x: x @ x[0, 0],
    "baddbmm": lambda x: torch.baddbmm(x @ x.mT, x, x.mT, beta=0.5, alpha=2),
    "addmm": lambda x: torch.addmm(x[0, 0, :3], x[0], x[1].t()),
    "grouped heads": lambda x: F.scaled_dot_product_attention(
        x.reshape(1, 2, 3, 4), x[:1].reshape(1, 1, 3, 4), x[1:].reshape(1, 1, 3, 4), enable_gqa=True
    ),
    "attention by truth": lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=torch.ones(3, 3).tril() > 0),
    "attention of 2": lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=torch.ones(3, 3), scale=0.3),
    "in place": lambda x: (x + 1).relu_() * 2,
    "causal by hand": lambda x: (x @ x.mT).masked_fill(~torch.ones(3, 3).tril().bool(), -torch.inf).softmax(-1),
    "zeros": lambda x: torch.cat([torch.zeros_like(x), x.new_ones(2, 1, 4), x], 1),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator(name: str) -> None:
    model = Call(OPERATORS[name])
    # what recognisers decline does not matter: a bare erf is no GELU, a bare 1 / sqrt no normalisation
    module, _ = from_exported(torch.export.export(model, (X,)))
    require_same(module, model, X)


IMAGES: dict[str, Any] = {
    "conv": nn.Conv2d(3, 4, 3, 2, (1, 0), dilation=(1, 2)),
    "conv same": nn.Conv2d(3, 6, (3, 2), padding="same", groups=3),
    "conv transposed": nn.ConvTranspose2d(3, 2, 2, 2),
    "batch norm": nn.BatchNorm2d(3),
    "global average": nn.AdaptiveAvgPool2d(1),
    "adaptive average": nn.AdaptiveAvgPool2d(3),
    "average": nn.AvgPool2d(2),
    "bilinear": lambda x: F.interpolate(x, (9, 4), mode="bilinear"),
    "bicubic": lambda x: F.interpolate(x, scale_factor=1.5, mode="bicubic"),
    "nearest": lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_operator_on_images(name: str) -> None:
    torch.manual_seed(0)
    model = Call(IMAGES[name]).eval()
    require_same(read(model, IMAGE), model, IMAGE)


def test_argmax() -> None:
    model = Call(lambda x: x.argmax(1))
    require_same(read(model, X), model, X, atol=0)


# --- quantized ---


def pt2e(quantizer: Any, **form: bool) -> tuple[nn.Module, list[Tensor]]:
    dims = SmallDims()
    batches = [torch.from_numpy(image) for image in images(dims)]
    prepared = prepare_pt2e(torch.export.export(Vit(dims, **form), (batches[0],)).module(), quantizer)
    for batch in batches:
        prepared(batch)
    return convert_pt2e(prepared), batches


@pytest.mark.parametrize(
    ("fixture", "quantizer", "fused"),
    [
        ("pt2e_x86_20", make_pt2e.x86(), False),
        ("pt2e_x86_21", make_pt2e.x86(), True),
        ("pt2e_xnnpack_channel_20", make_pt2e.xnnpack(True), False),
        ("pt2e_xnnpack_tensor_18", make_pt2e.xnnpack(False), True),
    ],
)
def test_pt2e(fixture: str, quantizer: Any, fused: bool) -> None:
    model, batches = pt2e(quantizer, fused_qkv=fused)
    module = read(model, batches[0])
    (found,) = run(module, [batches[0].numpy()], float_dtype=np.float32).values()
    with torch.no_grad():
        np.testing.assert_allclose(found, model(batches[0]).numpy(), atol=1e-5)
    proto = load_onnx(fixture_path(fixture))
    assert counts(module) == counts(import_onnx(proto, (), symbols(proto))[0])


@pytest.mark.parametrize("scale", [0.1, 0.3, 1 / 3, 0.0123, 7.77])
def test_torch_multiplies_where_onnx_divides(scale: float) -> None:
    """Next to ties the codes are torch's, bit for bit; x / scale would give others."""
    quantize = torch.ops.quantized_decomposed.quantize_per_tensor
    model = Call(lambda x: quantize(x, scale, 3, -128, 127, torch.int8))
    ties = (np.arange(-130, 130, 0.5) * scale).astype(np.float32)
    near = np.concatenate([ties, np.nextafter(ties, np.float32(9)), np.nextafter(ties, np.float32(-9))])
    x = torch.from_numpy(near)
    (codes,) = run(read(model, x), [near], float_dtype=np.float32).values()
    np.testing.assert_array_equal(codes, model(x).numpy())


def test_the_reciprocal_matters() -> None:
    """Of these scales one at least gives other codes when it divides: the test above would fail without the difference."""
    differences = 0
    for scale in np.float32([0.1, 0.3, 1 / 3, 0.0123, 7.77]):
        ties = (np.arange(-130, 130, 0.5) * scale).astype(np.float32)
        differences += int((np.rint(ties * (np.float32(1) / scale)) != np.rint(ties / scale)).sum())
    assert differences


def test_scales_for_channels() -> None:
    scales, zeros = torch.tensor([0.1, 0.3, 0.7]), torch.tensor([0, 5, -7])
    quantized = torch.ops.quantized_decomposed

    def function(x: Tensor) -> Tensor:
        codes = quantized.quantize_per_channel(x, scales, zeros, 1, -128, 127, torch.int8)
        return quantized.dequantize_per_channel(codes, scales, zeros, 1, -128, 127, torch.int8)

    model = Call(function)
    (found,) = run(read(model, X), [X.numpy()], float_dtype=np.float32).values()
    np.testing.assert_array_equal(found, model(X).numpy())


def test_few_bits() -> None:
    quantize = torch.ops.quantized_decomposed.quantize_per_tensor
    module = read(Call(lambda x: quantize(x, 0.1, 0, -4, 3, torch.int8)), X)
    assert "tensor<2x3x4xi3>" in str(module)
