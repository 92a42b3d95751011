"""What a run gave: outputs, times, events, and what each source node used; and the bounds that all times keep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from qvit.backends.systolic.cycles import least_cycles, matmul_cycles, most_cycles
from qvit.backends.systolic.isa import MatrixMultiply, Queue
from qvit.backends.systolic.machine import Machine
from qvit.backends.systolic.program import Program
from qvit.backends.systolic.simulator.events import Events, count_events, macs
from qvit.backends.systolic.simulator.schedule import Schedule
from qvit.backends.systolic.simulator.sequence import Step
from qvit.dialects.semantics.integers import Array


@dataclass
class NodeUse:
    """What a source node used. busy: cycles of each queue; exposed: cycles in which its vectors ran and the array stood
    still."""

    name: str
    macs: int = 0
    busy: tuple[int, int, int, int] = (0, 0, 0, 0)
    exposed: int = 0


@dataclass(frozen=True)
class Result:
    """outputs: by name, in NumPy's types of theirs. steps: the instructions as they ran, `schedule` when; constants: bytes
    that each read of CBUF."""

    program: Program
    outputs: Mapping[str, Array]
    steps: Sequence[Step]
    schedule: Schedule
    events: Events
    constants: Sequence[int]

    @property
    def cycles(self) -> int:
        """From the first word to the end of the last instruction."""
        return self.schedule.cycles

    @cached_property
    def macs(self) -> int:
        return sum(macs(s.instruction) for s in self.steps if isinstance(s.instruction, MatrixMultiply))

    @property
    def utilisation(self) -> float:
        """The share of the array's elements and cycles that did a multiply-accumulate."""
        array = self.program.machine.array
        return self.macs / (array.rows * array.columns * max(self.cycles, 1))

    @cached_property
    def busy(self) -> Mapping[Queue, int]:
        """Cycles in which a unit worked on an instruction."""
        return busy_cycles(self.steps, self.schedule)

    @cached_property
    def exposed(self) -> Sequence[int]:
        """By step: of a vector instruction the cycles in which the array stood still, else 0."""
        spans = [
            (self.schedule.start[n], self.schedule.end[n]) for n, s in enumerate(self.steps) if s.queue == Queue.MATRIX
        ]
        found = [0] * len(self.steps)
        first = 0
        for number, step in enumerate(self.steps):
            if step.queue != Queue.VECTOR:
                continue
            start, end = self.schedule.start[number], self.schedule.end[number]
            while first < len(spans) and spans[first][1] <= start:
                first += 1
            found[number] = end - start
            at = first
            while at < len(spans) and spans[at][0] < end:
                found[number] -= min(end, spans[at][1]) - max(start, spans[at][0])
                at += 1
        return found

    def node_of(self, step: Step) -> str:
        """The name of the source node; `` where it has none."""
        node = step.instruction.node
        return self.program.nodes[node - 1] if 0 < node <= len(self.program.nodes) else ""

    @cached_property
    def node_events(self) -> Mapping[str, Events]:
        """By node, as `nodes`; words that went to no queue are those of the node ``. They add up to `events`."""
        numbers: dict[str, list[int]] = {}
        for number, step in enumerate(self.steps):
            numbers.setdefault(self.node_of(step), []).append(number)
        found: dict[str, Events] = {}
        for name, mine in numbers.items():
            steps = [self.steps[number] for number in mine]
            constants = sum(self.constants[number] for number in mine)
            found[name] = count_events(self.program.machine, steps, len(steps), constants)
        if rest := self.events.words - len(self.steps):
            found.setdefault("", Events()).words += rest
        return found

    @cached_property
    def nodes(self) -> Sequence[NodeUse]:
        """By node, in the order in which they first come up; what has none is the node ``."""
        found: dict[str, NodeUse] = {}
        for number, step in enumerate(self.steps):
            name = self.node_of(step)
            use = found.setdefault(name, NodeUse(name))
            took = self.schedule.end[number] - self.schedule.start[number]
            load, matrix, vector, store = (b + took * (q == step.queue) for q, b in zip(Queue, use.busy, strict=True))
            use.busy = (load, matrix, vector, store)
            use.exposed += self.exposed[number]
            if isinstance(step.instruction, MatrixMultiply):
                use.macs += macs(step.instruction)
        return list(found.values())


def busy_cycles(steps: Sequence[Step], schedule: Schedule) -> dict[Queue, int]:
    """Cycles in which each unit worked on an instruction."""
    found = dict.fromkeys(Queue, 0)
    for number, step in enumerate(steps):
        found[step.queue] += schedule.end[number] - schedule.start[number]
    return found


def check_bounds(machine: Machine, steps: Sequence[Step], schedule: Schedule, words: int) -> None:
    """AssertionError unless every product takes as long as its multiply-accumulates at least and as SCALE-Sim's formula at
    most, and the whole as the busiest unit at least and as all units and the sequencer one after another at most."""
    products = {step.number: step.instruction for step in steps if isinstance(step.instruction, MatrixMultiply)}
    for number, product in products.items():
        bounds = least_cycles(machine, product), matmul_cycles(machine, product), most_cycles(machine, product)
        if not bounds[0] <= bounds[1] <= bounds[2]:
            raise AssertionError(f"instruction {number}: cycles {bounds[1]} are not within {bounds[0]}..{bounds[2]}")
    busy = busy_cycles(steps, schedule).values()
    least, most = max(words, *busy), words + sum(busy)
    if not least <= schedule.cycles <= most:
        raise AssertionError(f"{schedule.cycles} cycles are not within {least}..{most}")
