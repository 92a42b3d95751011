"""Integer add, sub and mul against the oracle; comparisons against Python; the float functions against `math`."""

import math
import operator
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from qvit.dialects.semantics.elementwise import (
    COMPARISONS,
    add,
    argmax,
    clip,
    compare,
    erf,
    mul,
    relu,
    select,
    sigmoid,
    sub,
)
from qvit.dialects.semantics.integers import IntType

I8, UI8, I16, I32, UI32, I64 = (
    IntType(8),
    IntType(8, False),
    IntType(16),
    IntType(32),
    IntType(32, False),
    IntType(64),
)
Arithmetic = Callable[..., NDArray[Any]]
ARITHMETIC = pytest.mark.parametrize(
    ("function", "exact"), [(add, operator.add), (sub, operator.sub), (mul, operator.mul)], ids=["add", "sub", "mul"]
)


def limits(t: IntType) -> oracle.Range:
    return oracle.signed(t.bits) if t.signed else oracle.unsigned(t.bits)


def check(function: Arithmetic, exact: Callable[..., int], a: NDArray[Any], b: NDArray[Any], target: IntType) -> None:
    expected = oracle.elementwise(lambda x, y: oracle.fitted(exact(x, y), limits(target)), a.tolist(), b.tolist())
    found = function(a, b, target)
    assert found.dtype == target.dtype
    assert found.tolist() == expected


@ARITHMETIC
def test_all_pairs_of_bytes(function: Arithmetic, exact: Callable[..., int]) -> None:
    signed, unsigned = np.arange(-128, 128, dtype=np.int8), np.arange(256, dtype=np.uint8)
    for a, b in product((signed, unsigned), repeat=2):
        check(function, exact, a[:, None], b, I32)


@ARITHMETIC
@pytest.mark.parametrize(("left", "right"), [((2, 3), (3,)), ((3,), (2, 1)), ((2, 1, 3), (4, 1)), ((), (2,)), ((), ())])
def test_broadcasting(
    function: Arithmetic, exact: Callable[..., int], left: tuple[int, ...], right: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(-128, 128, left, np.int8), rng.integers(0, 256, right, np.uint8)
    check(function, exact, np.asarray(a), np.asarray(b), I32)


@ARITHMETIC
@pytest.mark.parametrize("source", [I8, UI8, I16, I32, UI32], ids=str)
def test_extremes(function: Arithmetic, exact: Callable[..., int], source: IntType) -> None:
    lo, hi = limits(source)
    edges = np.array([lo, 0, 1, hi], source.dtype)
    others = edges[:-1] if source is UI32 else edges  # its largest square has 64 bits
    check(function, exact, edges[:, None], others, I64)


def test_largest_square_of_ui32() -> None:
    largest = np.array([2**32 - 1], np.uint32)
    with pytest.raises(OverflowError, match=f"^{(2**32 - 1) ** 2} does not fit i64"):
        mul(largest, largest, I64)


@ARITHMETIC
def test_nothing(function: Arithmetic, exact: Callable[..., int]) -> None:
    assert function(np.zeros((0, 2), np.int8), np.ones(2, np.int8), I32).shape == (0, 2)


@ARITHMETIC
@given(
    st.integers(*oracle.signed(32)),
    st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31), 2]) | st.integers(*oracle.signed(32)),
)
def test_32_bits_fit_or_raise(function: Arithmetic, exact: Callable[..., int], a: int, b: int) -> None:
    operands = np.array([a], np.int32), np.array([b], np.int32)
    lo, hi = oracle.signed(32)
    if lo <= exact(a, b) <= hi:
        check(function, exact, *operands, I32)
    else:
        with pytest.raises(OverflowError, match=f"^{exact(a, b)} does not fit i32"):
            function(*operands, I32)


@ARITHMETIC
def test_just_beside_the_result_type(function: Arithmetic, exact: Callable[..., int]) -> None:
    """The largest and smallest results fit, one more does not."""
    cases = {
        add: [(2**31 - 2, 1, True), (2**31 - 1, 1, False), (-(2**31) + 1, -1, True), (-(2**31), -1, False)],
        sub: [(2**31 - 2, -1, True), (2**31 - 1, -1, False), (-(2**31) + 1, 1, True), (-(2**31), 1, False)],
        mul: [(2**30, 2, False), (-(2**30), 2, True), (2**31 - 1, 1, True), (-(2**31), -1, False)],
    }
    for a, b, fits in cases[function]:
        operands = np.array([a], np.int32), np.array([b], np.int32)
        if fits:
            check(function, exact, *operands, I32)
        else:
            with pytest.raises(OverflowError, match=f"^{exact(a, b)} does not fit i32"):
                function(*operands, I32)


def test_products_at_64_bits() -> None:
    for a, b in [(-(2**62), 2), (2**62 - 1, 2), (-(2**63), 1), (2**63 - 1, -1), (3037000499, 3037000499)]:
        check(mul, operator.mul, np.array([a]), np.array([b]), I64)
    for a, b in [(2**62, 2), (-(2**63), -1), (3037000500, 3037000500), (2**63 - 1, 2**63 - 1)]:
        with pytest.raises(OverflowError, match=f"^{a * b} does not fit i64"):
            mul(np.array([a]), np.array([b]), I64)


@pytest.mark.parametrize(
    ("function", "a", "b"), [(add, 2**63 - 1, 1), (add, -(2**63), -1), (sub, -(2**63), 1), (sub, 2**63 - 1, -1)]
)
def test_sums_at_64_bits(function: Arithmetic, a: int, b: int) -> None:
    with pytest.raises(OverflowError):
        function(np.array([a]), np.array([b]), I64)


def test_scalar_products_at_64_bits() -> None:
    with pytest.raises(OverflowError):
        mul(np.array(2**62), np.array(2), I64)


@ARITHMETIC
def test_floats(function: Arithmetic, exact: Callable[..., float]) -> None:
    a, b = [0.1, -3.7, 1e30], [2.5, 0.3, -1e-3]
    for dtype in (np.float32, np.float64):
        x, y = np.array(a, dtype), np.array(b, dtype)
        found = function(x, y)
        assert found.dtype == dtype
        assert found.tolist() == [float(dtype(exact(p, q))) for p, q in zip(x.tolist(), y.tolist(), strict=True)]


def test_relu() -> None:
    for dtype in (np.float32, np.float64):
        found = relu(np.array([-np.inf, -1.5, -0.0, 0.0, 1e-30, 2.5, np.inf], dtype))
        assert found.dtype == dtype
        assert found.tolist() == [0, 0, 0, 0, float(dtype(1e-30)), 2.5, np.inf]


@pytest.mark.filterwarnings("error")  # without overflow, as it says
def test_sigmoid() -> None:
    x = [*np.linspace(-40, 40, 801).tolist(), -800.0, 800.0, -1e308, 1e308]
    expected = [1 / (1 + math.exp(-v)) if v > -700 else 0.0 for v in x]
    found = sigmoid(np.array(x))
    np.testing.assert_allclose(found, expected, rtol=4e-16 * 4, atol=1e-300)
    np.testing.assert_allclose(found + sigmoid(-np.array(x)), 1, rtol=1e-15)
    single = sigmoid(np.array(x[:-4], np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected[:-4], rtol=1e-5)


def test_erf_within_its_bound() -> None:
    random = np.random.default_rng(0)
    x = np.concatenate([np.linspace(-7, 7, 20001), random.normal(size=2000), 10.0 ** np.arange(-300, 300, 7)])
    # 1e-15, and the last place of the result near 1
    assert np.abs(erf(x) - [math.erf(v) for v in x]).max() <= 1e-15 + 2.0**-53
    assert (erf(-x) == -erf(x)).all()


def test_erf_edges() -> None:
    assert erf(np.array([0.0, np.inf, -np.inf, 1e300])).tolist() == [0, 1, -1, 1]
    assert math.copysign(1, erf(np.array([-0.0]))[0]) == -1
    assert erf(np.zeros((2, 0, 3))).shape == (2, 0, 3)
    assert erf(np.array(0.5)).shape == ()
    x = np.linspace(-3, 3, 24, dtype=np.float32).reshape(2, 3, 4)
    assert erf(x).dtype == np.float32
    assert erf(x).tolist() == oracle.build(x.shape, lambda *i: float(np.float32(math.erf(x[i]))))


def test_erf_in_pieces() -> None:
    """More elements than one piece has, and not a multiple of it."""
    x = np.linspace(-6.5, 6.5, 2 * (1 << 15) + 77)
    y = erf(x)
    ends = [0, (1 << 15) - 1, 1 << 15, (1 << 16) - 1, 1 << 16, x.size - 1]
    np.testing.assert_allclose(y[ends], [math.erf(x[i]) for i in ends], atol=1.2e-15)
    assert (np.diff(y) >= -3e-16).all()


@pytest.mark.filterwarnings("ignore:invalid value")
def test_erf_of_nan() -> None:
    assert np.isnan(erf(np.array([np.nan]))).all()


# --- choices ---

RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


def test_every_relation_is_here() -> None:
    assert RELATIONS.keys() == COMPARISONS.keys()


@pytest.mark.parametrize("predicate", RELATIONS)
def test_compare(predicate: str) -> None:
    floats = np.array([-np.inf, -1.5, -0.0, 0.0, 1e-30, 2.5, np.inf, np.nan])
    for values in (floats, np.arange(-128, 128, dtype=np.int8), np.array([0, 2**32 - 1], np.uint32)):
        found = compare(values[:, None], values, predicate)
        assert found.dtype == np.uint8
        assert found.tolist() == [[int(RELATIONS[predicate](a, b)) for b in values.tolist()] for a in values.tolist()]


@pytest.mark.parametrize("bounds", [(-3, 5), (0, 0), (-128, 127), (4, 90)])
def test_clip_of_codes(bounds: tuple[int, int]) -> None:
    codes = np.arange(-128, 128, dtype=np.int8)
    found = clip(codes, *bounds)
    assert found.dtype == np.int8
    assert found.tolist() == [oracle.saturated(code, bounds) for code in codes.tolist()]


def test_clip_of_codes_by_channels() -> None:
    codes = np.arange(-128, 128, dtype=np.int8)
    x, bounds = np.stack([codes] * 3, axis=1), [(-2, 1), (-128, 127), (5, 5)]
    found = clip(x, np.array([low for low, _ in bounds]), np.array([[high for _, high in bounds]]))
    assert found.dtype == np.int8
    assert found.T.tolist() == [[oracle.saturated(code, bound) for code in codes.tolist()] for bound in bounds]


@pytest.mark.parametrize("codes", [IntType(2), I8, UI32, I64], ids=str)
def test_argmax(codes: IntType) -> None:
    rng = np.random.default_rng(codes.bits)
    x = rng.integers(codes.lo, codes.hi, (3000, 4), endpoint=True, dtype=codes.dtype)
    assert argmax(x, 1, False).tolist() == [oracle.argmax(row) for row in x.tolist()]
    kept = argmax(x, 0, True)
    assert kept.tolist() == [[oracle.argmax(column) for column in x.T.tolist()]]
    assert kept.dtype == np.int64


def test_argmax_takes_the_first_of_equal_ones() -> None:
    rows = np.array(list(product((-1.5, 0.0, 2.5), repeat=4)))
    assert argmax(rows, 1, False).tolist() == [oracle.argmax(row) for row in rows.tolist()]


def test_clip_of_floats() -> None:
    for dtype in (np.float32, np.float64):
        found = clip(np.array([-np.inf, -1.5, 0.25, 2.5, np.inf, np.nan], dtype), 0.1, None)
        assert found.dtype == dtype
        low = float(dtype(0.1))
        np.testing.assert_array_equal(found, [low, low, 0.25, 2.5, np.inf, np.nan])


def test_select() -> None:
    condition = np.array([[1], [0]], np.uint8)
    for a, b in (([1, 2, 3], -4), ([0.5, np.inf, np.nan], -0.5)):
        found = select(condition, np.array(a), np.array(b))
        np.testing.assert_array_equal(found, [a, [b, b, b]])
    assert select(condition, np.int8(1), np.int8(2)).dtype == np.int8
