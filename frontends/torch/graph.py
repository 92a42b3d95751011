"""One exported program being read: nodes whose values are constants, SSA values, or several of these."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, cast

import numpy as np
from xdsl.ir import Operation, SSAValue

from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import Remark
from qvit.dialects.semantics.integers import Array
from qvit.dialects.types import BOOLEAN, element_dtype, element_of, is_float, shape_of
from qvit.frontends.builder import Builder, Constant, Value
from qvit.frontends.errors import ImportRefused

if TYPE_CHECKING:
    import torch

Values: TypeAlias = "Value | list[Value]"
"""What a node makes: one value, or those that getitem takes apart."""


@dataclass
class Node:
    """One call of an aten operator, its arguments looked up and under the names that its schema gives them.

    name: `<path of the module>/<name of the node>`; target: the operator; where: the line of the user's code; fake: what
    torch.export knows of the result (shape and dtype).
    """

    name: str
    target: str
    where: str
    graph: Builder
    arguments: dict[str, Any]
    fake: Any

    def refuse(self, problem: str, advice: str) -> NoReturn:
        raise ImportRefused(f"node {self.name!r} ({self.target}){self.where}: {problem}; {advice}")

    def remark(self, about: str, reason: str) -> None:
        """Tell the user about something that is read, but not quite as it was meant."""
        self.graph.remarks.append(Remark(self.name, about, reason))

    def emit(self, op: Operation) -> SSAValue:
        return self.graph.emit(op, self.name)

    def argument(self, name: str) -> Any:
        """As the program has it: a value, a number, a list of these, or None."""
        return self.arguments.get(name)

    def tensor(self, name: str) -> SSAValue:
        """An argument as an SSA value, which may be a constant; a number becomes one of the result's type."""
        value = self.argument(name)
        if isinstance(value, bool | int | float):
            return self.number(value)
        if not isinstance(value, Constant | SSAValue):
            self.refuse(f"argument {name!r} is {value!r}, expected a tensor", "the exported program is damaged")
        return self.graph.ssa(cast(Value, value))

    def optional(self, name: str) -> SSAValue | None:
        return None if self.argument(name) is None else self.tensor(name)

    def float_tensor(self, name: str) -> SSAValue:
        tensor = self.tensor(name)
        if not is_float(element_of(tensor)):
            self.refuse(
                f"argument {name!r} has elements of type {element_of(tensor)}, expected f32 or f64",
                "only arithmetic on floats and quantized graphs are read",
            )
        return tensor

    def boolean(self, name: str) -> SSAValue:
        tensor = self.tensor(name)
        if element_of(tensor) != BOOLEAN:
            self.refuse(f"argument {name!r} has elements of type {element_of(tensor)}, expected bool", "cast it first")
        return tensor

    def constant(self, name: str, what: str) -> Array:
        """An argument that must be known at import."""
        value = self.argument(name)
        if isinstance(value, Constant):
            return value.array
        self.refuse(f"{what} depends on the model's input", "export the model with shapes and masks that are constant")

    def number(self, number: float, like: SSAValue | None = None) -> SSAValue:
        """A number as a constant of the element type of `like`, or of the result."""
        if like is not None:
            element = element_of(like)
            return self.emit(ConstantOp(np.array(number, element_dtype(element)), element))
        dtype = str(self.fake.dtype).removeprefix("torch.")
        return self.graph.ssa(Constant(f"{self.name}.{number}", np.array(number, dtype)))

    def axis(self, name: str, rank: int) -> int:
        """An axis from 0; torch counts negative ones from the end, and has checked its range."""
        return cast(int, self.argument(name)) % max(rank, 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the result."""
        return tuple(self.fake.shape)

    def widened(self, value: SSAValue) -> SSAValue:
        """A float operand in the type of the result, where torch promotes it."""
        wanted = np.dtype(str(self.fake.dtype).removeprefix("torch."))
        if is_float(element_of(value)) and wanted.kind == "f" and element_dtype(element_of(value)) != wanted:
            self.refuse(
                f"it mixes {element_of(value)} with {wanted}", "convert the model to one type, with model.float()"
            )
        return value


def to_array(tensor: "torch.Tensor") -> Array:
    """A constant tensor as an array."""
    return tensor.detach().cpu().contiguous().numpy()


Handler: TypeAlias = Callable[[Node], Values]
"""From a node to what it makes."""


def shape_of_value(value: Value) -> Sequence[int]:
    return value.array.shape if isinstance(value, Constant) else shape_of(value)
