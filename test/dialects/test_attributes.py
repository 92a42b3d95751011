"""Attributes: their text, exactly; and the algebra of scales and parameters."""

import struct
from typing import Any

import ir_text
import numpy as np
import pytest
from approximation_examples import EXAMPLES, Example
from hypothesis import assume, example, given
from hypothesis import strategies as st
from xdsl.dialects.builtin import FloatAttr, IntegerAttr, IntegerType, NoneAttr, Signedness, f16, f32, f64, i8, i32
from xdsl.ir import Attribute
from xdsl.parser import Parser
from xdsl.utils.exceptions import ParseError, VerifyException

from qvit.dialects.approximation_attributes import ApproximationAttr
from qvit.dialects.approximations import APPROXIMATIONS, FUNCTION, LAYER_NORM, SOFTMAX
from qvit.dialects.attributes import (
    DyadicAttr,
    PotAttr,
    QParamsAttr,
    RealAttr,
    RoundingAttr,
    ScaleAttr,
    WeightFileAttr,
    WeightRefAttr,
    ZeroPointAttr,
    dense,
    dense_array,
    float_value,
    int_value,
)
from qvit.dialects.qvit import Qvit
from qvit.dialects.semantics.integers import Rounding
from qvit.dialects.types import element_dtype, element_type, tensor_type

ui8 = IntegerType(8, Signedness.UNSIGNED)


def read(text: str) -> Attribute:
    return Parser(ir_text.context(), text).parse_attribute()


# --- text ---

TEXTS = """
#qvit.scale<0.02>
#qvit.scale<0.02 : f64>
#qvit.scale<-0.02 * 0.0>
#qvit.scale<1.0 / 3.0>
#qvit.scale<0.02 * 0.5 : f64 * @"a.b" : tensor<3xf32> / 0.1 / [1.0, 2.0, 3.0] : f64>
#qvit.scale<[0.1, -2.5]>
#qvit.scale<@"k" : tensor<384xf64>>
#qvit.scale<@"with \\22quotes\\22" : tensor<2xf32>>
#qvit.scale<1.0e-10 * 1.0e+20>
#qvit.zero_point<128>
#qvit.zero_point<-128>
#qvit.zero_point<[3, -5]>
#qvit.zero_point<[3] : i8>
#qvit.zero_point<@"k" : tensor<2xi32>>
#qvit.params<0.02>
#qvit.params<0.02, zero_point = 128>
#qvit.params<0.02 * @"k" : tensor<4xf32> / 0.1, axis = 2>
#qvit.params<0.02, zero_point = [1, 2], axis = 0>
#qvit.params<[1.0, 2.0], zero_point = @"z" : tensor<2xi32>, axis = 1>
#qvit.real<0.02 * 0.003 / 0.05>
#qvit.real<[1.0, 2.0] : f64>
#qvit.dyadic<1518500250, 39>
#qvit.dyadic<-2147483647, 0>
#qvit.dyadic<[1, 2], 62>
#qvit.dyadic<2147483647, [0, 62]>
#qvit.dyadic<@"m" : tensor<2xi32>, @"s" : tensor<2xi32>>
#qvit.pot<7>
#qvit.pot<-31>
#qvit.pot<[-31, 62]>
#qvit.weight_ref<@"k" : tensor<2x3xi8>>
#qvit.weight_file<"a b/model.safetensors", "9f86d0">
"""


@pytest.mark.parametrize("text", TEXTS.split("\n")[1:-1])
def test_round_trip(text: str) -> None:
    check_round_trip(text)


def check_round_trip(text: str) -> None:
    attribute = read(text)
    assert str(attribute) == text
    assert read(str(attribute)) == attribute
    module = ir_text.parse(f'"test.op"() {{a = {text}}} : () -> ()')
    assert ir_text.parse(str(module)).is_structurally_equivalent(module)
    assert ir_text.parse(ir_text.generic(module)).is_structurally_equivalent(module)


@pytest.mark.parametrize("rounding", Rounding)
def test_rounding_round_trip(rounding: Rounding) -> None:
    module = ir_text.parse('"test.op"() : () -> ()')
    op = module.body.block.first_op
    assert op is not None
    op.attributes["a"] = RoundingAttr(rounding)
    assert ir_text.parse(str(module)).is_structurally_equivalent(module)


def test_every_attribute_is_covered() -> None:
    covered = {text.split("<")[0].removeprefix("#") for text in TEXTS.split("\n")[1:-1]}
    approximations = {f"qvit.{example.built.approximation.name}" for example in EXAMPLES}
    assert covered | {"qvit.rounding"} | approximations == {a.name for a in Qvit.attributes}


# --- approximations ---


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.name)
def test_approximations_round_trip(example: Example) -> None:
    approximation = example.built.approximation
    parameters = ", ".join(f"{name} = {value}" for name, value in approximation.parameters.items())
    text = f"#qvit.{approximation.name}" + (f"<{parameters}>" if parameters else "")
    check_round_trip(text)
    attribute = read(text)
    assert isinstance(attribute, ApproximationAttr)
    assert attribute.data == approximation
    assert attribute == ApproximationAttr.of(approximation)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.name)
def test_parameters_of_approximations(example: Example) -> None:
    """None may be missing, added, given twice, or out of its range; they stand in any order."""
    name, parameters = example.built.approximation.name, example.built.approximation.parameters
    fields = [f"{key} = {value}" for key, value in parameters.items()]

    def text(fields: list[str]) -> str:
        return f"#qvit.{name}<{', '.join(fields)}>"

    with pytest.raises(ParseError, match=f"{name}: expected the parameters {', '.join(parameters) or 'none'}; found"):
        read(text([*fields, "no_such = 1"]))
    for i, key in enumerate(parameters):
        assert read(text(fields[i:] + fields[:i])) == read(text(fields))
        with pytest.raises(ParseError, match=f"{name}: expected the parameters {', '.join(parameters)}; found"):
            read(text(fields[:i] + fields[i + 1 :]))
        with pytest.raises(ParseError, match=f"{name}: {key} is given twice"):
            read(text([*fields, fields[i]]))
        for beyond in (-(1 << 70), 1 << 70):  # no parameter is that large
            with pytest.raises(ParseError, match=f"{name}: "):
                read(text([*fields[:i], f"{key} = {beyond}", *fields[i + 1 :]]))


def test_names_of_approximations() -> None:
    for table in (SOFTMAX, FUNCTION, LAYER_NORM):
        for name, kind in table.items():
            assert kind.name == name.replace("-", "_")
    names = [kind.name for kind in APPROXIMATIONS]
    assert len(set(names)) == len(names)


def bits(value: float, single: bool) -> bytes:
    return struct.pack("f" if single else "d", value)


def check_float_text(number: float, single: bool) -> None:
    element = f32 if single else f64
    dtype = np.float32 if single else np.float64
    number_scale = RealAttr(ScaleAttr.of(FloatAttr(number, element), FloatAttr(3.0, element)))
    vector_scale = RealAttr(ScaleAttr.of(dense(np.array([number, 2.0], dtype))))
    for scale in (number_scale, vector_scale):
        text = str(scale)
        assert read(text) == scale
        # the shortest: no fewer digits read back, and it is MLIR's syntax (a point in every float)
        digits = (
            np.format_float_scientific(dtype(number), unique=True, trim="-").split("e")[0].strip("-").replace(".", "")
        )
        mantissa = text.split("<")[1].lstrip("[-").split(" ")[0].split(",")[0].split("]")[0].split(">")[0]
        mantissa = mantissa.split("e")[0]
        assert "." in mantissa
        assert mantissa.replace(".", "").strip("0") == digits.strip("0")
    first = read(str(number_scale)).scale.above[0].value.data  # pyright: ignore
    assert bits(first, single) == bits(number, single)
    again = dense_array(read(str(vector_scale)).scale.above[0])  # pyright: ignore
    assert again.tobytes() == vector_scale.scale.above[0].data.data


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
@example(3.4028234663852886e38)
@example(-1.401298464324817e-45)
@example(1.1754943508222875e-38)
@example(16777216.0)
@example(-0.0)
@example(1e-5)
@example(1e16)
@example(1e22)
def test_single_precision_text_is_exact(number: float) -> None:
    assume(number not in (1.0, 3.0))
    check_float_text(float(np.float32(number)), single=True)


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(5e-324)
@example(-1.7976931348623157e308)
@example(2.2250738585072014e-308)
@example(0.1)
@example(-0.0)
@example(1e16)
@example(1e22)
@example(1e23)
def test_double_precision_text_is_exact(number: float) -> None:
    assume(number not in (1.0, 3.0))
    check_float_text(number, single=False)


def test_single_precision_text_that_lies_on_a_boundary_in_double() -> None:
    """7.038531e-26 read as a double and then rounded again is the next float."""
    number = struct.unpack("<f", struct.pack("<I", 0x15AE43FD))[0]
    assert np.float32(float("7.038531e-26")) != number
    scale = ScaleAttr.of(FloatAttr(number, f32), dense(np.array([number, -number], np.float32)))
    assert read(str(scale)) == scale


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=2, max_size=4))
def test_integer_vectors_round_trip(values: list[int]) -> None:
    zero_point = ZeroPointAttr(int_value(np.array(values)))
    again = read(str(zero_point))
    assert again == zero_point
    assert dense_array(again.value).tolist() == values  # pyright: ignore


# --- numbers and vectors ---


def test_float_value() -> None:
    assert float_value(0.5) == FloatAttr(0.5, f32)
    assert float_value(0.1) == FloatAttr(0.1, f64)
    assert float_value(float(np.float32(0.1))) == FloatAttr(0.1, f32)
    assert float_value(np.float32(0.1)) == FloatAttr(0.1, f32)
    assert float_value(np.array(0.1)) == FloatAttr(0.1, f64)
    for dtype, element in ((np.float32, f32), (np.float64, f64)):
        vector: Any = float_value(np.array([1, 2], dtype))
        assert vector.get_element_type() == element
        assert dense_array(vector).tolist() == [1, 2]


def test_int_value() -> None:
    assert int_value(-3) == IntegerAttr(-3, 64)
    assert int_value(np.array(2**40)) == IntegerAttr(2**40, 64)
    vector: Any = int_value(np.array([1, -2]))
    assert vector.get_element_type() == i32
    assert dense_array(vector).tolist() == [1, -2]


@pytest.mark.parametrize("make", [int_value, ZeroPointAttr.of])
def test_vectors_beyond_32_bits(make: Any) -> None:
    with pytest.raises(OverflowError, match="^1099511627776 does not fit i32"):
        make(np.array([2**40, 3]))


ARRAYS = [
    (np.array([[1, -2], [3, 4]], np.int8), i8),
    (np.array([0, 255], np.uint8), ui8),
    (np.array([1.5, -0.0, np.inf], np.float32), f32),
    (np.array(0.1), f64),
    (np.zeros((2, 0), np.int32), i32),
    (np.arange(12, dtype=np.int32).reshape(3, 4).T, i32),  # not contiguous
    (np.arange(8, dtype=np.int32)[::-2], i32),
]


@pytest.mark.parametrize(("array", "element"), ARRAYS, ids=lambda v: str(getattr(v, "shape", v)))
def test_dense(array: np.ndarray, element: Attribute) -> None:
    attribute = dense(array)
    assert attribute.get_element_type() == element
    assert attribute.get_shape() == array.shape
    again = dense_array(attribute)
    assert again.dtype == array.dtype
    assert again.tolist() == array.tolist()
    assert not again.flags.writeable
    assert again.tobytes() == array.tobytes()


def test_dense_of_narrow_integers() -> None:
    i4, ui4 = IntegerType(4), IntegerType(4, Signedness.UNSIGNED)
    assert dense_array(dense(np.array([-8, 7]), i4)).tolist() == [-8, 7]
    assert dense_array(dense(np.array([0, 15]), ui4)).tolist() == [0, 15]
    written = ir_text.parse("%c = qvit.constant dense<[-8, 7]> : tensor<2xi4>").body.block.first_op
    assert dense_array(written.value).tolist() == [-8, 7]  # pyright: ignore


def test_dense_of_a_view_of_bytes() -> None:
    data = np.arange(6, dtype=np.int16).tobytes()
    whole = np.frombuffer(data, np.int16)
    assert dense(whole.reshape(2, 3)).data.data is data  # no copy
    assert dense_array(dense(whole[:3])).tolist() == [0, 1, 2]
    assert dense_array(dense(whole.reshape(2, 3).T)).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert dense_array(dense(whole[::-1])).tolist() == [5, 4, 3, 2, 1, 0]


# --- scales ---


def f(value: float) -> FloatAttr:
    return FloatAttr(value, f32)


VECTOR = dense(np.array([2.0, 3.0], np.float32))
WITH_ZERO = dense(np.array([2.0, 0.0], np.float32))


def test_scales_cancel_equal_factors_and_ones() -> None:
    assert ScaleAttr.of() == ScaleAttr.of(f(1)) == ScaleAttr.of(f(1), over=[f(1)])
    assert ScaleAttr.of().above == (f(1),)
    assert ScaleAttr.of(f(2), f(3), over=[f(2)]) == ScaleAttr.of(f(3))
    assert ScaleAttr.of(f(2), over=[f(2), f(2)]) == ScaleAttr.of(over=[f(2)])
    assert ScaleAttr.of(VECTOR, f(3), over=[VECTOR]) == ScaleAttr.of(f(3))
    assert str(ScaleAttr.of(f(2), over=[f(4), f(1)])) == "#qvit.scale<2.0 / 4.0>"


def test_scales_do_not_cancel_what_differs() -> None:
    assert ScaleAttr.of(f(2), over=[FloatAttr(2, f64)]).below == (FloatAttr(2, f64),)
    # a reference's contents are not known: there may be a zero among them
    reference: Any = read('#qvit.weight_ref<@"k" : tensor<2xf32>>')
    assert ScaleAttr.of(reference, over=[reference]).factors == (reference, reference)


@pytest.mark.parametrize("zero", [f(0), WITH_ZERO])
def test_scales_are_not_divided_by_zero(zero: Any) -> None:
    for above in ([], [zero]):  # 0 / 0 does not cancel
        with pytest.raises(VerifyException, match="^a scale's denominators must not be 0$"):
            ScaleAttr.of(*above, over=[zero])
    assert ScaleAttr.of(zero).above == (zero,)


def test_times() -> None:
    scale = ScaleAttr.of(f(2), over=[f(3)])
    assert scale.times(f(3)) == ScaleAttr.of(f(2))
    assert scale.times(f(5), over=[f(2)]) == ScaleAttr.of(f(5), over=[f(3)])
    assert scale.times() == scale


def test_lengths() -> None:
    assert ScaleAttr.of(f(2)).length is None
    assert ScaleAttr.of(f(2), over=[VECTOR]).length == 2
    assert DyadicAttr.of(np.array([1, 2, 3]), 4).length == 3
    assert DyadicAttr.of(1, 4).length is None
    assert PotAttr.of(np.array([1, 2])).length == 2
    assert ZeroPointAttr.of(np.array([1, 2])).length == 2
    with pytest.raises(VerifyException, match=r"vectors of one scale have different lengths: \[2, 3\]"):
        _ = ScaleAttr.of(VECTOR, dense(np.ones(3, np.float32))).length


def test_zero_points_of_equal_elements_are_one_number() -> None:
    assert ZeroPointAttr.of(np.array([5, 5, 5])) == ZeroPointAttr.of(5)
    assert ZeroPointAttr.of(5).number == 5
    assert ZeroPointAttr.of(np.array(5)).number == 5
    assert ZeroPointAttr.of(np.array([5, 6])).number is None
    assert ZeroPointAttr.of(IntegerAttr(5, 64)) == ZeroPointAttr.of(5)


def test_params() -> None:
    plain = QParamsAttr.of(0.5, 3, axis=1)  # nothing varies: no axis
    assert (plain.axis, plain.axis_index) == (NoneAttr(), None)
    assert str(plain) == "#qvit.params<0.5, zero_point = 3>"
    varying = QParamsAttr.of(np.array([0.5, 2.0], np.float32), axis=1)
    assert varying.axis_index == 1
    assert varying.with_axis(0).axis_index == 0
    assert varying.with_scale(ScaleAttr.of(f(2)), 0) == QParamsAttr.of(2.0)
    assert QParamsAttr.of(0.5, np.array([1, 2]), 0).with_scale(ScaleAttr.of(f(2)), 0).axis_index == 0
    with pytest.raises(VerifyException, match="axis must be given exactly when"):
        varying.with_axis(None)


def test_weight_attributes() -> None:
    reference: Any = read('#qvit.weight_ref<@"a.b" : tensor<2xi8>>')
    assert isinstance(reference, WeightRefAttr)
    assert (reference.key.data, str(reference.type)) == ("a.b", "tensor<2xi8>")
    file: Any = read('#qvit.weight_file<"x.safetensors", "ab">')
    assert isinstance(file, WeightFileAttr)
    assert (file.path.data, file.sha256.data) == ("x.safetensors", "ab")


# --- element types ---


@pytest.mark.parametrize("bits", range(1, 65))
def test_integer_element_types(bits: int) -> None:
    width = next(w for w in (8, 16, 32, 64) if w >= bits)
    assert element_dtype(IntegerType(bits)) == np.dtype(f"int{width}")
    if bits <= 32:
        assert element_dtype(IntegerType(bits, Signedness.UNSIGNED)) == np.dtype(f"uint{width}")


@pytest.mark.parametrize(
    ("name", "element"),
    [
        ("int8", "i8"),
        ("int16", "i16"),
        ("int32", "i32"),
        ("int64", "i64"),
        ("uint8", "ui8"),
        ("uint16", "ui16"),
        ("uint32", "ui32"),
        ("float32", "f32"),
        ("float64", "f64"),
        ("bool", "ui1"),
    ],
)
def test_element_types_of_arrays(name: str, element: str) -> None:
    found = element_type(np.dtype(name))
    assert str(found) == element
    assert element_dtype(found) == np.dtype("uint8" if name == "bool" else name)


@pytest.mark.parametrize("name", ["float16", "uint64", "complex64", "object"])
def test_arrays_without_an_element_type(name: str) -> None:
    with pytest.raises(ValueError, match=f"^no element type for NumPy's {name}$"):
        element_type(np.dtype(name))


def test_other_types_are_refused() -> None:
    with pytest.raises(VerifyException, match="element type f16 is none of"):
        element_dtype(f16)
    with pytest.raises(VerifyException, match="expected a tensor, found i32"):
        tensor_type(i32)
