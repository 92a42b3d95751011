"""Softmax, elementwise functions and layer normalisation on codes, by an integer approximation."""

from abc import ABC
from collections.abc import Sequence
from typing import ClassVar

from xdsl.dialects.builtin import TensorType
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import (
    AttrSizedOperandSegments,
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.traits import Pure

from qvit.dialects.approximation_attributes import ApproximationAttr
from qvit.dialects.approximations.base import (
    Approximation,
    FunctionApproximation,
    LayerNormApproximation,
    SoftmaxApproximation,
)
from qvit.dialects.attributes import ZeroPointAttr
from qvit.dialects.ops.checks import require, require_in_range, require_integer, require_mask, require_shape
from qvit.dialects.types import shape_of


class ApproximatedOp(IRDLOperation, ABC):
    """What the three share: codes, the tables of an approximation, and the attribute with its integers."""

    FAMILY: ClassVar[type[Approximation]]
    WHAT: ClassVar[str]

    input = operand_def(TensorType)
    tables = var_operand_def(TensorType)
    approximation = prop_def(ApproximationAttr)

    traits = traits_def(Pure())

    def _verify_family(self) -> None:
        require_integer("input", self.input)
        found = self.approximation.data
        require(isinstance(found, self.FAMILY), f"approximation: {found.name} is not one of {self.WHAT}")
        names = found.tables
        require(
            len(self.tables) == len(names),
            f"tables: {found.name} takes {len(names)} ({', '.join(names) or 'none'}), found {len(self.tables)}",
        )
        for name, table in zip(names, self.tables, strict=True):
            require_integer(name, table)
            require(len(shape_of(table)) == 1, f"{name}: expected a vector, found {table.type}")


@irdl_op_definition
class IntSoftmaxOp(ApproximatedOp):
    """Softmax over the last axis, by an approximation, on codes whose scale is part of its constants.

    Entries where `mask` (it broadcasts) is 0 take no part, their result is 0. `#qvit.sm8_late` has a second result, the
    row sums [..., 1] that `qvit.requantize` divides by behind the product with the values.

    ```mlir
    %p = qvit.int_softmax %x tables(%t : tensor<256xui16>) by #qvit.sm8<top = 255> : (tensor<3x17x17xi8>) -> tensor<3x17x17xui8>
    ```
    """

    name = "qvit.int_softmax"

    FAMILY: ClassVar[type[Approximation]] = SoftmaxApproximation
    WHAT: ClassVar[str] = "softmax"

    # again, for those of a base come behind a class's own, and the mask shall be last
    input = operand_def(TensorType)
    tables = var_operand_def(TensorType)
    mask = opt_operand_def(TensorType)
    outputs = var_result_def(TensorType)

    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    assembly_format = (
        "$input (`tables` `(` $tables^ `:` type($tables) `)`)? (`mask` `(` $mask^ `:` type($mask) `)`)?"
        " `by` $approximation attr-dict `:` functional-type($input, results)"
    )

    def __init__(
        self,
        input: SSAValue,
        approximation: Approximation,
        tables: Sequence[SSAValue],
        elements: Sequence[Attribute],
        mask: SSAValue | None = None,
    ) -> None:
        shape = shape_of(input)
        shapes = [shape, *[(*shape[:-1], 1)] * (len(elements) - 1)]
        super().__init__(
            operands=[input, tables, mask],
            properties={"approximation": ApproximationAttr.of(approximation)},
            result_types=[[TensorType(e, s) for e, s in zip(elements, shapes, strict=True)]],
        )

    def verify_(self) -> None:
        self._verify_family()
        shape = shape_of(self.input)
        require(len(shape) >= 1, "input: expected at least one dimension, found a scalar")
        approximation = self.approximation.data
        assert isinstance(approximation, SoftmaxApproximation)
        shapes = (shape, (*shape[:-1], 1))[: 1 + approximation.late]
        require(
            len(self.outputs) == len(shapes),
            f"results: {approximation.name} has {len(shapes)}, found {len(self.outputs)}",
        )
        for result, expected in zip(self.outputs, shapes, strict=True):
            require_integer("result", result)
            require_shape(result, expected)
        require_mask(self.mask, self.input)


@irdl_op_definition
class IntFunctionOp(ApproximatedOp):
    """A function of each element, by an approximation: from codes less `input_zero_point` to codes.

    ```mlir
    %y = qvit.int_function %x tables(%t : tensor<256xi8>) by #qvit.table<lowest = -128> : (tensor<17x384xi8>) -> tensor<17x384xi8>
    ```
    """

    name = "qvit.int_function"

    FAMILY: ClassVar[type[Approximation]] = FunctionApproximation
    WHAT: ClassVar[str] = "elementwise functions"

    input_zero_point = opt_prop_def(ZeroPointAttr)
    result = result_def(TensorType)

    assembly_format = (
        "$input (`tables` `(` $tables^ `:` type($tables) `)`)? (`input_zero_point` $input_zero_point^)?"
        " `by` $approximation attr-dict `:` functional-type($input, results)"
    )

    def __init__(
        self,
        input: SSAValue,
        approximation: Approximation,
        tables: Sequence[SSAValue],
        element: Attribute,
        input_zero_point: int = 0,
    ) -> None:
        super().__init__(
            operands=[input, tables],
            properties={
                "approximation": ApproximationAttr.of(approximation),
                "input_zero_point": ZeroPointAttr.of(input_zero_point) if input_zero_point else None,
            },
            result_types=[TensorType(element, shape_of(input))],
        )

    def verify_(self) -> None:
        self._verify_family()
        found = self.approximation.data
        assert isinstance(found, FunctionApproximation)
        require(not found.rowwise or len(shape_of(self.input)) >= 1, f"input: {found.name} takes rows, found a scalar")
        require_integer("result", self.result)
        require_shape(self.result, shape_of(self.input))
        if self.input_zero_point is not None:
            one = self.input_zero_point.number is not None
            require(one, "input_zero_point: only one zero point for the whole tensor is possible here")
            require_in_range("input", self.input_zero_point, require_integer("input", self.input))


@irdl_op_definition
class IntLayerNormOp(ApproximatedOp):
    """Layer normalisation over the last axis, gamma and beta included, by an approximation, on codes of one scale.

    ```mlir
    %y = qvit.int_layer_norm %x tables(%g, %b : tensor<96xi32>, tensor<96xi32>) by #qvit.ln<guard = 16, epsilon = 0> : (tensor<17x96xi16>) -> tensor<17x96xi8>
    ```
    """

    name = "qvit.int_layer_norm"

    FAMILY: ClassVar[type[Approximation]] = LayerNormApproximation
    WHAT: ClassVar[str] = "layer normalisation"

    result = result_def(TensorType)

    assembly_format = (
        "$input (`tables` `(` $tables^ `:` type($tables) `)`)? `by` $approximation attr-dict"
        " `:` functional-type($input, results)"
    )

    def __init__(
        self, input: SSAValue, approximation: Approximation, tables: Sequence[SSAValue], element: Attribute
    ) -> None:
        super().__init__(
            operands=[input, tables],
            properties={"approximation": ApproximationAttr.of(approximation)},
            result_types=[TensorType(element, shape_of(input))],
        )

    def verify_(self) -> None:
        self._verify_family()
        require(len(shape_of(self.input)) >= 1, "input: expected at least one dimension, found a scalar")
        require_integer("result", self.result)
        require_shape(self.result, shape_of(self.input))
        channels, approximation = shape_of(self.input)[-1], self.approximation.data
        assert isinstance(approximation, LayerNormApproximation)
        for name, table in zip(approximation.tables, self.tables, strict=True):
            length = approximation.table_length(name, channels)
            each = "one number" if length == channels else f"{length // channels} numbers"
            require(shape_of(table) == (length,), f"{name}: expected {each} a channel, ({length},), found {table.type}")
