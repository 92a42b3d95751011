"""A small decoder: token embedding, learned positions, and the blocks of the ViTs beside it, with causal attention."""

import torch
from multiplication.data import ANSWER, LENGTH, VOCABULARY
from small_vit import Block
from torch import Tensor, nn


class Decoder(nn.Module):
    """Tokens [B, 13] int64 -> logits [B, 6, 12] of the six digits of the answer, the last digit first."""

    def __init__(self, dim: int = 96, depth: int = 1, heads: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, dim)
        self.positions = nn.Parameter(torch.randn(1, LENGTH, dim) * 0.02)
        self.blocks = nn.ModuleList(Block(dim, heads, causal=True) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, LENGTH - ANSWER :]))
