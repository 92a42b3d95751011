"""sm8 and sm8_late: against the oracle, against the real softmax, and what is stated of their intermediates."""

from fractions import Fraction

import numpy as np
import oracle_own as oracle
import pytest
from approximation_examples import Measured, arrays, masks, rows

from qvit.dialects.approximations.base import Built, Codes, RangeError, SoftmaxSpec
from qvit.dialects.approximations.sm8 import Sm8, Sm8Late
from qvit.dialects.semantics.integers import Array, Int64, IntType

I8, UI8, UI16, I32 = IntType(8), IntType(8, False), IntType(16, False), IntType(32)
S = Fraction(1, 20)
CODES = (-128, 127)


def built(
    kind: type[Sm8] | type[Sm8Late], scale: Fraction = S, length: int = 197, output: Codes | None = None
) -> Built:
    return kind.build(SoftmaxSpec(Codes(scale, 0, I8), length, output))


def compare(x: Int64, mask: Array | None, scale: Fraction) -> None:
    """Both, with the intermediates of every row inside the stated intervals."""
    length = x.shape[-1]
    keep = np.ones_like(x) if mask is None else mask
    for kind in (Sm8, Sm8Late):
        b = built(kind, scale, length)
        tables = arrays(b)
        found = b.approximation.apply(x, tables, mask, b.results)
        measured = Measured()
        for i, row in enumerate(x.tolist()):
            table, kept = tables[0].tolist(), [bool(k) for k in keep[i]]
            if kind is Sm8:
                y, seen = oracle.sm8(row, kept, table, 255)
            else:
                y, total, seen = oracle.sm8_late(row, kept, table)
                assert found[1][i].tolist() == [total]
            assert found[0][i].tolist() == y
            measured.add(seen)
        b.approximation.check(CODES, length, tables)
        measured.check(b.approximation.intermediates(CODES, length, tables), "e")
        assert [f.dtype for f in found] == [t.dtype for t in b.results]


@pytest.mark.parametrize("scale", [Fraction(1, 20), Fraction(1, 3), Fraction(1, 2000), Fraction(7, 2)])
@pytest.mark.parametrize("length", [1, 2, 49, 197])
def test_against_the_oracle(scale: Fraction, length: int) -> None:
    rng = np.random.default_rng(length)
    x = rows(rng, CODES, length, 5)
    compare(x, None, scale)
    compare(x, masks(rng, x), scale)


@pytest.mark.slow
@pytest.mark.parametrize("length", [17, 256, 1024])
def test_against_the_oracle_at_length(length: int) -> None:
    rng = np.random.default_rng(length)
    for scale in (Fraction(1, 20), Fraction(1, 200)):
        compare(rows(rng, CODES, length, 60000 // length), None, scale)


def test_scores_of_16_bits() -> None:
    """What is 255 or more below the maximum counts as 255 below."""
    x = rows(np.random.default_rng(2), (-32768, 32767), 50, 10)
    for kind in (Sm8, Sm8Late):
        b = kind.build(SoftmaxSpec(Codes(S, 0, IntType(16)), 50))
        near = np.maximum(x, x.max(-1, keepdims=True) - 255)
        found, same = (b.approximation.apply(v, arrays(b), None, b.results) for v in (x, near))
        assert [f.tolist() for f in found] == [s.tolist() for s in same]
        compare(near - near.max(-1, keepdims=True) + 127, None, S)


@pytest.mark.parametrize("scale", [S, Fraction(1, 3000), Fraction(9, 2)])
def test_the_table_is_the_rounded_exponential(scale: Fraction) -> None:
    assert built(Sm8, scale).tables[0][0].tolist() == oracle.exponential_table(scale)


def test_an_example_by_hand() -> None:
    b = built(Sm8, length=5)
    table = b.tables[0][0]
    assert table[:6].tolist() == [65535, 62339, 59299, 56406, 53656, 51039]
    assert (table[20], table[40]) == (24109, 8869)
    x = np.array([[10, -6, 30, 30, -128]])
    assert b.approximation.apply(x, arrays(b), None, b.results)[0].tolist() == [[37, 17, 101, 101, 0]]
    late = built(Sm8Late, length=5)
    weights, total = late.approximation.apply(x, arrays(late), None, late.results)
    assert weights.tolist() == [[94, 42, 255, 255, 0]]
    assert total.tolist() == [[94 + 42 + 255 + 255]]


def test_edges() -> None:
    b, late = built(Sm8, Fraction(1)), built(Sm8Late, Fraction(1))

    def y(row: list[int], mask: list[int] | None = None) -> list[list[int]]:
        x, m = np.array([row]), None if mask is None else np.array([mask], np.uint8)
        first = b.approximation.apply(x, arrays(b), m, b.results)[0]
        second, total = late.approximation.apply(x, arrays(late), m, late.results)
        return [first[0].tolist(), second[0].tolist(), total[0].tolist()]

    assert y([-128]) == [[255], [255], [255]]
    assert y([127, -128, -128]) == [[255, 0, 0], [255, 0, 0], [255]]
    assert y([5] * 5) == [[51] * 5, [255] * 5, [5 * 255]]
    assert y([5] * 511)[0] == [0] * 511  # below half a unit: what late is for
    assert y([5] * 510)[0] == [1] * 510
    # the maximum is that of the entries that take part
    assert y([127, 5, 5, 127], [0, 1, 1, 0]) == [[0, 127, 127, 0], [0, 255, 255, 0], [2 * 255]]
    assert y([127, 5], [0, 0]) == [[0, 0], [0, 0], [255]]


@pytest.mark.parametrize("length", [64, 197, 255])
def test_error_against_the_real_softmax(length: int) -> None:
    """The bound of the documentation, on rows that come near it: flat tails under one maximum, at every distance."""
    d = np.arange(256)
    x = np.repeat(-128 + 0 * d[:, None], length, 1)
    x[:, 0] = -128 + d
    x = np.concatenate([x, rows(np.random.default_rng(3), CODES, length, 100)])
    b = built(Sm8, length=length)
    y = b.approximation.apply(x, arrays(b), None, b.results)[0]
    e = np.exp(float(S) * (x - x.max(-1, keepdims=True)))
    error = np.abs(y - 255 * e / e.sum(-1, keepdims=True)).max()
    assert 0.5 < error < 0.5 + 255 * (length - 1) / 131070 + 0.004 <= 1
    late = built(Sm8Late, length=length)
    weights, total = late.approximation.apply(x, arrays(late), None, late.results)
    p = weights * float(late.scale) / total
    # a weight is off by 0.502 / 255 of the largest, and so is each term of the sum, which is at least 1
    assert np.abs(p - e / e.sum(-1, keepdims=True)).max() < 0.502 * (length + 1) / 255


@pytest.mark.parametrize("length", [64, 197, 1024])
def test_error_of_late_division_on_ordinary_rows(length: int) -> None:
    """Of Gaussian rows nothing is lost but the rounding of weights, half a unit of the largest, and that of their sum."""
    x = np.random.default_rng(6).normal(0, 1 / float(S), (200, length)).round().clip(*CODES).astype(np.int64)
    late = built(Sm8Late, length=length)
    weights, total = late.approximation.apply(x, arrays(late), None, late.results)
    e = np.exp(float(S) * (x - x.max(-1, keepdims=True)))
    real = e / e.sum(-1, keepdims=True)
    error = np.abs(weights * float(late.scale) / total - real)
    assert (error < 1.5 / 255 * real.max(-1, keepdims=True)).all()


def test_it_never_orders_two_entries_the_wrong_way() -> None:
    x = np.sort(rows(np.random.default_rng(4), CODES, 100, 50))
    for kind in (Sm8, Sm8Late):
        b = built(kind, length=100)
        assert (np.diff(b.approximation.apply(x, arrays(b), None, b.results)[0].astype(int)) >= 0).all()


def test_the_order_of_the_scores_does_not_matter() -> None:
    rng = np.random.default_rng(5)
    x = rows(rng, CODES, 100, 5)
    order = rng.permutation(100)
    for kind in (Sm8, Sm8Late):
        b = built(kind, length=100)
        found, shuffled = (b.approximation.apply(r, arrays(b), None, b.results)[0] for r in (x, x[:, order]))
        assert (found[:, order] == shuffled).all()


@pytest.mark.parametrize(
    ("wanted", "top", "result"),
    [
        (None, 255, UI8),
        (UI8, 255, UI8),
        (I8, 127, I8),
        (IntType(4, False), 15, IntType(4, False)),
        (UI16, 255, UI8),
    ],
)
def test_codes_of_the_result(wanted: IntType | None, top: int, result: IntType) -> None:
    output = None if wanted is None else Codes(Fraction(1, 3), 0, wanted)
    b = built(Sm8, output=output)
    assert (b.approximation, b.results) == (Sm8(top), (result,))
    assert b.scale == 1 / top
    assert built(Sm8Late, output=output).results == (UI8, I32)
    x = rows(np.random.default_rng(6), CODES, 197, 2)
    y = b.approximation.apply(x, arrays(b), None, b.results)[0]
    assert y.max() == top
    assert y.tolist() == [oracle.sm8(r, [True] * 197, b.tables[0][0].tolist(), top)[0] for r in x.tolist()]


def test_what_build_refuses() -> None:
    with pytest.raises(RangeError, match="^scores of at most 16 bits are expected, found i17: .* use sw$"):
        Sm8.build(SoftmaxSpec(Codes(S, 0, IntType(17)), 5))
    with pytest.raises(RangeError, match="^the scale of scores must be positive, found -0.05$"):
        Sm8Late.build(SoftmaxSpec(Codes(-S, 0, I8), 5))
    with pytest.raises(RangeError, match="^unknown options top; known are none$"):
        Sm8.build(SoftmaxSpec(Codes(S, 0, I8), 5), top=3)


def test_conditions() -> None:
    table = built(Sm8).tables[0][0]
    for kind, longest in ((Sm8(255), 65537), (Sm8Late(), (2**31 - 1) // 255)):
        kind.check(CODES, longest, [table])
        with pytest.raises(RangeError, match=f"^the sum over {longest + 1} entries reaches .* use sw$"):
            kind.check(CODES, longest + 1, [table])
        with pytest.raises(RangeError, match="^the table has 255 entries"):
            kind.check(CODES, 5, [table[:255]])
        # wider scores: what is beyond 255 must not add up
        far = np.where(np.arange(256) < 200, table, 3)
        kind.check((0, 256), 65535 // 300, [far])
        kind.check((0, 255), 65535 // 300 + 1, [far])
        with pytest.raises(
            RangeError, match="^scores differ by up to 256, and 219 of them beyond 255 would count as 3"
        ):
            kind.check((0, 256), 65535 // 300 + 1, [far])
        flat = np.full(256, 65534)
        kind.check(CODES, 5, [flat])
        with pytest.raises(RangeError, match="^the table starts with 65533"):
            kind.check(CODES, 5, [flat - 1])
        with pytest.raises(RangeError, match="^the table must not increase$"):
            kind.check(CODES, 5, [flat + (np.arange(256) == 9)])
        with pytest.raises(RangeError, match="^the table must not be negative$"):
            kind.check(CODES, 5, [np.where(np.arange(256) < 255, flat, -1)])
    with pytest.raises(ValueError, match=r"^sm8: top, .*, must be in 1\.\.255, found 0$"):
        Sm8(0)


def test_the_longest_rows() -> None:
    """All sums at their highest."""
    b = built(Sm8, length=65536)
    measured = Measured()
    _, seen = oracle.sm8([3] * 65536, [True] * 65536, b.tables[0][0].tolist(), 255)
    measured.add(seen)
    measured.check(b.approximation.intermediates(CODES, 65536, arrays(b)), "sum", "dividend")
    two = Measured()
    two.add(oracle.sm8([3, 3], [True] * 2, [65534] * 256, 255)[1])  # the smallest sum of its bits
    assert two.extent["reciprocal"][1] > 0.5 * (255 << 8)
