"""One ONNX graph being read: named values, which are constants or SSA values, and the nodes that make them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import numpy as np
from xdsl.ir import Operation, SSAValue

from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import Remark
from qvit.dialects.semantics.integers import Array
from qvit.dialects.types import element_dtype, element_of, is_float, shape_of
from qvit.frontends.builder import Builder, Constant, Value
from qvit.frontends.errors import ImportRefused

DEFAULT_DOMAINS = ("", "ai.onnx")


@dataclass
class Graph(Builder):
    """The function that an ONNX graph becomes."""

    opset: int = 0
    ranges: Mapping[str, tuple[float, float]] | None = None
    """Measured ranges of tensors that are quantized dynamically; None while they are being measured."""
    values: dict[str, Value] = field(default_factory=dict[str, Value])


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
