"""Constants: references into weight files, and small tensors written in place."""

from typing import ClassVar

import numpy as np
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr, StringAttr, TensorType
from xdsl.ir import Attribute
from xdsl.irdl import (
    AnyAttr,
    IRDLOperation,
    ParamAttrConstraint,
    VarConstraint,
    base,
    irdl_op_definition,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import ConstantLike, Pure
from xdsl.utils.hints import isa

from qvit.dialects.attributes import dense, dense_array
from qvit.dialects.semantics.integers import Array
from qvit.dialects.types import element_dtype, element_of, tensor_type


@irdl_op_definition
class WeightOp(IRDLOperation):
    """The tensor stored under a key in one of the module's weight files (attribute `qvit.weights`).

    ```mlir
    %w = qvit.weight "blocks.0.fc1" : tensor<384x96xi8>
    ```
    """

    name = "qvit.weight"

    key = prop_def(StringAttr)
    result = result_def(TensorType)

    traits = traits_def(Pure())

    assembly_format = "$key attr-dict `:` type($result)"

    def __init__(self, key: str, type: TensorType[Attribute]) -> None:
        super().__init__(properties={"key": StringAttr(key)}, result_types=[type])

    def verify_(self) -> None:
        tensor_type(self.result)
        element_dtype(element_of(self.result))


@irdl_op_definition
class ConstantOp(IRDLOperation):
    """A tensor written in place. Large ones move into a weight file when the module is written.

    ```mlir
    %c = qvit.constant dense<[1, 2, 3]> : tensor<3xi8>
    ```
    """

    name = "qvit.constant"

    T: ClassVar = VarConstraint("T", base(TensorType))

    result = result_def(T)
    value = prop_def(ParamAttrConstraint(DenseIntOrFPElementsAttr, (T, AnyAttr())))

    traits = traits_def(Pure(), ConstantLike())

    def __init__(self, value: Array | DenseIntOrFPElementsAttr, element: Attribute | None = None) -> None:
        attr = value if isinstance(value, DenseIntOrFPElementsAttr) else dense(value, element)
        super().__init__(properties={"value": attr}, result_types=[attr.type])

    def verify_(self) -> None:
        element_dtype(element_of(self.result))

    def print(self, printer: Printer) -> None:
        printer.print_string(" ")
        values = dense_array(self.value)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            # an infinity among the numbers is written as its bits, 0xff800000, which xDSL reads as an integer
            printer.print_string(f'dense<"0x{values.tobytes().hex().upper()}"> : ')
            printer.print_attribute(self.value.type)
        else:
            printer.print_attribute(self.value)
        printer.print_op_attributes(self.attributes)

    @classmethod
    def parse(cls, parser: Parser) -> "ConstantOp":
        at = parser.pos
        value = parser.parse_attribute()
        if not isa(value, DenseIntOrFPElementsAttr):
            parser.raise_error("expected a dense tensor", at)
        attributes = parser.parse_optional_attr_dict()
        constant = cls(value)
        constant.attributes.update(attributes)
        return constant
