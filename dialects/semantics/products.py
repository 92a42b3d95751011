"""Matrix products and convolutions, in float and in integers with zero points."""

from collections.abc import Sequence
from math import prod

import numpy as np

from qvit.dialects.semantics.integers import Array, IntType, fit, magnitude, minus, plus, widen

_ZERO = np.zeros((), np.int64)

_EXACT_IN = ((np.float32, 1 << 24), (np.float64, 1 << 53))
"""Float types and the integers below which every sum and product in them is exact: BLAS has no integer product."""


def _integer_product(a: Array, b: Array, result: IntType) -> Array:
    """a @ b for integers, exactly, through the narrowest float BLAS in which no partial sum can round."""
    # |sum_k a_ik b_kj| <= max|a| * max_j sum_k |b_kj|, and so for every partial sum in any order
    depth, largest = b.shape[-2], magnitude(b)
    columns = int(np.abs(b).sum(axis=-2).max(initial=0)) if depth * largest < 1 << 63 else depth * largest
    bound = magnitude(a) * columns
    for dtype, limit in _EXACT_IN:
        if bound <= limit:
            return fit(np.matmul(a.astype(dtype), b.astype(dtype)).astype(np.int64), result)
    if bound < 1 << 63:
        return fit(np.matmul(a, b), result)
    return fit(np.matmul(a.astype(object), b.astype(object)), result)


def matmul(a: Array, b: Array, zero_points: tuple[Array, Array] | None = None, result: IntType | None = None) -> Array:
    """C = A B over the last two dimensions, the others broadcast; a [..., M, K], b [..., K, N] -> [..., M, N].

    Integers: sum_k (a - za)(b - zb), exact; OverflowError if a sum does not fit `result`. za is a scalar, zb a scalar
    or one value a column [N].
    """
    if result is None:
        return np.matmul(a, b)
    za, zb = zero_points or (_ZERO, _ZERO)
    return _integer_product(minus(widen(a), za), minus(widen(b), zb), result)


LOG_FRACTION = 15
"""Fraction bits of the powers of two that `shift_matmul` multiplies by: its results are in units of 2^-15."""


def shift_matmul(q: Array, b: Array, zero_point: Array, result: IntType) -> Array:
    """C = sum_k (2^15 >> q)(b - zero_point); codes q >= 0 [..., M, K], b [..., K, N] -> [..., M, N], exact.

    OverflowError if a sum does not fit `result`. zero_point is a scalar or one value a column [N].
    """
    return _integer_product((1 << LOG_FRACTION) >> widen(q), minus(widen(b), zero_point), result)


def linear(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    zero_points: tuple[Array, Array] | None = None,
    result: IntType | None = None,
) -> Array:
    """y = x W^T + bias; x [..., K], weight [N, K], bias [N] -> [..., N].

    Integers: sum_k (x - zx)(w - zw) + bias, exact; zw is a scalar or one value an output channel [N].
    """
    # all rows in one product: np.matmul would take one for each index of the leading dimensions
    shape = (*x.shape[:-1], len(weight))
    rows = x.reshape(prod(x.shape[:-1]), x.shape[-1])
    if result is None:
        y = np.matmul(rows, weight.T).reshape(shape)
        return y if bias is None else y + bias
    zx, zw = zero_points or (_ZERO, _ZERO)
    weight = minus(widen(weight), zw[:, None] if zw.ndim else zw)
    y = _integer_product(minus(widen(rows), zx), weight.T, IntType(64)).reshape(shape)
    return fit(y if bias is None else plus(y, widen(bias)), result)


def _patches(x: Array, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Array:
    """Sliding windows of x [B, C, H, W] (padded already): a view [B, C, OH, OW, KH, KW]."""
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, (2, 3))
    return windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None,
    strides: Sequence[int],
    padding: Sequence[int],
    dilations: Sequence[int],
    groups: int,
    zero_points: tuple[Array, Array] | None = None,
    result: IntType | None = None,
) -> Array:
    """2-D convolution, NCHW: x [B, C, H, W], weight [O, C / groups, KH, KW], bias [O] -> [B, O, OH, OW].

    padding is (top, left, bottom, right), of real zeros. Integers: sums of (x - zx)(w - zw) plus bias, exact.
    """
    zx, zw = zero_points or (_ZERO, _ZERO)
    if result is not None:
        x, weight = minus(widen(x), zx), minus(widen(weight), zw[:, None, None, None] if zw.ndim else zw)
    top, left, bottom, right = padding
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    out_channels, group_channels, *kernel = weight.shape
    windows = _patches(x, kernel, strides, dilations)
    batch, _, height, width = windows.shape[:4]
    # im2col: [B, groups, OH * OW, C/g * KH * KW] times [groups, C/g * KH * KW, O/g]
    columns = windows.reshape(batch, groups, group_channels, height, width, *kernel)
    columns = columns.transpose(0, 1, 3, 4, 2, 5, 6).reshape(batch, groups, height * width, -1)
    filters = weight.reshape(groups, out_channels // groups, -1).transpose(0, 2, 1)
    if result is None:
        y = np.matmul(columns, filters)
    else:
        y = _integer_product(columns, filters, IntType(64))
    y = y.transpose(0, 1, 3, 2).reshape(batch, out_channels, height, width)
    if result is None:
        return y if bias is None else y + bias[:, None, None]
    return fit(y if bias is None else plus(y, widen(bias)[:, None, None]), result)


def conv_transpose2d(
    x: Array,
    weight: Array,
    bias: Array | None,
    strides: Sequence[int],
    padding: Sequence[int],
    dilations: Sequence[int],
    groups: int,
    output_padding: Sequence[int],
) -> Array:
    """The transposed convolution (float): x [B, C, H, W], weight [C, O / groups, KH, KW] -> [B, O, OH, OW].

    OH = (H - 1) * stride - top - bottom + dilation * (KH - 1) + output_padding + 1, likewise OW. ONNX ConvTranspose.
    """
    batch, channels, height, width = x.shape
    _, group_outputs, kh, kw = weight.shape
    full_h = (height - 1) * strides[0] + dilations[0] * (kh - 1) + 1 + output_padding[0]
    full_w = (width - 1) * strides[1] + dilations[1] * (kw - 1) + 1 + output_padding[1]
    full = np.zeros((batch, groups, group_outputs, full_h, full_w), x.dtype)
    pixels = x.reshape(batch, groups, channels // groups, height * width).transpose(0, 1, 3, 2)
    filters = weight.reshape(groups, channels // groups, group_outputs, kh, kw)
    for i in range(kh):
        for j in range(kw):
            term = np.matmul(pixels, filters[:, :, :, i, j]).transpose(0, 1, 3, 2)
            rows = slice(i * dilations[0], i * dilations[0] + (height - 1) * strides[0] + 1, strides[0])
            columns = slice(j * dilations[1], j * dilations[1] + (width - 1) * strides[1] + 1, strides[1])
            full[..., rows, columns] += term.reshape(batch, groups, group_outputs, height, width)
    top, left, bottom, right = padding
    y = full.reshape(batch, -1, full_h, full_w)[:, :, top : full_h - bottom, left : full_w - right]
    return y if bias is None else y + bias[:, None, None]
