"""What --delay-dequant does to the real ViT-S: products on integers, equal codes before and after, what blocks.

    python bench/delay_dequant.py [--cache DIR] [NAME...]

The four quantized files of bench/models.py, whole and cut at the final tokens, on one photo.
"""

import argparse
from collections import Counter
from pathlib import Path

import models
import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from qvit.backends.interpreter import run, trace_names
from qvit.frontends.onnx import import_onnx, load_onnx
from qvit.transforms.delay_dequant import delay_dequant

QUANTIZED = ("vits-u8s8", "vits-s8s8", "vits-add", "vits-nncf")
TOKENS = "/backbone/layernorm/Add_1_output_0"


def trace(module: ModuleOp, image: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(the result, every integer tensor by the name of its source node)."""
    names, kept = trace_names(module), dict[str, np.ndarray]()

    def keep(op: Operation, result: np.ndarray) -> None:
        kept.update((name, result) for name in names.get(op, ()))

    return next(iter(run(module, [image], observe=keep).values())), kept


def measure(path: Path, outputs: list[str], image: np.ndarray) -> None:
    module, _ = import_onnx(load_onnx(path), outputs)
    result, codes = trace(module, image)
    report = delay_dequant(module)
    moved_result, moved = trace(module, image)
    missing = [name for name in codes if name not in moved]
    unequal = sum(int((codes[name] != moved[name]).sum()) for name in codes if name in moved)
    elements = sum(array.size for array in codes.values())
    name = f"{path.stem}{' to tokens' if outputs else ''}"
    total = report.macs_total
    print(
        f"{name:<22}{report.macs_integer.before / total:>8.1%} ->{report.macs_integer.after / total:>7.1%}"
        f"{report.float_elements.before / 1e6:>9.1f} ->{report.float_elements.after / 1e6:>6.1f}"
        f"{report.qdq_ops.before:>7} ->{report.qdq_ops.after:>4}{len(report.moved):>7}"
        f"{len(codes):>7} /{elements:>11,}{unequal:>9}{len(missing):>8}"
        f"{float(np.abs(result - moved_result).max()):>11.1e}",
        flush=True,
    )
    classes = {rule["exactness"] for rule in report.rules.values()}
    print(f"  rules: {sum(rule['count'] for rule in report.rules.values())} applied, {', '.join(sorted(classes))}")
    for (rule, reason), count in Counter((b.rule, b.reason.partition(" at ")[0]) for b in report.blocked).items():
        print(f"  blocked {count:>3} x {rule}: {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("names", nargs="*", default=QUANTIZED, metavar="NAME")
    args = parser.parse_args()
    models.make(args.names, args.cache)
    image = models.photo(models.TEST_PHOTOS[0], cache=args.cache)
    print(
        "file                   integer MACs       float elements, M  q + dq       moved  codes /   elements"
        "  unequal missing  max |diff|"
    )
    for name in args.names:
        for outputs in ([], [TOKENS]):
            measure(models.paths(args.cache)[name], outputs, image)


if __name__ == "__main__":
    main()
