"""Integer types, rounding and exact shifts against the oracle."""

import operator
from collections.abc import Callable
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qvit.dialects.semantics.integers import (
    IntType,
    Rounding,
    fit,
    magnitude,
    minus,
    multiply,
    plus,
    round_float,
    round_fraction,
    round_shift,
    saturate,
    widen,
)

I64 = oracle.signed(64)
INT64 = st.integers(*I64) | st.sampled_from([*I64, -1, 0, 1, I64[0] + 1, 1 << 62, -(1 << 62), (1 << 31) - 1, 1 << 31])
MODES = pytest.mark.parametrize("mode", Rounding)


def test_the_modes_are_the_oracles() -> None:
    assert tuple(Rounding) == oracle.MODES


# Written by hand: what -5/2, -3/2, ... 5/2 become, so that oracle and semantics cannot share a misunderstanding.
@pytest.mark.parametrize(
    ("mode", "halves"),
    [
        ("half_even", [-2, -2, 0, 0, 2, 2]),
        ("half_up", [-2, -1, 0, 1, 2, 3]),
        ("half_away", [-3, -2, -1, 1, 2, 3]),
        ("floor", [-3, -2, -1, 0, 1, 2]),
    ],
)
def test_ties_by_hand(mode: str, halves: list[int]) -> None:
    numerators = [-5, -3, -1, 1, 3, 5]
    assert [oracle.rounded(Fraction(n, 2), mode) for n in numerators] == halves
    assert [round_fraction(Fraction(n, 2), Rounding(mode)) for n in numerators] == halves
    assert round_float(np.array(numerators) / 2, Rounding(mode)).tolist() == halves
    assert round_shift(np.array(numerators), np.array(1), Rounding(mode)).tolist() == halves


@pytest.mark.parametrize("bits", range(1, 65))
def test_ranges(bits: int) -> None:
    assert (IntType(bits).lo, IntType(bits).hi) == oracle.signed(bits)
    assert (IntType(bits, False).lo, IntType(bits, False).hi) == oracle.unsigned(bits)
    assert (str(IntType(bits)), str(IntType(bits, False))) == (f"i{bits}", f"ui{bits}")
    for t in (IntType(bits), IntType(bits, False)):
        info = np.iinfo(t.dtype)
        assert info.min <= t.lo
        assert t.hi <= info.max
        # the narrowest: half the width would not do
        assert t.dtype.itemsize == 1 or bits > 4 * t.dtype.itemsize
        assert (info.min < 0) == t.signed


@pytest.mark.parametrize("name", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"])
def test_widen_keeps_values(name: str) -> None:
    info = np.iinfo(name)
    wide = widen(np.array([info.min, 0, info.max], name))
    assert wide.dtype == np.int64
    assert wide.tolist() == [info.min, 0, info.max]


def test_widen_takes_integers_only() -> None:
    assert widen(np.array([False, True])).tolist() == [0, 1]
    with pytest.raises(TypeError, match="expected integers, found float32"):
        widen(np.zeros(1, np.float32))


TYPES = [IntType(bits, signed) for bits in (1, 2, 3, 4, 7, 8, 9, 16, 31, 32, 33, 63) for signed in (True, False)]


@pytest.mark.parametrize("t", [*TYPES, IntType(64)], ids=str)
def test_fit_and_saturate_at_the_edges(t: IntType) -> None:
    edges = np.array([t.lo, t.hi])
    for f in (fit, saturate):
        assert f(edges, t).tolist() == [t.lo, t.hi]
        assert f(edges, t).dtype == t.dtype
        assert f(np.zeros(0, np.int64), t).dtype == t.dtype
    beyond = np.array([t.lo, t.lo - 1, t.hi + 1, t.hi], object)
    assert saturate(beyond, t).tolist() == [t.lo, t.lo, t.hi, t.hi]
    with pytest.raises(OverflowError, match=f"^{t.lo - 1} does not fit {t} \\({t.lo}..{t.hi}\\)$"):
        fit(beyond, t)  # the first of two
    with pytest.raises(OverflowError, match=f"^{t.hi + 1} does not fit"):
        fit(beyond[2:], t)
    with pytest.raises(OverflowError, match=f"^{t.lo - 1} does not fit"):
        fit(beyond[:2], t)
    with pytest.raises(OverflowError, match=f"^{t.hi + 1} does not fit"):
        fit(beyond[::-1], t)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("t", [t for t in (*TYPES, IntType(64)) if t.signed or t.bits <= 32], ids=str)
def test_saturate_floats(t: IntType, dtype: type) -> None:
    """Also where the type's limits are no floats, as 2^31 - 1 in float32."""
    near = np.array([t.lo - 1, t.lo, t.lo + 1, 0, t.hi - 1, t.hi, t.hi + 1], dtype)
    x = np.concatenate([near, np.nextafter(near, dtype(np.inf)), np.nextafter(near, dtype(-np.inf)), [3e38, -3e38]])
    x = np.trunc(x).astype(dtype)
    limits = oracle.signed(t.bits) if t.signed else oracle.unsigned(t.bits)
    assert saturate(x, t).tolist() == [oracle.saturated(int(v), limits) for v in x]
    assert saturate(np.array([np.inf, -np.inf], dtype), t).tolist() == [t.hi, t.lo]
    assert saturate(x, t).dtype == t.dtype


@pytest.mark.parametrize(
    ("function", "exact"), [(plus, operator.add), (minus, operator.sub), (multiply, operator.mul)], ids=["+", "-", "*"]
)
@given(st.lists(INT64, min_size=1, max_size=4), st.lists(INT64, min_size=1, max_size=4))
@example([0], [2**63 - 1])
@example([2**63 - 1], [1])
@example([-(2**63)], [1, -1])
@example([2**31], [2**32])
@example([-(2**31)], [2**32 - 1])
def test_exact_arithmetic(function: Any, exact: Callable[[int, int], int], a: list[int], b: list[int]) -> None:
    found = function(np.array(a)[:, None], np.array(b))
    assert found.tolist() == [[exact(x, y) for y in b] for x in a]
    # Python's integers only where the largest magnitudes need them
    bound = (operator.mul if exact is operator.mul else operator.add)(max(map(abs, a)), max(map(abs, b)))
    assert found.dtype == (np.int64 if bound < 2**63 else object)


@given(st.lists(INT64, max_size=3))
def test_magnitude(a: list[int]) -> None:
    assert magnitude(np.array(a, np.int64)) == max(map(abs, a), default=0)


def check_round_shift(x: list[int], shift: list[int], mode: Rounding, dtype: type = np.int64) -> None:
    found = round_shift(np.array(x, dtype), np.array(shift), mode)
    expected = [oracle.rounded(n * oracle.dyadic(1, s), mode) for n, s in zip(x, shift, strict=True)]
    assert found.tolist() == expected
    if all(I64[0] < n <= I64[1] for n in expected):
        assert found.dtype == np.int64


@MODES
def test_round_shift_exhaustive(mode: Rounding) -> None:
    pairs = [(x, shift) for shift in range(-3, 7) for x in range(-140, 141)]
    check_round_shift([x for x, _ in pairs], [s for _, s in pairs], mode)
    check_round_shift([x for x, _ in pairs], [s for _, s in pairs], mode, object)


@MODES
def test_round_shift_about_every_tie(mode: Rounding) -> None:
    cases: list[tuple[int, int]] = []
    for shift in range(1, 63):
        for k in (-3, -2, -1, 0, 1, 2):
            tie = (2 * k + 1) << (shift - 1)
            cases += [(x, shift) for x in (tie - 1, tie, tie + 1) if I64[0] <= x <= I64[1]]
    check_round_shift([x for x, _ in cases], [s for _, s in cases], mode)
    for x, shift in cases:  # one at a time: no neighbour forces Python integers
        check_round_shift([x], [shift], mode)


@given(st.lists(st.tuples(INT64, st.integers(-31, 62)), min_size=1, max_size=5), st.sampled_from(Rounding))
def test_round_shift_wide(cases: list[tuple[int, int]], mode: Rounding) -> None:
    check_round_shift([x for x, _ in cases], [s for _, s in cases], mode)


@given(st.integers(-(1 << 140), 1 << 140), st.integers(-70, 140), st.sampled_from(Rounding))
def test_round_shift_beyond_64_bits(x: int, shift: int, mode: Rounding) -> None:
    check_round_shift([x], [shift], mode, object)


@MODES
def test_round_shift_beyond_62(mode: Rounding) -> None:
    extremes = [*I64, 0, 1, -1, 1 << 62, -(1 << 62)]
    for shift in (62, 63, 64, 65):
        check_round_shift(extremes, [shift] * len(extremes), mode)


@MODES
def test_round_shift_within_a_bound(mode: Rounding) -> None:
    """A bound that is known changes nothing, up to where adding a half leaves 64 bits."""
    for bits, shift in product((0, 1, 30, 60, 61, 62), (0, 1, 2, 31, 60, 61, 62, 63, 80)):
        top = 1 << bits
        x = [sign * v for sign in (1, -1) for v in {0, 1, top // 3, top // 2, top - 1, top}]
        expected = [oracle.rounded(n * oracle.dyadic(1, shift), mode) for n in x]
        for bound in (top, top + 1, (1 << 63) - 1):
            assert round_shift(np.array(x), np.array(shift), mode, bound).tolist() == expected


@MODES
def test_round_shift_to_2_to_the_63(mode: Rounding) -> None:
    """Products of a negative shift, and quotients, just within and just beyond 64 bits."""
    for x, shift in [(1 << 62, -1), (-(1 << 62), -1), (1 << 32, -31), (-(1 << 32), -31), ((1 << 62) - 1, -1)]:
        check_round_shift([x], [shift], mode)
    for x in ((1 << 64) - 1, 1 << 64, (1 << 64) - 2, -(1 << 64), -(1 << 64) - 1, -(1 << 64) - 2):
        check_round_shift([x], [1], mode, object)


@MODES
def test_round_shift_broadcasts(mode: Rounding) -> None:
    x, shift = np.arange(-9, 9).reshape(3, 6), np.array([[0], [1], [3]])
    expected = [
        [oracle.rounded(Fraction(int(n), 2**s), mode) for n in row] for row, s in zip(x, (0, 1, 3), strict=True)
    ]
    assert round_shift(x, shift, mode).tolist() == expected


@MODES
def test_round_fraction_exhaustive(mode: Rounding) -> None:
    for denominator in range(1, 13):
        for numerator in range(-60, 61):
            x = Fraction(numerator, denominator)
            assert round_fraction(x, mode) == oracle.rounded(x, mode)


@MODES
def test_round_float_exhaustive_eighths(mode: Rounding) -> None:
    x = np.arange(-400, 401) / 8
    expected = [oracle.rounded(Fraction(n, 8), mode) for n in range(-400, 401)]
    assert round_float(x, mode).tolist() == expected
    assert round_float(x.astype(np.float32), mode).dtype == np.float32
    assert round_float(x.astype(np.float32), mode).tolist() == expected


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(Rounding))
def test_round_float(x: float, mode: Rounding) -> None:
    assert int(round_float(np.array([x]), mode)[0]) == oracle.rounded(Fraction(x), mode)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32), st.sampled_from(Rounding))
def test_round_float_single(x: float, mode: Rounding) -> None:
    assert int(round_float(np.array([x], np.float32), mode)[0]) == oracle.rounded(Fraction(x), mode)


@MODES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_float_beside_every_tie(mode: Rounding, dtype: type) -> None:
    ties = np.array([k + 0.5 for k in (*range(-9, 9), 1023, -1025, 2**20, 2**22 - 1, -(2**22))], dtype)
    ties = np.delete(ties, np.flatnonzero(ties == -0.5))  # see the next test
    for x in (np.nextafter(ties, -np.inf, dtype=dtype), ties, np.nextafter(ties, np.inf, dtype=dtype)):
        assert round_float(x, mode).tolist() == [oracle.rounded(Fraction(float(v)), mode) for v in x]


@pytest.mark.parametrize(
    "mode",
    Rounding,
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_float_beside_minus_a_half(mode: Rounding, dtype: type) -> None:
    half = np.array([-0.5], dtype)
    for x in (np.nextafter(half, -np.inf, dtype=dtype), half, np.nextafter(half, np.inf, dtype=dtype)):
        assert round_float(x, mode).tolist() == [oracle.rounded(Fraction(float(v)), mode) for v in x]
