"""Elementwise operations. add, sub and mul take floats or integers; the rest are float functions that imports need."""

from abc import ABC
from typing import ClassVar

from xdsl.dialects.builtin import TensorType, i32
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import IRDLOperation, VarConstraint, base, irdl_op_definition, operand_def, result_def, traits_def
from xdsl.traits import Commutative, Pure

from qvit.dialects.ops.checks import require_float, require_shape, takes_integers
from qvit.dialects.types import broadcast_shapes, element_of, is_float, shape_of


class ArithmeticOp(IRDLOperation, ABC):
    """Two operands, broadcast against each other: all floats, or all integers into an accumulator type."""

    lhs = operand_def(TensorType)
    rhs = operand_def(TensorType)
    result = result_def(TensorType)

    assembly_format = "$lhs `,` $rhs attr-dict `:` functional-type(operands, results)"

    def __init__(self, lhs: SSAValue, rhs: SSAValue, accumulator: Attribute = i32) -> None:
        shape = broadcast_shapes(shape_of(lhs), shape_of(rhs))
        element = element_of(lhs) if is_float(element_of(lhs)) else accumulator
        super().__init__(operands=[lhs, rhs], result_types=[TensorType(element, shape)])

    def verify_(self) -> None:
        takes_integers(self.result, lhs=self.lhs, rhs=self.rhs)
        require_shape(self.result, broadcast_shapes(shape_of(self.lhs), shape_of(self.rhs)))


@irdl_op_definition
class AddOp(ArithmeticOp):
    """y = a + b. Integers: exact; a sum that does not fit the result is an error.

    ```mlir
    %y = qvit.add %a, %b : (tensor<17x96xf32>, tensor<96xf32>) -> tensor<17x96xf32>
    ```
    """

    name = "qvit.add"

    traits = traits_def(Pure(), Commutative())


@irdl_op_definition
class SubOp(ArithmeticOp):
    """y = a - b. Integers: exact; a difference that does not fit the result is an error.

    ```mlir
    %y = qvit.sub %a, %b : (tensor<17x96xi8>, tensor<17x1xi8>) -> tensor<17x96xi32>
    ```
    """

    name = "qvit.sub"

    traits = traits_def(Pure())


@irdl_op_definition
class MulOp(ArithmeticOp):
    """y = a * b. Integers: exact; a product that does not fit the result is an error.

    ```mlir
    %y = qvit.mul %a, %b : (tensor<17x96xf32>, tensor<f32>) -> tensor<17x96xf32>
    ```
    """

    name = "qvit.mul"

    traits = traits_def(Pure(), Commutative())


class FloatBinaryOp(IRDLOperation, ABC):
    """Two float operands, broadcast against each other."""

    lhs = operand_def(TensorType)
    rhs = operand_def(TensorType)
    result = result_def(TensorType)

    assembly_format = "$lhs `,` $rhs attr-dict `:` functional-type(operands, results)"

    def __init__(self, lhs: SSAValue, rhs: SSAValue) -> None:
        shape = broadcast_shapes(shape_of(lhs), shape_of(rhs))
        super().__init__(operands=[lhs, rhs], result_types=[TensorType(element_of(lhs), shape)])

    def verify_(self) -> None:
        require_float(lhs=self.lhs, rhs=self.rhs, result=self.result)
        require_shape(self.result, broadcast_shapes(shape_of(self.lhs), shape_of(self.rhs)))


@irdl_op_definition
class DivOp(FloatBinaryOp):
    """y = a / b.

    ```mlir
    %y = qvit.div %a, %b : (tensor<17x96xf32>, tensor<17x1xf32>) -> tensor<17x96xf32>
    ```
    """

    name = "qvit.div"

    traits = traits_def(Pure())


@irdl_op_definition
class PowOp(FloatBinaryOp):
    """y = a ^ b.

    ```mlir
    %y = qvit.pow %a, %b : (tensor<17x96xf32>, tensor<f32>) -> tensor<17x96xf32>
    ```
    """

    name = "qvit.pow"

    traits = traits_def(Pure())


class FloatUnaryOp(IRDLOperation, ABC):
    """One float operand, a result of the same type."""

    T: ClassVar = VarConstraint("T", base(TensorType))

    input = operand_def(T)
    result = result_def(T)

    assembly_format = "$input attr-dict `:` type($result)"

    def __init__(self, input: SSAValue) -> None:
        super().__init__(operands=[input], result_types=[input.type])

    def verify_(self) -> None:
        require_float(input=self.input)


@irdl_op_definition
class SqrtOp(FloatUnaryOp):
    """y = sqrt(x).

    ```mlir
    %y = qvit.sqrt %x : tensor<17x1xf32>
    ```
    """

    name = "qvit.sqrt"

    traits = traits_def(Pure())


@irdl_op_definition
class ErfOp(FloatUnaryOp):
    """y = 2 / sqrt(pi) * integral of exp(-t^2) from 0 to x.

    ```mlir
    %y = qvit.erf %x : tensor<17x96xf32>
    ```
    """

    name = "qvit.erf"

    traits = traits_def(Pure())


@irdl_op_definition
class TanhOp(FloatUnaryOp):
    """y = tanh(x).

    ```mlir
    %y = qvit.tanh %x : tensor<17x96xf32>
    ```
    """

    name = "qvit.tanh"

    traits = traits_def(Pure())


@irdl_op_definition
class SigmoidOp(FloatUnaryOp):
    """y = 1 / (1 + exp(-x)).

    ```mlir
    %y = qvit.sigmoid %x : tensor<1x1x8x8xf32>
    ```
    """

    name = "qvit.sigmoid"

    traits = traits_def(Pure())


@irdl_op_definition
class ReluOp(FloatUnaryOp):
    """y = max(x, 0).

    ```mlir
    %y = qvit.relu %x : tensor<1x64x8x8xf32>
    ```
    """

    name = "qvit.relu"

    traits = traits_def(Pure())
