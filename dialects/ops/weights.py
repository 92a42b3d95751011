"""Constants: references into weight files, and small tensors written in place."""

from typing import ClassVar

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
from xdsl.traits import ConstantLike, Pure

from qvit.dialects.attributes import dense
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

    assembly_format = "$value attr-dict"

    def __init__(self, value: Array | DenseIntOrFPElementsAttr, element: Attribute | None = None) -> None:
        attr = value if isinstance(value, DenseIntOrFPElementsAttr) else dense(value, element)
        super().__init__(properties={"value": attr}, result_types=[attr.type])

    def verify_(self) -> None:
        element_dtype(element_of(self.result))
