"""Ranges of the tensors that a model quantizes dynamically, measured on sample inputs in float."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile, ZipFile

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from qvit.backends.interpreter import ExecutionError, find_function, input_names, run
from qvit.dialects.semantics.integers import Array
from qvit.dialects.types import shape_of
from qvit.frontends.onnx import import_to_measure
from qvit.tools.arguments import UsageError

if TYPE_CHECKING:
    import onnx


def measured_ranges(model: "onnx.ModelProto", samples: Path, dims: Mapping[str, int]) -> dict[str, tuple[float, float]]:
    """The lowest and highest value of each tensor over all samples.

    samples: an .npz file with one array an input, samples along its first dimension. UsageError where the model
    quantizes nothing dynamically, ExecutionError where the file does not fit it.
    """
    module = import_to_measure(model, dims)
    if module is None:
        raise UsageError("--calibrate: nothing in this model is quantized dynamically")
    ranges: dict[str, tuple[float, float]] = {}
    for feeds in _batches(module, samples):
        for name, array in run(module, feeds).items():
            low, high = ranges.get(name, (np.inf, -np.inf))
            ranges[name] = min(low, float(array.min())), max(high, float(array.max()))
    return ranges


def _batches(module: ModuleOp, samples: Path) -> Iterator[dict[str, Array]]:
    """The samples in pieces that have the shapes of the inputs; what does not fill the last piece is left out."""
    function = find_function(module)
    shapes = dict(zip(input_names(function), map(shape_of, function.args), strict=True))
    try:
        with ZipFile(samples), np.load(samples, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, BadZipFile) as error:
        raise ExecutionError(f"--calibrate: {samples} is not an .npz file of arrays: {error}") from error
    if set(arrays) != set(shapes):
        known, found = ", ".join(shapes), ", ".join(arrays) or "nothing"
        raise ExecutionError(f"--calibrate: {samples} holds {found}, expected one array for each input: {known}")
    for name, shape in shapes.items():
        if arrays[name].shape[1:] != shape[1:] or len(arrays[name]) < shape[0]:
            found, wanted = arrays[name].shape, ("N", *shape[1:])
            raise ExecutionError(
                f"--calibrate: {name!r} has shape {found}, expected {wanted} with N at least {shape[0]}"
            )
    count = min(len(arrays[name]) // shape[0] for name, shape in shapes.items())
    for i in range(count):
        yield {name: arrays[name][i * shape[0] : (i + 1) * shape[0]] for name, shape in shapes.items()}
