"""Smoothing and centring: the outputs stay, the ranges get kinder, and the statistics follow."""

import ir_text
import numpy as np
import pytest
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, SSAValue

from qvit.backends.interpreter import find_function, input_names, run
from qvit.dialects.ops.nonlinear import LayerNormOp
from qvit.dialects.ops.products import LinearOp
from qvit.dialects.provenance import sources
from qvit.dialects.weights import Weights
from qvit.transforms.ptq.calibrate import Calibration, calibrate
from qvit.transforms.ptq.smoothing import centre_keys, smooth
from qvit.transforms.ptq.statistics import Statistics

Array = NDArray[np.float64]


def numbers(name: str, *shape: int, seed: int, scale: float = 1.0) -> str:
    values = np.random.default_rng(seed).normal(size=shape) * scale
    return f"%{name} = qvit.constant dense<{values.tolist()}> : tensor<{'x'.join(map(str, shape))}xf64>"


TYPES = "(tensor<5x6xf64>, tensor<6x6xf64>, tensor<6xf64>) -> tensor<5x6xf64>"


def attention(
    last: str = "%out = qvit.matmul %p, %v : (tensor<5x5xf64>, tensor<5x6xf64>) -> tensor<5x6xf64>",
) -> ModuleOp:
    def layer(name: str) -> str:
        return f'%{name} = qvit.linear %n, %w{name}, %b{name} {{qvit.src = ["{name}"]}} : {TYPES}'

    gamma = [0.1, 20.0, 1.0, 0.02, 3.0, -1.0]
    lines = [
        f"%g = qvit.constant dense<{gamma}> : tensor<6xf64>",
        numbers("h", 6, seed=1),
        *(numbers(f"w{name}", 6, 6, seed=i) for i, name in enumerate("qkv", 2)),
        *(numbers(f"b{name}", 6, seed=i, scale=3) for i, name in enumerate("qkv", 7)),
        '%n = qvit.layer_norm %x, %g, %h axis 1 epsilon 1.0e-6 {qvit.src = ["norm"]}'
        " : (tensor<5x6xf64>, tensor<6xf64>, tensor<6xf64>) -> tensor<5x6xf64>",
        *(layer(name) for name in "qkv"),
        "%t = qvit.transpose %k [1, 0] : tensor<5x6xf64> -> tensor<6x5xf64>",
        "%s = qvit.matmul %q, %t : (tensor<5x6xf64>, tensor<6x5xf64>) -> tensor<5x5xf64>",
        "%c = qvit.constant dense<0.4> : tensor<f64>",
        "%a = qvit.mul %s, %c : (tensor<5x5xf64>, tensor<f64>) -> tensor<5x5xf64>",
        "%p = qvit.softmax %a axis 1 : tensor<5x5xf64>",
        last,
    ]
    return ir_text.parse(ir_text.function(lines, {"%x": "tensor<5x6xf64>"}))


def batches(seed: int, count: int = 3) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    return [{"input0": rng.normal(size=(5, 6))} for _ in range(count)]


def execute(module: ModuleOp, inputs: object, observe: object) -> object:
    return run(module, inputs, observe=observe)  # pyright: ignore[reportArgumentType]


def seen(module: ModuleOp) -> dict[SSAValue, Statistics]:
    function = find_function(module)
    calibration = Calibration(function, gram=True)
    return dict(calibrate(module, function, batches(0), execute, input_names(function), calibration))


def named(function: FuncOp, name: str) -> Operation:
    return next(op for op in function.walk() if sources(op)[-1:] == (name,) and op.name != "qvit.constant")


def outputs(module: ModuleOp) -> list[Array]:
    return [next(iter(run(module, inputs).values())) for inputs in batches(9)]


def assert_follow(module: ModuleOp, statistics: dict[SSAValue, Statistics], value: SSAValue) -> None:
    """The statistics that were changed are those that the changed module gives."""
    again = seen(module)[value]
    for name in ("channel_low", "channel_high", "channel_sum"):
        np.testing.assert_allclose(getattr(statistics[value], name), getattr(again, name), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("powers", [False, True])
@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0])
def test_smoothing_changes_no_output(alpha: float, powers: bool) -> None:
    module = attention()
    expected, statistics, function = outputs(module), seen(module), find_function(module)
    (done,) = smooth(function, alpha, powers, statistics, Weights(module))
    module.verify()
    for a, b in zip(expected, outputs(module), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-9)
    assert done.src == "norm"
    assert 0 < done.low < 1 < done.high
    norm = named(function, "norm")
    assert isinstance(norm, LayerNormOp)
    assert_follow(module, statistics, norm.result)
    gamma = Weights(module).array(norm.gamma)
    assert gamma is not None
    factor = np.array([0.1, 20.0, 1.0, 0.02, 3.0, -1.0]) / gamma
    assert (factor > 0).all()
    assert np.isclose(factor.max(), done.high)
    if powers:
        np.testing.assert_array_equal(np.log2(factor), np.rint(np.log2(factor)))
    else:
        assert np.isclose(np.log(factor).sum(), 0)  # it moves ranges, and does not change their mean
    if alpha == 1.0 and not powers:  # all channels reach equally far
        reach = np.maximum(np.abs(statistics[norm.result].channel_low), np.abs(statistics[norm.result].channel_high))
        np.testing.assert_allclose(reach, reach[0])


def test_a_normalisation_with_other_users_stays() -> None:
    module = attention("%out = qvit.add %n, %v : (tensor<5x6xf64>, tensor<5x6xf64>) -> tensor<5x6xf64>")
    text = str(module)
    assert smooth(find_function(module), 0.5, False, seen(module), Weights(module)) == []
    assert str(module) == text


def test_keys_are_centred() -> None:
    module = attention()
    expected, statistics, function = outputs(module), seen(module), find_function(module)
    keys = named(function, "k")
    assert isinstance(keys, LinearOp)
    assert np.abs(statistics[keys.result].channel_mean).max() > 1
    assert centre_keys(function, statistics, Weights(module)) == ["k"]
    for a, b in zip(expected, outputs(module), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)
    assert_follow(module, statistics, keys.result)
    np.testing.assert_allclose(statistics[keys.result].channel_mean, 0, atol=1e-12)


def test_keys_that_something_else_takes_too_stay() -> None:
    module = attention("%out = qvit.add %k, %v : (tensor<5x6xf64>, tensor<5x6xf64>) -> tensor<5x6xf64>")
    text = str(module)
    assert centre_keys(find_function(module), seen(module), Weights(module)) == []
    assert str(module) == text
