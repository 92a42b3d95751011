"""threshold_softmax and threshold_layernorm: against the oracle, against real numbers, and what is stated of their intermediates."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import oracle_own as oracle
import pytest
from approximation_examples import Measured, arrays, masks, rows

from qvit.dialects.approximations.base import Built, Codes, LayerNormSpec, RangeError, SoftmaxSpec
from qvit.dialects.approximations.comparators import ThresholdLayerNorm, ThresholdSoftmax
from qvit.dialects.semantics.integers import Array, Int64, IntType

I8, UI8, I16 = IntType(8), IntType(8, False), IntType(16)
CODES, WIDE = (-128, 127), (-32768, 32767)


# --- softmax ---


def softmax(scale: Fraction, output: Codes, scores: IntType = I8) -> Built:
    return ThresholdSoftmax.build(SoftmaxSpec(Codes(scale, 0, scores), 17, output))


def probabilities(bits: int, step: Fraction) -> Codes:
    return Codes(step, 0, IntType(bits, False))


def compare_softmax(b: Built, x: Int64, mask: Array | None) -> None:
    a, keep = b.approximation, np.ones_like(x) if mask is None else mask
    assert isinstance(a, ThresholdSoftmax)
    (y,) = a.apply(x, (), mask, b.results)
    assert y.dtype == b.results[0].dtype
    measured = Measured()
    for i, row in enumerate(x.tolist()):
        expected, seen = oracle.threshold_softmax(
            row, [bool(k) for k in keep[i]], a.factor, a.multiplier, a.shift, a.levels
        )
        assert y[i].tolist() == expected
        measured.add({name: values for name, values in seen.items() if values})
    a.check(CODES, x.shape[-1], ())
    measured.check(a.intermediates(CODES, x.shape[-1], ()))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("step", [Fraction(1, 8), Fraction(1, 37), Fraction(3, 700)])
@pytest.mark.parametrize("length", [1, 2, 17, 197])
def test_softmax_against_the_oracle(length: int, step: Fraction, bits: int) -> None:
    rng = np.random.default_rng(length)
    x = rows(rng, CODES, length, 3)
    for scale in (Fraction(1, 20), Fraction(1, 3), Fraction(1, 500)):
        b = softmax(scale, probabilities(bits, step))
        compare_softmax(b, x, None)
        compare_softmax(b, x, masks(rng, x))


def test_softmax_is_the_rounded_share() -> None:
    """What dividing and rounding half up would give, for every exponential and sum of a short row."""
    b = softmax(Fraction(1, 20), probabilities(3, Fraction(1, 8)))
    x = np.random.default_rng(0).integers(-128, 128, (20_000, 3))
    (y,) = b.approximation.apply(x, (), None, b.results)  # pyright: ignore
    a = b.approximation
    assert isinstance(a, ThresholdSoftmax)
    assert (a.multiplier, a.shift) == (8, 0)
    d = x.max(-1, keepdims=True) - x
    octaves, rest = np.divmod(d * a.factor, 1 << 16)
    e = ((1 << 17) - rest) >> (np.minimum(octaves, 16) + 2)
    share = [[min(oracle.half_up(Fraction(int(v) * 8, int(row.sum()))), 7) for v in row] for row in e[:2000]]
    assert y[:2000].tolist() == share


@pytest.mark.parametrize("bits", [3, 8])
def test_softmax_next_to_the_real_one(bits: int) -> None:
    """The exponential is at most 6.2 % above the real one, so a probability is off by less than that, and half a step."""
    step = Fraction(1, 1 << bits)
    b = softmax(Fraction(1, 16), probabilities(bits, step))
    x = np.random.default_rng(1).integers(-128, 128, (5000, 17))
    (y,) = b.approximation.apply(x, (), None, b.results)  # pyright: ignore
    e = np.exp(x / 16 - (x / 16).max(-1, keepdims=True))
    real = e / e.sum(-1, keepdims=True)
    off = np.abs(y * float(step) - np.minimum(real, b.results[0].hi * float(step)))
    assert (off <= float(step) / 2 + 0.063 * real + 1e-4).all()


def test_steps() -> None:
    """A power of two is a shift alone; others are off by at most 2^-12."""
    assert ThresholdSoftmax.step(Fraction(1, 8)) == (8, 0)
    assert ThresholdSoftmax.step(Fraction(1)) == (1, 0)
    for step in (Fraction(1, 37), Fraction(3, 700), Fraction(999, 1000), Fraction(1, 4094)):
        multiplier, shift = ThresholdSoftmax.step(step)
        assert abs(step * multiplier / (1 << shift) - 1) <= Fraction(1, 1 << 12)
        assert multiplier % 2 == 1 or shift == 0


@pytest.mark.parametrize(
    ("scale", "output", "says"),
    [
        (Fraction(1, 20), probabilities(16, Fraction(1, 8)), "16 bits would need 65535 comparators"),
        (Fraction(1, 20), Codes(Fraction(1, 8), 3, UI8), "unsigned codes without a zero point"),
        (Fraction(1, 20), Codes(Fraction(1, 8), 0, I8), "unsigned codes without a zero point"),
        (Fraction(1, 20), probabilities(8, Fraction(3, 2)), "a step of 1.5 for probabilities"),
        (Fraction(1, 20), probabilities(8, Fraction(1, 5000)), "a step of 0.0002 for probabilities"),
        (Fraction(-1), probabilities(8, Fraction(1, 8)), "must be positive"),
        (Fraction(1, 1 << 20), probabilities(8, Fraction(1, 8)), "expected 2^-17 to 2^15"),
    ],
)
def test_softmax_refused(scale: Fraction, output: Codes, says: str) -> None:
    with pytest.raises(RangeError, match=says.replace("^", r"\^")):
        softmax(scale, output)


@pytest.mark.parametrize(
    "change", [{"levels": 6}, {"levels": 511}, {"factor": 0}, {"multiplier": 4096}, {"shift": 12}, {"multiplier": 0}]
)
def test_softmax_fields(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(ThresholdSoftmax(1000, 8, 0, 7), **change)


# --- layer normalisation ---


def layer_norm(gamma: Array, beta: Array, output: Codes, epsilon: float = 1e-6) -> Built:
    return ThresholdLayerNorm.build(LayerNormSpec(gamma, beta, epsilon, Codes(Fraction(1, 100), 0, I16), output))


def vectors(rng: np.random.Generator, channels: int) -> tuple[Array, Array]:
    """gamma, beta: of either sign, some gamma 0."""
    gamma = rng.normal(1, 0.6, channels) * (rng.random(channels) > 0.1)
    return gamma, rng.normal(0, 0.7, channels)


OUTPUTS = [
    Codes(Fraction(1, 2), 0, IntType(2)),
    Codes(Fraction(3, 7), 0, IntType(3)),
    Codes(Fraction(1, 4), 5, IntType(4, False)),
    Codes(Fraction(1, 40), 0, I8),
    Codes(Fraction(1, 50), 128, UI8),
]


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda c: f"{c.type}-{c.zero_point}")
@pytest.mark.parametrize("channels", [1, 2, 7, 96, 1024])
def test_layer_norm_against_the_oracle(channels: int, output: Codes) -> None:
    rng = np.random.default_rng(channels)
    count = 1 if output.type.bits == 8 and channels > 7 else 2
    for epsilon in (0.0, 1e-5):
        b = layer_norm(*vectors(rng, channels), output, epsilon)
        a, tables = b.approximation, arrays(b)
        assert isinstance(a, ThresholdLayerNorm)
        small = rng.normal(5, 1, (count, channels)).round().astype(np.int64)
        x = np.concatenate([rows(rng, WIDE, channels, count), small])
        y = a.apply(x, tables, output.type)
        assert y.dtype == output.type.dtype
        measured = Measured()
        for i, row in enumerate(x.tolist()):
            sign, thresholds = (t.tolist() for t in tables)
            expected, seen = oracle.threshold_layernorm(row, sign, thresholds, a.levels, a.lowest, a.epsilon)
            assert y[i].tolist() == expected
            measured.add(seen)
        a.check(WIDE, channels, tables)
        measured.check(a.intermediates(WIDE, channels, tables, output.type))


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda c: f"{c.type}-{c.zero_point}")
def test_layer_norm_is_the_rounded_real_one(output: Codes) -> None:
    """But where the normalised value is next to where a code begins, as close as is stated."""
    rng, channels = np.random.default_rng(3), 96
    gamma, beta = vectors(rng, channels)
    gamma[gamma == 0] = -0.3
    b = layer_norm(gamma, beta, output, 1e-5)
    x = rng.normal(40, 1200, (4000, channels)).round().astype(np.int64)
    y = b.approximation.apply(x, arrays(b), output.type).astype(np.int64)  # pyright: ignore
    real = x.astype(np.longdouble) / 100
    centred = real - real.mean(-1, keepdims=True)
    u = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + np.longdouble(1e-5))
    step = np.longdouble(output.scale.numerator) / output.scale.denominator
    exact = (u * gamma + beta) / step + output.zero_point
    expected = np.clip(np.floor(exact + 0.5), output.type.lo, output.type.hi).astype(np.int64)
    wrong = np.argwhere(y != expected)
    for i, c in wrong.tolist():
        assert abs(int(y[i, c]) - int(expected[i, c])) == 1
        begins = (max(int(y[i, c]), int(expected[i, c])) - output.zero_point - 0.5) * float(output.scale) - beta[c]
        t = begins / gamma[c]
        # a squared threshold is rounded by half of 2^-20, the deviation by 2^-15
        assert abs(float(u[i, c]) - t) <= 2.0**-15 + min(2.0**-10, 2.0**-21 / max(abs(t), 1e-9)) + 1e-6
    assert len(wrong) <= 0.002 * y.size


def test_gamma_zero_gives_beta() -> None:
    output = Codes(Fraction(1, 4), 0, IntType(4))
    b = layer_norm(np.zeros(3), np.array([0.6, -0.4, 0.125]), output)
    x = np.random.default_rng(0).integers(*WIDE, (50, 3))
    y = b.approximation.apply(x, arrays(b), output.type)  # pyright: ignore
    assert (y == [2, -2, 1]).all()


def test_a_constant_row_gives_beta() -> None:
    output = Codes(Fraction(1, 4), 0, IntType(4))
    b = layer_norm(np.array([1.0, -2.0]), np.array([0.6, -0.4]), output, epsilon=0.0)
    y = b.approximation.apply(np.array([[77, 77]]), arrays(b), output.type)  # pyright: ignore
    assert y.tolist() == [[2, -2]]


@pytest.mark.parametrize(
    ("gamma", "output", "says"),
    [
        (np.ones(1025), OUTPUTS[1], "rows of 1025 channels: at most 1024"),
        (np.ones(4), Codes(Fraction(1, 100), 0, I16), "16 bits would need 65535 comparators"),
        (np.array([1.0, np.inf]), OUTPUTS[1], "gamma and beta must be finite"),
    ],
)
def test_layer_norm_refused(gamma: Array, output: Codes, says: str) -> None:
    with pytest.raises(RangeError, match=says):
        layer_norm(gamma, np.zeros(len(gamma)), output)


def test_layer_norm_conditions() -> None:
    b = layer_norm(np.ones(4), np.zeros(4), OUTPUTS[1])
    a, (sign, thresholds) = b.approximation, arrays(b)
    assert isinstance(a, ThresholdLayerNorm)
    with pytest.raises(RangeError, match="reaches 4294967296, 2"):
        a.check((-(1 << 30), 0), 4, (sign, thresholds))
    with pytest.raises(RangeError, match="signs must be -1 or 1"):
        a.check(CODES, 4, (sign * 2, thresholds))
    with pytest.raises(RangeError, match="must not fall"):
        a.check(CODES, 4, (sign, thresholds[::-1]))
    with pytest.raises(RangeError, match="beyond all normalised values"):
        a.check(CODES, 4, (sign, np.sort(thresholds) + (1 << 24)))
    with pytest.raises(OverflowError, match="products below 2"):
        a.apply(np.full((1, 4), 1 << 28), (sign, thresholds), OUTPUTS[1].type)


@pytest.mark.parametrize("change", [{"levels": 5}, {"lowest": 1}, {"lowest": -129}, {"epsilon": -1}])
def test_layer_norm_fields(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(ThresholdLayerNorm(7, -4, 0), **change)
