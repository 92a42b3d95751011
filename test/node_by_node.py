"""A graph against onnxruntime, node by node: each operation of ours is fed the tensors that onnxruntime computed.

The graph is imported with every tensor as an output, so that each tensor of the file is one value of ours, and no
recogniser merges nodes.
"""

from collections.abc import Iterable, Mapping
from itertools import chain

import numpy as np
import onnx
from data.onnx_build import run_ort

from qvit.backends.interpreter import evaluate, find_function, input_names
from qvit.frontends.onnx import import_onnx

Arrays = Mapping[str, np.ndarray]


def tensor_names(proto: onnx.ModelProto) -> list[str]:
    """Every tensor that a node of the graph makes."""
    return [name for name in chain.from_iterable(node.output for node in proto.graph.node) if name]


def all_tensors(proto: onnx.ModelProto, feeds: Arrays) -> dict[str, np.ndarray]:
    """What onnxruntime computes for every tensor."""
    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    present = {output.name for output in whole.graph.output}
    whole.graph.output.extend(onnx.ValueInfoProto(name=n) for n in tensor_names(proto) if n not in present)
    return run_ort(whole, feeds)


def assert_node_by_node(
    proto: onnx.ModelProto,
    feeds: Arrays,
    reference: Arrays,
    dims: Mapping[str, int] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    float_tolerance: float = 1e-4,
) -> None:
    """Codes differ by at most 1, floats by `float_tolerance` of the largest of their tensor; in float32, as there.

    A code differs where onnxruntime's float32 lands on the other side of a tie.
    """
    names = [name for name in tensor_names(proto) if name in reference]
    module, _ = import_onnx(proto, names, dims, ranges)
    function = find_function(module)
    *body, end = function.body.block.ops
    named: dict[object, list[str]] = {}
    for value, name in zip(end.operands, names, strict=True):
        named.setdefault(value, []).append(name)
    theirs = {argument: feeds[name] for argument, name in zip(function.args, input_names(function), strict=True)}
    for op in body:
        ours = evaluate(module, op, [theirs[operand] for operand in op.operands], np.float32)
        result = theirs[op.results[0]] = ours
        for name in named.get(op.results[0], ()):
            wanted = reference[name]
            assert ours.shape == wanted.shape, name
            _assert_close(ours, wanted, name, float_tolerance)
            result = wanted.astype(ours.dtype)
        theirs[op.results[0]] = result


def _assert_close(ours: np.ndarray, wanted: np.ndarray, name: str, tolerance: float) -> None:
    if ours.dtype.kind in "iu":
        gap = np.abs(ours.astype(np.int64) - wanted.astype(np.int64))
        assert gap.max(initial=0) <= 1, name
        return
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(ours[~finite], wanted[~finite], name)
    largest = np.abs(wanted[finite]).max(initial=0) or 1.0
    np.testing.assert_allclose(ours[finite] / largest, wanted[finite] / largest, rtol=0, atol=tolerance, err_msg=name)


def dynamic_ranges(proto: onnx.ModelProto, reference: Arrays, feeds: Arrays) -> dict[str, tuple[float, float]]:
    """The ranges that onnxruntime's own dynamic quantization saw."""
    inputs: Iterable[str] = (n.input[0] for n in proto.graph.node if n.op_type.startswith("DynamicQuantize"))
    seen = {**feeds, **reference}
    return {name: (float(seen[name].min()), float(seen[name].max())) for name in inputs}
