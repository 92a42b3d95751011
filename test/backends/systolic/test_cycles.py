"""Cycles of instructions: closed forms against published numbers, and against counting one cycle after another."""

import csv
from dataclasses import replace
from itertools import product
from math import ceil
from pathlib import Path

import numpy as np
import pytest
from systolic_programs import I8, I16, LARGE, SMALL

from qvit.backends.systolic.costs import FUNCTION_COSTS, ROOT_32, ROOT_62
from qvit.backends.systolic.cycles import Cost, cost, cycles, least_cycles, most_cycles
from qvit.backends.systolic.isa import (
    FUNCTIONS,
    AddRequantize,
    Address,
    Arith,
    Copy,
    Dataflow,
    Function,
    Halt,
    Load,
    MatrixMultiply,
    Memory,
    Reduce,
    Requantize,
    Store,
    Threshold,
)
from qvit.backends.systolic.machine import Machine
from qvit.dialects.approximations.i_layernorm import floor_sqrt

PLAIN = replace(SMALL, array=replace(SMALL.array, shadow=False))
WS, OS = Dataflow


def multiply(rows: int, depth: int, columns: int, dataflow: Dataflow = WS, wide: bool = False) -> MatrixMultiply:
    return MatrixMultiply(
        rows=rows, depth=depth, columns=columns, dataflow=dataflow, a_type=I16 if wide else I8, b_memory=Memory.WBUF
    )


def streamed(machine: Machine, i: MatrixMultiply) -> int:
    """Weights stationary with shadow registers, one event after another: a tile is loaded while the one before it streams."""
    r, c = machine.array.rows, machine.array.columns
    tiles = ceil(i.depth / r) * ceil(i.columns / c) * (2 if i.a_type.bits > 8 else 1)
    loaded = r
    free = 0
    for _ in range(tiles):
        begin = max(loaded, free)  # the tile is there, and the rows of the one before are in
        free = begin + i.rows
        loaded = begin + r  # the shadow registers are free from `begin` on
    return free + r + c - 2


@pytest.mark.parametrize("machine", [SMALL, LARGE], ids=["small", "large"])
def test_shadow_registers_hide_loads(machine: Machine) -> None:
    for rows, depth, columns, wide in product((1, 15, 16, 17, 197), (1, 16, 33, 768), (1, 16, 100), (False, True)):
        instruction = multiply(rows, depth, columns, WS, wide)
        assert cycles(machine, instruction) == streamed(machine, instruction)


def test_bounds() -> None:
    rng = np.random.default_rng(0)
    for dataflow, machine in product(Dataflow, (SMALL, LARGE, PLAIN)):
        for rows, depth, columns in rng.integers(1, 600, (200, 3)).tolist():
            instruction = multiply(rows, depth, columns, dataflow, bool(rng.integers(2)))
            least, most = least_cycles(machine, instruction), most_cycles(machine, instruction)
            assert least <= cycles(machine, instruction) <= most
            assert machine.array.shadow or cycles(machine, instruction) == most


def test_utilisation_tends_to_one() -> None:
    instruction = multiply(16383, 64, 64)
    assert cycles(SMALL, instruction) < 1.004 * least_cycles(SMALL, instruction)


def test_vectors() -> None:
    """Rows times groups of lanes, the depth once, and divisions that are not pipelined."""
    depth, divide = SMALL.vector.depth, SMALL.vector.divide
    for kind in (AddRequantize, Arith, Reduce, Requantize, Threshold):
        assert cycles(SMALL, kind(rows=5, columns=33)) == 5 * 3 + depth
    assert cycles(SMALL, Requantize(rows=5, columns=33, divided=1)) == 5 * (3 + divide) + depth

    def function(name: str) -> int:
        return cycles(SMALL, Function(function=FUNCTIONS[name], rows=197, columns=197))

    groups = ceil(197 / 16)
    assert function("table") == 197 * groups + depth
    assert function("sm8") == 197 * (3 * groups + divide) + depth
    assert function("shiftmax") == 197 * (8 * groups + divide) + depth
    assert function("lis") == 197 * groups * (9 + divide) + depth
    assert function("ln") == 197 * (2 * groups + 7) + depth
    assert function("i_layernorm") == 197 * (2 * groups + 8 * divide) + depth


def test_every_function_has_a_cost() -> None:
    assert set(FUNCTION_COSTS) == set(FUNCTIONS)


def root_steps(number: int) -> int:
    """The divisions of Newton's iteration from a power of two, that of the step which changes nothing too."""
    x = 1 << ((number.bit_length() + 1) >> 1)
    steps = 0
    while True:
        following = (x + number // max(x, 1)) >> 1
        steps += 1
        if following >= x:
            assert x == floor_sqrt(np.array([number]))[0]
            return steps
        x = following


@pytest.mark.parametrize(("bits", "most"), [(32, ROOT_32), (62, ROOT_62)])
def test_roots_take_no_more_steps_than_they_are_charged(bits: int, most: int) -> None:
    rng = np.random.default_rng(0)
    edges = [n for b in range(1, bits + 1) for n in ((1 << b) - 1, 1 << (b - 1), (1 << (b - 1)) + 1)]
    squares = [n * n + d for n in rng.integers(1, 1 << (bits // 2), 2000).tolist() for d in (-1, 0, 1)]
    numbers = [n for n in (*range(5000), *edges, *squares) if n < 1 << bits]
    assert max(map(root_steps, numbers)) == most


# --- moving ---


def spans(starts: list[int], run: int, unit: int) -> int:
    """Units that runs touch, one after another; one that the run before ended in is still there."""
    count, last = 0, -1
    for start in starts:
        for number in range(start // unit, (start + run - 1) // unit + 1):
            count += number != last
            last = number
    return count


def starts(base: int, planes: int, plane: int, rows: int, row: int) -> list[int]:
    return [base + i * plane + j * row for i in range(planes) for j in range(rows)]


def test_copies() -> None:
    """Word for word; short runs as many at once as make up a word, as long as the fullest bank takes."""
    rng = np.random.default_rng(0)
    for machine in (SMALL, LARGE):
        word, banks = machine.memory.word, machine.memory.banks
        for _ in range(200):
            planes, rows, run = rng.integers(1, 20), rng.integers(1, 20), int(rng.choice([1, 2, 4, 7, 16, 33, 64]))
            steps = rng.integers(0, 300, 4).tolist()
            source, target = rng.integers(0, 1000, 2).tolist()
            i = Copy(
                source=Address(source), target=Address(target), planes=int(planes), rows=int(rows), run=run,
                source_plane=steps[0], source_row=steps[1], target_plane=steps[2], target_row=steps[3],
            )  # fmt: skip
            read, written = (
                starts(source, planes, steps[0], rows, steps[1]),
                starts(target, planes, steps[2], rows, steps[3]),
            )
            if run >= word:
                want = max(spans(read, run, word), spans(written, run, word))
            else:
                together, want = word // run, 0
                for at in range(0, len(read), together):
                    fullest: list[int] = []
                    for side in (read, written):
                        words = {start // word for start in side[at : at + together]}
                        fullest.append(max(sum(w % banks == bank for w in words) for bank in range(banks)))
                    want += max(fullest)
            assert cycles(machine, i) == want + machine.vector.depth


def test_a_transposed_copy_meets_bank_conflicts() -> None:
    """128 rows of 128 bytes, column by column: with 8 banks of 16 bytes all elements of a group lie in one bank."""
    transpose = Copy(
        target=Address(1 << 15),
        planes=128,
        rows=128,
        run=1,
        source_plane=1,
        source_row=128,
        target_plane=128,
        target_row=1,
    )
    assert cycles(SMALL, transpose) == 128 * 128 + SMALL.vector.depth
    padded = replace(transpose, source_row=144)
    assert cycles(SMALL, padded) == 2 * 128 * 128 // 16 + SMALL.vector.depth


def test_dram() -> None:
    """The latency, then whole bursts of 64 bytes at 16 a cycle."""
    latency = SMALL.dram.latency

    def load(source: int, run: int, rows: int = 1, row: int = 0) -> Cost:
        i = Load(planes=1, rows=rows, run=run, source_row=row, target_row=run)
        return cost(SMALL, i, (source, 0))

    assert load(0, 1) == Cost(latency, 4)
    assert load(0, 64) == load(64, 33) == Cost(latency, 4)
    assert load(63, 2) == Cost(latency, 8)
    assert load(0, 1 << 16) == Cost(latency, 1 << 12)
    # rows next to each other share bursts, rows apart do not
    assert load(0, 32, 10, 32) == Cost(latency, 5 * 4)
    assert load(0, 32, 10, 64) == Cost(latency, 10 * 4)
    # bytes that are strewn take the memory on the chip a cycle each, where these are more
    store = Store(planes=1, rows=64, run=1, source_row=16, target_row=1)
    assert cost(SMALL, store, (0, 0)) == Cost(latency, 64)
    assert cost(SMALL, store, (0, 0)).total == cycles(SMALL, store) == latency + 64


def test_the_sequencer_is_not_a_queue() -> None:
    with pytest.raises(ValueError, match="halt runs in no queue"):
        cycles(SMALL, Halt())


# --- SCALE-Sim ---

TABLE = Path(__file__).parents[2] / "data" / "scalesim" / "table.csv"
DATAFLOWS = {"ws": WS, "os": OS}


def test_table_of_scale_sim() -> None:
    """Without shadow registers as many cycles as SCALE-Sim 3.0.0 takes, which reports one less; with them no more, and no
    fewer than all elements of the array need for the multiply-accumulates."""
    with TABLE.open(newline="") as file:
        table = [{k: v if k == "dataflow" else int(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert {(row["dataflow"], row["array_rows"]) for row in table} == set(product(DATAFLOWS, (8, 16, 32)))
    for row in table:
        array = replace(SMALL.array, rows=row["array_rows"], columns=row["array_columns"])
        shadow = replace(SMALL, array=array)
        plain = replace(SMALL, array=replace(array, shadow=False))
        instruction = multiply(row["rows"], row["depth"], row["columns"], DATAFLOWS[row["dataflow"]])
        taken = row["cycles"] + 1
        assert cycles(plain, instruction) == taken, row
        assert least_cycles(shadow, instruction) <= cycles(shadow, instruction) <= taken, row
