"""sw and sw_late: against the oracle, against the real softmax, and what is stated of their intermediates."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import oracle_own as oracle
import pytest
from approximation_examples import Measured, arrays, masks, rows

from qvit.dialects.approximations.base import Built, Codes, Interval, RangeError, SoftmaxSpec
from qvit.dialects.approximations.sw import Sw, SwLate
from qvit.dialects.semantics.integers import Array, Int64, IntType

I8, I16, I32 = IntType(8), IntType(16), IntType(32)
UI8, UI16 = IntType(8, False), IntType(16, False)
S = Fraction(1, 1024)
KINDS = (Sw, SwLate)


def built(
    kind: type[Sw] | type[SwLate],
    scale: Fraction = S,
    length: int = 197,
    scores: IntType = I16,
    output: IntType | None = None,
    **options: int,
) -> Built:
    wanted = None if output is None else Codes(Fraction(1, 9), 0, output)
    return kind.build(SoftmaxSpec(Codes(scale, 0, scores), length, wanted), **options)


def compare(b: Built, x: Int64, mask: Array | None, codes: Interval) -> Measured:
    """Equal to the oracle, with the intermediates of every row inside the stated intervals."""
    length, tables = x.shape[-1], arrays(b)
    keep = np.ones_like(x) if mask is None else mask
    found = b.approximation.apply(x, tables, mask, b.results)
    measured = Measured()
    for i, row in enumerate(x.tolist()):
        given = (row, [bool(k) for k in keep[i]], b.approximation.parameters, *(t.tolist() for t in tables))
        if isinstance(b.approximation, Sw):
            y, seen = oracle.sw(*given)
        else:
            y, total, seen = oracle.sw_late(*given)
            assert found[1][i].tolist() == [total]
        assert found[0][i].tolist() == y
        measured.add(seen)
    b.approximation.check(codes, length, tables)  # pyright: ignore
    measured.check(b.approximation.intermediates(codes, length, tables), "e")  # pyright: ignore
    assert [f.dtype for f in found] == [t.dtype for t in b.results]
    return measured


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("scale", "scores"),
    [
        (S, I16),
        (Fraction(1, 20), I8),
        (Fraction(1, 1 << 28), I32),
        (Fraction(1, 1 << 20), I32),
        (Fraction(17, 5), I16),
        (Fraction(1, 1 << 60), I32),
        (Fraction(1, 300), UI16),
    ],
)
@pytest.mark.parametrize(("length", "index"), [(1, 4), (17, 6), (197, 4), (197, 5)])
def test_against_the_oracle(
    kind: type[Sw] | type[SwLate], scale: Fraction, scores: IntType, length: int, index: int
) -> None:
    rng, codes = np.random.default_rng(length), (scores.lo, scores.hi)
    b = built(kind, scale, length, scores, index=index)
    x = rows(rng, codes, length, 3)
    compare(b, x, None, codes)
    compare(b, x, masks(rng, x), codes)


@pytest.mark.slow
@pytest.mark.parametrize("output", [UI8, I16, UI16])
@pytest.mark.parametrize("length", [17, 197, 4095])
def test_against_the_oracle_at_length(output: IntType, length: int) -> None:
    rng = np.random.default_rng(length)
    for kind in KINDS:
        for scale in (S, Fraction(1, 100)):
            b = built(kind, scale, length, output=output)
            compare(b, rows(rng, (-32768, 32767), length, max(1, 6000 // length)), None, (-32768, 32767))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [S, Fraction(1, 20), Fraction(1, 1 << 28), Fraction(17, 5), Fraction(1, 1 << 60)])
@pytest.mark.parametrize("length", [1, 17, 197, 1025, 4095])
@pytest.mark.parametrize("index", [4, 5, 6])
def test_constants(kind: type[Sw] | type[SwLate], scale: Fraction, length: int, index: int) -> None:
    b = built(kind, scale, length, I32, index=index)
    fields, nodes, slopes = oracle.sw_constants(scale, length, index, kind.SUM_BITS)
    # the logarithm is a float: the rate may be off in its last bits, by nothing that a result shows
    found = dict(b.approximation.parameters)
    assert abs(found.pop("rate") - fields.pop("rate")) <= fields["last"] >> 50 or scale < Fraction(1, 1 << 40)
    assert {name: found[name] for name in fields} == fields
    assert [t.tolist() for t, _ in b.tables] == [nodes, slopes]


def test_an_example_by_hand() -> None:
    b = built(Sw)
    assert b.approximation == Sw(bits=24, index=4, rate=3025551, last=17759, drop=6, top=255)
    nodes, slopes = (t.tolist() for t, _ in b.tables)
    assert nodes[:4] == [33554432, 32131834, 30769550, 29465022]
    assert slopes[:4] == [22228, 21285, 20383, 19519]
    x = np.array([[0, -1000, 500, -30000]])
    assert b.approximation.exponentials(x, arrays(b), None)[0].tolist() == [[10297770, 3878044, 16777216, 0]]
    assert b.approximation.apply(x, arrays(b), None, b.results)[0].tolist() == [[85, 32, 138, 0]]
    wide = replace(b.approximation, top=65535)
    assert wide.apply(x, arrays(b), None, [UI16])[0].tolist() == [[21803, 8211, 35521, 0]]
    late = built(SwLate)
    assert late.approximation.parameters["bits"] == 23
    weights, total = late.approximation.apply(x, arrays(late), None, late.results)
    assert weights.tolist() == [[157, 59, 255, 0]]
    assert late.scale == 2**23 / 255
    assert total.tolist() == [[5148885 + 1939022 + 8388608]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", [4, 5, 6])
@pytest.mark.parametrize(("length", "scale"), [(197, S), (8191, S), (197, Fraction(1, 1 << 14)), (4095, Fraction(3))])
def test_the_exponential(kind: type[Sw] | type[SwLate], index: int, length: int, scale: Fraction) -> None:
    """Every difference up to where it ends: it falls, ends at 0, and is off by what the documentation says."""
    b = built(kind, scale, min(length, 8191), I32, index=index)
    bits, last = (b.approximation.parameters[name] for name in ("bits", "last"))
    d = np.arange(min(last + 3, 1 << 20))
    x = np.stack([0 * d, -d], -1)  # a row is the maximum and one more
    e = b.approximation.exponentials(x, arrays(b), None)[0][:, 1]
    assert e[0] == 1 << bits
    assert (np.diff(e) <= 0).all()
    assert (e[last:] == 0).all()
    real = np.exp(-float(scale) * d) * 2.0**bits
    excess = {4: 2.4e-4, 5: 6.0e-5, 6: 1.5e-5}[index] + 2e-5  # t has 16 fraction bits, floored: ln 2 / 2^16
    assert ((e - real) <= 0.5 + real * excess).all()
    assert ((e - real) >= -0.5 - real * 1e-5).all()


@pytest.mark.parametrize(("output", "index"), [(UI8, 4), (I16, 6), (UI16, 4), (UI16, 5), (UI16, 6)])
@pytest.mark.parametrize("spread", [8.0, 300.0])
def test_error_against_the_real_softmax(output: IntType, index: int, spread: float) -> None:
    scale, length = Fraction(spread) / 65535, 197
    b = built(Sw, scale, length, output=output, index=index)
    x = rows(np.random.default_rng(7), (-32768, 32767), length, 200)
    y = b.approximation.apply(x, arrays(b), None, b.results)[0].astype(float)
    e = np.exp(float(scale) * (x - x.max(-1, keepdims=True)))
    p = e / e.sum(-1, keepdims=True)
    excess = {4: 2.4e-4, 5: 6.0e-5, 6: 1.5e-5}[index]
    bound = 0.51 + output.hi * (p * (1 - p) * (excess + 3e-5) + length / 2**25)
    assert (np.abs(y - output.hi * p) <= bound).all()
    assert np.abs(y - output.hi * p).max() > 0.49
    late = built(SwLate, scale, length)
    weights, total = late.approximation.apply(x, arrays(late), None, late.results)
    assert np.abs(weights * float(late.scale) / total - p).max() < 0.0025


def test_the_reciprocal_is_rounded() -> None:
    """Rows that show it: with a reciprocal rounded down, one entry of each would be one less."""
    b = built(Sw, length=3, output=UI16)
    assert b.approximation.parameters["index"] == 6
    x = np.array([[0, -1910, -35], [0, -19, -426], [0, -1384, -2971]])
    expected = [[30894, 4784, 29857], [24812, 24356, 16368], [49883, 12912, 2741]]
    compare(b, x, None, (-32768, 32767))
    assert b.approximation.apply(x, arrays(b), None, b.results)[0].tolist() == expected


def test_edges() -> None:
    for kind in KINDS:
        b = built(kind, scores=I32)

        def y(row: list[int], mask: list[int] | None = None, b: Built = b) -> list[int]:
            m = None if mask is None else np.array(mask, np.uint8)
            return b.approximation.apply(np.array(row), arrays(b), m, b.results)[0].tolist()

        top = 128 if kind is Sw else 255
        assert y([-(1 << 31)]) == [255]
        assert y([-(1 << 31), (1 << 31) - 1]) == [0, 255]
        assert y([3, 3]) == [top, top]
        assert y([(1 << 31) - 1, 3, 3], [0, 1, 1]) == [0, top, top]
        assert y([1, 2, 3], [0, 0, 0]) == [0, 0, 0]
        assert y([1, 2, -(1 << 31)], [0, 0, 1]) == [0, 0, 255]


@pytest.mark.parametrize(
    ("wanted", "index", "result"),
    [
        (None, 4, UI8),
        (I8, 4, I8),
        (IntType(4, False), 4, IntType(4, False)),
        (I16, 6, I16),
        (UI16, 6, UI16),
        (I32, 6, UI16),
    ],
)
def test_codes_of_the_result(wanted: IntType | None, index: int, result: IntType) -> None:
    b = built(Sw, output=wanted)
    assert b.results == (result,)
    assert b.approximation.parameters["top"] == result.hi
    assert b.approximation.parameters["index"] == index
    assert b.scale == 1 / result.hi
    late = built(SwLate, output=wanted)
    assert late.results == (UI8, I32)


def test_what_build_refuses() -> None:
    for kind, longest in ((Sw, 8191), (SwLate, 32767)):
        built(kind, length=longest)
        with pytest.raises(RangeError, match=rf"^rows of 1\.\.{longest} scores are possible, found {longest + 1}$"):
            built(kind, length=longest + 1)
        with pytest.raises(RangeError, match="^scores of at most 32 bits are expected, found i64: requantize them$"):
            built(kind, scores=IntType(64))
        with pytest.raises(RangeError, match="^the scale of scores must be positive, found 0$"):
            built(kind, Fraction(0))
        with pytest.raises(RangeError, match=r"^index must be in 4\.\.6, found 7$"):
            built(kind, index=7)
        with pytest.raises(RangeError, match="^scores of scale 30 are too coarse"):
            built(kind, Fraction(30))
        with pytest.raises(RangeError, match="^unknown options bits; known are index$"):
            built(kind, bits=3)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("bits", 25, "bits must be in 19..24, found 25"),
        ("bits", 18, "bits must be in 19..24, found 18"),
        ("index", 3, "index must be in 4..6, found 3"),
        ("rate", -1, "rate must be in 0..4294967295, found -1"),
        ("last", 0, "last must be in 1..4294967295, found 0"),
        ("drop", 13, "drop must be in 0..12, found 13"),
        ("top", 65536, "must be in 1..65535, found 65536"),
        ("rate", 1 << 22, "at last = 17759 the exponential shifts by 34, at most 31 can be"),
    ],
)
def test_parameters(field: str, value: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(built(Sw).approximation, **{field: value})


def test_conditions() -> None:
    wide = (-(1 << 31), (1 << 31) - 1)
    for kind in KINDS:
        b = built(kind, length=1000)
        a, (nodes, slopes) = b.approximation, (t.astype(np.int64) for t, _ in b.tables)
        assert isinstance(a, Sw | SwLate)
        longest = ((1 << kind.SUM_BITS) - 1) >> a.bits
        a.check(wide, longest, [nodes, slopes])
        with pytest.raises(RangeError, match=f"^the sum of {longest + 1} exponentials reaches"):
            a.check(wide, longest + 1, [nodes, slopes])
        with pytest.raises(RangeError, match="^scores differ by up to 4294967296, beyond 32 bits"):
            a.check((-(1 << 31), 1 << 31), 5, [nodes, slopes])
        with pytest.raises(RangeError, match="^nodes: expected 16, found 15$"):
            a.check(wide, 5, [nodes[:15], slopes])
        with pytest.raises(RangeError, match="^slopes: expected 16, found 15$"):
            a.check(wide, 5, [nodes, slopes[:15]])
        with pytest.raises(RangeError, match="^nodes start with"):
            a.check(wide, 5, [nodes - 1, slopes])
        with pytest.raises(RangeError, match="^slopes must be in"):
            a.check(wide, 5, [nodes, slopes + (1 << 15)])
        with pytest.raises(RangeError, match="^slopes must be in"):
            a.check(wide, 5, [nodes, -slopes])
        with pytest.raises(RangeError, match="^the exponential must not increase$"):
            a.check(wide, 5, [nodes, slopes + 2000 * (np.arange(16) == 7)])
        short = replace(a, last=a.last // 2, rate=a.rate // 2)  # the same slope, held at half of the way
        short.check((0, short.last), 5, [nodes, slopes])
        with pytest.raises(RangeError, match=f"^the exponential is held from a difference of {short.last} on"):
            short.check((0, short.last + 1), 5, [nodes, slopes])


def test_the_longest_rows() -> None:
    """The intermediates of a row reach what is stated."""
    for kind, length in ((Sw, 8191), (SwLate, 4095)):
        b = built(kind, length=length)
        measured = compare(b, np.full((1, length), 5), None, (-32768, 32767))
        stated = b.approximation.intermediates((-32768, 32767), length, arrays(b))  # pyright: ignore
        assert measured.extent["sum"] == (stated["sum"][1], stated["sum"][1])
        both = compare(b, np.array([[32767, -32768]]), None, (-32768, 32767))
        for name in ("difference", "t", "d rate"):
            assert both.extent[name][1] == stated[name][1]
