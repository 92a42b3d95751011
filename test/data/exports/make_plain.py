"""Export a ViT of plain torch modules by every exporter, opset and option: the same network in many forms."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from exporting import (
    Dims,
    Export,
    Model,
    awkward,
    image,
    initializers_as_constants,
    main,
    onnxruntime_basic,
    simplified,
)
from torch import Tensor, nn


def softmax_of_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As written by hand, with one scale behind the product."""
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v


class Block(nn.Module):
    def __init__(self, heads: int, size: int, width: int, attention: Callable[..., Tensor], activation: nn.Module):
        super().__init__()
        self.heads, self.size, self.attention, self.activation = heads, size, attention, activation
        channels = heads * size
        self.norm1, self.norm2 = nn.LayerNorm(channels, eps=1e-6), nn.LayerNorm(channels, eps=1e-6)
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))
        self.project = nn.Linear(channels, channels)
        self.fc1, self.fc2 = nn.Linear(channels, width), nn.Linear(width, channels)

    def split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, self.size).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        y = self.attention(self.split(self.query(y)), self.split(self.key(y)), self.split(self.value(y)))
        x = x + self.project(y.transpose(1, 2).flatten(2))
        return x + self.fc2(self.activation(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """A class token, learned positions; a free image size only without positions (free=True, mean over tokens)."""

    def __init__(
        self, grid: tuple[int, int], patch: int, heads: int, size: int, width: int, classes: int, free: bool, **block
    ):
        super().__init__()
        channels = heads * size
        self.patches = nn.Conv2d(3, channels, patch, patch)
        self.token = None if free else nn.Parameter(torch.zeros(1, 1, channels))
        self.positions = None if free else nn.Parameter(torch.zeros(1, grid[0] * grid[1] + 1, channels))
        self.blocks = nn.Sequential(*[Block(heads, size, width, **block) for _ in range(2)])
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.head = nn.Linear(channels, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patches(pixels).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        x = self.norm(self.blocks(x))
        return self.head(x.mean(dim=1) if self.token is None else x[:, 0])


def vit(
    dims: Dims,
    attention: Callable[..., Tensor] = softmax_of_products,
    activation: Callable[[], nn.Module] = nn.GELU,
    free: bool = False,
    drawn: bool = True,
    batch: int | None = None,
) -> Model:
    patch = dims.pick(4, [3, 5, 8])
    grid = dims.grid((3, 4))
    heads, size = dims.heads(3), dims.head_size(6)
    model = ViT(
        grid, patch, heads, size, dims.width(30), dims.classes(5), free, attention=attention, activation=activation()
    )
    if drawn:
        awkward(model)
    return model.eval(), {"pixels": image(batch or dims.batch(), grid[0] * patch, grid[1] * patch)}


class SiLU(nn.Module):
    """The sigmoid form of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def torch_encoder(dims: Dims) -> Model:
    """torch's own TransformerEncoderLayer, whose MultiheadAttention has one matrix for query, key and value."""
    heads = dims.heads(3)
    channels = heads * dims.head_size(6)
    layer = partial(nn.TransformerEncoderLayer, channels, heads, dims.width(30), activation="gelu", batch_first=True)
    model = nn.Sequential(*[layer(norm_first=True) for _ in range(2)])
    awkward(model)
    torch.backends.mha.set_fastpath_enabled(False)  # a fused operator that no exporter knows
    return model, {"tokens": torch.randn(dims.batch(), dims.pick(7, [5, 9, 13]), channels)}


sdpa = partial(vit, attention=F.scaled_dot_product_attention)
BATCH = {"pixels": {0: "batch"}}
RECIPES = {
    **{f"plain_legacy{opset}": Export(vit, "legacy", opset) for opset in (11, 12, 13, 14, 17, 18, 20)},
    **{f"plain_dynamo{opset}": Export(vit, "dynamo", opset) for opset in (18, 20, 21, 23)},
    "plain_sdpa_legacy14": Export(sdpa, "legacy", 14),
    "plain_sdpa_legacy17": Export(sdpa, "legacy", 17),
    "plain_sdpa_dynamo18": Export(sdpa, "dynamo", 18),
    "plain_sdpa_dynamo20": Export(sdpa, "dynamo", 20),
    "plain_sdpa_dynamo23": Export(sdpa, "dynamo", 23),
    "plain_unfolded_legacy11": Export(vit, "legacy", 11, fold=False),
    "plain_unfolded_legacy17": Export(vit, "legacy", 17, fold=False),
    "plain_unfolded_dynamo20": Export(sdpa, "dynamo", 20, fold=False),
    "plain_default_weights_legacy17": Export(partial(vit, drawn=False), "legacy", 17),
    "plain_constants_legacy17": Export(vit, "legacy", 17, rewrite=initializers_as_constants),
    "plain_constants_dynamo20": Export(vit, "dynamo", 20, rewrite=initializers_as_constants),
    "plain_external_dynamo20": Export(vit, "dynamo", 20, external=True),
    "plain_onnxsim_legacy17": Export(vit, "legacy", 17, rewrite=simplified),
    "plain_onnxruntime_legacy17": Export(vit, "legacy", 17, rewrite=onnxruntime_basic),
    "plain_onnxruntime_dynamo20": Export(sdpa, "dynamo", 20, rewrite=onnxruntime_basic),
    "plain_batch_legacy17": Export(vit, "legacy", 17, dynamic=BATCH),
    "plain_batch_dynamo20": Export(partial(vit, batch=2), "dynamo", 20, dynamic=BATCH),
    "plain_free_legacy17": Export(
        partial(vit, free=True), "legacy", 17, dynamic={"pixels": {0: "batch", 2: "height", 3: "width"}}
    ),
    "plain_free_dynamo20": Export(
        partial(vit, free=True, batch=2), "dynamo", 20, dynamic={"pixels": {0: "batch", 2: "height", 3: "width"}}
    ),
    "plain_tanh_dynamo20": Export(partial(vit, activation=partial(nn.GELU, "tanh")), "dynamo", 20),
    "plain_tanh_legacy17": Export(partial(vit, activation=partial(nn.GELU, "tanh")), "legacy", 17),
    "plain_sigmoid_legacy17": Export(partial(vit, activation=SiLU), "legacy", 17),
    "torch_encoder_dynamo20": Export(torch_encoder, "dynamo", 20),
    "torch_encoder_legacy17": Export(torch_encoder, "legacy", 17),
}

if __name__ == "__main__":
    main(__doc__, RECIPES)
