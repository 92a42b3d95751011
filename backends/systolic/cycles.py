"""How many cycles an instruction takes by itself: closed forms, which the simulator charges and the scheduler plans with."""

from math import ceil

from qvit.backends.systolic.isa import Dataflow, MatrixMultiply
from qvit.backends.systolic.machine import Machine


def passes(instruction: MatrixMultiply) -> int:
    """How often A streams through the array: twice where its elements have 16 bits."""
    return 2 if instruction.a_type.bits > 8 and not instruction.logarithmic else 1


def tiles(machine: Machine, instruction: MatrixMultiply) -> int:
    """Squares of the array, one after another: of B where weights are stationary, of the result where that is."""
    along = instruction.depth if instruction.dataflow == Dataflow.WEIGHT_STATIONARY else instruction.rows
    return ceil(along / machine.array.rows) * ceil(instruction.columns / machine.array.columns)


def matmul_cycles(machine: Machine, instruction: MatrixMultiply) -> int:
    """Of R x C elements, M x K times K x N, F tiles.

    Weights stationary: R cycles to load a tile, then M rows stream through, R + C - 2 until the last sum is out:
    F (2 R + C + M - 2). With shadow registers the next tile comes in meanwhile, and only the first load and the last
    drain remain: (F - 1) max(M, R) + 2 R + C + M - 2. Outputs stationary: F (R + C + K - 2), or with shadow registers
    (F - 1) max(K, R) + R + C + K - 2. Without shadow registers these are SCALE-Sim's formulas.
    """
    r, c, f = machine.array.rows, machine.array.columns, tiles(machine, instruction) * passes(instruction)
    if instruction.dataflow == Dataflow.WEIGHT_STATIONARY:
        stream, around = instruction.rows, 2 * r + c - 2
    else:
        stream, around = instruction.depth, r + c - 2
    if machine.array.shadow:
        return (f - 1) * max(stream, r) + stream + around
    return f * (stream + around)


def least_cycles(machine: Machine, instruction: MatrixMultiply) -> int:
    """What no schedule of the array can undercut: a multiply-accumulate for each element and cycle."""
    macs = instruction.rows * instruction.depth * instruction.columns * passes(instruction)
    return ceil(macs / (machine.array.rows * machine.array.columns))
