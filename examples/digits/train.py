"""Train the digits ViT, write vit.safetensors, vit.onnx (float, opset 17, any batch) and test_images.npz.

    python digits/data.py --fetch digits/data && python -m digits.train     # in the folder above; needs torch and onnx

Resumable. Random shifts by up to 2 pixels; no flips, which would make other digits.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from digits.data import load, normalize
from digits.model import ViT
from small_vit import export, shift, train

HERE = Path(__file__).parent
TEST_IMAGES = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE / "data")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--checkpoint", type=Path, default=Path("train.pt"))
    args = parser.parse_args()

    splits = {split: load(args.data, split) for split in ("train", "test")}
    train_set, test_set = (
        (torch.from_numpy(normalize(images)), torch.from_numpy(labels).long()) for images, labels in splits.values()
    )
    weights = HERE / "vit.safetensors"
    train(ViT, train_set, test_set, shift, epochs=args.epochs, output=weights, checkpoint=args.checkpoint)
    export(ViT(), weights, HERE / "vit.onnx")
    images, labels = splits["test"]
    np.savez_compressed(HERE / "test_images.npz", images=images[:TEST_IMAGES], labels=labels[:TEST_IMAGES])


if __name__ == "__main__":
    main()
