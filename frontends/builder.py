"""The function that a reader builds: constants and SSA values, and the operations that stand for source nodes."""

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from xdsl.dialects.builtin import IntegerType, Signedness
from xdsl.ir import Attribute, Block, Operation, SSAValue

from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import Remark, set_sources, sources
from qvit.dialects.semantics.integers import Array
from qvit.dialects.types import element_dtype, element_type
from qvit.frontends.errors import ImportRefused


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
    """(NumPy type, element type) of what a model holds as `dtype`; ValueError if the dialect has no such type.

    Integers of 2 and 4 bits, which NumPy has no type of its own for, are stored one a byte.
    """
    if (narrow := _NARROW.get(dtype.name)) is not None:
        return element_dtype(narrow), narrow
    element = element_type(dtype)
    return element_dtype(element), element


@dataclass
class Builder:
    """The function under construction."""

    block: Block
    remarks: list[Remark] = field(default_factory=list[Remark])
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
