"""Operations that only move elements: any element type, the same in the result."""

from collections.abc import Sequence
from math import prod

from xdsl.dialects.builtin import DenseArrayBase, IntegerAttr, TensorType, i64
from xdsl.interfaces import HasCanonicalizationPatternsInterface, HasFolderInterface
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    irdl_op_definition,
    operand_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
)
from xdsl.pattern_rewriter import RewritePattern
from xdsl.traits import Pure

from qvit.dialects.ops.checks import require, require_element, require_integer, require_shape
from qvit.dialects.ops.products import ints
from qvit.dialects.types import broadcast_shapes, element_of, shape_of


@irdl_op_definition
class ReshapeOp(IRDLOperation, HasFolderInterface, HasCanonicalizationPatternsInterface):
    """The same elements in row-major order, in another shape.

    ```mlir
    %y = qvit.reshape %x : tensor<17x96xi8> -> tensor<17x3x32xi8>
    ```
    """

    name = "qvit.reshape"

    input = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())

    assembly_format = "$input attr-dict `:` type($input) `->` type($result)"

    def __init__(self, input: SSAValue, shape: Sequence[int]) -> None:
        super().__init__(operands=[input], result_types=[TensorType(element_of(input), shape)])

    def verify_(self) -> None:
        before, after = shape_of(self.input), shape_of(self.result)
        require(prod(before) == prod(after), f"result: {prod(after)} elements in {after}, {prod(before)} in {before}")
        require_element("result", self.result, element_of(self.input))

    def fold(self) -> list[SSAValue | Attribute] | None:
        """reshape to the same shape => x. bit-exact."""
        return [self.input] if self.input.type == self.result.type else None

    @classmethod
    def get_canonicalization_patterns(cls) -> tuple[RewritePattern, ...]:
        from qvit.transforms.canonicalization import ReshapeOfReshape

        return (ReshapeOfReshape(),)


@irdl_op_definition
class TransposeOp(IRDLOperation, HasFolderInterface, HasCanonicalizationPatternsInterface):
    """Dimension i of the result is dimension permutation[i] of the operand.

    ```mlir
    %y = qvit.transpose %x [1, 0, 2] : tensor<17x3x32xi8> -> tensor<3x17x32xi8>
    ```
    """

    name = "qvit.transpose"

    input = operand_def(TensorType)
    permutation = prop_def(DenseArrayBase.constr(i64))
    result = result_def(TensorType)

    traits = traits_def(Pure())

    assembly_format = "$input $permutation attr-dict `:` type($input) `->` type($result)"

    def __init__(self, input: SSAValue, permutation: Sequence[int]) -> None:
        shape = shape_of(input)
        super().__init__(
            operands=[input],
            properties={"permutation": ints(permutation)},
            result_types=[TensorType(element_of(input), [shape[p] for p in permutation])],
        )

    @property
    def order(self) -> tuple[int, ...]:
        return self.permutation.get_values()

    def verify_(self) -> None:
        shape = shape_of(self.input)
        require(
            sorted(self.order) == list(range(len(shape))),
            f"permutation: expected an order of 0..{len(shape) - 1}, found {list(self.order)}",
        )
        require_shape(self.result, [shape[p] for p in self.order])
        require_element("result", self.result, element_of(self.input))

    def fold(self) -> list[SSAValue | Attribute] | None:
        """transpose that keeps the order => x. bit-exact."""
        return [self.input] if list(self.order) == sorted(self.order) else None

    @classmethod
    def get_canonicalization_patterns(cls) -> tuple[RewritePattern, ...]:
        from qvit.transforms.canonicalization import TransposeOfTranspose

        return (TransposeOfTranspose(),)


@irdl_op_definition
class SliceOp(IRDLOperation, HasFolderInterface):
    """`size` elements along `axis` from `start`, every `step`-th; a negative step walks backwards.

    ```mlir
    %y = qvit.slice %x axis 1 start 32 size 64 step 1 : tensor<17x96xi8> -> tensor<17x64xi8>
    ```
    """

    name = "qvit.slice"

    input = operand_def(TensorType)
    axis = prop_def(IntegerAttr.constr(i64))
    start = prop_def(IntegerAttr.constr(i64))
    size = prop_def(IntegerAttr.constr(i64))
    step = prop_def(IntegerAttr.constr(i64))
    result = result_def(TensorType)

    traits = traits_def(Pure())

    assembly_format = (
        "$input `axis` $axis `start` $start `size` $size `step` $step attr-dict `:` type($input) `->` type($result)"
    )

    def __init__(self, input: SSAValue, axis: int, start: int, size: int, step: int = 1) -> None:
        shape = list(shape_of(input))
        shape[axis] = size
        names = {"axis": axis, "start": start, "size": size, "step": step}
        super().__init__(
            operands=[input],
            properties={name: IntegerAttr(value, i64) for name, value in names.items()},
            result_types=[TensorType(element_of(input), shape)],
        )

    @property
    def extent(self) -> tuple[int, int, int, int]:
        """(axis, start, size, step) as plain numbers."""
        return self.axis.value.data, self.start.value.data, self.size.value.data, self.step.value.data

    def verify_(self) -> None:
        shape = list(shape_of(self.input))
        axis, start, size, step = self.extent
        require(0 <= axis < len(shape), f"axis: {axis} is outside the {len(shape)} dimensions of {self.input.type}")
        last = start + (size - 1) * step
        require(
            size >= 1 and step != 0 and 0 <= start < shape[axis] and 0 <= last < shape[axis],
            f"elements {start}, {start + step}, .. {last} are not all in the {shape[axis]} of dimension {axis}",
        )
        shape[axis] = size
        require_shape(self.result, shape)
        require_element("result", self.result, element_of(self.input))

    def fold(self) -> list[SSAValue | Attribute] | None:
        """slice of everything => x. bit-exact."""
        return [self.input] if self.input.type == self.result.type and self.extent[3] == 1 else None


@irdl_op_definition
class ConcatOp(IRDLOperation, HasFolderInterface):
    """The operands one after another along `axis`.

    ```mlir
    %y = qvit.concat %a, %b axis 0 : (tensor<1x96xi8>, tensor<16x96xi8>) -> tensor<17x96xi8>
    ```
    """

    name = "qvit.concat"

    inputs = var_operand_def(TensorType)
    axis = prop_def(IntegerAttr.constr(i64))
    result = result_def(TensorType)

    traits = traits_def(Pure())

    assembly_format = "$inputs `axis` $axis attr-dict `:` functional-type(operands, results)"

    def __init__(self, inputs: Sequence[SSAValue], axis: int) -> None:
        super().__init__(
            operands=[inputs],
            properties={"axis": IntegerAttr(axis, i64)},
            result_types=[TensorType(element_of(inputs[0]), concat_shape([shape_of(i) for i in inputs], axis))],
        )

    def verify_(self) -> None:
        require(len(self.inputs) > 0, "inputs: expected at least one, found none")
        shapes = [shape_of(value) for value in self.inputs]
        require_shape(self.result, concat_shape(shapes, self.axis.value.data))
        for value in self.inputs:
            require_element("result", self.result, element_of(value))

    def fold(self) -> list[SSAValue | Attribute] | None:
        """concat of one operand => x. bit-exact."""
        return [self.inputs[0]] if len(self.inputs) == 1 else None


def concat_shape(shapes: Sequence[Sequence[int]], axis: int) -> tuple[int, ...]:
    """The shapes must agree outside `axis`, where they add up; VerifyException if they do not."""
    first = shapes[0]
    require(0 <= axis < len(first), f"axis: {axis} is outside the {len(first)} dimensions of the operands")
    others = {tuple(d for i, d in enumerate(s) if i != axis) for s in shapes}
    same = len(others) == 1 and len({len(s) for s in shapes}) == 1
    require(same, f"inputs: shapes {', '.join(map(str, shapes))} differ outside axis {axis}")
    return (*first[:axis], sum(s[axis] for s in shapes), *first[axis + 1 :])


@irdl_op_definition
class GatherOp(IRDLOperation):
    """The operand's slices at `indices` along `axis`, which is replaced by the shape of the indices.

    ```mlir
    %y = qvit.gather %x, %i axis 0 : (tensor<100x96xi8>, tensor<17xi32>) -> tensor<17x96xi8>
    ```
    """

    name = "qvit.gather"

    input = operand_def(TensorType)
    indices = operand_def(TensorType)
    axis = prop_def(IntegerAttr.constr(i64))
    result = result_def(TensorType)

    traits = traits_def(Pure())

    assembly_format = "$input `,` $indices `axis` $axis attr-dict `:` functional-type(operands, results)"

    def __init__(self, input: SSAValue, indices: SSAValue, axis: int) -> None:
        before = shape_of(input)
        super().__init__(
            operands=[input, indices],
            properties={"axis": IntegerAttr(axis, i64)},
            result_types=[TensorType(element_of(input), (*before[:axis], *shape_of(indices), *before[axis + 1 :]))],
        )

    def verify_(self) -> None:
        require_integer("indices", self.indices)
        before, axis = shape_of(self.input), self.axis.value.data
        require(0 <= axis < len(before), f"axis: {axis} is outside the {len(before)} dimensions of {self.input.type}")
        require_shape(self.result, (*before[:axis], *shape_of(self.indices), *before[axis + 1 :]))
        require_element("result", self.result, element_of(self.input))


@irdl_op_definition
class BroadcastOp(IRDLOperation, HasFolderInterface):
    """The operand repeated to a larger shape by NumPy's rules.

    ```mlir
    %y = qvit.broadcast %x : tensor<1x96xi8> -> tensor<4x1x96xi8>
    ```
    """

    name = "qvit.broadcast"

    input = operand_def(TensorType)
    result = result_def(TensorType)

    traits = traits_def(Pure())

    assembly_format = "$input attr-dict `:` type($input) `->` type($result)"

    def __init__(self, input: SSAValue, shape: Sequence[int]) -> None:
        super().__init__(operands=[input], result_types=[TensorType(element_of(input), shape)])

    def verify_(self) -> None:
        require_shape(self.result, broadcast_shapes(shape_of(self.input), shape_of(self.result)))
        require_element("result", self.result, element_of(self.input))

    def fold(self) -> list[SSAValue | Attribute] | None:
        """broadcast to the same shape => x. bit-exact."""
        return [self.input] if self.input.type == self.result.type else None
