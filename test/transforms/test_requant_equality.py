"""Whether two factors give the same codes: the proof against trying all operands."""

from fractions import Fraction
from itertools import product
from random import Random

import oracle
import pytest

from qvit.dialects.semantics.integers import Rounding
from qvit.transforms.requant.equality import CHEAP, Step, equal_codes, threshold
from qvit.transforms.requant.multipliers import normalised

MODES = pytest.mark.parametrize("mode", Rounding)


def code(v: int, factor: Fraction, step: Step, mode: Rounding) -> int:
    return oracle.requantize(v, factor, 0, 0, mode, (step.low, step.high))


def tried(f: Fraction, g: Fraction, step: Step, mode: Rounding) -> bool:
    return all(code(v, f, step, mode) == code(v, g, step, mode) for v in range(step.first, step.last + 1))


@MODES
def test_thresholds(mode: Rounding) -> None:
    for p, q, k in product([*range(-7, 0), *range(1, 8)], range(1, 6), range(-5, 6)):
        factor = Fraction(p, q)
        t = threshold(factor, k, mode)
        inwards = 1 if factor > 0 else -1
        assert oracle.rounded(t * factor, mode) >= k
        assert oracle.rounded((t - inwards) * factor, mode) < k


STEPS = [
    Step(-128, 127, -128, 127),
    Step(-40, 90, -8, 7),
    Step(3, 200, -3, 12),
    Step(-200, -1, 0, 15),
    Step(0, 0, -8, 7),
    Step(-128, 127, -1000, 1000),
]


@MODES
def test_the_proof_is_what_trying_finds(mode: Rounding) -> None:
    random = Random(mode.value)
    found = {True: 0, False: 0}
    for step in STEPS:
        for _ in range(60):
            f = Fraction(random.choice((-1, 1)) * random.randrange(1, 400), random.randrange(1, 3000))
            # from so close that floats see no difference, to far apart; zero too
            g = f * (1 + Fraction(random.choice((-1, 0, 1)), random.choice((3, 40, 500, 10**4, 10**20))))
            g = random.choice((g, g, g, g, Fraction(0)))
            (equal,) = equal_codes([f], [g], [step], mode)
            assert equal == tried(f, g, step, mode), (f, g, step)
            found[equal] += 1
    assert min(found.values()) > 50


@MODES
def test_ties_that_only_rational_numbers_see(mode: Rounding) -> None:
    """Beside 1/2, by less than floats can tell: a threshold moves by 1 exactly if the tie does not round that way."""
    step = Step(-16, 15, -8, 7)
    for off in (Fraction(1, 10**30), -Fraction(1, 10**30)):
        for f in (Fraction(1, 2), Fraction(-1, 2), Fraction(3, 4)):
            assert equal_codes([f], [f + off], [step], mode) == [tried(f, f + off, step, mode)]


@MODES
def test_thresholds_at_integers(mode: Rounding) -> None:
    """Ties at integers, by factors that are no floats: the quotient of floats may lie on either side."""
    step = Step(-50, 50, -8, 7)
    for k, n in product(range(1, 9), range(1, 45)):
        for off in (Fraction(1, 10**30), -Fraction(1, 10**30)):
            f = Fraction(2 * k - 1, 2 * n)
            assert equal_codes([f], [f + off], [step], mode) == [tried(f, f + off, step, mode)]


@pytest.mark.parametrize(("first", "last"), [(0, 10), (-10, 0)])
@pytest.mark.parametrize("width", [7, 1000])
def test_only_the_last_operand_differs(first: int, last: int, width: int) -> None:
    f, off = Fraction(1, 20), Fraction(1, 10**5)
    for sign in (1, -1):
        step = Step(first, last, -width, width)
        assert equal_codes([sign * f - off], [sign * f + off], [step], Rounding.HALF_UP) == [False]
        step = Step(first + (last == 0), last - (first == 0), -width, width)
        assert equal_codes([sign * f - off], [sign * f + off], [step], Rounding.HALF_UP) == [True]


@MODES
def test_channel_by_channel(mode: Rounding) -> None:
    steps = [STEPS[i % len(STEPS)] for i in range(40)]
    random = Random(5)
    before = [Fraction(random.randrange(-50, 50), random.randrange(1, 300)) for _ in steps]
    after = [f + Fraction(random.randrange(-1, 2), 5000) for f in before]
    expected = [tried(f, g, s, mode) for f, g, s in zip(before, after, steps, strict=True)]
    assert equal_codes(before, after, steps, mode) == expected
    assert len(set(expected)) == 2


@MODES
def test_accumulators_of_32_bits(mode: Rounding) -> None:
    """Where codes change, and one operand beside: the functions are monotone, so that these are all that matter."""
    random = Random(7)
    step = Step(-(2**31), 2**31 - 1, -128, 127)
    found = {True: 0, False: 0}
    for _ in range(60):
        f = Fraction(random.random()) * Fraction(2) ** -random.randrange(1, 26)
        number = normalised(f)
        assert number is not None
        g = number.factor + random.choice((0, 0, Fraction(random.randrange(-9, 10), 2 ** (number.shift - 8))))
        places = {threshold(h, k, mode) + d for h in (f, g) for k in range(-127, 128) for d in (-1, 0)}
        places = {min(max(v, step.first), step.last) for v in places}
        expected = all(code(v, f, step, mode) == code(v, g, step, mode) for v in places)
        assert equal_codes([f], [g], [step], mode) == [expected]
        found[expected] += 1
    assert min(found.values()) > 5


def test_wide_codes_are_compared_where_that_is_cheap() -> None:
    f, g = Fraction(1, 3), Fraction(1, 3) + Fraction(1, 10**20)
    wide = Step(-(2**15), 2**15 - 1, -(2**15), 2**15 - 1)
    assert equal_codes([f], [g], [wide], Rounding.HALF_UP) == [True]
    # as many codes, of which the operand reaches few
    narrow = Step(-128, 127, -(2**31), 2**31 - 1)
    assert equal_codes([f] * 500, [g] * 500, [narrow] * 500, Rounding.HALF_UP) == [True] * 500
    many = CHEAP // 2**14
    assert equal_codes([f] * many, [g] * many, [wide] * many, Rounding.HALF_UP) == [False] * many
    assert equal_codes([f] * many, [f] * many, [wide] * many, Rounding.HALF_UP) == [True] * many


@pytest.mark.parametrize("factor", [Fraction(10) ** 400, Fraction(1, 10**400), -(Fraction(10) ** 400)])
def test_factors_beyond_floats(factor: Fraction) -> None:
    step = Step(-128, 127, -128, 127)
    assert equal_codes([factor], [factor * 2], [step], Rounding.HALF_EVEN) == [True]
    assert equal_codes([factor], [Fraction(0)], [step], Rounding.HALF_EVEN) == [abs(factor) < 1]
    assert equal_codes([Fraction(1, 10**400)], [Fraction(0)], [step], Rounding.FLOOR) == [False]


def test_nothing_to_compare() -> None:
    assert equal_codes([], [], [], Rounding.FLOOR) == []
