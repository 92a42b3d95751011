"""Vector instructions in the simulator against the semantics, on random and extreme numbers of all types."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from approximation_examples import CHANNELS, EXAMPLES, Example, masks, rows
from systolic_programs import I8, I16, I32, LARGE, SMALL, TYPES, U8, Bench, numbers, rows_of

from qvit.backends.systolic.constants import Block, Records
from qvit.backends.systolic.isa import (
    FUNCTIONS,
    ROUNDINGS,
    AddRequantize,
    Address,
    Arith,
    Arithmetic,
    Copy,
    Function,
    Instruction,
    MatrixMultiply,
    Memory,
    Reduce,
    Reduction,
    Requantize,
    Threshold,
)
from qvit.backends.systolic.simulator import Trap
from qvit.dialects.approximations.base import FunctionApproximation, LayerNormApproximation, SoftmaxApproximation
from qvit.dialects.semantics import elementwise, quantization
from qvit.dialects.semantics.integers import Array, Int64, IntType, widen

SHAPES = [(1, 1), (1, 37), (23, 1), (7, 16), (5, 33)]
FIRST, SECOND, OUT, MASK, SUMS = 64, 1 << 14, 1 << 15, 3 << 15, 1 << 17


def row_of(array: Array, gap: int = 0) -> int:
    return (array.shape[1] + gap) * array.itemsize


def outcome(
    operands: dict[int, tuple[Array, int]],
    constants: bytes,
    instruction: Instruction,
    result: Any,
    machine: Any = SMALL,
) -> Array:
    """operands: by address a matrix and its row in bytes; result: (shape, type, row in bytes) at OUT."""
    bench = Bench(machine)
    for address, (matrix, row) in operands.items():
        bench.put(Memory.SPM, address, rows_of(matrix, row))
    if constants:
        bench.put(Memory.CBUF, 32, constants)
    bench.add(instruction)
    bench.get("y", OUT, *result)
    return bench.outcome()["y"]


def random_records(rng: np.random.Generator, count: int, source: IntType) -> Records:
    """Some that shift alone, to either side, and some that multiply."""
    multiplier = rng.integers(-(1 << 31) + 1, 1 << 31, count)
    shift = rng.integers(0, 63, count)
    alone = rng.random(count) < 0.4
    multiplier[alone] = 1
    shift[alone] = rng.integers(-31, 63, np.count_nonzero(alone))
    usual = rng.random(count) < 0.5
    multiplier[usual] = rng.integers(1 << 30, 1 << 31, np.count_nonzero(usual))
    shift[usual] = np.minimum(30 + rng.integers(max(source.bits - 9, 0), source.bits + 2, np.count_nonzero(usual)), 62)
    bias, zero = rng.integers(-1000, 1000, (2, count))
    bias[::5], zero[::7] = (1 << 31) - 1, -(1 << 31)
    return Records(multiplier, shift, bias, zero)


@pytest.mark.parametrize("source", TYPES, ids=str)
@pytest.mark.parametrize("target", TYPES, ids=str)
def test_requantize(source: IntType, target: IntType) -> None:
    rng = np.random.default_rng(source.bits * 100 + target.bits)
    for (m, n), per_column in product(SHAPES, (False, True)):
        x, rounding, zero_point = numbers(rng, source, (m, n)), int(rng.integers(4)), int(rng.integers(-500, 500))
        records = random_records(rng, n if per_column else 1, source)
        gap, target_row = int(rng.integers(3)), (n + int(rng.integers(3))) * target.dtype.itemsize
        y = outcome(
            {FIRST: (x, row_of(x, gap))},
            records.data(),
            Requantize(
                source=Address(FIRST), source_memory=Memory.SPM, source_row=row_of(x, gap), source_type=source,
                target=Address(OUT), target_row=target_row, target_type=target, rows=m, columns=n,
                records=Address(32), per_column=per_column, rounding=rounding, zero_point=zero_point,
            ),
            ((m, n), target, target_row),
        )  # fmt: skip
        one = slice(None) if per_column else 0
        want = quantization.requantize_dyadic(
            x,
            np.array(records.multiplier[one]),
            np.array(records.shift[one]),
            (np.array((records.zero - records.bias)[one]), np.array(zero_point)),
            ROUNDINGS[rounding],
            target,
        )
        assert (y == want).all()


def test_requantize_sums() -> None:
    """From ACC, with a bias of each column."""
    rng = np.random.default_rng(0)
    a, b = numbers(rng, I16, (19, 33)), numbers(rng, I8, (33, 18))
    records = random_records(rng, 18, I32)
    bench = Bench(SMALL)
    bench.put(Memory.SPM, FIRST, a)
    bench.put(Memory.WBUF, 0, b)
    bench.put(Memory.CBUF, 32, records.data())
    bench.add(
        MatrixMultiply(
            a=Address(FIRST), a_row=66, a_type=I16, b=Address(0), b_row=18, b_memory=Memory.WBUF, acc=Address(64),
            acc_row=76, rows=19, depth=33, columns=18,
        )
    )  # fmt: skip
    bench.add(
        Requantize(
            source=Address(64), source_memory=Memory.ACC, source_row=76, source_type=I32, target=Address(OUT),
            target_row=18, target_type=I8, rows=19, columns=18, records=Address(32), per_column=1, rounding=2,
        )
    )  # fmt: skip
    bench.get("y", OUT, (19, 18), I8)
    want = quantization.requantize_dyadic(
        (widen(a) @ widen(b)).astype(np.int32),
        records.multiplier,
        records.shift,
        (records.zero - records.bias, np.array(0)),
        ROUNDINGS[2],
        I8,
    )
    assert (bench.outcome()["y"] == want).all()


@pytest.mark.parametrize("per_column", [0, 1])
def test_requantize_divided(per_column: int) -> None:
    rng = np.random.default_rng(per_column)
    x, n = numbers(rng, I32, (20, 17)), 17
    divisors = np.concatenate([[1, (1 << 31) - 1, 1 << 30, 3], rng.integers(1, 1 << 31, 16)]).astype(np.int32)[:, None]
    count = n if per_column else 1
    records = Records(
        rng.integers(1 << 30, 1 << 31, count), rng.integers(20, 40, count), rng.integers(-9, 9, count), np.zeros(count)
    )
    records = Records(records.multiplier, records.shift, records.bias, np.zeros(count, np.int64))
    y = outcome(
        {FIRST: (x, row_of(x)), SECOND: (divisors, 4)},
        records.data(),
        Requantize(
            source=Address(FIRST), source_memory=Memory.SPM, source_row=row_of(x), source_type=I32,
            target=Address(OUT), target_row=2 * n, target_type=I16, rows=20, columns=n, records=Address(32),
            per_column=per_column, divided=1, divisors=Address(SECOND), rounding=1, zero_point=-3,
        ),
        ((20, n), I16),
    )  # fmt: skip
    one = slice(None) if per_column else 0
    want = quantization.requantize_dyadic(
        x,
        np.array(records.multiplier[one]),
        np.array(records.shift[one]),
        (np.array(-records.bias[one]), np.array(-3)),
        ROUNDINGS[1],
        I16,
        divisors,
    )
    assert (y == want).all()


@pytest.mark.parametrize("types", [(I8, I8, I8), (I16, I8, I16), (I32, I16, I8), (U8, I8, I32)], ids=str)
def test_add_requantize(types: tuple[IntType, IntType, IntType]) -> None:
    rng = np.random.default_rng(7)
    a_type, b_type, target = types
    for (m, n), per_column, each, rounding in product(SHAPES, (False, True), (0, 1), range(4)):
        a, b = numbers(rng, a_type, (m, n)), numbers(rng, b_type, (m, n))
        records = random_records(rng, 2 * n if per_column else 2, a_type)
        zero = rng.integers(-100, 100, len(records.zero))
        records = Records(records.multiplier, records.shift, records.bias * 0, zero)
        records.bias[::2] = int(rng.integers(-50, 50))
        b_row = 0 if rounding == 3 else row_of(b)
        y = outcome(
            {FIRST: (a, row_of(a, 1)), SECOND: (b, row_of(b))},
            records.data(),
            AddRequantize(
                a=Address(FIRST), a_row=row_of(a, 1), a_type=a_type, b=Address(SECOND), b_row=b_row, b_type=b_type,
                target=Address(OUT), target_row=n * target.dtype.itemsize, target_type=target, rows=m, columns=n,
                records=Address(32), per_column=per_column, round_each=each, rounding=rounding,
            ),
            ((m, n), target),
        )  # fmt: skip
        (m_a, s_a, z, z_a), (m_b, s_b, _, z_b) = (
            [
                np.array(v[at::2] if per_column else v[at])
                for v in (records.multiplier, records.shift, records.bias, zero)
            ]
            for at in (0, 1)
        )
        want = quantization.add_requant(
            a, b if b_row else b[:1], (m_a, m_b), (s_a, s_b), (z_a, z_b, z), ROUNDINGS[rounding], bool(each), target
        )
        assert (y == want).all()


def applied(example: Example, x: Int64, mask: Array | None) -> tuple[Array, ...]:
    """What the approximation itself gives."""
    built, tables = example.built, [values for values, _ in example.built.tables]
    approximation = built.approximation
    if isinstance(approximation, SoftmaxApproximation):
        return approximation.apply(x, tables, mask, built.results)
    assert isinstance(approximation, FunctionApproximation | LayerNormApproximation)
    return (approximation.apply(x, tables, built.results[0]),)


FUNCTION_CASES = [
    pytest.param(example, how, id=f"{example.name} {how}")
    for example, how in product(EXAMPLES, ("plain", "row mask", "masks", "zero point"))
    if "mask" not in how or isinstance(example.built.approximation, SoftmaxApproximation)
]


@pytest.mark.parametrize(("example", "how"), FUNCTION_CASES)
def test_function(example: Example, how: str) -> None:
    rng, codes = np.random.default_rng(3), example.codes.type
    x = rows(rng, (codes.lo, codes.hi), CHANNELS, 3)
    target, count = example.built.results[0], len(x)
    zero_point = 2 if how == "zero point" else 0
    shifted = np.clip(x + zero_point, codes.lo, codes.hi)
    held = rows_of(shifted.astype(codes.dtype), 0)
    mask = {"masks": masks(rng, x), "row mask": masks(rng, x)[-1:]}.get(how)
    bench = Bench(LARGE)
    bench.put(Memory.SPM, FIRST, held)
    bench.put(Memory.CBUF, 32, Block(example.built.approximation, zero_point, example.built.tables).data())
    if mask is not None:
        bench.put(Memory.SPM, MASK, mask)
    bench.add(
        Function(
            function=FUNCTIONS[example.built.approximation.name], source=Address(FIRST),
            source_row=CHANNELS * codes.dtype.itemsize, source_type=codes, target=Address(OUT),
            target_row=CHANNELS * target.dtype.itemsize, target_type=target, rows=count, columns=CHANNELS,
            block=Address(32), sums=Address(SUMS), masked=int(mask is not None), mask=Address(MASK),
            mask_rows=int(how == "masks"),
        )
    )  # fmt: skip
    bench.get("y", OUT, (count, CHANNELS), target)
    want = applied(example, shifted - zero_point, mask)
    if len(want) == 2:
        bench.get("sums", SUMS, (count, 1), I32)
    found = bench.outcome()
    assert (found["y"] == want[0]).all()
    assert len(want) == 1 or (found["sums"] == want[1]).all()


@pytest.mark.parametrize("per_column", [0, 1])
def test_threshold(per_column: int) -> None:
    rng = np.random.default_rng(per_column)
    for (m, n), levels in product(SHAPES, (1, 3, 256)):
        x = numbers(rng, I16, (m, n))
        thresholds = np.sort(rng.integers(-(1 << 16), 1 << 16, (n if per_column else 1, levels)), 1).astype(np.int32)
        thresholds[0, 0] = x[0, 0]
        thresholds.sort(1)
        y = outcome(
            {FIRST: (x, row_of(x))},
            thresholds.tobytes(),
            Threshold(
                source=Address(FIRST), source_memory=Memory.SPM, source_row=row_of(x), source_type=I16,
                target=Address(OUT), target_row=2 * n, target_type=I16, rows=m, columns=n, thresholds=Address(32),
                per_column=per_column, levels=levels, lowest=-128,
            ),
            ((m, n), I16),
            LARGE,
        )  # fmt: skip
        assert (y == (x[:, :, None] >= thresholds[None, :, :]).sum(2) - 128).all()


ARITHMETIC = {
    Arithmetic.ADD: lambda a, b: a + b,
    Arithmetic.SUB: lambda a, b: a - b,
    Arithmetic.MUL: lambda a, b: a * b,
    Arithmetic.MIN: np.minimum,
    Arithmetic.MAX: np.maximum,
    Arithmetic.EQ: lambda a, b: a == b,
    Arithmetic.LT: lambda a, b: a < b,
    Arithmetic.LE: lambda a, b: a <= b,
}


def arithmetic(
    operation: Arithmetic, a: Array, types: tuple[IntType, IntType, IntType], b: Array, mask: Array | None, b_row: int
) -> Array:
    m, n = a.shape
    a_type, b_type, target = types
    operands = {FIRST: (a, row_of(a, 2)), SECOND: (b, row_of(b))}
    if mask is not None:
        operands[MASK] = (mask, n + 2)
    return outcome(
        operands,
        b"",
        Arith(
            operation=operation, a=Address(FIRST), a_row=row_of(a, 2), a_type=a_type, b=Address(SECOND), b_row=b_row,
            b_type=b_type, target=Address(OUT), target_row=n * target.dtype.itemsize, target_type=target, rows=m,
            columns=n, mask=Address(MASK),
        ),
        ((m, n), target),
    )  # fmt: skip


@pytest.mark.parametrize("operation", Arithmetic)
def test_arithmetic(operation: Arithmetic) -> None:
    rng = np.random.default_rng(operation)
    for (m, n), a_type, b_type in product(SHAPES, (I8, U8, I16), (IntType(4), U8, I16)):
        a, b = numbers(rng, a_type, (m, n)), numbers(rng, b_type, (m, n))
        if operation == Arithmetic.EQ:
            b[0, 0] = a[0, 0] = 1
        mask = (rng.random((m, n)) < 0.5).astype(np.uint8) * 3 if operation == Arithmetic.SELECT else None
        for repeated in (False, True):
            y = arithmetic(operation, a, (a_type, b_type, I32), b, mask, 0 if repeated else row_of(b))
            other = widen(b[:1] if repeated else b)
            if mask is not None:
                assert (y == elementwise.select(mask, widen(a), other)).all()
            else:
                assert (y == ARITHMETIC[operation](widen(a), other)).all()


def test_arithmetic_that_does_not_fit() -> None:
    a = np.array([[100]], np.int8)
    with pytest.raises(Trap, match=r"arithmetic .*: 200 does not fit i8"):
        arithmetic(Arithmetic.ADD, a, (I8, I8, I8), a, None, 1)


@pytest.mark.parametrize("held", TYPES, ids=str)
def test_reduce(held: IntType) -> None:
    rng = np.random.default_rng(held.bits)
    for (m, n), operation in product(SHAPES, Reduction):
        x = numbers(rng, held, (m, n)) // np.array(n, held.dtype)
        y = outcome(
            {FIRST: (x, row_of(x, 1))},
            b"",
            Reduce(
                operation=operation, source=Address(FIRST), source_row=row_of(x, 1), source_type=held,
                target=Address(OUT), target_type=I32, rows=m, columns=n,
            ),
            ((m, 1), I32),
        )  # fmt: skip
        want = [sum(row) if operation == Reduction.SUM else row.index(max(row)) for row in x.tolist()]
        assert y[:, 0].tolist() == want


def test_reduce_that_does_not_fit() -> None:
    x = np.full((1, 3), 1 << 30, np.int32)
    instruction = Reduce(
        source=Address(FIRST), source_row=12, source_type=I32, target=Address(OUT), target_type=I32, rows=1, columns=3
    )
    with pytest.raises(Trap, match=r"reduce .*: 3221225472 does not fit i32"):
        outcome({FIRST: (x, 12)}, b"", instruction, ((1, 1), I32))


@pytest.mark.parametrize(
    "counts", [(1, 1, 1), (3, 5, 7), (4, 1, 16), (1, 9, 33), (2, 3, 64)], ids=lambda counts: "x".join(map(str, counts))
)
@pytest.mark.parametrize("steps", ["dense", "transposed", "repeated", "gaps"])
def test_copy(counts: tuple[int, int, int], steps: str) -> None:
    planes, lines, run = counts
    x = np.random.default_rng(0).integers(0, 256, (1, planes * lines * run * 3)).astype(np.uint8)
    source_plane, source_row = {
        "dense": (lines * run, run),
        "transposed": (run, planes * run),
        "repeated": (run, 0),
        "gaps": (3 * lines * run - run, 2 * run),
    }[steps]
    y = outcome(
        {FIRST: (x, row_of(x))},
        b"",
        Copy(
            source=Address(FIRST), target=Address(OUT), planes=planes, rows=lines, run=run, source_plane=source_plane,
            source_row=source_row, target_plane=lines * run, target_row=run,
        ),
        ((planes * lines, run), U8),
    )  # fmt: skip
    want = [x[0, i * source_plane + j * source_row :][:run].tolist() for i, j in product(range(planes), range(lines))]
    assert y.tolist() == want


def test_a_result_may_take_the_place_of_its_operand() -> None:
    """A softmax in place, and a wide operand whose row becomes narrower in its own place."""
    rng = np.random.default_rng(0)
    example = next(e for e in EXAMPLES if e.name == "sm8")
    x = rng.integers(-128, 128, (5, CHANNELS)).astype(np.int8)
    bench = Bench(SMALL)
    bench.put(Memory.SPM, OUT, x)
    bench.put(Memory.CBUF, 32, Block(example.built.approximation, 0, example.built.tables).data())
    bench.add(
        Function(
            function=FUNCTIONS["sm8"], source=Address(OUT), source_row=CHANNELS, source_type=I8, target=Address(OUT),
            target_row=CHANNELS, target_type=U8, rows=5, columns=CHANNELS, block=Address(32),
        )
    )  # fmt: skip
    bench.get("y", OUT, (5, CHANNELS), U8)
    assert (bench.outcome()["y"] == applied(example, widen(x), None)[0]).all()
    wide = rng.integers(-1000, 1000, (4, 6)).astype(np.int16)
    zero = np.zeros(1, np.int64)
    y = outcome(
        {OUT: (wide, 12)},
        Records(zero + 1, zero + 3, zero, zero).data(),
        Requantize(
            source=Address(OUT), source_memory=Memory.SPM, source_row=12, source_type=I16, target=Address(OUT),
            target_row=12, target_type=I8, rows=4, columns=6, records=Address(32), rounding=3,
        ),
        ((4, 6), I8, 12),
    )  # fmt: skip
    assert (y == np.clip(wide >> 3, -128, 127)).all()
