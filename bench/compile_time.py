"""How long the compiler takes for the real ViT-S, how much memory, how large its text is, and how all of it grows.

    python bench/compile_time.py [--cache DIR]

Times are CPU seconds (user + system), medians; whole commands include the start of Python. BLAS has one thread here:
more of them wait busily for each other, which CPU time counts.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import models
import onnx
from xdsl.dialects.builtin import ModuleOp

from qvit.backends.interpreter import run
from qvit.dialects.weights import externalize
from qvit.frontends.onnx import import_onnx
from qvit.tools.common import read_mlir
from qvit.transforms.delay_dequant import delay_dequant

TOKENS = "/backbone/layernorm/Add_1_output_0"
REPEATED = ("/backbone/encoder/layer.4/Add_1_output_0", "/backbone/encoder/layer.5/Add_1_output_0")


def command(*args: str | Path) -> tuple[float, float]:
    """(CPU seconds, peak MB) of `python -m qvit.tools.qvit_opt ARGS`, median of three."""
    seconds: list[float] = []
    peak = 0.0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "qvit.tools.qvit_opt", *map(str, args)], stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"qvit-opt {' '.join(map(str, args))} failed")
        seconds.append(usage.ru_utime + usage.ru_stime)
        peak = max(peak, usage.ru_maxrss / 1024)
    return statistics.median(seconds), peak


def cpu(body: Callable[[], object], repeat: int = 3) -> float:
    """Median CPU seconds of a call."""
    times: list[float] = []
    for _ in range(repeat):
        start = time.process_time()
        body()
        times.append(time.process_time() - start)
    return statistics.median(times)


def row(what: str, value: str) -> None:
    print(f"  {what:<58}{value}", flush=True)


def deepen(path: Path, extra: int) -> onnx.ModelProto:
    """The model with block 5 repeated `extra` times behind itself; weights are shared."""
    model = onnx.load(str(path))
    graph = model.graph
    first, last = REPEATED
    makers = {output: node for node in graph.node for output in node.output}
    block: dict[str, onnx.NodeProto] = {}
    stack = [last]
    while stack:
        name = stack.pop()
        if name == first or name not in makers or makers[name].name in block:
            continue
        block[makers[name].name] = makers[name]
        stack += makers[name].input
    made = {output for node in block.values() for output in node.output}
    ordered = [node for node in graph.node if node.name in block]
    position = max(i for i, node in enumerate(graph.node) if node.name in block) + 1
    users = [node for node in graph.node if last in node.input and node.name not in block]
    copies: list[onnx.NodeProto] = []
    previous = last
    for i in range(extra):
        names = {first: previous} | {name: f"{name}.{i}" for name in made}
        for node in ordered:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = f"{node.name}.{i}"
            copy.input[:] = [names.get(name, name) for name in node.input]
            copy.output[:] = [names.get(name, name) for name in node.output]
            copies.append(copy)
        previous = f"{last}.{i}"
    for node in users:
        node.input[:] = [previous if name == last else name for name in node.input]
    nodes = [*graph.node[:position], *copies, *graph.node[position:]]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def text_of(module: ModuleOp, path: Path) -> str:
    externalize(module, path)
    return str(module)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path)
    args = parser.parse_args()
    names = ["vits", "vits-u8s8", "vits-add", "vits-nncf"]
    models.make(names, args.cache)
    files = models.paths(args.cache)
    image = models.photo(models.TEST_PHOTOS[0], cache=args.cache)

    print("commands, whole process")
    row("qvit-opt --help, CPU s", f"{command('--help')[0]:.3f}")
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            dims = ["--dim", "batch_size=1"] if name == "vits" else []
            before, after = Path(scratch, f"{name}.mlir"), Path(scratch, f"{name}.after.mlir")
            size = files[name].stat().st_size / 2**20
            seconds, peak = command(files[name], *dims, "-o", before)
            goal = f"(150 + 2.5 x file = {150 + 2.5 * size:.0f})"
            row(f"{name}: import and write, CPU s; peak MB", f"{seconds:.2f}; {peak:.0f} {goal}")
            if name == "vits":
                row(f"{name}: IR text, KB", f"{before.stat().st_size / 1000:.0f}")
                continue
            seconds, peak = command(before, "--delay-dequant", "-o", after)
            row(f"{name}: read, --delay-dequant, write, CPU s; peak MB", f"{seconds:.2f}; {peak:.0f}")
            lengths = [f"{path.stat().st_size / 1000:.0f}" for path in (before, after)]
            row(f"{name}: IR text before, after, KB", ", ".join(lengths))
            parses = [f"{cpu(lambda p=path: read_mlir(p)):.2f}" for path in (before, after)]
            row(f"{name}: re-parse before, after, CPU s", ", ".join(parses))
            row(f"{name}: --delay-dequant alone, CPU s", f"{statistics.median(_delay(before) for _ in range(3)):.2f}")
            old, new = read_mlir(before), read_mlir(after)
            row(
                f"{name}: interpreter, an image, before, after, CPU s",
                f"{cpu(lambda m=old: run(m, [image])):.2f}, {cpu(lambda m=new: run(m, [image])):.2f}",
            )
        print("depth, vits-u8s8 to the tokens, block 5 repeated")
        print("  blocks   import s   delay s   text before, after KB   re-parse before, after s")
        for blocks in (12, 24, 48):
            model = deepen(files["vits-u8s8"], blocks - 12)
            start = time.process_time()
            module, _ = import_onnx(model, [TOKENS])
            imported = time.process_time() - start
            before, after = Path(scratch, f"{blocks}.mlir"), Path(scratch, f"{blocks}.after.mlir")
            before.write_text(text_of(module, before.with_suffix(".safetensors")))
            module = read_mlir(before)
            start = time.process_time()
            delay_dequant(module)
            delayed = time.process_time() - start
            after.write_text(text_of(module, after.with_suffix(".safetensors")))
            print(
                f"  {blocks:>6}{imported:>11.2f}{delayed:>10.2f}{before.stat().st_size / 1000:>14.0f},"
                f"{after.stat().st_size / 1000:>6.0f}"
                f"{cpu(lambda p=before: read_mlir(p), 1):>20.2f},{cpu(lambda p=after: read_mlir(p), 1):>6.2f}",
                flush=True,
            )


def _delay(path: Path) -> float:
    module = read_mlir(path)
    start = time.process_time()
    delay_dequant(module)
    return time.process_time() - start


if __name__ == "__main__":
    main()
