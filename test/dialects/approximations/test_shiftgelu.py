"""shiftgelu and shiftgelu_published: the oracle, the published code, the real GELU, and what is stated of intermediates."""

from fractions import Fraction

import golden
import numpy as np
import oracle_ivit as oracle
import pytest
from approximation_examples import Measured, rows

from qvit.dialects.approximations.base import Built, Codes, FunctionSpec, RangeError
from qvit.dialects.approximations.functions import FUNCTIONS
from qvit.dialects.approximations.shiftgelu import SLOPE, Shiftgelu, ShiftgeluPublished
from qvit.dialects.semantics.elementwise import sigmoid
from qvit.dialects.semantics.integers import Array, Int64, IntType

I8, UI8, I16, I32, I64 = IntType(8), IntType(8, False), IntType(16), IntType(32), IntType(64)
I8_CODES, I16_CODES = (-128, 127), (-32768, 32767)
S = Fraction(1, 20)


def built(
    kind: type[Shiftgelu] | type[ShiftgeluPublished],
    scale: Fraction = S,
    type: IntType = I8,
    zero_point: int = 0,
    function: str = "gelu",
    **options: int,
) -> Built:
    return kind.build(FunctionSpec(function, Codes(scale, zero_point, type), Codes(scale, 0, I8)), **options)


def compare(b: Built, x: Int64, codes: tuple[int, int], *reached: str) -> None:
    """With the oracle, and the intermediates of every row inside the stated intervals."""
    a, measured = b.approximation, Measured()
    found = a.apply(x, (), b.results[0])
    assert found.dtype == b.results[0].dtype
    f = oracle.shiftgelu if isinstance(a, Shiftgelu) else oracle.shiftgelu_published
    for i, row in enumerate(x.tolist()):
        y, seen = f(row, **a.parameters)
        assert found[i].tolist() == y
        measured.add(seen)
    measured.check(a.intermediates(codes, (), b.results[0]), *reached)


@pytest.mark.parametrize(
    "scale", [Fraction(1, 20), Fraction(1, 64), Fraction(2, 25), Fraction(3, 10), Fraction(1, 200)]
)
def test_against_the_oracle(scale: Fraction) -> None:
    rng = np.random.default_rng(1)
    for kind in (Shiftgelu, ShiftgeluPublished):
        b = built(kind, scale)
        compare(b, rows(rng, I8_CODES, 192, 4), I8_CODES)
        # at 1/200 the published reciprocal is 1, all of its digits are gone
        compare(b, np.arange(-128, 128)[None], I8_CODES, *(("y",) if scale > Fraction(1, 100) else ()))


@pytest.mark.parametrize("scale", [Fraction(1, 4096), Fraction(1, 300), Fraction(5), Fraction(1, 1 << 30)])
def test_wide_inputs(scale: Fraction) -> None:
    """Every code of 16 bits: the largest and the smallest y are those stated."""
    b = built(Shiftgelu, scale, I16)
    compare(b, np.arange(-32768, 32768)[None], I16_CODES)
    y = b.approximation.apply(np.arange(-32768, 32768), (), I32)
    assert b.approximation.intermediates(I16_CODES, (), I32)["y"] == (y.min(), y.max())


@pytest.mark.parametrize(("type", "zero_point"), [(UI8, 128), (UI8, 100), (I8, -128), (IntType(16, False), 0)])
def test_zero_points(type: IntType, zero_point: int) -> None:
    codes = (type.lo - zero_point, type.hi - zero_point)
    b = built(Shiftgelu, S, type, zero_point)
    compare(b, rows(np.random.default_rng(1), codes, 100, 4), codes)
    b.approximation.check(codes, ())
    assert Shiftgelu.centred
    assert ShiftgeluPublished.centred


@pytest.mark.slow
def test_against_the_oracle_at_length() -> None:
    rng = np.random.default_rng(9)
    for kind, scale in ((Shiftgelu, S), (ShiftgeluPublished, S), (ShiftgeluPublished, Fraction(1, 64))):
        compare(built(kind, scale), rows(rng, I8_CODES, 768, 270), I8_CODES)
    compare(built(Shiftgelu, Fraction(1, 3000), I16), rows(rng, I16_CODES, 768, 100), I16_CODES)


def test_published_at_the_ends_of_its_parameters() -> None:
    """What `check` refuses is computed exactly all the same: exponents of thousands of bits, of which the clamp remains."""
    rng = np.random.default_rng(2)
    for i0, n, bits in ((-(1 << 30), 30, 16), (-1, 30, 2), (-1, 1, 16), (-(1 << 30), 1, 16), (-300, 23, 8)):
        a = ShiftgeluPublished(i0, n, bits)
        for codes in (I8_CODES, I16_CODES, (-9000, -3000)):
            x = rows(rng, codes, 17, 5)
            found = a.apply(x, (), I64).tolist()
            assert found == [oracle.shiftgelu_published(row, i0, n, bits)[0] for row in x.tolist()]


def test_the_published_code() -> None:
    collapsed = 0
    for case in golden.cases("ivit_shiftgelu_C96"):
        p, x = case.params, case["x"]
        a = ShiftgeluPublished(p["i0"], p["n"], p["k"])
        case.check(a.apply(x, (), I16))
        b = built(ShiftgeluPublished, case.scale())
        assert b.approximation == ShiftgeluPublished(p["i0_exact"], p["n"], p["k"])
        assert (b.results, b.scale) == ((I16,), float(case.scale("S_out")))
        if any(p["row_beyond_collapse"]):
            collapsed += 1
            with pytest.raises(RangeError, match="sigma collapses"):
                a.check((int(x.min()), int(x.max())), ())
    assert collapsed == 2


def test_examples_by_hand() -> None:
    # octaves of 16 codes: E of 0, 16 and 32 are 1, 1/2 and 1/4 of K, so sigma is 1/2, 2/3 and 4/5
    a = Shiftgelu(0, 16)
    x = np.array([0, 16, 32, -16, -32, 1000, -1000])
    assert a.apply(x, (), I32).tolist() == [0, 16 * 21845, 32 * 26214, -16 * 10923, -32 * 6554, 1000 << 15, 0]


def test_equal_codes_differ_between_rows() -> None:
    """The published one depends on the row's maximum; the sound one does not."""
    x = np.array([[20, 40], [20, 127]])
    published, sound = (built(kind, Fraction(3, 100)) for kind in (ShiftgeluPublished, Shiftgelu))
    found = published.approximation.apply(x, (), I16)
    assert found[0, 0] != found[1, 0]
    assert ShiftgeluPublished.rowwise
    found = sound.approximation.apply(x, (), I32)
    assert found[0, 0] == found[1, 0]
    assert not Shiftgelu.rowwise


def values(kind: type[Shiftgelu] | type[ShiftgeluPublished], scale: Fraction, x: Int64) -> Array:
    b = built(kind, scale)
    return b.approximation.apply(x, (), I32) * float(b.scale)


@pytest.mark.parametrize("scale", [Fraction(1, 20), Fraction(3, 100), Fraction(2, 25)])
def test_error_against_the_real_gelu(scale: Fraction) -> None:
    """sigma within 0.0150 of the real one; x sigma(1.702 x) itself is off by up to 0.0204."""
    x = np.arange(-128, 128)
    real = x * float(scale)
    y, late = values(Shiftgelu, scale, x), real * sigmoid(float(SLOPE) * real)
    assert np.abs(y - late).max() < 0.0195
    assert np.abs((y - late)[x != 0] / real[x != 0]).max() < 0.0150
    assert np.abs(y - FUNCTIONS["gelu"](real)).max() < 0.0265
    fine = np.arange(-6, 6, 1 / 512)
    assert 0.0203 < np.abs(fine * sigmoid(float(SLOPE) * fine) - FUNCTIONS["gelu"](fine)).max() < 0.0204


def test_the_published_one_collapses() -> None:
    """Far below a row maximum of 9.40 its sigma is 1/2; the sound one has no such end."""
    x = np.array([[-20, 127]])
    real = FUNCTIONS["gelu"](np.array(-20 * 0.08))
    assert values(ShiftgeluPublished, Fraction(8, 100), x)[0, 0] < -0.7
    assert abs(values(Shiftgelu, Fraction(8, 100), x)[0, 0] - real) < 0.025


def test_rows_without_a_positive_code() -> None:
    """The documented bound: once E0 reaches the clamp, sigma is at most |I0| 2^n / 2^31."""
    for lowest in range(-128, 0):
        b = built(ShiftgeluPublished)
        a = b.approximation
        assert isinstance(a, ShiftgeluPublished)
        (y,) = a.apply(np.array([[lowest]]), (), I16)[0]
        sigma, real = y / lowest / 128, sigmoid(np.array(1.702 * lowest / 20))
        assert sigma <= max(real + 0.02, a.peak / 2**31)


def test_what_build_refuses() -> None:
    for name, kind in (("shiftgelu", Shiftgelu), ("shiftgelu-published", ShiftgeluPublished)):
        assert (
            kind.build(FunctionSpec("gelu_tanh", Codes(S, 0, I8), Codes(S, 0, I8))).approximation
            == built(kind).approximation
        )
        with pytest.raises(
            RangeError, match=f"^{name} approximates gelu alone, the function is tanh: use table, lin or quad$"
        ):
            built(kind, function="tanh")
        with pytest.raises(RangeError, match="^the scale of the input must be positive"):
            built(kind, -S)
        with pytest.raises(RangeError, match="^unknown options slope"):
            built(kind, slope=3)
    with pytest.raises(
        RangeError, match="^codes of at most 17 bits with their sign are expected, found 32: requantize"
    ):
        built(Shiftgelu, S, I32)
    assert built(ShiftgeluPublished, type=I16).results == (I32,)


def test_conditions() -> None:
    # exponents: 63 + 31 - 3 = 91, 64 + 32 - 4 = 92 (the floors of -x / 2 and -x / 16 are used)
    a = ShiftgeluPublished(-4, 23, 8)
    a.check((-128, 64), ())
    with pytest.raises(RangeError, match=r"^a row maximum of 65 lies beyond n / 2.4466 = 9.401: sigma collapses"):
        a.check((-128, 65), ())
    a.check((-128, -5), ())
    ShiftgeluPublished(-127, 23, 8).check((-128, 127), ())
    with pytest.raises(RangeError, match=r"^the denominator reaches 2 \* 128 \* 2\^23 = 2147483648, beyond"):
        ShiftgeluPublished(-128, 23, 8).check((-128, 127), ())
    ShiftgeluPublished(-2, 23, 8).check((-128, 20), ())
    with pytest.raises(RangeError, match="^i0 = -1 leaves no code"):
        ShiftgeluPublished(-1, 23, 8).check((-128, 1), ())
    Shiftgelu(0, 16).check((-65535, 65535), ())
    for codes in ((-65536, 0), (0, 65536)):
        with pytest.raises(RangeError, match="^the inputs reach 65536, beyond 16 bits"):
            Shiftgelu(0, 16).check(codes, ())
    with pytest.raises(RangeError, match="^an octave of 15 steps is too coarse"):
        Shiftgelu(0, 15).check(I8_CODES, ())
    with pytest.raises(OverflowError):
        Shiftgelu(0, 16).apply(np.array([65536]), (), I32)
    with pytest.raises(ValueError, match="bits must be in 2..16, found 17"):
        ShiftgeluPublished(-4, 23, 17)
