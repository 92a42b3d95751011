"""Exponents for scales and factors of channels against exact arithmetic and the published programs."""

from fractions import Fraction
from itertools import product

import golden
import numpy as np
import pytest

from qvit.dialects.semantics.integers import IntType
from qvit.dialects.semantics.pot import FACTORS, Exponent, candidates, channel_factors, exponent

CHOICES = {"floor": Exponent.FLOOR, "ceil": Exponent.CEIL, "round": Exponent.NEAREST}


def exactly(scale: float, choice: Exponent) -> int:
    s, y = Fraction(scale), 0
    while Fraction(2) ** y > s:
        y -= 1
    while Fraction(2) ** (y + 1) <= s:
        y += 1
    low, high = Fraction(2) ** y, Fraction(2) ** (y + 1)
    match choice:
        case Exponent.FLOOR:
            return y
        case Exponent.CEIL:
            return y if s == low else y + 1
        case Exponent.NEAREST:
            return y + 1 if s - low > high - s else y


@pytest.mark.parametrize("choice", Exponent)
def test_exponents_next_to_their_edges(choice: Exponent) -> None:
    scales: list[float] = []
    for k in range(-40, 12):
        for edge in (2.0**k, 1.5 * 2.0**k):
            scales += [np.nextafter(edge, 0), edge, np.nextafter(edge, np.inf)]
    scales += [5e-324, 1e-310, 2.0**-1022, 1.7e308]
    assert exponent(np.array(scales), choice).tolist() == [exactly(s, choice) for s in scales]


@pytest.mark.parametrize("choice", Exponent)
def test_random_exponents(choice: Exponent) -> None:
    scales = np.random.default_rng(0).lognormal(-4, 4, (100, 100))
    assert exponent(scales, choice).tolist() == [[exactly(s, choice) for s in row] for row in scales.tolist()]


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_no_exponent(bad: float) -> None:
    with pytest.raises(ValueError, match="positive finite"):
        exponent(np.array([1.0, bad]), Exponent.FLOOR)


def test_golden_exponents() -> None:
    cases = [case for case in golden.cases("p2vit_pot_rounding") if "routine" in case.params]
    assert len(cases) == 3
    for case in cases:
        choice = CHOICES[case.params["routine"].removeprefix("round_ln, ")]
        found = exponent(case["s"].astype(float), choice)
        np.testing.assert_array_equal(found, case["alpha_exact"])
        np.testing.assert_array_equal(found[case["exact"]], case["alpha_peer"][case["exact"]])


def best(real: list[list[Fraction]], reach: Fraction, bits: int, other: list[list[Fraction]] | None) -> int:
    """The candidate with the least squared error of `real`, or of its product with the rows of `other`."""

    def error(alpha: int) -> Fraction:
        step, last = Fraction(2) ** alpha, 2 ** (bits - 1)
        off = [[max(-last, min(last - 1, round(v / step))) * step - v for v in row] for row in real]
        if other is not None:
            off = [[sum((a * b for a, b in zip(row, x, strict=True)), Fraction(0)) for x in other] for row in off]
        return sum((e * e for row in off for e in row), Fraction(0))

    scale = reach / (Fraction(2**bits - 1) / 2)
    (tried,) = candidates(np.array([float(scale)])).tolist()
    assert tried == [exactly(float(scale), Exponent.FLOOR) + d for d in (-1, 0, 1, 2)]
    return min(tried, key=error)  # the first of equal ones


def test_golden_choice_by_output_error() -> None:
    counted = 0
    for case in golden.cases("p2vit_pot_rounding"):
        if "choice" not in case.params:
            continue
        counted += 1
        x = [[int(v) * case.scale("S_x") for v in row] for row in case["x"]]
        if case.params["choice"] == "activation int8":
            found = [best(x, max(abs(v) for row in x for v in row), 8, None)]
        else:
            w = [[int(v) * case.scale("S_w") for v in row] for row in case["w"]]
            bits = 4 if "int4" in case.params["choice"] else 8
            parts = [[row] for row in w] if "channel-wise" in case.params["choice"] else [w]
            found = [best(part, max(abs(v) for row in part for v in row), bits, x) for part in parts]
        assert found == case["alpha_exact"].tolist()
    assert counted == 18


def test_golden_factors() -> None:
    cases = [case for case in golden.cases("fqvit_rounding") if "PtfObserver" in case.params["routine"]]
    assert len(cases) == 4
    for case in cases:
        x = case["data"] * float(case.scale("S_data"))
        codes = IntType(8, "uint8" not in case.params["routine"])
        found = channel_factors(x, float(case.scale("s8")), case.params["zero_point"], codes)
        np.testing.assert_array_equal(found, case["a_exact"])
        np.testing.assert_array_equal(found[case["exact"]], case["a_peer"][case["exact"]])


def test_factors_exactly() -> None:
    rng = np.random.default_rng(1)
    data = rng.integers(-1000, 1000, (20, 12)) * 2 ** rng.integers(0, 4, 12)
    for zero_point, codes in product((0, 3), (IntType(8), IntType(8, False))):
        found = channel_factors(data[None] / 64, 1.0, zero_point, codes)

        def error(values: list[int], a: int, zero_point: int = zero_point, codes: IntType = codes) -> Fraction:
            step, total = Fraction(2**a, 8), Fraction(0)
            for v in values:
                code = max(codes.lo, min(codes.hi, round(Fraction(v, 64) / step) + zero_point))
                total += ((code - zero_point) * step - Fraction(v, 64)) ** 2
            return total

        assert found.tolist() == [min(FACTORS, key=lambda a: error(c, a)) for c in data.T.tolist()]
