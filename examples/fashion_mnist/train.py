"""Train the Fashion-MNIST ViT to its plateau and write vit.safetensors.

    python data.py --fetch data && python train.py --data data

One thread, fixed seeds, resumable: the state of the last finished epoch lies in --checkpoint. About 80 CPU seconds an
epoch. AdamW with a one-cycle rate, label smoothing, random flips and shifts by up to 2 pixels.
"""

import argparse
import os
import time
from pathlib import Path

import torch
from data import load, normalize
from model import ViT
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

HERE = Path(__file__).parent
BATCH = 128


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip half of the images, shift each batch by -2..2 pixels in both directions (the background is -1)."""
    flip = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(-1), images)
    dy, dx = torch.randint(0, 5, (2,), generator=generator).tolist()
    return F.pad(images, (2, 2, 2, 2), value=-1.0)[:, :, dy : dy + 28, dx : dx + 28]


def accuracy(model: ViT, images: Tensor, labels: Tensor) -> float:
    model.eval()
    with torch.inference_mode():
        hits = sum(
            int((model(x).argmax(1) == y).sum()) for x, y in zip(images.split(1000), labels.split(1000), strict=True)
        )
    return 100 * hits / len(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE / "data")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--output", type=Path, default=HERE / "vit.safetensors")
    parser.add_argument("--checkpoint", type=Path, default=Path("train.pt"))
    args = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(1)  # sums in the same order on every machine with the same vector width
    train_x, train_y = (torch.from_numpy(a.copy()) for a in load(args.data, "train"))
    test_x, test_y = (torch.from_numpy(a.copy()) for a in load(args.data, "t10k"))
    train_x, test_x = (torch.from_numpy(normalize(x.numpy())) for x in (train_x, test_x))
    train_y, test_y = train_y.long(), test_y.long()

    model = ViT()
    steps = len(train_x) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=args.epochs * steps, pct_start=0.1)
    first = 0
    if args.checkpoint.exists():
        state = torch.load(args.checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["epoch"]
        print(f"resuming after epoch {first} of {args.epochs}")

    for epoch in range(first, args.epochs):
        generator = torch.Generator().manual_seed(epoch)
        order = torch.randperm(len(train_x), generator=generator)
        model.train()
        start, total = time.process_time(), 0.0
        for step in range(steps):
            batch = order[step * BATCH : (step + 1) * BATCH]
            loss = F.cross_entropy(model(augment(train_x[batch], generator)), train_y[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
            if step % 50 == 0:
                print(f"\repoch {epoch + 1}/{args.epochs} step {step}/{steps}", end="", flush=True)
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "epoch": epoch + 1,
        }
        torch.save(state, args.checkpoint.with_suffix(".tmp"))
        os.replace(args.checkpoint.with_suffix(".tmp"), args.checkpoint)
        print(
            f"\repoch {epoch + 1}/{args.epochs}  loss {total / steps:.4f}  "
            f"test top-1 {accuracy(model, test_x, test_y):.2f} %  {time.process_time() - start:.0f} CPU s"
        )

    temporary = args.output.with_suffix(".tmp")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, temporary)
    os.replace(temporary, args.output)
    print(args.output)


if __name__ == "__main__":
    main()
