"""Run a module and keep every integer tensor, as `qvit-run --trace` does."""

from collections.abc import Mapping

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from qvit.backends.interpreter import run, trace_names


def trace(module: ModuleOp, inputs: np.ndarray | Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(the first result, every integer tensor by the name of its source node)."""
    names, kept = trace_names(module), dict[str, np.ndarray]()

    def keep(op: Operation, result: np.ndarray) -> None:
        kept.update((name, result) for name in names.get(op, ()))

    feeds = inputs if isinstance(inputs, Mapping) else [inputs]
    return next(iter(run(module, feeds, observe=keep).values())), kept
