"""What each instruction does to the bytes of the memories: strided views in, the semantics of the dialect, bytes out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from qvit.backends.systolic.constants import Block, Records
from qvit.backends.systolic.isa import (
    RECORD,
    ROUNDINGS,
    AddRequantize,
    Arith,
    Arithmetic,
    Copy,
    Function,
    Instruction,
    Load,
    MatrixMultiply,
    Memory,
    Queue,
    Reduce,
    Reduction,
    Requantize,
    Store,
    Threshold,
)
from qvit.backends.systolic.legality import records_refusal
from qvit.backends.systolic.machine import Machine
from qvit.backends.systolic.simulator.memory import Accesses, Region, memories, overlap, view
from qvit.backends.systolic.simulator.trap import Fault
from qvit.dialects.approximations.base import (
    FunctionApproximation,
    LayerNormApproximation,
    SoftmaxApproximation,
)
from qvit.dialects.semantics import elementwise, products, quantization
from qvit.dialects.semantics.integers import Array, Int64, IntType, fit, widen

_WORD = IntType(32)
_BYTE = IntType(8, False)


class Core:
    """The memories, and the accesses of the instruction that is being run: of its queue, with its clock."""

    def __init__(self, machine: Machine, dram: int) -> None:
        self.machine = machine
        self.local, self.dram = memories(machine, dram)
        self._queue = Queue.LOAD
        self._clock: Sequence[int] = (0, 0, 0, 0)

    def run(self, instruction: Instruction, addresses: Sequence[int], queue: Queue, clock: Sequence[int]) -> None:
        """Runs one instruction; Fault where it means nothing, races, or a number does not fit."""
        self._queue, self._clock = queue, clock
        try:
            with np.errstate(divide="raise"):
                _RUN[type(instruction)](self, instruction, addresses)
        except (OverflowError, IndexError, FloatingPointError, ZeroDivisionError) as error:
            raise Fault(str(error)) from error
        except ValueError as error:
            raise error if isinstance(error, Fault) else Fault(str(error)) from error

    # --- bytes ---

    def move(self, source: Accesses, source_region: Region, target: Accesses, target_region: Region) -> None:
        """Bytes from a region to one of the same counts."""
        source.read(source_region, self._queue, self._clock)
        target.bounds(target_region)
        if source is target and overlap(source_region, target_region):
            raise Fault("source and target overlap")
        target.write(target_region, self._queue, self._clock)
        view(target.data, target_region)[...] = view(source.data, source_region)

    def bytes_of(self, memory: Memory, address: int, size: int) -> Array:
        """uint8 [size]."""
        self.local[memory].read(Region(address, size), self._queue, self._clock)
        return self.local[memory].data[address : address + size]

    # --- numbers ---

    def region(self, address: int, rows: int, columns: int, row: int, held: IntType) -> Region:
        """A matrix with an element each `held` takes in NumPy; Fault where an element is not aligned."""
        size = held.dtype.itemsize
        if address % size or (rows > 1 and row % size):
            raise Fault(f"addresses of {held} are multiples of {size}, found {address} and rows of {row}")
        return Region(address, columns * size, rows, row if rows > 1 else columns * size)

    def get(self, memory: Memory, address: int, rows: int, columns: int, row: int, held: IntType) -> Array:
        """[rows, columns], shared with the memory; Fault where a number is not one of its type."""
        region = self.region(address, rows, columns, row, held)
        self.local[memory].read(region, self._queue, self._clock)
        found = self.local[memory].values(region, held.dtype)
        if held.bits < 8 * held.dtype.itemsize and (int(found.min()) < held.lo or int(found.max()) > held.hi):
            fit(found, held)
        return found

    def words(self, memory: Memory, address: int, rows: int, columns: int = 1) -> Int64:
        """i32 [rows, columns] next to each other, as int64."""
        return widen(self.get(memory, address, rows, columns, 4 * columns, _WORD))

    def put(
        self, memory: Memory, address: int, row: int, values: Array, held: IntType, sources: Sequence[Region] = ()
    ) -> None:
        """[rows, columns] in the type's own numbers. sources: what it is made of in the same memory, row by row.

        A target may take the place of a source, each element in its place or nearer to the start of its row, for a row is
        read before it is written.
        """
        rows, columns = values.shape
        region = self.region(address, rows, columns, row, held)
        target = self.local[memory]
        for source in sources:
            in_place = source.base == region.base and source.rows == region.rows and source.run >= region.run
            if in_place and (region.rows == 1 or source.row == region.row):
                continue
            target.bounds(region)
            if overlap(source, region):
                raise Fault(f"source and target overlap in {target.name}, and are not the same rows")
        target.write(region, self._queue, self._clock)
        target.values(region, held.dtype)[...] = values

    def records(self, address: int, count: int, divided: bool = False) -> Records:
        """Records of CBUF; Fault where the machine cannot use them."""
        if address % 4:
            raise Fault(f"records lie at multiples of 4, found {address}")
        records = Records.read(self.bytes_of(Memory.CBUF, address, count * RECORD))
        if reason := records_refusal(self.machine, records, divided):
            raise Fault(reason)
        return records


# --- moving ---


def _load(core: Core, i: Load, addresses: Sequence[int]) -> None:
    source, target = addresses
    core.move(
        core.dram,
        Region(source, i.run, i.rows, i.source_row, i.planes, i.source_plane),
        core.local[Memory(i.memory)],
        Region(target, i.run, i.rows, i.target_row, i.planes, i.target_plane),
    )


def _store(core: Core, i: Store, addresses: Sequence[int]) -> None:
    source, target = addresses
    core.move(
        core.local[Memory.SPM],
        Region(source, i.run, i.rows, i.source_row, i.planes, i.source_plane),
        core.dram,
        Region(target, i.run, i.rows, i.target_row, i.planes, i.target_plane),
    )


def _copy(core: Core, i: Copy, addresses: Sequence[int]) -> None:
    source, target = addresses
    core.move(
        core.local[Memory.SPM],
        Region(source, i.run, i.rows, i.source_row, i.planes, i.source_plane),
        core.local[Memory.SPM],
        Region(target, i.run, i.rows, i.target_row, i.planes, i.target_plane),
    )


# --- the array ---


def unpacked(rows: Array, columns: int, held: IntType) -> Array:
    """Elements without gaps, the first in the lowest bits: uint8 [R, bytes] -> [R, columns] in the type's own numbers."""
    bits = np.unpackbits(rows, axis=1, bitorder="little")[:, : columns * held.bits]
    low = np.packbits(bits.reshape(len(rows), columns, held.bits), axis=2, bitorder="little")[..., 0]
    if not held.signed:
        return low
    sign = np.uint8(1 << (held.bits - 1))
    return ((low ^ sign) - sign).view(np.int8)


def _b(core: Core, i: MatrixMultiply, address: int) -> Array:
    """B as [depth, columns]."""
    memory = Memory(i.b_memory)
    rows, columns = (i.columns, i.depth) if i.transposed else (i.depth, i.columns)
    if memory == Memory.WBUF and i.b_type.bits < 8:
        size = -(-columns * i.b_type.bits // 8)
        b = unpacked(core.get(memory, address, rows, size, i.b_row, _BYTE), columns, i.b_type)
    else:
        b = core.get(memory, address, rows, columns, i.b_row, i.b_type)
    return b.T if i.transposed else b


def _matmul(core: Core, i: MatrixMultiply, addresses: Sequence[int]) -> None:
    a_address, b_address, acc = addresses
    a = core.get(Memory.SPM, a_address, i.rows, i.depth, i.a_row, i.a_type)
    b = _b(core, i, b_address)
    b_zero = np.array(i.b_zero)
    if i.logarithmic:
        if (a < 0).any():
            raise Fault(f"a logarithmic code must not be negative, found {a.min()}")
        product = products.shift_matmul(a, b, b_zero, _WORD)
    else:
        product = products.matmul(a, b, (np.array(i.a_zero), b_zero), _WORD)
    if i.accumulate:
        before = core.get(Memory.ACC, acc, i.rows, i.columns, i.acc_row, _WORD)
        product = elementwise.add(before, product, _WORD)
    core.put(Memory.ACC, acc, i.acc_row, product, _WORD)


# --- vectors ---


def _per_column(column: Int64, per_column: bool) -> Int64:
    """Numbers of records against [rows, columns]: one for each column, or one for all."""
    return column if per_column else np.asarray(column[0])


def _source(core: Core, i: Requantize | Threshold, address: int) -> tuple[Array, tuple[Region, ...]]:
    """The elements, and where they are if that is in SPM."""
    memory = Memory(i.source_memory)
    found = core.get(memory, address, i.rows, i.columns, i.source_row, i.source_type)
    if memory != Memory.SPM:
        return found, ()
    return found, (core.region(address, i.rows, i.columns, i.source_row, i.source_type),)


def _requantize(core: Core, i: Requantize, addresses: Sequence[int]) -> None:
    source, target, records_at, divisors_at = addresses
    x, sources = _source(core, i, source)
    records = core.records(records_at, i.columns if i.per_column else 1, bool(i.divided))
    per = bool(i.per_column)
    divisors = core.words(Memory.SPM, divisors_at, i.rows) if i.divided else None
    y = quantization.requantize_dyadic(
        x,
        _per_column(records.multiplier, per),
        _per_column(records.shift, per),
        (_per_column(records.zero - records.bias, per), np.array(i.zero_point)),
        ROUNDINGS[i.rounding],
        i.target_type,
        divisors,
    )
    core.put(Memory.SPM, target, i.target_row, y, i.target_type, sources)


def _add_requantize(core: Core, i: AddRequantize, addresses: Sequence[int]) -> None:
    a_address, b_address, target, records_at = addresses
    a = core.get(Memory.SPM, a_address, i.rows, i.columns, i.a_row, i.a_type)
    b = core.get(Memory.SPM, b_address, i.rows, i.columns, i.b_row, i.b_type)
    per = bool(i.per_column)
    records = core.records(records_at, 2 * i.columns if per else 2)
    if records.bias[1::2].any():
        raise Fault("the bias of the second record must be 0")
    (m_a, s_a, z, z_a), (m_b, s_b, _, z_b) = (
        [
            _per_column(column[start::2], per)
            for column in (records.multiplier, records.shift, records.bias, records.zero)
        ]
        for start in (0, 1)
    )
    y = quantization.add_requant(
        a, b, (m_a, m_b), (s_a, s_b), (z_a, z_b, z), ROUNDINGS[i.rounding], bool(i.round_each), i.target_type
    )
    sources = (
        core.region(a_address, i.rows, i.columns, i.a_row, i.a_type),
        core.region(b_address, i.rows, i.columns, i.b_row, i.b_type),
    )
    core.put(Memory.SPM, target, i.target_row, y, i.target_type, sources)


def _block(core: Core, function: int, address: int) -> Block:
    memory = core.local[Memory.CBUF]
    if address % 4:
        raise Fault(f"blocks lie at multiples of 4, found {address}")
    try:
        block, size = Block.read(function, memory.data[address:].tobytes())
    except ValueError:
        core.bytes_of(Memory.CBUF, address, 8)  # nothing at all may lie there
        raise
    core.bytes_of(Memory.CBUF, address, size)
    return block


def _function(core: Core, i: Function, addresses: Sequence[int]) -> None:
    source, target, block_at, sums_at, mask_at = addresses
    codes = core.get(Memory.SPM, source, i.rows, i.columns, i.source_row, i.source_type)
    sources = [core.region(source, i.rows, i.columns, i.source_row, i.source_type)]
    block = _block(core, i.function, block_at)
    approximation, tables = block.approximation, [table for table, _ in block.tables]
    x = widen(codes) - block.zero_point
    sums = None
    if isinstance(approximation, SoftmaxApproximation):
        mask = None
        if i.masked:
            rows = i.rows if i.mask_rows else 1
            mask = core.get(Memory.SPM, mask_at, rows, i.columns, i.columns, _BYTE)
            sources.append(core.region(mask_at, rows, i.columns, i.columns, _BYTE))
        results = (i.target_type, _WORD)[: 1 + approximation.late]
        y, *sums = approximation.apply(x, tables, mask, results)
    else:
        assert isinstance(approximation, FunctionApproximation | LayerNormApproximation)
        y = approximation.apply(x, tables, i.target_type)
    core.put(Memory.SPM, target, i.target_row, y, i.target_type, sources)
    if sums:
        sources.append(core.region(target, i.rows, i.columns, i.target_row, i.target_type))
        core.put(Memory.SPM, sums_at, 4, sums[0], _WORD, sources)


def _threshold(core: Core, i: Threshold, addresses: Sequence[int]) -> None:
    source, target, thresholds_at = addresses
    x, sources = _source(core, i, source)
    thresholds = core.words(Memory.CBUF, thresholds_at, i.columns if i.per_column else 1, i.levels)
    if (np.diff(thresholds) < 0).any():
        raise Fault("thresholds must not decrease")
    levels, axis = (thresholds, 1) if i.per_column else (thresholds[0], None)
    y = quantization.threshold(x, levels, axis, i.lowest, i.target_type)
    core.put(Memory.SPM, target, i.target_row, y, i.target_type, sources)


_ARITHMETIC: Mapping[Arithmetic, Callable[[Array, Array, IntType], Array]] = {
    Arithmetic.ADD: elementwise.add,
    Arithmetic.SUB: elementwise.sub,
    Arithmetic.MUL: elementwise.mul,
    Arithmetic.MIN: lambda a, b, held: fit(np.minimum(widen(a), widen(b)), held),
    Arithmetic.MAX: lambda a, b, held: fit(np.maximum(widen(a), widen(b)), held),
    Arithmetic.EQ: lambda a, b, held: fit(elementwise.compare(a, b, "eq"), held),
    Arithmetic.LT: lambda a, b, held: fit(elementwise.compare(a, b, "lt"), held),
    Arithmetic.LE: lambda a, b, held: fit(elementwise.compare(a, b, "le"), held),
}


def _arithmetic(core: Core, i: Arith, addresses: Sequence[int]) -> None:
    a_address, b_address, target, mask_at = addresses
    a = core.get(Memory.SPM, a_address, i.rows, i.columns, i.a_row, i.a_type)
    b = core.get(Memory.SPM, b_address, i.rows, i.columns, i.b_row, i.b_type)
    sources = [
        core.region(a_address, i.rows, i.columns, i.a_row, i.a_type),
        core.region(b_address, i.rows, i.columns, i.b_row, i.b_type),
    ]
    if i.operation == Arithmetic.SELECT:
        row = i.a_row // i.a_type.dtype.itemsize
        mask = core.get(Memory.SPM, mask_at, i.rows, i.columns, row, _BYTE)
        sources.append(core.region(mask_at, i.rows, i.columns, row, _BYTE))
        y = fit(elementwise.select(mask, widen(a), widen(b)), i.target_type)
    else:
        y = _ARITHMETIC[Arithmetic(i.operation)](a, b, i.target_type)
    core.put(Memory.SPM, target, i.target_row, y, i.target_type, sources)


def _reduce(core: Core, i: Reduce, addresses: Sequence[int]) -> None:
    source, target = addresses
    x = core.get(Memory.SPM, source, i.rows, i.columns, i.source_row, i.source_type)
    if i.operation == Reduction.SUM:
        y = elementwise.total(x, (1,), True, i.target_type)
    else:
        y = fit(elementwise.argmax(x, 1, True), i.target_type)
    sources = (core.region(source, i.rows, i.columns, i.source_row, i.source_type),)
    core.put(Memory.SPM, target, i.target_type.dtype.itemsize, y, i.target_type, sources)


_RUN: Mapping[type[Instruction], Callable[[Core, Any, Sequence[int]], None]] = {
    Load: _load,
    Store: _store,
    Copy: _copy,
    MatrixMultiply: _matmul,
    Requantize: _requantize,
    AddRequantize: _add_requantize,
    Function: _function,
    Threshold: _threshold,
    Arith: _arithmetic,
    Reduce: _reduce,
}
