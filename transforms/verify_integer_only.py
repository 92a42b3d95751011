"""--verify-integer-only: prove that no floating point is left."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from xdsl.context import Context
from xdsl.dialects.builtin import AnyFloat, ArrayAttr, DictionaryAttr, FloatAttr, ModuleOp, TensorType
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Operation, ParametrizedAttribute
from xdsl.passes import ModulePass
from xdsl.utils.exceptions import DiagnosticException
from xdsl.utils.hints import isa

from qvit.dialects.functions import INTEGER_ONLY
from qvit.dialects.provenance import describe


@dataclass(frozen=True)
class FloatLeft:
    """An operation that keeps a float: its source node, its kind, and where the float is."""

    src: str
    op: str
    where: str


def _holds_float(attribute: Attribute) -> bool:
    """Whether a type or attribute is, or contains, a float."""
    if isinstance(attribute, AnyFloat | FloatAttr):
        return True
    if isa(attribute, TensorType):
        return _holds_float(attribute.element_type)
    if isa(attribute, ArrayAttr):
        return any(map(_holds_float, attribute))
    if isinstance(attribute, DictionaryAttr):
        return any(map(_holds_float, attribute.data.values()))
    return isinstance(attribute, ParametrizedAttribute) and any(map(_holds_float, attribute.parameters))


def _floats_of(op: Operation) -> Iterator[str]:
    for i, operand in enumerate(op.operands):
        if _holds_float(operand.type):
            yield f"operand {i} {operand.type}"
    for i, result in enumerate(op.results):
        if _holds_float(result.type):
            yield f"result {i} {result.type}"
    for name, attribute in (op.properties | op.attributes).items():
        if _holds_float(attribute):
            yield f"attribute {name}"


def checked_functions(module: ModuleOp) -> list[FuncOp]:
    """The functions tagged `qvit.integer_only`; without a tag, @main; without that, all."""
    functions = [op for op in module.walk() if isinstance(op, FuncOp)]
    tagged = [f for f in functions if INTEGER_ONLY in f.attributes]
    return tagged or [f for f in functions if f.sym_name.data == "main"] or functions


def floats_left(module: ModuleOp) -> list[FloatLeft]:
    """Every operation of the checked functions that has a float type or attribute, in program order."""
    found: list[FloatLeft] = []
    for function in checked_functions(module):
        for op in function.walk():
            where = ", ".join(_floats_of(op))
            if where:
                src = f"@{op.sym_name.data}" if isinstance(op, FuncOp) else describe(op)
                found.append(FloatLeft(src, op.name, where))
    return found


@dataclass(frozen=True)
class VerifyIntegerOnlyPass(ModulePass):
    """Fail if any operation keeps a float type, attribute or constant; name each with its source node.

    It checks the functions tagged `qvit.integer_only`, else @main. `report-only` prints the list on stderr and goes on.
    The module is not changed.
    """

    name: ClassVar[str] = "verify-integer-only"

    report_only: bool = False

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        found = floats_left(op)
        if not found:
            return
        lines = [f"{len(found)} operations keep a float:", *(f"  {f.src}: {f.op} ({f.where})" for f in found)]
        if not self.report_only:
            raise DiagnosticException("\n".join(["verify-integer-only: " + lines[0], *lines[1:]]))
        sys.stderr.write("\n".join(lines) + "\n")
