"""Read an exported program: fold what is constant, hand each call to its handler."""

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, ModuleOp, StringAttr, TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Region, SSAValue
from xdsl.utils.exceptions import VerifyException

from qvit.dialects.provenance import NAME, Remark
from qvit.dialects.types import element_type
from qvit.frontends.builder import Builder, Constant, Value
from qvit.frontends.errors import ImportRefused, did_you_mean
from qvit.frontends.recognise import recognise
from qvit.frontends.torch.graph import Node, Values, to_array
from qvit.frontends.torch.handlers import DROPPED, HANDLERS

if TYPE_CHECKING:
    import torch

OBSERVERS = ("activation_post_process", "observer", "fake_quant")
"""What PT2E and its relatives call the modules that watch tensors before a model is converted."""


def from_exported(
    exported: "torch.export.ExportedProgram", outputs: Sequence[str] = ()
) -> tuple[ModuleOp, list[Remark]]:
    """Turn what torch.export.export made into a module with one float function @main.

    The graph is read as exported, with linear layers and attention whole: do not run its decompositions. outputs: names of
    nodes to end at instead of the model's own results. Also returns what the recognisers declined. ImportRefused names the
    node that is not understood, the line of the model's code that it comes from, and what to do.
    """
    _require_program(exported)
    return _Reader(exported).read(list(dict.fromkeys(outputs)))


def load_exported(path: Path) -> "torch.export.ExportedProgram":
    """What torch.export.save wrote to a file (.pt2); ImportRefused if it cannot be read."""
    try:
        import torch
    except ModuleNotFoundError:
        raise ImportRefused("reading .pt2 needs the package torch: pip install 'qvit[torch]'") from None
    try:
        return torch.export.load(str(path))
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises what it likes for a file that it did not write
        raise ImportRefused(f"{path} is not a program of torch.export.save, or is damaged: {error}") from error


def _require_program(exported: object) -> None:
    import torch

    if isinstance(exported, torch.export.ExportedProgram):
        return
    found = type(exported).__name__
    if isinstance(exported, torch.fx.GraphModule):
        for node in exported.graph.nodes:
            if node.op == "call_module" and any(word in str(node.target) for word in OBSERVERS):
                raise ImportRefused(
                    f"node {node.name!r}: an observer is still in the graph; run samples through the model, convert it with"
                    " convert_pt2e, and export the result"
                )
    raise ImportRefused(
        f"expected a torch.export.ExportedProgram, found {found}: torch.export.export(model.eval(), inputs)"
    )


class _Reader:
    def __init__(self, exported: "torch.export.ExportedProgram") -> None:
        self.exported = exported
        self.builder = Builder(Block())
        self.values: dict[Any, Values] = {}
        self.tensors: dict[Any, torch.Tensor] = {}
        """What is constant, as torch has it, so that torch folds it."""
        self.names: list[str] = []
        self.state: set[int] = set()
        """Where the parameters and buffers of the model lie in memory."""

    def read(self, ends: list[str]) -> tuple[ModuleOp, list[Remark]]:
        signature = self.exported.graph_signature
        for spec in signature.output_specs:
            if spec.kind.name in ("BUFFER_MUTATION", "USER_INPUT_MUTATION", "PARAMETER_MUTATION"):
                raise ImportRefused(
                    f"the model writes to {spec.target!r} while it runs; a compiled model has no state: call model.eval(),"
                    " or leave caches and running statistics out"
                )
        nodes = list(self.exported.graph_module.graph.nodes)
        if ends:
            known = {node.name: node for node in nodes if node.op == "call_function"}
            for end in ends:
                if end not in known:
                    raise ImportRefused(f"the program has no node {end!r}{did_you_mean(end, known)}")
            wanted = [known[end] for end in ends]
        else:
            wanted = self._results(nodes[-1])
            ends = [spec.arg.name for spec in signature.output_specs if spec.kind.name == "USER_OUTPUT"]
        needed = _needed(wanted)
        for node in nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node in needed:
                self._node(node)
        return self._module([self._result(node) for node in wanted], ends)

    # --- nodes ---

    def _placeholder(self, node: Any) -> None:
        spec = next(s for s in self.exported.graph_signature.input_specs if s.arg.name == node.name)
        if spec.kind.name != "USER_INPUT":
            held: dict[Any, Any] = {**self.exported.constants, **self.exported.state_dict}
            tensor = held[spec.target]
            self.tensors[node] = tensor
            self.state.add(tensor.untyped_storage().data_ptr())
            return
        fake = node.meta.get("val")
        if not _is_tensor(fake):
            self.values[node] = []  # a number or None that export has put into the graph
            return
        if not all(isinstance(d, int) for d in fake.shape):
            raise ImportRefused(
                f"input {node.name!r} has the dynamic shape {list(fake.shape)}; compiled models have static shapes:"
                " export without dynamic_shapes, one program for each shape"
            )
        try:
            element = element_type(np.dtype(_dtype_name(fake.dtype)))
        except (TypeError, ValueError):
            raise ImportRefused(
                f"input {node.name!r} has elements of type {fake.dtype}; convert the model with model.float()"
            ) from None
        argument = self.builder.block.insert_arg(TensorType(element, list(fake.shape)), len(self.builder.block.args))
        argument.name_hint = "input"
        self.values[node] = argument
        self.names.append(node.name)

    def _constant(self, name: str, tensor: "torch.Tensor") -> Constant:
        try:
            return Constant(name, to_array(tensor))
        except TypeError:
            raise ImportRefused(
                f"{name!r} has elements of type {tensor.dtype}; convert the model with model.float()"
            ) from None

    def _node(self, node: Any) -> None:
        if node.op == "get_attr":
            found = operator.attrgetter(node.target)(self.exported.graph_module)
            if not _is_tensor(found):
                self._refuse(node, "control flow is not read", "write the model without torch.cond and loops")
            self.tensors[node] = found
        elif node.op == "call_module":
            self._refuse(node, *_of_module(node.target))
        elif node.target is operator.getitem:
            parts, index = node.args
            if parts in self.tensors:
                self.tensors[node] = self.tensors[parts][index]
                return
            values = self.values[parts]
            assert isinstance(values, list)
            if index >= len(values):
                self._refuse(node, f"result {index} of {parts.name} is not read", "export the model for inference")
            self.values[node] = values[index]
        elif node.op == "call_function":
            self._call(node)

    def _call(self, node: Any) -> None:
        schema = getattr(node.target, "_schema", None)
        if schema is None or not str(node.target).startswith(("aten.", "quantized_decomposed.", "torchao.")):
            self._refuse(node, *_unknown(node.target))
        if self._fold(node):
            return
        target = str(node.target)
        names = [argument.name for argument in schema.arguments]
        bound = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
        bound |= dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
        if target in DROPPED:
            self.values[node] = []
            return
        found = Node(
            _name(node),
            target,
            _where(node),
            self.builder,
            {name: self._look_up(value) for name, value in bound.items()},
            node.meta.get("val"),
        )
        in_place = schema.name.rpartition("::")[2].endswith("_") and target not in HANDLERS
        handler = HANDLERS.get(target.replace("_.", ".", 1) if in_place else target)
        if handler is None:
            self._refuse(node, *_unread(target))
        try:
            made = handler(found)
        except VerifyException as error:
            self._refuse(node, str(error), "report it with the model's code: a handler is wrong")
        except (TypeError, ValueError, LookupError) as error:
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            self._refuse(node, f"it is not called as expected ({what})", "check which version of torch exported it")
        self.values[node] = made
        if in_place:
            self._overwrite(node, made)

    def _overwrite(self, node: Any, made: Values) -> None:
        """An operator such as relu_ writes over its operand, which later users then see."""
        written = node.args[0]
        later = False
        for user in list(written.users):
            later = later or (user is not node and user > node)
        if later and (str(written.target) in _VIEWS or any(str(u.target) in _VIEWS for u in written.users)):
            self._refuse(node, "it writes to a tensor that has views", "use the operation that is not in place")
        self.values[written] = made

    def _look_up(self, argument: Any) -> Any:
        if isinstance(argument, list | tuple):
            return [self._look_up(item) for item in cast(Sequence[Any], argument)]
        if type(argument).__name__ in ("SymInt", "SymFloat", "SymBool"):
            raise ImportRefused(f"the size {argument} is dynamic; export without dynamic_shapes")
        return self._value(argument) if hasattr(argument, "op") and hasattr(argument, "target") else argument

    def _value(self, node: Any) -> Values:
        """What a node makes; a constant as it is now, for others may write to it later."""
        if node not in self.tensors:
            return self.values[node]
        return self._constant(node.target if node.op == "get_attr" else self._state_name(node), self.tensors[node])

    def _state_name(self, node: Any) -> str:
        """A parameter by its path, anything else by its node."""
        if node.op != "placeholder":
            return node.name
        return next(s.target for s in self.exported.graph_signature.input_specs if s.arg.name == node.name) or node.name

    def _fold(self, node: Any) -> bool:
        """Compute what depends on constants alone; how a constant is quantized stays in the program."""
        import torch

        target = str(node.target)
        if target.startswith(("quantized_decomposed.", "torchao.")) or target in _RANDOM:
            return False
        inputs = node.all_input_nodes
        if any(i not in self.tensors for i in inputs):
            return False
        if any(isinstance(a, torch.SymInt) for a in node.args):
            return False
        if node.target._schema.is_mutable:
            written = self.tensors[inputs[0]].untyped_storage().data_ptr()
            if written in self.state:
                self._refuse(node, "it writes to the model's state", "leave running statistics and caches out")

        def concrete(argument: Any) -> Any:
            if isinstance(argument, list | tuple):
                return [concrete(item) for item in cast(Sequence[Any], argument)]
            return self.tensors[argument] if argument in inputs else argument

        with torch.no_grad():
            made: Any = node.target(
                *[concrete(a) for a in node.args], **{k: concrete(v) for k, v in node.kwargs.items()}
            )
        self.tensors[node] = made
        return True

    def _refuse(self, node: Any, problem: str, advice: str) -> NoReturn:
        raise ImportRefused(f"node {_name(node)!r} ({node.target}){_where(node)}: {problem}; {advice}")

    # --- results ---

    def _results(self, output: Any) -> list[Any]:
        specs = self.exported.graph_signature.output_specs
        made = output.args[0]
        nodes: list[Any] = []
        for spec, node in zip(specs, made, strict=True):
            if spec.kind.name != "USER_OUTPUT":
                continue
            if not hasattr(node, "op"):
                raise ImportRefused(f"the model returns {node!r}, expected tensors; wrap it to return tensors alone")
            nodes.append(node)
        return nodes

    def _result(self, node: Any) -> SSAValue:
        value = self._value(node)
        if isinstance(value, list):
            raise ImportRefused(f"the result {node.name!r} is several tensors; return them one by one")
        return self.builder.ssa(value)

    def _module(self, results: list[SSAValue], ends: list[str]) -> tuple[ModuleOp, list[Remark]]:
        block = self.builder.block
        block.add_op(ReturnOp(*results))
        function = FuncOp(
            "main",
            ([argument.type for argument in block.args], [result.type for result in results]),
            Region(block),
            arg_attrs=_names(self.names),
            res_attrs=_names(ends),
        )
        module = ModuleOp([function])
        remarks = self.builder.remarks + recognise(module)
        module.verify()
        return module, remarks


def _names(names: Sequence[str]) -> ArrayAttr[DictionaryAttr]:
    return ArrayAttr([DictionaryAttr({NAME: StringAttr(name)}) for name in names])


def _needed(wanted: Sequence[Any]) -> set[Any]:
    """The nodes that `wanted` depend on, themselves included."""
    found: set[Any] = set()
    stack = list(wanted)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack += node.all_input_nodes
    return found


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _dtype_name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _name(node: Any) -> str:
    """`<path of the innermost module>/<name of the node>`."""
    stack: dict[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if path]
    return f"{paths[-1]}/{node.name}" if paths else node.name


def _where(node: Any) -> str:
    """` at file:line`, of the innermost frame of the model's own code; nothing where export kept none."""
    trace = (node.meta.get("stack_trace") or "").strip().splitlines()
    frames = [line.strip() for line in trace if line.strip().startswith("File ")]
    if not frames:
        return ""
    own = [frame for frame in frames if "/torch/nn/" not in frame and "/torch/_" not in frame]
    file, line = (own or frames)[-1].split(", ")[:2]
    return f" at {file.removeprefix('File ').strip(chr(34))}:{line.removeprefix('line ')}"


def _of_module(target: str) -> tuple[str, str]:
    if any(word in target for word in OBSERVERS):
        return "an observer is still in the graph", "run samples through it, then convert_pt2e, and export that"
    return "a call of a module is not read", "export the model with torch.export.export"


def _unknown(target: Any) -> tuple[str, str]:
    name = getattr(target, "__name__", str(target))
    if type(target).__name__ == "HigherOrderOperator" or "higher_order" in str(target):
        return f"control flow ({name}) is not read", "write the model without torch.cond, loops and checkpointing"
    if name in ("sym_size", "ge", "le", "eq", "mul", "add", "floordiv", "sub"):
        return "it computes with a dynamic size", "export without dynamic_shapes"
    return "this operator is not read", "write that part of the model with operators of torch"


def _unread(target: str) -> tuple[str, str]:
    if "fake_quantize" in target:
        return "training's fake quantizers are still in the graph", "convert the model first, or train with prepare_qat"
    if target.startswith("aten._native_batch_norm") or "bernoulli" in target:
        return "it belongs to training", "call model.eval() before torch.export.export"
    if "as_strided" in target:
        return "a view by strides is not read", "write it with reshape, permute and slices"
    return (
        "this operator is not read",
        "cut the program before it (outputs=[...]), or write it in other operators",
    )


_VIEWS = ("aten.view.default", "aten.slice.Tensor", "aten.select.int", "aten.transpose.int", "aten.permute.default")
_RANDOM = ("aten.dropout.default", "aten.bernoulli.default", "aten.rand.default", "aten.randn.default")

__all__ = ["Value", "from_exported"]
