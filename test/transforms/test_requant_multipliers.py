"""Multipliers and shifts for real factors: the nearest, the common ones, and where nothing ties."""

import math
from fractions import Fraction

import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvit.transforms.requant.multipliers import (
    Dyadic,
    aligned,
    neighbour,
    never_ties,
    normalised,
    octaves,
    pot_shift,
)

TWO = Fraction(2)
POSITIVE = st.tuples(st.fractions(1, 2, max_denominator=10**12), st.integers(-32, 29)).map(lambda t: t[0] * TWO ** t[1])


@given(POSITIVE, st.sampled_from([1, -1]))
def test_31_bits_next_to_the_factor(factor: Fraction, sign: int) -> None:
    number = normalised(sign * factor)
    assert number is not None
    assert 2**30 <= sign * number.multiplier < 2**31
    assert 0 <= number.shift <= 62
    assert abs(sign * factor - number.factor) * 2 ** (number.shift + 1) <= 1
    assert normalised(number.factor) == number


@given(st.floats(2.0**-31, 2.0**30))
def test_the_definition_of_i_vit(ratio: float) -> None:
    """frexp, 31 bits of the fraction rounded half up, and the exponent."""
    fraction, exponent = math.frexp(ratio)
    number = normalised(Fraction(ratio))
    assert number is not None
    assert number.factor == oracle.rounded(Fraction(fraction) * 2**31, "half_away") / TWO ** (31 - exponent)


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (Fraction(0), Dyadic(0, 0)),
        (Fraction(1), Dyadic(2**30, 30)),
        (Fraction(3, 4), Dyadic(3 * 2**29, 31)),
        (Fraction(-5, 2), Dyadic(-5 * 2**28, 29)),
        (Fraction(2**31 - 1), Dyadic(2**31 - 1, 0)),
        (Fraction(2**32 - 3, 2), Dyadic(2**31 - 1, 0)),  # a tie, away from 0: but to an odd number here
        # rounds to 2^31: 2^30 at one shift less, where there is one
        (1 - Fraction(1, 2**33), Dyadic(2**30, 30)),
        (-1 + Fraction(1, 2**33), Dyadic(-(2**30), 30)),
        (Fraction(2**32 - 1, 2), None),
        (Fraction(2**31), None),
        (Fraction(-(2**40), 3), None),
        # the shift ends at 62
        (TWO**-32, Dyadic(2**30, 62)),
        (TWO**-33 * 3 / 2, Dyadic(3 * 2**28, 62)),
        (TWO**-62, Dyadic(1, 62)),
        (TWO**-63, Dyadic(1, 62)),
        (-(TWO**-63), Dyadic(-1, 62)),
        (TWO**-64, Dyadic(0, 62)),
        (Fraction(1, 10**400), Dyadic(0, 62)),
    ],
)
def test_edges(factor: Fraction, expected: Dyadic | None) -> None:
    assert normalised(factor) == expected


@given(POSITIVE, st.sampled_from([1, -1]))
def test_neighbours_enclose_the_factor(factor: Fraction, sign: int) -> None:
    nearest = normalised(sign * factor)
    assert nearest is not None
    other = neighbour(nearest, sign * factor)
    if nearest.factor == sign * factor:
        assert other is None
    elif other is not None:
        assert min(nearest.factor, other.factor) < sign * factor < max(nearest.factor, other.factor)
        assert abs(nearest.multiplier - other.multiplier) == 1
        assert nearest.shift == other.shift
    else:
        assert abs(nearest.multiplier) == 2**31 - 1


@pytest.mark.parametrize("shift", [-31, -1, 0, 1, 31, 62])
def test_powers_of_two(shift: int) -> None:
    factor = TWO**-shift
    assert pot_shift(factor) == shift
    assert octaves(factor) == -shift
    for other in (-factor, factor * 3, factor / 3, factor * (1 + Fraction(1, 2**60))):
        assert pot_shift(other) is None


@pytest.mark.parametrize("factor", [Fraction(0), TWO**32, TWO**-63])
def test_no_shift_of_the_form(factor: Fraction) -> None:
    assert pot_shift(factor) is None


@given(POSITIVE, POSITIVE, st.integers(1, 2**32), st.integers(1, 2**32))
def test_aligned_multipliers(a: Fraction, b: Fraction, x: int, y: int) -> None:
    found = aligned((a, -b), (x, y))
    if found is None:  # not even without a shift
        assert x * oracle.rounded(a, "half_away") + y * oracle.rounded(b, "half_away") >= 2**62
        return
    left, right = found
    assert left.shift == right.shift
    for number, factor in ((left, a), (right, -b)):
        assert abs(number.multiplier) < 2**31
        assert abs(factor - number.factor) * 2 ** (number.shift + 1) <= 1
    assert x * abs(left.multiplier) + y * abs(right.multiplier) < 2**62
    # a shift more would be too much
    more = [oracle.rounded(f * 2 ** (left.shift + 1), "half_away") for f in (a, b)]
    assert left.shift == 62 or max(more) >= 2**31 or x * more[0] + y * more[1] >= 2**62


def test_aligned_with_zero_and_beyond() -> None:
    assert aligned((Fraction(0), Fraction(3, 4)), (128, 128)) == (Dyadic(0, 31), Dyadic(3 * 2**29, 31))
    assert aligned((Fraction(0), Fraction(0)), (128, 128)) == (Dyadic(0, 0), Dyadic(0, 0))
    assert aligned((Fraction(2**31), Fraction(1)), (1, 1)) is None
    assert aligned((Fraction(1), Fraction(1)), (2**61, 2**61)) is None
    assert aligned((Fraction(1), Fraction(1)), (2**61 - 1, 2**61)) == (Dyadic(1, 0), Dyadic(1, 0))


def test_never_ties_by_trying() -> None:
    for multiplier in (*range(-25, 26), 96, -160):
        for shift in range(9):
            for reach in (0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 64):
                ties = any(Fraction(2 * x * multiplier, 2**shift) % 2 == 1 for x in range(-reach, reach + 1))
                assert never_ties(Dyadic(multiplier, shift), reach) == (not ties)


def test_negative_shifts_never_tie() -> None:
    assert never_ties(Dyadic(1, -3), 2**31)
