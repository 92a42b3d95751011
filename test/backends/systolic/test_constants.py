"""Records and blocks: all approximations go to bytes and back, and damage is refused."""

import struct

import numpy as np
import pytest
from approximation_examples import EXAMPLES, Example
from hypothesis import given
from hypothesis import strategies as st

from qvit.backends.systolic.constants import Block, Records
from qvit.backends.systolic.isa import FUNCTIONS, RECORD

TABLE = next(example for example in EXAMPLES if example.name == "table")
"""One that has a table."""


def block_of(example: Example, zero_point: int = -3) -> Block:
    return Block(example.built.approximation, zero_point, example.built.tables)


def number_of(example: Example) -> int:
    return FUNCTIONS[example.built.approximation.name]


def test_every_function_has_an_example() -> None:
    assert {example.built.approximation.name for example in EXAMPLES} == FUNCTIONS.keys()
    assert len(EXAMPLES) == 31


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_blocks_are_read_as_they_were_written(example: Example) -> None:
    block = block_of(example)
    data = block.data()
    assert len(data) % 8 == 0
    found, size = Block.read(number_of(example), data + b"\xff" * 100)  # whatever lies behind
    assert size == len(data)
    assert found.approximation == example.built.approximation
    assert found.zero_point == -3
    assert len(found.tables) == len(example.built.tables)
    for (values, held), (expected, kind) in zip(found.tables, example.built.tables, strict=True):
        assert held == kind
        assert values.dtype == kind.dtype
        np.testing.assert_array_equal(values, expected)
    assert found.data() == data


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_a_block_that_is_cut_off_is_refused(example: Example) -> None:
    data = block_of(example).data()
    for size in range(len(data)):
        with pytest.raises(ValueError, match="reaches beyond the memory"):
            Block.read(number_of(example), data[:size])


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_counts_that_are_not_those_of_the_function_are_refused(example: Example) -> None:
    data = bytearray(block_of(example).data())
    for at in range(4):
        damaged = data.copy()
        damaged[at] ^= 1
        with pytest.raises(ValueError, match=rf"{example.built.approximation.name} has \d+ parameters and \d+ tables"):
            Block.read(number_of(example), bytes(damaged))


def damaged_table(offset: int, value: bytes) -> bytes:
    """The block of TABLE, something of the head of its table changed."""
    data = bytearray(block_of(TABLE).data())
    at = 8 + 8 * len(TABLE.built.approximation.parameters) + offset
    data[at : at + len(value)] = value
    return bytes(data)


DAMAGED = {
    "length": (damaged_table(0, struct.pack("<I", 1 << 31)), "a table of table reaches beyond the memory"),
    "no bits": (damaged_table(4, b"\0"), "a table of table has a damaged type"),
    "65 bits": (damaged_table(4, b"\x41"), "a table of table has a damaged type"),
    "signed": (damaged_table(5, b"\x02"), "a table of table has a damaged type"),
    "zeros": (damaged_table(7, b"\x01"), "a table of table has a damaged type"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_tables(name: str) -> None:
    data, message = DAMAGED[name]
    with pytest.raises(ValueError, match=message):
        Block.read(number_of(TABLE), data)


def test_parameters_out_of_range_are_refused() -> None:
    example = next(e for e in EXAMPLES if e.name == "shiftmax")
    data = bytearray(block_of(example).data())
    data[8 : 8 + 8 * len(example.built.approximation.parameters)] = (
        b"\x7f" * 8 * len(example.built.approximation.parameters)
    )
    with pytest.raises(ValueError, match="shiftmax|i0|bits|n "):
        Block.read(number_of(example), bytes(data))


def test_there_is_no_such_function() -> None:
    with pytest.raises(ValueError, match="there is no function 31"):
        Block.read(31, block_of(TABLE).data())


I32 = st.integers(-(1 << 31), (1 << 31) - 1)


@given(st.lists(st.tuples(I32, I32, I32, I32), max_size=5))
def test_records_are_read_as_they_were_written(rows: list[tuple[int, int, int, int]]) -> None:
    records = Records(*np.array(rows, np.int64).reshape(-1, 4).T)
    data = records.data()
    assert data == b"".join(struct.pack("<4i", *row) for row in rows)
    assert len(data) == RECORD * len(rows)
    found = Records.read(np.frombuffer(data, np.uint8))
    for name in ("multiplier", "shift", "bias", "zero"):
        np.testing.assert_array_equal(getattr(found, name), getattr(records, name))


@pytest.mark.parametrize("name", ["multiplier", "shift", "bias", "zero"])
def test_records_that_do_not_fit(name: str) -> None:
    numbers = {n: np.array([1 << 31 if n == name else 0], np.int64) for n in ("multiplier", "shift", "bias", "zero")}
    with pytest.raises(OverflowError, match="2147483648 does not fit i32"):
        Records(**numbers).data()
