"""What the make_*.py scripts share: dimensions, parameters that are not trivial, the two exporters, checks, the command line."""

import argparse
import gzip
import logging
import math
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here is downloaded

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import GraphProto, ModelProto
from torch import Tensor, nn

Model = tuple[nn.Module, dict[str, Tensor]]
"""A module in eval mode, and its inputs by name in the order of forward's arguments."""


class Dims:
    """Dimensions: the fixed ones, or with a seed, others drawn at random."""

    def __init__(self, fresh: random.Random | None = None):
        self.fresh = fresh

    def pick(self, fixed: Any, others: Sequence[Any]) -> Any:
        return fixed if self.fresh is None else self.fresh.choice(others)

    def batch(self) -> int:
        return self.pick(1, [1, 2, 3])

    def heads(self, fixed: int) -> int:
        return self.pick(fixed, [1, 2, 3, 4, 5])

    def head_size(self, fixed: int) -> int:
        return self.pick(fixed, [3, 5, 6, 7, 10, 15])

    def grid(self, fixed: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.pick(fixed[0], range(2, 7)), self.pick(fixed[1], range(2, 7))

    def width(self, fixed: int) -> int:
        """Of a hidden layer."""
        return self.pick(fixed, [18, 22, 33, 37, 42, 55])

    def classes(self, fixed: int) -> int:
        return self.pick(fixed, [2, 3, 7, 11])


@dataclass(frozen=True)
class Export:
    """How one fixture is made: the model, the exporter and its options, what is done to the file afterwards."""

    build: Callable[[Dims], Model]
    exporter: str  # "dynamo" or "legacy"
    opset: int
    fold: bool = True  # the exporter's own constant folding
    dynamic: dict[str, dict[int, str]] = field(default_factory=dict)  # input -> axis -> name
    rewrite: Callable[[ModelProto], ModelProto] | None = None
    external: bool = False  # weights in NAME.onnx.data
    bench: bool = False  # large: made only when named


def awkward(model: nn.Module) -> nn.Module:
    """Every parameter and running statistic drawn anew, none of them trivial (no gain of 1, no bias of 0)."""
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if not value.is_floating_point():
            continue
        with torch.no_grad():
            noise = torch.randn(value.shape).bfloat16().float()  # few bits, that the files pack well
            if name.endswith("running_var"):
                value.copy_(0.5 + noise.abs())
            elif name.endswith(("bias", "running_mean")):
                value.copy_(0.2 * noise)
            elif name.endswith("weight") and value.ndim == 1:
                value.copy_(1 + 0.3 * noise)
            elif name.endswith("weight"):
                value.copy_(noise / 2 ** round(math.log2(value[0].numel()) / 2))
            elif isinstance(value, nn.Parameter):  # class tokens, positions, layer scales
                value.copy_(0.5 * noise)
    return model.eval()


def image(batch: int, height: int, width: int, channels: int = 3) -> Tensor:
    return torch.randn(batch, channels, height, width)


def export(recipe: Export, model: nn.Module, inputs: dict[str, Tensor]) -> ModelProto:
    options: dict[str, Any] = {"opset_version": recipe.opset, "input_names": list(inputs), "output_names": ["output"]}
    arguments = tuple(inputs.values())
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        if recipe.exporter == "dynamo":
            if recipe.dynamic:
                shapes = [{a: torch.export.Dim(n) for a, n in recipe.dynamic.get(i, {}).items()} for i in inputs]
                options["dynamic_shapes"] = tuple(shapes)
            torch.onnx.export(
                model, arguments, path, dynamo=True, optimize=recipe.fold, external_data=False, verbose=False, **options
            )
        else:
            options["dynamic_axes"] = recipe.dynamic
            torch.onnx.export(model, arguments, path, dynamo=False, do_constant_folding=recipe.fold, **options)
        return onnx.load(path)


def strip(message: Any) -> None:
    """Remove all doc strings and metadata: exporters write stack traces with local paths there."""
    for descriptor, value in message.ListFields():
        if descriptor.name in ("doc_string", "metadata_props"):
            message.ClearField(descriptor.name)
        elif descriptor.message_type is not None:
            for child in value if isinstance(value, Sequence) or hasattr(value, "add") else [value]:
                strip(child)


def initializers_as_constants(model: ModelProto) -> ModelProto:
    """Every weight as a Constant node in front of the graph, as some converters write them."""
    graph: GraphProto = model.graph
    nodes = [
        onnx.helper.make_node("Constant", [], [tensor.name], name=f"Constant_{tensor.name}", value=tensor)
        for tensor in graph.initializer
    ]
    nodes.extend(graph.node)
    del graph.initializer[:], graph.node[:]
    graph.node.extend(nodes)
    return model


def onnxruntime_basic(model: ModelProto) -> ModelProto:
    """As ONNX Runtime's offline optimization writes it, at the level whose result is still standard ONNX."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "model.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def simplified(model: ModelProto) -> ModelProto:
    """As onnxsim writes it."""
    import onnxsim

    result, same = onnxsim.simplify(model)
    assert same, "onnxsim changed the result"
    return result


def check(path: Path, model: nn.Module, inputs: dict[str, Tensor]) -> float:
    """The file is valid, free of machine paths, and computes what the module does; the largest difference."""
    onnx.checker.check_model(str(path), full_check=True)
    content = path.read_bytes()
    for word in (b"/root", b"/home", b"/tmp", b"site-packages", os.getcwd().encode(), sys.prefix.encode()):
        assert word not in content, f"{path.name} contains {word.decode()}"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    taken = {i.name for i in session.get_inputs()}
    got = session.run(None, {n: v.numpy() for n, v in inputs.items() if n in taken})[0]
    with torch.no_grad():
        wanted = model(*inputs.values()).numpy()
    difference = float(np.abs(got - wanted).max())
    assert got.shape == wanted.shape, f"{path.name}: {got.shape}, the module gives {wanted.shape}"
    assert difference <= 1e-4 * max(1.0, float(np.abs(wanted).max())), f"{path.name} differs by {difference}"
    return difference


def make(name: str, recipe: Export, folder: Path, fresh: int | None) -> str:
    """Write one fixture; a line about it."""
    torch.manual_seed(0 if fresh is None else fresh)
    model, inputs = recipe.build(Dims(None if fresh is None else random.Random(fresh)))
    proto = export(recipe, model, inputs)
    if recipe.rewrite is not None:
        proto = recipe.rewrite(proto)
    strip(proto)
    path = folder / f"{name}.onnx"
    data = folder / f"{name}.onnx.data"
    data.unlink(missing_ok=True)  # onnx would append
    onnx.save(proto, path, save_as_external_data=recipe.external, location=data.name, size_threshold=1024)
    difference = check(path, model, inputs)
    size = path.stat().st_size
    if fresh is None and not recipe.external and not recipe.bench:  # what is checked in
        path.with_suffix(".onnx.gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
        path.unlink()
    shapes = " ".join(f"{n}{list(v.shape)}" for n, v in inputs.items())
    return (
        f"{name:32} opset {proto.opset_import[0].version:2} {len(proto.graph.node):4} nodes "
        f"{size / 1000:6.1f} kB  {shapes}  differs {difference:.1e}"
    )


def main(description: str | None, recipes: dict[str, Export]) -> None:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("outdir", type=Path)
    names = ", ".join(f"{n} (only when named)" if r.bench else n for n, r in recipes.items())
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {names}; default: all")
    parser.add_argument("--fresh", type=int, metavar="SEED", help="draw other dimensions and weights from this seed")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(recipes):
        parser.error(f"no fixture {', '.join(sorted(unknown))}")
    logging.disable(logging.WARNING)
    arguments.outdir.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or [n for n, r in recipes.items() if not r.bench]:
        print(make(name, recipes[name], arguments.outdir, arguments.fresh), flush=True)
