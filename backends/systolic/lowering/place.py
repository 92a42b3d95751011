"""Buffers get addresses: tensors that stay by their lifetimes, what is used for a short time in turn around a ring."""

from collections.abc import Sequence

from qvit.backends.systolic.isa import Memory
from qvit.backends.systolic.lowering.tasks import Buffer, Task
from qvit.backends.systolic.machine import Machine

ALIGNMENT = 16


class DoesNotFit(Exception):
    """A memory is too small: which, for what, by how much."""

    def __init__(self, memory: Memory, buffer: Buffer, size: int) -> None:
        super().__init__(f"{memory.name}: {buffer.name} needs {buffer.bytes} bytes, {size} are there for it")
        self.memory = memory


def sizes(machine: Machine) -> dict[Memory, int]:
    memory = machine.memory
    return {
        Memory.SPM: memory.activations,
        Memory.WBUF: memory.weights,
        Memory.CBUF: memory.constants,
        Memory.ACC: memory.accumulators,
    }


def place(machine: Machine, tasks: Sequence[Task], double_buffering: bool) -> None:
    """Sets the address of every buffer; DoesNotFit where there is no room."""
    found = dict.fromkeys(p.buffer for task in tasks for p in (*task.reads, *task.writes, *task.places.values()))
    for memory, size in sizes(machine).items():
        mine = [buffer for buffer in found if buffer.memory is memory]
        kept = _lowest([buffer for buffer in mine if not buffer.ring], size)
        _around([buffer for buffer in mine if buffer.ring], kept, size, double_buffering)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _lowest(buffers: Sequence[Buffer], size: int) -> int:
    """The largest first, each as low as those allow that are in use at the same time; -> what they take together."""
    placed: list[Buffer] = []
    most = 0
    for buffer in sorted(buffers, key=lambda b: (-b.bytes, b.first)):
        address = 0
        for other in sorted(placed, key=lambda b: b.address):
            if other.first <= buffer.last and buffer.first <= other.last:
                if address + _aligned(buffer.bytes) <= other.address:
                    break
                address = max(address, other.address + _aligned(other.bytes))
        buffer.address = address
        if address + buffer.bytes > size:
            assert buffer.memory is not None
            raise DoesNotFit(buffer.memory, buffer, size)
        most = max(most, address + _aligned(buffer.bytes))
        placed.append(buffer)
    return most


def _around(buffers: Sequence[Buffer], start: int, end: int, double_buffering: bool) -> None:
    """Each behind the one before, from `end` on at `start` again, where nothing lies that is still in use."""
    live: list[Buffer] = []
    at = start
    for buffer in sorted(buffers, key=lambda b: b.first):
        live = [other for other in live if other.last >= buffer.first]
        size = _aligned(buffer.bytes)
        if not double_buffering:
            at = start
        for begin in (at, start):
            address = begin
            for other in sorted(live, key=lambda b: b.address):
                if other.address < address + size and address < other.address + _aligned(other.bytes):
                    address = other.address + _aligned(other.bytes)
            if address + size <= end:
                break
        else:
            assert buffer.memory is not None
            raise DoesNotFit(buffer.memory, buffer, end - start - sum(_aligned(other.bytes) for other in live))
        buffer.address, at = address, address + size
        live.append(buffer)
