"""`poly_gelu`, `bit_softmax` and `bit_softmax_published` against the oracle and the real functions."""

import re
from fractions import Fraction
from math import sqrt

import numpy as np
import oracle_iptq_vit as oracle
import pytest
from approximation_examples import Measured, lists, masks, rows

from qvit.dialects.approximations.base import Built, Codes, FunctionSpec, RangeError, SoftmaxSpec
from qvit.dialects.approximations.functions import FUNCTIONS
from qvit.dialects.approximations.iptq import BitSoftmax, BitSoftmaxPublished, PolyGelu, fit_polynomial, slope
from qvit.dialects.semantics.elementwise import erf
from qvit.dialects.semantics.integers import IntType

I8, UI8, I16, UI16, I32 = IntType(8), IntType(8, False), IntType(16), IntType(16, False), IntType(32)

# --- poly_gelu ---


def gelu_spec(scale: float, codes: IntType = I8, zero_point: int = 0, function: str = "gelu") -> FunctionSpec:
    return FunctionSpec(function, Codes(Fraction(scale), zero_point, codes), Codes(Fraction(scale), 0, I8))


def poly(built: Built) -> PolyGelu:
    assert isinstance(built.approximation, PolyGelu)
    assert built.results == (I32,)
    return built.approximation


def every(spec: FunctionSpec) -> np.ndarray:
    """All codes, less the zero point."""
    codes = spec.input.type
    return np.arange(codes.lo, codes.hi + 1) - spec.input.zero_point


GELU_FORMS = [(I8, 0), (UI8, 131), (UI8, 0), (I16, 0), (I16, -3000)]
SCALES = (0.001, 0.0147, 0.03, 0.05, 0.125, 0.4, 3.0)


@pytest.mark.parametrize("refit", [0, 1])
@pytest.mark.parametrize("form", range(len(GELU_FORMS)))
def test_poly_gelu_oracle(form: int, refit: int) -> None:
    codes, zero_point = GELU_FORMS[form]
    for scale in SCALES:
        spec = gelu_spec(scale * 256.0 / (1 << codes.bits), codes, zero_point)
        found = poly(PolyGelu.build(spec, refit=refit))
        x = every(spec)[:: 1 if codes.bits == 8 else 97]
        ends = int(every(spec)[0]), int(every(spec)[-1])
        x = np.unique(np.r_[x, ends, 0])
        found.check(ends, ())
        measured = Measured()
        for code, y in zip(x.tolist(), found.apply(x, (), I32).tolist(), strict=True):
            expected, seen = oracle.poly_gelu(code, **found.parameters)
            assert y == expected
            measured.add(seen)
        proven = found.intermediates(ends, (), I32)
        measured.check(proven)
        assert {name: measured.extent[name] for name in ("refined", "v")} == {
            name: proven[name] for name in ("refined", "v")
        }
        saturates = ends[1] << found.up >= -found.b
        assert not saturates or measured.extent["y"][0] == proven["y"][0]


@pytest.mark.slow
def test_poly_gelu_oracle_on_all_codes() -> None:
    for scale in np.geomspace(0.001, 1.0, 16):
        spec = gelu_spec(float(scale) / 256, I16)
        found = poly(PolyGelu.build(spec))
        x = every(spec)
        expected = [oracle.poly_gelu(code, **found.parameters)[0] for code in x.tolist()]
        assert found.apply(x, (), I32).tolist() == expected


def polynomial(x: np.ndarray, a: float = -0.019913, b: float = -2.698088) -> np.ndarray:
    """The published approximation over the real numbers."""
    u = np.abs(x) / sqrt(2)
    return x / 2 * (1 + np.sign(x) * (a * (np.minimum(u, -b) + b) ** 4 + 1))


@pytest.mark.parametrize("codes", [I8, I16])
@pytest.mark.parametrize("scale", SCALES)
def test_poly_gelu_is_the_published_polynomial(scale: float, codes: IntType) -> None:
    spec = gelu_spec(scale * 256.0 / (1 << codes.bits), codes)
    built = PolyGelu.build(spec)
    assert built.scale < 0
    x = every(spec)
    y = poly(built).apply(x, (), I32) * float(built.scale)
    reals = x * float(spec.input.scale)
    # the integers add less than 1/1000, but for the factor's last bit at the far negative end
    assert np.abs(y - polynomial(reals)).max() <= 0.001 + np.abs(reals).max() * 2.0**-15
    assert np.abs(y - FUNCTIONS["gelu"](reals)).max() <= 0.0094 + np.abs(reals).max() * 2.0**-15


def test_the_published_polynomial_errs_as_stated() -> None:
    x = np.linspace(-4, 4, 80001)
    error = polynomial(x) - FUNCTIONS["gelu"](x)
    assert 0.0092 < np.abs(error).max() < 0.0094
    assert 0.0043 < np.sqrt(np.square(error).mean()) < 0.0045


@pytest.mark.parametrize("reach", [0.2, 1.0, 3.0, 6.0, 40.0])
def test_refitting(reach: float) -> None:
    a, b = fit_polynomial(reach)
    x = np.linspace(0, min(reach, 8.0), 1025)

    def error(a: float, b: float) -> float:
        return np.square(polynomial(x, a, b) - x / 2 * (1 + erf(x / sqrt(2)))).sum()

    least = error(a, b)
    assert -1.12 < a * b**4 < -1
    assert least < 0.6 * error(-0.019913, -2.698088)
    assert all(least <= error(a * (1 + d), b) for d in (-1e-3, 1e-3))
    assert all(least <= error(a, b + d) for d in (-3e-2, 3e-2))


def test_refitted_is_better_on_the_codes() -> None:
    for scale in (0.02, 0.05, 0.1):
        spec = gelu_spec(scale)
        x, errors = every(spec), []
        for refit in (0, 1):
            built = PolyGelu.build(spec, refit=refit)
            y = poly(built).apply(x, (), I32) * float(built.scale)
            errors.append(np.square(y - FUNCTIONS["gelu"](x * scale)).mean())
        assert errors[1] < 0.5 * errors[0]


SMALL = PolyGelu(0, -100, -(1 << 30), 0, 7)


@pytest.mark.parametrize(
    ("found", "codes", "message"),
    [
        (SMALL, (-127, 127), None),
        # 129 * 2^24 is beyond, and 128 * 2^24 too: it is 2^31
        (SMALL, (-127, 128), None),
        (SMALL, (-127, 129), "y reaches 2164260864, beyond 32 bits: build it for these codes"),
        (PolyGelu(0, -100, -88888889, 0, 4), (-127, 95), None),
        (PolyGelu(0, -100, -88888888, 0, 4), (-127, 95), "the polynomial is 1.125 at 0, it should be 1"),
        (PolyGelu(24, -100, -(1 << 30), 0, 31), (0, 1 << 31), None),
        (PolyGelu(24, -100, -(1 << 30), 0, 31), (0, 1 << 37), "refined reaches 2305843009213693952, beyond 62 bits"),
        (PolyGelu(0, -1518500249, -(1 << 30), 46, 7), (-127, 127), None),
        (PolyGelu(0, -1518500250, -(1 << 30), 46, 7), (-127, 127), "v^2 reaches 2305843009250062500, beyond 62 bits"),
        (PolyGelu(0, -100, -(1 << 30) - 1, 0, 8), (-127, 127), "sum reaches 2147483650, beyond 32 bits"),
    ],
)
def test_poly_gelu_conditions(found: PolyGelu, codes: tuple[int, int], message: str | None) -> None:
    if message is None:
        found.check(codes, ())
        return
    with pytest.raises(RangeError, match=re.escape(message)):
        found.check(codes, ())


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (gelu_spec(0.05, function="silu"), {}, "poly_gelu approximates GELU, not silu: use table, lin or quad"),
        (gelu_spec(0.05), {"fit": 1}, "unknown options fit; known are refit"),
        (gelu_spec(1e6), {}, "the operand's scale is too coarse"),
        (gelu_spec(1e-9), {}, "scale 1e-09 is too fine for 32 bits"),
    ],
)
def test_poly_gelu_refused(spec: FunctionSpec, options: dict[str, int], message: str) -> None:
    with pytest.raises(RangeError, match=re.escape(message)):
        PolyGelu.build(spec, **options)


def test_the_tanh_form_is_taken_too() -> None:
    spec = gelu_spec(0.05, function="gelu_tanh")
    assert PolyGelu.build(spec).approximation == PolyGelu.build(gelu_spec(0.05)).approximation
    reals = every(spec) * 0.05
    assert np.abs(FUNCTIONS["gelu_tanh"](reals) - FUNCTIONS["gelu"](reals)).max() < 0.0005


# --- bit_softmax ---


def softmax_spec(scale: float, length: int, output: Codes | None = None, codes: IntType = I8) -> SoftmaxSpec:
    return SoftmaxSpec(Codes(Fraction(scale), 0, codes), length, output)


def bit_softmax(scale: float, length: int, codes: IntType = I8) -> BitSoftmax:
    found = BitSoftmax.build(softmax_spec(scale, length, None, codes)).approximation
    assert isinstance(found, BitSoftmax)
    return found


def published(scale: float, length: int, **options: int) -> BitSoftmaxPublished:
    found = BitSoftmaxPublished.build(softmax_spec(scale, length), **options).approximation
    assert isinstance(found, BitSoftmaxPublished)
    return found


def against_the_oracle(found: BitSoftmax | BitSoftmaxPublished, x: np.ndarray, mask: np.ndarray | None) -> Measured:
    measured = Measured()
    (result,) = [UI8 if found.top <= 255 else UI16] if isinstance(found, BitSoftmax) else [IntType(found.bits, False)]
    (y,) = found.apply(x, (), mask, [result])
    assert y.dtype == result.dtype
    function = oracle.bit_softmax if isinstance(found, BitSoftmax) else oracle.bit_softmax_published
    for (codes, keep), row in zip(lists(x, mask), y.tolist(), strict=True):
        expected, seen = function(codes, keep, **found.parameters)
        assert row == expected
        measured.add(seen)
    return measured


@pytest.mark.parametrize("scale", [0.0113, 0.03, 0.05, 0.0625, 0.3, 1.5])
@pytest.mark.parametrize("make", [published, bit_softmax], ids=["published", "sound"])
def test_softmax_oracle(make: type, scale: float) -> None:
    for length in (1, 2, 17, 197):
        rng = np.random.default_rng(length)
        x = rows(rng, (-128, 127), length, 60 // length + 2)
        found = make(scale, length)
        measured = against_the_oracle(found, x, None)
        proven = found.intermediates((-128, 127), length, ())
        measured.check(proven)
        for name in ("e", "sum"):
            assert measured.extent[name][1] == proven[name][1]
        assert length == 1 or measured.extent["p"] == proven["p"]
        against_the_oracle(found, x, masks(rng, x))


@pytest.mark.slow
@pytest.mark.parametrize("make", [published, bit_softmax], ids=["published", "sound"])
def test_softmax_oracle_at_length(make: type) -> None:
    for seed, scale in enumerate(np.geomspace(0.01, 0.5, 10)):
        x = rows(np.random.default_rng(seed), (-128, 127), 197, 102)
        against_the_oracle(make(float(scale), 197), x, None)


def test_softmax_oracle_on_wide_scores_and_results() -> None:
    x = rows(np.random.default_rng(1), (I16.lo, I16.hi), 50, 12)
    for bits in (8, 15, 16):
        found = BitSoftmax.build(softmax_spec(3e-4, 50, None, I16), bits=bits).approximation
        assert isinstance(found, BitSoftmax)
        found.check((I16.lo, I16.hi), 50, ())
        against_the_oracle(found, x, None).check(found.intermediates((I16.lo, I16.hi), 50, ()))


def test_wanted_codes() -> None:
    def made(output: Codes | None, **options: int) -> tuple[int, int, IntType]:
        built = BitSoftmax.build(softmax_spec(0.05, 17, output), **options)
        assert isinstance(built.approximation, BitSoftmax)
        assert abs(built.scale * built.approximation.one - 1) <= 2.0**-20
        assert built.zero_point == 0
        return built.approximation.one, built.approximation.top, built.results[0]

    assert made(None) == (255, 255, UI8)
    assert made(None, bits=15) == (32767, 32767, I16)
    assert made(None, bits=16) == (65535, 65535, UI16)
    assert made(Codes(Fraction(1, 1 << 15), 0, I16)) == (1 << 15, 32767, I16)
    assert made(Codes(Fraction(1, 256), 0, UI8)) == (256, 255, UI8)
    assert made(Codes(Fraction(float(np.float32(1 / 255))), 0, UI8)) == (255, 255, UI8)
    assert made(Codes(Fraction(1, 255), -128, I8)) == (255, 255, UI8)  # requantized behind it
    assert made(Codes(Fraction(1, 256), 0, UI8), bits=16) == (65535, 65535, UI16)
    assert made(Codes(Fraction(2, 511), 0, UI8)) == (255, 255, UI8)
    assert made(Codes(Fraction(1, 70000), 0, I16)) == (65535, 65535, UI16)
    found = BitSoftmax.build(softmax_spec(0.05, 1, Codes(Fraction(1, 1 << 15), 0, I16))).approximation
    assert isinstance(found, BitSoftmax)
    assert found.apply(np.array([[7]]), (), None, [I16])[0].tolist() == [[32767]]
    assert found.intermediates((-128, 127), 1, ())["y"] == (0, 32767)


def approximated_powers(found: BitSoftmax | BitSoftmaxPublished, octave: int, steps: int) -> np.ndarray:
    """What stands for 2^(-k / octave), k = 0..steps, against the row's maximum."""
    i0 = -octave
    q, r = np.arange(steps) // octave, -(np.arange(steps) % octave)
    if isinstance(found, BitSoftmax):
        t = np.maximum(2 * (slope(r) - i0), slope(r - i0) - i0) / (2 * octave)
    else:
        t = (slope(r) - i0) / octave
    return t * 0.5**q


def test_continuous_and_monotone() -> None:
    octave = 1 << 14
    powers = 0.5 ** (np.arange(4 * octave) / octave)
    sound, literal = (approximated_powers(f, octave, 4 * octave) for f in (bit_softmax(0.05, 17), published(0.05, 17)))
    assert (np.diff(sound) <= 0).all()
    assert np.abs(np.diff(sound)).max() <= 3 / octave
    ratio = sound / powers
    assert 0.94 < ratio.min() < ratio.max() < 1 + 2 / octave
    # as published: up by 0.1875 from one octave to the next
    assert 0.187 < np.diff(literal).max() < 0.188
    assert 0.187 < np.abs(literal - powers).max() < 0.188


@pytest.mark.parametrize("scale", [0.001, 0.02, 0.05, 0.3])
def test_never_orders_two_entries_the_wrong_way(scale: float) -> None:
    for length in (3, 60, 197):
        x = np.sort(rows(np.random.default_rng(3), (-128, 127), length, 20), axis=-1)
        (y,) = bit_softmax(scale, length).apply(x, (), None, [UI8])
        assert (np.diff(y.astype(int), axis=-1) >= 0).all()
    # as published, a score one lower gets half as much again
    (y,) = published(0.02, 2).apply(np.array([[0, -34, -35]]), (), None, [UI16])
    assert y[0, 2] > 1.4 * y[0, 1] > 0


@pytest.mark.parametrize("scale", [0.01, 0.02, 0.05, 0.2])
def test_the_real_softmax(scale: float) -> None:
    x = rows(np.random.default_rng(5), (-128, 127), 197, 60)
    real = np.exp(scale * (x - x.max(-1, keepdims=True)))
    real /= real.sum(-1, keepdims=True)
    built = BitSoftmax.build(softmax_spec(scale, 197), bits=15)
    found = built.approximation
    assert isinstance(found, BitSoftmax)
    (y,) = found.apply(x, (), None, built.results)
    # an exponential is off by at most 6 % and by what its sum is off, 1/2 unit is rounding
    assert (np.abs(y / 32767 - real) <= 0.064 * real + 0.51 / 32767).all()
    assert np.abs(y.sum(-1) / 32767 - 1).max() <= 0.5 * 197 / 32767


def test_masked_rows() -> None:
    x = np.array([[5, 5, 127], [1, 2, 3]])
    mask = np.array([[1, 1, 0], [0, 0, 0]], np.uint8)
    assert bit_softmax(0.05, 3).apply(x, (), mask, [UI8])[0].tolist() == [[128, 128, 0], [0, 0, 0]]
    assert published(0.05, 3).apply(x, (), mask, [UI16])[0].tolist() == [[16320, 16320, 0], [0, 0, 0]]


def test_a_single_entry_reaches_the_top() -> None:
    assert bit_softmax(0.05, 1).apply(np.array([[7]]), (), None, [UI8])[0].tolist() == [[255]]
    # |i0| a power of two divides 2^28: all of the row, 2^15
    assert published(1 / 32, 1).apply(np.array([[7]]), (), None, [UI16])[0].tolist() == [[1 << 15]]


FINE = BitSoftmax(0, -1024, 12, 255, 255)


@pytest.mark.parametrize(
    ("found", "codes", "length", "message"),
    [
        (published(1 / 16, 197), (-128, 127), 197, None),
        (published(0.0626, 197), (-128, 127), 197, None),
        (published(0.067, 197), (-128, 127), 197, "i0 = -15: three floors are up to 0.20 of an exponential"),
        # N |i0| 2^15 <= 2^28
        (published(1 / 32, 256), (-128, 127), 256, None),
        (
            published(1 / 32, 257),
            (-128, 127),
            257,
            "the sum reaches N |i0| 2^n = 257 * 32 * 2^15 = 269484032, beyond 2^28, where the reciprocal is 0",
        ),
        # N 2^23 < 2^31
        (FINE, (-128, 127), 255, None),
        (FINE, (-128, 127), 256, "the sum of 256 entries reaches 2147483648, beyond 31 bits"),
        (BitSoftmax(24, -1024, 12, 255, 255), (0, 1 << 37), 17, None),
        (BitSoftmax(24, -1024, 12, 255, 255), (0, 1 << 38), 17, "p reaches 6629298651489370112, beyond 63 bits"),
    ],
)
def test_softmax_conditions(
    found: BitSoftmax | BitSoftmaxPublished, codes: tuple[int, int], length: int, message: str | None
) -> None:
    if message is None:
        found.check(codes, length, ())
        return
    with pytest.raises(RangeError, match=re.escape(message)):
        found.check(codes, length, ())


@pytest.mark.parametrize("length", [1, 2, 197, 1024, 8192, (1 << 15) - 1])
@pytest.mark.parametrize("scale", [1e-4, 0.003, 0.05, 0.7, 30.0])
def test_what_is_built_is_sound(scale: float, length: int) -> None:
    bit_softmax(scale, length).check((-128, 127), length, ())


@pytest.mark.parametrize(
    ("kind", "spec", "options", "message"),
    [
        (BitSoftmax, softmax_spec(0.05, 1 << 15), {}, "rows of 32768 entries are too long for a sum of 31 bits"),
        (BitSoftmax, softmax_spec(1e6, 17), {}, "the operand's scale is too coarse"),
        (BitSoftmax, softmax_spec(1e-10, 17), {}, "scores of scale 1e-10 are too fine"),
        (
            BitSoftmax,
            softmax_spec(0.05, 17),
            {"bits": 9},
            "bits must be 8, 15 or 16, found 9",
        ),
        (BitSoftmax, softmax_spec(0.05, 17), {"top": 8}, "unknown options top; known are bits"),
        (BitSoftmaxPublished, softmax_spec(1e-10, 17), {}, "scores of scale 1e-10 are too fine"),
        (BitSoftmaxPublished, softmax_spec(0.05, 17), {"top": 8}, "unknown options top; known are n, m, bits"),
    ],
)
def test_softmax_refused(
    kind: type[BitSoftmax | BitSoftmaxPublished], spec: SoftmaxSpec, options: dict[str, int], message: str
) -> None:
    with pytest.raises(RangeError, match=re.escape(message)):
        kind.build(spec, **options)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (PolyGelu, (0, 0, -1, 0, 0)),
        (PolyGelu, (0, -1, 0, 0, 0)),
        (PolyGelu, (25, -1, -1, 0, 0)),
        (PolyGelu, (0, -1, -1, 63, 0)),
        (PolyGelu, (0, -1, -1, 0, 32)),
        (BitSoftmaxPublished, (0, 15, 28, 16)),
        (BitSoftmaxPublished, (-20, 25, 28, 16)),
        (BitSoftmaxPublished, (-20, 15, 32, 16)),
        (BitSoftmaxPublished, (-20, 15, 28, 17)),
        (BitSoftmaxPublished, (-20, 15, 10, 11)),
        (BitSoftmax, (0, 0, 12, 255, 255)),
        (BitSoftmax, (25, -1024, 12, 255, 255)),
        (BitSoftmax, (0, -1024, 20, 255, 255)),
        (BitSoftmax, (0, -1024, -12, 255, 255)),
        (BitSoftmax, (0, -1024, 12, 0, 0)),
        (BitSoftmax, (0, -1024, 12, 65537, 1)),
        (BitSoftmax, (0, -1024, 12, 255, 256)),
    ],
)
def test_parameters_out_of_range(kind: type, parameters: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=kind.name):
        kind(*parameters)
