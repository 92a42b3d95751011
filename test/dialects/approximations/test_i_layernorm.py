"""i_layernorm, ibert_layernorm and the published ones: oracle, published code, real layer normalisation, intermediates."""

from fractions import Fraction
from math import isqrt

import golden
import numpy as np
import oracle_ibert
import oracle_ivit
import pytest
from approximation_examples import Measured, arrays, rows

from qvit.dialects.approximations.base import Built, Codes, LayerNormApproximation, LayerNormSpec, RangeError
from qvit.dialects.approximations.i_layernorm import ILayerNorm, ILayerNormPublished, floor_sqrt
from qvit.dialects.approximations.ibert_layernorm import IbertLayerNorm, IbertLayerNormPublished
from qvit.dialects.semantics.integers import Array, Int64, IntType
from qvit.dialects.semantics.nonlinear import layer_norm

I8, I16, I32, I64 = IntType(8), IntType(16), IntType(32), IntType(64)
Kind = type[ILayerNorm] | type[ILayerNormPublished] | type[IbertLayerNorm] | type[IbertLayerNormPublished]
SOUND, PUBLISHED = (ILayerNorm, IbertLayerNorm), (ILayerNormPublished, IbertLayerNormPublished)
S = Fraction(1, 500)
OUTPUT = Codes(Fraction(1, 30), 0, I8)


def ordinary(channels: int) -> tuple[Array, Array]:
    """gamma of both signs and beta, a float64 vector each; |beta / gamma| is at most 3.1."""
    rng = np.random.default_rng(channels)
    gamma = rng.uniform(0.4, 2, channels) * rng.choice([-1, 1], channels)
    return gamma, rng.uniform(-1.2, 1.2, channels)


def built(
    kind: Kind,
    channels: int = 96,
    type: IntType = I16,
    output: Codes = OUTPUT,
    parameters: tuple[Array, Array] | None = None,
    epsilon: float = 1e-6,
    **options: int,
) -> Built:
    gamma, beta = parameters or ordinary(channels)
    return kind.build(LayerNormSpec(gamma, beta, epsilon, Codes(S, 0, type), output), **options)


def oracle(b: Built, row: list[int]) -> tuple[list[int], oracle_ivit.Trace]:
    a, tables = b.approximation, [t.tolist() for t, _ in b.tables]
    if isinstance(a, ILayerNormPublished):
        return oracle_ivit.layer_norm_published(row, *tables)
    if isinstance(a, IbertLayerNormPublished):
        return oracle_ibert.layer_norm_published(row, *tables, **a.parameters)
    target = (b.results[0].lo, b.results[0].hi)
    bits = 60 if isinstance(a, ILayerNorm) else 30
    y, seen = oracle_ivit.layer_norm(row, *tables, **a.parameters, target=target, bits=bits)
    return y, seen


def compare(b: Built, x: Int64, codes: tuple[int, int], *reached: str) -> None:
    """With the oracle, and the intermediates of every row inside the stated intervals."""
    a, tables, measured = b.approximation, arrays(b), Measured()
    assert isinstance(a, LayerNormApproximation)
    found = a.apply(x, tables, b.results[0])
    assert found.dtype == b.results[0].dtype
    for i, row in enumerate(x.tolist()):
        y, seen = oracle(b, row)
        assert found[i].tolist() == y
        measured.add(seen)
    channels = x.shape[-1]
    stated = a.intermediates(codes, channels, tables, b.results[0])
    measured.check({name: stated[name] for name in measured.extent}, *reached)
    assert set(measured.extent) == set(stated)


def codes_of(type: IntType) -> tuple[int, int]:
    return type.lo, type.hi


@pytest.mark.parametrize("kind", [*SOUND, *PUBLISHED])
@pytest.mark.parametrize("channels", [1, 2, 7, 96, 192])
@pytest.mark.parametrize("type", [I8, I16])
def test_against_the_oracle(kind: Kind, channels: int, type: IntType) -> None:
    b = built(kind, channels, type)
    compare(b, rows(np.random.default_rng(channels), codes_of(type), channels, 4), codes_of(type))


@pytest.mark.parametrize("kind", [*SOUND, *PUBLISHED])
def test_unsigned_codes(kind: Kind) -> None:
    type = IntType(8, False)
    compare(built(kind, type=type), rows(np.random.default_rng(1), (0, 255), 96, 4), (0, 255))


@pytest.mark.parametrize("kind", SOUND)
@pytest.mark.parametrize(
    "output",
    [Codes(Fraction(1, 30), 0, I16), Codes(Fraction(1, 7000), 5, I16), Codes(Fraction(1, 20), 128, IntType(8, False))],
)
def test_codes_of_the_result(kind: Kind, output: Codes) -> None:
    b = built(kind, output=output)
    assert (b.results, b.scale, b.zero_point) == ((output.type,), float(output.scale), output.zero_point)
    compare(b, rows(np.random.default_rng(1), codes_of(I16), 96, 4), codes_of(I16))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*SOUND, *PUBLISHED])
def test_against_the_oracle_at_length(kind: Kind) -> None:
    rng = np.random.default_rng(9)
    for type, channels in ((I16, 384), (I8, 192), (I16, 768)):
        compare(built(kind, channels, type), rows(rng, codes_of(type), channels, 72000 // channels), codes_of(type))


def test_the_published_code_of_i_vit() -> None:
    for case in golden.cases("ivit_layernorm_C96"):
        a = ILayerNormPublished()
        case.check(a.apply(case["x"], [case["B"]], I64))
        parameters = case["gamma"].astype(float), case["beta"].astype(float)
        b = built(ILayerNormPublished, parameters=parameters)
        assert np.array_equal(b.tables[0][0], case["B_exact"])
        assert np.allclose(b.scale, parameters[0] * 96**0.5 / 2**30, rtol=1e-15, atol=0)


def test_the_published_code_of_i_bert() -> None:
    for case in golden.cases("ibert_layernorm"):
        case.check(IbertLayerNormPublished(case.params["shift"]).apply(case["x"], [case["B"]], I64))
        parameters = case["gamma"].astype(float), case["beta"].astype(float)
        b = built(IbertLayerNormPublished, parameters=parameters, shift=case.params["shift"])
        assert np.array_equal(b.tables[0][0], case["B_exact"])
        assert b.approximation == IbertLayerNormPublished(case.params["shift"])


def test_floor_sqrt() -> None:
    squares = (
        np.concatenate([np.arange(2000), 2 ** np.arange(1, 31), (1 << 31) - np.arange(1, 50)]).astype(np.int64) ** 2
    )
    n = np.concatenate([np.arange(70000), squares, np.maximum(squares - 1, 0), squares + 1, [(1 << 62) - 1]])
    n = n[n < 1 << 62]
    assert floor_sqrt(n).tolist() == [isqrt(v) for v in n.tolist()]


def test_examples_by_hand() -> None:
    # the mean, 1/2, is rounded to 0; squares 10
    x, bias = np.array([[3, 0, -1, 0]]), np.array([0, 1, 2, 3])
    root = 65536
    for _ in range(10):
        root = (root + 10 // root) // 2
    f = (2**31 - 1) // root
    y = ILayerNormPublished().apply(x, [bias], I32)
    assert root == 64
    assert y[0].tolist() == [3 * f // 2, 1, -f // 2 + 2, 3]
    assert IbertLayerNormPublished(0).apply(x, [bias], I32).tolist() == [
        [2**31 // 3 * 3 // 2, 1, -(2**31 // 3) // 2 + 2, 3]
    ]
    # the sound ones: C x - sum = 10 -2 -6 -2, variance 36: u = 5/3 -1/3 -1 -1/3
    b = built(
        ILayerNorm,
        parameters=(np.full(4, 1.0), np.array([0, 0, 0, 1.0])),
        epsilon=0.0,
        output=Codes(Fraction(1, 60), 0, I8),
    )
    assert b.approximation.apply(x, arrays(b), I8).tolist() == [[100, -20, -60, 40]]


@pytest.mark.parametrize("kind", SOUND)
def test_gamma_may_be_zero_and_beta_large(kind: Kind) -> None:
    """What the published ones cannot do, in a constant row too."""
    parameters = (np.array([0.0, 1e-9, 1.0, -2.0]), np.array([1.0, -2.0, 0.0, 0.5]))
    b = built(kind, parameters=parameters, output=Codes(Fraction(1, 50), 0, I8))
    y = b.approximation.apply(np.array([[1, -900, 40, 859], [7, 7, 7, 7]]), arrays(b), I8)
    assert y[:, :2].tolist() == [[50, -100], [50, -100]]
    assert y[1].tolist() == [50, -100, 0, 25]
    for published in PUBLISHED:
        refused = built(published, parameters=parameters)
        with pytest.raises(RangeError, match="^channel 0: beta / gamma is too large, or gamma is 0"):
            refused.approximation.check(codes_of(I16), 4, arrays(refused))


def normal_rows(sigma: float, channels: int, count: int = 60) -> Int64:
    return (
        np.random.default_rng(7)
        .normal(20 * sigma % 1000, sigma, (count, channels))
        .round()
        .clip(-32768, 32767)
        .astype(np.int64)
    )


@pytest.mark.parametrize("sigma", [1.0, 20.0, 300.0, 3000.0])
@pytest.mark.parametrize(("kind", "wide"), [(ILayerNorm, 1), (IbertLayerNorm, 2)])
def test_error_against_the_real_layer_norm(kind: Kind, wide: int, sigma: float) -> None:
    """One unit of the rounded real result at most for 8 bits; for 16 bits too with the long root."""
    gamma, beta = ordinary(384)
    x = normal_rows(sigma, 384)
    real = layer_norm(x * float(S), gamma, beta, 1e-6, 1)
    for output, most in ((Codes(Fraction(1, 20), 0, I8), 1), (Codes(Fraction(1, 4000), 0, I16), wide)):
        b = built(kind, 384, output=output)
        y = b.approximation.apply(x, arrays(b), output.type)
        wanted = np.clip(np.rint(real / float(output.scale)), output.type.lo, output.type.hi)
        off = np.abs(y - wanted)
        assert off.max() <= most
        assert (off == 0).mean() > (0.999 if most == 1 else 0.6)


def test_the_published_ones_on_small_deviations() -> None:
    """Ten Newton steps do not converge for them; the sound ones and I-BERT's root are right."""
    gamma, beta = ordinary(384)
    x = normal_rows(1.0, 384)
    real = layer_norm(x * float(S), gamma, beta, 1e-12, 1)
    errors = []
    for b in (built(ILayerNormPublished, 384), built(IbertLayerNormPublished, 384, shift=0)):
        errors.append(np.abs(b.approximation.apply(x, arrays(b), I64) * b.scale - real).max())
    assert errors[0] > 4
    assert errors[1] < 0.4  # the mean is rounded, and the root has five bits


@pytest.mark.parametrize(
    ("low", "high"), [(183_184, 400_000), ((1 << 32) - 5000, (1 << 32) + 5000), ((1 << 44) - 5000, 1 << 44)]
)
def test_where_ten_newton_steps_converge(low: int, high: int) -> None:
    for squares in range(low, high, 1 if high < 1 << 20 else 7):
        root, floor = oracle_ivit.newton(squares, 10)[0], isqrt(squares)
        assert root == floor or (root == floor + 1 and squares == (floor + 1) ** 2 - 1)
    assert oracle_ivit.newton(183_183, 10)[0] == isqrt(183_183) + 1 == 428
    assert oracle_ivit.newton(142_880, 10)[0] == isqrt(142_880) + 1 == 378
    assert oracle_ivit.newton(4095, 10)[0] == 83


def test_conditions_of_i_vit() -> None:
    a, zero = ILayerNormPublished(), np.zeros(4, np.int32)
    a.check((-32768, 32767), 4, [zero])
    # u is in -2^30 .. 2^30 - 1
    for bias, holds in ((2**30, True), (2**30 + 1, False), (-(2**30), True), (-(2**30) - 1, False)):
        table = np.array([0, 0, bias, 0], np.int32)
        if holds:
            a.check((-32768, 32767), 4, [table])
        else:
            with pytest.raises(RangeError, match="^channel 2: beta / gamma is too large, or gamma is 0: its bias"):
                a.check((-32768, 32767), 4, [table])
    # C (spread / 2)^2 / 2^14 is to reach 183184: spread^2 C >= 183184 * 2^16
    spread = isqrt(183_184 * 2**16 // 4 - 1) + 1
    a.check((-spread // 2, spread - spread // 2), 4, [zero])
    with pytest.raises(RangeError, match="converge from 183184 on; use finer codes, or i-layernorm$"):
        a.check((0, spread - 2), 4, [zero])
    for type, channels in ((I8, 768), (I8, 192)):
        with pytest.raises(RangeError, match="converge from 183184 on"):
            a.check(codes_of(type), channels, [np.zeros(channels, np.int32)])
    most = isqrt(2**44 - 1)
    a.check((0, most), 4, [zero])
    with pytest.raises(RangeError, match="converge below 2\\^44; use i-layernorm$"):
        a.check((0, most + 1), 4, [zero])
    with pytest.raises(OverflowError, match="may not fit 62 bits$"):
        a.apply(np.array([[0, 0, 0, 1 << 31]]), [zero], I64)


def test_conditions_of_i_bert() -> None:
    zero = np.zeros(4, np.int32)
    IbertLayerNormPublished(0).check((0, 65535), 4, [zero])
    with pytest.raises(
        RangeError, match=r"^the sum of squares reaches 4294967297 with shift 0, beyond 2\^32: use a larger"
    ):
        IbertLayerNormPublished(0).check((0, 65536), 4, [zero])
    for shift, most in ((0, 2**30), (3, 2**27)):
        a = IbertLayerNormPublished(shift)
        a.check((-16000, 16000), 4, [np.array([0, most - 1, 0, 0])])
        with pytest.raises(RangeError, match="^channel 1: beta / gamma is too large"):
            a.check((-16000, 16000), 4, [np.array([0, most + (shift == 0), 0, 0])])
    IbertLayerNormPublished(2).check((0, 32 << 8), 4, [zero])
    with pytest.raises(
        RangeError, match=r"^a shift of 2 leaves less than 3 bits of deviations of 31, 1/128 of the largest"
    ):
        IbertLayerNormPublished(2).check((0, (32 << 8) - 1), 4, [zero])
    with pytest.raises(ValueError, match="shift must be in 0..30, found 31"):
        IbertLayerNormPublished(31)


def test_the_shift_of_i_bert() -> None:
    """The least for which the sum of squares is below 2^32; without one calibrated."""
    found = {c: built(IbertLayerNormPublished, c).approximation for c in (2, 3, 16, 96, 192, 768)}
    assert {c: a.shift for c, a in found.items()} == {2: 0, 3: 0, 16: 2, 96: 3, 192: 3, 768: 4}
    for channels, a in found.items():
        a.check(codes_of(I16), channels, [np.zeros(channels, np.int32)])
        if a.shift:
            assert IbertLayerNormPublished(a.shift - 1).squares(codes_of(I16), channels) >= 1 << 32
    assert built(IbertLayerNormPublished, 768, I8).approximation == IbertLayerNormPublished(0)


@pytest.mark.parametrize("kind", PUBLISHED)
def test_the_intervals_are_reached(kind: Kind) -> None:
    """Half of a row at either end has the largest sum of squares, one apart from all others the largest deviation."""
    x = np.full((2, 96), -32768)
    x[0, ::2], x[1, 0] = 32767, 32767
    compare(built(kind), x, codes_of(I16), "squares", "deviation", *(("root",) if kind is ILayerNormPublished else ()))


@pytest.mark.parametrize("kind", SOUND)
def test_the_sound_ones_reach_theirs(kind: Kind) -> None:
    x = np.full((3, 96), -32768)
    x[0, ::2], x[1, 0], x[2, 0] = 32767, 32767, -32767
    compare(built(kind), x, codes_of(I16), "variance", "deviation", "u")


def test_a_row_of_one_step_above_the_rest() -> None:
    """The largest u of I-BERT's: one deviation of 2 2^shift - 1, all others rounded to 0."""
    b = built(IbertLayerNormPublished, 768)
    row = np.zeros((1, 768), np.int64)
    row[0, 0] = 31
    u = oracle(b, row[0].tolist())[1]["u"]
    assert max(u) == b.approximation.intermediates(codes_of(I16), 768, arrays(b), I32)["u"][1] == 2**31 - 2**26


def test_a_constant_row() -> None:
    for kind in PUBLISHED:
        b = built(kind)
        assert np.array_equal(b.approximation.apply(np.full((1, 96), 77), arrays(b), I32)[0], b.tables[0][0])


def test_what_build_refuses() -> None:
    bad = (np.array([1.0, np.nan]), np.zeros(2))
    for kind in (*SOUND, *PUBLISHED):
        with pytest.raises(RangeError, match="^gamma and beta must be finite$"):
            built(kind, parameters=bad)
        with pytest.raises(RangeError, match="^unknown options guard"):
            built(kind, guard=3)
    for kind in SOUND:
        with pytest.raises(RangeError, match="too much for 32 bits"):
            built(kind, parameters=(np.full(4, 1e9), np.zeros(4)))
        with pytest.raises(ValueError, match=f"^{kind.name}: guard must be in 1..20, found 0"):
            kind(0, 0)


def test_published_bias_is_exact() -> None:
    """Floors over irrational numbers, of both signs, and the clamp."""
    gamma = np.array([0.5, -0.5, 1.0, 1e-30, 0.0, 0.0, 0.0])
    beta = np.array([1.0, 1.0, 0.0, 1.0, 2.0, -2.0, 0.0])
    b = built(ILayerNormPublished, parameters=(gamma, beta))
    root = isqrt((1 << 62) // 7)
    assert b.tables[0][0].tolist() == [root, -root - 1, 0, 2**31 - 1, 2**31 - 1, -(2**31) + 1, 0]
