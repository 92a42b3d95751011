"""matmul, linear, conv2d and conv_transpose2d against the oracle: integers by equality.

Floats by equality too where every sum is exact: their elements are small multiples of 1/8.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from qvit.dialects.semantics.integers import IntType
from qvit.dialects.semantics.products import conv2d, conv_transpose2d, linear, matmul, shift_matmul

I8, UI8, I16, I32, UI32, I64 = (
    IntType(8),
    IntType(8, False),
    IntType(16),
    IntType(32),
    IntType(32, False),
    IntType(64),
)
RANGE32, RANGE64 = oracle.signed(32), oracle.signed(64)


def limits(t: IntType) -> oracle.Range:
    return oracle.signed(t.bits) if t.signed else oracle.unsigned(t.bits)


def random_codes(seed: int, t: IntType, shape: Sequence[int]) -> NDArray[Any]:
    """Codes of type t, about one in four of them an extreme."""
    rng, (lo, hi) = np.random.default_rng(seed), limits(t)
    values = rng.integers(lo, hi, shape, np.int64, endpoint=True)
    return np.where(rng.random(shape) < 0.25, rng.choice([lo, hi], shape), values).astype(t.dtype)


def eighths(seed: int, shape: Sequence[int]) -> NDArray[np.float64]:
    return np.random.default_rng(seed).integers(-40, 41, shape) / 8


# --- matmul ---


def check_matmul(a: NDArray[Any], b: NDArray[Any], za: int, zb: int | list[int], target: IntType) -> None:
    expected = oracle.matmul(a.tolist(), b.tolist(), za, zb, limits(target))
    found = matmul(a, b, (np.array(za), np.array(zb)), target)
    assert found.dtype == target.dtype
    assert found.tolist() == expected


def test_matmul_all_pairs_of_nibbles() -> None:
    nibbles = np.arange(-8, 8, dtype=np.int8)
    for za, zb in product((-8, 0, 3, 7), repeat=2):
        check_matmul(nibbles[:, None], nibbles[None, :], za, zb, I32)


def test_matmul_all_pairs_of_bytes() -> None:
    check_matmul(np.arange(256, dtype=np.uint8)[:, None], np.arange(-128, 128, dtype=np.int8)[None, :], 128, 0, I32)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((2, 3), (3, 4)),
        ((1, 1), (1, 1)),
        ((2, 3, 4), (2, 4, 2)),
        ((2, 3, 4), (4, 2)),
        ((3, 4), (2, 4, 2)),
        ((2, 1, 3, 4), (3, 4, 2)),
    ],
)
@pytest.mark.parametrize(
    ("source", "target"),
    [((I8, I8), I32), ((UI8, I8), I32), ((I16, I8), I32), ((UI8, UI8), I64), ((I32, I8), I64), ((I32, I32), I64)],
)
def test_matmul_shapes(
    left: tuple[int, ...], right: tuple[int, ...], source: tuple[IntType, IntType], target: IntType
) -> None:
    a, b = random_codes(1, source[0], left), random_codes(2, source[1], right)
    if source == (I32, I32):
        a, b = a // 4, b // 4  # sums of up to four products: within 64 bits
    check_matmul(a, b, 0, 0, target)
    if source != (I32, I32):
        check_matmul(a, b, source[0].hi, source[1].lo, target)
        check_matmul(a, b, 1, random_codes(3, source[1], right[-1:]).tolist(), target)


def test_products_of_nothing() -> None:
    zeros = matmul(np.zeros((2, 0), np.int8), np.zeros((0, 3), np.int8), (np.array(5), np.array(1)), I32)
    assert zeros.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert matmul(np.zeros((0, 2), np.int8), np.ones((2, 3), np.int8), None, I32).shape == (0, 3)
    bias = np.array([7, -7], np.int32)
    assert linear(np.zeros((1, 0), np.int8), np.zeros((2, 0), np.int8), bias, None, I32).tolist() == [[7, -7]]


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.data())
def test_matmul_random(seed: int, m: int, k: int, n: int, data: st.DataObject) -> None:
    source = data.draw(st.sampled_from([I8, UI8, I16]))
    a, b = random_codes(seed, source, (m, k)), random_codes(seed + 1, I8, (k, n))
    za, zb = data.draw(st.integers(*limits(source))), data.draw(st.integers(-128, 127))
    check_matmul(a, b, za, zb, I32)


@pytest.mark.parametrize("bits", [23, 24, 25, 52, 53, 54])
@pytest.mark.parametrize("depth", [1, 3, 8])
def test_matmul_where_floats_stop_being_exact(bits: int, depth: int) -> None:
    """Sums just above 2^24 and 2^53: the float type that computes them must be the next one."""
    for first, last in product([0, 1, -1], [1, -1, 3]):
        split = [(1 << bits) // depth] * (depth - 1)
        a = np.array([[*split, (1 << bits) - sum(split) + first, last]], np.int64)
        b = np.ones((depth + 1, 1), np.int64)
        check_matmul(a, b, 0, 0, I64)
        check_matmul(-a, b, 0, 0, I64)
        check_matmul(b.T, a.T, 0, 0, I64)


def test_matmul_at_64_bits() -> None:
    half = 1 << 62
    for a, b in [
        ([[-half]], [[2]]),
        ([[half - 1]], [[2]]),
        ([[half, half]], [[1], [-1]]),
        ([[3, 1]], [[half // 2], [-half // 2]]),
    ]:
        check_matmul(np.array(a), np.array(b), 0, 0, I64)
    for a, b in [([[half]], [[2]]), ([[half - 1] * 3], [[1], [1], [1]]), ([[half, 1]], [[-2], [-1]])]:
        with pytest.raises(OverflowError, match="does not fit i64"):
            matmul(np.array(a), np.array(b), None, I64)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([[-(2**63), 3]], [[1], [2**24 + 1]]),  # |-2^63| is -2^63 in int64
        ([[1, -1]], [[2**62 + 1], [2**62]]),  # the sum of the magnitudes is beyond int64
    ],
)
def test_matmul_of_64_bit_operands(a: list[list[int]], b: list[list[int]]) -> None:
    check_matmul(np.array(a), np.array(b), 0, 0, I64)


def test_matmul_of_64_bit_operands_with_zero_points() -> None:
    check_matmul(np.array([[-(2**63), -(2**63)]]), np.array([[1], [-1]]), 1, 0, I64)  # 0
    with pytest.raises(OverflowError):
        matmul(np.array([[-(2**63)]]), np.array([[1]]), (np.array(1), np.array(0)), I64)


def test_matmul_refuses_sums_that_do_not_fit() -> None:
    a = np.full((1, 2), 2**15, np.int32)
    b = np.array([[2**15], [2**15]], np.int32)
    with pytest.raises(OverflowError, match=r"^2147483648(\.0)? does not fit i32 \(-2147483648..2147483647\)$"):
        matmul(a, b, None, I32)
    check_matmul(-a, b, 0, 0, I32)  # -2^31 fits
    check_matmul(a, b, 0, 0, I64)


def test_matmul_float() -> None:
    a, b = eighths(1, (2, 3, 4)), eighths(2, (4, 2))
    expected = np.array(
        oracle.build((2, 3, 2), lambda i, j, k: sum(float(a[i, j, n]) * float(b[n, k]) for n in range(4)))
    )
    for dtype in (np.float32, np.float64):
        found = matmul(a.astype(dtype), b.astype(dtype))
        assert found.dtype == dtype
        assert found.tolist() == expected.tolist()


# --- shift_matmul ---


def check_shift_matmul(q: NDArray[Any], b: NDArray[Any], zb: int | list[int], target: IntType) -> None:
    expected = oracle.shift_matmul(q.tolist(), b.tolist(), zb, limits(target))
    found = shift_matmul(q, b, np.array(zb), target)
    assert found.dtype == target.dtype
    assert found.tolist() == expected


def test_shift_matmul_all_pairs_of_codes_and_bytes() -> None:
    check_shift_matmul(np.arange(32, dtype=np.uint8)[:, None], np.arange(-128, 128, dtype=np.int8)[None, :], 5, I32)


@pytest.mark.parametrize(("source", "target"), [(I8, I32), (UI8, I64), (I16, I64), (I32, I64)])
@pytest.mark.parametrize(("left", "right"), [((2, 3), (3, 4)), ((2, 1, 3, 7), (3, 7, 2)), ((3, 4), (2, 4, 2))])
def test_shift_matmul(source: IntType, target: IntType, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    columns = right[-1]
    for seed in range(20):
        q, b = random_codes(seed, IntType(5, False), left), random_codes(seed + 100, source, right)
        check_shift_matmul(q, b, 0, target)
        check_shift_matmul(q, b, random_codes(seed, source, [columns]).tolist(), target)


def test_shift_matmul_at_the_accumulators_edge() -> None:
    # 511 terms of -2^22 are the most that fit i32 whatever the signs; 512 reach -2^31 itself, 513 do not fit
    q, b = np.zeros((1, 513), np.uint8), np.full((513, 1), -128, np.int8)
    assert shift_matmul(q[:, :512], b[:512], np.array(0), I32).tolist() == [[-(2**31)]]
    with pytest.raises(OverflowError, match="does not fit i32"):
        shift_matmul(q, b, np.array(0), I32)
    check_shift_matmul(q, b, 0, I64)


# --- linear ---


def check_linear(
    x: NDArray[Any], w: NDArray[Any], bias: list[int] | None, zx: int, zw: int | list[int], target: IntType
) -> None:
    expected = oracle.linear(x.tolist(), w.tolist(), bias, zx, zw, limits(target))
    vector = None if bias is None else np.array(bias, target.dtype)
    found = linear(x, w, vector, (np.array(zx), np.array(zw)), target)
    assert found.dtype == target.dtype
    assert found.tolist() == expected


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("source", [I8, UI8, I16])
def test_linear(shape: tuple[int, ...], source: IntType) -> None:
    x, w = random_codes(1, source, shape), random_codes(2, I8, (5, 4))
    bias = random_codes(3, IntType(24), (5,)).tolist()
    for b, zx, zw in product([None, bias], [0, source.hi, source.lo + 1], [0, -128, [1, -2, 127, -128, 0]]):
        check_linear(x, w, b, zx, zw, I32)
        check_linear(x, w, b, zx, zw, I64)


def test_linear_without_zero_points() -> None:
    x, w = random_codes(1, I8, (3, 4)), random_codes(2, I8, (2, 4))
    assert linear(x, w, None, None, I32).tolist() == oracle.linear(x.tolist(), w.tolist(), None, 0, 0, RANGE32)


def test_linear_sum_and_bias_must_fit_together() -> None:
    x, w = np.array([[2**15]], np.int32), np.array([[2**16]], np.int32)
    check_linear(x, w, [-1], 0, 0, I32)  # 2^31 alone would not fit
    for bias in (None, [0], [2**31 - 1]):
        vector = None if bias is None else np.array(bias, np.int32)
        with pytest.raises(OverflowError, match="does not fit i32"):
            linear(x, w, vector, None, I32)


@pytest.mark.parametrize("sign", [1, -1])
def test_linear_refuses_a_bias_beyond_64_bits(sign: int) -> None:
    with pytest.raises(OverflowError):
        linear(np.array([[sign]]), np.array([[2**63 - 1]]), np.array([sign * 2]), None, I64)


def test_linear_float() -> None:
    x, w, bias = eighths(1, (3, 4)), eighths(2, (2, 4)), eighths(3, (2,))
    for b in (None, bias):
        for dtype in (np.float32, np.float64):
            found = linear(x.astype(dtype), w.astype(dtype), None if b is None else b.astype(dtype))
            assert found.dtype == dtype
            for i, n in oracle.indices((3, 2)):
                total = sum(float(x[i, k]) * float(w[n, k]) for k in range(4))
                assert found[i, n] == total + (0 if b is None else float(b[n]))


# --- convolutions ---

# x, weight, strides, padding, dilations, groups
CONVOLUTIONS = [
    ((1, 1, 4, 4), (1, 1, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    ((2, 3, 5, 4), (4, 3, 3, 2), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    ((1, 2, 6, 7), (3, 2, 2, 3), (2, 3), (0, 0, 0, 0), (1, 1), 1),
    ((1, 2, 3, 4), (2, 2, 3, 3), (1, 1), (1, 0, 2, 3), (1, 1), 1),
    ((1, 2, 7, 8), (2, 2, 3, 2), (1, 2), (0, 1, 2, 0), (2, 3), 1),
    ((2, 4, 4, 4), (6, 2, 2, 2), (2, 1), (1, 1, 0, 0), (1, 1), 2),
    ((1, 3, 5, 5), (3, 1, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 3),
    ((1, 4, 6, 6), (8, 1, 3, 3), (2, 2), (1, 2, 0, 1), (2, 1), 4),
    ((1, 1, 2, 2), (2, 1, 4, 4), (1, 1), (1, 1, 1, 1), (1, 1), 1),
]
GEOMETRIES = pytest.mark.parametrize("geometry", CONVOLUTIONS, ids=lambda g: f"{g[0]}{g[1]}")
Geometry = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], int]


@GEOMETRIES
@pytest.mark.parametrize("source", [I8, UI8])
def test_conv2d_integers(geometry: Geometry, source: IntType) -> None:
    x, w = random_codes(1, source, geometry[0]), random_codes(2, I8, geometry[1])
    outputs = geometry[1][0]
    channel = random_codes(4, I8, (outputs,)).tolist()
    bias = random_codes(3, IntType(20), (outputs,)).tolist()
    for b, zx, zw in [(None, 0, 0), (bias, source.lo, -128), (bias, source.hi, channel), (None, 1, channel)]:
        expected = oracle.conv2d(x.tolist(), w.tolist(), b, *geometry[2:], zx, zw)
        vector = None if b is None else np.array(b, np.int32)
        for target in (I32, I64):
            found = conv2d(x, w, vector, *geometry[2:], (np.array(zx), np.array(zw)), target)
            assert found.dtype == target.dtype
            assert found.tolist() == expected


@GEOMETRIES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_conv2d_floats(geometry: Geometry, dtype: type) -> None:
    x, w, bias = eighths(1, geometry[0]), eighths(2, geometry[1]), eighths(3, geometry[1][:1])
    for b in (None, bias):
        expected = oracle.conv2d(x.tolist(), w.tolist(), None if b is None else b.tolist(), *geometry[2:])
        vector = None if b is None else b.astype(dtype)
        found = conv2d(x.astype(dtype), w.astype(dtype), vector, *geometry[2:])
        assert found.dtype == dtype
        assert found.tolist() == expected


def test_conv2d_refuses_sums_that_do_not_fit() -> None:
    x, w = np.full((1, 1, 1, 1), 2**15, np.int32), np.full((1, 1, 1, 1), 2**16, np.int32)
    geometry = ((1, 1), (0, 0, 0, 0), (1, 1), 1)
    with pytest.raises(OverflowError, match="does not fit i32"):
        conv2d(x, w, None, *geometry, None, I32)
    assert conv2d(x, w, np.array([-1], np.int32), *geometry, None, I32).item() == 2**31 - 1
    assert conv2d(x, w, None, *geometry, None, I64).item() == 2**31


# x, weight, strides, padding, dilations, groups, output_padding
TRANSPOSED = [
    ((1, 1, 3, 3), (1, 1, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, (0, 0)),
    ((2, 3, 3, 4), (3, 2, 2, 3), (1, 1), (0, 0, 0, 0), (1, 1), 1, (0, 0)),
    ((1, 2, 3, 2), (2, 3, 2, 2), (2, 3), (0, 0, 0, 0), (1, 1), 1, (1, 2)),
    ((1, 2, 4, 3), (2, 2, 3, 3), (2, 1), (1, 0, 2, 1), (1, 1), 1, (0, 0)),
    ((1, 2, 3, 3), (2, 2, 3, 2), (1, 2), (0, 1, 2, 0), (2, 3), 1, (0, 1)),
    ((2, 4, 3, 3), (4, 2, 2, 2), (2, 2), (1, 1, 0, 0), (1, 1), 2, (1, 0)),
    ((1, 3, 3, 3), (3, 1, 3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 3, (1, 1)),
]


@pytest.mark.parametrize("geometry", TRANSPOSED, ids=lambda g: f"{g[0]}{g[1]}")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_conv_transpose2d(geometry: tuple[Any, ...], dtype: type) -> None:
    x, w = eighths(1, geometry[0]), eighths(2, geometry[1])
    bias = eighths(3, [geometry[1][1] * geometry[5]])
    for b in (None, bias):
        expected = oracle.conv_transpose2d(x.tolist(), w.tolist(), None if b is None else b.tolist(), *geometry[2:])
        vector = None if b is None else b.astype(dtype)
        found = conv_transpose2d(x.astype(dtype), w.astype(dtype), vector, *geometry[2:])
        assert found.dtype == dtype
        assert found.tolist() == expected


def test_conv_transpose2d_is_the_adjoint_of_conv2d() -> None:
    """sum(conv2d(x) * y) = sum(x * conv_transpose2d(y)), exactly on eighths."""
    for x_shape, w_shape, strides, padding, dilations, groups in CONVOLUTIONS:
        x, w = eighths(1, x_shape), eighths(2, w_shape)
        forward = conv2d(x, w, None, strides, padding, dilations, groups)
        y = eighths(3, forward.shape)
        reach = [dilations[i] * (w_shape[2 + i] - 1) + 1 for i in (0, 1)]
        padded = [x_shape[2 + i] + padding[i] + padding[2 + i] for i in (0, 1)]
        rest = [(padded[i] - reach[i]) % strides[i] for i in (0, 1)]  # pixels that no window reaches
        back = conv_transpose2d(y, w, None, strides, padding, dilations, groups, rest)
        assert back.shape == x.shape
        assert (forward * y).sum() == (x * back).sum()
