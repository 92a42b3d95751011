"""What the example models share: the transformer block, the training loop and the export to ONNX, in plain torch."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = 128
RATE = 2e-3


class Attention(nn.Module):
    """Of each token to all; causal: to itself and those before it."""

    def __init__(self, dim: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.scale = (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = q * self.scale @ k.transpose(-2, -1)
        if self.causal:
            later = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        attention = scores.softmax(dim=-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(batch, tokens, dim))


class Block(nn.Module):
    """Pre-norm, as timm lays it out (fused qkv, MLP of four times the width, erf GELU)."""

    def __init__(self, dim: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, causal)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move a batch of 28 x 28 images by -2..2 pixels in both directions; the background is -1."""
    dy, dx = torch.randint(0, 5, (2,), generator=generator).tolist()
    return F.pad(images, (2, 2, 2, 2), value=-1.0)[:, :, dy : dy + 28, dx : dx + 28]


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Percent of the images whose largest logit is that of their label."""
    model.eval()
    with torch.inference_mode():
        hits = sum(
            int((model(x).argmax(1) == y).sum()) for x, y in zip(images.split(1000), labels.split(1000), strict=True)
        )
    return 100 * hits / len(labels)


def train(
    make: Callable[[], nn.Module],
    train_set: tuple[Tensor, Tensor],
    test_set: tuple[Tensor, Tensor],
    augment: Callable[[Tensor, torch.Generator], Tensor],
    *,
    epochs: int,
    output: Path,
    checkpoint: Path,
) -> None:
    """Train the model that `make` returns and write its weights to `output`.

    Sets are (float32 images [N, 1, 28, 28], int64 labels [N]). AdamW with a one-cycle rate and label smoothing; one
    thread and fixed seeds; the state of the last finished epoch lies in `checkpoint`, from which a second call resumes.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)  # sums in the same order on every machine with the same vector width
    images, labels = train_set

    model = make()
    steps = len(images) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * steps, pct_start=0.1)
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["epoch"]
        print(f"resuming after epoch {first} of {epochs}")

    for epoch in range(first, epochs):
        generator = torch.Generator().manual_seed(epoch)
        order = torch.randperm(len(images), generator=generator)
        model.train()
        start, total = time.process_time(), 0.0
        for step in range(steps):
            batch = order[step * BATCH : (step + 1) * BATCH]
            loss = F.cross_entropy(model(augment(images[batch], generator)), labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
            if step % 50 == 0:
                print(f"\repoch {epoch + 1}/{epochs} step {step}/{steps}", end="", flush=True)
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "epoch": epoch + 1,
        }
        torch.save(state, checkpoint.with_suffix(".tmp"))
        os.replace(checkpoint.with_suffix(".tmp"), checkpoint)
        print(
            f"\repoch {epoch + 1}/{epochs}  loss {total / steps:.4f}  "
            f"test top-1 {accuracy(model, *test_set):.2f} %  {time.process_time() - start:.0f} CPU s"
        )

    temporary = output.with_suffix(".tmp")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, temporary)
    os.replace(temporary, output)
    print(output)


def export(model: nn.Module, weights: Path, target: Path) -> None:
    """Write the model with these weights as ONNX, opset 17: `image` [batch, 1, 28, 28] -> `logits`, any batch."""
    model.load_state_dict(load_file(weights))
    torch.onnx.export(
        model.eval(),
        (torch.zeros(2, 1, 28, 28),),
        target,
        opset_version=17,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        dynamo=False,
    )
