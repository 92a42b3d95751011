"""The small vision transformer that every make_*.py here quantizes, its export by torch, and how a fixture is stored.

Values are awkward on purpose: LayerNorm scales differ from 1, no bias is 0, and images lie asymmetrically about 0, so
that a zero point, a bias or a scale that an importer loses changes the result.
"""

import argparse
import logging
import tempfile
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import Message
from onnx import ModelProto
from torch import Tensor, nn

IR_VERSION = 10  # the first with the types of opset 21
INPUT, OUTPUT = "image", "logits"
SIZE_LIMIT = 60_000  # bytes of a fixture with the fixed dimensions


@dataclass(frozen=True)
class Dims:
    """Sizes of the transformer; the defaults are those of the stored fixtures."""

    batch: int = 1
    channels: int = 3
    rows: int = 4
    """Patches in height."""
    columns: int = 3
    """Patches in width: images are not square."""
    patch: int = 4
    heads: int = 2
    head: int = 12
    hidden: int = 32
    """Features inside the MLP."""
    classes: int = 5
    blocks: int = 1
    seed: int = 0
    """Of the weights and of the images."""

    @property
    def features(self) -> int:
        return self.heads * self.head

    @property
    def image(self) -> tuple[int, int, int, int]:
        return self.batch, self.channels, self.rows * self.patch, self.columns * self.patch


def draw(seed: int, name: str) -> Dims:
    """Random sizes for the fixture `name`: odd numbers of tokens and head sizes, single heads, batches."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return Dims(
        batch=int(rng.integers(1, 4)),
        channels=int(rng.choice([1, 3])),
        rows=int(rng.integers(1, 6)),
        columns=int(rng.integers(2, 6)),
        patch=int(rng.integers(2, 6)),
        heads=int(rng.integers(1, 4)),
        head=int(rng.choice([6, 7, 9, 12, 15, 16])),
        hidden=int(rng.integers(17, 50)),
        classes=int(rng.integers(2, 11)),
        blocks=int(rng.integers(1, 3)),
        seed=int(rng.integers(1, 1 << 31)),
    )


class Attention(nn.Module):
    def __init__(self, dims: Dims, fused_qkv: bool, divide: bool, linear: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.dims, self.fused_qkv, self.divide, width = dims, fused_qkv, divide, dims.features
        if fused_qkv:
            self.qkv = linear(width, 3 * width)
        else:
            self.query, self.key, self.value = (linear(width, width) for _ in range(3))
        self.proj = linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        tokens, heads, head = x.shape[1], self.dims.heads, self.dims.head
        if self.fused_qkv:
            q, k, v = self.qkv(x).reshape(-1, tokens, 3, heads, head).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            projections = (self.query, self.key, self.value)
            q, k, v = (layer(x).reshape(-1, tokens, heads, head).transpose(1, 2) for layer in projections)
        scores = q @ k.transpose(-2, -1)
        scores = scores / head**0.5 if self.divide else scores * head**-0.5
        mixed = scores.softmax(dim=-1) @ v
        return self.proj(mixed.transpose(1, 2).reshape(-1, tokens, heads * head))


class Block(nn.Module):
    def __init__(self, dims: Dims, fused_qkv: bool, divide: bool, gelu: str, linear: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dims.features, eps=1e-6)
        self.attention = Attention(dims, fused_qkv, divide, linear)
        self.norm2 = nn.LayerNorm(dims.features, eps=1e-6)
        self.fc1 = linear(dims.features, dims.hidden)
        self.activation = nn.GELU(approximate=gelu)
        self.fc2 = linear(dims.hidden, dims.features)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(self.activation(self.fc1(self.norm2(x))))


class Vit(nn.Module):
    """[batch, channels, height, width] images -> [batch, classes] logits.

    `fused_qkv`: one projection for queries, keys and values. `divide`: scores over sqrt(head), not times its reciprocal.
    `linear` and `conv` make the layers.
    """

    def __init__(
        self,
        dims: Dims,
        *,
        fused_qkv: bool = False,
        divide: bool = False,
        gelu: str = "none",
        linear: Callable[..., nn.Module] = nn.Linear,
        conv: Callable[..., nn.Module] = nn.Conv2d,
    ) -> None:
        super().__init__()
        self.patches = conv(dims.channels, dims.features, dims.patch, stride=dims.patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dims.features))
        self.position = nn.Parameter(torch.zeros(1, dims.rows * dims.columns + 1, dims.features))
        self.blocks = nn.ModuleList(Block(dims, fused_qkv, divide, gelu, linear) for _ in range(dims.blocks))
        self.norm = nn.LayerNorm(dims.features, eps=1e-6)
        self.head = linear(dims.features, dims.classes)
        fill(self, dims.seed)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def fill(model: nn.Module, seed: int) -> None:
    """Random parameters: LayerNorm scales about 1 of either size, biases off 0, weights with unequal channels."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        if name.endswith("weight") and parameter.ndim >= 2:
            channels = torch.rand(len(parameter), *[1] * (parameter.ndim - 1), generator=generator) * 1.5 + 0.25
            values = values * channels * (parameter[0].numel() ** -0.5)
        elif name.endswith("weight"):
            values = torch.rand(parameter.shape, generator=generator) * 1.3 + 0.4
        elif name.endswith("bias"):
            values = values * 0.3 + 0.15
        parameter.data.copy_(values)


def images(dims: Dims, count: int = 6, seed: int = 1) -> list[np.ndarray]:
    """f32 images in [-1, 2.2), each with its own contrast."""
    rng = np.random.default_rng([dims.seed, seed])
    return [(rng.random(dims.image) * rng.uniform(1, 3.2) - 1).astype(np.float32) for _ in range(count)]


def quiet() -> None:
    """No progress reports or deprecation notes of the tools."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def export(
    model: nn.Module, dims: Dims, opset: int, *, dynamo: bool = False, dynamic_batch: bool = False
) -> ModelProto:
    """`model` in ONNX: by torch's older exporter (opsets up to 17) or by the newer one (from 18)."""
    args = (torch.from_numpy(images(dims, 1)[0]),)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        names = {"input_names": [INPUT], "output_names": [OUTPUT], "opset_version": opset}
        if dynamo:
            shapes = ({0: torch.export.Dim("batch", min=1, max=64)},) if dynamic_batch else None
            torch.onnx.export(
                model, args, path, dynamo=True, external_data=False, dynamic_shapes=shapes, verbose=False, **names
            )
        else:
            axes = {INPUT: {0: "batch"}, OUTPUT: {0: "batch"}} if dynamic_batch else None
            torch.onnx.export(model, args, path, dynamo=False, dynamic_axes=axes, **names)
        return onnx.load(path)


def vit(dims: Dims, opset: int, *, dynamo: bool = False, dynamic_batch: bool = False, **form: Any) -> ModelProto:
    """The float transformer in ONNX; `form` are arguments of Vit."""
    return export(Vit(dims, **form), dims, opset, dynamo=dynamo, dynamic_batch=dynamic_batch)


def strip(model: ModelProto) -> None:
    """Removes doc strings and metadata: exporters write stack traces and paths of their machine into them."""

    def clean(message: Message) -> None:
        for field in ("doc_string", "metadata_props"):
            if field in message.DESCRIPTOR.fields_by_name:
                message.ClearField(field)
        for field, value in message.ListFields():
            if field.message_type is not None:
                for part in [value] if isinstance(value, Message) else value:
                    clean(part)

    clean(model)


def operators(model: ModelProto) -> dict[str, int]:
    """How often each operator occurs, those outside ONNX's own domain with the last part of their domain's name."""
    counts: dict[str, int] = {}
    for node in model.graph.node:
        domain = node.domain if node.domain not in ("", "ai.onnx") else ""
        name = f"{domain}.{node.op_type}" if domain else node.op_type
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


def run(model: ModelProto, image: np.ndarray) -> np.ndarray:
    """What onnxruntime computes without its own optimizations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})[0]


@dataclass(frozen=True)
class Fixture:
    """One model: how it is made, and the operators without which it would not be what its name says."""

    make: Callable[[Dims], ModelProto]
    holds: str
    """Operators separated by blanks."""
    blocks: int = 1
    """At least so many: onnxruntime's optimizer fuses attention only behind another block."""
    runs: bool = True
    """Whether onnxruntime can run it."""
    reference: Callable[[ModelProto, Dims], dict[str, np.ndarray]] | None = None
    """What computes the arrays to store beside a model that onnxruntime does not know."""


def store(name: str, fixture: Fixture, folder: Path, fresh: int | None = None) -> str:
    """Makes, checks and writes `folder/name.onnx`; a line about it."""
    dims = Dims() if fresh is None else draw(fresh, name)
    dims = replace(dims, blocks=max(dims.blocks, fixture.blocks))
    torch.manual_seed(dims.seed)
    np.random.seed(dims.seed % (1 << 32))
    model = fixture.make(dims)
    strip(model)
    model.ir_version = min(model.ir_version, IR_VERSION)
    counts = operators(model)
    if missing := set(fixture.holds.split()) - counts.keys():
        raise SystemExit(f"{name}: expected {', '.join(sorted(missing))}, found {', '.join(counts)}")
    if fixture.reference:
        np.savez_compressed(folder / f"{name}.npz", **fixture.reference(model, dims))
    elif fixture.runs:
        outputs = [run(model, image) for image in images(dims, 2, seed=2)]
        if not np.isfinite(outputs).all() or np.array_equal(*outputs):
            raise SystemExit(f"{name}: two images give {outputs}, expected two different finite results")
    data = model.SerializeToString(deterministic=True)
    if fresh is None and len(data) > SIZE_LIMIT:
        raise SystemExit(f"{name}: {len(data)} bytes, expected at most {SIZE_LIMIT}")
    (folder / f"{name}.onnx").write_bytes(data)
    return f"{name}: {len(data)} bytes, " + ", ".join(f"{op} {count}" for op, count in counts.items())


def main(fixtures: Mapping[str, Fixture], about: str | None) -> None:
    """The command line of each make_*.py."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the models are written")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(fixtures)}; all without one")
    parser.add_argument("--fresh", type=int, metavar="SEED", help="random sizes instead of the fixed ones")
    args = parser.parse_args()
    if unknown := set(args.names) - fixtures.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(fixtures)}")
    quiet()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in args.names or fixtures:
        print(store(name, fixtures[name], args.folder, args.fresh), flush=True)
