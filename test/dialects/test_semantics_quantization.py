"""quantize, dequantize, requantize, add_requant and threshold against the oracle."""

import struct
from collections.abc import Callable
from fractions import Fraction
from itertools import product
from random import Random

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from qvit.dialects.semantics.integers import IntType, Rounding
from qvit.dialects.semantics.quantization import (
    add_requant,
    add_requant_real,
    along,
    dequantize,
    quantize,
    reciprocal,
    requantize_dyadic,
    requantize_pot,
    requantize_real,
    scale_and_round,
    threshold,
)

I2, I4, I8, UI8, I16, UI16, I32, UI32, I64 = (
    IntType(bits, signed)
    for bits, signed in [(2, 1), (4, 1), (8, 1), (8, 0), (16, 1), (16, 0), (32, 1), (32, 0), (64, 1)]
)
TYPES = [I2, I4, I8, UI8, I16, UI16, I32, UI32]
MODES = pytest.mark.parametrize("mode", Rounding)
ZERO = (np.array(0), np.array(0))


def limits(t: IntType) -> oracle.Range:
    return oracle.signed(t.bits) if t.signed else oracle.unsigned(t.bits)


def codes(t: IntType) -> st.SearchStrategy[int]:
    """Any value of the type, its edges more often."""
    lo, hi = limits(t)
    return st.integers(lo, hi) | st.sampled_from([lo, lo + 1, -1 if t.signed else 1, 0, hi - 1, hi])


def check(found: NDArray[np.generic], expected: list[int], result: IntType) -> None:
    assert found.dtype == result.dtype
    assert found.tolist() == expected


def test_along() -> None:
    assert along(np.arange(3), 1, 3).shape == (1, 3, 1)
    assert along(np.arange(3), 0, 1).shape == (3,)
    assert along(np.array(7), 1, 3).shape == ()
    assert along(np.array(7), None, 3).shape == ()


# --- quantize ---
#
# The oracle divides over the reals, the semantics in float. With x and scale of single precision and the quotient in
# double, no result can differ: boundaries are halves of integers, and a quotient of two 24-bit significands that is not
# on a boundary below 2^27 is at least 2^-25 away from it (x - boundary * scale is a multiple of the smaller of their
# last places), while the float64 quotient is off by at most 2^-53 * 2^27.


def check_quantize(
    x: list[float], scale: float, zero_point: int, mode: Rounding, result: IntType, dtype: type = np.float64
) -> None:
    found = quantize(np.array(x, dtype), np.array(scale, dtype), np.array(zero_point), mode, result)
    check(found, [oracle.quantize(v, scale, zero_point, mode, limits(result)) for v in x], result)


@MODES
@pytest.mark.parametrize("result", [I2, I4, I8, UI8, I16], ids=str)
@pytest.mark.parametrize("scale", [1.0, 0.02, 0.37, 1 / 3, 5e-9])
def test_quantize_grid(scale: float, result: IntType, mode: Rounding) -> None:
    scale = float(np.float32(scale))
    reach = (result.hi - result.lo) * 1.2
    x = [float(np.float32(scale * reach * k / 150)) for k in range(-150, 151)]
    for zero_point in {result.lo, 0, 1, result.hi}:
        check_quantize(x, scale, zero_point, mode, result)


@MODES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1.0, 3 * 2.0**-9, 2.0**-100, 2.0**90])
def test_quantize_ties(scale: float, dtype: type, mode: Rounding) -> None:
    # every half of an integer, exactly: the products and quotients need few bits
    ties = [k / 2 * scale for k in range(-280, 281)]
    for zero_point, result in [(0, I8), (-128, I8), (127, I8), (128, UI8), (3, I4), (0, I16)]:
        check_quantize(ties, scale, zero_point, mode, result, dtype)


@MODES
def test_quantize_beside_ties(mode: Rounding) -> None:
    for scale in map(float, np.float32([0.02, 0.7, 3.1])):
        x = np.float32([(k + 0.5) * scale for k in range(-140, 140)])
        neighbours = [np.nextafter(x, np.float32(side)) for side in (-np.inf, np.inf)]
        check_quantize(np.concatenate([x, *neighbours]).tolist(), scale, 0, mode, I8)


SINGLE = st.floats(width=32, allow_nan=False)


@given(
    st.lists(SINGLE, min_size=1, max_size=5),
    st.floats(min_value=2.0**-126, allow_infinity=False, width=32),
    st.sampled_from(Rounding),
    st.sampled_from([I2, I8, UI8, I16, UI16]).flatmap(lambda t: st.tuples(st.just(t), codes(t))),
)
def test_quantize_wide(x: list[float], scale: float, mode: Rounding, target: tuple[IntType, int]) -> None:
    check_quantize(x, scale, target[1], mode, target[0])


@given(st.lists(st.integers(-(2**24), 2**24), min_size=1), st.integers(-40, 40), st.sampled_from(Rounding), st.data())
def test_quantize_exact_quotients_in_both_precisions(x: list[int], e: int, mode: Rounding, data: st.DataObject) -> None:
    result = data.draw(st.sampled_from(TYPES))
    zero_point, down = data.draw(codes(result)), data.draw(st.sampled_from([1, 2, 8, 2**20]))
    for dtype in (np.float32, np.float64):
        check_quantize([v * 2.0**e / down for v in x], 2.0**e, zero_point, mode, result, dtype)


@MODES
@pytest.mark.parametrize("result", TYPES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_quantize_saturates(result: IntType, mode: Rounding, dtype: type) -> None:
    x = [np.inf, -np.inf, 3e38, -3e38, 2.0**33, -(2.0**33), 0.0, -0.0]
    for zero_point in (result.lo, 0, result.hi):
        check_quantize(x, 1.0, zero_point, mode, result, dtype)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_quantize_saturates_at_64_bits() -> None:
    check_quantize([1e30, -1e30, 2.0**62], 1.0, 0, Rounding.FLOOR, I64)


@MODES
def test_quantize_per_axis(mode: Rounding) -> None:
    x = (np.arange(24.0).reshape(2, 3, 4) - 12) / 8
    scale, zero_point = [0.5, 1.0, 0.125], [-8, 0, 7]
    found = quantize(x, along(np.array(scale), 1, 3), along(np.array(zero_point), 1, 3), mode, I4)
    expected = oracle.build(
        (2, 3, 4), lambda i, j, k: oracle.quantize(float(x[i, j, k]), scale[j], zero_point[j], mode, limits(I4))
    )
    assert found.tolist() == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_quantize_refuses_nan(dtype: type) -> None:
    with pytest.raises(ValueError, match="^cannot quantize NaN$"):
        quantize(np.array([0, np.nan], dtype), np.array(1, dtype), np.array(0), Rounding.HALF_EVEN, I8)


@pytest.mark.parametrize(
    ("scale", "zero_point", "message"),
    [
        (0.0, 0, "a quantizer's scale must be positive and finite, found 0.0..0.0"),
        (-1.0, 0, "a quantizer's scale must be positive and finite, found -1.0..-1.0"),
        ([1.0, -2.0], 0, "a quantizer's scale must be positive and finite, found -2.0..1.0"),
        ([1.0, np.inf], 0, "a quantizer's scale must be positive and finite, found 1.0..inf"),
        (1.0, 128, "zero points 128..128 are outside i8"),
        (1.0, [0, -129], "zero points -129..0 are outside i8"),
        (1.0, [128, 0], "zero points 0..128 are outside i8"),
    ],
)
def test_quantize_refuses_parameters(scale: oracle.Nested, zero_point: oracle.Nested, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        quantize(np.zeros(2), np.array(scale), np.array(zero_point), Rounding.HALF_EVEN, I8)


# --- dequantize ---


def single(x: Fraction) -> float:
    """The nearest float32 of a number of at most 53 bits."""
    assert Fraction(float(x)) == x  # so that only one rounding takes place
    return struct.unpack("f", struct.pack("f", float(x)))[0]


@pytest.mark.parametrize("scale", [0.02, 1 / 3, -0.7, 0.0, 1e-30, 2.0**-126])
def test_dequantize_all_bytes(scale: float) -> None:
    scale = float(np.float32(scale))
    for t in (I8, UI8):
        q = list(range(t.lo, t.hi + 1))
        for zero_point in (t.lo, 0, 3, t.hi):
            exact = [oracle.dequantize(n, scale, zero_point) for n in q]
            double = dequantize(np.array(q, t.dtype), np.array(scale), np.array(zero_point))
            assert double.dtype == np.float64
            assert [Fraction(v) for v in double.tolist()] == exact
            found = dequantize(np.array(q, t.dtype), np.array(scale, np.float32), np.array(zero_point))
            assert found.dtype == np.float32
            assert found.tolist() == [single(v) for v in exact]


@given(st.sampled_from([I16, UI16, I32, UI32]), st.floats(width=32, min_value=-(2.0**60), max_value=2.0**60), st.data())
def test_dequantize_wide(t: IntType, scale: float, data: st.DataObject) -> None:
    # one significand of 24 bits, one of at most 29: the product is exact in float64
    scale = 0.0 if abs(scale) < 2.0**-100 else scale
    zero_point = data.draw(codes(t))
    q = [v for v in data.draw(st.lists(codes(t))) if abs(v - zero_point) < 2**29]
    found = dequantize(np.array(q, t.dtype), np.array(scale), np.array(zero_point))
    assert [Fraction(v) for v in found.tolist()] == [oracle.dequantize(n, scale, zero_point) for n in q]


def test_dequantize_per_axis() -> None:
    q, scale, zero_point = np.arange(12, dtype=np.uint8).reshape(3, 4), [0.5, -2.0, 0.1], [1, 0, 11]
    found = dequantize(q, along(np.array(scale), 0, 2), along(np.array(zero_point), 0, 2))
    expected = oracle.build((3, 4), lambda i, j: float(oracle.dequantize(int(q[i, j]), scale[i], zero_point[i])))
    assert found.tolist() == expected


# --- requantize ---


def check_requantize(
    x: list[int], source: IntType, factor: Fraction, z_in: int, z_out: int, mode: Rounding, result: IntType
) -> None:
    array, zero_points = np.array(x, source.dtype), (np.array(z_in), np.array(z_out))
    expected = [oracle.requantize(n, factor, z_in, z_out, mode, limits(result)) for n in x]
    check(requantize_real(array, [factor], None, zero_points, mode, result), expected, result)


def check_dyadic(
    x: list[int],
    source: IntType,
    multiplier: int,
    shift: int,
    zero_points: tuple[int, int],
    mode: Rounding,
    result: IntType,
) -> None:
    array, zeros = np.array(x, source.dtype), (np.array(zero_points[0]), np.array(zero_points[1]))
    factor = oracle.dyadic(multiplier, shift)
    expected = [oracle.requantize(n, factor, *zero_points, mode, limits(result)) for n in x]
    found = requantize_dyadic(array, np.array(multiplier), np.array(shift), zeros, mode, result)
    check(found, expected, result)
    if multiplier == 1:
        check(requantize_pot(array, np.array(shift), zeros, mode, result), expected, result)


ZERO_POINTS = [(0, 0), (-128, 5), (127, -128), (3, 127)]


@MODES
@pytest.mark.parametrize("result", [I2, I8, UI8, I32], ids=str)
@pytest.mark.parametrize(
    ("multiplier", "shift"),
    [
        (1, 0),
        (1, 1),
        (1, 3),
        (1, 8),
        (1, 62),
        (3, 2),
        (-3, 2),
        (-1, 1),
        (25, 5),
        (0, 0),
        (2**31 - 1, 33),
        (-(2**31) + 1, 30),
    ],
)
def test_requantize_dyadic_all_bytes(multiplier: int, shift: int, result: IntType, mode: Rounding) -> None:
    x = list(range(-128, 128))
    for z_in, z_out in ZERO_POINTS:
        z_out = oracle.saturated(z_out, limits(result))
        check_dyadic(x, I8, multiplier, shift, (z_in, z_out), mode, result)
        check_requantize(x, I8, oracle.dyadic(multiplier, shift), z_in, z_out, mode, result)


@MODES
@pytest.mark.parametrize("factor", [Fraction(1), Fraction(1, 2), Fraction(2, 3), Fraction(-7, 6), Fraction(1, 510)])
def test_requantize_real_all_bytes(factor: Fraction, mode: Rounding) -> None:
    for z_in, z_out in ZERO_POINTS:
        check_requantize(list(range(-128, 128)), I8, factor, z_in, z_out, mode, I8)


@MODES
def test_requantize_pot_all_bytes(mode: Rounding) -> None:
    x = list(range(-128, 128))
    for shift in (-31, -25, -24, -7, -1, 0, 1, 2, 7, 8, 9, 31, 32, 62):
        for (z_in, z_out), result in product([(0, 0), (-128, 127)], [I8, I32]):
            found = requantize_pot(
                np.array(x, np.int8), np.array(shift), (np.array(z_in), np.array(z_out)), mode, result
            )
            factor = oracle.dyadic(1, shift)
            check(found, [oracle.requantize(n, factor, z_in, z_out, mode, limits(result)) for n in x], result)


@st.composite
def requantizations(draw: st.DrawFn) -> tuple[list[int], IntType, tuple[int, int], Rounding, IntType]:
    source, result = draw(st.sampled_from([*TYPES, I64])), draw(st.sampled_from([*TYPES, I64]))
    x = draw(st.lists(codes(source), min_size=1, max_size=4))
    zero_points = draw(codes(source)), draw(codes(result))
    return x, source, zero_points, draw(st.sampled_from(Rounding)), result


MULTIPLIERS = st.integers(-(2**31) + 1, 2**31 - 1) | st.sampled_from([2**31 - 1, -(2**31) + 1, 0, 1, -1, 2**30])


@given(requantizations(), MULTIPLIERS, st.integers(0, 62))
def test_requantize_dyadic_wide(
    case: tuple[list[int], IntType, tuple[int, int], Rounding, IntType], multiplier: int, shift: int
) -> None:
    x, source, zero_points, mode, result = case
    check_dyadic(x, source, multiplier, shift, zero_points, mode, result)


@given(requantizations(), st.integers(-31, 62))
def test_requantize_pot_wide(case: tuple[list[int], IntType, tuple[int, int], Rounding, IntType], shift: int) -> None:
    x, source, zero_points, mode, result = case
    array, zeros = np.array(x, source.dtype), (np.array(zero_points[0]), np.array(zero_points[1]))
    expected = [oracle.requantize(n, oracle.dyadic(1, shift), *zero_points, mode, limits(result)) for n in x]
    check(requantize_pot(array, np.array(shift), zeros, mode, result), expected, result)


FACTORS = st.one_of(
    st.fractions(),
    st.fractions(-2, 2, max_denominator=100),
    st.floats(allow_nan=False, allow_infinity=False).map(Fraction),
    st.tuples(st.integers(-9, 9), st.integers(-1200, 900)).map(lambda t: t[0] * Fraction(2) ** t[1]),
)


@given(requantizations(), FACTORS)
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_requantize_real_wide(
    case: tuple[list[int], IntType, tuple[int, int], Rounding, IntType], factor: Fraction
) -> None:
    x, source, zero_points, mode, result = case
    check_requantize(x, source, factor, *zero_points, mode, result)


@MODES
@pytest.mark.parametrize("bits", [8, 24, 31, 48, 63])
def test_scale_and_round_on_and_beside_every_boundary(bits: int, mode: Rounding) -> None:
    """Factors that take x to a boundary over the reals, or off by less than any float can tell."""
    random = Random(bits)
    hardest = [Fraction(0), Fraction(1, 10**40), -Fraction(1, 10**40)]
    for _ in range(150):
        x = random.choice((-1, 1)) * random.randrange(1, 1 << bits)
        boundary = Fraction(random.randrange(-(1 << random.randrange(1, 60)), 1 << random.randrange(1, 60)), 2)
        for off in hardest:
            factor = (boundary + off) / x
            found = scale_and_round(np.array([x, 0, -x]), [factor], None, mode)
            assert found.tolist() == [oracle.rounded(n * factor, mode) for n in (x, 0, -x)]


@MODES
def test_scale_and_round_large_products(mode: Rounding) -> None:
    for x, factor in product([2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 3], [1, 2**31 + 1, Fraction(2**62, 7), 2**80]):
        found = scale_and_round(np.array([x, 1]), [Fraction(factor)], None, mode)
        assert found.tolist() == [oracle.rounded(n * Fraction(factor), mode) for n in (x, 1)]


@MODES
def test_scale_and_round_products_about_2_to_the_63(mode: Rounding) -> None:
    """The float product may lie on the other side of the last integer of 64 bits."""
    for x in range(3, 2003, 8):
        for sign in (1, -1):
            found = scale_and_round(np.array([x]), [Fraction(sign * 2**63, x)], None, mode)
            assert found.tolist() == [sign * 2**63]


@MODES
def test_scale_and_round_factors_below_floats(mode: Rounding) -> None:
    for factor in (Fraction(1, 10**400), -Fraction(1, 10**400), Fraction(1, 2**1074), Fraction(3, 2**1076)):
        found = scale_and_round(np.array([-5, 0, 5]), [factor], None, mode)
        assert found.tolist() == [oracle.rounded(n * factor, mode) for n in (-5, 0, 5)]


@MODES
def test_requantize_per_axis(mode: Rounding) -> None:
    x = np.arange(-60, 60).reshape(5, 3, 8).astype(np.int32)
    factors, z_in, z_out = [Fraction(1, 3), Fraction(-5, 2), Fraction(1, 2)], [1, -2, 0], [0, 7, -8]
    multiplier, shift = [3, -5, 1], [1, 0, 2]

    def expected(factor: list[Fraction]) -> list[int]:
        return oracle.build(
            x.shape,
            lambda i, j, k: oracle.requantize(int(x[i, j, k]), factor[j], z_in[j], z_out[j], mode, limits(I4)),
        )

    zeros = (along(np.array(z_in), 1, 3), along(np.array(z_out), 1, 3))
    m, s = along(np.array(multiplier), 1, 3), along(np.array(shift), 1, 3)
    dyadic = [oracle.dyadic(a, b) for a, b in zip(multiplier, shift, strict=True)]
    pot = [oracle.dyadic(1, b) for b in shift]
    assert requantize_real(x, factors, 1, zeros, mode, I4).tolist() == expected(factors)
    assert requantize_dyadic(x, m, s, zeros, mode, I4).tolist() == expected(dyadic)
    assert requantize_pot(x, s, zeros, mode, I4).tolist() == expected(pot)


def test_requantize_64_bit_codes() -> None:
    x = [*limits(I64), limits(I64)[1] - 1, 1 << 62, -1, 0]
    for mode in Rounding:
        for multiplier, shift in [(1, 0), (2**31 - 1, 0), (2**31 - 1, 62), (-3, 5)]:
            check_dyadic(x, I64, multiplier, shift, (0, 0), mode, I64)
            check_dyadic(x, I64, multiplier, shift, (0, 0), mode, I8)
        check_requantize(x, I64, Fraction(1, 3), 0, 0, mode, I64)
        check_requantize(x, I64, Fraction(1), 0, 0, mode, I64)


@pytest.mark.parametrize("result", [I8, I64], ids=str)
@pytest.mark.parametrize(
    ("x", "zero_points"), [(2**63 - 1, (0, 1)), (1 - 2**63, (0, -2)), (-(2**63), (1, 0)), (2**63 - 1, (-1, 0))]
)
def test_requantize_64_bit_codes_with_zero_points(x: int, zero_points: tuple[int, int], result: IntType) -> None:
    check_dyadic([x], I64, 1, 0, zero_points, Rounding.FLOOR, result)


def test_requantize_32_bit_codes_with_the_largest_factor() -> None:
    # (2^32 - 1) 2^31 leaves less than 2^32 to 2^63
    check_dyadic([2**32 - 1], UI32, 1, -31, (0, 2**32 - 1), Rounding.FLOOR, UI32)


def test_requantize_by_a_factor_beyond_floats() -> None:
    check_requantize([-5, 0, 5], I8, Fraction(10) ** 400, 0, 0, Rounding.FLOOR, I8)


# --- requantize with a divisor ---


def check_divided(
    pairs: list[tuple[int, int]],
    source: IntType,
    divisors: IntType,
    form: tuple[int, int],
    zero_points: tuple[int, int],
    mode: Rounding,
    result: IntType,
) -> None:
    """pairs: (code, divisor). The form dyadic, over the reals, and, for multiplier 1, pot."""
    multiplier, shift = form
    x, z = np.array([p[0] for p in pairs], source.dtype), np.array([p[1] for p in pairs], divisors.dtype)
    zeros, to = (np.array(zero_points[0]), np.array(zero_points[1])), limits(result)

    def expected(multiplier: int, shift: int) -> list[int]:
        return [oracle.requantize(n, oracle.reciprocal(multiplier, shift, d), *zero_points, mode, to) for n, d in pairs]

    found = requantize_dyadic(x, np.array(multiplier), np.array(shift), zeros, mode, result, z)
    check(found, expected(multiplier, shift), result)
    factor = oracle.dyadic(multiplier, shift)
    real = [oracle.requantize(n, factor / d, *zero_points, mode, to) for n, d in pairs]
    check(requantize_real(x, [factor], None, zeros, mode, result, z), real, result)
    if multiplier == 1:
        check(requantize_pot(x, np.array(shift), zeros, mode, result, z), expected(2**30, shift + 30), result)


@MODES
@pytest.mark.parametrize("form", [(2**31 - 1, 33), (2**30, 30), (-1518500250, 31), (3, 1), (1, 0), (0, 5), (1, 2)])
def test_divided_all_bytes(form: tuple[int, int], mode: Rounding) -> None:
    divisors = [1, 2, 3, 5, 7, 8, 15, 16, 17, 255, 2**24 - 1, 2**24, 2**31 - 1]
    pairs = list(product(range(-128, 128), divisors))
    for zero_points, result in product([(0, 0), (127, -3)], [I8, I16]):
        check_divided(pairs, I8, I32, form, zero_points, mode, result)


DIVISORS = st.sampled_from([I32, UI32, I64]).flatmap(
    lambda t: st.tuples(st.just(t), st.integers(1, t.hi) | st.integers(0, t.bits - 2).map(lambda k: 1 << k))
)


@given(requantizations(), MULTIPLIERS, st.integers(0, 62), DIVISORS, st.integers(-1, 1))
def test_divided_wide(
    case: tuple[list[int], IntType, tuple[int, int], Rounding, IntType],
    multiplier: int,
    shift: int,
    divisor: tuple[IntType, int],
    beside: int,
) -> None:
    x, source, zero_points, mode, result = case
    divisors, z = divisor
    z = min(max(z + beside, 1), divisors.hi)
    check_divided([(n, z) for n in x], source, divisors, (multiplier, shift), zero_points, mode, result)


@given(requantizations(), st.integers(-31, 62), DIVISORS)
def test_divided_powers_of_two(
    case: tuple[list[int], IntType, tuple[int, int], Rounding, IntType], shift: int, divisor: tuple[IntType, int]
) -> None:
    x, source, zero_points, mode, result = case
    check_divided([(n, divisor[1]) for n in x], source, divisor[0], (1, shift), zero_points, mode, result)


@given(requantizations(), FACTORS, DIVISORS)
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_divided_real(
    case: tuple[list[int], IntType, tuple[int, int], Rounding, IntType],
    factor: Fraction,
    divisor: tuple[IntType, int],
) -> None:
    x, source, zero_points, mode, result = case
    array, zeros = np.array(x, source.dtype), (np.array(zero_points[0]), np.array(zero_points[1]))
    expected = [oracle.requantize(n, factor / divisor[1], *zero_points, mode, limits(result)) for n in x]
    z = np.array(divisor[1], divisor[0].dtype)
    check(requantize_real(array, [factor], None, zeros, mode, result, z), expected, result)


@MODES
def test_divided_on_and_beside_every_tie(mode: Rounding) -> None:
    """Real quotients that are ties, or off by less than any float can tell."""
    for z, k in product([3, 7, 2**20 + 1, 2**31 - 1], range(-6, 7)):
        for off in (0, Fraction(1, 10**30), -Fraction(1, 10**30)):
            factor = Fraction(2 * k + 1, 2) * z / 5 + off
            expected = [oracle.requantize(n, factor / z, 0, 0, mode, limits(I16)) for n in (5, -5)]
            found = requantize_real(np.array([5, -5]), [factor], None, ZERO, mode, I16, np.array([z]))
            check(found, expected, I16)


@MODES
def test_divided_rows(mode: Rounding) -> None:
    """A divisor for each row, a factor for each column, and two batches."""
    x = np.arange(-60, 60).reshape(2, 5, 12).astype(np.int32) * 7919
    z = np.array([[[1], [2], [3], [1000], [65535]], [[7], [8], [9], [10], [11]]])
    multipliers, shifts = [(-1) ** j * (2**30 + 3**j) for j in range(12)], [30 + j % 3 for j in range(12)]
    m, s = along(np.array(multipliers), 2, 3), along(np.array(shifts), 2, 3)
    exact = oracle.build(
        x.shape,
        lambda b, i, j: oracle.requantize(
            int(x[b, i, j]),
            oracle.reciprocal(multipliers[j], shifts[j], int(z[b, i, 0])),
            3,
            -5,
            mode,
            limits(I8),
        ),
    )
    assert requantize_dyadic(x, m, s, (np.array(3), np.array(-5)), mode, I8, z).tolist() == exact
    factors = [oracle.dyadic(a, b) for a, b in zip(multipliers, shifts, strict=True)]
    real = oracle.build(
        x.shape,
        lambda b, i, j: oracle.requantize(int(x[b, i, j]), factors[j] / int(z[b, i, 0]), 3, -5, mode, limits(I8)),
    )
    assert requantize_real(x, factors, 2, (np.array(3), np.array(-5)), mode, I8, z).tolist() == real


@given(st.integers(2**30, 2**31 - 1), DIVISORS, st.integers(0, 1))
def test_reciprocals_have_30_bits(multiplier: int, divisor: tuple[IntType, int], less: int) -> None:
    z = max(divisor[1] - less, 1)
    number, k = (int(v) for v in reciprocal(np.array(multiplier), np.array(z)))
    assert k == z.bit_length() - 1
    exact = Fraction(multiplier, z) * 2**k
    assert 2**29 <= number < 2**31
    assert number <= exact
    assert (exact - number) * 2**29 < exact


@pytest.mark.parametrize("z", [1, 2, 3, 2**53 - 1, 2**54 - 1, 2**62 - 1, 2**62, 2**63 - 1])
def test_bit_lengths_of_divisors(z: int) -> None:
    """Also of those that floats round up to the next power of two."""
    assert int(reciprocal(np.array(2**30), np.array(z))[1]) == z.bit_length() - 1


@MODES
def test_divided_large_codes_by_powers_of_two(mode: Rounding) -> None:
    """Codes of 32 bits show the last bits of the reciprocals."""
    pairs = list(product([2**31 - 1, 2**31 - 2, -(2**31), 1518500249], [1, 3, 5, 7, 11, 12345]))
    check_divided(pairs, I32, I32, (1, 0), (0, 0), mode, I32)


@pytest.mark.parametrize("divisor", [[3, 0], [3, -1]])
def test_divisors_are_positive(divisor: list[int]) -> None:
    x, z, one = np.zeros((2, 1), np.int32), np.array(divisor), np.array(1)
    message = f"^a divisor must be positive, found {divisor[1]}$"
    for call in (
        lambda: requantize_dyadic(x, one, one, ZERO, Rounding.HALF_UP, I8, z),
        lambda: requantize_pot(x, one, ZERO, Rounding.HALF_UP, I8, z),
        lambda: requantize_real(x, [Fraction(1)], None, ZERO, Rounding.HALF_UP, I8, z),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# --- add_requant ---


def check_add(
    pairs: list[tuple[int, int]],
    source: IntType,
    forms: tuple[tuple[int, int], tuple[int, int]],
    zero_points: tuple[int, int, int],
    mode: Rounding,
    round_each: bool,
    result: IntType,
) -> None:
    (m_a, s_a), (m_b, s_b) = forms
    z_a, z_b, z = zero_points
    a, b = (np.array([p[i] for p in pairs], source.dtype) for i in (0, 1))
    found = add_requant(
        a,
        b,
        (np.array(m_a), np.array(m_b)),
        (np.array(s_a), np.array(s_b)),
        (np.array(z_a), np.array(z_b), np.array(z)),
        mode,
        round_each,
        result,
    )
    f_a, f_b = oracle.dyadic(m_a, s_a), oracle.dyadic(m_b, s_b)
    expected = [
        oracle.add_requant([(x, z_a, f_a), (y, z_b, f_b)], z, mode, round_each, limits(result)) for x, y in pairs
    ]
    check(found, expected, result)
    check_add_real(pairs, source, (f_a, f_b), zero_points, mode, round_each, result)


def check_add_real(
    pairs: list[tuple[int, int]],
    source: IntType,
    factors: tuple[Fraction, Fraction],
    zero_points: tuple[int, int, int],
    mode: Rounding,
    round_each: bool,
    result: IntType,
) -> None:
    z_a, z_b, z = zero_points
    f_a, f_b = factors
    found = add_requant_real(
        np.array([p[0] for p in pairs], source.dtype),
        np.array([p[1] for p in pairs], source.dtype),
        ([f_a], [f_b]),
        (None, None),
        (np.array(z_a), np.array(z_b), np.array(z)),
        mode,
        round_each,
        result,
    )
    expected = [
        oracle.add_requant([(x, z_a, f_a), (y, z_b, f_b)], z, mode, round_each, limits(result)) for x, y in pairs
    ]
    check(found, expected, result)


@MODES
@pytest.mark.parametrize("round_each", [True, False])
@pytest.mark.parametrize(
    "forms",
    [((1, 1), (1, 1)), ((1, 0), (1, 2)), ((3, 2), (-5, 1)), ((1, -2), (7, 3)), ((1, -1), (1, -3)), ((3, 62), (1, 1))],
)
def test_add_requant_all_nibbles(
    forms: tuple[tuple[int, int], tuple[int, int]], round_each: bool, mode: Rounding
) -> None:
    pairs = list(product(range(-8, 8), repeat=2))
    for zero_points, result in product([(0, 0, 0), (-8, 7, 3), (1, 2, -8)], [I4, I8]):
        check_add(pairs, I4, forms, zero_points, mode, round_each, result)


FORMS = st.tuples(MULTIPLIERS, st.integers(0, 62)) | st.tuples(st.just(1), st.integers(-31, 62))


@given(
    st.sampled_from([I16, I32, UI32, I64]),
    st.sampled_from([I8, UI16, I32, UI32, I64]),
    st.tuples(FORMS, FORMS),
    st.sampled_from(Rounding),
    st.booleans(),
    st.data(),
)
def test_add_requant_wide(
    source: IntType,
    result: IntType,
    forms: tuple[tuple[int, int], tuple[int, int]],
    mode: Rounding,
    round_each: bool,
    data: st.DataObject,
) -> None:
    pairs = data.draw(st.lists(st.tuples(codes(source), codes(source)), min_size=1, max_size=4))
    zero_points = data.draw(st.tuples(codes(source), codes(source), codes(result)))
    check_add(pairs, source, forms, zero_points, mode, round_each, result)


@MODES
@pytest.mark.parametrize("round_each", [True, False])
def test_add_requant_per_axis(round_each: bool, mode: Rounding) -> None:
    a, b = np.arange(-12, 12).reshape(4, 3, 2), np.arange(24)[::-1].reshape(4, 3, 2)
    m_a, s_a, m_b, s_b = [1, 3, -1], [0, 1, 2], 5, [3, -1, 1]
    found = add_requant(
        a,
        b,
        (along(np.array(m_a), 1, 3), np.array(m_b)),
        (along(np.array(s_a), 1, 3), along(np.array(s_b), 1, 3)),
        (np.array(1), np.array(2), np.array(3)),
        mode,
        round_each,
        I8,
    )

    def expected(i: int, j: int, k: int) -> int:
        terms = [
            (int(a[i, j, k]), 1, oracle.dyadic(m_a[j], s_a[j])),
            (int(b[i, j, k]), 2, oracle.dyadic(m_b, s_b[j])),
        ]
        return oracle.add_requant(terms, 3, mode, round_each, limits(I8))

    assert found.tolist() == oracle.build(a.shape, expected)


@pytest.mark.parametrize(
    "round_each",
    [True, False],
)
def test_add_requant_largest_terms(round_each: bool) -> None:
    largest = (2**31 - 1, 0)
    for sign in (1, -1):
        z = -(2**31) if sign == 1 else 2**31 - 1
        pairs = [(sign * (2**31 - 1), sign * (2**31 - 1))]
        check_add(pairs, I32, (largest, largest), (z, z, 0), Rounding.FLOOR, round_each, I8)


@MODES
@pytest.mark.parametrize("round_each", [True, False])
def test_add_requant_real_ties(round_each: bool, mode: Rounding) -> None:
    """Factors of which only the sum of products is a tie, or lies beside one by less than floats can tell."""
    pairs = list(product(range(-8, 8), repeat=2))
    third, off = Fraction(1, 3), Fraction(1, 10**40)
    for factors in [
        (third, third / 2),
        (third + off, third / 2),
        (third, third / 2 - off),
        (third, -third),
        (-off, off),
    ]:
        check_add_real(pairs, I4, factors, (0, 0, 0), mode, round_each, I8)
        check_add_real(pairs, I4, factors, (1, -2, 3), mode, round_each, I4)


@MODES
def test_add_requant_real_cancels(mode: Rounding) -> None:
    """Terms that are large, and off as floats by more than the distance of their sum from a boundary."""
    random = Random(23)
    for _ in range(60):
        x, y = (random.choice((-1, 1)) * random.randrange(2**29, 2**31) for _ in range(2))
        f, boundary = Fraction(random.randrange(3**20), 3**20), Fraction(random.randrange(-9, 9), 2)
        for off in (0, Fraction(1, 10**10), -Fraction(1, 10**10)):
            check_add_real([(x, y)], I32, (f, (boundary + off - f * x) / y), (0, 0, 0), mode, False, I8)


@given(
    st.sampled_from([I8, I16, I32, UI32, I64]),
    st.sampled_from([I8, UI16, I32, I64]),
    st.tuples(FACTORS, FACTORS),
    st.sampled_from(Rounding),
    st.booleans(),
    st.data(),
)
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_add_requant_real_wide(
    source: IntType,
    result: IntType,
    factors: tuple[Fraction, Fraction],
    mode: Rounding,
    round_each: bool,
    data: st.DataObject,
) -> None:
    pairs = data.draw(st.lists(st.tuples(codes(source), codes(source)), min_size=1, max_size=4))
    zero_points = data.draw(st.tuples(codes(source), codes(source), codes(result)))
    check_add_real(pairs, source, factors, zero_points, mode, round_each, result)


@MODES
@pytest.mark.parametrize("round_each", [True, False])
@pytest.mark.parametrize("third", [Fraction(1, 3), Fraction(1, 4)])
def test_add_requant_real_per_axis(third: Fraction, round_each: bool, mode: Rounding) -> None:
    a, b = np.arange(-12, 12).reshape(4, 3, 2), np.arange(24)[::-1].reshape(4, 3, 2)
    left, right = [third, -third, 2 * third], third * 5
    found = add_requant_real(
        a, b, (left, [right]), (1, None), (np.array(1), np.array(2), np.array(3)), mode, round_each, I8
    )

    def expected(i: int, j: int, k: int) -> int:
        terms = [(int(a[i, j, k]), 1, left[j]), (int(b[i, j, k]), 2, right)]
        return oracle.add_requant(terms, 3, mode, round_each, limits(I8))

    assert found.tolist() == oracle.build(a.shape, expected)


def test_empty_tensors() -> None:
    x, one = np.zeros((0, 3), np.int32), np.array(1)
    for round_each in (True, False):
        assert add_requant(x, x, (one, one), (one, one), (one, one, one), Rounding.HALF_UP, round_each, I8).shape == (
            0,
            3,
        )
    assert requantize_dyadic(x, one, one, (one, one), Rounding.HALF_UP, I8).dtype == np.int8


# --- many values ---


@pytest.mark.slow
@MODES
def test_a_quarter_of_a_million_values(mode: Rounding) -> None:
    """Of each operation and mode: 16 and 32 bits, small and large codes alike, factors for each channel."""
    rng, rows, columns = np.random.default_rng(17), 250, 1000
    scales = np.exp2(rng.uniform(0, 31, (rows, columns)))
    x = (scales * rng.choice([-1, 1], (rows, columns))).astype(np.int32)
    a, b = (v.astype(np.int16) for v in (x >> 16, x[::-1] >> 15))
    z = np.exp2(rng.uniform(0, 31, (rows, 1))).astype(np.int32)
    m, n = (rng.integers(2**30, 2**31, columns) * rng.choice([-1, 1], columns) for _ in range(2))
    s = rng.integers(24, 45, columns)
    left, right = ([oracle.dyadic(int(v), int(t)) for v, t in zip(w, s, strict=True)] for w in (m, n))

    def expected(element: Callable[[int, int], int]) -> NDArray[np.int64]:
        return np.array([[element(i, j) for j in range(columns)] for i in range(rows)])

    found = requantize_dyadic(x, m, s, (np.array(3), np.array(-5)), mode, I8)
    exact = expected(lambda i, j: oracle.requantize(int(x[i, j]), left[j], 3, -5, mode, limits(I8)))
    assert np.array_equal(found, exact)
    found = requantize_dyadic(x, m, s, ZERO, mode, I16, z)
    exact = expected(
        lambda i, j: oracle.requantize(
            int(x[i, j]), oracle.reciprocal(int(m[j]), int(s[j]), int(z[i, 0])), 0, 0, mode, limits(I16)
        )
    )
    assert np.array_equal(found, exact)
    for each in (False, True):
        found = add_requant(a, b, (m, n), (s, s[::-1]), (*ZERO, np.array(7)), mode, each, I16)
        exact = expected(
            lambda i, j, each=each: oracle.add_requant(
                [(int(a[i, j]), 0, left[j]), (int(b[i, j]), 0, oracle.dyadic(int(n[j]), int(s[-1 - j])))],
                7,
                mode,
                each,
                limits(I16),
            )
        )
        assert np.array_equal(found, exact)
    reals = add_requant_real(a, b, (left, right), (1, 1), (*ZERO, np.array(7)), mode, False, I16)
    assert np.array_equal(reals, add_requant(a, b, (m, n), (s, s), (*ZERO, np.array(7)), mode, False, I16))


# --- threshold ---


@pytest.mark.parametrize("levels", [[0], [-3, -1, 0, 2, 2, 5, 127], [-128, -128, 127], list(range(-8, 7)), []])
def test_threshold_all_bytes(levels: list[int]) -> None:
    x = list(range(-128, 128))
    for lowest, result in [(-8, I4) if len(levels) < 16 else (0, I8), (0, UI8), (-128, I8)]:
        found = threshold(np.array(x, np.int8), np.array(levels, np.int32), None, lowest, result)
        check(found, [oracle.threshold(n, levels, lowest, limits(result)) for n in x], result)


@given(st.lists(codes(I32), min_size=1), st.lists(codes(I32), max_size=15).map(sorted), st.integers(-8, 0))
def test_threshold_wide(x: list[int], levels: list[int], lowest: int) -> None:
    found = threshold(np.array(x, np.int32), np.array(levels, np.int32), None, lowest, I8)
    check(found, [oracle.threshold(n, levels, lowest, limits(I8)) for n in x], I8)


def test_threshold_per_axis() -> None:
    x = np.arange(-12, 12).reshape(2, 3, 4)
    levels = [[-9, 0], [-5, 5], [0, 0]]
    found = threshold(x, np.array(levels), 1, -2, I2)
    expected = oracle.build(x.shape, lambda i, j, k: oracle.threshold(int(x[i, j, k]), levels[j], -2, limits(I2)))
    assert found.tolist() == expected


def test_threshold_refuses_codes_that_do_not_fit() -> None:
    with pytest.raises(OverflowError, match="^8 does not fit i4"):
        threshold(np.array([5]), np.arange(3), None, 5, I4)


# --- tensors without dimensions ---


def test_scalars() -> None:
    x, two = np.array(5, np.int32), np.array(2)
    one = np.array(1)
    assert quantize(np.array(2.5), np.array(1.0), np.array(1), Rounding.HALF_EVEN, I8) == 3
    assert dequantize(x, np.array(0.5), np.array(1)) == 2.0
    assert requantize_dyadic(x, np.array(3), one, ZERO, Rounding.HALF_EVEN, I8) == 8
    assert requantize_pot(x, one, ZERO, Rounding.HALF_UP, I8) == 3
    assert requantize_real(x, [Fraction(1, 3)], None, ZERO, Rounding.HALF_EVEN, I8) == 2
    assert add_requant(x, x, (one, two), (one, one), (*ZERO, one), Rounding.FLOOR, True, I8) == 8
    assert threshold(x, np.array([1, 5, 9]), None, 0, I8) == 2


def test_requantize_real_scalar_on_a_boundary() -> None:
    assert requantize_real(np.array(5), [Fraction(1, 2)], None, ZERO, Rounding.HALF_EVEN, I8) == 2


def test_add_requant_scalars_rounded_once() -> None:
    x, one = np.array(5), np.array(1)
    assert add_requant(x, x, (one, one), (one, one), (*ZERO, one), Rounding.FLOOR, False, I8) == 6


def test_requantize_64_bit_scalar() -> None:
    assert requantize_dyadic(np.array(2**62), np.array(8), np.array(1), ZERO, Rounding.FLOOR, I8) == 127
