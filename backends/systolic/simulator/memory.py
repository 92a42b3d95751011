"""The memories: bytes, and for each byte who wrote and who read it last.

A queue counts its instructions from 1 on. Of every byte the number of the last instruction of each queue that wrote it is
kept, and of each that read it. The clock of an instruction says how many instructions of every queue are done for certain
before it starts, by the order in the queues and by tokens. What is not, and touches the same byte, is a race, whatever the
order happened to be.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from qvit.backends.systolic.isa import Memory, Queue
from qvit.backends.systolic.machine import Machine
from qvit.backends.systolic.simulator.trap import Fault
from qvit.dialects.semantics.integers import Array


class Region(NamedTuple):
    """For i < planes, j < rows: `run` bytes from base + i * plane + j * row on."""

    base: int
    run: int
    rows: int = 1
    row: int = 0
    planes: int = 1
    plane: int = 0

    @property
    def end(self) -> int:
        """Behind the last byte."""
        return self.base + (self.planes - 1) * self.plane + (self.rows - 1) * self.row + self.run

    @property
    def bytes(self) -> int:
        """Those that are moved; where a stride repeats, each as often as it is."""
        return self.planes * self.rows * self.run

    def merged(self) -> "Region":
        """The same set of bytes with as few strides as possible."""
        base, run, rows, row, planes, plane = self
        if rows == 1 or row == 0:
            rows, row = 1, 0
        elif row == run:
            run, rows, row = run * rows, 1, 0
        if planes == 1 or plane == 0:
            return Region(base, run, rows, row)
        if rows == 1:
            return Region(base, run * planes) if plane == run else Region(base, run, planes, plane)
        if plane == rows * row:
            return Region(base, run, rows * planes, row)
        return Region(base, run, rows, row, planes, plane)


def view(array: Array, region: Region) -> Array:
    """[planes, rows, run] of an array with one element a byte of the memory; shared, not copied."""
    base, run, rows, row, planes, plane = region
    size = array.itemsize
    return np.ndarray(
        (planes, rows, run),
        array.dtype,
        buffer=array.data,
        offset=base * size,
        strides=(plane * size, row * size, size),
    )


def _marks(region: Region, hull: Region) -> Array:
    """True for the bytes of a region, from the first to the last of `hull`, which it lies in; bool."""
    marks = np.zeros(hull.end - hull.base, np.bool_)
    view(marks, region._replace(base=region.base - hull.base))[...] = True
    return marks


def overlaps_itself(region: Region) -> bool:
    """Whether two of its runs share a byte."""
    _, run, rows, row, planes, plane = region
    if rows == 1 or row >= run:
        inner = (rows - 1) * row + run
        if planes == 1 or plane >= inner:
            return False
    return int(np.count_nonzero(_marks(region, region))) < region.bytes


def overlap(a: Region, b: Region) -> bool:
    """Whether two regions share a byte."""
    if a.end <= b.base or b.end <= a.base:
        return False
    start = min(a.base, b.base)
    hull = Region(start, max(a.end, b.end) - start)
    return bool((_marks(a, hull) & _marks(b, hull)).any())


class Accesses:
    """One memory. writers, readers: the queues whose accesses others may race with."""

    def __init__(self, name: str, size: int, writers: Sequence[Queue], readers: Sequence[Queue]) -> None:
        self.name = name
        self.size = size
        self.data = np.zeros(size, np.uint8)
        self.written = np.zeros(size, np.bool_)
        self.bytes_read = 0
        self._writes = {queue: np.zeros(size, np.uint32) for queue in writers}
        self._reads = {queue: np.zeros(size, np.uint32) for queue in readers}

    def bounds(self, region: Region) -> None:
        if region.base < 0 or region.end > self.size:
            raise Fault(f"bytes {region.base}..{region.end - 1} of {self.name}, which has {self.size}")

    def _race(self, array: Array, region: Region, before: int, other: Queue, did: str, does: str) -> None:
        touched = view(array, region)
        if (last := int(touched.max())) > before:
            plane, row, at = np.unravel_index(int(touched.argmax()), touched.shape)
            byte = region.base + plane * region.plane + row * region.row + at
            raise Fault(
                f"a race: it {does} byte {byte} of {self.name}, which instruction {last} of {other.name} {did};"
                " no token orders them"
            )

    def read(self, region: Region, queue: Queue, clock: Sequence[int]) -> None:
        """Notes a read; Fault where it is out of range, of bytes that nothing wrote, or races with a write."""
        self.bounds(region)
        self.bytes_read += region.bytes
        region = region.merged()
        known = view(self.written, region)
        if not known.all():
            plane, row, at = np.unravel_index(int(known.argmin()), known.shape)
            byte = region.base + plane * region.plane + row * region.row + at
            raise Fault(f"byte {byte} of {self.name} is read before it was written")
        for other, last in self._writes.items():
            if other != queue:
                self._race(last, region, clock[other], other, "wrote", "reads")
        if queue in self._reads:
            view(self._reads[queue], region)[...] = clock[queue] + 1

    def write(self, region: Region, queue: Queue, clock: Sequence[int]) -> None:
        """Notes a write; Fault where it is out of range, writes a byte twice, or races with another access."""
        self.bounds(region)
        if overlaps_itself(region):
            raise Fault(f"it writes bytes of {self.name} twice")
        region = region.merged()
        for other, last in self._writes.items():
            if other != queue:
                self._race(last, region, clock[other], other, "wrote", "writes")
        for other, last in self._reads.items():
            if other != queue:
                self._race(last, region, clock[other], other, "read", "writes")
        view(self.written, region)[...] = True
        if queue in self._writes:
            view(self._writes[queue], region)[...] = clock[queue] + 1

    def fill(self, address: int, content: Array) -> None:
        """Bytes that are there before the program starts; uint8 [n]."""
        self.bounds(Region(address, len(content)))
        self.data[address : address + len(content)] = content
        self.written[address : address + len(content)] = True

    def values(self, region: Region, dtype: np.dtype[Any]) -> Array:
        """[rows, elements] of a region with one plane, as little-endian numbers of that type; shared, not copied."""
        return np.ndarray(
            (region.rows, region.run // dtype.itemsize),
            dtype.newbyteorder("<"),
            buffer=self.data.data,
            offset=region.base,
            strides=(region.row, dtype.itemsize),
        )


def memories(machine: Machine, dram: int) -> tuple[dict[Memory, Accesses], Accesses]:
    """The memories on the chip, and DRAM of `dram` bytes."""
    load, matrix, vector, store = Queue
    held = machine.memory
    return {
        Memory.SPM: Accesses("SPM", held.activations, (load, vector), (matrix, vector, store)),
        Memory.WBUF: Accesses("WBUF", held.weights, (load,), (matrix,)),
        Memory.CBUF: Accesses("CBUF", held.constants, (load,), (vector,)),
        Memory.ACC: Accesses("ACC", held.accumulators, (matrix,), (vector,)),
    }, Accesses("DRAM", dram, (store,), (load,))
