"""`ptf_layernorm` and `ptf_layernorm_published` against the oracle, the published programs and exact normalisation."""

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import product
from typing import Any

import golden
import numpy as np
import oracle_fq_vit as oracle
import pytest
from approximation_examples import Measured, arrays, rows

from qvit.dialects.approximations.base import Built, Codes, LayerNormSpec, RangeError
from qvit.dialects.approximations.ptf import PtfLayerNorm, PtfLayerNormPublished, mantissa_and_shift, round_with_root
from qvit.dialects.semantics.integers import IntType

I8, UI8, I16 = IntType(8), IntType(8, False), IntType(16)
Array = np.ndarray[Any, Any]


def make_spec(
    seed: int,
    channels: int,
    input: IntType = I8,
    output: IntType = I8,
    zero_points: tuple[int, int] = (0, 0),
    epsilon: float = 1e-6,
) -> LayerNormSpec:
    """gamma of both signs and many sizes, 0 among them; factors 0..3."""
    rng = np.random.default_rng(seed)
    gamma = rng.normal(1, 0.5, channels) * 2.0 ** rng.uniform(-4, 1, channels)
    gamma[:: max(channels // 3, 1)] = 0
    beta = rng.normal(0, 0.5, channels)
    beta[1::5] = 0
    scale = Fraction(float(np.float32(8 / (1 << output.bits))))
    return LayerNormSpec(
        gamma.astype(np.float32).astype(float),
        beta.astype(np.float32).astype(float),
        epsilon,
        Codes(Fraction(0.013), zero_points[0], input),
        Codes(scale, zero_points[1], output),
        rng.integers(0, 4, channels),
    )


def ratios(spec: LayerNormSpec, values: Array) -> list[Fraction]:
    """In units of the output, exactly."""
    return [Fraction(v) / spec.output.scale for v in values.tolist()]


def apply(built: Built, x: Array) -> Array:
    approximation, (result,) = built.approximation, built.results
    assert isinstance(approximation, PtfLayerNorm | PtfLayerNormPublished)
    y = approximation.apply(x, arrays(built), result)
    assert y.dtype == result.dtype
    assert y.shape == x.shape
    return y


def expected(spec: LayerNormSpec, built: Built, row: Sequence[int]) -> tuple[list[int], oracle.Seen]:
    approximation, target = built.approximation, (spec.output.type.lo, spec.output.type.hi)
    assert spec.factors is not None
    factors = spec.factors.tolist()
    if isinstance(approximation, PtfLayerNormPublished):
        zero_points = spec.input.zero_point, spec.output.zero_point
        gains, offsets = ratios(spec, spec.gamma), ratios(spec, spec.beta)
        return oracle.ptf_layernorm_published(row, factors, gains, offsets, zero_points, target)
    assert isinstance(approximation, PtfLayerNorm)
    _, *numbers = (table.tolist() for table in arrays(built))
    guard, epsilon = approximation.guard, approximation.epsilon
    return oracle.ptf_layernorm(row, factors, *numbers, guard, epsilon, spec.input.zero_point, target)


def against_the_oracle(spec: LayerNormSpec, built: Built, x: Array) -> Measured:
    measured = Measured()
    for row, found in zip(x.tolist(), apply(built, x).tolist(), strict=True):
        y, seen = expected(spec, built, row)
        assert found == y
        measured.add(seen)
    return measured


FORMS = [(I8, I8, (0, 0)), (UI8, UI8, (131, 117)), (I16, I8, (0, 3)), (I16, I16, (-500, 0))]
KINDS = [PtfLayerNormPublished, PtfLayerNorm]


def check_oracle(kind: type[PtfLayerNorm | PtfLayerNormPublished], form: int, channels: int, count: int) -> None:
    input, output, zero_points = FORMS[form]
    spec = make_spec(form, channels, input, output, zero_points)
    built = kind.build(spec)
    codes = input.lo, input.hi
    measured = against_the_oracle(spec, built, rows(np.random.default_rng(channels), codes, channels, count))
    approximation = built.approximation
    assert isinstance(approximation, PtfLayerNorm | PtfLayerNormPublished)
    measured.check(approximation.intermediates(codes, channels, arrays(built), output))


@pytest.mark.parametrize("form", range(len(FORMS)))
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_oracle(kind: type[PtfLayerNorm | PtfLayerNormPublished], form: int) -> None:
    for channels, count in ((1, 2), (2, 2), (3, 4), (96, 6)):
        check_oracle(kind, form, channels, count)


@pytest.mark.slow
@pytest.mark.parametrize("form", range(len(FORMS)))
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_oracle_at_length(kind: type[PtfLayerNorm | PtfLayerNormPublished], form: int) -> None:
    check_oracle(kind, form, 384, 132)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_intervals_are_reached(kind: type[PtfLayerNorm | PtfLayerNormPublished]) -> None:
    channels = 8
    spec = replace(make_spec(0, channels, epsilon=0.0), factors=np.full(channels, 3))
    built = kind.build(spec)
    approximation = built.approximation
    assert isinstance(approximation, PtfLayerNorm | PtfLayerNormPublished)
    halves = np.resize([-128] * 4 + [127] * 4, (1, channels))
    one = np.r_[127, np.full(channels - 1, -128)][None]
    extremes = np.concatenate([halves, one, np.full((1, channels), -128), -one - 1, np.full((1, channels), 127)])
    measured = against_the_oracle(
        spec, built, np.concatenate([extremes, rows(np.random.default_rng(3), (-128, 127), channels, 80)])
    )
    proven = approximation.intermediates((-128, 127), channels, arrays(built), I8)
    for name in {"aligned", "sum", "deviation"} & set(proven):
        assert measured.extent[name] == proven[name]
    for name in ("variance", "M"):
        assert proven[name][1] * 0.9 <= measured.extent[name][1] <= proven[name][1]
    if kind is PtfLayerNorm:
        assert proven["scaled"][1] * 0.9 <= max(map(abs, measured.extent["scaled"])) <= proven["scaled"][1]


@pytest.mark.parametrize("name", ["fqvit_layernorm", "p2vit_layernorm"])
def test_golden(name: str) -> None:
    for case in golden.cases(name):
        x, factors = case["x"], case["a"]
        smoothing = 2.0 ** case["out_factor"]  # in the output's scale there, in gamma and beta here: exact both
        gamma, beta = case["gamma"].astype(float) / smoothing, case["beta"].astype(float) / smoothing
        output = Codes(case.scale("S_out"), 0, I16)
        built = PtfLayerNormPublished.build(
            LayerNormSpec(gamma, beta, 0.0, Codes(case.scale("s1"), 0, I8), output, factors)
        )
        approximation = built.approximation
        assert isinstance(approximation, PtfLayerNormPublished)
        aligned = x << factors
        total = aligned.sum(-1)
        variance = x.shape[-1] * (aligned * aligned).sum(-1) - total * total
        for i, row in enumerate(zip(total.tolist(), variance.tolist(), strict=True)):
            mantissa, shift, offset = np.array(approximation.constants(*row, arrays(built))).T
            np.testing.assert_array_equal(mantissa, case["M"][i])
            np.testing.assert_array_equal(shift, case["N"][i])
            np.testing.assert_array_equal(offset, case["B"][i])
        y = apply(built, x)
        case.check(y)


def test_golden_mantissas() -> None:
    cases = [case for case in golden.cases("fqvit_rounding") if "get_MN" in case.params["routine"]]
    assert len(cases) == 2
    for case in cases:
        squares = [Fraction(float(a)) ** 2 for a in case["A"]]
        found = [mantissa_and_shift(a.numerator, a.denominator) for a in squares]
        assert found == list(zip(case["M_exact"].tolist(), case["N_exact"].tolist(), strict=True))
        assert found == [oracle.mantissa_and_shift(a) for a in squares]


def test_mantissas_at_their_edges() -> None:
    for power in range(-34, 12):
        for square in (Fraction(4) ** power, Fraction(4) ** power - Fraction(1, 1 << 80), Fraction(4) ** power * 9 / 8):
            found = mantissa_and_shift(square.numerator, square.denominator)
            assert found == oracle.mantissa_and_shift(square)
    assert mantissa_and_shift(0, 7) == (0, 31)
    assert mantissa_and_shift(1 << 16, 1) == (255, 0)  # A = 256 does not fit


def test_rounding_of_roots() -> None:
    # ties, both ways, of even and odd neighbours; and what lies next to them
    for numerator in range(-9, 10):
        for denominator, square in product((1, 2, 3), (Fraction(0), Fraction(9, 4), Fraction(25, 4), Fraction(2))):
            for off in (Fraction(0), Fraction(1, 1 << 100)):
                for sign in (-1, 1):
                    found = round_with_root(numerator, denominator, sign, (square + off).as_integer_ratio())
                    assert found == oracle.rounded_half_even(Fraction(numerator, denominator), sign, square + off)
    assert [round_with_root(n, 1, 1, (1, 4)) for n in range(4)] == [0, 2, 2, 4]
    assert [round_with_root(n, 1, -1, (1, 4)) for n in range(4)] == [0, 0, 2, 2]


def normalised(spec: LayerNormSpec, x: Array) -> Array:
    """In float64, in units of the output."""
    assert spec.factors is not None
    aligned = ((x - spec.input.zero_point) << spec.factors) * float(spec.input.scale)
    deviation = aligned - aligned.mean(-1, keepdims=True)
    y = deviation / np.sqrt(np.square(deviation).mean(-1, keepdims=True) + spec.epsilon)
    return (y * spec.gamma + spec.beta) / float(spec.output.scale) + spec.output.zero_point


def saturated(y: Array, codes: IntType) -> Array:
    return np.clip(np.floor(y + 0.5), codes.lo, codes.hi).astype(np.int64)


@pytest.mark.parametrize(("form", "equal"), [(0, 0.999), (1, 0.999), (2, 0.999), (3, 0.997)])
def test_exact_normalisation(form: int, equal: float) -> None:
    input, output, zero_points = FORMS[form]
    spec = make_spec(form, 384, input, output, zero_points)
    x = rows(np.random.default_rng(form), (input.lo, input.hi), 384, 40)
    y, real = apply(PtfLayerNorm.build(spec), x).astype(np.int64), normalised(spec, x)
    assert np.abs(y - saturated(real, output)).max() <= 1
    assert (y == saturated(real, output)).mean() > equal
    # the published mantissa, of 8 bits and rounded down, is off by more
    published = PtfLayerNormPublished.build(spec)
    coarse = apply(published, x).astype(np.int64)
    ordinary = np.abs(x - x.mean(-1, keepdims=True)).mean(-1) > 4
    assert np.abs(coarse - saturated(real, output))[ordinary].max() >= 1
    assert (coarse == saturated(real, output)).mean() < (y == saturated(real, output)).mean()


def test_stated_error() -> None:
    for bits in (8, 12, 16, 24):
        spec = make_spec(5, 192, I16, I16, epsilon=0.0)
        built = PtfLayerNorm.build(spec, bits=bits)
        approximation = built.approximation
        assert isinstance(approximation, PtfLayerNorm)
        assert approximation.bits == bits
        x = rows(np.random.default_rng(bits), (I16.lo, I16.hi), 192, 20)
        x = x[x.min(-1) < x.max(-1)]
        y, real = apply(built, x), normalised(spec, x)
        bound = (
            np.abs(real - spec.beta / float(spec.output.scale)) * (3 / 2.0**bits + 2e-8)
            + 2.0**-approximation.guard
            + 0.5
        )
        inside = (real > I16.lo) & (real < I16.hi)
        assert (np.abs(y - real) <= bound)[inside].all()


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_constant_rows_give_beta(kind: type[PtfLayerNorm | PtfLayerNormPublished]) -> None:
    spec = replace(make_spec(2, 96, UI8, I8, (100, 5)), factors=None)
    y = apply(kind.build(spec), np.full((2, 96), 77))
    beta = np.rint(spec.beta / float(spec.output.scale)).astype(np.int64) + 5
    np.testing.assert_array_equal(y, np.broadcast_to(beta, (2, 96)))


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_channels_without_gamma_give_beta(kind: type[PtfLayerNorm | PtfLayerNormPublished]) -> None:
    spec = make_spec(2, 96)
    y = apply(kind.build(spec), rows(np.random.default_rng(2), (-128, 127), 96, 4))
    beta = np.rint(spec.beta / float(spec.output.scale)).astype(np.int64)
    without = spec.gamma == 0
    assert without.sum() == 3
    np.testing.assert_array_equal(y[:, without], np.broadcast_to(beta[without], (22, 3)))


def test_factors_are_shifts() -> None:
    # channels of scale S 2^a: the same numbers as codes of scale S
    spec = make_spec(4, 96, I16, I16)
    assert spec.factors is not None
    x = rows(np.random.default_rng(4), (-128, 127), 96, 10)
    for kind in KINDS:
        common = kind.build(replace(spec, factors=None))
        np.testing.assert_array_equal(apply(kind.build(spec), x), apply(common, x << spec.factors))


def one(gain: float, channels: int = 4, output: IntType = I8, factor: int = 0) -> LayerNormSpec:
    """gamma / S_out = gain in every channel."""
    gamma = np.full(channels, gain / 16)
    factors = np.full(channels, factor)
    return LayerNormSpec(
        gamma, np.zeros(channels), 0.0, Codes(Fraction(1, 8), 0, I16), Codes(Fraction(1, 16), 0, output), factors
    )


@pytest.mark.parametrize(
    ("built", "codes", "message"),
    [
        # C gain / sqrt(C - 1) = 256 at gain = 64 sqrt(3)
        (PtfLayerNormPublished.build(one(110.8)), (-128, 127), None),
        (
            PtfLayerNormPublished.build(one(110.9)),
            (-128, 127),
            "saturates at 255 on rows whose codes have a standard deviation below 0.433, gamma / output scale being up"
            " to 110.9",
        ),
        (PtfLayerNormPublished.build(one(221, factor=1)), (-128, 127), None),
        # 4 sum X^2 < 2^62
        (PtfLayerNormPublished.build(one(1)), (0, (1 << 29) - 1), None),
        (PtfLayerNormPublished.build(one(1)), (0, 1 << 29), "C squares reaches 4611686018427387904, beyond 62 bits"),
        (PtfLayerNorm.build(one(1)), (0, (1 << 28) - 1), None),
        (PtfLayerNorm.build(one(1)), (0, 1 << 29), "C squares reaches 4611686018427387904, beyond 62 bits"),
        (PtfLayerNorm.build(one(1, output=I16)), (0, 1 << 26), None),
        (PtfLayerNorm.build(one(1, output=I16)), (0, 1 << 37), "beyond 62 bits: use narrower codes"),
    ],
)
def test_conditions(built: Built, codes: tuple[int, int], message: str | None) -> None:
    approximation = built.approximation
    assert isinstance(approximation, PtfLayerNorm | PtfLayerNormPublished)
    if message is None:
        approximation.check(codes, 4, arrays(built))
        return
    with pytest.raises(RangeError, match=re.escape(message)):
        approximation.check(codes, 4, arrays(built))


def test_offsets_beyond_a_word_are_refused() -> None:
    built = PtfLayerNorm.build(one(1))
    assert isinstance(built.approximation, PtfLayerNorm)
    factor, gain, power, _ = arrays(built)
    most = (1 << 31) - 1 - (1 << 19) - built.approximation.intermediates((-128, 127), 4, arrays(built), I8)["scaled"][1]
    built.approximation.check((-128, 127), 4, [factor, gain, power, np.full(4, most)])
    with pytest.raises(RangeError, match="rounded reaches 2147483648, beyond 32 bits"):
        built.approximation.check((-128, 127), 4, [factor, gain, power, np.full(4, most + 1)])


@pytest.mark.parametrize("form", range(len(FORMS)))
@pytest.mark.parametrize("channels", [1, 2, 96, 768, 4096])
def test_what_is_built_is_sound(form: int, channels: int) -> None:
    input, output, zero_points = FORMS[form]
    built = PtfLayerNorm.build(make_spec(1, channels, input, output, zero_points))
    assert isinstance(built.approximation, PtfLayerNorm)
    built.approximation.check((input.lo, input.hi), channels, arrays(built))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"gamma": np.array([1.0, np.nan])}, {}, "gamma and beta must be finite"),
        ({"beta": np.array([1.0, np.inf])}, {}, "gamma and beta must be finite"),
        ({"factors": np.array([1])}, {}, "expected 2 factors, one a channel, found 1"),
        ({"factors": np.array([1, 8])}, {}, "factors must be in 0..7, found 1..8"),
        ({"factors": np.array([1, -1])}, {}, "factors must be in 0..7, found -1..1"),
        ({}, {"guard": 3}, "unknown options guard"),
    ],
)
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_refused(
    kind: type[PtfLayerNorm | PtfLayerNormPublished], change: dict[str, Any], options: dict[str, int], message: str
) -> None:
    with pytest.raises(RangeError, match=re.escape(message)):
        kind.build(replace(one(1, 2), **change), **options)


def test_sizes_refused() -> None:
    with pytest.raises(RangeError, match=re.escape("gamma / output scale reaches 3.5e+08, too much for 32 bits")):
        PtfLayerNorm.build(one(3.5e8))
    with pytest.raises(RangeError, match="epsilon 1e\\+20 is beyond the codes' variance"):
        PtfLayerNorm.build(replace(one(1), epsilon=1e20))


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (PtfLayerNorm, (7, 16, 0, 0)),
        (PtfLayerNorm, (25, 16, 0, 0)),
        (PtfLayerNorm, (16, 0, 0, 0)),
        (PtfLayerNorm, (16, 21, 0, 0)),
        (PtfLayerNorm, (16, 16, -1, 0)),
        (PtfLayerNorm, (16, 16, 1 << 62, 0)),
        (PtfLayerNormPublished, (0, 0, 0)),
        (PtfLayerNormPublished, (1 << 53, 0, 0)),
        (PtfLayerNormPublished, (1, 1 << 31, 0)),
        (PtfLayerNormPublished, (1, 0, -(1 << 31) - 1)),
        (PtfLayerNorm, (16, 16, 0, 1 << 31)),
    ],
)
def test_parameters_out_of_range(kind: type, parameters: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=kind.name):
        kind(*parameters)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_tables_with_impossible_factors(kind: type[PtfLayerNorm | PtfLayerNormPublished]) -> None:
    built = kind.build(one(1))
    _, *others = arrays(built)
    assert isinstance(built.approximation, PtfLayerNorm | PtfLayerNormPublished)
    with pytest.raises(ValueError, match=r"factors must be in 0..7, found 0..8"):
        built.approximation.apply(np.zeros((1, 4), np.int64), [np.array([0, 1, 8, 2]), *others], I8)
