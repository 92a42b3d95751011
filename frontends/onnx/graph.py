"""One ONNX graph being read: named values, which are constants or SSA values, and the nodes that make them."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import numpy as np
from xdsl.dialects.builtin import IntegerType, Signedness
from xdsl.ir import Attribute, Block, Operation, SSAValue

from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import Remark, set_sources, sources
from qvit.dialects.semantics.integers import Array
from qvit.dialects.types import element_dtype, element_of, element_type, is_float, shape_of
from qvit.frontends.errors import ImportRefused

DEFAULT_DOMAINS = ("", "ai.onnx")


@dataclass
class Constant:
    """A value known at import: folded, or an initializer."""

    name: str
    array: Array


Value = Constant | SSAValue

_NARROW = {
    f"{sign}int{bits}": IntegerType(bits, Signedness.SIGNLESS if not sign else Signedness.UNSIGNED)
    for sign in ("", "u")
    for bits in (2, 4)
}


def storage(dtype: np.dtype[Any]) -> tuple[np.dtype[Any], Attribute]:
    """(NumPy type, element type) of what ONNX holds as `dtype`; ValueError if the dialect has no such type.

    Integers of 2 and 4 bits, which NumPy has no type of its own for, are stored one a byte.
    """
    if (narrow := _NARROW.get(dtype.name)) is not None:
        return element_dtype(narrow), narrow
    element = element_type(dtype)
    return element_dtype(element), element


@dataclass
class Graph:
    """The function under construction."""

    block: Block
    opset: int
    ranges: Mapping[str, tuple[float, float]] | None
    """Measured ranges of tensors that are quantized dynamically; None while they are being measured."""
    remarks: list[Remark] = field(default_factory=list[Remark])
    values: dict[str, Value] = field(default_factory=dict[str, Value])
    _materialized: dict[str, SSAValue] = field(default_factory=dict[str, SSAValue])

    def emit(self, op: Operation, src: str | None = None) -> SSAValue:
        """Append an operation that stands for the node `src`; without one, it belongs to what makes its operand."""
        maker = op.operands[0].owner if src is None else None
        set_sources(op, [src] if src is not None else sources(maker) if isinstance(maker, Operation) else [])
        op.verify(verify_nested_ops=False)
        op.results[0].name_hint = _hint(src) if src is not None else None
        self.block.add_op(op)
        return op.results[0]

    def ssa(self, value: Value) -> SSAValue:
        """An SSA value; a constant becomes one operation, however many use it."""
        if isinstance(value, SSAValue):
            return value
        if value.name not in self._materialized:
            try:
                dtype, element = storage(value.array.dtype)
                constant = ConstantOp(value.array.astype(dtype, copy=False), element)
            except ValueError as error:
                raise ImportRefused(f"constant {value.name!r}: {error}; convert the model to float32") from None
            self._materialized[value.name] = self.emit(constant, value.name)
        return self._materialized[value.name]


def _hint(src: str) -> str | None:
    """The last two parts of a node's name, shortened, as an SSA name: /encoder/layer.0/norm1/Sub -> %norm1_Sub."""
    hint = re.sub(r"[^A-Za-z0-9_]+", "_", "_".join(src.strip("/").split("/")[-2:])).strip("_")
    hint = re.sub(r"_output_\d+", "", hint)
    hint = hint.replace("_DequantizeLinear", "_dq").replace("_QuantizeLinear", "_q")
    hint = "_".join(hint.split("_")[-4:])
    hint = re.sub(r"(_\d+)+$", "", hint).lstrip("_0123456789")  # the printer numbers equal names itself
    return hint or None


@dataclass
class Node:
    """One node with its inputs looked up."""

    name: str
    op_type: str
    graph: Graph
    inputs: list[Value | None]
    input_names: Sequence[str]
    attributes: dict[str, Any]
    outputs: Sequence[str]

    def refuse(self, problem: str, advice: str) -> NoReturn:
        raise ImportRefused(f"node {self.name!r} ({self.op_type}): {problem}; {advice}")

    def remark(self, about: str, reason: str) -> None:
        """Tell the user about something that is read, but not quite as it was meant."""
        self.graph.remarks.append(Remark(self.name, about, reason))

    def emit(self, op: Operation) -> SSAValue:
        return self.graph.emit(op, self.name)

    def has(self, index: int) -> bool:
        return index < len(self.inputs) and self.inputs[index] is not None

    def value(self, index: int) -> Value:
        """Input `index`; refuses if the node does not have it."""
        value = self.inputs[index] if index < len(self.inputs) else None
        if value is None:
            self.refuse(f"input {index} is missing", "the model is damaged: check it with onnx.checker")
        return value

    def tensor(self, index: int) -> SSAValue:
        """Input `index` as an SSA value, which may be a constant."""
        return self.graph.ssa(self.value(index))

    def float_tensor(self, index: int) -> SSAValue:
        tensor = self.tensor(index)
        if not is_float(element_of(tensor)):
            self.refuse(
                f"input {index} has elements of type {element_of(tensor)}, expected f32 or f64",
                "only float and Q/DQ graphs are read",
            )
        return tensor

    def constant(self, index: int, what: str) -> Array:
        """Input `index`, which must be known at import."""
        value = self.value(index)
        if isinstance(value, Constant):
            return value.array
        self.refuse(f"{what} (input {index}) depends on the model's input", "export the model with static shapes")

    def number(self, number: float, like: SSAValue) -> SSAValue:
        """A number as a constant of the element type of `like`."""
        return self.emit(ConstantOp(np.array(number, element_dtype(element_of(like))), element_of(like)))

    def integers(self, index: int, what: str) -> list[int]:
        """Input `index` as a list of integers known at import."""
        array = self.constant(index, what)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            self.refuse(
                f"{what} (input {index}) must be a list of integers, found {array.dtype}{list(array.shape)}",
                "the model is damaged",
            )
        return array.tolist()

    def optional_constant(self, index: int, what: str) -> Array | None:
        return self.constant(index, what) if self.has(index) else None

    def attribute(self, name: str, default: Any) -> Any:
        return self.attributes.get(name, default)

    def axis(self, value: int, rank: int) -> int:
        """An axis from 0; ONNX counts negative ones from the end."""
        if not -rank <= value < rank:
            self.refuse(f"axis {value} is outside the {rank} dimensions of its operand", "the model is damaged")
        return value % rank

    def shape(self, index: int) -> tuple[int, ...]:
        value = self.value(index)
        return value.array.shape if isinstance(value, Constant) else shape_of(value)


Handler: TypeAlias = Callable[[Node], "Value | list[Value]"]
"""From a node to what its outputs are; shorter lists leave outputs out."""

Folder: TypeAlias = Callable[[Node, "Sequence[Array | None]"], Array]
"""From a node and its constant inputs to its output."""
