"""What happened, in numbers that an energy model multiplies by prices: from the instructions that ran, in closed forms."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

from qvit.backends.systolic.cycles import Vectors, function_cost, passes, transfer
from qvit.backends.systolic.isa import (
    AddRequantize,
    Arith,
    Arithmetic,
    Copy,
    Dataflow,
    Function,
    Load,
    MatrixMultiply,
    Memory,
    Reduce,
    Requantize,
    Store,
    Threshold,
)
from qvit.backends.systolic.legality import operand_pair
from qvit.backends.systolic.machine import Machine
from qvit.backends.systolic.simulator.sequence import Step
from qvit.dialects.approximations import APPROXIMATIONS
from qvit.dialects.semantics.integers import IntType


def _counter() -> Counter[str]:
    return Counter()


@dataclass
class Events:
    """macs: multiply-accumulates by the operand widths of the array that they used (`a8w4`; one of `a16w8` is two of
    `a8w8`); shifts: those of logarithmic codes, likewise. read, written: bytes by memory, as the units move them; DRAM's in
    whole bursts. operations: elements times passes of the vector unit, by mnemonic, for a function by its name. comparisons:
    of elements with thresholds. divisions: of rows and of elements. words: that the sequencer decoded.
    """

    macs: Counter[str] = field(default_factory=_counter)
    shifts: Counter[str] = field(default_factory=_counter)
    read: Counter[str] = field(default_factory=_counter)
    written: Counter[str] = field(default_factory=_counter)
    operations: Counter[str] = field(default_factory=_counter)
    comparisons: int = 0
    divisions: int = 0
    words: int = 0


def macs(instruction: MatrixMultiply) -> int:
    """Multiply-accumulates, or shifts: one for each element of the result and of the contracted axis."""
    return instruction.rows * instruction.depth * instruction.columns


def _matmul(machine: Machine, i: MatrixMultiply, events: Events) -> None:
    """A streams once for each column of tiles. Weights stationary: B is read once, and each row of tiles, in each pass of A,
    adds to ACC. Outputs stationary: B is read for each row of tiles and pass, ACC written once.
    """
    pair = operand_pair(machine, i.a_type.bits, i.b_type.bits)
    assert pair is not None
    (events.shifts if i.logarithmic else events.macs)[pair] += macs(i)
    columns = ceil(i.columns / machine.array.columns)
    events.read["SPM"] += i.rows * i.depth * i.a_type.dtype.itemsize * columns
    outer, inner = (i.columns, i.depth) if i.transposed else (i.depth, i.columns)
    row = ceil(inner * i.b_type.bits / 8) if i.b_memory == Memory.WBUF else inner * i.b_type.dtype.itemsize
    result = 4 * i.rows * i.columns
    if i.dataflow == Dataflow.WEIGHT_STATIONARY:
        times, sums = 1, ceil(i.depth / machine.array.rows) * passes(i)
    else:
        times, sums = ceil(i.rows / machine.array.rows) * passes(i), 1
    events.read[Memory(i.b_memory).name] += outer * row * times
    events.written["ACC"] += result * sums
    events.read["ACC"] += result * (sums - 1 + i.accumulate)


def _operands(i: Vectors) -> list[tuple[str, IntType]]:
    """The memories and types of the operands that have an element for each of the result."""
    match i:
        case Requantize() | Threshold():
            return [(Memory(i.source_memory).name, i.source_type)]
        case AddRequantize():
            return [("SPM", i.a_type), ("SPM", i.b_type)]
        case Arith():
            mask = [("SPM", IntType(8, False))] if i.operation == Arithmetic.SELECT else []
            return [("SPM", i.a_type), ("SPM", i.b_type), *mask]
        case Function() | Reduce():
            return [("SPM", i.source_type)]


def _vector(i: Vectors, events: Events) -> None:
    """Every pass reads the operands again; a mask and divisors are read once, results written once."""
    cost = function_cost(i)
    elements = i.rows * i.columns
    name = APPROXIMATIONS[i.function].name if isinstance(i, Function) else i.mnemonic
    events.operations[name] += elements * cost.passes
    if isinstance(i, Threshold):
        events.comparisons += elements * i.levels
    events.divisions += i.rows * cost.row_divisions + elements * cost.element_divisions
    for memory, held in _operands(i):
        events.read[memory] += elements * held.dtype.itemsize * cost.passes
    written = (i.rows if isinstance(i, Reduce) else elements) * i.target_type.dtype.itemsize
    if isinstance(i, Requantize) and i.divided:
        events.read["SPM"] += 4 * i.rows
    if isinstance(i, Function):
        if i.masked:
            events.read["SPM"] += i.columns * (i.rows if i.mask_rows else 1)
        if getattr(APPROXIMATIONS[i.function], "late", False):
            written += 4 * i.rows
    events.written["SPM"] += written


def _moved(machine: Machine, step: Step, events: Events) -> None:
    i = step.instruction
    assert isinstance(i, Load | Store | Copy)
    moved = i.planes * i.rows * i.run
    if isinstance(i, Copy):
        events.read["SPM"] += moved
        events.written["SPM"] += moved
        events.operations[i.mnemonic] += moved
        return
    bursts, _ = transfer(machine, i, *step.addresses[:2])
    if isinstance(i, Load):
        events.read["DRAM"] += bursts * machine.dram.burst
        events.written[Memory(i.memory).name] += moved
    else:
        events.read["SPM"] += moved
        events.written["DRAM"] += bursts * machine.dram.burst


def count_events(machine: Machine, steps: Sequence[Step], words: int, constants: int) -> Events:
    """Of the steps that ran. constants: bytes that vector instructions read of CBUF, each once."""
    events = Events(words=words)
    events.read["CBUF"] += constants
    for step in steps:
        match step.instruction:
            case MatrixMultiply() as instruction:
                _matmul(machine, instruction, events)
            case Load() | Store() | Copy():
                _moved(machine, step, events)
            case Requantize() | AddRequantize() | Function() | Threshold() | Arith() | Reduce() as instruction:
                _vector(instruction, events)
            case _:
                pass
    return events
