"""Train the decoder in float and write decoder.safetensors.

    python -m multiplication.train     # in the folder above

Resumable; one thread and fixed seeds. AdamW with a one-cycle rate on problems drawn anew in each step.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from multiplication.data import draw, encode
from multiplication.model import Decoder
from safetensors.torch import save as save_bytes
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).parent
BATCH = 256
EVERY = 250
"""Steps between two checkpoints."""


def batch(seed: int, size: int = BATCH, testing: bool = False) -> tuple[Tensor, Tensor]:
    """Tokens [size, 13] and answers [size, 6] of training problems, or of those kept for testing."""
    tokens, answers = encode(*draw(np.random.default_rng(seed), size, testing))
    return torch.from_numpy(tokens), torch.from_numpy(answers)


def exact(predict: Callable[[Tensor], Tensor], count: int = 10_000) -> float:
    """Percent of test problems all of whose digits are right, each predicted behind the right ones."""
    tokens, answers = batch(0, count, testing=True)
    with torch.inference_mode():
        found = torch.cat([predict(part) for part in tokens.split(4 * BATCH)])
    return 100 * float((found.argmax(-1) == answers).all(-1).double().mean())


def run(model: nn.Module, groups: list[dict[str, Any]], steps: int, checkpoint: Path) -> None:
    """Train on `steps` batches; the state lies in `checkpoint`, from which a second call resumes."""
    optimizer = torch.optim.AdamW(groups)
    rates = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=0.1)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        first = state["step"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
        print(f"resuming after step {first} of {steps}")
    start, total = time.process_time(), 0.0
    for step in range(first, steps):
        model.train()
        tokens, answers = batch(1 + step)
        loss = F.cross_entropy(model(tokens).flatten(0, 1), answers.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.item()
        if (step + 1) % EVERY and step + 1 < steps:
            continue
        model.eval()
        print(
            f"step {step + 1}/{steps}  loss {total / EVERY:.4f}  test exact {exact(model, 2000):.2f} %"
            f"  {time.process_time() - start:.0f} CPU s",
            flush=True,
        )
        total = 0.0
        state = {name: part.state_dict() for name, part in parts.items()} | {"step": step + 1}
        torch.save(state, checkpoint.with_suffix(".tmp"))
        os.replace(checkpoint.with_suffix(".tmp"), checkpoint)


def save(model: nn.Module, path: Path) -> None:
    tensors = {k: v.contiguous() for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    path.with_suffix(".tmp").write_bytes(save_bytes(tensors))
    os.replace(path.with_suffix(".tmp"), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--output", type=Path, default=HERE / "decoder.safetensors")
    parser.add_argument("--checkpoint", type=Path, default=Path("decoder.pt"))
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # sums in the same order on every machine with the same vector width
    model = Decoder()
    run(model, [{"params": list(model.parameters()), "lr": 2e-3, "weight_decay": 0.01}], args.steps, args.checkpoint)
    save(model, args.output)
    print(f"{exact(model.eval()):.2f} % of 10,000 test problems; {args.output}")


if __name__ == "__main__":
    main()
