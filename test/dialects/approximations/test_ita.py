"""`ita` and `ita_gelu` against the oracle and the published program; its requantize, by `qvit.requantize`'s semantics."""

import re
from fractions import Fraction
from math import log

import golden
import numpy as np
import oracle_ita as oracle
import pytest
from approximation_examples import Measured, lists, masks, rows

from qvit.dialects.approximations.base import Codes, FunctionSpec, RangeError, SoftmaxSpec
from qvit.dialects.approximations.functions import FUNCTIONS
from qvit.dialects.approximations.ita import Ita, ItaGelu
from qvit.dialects.semantics.integers import IntType, Rounding
from qvit.dialects.semantics.quantization import requantize_dyadic

I8, UI8, I32 = IntType(8), IntType(8, False), IntType(32)
ZERO = np.array(0)

# --- softmax ---


def spec(scale: Fraction, length: int = 17) -> SoftmaxSpec:
    return SoftmaxSpec(Codes(scale, 0, I8), length)


def against_the_oracle(found: Ita, x: np.ndarray, mask: np.ndarray | None) -> Measured:
    (y,) = found.apply(x, (), mask, [UI8])
    assert y.dtype == np.uint8
    measured = Measured()
    for (codes, keep), row in zip(lists(x, mask), y.tolist(), strict=True):
        expected, seen = oracle.softmax(codes, keep, found.shift, found.group)
        assert row == expected
        measured.add(seen)
    return measured


@pytest.mark.parametrize("shift", range(6))
def test_oracle(shift: int) -> None:
    for length, group in ((1, 16), (2, 16), (16, 16), (17, 16), (60, 16), (60, 7), (197, 16), (197, 1), (255, 300)):
        rng = np.random.default_rng(length + group)
        x = rows(rng, (-128, 127), length, 50 // length + 2)
        found = Ita(shift, group)
        measured = against_the_oracle(found, x, None)
        proven = found.intermediates((-128, 127), length, ())
        measured.check(proven)
        assert measured.extent["sum"][1] == proven["sum"][1]
        assert length == 1 or measured.extent["shift"] == proven["shift"]
        against_the_oracle(found, x, masks(rng, x))


@pytest.mark.slow
def test_oracle_at_length() -> None:
    for shift in range(6):
        rng = np.random.default_rng(shift)
        x = rows(rng, (-128, 127), 197, 172)
        against_the_oracle(Ita(shift, 16), x, masks(rng, x) if shift % 2 else None)


def test_the_order_matters() -> None:
    rising, group = np.array([[0] * 5 + [1]]), Ita(0, 1)
    assert oracle.softmax([0] * 5 + [1], [1] * 6, 0, 1)[1]["sum"] == [5 * 128 + 256]
    assert group.sums(rising, None)[1].tolist() == [[5 * 128 + 256]]
    odd = np.array([[0, 0, 0, 9, 10]])
    # 3 * 256 >> 9 >> 1 is 0, and so is 256 >> 10; but 768 >> 9 is 1
    assert group.sums(odd[:, :4], None)[1].tolist() == [[1 + 256]]
    assert group.sums(odd[:, ::-1], None)[1].tolist() == [[256 + 128]]
    assert group.sums(odd, None)[1].tolist() == [[257 // 2 + 256]]


def test_golden() -> None:
    for case in golden.cases("ita_softmax"):
        assert case.params["variant"] == "streaming, groups of 16"
        x, found = case["x"], Ita(0, 16)
        _, total, _ = found.sums(x, None)
        np.testing.assert_array_equal(total[:, 0], case["sum_exact"])
        np.testing.assert_array_equal(65280 // total[:, 0], case["inv_exact"])
        (y,) = found.apply(x, (), None, [UI8])
        case.check(y)


def test_scales() -> None:
    for shift in range(6):
        scale = Fraction(log(2)) / 2**shift
        built = Ita.build(spec(scale))
        assert built.approximation == Ita(shift, 16)
        assert (built.results, float(built.scale)) == ((UI8,), 1 / 256)
        assert Ita.preferred_scale(scale) == scale
        assert Ita.preferred_scale(scale * Fraction(99, 100)) == scale
        if shift:
            assert Ita.preferred_scale(scale * Fraction(101, 100)) == 2 * scale
    assert Ita.build(spec(Fraction(log(2))), group=4).approximation == Ita(0, 4)
    assert Ita.preferred_scale(Fraction(5)) == Fraction(log(2))
    assert Ita.preferred_scale(Fraction(1, 1000)) == Fraction(log(2)) / 32
    Ita.build(spec(Fraction(log(2)) * Fraction(1025, 1024)))
    for scale in (Fraction(log(2)) * Fraction(1026, 1024), Fraction(1, 20), Fraction(1, 1000)):
        with pytest.raises(RangeError, match=r"it must be ln 2 / 2\^k, k = 0..5: requantize them to 0\."):
            Ita.build(spec(scale))
    with pytest.raises(RangeError, match="unknown options shift; known are group"):
        Ita.build(spec(Fraction(log(2))), shift=1)


def test_conditions() -> None:
    Ita(0, 16).check((-128, 127), 255, ())
    with pytest.raises(RangeError, match=r"a flat row of 256 entries has reciprocal 65280 // 65536 = 0"):
        Ita(0, 16).check((-128, 127), 256, ())
    assert Ita(0, 16).apply(np.zeros((1, 255), np.int64), (), None, [UI8])[0].sum() == 255
    assert Ita(0, 16).apply(np.zeros((1, 256), np.int64), (), None, [UI8])[0].sum() == 0


def test_masked_rows() -> None:
    x, mask = np.array([[5, 5, 127], [1, 2, 3]]), np.array([[1, 1, 0], [0, 0, 0]], np.uint8)
    assert Ita(0, 2).apply(x, (), mask, [UI8])[0].tolist() == [[127, 127, 0], [0, 0, 0]]


@pytest.mark.parametrize("parameters", [(-1, 16), (6, 16), (0, 0), (0, 1 << 31)])
def test_parameters_out_of_range(parameters: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="ita: "):
        Ita(*parameters)


# --- GELU ---


def gelu_spec(scale: Fraction | float, function: str = "gelu") -> FunctionSpec:
    return FunctionSpec(function, Codes(Fraction(scale), 0, I8), Codes(Fraction(scale), 0, I8))


def made(scale: Fraction | float) -> ItaGelu:
    built = ItaGelu.build(gelu_spec(scale))
    assert isinstance(built.approximation, ItaGelu)
    assert built.results == (I32,)
    return built.approximation


def test_gelu_oracle() -> None:
    x = np.arange(-128, 128)
    for scale in np.geomspace(0.0075, 0.5, 60):
        found, measured = made(float(scale)), Measured()
        for code, y in zip(x.tolist(), found.apply(x, (), I32).tolist(), strict=True):
            expected, seen = oracle.gelu(code, found.b, found.c)
            assert y == expected
            measured.add(seen)
        proven = found.intermediates((-128, 127), (), I32)
        measured.check(proven)
        assert measured.extent["d"] == proven["d"]
        assert found.b < -127 or measured.extent["y"][0] == proven["y"][0]


@pytest.mark.slow
def test_gelu_oracle_on_all_constants() -> None:
    x = np.arange(-128, 128)
    for b in range(-182, 0):
        for c in range(-32768, 0, 1489):
            y = ItaGelu(b, c).apply(x, (), I32)
            assert y.tolist() == [oracle.gelu(code, b, c)[0] for code in x.tolist()]


def test_golden_gelu() -> None:
    for case in golden.cases("ita_gelu"):
        params = case.params
        assert params["q1"] == params["qc"]
        found = made(case.scale("S"))
        assert (found.b, found.c) == (params["qb"], params["qc"])
        y = found.apply(case["x"], (), I32)
        case.check(y)
        # y's scale is negative, and so is that of ITA's codes
        multiplier, shift, add = (np.array(params[name]) for name in ("mul", "shift", "add"))
        codes = requantize_dyadic(y, multiplier, shift, (ZERO, add), Rounding.HALF_UP, I8)
        np.testing.assert_array_equal(codes, case["r_exact"])
        np.testing.assert_array_equal(codes[case["r_same"]], case["r_peer"][case["r_same"]])


@pytest.mark.parametrize("scale", [0.0148, 0.02, 0.03125, 0.041])
def test_the_real_gelu(scale: float) -> None:
    built, x = ItaGelu.build(gelu_spec(scale)), np.arange(-127, 128)
    assert built.scale < 0
    error = made(scale).apply(x, (), I32) * float(built.scale) - FUNCTIONS["gelu"](x * scale)
    assert np.abs(error).max() < 0.019
    assert scale < 0.02 or np.abs(error).max() > 0.017
    made(scale).check((-128, 127), ())


@pytest.mark.parametrize(
    ("found", "codes", "message"),
    [
        (made(0.0147), (-128, 127), None),
        (made(0.0145), (-128, 127), "c = -32768 (at least -32767)"),
        (ItaGelu(-181, -32767), (-128, 127), None),
        (ItaGelu(-182, -32767), (-128, 127), "b = -182 (b^2 at most 32767) does not fit 16 bits"),
        (ItaGelu(-181, -32768), (-128, 127), "the scale must be at least 0.0147"),
        # 2^20 / (2 * 4113) is 127.47, / (2 * 4112) is 127.502
        (ItaGelu(-61, -4113), (-128, 127), None),
        (ItaGelu(-61, -4112), (-128, 127), "2^20 / (2 * 4112) = 128, beyond 127: the scale must be at most 0.041"),
        (made(0.041), (-128, 127), None),
        (made(0.0412), (-128, 127), "the scale must be at most 0.041"),
        (made(0.03), (-128, 128), "ita-gelu takes 8-bit codes, these are -128..128"),
        (made(0.03), (-129, 127), "ita-gelu takes 8-bit codes, these are -129..127"),
    ],
)
def test_gelu_conditions(found: ItaGelu, codes: tuple[int, int], message: str | None) -> None:
    if message is None:
        found.check(codes, ())
        return
    with pytest.raises(RangeError, match=re.escape(message)):
        found.check(codes, ())


def test_gelu_refused() -> None:
    with pytest.raises(RangeError, match="ita_gelu approximates GELU, not tanh"):
        ItaGelu.build(gelu_spec(0.03, "tanh"))
    with pytest.raises(RangeError, match="scale 6 is too coarse"):
        ItaGelu.build(gelu_spec(6.0))
    with pytest.raises(RangeError, match="ita_gelu takes codes of 8 bits, found i16"):
        ItaGelu.build(FunctionSpec("gelu", Codes(Fraction(1, 50), 0, IntType(16)), Codes(Fraction(1, 50), 0, I8)))
    with pytest.raises(RangeError, match="unknown options refit"):
        ItaGelu.build(gelu_spec(0.03), refit=1)
    for parameters in ((0, -1), (-1, 0), (-32769, -1), (-1, -32769)):
        with pytest.raises(ValueError, match="ita_gelu: b and c must be in"):
            ItaGelu(*parameters)


# --- requantize ---


def test_golden_requantize() -> None:
    for case in golden.cases("ita_requant"):
        heads = [case[name][:, None, None] for name in ("mult", "shift", "add")]
        found = requantize_dyadic(case["acc"], *heads[:2], (ZERO, heads[2]), Rounding.HALF_UP, I8)
        found = found.reshape(case["y_exact"].shape)
        case.check(found)


def test_requantize_on_edges() -> None:
    edges = [-(2**26), -129, -128, -1, 0, 1, 3, 127, 2**26 - 1]
    for multiplier, shift, add in ((0, 0, 5), (255, 0, -3), (255, 31, 127), (1, 1, 0), (3, 2, -128), (129, 8, 1)):
        found = requantize_dyadic(
            np.array(edges), np.array(multiplier), np.array(shift), (ZERO, np.array(add)), Rounding.HALF_UP, I8
        )
        assert found.tolist() == [oracle.requantize(x, multiplier, shift, add) for x in edges]
