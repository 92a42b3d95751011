"""Runs a program: its words are encoded and decoded, then nothing but bytes and words decides what comes out."""

from collections.abc import Mapping, Sequence
from math import lcm

import numpy as np

from qvit.backends.systolic.cycles import Cost, cost
from qvit.backends.systolic.isa import WORD_BYTES, Copy, Instruction, IsaError, Load, Memory, Store, decode, encode
from qvit.backends.systolic.legality import refusal
from qvit.backends.systolic.machine import Machine
from qvit.backends.systolic.program import Port, Program
from qvit.backends.systolic.simulator.events import count_events
from qvit.backends.systolic.simulator.memory import Region
from qvit.backends.systolic.simulator.result import Result, check_bounds
from qvit.backends.systolic.simulator.schedule import Schedule, check_taken, permuted, schedule
from qvit.backends.systolic.simulator.sequence import Step, unroll
from qvit.backends.systolic.simulator.trap import Fault, Listing, Trap
from qvit.backends.systolic.simulator.values import Core
from qvit.dialects.semantics.integers import Array, fit


def _decoded(words: bytes) -> list[Instruction]:
    found: list[Instruction] = []
    if len(words) % WORD_BYTES:
        raise Trap(len(words) // WORD_BYTES, "", "", f"words have {WORD_BYTES} bytes, the program {len(words)}")
    for number in range(len(words) // WORD_BYTES):
        try:
            found.append(decode(words[number * WORD_BYTES : (number + 1) * WORD_BYTES]))
        except (IsaError, ValueError) as error:
            raise Trap(number, "", "", str(error)) from error
    return found


def _check(machine: Machine, listing: Listing) -> None:
    """A Trap for what the machine does not have, or no machine: found when the word is decoded."""
    for number, instruction in enumerate(listing.instructions):
        queue = instruction.queue
        if queue is not None and (instruction.wait | instruction.signal) >> queue & 1:
            raise listing.trap(number, f"{queue.name} takes or gives a token of its own")
        if (reason := refusal(machine, instruction)) is not None:
            raise listing.trap(number, reason)


def _costs(machine: Machine, steps: Sequence[Step]) -> list[Cost]:
    """Addresses matter only for how they lie in bursts and banks: instructions of a loop mostly cost the same."""
    known: dict[tuple[int, ...], Cost] = {}
    period = lcm(machine.dram.burst, machine.memory.word * machine.memory.banks)
    found: list[Cost] = []
    for step in steps:
        key: tuple[int, ...] = (step.number,)
        if isinstance(step.instruction, Load | Store | Copy):
            key = (step.number, *(address % period for address in step.addresses))
        if key not in known:
            known[key] = cost(machine, step.instruction, step.addresses)
        found.append(known[key])
    return found


def _laid(port: Port, given: Array) -> Array:
    """The bytes of an input; ValueError unless its shape and numbers are those of the port."""
    if given.shape != port.shape:
        raise ValueError(f"{port.name}: expected {list(port.shape)}, found {list(given.shape)}")
    if given.dtype.kind not in "iub":
        raise ValueError(f"{port.name}: expected integers of {port.type}, found {given.dtype}")
    try:
        numbers = fit(given, port.type)
    except OverflowError as error:
        raise ValueError(f"{port.name}: {error}") from error
    return np.frombuffer(numbers.astype(numbers.dtype.newbyteorder("<")).tobytes(), np.uint8)


def _filled(program: Program, inputs: Mapping[str, Array]) -> Core:
    """The memories as a program finds them."""
    machine = program.machine
    if program.dram > machine.dram.bytes:
        raise ValueError(f"the program needs {program.dram} bytes of DRAM, {machine.name} has {machine.dram.bytes}")
    core = Core(machine, program.dram)
    for address, content in program.data.items():
        core.dram.fill(address, content)
    names = [port.name for port in program.inputs]
    if set(inputs) != set(names):
        raise ValueError(f"expected the inputs {', '.join(names) or 'none'}; found {', '.join(inputs) or 'none'}")
    for port in program.inputs:
        core.dram.fill(port.address, _laid(port, inputs[port.name]))
    return core


def _output(core: Core, port: Port) -> Array:
    core.dram.bounds(region := Region(port.address, port.bytes))
    if not core.dram.written[region.base : region.end].all():
        raise ValueError(f"output {port.name}: the program does not write all of it")
    found = core.dram.data[region.base : region.end].view(port.type.dtype.newbyteorder("<"))
    return fit(found.reshape(port.shape), port.type)


def simulate(
    program: Program, inputs: Mapping[str, Array], *, seed: int | None = None, words: bytes | None = None
) -> Result:
    """Runs a program on the inputs by name, integers of the ports' shapes and types.

    seed: the values come from a random order of instructions that queues and tokens allow, in the place of that in time;
    cycles are the same. words: run these in the place of the program's own. ValueError for wrong inputs, and for an output
    that the program does not write; Trap for everything that stops the machine.
    """
    machine = program.machine
    if words is None:
        words = b"".join(map(encode, program.instructions))
    listing = Listing(_decoded(words), program.nodes)
    if not listing.instructions:
        raise Trap(0, "", "", "there are no words")
    _check(machine, listing)
    steps, count = unroll(machine, listing)
    costs = _costs(machine, steps)
    timed = schedule(machine, listing, steps, costs, count)
    check_bounds(machine, steps, timed, count)
    order = timed.order if seed is None else permuted(machine, listing, steps, seed)
    core = _filled(program, inputs)
    cbuf, constants = core.local[Memory.CBUF], [0] * len(steps)
    for number in order:
        step, before = steps[number], cbuf.bytes_read
        try:
            core.run(step.instruction, step.addresses, step.queue, timed.clock[number])
        except Fault as fault:
            raise listing.trap(step.number, fault) from fault
        constants[number] = cbuf.bytes_read - before
    check_taken(listing, steps)
    outputs = {port.name: _output(core, port) for port in program.outputs}
    return Result(program, outputs, steps, timed, count_events(machine, steps, count, sum(constants)), constants)


def timeline(program: Program) -> tuple[Sequence[Step], Schedule]:
    """The instructions as they run, and when: as `simulate`, but without values. Trap as there, for what is found so."""
    machine, listing = program.machine, Listing(program.instructions, program.nodes)
    _check(machine, listing)
    steps, count = unroll(machine, listing)
    timed = schedule(machine, listing, steps, _costs(machine, steps), count)
    check_bounds(machine, steps, timed, count)
    return steps, timed
