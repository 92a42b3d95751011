"""i_softmax and i_softmax_published: the oracle, the published code, the real softmax, and what is stated of intermediates."""

from fractions import Fraction

import golden
import numpy as np
import oracle_ibert as oracle
import pytest
from approximation_examples import Measured, masks, rows

from qvit.dialects.approximations.base import Built, Codes, RangeError, SoftmaxSpec
from qvit.dialects.approximations.ibert_softmax import ISoftmax, ISoftmaxPublished, dyadic
from qvit.dialects.semantics.integers import Array, Int64, IntType

I8, I16, I32, UI8 = IntType(8), IntType(16), IntType(32), IntType(8, False)
I8_CODES, I16_CODES = (-128, 127), (-32768, 32767)
S = Fraction(1, 20)


Kind = type[ISoftmax] | type[ISoftmaxPublished]


def built(
    scale: Fraction = S,
    length: int = 197,
    type: IntType = I8,
    kind: Kind = ISoftmaxPublished,
    output: Codes | None = None,
    **options: int,
) -> Built:
    return kind.build(SoftmaxSpec(Codes(scale, 0, type), length, output), **options)


def compare(b: Built, x: Int64, codes: tuple[int, int], mask: Array | None = None) -> None:
    """With the oracle, and the intermediates of every row inside the stated intervals."""
    a, measured, length = b.approximation, Measured(), x.shape[-1]
    (found,) = a.apply(x, (), mask, b.results)
    assert found.dtype == b.results[0].dtype
    f = oracle.i_softmax if isinstance(a, ISoftmax) else oracle.i_softmax_published
    for i, row in enumerate(x.tolist()):
        y, seen = f(row, **a.parameters, mask=None if mask is None else mask[i].tolist())
        assert found[i].tolist() == y
        measured.add(seen)
    a.check(codes, length, ())
    measured.check(a.intermediates(codes, length, ()), "e", "polynomial")


@pytest.mark.parametrize(
    "scale", [Fraction(1, 20), Fraction(1, 256), Fraction(2, 5), Fraction(3, 1000), Fraction(2, 3)]
)
@pytest.mark.parametrize("length", [1, 2, 49, 197])
def test_against_the_oracle(scale: Fraction, length: int) -> None:
    rng = np.random.default_rng(length)
    x = rows(rng, I8_CODES, length, 4)
    for kind in (ISoftmax, ISoftmaxPublished):
        compare(built(scale, kind=kind), x, I8_CODES)
        compare(built(scale, kind=kind, bits=16), x, I8_CODES, masks(rng, x))


@pytest.mark.parametrize("scale", [Fraction(1, 18000), Fraction(1, 3000), Fraction(1, 50)])
def test_wide_scores(scale: Fraction) -> None:
    """16 and 32 bits; a shift beyond 62 bits far below the maximum."""
    rng = np.random.default_rng(1)
    for type, codes in ((I16, I16_CODES), (I32, (I32.lo, I32.hi))):
        for kind in (ISoftmax, ISoftmaxPublished):
            compare(built(scale, 64, type, kind), rows(rng, codes, 64, 3), codes)


@pytest.mark.parametrize("scale", [Fraction(1, 1 << 40), Fraction(1, 1 << 20), Fraction(1000), Fraction(4)])
def test_scales_of_the_sound_one(scale: Fraction) -> None:
    """Octaves of less than a code, and of billions of them."""
    rng = np.random.default_rng(1)
    for type, codes in ((I8, I8_CODES), (I32, (I32.lo, I32.hi))):
        x = rows(rng, codes, 64, 3)
        compare(built(scale, 64, type, ISoftmax, bits=16), x, codes, masks(rng, x))


@pytest.mark.slow
def test_against_the_oracle_at_length() -> None:
    rng = np.random.default_rng(9)
    for scale, bits in ((S, 8), (Fraction(1, 7), 16), (Fraction(1, 90), 16)):
        for kind in (ISoftmax, ISoftmaxPublished):
            compare(built(scale, kind=kind, bits=bits), rows(rng, I8_CODES, 197, 350), I8_CODES)


def test_other_exponents() -> None:
    """n of other sizes: the clamp at n x0, and shifts to the left in the middle."""
    for n in (1, 5, 62):
        compare(built(n=n), rows(np.random.default_rng(n), I8_CODES, 40, 4), I8_CODES)
    a = ISoftmaxPublished(x0=-2, b=3, c=5, n=60, multiplier=1, shift=40, bits=8)
    x = rows(np.random.default_rng(1), I8_CODES, 20, 5)
    found = a.apply(x, (), None, (I16,))[0].tolist()
    assert found == [oracle.i_softmax_published(row, **a.parameters)[0] for row in x.tolist()]


def test_roundings_of_the_published_one() -> None:
    """20 / 8 in the middle is a tie, to even; a sum of 2^16 divides 2^32."""
    a = ISoftmaxPublished(x0=-2, b=3, c=5, n=2, multiplier=1 << 30, shift=33, bits=16)
    assert a.apply(np.array([[7]]), (), None, (I32,))[0].tolist() == [[65536]]
    assert a.peak == 2
    a = ISoftmaxPublished(x0=-2, b=3, c=4, n=12, multiplier=1 << 30, shift=30, bits=8)
    assert a.apply(np.array([[7, 7, 7, 7]]), (), None, (UI8,))[0].tolist() == [[64, 64, 64, 64]]


def test_constants_of_the_published_one() -> None:
    """At scales where the last digit of each decides."""
    assert built(Fraction(6931, 100_000)).approximation.x0 == -10
    assert built(Fraction(96963238, 35815147) / 100).approximation.b == 100
    assert built(Fraction(1, 10_000)).approximation.c == 10**16 // 35815147
    for kind in (ISoftmax, ISoftmaxPublished):
        assert built(kind=kind).approximation.b == {ISoftmax: 3464, ISoftmaxPublished: 54}[kind]


def test_the_published_code() -> None:
    """Its multiplier is that of a float32 scale, ours that of the exact one: equal in the first 24 bits."""
    for case in golden.cases("ibert_softmax"):
        p = case.params
        a = ISoftmaxPublished(p["x0"], p["b"], p["c"], p["n"], p["m16"], p["e16_shift"], p["k"])
        case.check(a.apply(case["x"], (), None, (I16,))[0])
        b = built(case.scale(), case["x"].shape[-1])
        assert isinstance(ours := b.approximation, ISoftmaxPublished)
        assert (ours.x0, ours.b, ours.c, ours.n, ours.bits) == (p["x0"], p["b"], p["c"], p["n"], p["k"])
        assert ours.shift == p["e16_shift"]
        assert abs(ours.multiplier - p["m16"]) < 2**7
        assert np.array_equal(ours.apply(case["x"], (), None, (I16,))[0], case["y_exact"])
        assert b.scale == 2.0**-8
        a.check(I8_CODES, case["x"].shape[-1], ())


def test_an_example_by_hand() -> None:
    # S = 1/2: x0 = -2, b = 5, c = 11; d = 0 -1 -2: q = 0 0 1, r = 0 -1 0, polynomials 11, 7, 11 >> 1
    b = built(Fraction(1, 2))
    assert isinstance(a := b.approximation, ISoftmaxPublished)
    assert (a.x0, a.b, a.c) == (-2, 5, 11)
    codes = [32767, round(Fraction(32767 * 7, 11)), 16384]  # 16383.5, by a multiplier that is rounded up
    y = [e * (2**32 // sum(codes)) >> 24 for e in codes]
    assert a.apply(np.array([[9, 8, 7]]), (), None, b.results)[0].tolist() == [y] == [[119, 76, 59]]
    # entries without part, rows without entries
    x = np.array([[9, 100, 9]] * 2)
    assert a.apply(x, (), np.array([[1, 0, 1], [0, 0, 0]]), b.results)[0].tolist() == [[127, 0, 127], [0, 0, 0]]


def error(b: Built, scale: Fraction) -> float:
    """Against the real softmax: two levels, and rows of every kind."""
    two = np.where(np.arange(197) < 1, 127, 127 - np.arange(256)[:, None])
    x = np.concatenate([rows(np.random.default_rng(1), I8_CODES, 197, 200), two])
    e = np.exp(float(scale) * (x - x.max(-1, keepdims=True)))
    y = b.approximation.apply(x, (), None, b.results)[0] * float(b.scale)
    return np.abs(y - e / e.sum(-1, keepdims=True)).max()


@pytest.mark.parametrize(
    ("scale", "published"), [(Fraction(1, 120), 0.0016), (S, 0.014), (Fraction(1, 8), 0.11), (Fraction(3, 10), 0.35)]
)
def test_error_against_the_real_softmax(scale: Fraction, published: float) -> None:
    """The polynomial is off by 0.0021; the published octaves are up to a code too long, the sound ones are not."""
    assert published / 2 < error(built(scale, bits=16), scale) < published
    b = built(scale, kind=ISoftmax, bits=16)
    assert error(b, scale) < 0.0010 + 197 / b.approximation.c + 1 / 131070 + 2.0**-10


@pytest.mark.parametrize(
    ("output", "parameters", "result", "scale"),
    [
        (None, (255, 255), UI8, 1 / 255),
        (Codes(Fraction(1, 256), 0, UI8), (256, 255), UI8, 1 / 256),
        (Codes(Fraction(1, 1 << 15), 0, I16), (1 << 15, 32767), I16, 2.0**-15),
    ],
)
def test_codes_of_the_result(output: Codes | None, parameters: tuple[int, int], result: IntType, scale: float) -> None:
    b = built(kind=ISoftmax, output=output)
    assert (b.approximation.one, b.approximation.top) == parameters
    assert (b.results, b.scale) == ((result,), scale)
    compare(b, rows(np.random.default_rng(6), I8_CODES, 197, 2), I8_CODES)


def test_long_rows_have_shorter_octaves() -> None:
    found = {length: built(length=length, kind=ISoftmax).approximation.octave for length in (16, 197, 2000, 300_000)}
    assert found == {16: 887, 197: 887, 2000: 222, 300_000: 28}
    with pytest.raises(RangeError, match="^rows of 500000 scores are too long: [0-9]+ are possible$"):
        built(length=500_000, kind=ISoftmax)
    a = built(kind=ISoftmax).approximation
    a.check(I8_CODES, (2**31 - 1) // a.c, ())
    with pytest.raises(RangeError, match="beyond 2\\^31 - 1: the constants are for shorter rows$"):
        a.check(I8_CODES, (2**31 - 1) // a.c + 1, ())
    with pytest.raises(RangeError, match="^an octave of 15 steps is too coarse"):
        ISoftmax(0, 15, 59, 1307, 255, 255).check(I8_CODES, 5, ())


def test_the_intervals_are_reached() -> None:
    """The published product and result in a row of one; the sums in flat rows."""
    for kind in (ISoftmax, ISoftmaxPublished):
        b, measured = built(kind=kind), Measured()
        f = oracle.i_softmax if kind is ISoftmax else oracle.i_softmax_published
        for row in ([3] * 197, [127] + [-128] * 196, [3]):
            measured.add(f(row, **b.approximation.parameters)[1])
        stated = b.approximation.intermediates(I8_CODES, 197, ())
        measured.check(stated, "e", "sum", "polynomial", *(() if kind is ISoftmax else ("product", "y", "exponential")))


def test_it_loses_weight_at_8_bits() -> None:
    x = np.random.default_rng(1).normal(0, 20, (50, 197)).round().clip(-128, 127).astype(np.int64)
    b, fine = built(), built(bits=16)
    assert (b.approximation.apply(x, (), None, b.results)[0].sum(-1) / 256 < 0.75).all()
    assert (np.abs(fine.approximation.apply(x, (), None, fine.results)[0].astype(int).sum(-1) / 65536 - 1) < 0.01).all()


@pytest.mark.parametrize(
    "factor", [Fraction(1), Fraction(1, 3), Fraction(7), Fraction(1, 1 << 90), Fraction((1 << 40) - 1, 1 << 40)]
)
def test_dyadic(factor: Fraction) -> None:
    m, e = dyadic(factor)
    assert 1 << 30 <= m < 1 << 31
    assert abs(m / factor / (1 << e) - 1) <= Fraction(1, 1 << 31)


def test_what_build_refuses() -> None:
    for scale in (Fraction(1, 20000), Fraction(17, 10)):
        with pytest.raises(RangeError, match="out of the range of i-exp"):
            built(scale)
    for kind in (ISoftmax, ISoftmaxPublished):
        with pytest.raises(RangeError, match="^the scale of the input must be positive"):
            built(-S, kind=kind)
    with pytest.raises(
        RangeError, match="^unknown options m; known are bits, n$|^unknown options m; known are n, bits$"
    ):
        built(m=3)


def test_conditions() -> None:
    a = built().approximation
    a.check(I8_CODES, 65537, ())  # 65537 * 32767 < 2^31
    with pytest.raises(RangeError, match="^the sum of 65539 exponentials may reach 2147516413, beyond 31 bits"):
        a.check(I8_CODES, 65539, ())
    built(Fraction(69, 100)).approximation.check(I8_CODES, 5, ())
    with pytest.raises(
        RangeError, match="^x0 = -1 leaves no code between two powers of two: use scores of a scale below 0.69"
    ):
        built(Fraction(70, 100)).approximation.check(I8_CODES, 5, ())
    with pytest.raises(
        RangeError, match="^the requantize maps the maximum to 8928, expected 32767: see multiplier and shift$"
    ):
        ISoftmaxPublished(-13, 54, 1116, 30, 1 << 30, 57, 8).check(I8_CODES, 5, ())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x0": 0}, "x0 must be in -16384..-1, found 0"),
        ({"x0": -16385, "b": 1 << 20}, "x0 must be in -16384..-1, found -16385"),
        ({"b": 12}, "b must be at least -x0 = 13, found 12"),
        ({"c": 0}, "c must be in 1..1073741824, found 0"),
        ({"n": 63}, "n must be in 1..62, found 63"),
        ({"multiplier": 1 << 31}, "multiplier must be in 1..2147483647, found 2147483648"),
        ({"shift": 128}, "shift must be in 0..127, found 128"),
        ({"bits": 17}, "bits must be in 1..16, found 17"),
    ],
)
def test_parameters(changed: dict[str, int], message: str) -> None:
    good = {"x0": -13, "b": 54, "c": 1116, "n": 30, "multiplier": 1 << 30, "shift": 55, "bits": 8}
    assert ISoftmaxPublished(**good).parameters == good
    with pytest.raises(ValueError, match=f"^i_softmax_published: {message}$"):
        ISoftmaxPublished(**(good | changed))


def test_parameters_of_the_sound_one() -> None:
    good = {"up": 2, "octave": 16, "b": 63, "c": 1488, "one": 255, "top": 255}
    assert ISoftmax(**good).parameters == good
    for changed in ({"b": 15}, {"c": 1007}, {"b": 1 << 15, "c": 1 << 20}, {"c": 1 << 31}):
        with pytest.raises(
            ValueError, match="^i_softmax: octave <= b < 2\\^15 and octave b <= c < 2\\^31 are expected"
        ):
            ISoftmax(**(good | changed))
    with pytest.raises(ValueError, match="^i_softmax: up must be"):
        ISoftmax(**(good | {"up": 31}))
    with pytest.raises(ValueError, match="^i_softmax: 1 <= top <= one"):
        ISoftmax(**(good | {"top": 256}))
