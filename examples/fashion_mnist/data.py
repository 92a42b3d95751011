"""Fashion-MNIST (Zalando, MIT licence) from the Debian package `dataset-fashion-mnist`.

    python data.py --fetch data        # needs apt and dpkg-deb (Debian, Ubuntu); root is not needed

writes the four .idx.gz files into data/. Elsewhere, put the same four files there by hand.
"""

import argparse
import gzip
import hashlib
import subprocess
import tempfile
from pathlib import Path

import numpy as np

PACKAGE = "dataset-fashion-mnist"
SHA256 = {  # of the four files
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
}


def load(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Split "train" or "t10k" -> (uint8 images [N, 28, 28], uint8 labels [N])."""
    arrays = []
    for name, header, shape in (("images-idx3", 16, (-1, 28, 28)), ("labels-idx1", 8, (-1,))):
        path = folder / f"{split}-{name}-ubyte.gz"
        if not path.exists():
            raise SystemExit(f"{path} is missing: run `python {Path(__file__).name} --fetch {folder}`")
        arrays.append(np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header).reshape(shape))
    return arrays[0], arrays[1]


def normalize(images: np.ndarray) -> np.ndarray:
    """uint8 [N, 28, 28] -> float32 [N, 1, 28, 28] in [-1, 1], the input that the model was trained on."""
    return (images[:, None].astype(np.float32) / 255 - 0.5) / 0.5


def fetch(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["apt-get", "download", "-q", PACKAGE], cwd=scratch, check=True)
        deb = next(Path(scratch).glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", deb, scratch], check=True)
        for file in Path(scratch).glob("usr/share/datasets/fashion-mnist/*.gz"):
            content = file.read_bytes()
            if (found := hashlib.sha256(content).hexdigest()) != SHA256.get(file.name):
                raise SystemExit(f"{PACKAGE} has a {file.name} with sha256 {found}, expected {SHA256.get(file.name)}")
            (folder / file.name).write_bytes(content)
            print(folder / file.name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fetch", metavar="DIR", type=Path, required=True)
    fetch(parser.parse_args().fetch)
