"""Attributes of the qvit dialect: scales, quantization parameters, requantize forms, references to weights.

A *value* is a number, or a vector of numbers along some axis of a tensor. Vectors are inline (builtin `dense`) while
passes are at work and where they are short, else references into a weight file (`qvit.dialects.weights`).
"""

from collections.abc import Sequence
from math import isfinite
from typing import Any, TypeAlias

import numpy as np
from xdsl.dialects.builtin import (
    ArrayAttr,
    BytesAttr,
    DenseIntOrFPElementsAttr,
    Float32Type,
    Float64Type,
    FloatAttr,
    IntAttr,
    IntegerAttr,
    IntegerType,
    NoneAttr,
    StringAttr,
    TensorType,
    f32,
    f64,
    i32,
)
from xdsl.ir import Attribute, Data, ParametrizedAttribute, SpacedOpaqueSyntaxAttribute
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.hints import isa

from qvit.dialects.semantics.integers import Array, IntType, Rounding, fit
from qvit.dialects.types import Tensor, element_dtype, element_type, int_type, is_float


@irdl_attr_definition
class RoundingAttr(Data[Rounding], SpacedOpaqueSyntaxAttribute):
    """How a quotient becomes an integer: half_even, half_up, half_away or floor (semantics.integers.Rounding)."""

    name = "qvit.rounding"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Rounding:
        return Rounding(parser.parse_keyword_in([r.value for r in Rounding]))

    def print_parameter(self, printer: Printer) -> None:
        printer.print_string(self.data.value)


@irdl_attr_definition
class WeightRefAttr(ParametrizedAttribute):
    """The tensor stored under `key` in one of the module's weight files: `@"blocks.0.fc1.scale" : tensor<384xf32>`."""

    name = "qvit.weight_ref"

    key: StringAttr
    type: Tensor

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            return [parser.parse_symbol_name(), _parse_ref_type(parser)]

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            _print_ref(printer, self)


def _parse_ref_type(parser: AttrParser) -> Tensor:
    parser.parse_punctuation(":")
    type_ = parser.parse_type()
    if not isa(type_, TensorType):
        parser.raise_error(f"expected a tensor type, found {type_}")
    return type_


def _print_ref(printer: Printer, ref: WeightRefAttr) -> None:
    printer.print_string("@")
    printer.print_string_literal(ref.key.data)
    printer.print_string(" : ")
    printer.print_attribute(ref.type)


Dense: TypeAlias = DenseIntOrFPElementsAttr
Vector: TypeAlias = DenseIntOrFPElementsAttr | WeightRefAttr
Factor: TypeAlias = FloatAttr | DenseIntOrFPElementsAttr | WeightRefAttr
Integers: TypeAlias = IntegerAttr | DenseIntOrFPElementsAttr | WeightRefAttr
Value: TypeAlias = Factor | Integers


def dense(array: Array, element: Attribute | None = None) -> Dense:
    """An inline tensor that holds the array's bytes (never its elements one by one)."""
    element = element_type(array.dtype) if element is None else element
    array = np.ascontiguousarray(array, element_dtype(element)).reshape(array.shape)
    assert isa(element, IntegerType | Float32Type | Float64Type)  # element_dtype refuses all others
    return DenseIntOrFPElementsAttr(TensorType(element, array.shape), BytesAttr(_bytes_of(array)))


def _bytes_of(array: Array) -> bytes:
    """The array's bytes; without a copy where it is a view of all of a `bytes` object, as tensors of a file are."""
    owner = _owner(array)
    if isinstance(owner, bytes) and len(owner) == array.nbytes and array.flags.c_contiguous:
        return owner
    return array.tobytes()


def _owner(array: Array) -> object:
    """What holds the memory that the array is a view of; None where it is the array itself."""
    return _owner(array.base) if isinstance(array.base, np.ndarray) else array.base


def dense_array(attr: Dense) -> Array:
    """The array of an inline tensor: a read-only view."""
    return np.frombuffer(attr.data.data, element_dtype(attr.get_element_type())).reshape(attr.get_shape())


def float_value(value: float | Array) -> Factor:
    """A scale's number (f32 where that is exact, else f64) or vector (as f32 or f64, as it comes)."""
    if isinstance(value, np.ndarray) and value.ndim:
        return dense(value)
    number = float(value)
    return FloatAttr(number, f32 if float(np.float32(number)) == number else f64)


def int_value(value: int | Array) -> Integers:
    """A zero point's, multiplier's or shift's number, or vector (i32)."""
    if isinstance(value, np.ndarray) and value.ndim:
        return dense(fit(value, IntType(32)), i32)
    return IntegerAttr(int(value), 64)


def vector_length(value: Value) -> int | None:
    """The number of elements of a vector, None for a number."""
    if isinstance(value, FloatAttr | IntegerAttr):
        return None
    shape = value.type.get_shape()
    if len(shape) != 1:
        raise VerifyException(f"expected a vector, found {value.type}")
    return shape[0]


def _numbers(value: Value) -> list[Any]:
    """The numbers of a value that stand in the text: one, those of an inline vector, or none for a reference."""
    if isinstance(value, FloatAttr | IntegerAttr):
        return [value.value.data]
    return [] if isinstance(value, WeightRefAttr) else dense_array(value).tolist()


def _verify_integers(value: Integers, what: str) -> None:
    element = None if isinstance(value, IntegerAttr) else value.type.element_type
    if element is not None and int_type(element) is None:
        raise VerifyException(f"{what} is an integer, or a vector of integers; found {value.type}")


def _float_text(number: float, element: Attribute) -> str:
    """The shortest decimal that reads back as the same float, with the decimal point that MLIR wants."""
    text = repr(number)
    if element == f32:
        text = str(np.float32(number))
        if np.float32(float(text)) != number:  # read as a double first, it would be rounded twice
            text = repr(number)
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}{'' if '.' in mantissa else '.0'}{e}{exponent}"


def _print_value(printer: Printer, value: Value) -> None:
    """A float `0.02` (f32; else `0.02 : f64`), an integer `128`, a vector `[1.0, 2.0]` or `@"key" : tensor<2xf32>`."""
    if isinstance(value, WeightRefAttr):
        _print_ref(printer, value)
        return
    if isinstance(value, IntegerAttr):
        printer.print_string(str(value.value.data))
        return
    if isinstance(value, FloatAttr):
        element = value.type
        printer.print_string(_float_text(value.value.data, element))
    else:
        element = value.get_element_type()
        numbers = dense_array(value).tolist()
        texts = [_float_text(v, element) if isinstance(v, float) else str(v) for v in numbers]
        printer.print_string(f"[{', '.join(texts)}]")
    if element not in (f32, i32):
        printer.print_string(f" : {element}")


def _parse_factor(parser: AttrParser) -> Factor:
    """A factor of a scale, as `_print_value` prints it."""
    if (vector := _parse_vector(parser, f32)) is not None:
        return vector
    number = float(parser.parse_number())
    element = _parse_element(parser, f32)
    if not isinstance(element, Float32Type | Float64Type):
        parser.raise_error(f"a scale's factors are f32 or f64, found {element}")
    if isinstance(element, Float32Type) and abs(number) > np.finfo(np.float32).max:
        parser.raise_error(f"a scale's factors must be finite, {number} is not as f32")
    return FloatAttr(number, element)


def _parse_integers(parser: AttrParser) -> Integers:
    """A zero point, multiplier or shift, as `_print_value` prints it."""
    vector = _parse_vector(parser, i32)
    return IntegerAttr(parser.parse_integer(), 64) if vector is None else vector


def _parse_vector(parser: AttrParser, default: Attribute) -> Vector | None:
    """None if there is a number instead; `default` is the element type that is not written."""
    if (key := parser.parse_optional_symbol_name()) is not None:
        return WeightRefAttr(key, _parse_ref_type(parser))
    numbers = parser.parse_optional_comma_separated_list(parser.Delimiter.SQUARE, parser.parse_number)
    if numbers is None:
        return None
    element = _parse_element(parser, default)
    if not numbers:
        parser.raise_error("expected at least one number")
    integer = int_type(element)
    for number in numbers:
        if integer is not None and not (isinstance(number, int) and integer.lo <= number <= integer.hi):
            parser.raise_error(f"expected integers of type {integer}, found {number}")
    with np.errstate(over="ignore"):  # the owner's verifier refuses infinities
        return dense(np.array(numbers, element_dtype(element)), element)


def _parse_element(parser: AttrParser, default: Attribute) -> Attribute:
    return default if parser.parse_optional_punctuation(":") is None else parser.parse_type()


@irdl_attr_definition
class ScaleAttr(ParametrizedAttribute):
    """A real factor: the exact product of its numerators over the product of its denominators.

    `0.02 * @"fc1.scale" : tensor<384xf32> / 0.1`. Each factor is a number or a vector, f32 or f64; all vectors lie
    along the one axis that the owner of the scale names. Keeping the factors apart keeps the algebra exact: a float
    product of three f32 numbers would already round.
    """

    name = "qvit.scale"

    numerators: ArrayAttr[Factor]
    denominators: ArrayAttr[Factor]

    @staticmethod
    def of(*numerators: Factor, over: Sequence[Factor] = ()) -> "ScaleAttr":
        """The scale in its simplest form: equal factors cancelled, ones left out."""
        above, below = list(numerators), list(over)
        for factor in tuple(below):
            if factor in above and _nonzero(factor):
                above.remove(factor)
                below.remove(factor)
        above, below = ([f for f in side if not _is_one(f)] for side in (above, below))
        return ScaleAttr(ArrayAttr(above or [FloatAttr(1.0, f32)]), ArrayAttr(below))

    def times(self, *factors: Factor, over: Sequence[Factor] = ()) -> "ScaleAttr":
        return ScaleAttr.of(*self.above, *factors, over=[*self.below, *over])

    @property
    def above(self) -> tuple[Factor, ...]:
        return self.numerators.data

    @property
    def below(self) -> tuple[Factor, ...]:
        return self.denominators.data

    @property
    def inverse(self) -> "ScaleAttr | None":
        """Of a scale without numerators, `1.0 / 3.5`: what a quantizer multiplies by, as PT2E does. None of another scale."""
        return ScaleAttr.of(*self.below) if self.below and all(_is_one(f) for f in self.above) else None

    @property
    def factors(self) -> tuple[Factor, ...]:
        return self.above + self.below

    @property
    def length(self) -> int | None:
        """The length of its vectors, None when all factors are numbers; VerifyException when they differ."""
        lengths = {n for f in self.factors if (n := vector_length(f)) is not None}
        if len(lengths) > 1:
            raise VerifyException(f"vectors of one scale have different lengths: {sorted(lengths)}")
        return lengths.pop() if lengths else None

    @property
    def numbers(self) -> list[float]:
        """All numbers that stand in the text; those in weight files are checked when they are read."""
        return [number for factor in self.factors for number in _numbers(factor)]

    def verify(self) -> None:
        for factor in self.factors:
            element = factor.type if isinstance(factor, FloatAttr) else factor.type.element_type
            if not is_float(element):
                raise VerifyException(f"a scale's factors are f32 or f64, found {element}")
        for number in self.numbers:
            if not isfinite(number):
                raise VerifyException(f"a scale's factors must be finite, found {number}")
        if any(number == 0 for factor in self.below for number in _numbers(factor)):
            raise VerifyException("a scale's denominators must not be 0")

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            return _parse_scale(parser)

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            _print_scale(printer, self)


def _is_one(factor: Factor) -> bool:
    return isinstance(factor, FloatAttr) and factor.value.data == 1.0


def _nonzero(factor: Factor) -> bool:
    if isinstance(factor, FloatAttr):
        return factor.value.data != 0
    return isinstance(factor, DenseIntOrFPElementsAttr) and bool(dense_array(factor).all())


def _parse_scale(parser: AttrParser) -> tuple[ArrayAttr[Factor], ArrayAttr[Factor]]:
    above, below = [_parse_factor(parser)], list[Factor]()
    while True:
        if parser.parse_optional_punctuation("*"):
            above.append(_parse_factor(parser))
        elif parser.parse_optional_punctuation("/"):
            below.append(_parse_factor(parser))
        else:
            return ArrayAttr(above), ArrayAttr(below)


def _print_scale(printer: Printer, scale: ScaleAttr) -> None:
    for i, factor in enumerate(scale.above):
        printer.print_string(" * " if i else "")
        _print_value(printer, factor)
    for factor in scale.below:
        printer.print_string(" / ")
        _print_value(printer, factor)


@irdl_attr_definition
class ZeroPointAttr(ParametrizedAttribute):
    """The code of the real number 0: `<128>`, or one for each index of an axis: `<[3, 5]>`."""

    name = "qvit.zero_point"

    value: Integers

    @staticmethod
    def of(value: "int | Array | Integers") -> "ZeroPointAttr":
        """A vector whose elements are all equal becomes a number."""
        if isinstance(value, Attribute):
            return ZeroPointAttr(value)
        flat = np.unique(value)
        return ZeroPointAttr(int_value(int(flat[0]) if flat.size == 1 else np.asarray(value)))

    @property
    def number(self) -> int | None:
        """The zero point where it is one number, None for a vector."""
        return self.value.value.data if isinstance(self.value, IntegerAttr) else None

    @property
    def numbers(self) -> list[int]:
        """All numbers that stand in the text; those in weight files are checked when they are read."""
        return _numbers(self.value)

    def verify(self) -> None:
        _verify_integers(self.value, "a zero point")

    @property
    def length(self) -> int | None:
        return vector_length(self.value)

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            return [_parse_integers(parser)]

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            _print_value(printer, self.value)


@irdl_attr_definition
class QParamsAttr(ParametrizedAttribute):
    """How codes stand for real numbers: real = (code - zero_point) * scale.

    `<0.02>`, `<0.02, zero_point = 128>`, `<0.02 * @"w.scale" : tensor<384xf32>, axis = 2>`. The axis says along which
    dimension of the tensor the vectors lie; it is there exactly when there is a vector.
    """

    name = "qvit.params"

    scale: ScaleAttr
    zero_point: ZeroPointAttr
    axis: IntAttr | NoneAttr

    @staticmethod
    def of(
        scale: "float | Array | ScaleAttr", zero_point: "int | Array | ZeroPointAttr" = 0, axis: int | None = None
    ) -> "QParamsAttr":
        """Parameters from plain numbers and arrays; the axis is dropped when nothing varies along it."""
        if not isinstance(scale, ScaleAttr):
            scale = ScaleAttr.of(float_value(scale))
        if not isinstance(zero_point, ZeroPointAttr):
            zero_point = ZeroPointAttr.of(zero_point)
        varies = scale.length is not None or zero_point.length is not None
        return QParamsAttr(scale, zero_point, IntAttr(axis) if varies and axis is not None else NoneAttr())

    @property
    def axis_index(self) -> int | None:
        return self.axis.data if isinstance(self.axis, IntAttr) else None

    def with_axis(self, axis: int | None) -> "QParamsAttr":
        return QParamsAttr.of(self.scale, self.zero_point, axis)

    def with_scale(self, scale: ScaleAttr, axis: int | None) -> "QParamsAttr":
        return QParamsAttr.of(scale, self.zero_point, axis)

    def verify(self) -> None:
        scale, zero_point = self.scale.length, self.zero_point.length
        lengths = {scale, zero_point} - {None}
        if len(lengths) > 1:
            raise VerifyException(f"scale and zero_point have different lengths: {scale} and {zero_point}")
        if bool(lengths) != (self.axis_index is not None):
            raise VerifyException("axis must be given exactly when the scale or the zero point is a vector")

    def verify_on(self, tensor: Tensor, operand: str) -> None:
        """The axis exists and is as long as the vectors."""
        if self.axis_index is None:
            return
        verify_axis(self.axis_index, self.scale.length or self.zero_point.length, tensor, operand)

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        zero_point, axis = ZeroPointAttr.of(0), NoneAttr()
        with parser.in_angle_brackets():
            scale = ScaleAttr(*_parse_scale(parser))
            while parser.parse_optional_punctuation(","):
                field = parser.parse_keyword_in(["zero_point", "axis"])
                parser.parse_punctuation("=")
                if field == "axis":
                    axis = IntAttr(parser.parse_integer())
                else:
                    zero_point = ZeroPointAttr(_parse_integers(parser))
        return [scale, zero_point, axis]

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            _print_scale(printer, self.scale)
            if self.zero_point.number != 0:
                printer.print_string(", zero_point = ")
                _print_value(printer, self.zero_point.value)
            if self.axis_index is not None:
                printer.print_string(f", axis = {self.axis_index}")


def verify_axis(axis: int, length: int | None, tensor: Tensor, operand: str) -> None:
    """Vectors of `length` lie along `axis` of the operand; VerifyException says what does not fit."""
    shape = tensor.get_shape()
    if not 0 <= axis < len(shape):
        raise VerifyException(f"{operand}: axis {axis} is outside the {len(shape)} dimensions of {tensor}")
    if (found := shape[axis]) != length:
        raise VerifyException(f"{operand}: dimension {axis} of {tensor} has {found} elements, the vector has {length}")


@irdl_attr_definition
class RealAttr(ParametrizedAttribute):
    """Requantize by an exact real factor: `#qvit.real<0.02 * 0.003 / 0.05>`. Legal until it is lowered."""

    name = "qvit.real"

    scale: ScaleAttr

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            return [ScaleAttr(*_parse_scale(parser))]

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            _print_scale(printer, self.scale)

    @property
    def length(self) -> int | None:
        return self.scale.length


def _common_length(*values: Value) -> int | None:
    lengths = {n for v in values if (n := vector_length(v)) is not None}
    if len(lengths) > 1:
        raise VerifyException(f"vectors of different lengths: {sorted(lengths)}")
    return lengths.pop() if lengths else None


def _verify_range(value: Integers, lo: int, hi: int, what: str) -> None:
    _verify_integers(value, what)
    for number in _numbers(value):
        if not lo <= number <= hi:
            raise VerifyException(f"{what} must be in {lo}..{hi}, found {number}")


@irdl_attr_definition
class DyadicAttr(ParametrizedAttribute):
    """Requantize by multiplier / 2^shift: `#qvit.dyadic<1518500250, 39>`; each a number or a vector.

    multiplier: signed, |m| < 2^31; shift: 0..62.
    """

    name = "qvit.dyadic"

    multiplier: Integers
    shift: Integers

    @staticmethod
    def of(multiplier: int | Array, shift: int | Array) -> "DyadicAttr":
        return DyadicAttr(int_value(multiplier), int_value(shift))

    @property
    def length(self) -> int | None:
        return _common_length(self.multiplier, self.shift)

    def verify(self) -> None:
        _verify_range(self.multiplier, -(1 << 31) + 1, (1 << 31) - 1, "multiplier")
        _verify_range(self.shift, 0, 62, "shift")

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            multiplier = _parse_integers(parser)
            parser.parse_punctuation(",")
            return [multiplier, _parse_integers(parser)]

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            _print_value(printer, self.multiplier)
            printer.print_string(", ")
            _print_value(printer, self.shift)


@irdl_attr_definition
class PotAttr(ParametrizedAttribute):
    """Requantize by 2^-shift: `#qvit.pot<7>`; a number or a vector, -31..62; a negative shift multiplies."""

    name = "qvit.pot"

    shift: Integers

    @staticmethod
    def of(shift: int | Array) -> "PotAttr":
        return PotAttr(int_value(shift))

    @property
    def length(self) -> int | None:
        return vector_length(self.shift)

    def verify(self) -> None:
        _verify_range(self.shift, -31, 62, "shift")

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            return [_parse_integers(parser)]

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            _print_value(printer, self.shift)


Form: TypeAlias = RealAttr | DyadicAttr | PotAttr


@irdl_attr_definition
class WeightFileAttr(ParametrizedAttribute):
    """A safetensors file and its SHA-256: `#qvit.weight_file<"model.safetensors", "9f86d0...">`."""

    name = "qvit.weight_file"

    path: StringAttr
    sha256: StringAttr

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            path = parser.parse_str_literal()
            parser.parse_punctuation(",")
            return [StringAttr(path), StringAttr(parser.parse_str_literal())]

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string_literal(self.path.data)
            printer.print_string(", ")
            printer.print_string_literal(self.sha256.data)
