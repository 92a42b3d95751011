"""Scales and zero points from what was seen: each observer, its edges, powers of two."""

from math import isclose

import numpy as np
import pytest

from qvit.dialects.semantics.pot import Exponent
from qvit.transforms.ptq.observers import POWERS, Choice, Observer, Quantizer, choose, powers, quantized
from qvit.transforms.ptq.statistics import BadSample, Statistics, joined, of_constant


def seen(*batches: object) -> Statistics:
    statistics = Statistics()
    for i, batch in enumerate(batches):
        statistics.update(np.asarray(batch, np.float32), np.random.default_rng(i))
    return statistics


def ends(choice: Choice, quantizer: Quantizer) -> tuple[float, float]:
    """The real numbers of the first and last code."""
    codes = quantizer.type
    return ((codes.lo - choice.zero_point) * choice.scale, (codes.hi - choice.zero_point) * choice.scale)


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("values", [[-1.5, 0.25, 3.0], [0.5, 4.0], [-4.0, -0.5], [-1e-3, 1e3]], ids=str)
def test_min_max_reaches_everything(bits: int, values: list[float]) -> None:
    for symmetric in (False, True):
        quantizer = Quantizer(bits, symmetric)
        choice = choose(seen(values), quantizer)
        low, high = ends(choice, quantizer)
        slack = choice.scale / 2 * (1 + 1e-6)  # a zero point is rounded
        assert low <= min(values) + slack
        assert max(values) - slack <= high
        assert quantizer.type.lo <= choice.zero_point <= quantizer.type.hi
        assert choice.scale == float(np.float32(choice.scale))
        if symmetric:
            assert choice.zero_point == 0
            assert isclose(choice.scale, max(map(abs, values)) / quantizer.type.hi, rel_tol=1e-6)
        else:
            width = max(*values, 0.0) - min(*values, 0.0)
            assert isclose(choice.scale, width / quantizer.type.hi, rel_tol=1e-6)


def test_one_sided_ranges_have_zero_at_an_end() -> None:
    assert choose(seen([1.0, 5.1]), Quantizer(8)).zero_point == 0
    assert choose(seen([-1.0, -5.1]), Quantizer(8)).zero_point == 255


@pytest.mark.parametrize("observer", Observer)
@pytest.mark.parametrize("symmetric", [False, True])
def test_zeros_and_constants(observer: Observer, symmetric: bool) -> None:
    """A tensor that was constantly 0 has scale 1; any other constant is a code's number."""
    quantizer = Quantizer(8, symmetric, observer)
    assert choose(seen(np.zeros((3, 4))), quantizer) == Choice(1.0, 0, 1.0)
    for value in (0.3, -0.3):
        choice = choose(seen(np.full((3, 4), value)), quantizer)
        assert isclose(float(quantized(np.array(value), choice, quantizer.type)), value, rel_tol=1e-6)


def test_margin() -> None:
    plain, wide = (choose(seen([-1.0, 3.0]), Quantizer(8, margin=m)) for m in (1.0, 1.5))
    assert isclose(wide.scale, plain.scale * 1.5, rel_tol=1e-6)
    assert wide.zero_point == plain.zero_point


def test_given_scale() -> None:
    assert choose(seen([-100.0, 300.0]), Quantizer(16, symmetric=True, scale=0.0625)) == Choice(0.0625, 0, 0.0625)


def test_moving_average() -> None:
    statistics = seen([0.0, 1.0], [0.0, 2.0], [-1.0, 0.0])
    high = 1.0 + 0.05 * (2.0 - 1.0)
    high += 0.05 * (0.0 - high)
    assert isclose(statistics.average_high, high)
    assert isclose(statistics.average_low, -0.05)
    choice = choose(statistics, Quantizer(8, observer=Observer.EMA))
    assert isclose(choice.scale, (high + 0.05) / 255, rel_tol=1e-6)


def test_percentile_leaves_outliers_out() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, 100_000)
    x[7] = 1000.0
    choice = choose(seen(x), Quantizer(8, observer=Observer.PERCENTILE, percentile=99.9))
    assert isclose(choice.scale, 2 / 255, rel_tol=0.02)


def test_mse_has_the_least_error_of_its_shares() -> None:
    x = np.random.default_rng(0).standard_t(3, 20_000)
    statistics, quantizer = seen(x), Quantizer(4, symmetric=True, observer=Observer.MSE)

    def error(choice: Choice) -> float:
        sample = np.append(statistics.sample.astype(np.float64), [statistics.low, statistics.high])
        return float(((sample - quantized(sample, choice, quantizer.type)) ** 2).sum())

    top = float(np.abs(x).max())
    shares = [Choice(float(np.float32(top * (1 - 0.05 * i) / 7)), 0, 1.0) for i in range(15)]
    best = min(error(choice) for choice in shares)
    found = choose(statistics, quantizer)
    assert isclose(error(found), best, rel_tol=1e-6)
    assert found.scale < choose(statistics, Quantizer(4, symmetric=True)).scale


@pytest.mark.parametrize(
    ("scale", "nearest"), [(1.0, 0), (1.49, 0), (1.51, 1), (0.75, -1), (0.76, 0), (3.0, 1), (3.01, 2)]
)
def test_powers_of_two(scale: float, nearest: int) -> None:
    """Nearest on the linear scale; exact at powers of two."""
    assert powers(np.array(scale), Exponent.NEAREST) == 2.0**nearest
    floor, ceil = (float(powers(np.array(scale), choice)) for choice in (Exponent.FLOOR, Exponent.CEIL))
    assert floor <= scale <= ceil
    assert ceil == floor * (1 if scale == 1.0 else 2)


@pytest.mark.parametrize("rounding", POWERS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_scales_of_powers_of_two(rounding: str, symmetric: bool) -> None:
    x = np.random.default_rng(1).normal(0.2, 1, 5000)
    statistics, quantizer = seen(x), Quantizer(8, symmetric, power_of_two=rounding)
    choice = choose(statistics, quantizer)
    assert np.log2(choice.scale) == round(np.log2(choice.scale))
    assert choice.ideal == choose(statistics, Quantizer(8, symmetric)).scale
    assert isclose(choice.octaves, np.log2(choice.scale / choice.ideal))
    assert abs(choice.octaves) < (2 if rounding == "adaptive" else 1)
    if rounding == "ceil":
        assert choice.octaves >= 0
    if rounding == "adaptive":

        def error(c: Choice) -> float:
            return float(((x - quantized(x, c, quantizer.type)) ** 2).sum())

        others = [choose(statistics, Quantizer(8, symmetric, power_of_two=name)) for name in Exponent]
        assert all(error(choice) <= error(other) * (1 + 1e-4) for other in others)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"bits": 1}, "bits must be in 2..32, found 1"),
        ({"bits": 33, "symmetric": True}, "bits must be in 2..32, found 33"),
        ({"bits": 17}, "at most 16 bits, found 17"),
        ({"margin": 0.0}, "margin must be positive"),
        ({"margin": float("nan")}, "margin must be positive"),
        ({"percentile": 50}, "percentile must be in 50..100"),
        ({"power_of_two": "up"}, "power_of_two must be one of floor, ceil, nearest, adaptive"),
        ({"scale": -1.0}, "scale must be positive"),
    ],
)
def test_bad_quantizers(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Quantizer(**settings)  # pyright: ignore[reportArgumentType]


# --- statistics ---


def test_statistics_of_batches() -> None:
    rng = np.random.default_rng(2)
    batches = [rng.normal(size=(2, 5, 3)).astype(np.float32) for _ in range(4)]
    statistics = Statistics()
    for i, batch in enumerate(batches):
        statistics.update(batch, np.random.default_rng(i), with_gram=True)
    rows = np.concatenate(batches).reshape(-1, 3).astype(np.float64)
    assert (statistics.batches, statistics.rows) == (4, 40)
    assert (statistics.low, statistics.high) == (rows.min(), rows.max())
    np.testing.assert_array_equal(statistics.channel_low, rows.min(0))
    np.testing.assert_array_equal(statistics.channel_high, rows.max(0))
    np.testing.assert_allclose(statistics.channel_mean, rows.mean(0))
    np.testing.assert_allclose(statistics.gram, rows.T @ rows)
    assert sorted(statistics.sample.tolist()) == sorted(rows.astype(np.float32).ravel().tolist())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_bad_samples(value: float) -> None:
    with pytest.raises(BadSample, match="1 of its 6 values are NaN or infinite"):
        seen([[1.0, 2.0, 3.0], [4.0, value, 6.0]])


def test_statistics_of_factors() -> None:
    """x * factor + offset, from the statistics of x."""
    x, factor, offset = (
        np.random.default_rng(3).normal(size=(50, 4)),
        np.array([0.5, 2.0, 1.0, 4.0]),
        np.array([0.0, 1.0, -1.0, 0.0]),
    )
    found = seen(x).per_channel(factor, offset)
    expected = seen(x * factor + offset)
    for name in ("low", "high", "channel_low", "channel_high", "channel_sum"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-5)


def test_joined_statistics() -> None:
    a, b = seen([[1.0, 2.0]]), of_constant(np.array([[-7.0, 0.5, 0.25]], np.float32))
    both = joined([a, b])
    assert (both.low, both.high) == (-7.0, 2.0)
    assert sorted(both.sample.tolist()) == [-7.0, 0.25, 0.5, 1.0, 2.0]
    assert joined([a]) is a


def test_statistics_as_arrays() -> None:
    statistics = Statistics()
    statistics.update(np.random.default_rng(0).normal(size=(7, 3)), np.random.default_rng(0), with_gram=True)
    again = Statistics.from_arrays(statistics.to_arrays("x"), "x")
    for name, array in statistics.to_arrays("x").items():
        np.testing.assert_array_equal(array, again.to_arrays("x")[name])
