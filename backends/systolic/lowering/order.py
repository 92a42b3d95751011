"""What must come before what, an order in which the units are rarely idle, and the tokens that keep it."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from qvit.backends.systolic.isa import Memory, Queue
from qvit.backends.systolic.lowering.tasks import Buffer, Place, Task


def dependencies(tasks: Sequence[Task]) -> list[list[int]]:
    """For each task the earlier ones that it must wait for: it reads or overwrites what they wrote, or writes what they read.

    Within a buffer by places, between buffers that share an address by whole buffers.
    """
    found: list[set[int]] = [set(task.follows) for task in tasks]
    written: dict[Buffer, list[tuple[int, Place]]] = {}
    read: dict[Buffer, list[tuple[int, Place]]] = {}
    touched: dict[Buffer, list[int]] = {}
    lying: dict[Memory | None, list[Buffer]] = {}  # what was last at each address
    before: dict[Buffer, list[int]] = {}  # of a buffer: the tasks of those that lay there
    for number, task in enumerate(tasks):
        mine = found[number]
        for place in (*task.reads, *task.writes):
            buffer = place.buffer
            if buffer not in before:
                before[buffer] = _evict(lying.setdefault(buffer.memory, []), buffer, touched)
                touched[buffer], written[buffer], read[buffer] = [], [], []
        for place in task.reads:
            mine.update(n for n, other in written[place.buffer] if other.meets(place))
        for place in task.writes:
            mine.update(before[place.buffer])
            mine.update(n for n, other in written[place.buffer] if other.meets(place))
            mine.update(n for n, other in read[place.buffer] if other.meets(place))
        for place in task.reads:
            read[place.buffer].append((number, place))
            touched[place.buffer].append(number)
        for place in task.writes:
            written[place.buffer].append((number, place))
            touched[place.buffer].append(number)
        mine.discard(number)
    return [sorted(s) for s in found]


def _evict(lying: list[Buffer], buffer: Buffer, touched: dict[Buffer, list[int]]) -> list[int]:
    """The tasks of all buffers that lie where this one will; those that it covers wholly are forgotten."""
    tasks: list[int] = []
    start, end = buffer.address, buffer.address + buffer.bytes
    for other in list(lying):
        if other.address < end and start < other.address + other.bytes:
            tasks += touched[other]
            if start <= other.address and other.address + other.bytes <= end:
                lying.remove(other)
    lying.append(buffer)
    return tasks


@dataclass(frozen=True)
class Schedule:
    """order: the tasks as the sequencer meets them; start, end: by the closed forms, in cycles, by task."""

    order: Sequence[int]
    start: Sequence[int]
    end: Sequence[int]


def schedule(tasks: Sequence[Task], needs: Sequence[Sequence[int]]) -> Schedule:
    """Each unit takes, whenever it is free, the first task in program order that can begin."""
    users: list[list[int]] = [[] for _ in tasks]
    missing = [len(n) for n in needs]
    for number, before in enumerate(needs):
        for n in before:
            users[n].append(number)
    earliest = [0] * len(tasks)
    start, end = [0] * len(tasks), [0] * len(tasks)
    free = dict.fromkeys(Queue, 0)
    ready: dict[Queue, list[int]] = {queue: [] for queue in Queue}  # can begin now, by number
    later: dict[Queue, list[tuple[int, int]]] = {queue: [] for queue in Queue}  # by the cycle from which they can
    for number, task in enumerate(tasks):
        if not missing[number]:
            heapq.heappush(later[task.queue], (0, number))
    order: list[int] = []
    events = [0]
    known = {0}
    while events:
        now = heapq.heappop(events)
        for queue in Queue:
            while later[queue] and later[queue][0][0] <= now:
                heapq.heappush(ready[queue], heapq.heappop(later[queue])[1])
            if free[queue] > now or not ready[queue]:
                continue
            number = heapq.heappop(ready[queue])
            start[number], end[number] = now, now + tasks[number].cycles
            free[queue] = end[number]
            order.append(number)
            if end[number] not in known:
                known.add(end[number])
                heapq.heappush(events, end[number])
            for user in users[number]:
                missing[user] -= 1
                earliest[user] = max(earliest[user], end[number])
                if not missing[user]:
                    heapq.heappush(later[tasks[user].queue], (earliest[user], user))
    assert len(order) == len(tasks)
    return Schedule(order, start, end)


def tokens(tasks: Sequence[Task], needs: Sequence[Sequence[int]], order: Sequence[int]) -> tuple[list[int], list[int]]:
    """(wait, signal) masks by task: a token for each need that no earlier token, and no order of a queue, implies."""
    wait, signal = [0] * len(tasks), [0] * len(tasks)
    rank, position = [0] * len(tasks), [0] * len(tasks)
    sequence: list[list[int]] = [[] for _ in Queue]
    for at, number in enumerate(order):
        queue = tasks[number].queue
        rank[number], position[number] = at, len(sequence[queue])
        sequence[queue].append(number)
    # how many tasks of each queue are known to be done: by a queue where it stands, and once a task is done
    reached: list[list[int]] = [[0] * len(Queue) for _ in Queue]
    behind: dict[int, list[int]] = {}
    for number in order:
        queue = tasks[number].queue
        clock = reached[queue]
        latest: dict[Queue, int] = {}
        for n in needs[number]:
            other = tasks[n].queue
            if other is not queue and position[n] >= position[latest.setdefault(other, n)]:
                latest[other] = n
        # the last to be done first: it may bring what the others are wanted for
        for n in sorted(latest.values(), key=lambda n: -rank[n]):
            other = tasks[n].queue
            if position[n] >= clock[other]:
                signal[n] |= 1 << queue
                wait[number] |= 1 << other
                reached[queue] = clock = [max(pair) for pair in zip(clock, behind[n], strict=True)]
        clock[queue] = position[number] + 1
        behind[number] = list(clock)
    return wait, signal
