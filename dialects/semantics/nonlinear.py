"""The float functions of a transformer: softmax, GELU, layer normalisation; and what a decoder behind it needs."""

from collections.abc import Sequence

import numpy as np

from qvit.dialects.semantics.elementwise import erf
from qvit.dialects.semantics.integers import Array


def softmax(x: Array, axis: int, mask: Array | None = None) -> Array:
    """e^(x - max) / sum e^(x - max) along `axis`; where the mask (it broadcasts) is 0, the result is 0.

    Such entries take no part in maximum and sum. A row without any entry is all 0.
    """
    if mask is None:
        e = np.exp(x - x.max(axis=axis, keepdims=True))
        return e / e.sum(axis=axis, keepdims=True)
    kept = np.where(mask != 0, x, -np.inf)
    e = np.exp(kept - np.maximum(kept.max(axis=axis, keepdims=True), np.finfo(x.dtype).min))
    total = e.sum(axis=axis, keepdims=True)
    return e / np.where(total > 0, total, 1)


def gelu(x: Array, tanh: bool = False) -> Array:
    """x / 2 * (1 + erf(x / sqrt 2)); with tanh, x / 2 * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    if tanh:
        return x * 0.5 * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
    return x * 0.5 * (1 + erf(x * 0.5**0.5))


def layer_norm(x: Array, gamma: Array, beta: Array | None, epsilon: float, axis: int) -> Array:
    """(x - mean) / sqrt(var + epsilon) * gamma + beta, over the dimensions from `axis` to the last.

    var is the mean of squared deviations (not the unbiased estimate).
    """
    axes = tuple(range(axis, x.ndim))
    centred = x - x.mean(axis=axes, keepdims=True)
    variance = (centred * centred).mean(axis=axes, keepdims=True)
    y = centred / np.sqrt(variance + np.asarray(epsilon, x.dtype)) * gamma
    return y if beta is None else y + beta


def batch_norm(x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, epsilon: float) -> Array:
    """(x - mean_c) / sqrt(var_c + epsilon) * gamma_c + beta_c, with the stored statistics; channels are axis 1."""
    gamma, beta, mean, variance = (v.reshape(-1, *[1] * (x.ndim - 2)) for v in (gamma, beta, mean, variance))
    return (x - mean) / np.sqrt(variance + np.asarray(epsilon, x.dtype)) * gamma + beta


def _linear_weights(distance: Array) -> Array:
    return np.maximum(1 - np.abs(distance), 0)


def _cubic_weights(distance: Array, a: float) -> Array:
    """Keys' cubic convolution kernel with parameter a."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def resize_matrix(source: int, target: int, scale: float, mode: str, coordinates: str, cubic_a: float) -> Array:
    """The matrix [target, source] that resizes one axis: rows are interpolation weights. Border pixels repeat.

    mode: nearest (round half down), nearest_floor, linear, cubic; coordinates: half_pixel, pytorch_half_pixel, align_corners,
    asymmetric. ONNX Resize, without antialias.
    """
    i = np.arange(target, dtype=np.float64)
    match coordinates:
        case "half_pixel":
            position = (i + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            position = (i + 0.5) / scale - 0.5 if target > 1 else np.zeros(1)
        case "align_corners":
            position = i * (source - 1) / (target - 1) if target > 1 else np.zeros(1)
        case "asymmetric":
            position = i / scale
        case _:
            raise ValueError(f"unknown coordinates {coordinates!r}")
    matrix = np.zeros((target, source))
    if mode in ("nearest", "nearest_floor"):
        nearest = np.ceil(position - 0.5) if mode == "nearest" else np.floor(position)
        matrix[np.arange(target), np.clip(nearest, 0, source - 1).astype(int)] = 1
        return matrix
    base = np.floor(position).astype(int)
    for offset in (0, 1) if mode == "linear" else (-1, 0, 1, 2):
        distance = position - (base + offset)
        weights = _linear_weights(distance) if mode == "linear" else _cubic_weights(distance, cubic_a)
        np.add.at(matrix, (np.arange(target), np.clip(base + offset, 0, source - 1)), weights)
    return matrix


def resize(
    x: Array, sizes: Sequence[int], scales: Sequence[float], mode: str, coordinates: str, cubic_a: float = -0.75
) -> Array:
    """Resize the last two axes of x [..., H, W] to `sizes`, separably; see `resize_matrix`."""
    rows = resize_matrix(x.shape[-2], sizes[0], scales[0], mode, coordinates, cubic_a).astype(x.dtype)
    columns = resize_matrix(x.shape[-1], sizes[1], scales[1], mode, coordinates, cubic_a).astype(x.dtype)
    return np.matmul(np.matmul(rows, x), columns.T)
