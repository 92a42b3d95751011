"""Elementwise operations.

add, sub, mul, clip, compare and select take floats or integers; the rest are float functions that imports need.
"""

from abc import ABC
from math import isfinite
from typing import ClassVar

from xdsl.dialects.builtin import I64, Float64Type, FloatAttr, IntegerAttr, StringAttr, TensorType, f64, i32, i64
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    ParsePropInAttrDict,
    VarConstraint,
    base,
    irdl_op_definition,
    operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.traits import Commutative, Pure

from qvit.dialects.ops.checks import require, require_element, require_float, require_shape, takes_integers
from qvit.dialects.types import BOOLEAN, broadcast_shapes, element_dtype, element_of, integer_of, is_float, shape_of


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


@irdl_op_definition
class ClipOp(IRDLOperation):
    """y = min(max(x, low), high), either bound optional. Bounds of integers are integers in the range of their type.

    ```mlir
    %y = qvit.clip %x {low = -7 : i64, high = 7 : i64} : tensor<17x96xi4>
    ```
    """

    name = "qvit.clip"

    T: ClassVar = VarConstraint("T", base(TensorType))

    input = operand_def(T)
    low = opt_prop_def(FloatAttr[Float64Type] | IntegerAttr[I64])
    high = opt_prop_def(FloatAttr[Float64Type] | IntegerAttr[I64])
    result = result_def(T)

    traits = traits_def(Pure())

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$input attr-dict `:` type($result)"

    def __init__(self, input: SSAValue, low: float | None, high: float | None) -> None:
        bounds = {name: bound for name, bound in (("low", low), ("high", high)) if bound is not None}
        whole = integer_of(input) is not None
        super().__init__(
            operands=[input],
            properties={n: IntegerAttr(int(b), i64) if whole else FloatAttr(b, f64) for n, b in bounds.items()},
            result_types=[input.type],
        )

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """(low, high), None for one that is not given."""
        low, high = (None if bound is None else bound.value.data for bound in (self.low, self.high))
        return low, high

    def verify_(self) -> None:
        element_dtype(element_of(self.input))
        codes = integer_of(self.input)
        for name, bound in (("low", self.low), ("high", self.high)):
            if bound is None:
                continue
            number = bound.value.data
            if codes is None:
                require(isinstance(bound, FloatAttr) and isfinite(number), f"{name}: expected a float, found {bound}")
            else:
                fits = isinstance(bound, IntegerAttr) and codes.lo <= number <= codes.hi
                require(fits, f"{name}: expected an integer of {codes} ({codes.lo}..{codes.hi}), found {bound}")
        low, high = self.bounds
        require(low is None or high is None or low <= high, f"bounds: expected low <= high, found {low} and {high}")


@irdl_op_definition
class CompareOp(IRDLOperation):
    """1 where a relation holds, else 0: eq, ne, lt, le, gt, ge. As in IEEE 754, NaN is only `ne` to anything.

    ```mlir
    %y = qvit.compare %a, %b {predicate = "lt"} : (tensor<1x17xi32>, tensor<i32>) -> tensor<1x17xui1>
    ```
    """

    name = "qvit.compare"

    PREDICATES: ClassVar = ("eq", "ne", "lt", "le", "gt", "ge")

    lhs = operand_def(TensorType)
    rhs = operand_def(TensorType)
    predicate = prop_def(StringAttr)
    result = result_def(TensorType)

    traits = traits_def(Pure())

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$lhs `,` $rhs attr-dict `:` functional-type(operands, results)"

    def __init__(self, lhs: SSAValue, rhs: SSAValue, predicate: str) -> None:
        shape = broadcast_shapes(shape_of(lhs), shape_of(rhs))
        super().__init__(
            operands=[lhs, rhs],
            properties={"predicate": StringAttr(predicate)},
            result_types=[TensorType(BOOLEAN, shape)],
        )

    def verify_(self) -> None:
        found, known = self.predicate.data, self.PREDICATES
        require(found in known, f"predicate: expected one of {', '.join(known)}, found {found!r}")
        element_dtype(element_of(self.lhs))
        require_element("rhs", self.rhs, element_of(self.lhs))
        require_element("result", self.result, BOOLEAN)
        require_shape(self.result, broadcast_shapes(shape_of(self.lhs), shape_of(self.rhs)))


@irdl_op_definition
class SelectOp(IRDLOperation):
    """y = a where the condition is 1, b where it is 0; all three are broadcast against each other.

    ```mlir
    %y = qvit.select %c, %a, %b : (tensor<1x17xui1>, tensor<f32>, tensor<3x17x17xf32>) -> tensor<3x17x17xf32>
    ```
    """

    name = "qvit.select"

    condition = operand_def(TensorType)
    lhs = operand_def(TensorType)
    rhs = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())

    assembly_format = "$condition `,` $lhs `,` $rhs attr-dict `:` functional-type(operands, results)"

    def __init__(self, condition: SSAValue, lhs: SSAValue, rhs: SSAValue) -> None:
        shape = broadcast_shapes(shape_of(condition), shape_of(lhs), shape_of(rhs))
        super().__init__(operands=[condition, lhs, rhs], result_types=[TensorType(element_of(lhs), shape)])

    def verify_(self) -> None:
        require_element("condition", self.condition, BOOLEAN)
        element_dtype(element_of(self.lhs))
        require_element("rhs", self.rhs, element_of(self.lhs))
        require_element("result", self.result, element_of(self.lhs))
        require_shape(self.result, broadcast_shapes(shape_of(self.condition), shape_of(self.lhs), shape_of(self.rhs)))
