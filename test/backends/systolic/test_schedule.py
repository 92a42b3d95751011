"""The sequencer, the queues and their tokens: times of small programs, loops, other orders, and which programs race."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from systolic_programs import I32, SMALL, U8, Bench, on

from qvit.backends.systolic.cycles import cycles
from qvit.backends.systolic.isa import (
    Add,
    Address,
    Copy,
    Halt,
    Increment,
    Instruction,
    Load,
    Loop,
    MatrixMultiply,
    Memory,
    Queue,
    Requantize,
    Set,
    Store,
)
from qvit.backends.systolic.machine import Control, Dram, Machine, Memories
from qvit.backends.systolic.program import Port, Program
from qvit.backends.systolic.simulator import Result, Trap, simulate
from qvit.backends.systolic.simulator.schedule import Stall
from qvit.dialects.semantics.integers import Array

LOAD, MATRIX, VECTOR, STORE = Queue
TINY = replace(
    SMALL, memory=Memories(activations=1 << 10, weights=256, accumulators=256, constants=256), dram=Dram(bytes=1 << 12)
)


def at(address: int | Address) -> Address:
    return address if isinstance(address, Address) else Address(address)


def load(target: int, run: int, source: int | Address = 0, **fields: Any) -> Load:
    usual = {"memory": Memory.SPM, "source": at(source), "target": at(target), "planes": 1, "rows": 1, "run": run}
    return Load(**{**usual, **fields})


def copy(source: int, target: int, run: int, **fields: Any) -> Copy:
    return Copy(source=Address(source), target=Address(target), planes=1, rows=1, run=run, **fields)


def store(source: int, run: int, target: int | Address, **fields: Any) -> Store:
    return Store(source=at(source), target=at(target), planes=1, rows=1, run=run, **fields)


def result(instructions: list[Instruction], machine: Machine = TINY, dram: int = 1 << 12, **options: Any) -> Result:
    """DRAM counts upwards from 0; all of it is the output `dram`."""
    data = {0: (np.arange(dram) % 251).astype(np.uint8)}
    program = Program(machine, [*instructions, Halt()], data, dram, (), [Port("dram", 0, (dram,), U8)])
    return simulate(program, {}, **options)


# --- times ---


def test_units_work_at_once_and_tokens_hold_them_up() -> None:
    """A load takes 64 + 4 cycles, a copy of 16 bytes 1 + 8."""
    found = result(
        [
            load(0, 16, signal=on(VECTOR)),  # handed on in cycle 1
            copy(0, 32, 16, wait=on(LOAD), signal=on(STORE)),
            load(64, 16),
            store(32, 16, 128, wait=on(VECTOR)),
        ]
    )
    timed = found.schedule
    assert timed.handed == [1, 2, 3, 4]
    assert timed.start == [1, 69, 69, 78]
    # the store asks for the channel in 142, the second load had it until 137
    assert timed.end == [69, 78, 137, 146]
    assert timed.channel == [65, -1, 133, 142]
    assert timed.stalled == [1, 69, 0, 78]
    assert timed.stall == [Stall.DISPATCH, Stall.LOAD, Stall.NONE, Stall.VECTOR]
    assert found.cycles == 146
    assert found.busy == {LOAD: 136, MATRIX: 0, VECTOR: 9, STORE: 68}
    assert timed.clock == [(0, 0, 0, 0), (1, 0, 0, 0), (1, 0, 0, 0), (1, 0, 1, 0)]


def test_loads_and_stores_share_the_channel() -> None:
    """Both begin almost at once; the second waits for the beats of the first, its latency runs meanwhile."""
    found = result([load(0, 32, signal=on(STORE)), load(512, 256, 1024), store(0, 32, 0, wait=on(LOAD))], replace(TINY))
    first = 1 + 64 + 4
    assert found.schedule.start[1:] == [first, first]
    assert found.schedule.channel[1:] == [first + 64, first + 64 + 16]
    assert found.schedule.end[1:] == [first + 64 + 16, first + 64 + 16 + 4]


def test_a_full_queue_stops_the_sequencer() -> None:
    narrow = replace(TINY, control=Control(queue=2))
    copies = [copy(0, 32, 16) for _ in range(5)]
    copies[0] = replace(copies[0], wait=on(LOAD))
    found = result([load(0, 16, signal=on(VECTOR)), *copies, load(64, 16)], narrow)
    timed = found.schedule
    start = 1 + 64 + 4  # of the first copy; two are handed on before, each of the others when one has started
    assert timed.handed == [1, 2, 3, start + 1, start + 10, start + 19, start + 20]
    assert timed.start[1:6] == [start + 9 * n for n in range(5)]
    assert timed.start[6] == start + 20


def test_every_word_takes_the_sequencer_a_cycle() -> None:
    found = result([Set(first=Increment(1, 0)), Loop(length=2, count=3), Add(), Add(), load(0, 1)])
    assert found.schedule.handed == [1 + 1 + 2 * 3 + 1]
    assert found.events.words == 1 + 1 + 2 * 3 + 1 + 1
    assert result([Add()] * 7).cycles == 8


def test_the_end_of_the_program_waits_for_all_queues() -> None:
    assert result([load(0, 16), *[Add()] * 3]).cycles == 1 + 64 + 4
    assert result([load(0, 16), *[Add()] * 99]).cycles == 101


# --- loops and registers ---


def test_loops() -> None:
    """Two deep, with registers that both loops change, against the same transfers written out."""
    looped = [
        Set(first=Increment(1, 512)),
        Set(first=Increment(2, 2048)),
        Set(first=Increment(4, 256)),
        Loop(length=7, count=3, first=Increment(1, 64), second=Increment(2, -128)),
        load(0, 8, Address(16, 1), signal=on(STORE)),
        store(0, 2, 3500, wait=on(LOAD)),
        Loop(length=1, count=4, first=Increment(2, 4), second=Increment(2, 4), third=Increment(3, 1)),
        store(0, 8, Address(0, 2)),
        Add(first=Increment(4, -1), second=Increment(0, 7)),
        store(0, 1, Address(3000, 3), signal=on(LOAD)),
        load(8, 1, Address(100, 4), wait=on(STORE)),
    ]
    flat: list[Instruction] = []
    r1, r2, r3, r4 = 512, 2048, 0, 256
    for _ in range(3):
        flat += [load(0, 8, r1 + 16, signal=on(STORE)), store(0, 2, 3500, wait=on(LOAD))]
        for _ in range(4):
            flat.append(store(0, 8, r2))
            r2, r3 = r2 + 8, r3 + 1
        r4 -= 1
        flat += [store(0, 1, 3000 + r3, signal=on(LOAD)), load(8, 1, 100 + r4, wait=on(STORE))]
        r1, r2 = r1 + 64, r2 - 128
    found, want = result(looped), result(flat)
    assert [step.addresses for step in found.steps] == [step.addresses for step in want.steps]
    assert (found.outputs["dram"] == want.outputs["dram"]).all()
    assert (found.outputs["dram"] != np.arange(1 << 12) % 251).any()


# --- other orders ---


def tiled(seed: int) -> tuple[Bench, Array]:
    """A product in tiles of 16 rows, requantized and stored, all queues at work, two buffers for each; and the result."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-128, 128, (96, 40)).astype(np.int8), rng.integers(-128, 128, (40, 24)).astype(np.int8)
    bench = Bench(SMALL)
    record = bench.identity()
    bench.put(Memory.WBUF, 0, b)
    source, target = bench.room(a.size), bench.room(4 * 96 * 24)
    bench.data[source] = a.reshape(-1).view(np.uint8)
    bench.instructions[0] = replace(bench.instructions[0], signal=on(VECTOR))
    count = 6
    for tile in range(count):
        half, late, first = tile % 2, tile >= 2, tile == 0
        early = tile < count - 2
        bench.add(load(half * 1024, 640, source + 640 * tile, signal=on(MATRIX), wait=on(MATRIX) if late else 0))
        bench.add(MatrixMultiply(
            wait=on(LOAD, VECTOR) if late else on(LOAD), signal=on(VECTOR, LOAD) if early else on(VECTOR),
            a=Address(half * 1024), a_row=40, b=Address(0), b_row=24, b_memory=Memory.WBUF,
            acc=Address(half * 4096), acc_row=96, rows=16, depth=40, columns=24,
        ))  # fmt: skip
        waits = on(MATRIX, *([STORE] if late else []), *([LOAD] if first else []))
        bench.add(Requantize(
            wait=waits, signal=on(STORE, MATRIX) if early else on(STORE), source=Address(half * 4096),
            source_memory=Memory.ACC, source_row=96, source_type=I32, target=Address(8192 + half * 2048),
            target_row=96, target_type=I32, rows=16, columns=24, records=Address(record),
        ))  # fmt: skip
        bench.add(
            store(8192 + half * 2048, 1536, target + 1536 * tile, wait=on(VECTOR), signal=on(VECTOR) if early else 0)
        )
    bench.outputs.append(Port("c", target, (96, 24), I32))
    return bench, a.astype(np.int64) @ b.astype(np.int64)


def run(bench: Bench, **options: Any) -> Result:
    program = Program(bench.machine, [*bench.instructions, Halt()], bench.data, bench.at, (), bench.outputs)
    return simulate(program, {}, **options)


def test_any_order_gives_the_same_values() -> None:
    bench, want = tiled(0)
    timed = run(bench)
    assert (timed.outputs["c"] == want).all()
    for seed in range(30):
        found = run(bench, seed=seed)
        assert (found.outputs["c"] == want).all()
        assert found.cycles == timed.cycles


def test_every_token_of_the_tiled_product_is_needed() -> None:
    bench, _ = tiled(0)
    right = list(bench.instructions)
    for number, instruction in enumerate(right):
        for queue in Queue:
            for name in ("wait", "signal"):
                mask = getattr(instruction, name)
                if queue == instruction.queue:
                    continue
                bench.instructions = list(right)
                bench.instructions[number] = replace(instruction, **{name: mask ^ 1 << queue})
                with pytest.raises(Trap):
                    run(bench)


def test_units_overlap() -> None:
    """In the steady state the tiled product takes as long as its slowest unit."""
    bench, _ = tiled(0)
    found = run(bench)
    slowest = max(found.busy.values())
    assert slowest <= found.cycles < slowest + 600 < sum(found.busy.values())


# --- which programs race ---


@dataclass(frozen=True)
class Access:
    """What an instruction reads and writes, by memory: DRAM is 0, SPM is 1."""

    reads: set[tuple[int, int]]
    writes: set[tuple[int, int]]


def accesses(i: Instruction) -> Access:
    assert isinstance(i, Load | Copy | Store)
    source, target = {Load: (0, 1), Copy: (1, 1), Store: (1, 0)}[type(i)]
    return Access(
        {(source, i.source.offset + n) for n in range(i.run)}, {(target, i.target.offset + n) for n in range(i.run)}
    )


def random_program(rng: np.random.Generator) -> list[Instruction]:
    """Transfers of a few bytes, and tokens from some of them to later ones. All bytes are known from the start."""
    found: list[Instruction] = [load(0, 64), copy(0, 64, 64), store(0, 64, 64)]
    for _ in range(int(rng.integers(3, 12))):
        source, target = rng.integers(0, 56, 2).tolist()
        run = int(rng.integers(1, 8))
        kind = rng.integers(3)
        if kind == 0:
            found.append(load(target, run, source))
        elif kind == 1:
            found.append(copy(source, target + 64, run) if rng.integers(2) else copy(source + 64, target, run))
        else:
            found.append(store(source, run, target))
    found[0] = replace(found[0], signal=on(VECTOR, STORE))
    found[1] = replace(found[1], wait=on(LOAD), signal=on(LOAD, STORE))
    found[2] = replace(found[2], wait=on(LOAD, VECTOR), signal=on(LOAD, VECTOR))
    following = {queue: next((n for n in range(3, len(found)) if found[n].queue == queue), None) for queue in Queue}
    for queue, senders in ((LOAD, (1, 2)), (VECTOR, (2,))):
        if (first := following[queue]) is None:
            for sender in senders:
                found[sender] = replace(found[sender], signal=found[sender].signal & ~on(queue))
        else:
            found[first] = replace(found[first], wait=on(*(found[sender].queue for sender in senders)))
    for _ in range(int(rng.integers(0, 30))):
        i, j = sorted(rng.integers(3, len(found), 2).tolist())
        giver, taker = found[i].queue, found[j].queue
        assert giver is not None
        assert taker is not None
        if giver != taker and not found[i].signal >> taker & 1 and not found[j].wait >> giver & 1:
            found[i] = replace(found[i], signal=found[i].signal | 1 << taker)
            found[j] = replace(found[j], wait=found[j].wait | 1 << giver)
    return found


def ordered(program: list[Instruction]) -> Array:
    """[i, j]: instruction i is done before j starts, by its queue or by tokens: the closure of both."""
    count = len(program)
    before = np.zeros((count, count), np.bool_)
    for queue in Queue:
        mine = [n for n in range(count) if program[n].queue == queue]
        for i, j in pairwise(mine):
            before[i, j] = True
        for other in Queue:
            gives = [n for n in range(count) if program[n].queue == queue and program[n].signal >> other & 1]
            takes = [n for n in range(count) if program[n].queue == other and program[n].wait >> queue & 1]
            for i, j in zip(gives, takes, strict=True):
                before[i, j] = True
    for k in range(count):
        before |= before[:, k : k + 1] & before[k : k + 1]
    return before


def races(program: list[Instruction]) -> bool:
    """Whether two instructions that nothing orders touch a byte that one of them writes."""
    before, found = ordered(program), [accesses(i) for i in program]
    for j in range(len(program)):
        for i in range(j):
            touch = found[i].writes & (found[j].reads | found[j].writes) | found[i].reads & found[j].writes
            if touch and not before[i, j] and not before[j, i]:
                return True
    return False


def sequential(program: list[Instruction]) -> Array:
    """DRAM after the instructions one after another."""
    memories = [(np.arange(128) % 251).astype(np.uint8), np.zeros(128, np.uint8)]
    for i in program:
        assert isinstance(i, Load | Copy | Store)
        source, target = {Load: (0, 1), Copy: (1, 1), Store: (1, 0)}[type(i)]
        moved = memories[source][i.source.offset :][: i.run].copy()
        memories[target][i.target.offset : i.target.offset + i.run] = moved
    return memories[0]


def test_races_are_found_in_any_order_and_nothing_else_is() -> None:
    """Random programs against the definition: in time and in other orders a race is found where there is one."""
    rng = np.random.default_rng(0)
    seen = {True: 0, False: 0}
    for _ in range(400):
        program = random_program(rng)
        racing = races(program)
        seen[racing] += 1
        for seed in (None, 0, 1, 2):
            if racing:
                with pytest.raises(Trap, match="a race: it"):
                    result(program, dram=128, seed=seed)
            else:
                assert (result(program, dram=128, seed=seed).outputs["dram"] == sequential(program)).all()
    assert min(seen.values()) > 50


def test_cycles_of_loads_are_those_that_a_scheduler_plans_with() -> None:
    program: list[Instruction] = [load(0, 100, 8), load(200, 3, 500, rows=7, source_row=90, target_row=3)]
    found = result(program)
    took = [end - start for start, end in zip(found.schedule.start, found.schedule.end, strict=True)]
    assert took == [cycles(TINY, i) for i in program]
