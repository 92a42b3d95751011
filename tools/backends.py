"""@main on other backends than the interpreter, and their results tensor by tensor against the interpreter's."""

from collections.abc import Callable, Sequence

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from qvit.backends.c import load
from qvit.backends.interpreter import ExecutionError, find_function, output_names, run
from qvit.dialects.functions import MAIN
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


def compared(module: ModuleOp, inputs: Sequence[Array], threads: int = 1) -> tuple[dict[str, Array], int]:
    """(the results of @main by name, the tensors that were compared); ExecutionError names the first that differs.

    Every tensor that a C function makes is compared with the interpreter's, in the order of computation, then the results.
    """
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


def _require_equal(what: str, expected: Array, found: Array) -> None:
    if not np.array_equal(expected, found):
        index = tuple(int(i) for i in np.argwhere(expected != found)[0])
        raise ExecutionError(
            f"{what}: element {list(index)} is {expected[index]} in the interpreter, {found[index]} in C"
            f" ({np.count_nonzero(expected != found)} of {expected.size} differ)"
        )
