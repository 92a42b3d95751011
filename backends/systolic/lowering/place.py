"""Buffers get addresses: tensors that stay by their lifetimes, what is used for a short time in turn around a ring."""

from collections.abc import Sequence

from qvit.backends.systolic.isa import Memory
from qvit.backends.systolic.lowering.tasks import Buffer, Task
from qvit.backends.systolic.machine import Machine

ALIGNMENT = 16


class DoesNotFit(Exception):
    """A memory is too small: which, for what, by how much."""

    def __init__(self, memory: Memory, buffer: Buffer, size: int) -> None:
        super().__init__(
            f"{memory.name}: {buffer.name} needs {buffer.bytes} bytes in one piece; of what it may use {size} are free"
        )
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


SLOTS = 4
"""Places in turn for what one group of operations uses again and again: one is filled while the other is read."""


class _Ring:
    """Addresses start .. end - 1 for buffers in the order of their first use.

    Buffers of one kind (group, name, size) take the same few places in turn: then a tile is as the one before, which lets
    instructions become loops. A kind gets new places behind those of the kinds before, around the ring.
    """

    def __init__(self, start: int, end: int, slots: int) -> None:
        self.start, self.end, self.slots = start, end, slots
        self.at = start
        self.live: list[Buffer] = []
        self.kinds: dict[tuple[int, str, int], list[int]] = {}  # the places of a kind, the longest unused first
        self.owner: dict[int, tuple[int, str, int]] = {}  # by place

    def put(self, buffer: Buffer) -> None:
        self.live = [other for other in self.live if other.last >= buffer.first]
        size = _aligned(buffer.bytes)
        kind = (buffer.group, buffer.name, size)
        places = self.kinds.setdefault(kind, [])
        usable = [place for place in places if self._free(place, size) == place]
        if not usable or len(places) < self.slots:
            address = self._new(buffer, size)
            if address is not None:
                self._take(address, size, kind)
                usable = [address]
        if not usable:
            assert buffer.memory is not None
            held = sum(_aligned(other.bytes) for other in self.live)
            raise DoesNotFit(buffer.memory, buffer, self.end - self.start - held)
        buffer.address = usable[0]
        places.remove(buffer.address)
        places.append(buffer.address)
        self.live.append(buffer)

    def _free(self, address: int, size: int) -> int:
        """The lowest address from this one on where nothing is in use."""
        for other in sorted(self.live, key=lambda b: b.address):
            if other.address < address + size and address < other.address + _aligned(other.bytes):
                address = other.address + _aligned(other.bytes)
        return address

    def _new(self, buffer: Buffer, size: int) -> int | None:
        for begin in (self.at, self.start) if self.slots > 1 else (self.start,):
            address = self._free(begin, size)
            if address + size <= self.end:
                self.at = address + size
                return address
        return None

    def _take(self, address: int, size: int, kind: tuple[int, str, int]) -> None:
        """The place is of this kind from now on, those that it touches of none."""
        for place, other in list(self.owner.items()):
            if place < address + size and address < place + other[2]:
                self.kinds[other].remove(place)
                del self.owner[place]
        self.owner[address] = kind
        self.kinds[kind].append(address)


def _around(buffers: Sequence[Buffer], start: int, end: int, double_buffering: bool) -> None:
    ring = _Ring(start, end, SLOTS if double_buffering else 1)
    for buffer in sorted(buffers, key=lambda b: b.first):
        ring.put(buffer)


def most_at_once(tasks: Sequence[Task], memory: Memory) -> int:
    """Bytes of a memory that buffers for a short time take together, at most."""
    change = [0] * (len(tasks) + 1)
    for buffer in dict.fromkeys(p.buffer for task in tasks for p in (*task.reads, *task.writes)):
        if buffer.memory is memory and buffer.ring:
            change[buffer.first] += _aligned(buffer.bytes)
            change[buffer.last + 1] -= _aligned(buffer.bytes)
    held = most = 0
    for delta in change:
        held += delta
        most = max(most, held)
    return most
