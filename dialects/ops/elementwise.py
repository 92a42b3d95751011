"""Elementwise operations.

add, sub, mul, clip, compare and select take floats or integers; the rest are float functions that imports need.
"""

from abc import ABC
from math import isfinite
from typing import ClassVar, TypeAlias

import numpy as np
from xdsl.dialects.builtin import (
    I64,
    DenseIntOrFPElementsAttr,
    Float64Type,
    FloatAttr,
    IntegerAttr,
    StringAttr,
    TensorType,
    f64,
    i32,
    i64,
)
from xdsl.interfaces import HasFolderInterface
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

from qvit.dialects.attributes import Dense, dense, dense_array, vector_length, verify_axis
from qvit.dialects.ops.checks import require, require_element, require_float, require_shape, takes_integers
from qvit.dialects.semantics.integers import Array
from qvit.dialects.types import (
    BOOLEAN,
    broadcast_shapes,
    element_dtype,
    element_of,
    integer_of,
    is_float,
    shape_of,
    tensor_type,
)


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


Bound: TypeAlias = float | Array


@irdl_op_definition
class ClipOp(IRDLOperation, HasFolderInterface):
    """y = min(max(x, low), high), either bound optional. Bounds of integers are integers in the range of their type.

    Of integers a bound may also be a vector, one for each index of `axis`, as for heads that have fewer bits than their
    type: `qvit.clip %x {low = dense<[-2, -4]> : tensor<2xi64>, high = 3 : i64, axis = 0 : i64} : tensor<2x17xi4>`.

    ```mlir
    %y = qvit.clip %x {low = -7 : i64, high = 7 : i64} : tensor<17x96xi4>
    ```
    """

    name = "qvit.clip"

    T: ClassVar = VarConstraint("T", base(TensorType))

    input = operand_def(T)
    low = opt_prop_def(FloatAttr[Float64Type] | IntegerAttr[I64] | DenseIntOrFPElementsAttr)
    high = opt_prop_def(FloatAttr[Float64Type] | IntegerAttr[I64] | DenseIntOrFPElementsAttr)
    axis = opt_prop_def(IntegerAttr.constr(i64))
    result = result_def(T)

    traits = traits_def(Pure())

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$input attr-dict `:` type($result)"

    def __init__(self, input: SSAValue, low: Bound | None, high: Bound | None, axis: int | None = None) -> None:
        whole = integer_of(input) is not None
        properties: dict[str, Attribute] = {}
        for name, bound in (("low", low), ("high", high)):
            if isinstance(bound, np.ndarray):
                properties[name] = dense(bound.astype(np.int64), i64)
            elif bound is not None:
                properties[name] = IntegerAttr(int(bound), i64) if whole else FloatAttr(bound, f64)
        if axis is not None and any(isinstance(bound, np.ndarray) for bound in (low, high)):
            properties["axis"] = IntegerAttr(axis, i64)
        super().__init__(operands=[input], properties=properties, result_types=[input.type])

    @property
    def bounds(self) -> tuple[Bound | None, Bound | None]:
        """(low, high), None for one that is not given; a vector has as many dimensions as the input, and broadcasts."""
        low, high = map(self._bound, (self.low, self.high))
        return low, high

    def _bound(self, bound: Dense | FloatAttr[Float64Type] | IntegerAttr[I64] | None) -> Bound | None:
        if bound is None or isinstance(bound, FloatAttr | IntegerAttr):
            return None if bound is None else bound.value.data
        axis = self.axis.value.data if self.axis is not None else 0
        return dense_array(bound).reshape([-1 if i == axis else 1 for i in range(len(shape_of(self.input)))])

    def verify_(self) -> None:
        element_dtype(element_of(self.input))
        codes, bounds = integer_of(self.input), {"low": self.low, "high": self.high}
        vectors = any(isinstance(bound, DenseIntOrFPElementsAttr) for bound in bounds.values())
        require(vectors == (self.axis is not None), "axis must be given exactly when a bound is a vector")
        for name, bound in bounds.items():
            if bound is None:
                continue
            if codes is None:
                found = isinstance(bound, FloatAttr) and isfinite(bound.value.data)
                require(found, f"{name}: expected a float, found {bound}")
                continue
            if isinstance(bound, DenseIntOrFPElementsAttr):
                require(bound.get_element_type() == i64, f"{name}: expected a vector of i64, found {bound.type}")
                axis = 0 if self.axis is None else self.axis.value.data
                verify_axis(axis, vector_length(bound), tensor_type(self.input), name)
                numbers = dense_array(bound)
            else:
                numbers = np.array(bound.value.data)
            fits = not isinstance(bound, FloatAttr) and ((codes.lo <= numbers) & (numbers <= codes.hi)).all()
            require(bool(fits), f"{name}: expected an integer of {codes} ({codes.lo}..{codes.hi}), found {bound}")
        low, high = self.bounds
        ordered = low is None or high is None or bool(np.all(np.less_equal(low, high)))
        require(ordered, f"bounds: expected low <= high, found {low} and {high}")

    def fold(self) -> list[SSAValue | Attribute] | None:
        """x => x where all codes of the type are in the bounds. bit-exact."""
        codes, (low, high) = integer_of(self.input), self.bounds
        if codes is None:
            return None
        open_below = low is None or bool(np.all(np.equal(low, codes.lo)))
        open_above = high is None or bool(np.all(np.equal(high, codes.hi)))
        return [self.input] if open_below and open_above else None


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
