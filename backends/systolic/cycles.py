"""How many cycles an instruction takes by itself: closed forms, which the simulator charges and the scheduler plans with.

Each unit has ports of its own: two that use a bank of SPM in the same cycle do not hold each other up. Only copies pay for
banks, and loads and stores for the one DRAM channel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from qvit.backends.systolic.costs import FUNCTION_COSTS, FunctionCost
from qvit.backends.systolic.isa import (
    AddRequantize,
    Address,
    Arith,
    Copy,
    Dataflow,
    Function,
    Instruction,
    Load,
    MatrixMultiply,
    Reduce,
    Requantize,
    Store,
    Threshold,
    fields_of,
)
from qvit.backends.systolic.machine import Machine
from qvit.dialects.approximations import APPROXIMATIONS
from qvit.dialects.semantics.integers import Int64


@dataclass(frozen=True)
class Cost:
    """Cycles. before: until the DRAM channel is needed; channel: how long it is held; without it all are in `before`."""

    before: int
    channel: int = 0

    @property
    def total(self) -> int:
        return self.before + self.channel


# --- the array ---


def passes(instruction: MatrixMultiply) -> int:
    """How often A streams through the array: twice where its elements have more than 8 bits."""
    return 2 if instruction.a_type.bits > 8 and not instruction.logarithmic else 1


def tiles(machine: Machine, instruction: MatrixMultiply) -> int:
    """Squares of the array, one after another: of B where weights are stationary, of the result where that is."""
    along = instruction.depth if instruction.dataflow == Dataflow.WEIGHT_STATIONARY else instruction.rows
    return ceil(along / machine.array.rows) * ceil(instruction.columns / machine.array.columns)


def _stream(machine: Machine, instruction: MatrixMultiply) -> tuple[int, int]:
    """(cycles in which operands of a tile stream in, those around them)"""
    r, c = machine.array.rows, machine.array.columns
    if instruction.dataflow == Dataflow.WEIGHT_STATIONARY:
        return instruction.rows, 2 * r + c - 2
    return instruction.depth, r + c - 2


def matmul_cycles(machine: Machine, instruction: MatrixMultiply) -> int:
    """Of R x C elements, M x K times K x N, F tiles.

    Weights stationary: R cycles to load a tile, then M rows stream through, R + C - 2 until the last sum is out:
    F (2 R + C + M - 2). With shadow registers the next tile comes in meanwhile, and only the first load and the last
    drain remain: (F - 1) max(M, R) + 2 R + C + M - 2. Outputs stationary: F (R + C + K - 2), or with shadow registers
    (F - 1) max(K, R) + R + C + K - 2. Without shadow registers these are SCALE-Sim's formulas.
    """
    if not machine.array.shadow:
        return most_cycles(machine, instruction)
    stream, around = _stream(machine, instruction)
    f = tiles(machine, instruction) * passes(instruction)
    return (f - 1) * max(stream, machine.array.rows) + stream + around


def most_cycles(machine: Machine, instruction: MatrixMultiply) -> int:
    """SCALE-Sim's formulas, tiles one after another: F (2 R + C + M - 2), or F (R + C + K - 2)."""
    stream, around = _stream(machine, instruction)
    return tiles(machine, instruction) * passes(instruction) * (stream + around)


def least_cycles(machine: Machine, instruction: MatrixMultiply) -> int:
    """What no schedule of the array can undercut: a multiply-accumulate for each element and cycle."""
    macs = instruction.rows * instruction.depth * instruction.columns * passes(instruction)
    return ceil(macs / (machine.array.rows * machine.array.columns))


# --- vectors ---


def function_cost(instruction: Instruction) -> FunctionCost:
    """What a row of a vector instruction costs: one pass, and for a requantization by divisors a division."""
    if isinstance(instruction, Function):
        return FUNCTION_COSTS[APPROXIMATIONS[instruction.function].name]
    if isinstance(instruction, Requantize) and instruction.divided:
        return FunctionCost(1, row_divisions=1)
    return FunctionCost(1)


Vectors = Requantize | AddRequantize | Function | Threshold | Arith | Reduce


def vector_cycles(machine: Machine, instruction: Vectors) -> int:
    """rows (groups (passes + element steps + element divisions D) + row divisions D + row steps) + depth.

    groups = ceil(columns / lanes), D the cycles of a division. Rows follow each other without a gap: where a pass needs
    what the one before it found, another row is in the pipeline meanwhile.
    """
    vector, cost = machine.vector, function_cost(instruction)
    groups = ceil(instruction.columns / vector.lanes)
    each = groups * (cost.passes + cost.element_steps + cost.element_divisions * vector.divide)
    return instruction.rows * (each + cost.row_divisions * vector.divide + cost.row_steps) + vector.depth


# --- copies ---


def _starts(base: int, planes: int, plane: int, rows: int, row: int) -> Int64:
    """The addresses of runs, in the order in which they are moved."""
    return (base + np.arange(planes)[:, None] * plane + np.arange(rows) * row).reshape(-1)


def _spans(starts: Int64, run: int, unit: int) -> int:
    """How many units hold the runs; a unit that one run ends in and the next begins in counts once."""
    first, last = starts // unit, (starts + run - 1) // unit
    return int((last - first + 1).sum() - (first[1:] == last[:-1]).sum())


def _gathers(starts: Int64, together: int, banks: int, word: int) -> Int64:
    """For each group of `together` elements: the most words that it takes of one bank."""
    words = starts // word
    words = np.concatenate([words, np.repeat(words[-1:], -len(words) % together)]).reshape(-1, together)
    words = np.sort(words, axis=1)
    fresh = np.ones(words.shape, np.bool_)
    fresh[:, 1:] = words[:, 1:] != words[:, :-1]
    bank = words % banks
    most = np.zeros(len(words), np.int64)
    for b in range(banks):
        np.maximum(most, ((bank == b) & fresh).sum(1), out=most)
    return most


def copy_cycles(machine: Machine, instruction: Copy, source: int, target: int) -> int:
    """depth + words. Runs of a word and more take a cycle for each word that they touch, read or written, whichever is more.

    Of shorter ones, as many as make up a word are gathered at once: they take as many cycles as the bank of which they
    need the most words, bank = (address / word) mod banks; elements of one word are one access.
    """
    i, word, banks = instruction, machine.memory.word, machine.memory.banks
    sources = _starts(source, i.planes, i.source_plane, i.rows, i.source_row)
    targets = _starts(target, i.planes, i.target_plane, i.rows, i.target_row)
    if i.run >= word:
        words = max(_spans(sources, i.run, word), _spans(targets, i.run, word))
    else:
        together = word // i.run
        read = _gathers(sources, together, banks, word)
        written = _gathers(targets, together, banks, word)
        words = int(np.maximum(read, written).sum())
    return words + machine.vector.depth


# --- DRAM ---


def transfer(machine: Machine, instruction: Load | Store, source: int, target: int) -> tuple[int, int]:
    """(bursts of DRAM, words of the memory on the chip) that a load or a store touches."""
    i = instruction
    sources = _starts(source, i.planes, i.source_plane, i.rows, i.source_row)
    targets = _starts(target, i.planes, i.target_plane, i.rows, i.target_row)
    outside, inside = (sources, targets) if isinstance(i, Load) else (targets, sources)
    return _spans(outside, i.run, machine.dram.burst), _spans(inside, i.run, machine.memory.word)


def transfer_cost(machine: Machine, instruction: Load | Store, source: int, target: int) -> Cost:
    """The latency, then the channel for whole bursts, or for the words on the chip where these take longer."""
    bursts, words = transfer(machine, instruction, source, target)
    beats = bursts * ceil(machine.dram.burst / machine.dram.bytes_per_cycle)
    return Cost(machine.dram.latency, max(beats, words))


# --- all ---


def cost(machine: Machine, instruction: Instruction, addresses: Sequence[int]) -> Cost:
    """Of an instruction of a queue; addresses: in bytes, in the order of its fields."""
    match instruction:
        case Load() | Store():
            return transfer_cost(machine, instruction, addresses[0], addresses[1])
        case MatrixMultiply():
            return Cost(matmul_cycles(machine, instruction))
        case Copy():
            return Cost(copy_cycles(machine, instruction, addresses[0], addresses[1]))
        case Requantize() | AddRequantize() | Function() | Threshold() | Arith() | Reduce():
            return Cost(vector_cycles(machine, instruction))
        case _:
            raise ValueError(f"{instruction.mnemonic} runs in no queue")


def cycles(machine: Machine, instruction: Instruction) -> int:
    """As `cost`, in all; the addresses count from registers that are 0."""
    names = (name for name, bits in fields_of(type(instruction)).items() if bits.kind == "address")
    found: list[Address] = [getattr(instruction, name) for name in names]
    return cost(machine, instruction, [address.offset for address in found]).total
