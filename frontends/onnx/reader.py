"""Read an ONNX model: check it, fix its dimensions, fold what is constant, hand each node to its handler."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from math import prod
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
from qvit.frontends.builder import Constant, Value
from qvit.frontends.errors import ImportRefused, did_you_mean
from qvit.frontends.onnx.graph import DEFAULT_DOMAINS, Graph, Node
from qvit.frontends.onnx.handlers import FOLDERS, HANDLERS
from qvit.frontends.onnx.handlers.dynamic import MEASURED
from qvit.frontends.onnx.schema import require_schema
from qvit.frontends.recognise import recognise

if TYPE_CHECKING:
    import onnx

OPSETS = range(11, 24)
"""What changed between them is known; before 11 Clip and Pad had their bounds as attributes."""


def load_onnx(path: Path) -> "onnx.ModelProto":
    """The model in a file, with its external data; ImportRefused if it cannot be read."""
    try:
        import onnx
    except ModuleNotFoundError:
        raise ImportRefused("reading ONNX needs the package onnx: pip install 'qvit[onnx]'") from None
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path))  # pyright: ignore[reportUnknownMemberType]
    except DecodeError as error:
        raise ImportRefused(f"{path} is not an ONNX model, or is damaged: {error}") from error
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ImportRefused(f"{path}: external data cannot be read: {error}") from error
    if not model.opset_import and not model.graph.node:  # an empty file is a message without fields
        raise ImportRefused(f"{path} is not an ONNX model: it is empty")
    return model


def import_onnx(
    model: "onnx.ModelProto",
    outputs: Sequence[str] = (),
    dims: Mapping[str, int] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> tuple[ModuleOp, list[Remark]]:
    """Turn an ONNX model into a module with one float function @main.

    outputs: tensors to end at instead of the model's own outputs; dims: values of the symbolic dimensions; ranges: lowest
    and highest value of each tensor that the model quantizes dynamically (see import_to_measure), whose scales they freeze.
    Also returns what the recognisers declined. ImportRefused names the node that is not understood, what was expected,
    what to do.
    """
    return _guarded(model, outputs, dims or {}, ranges or {})


def import_to_measure(model: "onnx.ModelProto", dims: Mapping[str, int] | None = None) -> ModuleOp | None:
    """A module whose results are the tensors that the model quantizes dynamically; None if there are none.

    Nothing in it is quantized dynamically: from float results on sample inputs follow the `ranges` of import_onnx.
    """
    measured = dict.fromkeys(node.input[0] for node in model.graph.node if node.op_type in MEASURED)
    return _guarded(model, list(measured), dims or {}, None)[0] if measured else None


def _guarded(
    model: "onnx.ModelProto",
    outputs: Sequence[str],
    dims: Mapping[str, int],
    ranges: Mapping[str, tuple[float, float]] | None,
) -> tuple[ModuleOp, list[Remark]]:
    try:
        return _import(model, outputs, dims, ranges)
    except UnicodeDecodeError as error:
        raise ImportRefused(f"the name of a node or tensor is not text: {error}; the model is damaged") from error


def _import(
    model: "onnx.ModelProto",
    outputs: Sequence[str],
    dims: Mapping[str, int],
    ranges: Mapping[str, tuple[float, float]] | None,
) -> tuple[ModuleOp, list[Remark]]:
    opset = next((o.version for o in model.opset_import if o.domain in DEFAULT_DOMAINS), 0)
    if opset not in OPSETS:
        raise ImportRefused(
            f"the model uses opset {opset}, expected {OPSETS.start} to {OPSETS.stop - 1};"
            " convert it with onnx.version_converter"
        )
    ends = list(dict.fromkeys(outputs or [output.name for output in model.graph.output]))
    if not ends:
        raise ImportRefused("the model has no outputs; name the tensors to end at with --outputs")
    needed = _needed(model.graph, ends)
    used = {name for node in needed for name in node.input} | set(ends)
    nodes = [_copy(node, used) for node in needed]
    block = Block()
    graph = Graph(block, opset=opset, ranges=ranges)
    _add_initializers(graph, model.graph.initializer, used)
    names = _add_inputs(graph, model.graph, dims)
    del model  # unless the caller keeps it, its weights are freed here: they are arrays now
    for node in nodes:
        _read_node(graph, node)
    for end in ends:
        if end not in graph.values:
            raise ImportRefused(f"the tensor {end!r} is not made: its node's operator has no such output that is read")
    results = [graph.ssa(graph.values[end]) for end in ends]
    remarks = graph.remarks
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
    remarks += recognise(module)
    try:
        module.verify()
    except VerifyException as error:  # a handler's mistake, or shapes in the file that contradict each other
        raise ImportRefused(f"the imported graph is not consistent: {error}") from error
    return module, remarks


def _names(names: Iterable[str]) -> ArrayAttr[DictionaryAttr]:
    return ArrayAttr([DictionaryAttr({NAME: StringAttr(name)}) for name in names])


def _needed(graph: "onnx.GraphProto", ends: Sequence[str]) -> list["onnx.NodeProto"]:
    """The nodes that `ends` depend on, each behind those whose outputs it takes."""
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
    return _ordered([node for node in graph.node if id(node) in wanted], producers)


def _ordered(nodes: list["onnx.NodeProto"], producers: Mapping[str, "onnx.NodeProto"]) -> list["onnx.NodeProto"]:
    """The nodes as they come where that is topological, as ONNX asks; sorted where it is not."""
    made: set[str] = set()
    for node in nodes:
        if any(name in producers and name not in made for name in node.input):
            break
        made.update(node.output)
    else:
        return nodes
    by_id = {id(node): node for node in nodes}
    before = {id(node): [id(producers[name]) for name in node.input if name in producers] for node in nodes}
    try:
        return [by_id[i] for i in TopologicalSorter(before).static_order()]
    except CycleError as error:
        names = ", ".join(repr(_name(by_id[i])) for i in error.args[1])
        raise ImportRefused(f"nodes depend on each other in a circle: {names}; the model is damaged") from None


_LIST_TENSORS = "; list its tensors with a viewer such as Netron"


def _name(node: "onnx.NodeProto") -> str:
    return node.name or next((output for output in node.output if output), node.op_type)


def _copy(node: "onnx.NodeProto", used: set[str]) -> "onnx.NodeProto":
    """A node that does not keep the model alive, without the trailing outputs that nothing uses."""
    copy = type(node)()
    copy.CopyFrom(node)
    while copy.output and copy.output[-1] not in used:
        copy.output.pop()
    copy.domain = "" if node.domain in DEFAULT_DOMAINS else node.domain
    return copy


def _add_initializers(graph: Graph, initializers: Iterable["onnx.TensorProto"], used: set[str]) -> None:
    for tensor in initializers:
        if tensor.name in used:
            graph.values[tensor.name] = Constant(tensor.name, _array(tensor))


def _array(tensor: "onnx.TensorProto") -> Array:
    from onnx import numpy_helper

    try:
        return numpy_helper.to_array(tensor)
    except Exception as error:  # also the checker's own, for external data that was not loaded
        raise ImportRefused(f"initializer {tensor.name!r} cannot be read: {error}; the model is damaged") from error


def _add_inputs(graph: Graph, source: "onnx.GraphProto", dims: Mapping[str, int]) -> list[str]:
    """Block arguments for the graph's inputs; returns their names."""
    from onnx import helper

    names: list[str] = []
    unused = set(dims)
    stored = {tensor.name for tensor in source.initializer}
    for value in source.input:
        if value.name in stored:  # before IR version 4, initializers were listed as inputs too
            continue
        if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
            raise ImportRefused(f"input {value.name!r} is no tensor of known rank; export the model with static shapes")
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
        try:
            element = element_type(np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)))
        except KeyError:
            number = value.type.tensor_type.elem_type
            raise ImportRefused(f"input {value.name!r} has no known element type ({number})") from None
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
    for name in proto.input:
        if name and name not in graph.values:
            raise ImportRefused(
                f"node {_name(proto)!r} ({proto.op_type}): its input {name!r} is an output that is not read of the"
                " node that makes it; export the model for inference"
            )
    inputs = [graph.values[name] if name else None for name in proto.input]
    node = Node(_name(proto), proto.op_type, graph, inputs, list(proto.input), attributes, list(proto.output))
    handler = HANDLERS.get((proto.domain, proto.op_type))
    try:
        if not proto.domain:
            require_schema(node)
        if proto.op_type not in _NEVER_FOLDED and all(i is None or isinstance(i, Constant) for i in inputs):
            results = _fold(node, proto)
        elif handler is None:
            domain = f" (domain {proto.domain})" if proto.domain else ""
            node.refuse(
                f"this operator is not read{domain}",
                "cut the graph before it with --outputs, or export it in other operators",
            )
        else:
            results = handler(node)
    except VerifyException as error:
        raise ImportRefused(f"node {node.name!r} ({node.op_type}): {error}") from error
    except _DAMAGE as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        node.refuse(f"it breaks the rules of its operator ({what})", "check the model with onnx.checker")
    if not isinstance(results, list):
        results = [results]
    graph.values.update((name, value) for name, value in zip(node.outputs, results, strict=False) if name)


_DAMAGE = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    MemoryError,
    struct.error,
)
"""What handlers run into when attributes or constants are of another kind, shape or size than ONNX says."""

_NEVER_FOLDED = (
    "QuantizeLinear",
    "DequantizeLinear",
    "Quant",
    "IntQuant",
    "BipolarQuant",
    "Trunc",
    "Cast",
    "Clip",
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
)
"""The first say how a constant is stored, which is the whole point; the random ones are no constants."""


_LARGEST = 1 << 31
"""Bytes of a folded constant, which a few bytes of the file may ask for."""


def _folded_size(op_type: str, arrays: Sequence[Array | None]) -> int:
    """The bytes of what an operator makes that can be larger than its operands; 0 for the others."""
    match op_type, arrays:
        case "ConstantOfShape", [np.ndarray() as shape]:
            return 4 * prod(shape.tolist())
        case "Expand", [np.ndarray() as x, np.ndarray() as shape]:
            return x.itemsize * prod(shape.tolist())
        case "Tile", [np.ndarray() as x, np.ndarray() as repeats]:
            return x.nbytes * prod(repeats.tolist())
        case "Range", [np.ndarray() as start, np.ndarray() as limit, np.ndarray() as delta] if delta.all():
            return start.itemsize * max(0, int((limit - start) / delta))
        case _:
            return 0


def _fold(node: Node, proto: "onnx.NodeProto") -> list[Value]:
    """Evaluate a node whose inputs are all constants: shape arithmetic, resized position tables, transposed weights."""
    from onnx.reference import ReferenceEvaluator

    arrays = [i.array if isinstance(i, Constant) else None for i in node.inputs]
    if (size := _folded_size(proto.op_type, arrays)) > _LARGEST:
        node.refuse(f"its result would have {size:,} bytes", f"constants have at most {_LARGEST:,}")
    folder = FOLDERS.get((proto.domain, proto.op_type))
    if folder is not None:
        results = [folder(node, arrays)]
    else:
        try:
            evaluator = ReferenceEvaluator(proto, opsets={"": node.graph.opset})
            feeds = {name: array for name, array in zip(proto.input, arrays, strict=True) if name}
            results = evaluator.run(None, feeds)  # pyright: ignore[reportUnknownMemberType]
        except Exception as error:  # the evaluator raises whatever NumPy does
            reason = (str(error).splitlines() or [""])[0]
            node.refuse(
                f"cannot be evaluated on constants: {reason}", "simplify the model with onnxsim or onnxruntime first"
            )
    return [Constant(name, np.asarray(array)) for name, array in zip(node.outputs, results, strict=False)]
