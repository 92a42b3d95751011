"""i_gelu and i_gelu_published: the oracle, the published code, the real GELU, and what is stated of intermediates."""

from fractions import Fraction

import golden
import numpy as np
import oracle_ibert as oracle
import pytest
from approximation_examples import Measured

from qvit.dialects.approximations.base import Built, Codes, FunctionSpec, RangeError
from qvit.dialects.approximations.functions import FUNCTIONS
from qvit.dialects.approximations.ibert_gelu import IGelu, IGeluPublished
from qvit.dialects.semantics.integers import Array, Int64, IntType

I8, UI8, I16, I32, I64 = IntType(8), IntType(8, False), IntType(16), IntType(32), IntType(64)
I8_CODES, I16_CODES = (-128, 127), (-32768, 32767)
S = Fraction(1, 20)


def built(
    kind: type[IGelu] | type[IGeluPublished],
    scale: Fraction = S,
    type: IntType = I8,
    zero_point: int = 0,
    function: str = "gelu",
    **options: int,
) -> Built:
    return kind.build(FunctionSpec(function, Codes(scale, zero_point, type), Codes(scale, 0, I8)), **options)


def compare(b: Built, x: Int64, codes: tuple[int, int]) -> None:
    """With the oracle, and the intermediates inside the stated intervals, with the ends of y."""
    a = b.approximation
    parameters = a.parameters | ({"one": a.one} if isinstance(a, IGelu) else {})
    found = a.apply(x, (), b.results[0])
    assert found.dtype == b.results[0].dtype
    y, seen = oracle.i_gelu(x.tolist(), **parameters)
    assert found.tolist() == y
    if isinstance(a, IGeluPublished):
        del seen["near"]
    measured = Measured()
    measured.add(seen)
    stated = a.intermediates(codes, (), b.results[0])
    measured.check(stated, "square", "erf")
    assert stated["y"] == measured.extent["y"]


@pytest.mark.parametrize(
    "scale",
    [
        Fraction(1, 20),
        Fraction(1, 4000),
        Fraction(2, 25),
        Fraction(3, 10),
        Fraction(1, 700),
        Fraction(3),
        Fraction(1, 50000),
    ],
)
def test_against_the_oracle(scale: Fraction) -> None:
    """Every code of 8 and of 16 bits."""
    for type, codes in ((I8, I8_CODES), (I16, I16_CODES)):
        x = np.arange(codes[0], codes[1] + 1)
        b = built(IGelu, scale, type)
        compare(b, x, codes)
        b.approximation.check(codes, ())
        if scale > 1:
            continue
        published = built(IGeluPublished, scale, type)
        if scale == Fraction(1, 50000) and type == I16:
            with pytest.raises(RangeError, match="beyond 32 bits"):
                published.approximation.check(codes, ())
        else:
            compare(published, x, codes)


@pytest.mark.parametrize(
    ("type", "zero_point"), [(UI8, 128), (UI8, 100), (I8, -128), (IntType(16, False), 0), (I16, 5)]
)
def test_zero_points(type: IntType, zero_point: int) -> None:
    codes = (type.lo - zero_point, type.hi - zero_point)
    for scale in (S, Fraction(1, 3000)):
        b = built(IGelu, scale, type, zero_point)
        compare(b, np.arange(codes[0], codes[1] + 1), codes)
        b.approximation.check(codes, ())
    assert IGelu.centred
    assert IGeluPublished.centred


@pytest.mark.slow
def test_against_the_oracle_at_length() -> None:
    x = np.arange(-32768, 32768)
    for i in range(1, 17):
        for kind in (IGelu, IGeluPublished):
            compare(built(kind, Fraction(i, 8001), I16), x, I16_CODES)


def test_the_published_code() -> None:
    """b, c and 1 are derived from float32(S / 1.4142) there."""
    for case in golden.cases("ibert_gelu"):
        p = case.params
        a = IGeluPublished(p["b"], p["c"], p["one"], p["shift"])
        case.check(a.apply(case["x"], (), I32))
        scale = case.scale("S_erf_input") * Fraction(14142, 10000)
        b = built(IGeluPublished, scale, IntType(p["bits_in"]))
        assert b.approximation == IGeluPublished(p["b_exact"], p["c_exact"], p["one"], p["shift"])
        assert abs(b.scale / float(case.scale("S_out")) - 1) < 1e-6
        codes = (-(1 << (p["bits_in"] - 1)), (1 << (p["bits_in"] - 1)) - 1)
        if p["bits_in"] == 8:
            with pytest.raises(
                RangeError, match="^the shift of 14 leaves 1 steps between 0 and 1 of the error function"
            ):
                a.check(codes, ())
        else:
            a.check(codes, ())


def test_examples_by_hand() -> None:
    x = np.array([0, 5, -5, 10, 100, -100])
    # b = -10: (5 - 10)^2 - 128 = -103, beyond 10 it is -128
    assert IGeluPublished(-10, -128, -128, 0).apply(x, (), I32).tolist() == [0, 5 * -231, -5 * -25, -2560, -25600, 0]
    assert IGeluPublished(-10, -128, -8, 4).apply(x, (), I32).tolist() == [0, 5 * -15, -5 * -2, -160, -1600, 0]
    assert IGelu(1, -20, -512, 2).apply(x, (), I32).tolist() == [0, 5 * -231, -5 * -25, -2560, -25600, 0]


def values(b: Built, x: Int64) -> Array:
    return b.approximation.apply(x, (), b.results[0]) * float(b.scale)


@pytest.mark.parametrize(
    ("scale", "type"), [(S, I8), (Fraction(3, 100), I8), (Fraction(2, 25), I8), (Fraction(1, 4096), I16)]
)
def test_error_against_the_real_gelu(scale: Fraction, type: IntType) -> None:
    """The polynomial's own 0.0182, and next to nothing of the integers; exactly 0 far below 0."""
    x = np.arange(type.lo, type.hi + 1)
    real = FUNCTIONS["gelu"](x * float(scale))
    b = built(IGelu, scale, type)
    assert 0.017 < np.abs(values(b, x) - real).max() < 0.0187
    assert values(b, x)[0] == 0


def test_the_shift_of_the_published_one_leaves_nothing_of_8_bits() -> None:
    x = np.arange(-128, 128)
    real = FUNCTIONS["gelu"](x * 0.05)
    assert np.abs(values(built(IGeluPublished), x) - real).max() > 3
    assert np.abs(values(built(IGeluPublished, shift=0), x) - real).max() < 0.05


def test_shifts() -> None:
    """0 for 8 bits; the least for 16 that lets y fit 32 bits."""
    for scale in (Fraction(1, 10), S, Fraction(1, 200)):
        assert built(IGelu, scale).approximation.shift == 0
    a = built(IGelu, Fraction(1, 4096), I16).approximation
    assert isinstance(a, IGelu)
    finer = IGelu(a.up, a.b, a.c, a.shift - 1)
    a.check(I16_CODES, ())
    with pytest.raises(
        RangeError, match="^the result reaches [0-9]+, beyond 32 bits: use narrower inputs or a larger shift"
    ):
        finer.check(I16_CODES, ())
    assert -512 < built(IGelu, Fraction(1, 2)).approximation.b <= -256


def test_what_build_refuses() -> None:
    for name, kind in (("i-gelu", IGelu), ("i-gelu-published", IGeluPublished)):
        assert built(kind, function="gelu_tanh").approximation == built(kind).approximation
        with pytest.raises(
            RangeError, match=f"^{name} approximates gelu alone, the function is silu: use table, lin or quad$"
        ):
            built(kind, function="silu")
        with pytest.raises(RangeError, match="^the scale of the input must be positive"):
            built(kind, -S)
        with pytest.raises(RangeError, match="^inputs of a scale of 1e-07 are"):
            built(kind, Fraction(1, 10**7))
        with pytest.raises(RangeError, match="^unknown options n"):
            built(kind, n=3)
    with pytest.raises(RangeError, match="^inputs of a scale of 1e\\+06 are out of the range of i-GELU: 4e-6..4000$"):
        built(IGelu, Fraction(10**6))
    with pytest.raises(
        RangeError, match="^codes of at most 17 bits with their sign are expected, found 32: requantize"
    ):
        built(IGelu, S, I32)


def test_conditions() -> None:
    IGeluPublished(-10, -128, -128, 0).check(I8_CODES, ())
    with pytest.raises(
        RangeError, match="^the shift of 0 leaves 127 steps between 0 and 1 of the error function, at least 128"
    ):
        IGeluPublished(-10, -128, -127, 0).check(I8_CODES, ())
    IGelu(0, -10, -128, 0).check(I8_CODES, ())
    with pytest.raises(RangeError, match="^the shift of 0 leaves 127 steps"):
        IGelu(0, -10, -127, 0).check(I8_CODES, ())
    # 2^15 * 2 * 2^15 = 2^31: one too many for a negative code, which needs g + one = 0 there: 32767 * 2^16 fits
    IGeluPublished(-200, -(1 << 15), -(1 << 15), 0).check((0, 32767), ())
    IGeluPublished(-200, -(1 << 15), -(1 << 15), 0).check((0, 32768), ())  # -2^31
    for kind in (IGeluPublished(-200, -(1 << 15), -(1 << 15), 0), IGelu(0, -200, -(1 << 15), 0)):
        with pytest.raises(RangeError, match="^the result reaches 2147549184, beyond 32 bits"):
            kind.check((0, 32769), ())
        with pytest.raises(OverflowError, match="-2147549184 does not fit i32"):
            kind.apply(np.array([32769]), (), I32)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IGelu(21, -10, -128, 0), "i_gelu: up must be in 0..20, found 21"),
        (
            lambda: IGelu(0, 0, -128, 0),
            "i_gelu: b in -2^20..-1, c in -2^40..-1 and shift in 0..40 are expected, found 0, -128, 0",
        ),
        (lambda: IGelu(0, -10, 0, 0), "i_gelu: b in -2^20..-1, c in"),
        (lambda: IGelu(0, -10, -128, 41), "i_gelu: b in -2^20..-1, c in"),
        (lambda: IGeluPublished(-(1 << 20) - 1, -128, -1, 0), "i_gelu_published: b in -2^20..-1, c in"),
        (lambda: IGeluPublished(-10, -128, 0, 0), "i_gelu_published: one must be in c - 1..-1, found 0"),
        (lambda: IGeluPublished(-10, -128, -130, 0), "i_gelu_published: one must be in c - 1..-1, found -130"),
    ],
)
def test_parameters(make: object, message: str) -> None:
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)
