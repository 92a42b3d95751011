"""What a run reports: events in closed forms, the use of each source node, bounds, the trace and the table."""

import json
from dataclasses import replace
from itertools import pairwise, product
from math import ceil
from typing import Any

import numpy as np
import pytest
from approximation_examples import CHANNELS, EXAMPLES
from systolic_programs import I8, I16, I32, LARGE, SMALL, U8, Bench, numbers, on, packed

from qvit.backends.systolic.constants import Block
from qvit.backends.systolic.costs import FUNCTION_COSTS
from qvit.backends.systolic.isa import (
    FUNCTIONS,
    Address,
    Arith,
    Arithmetic,
    Copy,
    Dataflow,
    Function,
    Halt,
    Load,
    MatrixMultiply,
    Memory,
    Queue,
    Reduce,
    Requantize,
    Store,
)
from qvit.backends.systolic.machine import Machine
from qvit.backends.systolic.program import Port, Program
from qvit.backends.systolic.simulator import Events, Result, simulate
from qvit.backends.systolic.simulator.events import count_events
from qvit.backends.systolic.simulator.result import check_bounds
from qvit.backends.systolic.simulator.schedule import Schedule
from qvit.backends.systolic.simulator.sequence import Step
from qvit.backends.systolic.simulator.trace import chrome_trace, utilisation_table
from qvit.dialects.semantics.integers import Array, IntType

LOAD, MATRIX, VECTOR, STORE = Queue


# --- events ---


def events(instruction: Any, machine: Machine = SMALL) -> Events:
    """Of one instruction, without what it reads of CBUF."""
    return count_events(machine, [Step(0, 1, instruction, instruction.queue, (0, 0))], 1, 0)


@pytest.mark.parametrize("dataflow", Dataflow)
def test_products(dataflow: Dataflow) -> None:
    rows, depth, columns = 50, 40, 70
    for a_type, bits, transposed, accumulate in product((I8, I16), (2, 3, 4, 8), (0, 1), (0, 1)):
        i = MatrixMultiply(
            a_type=a_type, b_type=IntType(bits), b_memory=Memory.WBUF, transposed=transposed, accumulate=accumulate,
            dataflow=dataflow, rows=rows, depth=depth, columns=columns,
        )  # fmt: skip
        found = events(i)
        passes = a_type.bits // 8
        pair = "a16w8" if passes == 2 else f"a8w{bits}"
        assert found.macs == {pair: rows * depth * columns}
        assert not found.shifts
        assert found.read["SPM"] == rows * depth * passes * ceil(columns / 16)
        weights = columns * ceil(depth * bits / 8) if transposed else depth * ceil(columns * bits / 8)
        sums = 4 * rows * columns
        if dataflow == Dataflow.WEIGHT_STATIONARY:
            assert found.read["WBUF"] == weights
            assert found.written["ACC"] == sums * passes * ceil(depth / 16)
            assert found.read["ACC"] == found.written["ACC"] - sums + accumulate * sums
        else:
            assert found.read["WBUF"] == weights * ceil(rows / 16) * passes
            assert found.written["ACC"] == sums
            assert found.read["ACC"] == accumulate * sums


def test_logarithmic_products_are_shifts() -> None:
    i = MatrixMultiply(b_memory=Memory.SPM, logarithmic=1, rows=3, depth=4, columns=5)
    found = events(i, LARGE)
    assert (found.shifts, found.macs) == ({"a8w8": 60}, {})
    assert found.read["SPM"] == 3 * 4 + 4 * 5


def test_vectors() -> None:
    size = {"rows": 6, "columns": 10}
    found = events(Requantize(source_memory=Memory.ACC, source_type=I32, target_type=I16, divided=1, **size))
    assert (found.read, found.written) == ({"CBUF": 0, "ACC": 240, "SPM": 24}, {"SPM": 120})
    assert (found.operations, found.divisions) == ({"requantize": 60}, 6)
    found = events(Arith(operation=Arithmetic.SELECT, a_type=I16, b_type=I8, target_type=I32, **size))
    assert (found.read["SPM"], found.written["SPM"]) == (60 * (2 + 1 + 1), 240)
    found = events(Reduce(source_type=I8, target_type=I32, **size))
    assert (found.read["SPM"], found.written["SPM"], found.operations) == (60, 24, {"reduce": 60})
    found = events(Copy(planes=2, rows=3, run=5))
    assert (found.read["SPM"], found.written["SPM"], found.operations) == (30, 30, {"copy": 30})


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    cost = FUNCTION_COSTS[name]
    late = 4 * 6 if name.endswith("late") else 0
    for mask, mask_bytes in (({}, 0), ({"masked": 1}, 10), ({"masked": 1, "mask_rows": 1}, 60)):
        found = events(
            Function(function=FUNCTIONS[name], source_type=I16, target_type=I8, rows=6, columns=10, **mask), LARGE
        )
        assert found.operations == {name: 60 * cost.passes}
        assert found.divisions == 6 * cost.row_divisions + 60 * cost.element_divisions
        assert found.read["SPM"] == 120 * cost.passes + mask_bytes
        assert found.written["SPM"] == 60 + late


def test_transfers_count_whole_bursts() -> None:
    i = Load(memory=Memory.WBUF, planes=1, rows=3, run=10, source_row=100, target_row=10)
    found = count_events(SMALL, [Step(0, 1, i, LOAD, (60, 0))], 1, 0)
    # bytes 60..69 lie in two bursts, 160..169 in one, 260..269 in one
    assert (found.read["DRAM"], found.written) == (4 * 64, {"WBUF": 30})


def test_constants_are_read_once_an_instruction() -> None:
    example = next(e for e in EXAMPLES if e.name == "quad")
    block = Block(example.built.approximation, 0, example.built.tables).data()
    bench = Bench(SMALL)
    bench.put(Memory.SPM, 0, np.zeros((4, CHANNELS), example.codes.type.dtype))
    bench.put(Memory.CBUF, 0, block)
    bench.add(
        Function(
            function=FUNCTIONS["quad"], source=Address(0), source_row=CHANNELS * example.codes.type.dtype.itemsize,
            source_type=example.codes.type, target=Address(1024), target_row=CHANNELS * 4, target_type=I32, rows=4,
            columns=CHANNELS, block=Address(0),
        )
    )  # fmt: skip
    found = bench.run()
    assert found.events.read["CBUF"] == len(block)
    assert found.events.words == len(bench.instructions) + 1


# --- a run ---


def small() -> Program:
    """Two products of two nodes, each requantized; the second's weights have 4 bits."""
    rng = np.random.default_rng(0)
    bench = Bench(SMALL)
    record = bench.identity()
    bench.put(Memory.SPM, 0, numbers(rng, I8, (40, 32)))
    bench.put(Memory.WBUF, 0, numbers(rng, I8, (32, 16)))
    bench.put(Memory.WBUF, 4096, packed(numbers(rng, IntType(4), (16, 16)), 4))
    multiply = MatrixMultiply(
        node=1, a=Address(0), a_row=32, b=Address(0), b_row=16, b_memory=Memory.WBUF, acc=Address(0), acc_row=64,
        rows=40, depth=32, columns=16,
    )  # fmt: skip
    requantize = Requantize(
        node=1, source=Address(0), source_memory=Memory.ACC, source_row=64, source_type=I32, target=Address(8192),
        target_row=16, target_type=I8, rows=40, columns=16, records=Address(record),
    )  # fmt: skip
    bench.add(multiply)
    bench.add(requantize)
    bench.add(
        replace(multiply, node=2, a=Address(8192), a_row=16, b=Address(4096), b_row=8, b_type=IntType(4), depth=16)
    )
    bench.add(replace(requantize, node=2))
    bench.get("y", 8192, (40, 16), I8)
    return replace(bench.program(), nodes=("block.qkv", "block.proj"))


@pytest.fixture(scope="module")
def run() -> Result:
    return simulate(small(), {})


def test_use_of_nodes(run: Result) -> None:
    none, qkv, proj = run.nodes
    assert (none.name, qkv.name, proj.name) == ("", "block.qkv", "block.proj")
    assert (none.macs, qkv.macs, proj.macs) == (0, 40 * 32 * 16, 40 * 16 * 16)
    # two tiles of 16 rows, one: loads of 16 cycles, 40 rows each, 30 until the last sum is out
    assert (qkv.busy[MATRIX], proj.busy[MATRIX]) == (16 + 2 * 40 + 30, 16 + 40 + 30)
    assert (qkv.busy[VECTOR], proj.busy[VECTOR]) == (48, 48)
    assert (qkv.exposed, proj.exposed) == (48, 48)  # nothing runs beside anything
    assert run.busy[LOAD] == none.busy[LOAD]
    assert run.macs == 40 * 48 * 16
    assert run.utilisation == run.macs / 256 / run.cycles
    assert run.events.macs == {"a8w8": 40 * 32 * 16, "a8w4": 40 * 16 * 16}


def test_exposed_vectors_are_those_beside_which_the_array_stands_still() -> None:
    """Vectors in cycles 5..10, 15..30 and 40..50, products in 0..8, 20..25 and 27..45."""
    spans = [(VECTOR, 5, 10), (VECTOR, 15, 30), (VECTOR, 40, 50), (MATRIX, 0, 8), (MATRIX, 20, 25), (MATRIX, 27, 45)]
    kinds: dict[Queue, Any] = {VECTOR: Copy(), MATRIX: MatrixMultiply()}
    steps = [Step(n, n, kinds[queue], queue, ()) for n, (queue, _, _) in enumerate(spans)]
    start, end = [s for _, s, _ in spans], [e for _, _, e in spans]
    timed = Schedule([], start, end, [], [], [], [], [], 50)
    assert Result(small(), {}, steps, timed, Events(), []).exposed == [2, 7, 5, 0, 0, 0]


def test_bounds_are_asserted(run: Result) -> None:
    words = len(run.program.instructions)
    check_bounds(SMALL, run.steps, run.schedule, words)
    for cycles in (max(run.busy.values()) - 1, words + sum(run.busy.values()) + 1):
        with pytest.raises(AssertionError, match=f"{cycles} cycles are not within"):
            check_bounds(SMALL, run.steps, replace(run.schedule, cycles=cycles), words)


def test_the_same_program_takes_the_same_time(run: Result) -> None:
    again = simulate(small(), {})
    assert again.schedule == run.schedule
    assert again.events == run.events


def test_trace(run: Result) -> None:
    found = json.loads(chrome_trace(run))["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in found if e["ph"] == "M" and e["name"] == "thread_name"}
    assert names == {0: "LOAD", 1: "MATRIX", 2: "VECTOR", 3: "STORE", 4: "DRAM channel"}
    for queue in Queue:
        spans = [(e["ts"], e["ts"] + e["dur"]) for e in found if e["ph"] == "X" and e["tid"] == queue]
        assert sum(end - start for start, end in spans) == run.busy[queue]
        assert all(before[1] <= after[0] for before, after in pairwise(spans))
    channel = [e for e in found if e["ph"] == "X" and e["tid"] == 4]
    assert len(channel) == sum(step.queue in (LOAD, STORE) for step in run.steps)
    product = next(e for e in found if e["ph"] == "X" and e["name"] == "matmul")
    assert product["args"]["node"] == "block.qkv"
    assert product["args"]["stall"] == "token of LOAD"


def test_trace_counts_tokens() -> None:
    """A token of LOAD that STORE takes only when that of VECTOR has come, too."""
    bench = Bench(SMALL)
    bench.get("y", 32, (1, 16), U8)
    program = Program(
        SMALL,
        [
            Load(memory=Memory.SPM, planes=1, rows=1, run=16, signal=on(VECTOR, STORE)),
            Copy(target=Address(32), planes=1, rows=1, run=16, wait=on(LOAD), signal=on(STORE)),
            replace(bench.instructions[0], wait=on(LOAD, VECTOR)),
            Halt(),
        ],
        {0: np.zeros(16, np.uint8)},
        64,
        (),
        bench.outputs,
    )
    found = simulate(program, {})
    counters: dict[str, list[tuple[int, int]]] = {}
    for event in json.loads(chrome_trace(found))["traceEvents"]:
        if event["ph"] == "C":
            counters.setdefault(event["name"], []).append((event["ts"], event["args"]["tokens"]))
    loaded, copied = found.schedule.end[:2]
    assert counters == {
        "tokens LOAD to VECTOR": [(loaded, 0)],
        "tokens LOAD to STORE": [(loaded, 1), (copied, 0)],
        "tokens VECTOR to STORE": [(copied, 0)],
    }


def test_table(run: Result) -> None:
    lines = [line.split() for line in utilisation_table(run).splitlines()]
    assert lines[0] == ["node", "MACs", "array", "LOAD", "MATRIX", "VECTOR", "STORE", "exposed"]
    assert lines[2] == ["block.qkv", "20480", "63.5%", "0", "126", "48", "0", "48"]
    assert lines[3] == ["block.proj", "10240", "46.5%", "0", "86", "48", "0", "48"]
    assert lines[4][:3] == ["all", str(run.cycles), "cycles"]
    assert lines[4][3:5] == ["30720", f"{100 * run.utilisation:.1f}%"]
    assert lines[4][-5:] == [*(str(run.busy[queue]) for queue in Queue), "96"]


# --- inputs and outputs ---


def ported(x: Array | None, held: IntType = I8, inputs: dict[str, Array] | None = None, copied: int = 6) -> Array:
    """An input through SPM to the output `y`."""
    size = held.dtype.itemsize
    program = Program(
        SMALL,
        [
            Load(memory=Memory.SPM, source=Address(64), planes=1, rows=1, run=6 * size, signal=on(STORE)),
            stored(copied * size),
            Halt(),
        ],
        {},
        256,
        [Port("x", 64, (2, 3), held)],
        [Port("y", 128, (2, 3), held)],
    )
    found = simulate(program, {"x": x} if inputs is None and x is not None else inputs or {})
    return found.outputs["y"]


def stored(run: int) -> Store:
    return Store(wait=on(LOAD), target=Address(128), planes=1, rows=1, run=run)


@pytest.mark.parametrize("held", [I8, U8, I16, I32, IntType(4), IntType(12)], ids=str)
def test_ports(held: IntType) -> None:
    x = numbers(np.random.default_rng(0), held, (2, 3))
    found = ported(x, held)
    assert (found == x).all()
    assert found.dtype == held.dtype
    assert (ported(x.astype(np.int64), held) == x).all()


def test_wrong_ports() -> None:
    x = np.zeros((2, 3), np.int8)
    for inputs, message in (
        ({}, r"expected the inputs x; found none"),
        ({"z": x}, r"expected the inputs x; found z"),
        ({"x": x[:1]}, r"x: expected \[2, 3\], found \[1, 3\]"),
        ({"x": x.astype(float)}, r"x: expected integers of i8, found float64"),
        ({"x": x.astype(np.int64) + 128}, r"x: 128 does not fit i8"),
    ):
        with pytest.raises(ValueError, match=message):
            ported(None, inputs=inputs)
    with pytest.raises(ValueError, match="output y: the program does not write all of it"):
        ported(x, copied=5)
    large = Program(replace(SMALL, dram=replace(SMALL.dram, bytes=100)), [Halt()], {}, 101, (), ())
    with pytest.raises(ValueError, match="the program needs 101 bytes of DRAM, small has 100"):
        simulate(large, {})
