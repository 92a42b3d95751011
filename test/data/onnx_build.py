"""Small ONNX models for tests, what onnxruntime computes from them, and how results are compared."""

from ast import literal_eval
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, helper, numpy_helper
from xdsl.dialects.builtin import ModuleOp

Arrays = Mapping[str, np.ndarray]

IR_VERSION = 10  # the first with the types of opset 21; onnxruntime reads newer ones only later than onnx writes them


def node(op: str, inputs: str, outputs: str, domain: str = "", **attributes: Any) -> NodeProto:
    """A node called like its first output; inputs and outputs are separated by blanks, `-` leaves one out."""
    names = [["" if name == "-" else name for name in text.split()] for text in (inputs, outputs)]
    return helper.make_node(op, *names, name=names[1][0], domain=domain, **attributes)


def graph(text: str) -> list[NodeProto]:
    """Nodes, one a line: `first second = Operator operands attribute=[1,0]`, without blanks in an attribute."""
    nodes: list[NodeProto] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        results, _, call = line.partition(" = ")
        op, *words = call.split()
        attributes = {key: literal_eval(value) for key, _, value in (w.partition("=") for w in words) if value}
        nodes.append(node(op, " ".join(w for w in words if "=" not in w), results, **attributes))
    return nodes


def model(
    nodes: Sequence[NodeProto],
    feeds: Arrays,
    outputs: str,
    constants: Arrays | None = None,
    *,
    opset: int = 17,
    dims: Mapping[str, Sequence[int | str]] | None = None,
) -> onnx.ModelProto:
    """Inputs have the shapes and types of `feeds`, or the `dims` (names are dynamic); `constants` become initializers."""
    declared = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), (dims or {}).get(name, array.shape)
        )
        for name, array in feeds.items()
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        declared,
        [helper.make_empty_tensor_value_info(name) for name in outputs.split()],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(domain, 1) for domain in {n.domain: None for n in nodes if n.domain}]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def run_ort(proto: onnx.ModelProto, feeds: Arrays) -> dict[str, np.ndarray]:
    """What onnxruntime computes, one node after the other as written."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in proto.graph.output]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def assert_same(found: Arrays, expected: Arrays, tolerance: float = 1e-5) -> None:
    """Integers are equal, truth values as 0 and 1; floats are close, relative to the largest of the tensor."""
    assert list(found) == list(expected)
    for name, want in expected.items():
        got = found[name]
        assert got.shape == want.shape, name
        if want.dtype.kind == "b":
            want = want.astype(np.uint8)
        if want.dtype.kind in "iu":
            assert got.dtype == want.dtype, name
            np.testing.assert_array_equal(got, want, name)
        else:
            assert got.dtype.kind == "f", name
            scale = max(1.0, float(np.abs(want).max(initial=0)))
            np.testing.assert_allclose(got / scale, want / scale, rtol=0, atol=tolerance, err_msg=name)


def opcounts(module: ModuleOp) -> dict[str, int]:
    """How often each operation of the dialect occurs, without its prefix; constants are not counted."""
    names = [op.name.removeprefix("qvit.") for op in module.walk() if op.name.startswith("qvit.")]
    return {name: names.count(name) for name in sorted(set(names) - {"constant", "weight"})}
