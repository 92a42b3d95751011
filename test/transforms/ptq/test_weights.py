"""Codes of weights: scales that fit, powers of two, and rounding that follows the samples."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qvit.transforms.ptq.observers import POWERS
from qvit.transforms.ptq.weights import Fit, WeightCodes, WeightQuantizer, quantize_weights

Array = NDArray[np.float64]


def weights(outputs: int = 12, inputs: int = 16, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_t(4, (outputs, inputs))


def correlated(inputs: int = 16, rows: int = 400, seed: int = 1) -> Array:
    """Samples whose channels depend on each other: mixtures of few sources."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 5)) @ rng.normal(size=(5, inputs)) + 0.05 * rng.normal(size=(rows, inputs))


def real(made: WeightCodes) -> Array:
    return made.codes * np.broadcast_to(made.scale.astype(np.float64), len(made.codes))[:, None]


def output_error(x: Array, w: Array, made: WeightCodes) -> float:
    return float(((x @ (w - real(made)).T) ** 2).sum())


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("fit", Fit)
def test_codes(bits: int, per_channel: bool, fit: Fit) -> None:
    """Every code is the nearest one, symmetric about 0; a scale for each output, or one."""
    w, x = weights(), correlated()
    quantizer = WeightQuantizer(bits, per_channel, fit)
    made = quantize_weights(w, quantizer, x.T @ x)
    assert made.codes.dtype == np.int8
    assert made.scale.shape == ((12,) if per_channel else ())
    assert made.codes.min() >= -(2 ** (bits - 1))
    assert made.codes.max() <= 2 ** (bits - 1) - 1
    scale = np.broadcast_to(made.scale.astype(np.float64), 12)[:, None]
    np.testing.assert_array_equal(made.codes, np.clip(np.rint(w / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1))
    if fit is Fit.MAX:
        top = np.abs(w).max(1 if per_channel else None)
        np.testing.assert_allclose(made.scale, top / (2 ** (bits - 1) - 1), rtol=1e-6)
        assert (np.abs(made.codes).max(1) == 2 ** (bits - 1) - 1).all() == per_channel


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("per_channel", [False, True])
def test_fits_are_better_at_what_they_fit(bits: int, per_channel: bool) -> None:
    w, x = weights(), correlated()
    made = {fit: quantize_weights(w, WeightQuantizer(bits, per_channel, fit), x.T @ x) for fit in Fit}
    squared = {fit: float(((w - real(m)) ** 2).sum()) for fit, m in made.items()}
    assert squared[Fit.MSE] == min(squared.values())
    errors = {fit: output_error(x, w, m) for fit, m in made.items()}
    assert errors[Fit.OUTPUT] == min(errors.values())
    if bits < 8:
        assert squared[Fit.MSE] < squared[Fit.MAX]


def test_rows_of_zeros() -> None:
    w = weights()
    w[3] = 0
    made = quantize_weights(w, WeightQuantizer(4))
    assert made.scale[3] == 1
    assert not made.codes[3].any()
    assert not quantize_weights(np.zeros((2, 3)), WeightQuantizer(4, per_channel=False)).codes.any()


def test_convolutions() -> None:
    w = np.random.default_rng(5).normal(size=(4, 3, 2, 2))
    made = quantize_weights(w, WeightQuantizer(8))
    assert made.codes.shape == w.shape
    flat = quantize_weights(w.reshape(4, 12), WeightQuantizer(8))
    np.testing.assert_array_equal(made.codes.reshape(4, 12), flat.codes)


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
@pytest.mark.parametrize("seed", range(3))
def test_gptq_has_less_output_error_than_nearest(bits: int, seed: int) -> None:
    w, x = weights(seed=seed), correlated(seed=seed)
    nearest, found = (quantize_weights(w, WeightQuantizer(bits, gptq=gptq), x.T @ x) for gptq in (False, True))
    np.testing.assert_array_equal(found.scale, nearest.scale)
    assert output_error(x, w, found) < 0.6 * output_error(x, w, nearest)


def test_gptq_of_independent_inputs_is_nearest() -> None:
    w = weights()
    nearest, found = (quantize_weights(w, WeightQuantizer(4, gptq=gptq), np.eye(16)) for gptq in (False, True))
    np.testing.assert_array_equal(found.codes, nearest.codes)


def test_without_samples_it_is_nearest() -> None:
    w = weights()
    np.testing.assert_array_equal(
        quantize_weights(w, WeightQuantizer(4, gptq=True)).codes, quantize_weights(w, WeightQuantizer(4)).codes
    )


@pytest.mark.parametrize("rounding", POWERS)
@pytest.mark.parametrize("per_channel", [False, True])
def test_powers_of_two(rounding: str, per_channel: bool) -> None:
    w, x = weights(), correlated()
    made = quantize_weights(w, WeightQuantizer(4, per_channel, power_of_two=rounding), x.T @ x)
    exponents = np.log2(made.scale.astype(np.float64))
    np.testing.assert_array_equal(exponents, np.rint(exponents))
    moved = exponents - np.log2(made.ideal)
    assert (np.abs(moved) <= 2).all()
    assert np.isclose(made.error, output_error(x, w, made))
    nearest = quantize_weights(w, WeightQuantizer(4, per_channel, power_of_two="nearest"), x.T @ x)
    assert np.isclose(made.nearest_error, output_error(x, w, nearest))
    if rounding == "ceil":
        assert (moved >= 0).all()
    if rounding == "floor":
        assert (moved <= 0).all()
    if rounding == "adaptive":
        assert made.error <= made.nearest_error
        assert not per_channel or made.error < made.nearest_error


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"bits": 1}, "2 to 8 bits, found 1"), ({"bits": 9}, "found 9"), ({"power_of_two": "even"}, "found 'even'")],
)
def test_bad_quantizers(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        WeightQuantizer(**settings)  # pyright: ignore[reportArgumentType]


def test_what_needs_samples() -> None:
    assert not WeightQuantizer(4, fit=Fit.MSE, power_of_two="nearest").needs_gram
    for quantizer in (
        WeightQuantizer(gptq=True),
        WeightQuantizer(fit=Fit.OUTPUT),
        WeightQuantizer(power_of_two="adaptive"),
    ):
        assert quantizer.needs_gram
