"""shiftmax and shiftmax_published: the oracle, the published code, the real softmax, and what is stated of intermediates."""

from fractions import Fraction

import golden
import numpy as np
import oracle_ivit as oracle
import pytest
from approximation_examples import Measured, masks, rows

from qvit.dialects.approximations.base import Built, Codes, RangeError, SoftmaxSpec
from qvit.dialects.approximations.shift_exponential import octave_of, shift_exponential
from qvit.dialects.approximations.shiftmax import Shiftmax, ShiftmaxPublished
from qvit.dialects.semantics.integers import Array, Int64, IntType

I8, UI8, I16, UI16, I32 = IntType(8), IntType(8, False), IntType(16), IntType(16, False), IntType(32)
I8_CODES, I16_CODES = (-128, 127), (-32768, 32767)
S = Fraction(1, 20)


def built(
    kind: type[Shiftmax] | type[ShiftmaxPublished],
    scale: Fraction = S,
    length: int = 197,
    type: IntType = I8,
    output: Codes | None = None,
    **options: int,
) -> Built:
    return kind.build(SoftmaxSpec(Codes(scale, 0, type), length, output), **options)


def compare(b: Built, x: Int64, codes: tuple[int, int], mask: Array | None = None) -> None:
    """With the oracle, and the intermediates of every row inside the stated intervals."""
    approximation = b.approximation
    assert isinstance(approximation, Shiftmax | ShiftmaxPublished)
    (found,) = approximation.apply(x, (), mask, b.results)
    assert found.dtype == b.results[0].dtype
    measured, length = Measured(), x.shape[-1]
    for i, row in enumerate(x.tolist()):
        kept = None if mask is None else mask[i].tolist()
        if isinstance(approximation, Shiftmax):
            y, seen = oracle.shiftmax(row, **approximation.parameters, mask=kept)
        else:
            y, seen = oracle.shiftmax_published(row, **approximation.parameters, mask=kept)
        assert found[i].tolist() == y
        measured.add(seen)
    approximation.check(codes, length, ())
    measured.check(approximation.intermediates(codes, length, ()), "e")


SCALES = [Fraction(1, 20), Fraction(1, 256), Fraction(2, 5), Fraction(3, 1000), Fraction(1, 9)]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("length", [1, 2, 49, 197])
@pytest.mark.parametrize("kind", [Shiftmax, ShiftmaxPublished])
def test_against_the_oracle(kind: type[Shiftmax] | type[ShiftmaxPublished], scale: Fraction, length: int) -> None:
    rng = np.random.default_rng(length)
    b, x = built(kind, scale, min(length, 197)), rows(rng, I8_CODES, length, 4)
    if length * b.approximation.peak < 1 << 31:
        compare(b, x, I8_CODES)
        compare(b, x, I8_CODES, masks(rng, x))


@pytest.mark.parametrize(
    "scale", [Fraction(1, 1 << 20), Fraction(1, 3000), Fraction(1, 7), Fraction(1000), Fraction(1, 1 << 41)]
)
@pytest.mark.parametrize("bits", [8, 15, 16])
def test_wide_scores(scale: Fraction, bits: int) -> None:
    """16 and 32 bits, coarse and fine scales: octaves of less than a code, and of billions of them."""
    rng = np.random.default_rng(bits)
    for type, codes in ((I16, I16_CODES), (I32, (I32.lo, I32.hi))):
        b, x = built(Shiftmax, scale, 64, type, bits=bits), rows(rng, codes, 64, 3)
        compare(b, x, codes)
        compare(b, x, codes, masks(rng, x))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Shiftmax, ShiftmaxPublished])
def test_against_the_oracle_at_length(kind: type[Shiftmax] | type[ShiftmaxPublished]) -> None:
    rng = np.random.default_rng(9)
    for scale, bits in ((S, 8), (Fraction(1, 7), 16), (Fraction(1, 90), 16)):
        b = built(kind, scale, 197, bits=bits)
        compare(b, rows(rng, I8_CODES, 197, 350), I8_CODES)


def test_published_at_the_ends_of_its_parameters() -> None:
    """What `check` refuses is computed exactly all the same: sums that are clamped, the least i0, the largest n."""
    rng = np.random.default_rng(2)
    for i0, n, bits in ((-(1 << 30), 30, 16), (-1, 30, 2), (-1, 1, 16), (-(1 << 30), 1, 16), (-5000, 15, 16)):
        a = ShiftmaxPublished(i0, n, bits)
        for codes in (I8_CODES, (I32.lo, I32.hi)):
            x = rows(rng, codes, 17, 5)
            found = a.apply(x, (), None, (IntType(64),))[0].tolist()
            assert found == [oracle.shiftmax_published(row, i0, n, bits)[0] for row in x.tolist()]


@pytest.mark.parametrize("name", ["k16_n1", "k16_n17", "k8_n49", "k16_n257"])
def test_the_published_code(name: str) -> None:
    clamped = 0
    for case in golden.cases(f"ivit_shiftmax_{name}"):
        p = case.params
        a = ShiftmaxPublished(p["i0"], p["n"], p["k"])
        case.check(a.apply(case["x"], (), None, (IntType(p["k"]),))[0])
        b = built(ShiftmaxPublished, case.scale(), case["x"].shape[-1], n=p["n"], bits=p["k"])
        assert b.approximation == ShiftmaxPublished(p["i0_exact"], p["n"], p["k"])
        assert b.scale == float(case.scale("S_out"))
        clamped += p["sum_exceeds_int32"]
        length, peak = case["x"].shape[-1], a.peak
        if length * peak >= 1 << 31:
            with pytest.raises(RangeError, match="beyond 2\\^31 - 1"):
                a.check(I8_CODES, length, ())
    assert (clamped > 0) == (name == "k16_n257")


def test_examples_by_hand() -> None:
    # i0 = -2: x = 0, -1, -2 gives p = 0, -1, -2, q = 0, 0, 1, r = 0, -1, 0, lines 4, 3, 4, E = 8, 6, 4 of n = 2
    (y,) = ShiftmaxPublished(-2, 2, 16).apply(np.array([[0, -1, -2]]), (), None, (I16,))
    f = (2**31 - 1) // 18
    assert y.tolist() == [[8 * f >> 16, 6 * f >> 16, 4 * f >> 16]] == [[14563, 10922, 7281]]
    # an octave of 4 codes: 2 steps below the maximum are 3/4, 4 are 1/2, 8 are 1/4
    a = Shiftmax(up=2, octave=16, n=4, one=1000, top=1000)
    assert a.apply(np.array([[0, -2, -4, -8]]), (), None, (I16,))[0].tolist() == [[400, 300, 200, 100]]


def test_edges() -> None:
    b = built(Shiftmax, Fraction(1))

    def y(row: list[int], mask: list[int] | None = None) -> list[int]:
        return b.approximation.apply(np.array([row]), (), None if mask is None else np.array([mask]), b.results)[0][
            0
        ].tolist()

    assert y([-128]) == [255]
    assert y([127, -128, -128]) == [255, 0, 0]
    assert y([5] * 5) == [51] * 5
    assert y([127, 5, 5, 127], [0, 1, 1, 0]) == [0, 127, 127, 0]  # the maximum is that of the entries that take part
    assert y([127, 5], [0, 0]) == [0, 0]
    p = ShiftmaxPublished(-2, 15, 16)
    assert p.apply(np.array([[3, 4]]), (), np.array([[0, 0]]), (I16,))[0].tolist() == [[0, 0]]
    assert p.apply(np.array([[3, 90]]), (), np.array([[1, 0]]), (I16,))[0].tolist() == [[32767, 0]]


@pytest.mark.parametrize(
    ("output", "options", "parameters", "result", "scale"),
    [
        (None, {}, (255, 255), UI8, 1 / 255),
        (None, {"bits": 15}, (32767, 32767), I16, 1 / 32767),
        (None, {"bits": 16}, (65535, 65535), UI16, 1 / 65535),
        (Codes(Fraction(1, 256), 0, UI8), {}, (256, 255), UI8, 1 / 256),
        (Codes(Fraction(1, 1 << 15), 0, I16), {}, (1 << 15, 32767), I16, 2.0**-15),
        (Codes(Fraction(float(np.float32(1 / 255))), 0, UI8), {}, (255, 255), UI8, float(np.float32(1 / 255))),
        (Codes(Fraction(1, 127), 0, I8), {}, (127, 127), I8, 1 / 127),
        (Codes(Fraction(1, 256), -128, I8), {}, (255, 255), UI8, 1 / 255),  # requantized behind it
        (Codes(Fraction(3, 400), 0, UI8), {}, (255, 255), UI8, 1 / 255),
        (Codes(Fraction(3, 400), 0, I16), {}, (65535, 65535), UI16, 1 / 65535),
    ],
)
def test_codes_of_the_result(
    output: Codes | None, options: dict[str, int], parameters: tuple[int, int], result: IntType, scale: float
) -> None:
    b = built(Shiftmax, output=output, **options)
    assert isinstance(a := b.approximation, Shiftmax)
    assert (a.one, a.top) == parameters
    assert (b.results, b.scale) == ((result,), scale)
    compare(b, rows(np.random.default_rng(6), I8_CODES, 197, 2), I8_CODES)
    assert a.apply(np.array([[127, -128]]), (), None, b.results)[0][0, 0] == a.top


def real(x: Int64, scale: Fraction) -> Array:
    e = np.exp(float(scale) * (x - x.max(-1, keepdims=True)))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("scale", [S, Fraction(1, 300), Fraction(1, 2), Fraction(3)])
def test_error_against_the_real_softmax(scale: Fraction) -> None:
    """The bound of the documentation, nearly reached: two levels, half of the weight in each."""
    x = rows(np.random.default_rng(1), I8_CODES, 197, 200)
    d = np.arange(256)
    two = np.where(np.arange(197) < 1, 127, 127 - d[:, None])
    x = np.concatenate([x, two])
    b = built(Shiftmax, scale, bits=16)
    y = b.approximation.apply(x, (), None, b.results)[0] * float(b.scale)
    error = np.abs(y - real(x, scale)).max()
    assert error < 0.0152 + 197 / b.approximation.peak + 1 / 131070
    assert np.abs(y.sum(-1) - 1).max() < 197 / 131070 + 1e-4
    if scale == S:
        assert error > 0.0140


def test_the_published_one_loses_weight() -> None:
    """What the sound one is for: a flat row at a fine scale, and scores far below the maximum."""
    flat = np.full((1, 197), 5)
    published, sound = built(ShiftmaxPublished, Fraction(1, 100)), built(Shiftmax, Fraction(1, 100), bits=16)
    total = [b.approximation.apply(flat, (), None, b.results)[0].sum() * float(b.scale) for b in (published, sound)]
    assert total[0] < 0.91
    assert abs(total[1] - 1) < 0.002


def test_it_never_orders_two_entries_the_wrong_way() -> None:
    x = np.sort(rows(np.random.default_rng(4), I8_CODES, 100, 50))
    for scale in SCALES:
        b = built(Shiftmax, scale, 100, bits=16)
        assert (np.diff(b.approximation.apply(x, (), None, b.results)[0].astype(int)) >= 0).all()


@pytest.mark.parametrize("scale", [Fraction(1, 1 << 41), Fraction(1, 37), Fraction(1), Fraction(1 << 17)])
def test_octaves(scale: Fraction) -> None:
    """Within 2^-12 of ln 2 / S, and of 12 bits."""
    up, octave = octave_of(scale)
    assert 1 << 11 <= octave < 1 << 12
    assert abs(octave * 2.0**-up * float(scale) / np.log(2) - 1) < 2.0**-12


@pytest.mark.parametrize(("up", "octave"), [(0, 4095), (-3, 4095), (4, 4093), (12, 4000)])
def test_the_exponential_far_below_the_maximum(up: int, octave: int) -> None:
    """1 in the thirtieth octave, 0 from the next on."""
    d = np.arange(29 * octave, 33 * octave) if up >= 0 else np.arange(29 * octave << -up, 33 * octave << -up, 3)
    d = np.unique(d >> up) if up > 0 else d
    e = shift_exponential(d, up, octave, 18)
    assert e.tolist() == [oracle.shift_exponential(i, up, octave, 18)[0] for i in d.tolist()]
    assert 0 in e
    assert shift_exponential(np.array([(1 << 40) - 1]), up, octave, 18) == 0


def test_what_build_refuses() -> None:
    for scale in (Fraction(1 << 19), Fraction(1, 1 << 60)):
        with pytest.raises(RangeError, match="is out of the range 2\\^-43..2\\^18 of exponentials$"):
            built(Shiftmax, scale)
    for kind in (Shiftmax, ShiftmaxPublished):
        with pytest.raises(RangeError, match="^the scale of the input must be positive, found -0.05$"):
            built(kind, -S)
    with pytest.raises(RangeError, match="^rows of 1000000 scores are too long: [0-9]+ are possible$"):
        built(Shiftmax, length=1_000_000)
    with pytest.raises(RangeError, match="^bits must be 8, 15 or 16, found 7$"):
        built(Shiftmax, bits=7)
    with pytest.raises(RangeError, match="^unknown options top; known are n, bits$"):
        built(ShiftmaxPublished, top=3)


def test_conditions() -> None:
    a = ShiftmaxPublished(-256, 15, 16)
    a.check(I8_CODES, 255, ())  # 255 * 2^23 < 2^31
    with pytest.raises(
        RangeError, match=r"^the sum of 256 exponentials reaches 256 \* 256 \* 2\^15 = 2147483648, beyond"
    ):
        a.check(I8_CODES, 256, ())
    ShiftmaxPublished(-2, 15, 16).check(I8_CODES, 197, ())
    with pytest.raises(RangeError, match=r"^i0 = -1 leaves no code .* scale below 1, or shiftmax$"):
        ShiftmaxPublished(-1, 15, 16).check(I8_CODES, 197, ())
    assert built(ShiftmaxPublished, Fraction(1)).approximation == ShiftmaxPublished(-1, 15, 16)
    sound = Shiftmax(0, 16, 20, 255, 255)
    sound.check(I8_CODES, 63, ())
    with pytest.raises(RangeError, match="^the sum of 64 exponentials reaches 2147483648, beyond"):
        sound.check(I8_CODES, 64, ())
    with pytest.raises(OverflowError, match="2147483648 does not fit i32"):
        sound.apply(np.zeros((1, 64), np.int64), (), None, (UI8,))
    with pytest.raises(RangeError, match="^an octave of 15 steps is too coarse"):
        Shiftmax(0, 15, 20, 255, 255).check(I8_CODES, 5, ())


def test_the_intervals_are_reached_on_long_rows() -> None:
    for b in (built(Shiftmax, length=2000), built(ShiftmaxPublished, length=2000)):
        a, measured = b.approximation, Measured()
        f = oracle.shiftmax if isinstance(a, Shiftmax) else oracle.shiftmax_published
        for row in ([3] * 2000, [127] + [-128] * 1999):
            measured.add(f(row, **a.parameters)[1])
        measured.check(a.intermediates(I8_CODES, 2000, ()), "e", "sum")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ShiftmaxPublished(0, 15, 16), "i0 must be in -2^30..-1, found 0"),
        (lambda: ShiftmaxPublished(-(1 << 30) - 1, 15, 16), "i0 must be in"),
        (lambda: ShiftmaxPublished(-1, 0, 16), "n must be in 1..30, found 0"),
        (lambda: ShiftmaxPublished(-1, 31, 16), "n must be in 1..30, found 31"),
        (lambda: ShiftmaxPublished(-1, 15, 1), "bits must be in 2..16, found 1"),
        (lambda: Shiftmax(-41, 20, 2, 255, 255), "up must be in -40..30, found -41"),
        (lambda: Shiftmax(31, 20, 2, 255, 255), "up must be in -40..30, found 31"),
        (lambda: Shiftmax(0, 4096, 2, 255, 255), "octave must be in 1..4095, found 4096"),
        (lambda: Shiftmax(0, 4095, 18, 255, 255), None),
        (lambda: Shiftmax(0, 4095, 19, 255, 255), "n must be in 0..29 and 2^n 2 octave below 2^31, found n = 19"),
        (lambda: Shiftmax(0, 20, 2, 255, 256), "1 <= top <= one <= 2^16 is expected, found 256 and 255"),
        (lambda: Shiftmax(0, 20, 2, 65537, 256), "1 <= top <= one <= 2^16 is expected, found 256 and 65537"),
    ],
)
def test_parameters(make: object, message: str | None) -> None:
    if message is None:
        make()
    else:
        with pytest.raises(ValueError) as error:
            make()
        assert message in str(error.value)
