"""ln: against the oracle, against the real layer normalisation, and what is stated of its intermediates."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import oracle_own as oracle
import pytest
from approximation_examples import Measured, arrays, rows

from qvit.dialects.approximations.base import Built, Codes, LayerNormSpec, RangeError
from qvit.dialects.approximations.ln import Ln, reciprocal_sqrt
from qvit.dialects.semantics.integers import Array, Int64, IntType

I8, UI8, I16, I32 = IntType(8), IntType(8, False), IntType(16), IntType(32)
CODES = (-32768, 32767)


def built(
    gamma: Array,
    beta: Array,
    output: Codes,
    scale: Fraction = Fraction(1, 100),
    epsilon: float = 1e-6,
    input: IntType = I16,
) -> Built:
    return Ln.build(LayerNormSpec(gamma, beta, epsilon, Codes(scale, 0, input), output))


def vectors(rng: np.random.Generator, channels: int) -> tuple[Array, Array]:
    """gamma, beta: of either sign, some gamma 0."""
    gamma = rng.normal(1, 0.6, channels) * (rng.random(channels) > 0.1)
    return gamma, rng.normal(0, 0.7, channels)


def more_rows(rng: np.random.Generator, channels: int) -> Int64:
    """Small and large spreads, a common offset, an outlier channel."""
    bells = [rng.normal(at, sigma, (2, channels)) for sigma in (0.3, 1, 3, 300, 3000) for at in (0, 20000)]
    outlier = rng.normal(0, 100, (2, channels))
    outlier[:, 0] = 30000
    return np.concatenate([*bells, outlier]).round().clip(*CODES).astype(np.int64)


def compare(b: Built, x: Int64) -> Measured:
    channels, tables, result = x.shape[-1], arrays(b), b.results[0]
    a = b.approximation
    assert isinstance(a, Ln)
    y = a.apply(x, tables, result)
    assert y.dtype == result.dtype
    measured = Measured()
    for i, row in enumerate(x.tolist()):
        target = (result.lo, result.hi)
        expected, seen = oracle.ln(row, tables[0].tolist(), tables[1].tolist(), a.guard, a.epsilon, target)
        assert y[i].tolist() == expected
        measured.add(seen)
    codes = (min(CODES[0], int(x.min())), max(CODES[1], int(x.max())))
    a.check(codes, channels, tables)
    measured.check(a.intermediates(codes, channels, tables, result))
    return measured


OUTPUTS = [
    Codes(Fraction(1, 40), 0, I8),
    Codes(Fraction(1, 50), 128, UI8),
    Codes(Fraction(1, 5000), 0, I16),
    Codes(Fraction(1, 9000), -3000, I16),
]


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda c: f"{c.type}-{c.zero_point}")
@pytest.mark.parametrize("channels", [1, 2, 7, 192, 384])
def test_against_the_oracle(channels: int, output: Codes) -> None:
    rng = np.random.default_rng(channels)
    b = built(*vectors(rng, channels), output)
    compare(b, np.concatenate([rows(rng, CODES, channels, 2), more_rows(rng, channels)]))


@pytest.mark.slow
@pytest.mark.parametrize("output", OUTPUTS, ids=lambda c: f"{c.type}-{c.zero_point}")
@pytest.mark.parametrize("channels", [96, 768, 4096])
def test_against_the_oracle_at_length(channels: int, output: Codes) -> None:
    rng = np.random.default_rng(channels)
    for epsilon in (0.0, 1e-5):
        b = built(*vectors(rng, channels), output, epsilon=epsilon)
        x = rows(rng, CODES, channels, max(2, 8000 // channels))
        compare(b, np.concatenate([x, *(more_rows(rng, channels) for _ in range(60000 // channels // 22 + 1))]))


def test_wide_rows() -> None:
    """int32 codes, as far as 2^30 / C."""
    rng = np.random.default_rng(8)
    for channels in (3, 768):
        most = ((1 << 30) - 1) // channels
        b = built(*vectors(rng, channels), OUTPUTS[2], input=I32)
        compare(b, rows(rng, (-most, most), channels, 3))
        with pytest.raises(OverflowError, match=f"^rows of {channels} with .* must be below 2\\^30$"):
            b.approximation.apply(np.full((1, channels), most + 1), arrays(b), I16)  # pyright: ignore


def test_an_example_by_hand() -> None:
    gamma, beta = np.array([1, -0.5, 0, 2]), np.array([0, 0.25, -1, 0.1])
    b = built(gamma, beta, Codes(Fraction(1, 50), 0, I8))
    assert b.approximation == Ln(guard=15, epsilon=0)
    assert [t.tolist() for t, _ in b.tables] == [
        [419430400, -209715200, 0, 838860800],
        [0, 409600, -1638400, 163840],
    ]
    x = np.array([[100, -50, 7, 300]])
    _, seen = oracle.ln(x[0].tolist(), *(t.tolist() for t, _ in b.tables), 15, 0, (-128, 127))
    assert (seen["variance"], seen["w"]) == ([282747], [1158131712])
    assert seen["u"] == [1356717, -17574222, -10380465, 26597968]
    assert b.approximation.apply(x, arrays(b), I8).tolist() == [[4, 39, -50, 127]]  # pyright: ignore


def test_reciprocal_sqrt_by_hand() -> None:
    w = np.array([1 << 30, 3 << 29, 2863311530, 1158131712, (1 << 32) - 1])
    assert reciprocal_sqrt(w).tolist() == [1073741811, 876706526, 657529896, 1033881652, 536870912]


def check_reciprocal_sqrt(w: Int64) -> None:
    y = reciprocal_sqrt(w)
    assert (y >= 1 << 29).all()
    assert (y < 1 << 30).all()
    error = y.astype(np.longdouble) * np.sqrt(w.astype(np.longdouble)) / np.longdouble(2) ** 45 - 1
    assert error.min() >= -1.3e-8
    assert error.max() <= 2e-9


def test_reciprocal_sqrt() -> None:
    """A stride through all numbers, the ends of the pieces, and equality with the oracle."""
    pieces = ((np.arange(97) + 32) << 25)[:, None] + np.arange(-3, 4)
    ends = pieces[(pieces >= 1 << 30) & (pieces < 1 << 32)]
    for w in (np.arange(1 << 30, 1 << 32, 6011), ends):
        check_reciprocal_sqrt(w)
    some = np.concatenate([ends, np.arange(1 << 30, 1 << 32, 299999)])
    assert reciprocal_sqrt(some).tolist() == [oracle.reciprocal_sqrt(w) for w in some.tolist()]


@pytest.mark.slow
def test_reciprocal_sqrt_more_densely() -> None:
    for start in range(1 << 30, 1 << 32, 1 << 28):
        check_reciprocal_sqrt(np.arange(start, start + (1 << 28), 61))


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda c: f"{c.type}-{c.zero_point}")
def test_error_against_the_real_layer_norm(output: Codes) -> None:
    """Never more than one unit from the rounded real result, and different from it only next to a tie."""
    rng, scale, epsilon = np.random.default_rng(9), Fraction(1, 100), 1e-6
    for channels in (5, 192):
        gamma, beta = vectors(rng, channels)
        b = built(gamma, beta, output, scale, epsilon)
        a = b.approximation
        assert isinstance(a, Ln)
        x = more_rows(rng, channels)
        x = x[np.ptp(x, axis=-1) > 0]
        y = a.apply(x, arrays(b), output.type)
        exact = [Fraction(g) for g in gamma.tolist()], [Fraction(v) for v in beta.tolist()]
        # epsilon is an integer in units of scale^2 / C^2
        rounded = Fraction(a.epsilon) * scale * scale / channels**2
        different = 0
        for row, found in zip(x.tolist(), y.tolist(), strict=True):
            real = oracle.ln_real(row, *exact, rounded, scale)
            for code, value, g in zip(found, real, gamma, strict=True):
                units = value / output.scale + output.zero_point
                wanted = min(max(oracle.half_up(units), output.type.lo), output.type.hi)
                bound = 1.5 / 2**a.guard + abs(g) / float(output.scale) / 2**24
                bound += abs(float(value / output.scale)) * 1.4e-8 + channels**0.5 / 2 ** (a.guard + 9)
                if code != wanted:
                    different += 1
                    assert abs(code - wanted) == 1
                    assert abs(abs(float(units) - wanted) - 0.5) <= bound
        assert different <= 0.003 * y.size


def test_edges() -> None:
    output = Codes(Fraction(1, 16), 5, I8)
    gamma, beta = np.array([1.0, 0.0, -1.0]), np.array([0.5, -0.25, 100.0])
    for epsilon in (0.0, 1e-5):
        b = built(gamma, beta, output, epsilon=epsilon)

        def y(row: list[int], b: Built = b) -> list[int]:
            return b.approximation.apply(np.array(row), arrays(b), I8).tolist()  # pyright: ignore

        assert y([7, 7, 7]) == [5 + 8, 5 - 4, 127]  # a constant row is beta, and so is gamma = 0
        assert y([1000, 0, -1000])[1] == 5 - 4
        assert y([-32768] * 3) == y([32767] * 3) == y([0] * 3)
        assert y([1, 0, -1]) != y([0, 0, 0])
    # a common offset does not matter
    b = built(gamma, np.zeros(3), output)
    x = np.array([[3, 50, -9]])
    for offset in (1, -20000):
        one, other = (b.approximation.apply(v, arrays(b), I8).tolist() for v in (x, x + offset))  # pyright: ignore
        assert one == other


def test_constants() -> None:
    gamma, beta = np.array([0.5, -2.0]), np.array([1.0, -0.25])
    b = built(gamma, beta, Codes(Fraction(1, 16), 3, I16), Fraction(1, 64), 0.5)
    a = b.approximation
    assert isinstance(a, Ln)
    assert a.epsilon == 4 * 64 * 64 // 2
    gain, offset = (t.tolist() for t, _ in b.tables)
    assert gain == [8 << (a.guard + 8), -32 << (a.guard + 8)]
    assert offset == [19 << a.guard, -1 << a.guard]
    assert (float(b.scale), b.zero_point, b.results) == (1 / 16, 3, (I16,))
    # the largest guard that fits
    assert a.guard == 17
    assert 2.0 ** (17 + 8) * 32 == 2.0**30


def test_what_build_refuses() -> None:
    one, zero, output = np.ones(4), np.zeros(4), Codes(Fraction(1, 40), 0, I8)
    with pytest.raises(RangeError, match="^gamma and beta must be finite$"):
        built(one * np.inf, zero, output)
    with pytest.raises(RangeError, match="^gamma and beta must be finite$"):
        built(one, zero * np.nan, output)
    with pytest.raises(RangeError, match=r"^gamma / output scale reaches 4e\+07, .* use a larger output scale$"):
        built(one * 1e6, zero, output)
    with pytest.raises(RangeError, match=r"beta / output scale 4e\+10, too much for 32 bits"):
        built(one, one * 1e9, output)
    with pytest.raises(RangeError, match="^epsilon 0.001 is beyond the codes' variance: their scale is too small$"):
        built(one, zero, output, Fraction(1, 1 << 40), 1e-3)
    with pytest.raises(RangeError, match="^unknown options guard"):
        Ln.build(LayerNormSpec(one, zero, 0.0, Codes(Fraction(1), 0, I8), output), guard=3)
    for guard in (0, 21):
        with pytest.raises(ValueError, match=rf"^ln: guard must be in 1\.\.20, found {guard}$"):
            Ln(guard, 0)
    for epsilon in (-1, 1 << 62):
        with pytest.raises(ValueError, match=r"^ln: epsilon must be in 0\.\.2\^62 - 1"):
            Ln(5, epsilon)


def test_conditions() -> None:
    b = built(np.ones(256), np.zeros(256), OUTPUTS[0])
    a, (gain, offset) = b.approximation, (t for t, _ in b.tables)
    assert isinstance(a, Ln)
    most = (1 << 30) // 256
    a.check((1 - most, most - 1), 256, [gain, offset])
    for beyond in ((-most, 0), (0, most)):
        with pytest.raises(RangeError, match="^channels times .* reaches 1073741824, 2\\^30 or more"):
            a.check(beyond, 256, [gain, offset])
    # epsilon joins the variance: together below 2^62
    variance = 256 * 256 * 65535**2 // 4
    replace(a, epsilon=(1 << 62) - 1 - variance).check(CODES, 256, [gain, offset])
    with pytest.raises(RangeError, match="^variance reaches 4611686018427387904, beyond 63 bits"):
        replace(a, epsilon=(1 << 62) - variance).check(CODES, 256, [gain, offset])
    # more channels than 2^14: u leaves 32 bits
    with pytest.raises(RangeError, match="^u reaches .*, beyond 32 bits"):
        a.check((-10, 10), 1 << 15, [gain, offset])
    with pytest.raises(RangeError, match="^rounded reaches .*, beyond 32 bits"):
        a.check(CODES, 256, [gain, offset + (1 << 31) - 1])
    with pytest.raises(RangeError, match="^u gain reaches .*, beyond 62 bits"):
        a.check((-10, 10), 16000, [gain * 0 + ((1 << 31) - 1), offset])


def test_intermediates_are_reached() -> None:
    """One channel apart from all others has the largest u, two levels the largest variance."""
    channels = 64
    b = built(np.ones(channels), np.zeros(channels), OUTPUTS[2], epsilon=0.0)
    apart = np.full((1, channels), -32768)
    apart[0, 0] = 32767
    levels = np.where(np.arange(channels) % 2, -32768, 32767)[None]
    measured = compare(
        b, np.concatenate([apart, levels, np.full((1, channels), 32767), np.full((1, channels), -32768)])
    )
    stated = b.approximation.intermediates(CODES, channels, arrays(b), I16)  # pyright: ignore
    for name in ("sum", "squares", "C squares", "variance", "deviation", "u"):
        assert measured.extent[name][1] >= 0.999 * stated[name][1], name
    assert measured.extent["sum"][0] == stated["sum"][0]
