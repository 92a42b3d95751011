"""Quantize and dequantize operations in a float module: it then computes what fake quantization by hand does."""

from collections.abc import Mapping
from pathlib import Path

import ir_text
import numpy as np
import pytest
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp

from qvit.backends.interpreter import run
from qvit.dialects.ops.products import LinearOp
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.provenance import set_sources, sources
from qvit.tools.compiler import compile_model, quantize
from qvit.transforms.pipelines import BEST
from qvit.transforms.ptq.insert import Choices
from qvit.transforms.ptq.observers import Quantizer
from qvit.transforms.ptq.scheme import Override, Quantization, all_roles
from qvit.transforms.ptq.sites import Role
from qvit.transforms.ptq.statistics import BadSample
from qvit.transforms.ptq.weights import WeightQuantizer

Array = NDArray[np.float64]
RNG = np.random.default_rng(0)
WEIGHT, BIAS = RNG.normal(size=(6, 6)).astype(np.float32), RNG.normal(size=6).astype(np.float32)
POSITION, GAMMA = RNG.normal(size=(5, 6)).astype(np.float32), RNG.uniform(0.5, 2, 6).astype(np.float32)
T = "tensor<5x6xf32>"
LAYER = f"({T}, tensor<6x6xf32>, tensor<6xf32>) -> {T}"


def constant(name: str, array: NDArray[np.float32]) -> str:
    return f"%{name} = qvit.constant dense<{array.tolist()}> : tensor<{'x'.join(map(str, array.shape))}xf32>"


def model() -> ModuleOp:
    """A layer, positions, a normalisation that a layer and an addition take: a residual block."""
    lines = [
        *(constant(n, a) for n, a in (("w", WEIGHT), ("b", BIAS), ("p", POSITION), ("g", GAMMA))),
        f'%y = qvit.linear %x, %w, %b {{qvit.src = ["fc"]}} : {LAYER}',
        f'%r = qvit.add %y, %p {{qvit.src = ["add"]}} : ({T}, {T}) -> {T}',
        f'%n = qvit.layer_norm %r, %g, %b axis 1 epsilon 1.0e-6 {{qvit.src = ["norm"]}} : ({T}, tensor<6xf32>, tensor<6xf32>) -> {T}',
        f'%z = qvit.linear %n, %w {{qvit.src = ["fc2"]}} : ({T}, tensor<6x6xf32>) -> {T}',
        f'%o = qvit.add %n, %z {{qvit.src = ["out"]}} : ({T}, {T}) -> {T}',
    ]
    return ir_text.parse(ir_text.function(lines, {"%x": T}))


def samples(count: int = 4, seed: int = 1) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    return [{"input0": rng.normal(size=(5, 6))} for _ in range(count)]


EIGHT, SIXTEEN = Quantizer(8), Quantizer(16, symmetric=True)
PLAIN = Quantization(all_roles(EIGHT, SIXTEEN), WeightQuantizer(8))


def fake(x: Array, choices: Choices, src: str, role: Role) -> Array:
    (c,) = (c for c in choices.tensors if (c.src, c.role) == (src, role))
    low, high = (-(2 ** (c.bits - 1)), 2 ** (c.bits - 1) - 1) if c.signed else (0, 2**c.bits - 1)
    codes = np.clip(np.rint(x / float(np.float32(c.scale))) + c.zero_point, low, high)
    return (codes - c.zero_point) * float(np.float32(c.scale))


def fake_weight(bits: int) -> Array:
    scale = (np.abs(WEIGHT.astype(np.float64)).max(1) / (2 ** (bits - 1) - 1)).astype(np.float32).astype(np.float64)
    return np.clip(np.rint(WEIGHT / scale[:, None]), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale[:, None]


def by_hand(x: Array, choices: Choices, bits: int = 8) -> Array:
    w = fake_weight(bits)
    y = fake(x, choices, "input x", Role.PIXELS) @ w.T + BIAS
    y = fake(y, choices, "fc", Role.BRANCH)
    p = fake(POSITION.astype(np.float64), choices, "p", Role.RESIDUAL)
    r = fake(y + p, choices, "add", Role.RESIDUAL)
    centred = r - r.mean(1, keepdims=True)
    n = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6) * GAMMA + BIAS
    n = fake(n, choices, "norm", Role.RESIDUAL)
    z = fake(fake(n, choices, "norm", Role.LINEAR) @ w.T, choices, "fc2", Role.BRANCH)
    return fake(n + z, choices, "out", Role.RESIDUAL)


def named(module: ModuleOp) -> ModuleOp:
    """With a name for the table of positions."""
    for op in module.walk():
        if op.name == "qvit.constant" and op.results[0].name_hint in ("p", "w"):
            set_sources(op, [str(op.results[0].name_hint)])
    return module


@pytest.mark.parametrize("bits", [8, 4])
def test_fake_quantization(bits: int) -> None:
    module = named(model())
    quantization = Quantization(PLAIN.roles, WeightQuantizer(bits))
    choices = quantize(module, samples(), quantization).choices
    module.verify()
    for inputs in samples(5, seed=2):
        (found,) = run(module, inputs).values()
        np.testing.assert_allclose(found, by_hand(inputs["input0"], choices, bits), rtol=1e-12, atol=1e-12)


def test_what_was_chosen() -> None:
    module = named(model())
    choices = quantize(module, samples(), PLAIN).choices
    found = {(c.src, c.role.value): (c.bits, c.signed) for c in choices.tensors}
    assert found == {
        ("input x", "pixels"): (8, False),
        ("fc", "branch"): (16, True),
        ("p", "residual"): (16, True),
        ("add", "residual"): (16, True),
        ("norm", "residual"): (16, True),
        ("norm", "linear"): (8, False),
        ("fc2", "branch"): (16, True),
        ("out", "residual"): (16, True),
    }
    assert [(w.src, w.bits, w.channels, w.octaves) for w in choices.weights] == [("fc", 8, 6, ()), ("fc2", 8, 6, ())]
    noise = float(((WEIGHT - fake_weight(8)) ** 2).sum())
    assert np.isclose(choices.weights[0].sqnr, 10 * np.log10(float((WEIGHT.astype(np.float64) ** 2).sum()) / noise))


def test_names_are_kept() -> None:
    module = named(model())
    quantize(module, samples(), PLAIN)
    pairs = [(sources(op), op.name) for op in module.walk() if isinstance(op, QuantizeOp | DequantizeOp)]
    assert pairs.count((("norm",), "qvit.quantize")) == 2
    assert (("w",), "qvit.dequantize") in pairs
    layer = next(op for op in module.walk() if isinstance(op, LinearOp))
    assert isinstance(layer.weight.owner, DequantizeOp)


def test_overrides() -> None:
    module = named(model())
    overrides = (
        Override("norm", (Role.LINEAR,), settings={"bits": 4}),
        Override("fc2", weights=True, settings={"bits": 3, "per_channel": False}),
    )
    choices = quantize(module, samples(), Quantization(PLAIN.roles, PLAIN.weights, overrides=overrides)).choices
    (narrow,) = (c for c in choices.tensors if (c.src, c.role) == ("norm", Role.LINEAR))
    assert narrow.bits == 4
    assert [(w.src, w.bits, w.channels) for w in choices.weights] == [("fc", 8, 6), ("fc2", 3, 1)]


# --- calibration ---


def test_deterministic() -> None:
    texts = set[str]()
    for _ in range(2):
        module = model()
        quantize(module, samples(), BEST.quantization, seed=3)
        texts.add(str(module))
    assert len(texts) == 1


class Stopped(Exception):
    pass


def stop_after(batches: int) -> list[Mapping[str, Array]]:
    class Stopping(list[Mapping[str, Array]]):
        def __iter__(self):
            for i, batch in enumerate(list.__iter__(self)):
                if i == batches:
                    raise Stopped
                yield batch

    return Stopping(samples())


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_a_run_that_was_stopped_goes_on(batches: int, tmp_path: Path) -> None:
    """The samples that were taken are not run again, and the result is that of a run that was never stopped."""
    state, whole, resumed = tmp_path / "state.npz", model(), model()
    quantize(whole, samples(), BEST.quantization)
    with pytest.raises(Stopped):
        quantize(model(), stop_after(batches), BEST.quantization, state=state, key="k")
    assert state.exists() == (batches > 0)
    spoilt = [{"input0": np.full((5, 6), np.nan)} if i < batches else s for i, s in enumerate(samples())]
    done: list[int] = []
    quantize(resumed, spoilt, BEST.quantization, state=state, key="k", progress=done.append)
    assert done == [1, 2, 3, 4]
    assert str(resumed) == str(whole)


def test_a_state_of_other_samples_is_not_taken(tmp_path: Path) -> None:
    state, other, expected = tmp_path / "state.npz", model(), model()
    quantize(model(), samples(seed=5), BEST.quantization, state=state, key="other")
    quantize(other, samples(), BEST.quantization, state=state, key="mine")
    quantize(expected, samples(), BEST.quantization)
    assert str(other) == str(expected)


@pytest.mark.filterwarnings("ignore:overflow")
def test_bad_samples_name_the_tensor() -> None:
    bad = [*samples(1), {"input0": np.full((5, 6), np.nan)}]
    with pytest.raises(BadSample, match="calibration sample 2: the input: 30 of its 30 values are NaN or infinite"):
        quantize(model(), bad, BEST.quantization)
    huge = [{"input0": np.full((5, 6), 1e38)}]
    with pytest.raises(BadSample, match="calibration sample 1: fc: "):
        quantize(model(), huge, BEST.quantization)


def test_a_module_that_is_quantized_needs_no_samples() -> None:
    module = model()
    quantize(module, samples(), BEST.quantization)
    found = compile_model(module, [], BEST)
    assert found.choices == Choices()
    assert "quantize_inputs" in str(found.module)
