"""Train the Fashion-MNIST ViT to its plateau and write vit.safetensors.

    python fashion_mnist/data.py --fetch fashion_mnist/data && python -m fashion_mnist.train     # in the folder above

Resumable. About 80 CPU seconds an epoch. Random flips, and shifts by up to 2 pixels.
"""

import argparse
from pathlib import Path

import torch
from fashion_mnist.data import load, normalize
from fashion_mnist.model import ViT
from small_vit import shift, train
from torch import Tensor

HERE = Path(__file__).parent


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip half of the images, shift the batch."""
    flip = torch.rand(len(images), generator=generator) < 0.5
    return shift(torch.where(flip[:, None, None, None], images.flip(-1), images), generator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE / "data")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--output", type=Path, default=HERE / "vit.safetensors")
    parser.add_argument("--checkpoint", type=Path, default=Path("train.pt"))
    args = parser.parse_args()

    train_set, test_set = (
        (torch.from_numpy(normalize(images)), torch.from_numpy(labels).long())
        for images, labels in (load(args.data, split) for split in ("train", "t10k"))
    )
    train(ViT, train_set, test_set, augment, epochs=args.epochs, output=args.output, checkpoint=args.checkpoint)


if __name__ == "__main__":
    main()
