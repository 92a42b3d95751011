"""What the emitters of operations share: buffers, constants in DRAM, and the list of tasks."""

import hashlib
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil, prod
from typing import Any

import numpy as np
from xdsl.ir import Operation, SSAValue
from xdsl.utils.exceptions import DiagnosticException

from qvit.backends.systolic.constants import Block, Records
from qvit.backends.systolic.cycles import cycles
from qvit.backends.systolic.isa import Copy, Dataflow, Instruction, Load, Memory, Queue, Store
from qvit.backends.systolic.legality import records_refusal, refusal
from qvit.backends.systolic.lowering.tasks import Buffer, Place, Task
from qvit.backends.systolic.lowering.tensors import Home, Matrix, View
from qvit.backends.systolic.machine import Machine
from qvit.dialects.attributes import Value, ZeroPointAttr
from qvit.dialects.provenance import describe, sources
from qvit.dialects.semantics.integers import Array, IntType
from qvit.dialects.types import integer_of, shape_of
from qvit.dialects.weights import Weights

ALIGNMENT = 64
"""Bytes: of what lies in DRAM."""
RUN_MOST = (1 << 20) - 1
ROWS_MOST = (1 << 14) - 1


class LoweringError(DiagnosticException):
    """The module cannot become a program for the machine; the message names the operation, says why and what to do."""


def refuse(op: Operation, problem: str, advice: str) -> LoweringError:
    return LoweringError(f"{describe(op)} ({op.name}): {problem}; {advice}")


@dataclass(frozen=True)
class Options:
    """What may be switched off, to see what it is worth.

    row_pipelining: vectors of finished rows while the array goes on; streaming: an operation begins before the one before
    has ended; double_buffering: what comes next is loaded while the array works.
    """

    dataflow: Dataflow = Dataflow.WEIGHT_STATIONARY
    row_pipelining: bool = True
    streaming: bool = True
    double_buffering: bool = True


@dataclass
class Builder:
    """Tasks in program order: each right if those before it are done."""

    machine: Machine
    options: Options
    weights: Weights
    room: int
    """Bytes of the memory for activations that tensors which stay may take."""
    tasks: list[Task] = field(default_factory=list[Task])
    data: dict[int, Array] = field(default_factory=dict[int, Array])
    dram: int = 0
    nodes: dict[str, int] = field(default_factory=dict[str, int])
    group: int = 0
    op: Operation | None = None
    addresses: dict[SSAValue, int] = field(default_factory=dict[SSAValue, int])
    """Of tensors that live in DRAM."""
    _constants: dict[bytes, int] = field(default_factory=dict[bytes, int])
    _homes: dict[Home, Buffer] = field(default_factory=dict[Home, Buffer])
    _loaded: dict[Any, Buffer] = field(default_factory=dict[Any, Buffer])
    _numbers: dict[Any, Array] = field(default_factory=dict[Any, Array])
    _cached: dict[int, Buffer] = field(default_factory=dict[int, Buffer])
    _vectors: list[int] = field(default_factory=list[int])
    _later: dict[SSAValue, Array] = field(default_factory=dict[SSAValue, Array])
    _views: dict[SSAValue, View] = field(default_factory=dict[SSAValue, View])

    # --- operations ---

    def at(self, op: Operation) -> None:
        """What is emitted next works for this operation."""
        self.op = op

    def node(self) -> int:
        """The number of the source node, from 1 on; 0 where there is none, or there are too many."""
        names = sources(self.op) if self.op is not None else ()
        if not names:
            return 0
        number = self.nodes.setdefault(names[-1], len(self.nodes) + 1)
        return number if number < 1 << 16 else 0

    # --- tensors ---

    def view(self, value: SSAValue) -> View:
        if value not in self._views:
            self._views[value] = self._constant_view(value, self._later[value])
        return self._views[value]

    def numbers(self, value: Value | ZeroPointAttr | None) -> Array:
        """The integers of an attribute, read once."""
        if value not in self._numbers:
            if value is None or isinstance(value, ZeroPointAttr):
                self._numbers[value] = self.weights.zero_point(value)
            else:
                self._numbers[value] = self.weights.values(value)
        return self._numbers[value]

    def later(self, value: SSAValue, array: Array) -> None:
        """A constant tensor, which gets a place in DRAM only if something reads it from there."""
        self._later[value] = array

    def define(self, value: SSAValue, view: View) -> None:
        self._views[value] = view

    def has_view(self, value: SSAValue) -> bool:
        return value in self._views or value in self._later

    def new_home(self, value: SSAValue) -> Home:
        """The memory of a tensor that is about to be computed."""
        held, shape = element(value), shape_of(value)
        if value not in self.addresses and bytes_of(value) > self.room:
            self.addresses[value] = self.new_dram(bytes_of(value))  # a copy, which no plan of what stays knew of
        return Home("tensor", prod(shape), held, value, self.addresses.get(value))

    def new_dram(self, size: int) -> int:
        """The address of `size` new bytes."""
        address = self.dram
        self.dram += -(-size // ALIGNMENT) * ALIGNMENT
        if self.dram > self.machine.dram.bytes:
            raise LoweringError(
                f"machine {self.machine.name}: the program needs {self.dram} bytes of DRAM, there are"
                f" {self.machine.dram.bytes}: give it more"
            )
        return address

    def stored(self, content: Array) -> int:
        """The address of constant bytes; equal ones lie there once. content: uint8 [n]."""
        digest = hashlib.blake2b(
            content.data if content.flags.c_contiguous else content.tobytes(), digest_size=16
        ).digest()
        if digest not in self._constants:
            self._constants[digest] = address = self.new_dram(len(content))
            self.data[address] = content
        return self._constants[digest]

    def _constant_view(self, value: SSAValue, array: Array) -> View:
        """A constant tensor in DRAM."""
        held = integer_of(value)
        assert held is not None
        content = np.ascontiguousarray(array.astype(held.dtype)).reshape(-1).view(np.uint8)
        home = Home("constant", array.size, held, value, self.stored(content))
        return View.of(home, shape_of(value))

    # --- buffers ---

    def temporary(self, name: str, memory: Memory, size: int) -> Buffer:
        """A buffer for a short time."""
        return Buffer(name, memory, max(size, 1), group=self.group)

    def buffer(self, home: Home) -> Buffer:
        """The buffer of a home, on the chip or of DRAM."""
        if home not in self._homes:
            memory = Memory.SPM if home.address is None else None
            address = -1 if home.address is None else home.address
            self._homes[home] = Buffer(home.name, memory, home.bytes, ring=False, address=address)
        return self._homes[home]

    def place(self, matrix: Matrix) -> Place:
        """Where a matrix lies in the buffer of its home; its rows must be contiguous."""
        assert matrix.contiguous
        size = matrix.home.itemsize
        return Place(
            self.buffer(matrix.home), matrix.offset * size, matrix.rows, matrix.columns * size, matrix.row * size
        )

    # --- tasks ---

    def emit(
        self,
        kind: type[Instruction],
        values: Mapping[str, Any],
        places: Mapping[str, Place],
        reads: tuple[Place, ...],
        writes: tuple[Place, ...],
    ) -> Task:
        """A task; LoweringError where a field does not fit or the machine cannot do it."""
        probe = kind(**values)
        self._legal(refusal(self.machine, probe))
        number = len(self.tasks)
        for place in (*reads, *writes):
            place.buffer.first = number if place.buffer.first < 0 else place.buffer.first
            place.buffer.last = number
        task = Task(kind, values, places, reads, writes, cycles(self.machine, probe), self.node(), self.group)
        if task.queue is Queue.VECTOR:
            self._vectors.append(number)
        elif task.queue is Queue.MATRIX and not self.options.row_pipelining:
            task.follows += self._vectors
            self._vectors = []
        self.tasks.append(task)
        return task

    def _legal(self, reason: str | None) -> None:
        if reason is not None:
            assert self.op is not None
            raise refuse(self.op, f"machine {self.machine.name}: {reason}", "choose another machine or scheme")

    def load(self, memory: Memory, address: int, size: int, name: str) -> Place:
        """`size` contiguous bytes of DRAM constants into a new buffer."""
        target = Place(self.temporary(name, memory, size), 0, 1, size, size)
        self._transfer_in(target, address, memory)
        return target

    def _transfer_in(self, target: Place, address: int, memory: Memory) -> None:
        for at in range(0, target.run, RUN_MOST):
            size = min(RUN_MOST, target.run - at)
            part = Place(target.buffer, target.offset + at, 1, size, size)
            source = Place(Buffer("dram", None, size, False, address=address + at), 0, 1, size, size)
            values = {"memory": memory, "planes": 1, "rows": 1, "run": size}
            self.emit(Load, values, {"source": source, "target": part}, (), (part,))

    @contextmanager
    def scope(self) -> Generator[None]:
        """What is loaded inside is not used behind it."""
        before = dict(self._loaded)
        yield
        self._loaded = before

    def records(self, records: Records, divided: bool = False) -> Place:
        """Records in CBUF; LoweringError where the machine cannot multiply or shift as they say."""
        self._legal(records_refusal(self.machine, records, divided))
        return self._constants_at(records.data(), "records")

    def block(self, block: Block) -> Place:
        """A block in CBUF."""
        return self._constants_at(block.data(), block.approximation.name)

    def constants(self, content: bytes, name: str) -> Place:
        return self._constants_at(content, name)

    def _constants_at(self, content: bytes, name: str) -> Place:
        """Where constants are in CBUF: what was used last stays there, in half of it."""
        address = self.stored(np.frombuffer(content, np.uint8))
        if address in self._cached:
            self._cached[address] = self._cached.pop(address)
        else:
            self._cached[address] = self.load(Memory.CBUF, address, len(content), name).buffer
            while (
                len(self._cached) > 1
                and sum(b.bytes for b in self._cached.values()) > self.machine.memory.constants // 2
            ):
                del self._cached[next(iter(self._cached))]
        return Place(self._cached[address], 0, 1, len(content), len(content))

    def weight_tile(self, content: Array, run: int) -> Place:
        """Rows of `run` bytes into WBUF; content: uint8 [rows, run]."""
        address = self.stored(content.reshape(-1))
        key = (Memory.WBUF, address)
        if key not in self._loaded:
            self._loaded[key] = self.load(Memory.WBUF, address, content.size, "weights").buffer
        return Place(self._loaded[key], 0, len(content), run, run)

    # --- reading and writing tensors ---

    def read(self, matrix: Matrix) -> Place:
        """The matrix in SPM with contiguous rows: where it is, or loaded from DRAM, or copied together."""
        if matrix.home.address is None and matrix.contiguous:
            return self.place(matrix)
        key = (matrix.home, matrix.offset, matrix.rows, matrix.columns, matrix.row, matrix.column)
        size = matrix.home.itemsize
        run = matrix.columns * size
        if key not in self._loaded:
            rows = 1 if matrix.row == 0 else matrix.rows
            target = Place(self.temporary(matrix.home.name, Memory.SPM, rows * run), 0, rows, run, run)
            self._loaded[key] = target.buffer
            self._gather(matrix.part(0, rows), target)
        if matrix.row == 0:
            return Place(self._loaded[key], 0, matrix.rows, run, 0)
        return Place(self._loaded[key], 0, matrix.rows, run, run)

    def _gather(self, matrix: Matrix, target: Place) -> None:
        """Copies of a matrix's elements into rows of SPM."""
        size = matrix.home.itemsize
        if matrix.contiguous:
            planes, rows, run = 1, matrix.rows, matrix.columns * size
            steps = {"source_plane": 0, "source_row": matrix.row * size, "target_plane": 0, "target_row": target.stride}
        else:
            planes, rows, run = matrix.rows, matrix.columns, size
            steps = {
                "source_plane": matrix.row * size,
                "source_row": matrix.column * size,
                "target_plane": target.stride,
                "target_row": size,
            }
        self.copy(
            matrix.home, matrix.offset * size, target.buffer, target.offset, (planes, rows, run), steps, (target,)
        )

    def copy(
        self,
        home: Home,
        source_offset: int,
        target: Buffer,
        target_offset: int,
        counts: tuple[int, int, int],
        steps: Mapping[str, int],
        writes: tuple[Place, ...],
    ) -> None:
        """planes x rows x run bytes of a home to a buffer of SPM."""
        planes, rows, run = counts
        source_buffer = self.buffer(home)
        reach = (planes - 1) * steps["source_plane"] + (rows - 1) * steps["source_row"] + run
        source = Place(source_buffer, source_offset, 1, reach, reach)
        if planes == 1 and steps["source_row"]:
            source = Place(source_buffer, source_offset, rows, run, steps["source_row"])
        first = Place(target, target_offset, 1, run, run)
        values = {"planes": planes, "rows": rows, "run": run, **{k: v for k, v in steps.items()}}
        if home.address is None:
            self.emit(Copy, values, {"source": source, "target": first}, (source,), writes)
        else:
            self.emit(Load, {"memory": Memory.SPM, **values}, {"source": source, "target": first}, (source,), writes)

    @contextmanager
    def written(self, matrix: Matrix) -> Generator[Place]:
        """Where to write a matrix with contiguous rows; if it lives in DRAM, it is stored behind."""
        if matrix.home.address is None:
            yield self.place(matrix)
            return
        size = matrix.home.itemsize
        run = matrix.columns * size
        source = Place(self.temporary(matrix.home.name, Memory.SPM, matrix.rows * run), 0, matrix.rows, run, run)
        yield source
        target = self.place(matrix)
        values = {
            "planes": 1,
            "rows": matrix.rows,
            "run": run,
            "source_row": run,
            "target_row": matrix.row * size,
        }
        self.emit(Store, values, {"source": source, "target": target}, (source,), (target,))


def blocks(total: int, most: int, multiple: int = 1) -> list[tuple[int, int]]:
    """0..total in as few parts as possible of at most `most`, as even as multiples allow; most >= multiple, or total at most."""
    if total <= most:
        return [(0, total)]
    size = ceil(total / ceil(total / most))
    size = min(-(-size // multiple) * multiple, most // multiple * multiple)
    return [(start, min(start + size, total)) for start in range(0, total, size)]


Emit = Callable[["Builder", Operation], None]


def element(value: SSAValue) -> IntType:
    """The integer type of a tensor; LoweringError for a float."""
    found = integer_of(value)
    if found is None:
        owner = value.owner
        what = f"{describe(owner)} ({owner.name})" if isinstance(owner, Operation) else "an argument"
        raise LoweringError(
            f"{what}: expected integers, found {value.type}; the array has no floats: --integerize first"
        )
    if found.bits > 32:
        owner = value.owner
        what = f"{describe(owner)} ({owner.name})" if isinstance(owner, Operation) else "an argument"
        raise LoweringError(f"{what}: {found} has more than 32 bits, the widest that the machine holds")
    return found


def bytes_of(value: SSAValue) -> int:
    """Of a tensor in memory."""
    return prod(shape_of(value)) * element(value).dtype.itemsize
