"""A run for people: a trace that Perfetto shows, and a table of what each source node used."""

import json
from collections.abc import Sequence
from typing import Any

from qvit.backends.systolic.isa import Queue
from qvit.backends.systolic.notation import instruction_text
from qvit.backends.systolic.simulator.result import Result

_CHANNEL = len(Queue)


def _track(number: int, name: str) -> list[dict[str, Any]]:
    common = {"ph": "M", "pid": 0, "tid": number}
    return [
        {**common, "name": "thread_name", "args": {"name": name}},
        {**common, "name": "thread_sort_index", "args": {"sort_index": number}},
    ]


def _tokens(result: Result) -> list[dict[str, Any]]:
    """A counter for each pair of queues: how many tokens the taker could take."""
    changes: dict[tuple[Queue, Queue], list[tuple[int, int]]] = {}
    for number, step in enumerate(result.steps):
        for queue in Queue:
            if step.instruction.signal >> queue & 1:
                changes.setdefault((step.queue, queue), []).append((result.schedule.end[number], 1))
            if step.instruction.wait >> queue & 1:
                changes.setdefault((queue, step.queue), []).append((result.schedule.start[number], -1))
    events: list[dict[str, Any]] = []
    for (giver, taker), found in changes.items():
        name, count = f"tokens {giver.name} to {taker.name}", 0
        moments: dict[int, int] = {}
        for time, change in sorted(found, key=lambda change: change[0]):
            count += change
            moments[time] = count
        events += [
            {"ph": "C", "pid": 0, "ts": time, "name": name, "args": {"tokens": tokens}}
            for time, tokens in moments.items()
        ]
    return events


def chrome_trace(result: Result) -> str:
    """Trace events as JSON, a cycle shown as a microsecond: a track for each queue, one for the DRAM channel, and a counter
    of tokens for each pair of queues that exchange some. Open it at ui.perfetto.dev."""
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 0, "name": "process_name", "args": {"name": result.program.machine.name}}
    ]
    for queue in Queue:
        events += _track(queue, queue.name)
    events += _track(_CHANNEL, "DRAM channel")
    names, timed = ("", *result.program.nodes), result.schedule
    texts = {step.number: instruction_text(step.instruction) for step in result.steps}
    for number, step in enumerate(result.steps):
        start, end = timed.start[number], timed.end[number]
        node = names[step.instruction.node] if step.instruction.node < len(names) else ""
        common = {"ph": "X", "pid": 0, "name": step.instruction.mnemonic}
        details = {
            "node": node,
            "number": step.number,
            "text": texts[step.number],
            "stalled": timed.stalled[number],
            "stall": str(timed.stall[number]),
        }
        events.append({**common, "tid": int(step.queue), "ts": start, "dur": end - start, "args": details})
        if (held := timed.channel[number]) >= 0:
            events.append({**common, "tid": _CHANNEL, "ts": held, "dur": end - held, "args": {"node": node}})
    return json.dumps({"traceEvents": events + _tokens(result), "displayTimeUnit": "ns"})


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def utilisation_table(result: Result) -> str:
    """A line for each source node: multiply-accumulates, their share of the array while it was busy with the node, cycles of
    each queue, and cycles of vectors in which the array stood still; the last line is the whole program, whose share is of
    all its cycles."""
    array = result.program.machine.array
    elements = array.rows * array.columns
    rows = [["node", "MACs", "array", *(queue.name for queue in Queue), "exposed"]]

    def line(name: str, macs: int, cycles: int, busy: Sequence[int], exposed: int) -> list[str]:
        share = f"{100 * macs / (elements * cycles):.1f}%" if macs else "-"
        return [name, str(macs), share, *map(str, busy), str(exposed)]

    for node in result.nodes:
        rows.append(line(node.name or "(none)", node.macs, node.busy[Queue.MATRIX], node.busy, node.exposed))
    busy = [result.busy[queue] for queue in Queue]
    rows.append(line(f"all {result.cycles} cycles", result.macs, result.cycles, busy, sum(result.exposed)))
    return _table(rows)
