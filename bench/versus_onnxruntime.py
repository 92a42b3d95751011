"""Node by node against ONNX Runtime: each operation of ours is fed the tensors that ONNX Runtime computed.

    python bench/versus_onnxruntime.py [--cache DIR] [NAME...]

For each operator type: over all tensors that are quantized next, the codes that differ, by how much, and on which share
of the elements; for the others, the largest error relative to the tensor's largest value. ONNX Runtime runs the graph
as it is (no optimization) in float32, and so do we here: where sums of codes fall on exact ties, as in vits-add, a
float64 evaluation rounds to the other side as often as not. Then end to end, where both drift apart: the model is
chaotic in int8.
"""

import argparse
import itertools
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
import onnxruntime
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from qvit.backends.interpreter import evaluate, run
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.ops.weights import ConstantOp, WeightOp
from qvit.dialects.provenance import sources
from qvit.frontends.onnx import import_onnx, load_onnx

FILES = ("vits-u8s8", "vits-s8s8", "vits-add", "vits-nncf")
TOKENS = "/backbone/layernorm/Add_1_output_0"


def session(model: onnx.ModelProto | Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model), options
    )


def all_tensors(path: Path, image: np.ndarray) -> dict[str, list[np.ndarray]]:
    """What ONNX Runtime computes at every node, by the node's name."""
    model = onnx.load(str(path))
    present = {output.name for output in model.graph.output}
    nodes = [(node.name or node.output[0], [o for o in node.output if o]) for node in model.graph.node]
    for name in itertools.chain.from_iterable(outputs for _, outputs in nodes):
        if name not in present:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
    runtime = session(model)
    names = [output.name for output in runtime.get_outputs()]
    feed = {runtime.get_inputs()[0].name: image}
    tensors = dict(zip(names, runtime.run(names, feed), strict=True))
    return {node: [tensors[o] for o in outputs] for node, outputs in nodes}


@dataclass
class Row:
    """What was seen of one operator type."""

    tensors: int = 0
    elements: int = 0
    different: int = 0
    largest: int = 0
    worst_share: float = 0.0
    error: float = 0.0


def is_constant(value: SSAValue) -> bool:
    owner = value.owner
    return isinstance(owner, ConstantOp | WeightOp) or (isinstance(owner, DequantizeOp) and is_constant(owner.input))


def compare(
    module: ModuleOp, reference: dict[str, list[np.ndarray]], image: np.ndarray, precision: type[np.floating[Any]]
) -> dict[str, Row]:
    """Feed each operation what ONNX Runtime made, and compare its result with ONNX Runtime's."""
    rows: dict[str, Row] = defaultdict(Row)
    theirs: dict[SSAValue, np.ndarray] = {}
    seen: dict[str, int] = defaultdict(int)
    for op in module.walk():
        if op.name == "func.func":
            theirs[op.regions[0].block.args[0]] = image
        if not op.name.startswith("qvit."):
            continue
        ours = evaluate(module, op, [theirs[operand] for operand in op.operands], precision)
        name = (sources(op) or ("",))[-1]
        outputs = reference.get(name)
        if outputs is None or is_constant(op.results[0]):
            theirs[op.results[0]] = ours
            continue
        other = outputs[min(seen[name], len(outputs) - 1)]  # the parts of a Split come in order
        seen[name] += 1
        if other.size != ours.size:  # a part of a fused or decomposed node: it has no counterpart
            theirs[op.results[0]] = ours
            continue
        other = other.reshape(ours.shape)
        theirs[op.results[0]] = other
        row = rows[op.name.removeprefix("qvit.")]
        if isinstance(op, QuantizeOp):
            count(row, ours, other)
        quantizers = [use.operation for use in op.results[0].uses if isinstance(use.operation, QuantizeOp)]
        for quantizer in quantizers[:1]:
            codes = evaluate(module, quantizer, [ours], precision)
            count(row, codes, reference[sources(quantizer)[-1]][0].reshape(ours.shape))
        if ours.dtype.kind == "f":
            scale = float(np.abs(other).max()) or 1.0
            row.error = max(row.error, float(np.abs(ours - other).max()) / scale)
    return rows


def count(row: Row, ours: np.ndarray, theirs: np.ndarray) -> None:
    gap = np.abs(ours.astype(np.int64) - theirs.astype(np.int64))
    row.tensors += 1
    row.elements += gap.size
    row.different += int((gap > 0).sum())
    row.largest = max(row.largest, int(gap.max()))
    row.worst_share = max(row.worst_share, float((gap > 0).mean()))


def show(rows: dict[str, Row]) -> None:
    print("  operation        codes of tensors   elements  different    share  worst tensor  largest  float error")
    for name, row in sorted(rows.items()):
        codes = (
            f"{row.tensors:>12}{row.elements:>18,}{row.different:>10}{row.different / row.elements:>10.1e}"
            f"{row.worst_share:>13.1e}{row.largest:>9}"
            if row.tensors
            else f"{'-':>12}{'-':>18}{'-':>10}{'-':>10}{'-':>13}{'-':>9}"
        )
        print(f"  {name:<16}{codes}{row.error:>13.1e}")


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.reshape(-1, a.shape[-1]).astype(float), b.reshape(-1, b.shape[-1]).astype(float)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean())


def end_to_end(path: Path, images: dict[str, np.ndarray]) -> None:
    """Mean cosine of the final tokens over the photos, between ONNX Runtime and our two precisions."""
    model = onnx.load(str(path))
    model.graph.output.append(onnx.ValueInfoProto(name=TOKENS))
    runtime = session(model)
    module, _ = import_onnx(load_onnx(path), [TOKENS])
    sums: dict[str, list[float]] = defaultdict(list)
    for image in images.values():
        (theirs,) = runtime.run([TOKENS], {runtime.get_inputs()[0].name: image})
        results: dict[Any, np.ndarray] = {
            dtype: run(module, [image], float_dtype=dtype)[TOKENS] for dtype in (np.float64, np.float32)
        }
        sums["our float64 and ONNX Runtime"].append(cosine(results[np.float64], theirs))
        sums["our float32 and ONNX Runtime"].append(cosine(results[np.float32], theirs))
        sums["our float32 and our float64"].append(cosine(results[np.float32], results[np.float64]))
    for pair, values in sums.items():
        print(f"  {pair:<32} mean {np.mean(values):.6f}  worst {min(values):.6f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--photos", type=int, default=4, help="photos for the end-to-end drift")
    parser.add_argument("--precision", choices=["float32", "float64"], default="float32", help="ours, node by node")
    parser.add_argument("names", nargs="*", default=FILES, metavar="NAME")
    args = parser.parse_args()
    models.make([*args.names, "vits-static"], args.cache)
    images = {name: models.photo(name, cache=args.cache) for name in models.TEST_PHOTOS[: args.photos]}
    first = next(iter(images.values()))
    for name in args.names:
        path = models.paths(args.cache)[name]
        module, reference = import_onnx(load_onnx(path))[0], all_tensors(path, first)
        print(f"{name}, node by node, ours in {args.precision}")
        show(compare(module, reference, first, np.dtype(args.precision).type))
    for name in ["vits-static", *args.names]:
        print(f"{name}, cosine of the final tokens, {len(images)} photos")
        end_to_end(models.paths(args.cache)[name], images)


if __name__ == "__main__":
    main()
