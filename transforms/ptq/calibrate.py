"""Runs a float module on samples and gathers the statistics of everything that will need codes."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias
from zipfile import BadZipFile

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import BlockArgument, Operation, SSAValue

from qvit.dialects.atomic import replacing
from qvit.dialects.ops.products import LinearOp
from qvit.dialects.provenance import describe
from qvit.dialects.semantics.integers import Array
from qvit.transforms.ptq.sites import find_sites, same_rows
from qvit.transforms.ptq.statistics import BadSample, Statistics

Run: TypeAlias = Callable[[ModuleOp, Mapping[str, Array], Callable[[Operation, Array], None]], object]
"""Executes a module on inputs by name, telling every operation's result: what a backend offers."""


def producers(function: FuncOp) -> list[SSAValue]:
    """The values that statistics are gathered of, in program order."""
    return [value for site in find_sites(function) for value in site.producers]


def _layer_inputs(function: FuncOp) -> list[SSAValue]:
    """The values whose second moments are those of the linear layers' inputs."""
    found = [same_rows(op.input) for op in function.walk() if isinstance(op, LinearOp)]
    return list(dict.fromkeys(found))


class Calibration:
    """Statistics in the making; `state` keeps them after every batch, so that a run that was stopped goes on.

    key: of the model and the samples; a state of another is not taken.
    """

    def __init__(
        self,
        function: FuncOp,
        *,
        gram: bool = False,
        seed: int = 0,
        state: Path | None = None,
        key: str = "",
    ):
        inputs = _layer_inputs(function) if gram else []
        self._gram = set(inputs)
        self._values = list(dict.fromkeys([*producers(function), *inputs]))
        self._seed, self._state, self._key = seed, state, key
        self.statistics = {value: Statistics() for value in self._values}
        self.done = 0
        if state is not None and state.exists():
            self._load(state)

    def take(self, inputs: Mapping[str, Array], module: ModuleOp, function: FuncOp, run: Run, names: list[str]) -> None:
        """One batch. BadSample names the tensor that cannot be quantized."""
        index = {value: i for i, value in enumerate(self._values)}
        for name, argument in zip(names, function.args, strict=True):
            if argument in index:
                self._update(index[argument], argument, np.asarray(inputs[name]))

        def observe(op: Operation, result: Array) -> None:
            value = op.results[0]
            if value in index:
                self._update(index[value], value, result)

        run(module, inputs, observe)
        self.done += 1
        if self._state is not None:
            self._save(self._state)

    def _update(self, i: int, value: SSAValue, array: Array) -> None:
        rng = np.random.default_rng((self._seed, self.done, i))
        try:
            self.statistics[value].update(array, rng, value in self._gram)
        except BadSample as error:
            name = "the input" if isinstance(value, BlockArgument) else describe(value)
            raise BadSample(f"calibration sample {self.done + 1}: {name}: {error}") from error

    def _save(self, path: Path) -> None:
        arrays: dict[str, Any] = {"key": np.array(self._key), "done": np.array(self.done)}
        for i, value in enumerate(self._values):
            arrays |= self.statistics[value].to_arrays(str(i))
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)

    def _load(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (ValueError, EOFError, BadZipFile):
            return  # damaged: begin again
        if str(arrays.get("key")) != self._key:
            return
        self.done = int(arrays["done"])
        for i, value in enumerate(self._values):
            self.statistics[value] = Statistics.from_arrays(arrays, str(i))


def calibrate(
    module: ModuleOp,
    function: FuncOp,
    batches: Iterable[Mapping[str, Array]],
    run: Run,
    names: list[str],
    calibration: Calibration,
    progress: Callable[[int], None] = lambda done: None,
) -> Mapping[SSAValue, Statistics]:
    """The statistics of all batches but those that `calibration` has taken before."""
    for i, inputs in enumerate(batches):
        if i >= calibration.done:
            calibration.take(inputs, module, function, run, names)
        progress(i + 1)
    return calibration.statistics
