"""Read an ONNX model: check it, fix its dimensions, fold what is constant, hand each node to its handler."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, ModuleOp, StringAttr, TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Region
from xdsl.utils.exceptions import VerifyException

from qvit.dialects.provenance import NAME, Remark
from qvit.dialects.semantics.integers import Array
from qvit.dialects.types import element_type
from qvit.frontends.errors import ImportRefused, did_you_mean
from qvit.frontends.onnx.graph import DEFAULT_DOMAINS, Constant, Graph, Node, Value
from qvit.frontends.onnx.handlers import FOLDERS, HANDLERS
from qvit.frontends.recognise import recognise

if TYPE_CHECKING:
    import onnx

OPSETS = range(13, 24)
"""Softmax, Squeeze and Unsqueeze have their present meaning from 13; later changes are known up to 23."""


def load_onnx(path: Path) -> "onnx.ModelProto":
    """The model in a file, with its external data; ImportRefused if it cannot be read."""
    try:
        import onnx
    except ModuleNotFoundError:
        raise ImportRefused("reading ONNX needs the package onnx: pip install 'qvit[onnx]'") from None
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(str(path))  # pyright: ignore[reportUnknownMemberType]
    except DecodeError as error:
        raise ImportRefused(f"{path} is not an ONNX model, or is damaged: {error}") from error
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ImportRefused(f"{path}: external data cannot be read: {error}") from error


def import_onnx(
    model: "onnx.ModelProto", outputs: Sequence[str] = (), dims: Mapping[str, int] | None = None
) -> tuple[ModuleOp, list[Remark]]:
    """Turn an ONNX model into a module with one float function @main.

    outputs: tensors to end at instead of the model's own outputs; dims: values of the symbolic dimensions. Also returns
    what the recognisers declined. ImportRefused names the node that is not understood, what was expected, what to do.
    """
    opset = next((o.version for o in model.opset_import if o.domain in DEFAULT_DOMAINS), 0)
    if opset not in OPSETS:
        raise ImportRefused(
            f"the model uses opset {opset}, expected {OPSETS.start} to {OPSETS.stop - 1};"
            " convert it with onnx.version_converter"
        )
    ends = list(outputs) or [output.name for output in model.graph.output]
    nodes = [_copy(node) for node in _needed(model.graph, ends)]
    block = Block()
    graph = Graph(block, opset)
    _add_initializers(graph, model.graph.initializer, {name for node in nodes for name in node.input} | set(ends))
    names = _add_inputs(graph, model.graph, dict(dims or {}))
    del model  # unless the caller keeps it, its weights are freed here: they are arrays now
    for node in nodes:
        _read_node(graph, node)
    results = [graph.ssa(graph.values[end]) for end in ends]
    del graph
    block.add_op(ReturnOp(*results))
    function = FuncOp(
        "main",
        ([argument.type for argument in block.args], [result.type for result in results]),
        Region(block),
        arg_attrs=_names(names),
        res_attrs=_names(ends),
    )
    module = ModuleOp([function])
    declined = recognise(module)
    try:
        module.verify()
    except VerifyException as error:  # a handler's mistake, or shapes in the file that contradict each other
        raise ImportRefused(f"the imported graph is not consistent: {error}") from error
    return module, declined


def _names(names: Iterable[str]) -> ArrayAttr[DictionaryAttr]:
    return ArrayAttr([DictionaryAttr({NAME: StringAttr(name)}) for name in names])


def _needed(graph: "onnx.GraphProto", ends: Sequence[str]) -> list["onnx.NodeProto"]:
    """The nodes that `ends` depend on, in the graph's order (which ONNX requires to be topological)."""
    producers = {output: node for node in graph.node for output in node.output if output}
    known = {i.name for i in graph.input} | {i.name for i in graph.initializer}
    for end in ends:
        if end not in producers and end not in known:
            raise ImportRefused(f"the graph has no tensor {end!r}{did_you_mean(end, producers, _LIST_TENSORS)}")
    wanted: set[int] = set()
    stack = [producers[end] for end in ends if end in producers]
    while stack:
        node = stack.pop()
        if id(node) in wanted:
            continue
        wanted.add(id(node))
        for name in node.input:
            if name in producers:
                stack.append(producers[name])
            elif name and name not in known:
                raise ImportRefused(
                    f"node {_name(node)!r} ({node.op_type}): nothing makes its input {name!r}; the model is damaged"
                )
    return [node for node in graph.node if id(node) in wanted]


_LIST_TENSORS = "; list its tensors with a viewer such as Netron"


def _name(node: "onnx.NodeProto") -> str:
    return node.name or next((output for output in node.output if output), node.op_type)


def _copy(node: "onnx.NodeProto") -> "onnx.NodeProto":
    """A node that does not keep the model alive."""
    copy = type(node)()
    copy.CopyFrom(node)
    return copy


def _add_initializers(graph: Graph, initializers: Iterable["onnx.TensorProto"], used: set[str]) -> None:
    for tensor in initializers:
        if tensor.name in used:
            graph.values[tensor.name] = Constant(tensor.name, _array(tensor))


def _array(tensor: "onnx.TensorProto") -> Array:
    from onnx import numpy_helper

    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise ImportRefused(f"initializer {tensor.name!r} cannot be read: {error}; the model is damaged") from error


def _add_inputs(graph: Graph, source: "onnx.GraphProto", dims: dict[str, int]) -> list[str]:
    """Block arguments for the graph's inputs; returns their names."""
    from onnx import helper

    names: list[str] = []
    unused = set(dims)
    for value in source.input:
        if value.name in graph.values:
            continue
        shape: list[int] = []
        for dimension in value.type.tensor_type.shape.dim:
            symbol = dimension.dim_param
            if symbol in dims:
                unused.discard(symbol)
                shape.append(dims[symbol])
            elif symbol or dimension.dim_value <= 0:
                raise ImportRefused(
                    f"input {value.name!r} has the dynamic dimension {symbol or '(unnamed)'!r}; "
                    + (f"fix it with --dim {symbol}=1" if symbol else "export the model with static shapes")
                )
            else:
                shape.append(dimension.dim_value)
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        try:
            element = element_type(np.dtype(dtype))
        except ValueError as error:
            raise ImportRefused(f"input {value.name!r}: {error}; convert the model to float32") from None
        argument = graph.block.insert_arg(TensorType(element, shape), len(graph.block.args))
        argument.name_hint = "input"
        graph.values[value.name] = argument
        names.append(value.name)
    if unused:
        known = _symbols(source) or "all static"
        raise ImportRefused(f"no input has the dimension {sorted(unused)[0]!r}; its dimensions are {known}")
    return names


def _symbols(source: "onnx.GraphProto") -> str:
    dimensions = [d for i in source.input for d in i.type.tensor_type.shape.dim]
    return ", ".join(dict.fromkeys(d.dim_param for d in dimensions if d.dim_param))


def _read_node(graph: Graph, proto: "onnx.NodeProto") -> None:
    from onnx import helper

    attributes: dict[str, Any] = {}
    for attribute in proto.attribute:
        if attribute.ref_attr_name or attribute.type in (attribute.GRAPH, attribute.GRAPHS):
            raise ImportRefused(
                f"node {_name(proto)!r} ({proto.op_type}): control flow is not read; export the model without it"
            )
        attributes[attribute.name] = helper.get_attribute_value(attribute)
    inputs = [graph.values[name] if name else None for name in proto.input]
    node = Node(_name(proto), proto.op_type, graph, inputs, attributes, [o for o in proto.output if o])
    handler = HANDLERS.get((_domain(proto), proto.op_type))
    try:
        if proto.op_type not in _NEVER_FOLDED and all(i is None or isinstance(i, Constant) for i in inputs):
            results = _fold(node, proto)
        elif handler is None:
            node.refuse(
                "this operator is not read", "cut the graph before it with --outputs, or export it in other operators"
            )
        else:
            results = handler(node)
    except VerifyException as error:
        raise ImportRefused(f"node {node.name!r} ({node.op_type}): {error}") from error
    if not isinstance(results, list):
        results = [results]
    graph.values.update(zip(node.outputs, results, strict=False))


_NEVER_FOLDED = ("QuantizeLinear", "DequantizeLinear")
"""They say how a constant is stored, which is the whole point."""


def _domain(proto: "onnx.NodeProto") -> str:
    return "" if proto.domain in DEFAULT_DOMAINS else proto.domain


def _fold(node: Node, proto: "onnx.NodeProto") -> list[Value]:
    """Evaluate a node whose inputs are all constants: shape arithmetic, resized position tables, transposed weights."""
    from onnx.reference import ReferenceEvaluator

    arrays = [i.array if isinstance(i, Constant) else None for i in node.inputs]
    folder = FOLDERS.get((_domain(proto), proto.op_type))
    if folder is not None:
        results = [folder(node, arrays)]
    else:
        try:
            evaluator = ReferenceEvaluator(proto, opsets={"": node.graph.opset})
            feeds = {name: array for name, array in zip(proto.input, arrays, strict=True) if name}
            results = evaluator.run(None, feeds)  # pyright: ignore[reportUnknownMemberType]
        except Exception as error:  # the evaluator raises whatever NumPy does
            node.refuse(
                f"cannot be evaluated on constants: {error}", "simplify the model with onnxsim or onnxruntime first"
            )
    return [Constant(name, np.asarray(array)) for name, array in zip(node.outputs, results, strict=False)]
