"""Operations that only move elements, against the oracle; every element is a different number."""

from typing import Any

import numpy as np
import oracle
import pytest
from numpy.typing import NDArray

from qvit.dialects.semantics.shape import broadcast, concat, gather, reshape, slice_, transpose

DTYPES = pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.float32, np.float64])


def numbered(*shape: int, dtype: type = np.int32, start: int = 0) -> NDArray[Any]:
    return (np.arange(np.prod(shape, dtype=int)) + start).reshape(shape).astype(dtype)


def check(found: NDArray[Any], expected: oracle.Nested, dtype: Any = np.int32) -> None:
    assert found.dtype == dtype
    assert found.tolist() == expected


@DTYPES
def test_reshape(dtype: type) -> None:
    for before, after in [((2, 3, 4), (4, 6)), ((4, 6), (2, 3, 4)), ((1,), ()), ((), (1, 1)), ((6,), (3, 2))]:
        x = numbered(*before, dtype=dtype)
        check(reshape(x, after), oracle.reshape(x.tolist(), after), dtype)
    # in row-major order of the value, however it lies in memory
    assert reshape(numbered(2, 3).T, [6]).tolist() == [0, 3, 1, 4, 2, 5]


@DTYPES
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1), (0, 2, 1)])
def test_transpose(order: tuple[int, ...], dtype: type) -> None:
    x = numbered(2, 3, 4, dtype=dtype)
    check(transpose(x, order), oracle.transpose(x.tolist(), order), dtype)


def test_transpose_by_hand() -> None:
    x = numbered(2, 3, 4)
    assert transpose(x, (1, 2, 0)).shape == (3, 4, 2)
    assert transpose(x, (1, 2, 0))[2, 3, 1] == x[1, 2, 3]


@pytest.mark.parametrize(
    ("start", "size", "step"),
    [(0, 5, 1), (1, 3, 1), (4, 1, 1), (0, 3, 2), (1, 2, 3), (4, 5, -1), (4, 3, -2), (2, 3, -1), (3, 1, -7)],
)
def test_slice(start: int, size: int, step: int) -> None:
    for axis, shape in [(0, (5,)), (0, (5, 2)), (1, (2, 5, 3)), (2, (1, 2, 5))]:
        x = numbered(*shape)
        check(slice_(x, axis, start, size, step), oracle.slice_(x.tolist(), axis, start, size, step))
    x = numbered(5)
    assert slice_(x, 0, 1, 4).tolist() == [1, 2, 3, 4]  # one step unless said otherwise


@DTYPES
def test_concat(dtype: type) -> None:
    for axis, shapes in [
        (0, [(2,), (3,), (1,)]),
        (0, [(1, 3), (2, 3)]),
        (1, [(2, 1, 2), (2, 3, 2)]),
        (2, [(1, 2, 3)] * 3),
    ]:
        parts = [numbered(*s, dtype=dtype, start=10 * i) for i, s in enumerate(shapes)]
        check(concat(parts, axis), oracle.concat([p.tolist() for p in parts], axis), dtype)


@pytest.mark.parametrize("where", [2, [0, 0, 4], [[1, 2], [4, 3]], [[[0]]]])
@pytest.mark.parametrize("index_type", [np.int8, np.uint8, np.int64])
def test_gather(where: oracle.Nested, index_type: type) -> None:
    for axis, shape in [(0, (5,)), (0, (5, 2)), (1, (2, 5, 3)), (2, (1, 2, 5))]:
        x = numbered(*shape)
        found = gather(x, np.array(where, index_type), axis)
        check(found, oracle.gather(x.tolist(), where, axis))


def test_gather_nothing() -> None:
    assert gather(numbered(2, 0), np.zeros((3, 0), np.int8), 1).shape == (2, 3, 0)


@pytest.mark.parametrize("where", [[0, 5], [-1], [3, -1], [127, -128], -1])
def test_gather_refuses_what_is_outside(where: oracle.Nested) -> None:
    lo, hi = np.min(where), np.max(where)
    with pytest.raises(IndexError, match=f"^gather: indices reach {lo}..{hi}, axis 1 has 5$"):
        gather(numbered(2, 5), np.array(where, np.int8), 1)


@DTYPES
def test_broadcast(dtype: type) -> None:
    for before, after in [
        ((3,), (2, 3)),
        ((2, 1, 3), (2, 4, 3)),
        ((1, 1), (2, 2)),
        ((), (2,)),
        ((2,), (2,)),
        ((1,), (0,)),
    ]:
        x = numbered(*before, dtype=dtype)
        check(broadcast(x, after), oracle.broadcast(x.tolist(), after), dtype)
