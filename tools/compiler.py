"""From a float model and sample inputs to integers: quantization and the passes of a scheme, one after another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from qvit.backends.interpreter import find_function, input_names, run
from qvit.dialects.ops.nonlinear import LayerNormOp
from qvit.dialects.provenance import describe
from qvit.dialects.semantics.integers import Array
from qvit.dialects.weights import Weights
from qvit.transforms.pipelines import Scheme, run_scheme
from qvit.transforms.ptq.calibrate import Calibration, calibrate
from qvit.transforms.ptq.insert import Choices, insert
from qvit.transforms.ptq.mixed import Progress, choose_bits
from qvit.transforms.ptq.prepare import prepare
from qvit.transforms.ptq.scheme import Quantization
from qvit.transforms.ptq.smoothing import centre_keys, smooth

FITNESS_BATCHES = 2
"""On so many of the calibration batches choices of bits are judged; each is run some two hundred times."""

Samples = Sequence[Mapping[str, Array]]
"""Inputs of the model by name, one batch each."""


@dataclass(frozen=True)
class Quantized:
    """What was chosen for a module; rows: some of each tensor, by the source node that makes it; reference: a copy of the
    float module that all of it is about: equal to the model over the reals, with projections split, factors in weights and
    ranges moved; largest: the largest |result| of each channel of each layer normalisation in the model itself."""

    choices: Choices = field(default_factory=Choices)
    rows: Mapping[str, Array] = field(default_factory=dict[str, Array])
    reference: ModuleOp | None = None
    largest: Mapping[str, Array] = field(default_factory=dict[str, Array])


@dataclass(frozen=True)
class Compiled:
    """choices: of scales and zero points; reports: of the passes, by name; quantized: the module in between, which
    computes in float with quantize and dequantize operations; reference, largest: see `Quantized`, none without samples."""

    module: ModuleOp
    quantized: ModuleOp
    choices: Choices
    reports: Mapping[str, object]
    reference: ModuleOp | None = None
    largest: Mapping[str, Array] = field(default_factory=dict[str, Array])


def _execute(module: ModuleOp, inputs: Mapping[str, Array], observe: Callable[[Operation, Array], None]) -> None:
    # single precision: twice as fast, and a range needs no more; what overflows is found in the statistics, and named
    with np.errstate(over="ignore", invalid="ignore"):
        run(module, inputs, float_dtype=np.float32, observe=observe)


def _made_by(value: SSAValue) -> str:
    return describe(value) if isinstance(value.owner, Operation) else "input"


def quantize(
    module: ModuleOp,
    samples: Samples,
    quantization: Quantization,
    *,
    seed: int = 0,
    state: Path | None = None,
    key: str = "",
    progress: Callable[[int], None] = lambda done: None,
    searching: Progress = lambda done, total: None,
) -> Quantized:
    """Quantize a float module in place, with scales from samples. state, key: see `Calibration`; searching: see `choose_bits`."""
    prepare(module)
    function = find_function(module)
    calibration = Calibration(function, gram=quantization.needs_gram, seed=seed, state=state, key=key)
    seen = dict(calibrate(module, function, samples, _execute, input_names(function), calibration, progress))
    largest = {
        describe(value): np.maximum(np.abs(statistics.channel_low), np.abs(statistics.channel_high))
        for value, statistics in seen.items()
        if isinstance(value.owner, LayerNormOp)
    }
    weights = Weights(module)
    if quantization.smoothing:
        smooth(function, quantization.smoothing, quantization.smooth_to_powers, seen, weights)
    if quantization.centre_keys:
        centre_keys(function, seen, weights)
    rows = {_made_by(value): statistics.sample_rows for value, statistics in seen.items()}
    reference = module.clone()
    chosen, mixed = None, None
    if quantization.mixed is not None:
        judged = samples[:FITNESS_BATCHES]

        def outputs(candidate: ModuleOp) -> list[Array]:
            runs = [run(candidate, inputs, float_dtype=np.float32) for inputs in judged]
            return [np.concatenate(parts) for parts in zip(*(r.values() for r in runs), strict=True)]

        chosen, mixed = choose_bits(module, function, quantization, seen, outputs, seed, searching)
    choices = insert(module, function, quantization, seen, chosen)
    choices.mixed = mixed
    return Quantized(choices, rows, reference, largest)


def compile_model(
    module: ModuleOp,
    samples: Samples,
    scheme: Scheme,
    *,
    published: bool = False,
    unchecked: bool = False,
    seed: int = 0,
    state: Path | None = None,
    key: str = "",
    progress: Callable[[int], None] = lambda done: None,
    searching: Progress = lambda done, total: None,
) -> Compiled:
    """A module with integers alone in @main, from a float one, which is changed in place.

    samples: none for a module that is quantized already. DiagnosticException where something has to stay in float, with
    every operation and reason.
    """
    made = Quantized()
    if samples:
        options: dict[str, Any] = {
            "seed": seed,
            "state": state,
            "key": key,
            "progress": progress,
            "searching": searching,
        }
        made = quantize(module, samples, scheme.quantization, **options)
    quantized = module.clone()
    reports = run_scheme(module, scheme, published=published, unchecked=unchecked, rows=made.rows.get)
    return Compiled(module, quantized, made.choices, reports, made.reference, made.largest)


def with_quantization(scheme: Scheme, **changes: object) -> Scheme:
    """The scheme with other numbers."""
    return replace(scheme, quantization=replace(scheme.quantization, **changes))
