"""Ranges of the tensors that a model quantizes dynamically, measured on sample inputs in float."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qvit.backends.interpreter import run
from qvit.frontends.onnx import import_to_measure
from qvit.frontends.onnx.handlers.dynamic import MEASURED
from qvit.tools.arguments import UsageError
from qvit.tools.samples import Pixels, read_samples

if TYPE_CHECKING:
    import onnx


def is_dynamic(model: "onnx.ModelProto") -> bool:
    """Whether the model quantizes anything by ranges that it finds when it runs."""
    return any(node.op_type in MEASURED for node in model.graph.node)


def measured_ranges(
    model: "onnx.ModelProto", samples: Path, dims: Mapping[str, int], pixels: Pixels | None = None
) -> dict[str, tuple[float, float]]:
    """The lowest and highest value of each tensor over all samples.

    samples: an .npz file with one array an input, samples along its first dimension, or a folder of images. UsageError
    where the model quantizes nothing dynamically, ExecutionError where the samples do not fit it.
    """
    module = import_to_measure(model, dims)
    if module is None:
        raise UsageError("--calibrate: nothing in this model is quantized dynamically")
    ranges: dict[str, tuple[float, float]] = {}
    for feeds in read_samples(samples, module, pixels or Pixels()):
        for name, array in run(module, feeds).items():
            low, high = ranges.get(name, (np.inf, -np.inf))
            ranges[name] = min(low, float(array.min())), max(high, float(array.max()))
    return ranges
