"""Scales that post-training quantization rounds to powers of two, and factors of channels."""

from typing import Any

import ir_text
import numpy as np
import pytest
from numpy.typing import NDArray

from qvit.backends.interpreter import find_function
from qvit.dialects.semantics.integers import IntType
from qvit.transforms.ptq.observers import Choice, Quantizer, choose
from qvit.transforms.ptq.sites import channels, find_sites, mean_of, same_rows
from qvit.transforms.ptq.statistics import Statistics, joined
from qvit.transforms.ptq.weights import WeightQuantizer, quantize_weights

Array = NDArray[Any]


def seen(x: Array, seed: int = 0) -> Statistics:
    statistics = Statistics()
    statistics.update(x, np.random.default_rng(seed))
    return statistics


# --- activations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rounding", "largest", "scale"),
    [
        ("nearest", 127 * 1.5, 1.0),  # in the middle: the lower one
        ("nearest", 127 * 1.5000001, 2.0),
        ("floor", 127 * 1.99, 1.0),
        ("ceil", 127 * 1.0, 1.0),
        ("ceil", 127 * 1.0000001, 2.0),
        ("floor", 127 * 0.25, 0.25),
    ],
)
def test_scales_of_activations(rounding: str, largest: float, scale: float) -> None:
    x = np.array([[largest, -largest / 2]])
    choice = choose(seen(x), Quantizer(8, symmetric=True, power_of_two=rounding))
    assert (choice.scale, choice.zero_point) == (scale, 0)
    assert choice.octaves == pytest.approx(np.log2(scale / np.float32(largest / 127)))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("symmetric", [False, True])
def test_adaptive_is_the_best_of_four(seed: int, symmetric: bool) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((64, 8)) * rng.uniform(0.1, 9) + rng.uniform(0, 3)
    statistics, quantizer = seen(x), Quantizer(8, symmetric, power_of_two="adaptive")
    choice, codes = choose(statistics, quantizer), quantizer.type
    sample = np.append(x.astype(np.float32).astype(np.float64), [x.min(), x.max()])
    plain = choose(statistics, Quantizer(8, symmetric)).scale

    def error(scale: float, zero: int) -> float:
        code = np.clip(np.rint(sample / scale) + zero, codes.lo, codes.hi)
        return float((((code - zero) * scale - sample) ** 2).sum())

    floor = 2.0 ** np.floor(np.log2(plain))
    assert choice.scale in [floor * 2.0**i for i in (-1, 0, 1, 2)]
    for i in (-1, 0, 1, 2):
        zero = 0 if symmetric else int(np.clip(round(-min(x.min(), 0) / (floor * 2.0**i)), codes.lo, codes.hi))
        assert error(choice.scale, choice.zero_point) <= error(floor * 2.0**i, zero) * (1 + 1e-9)


@pytest.mark.parametrize("kind", [Quantizer, WeightQuantizer])
def test_unknown_roundings_are_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match="power_of_two must be one of floor, ceil, nearest, adaptive, found 'up'"):
        kind(power_of_two="up")


# --- weights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounding", ["nearest", "floor", "ceil", "adaptive"])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("times", [1, 9])
def test_scales_of_weights(rounding: str, per_channel: bool, bits: int, times: int) -> None:
    rng = np.random.default_rng(bits)
    weights = (rng.standard_normal((6, 10)) * np.exp(rng.normal(0, 1, (6, 1)))).astype(np.float32)
    x = rng.standard_normal((50, 10)) * np.arange(1, 11)
    made = quantize_weights(weights, WeightQuantizer(bits, per_channel, power_of_two=rounding), x.T @ x, times)
    assert made.scale.shape == ((6,) if per_channel else ())
    assert (np.frexp(made.scale.astype(np.float64) / times)[0] == 0.5).all()
    off = weights - made.real()
    assert made.error == pytest.approx(float(((off @ (x.T @ x)) * off).sum()) / times**2)
    assert made.error <= made.nearest_error or rounding in ("floor", "ceil")
    mantissa, exponent = np.frexp(made.ideal / times)
    nearest = 2.0 ** (exponent - (mantissa <= 0.75)) * times
    assert made.away == (made.scale != nearest).sum()
    assert (made.away > 0) == (rounding != "nearest" and bool((made.scale != nearest).any()))


def test_adaptive_weights_beat_the_nearest_where_these_saturate() -> None:
    weights = np.array([[1.49 * 127, 1.0, 2.0], [1.0, 1.0, 127.0]], np.float32)
    made = quantize_weights(weights, WeightQuantizer(8, power_of_two="adaptive"), np.eye(3))
    assert made.scale.tolist() == [2.0, 1.0]
    assert made.away == 1
    assert made.error < made.nearest_error


# --- factors of channels -----------------------------------------------------------------------------------------------


def test_each_channel_has_the_factor_that_suits_it() -> None:
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((300, 4)) * [0.1, 0.24, 0.5, 1.0]
    whole = choose(seen(rows), Quantizer(8))
    choice = whole.by_channels(rows.astype(np.float32), IntType(8, False))
    assert choice.factors is not None
    for channel, factor in enumerate(choice.factors.tolist()):
        x, errors = rows[:, channel].astype(np.float32).astype(np.float64), list[float]()
        for a in range(4):
            unit = whole.scale / 8 * 2**a
            codes = np.clip(np.rint(x / unit) + whole.zero_point, 0, 255) - whole.zero_point
            errors.append(float(((codes * unit - x) ** 2).sum()))
        assert factor == int(np.argmin(errors))
    assert len(set(choice.factors.tolist())) > 1
    assert choice.scale == whole.scale / 8
    assert (choice.zero_point, choice.octaves) == (whole.zero_point, whole.octaves)


def site_of(body: str) -> Any:
    module = ir_text.parse(f"""func.func @main(%x: tensor<4x6xf32>, %y: tensor<4x6xf32>, %g: tensor<6xf32>) -> tensor<4x6xf32> {{
  %w = qvit.constant dense<1.0> : tensor<6x6xf32>
  %s = qvit.add %x, %y {{qvit.src = ["sum"]}} : (tensor<4x6xf32>, tensor<4x6xf32>) -> tensor<4x6xf32>
  {body}
}}""")
    return next(site for site in find_sites(find_function(module)) if site.name == "sum")


NORM = "qvit.layer_norm {}, %g axis 1 epsilon 1.0e-06 : (tensor<4x6xf32>, tensor<6xf32>) -> tensor<4x6xf32>\n"
END = "func.return %z : tensor<4x6xf32>"
ADD = "%z = qvit.add %n, %s : (tensor<4x6xf32>, tensor<4x6xf32>) -> tensor<4x6xf32>\n"


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ("%n = " + NORM.format("%s") + ADD + END, 6),
        (
            "%r = qvit.slice %s axis 0 start 1 size 2 step 1 : tensor<4x6xf32> -> tensor<2x6xf32>\n%z = "
            + NORM.format("%s")
            + END,
            6,
        ),
        # a linear layer wants one scale
        (
            "%n = qvit.linear %s, %w : (tensor<4x6xf32>, tensor<6x6xf32>) -> tensor<4x6xf32>\n" + ADD + END,
            None,
        ),
        ("func.return %s : tensor<4x6xf32>", None),
        # other channels come last
        (
            "%t = qvit.transpose %s [1, 0] : tensor<4x6xf32> -> tensor<6x4xf32>\n"
            "%n = qvit.reshape %t : tensor<6x4xf32> -> tensor<4x6xf32>\n" + ADD + END,
            None,
        ),
    ],
)
def test_who_may_have_factors(body: str, count: int | None) -> None:
    assert channels(site_of(body)) == count


def test_what_a_normalisation_makes_has_one_scale() -> None:
    body = "%n = " + NORM.format("%s") + ADD + "%m = " + NORM.format("%z") + "func.return %m : tensor<4x6xf32>"
    module = ir_text.parse(f"""func.func @main(%s: tensor<4x6xf32>, %g: tensor<6xf32>) -> tensor<4x6xf32> {{
  {body}
}}""")
    found = {site.name: channels(site) for site in find_sites(find_function(module))}
    assert found["qvit.layer_norm"] is None
    assert found["qvit.add"] == 6


MEAN = '%m = qvit.reduce_mean %s {axes = array<i64: 0>, keepdims = true, qvit.src = ["mean"]} : tensor<4x6xf32> -> tensor<1x6xf32>\n'


@pytest.mark.parametrize(
    ("taker", "count"),
    [
        ("%z = qvit.linear %m, %w : (tensor<1x6xf32>, tensor<6x6xf32>) -> tensor<1x6xf32>\n", 4),
        ("%z = qvit.relu %m : tensor<1x6xf32>\n", None),
    ],
)
def test_whose_mean_a_site_is(taker: str, count: int | None) -> None:
    module = ir_text.parse(f"""func.func @main(%s: tensor<4x6xf32>) -> tensor<1x6xf32> {{
  %w = qvit.constant dense<1.0> : tensor<6x6xf32>
  {MEAN}{taker}func.return %z : tensor<1x6xf32>
}}""")
    site = next(site for site in find_sites(find_function(module)) if site.name == "mean")
    assert mean_of(site) == count


@pytest.mark.parametrize("count", [3, 4, 9, 36, 49])
def test_the_scale_of_a_mean_is_a_power_of_two_over_its_count(count: int) -> None:
    plain = Choice(0.25, 0, 0.2)
    choice = plain.of_mean(count)
    assert np.frexp(choice.scale)[0] == 0.5
    assert choice.over == count
    assert 1 <= choice.real_scale / plain.scale < 2


# --- samples -----------------------------------------------------------------------------------------------------------


def test_sample_rows_are_of_all_tokens() -> None:
    """Whatever the number of tokens: a stride could meet the same one of every image."""
    for tokens in (16, 17, 34):
        x = np.broadcast_to(np.arange(tokens, dtype=np.float32)[:, None], (64, tokens, 3))
        statistics = seen(x)
        for _ in range(20):
            statistics.update(x, np.random.default_rng(statistics.batches))
        found = statistics.sample_rows
        assert found.shape == (256, 3)
        assert len(np.unique(found)) > tokens // 2


def test_rows_of_tensors_that_share_a_scale_are_joined() -> None:
    a, b, c = (seen(np.full((5, n), float(n))) for n in (3, 3, 4))
    assert joined([a, b]).sample_rows.shape == (10, 3)
    assert joined([a, c]).sample_rows.size == 0
    assert joined([a]).sample_rows.shape == (5, 3)


def test_same_rows_are_found_behind_moves() -> None:
    module = ir_text.parse("""func.func @main(%x: tensor<4x6xf32>) -> tensor<4x6xf32> {
  %r = qvit.reshape %x : tensor<4x6xf32> -> tensor<2x2x6xf32>
  %t = qvit.transpose %r [1, 0, 2] : tensor<2x2x6xf32> -> tensor<2x2x6xf32>
  %u = qvit.transpose %t [0, 2, 1] : tensor<2x2x6xf32> -> tensor<2x6x2xf32>
  %v = qvit.reshape %u : tensor<2x6x2xf32> -> tensor<4x6xf32>
  func.return %v : tensor<4x6xf32>
}""")
    function = find_function(module)
    r, t, u, v, _ = function.body.block.ops
    assert same_rows(t.results[0]) is function.args[0]
    assert same_rows(r.results[0]) is function.args[0]
    assert same_rows(u.results[0]) is u.results[0]
    assert same_rows(v.results[0]) is v.results[0]
