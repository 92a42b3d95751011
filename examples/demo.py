"""The demo behind `make demo`: a real vision transformer on the way to integers, on real images.

It reads the Fashion-MNIST ViT that ONNX Runtime quantized (examples/fashion_mnist), moves dequantization behind its
matrix products, shows what moved, what did not and why, proves on real images that every code is the same, and
classifies them. Then it takes the float model: scales from a few images, and a program in which no float is left, with
the same predictions. Everything it writes is in build/demo.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from qvit.backends.interpreter import run, run_model, trace_names
from qvit.dialects.provenance import sources
from qvit.tools import qvit_compile, qvit_opt
from qvit.tools.common import read_mlir

HERE = Path(__file__).parent
MODEL, FLOAT_MODEL = (Path(os.path.relpath(HERE / "fashion_mnist" / name)) for name in ("vit_int8.onnx", "vit.onnx"))
OUT = Path("build/demo")
CLASSES = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
BATCH = 100
SHOWN_NODE = "/blocks.0/attn/qkv/MatMul"


@contextmanager
def step(title: str) -> Iterator[None]:
    print(f"\n== {title}", flush=True)
    start = perf_counter()
    yield
    print(f"   ({perf_counter() - start:.1f} s)", flush=True)


def command(*args: str) -> None:
    """Run qvit-opt as a shell would."""
    print("$ qvit-opt", *args, flush=True)
    if status := qvit_opt.main(args):
        sys.exit(status)


def compile_command(*args: str) -> None:
    """Run qvit-compile as a shell would."""
    print("$ qvit-compile", *args, flush=True)
    if status := qvit_compile.main(args):
        sys.exit(status)


def normalized(images: np.ndarray) -> np.ndarray:
    """uint8 [N, 28, 28] -> the model's input."""
    return (images[:, None].astype(np.float32) / 255 - 0.5) / 0.5


def show(module: ModuleOp) -> None:
    """The operations around one linear layer, without the names of their source nodes."""
    body = list(module.walk())
    index = next(i for i, op in enumerate(body) if op.name == "qvit.linear" and SHOWN_NODE in sources(op))
    for line in [str(op) for op in body[index - 3 : index + 2]]:
        print("   ", re.sub(r" \{qvit.src = \[.*?\]\}", "", line))


def codes(module: ModuleOp, images: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(logits, every integer tensor by the name of its source node)."""
    names, kept = trace_names(module), dict[str, np.ndarray]()

    def keep(op: Operation, result: np.ndarray) -> None:
        kept.update((name, result) for name in names.get(op, ()))

    outputs = run(module, [images], observe=keep)
    return outputs["logits"], kept


def picture(image: np.ndarray) -> list[str]:
    """28 x 28 grey values as 14 lines of text."""
    shades = " .:-=+*#%@"
    small = image.reshape(14, 2, 28).mean(axis=1)
    return ["".join(shades[int(v) * 10 // 256] for v in row) for row in small]


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    before_file, after_file, report = (str(OUT / name) for name in ("before.mlir", "after.mlir", "report.json"))

    with step("1. Read the ViT that ONNX Runtime quantized"):
        command(str(MODEL), "--dim", f"batch={BATCH}", "-o", before_file)
        before = read_mlir(Path(before_file))
        print("   one linear layer: codes become floats in front of the product")
        show(before)

    with step("2. Delay dequantization"):
        command(before_file, "--delay-dequant", "--report", report, "-o", after_file)
        after = read_mlir(Path(after_file))
        print("   the same layer: the product takes the codes, and scales are applied behind it")
        show(after)

    with step("3. Compare both on real images, and classify them"):
        data = np.load(HERE / "fashion_mnist" / "test_images.npz")
        images, labels = data["images"], data["labels"]
        compared = differing = 0
        predicted: list[int] = []
        for start in range(0, len(images), BATCH):
            batch = normalized(images[start : start + BATCH])
            logits, old = codes(before, batch)
            moved_logits, new = codes(after, batch)
            compared += sum(array.size for array in old.values())
            differing += sum(int((array != new[name]).sum()) for name, array in old.items())
            predicted += moved_logits.argmax(axis=1).tolist()
            same = bool((moved_logits.argmax(axis=1) == logits.argmax(axis=1)).all())
            print(f"   {start + len(batch)}/{len(images)} images, same predictions: {same}", flush=True)
        print(f"   quantized codes compared: {compared:,}; different: {differing}")
        hits = int((np.array(predicted) == labels).sum())
        print(f"   correct: {hits} of {len(labels)} ({hits / len(labels):.1%})")

    with step("4. From the float model and 100 images to integers alone"):
        samples, compiled = OUT / "samples.npz", OUT / "compiled"
        np.savez(samples, image=normalized(images[:BATCH]))
        dims = ("--dim", f"batch={BATCH}")
        compile_command(str(FLOAT_MODEL), *dims, "--calibrate", str(samples), "--scheme", "best", "-o", str(compiled))
        command(str(FLOAT_MODEL), *dims, "-o", str(OUT / "float.mlir"))
        floats, integers = read_mlir(OUT / "float.mlir"), read_mlir(compiled / "model.mlir")
        same = hits = 0
        for start in range(BATCH, len(images), BATCH):
            batch, truth = normalized(images[start : start + BATCH]), labels[start : start + BATCH]
            expected, found = (m["logits"].argmax(axis=1) for m in (run(floats, [batch]), run_model(integers, [batch])))
            same, hits = same + int((found == expected).sum()), hits + int((found == truth).sum())
        count = len(images) - BATCH
        print(f"   same predictions as the float model: {same} of {count} other images; correct: {hits}")

    for i in range(3):
        print(f"\n   true: {CLASSES[labels[i]]:<12} predicted: {CLASSES[predicted[i]]}")
        print("\n".join(f"   {line}" for line in picture(images[i])))
    print(
        f"\nWritten: {before_file}, {after_file}, {report}, and the weights beside them; {compiled}/report.html to look at."
    )
    if differing:
        sys.exit("the codes differ: this is a bug")


if __name__ == "__main__":
    main()
