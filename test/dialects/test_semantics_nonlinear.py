"""The float functions against plain Python, `math` and ONNX's reference; every tolerance is stated.

Float64 throughout, unless a test says otherwise: bounds are a few units in the last place of the largest intermediate.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from qvit.dialects.semantics.nonlinear import batch_norm, gelu, layer_norm, resize, resize_matrix, softmax

FLOATS = st.floats(-1e3, 1e3)


def random(seed: int, *shape: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=shape)


# --- softmax ---


def naive_softmax(row: Sequence[float]) -> list[float]:
    e = [math.exp(v - max(row)) for v in row]
    return [v / math.fsum(e) for v in e]


@given(st.lists(FLOATS, min_size=1, max_size=8))
def test_softmax(row: list[float]) -> None:
    np.testing.assert_allclose(softmax(np.array(row), 0), naive_softmax(row), rtol=1e-14, atol=1e-300)


def test_softmax_axes() -> None:
    x = random(1, 3, 4, 5)
    for axis in range(3):
        y = softmax(x, axis)
        rows = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
        expected = np.array([naive_softmax(r) for r in rows.tolist()])
        np.testing.assert_allclose(np.moveaxis(y, axis, -1).reshape(rows.shape), expected, rtol=1e-14)
        np.testing.assert_allclose(y.sum(axis), 1, rtol=1e-15 * 4)
        np.testing.assert_allclose(softmax(x + 1024, axis), y, rtol=1e-12)  # a shift rounds x to 2^-43


@pytest.mark.filterwarnings("error")
def test_softmax_without_overflow() -> None:
    assert softmax(np.array([8e307, -8e307, 8e307]), 0).tolist() == [0.5, 0, 0.5]
    assert softmax(np.array([0, -np.inf]), 0).tolist() == [1, 0]
    y = softmax(np.array([[3.0, 1.0]], np.float32), 1)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, [naive_softmax([3, 1])], rtol=5e-7)


# --- GELU ---


def test_gelu() -> None:
    x = np.concatenate([np.linspace(-12, 12, 4801), random(1, 500) * 3, [0.0]])
    exact = [v / 2 * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()]
    # 1 + erf cancels below 0: an absolute bound, from erf's 1e-15 and the rounding of its argument, times |x| / 2
    assert (np.abs(gelu(x) - exact) <= 1e-15 * np.maximum(np.abs(x), 1)).all()
    approximate = [v / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x.tolist()]
    assert (np.abs(gelu(x, tanh=True) - approximate) <= 1e-15 * np.maximum(np.abs(x), 1)).all()
    # two different functions, close to each other (4.7e-4 by Hendrycks and Gimpel's choice of 0.044715)
    assert 4e-4 < np.abs(gelu(x) - gelu(x, tanh=True)).max() < 5e-4


@pytest.mark.parametrize("tanh", [False, True])
def test_gelu_identities(tanh: bool) -> None:
    x = np.linspace(-5, 5, 1001)
    np.testing.assert_allclose(gelu(x, tanh) - gelu(-x, tanh), x, rtol=0, atol=2e-15)
    assert gelu(np.array([0.0, 40.0]), tanh).tolist() == [0, 40]
    assert gelu(x.astype(np.float32), tanh).dtype == np.float32
    np.testing.assert_allclose(gelu(x.astype(np.float32), tanh), gelu(x, tanh), rtol=0, atol=2e-6)


# --- normalisation ---


def naive_layer_norm(
    row: Sequence[float], gamma: Sequence[float], beta: Sequence[float], epsilon: float
) -> list[float]:
    mean = math.fsum(row) / len(row)
    variance = math.fsum((v - mean) ** 2 for v in row) / len(row)
    return [(v - mean) / math.sqrt(variance + epsilon) * g + b for v, g, b in zip(row, gamma, beta, strict=True)]


@pytest.mark.parametrize("epsilon", [1e-6, 1e-5, 0.5])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_layer_norm(axis: int, epsilon: float) -> None:
    x = random(1, 2, 3, 4) * 2 + 0.5
    normalized = x.shape[axis:]
    gamma, beta = random(2, *normalized), random(3, *normalized)
    rows = x.reshape(-1, math.prod(normalized)).tolist()
    for b in (None, beta):
        shift = np.zeros(normalized) if b is None else b
        expected = [naive_layer_norm(r, gamma.ravel().tolist(), shift.ravel().tolist(), epsilon) for r in rows]
        found = layer_norm(x, gamma, b, epsilon, axis)
        np.testing.assert_allclose(found, np.array(expected).reshape(x.shape), rtol=1e-13, atol=1e-14)


def test_layer_norm_of_constant_rows_is_beta() -> None:
    gamma, beta = random(1, 5), random(2, 5)
    assert layer_norm(np.full((2, 5), 3.25), gamma, beta, 1e-6, 1).tolist() == [beta.tolist()] * 2
    single = layer_norm(*(v.astype(np.float32) for v in (random(3, 2, 5), gamma, beta)), 1e-6, 1)
    assert single.dtype == np.float32


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 2, 2)])
def test_batch_norm(shape: tuple[int, ...]) -> None:
    x, gamma, beta, mean = random(1, *shape), random(2, 3), random(3, 3), random(4, 3)
    variance = np.abs(random(5, 3)) + 0.1
    for epsilon in (1e-5, 0.3):

        def expected(*i: int, epsilon: float = epsilon) -> float:
            c = i[1]
            return (x[i] - mean[c]) / math.sqrt(variance[c] + epsilon) * gamma[c] + beta[c]

        found = batch_norm(x, gamma, beta, mean, variance, epsilon)
        np.testing.assert_allclose(found, oracle.build(shape, expected), rtol=1e-13, atol=1e-14)


# --- resize ---

RESIZE_MODES = ["nearest", "nearest_floor", "linear", "cubic"]
COORDINATES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
SIZES = [(4, 8), (4, 4), (3, 7), (5, 3), (7, 2), (1, 4), (4, 1), (2, 9), (6, 10)]


def naive_position(i: int, source: int, target: int, scale: float, coordinates: str) -> float:
    """Where pixel i of the result lies in the source (ONNX Resize, coordinate_transformation_mode)."""
    if coordinates == "asymmetric":
        return i / scale
    if coordinates == "align_corners":
        return 0.0 if target == 1 else i * (source - 1) / (target - 1)
    if coordinates == "pytorch_half_pixel" and target == 1:
        return 0.0
    return (i + 0.5) / scale - 0.5


def naive_pixel(row: Sequence[float], position: float, mode: str, a: float) -> float:
    """The value of a row at a position between its pixels; pixels outside of it repeat those at its ends."""

    def pixel(i: int) -> float:
        return row[min(max(i, 0), len(row) - 1)]

    left = math.floor(position)
    t = position - left
    if mode == "nearest_floor":
        return pixel(left)
    if mode == "nearest":
        return pixel(left if t <= 0.5 else left + 1)
    if mode == "linear":
        return (1 - t) * pixel(left) + t * pixel(left + 1)
    near, far = ([a + 2, -(a + 3), 0, 1], [a, -5 * a, 8 * a, -4 * a])  # cubics in the distance, highest power first
    kernel = [(far, 1 + t, -1), (near, t, 0), (near, 1 - t, 1), (far, 2 - t, 2)]
    return math.fsum(pixel(left + o) * sum(c * d ** (3 - n) for n, c in enumerate(cubic)) for cubic, d, o in kernel)


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_resize_matrix(mode: str, coordinates: str) -> None:
    for (source, target), a in product(SIZES, [-0.75, -0.5] if mode == "cubic" else [-0.75]):
        for scale in {target / source, float(round(target / source)) or 0.5, target / source + 0.04}:
            row = random(source, source)
            found = resize_matrix(source, target, scale, mode, coordinates, a) @ row
            expected = [
                naive_pixel(row.tolist(), naive_position(i, source, target, scale, coordinates), mode, a)
                for i in range(target)
            ]
            # a position may be off by 1e-15; near a tie, nearest would show that
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


@lru_cache
def onnx_resize(mode: str, coordinates: str, by_scale: bool, a: float) -> Any:
    """ONNX's own evaluation; importing it takes a while."""
    from onnx.helper import make_node
    from onnx.reference import ReferenceEvaluator

    inputs = ["x", "", "scales"] if by_scale else ["x", "", "", "sizes"]
    mode, _, rounding = mode.partition("_")
    attributes = {"mode": mode, "coordinate_transformation_mode": coordinates, "cubic_coeff_a": a}
    if rounding:
        attributes["nearest_mode"] = rounding
    return ReferenceEvaluator(make_node("Resize", inputs, ["y"], **attributes))


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_resize_as_onnx(mode: str, coordinates: str) -> None:
    x = random(7, 1, 2, 4, 6)
    a = -0.5 if coordinates == "asymmetric" else -0.75
    for sizes in [(8, 12), (4, 6), (7, 9), (3, 4), (2, 11)]:
        scales = [sizes[0] / 4, sizes[1] / 6]
        feed = {"x": x, "sizes": np.array([1, 2, *sizes])}
        expected = onnx_resize(mode, coordinates, False, a).run(None, feed)[0]
        found = resize(x, sizes, scales, mode, coordinates, a)
        np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)  # ONNX keeps cubic weights and scales in float32
    if coordinates == "align_corners":
        return  # the reference takes the length of the result as a real number, scale * source
    for scales, sizes in [((2.0, 2.0), (8, 12)), ((1.5, 0.5), (6, 3)), ((1.75, 1.25), (7, 7)), ((0.625, 2.0), (2, 12))]:
        feed = {"x": x, "scales": np.array([1, 1, *scales], np.float32)}
        expected = onnx_resize(mode, coordinates, True, a).run(None, feed)[0]
        found = resize(x, sizes, scales, mode, coordinates, a)
        np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6 if mode == "cubic" else 1e-13)


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_resize_identities(mode: str, coordinates: str) -> None:
    x = random(3, 2, 3, 4)
    np.testing.assert_allclose(resize(x, (3, 4), (1, 1), mode, coordinates), x, rtol=0, atol=1e-15)
    for source, target in SIZES:  # weights sum to 1: a constant stays a constant
        matrix = resize_matrix(source, target, target / source, mode, coordinates, -0.75)
        np.testing.assert_allclose(matrix.sum(1), 1, rtol=0, atol=1e-14)
    rows, columns = (resize_matrix(n, m, m / n, mode, coordinates, -0.6) for n, m in [(3, 5), (4, 2)])
    expected = np.einsum("ih,jw,bhw->bij", rows, columns, x)
    np.testing.assert_allclose(resize(x, (5, 2), (5 / 3, 0.5), mode, coordinates, -0.6), expected, rtol=0, atol=1e-14)
    assert resize(x.astype(np.float32), (6, 8), (2, 2), mode, coordinates).dtype == np.float32


def test_resize_nearest_rounds_half_down() -> None:
    # positions 0, 0.5, 1, 1.5: by hand
    assert resize(np.array([[1.0, 2.0]]), (1, 4), (1, 2), "nearest", "asymmetric").tolist() == [[1, 1, 2, 2]]
    assert resize_matrix(3, 2, 2 / 3, "nearest", "half_pixel", 0).tolist() == [[1, 0, 0], [0, 0, 1]]


def test_resize_nearest_floor_rounds_down() -> None:
    # positions 0, 0.75, 1.5; and -0.25, 0.25, 0.75, 1.25, of which the first is the border
    assert resize_matrix(2, 3, 4 / 3, "nearest_floor", "asymmetric", 0).tolist() == [[1, 0], [1, 0], [0, 1]]
    assert resize_matrix(2, 4, 2, "nearest_floor", "half_pixel", 0).tolist() == [[1, 0], [1, 0], [1, 0], [0, 1]]


def test_resize_default_is_keys_kernel_with_three_quarters() -> None:
    x = random(4, 4, 4)
    pair = [resize(x, (8, 8), (2, 2), "cubic", "half_pixel", *a) for a in ([], [-0.75])]
    assert (pair[0] == pair[1]).all()


def test_resize_refuses_unknown_coordinates() -> None:
    with pytest.raises(ValueError, match="^unknown coordinates 'tf_crop_and_resize'$"):
        resize_matrix(2, 4, 2.0, "linear", "tf_crop_and_resize", -0.75)
