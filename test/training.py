"""A small model that trains on integers, and some steps of its training."""

from typing import Any

import torch
from fashion_mnist.model import ViT
from torch import Tensor, nn
from torch.nn import functional as F

from qvit.tools.qat import prepare_qat
from qvit.tools.qat.model import QuantizedModel

BATCH = 4


def vit(**sizes: int) -> ViT:
    torch.manual_seed(0)
    model = ViT(**({"dim": 24, "depth": 1, "heads": 2, "patch": 14} | sizes))
    for name, p in model.named_parameters():
        if name.endswith("bias") or p.ndim == 1:
            nn.init.normal_(p, 1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)
    return model.eval()


def images(count: int = BATCH, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def prepared(scheme: str = "best", bits: int = 8, **options: Any) -> QuantizedModel:
    return prepare_qat(vit(), [images(seed=i) for i in range(3)], scheme, weights=bits, activations=bits, **options)


def steps(model: QuantizedModel, count: int, rate: float = 1e-2) -> list[float]:
    """Losses of some steps, with rates that move weights and scales far."""
    optimizer = torch.optim.AdamW(model.parameter_groups(rate, 0.05))
    losses: list[float] = []
    for _ in range(count):
        model.train()
        loss = F.cross_entropy(model(images(seed=7)), torch.arange(BATCH))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
