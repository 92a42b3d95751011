"""What a machine can run, and run exactly: asked by the lowering before it emits, and by the simulator before it runs."""

from collections.abc import Callable
from typing import Any

from qvit.backends.systolic.constants import Records
from qvit.backends.systolic.isa import (
    AddRequantize,
    Arith,
    Copy,
    Dataflow,
    Function,
    Instruction,
    Load,
    MatrixMultiply,
    Memory,
    Reduce,
    Requantize,
    Store,
    Threshold,
)
from qvit.backends.systolic.machine import Machine
from qvit.dialects.approximations import APPROXIMATIONS
from qvit.dialects.approximations.base import SoftmaxApproximation
from qvit.dialects.semantics.integers import IntType

WIDEST = 32
"""Bits of an element in SPM and ACC, at most."""
PACKED = (2, 3, 4, 8)
"""Bits of an element in WBUF."""


LARGEST = 1 << 22
"""Bytes of a memory on the chip, at most."""


def operand_pair(machine: Machine, a_bits: int, b_bits: int) -> str | None:
    """The narrowest pair of operand widths of the array that holds both, such as `a8w4`; None without one."""
    fitting: list[tuple[int, int, str]] = []
    for name in machine.array.operands:
        a, b = map(int, name[1:].split("w"))
        if a_bits <= a and b_bits <= b:
            fitting.append((a, b, name))
    return min(fitting)[2] if fitting else None


def _counts(instruction: Any, *names: str) -> str | None:
    for name in names:
        if getattr(instruction, name) < 1:
            return f"{name} must be 1 at least, found {getattr(instruction, name)}"
    return None


def _types(**types: IntType) -> str | None:
    for name, held in types.items():
        if held.bits > WIDEST:
            return f"{name} {held} has more than {WIDEST} bits"
    return None


def _from_memory(instruction: Requantize | Threshold) -> str | None:
    """The source of what reads ACC or SPM."""
    if instruction.source_memory not in (Memory.ACC, Memory.SPM):
        return f"the source must be in ACC or SPM, found memory {instruction.source_memory}"
    if instruction.source_memory == Memory.ACC and instruction.source_type != IntType(32):
        return f"ACC holds i32, found {instruction.source_type}"
    return None


def _runs(i: Load | Store | Copy) -> str | None:
    if i.planes * i.rows > LARGEST:
        return f"{i.planes * i.rows} runs are more than the bytes of the largest memory on a chip, {LARGEST}"
    return _counts(i, "planes", "rows", "run")


def _load(_: Machine, i: Load) -> str | None:
    if i.memory not in (Memory.SPM, Memory.WBUF, Memory.CBUF):
        return f"load fills SPM, WBUF or CBUF, found {Memory(i.memory).name}"
    return _runs(i)


def _moved(_: Machine, i: Store | Copy) -> str | None:
    return _runs(i)


def _matmul(machine: Machine, i: MatrixMultiply) -> str | None:
    if i.b_memory not in (Memory.SPM, Memory.WBUF):
        return f"B must be in SPM or WBUF, found {Memory(i.b_memory).name}"
    if i.b_memory == Memory.WBUF and i.b_type.bits not in PACKED:
        return f"elements of WBUF have 2, 3, 4 or 8 bits, found {i.b_type}"
    dataflow = Dataflow(i.dataflow).name.lower()
    if dataflow not in machine.array.dataflows:
        return f"the array's dataflow is {' or '.join(machine.array.dataflows)}, found {dataflow}"
    if i.logarithmic:
        if not machine.array.logarithmic:
            return "the array does not shift: it has no logarithmic codes"
        if i.a_zero or i.a_type.bits > 8:
            return f"logarithmic codes have 8 bits and no zero point, found {i.a_type} and {i.a_zero}"
    if operand_pair(machine, i.a_type.bits, i.b_type.bits) is None:
        pairs = ", ".join(machine.array.operands) or "none"
        return f"the array has no operands of {i.a_type.bits} and {i.b_type.bits} bits; it has {pairs}"
    return _counts(i, "rows", "depth", "columns")


def _requantize(machine: Machine, i: Requantize) -> str | None:
    forms = machine.vector.requantize
    if not {"dyadic", "pot"} & set(forms):
        return "it does not requantize"
    if i.divided and "divided" not in forms:
        return "it does not divide where it requantizes"
    return (
        _from_memory(i) or _types(source_type=i.source_type, target_type=i.target_type) or _counts(i, "rows", "columns")
    )


def _add_requantize(machine: Machine, i: AddRequantize) -> str | None:
    if not {"dyadic", "pot"} & set(machine.vector.requantize):
        return "it does not requantize"
    types = _types(a_type=i.a_type, b_type=i.b_type, target_type=i.target_type)
    return types or _counts(i, "rows", "columns")


def _function(machine: Machine, i: Function) -> str | None:
    kind = APPROXIMATIONS[i.function]
    if not machine.vector.has(kind.name):
        return f"it has no function {kind.name}; it has {', '.join(machine.vector.functions) or 'none'}"
    if i.masked and not issubclass(kind, SoftmaxApproximation):
        return f"{kind.name} takes no mask"
    return _types(source_type=i.source_type, target_type=i.target_type) or _counts(i, "rows", "columns")


def _threshold(machine: Machine, i: Threshold) -> str | None:
    if i.levels > machine.vector.comparators:
        return f"it has {machine.vector.comparators} comparators, {i.levels} thresholds are asked for"
    return (
        _from_memory(i)
        or _types(source_type=i.source_type, target_type=i.target_type)
        or _counts(i, "rows", "columns", "levels")
    )


def _arithmetic(_: Machine, i: Arith) -> str | None:
    types = _types(a_type=i.a_type, b_type=i.b_type, target_type=i.target_type)
    return types or _counts(i, "rows", "columns")


def _reduce(_: Machine, i: Reduce) -> str | None:
    return _types(source_type=i.source_type, target_type=i.target_type) or _counts(i, "rows", "columns")


_REFUSALS: dict[type[Instruction], Callable[[Machine, Any], str | None]] = {
    Load: _load,
    Store: _moved,
    Copy: _moved,
    MatrixMultiply: _matmul,
    Requantize: _requantize,
    AddRequantize: _add_requantize,
    Function: _function,
    Threshold: _threshold,
    Arith: _arithmetic,
    Reduce: _reduce,
}


def refusal(machine: Machine, instruction: Instruction) -> str | None:
    """Why the machine cannot run the instruction, or not exactly, wherever its operands lie; None where it can."""
    check = _REFUSALS.get(type(instruction))
    return None if check is None else check(machine, instruction)


def records_refusal(machine: Machine, records: Records, divided: bool = False) -> str | None:
    """Why the machine cannot requantize by these records; None where it can.

    Without `dyadic` there is no multiplier: it is 1, or 2^30 where a division turns it into a reciprocal.
    """
    m, s = records.multiplier, records.shift
    if (m == -(1 << 31)).any():
        return f"a multiplier must be above {-(1 << 31)}"
    if (s > 62).any() or (s < -31).any():
        return f"a shift must be -31..62, found {s.min()}..{s.max()}"
    if ((s < 0) & (m != 1)).any():
        return f"a negative shift goes with multiplier 1, found {m[(s < 0) & (m != 1)][0]}"
    forms = machine.vector.requantize
    only = 1 << 30 if divided else 1
    if "dyadic" not in forms and (m != only).any():
        return f"it has no multipliers: expected {only}, found {m[m != only][0]}"
    if "pot" not in forms and (s < 0).any():
        return "it does not shift to the left"
    return None
