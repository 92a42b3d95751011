"""The way from @main to a program, in the order of its steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Operation, SSAValue

from qvit.backends.interpreter import find_function, input_names, output_names
from qvit.backends.systolic.isa import Address, Halt, Instruction, Memory
from qvit.backends.systolic.lowering.arithmetic import ARITHMETIC, arithmetic
from qvit.backends.systolic.lowering.build import Builder, LoweringError, Options, bytes_of, element, refuse
from qvit.backends.systolic.lowering.groups import ROWWISE, Attention, Chain, Group, groups
from qvit.backends.systolic.lowering.moves import MOVES, copy_into, move
from qvit.backends.systolic.lowering.order import dependencies, schedule, tokens
from qvit.backends.systolic.lowering.place import DoesNotFit, most_at_once, place
from qvit.backends.systolic.lowering.products import attention, conv2d, linear, matmul
from qvit.backends.systolic.lowering.roll import rolled
from qvit.backends.systolic.lowering.rows import rowwise
from qvit.backends.systolic.lowering.spill import spilled
from qvit.backends.systolic.lowering.tasks import Task
from qvit.backends.systolic.lowering.tensors import Home, Matrix, View
from qvit.backends.systolic.machine import Machine
from qvit.backends.systolic.program import Port, Program
from qvit.dialects.functions import MAIN
from qvit.dialects.ops.products import Conv2dOp, LinearOp
from qvit.dialects.ops.weights import ConstantOp, WeightOp
from qvit.dialects.types import shape_of
from qvit.dialects.weights import Weights


@dataclass(frozen=True)
class _Draft:
    """Tasks, and what a program needs beside them."""

    builder: Builder
    inputs: Sequence[Port]
    outputs: Sequence[Port]


def lower(module: ModuleOp, machine: Machine, options: Options | None = None) -> Program:
    """@main of an integer-only module as a program for the machine; LoweringError says what cannot be, and why."""
    lowering = _Lowering(module, find_function(module, MAIN), machine, options or Options())
    memory = machine.memory.activations
    budget = memory * 7 // 8
    while True:
        draft = lowering.draft(budget)
        try:
            return lowering.program(draft)
        except DoesNotFit as error:
            if error.memory is not Memory.SPM or not budget:
                advice = "give it more memory, or choose a larger machine"
                raise LoweringError(f"machine {machine.name}: {error}; {advice}") from error
            # room for all that is used for a short time twice, so that one is filled while the other is read
            room = memory - 2 * most_at_once(draft.builder.tasks, Memory.SPM)
            budget = max(min(room, budget * 3 // 4), 0)


@dataclass(frozen=True)
class _Lowering:
    module: ModuleOp
    function: FuncOp
    machine: Machine
    options: Options

    def draft(self, budget: int) -> _Draft:
        """Tasks where tensors that stay take at most `budget` bytes of the memory for activations."""
        b = Builder(self.machine, self.options, Weights(self.module), budget)
        ops = [op for op in self.function.body.block.ops if not isinstance(op, ReturnOp)]
        found = groups(ops)
        inputs = [self._input(b, *pair) for pair in zip(input_names(self.function), self.function.args, strict=True)]
        (end,) = (op for op in self.function.body.block.ops if isinstance(op, ReturnOp))
        outputs = self._outputs(b, end, found)
        for value in spilled(ops, found, end, budget):
            if value not in b.addresses:
                b.addresses[value] = b.new_dram(bytes_of(value))
        for op in ops:
            self._emit(b, op, found)
        b.group += 1
        for port, value in zip(outputs, end.operands, strict=True):
            self._output(b, port, value)
        return _Draft(b, inputs, outputs)

    def program(self, draft: _Draft) -> Program:
        """Addresses, an order and tokens; DoesNotFit where a memory is too small."""
        b = draft.builder
        if not self.options.streaming:
            _one_group_after_another(b.tasks)
        place(self.machine, b.tasks, self.options.double_buffering)
        needs = dependencies(b.tasks)
        order = schedule(b.tasks, needs).order
        wait, signal = tokens(b.tasks, needs, order)
        instructions = [_instruction(b.tasks[n], wait[n], signal[n]) for n in order]
        words = [*rolled(instructions, self.machine.control.loops), Halt()]
        return Program(
            self.machine, words, dict(sorted(b.data.items())), b.dram, draft.inputs, draft.outputs, list(b.nodes)
        )

    # --- the ends ---

    def _input(self, b: Builder, name: str, value: SSAValue) -> Port:
        held = element(value)
        home = Home(name, prod(shape_of(value)), held, value, b.new_dram(bytes_of(value)))
        b.define(value, View.of(home, shape_of(value)))
        assert home.address is not None
        return Port(name, home.address, shape_of(value), held)

    def _outputs(self, b: Builder, end: ReturnOp, found: Mapping[Operation, Group]) -> list[Port]:
        """The ports; what computes a result row by row computes it there."""
        ports: list[Port] = []
        for name, value in zip(output_names(self.function), end.operands, strict=True):
            address = b.new_dram(bytes_of(value))
            ports.append(Port(name, address, shape_of(value), element(value)))
            group = found.get(value.owner) if isinstance(value.owner, Operation) else None
            if group is not None and value is group.result and not isinstance(group.ops[0], Conv2dOp):
                b.addresses.setdefault(value, address)
        return ports

    def _output(self, b: Builder, port: Port, value: SSAValue) -> None:
        view = b.view(value)
        if view.home.address == port.address:
            return
        target = Home(port.name, prod(port.shape), port.type, value, port.address)
        copy_into(b, view, View.of(target, port.shape))

    # --- operations ---

    def _emit(self, b: Builder, op: Operation, found: Mapping[Operation, Group]) -> None:
        if isinstance(op, (ConstantOp, WeightOp)):
            array = b.weights.array(op.results[0])
            assert array is not None
            b.later(op.results[0], array)
            return
        group = found.get(op)
        if group is not None:
            if op is group.ops[-1]:
                b.group += 1
                self._group(b, group)
            return
        b.group += 1
        b.at(op)
        if isinstance(op, ARITHMETIC):
            arithmetic(b, op)
            return
        if not isinstance(op, MOVES):
            raise refuse(op, "there is no instruction for it", "run --integerize, or qvit-compile with a scheme")
        b.define(op.results[0], move(b, op))

    def _group(self, b: Builder, group: Group) -> None:
        value = group.result
        if isinstance(group, Chain) and isinstance(group.head, Conv2dOp):
            b.define(value, conv2d(b, group))
            return
        home, shape = b.new_home(value), shape_of(value)
        columns = shape[-1] if shape else 1
        result = Matrix(home, 0, home.elements // max(columns, 1), columns, columns, 1)
        if isinstance(group, Attention):
            attention(b, group, result)
        elif isinstance(group.head, LinearOp):
            linear(b, group, result)
        elif isinstance(group.head, ROWWISE) or group.head.name.startswith(
            ("qvit.requantize", "qvit.add_", "qvit.thr")
        ):
            rowwise(b, group, result)
        else:
            matmul(b, group, result)
        b.define(value, View.of(home, shape))


def _instruction(task: Task, wait: int, signal: int) -> Instruction:
    places = {name: Address(p.buffer.address + p.offset) for name, p in task.places.items()}
    return task.kind(wait=wait, signal=signal, node=task.node, **places, **task.values)


def _one_group_after_another(tasks: Sequence[Task]) -> None:
    """Every task waits for all of the group before its own."""
    before: list[int] = []
    mine: list[int] = []
    group = -1
    for number, task in enumerate(tasks):
        if task.group != group:
            before, mine, group = mine, [], task.group
        task.follows += before
        mine.append(number)
