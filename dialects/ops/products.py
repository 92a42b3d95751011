"""Matrix products and convolutions: on floats, or on integers with zero points into an accumulator type."""

from collections.abc import Sequence

from xdsl.dialects.builtin import DenseArrayBase, IntegerAttr, IntegerType, Signedness, TensorType, i32, i64
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    ParsePropInAttrDict,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.traits import Pure

from qvit.dialects.attributes import ZeroPointAttr
from qvit.dialects.ops.checks import (
    require,
    require_element,
    require_float,
    require_integer,
    require_shape,
    require_zero_point,
    takes_integers,
)
from qvit.dialects.types import broadcast_shapes, element_of, is_float, shape_of


def ints(values: Sequence[int]) -> DenseArrayBase[IntegerType]:
    """A small array of i64, for strides, permutations and shapes."""
    return DenseArrayBase.from_list(i64, list(values))


def _zero_point(value: int | ZeroPointAttr | None) -> ZeroPointAttr | None:
    """Zero is the default and is not written."""
    attr = ZeroPointAttr.of(value) if isinstance(value, int) else value
    return None if attr is None or attr.number == 0 else attr


def _element(operand: SSAValue, accumulator: Attribute) -> Attribute:
    """The element type of a product: the accumulator's for integers, the operand's own for floats."""
    return element_of(operand) if is_float(element_of(operand)) else accumulator


def matmul_shape(lhs: Sequence[int], rhs: Sequence[int]) -> tuple[int, ...]:
    """[..., M, K] x [..., K, N] -> [..., M, N]; VerifyException if they do not fit."""
    require(len(lhs) >= 2 and len(rhs) >= 2, f"lhs, rhs: expected at least two dimensions, found {lhs} and {rhs}")
    require(lhs[-1] == rhs[-2], f"lhs, rhs: contracted dimensions differ: {lhs[-1]} in {lhs}, {rhs[-2]} in {rhs}")
    return (*broadcast_shapes(lhs[:-2], rhs[:-2]), lhs[-2], rhs[-1])


@irdl_op_definition
class MatmulOp(IRDLOperation):
    """Product of two tensors over their last two dimensions: C = A B; the leading dimensions broadcast.

    Integers: C = sum_k (A_ik - lhs_zero_point)(B_kj - rhs_zero_point), exact, into the accumulator type of the result
    (i32 or i64); a sum that does not fit is an error, so passes prove that none can.

    ```mlir
    %c = qvit.matmul %a, %b lhs_zero_point <128> : (tensor<3x17x32xui8>, tensor<3x32x17xi8>) -> tensor<3x17x17xi32>
    ```
    """

    name = "qvit.matmul"

    lhs = operand_def(TensorType)
    rhs = operand_def(TensorType)
    lhs_zero_point = opt_prop_def(ZeroPointAttr)
    rhs_zero_point = opt_prop_def(ZeroPointAttr)
    result = result_def(TensorType)

    traits = traits_def(Pure())

    assembly_format = (
        "$lhs `,` $rhs (`lhs_zero_point` $lhs_zero_point^)? (`rhs_zero_point` $rhs_zero_point^)? attr-dict"
        " `:` functional-type(operands, results)"
    )

    def __init__(
        self,
        lhs: SSAValue,
        rhs: SSAValue,
        zero_points: tuple[int | ZeroPointAttr | None, int | ZeroPointAttr | None] = (None, None),
        accumulator: Attribute = i32,
    ) -> None:
        shape = matmul_shape(shape_of(lhs), shape_of(rhs))
        super().__init__(
            operands=[lhs, rhs],
            properties={"lhs_zero_point": _zero_point(zero_points[0]), "rhs_zero_point": _zero_point(zero_points[1])},
            result_types=[TensorType(_element(lhs, accumulator), shape)],
        )

    def verify_(self) -> None:
        integers = takes_integers(self.result, lhs=self.lhs, rhs=self.rhs)
        require_shape(self.result, matmul_shape(shape_of(self.lhs), shape_of(self.rhs)))
        require_zero_point("lhs_zero_point", self.lhs_zero_point, self.lhs, integers, None)
        require_zero_point("rhs_zero_point", self.rhs_zero_point, self.rhs, integers, len(shape_of(self.rhs)) - 1)


LOG_CODE = IntegerType(5, Signedness.UNSIGNED)
"""Codes q that stand for 2^-q, from 16 on for 0."""


@irdl_op_definition
class ShiftMatmulOp(IRDLOperation):
    """Product with powers of two: C = sum_k (2^15 >> q_ik)(B_kj - rhs_zero_point), shifts and additions alone.

    The codes q of lhs stand for 2^-q, from 16 on for 0 (`#qvit.lis` makes such), so C is in units of 2^-15 of rhs's scale.
    Exact, into the accumulator type of the result (i32 or i64); a sum that does not fit is an error. The leading
    dimensions broadcast as in `qvit.matmul`.

    ```mlir
    %c = qvit.shift_matmul %q, %v rhs_zero_point <3> : (tensor<3x17x17xui5>, tensor<3x17x32xi8>) -> tensor<3x17x32xi32>
    ```
    """

    name = "qvit.shift_matmul"

    lhs = operand_def(TensorType)
    rhs = operand_def(TensorType)
    rhs_zero_point = opt_prop_def(ZeroPointAttr)
    result = result_def(TensorType)

    traits = traits_def(Pure())

    assembly_format = (
        "$lhs `,` $rhs (`rhs_zero_point` $rhs_zero_point^)? attr-dict `:` functional-type(operands, results)"
    )

    def __init__(
        self,
        lhs: SSAValue,
        rhs: SSAValue,
        rhs_zero_point: int | ZeroPointAttr | None = None,
        accumulator: Attribute = i32,
    ) -> None:
        super().__init__(
            operands=[lhs, rhs],
            properties={"rhs_zero_point": _zero_point(rhs_zero_point)},
            result_types=[TensorType(accumulator, matmul_shape(shape_of(lhs), shape_of(rhs)))],
        )

    def verify_(self) -> None:
        require_element("lhs", self.lhs, LOG_CODE)
        require_integer("rhs", self.rhs)
        takes_integers(self.result, lhs=self.lhs, rhs=self.rhs)
        require_shape(self.result, matmul_shape(shape_of(self.lhs), shape_of(self.rhs)))
        require_zero_point("rhs_zero_point", self.rhs_zero_point, self.rhs, True, len(shape_of(self.rhs)) - 1)


def linear_shape(input: Sequence[int], weight: Sequence[int]) -> tuple[int, ...]:
    """[..., K] x [N, K] -> [..., N]; VerifyException if they do not fit."""
    require(len(weight) == 2, f"weight: expected [outputs, inputs], found shape {weight}")
    require(len(input) >= 1, "input: expected at least one dimension, found a scalar")
    require(
        input[-1] == weight[1],
        f"input, weight: contracted dimensions differ: {input[-1]} in {input}, {weight[1]} in {weight}",
    )
    return (*input[:-1], weight[0])


@irdl_op_definition
class LinearOp(IRDLOperation):
    """A fully connected layer: y = x W^T + bias; x [..., K], W [N, K], bias [N].

    Integers: y = sum_k (x - input_zero_point)(W_nk - weight_zero_point_n) + bias_n, exact, into the accumulator type
    of the result, which the bias has too.

    ```mlir
    %y = qvit.linear %x, %w, %b input_zero_point <128> : (tensor<17x96xui8>, tensor<10x96xi8>, tensor<10xi32>) -> tensor<17x10xi32>
    ```
    """

    name = "qvit.linear"

    input = operand_def(TensorType)
    weight = operand_def(TensorType)
    bias = opt_operand_def(TensorType)
    input_zero_point = opt_prop_def(ZeroPointAttr)
    weight_zero_point = opt_prop_def(ZeroPointAttr)
    result = result_def(TensorType)

    traits = traits_def(Pure())

    assembly_format = (
        "$input `,` $weight (`,` $bias^)? (`input_zero_point` $input_zero_point^)?"
        " (`weight_zero_point` $weight_zero_point^)? attr-dict `:` functional-type(operands, results)"
    )

    def __init__(
        self,
        input: SSAValue,
        weight: SSAValue,
        bias: SSAValue | None = None,
        zero_points: tuple[int | ZeroPointAttr | None, int | ZeroPointAttr | None] = (None, None),
        accumulator: Attribute = i32,
    ) -> None:
        shape = linear_shape(shape_of(input), shape_of(weight))
        super().__init__(
            operands=[input, weight, bias],
            properties={
                "input_zero_point": _zero_point(zero_points[0]),
                "weight_zero_point": _zero_point(zero_points[1]),
            },
            result_types=[TensorType(_element(input, accumulator), shape)],
        )

    def verify_(self) -> None:
        integers = takes_integers(self.result, input=self.input, weight=self.weight)
        require_shape(self.result, linear_shape(shape_of(self.input), shape_of(self.weight)))
        _verify_bias(self.bias, self.result, shape_of(self.weight)[0])
        require_zero_point("input_zero_point", self.input_zero_point, self.input, integers, None)
        require_zero_point("weight_zero_point", self.weight_zero_point, self.weight, integers, 0)


def _verify_bias(bias: SSAValue | None, result: SSAValue, channels: int) -> None:
    if bias is None:
        return
    expected = TensorType(element_of(result), [channels])
    require(bias.type == expected, f"bias: expected {expected}, found {bias.type}")


def _require_geometry(strides: Sequence[int], padding: Sequence[int], dilations: Sequence[int], groups: int) -> None:
    for name, values, length, least in (
        ("strides", strides, 2, 1),
        ("padding", padding, 4, 0),
        ("dilations", dilations, 2, 1),
    ):
        require(
            len(values) == length and min(values) >= least,
            f"{name}: expected {length} numbers, at least {least}, found {list(values)}",
        )
    require(groups >= 1, f"groups: expected at least 1, found {groups}")


def conv2d_shape(
    input: Sequence[int],
    weight: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[int],
    dilations: Sequence[int],
    groups: int,
) -> tuple[int, ...]:
    """NCHW input, [O, C/groups, KH, KW] weight -> NCHW; VerifyException if they do not fit."""
    require(len(input) == 4 and len(weight) == 4, f"input, weight: expected 4 dimensions, found {input} and {weight}")
    _require_geometry(strides, padding, dilations, groups)
    require(
        input[1] == weight[1] * groups and weight[0] % groups == 0,
        f"input, weight: {input[1]} input and {weight[0]} output channels in {groups} groups do not fit {weight}",
    )
    sizes: list[int] = []
    for i in range(2):
        reach = (weight[2 + i] - 1) * dilations[i] + 1
        size = (input[2 + i] + padding[i] + padding[2 + i] - reach) // strides[i] + 1
        require(size > 0, f"input: {input} with padding {list(padding)} is smaller than the kernel's reach {reach}")
        sizes.append(size)
    return (input[0], weight[0], *sizes)


@irdl_op_definition
class Conv2dOp(IRDLOperation):
    """2-D convolution (cross-correlation), NCHW: x [B, C, H, W], weight [O, C/groups, KH, KW], bias [O].

    Integers as in `qvit.linear`; padding (top, left, bottom, right) is of the real number 0, so of code
    input_zero_point.

    ```mlir
    %y = qvit.conv2d %x, %w input_zero_point <128> {strides = array<i64: 7, 7>} : (tensor<1x1x28x28xui8>, tensor<96x1x7x7xi8>) -> tensor<1x96x4x4xi32>
    ```
    """

    name = "qvit.conv2d"

    input = operand_def(TensorType)
    weight = operand_def(TensorType)
    bias = opt_operand_def(TensorType)
    strides = prop_def(DenseArrayBase.constr(i64), default_value=ints([1, 1]))
    padding = prop_def(DenseArrayBase.constr(i64), default_value=ints([0, 0, 0, 0]))
    dilations = prop_def(DenseArrayBase.constr(i64), default_value=ints([1, 1]))
    groups = prop_def(IntegerAttr.constr(i64), default_value=IntegerAttr(1, i64))
    input_zero_point = opt_prop_def(ZeroPointAttr)
    weight_zero_point = opt_prop_def(ZeroPointAttr)
    result = result_def(TensorType)

    traits = traits_def(Pure())

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = (
        "$input `,` $weight (`,` $bias^)? (`input_zero_point` $input_zero_point^)?"
        " (`weight_zero_point` $weight_zero_point^)? attr-dict `:` functional-type(operands, results)"
    )

    def __init__(
        self,
        input: SSAValue,
        weight: SSAValue,
        bias: SSAValue | None = None,
        strides: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0, 0, 0),
        dilations: Sequence[int] = (1, 1),
        groups: int = 1,
        zero_points: tuple[int | ZeroPointAttr | None, int | ZeroPointAttr | None] = (None, None),
        accumulator: Attribute = i32,
    ) -> None:
        shape = conv2d_shape(shape_of(input), shape_of(weight), strides, padding, dilations, groups)
        super().__init__(
            operands=[input, weight, bias],
            properties={
                "strides": ints(strides),
                "padding": ints(padding),
                "dilations": ints(dilations),
                "groups": IntegerAttr(groups, i64),
                "input_zero_point": _zero_point(zero_points[0]),
                "weight_zero_point": _zero_point(zero_points[1]),
            },
            result_types=[TensorType(_element(input, accumulator), shape)],
        )

    @property
    def geometry(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
        """(strides, padding, dilations, groups) as plain numbers."""
        return (
            self.strides.get_values(),
            self.padding.get_values(),
            self.dilations.get_values(),
            self.groups.value.data,
        )

    def verify_(self) -> None:
        integers = takes_integers(self.result, input=self.input, weight=self.weight)
        shape = conv2d_shape(shape_of(self.input), shape_of(self.weight), *self.geometry)
        require_shape(self.result, shape)
        _verify_bias(self.bias, self.result, shape_of(self.weight)[0])
        require_zero_point("input_zero_point", self.input_zero_point, self.input, integers, None)
        require_zero_point("weight_zero_point", self.weight_zero_point, self.weight, integers, 0)


def conv_transpose2d_shape(
    input: Sequence[int],
    weight: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[int],
    dilations: Sequence[int],
    groups: int,
    output_padding: Sequence[int],
) -> tuple[int, ...]:
    """NCHW input, [C, O/groups, KH, KW] weight -> NCHW; VerifyException if they do not fit."""
    require(len(input) == 4 and len(weight) == 4, f"input, weight: expected 4 dimensions, found {input} and {weight}")
    _require_geometry(strides, padding, dilations, groups)
    require(
        len(output_padding) == 2 and min(output_padding) >= 0,
        f"output_padding: expected 2 numbers, at least 0, found {list(output_padding)}",
    )
    require(
        input[1] == weight[0] and input[1] % groups == 0,
        f"input, weight: {input[1]} input channels in {groups} groups do not fit {weight}",
    )
    sizes = [
        (input[2 + i] - 1) * strides[i]
        - padding[i]
        - padding[2 + i]
        + dilations[i] * (weight[2 + i] - 1)
        + output_padding[i]
        + 1
        for i in range(2)
    ]
    require(min(sizes) > 0, f"padding: {list(padding)} leaves nothing of the {input[2]} x {input[3]} pixels")
    return (input[0], weight[1] * groups, *sizes)


@irdl_op_definition
class ConvTranspose2dOp(IRDLOperation):
    """Transposed 2-D convolution on floats, NCHW: x [B, C, H, W], weight [C, O/groups, KH, KW], bias [O].

    OH = (H - 1) stride - top - bottom + dilation (KH - 1) + output_padding + 1 (ONNX ConvTranspose).

    ```mlir
    %y = qvit.conv_transpose2d %x, %w {strides = array<i64: 2, 2>} : (tensor<1x8x4x4xf32>, tensor<8x3x2x2xf32>) -> tensor<1x3x8x8xf32>
    ```
    """

    name = "qvit.conv_transpose2d"

    input = operand_def(TensorType)
    weight = operand_def(TensorType)
    bias = opt_operand_def(TensorType)
    strides = prop_def(DenseArrayBase.constr(i64), default_value=ints([1, 1]))
    padding = prop_def(DenseArrayBase.constr(i64), default_value=ints([0, 0, 0, 0]))
    dilations = prop_def(DenseArrayBase.constr(i64), default_value=ints([1, 1]))
    groups = prop_def(IntegerAttr.constr(i64), default_value=IntegerAttr(1, i64))
    output_padding = prop_def(DenseArrayBase.constr(i64), default_value=ints([0, 0]))
    result = result_def(TensorType)

    traits = traits_def(Pure())

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$input `,` $weight (`,` $bias^)? attr-dict `:` functional-type(operands, results)"

    def __init__(
        self,
        input: SSAValue,
        weight: SSAValue,
        bias: SSAValue | None = None,
        strides: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0, 0, 0),
        dilations: Sequence[int] = (1, 1),
        groups: int = 1,
        output_padding: Sequence[int] = (0, 0),
    ) -> None:
        geometry = (strides, padding, dilations, groups, output_padding)
        shape = conv_transpose2d_shape(shape_of(input), shape_of(weight), *geometry)
        super().__init__(
            operands=[input, weight, bias],
            properties={
                "strides": ints(strides),
                "padding": ints(padding),
                "dilations": ints(dilations),
                "groups": IntegerAttr(groups, i64),
                "output_padding": ints(output_padding),
            },
            result_types=[TensorType(element_of(input), shape)],
        )

    @property
    def geometry(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int, tuple[int, ...]]:
        """(strides, padding, dilations, groups, output_padding) as plain numbers."""
        return (
            self.strides.get_values(),
            self.padding.get_values(),
            self.dilations.get_values(),
            self.groups.value.data,
            self.output_padding.get_values(),
        )

    def verify_(self) -> None:
        require_float(input=self.input, weight=self.weight, result=self.result)
        shape = conv_transpose2d_shape(shape_of(self.input), shape_of(self.weight), *self.geometry)
        require_shape(self.result, shape)
        _verify_bias(self.bias, self.result, shape[1])
