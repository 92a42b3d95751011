"""The float functions of a transformer encoder, and what a convolutional decoder behind one needs."""

from abc import ABC
from collections.abc import Sequence
from math import prod
from typing import ClassVar

from xdsl.dialects.builtin import (
    BoolAttr,
    DenseArrayBase,
    Float64Type,
    FloatAttr,
    IntegerAttr,
    StringAttr,
    TensorType,
    UnitAttr,
    f64,
    i1,
    i32,
    i64,
)
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    ParsePropInAttrDict,
    VarConstraint,
    base,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.traits import Pure

from qvit.dialects.ops.checks import (
    require,
    require_element,
    require_float,
    require_integer,
    require_mask,
    require_shape,
    takes_integers,
)
from qvit.dialects.ops.products import ints
from qvit.dialects.types import element_dtype, element_of, shape_of


def _require_axis(axis: int, operand: SSAValue) -> None:
    rank = len(shape_of(operand))
    require(0 <= axis < rank, f"axis: {axis} is outside the {rank} dimensions of {operand.type}")


def _require_epsilon(epsilon: FloatAttr[Float64Type]) -> None:
    require(epsilon.value.data >= 0, f"epsilon: expected at least 0, found {epsilon.value.data}")


@irdl_op_definition
class SoftmaxOp(IRDLOperation):
    """y_i = exp(x_i - max x) / sum_j exp(x_j - max x), along `axis`.

    Entries where `mask` (it broadcasts) is 0 take no part, their result is 0.

    ```mlir
    %y = qvit.softmax %x mask(%m : tensor<17x17xui1>) axis 2 : tensor<3x17x17xf32>
    ```
    """

    name = "qvit.softmax"

    T: ClassVar = VarConstraint("T", base(TensorType))

    input = operand_def(T)
    mask = opt_operand_def(TensorType)
    axis = prop_def(IntegerAttr.constr(i64))
    result = result_def(T)

    traits = traits_def(Pure())

    assembly_format = "$input (`mask` `(` $mask^ `:` type($mask) `)`)? `axis` $axis attr-dict `:` type($result)"

    def __init__(self, input: SSAValue, axis: int, mask: SSAValue | None = None) -> None:
        super().__init__(operands=[input, mask], properties={"axis": IntegerAttr(axis, i64)}, result_types=[input.type])

    def verify_(self) -> None:
        require_float(input=self.input)
        _require_axis(self.axis.value.data, self.input)
        require_mask(self.mask, self.input)


@irdl_op_definition
class GeluOp(IRDLOperation):
    """y = x / 2 (1 + erf(x / sqrt 2)); with `tanh`, x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).

    ```mlir
    %y = qvit.gelu %x : tensor<17x384xf32>
    ```
    """

    name = "qvit.gelu"

    T: ClassVar = VarConstraint("T", base(TensorType))

    input = operand_def(T)
    tanh = opt_prop_def(UnitAttr)
    result = result_def(T)

    traits = traits_def(Pure())

    assembly_format = "$input (`tanh` $tanh^)? attr-dict `:` type($result)"

    def __init__(self, input: SSAValue, tanh: bool = False) -> None:
        super().__init__(operands=[input], properties={"tanh": UnitAttr() if tanh else None}, result_types=[input.type])

    def verify_(self) -> None:
        require_float(input=self.input)


@irdl_op_definition
class LayerNormOp(IRDLOperation):
    """y = (x - mean) / sqrt(var + epsilon) * gamma + beta, over the dimensions from `axis` to the last.

    gamma and beta have the shape of those dimensions; var is the mean of the squared deviations.

    ```mlir
    %y = qvit.layer_norm %x, %g, %b axis 1 epsilon 1.000000e-06 : (tensor<17x96xf32>, tensor<96xf32>, tensor<96xf32>) -> tensor<17x96xf32>
    ```
    """

    name = "qvit.layer_norm"

    input = operand_def(TensorType)
    gamma = operand_def(TensorType)
    beta = opt_operand_def(TensorType)
    axis = prop_def(IntegerAttr.constr(i64))
    epsilon = prop_def(FloatAttr[Float64Type])
    result = result_def(TensorType)

    traits = traits_def(Pure())

    assembly_format = (
        "$input `,` $gamma (`,` $beta^)? `axis` $axis `epsilon` $epsilon attr-dict"
        " `:` functional-type(operands, results)"
    )

    def __init__(self, input: SSAValue, gamma: SSAValue, beta: SSAValue | None, epsilon: float, axis: int) -> None:
        super().__init__(
            operands=[input, gamma, beta],
            properties={"epsilon": FloatAttr(epsilon, f64), "axis": IntegerAttr(axis, i64)},
            result_types=[input.type],
        )

    def verify_(self) -> None:
        require_float(input=self.input, gamma=self.gamma, beta=self.beta, result=self.result)
        require_shape(self.result, shape_of(self.input))
        _require_axis(self.axis.value.data, self.input)
        normalized = shape_of(self.input)[self.axis.value.data :]
        for name, operand in (("gamma", self.gamma), ("beta", self.beta)):
            if operand is not None:
                found = shape_of(operand)
                require(found == normalized, f"{name}: expected shape {normalized}, found {found}")
        _require_epsilon(self.epsilon)


@irdl_op_definition
class BatchNormOp(IRDLOperation):
    """y = (x - mean_c) / sqrt(variance_c + epsilon) * gamma_c + beta_c, with stored statistics; c is dimension 1.

    ```mlir
    %y = qvit.batch_norm %x, %g, %b, %m, %v epsilon 1.000000e-05 : (tensor<1x8x4x4xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>) -> tensor<1x8x4x4xf32>
    ```
    """

    name = "qvit.batch_norm"

    input = operand_def(TensorType)
    gamma = operand_def(TensorType)
    beta = operand_def(TensorType)
    mean = operand_def(TensorType)
    variance = operand_def(TensorType)
    epsilon = prop_def(FloatAttr[Float64Type])
    result = result_def(TensorType)

    traits = traits_def(Pure())

    assembly_format = (
        "$input `,` $gamma `,` $beta `,` $mean `,` $variance `epsilon` $epsilon attr-dict"
        " `:` functional-type(operands, results)"
    )

    def __init__(
        self, input: SSAValue, gamma: SSAValue, beta: SSAValue, mean: SSAValue, variance: SSAValue, epsilon: float
    ) -> None:
        super().__init__(
            operands=[input, gamma, beta, mean, variance],
            properties={"epsilon": FloatAttr(epsilon, f64)},
            result_types=[input.type],
        )

    def verify_(self) -> None:
        parameters = {"gamma": self.gamma, "beta": self.beta, "mean": self.mean, "variance": self.variance}
        require_float(input=self.input, **parameters, result=self.result)
        require_shape(self.result, shape_of(self.input))
        require(len(shape_of(self.input)) >= 2, f"input: expected a channel dimension 1, found {self.input.type}")
        channels = shape_of(self.input)[1]
        for name, operand in parameters.items():
            require(shape_of(operand) == (channels,), f"{name}: expected [{channels}], found {operand.type}")
        _require_epsilon(self.epsilon)


def _require_axes(axes: Sequence[int], keepdims: bool, operand: SSAValue, result: SSAValue) -> None:
    for axis in axes:
        _require_axis(axis, operand)
    require(len(set(axes)) == len(axes), f"axes: expected different ones, found {list(axes)}")
    require_shape(result, reduced_shape(shape_of(operand), axes, keepdims))


class ReductionOp(IRDLOperation, ABC):
    """Over `axes`, which are kept with length 1 (`keepdims = true`) or dropped."""

    input = operand_def(TensorType)
    axes = prop_def(DenseArrayBase.constr(i64))
    keepdims = prop_def(IntegerAttr.constr(i1))
    result = result_def(TensorType)

    traits = traits_def(Pure())

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$input attr-dict `:` type($input) `->` type($result)"

    def __init__(self, input: SSAValue, axes: Sequence[int], keepdims: bool, element: Attribute) -> None:
        super().__init__(
            operands=[input],
            properties={"axes": ints(axes), "keepdims": BoolAttr.from_bool(keepdims)},
            result_types=[TensorType(element, reduced_shape(shape_of(input), axes, keepdims))],
        )

    @property
    def keeps(self) -> bool:
        return bool(self.keepdims.value.data)

    @property
    def count(self) -> int:
        """How many numbers each result is of."""
        return prod(shape_of(self.input)[axis] for axis in self.axes.get_values())

    def _verify_axes(self) -> None:
        _require_axes(self.axes.get_values(), self.keeps, self.input, self.result)


@irdl_op_definition
class ReduceSumOp(ReductionOp):
    """The sum of integers over `axes`, which are kept with length 1 (`keepdims = true`) or dropped; exact.

    ```mlir
    %y = qvit.reduce_sum %x {axes = array<i64: 1>, keepdims = false} : tensor<17x96xi16> -> tensor<17xi32>
    ```
    """

    name = "qvit.reduce_sum"

    def __init__(self, input: SSAValue, axes: Sequence[int], keepdims: bool, accumulator: Attribute = i32) -> None:
        super().__init__(input, axes, keepdims, accumulator)

    def verify_(self) -> None:
        require_integer("input", self.input)
        require(takes_integers(self.result, input=self.input), "input: expected a tensor of integers")
        self._verify_axes()


@irdl_op_definition
class ArgmaxOp(IRDLOperation):
    """The index of the largest element along `axis`, which is kept with length 1 (`keepdims = true`) or dropped.

    Of floats or integers; of equal elements the first (ONNX ArgMax with select_last_index = 0).

    ```mlir
    %y = qvit.argmax %x {axis = 1 : i64, keepdims = false} : tensor<50x10xi16> -> tensor<50xi64>
    ```
    """

    name = "qvit.argmax"

    input = operand_def(TensorType)
    axis = prop_def(IntegerAttr.constr(i64))
    keepdims = prop_def(IntegerAttr.constr(i1))
    result = result_def(TensorType)

    traits = traits_def(Pure())

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$input attr-dict `:` type($input) `->` type($result)"

    def __init__(self, input: SSAValue, axis: int, keepdims: bool) -> None:
        super().__init__(
            operands=[input],
            properties={"axis": IntegerAttr(axis, i64), "keepdims": BoolAttr.from_bool(keepdims)},
            result_types=[TensorType(i64, reduced_shape(shape_of(input), [axis], keepdims))],
        )

    @property
    def keeps(self) -> bool:
        return bool(self.keepdims.value.data)

    def verify_(self) -> None:
        element_dtype(element_of(self.input))
        require_element("result", self.result, i64)
        axis = self.axis.value.data
        _require_axes([axis], self.keeps, self.input, self.result)
        require(shape_of(self.input)[axis] > 0, f"input: axis {axis} of {self.input.type} has no element")


@irdl_op_definition
class ReduceMeanOp(ReductionOp):
    """The mean over `axes`, which are kept with length 1 (`keepdims = true`) or dropped.

    ```mlir
    %y = qvit.reduce_mean %x {axes = array<i64: 1>, keepdims = true} : tensor<17x96xf32> -> tensor<17x1xf32>
    ```
    """

    name = "qvit.reduce_mean"

    def __init__(self, input: SSAValue, axes: Sequence[int], keepdims: bool) -> None:
        super().__init__(input, axes, keepdims, element_of(input))

    def verify_(self) -> None:
        require_float(input=self.input, result=self.result)
        self._verify_axes()


def reduced_shape(shape: Sequence[int], axes: Sequence[int], keepdims: bool) -> tuple[int, ...]:
    """The shape that is left when `axes` are reduced."""
    if keepdims:
        return tuple(1 if i in axes else d for i, d in enumerate(shape))
    return tuple(d for i, d in enumerate(shape) if i not in axes)


@irdl_op_definition
class ResizeOp(IRDLOperation):
    """Resize the last two dimensions by interpolation (ONNX Resize without antialias, borders repeated).

    mode: nearest (ties down), nearest_floor, linear, cubic; coordinates: half_pixel, pytorch_half_pixel, align_corners,
    asymmetric; scales: result by operand size, as the source graph states them.

    ```mlir
    %y = qvit.resize %x {mode = "linear", coordinates = "half_pixel", scales = array<f64: 2.000000e+00, 2.000000e+00>} : tensor<1x8x4x4xf32> -> tensor<1x8x8x8xf32>
    ```
    """

    name = "qvit.resize"

    MODES: ClassVar = ("nearest", "nearest_floor", "linear", "cubic")
    COORDINATES: ClassVar = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")

    input = operand_def(TensorType)
    mode = prop_def(StringAttr)
    coordinates = prop_def(StringAttr)
    scales = prop_def(DenseArrayBase.constr(f64))
    cubic_a = prop_def(FloatAttr[Float64Type], default_value=FloatAttr(-0.75, f64))
    result = result_def(TensorType)

    traits = traits_def(Pure())

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$input attr-dict `:` type($input) `->` type($result)"

    def __init__(
        self,
        input: SSAValue,
        sizes: Sequence[int],
        scales: Sequence[float],
        mode: str,
        coordinates: str,
        cubic_a: float = -0.75,
    ) -> None:
        super().__init__(
            operands=[input],
            properties={
                "mode": StringAttr(mode),
                "coordinates": StringAttr(coordinates),
                "scales": DenseArrayBase.from_list(f64, list(scales)),
                "cubic_a": FloatAttr(cubic_a, f64),
            },
            result_types=[TensorType(element_of(input), (*shape_of(input)[:-2], *sizes))],
        )

    def verify_(self) -> None:
        require_float(input=self.input, result=self.result)
        before, after = shape_of(self.input), shape_of(self.result)
        require(
            len(before) >= 2 and len(before) == len(after) and before[:-2] == after[:-2],
            f"result: only the last two dimensions of {before} may change, found {after}",
        )
        require(self.mode.data in self.MODES, f"mode: expected one of {self.MODES}, found {self.mode.data!r}")
        require(
            self.coordinates.data in self.COORDINATES,
            f"coordinates: expected one of {self.COORDINATES}, found {self.coordinates.data!r}",
        )
        scales = self.scales.get_values()
        require(len(scales) == 2 and min(scales) > 0, f"scales: expected two positive numbers, found {scales}")
