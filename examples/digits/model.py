"""A vision transformer of another shape than its neighbour's: mean pooling, no class token, four heads of 16."""

import torch
from small_vit import Block
from torch import Tensor, nn


class ViT(nn.Module):
    """Images [B, 1, 28, 28] float32 in [-1, 1] -> logits [B, classes]: the mean of all normalized tokens, classified."""

    def __init__(self, dim: int = 64, depth: int = 3, heads: int = 4, patch: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(1, dim, patch, patch)
        self.pos_embed = nn.Parameter(torch.randn(1, (28 // patch) ** 2, dim) * 0.02)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(dim=1))
