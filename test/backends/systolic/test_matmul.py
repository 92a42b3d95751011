"""`matmul` in the simulator against products of Python's integers, in all types, layouts and shapes."""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from systolic_programs import I8, I16, I32, LARGE, SMALL, U8, U16, Bench, numbers, packed, rows_of

from qvit.backends.systolic.isa import Address, Dataflow, MatrixMultiply, Memory
from qvit.backends.systolic.machine import Machine
from qvit.backends.systolic.simulator import Trap
from qvit.dialects.semantics.integers import Array, IntType

SHAPES = [(1, 1, 1), (1, 40, 3), (5, 1, 7), (16, 16, 16), (17, 33, 18), (40, 7, 1)]
"""Rows, depth, columns."""
A, B, ACC, OUT = 96, 64, 32, 1 << 16


def bench(
    a: Array,
    a_type: IntType,
    b: Array,
    b_type: IntType,
    machine: Machine = SMALL,
    strides: tuple[int, int, int] = (0, 0, 0),
    **fields: Any,
) -> Bench:
    """ACC = A B, brought to the output `c`. strides: bytes between rows of A, B and ACC beyond what they take."""
    rows, depth = a.shape
    columns = b.shape[1]
    memory = fields.get("b_memory", Memory.WBUF)
    laid = b.T if fields.get("transposed") else b
    stored = packed(laid, b_type.bits) if memory == Memory.WBUF and b_type.bits < 8 else laid
    a_row, acc_row = depth * a.itemsize + strides[0] * a.itemsize, 4 * (columns + strides[2])
    b_row = stored.shape[1] * stored.itemsize + strides[1]
    found = Bench(machine)
    found.put(Memory.SPM, A, rows_of(a, a_row))
    found.put(memory, B if memory == Memory.WBUF else 1 << 15, rows_of(stored, b_row))
    multiply = MatrixMultiply(
        a=Address(A), a_row=a_row, a_type=a_type, b=Address(B if memory == Memory.WBUF else 1 << 15), b_row=b_row,
        b_type=b_type, acc=Address(ACC), acc_row=acc_row, rows=rows, depth=depth, columns=columns,
        **{"b_memory": memory, **fields},
    )  # fmt: skip
    if multiply.accumulate:
        found.add(replace(multiply, accumulate=0))
    found.add(multiply)
    found.sums(ACC, rows, columns, acc_row, OUT)
    found.get("c", OUT, (rows, columns), I32)
    return found


def expected(a: Array, a_zero: int, b: Array, b_zero: int) -> Array:
    return (a.astype(object) - a_zero) @ (b.astype(object) - b_zero)


@pytest.mark.parametrize("a_type", [IntType(2), IntType(4, False), I8, U8, IntType(11), I16, U16], ids=str)
@pytest.mark.parametrize("b_type", [IntType(2), IntType(3), IntType(4), IntType(4, False), I8, U8], ids=str)
def test_types(a_type: IntType, b_type: IntType) -> None:
    rng = np.random.default_rng(a_type.bits * 10 + b_type.bits)
    for memory, transposed, (m, k, n) in product((Memory.WBUF, Memory.SPM), (0, 1), SHAPES):
        a, b = numbers(rng, a_type, (m, k)), numbers(rng, b_type, (k, n))
        a_zero, b_zero = (int(rng.integers(max(t.lo, -256), min(t.hi, 255), endpoint=True)) for t in (a_type, b_type))
        strides = (int(rng.integers(3)), int(rng.integers(4)), int(rng.integers(3)))
        found = bench(
            a, a_type, b, b_type, LARGE, strides, b_memory=memory, transposed=transposed, a_zero=a_zero, b_zero=b_zero
        )
        assert (found.outcome()["c"] == expected(a, a_zero, b, b_zero)).all()


@pytest.mark.parametrize("dataflow", Dataflow)
def test_accumulates(dataflow: Dataflow) -> None:
    rng = np.random.default_rng(0)
    a, b = numbers(rng, I8, (19, 40)), numbers(rng, I8, (40, 21))
    found = bench(a, I8, b, I8, dataflow=dataflow, accumulate=1, a_zero=-7).outcome()["c"]
    assert (found == 2 * expected(a, -7, b, 0)).all()


def test_logarithmic_codes() -> None:
    rng = np.random.default_rng(0)
    codes, b = rng.integers(0, 17, (19, 40)).astype(np.int8), numbers(rng, I8, (40, 21))
    codes[0, :3] = 127, 15, 16
    found = bench(codes, I8, b, I8, LARGE, logarithmic=1, b_zero=3).outcome()["c"]
    assert (found == (1 << 15 >> codes.astype(object)) @ (b.astype(object) - 3)).all()
    codes[3, 4] = -1
    with pytest.raises(Trap, match=r"matmul .*must not be negative, found -1"):
        bench(codes, I8, b, I8, LARGE, logarithmic=1).run()


def test_a_row_may_repeat_or_overlap() -> None:
    """Rows 0 and 3 bytes apart: the same row for all, and a window that moves."""
    rng = np.random.default_rng(1)
    line, b = numbers(rng, I8, (1, 40)), numbers(rng, I8, (8, 5))
    for stride in (0, 3):
        found = bench(line, I8, numbers(rng, I8, (40, 5)), I8)
        found.instructions = found.instructions[:1]
        found.put(Memory.WBUF, B, b)
        found.add(
            MatrixMultiply(
                a=Address(A), a_row=stride, b=Address(B), b_row=5, b_memory=Memory.WBUF, acc=Address(0), acc_row=20,
                rows=9, depth=8, columns=5,
            )
        )  # fmt: skip
        found.sums(0, 9, 5, 20, OUT)
        found.outputs.clear()
        found.get("c", OUT, (9, 5), I32)
        windows = np.stack([line[0, row * stride : row * stride + 8] for row in range(9)])
        assert (found.outcome()["c"] == expected(windows, 0, b, 0)).all()


def test_the_largest_sum_fits_and_one_more_does_not() -> None:
    whole, rest = divmod((1 << 31) - 1, 32767 * 127)
    a = np.array([[*[32767] * whole, rest // 127, rest % 127]], np.int16)
    b = np.array([[*[127] * (whole + 1), 1]], np.int8).T
    assert bench(a, I16, b, I8).outcome()["c"] == [[(1 << 31) - 1]]
    a[0, -1] += 1
    with pytest.raises(Trap, match=r"2147483648 does not fit i32"):
        bench(a, I16, b, I8).run()
    half = np.full((1, 517), 1 << 14, np.int16), np.full((517, 1), 127, np.int8)
    with pytest.raises(Trap, match=r"matmul .*accumulate=1.*does not fit i32"):
        bench(half[0], I16, half[1], I8, accumulate=1).run()


def test_numbers_must_be_of_their_type() -> None:
    a, b = np.full((2, 3), 8, np.int8), np.ones((3, 2), np.int8)
    with pytest.raises(Trap, match=r"8 does not fit i4"):
        bench(a, IntType(4), b, I8).run()
