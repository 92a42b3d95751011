"""What the schemes make of one model: how many operations of each kind their integer functions have.

    python bench/programs.py [--json FILE]

The Fashion-MNIST ViT of examples/, calibrated on its test images: the scales do not matter here.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from qvit.backends.interpreter import find_function, input_names
from qvit.frontends.onnx import import_onnx, load_onnx
from qvit.tools.compiler import compile_model
from qvit.transforms.pipelines import SCHEMES
from qvit.transforms.statistics import operation_kinds

EXAMPLE = Path(__file__).parent.parent / "examples" / "fashion_mnist"
BATCH = 20


def compiled(scheme: str, batch: int = BATCH) -> ModuleOp:
    """The model of a scheme, for a batch of images."""
    images = np.load(EXAMPLE / "test_images.npz")["images"][:batch, None].astype(np.float32) / 127.5 - 1
    module, _ = import_onnx(load_onnx(EXAMPLE / "vit.onnx"), dims={"batch": batch})
    (argument,) = input_names(find_function(module))
    return compile_model(module, [{argument: images}], SCHEMES[scheme]).module


def programs() -> dict[str, dict[str, int]]:
    """The kinds of operations of each scheme's @main."""
    return {name: dict(operation_kinds(find_function(compiled(name)))) for name in SCHEMES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    found = programs()
    rows = sorted({kind for kinds in found.values() for kind in kinds})
    width = max(map(len, rows)) + 2
    print(" " * width + "".join(f"{name:>14}" for name in found))
    for row in rows:
        print(f"{row:<{width}}" + "".join(f"{kinds.get(row, 0) or '-':>14}" for kinds in found.values()))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
