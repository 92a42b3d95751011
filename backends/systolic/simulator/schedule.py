"""When each step runs: the sequencer hands words to four queues, tokens and units hold them up. No value is needed for it."""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from qvit.backends.systolic.cycles import Cost
from qvit.backends.systolic.isa import Queue
from qvit.backends.systolic.machine import Machine
from qvit.backends.systolic.simulator.sequence import Step
from qvit.backends.systolic.simulator.trap import Listing

QUEUES = tuple(Queue)
Clock = tuple[int, int, int, int]


class Stall(StrEnum):
    """What a step waited for last."""

    NONE = ""
    DISPATCH = "dispatch"
    """Its unit was free before the sequencer had handed it on."""
    LOAD = "token of LOAD"
    MATRIX = "token of MATRIX"
    VECTOR = "token of VECTOR"
    STORE = "token of STORE"


_TOKENS = (Stall.LOAD, Stall.MATRIX, Stall.VECTOR, Stall.STORE)


@dataclass
class Schedule:
    """By step: the cycle when it was handed to its queue, when it started and ended, how long its free unit stood still
    before it and why, from when on it had the DRAM channel (-1: never), and its clock; order: the steps as they started."""

    handed: list[int]
    start: list[int]
    end: list[int]
    stalled: list[int]
    stall: list[Stall]
    channel: list[int]
    clock: list[Clock]
    order: list[int]
    cycles: int


class _Queues:
    """What the queues and the counters between them hold. Steps are numbers; time is in cycles, or in turns."""

    def __init__(self, machine: Machine, steps: Sequence[Step]) -> None:
        self.steps = steps
        self.capacity = machine.control.queue
        self.most = (1 << machine.control.semaphore_bits) - 1
        self.queued: list[list[int]] = [[] for _ in QUEUES]
        for number, step in enumerate(steps):
            self.queued[step.queue].append(number)
        self.waits = [tuple(q for q in QUEUES if step.instruction.wait >> q & 1) for step in steps]
        self.signals = [tuple(q for q in QUEUES if step.instruction.signal >> q & 1) for step in steps]
        self.started = [0] * 4
        self.dispatched = [0] * 4
        self.next = 0
        # by giver and taker: when each token was given, by which step, and when each was taken
        self.given: list[list[list[tuple[int, int]]]] = [[[] for _ in QUEUES] for _ in QUEUES]
        self.taken: list[list[list[int]]] = [[[] for _ in QUEUES] for _ in QUEUES]

    def can_dispatch(self) -> bool:
        """Whether there is a next step, and room for it."""
        if self.next == len(self.steps):
            return False
        queue = self.steps[self.next].queue
        return self.dispatched[queue] - self.started[queue] < self.capacity

    def head(self, queue: int) -> int:
        """The next step of a queue; -1 where it is empty."""
        at = self.started[queue]
        return self.queued[queue][at] if at < self.dispatched[queue] else -1

    def missing(self, number: int) -> Queue | None:
        """A queue whose token the step waits for."""
        taker = self.steps[number].queue
        for giver in self.waits[number]:
            if len(self.given[giver][taker]) <= len(self.taken[giver][taker]):
                return giver
        return None

    def start(self, number: int, time: int) -> None:
        taker = self.steps[number].queue
        self.started[taker] += 1
        for giver in self.waits[number]:
            self.taken[giver][taker].append(time)

    def overflow(self) -> tuple[int, Queue] | None:
        """(the step that gave one token too many, to whom), in the times that were."""
        for giver in QUEUES:
            for taker in QUEUES:
                given, taken = self.given[giver][taker], self.taken[giver][taker]
                for index in range(self.most, len(given)):
                    time, number = given[index]
                    if index - self.most >= len(taken) or taken[index - self.most] > time:
                        return number, taker
        return None


def _check(queues: _Queues, listing: Listing) -> None:
    """A Trap for a counter that overflowed, or for steps that will never start."""
    steps = queues.steps
    if (found := queues.overflow()) is not None:
        number, taker = found
        reason = f"the counter of tokens for {taker.name} overflows: it holds {queues.most}"
        raise listing.trap(steps[number].number, reason)
    waiting = [
        (head, giver) for q in QUEUES if (head := queues.head(q)) >= 0 and (giver := queues.missing(head)) is not None
    ]
    if waiting:
        (number, giver), *others = waiting
        also = "".join(f"; so does {steps[n].number} of {steps[n].queue.name} for one of {g.name}" for n, g in others)
        reason = f"a deadlock: {steps[number].queue.name} waits for a token of {giver.name} that never comes{also}"
        raise listing.trap(steps[number].number, reason)


def check_taken(listing: Listing, steps: Sequence[Step]) -> None:
    """A Trap for a token that is left when the program halts: the next run would begin with it."""
    left: dict[tuple[Queue, Queue], deque[int]] = {}
    for step in steps:
        for other in QUEUES:
            if step.instruction.signal >> other & 1:
                left.setdefault((step.queue, other), deque()).append(step.number)
    for step in steps:
        for other in QUEUES:
            if step.instruction.wait >> other & 1:
                left[other, step.queue].popleft()
    for (_, taker), numbers in left.items():
        if numbers:
            raise listing.trap(
                numbers[0], f"its token for {taker.name} is never taken: the next run would begin with it"
            )


def schedule(machine: Machine, listing: Listing, steps: Sequence[Step], costs: Sequence[Cost], words: int) -> Schedule:
    """Runs the queues in time; a Trap for a deadlock or the overflow of a counter. words: that the sequencer takes in all."""
    queues = _Queues(machine, steps)
    count = len(steps)
    found = Schedule([0] * count, [0] * count, [0] * count, [0] * count, [Stall.NONE] * count, [-1] * count, [], [], 0)
    clocks: list[Clock] = [(0, 0, 0, 0)] * count
    free = [0] * 4
    known = [[0] * 4 for _ in QUEUES]
    channel = clock = word = 0
    while True:
        while queues.can_dispatch():
            step = steps[queues.next]
            queue = step.queue
            clock += step.word - word - 1  # words that went to no queue
            word = step.word
            if (before := queues.dispatched[queue] - queues.capacity) >= 0:
                clock = max(clock, found.start[queues.queued[queue][before]])
            clock += 1
            found.handed[queues.next] = clock
            queues.dispatched[queue] += 1
            queues.next += 1
        best, chosen, reason = -1, -1, Stall.NONE
        for queue in range(4):
            number = queues.head(queue)
            if number < 0 or queues.missing(number) is not None:
                continue
            time, why = free[queue], Stall.NONE
            if found.handed[number] > time:
                time, why = found.handed[number], Stall.DISPATCH
            for giver in queues.waits[number]:
                came = queues.given[giver][queue][len(queues.taken[giver][queue])][0]
                if came > time:
                    time, why = came, _TOKENS[giver]
            if chosen < 0 or time < best:
                best, chosen, reason = time, number, why
        if chosen < 0:
            break
        step, cost = steps[chosen], costs[chosen]
        queue = step.queue
        mine = known[queue]
        for giver in queues.waits[chosen]:
            giving = queues.given[giver][queue][len(queues.taken[giver][queue])][1]
            for other, done in enumerate(clocks[giving]):
                mine[other] = max(mine[other], done)
            mine[giver] = max(mine[giver], clocks[giving][giver] + 1)
        mine[queue] = queues.started[queue]
        clocks[chosen] = (mine[0], mine[1], mine[2], mine[3])
        queues.start(chosen, best)
        end = best + cost.before
        if cost.channel:
            found.channel[chosen] = channel = max(channel, end)
            channel = end = channel + cost.channel
        for taker in queues.signals[chosen]:
            queues.given[queue][taker].append((end, chosen))
        found.start[chosen], found.end[chosen] = best, end
        found.stalled[chosen], found.stall[chosen] = best - free[queue], reason
        found.order.append(chosen)
        free[queue] = end
    _check(queues, listing)
    found.clock = clocks
    found.cycles = max(*free, clock + words - word)
    return found


def permuted(machine: Machine, listing: Listing, steps: Sequence[Step], seed: int) -> list[int]:
    """Another order in which the machine may run the steps: at each turn any queue whose next step may start."""
    chooser = random.Random(seed)
    queues = _Queues(machine, steps)
    order: list[int] = []
    while True:
        while queues.can_dispatch():
            queues.dispatched[steps[queues.next].queue] += 1
            queues.next += 1
        ready = [number for q in QUEUES if (number := queues.head(q)) >= 0 and queues.missing(number) is None]
        if not ready:
            break
        # with a bias, so that one queue runs ahead of the others as far as it can
        chosen = ready[0] if chooser.random() < 0.5 and len(order) // 8 % 2 else chooser.choice(ready)
        queues.start(chosen, len(order))
        for taker in queues.signals[chosen]:
            queues.given[steps[chosen].queue][taker].append((len(order), chosen))
        order.append(chosen)
    _check(queues, listing)
    return order
