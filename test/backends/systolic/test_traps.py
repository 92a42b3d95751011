"""What stops the simulator: each trap met once, with the instruction and the source node in its message."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from approximation_examples import EXAMPLES
from systolic_programs import I8, I16, I32, LARGE, SMALL, Bench, on

from qvit.backends.systolic.constants import Block, Records
from qvit.backends.systolic.isa import (
    FUNCTIONS,
    WORD_BYTES,
    Add,
    AddRequantize,
    Address,
    Arith,
    Copy,
    Function,
    Halt,
    Increment,
    Instruction,
    Load,
    Loop,
    MatrixMultiply,
    Memory,
    Queue,
    Reduce,
    Requantize,
    Set,
    Store,
    Threshold,
    encode,
    fields_of,
)
from qvit.backends.systolic.machine import Array as MachineArray
from qvit.backends.systolic.machine import Dram, Machine, Memories, Vector, load_machine
from qvit.backends.systolic.program import Program
from qvit.backends.systolic.simulator import Trap, simulate
from qvit.dialects.semantics.integers import IntType

LOAD, MATRIX, VECTOR, STORE = Queue
POT = load_machine("p2-vit")


def trap(
    instructions: Sequence[Instruction],
    machine: Machine = SMALL,
    dram: int = 4096,
    data: dict[int, bytes] | None = None,
    nodes: Sequence[str] = (),
    halt: bool = True,
    **options: Any,
) -> str:
    """The message with which the program stops. DRAM is full of zeros but for `data`."""
    content = np.zeros(dram, np.uint8)
    for address, found in (data or {}).items():
        content[address : address + len(found)] = np.frombuffer(found, np.uint8)
    program = Program(machine, [*instructions, *([Halt()] if halt else [])], {0: content}, dram, (), (), nodes)
    with pytest.raises(Trap) as caught:
        simulate(program, {}, **options)
    return str(caught.value)


def load(memory: Memory, target: int, run: int, source: int = 0, *signal: Queue, wait: int = 0) -> Load:
    return Load(
        memory=memory, source=Address(source), target=Address(target), planes=1, rows=1, run=run, signal=on(*signal),
        wait=wait,
    )  # fmt: skip


def copy(source: int, target: int, run: int, **fields: Any) -> Copy:
    return Copy(**{"planes": 1, "rows": 1, "run": run, "source": Address(source), "target": Address(target), **fields})


def store(source: int, run: int, target: int = 0, **fields: Any) -> Store:
    return Store(**{"planes": 1, "rows": 1, "run": run, "source": Address(source), "target": Address(target), **fields})


REQUANTIZE = Requantize(
    wait=on(LOAD), source=Address(0), source_memory=Memory.SPM, source_row=4, source_type=I8, target=Address(64),
    target_row=4, target_type=I8, rows=2, columns=4, records=Address(0),
)  # fmt: skip
MULTIPLY = MatrixMultiply(
    wait=on(LOAD), a=Address(0), a_row=4, b=Address(0), b_row=4, b_memory=Memory.WBUF, acc=Address(0), acc_row=16,
    rows=2, depth=4, columns=4,
)  # fmt: skip
ADD = Arith(
    wait=on(LOAD), a=Address(0), a_row=4, b=Address(8), b_row=4, target=Address(64), target_row=4, rows=2, columns=4
)
FILLED = [load(Memory.SPM, 0, 64), load(Memory.WBUF, 0, 64), load(Memory.CBUF, 0, 64, 64, MATRIX, VECTOR)]


def records(*numbers: int) -> dict[int, bytes]:
    """For DRAM: what CBUF is filled with."""
    return {64: np.array(numbers, "<i4").tobytes()}


SPM_SIZE, WBUF_SIZE = SMALL.memory.activations, SMALL.memory.weights
MEMORY = {
    "beyond SPM": (
        [load(Memory.SPM, SPM_SIZE - 3, 4)],
        f"bytes {SPM_SIZE - 3}..{SPM_SIZE} of SPM, which has {SPM_SIZE}",
    ),
    "beyond WBUF": ([load(Memory.WBUF, WBUF_SIZE, 1)], f"of WBUF, which has {WBUF_SIZE}"),
    "beyond DRAM": ([load(Memory.SPM, 0, 4, 4093)], "bytes 4093..4096 of DRAM, which has 4096"),
    "beyond DRAM by a stride": (
        [replace(load(Memory.SPM, 0, 4), rows=3, source_row=2047, target_row=4)],
        "bytes 0..4097 of DRAM, which has 4096",
    ),
    "a register below 0": (
        [
            Set(first=Increment(1, 8)),
            Add(first=Increment(1, -16)),
            replace(load(Memory.SPM, 0, 4), target=Address(0, 1)),
        ],
        "bytes 4294967288..4294967291 of SPM",
    ),
    "twice, by rows": ([replace(load(Memory.SPM, 0, 4), rows=2, target_row=3)], "it writes bytes of SPM twice"),
    "twice, by planes": (
        [replace(load(Memory.SPM, 0, 4), planes=2, rows=2, target_row=4, target_plane=7)],
        "it writes bytes of SPM twice",
    ),
    "rows of a result overlap": (
        [*FILLED, replace(ADD, target_row=3)],
        "it writes bytes of SPM twice",
    ),
    "unwritten SPM": ([copy(0, 64, 4)], "byte 0 of SPM is read before it was written"),
    "unwritten between": (
        [
            load(Memory.SPM, 0, 8),
            load(Memory.SPM, 9, 9, 0, VECTOR),
            copy(0, 64, 4, rows=3, source_row=6, wait=on(LOAD)),
        ],
        "byte 8 of SPM is read before it was written",
    ),
    "unwritten WBUF": ([load(Memory.SPM, 0, 64, 0, MATRIX), MULTIPLY], "byte 0 of WBUF is read before"),
    "unwritten ACC": ([*FILLED, replace(MULTIPLY, accumulate=1)], "byte 0 of ACC is read before"),
    "unwritten CBUF": ([load(Memory.SPM, 0, 64, 0, VECTOR), REQUANTIZE], "byte 0 of CBUF is read before"),
    "unwritten block": (
        [load(Memory.SPM, 0, 64, 0, VECTOR), Function(wait=on(LOAD), source_row=4, target_row=4, rows=1, columns=4)],
        "byte 0 of CBUF is read before",
    ),
    "copies onto itself": ([*FILLED, copy(0, 8, 9, wait=on(LOAD))], "source and target overlap"),
    "a result over its operand": ([*FILLED, replace(ADD, target=Address(1))], "source and target overlap in SPM"),
    "a wider result in place": (
        [*FILLED, replace(ADD, target=Address(0), target_row=8, target_type=I16)],
        "source and target overlap in SPM, and are not the same rows",
    ),
    "a repeated operand in place": ([*FILLED, replace(ADD, b_row=0, target=Address(8))], "source and target overlap"),
    "an odd address": (
        [*FILLED, replace(ADD, a_type=I16, a=Address(3))],
        "addresses of i16 are multiples of 2, found 3",
    ),
    "an odd stride": ([*FILLED, replace(ADD, a_type=I32, a_row=6)], "multiples of 4, found 0 and rows of 6"),
    "odd records": ([*FILLED, replace(REQUANTIZE, records=Address(2))], "records lie at multiples of 4, found 2"),
}
"""Instructions, and what the message says."""


@pytest.mark.parametrize("name", MEMORY)
def test_memory(name: str) -> None:
    instructions, reason = MEMORY[name]
    assert reason in trap(instructions)


def test_dram_is_known_only_where_it_is_filled() -> None:
    program = Program(SMALL, [load(Memory.SPM, 0, 8), Halt()], {0: np.zeros(7, np.uint8)}, 64, (), ())
    with pytest.raises(Trap, match="byte 7 of DRAM is read before it was written"):
        simulate(program, {})


def test_messages_name_instruction_and_node() -> None:
    text = trap([load(Memory.SPM, 0, 4), copy(8, 64, 4, node=2, signal=on(STORE))], nodes=("patch", "block.0.qkv"))
    assert text == (
        "instruction 1 (copy source=0x8 target=0x40 planes=1 rows=1 run=4 signal=store node=2) for block.0.qkv:"
        " byte 8 of SPM is read before it was written"
    )


# --- numbers ---


def block(name: str, zero_point: int = 0) -> Block:
    example = next(e for e in EXAMPLES if e.name == name)
    return Block(example.built.approximation, zero_point, example.built.tables)


def bits(content: bytes, at: int, value: int) -> dict[int, bytes]:
    found = bytearray(content)
    found[at] = value
    return {64: bytes(found)}


TABLE = Function(
    wait=on(LOAD), function=FUNCTIONS["table"], source=Address(0), source_row=4, target=Address(64), target_row=4,
    rows=2, columns=4, block=Address(0),
)  # fmt: skip
THRESHOLD = Threshold(
    wait=on(LOAD), source=Address(0), source_memory=Memory.SPM, source_row=4, source_type=I8, target=Address(64),
    target_row=4, rows=2, columns=4, thresholds=Address(0), levels=4, lowest=0,
)  # fmt: skip
ADD_REQUANTIZE = AddRequantize(
    wait=on(LOAD), a=Address(0), a_row=4, b=Address(8), b_row=4, target=Address(64), target_row=4, rows=2, columns=4,
)  # fmt: skip
NUMBERS = {
    "shift of 63": (REQUANTIZE, records(1, 63, 0, 0), "a shift must be -31..62, found 63..63"),
    "shift of -32": (REQUANTIZE, records(1, -32, 0, 0), "a shift must be -31..62, found -32..-32"),
    "shift to the left of a product": (
        REQUANTIZE,
        records(3, -1, 0, 0),
        "negative shift goes with multiplier 1, found 3",
    ),
    "multiplier of -2^31": (REQUANTIZE, records(-(1 << 31), 1, 0, 0), "a multiplier must be above -2147483648"),
    "bias of a second record": (
        ADD_REQUANTIZE,
        records(1, 0, 5, 0, 1, 0, 6, 0),
        "the bias of the second record must be 0",
    ),
    "divisor of 0": (
        replace(REQUANTIZE, divided=1, divisors=Address(16)),
        records(1, 0, 0, 0),
        "a divisor must be positive, found 0",
    ),
    "thresholds fall": (THRESHOLD, records(0, 2, 1, 3), "thresholds must not decrease"),
    "threshold beyond the type": (
        replace(THRESHOLD, target_type=IntType(2)),
        records(-9, -8, -7, -6),
        "4 does not fit i2",
    ),
    "code beyond the table": (
        replace(TABLE, source_type=I16, source_row=8, target=Address(32)),
        {0: b"\xff\x7f" * 32, 64: block("table").data()},
        "index 32895 is out of bounds",
    ),
    "code below the table": (
        TABLE,
        {0: b"\x80" * 64, 64: block("table", 1).data()},
        "a table of 256 has no entry -1",
    ),
    "result beyond its type": (
        replace(TABLE, target_type=IntType(2)),
        {0: b"\x7f" * 64, 64: block("table").data()},
        "does not fit i2",
    ),
    "block of another function": (
        replace(TABLE, function=FUNCTIONS["quad"]),
        {64: block("table").data()},
        "quad has 5 parameters and 3 tables, the block 1 and 1",
    ),
    "block with a damaged type": (TABLE, bits(block("table").data(), 21, 7), "a table of table has a damaged type"),
    "block beyond the memory": (
        TABLE,
        bits(block("table").data(), 19, 9),
        "a table of table reaches beyond the memory",
    ),
    "block beyond what is filled": (TABLE, {64: block("table").data()[:64]}, ""),
    "a parameter out of range": (
        replace(TABLE, function=FUNCTIONS["ln"]),
        bits(block("ln").data(), 8, 77),
        "ln: guard must be in 1..20, found",
    ),
}
"""An instruction, bytes of DRAM (SPM is filled from 0, CBUF from 64 on), and what the message says."""


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(name: str) -> None:
    instruction, data, reason = NUMBERS[name]
    size = max(64, len(data[64]) if name != "block beyond what is filled" else 64)
    filled = [load(Memory.SPM, 0, 64), load(Memory.CBUF, 0, size, 64, VECTOR)]
    machine = LARGE if isinstance(instruction, Threshold) else SMALL
    assert (reason or "byte 64 of CBUF is read before it was written") in trap(
        [*filled, instruction], machine, data=data
    )


# --- programs ---

LOOP = Loop(length=1, count=2)
PROGRAMS = {
    "no halt": ([load(Memory.SPM, 0, 4)], False, "the last word of a program, and no other, is halt"),
    "halt inside": ([Halt(), Halt()], False, "the last word of a program, and no other, is halt"),
    "an empty loop": ([Loop(length=0, count=1)], True, "a loop has 1 instruction and 1 turn at least, found 0 and 1"),
    "a loop of no turns": (
        [Loop(length=1), Add()],
        True,
        "a loop has 1 instruction and 1 turn at least, found 1 and 0",
    ),
    "a loop with the halt": ([LOOP], True, "the loop ends at 2, beyond what it stands in, which ends at 1"),
    "a loop beyond its outer": (
        [Loop(length=2, count=2), Loop(length=2, count=2), Add(), Add()],
        True,
        "the loop ends at 4, beyond what it stands in, which ends at 3",
    ),
    "loops too deep": (
        [*(Loop(length=depth, count=1) for depth in (5, 4, 3, 2, 1)), Add()],
        True,
        "loops nest 5 deep, the machine has 4",
    ),
    "a token to itself": ([load(Memory.SPM, 0, 4, 0, LOAD)], True, "LOAD takes or gives a token of its own"),
    "a token of the sequencer": ([Set(first=Increment(1), signal=1)], True, "the sequencer takes and gives no tokens"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name: str) -> None:
    instructions, halt, reason = PROGRAMS[name]
    assert reason in trap(instructions, halt=halt)


def test_a_program_that_hardly_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvit.backends.systolic.simulator.sequence.MOST_WORDS", 1000)
    loops = [Loop(length=depth, count=65535) for depth in (3, 2, 1)]
    assert "more than 1000 words" in trap([*loops, Add()])


def test_deadlocks() -> None:
    waits = replace(load(Memory.SPM, 0, 4), wait=on(VECTOR))
    text = "instruction 0 (load planes=1 rows=1 run=4 wait=vector): a deadlock: LOAD waits for a token of VECTOR"
    assert text in trap([waits])
    circle = [waits, copy(0, 8, 4, wait=on(LOAD), signal=on(LOAD))]
    assert text + " that never comes; so does 1 of VECTOR for one of LOAD" in trap(circle)
    # what would give the token stands behind what fills the queue
    filling = [copy(0, 8, 4, wait=on(LOAD))] * (SMALL.control.queue + 1)
    late = [*filling, *[load(Memory.SPM, 0, 4, 0, VECTOR)] * len(filling)]
    assert "instruction 0 (copy" in trap(late)
    assert "VECTOR waits for a token of LOAD that never comes" in trap(late, seed=0)


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_counters_overflow(seed: int | None) -> None:
    """All tokens are given before the first is taken."""
    most = (1 << SMALL.control.semaphore_bits) - 1
    program = [
        Loop(length=1, count=most),
        load(Memory.SPM, 0, 4, 0, VECTOR),
        load(Memory.SPM, 0, 4, 0, STORE),
        store(0, 4, wait=on(LOAD), signal=on(VECTOR)),
        copy(0, 32, 4, wait=on(STORE)),
        Loop(length=1, count=most),
        copy(0, 32, 4, wait=on(LOAD)),
    ]
    simulate(Program(SMALL, [*program, Halt()], {0: np.zeros(8, np.uint8)}, 8, (), ()), {}, seed=seed)
    program[0] = program[5] = Loop(length=1, count=most + 1)
    reason = f"the counter of tokens for VECTOR overflows: it holds {most}"
    assert reason in trap(program, seed=seed)


def test_tokens_that_are_left() -> None:
    program = [load(Memory.SPM, 0, 4, 0, VECTOR), load(Memory.SPM, 8, 4, 0, VECTOR), copy(0, 32, 4, wait=on(LOAD))]
    assert "instruction 1 (load target=0x8 planes=1 rows=1 run=4 signal=vector)" in trap(program)
    assert "its token for VECTOR is never taken: the next run would begin with it" in trap(program, seed=0)


# --- races ---


def test_races() -> None:
    """Two queues touch a byte, one of them writes it, and no token orders them, however late the second comes."""
    gap = [load(Memory.SPM, 1024, 512)] * 3
    first = load(Memory.SPM, 0, 16, 0, VECTOR)
    cases = {
        "reads byte 8 of SPM, which instruction 2 of LOAD wrote": [load(Memory.SPM, 0, 16), *gap, copy(8, 32, 4)],
        "writes byte 12 of SPM, which instruction 2 of LOAD wrote": [load(Memory.SPM, 0, 16), copy(64, 12, 4)],
    }
    # VECTOR starts long after the loads: a token of another load, of none of these bytes, came first
    for reason, instructions in cases.items():
        loads, last = instructions[:-1], instructions[-1]
        other = load(Memory.SPM, 64, 16, 0, VECTOR)
        text = trap([other, *loads, copy(64, 2048, 4, wait=on(LOAD)), *[copy(64, 2048, 4)] * 99, last])
        assert f"a race: it {reason}; no token orders them" in text
    # a write that comes long after the read, and one after the write, of the first copy
    for byte, did in {2: "read", 32: "wrote"}.items():
        late = [first, copy(0, 32, 4, wait=on(LOAD)), *gap * 9, load(Memory.SPM, byte, 4)]
        assert f"a race: it writes byte {byte} of SPM, which instruction 1 of VECTOR {did}" in trap(late)


def test_tokens_order() -> None:
    """The same with tokens, one of them through a third queue."""
    straight = [
        load(Memory.SPM, 0, 16, 0, VECTOR),
        copy(0, 32, 4, wait=on(LOAD), signal=on(STORE)),
        store(32, 4, 64, wait=on(VECTOR), signal=on(LOAD)),
        load(Memory.SPM, 0, 4, 8, wait=on(STORE)),
    ]
    data = {0: np.zeros(64, np.uint8)}
    simulate(Program(SMALL, [*straight, Halt()], data, 128, (), ()), {})
    straight[2:] = [store(32, 4, 64, wait=on(VECTOR)), load(Memory.SPM, 0, 4, 8)]
    assert "a race: it reads byte 0 of SPM, which instruction 2 of LOAD wrote" in trap(straight)
    # the store does not wait for what it stores
    unordered = [straight[0], replace(straight[1], signal=0), store(32, 4, 64)]
    assert "of SPM is read before it was written" in trap(unordered)


@pytest.mark.parametrize("seed", [None, *range(8)])
def test_races_of_all_memories_in_any_order(seed: int | None) -> None:
    """WBUF, CBUF, ACC and DRAM: the token that is missing is missed in every order."""
    whole = [
        load(Memory.SPM, 0, 64),
        load(Memory.WBUF, 0, 64),
        load(Memory.CBUF, 0, 64, 64, MATRIX, VECTOR),
        replace(MULTIPLY, signal=on(VECTOR)),
        replace(REQUANTIZE, wait=on(LOAD, MATRIX), source_memory=Memory.ACC, source_type=I32, source_row=16,
                signal=on(STORE, LOAD, MATRIX)),
        store(64, 4, 128, wait=on(VECTOR), signal=on(LOAD)),
        load(Memory.WBUF, 0, 64, 0, MATRIX, wait=on(VECTOR)),
        load(Memory.CBUF, 0, 64, 64),
        load(Memory.SPM, 256, 16, 128, wait=on(STORE)),
        replace(MULTIPLY, wait=on(LOAD, VECTOR)),
    ]  # fmt: skip
    content = np.zeros(256, np.uint8)
    content[64:80] = np.frombuffer(np.array([1, 0, 0, 0], "<i4").tobytes(), np.uint8)
    simulate(Program(SMALL, [*whole, Halt()], {0: content}, 256, (), ()), {}, seed=seed)
    without = {
        3: (0, on(VECTOR)),
        4: (on(LOAD), on(STORE, LOAD, MATRIX)),
        6: (0, on(MATRIX)),
        8: (0, 0),
        9: (on(VECTOR), 0),
    }
    for number, (wait, signal) in without.items():
        broken = list(whole)
        broken[number] = replace(whole[number], wait=wait, signal=signal)
        text = trap(broken, dram=256, data={0: content.tobytes()}, seed=seed)
        assert "a race" in text or "before it was written" in text


# --- what a machine does not have ---

NARROW = replace(SMALL, array=MachineArray(rows=4, columns=4, dataflows=("output_stationary",), operands=("a4w4",)))
ONLY = replace(
    SMALL,
    array=replace(SMALL.array, logarithmic=False),
    vector=Vector(lanes=4, requantize=("pot",), functions=("lis",)),
)
PRODUCT = replace(MULTIPLY, wait=0)
LEGAL = {
    "operands": (replace(PRODUCT, dataflow=1), NARROW, "no operands of 8 and 8 bits; it has a4w4"),
    "operands of 16 bits": (replace(PRODUCT, a_type=I16), POT, "no operands of 16 and 8 bits; it has a8w8, a8w4"),
    "dataflow": (PRODUCT, NARROW, "the array's dataflow is output_stationary, found weight_stationary"),
    "logarithmic": (replace(PRODUCT, logarithmic=1), ONLY, "the array does not shift: it has no logarithmic codes"),
    "logarithmic of 16 bits": (
        replace(PRODUCT, logarithmic=1, a_type=I16),
        LARGE,
        "logarithmic codes have 8 bits and no zero point, found i16 and 0",
    ),
    "logarithmic zero point": (replace(PRODUCT, logarithmic=1, a_zero=1), LARGE, "no zero point, found i8 and 1"),
    "B in ACC": (replace(PRODUCT, b_memory=3), SMALL, "B must be in SPM or WBUF, found ACC"),
    "weights of 5 bits": (
        replace(PRODUCT, b_type=IntType(5)),
        SMALL,
        "elements of WBUF have 2, 3, 4 or 8 bits, found i5",
    ),
    "no rows": (replace(PRODUCT, rows=0), SMALL, "rows must be 1 at least, found 0"),
    "no depth": (replace(PRODUCT, depth=0), SMALL, "depth must be 1 at least, found 0"),
    "load into ACC": (replace(load(Memory.SPM, 0, 4), memory=3), SMALL, "load fills SPM, WBUF or CBUF, found ACC"),
    "an empty run": (copy(0, 1, 0), SMALL, "run must be 1 at least, found 0"),
    "too many runs": (
        store(0, 1, rows=1 << 12, planes=1025),
        SMALL,
        "4198400 runs are more than the bytes of the largest memory on a chip, 4194304",
    ),
    "an empty store": (store(0, 4, rows=0), SMALL, "rows must be 1 at least, found 0"),
    "no division": (replace(REQUANTIZE, divided=1), ONLY, "it does not divide where it requantizes"),
    "no requantization": (REQUANTIZE, load_machine("baseline-fp"), "it does not requantize"),
    "no residual": (AddRequantize(rows=1, columns=1), load_machine("baseline-fp"), "it does not requantize"),
    "requantize WBUF": (
        replace(REQUANTIZE, source_memory=1),
        SMALL,
        "the source must be in ACC or SPM, found memory 1",
    ),
    "sums of 8 bits": (replace(REQUANTIZE, source_memory=Memory.ACC), SMALL, "ACC holds i32, found i8"),
    "64 bits": (replace(REQUANTIZE, target_type=IntType(64)), SMALL, "target_type i64 has more than 32 bits"),
    "functions": (replace(TABLE, function=FUNCTIONS["ita"]), ONLY, "it has no function ita; it has lis"),
    "a mask of a table": (replace(TABLE, masked=1), SMALL, "table takes no mask"),
    "comparators": (THRESHOLD, ONLY, "it has 0 comparators, 4 thresholds are asked for"),
    "no thresholds": (replace(THRESHOLD, levels=0), LARGE, "levels must be 1 at least, found 0"),
    "sums of no columns": (Reduce(rows=1), SMALL, "columns must be 1 at least, found 0"),
}


@pytest.mark.parametrize("name", LEGAL)
def test_what_a_machine_does_not_have(name: str) -> None:
    instruction, machine, reason = LEGAL[name]
    assert reason in trap([instruction], machine)


def test_records_without_multipliers() -> None:
    filled = [load(Memory.SPM, 0, 64), load(Memory.CBUF, 0, 64, 64, VECTOR)]
    reason = "it has no multipliers: expected 1, found 3"
    assert reason in trap([*filled, REQUANTIZE], POT, data=records(3, 1, 0, 0))
    divided = replace(POT, vector=replace(POT.vector, requantize=("pot", "divided")))
    both = replace(REQUANTIZE, divided=1, divisors=Address(16))
    reason = "it has no multipliers: expected 1073741824, found 1"
    assert reason in trap([*filled, both], divided, data=records(1, 1, 0, 0))
    dyadic = replace(SMALL, vector=replace(SMALL.vector, requantize=("dyadic",)))
    assert "it does not shift to the left" in trap([*filled, REQUANTIZE], dyadic, data=records(1, -1, 0, 0))


# --- damage ---


TINY = replace(
    SMALL, memory=Memories(activations=1 << 10, weights=256, accumulators=256, constants=256), dram=Dram(bytes=1 << 12)
)


def damaged() -> Bench:
    """A product, requantized, with its output."""
    rng = np.random.default_rng(2)  # with ties of either parity, so that every rounding differs
    bench = Bench(TINY)
    a = rng.integers(-8, 8, (5, 9)).astype(np.int8)
    a[0, 0] = -128  # of no narrower type
    bench.put(Memory.SPM, 0, a)
    bench.put(Memory.WBUF, 0, rng.integers(-128, 128, (9, 7)).astype(np.int8))
    bench.put(Memory.CBUF, 0, Records(np.array([1 << 30]), np.array([33]), np.array([3]), np.array([0])).data())
    bench.add(
        MatrixMultiply(
            a=Address(0), a_row=9, b=Address(0), b_row=7, b_memory=Memory.WBUF, acc=Address(0), acc_row=28, rows=5,
            depth=9, columns=7,
        )
    )  # fmt: skip
    bench.add(
        Requantize(
            source=Address(0), source_memory=Memory.ACC, source_row=28, source_type=I32, target=Address(64),
            target_row=7, target_type=I8, rows=5, columns=7, records=Address(0),
        )
    )  # fmt: skip
    bench.get("y", 64, (5, 7), I8)
    return bench


def test_every_weight_counts() -> None:
    want = damaged().outcome()["y"]
    for at in range(63):
        bench = damaged()
        address = list(bench.data)[1]
        weights = bench.data[address].copy()
        weights[at] ^= 0x80
        bench.data[address] = weights
        assert (bench.outcome()["y"] != want).any()


def where(instruction: Instruction, bit: int) -> str:
    """The field of a bit of the word, and of an address or type the part of it."""
    at = 8
    if bit < at:
        return "opcode"
    for name, bits in fields_of(type(instruction)).items():
        if bit < at + bits.width:
            part = "register" if bits.kind == "address" and bit < at + 5 else ""
            return f"{name}.{part}" if part else name
        at += bits.width
    return "reserved"


ONE_PLANE = {"source_plane", "target_plane"}
ONE_ROW = {"source_row", "target_row"}
REGISTERS = {"source.register", "target.register"}
SILENT = {
    "load": {"node", *ONE_PLANE, *ONE_ROW, *REGISTERS},
    "matmul": {"node", "a.register", "b.register", "acc.register"},
    "requantize": {"node", *REGISTERS, "records.register", "divisors", "divisors.register"},
    "store": {"node", *ONE_PLANE, *REGISTERS},
    "halt": {"node"},
}
"""Fields that say nothing in that program: it sets no registers, moves single rows and planes, and divides by nothing."""


def test_every_bit_of_a_program_counts() -> None:
    """A flipped bit traps, or changes what comes out, or when; but for fields that say nothing here."""
    program = damaged().program()
    words = b"".join(map(encode, program.instructions))
    right = simulate(program, {})
    silent: dict[str, set[str]] = {}
    for bit in range(8 * len(words)):
        wrong = bytearray(words)
        wrong[bit // 8] ^= 1 << bit % 8
        number, within = divmod(bit, 8 * WORD_BYTES)
        try:
            found = simulate(program, {}, words=bytes(wrong))
        except (Trap, ValueError):
            continue
        if found.cycles == right.cycles and (found.outputs["y"] == right.outputs["y"]).all():
            instruction = program.instructions[number]
            silent.setdefault(instruction.mnemonic, set()).add(where(instruction, within))
    assert silent == SILENT
