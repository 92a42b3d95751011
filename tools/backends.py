"""@main on other backends than the interpreter, and their results tensor by tensor against the interpreter's."""

from collections.abc import Callable, Collection, Sequence

import numpy as np
from xdsl.dialects.builtin import FunctionType, ModuleOp
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Operation

from qvit.backends.c import load
from qvit.backends.interpreter import ExecutionError, find_function, output_names, run
from qvit.backends.systolic.lowering.lower import lower
from qvit.backends.systolic.machine import Machine
from qvit.backends.systolic.program import Program
from qvit.backends.systolic.simulator import Result, simulate
from qvit.dialects.functions import MAIN
from qvit.dialects.ops.weights import ConstantOp, WeightOp
from qvit.dialects.provenance import describe
from qvit.dialects.semantics.integers import Array


def run_c(
    module: ModuleOp,
    inputs: Sequence[Array],
    observe: Callable[[Operation, Array], None] | None = None,
    threads: int = 1,
) -> dict[str, Array]:
    """@main in C: its results by name. observe: called with every operation that C computes, and its first result."""
    program = load(module, threads=threads)
    if observe is None:
        results = program(*inputs)
    else:
        results, tensors = program.trace(*inputs)
        for value, array in tensors:
            if value.index == 0:
                observe(value.op, array)
    return dict(zip(output_names(find_function(module, MAIN)), results, strict=True))


def simulated(program: Program, inputs: Sequence[Array]) -> Result:
    """A run of a machine's program on codes, in the order of its inputs; ValueError where there are too few, or others."""
    return simulate(program, dict(zip((port.name for port in program.inputs), inputs, strict=True)))


def summary(result: Result) -> str:
    """What a run on a machine took, in a line."""
    words = len(result.program.instructions)
    return (
        f"{result.program.machine.name}: {result.cycles:,} cycles, array {100 * result.utilisation:.1f} % used,"
        f" {words:,} words of program"
    )


def compared(
    module: ModuleOp,
    inputs: Sequence[Array],
    backends: Collection[str],
    threads: int = 1,
    machine: Machine | None = None,
) -> tuple[dict[str, Array], int]:
    """(the results of @main by name, how many tensors were compared); ExecutionError names the first that differs.

    Of C and the interpreter every tensor that a C function makes is compared, in the order of computation, then the
    results. The simulator has results alone: where one differs, the first operation is looked for whose result does.
    """
    if "systolic" not in backends:
        return _compared_with_c(module, inputs, threads)
    assert machine is not None
    count = 0
    if {"interpreter", "c"} <= set(backends):
        other = "interpreter"
        expected, count = _compared_with_c(module, inputs, threads)
    else:
        (other,) = set(backends) - {"systolic"}
        alone = run_c(module, inputs, threads=threads) if other == "c" else run(module, inputs, function=MAIN)
        expected = dict(alone)
    found = simulated(lower(module, machine), inputs).outputs
    for name, array in expected.items():
        if not np.array_equal(array, found[name]):
            _locate(module, inputs, machine)
            _require_equal(f"result {name!r}", array, found[name], (other, "systolic"))
    return expected, count + len(expected)


def _compared_with_c(module: ModuleOp, inputs: Sequence[Array], threads: int) -> tuple[dict[str, Array], int]:
    expected: dict[Operation, Array] = {}
    results = run(module, inputs, function=MAIN, observe=lambda op, array: expected.update({op: array}))
    found, tensors = load(module, threads=threads).trace(*inputs)
    count = 0
    for value, array in tensors:
        if value.index == 0:  # of what the interpreter shows
            count += 1
            _require_equal(f"{describe(value.op)} ({value.op.name})", expected[value.op], array)
    for (name, array), other in zip(results.items(), found, strict=True):
        _require_equal(f"result {name!r}", array, other)
    return results, count


def _locate(module: ModuleOp, inputs: Sequence[Array], machine: Machine) -> None:
    """ExecutionError names the first operation whose result, as that of a program which ends with it, is another one."""
    expected: dict[int, Array] = {}
    ops = list(find_function(module, MAIN).body.block.ops)
    run(module, inputs, function=MAIN, observe=lambda op, array: expected.update({ops.index(op): array}))
    for at, array in expected.items():
        if isinstance(ops[at], (ConstantOp, WeightOp)):
            continue
        (found,) = simulated(lower(_until(module, at), machine), inputs).outputs.values()
        _require_equal(f"{describe(ops[at])} ({ops[at].name})", array, found, ("interpreter", "systolic"))


def _until(module: ModuleOp, at: int) -> ModuleOp:
    """The module with an @main that returns the first result of its operation number `at`."""
    copy = module.clone()
    function = find_function(copy, MAIN)
    ops = list(function.body.block.ops)
    value = ops[at].results[0]
    for op in reversed(ops[at + 1 :]):
        op.detach()
        op.erase()
    function.body.block.add_op(ReturnOp(value))
    function.properties["function_type"] = FunctionType.from_lists([a.type for a in function.args], [value.type])
    function.properties.pop("res_attrs", None)
    return copy


_NAMES = {"interpreter": "the interpreter", "c": "C", "systolic": "the simulator"}


def _require_equal(what: str, expected: Array, found: Array, backends: Sequence[str] = ("interpreter", "c")) -> None:
    if not np.array_equal(expected, found):
        index = tuple(int(i) for i in np.argwhere(expected != found)[0])
        one, other = (_NAMES[name] for name in backends)
        raise ExecutionError(
            f"{what}: element {list(index)} is {expected[index]} in {one}, {found[index]} in {other}"
            f" ({np.count_nonzero(expected != found)} of {expected.size} differ)"
        )
