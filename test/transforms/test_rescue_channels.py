"""--rescue-channels: every code stays, products move onto integers, and what cannot be rescued is named with the reason."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ir_text import function, parse
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from qvit.backends.interpreter import run
from qvit.dialects.ops.quantization import QuantizeOp
from qvit.dialects.semantics.integers import Array
from qvit.transforms.delay_dequant import delay_dequant
from qvit.transforms.rescue_channels import RescueChannelsPass, rescue_channels

C, N, OUT = 6, 40, 4
RNG = np.random.default_rng(0)
SCALES = RNG.uniform(0.01, 0.3, C).astype(np.float32)
ZEROS = RNG.integers(90, 160, C)


def text(array: Array) -> str:
    return f"dense<{array.tolist()}>"


def model(
    params: str | None = None,
    *,
    quantized: bool = False,
    norm: bool = True,
    bias: bool = True,
    other: str = "",
    gamma: str | None = None,
) -> ModuleOp:
    """x -> layer_norm -> quantize by channels -> two linear layers, added."""
    params = params or f"{SCALES.tolist()}, zero_point = {ZEROS.tolist()}, axis = 1"
    rng = np.random.default_rng(1)
    f32 = {
        "g": rng.normal(1, 0.4, C),
        "b": rng.normal(0, 0.5, C),
        "w": rng.normal(0, 1, (OUT, C)),
        "v": rng.normal(0, 1, (OUT, C)),
        "c": rng.normal(0, 1, OUT),
    }
    kinds = {name: f"tensor<{'x'.join(map(str, a.shape))}xf32>" for name, a in f32.items()}
    body = [f"%{k} = qvit.constant {text(a.astype(np.float32))} : {kinds[k]}" for k, a in f32.items()]
    x = f"tensor<{N}x{C}xf32>"
    if norm:
        body.append(
            f"%n = qvit.layer_norm %x, %{gamma or 'g'}, %b axis 1 epsilon 1.0e-6 : ({x}, {kinds['g']}, {kinds['b']}) -> {x}"
        )
    else:
        body.append(f"%n = qvit.tanh %x : {x}")
    codes = f"tensor<{N}x{C}xui8>"
    body += [
        f"%q = qvit.quantize %n <{params}> : {x} -> {codes}",
        f"%d = qvit.dequantize %q <{params}> : {codes} -> {x}",
    ]
    if quantized:
        stored = rng.integers(-127, 128, (OUT, C)).astype(np.int8)
        scale = rng.uniform(0.005, 0.01, OUT).astype(np.float32).tolist()
        body.append(f"%wq = qvit.constant {text(stored)} : tensor<{OUT}x{C}xi8>")
        body.append(f"%wd = qvit.dequantize %wq <{scale}, axis = 0> : tensor<{OUT}x{C}xi8> -> {kinds['w']}")
    y = f"tensor<{N}x{OUT}xf32>"
    w = "%wd" if quantized else "%w"
    with_bias = f"%d, {w}, %c : ({x}, {kinds['w']}, {kinds['c']})" if bias else f"%d, {w} : ({x}, {kinds['w']})"
    body += [
        f"%l = qvit.linear {with_bias} -> {y}",
        f"%m = qvit.linear %d, %v : ({x}, {kinds['v']}) -> {y}",
        *([other] if other else []),
        f"%y = qvit.add %l, %m : ({y}, {y}) -> {y}",
    ]
    return parse(function(body, {"%x": x} | ({"%h": kinds["g"]} if gamma == "h" else {})))


def codes_and_result(module: ModuleOp, x: Array) -> tuple[Array, Array]:
    found: list[Array] = []

    def observe(op: Operation, array: Array) -> None:
        if isinstance(op, QuantizeOp):
            found.append(array)

    (result,) = run(module, [x], observe=observe).values()
    (codes,) = found
    return codes, result


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_floats_stay_the_same(bias: bool) -> None:
    module, x = model(bias=bias), RNG.normal(0, 2, (N, C)).astype(np.float32)
    before, expected = codes_and_result(module, x)
    report = rescue_channels(module)
    module.verify()
    after, found = codes_and_result(module, x)
    np.testing.assert_array_equal(after, before)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)  # new constants are float32
    (rescued,) = report.rescued
    assert (rescued.channels, rescued.exactness, rescued.bounded) == (C, "real-exact", 0)
    assert report.left == []


def test_quantized_weights_are_quantized_again() -> None:
    module, x = model(quantized=True), RNG.normal(0, 2, (N, C)).astype(np.float32)
    before, expected = codes_and_result(module, x)
    assert "--allow-bounded" in rescue_channels(module).left[0].reason
    report = rescue_channels(module, allow_bounded=True)
    module.verify()
    after, found = codes_and_result(module, x)
    np.testing.assert_array_equal(after, before)
    (rescued,) = report.rescued
    assert rescued.exactness == "bounded"
    # each of C weights is off by at most the bound, and what it multiplies is a dequantized code
    reach = (np.abs(before.astype(float) - ZEROS).max()) * rescued.scale
    assert 0 < np.abs(found - expected).max() <= C * rescued.bounded * reach + 1e-3


def test_products_move_onto_integers() -> None:
    blocked = model(quantized=True)
    assert delay_dequant(blocked).macs_integer.after == 0
    module = model(quantized=True)
    rescue_channels(module, allow_bounded=True)
    report = delay_dequant(module, allow_bounded=True)
    assert report.macs_integer.after == N * C * OUT  # the other layer has weights in float


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: model(norm=False), "made by qvit.tanh .*: only gamma and beta of a layer normalisation can take"),
        (lambda: model(gamma="h"), "gamma is no constant"),
        (
            lambda: model(other=f"%o = qvit.tanh %d : tensor<{N}x{C}xf32>"),
            "takes it too, and cannot take the scales into weights",
        ),
        (
            lambda: model(other=f"%o = qvit.tanh %n : tensor<{N}x{C}xf32>"),
            "has users that its quantizer does not see",
        ),
        (
            lambda: model(other=f"%o = qvit.dequantize %q <1.0> : tensor<{N}x{C}xui8> -> tensor<{N}x{C}xf32>"),
            "its codes have other users",
        ),
    ],
    ids=["no norm", "gamma", "another user", "of the norm", "of the codes"],
)
def test_what_stays(made: Callable[[], ModuleOp], reason: str) -> None:
    module = made()
    before = str(module)
    (left,) = rescue_channels(module).left
    assert re.search(reason, left.reason), left.reason
    assert left.rule == "rescue-channels"
    assert str(module) == before


def test_one_scale_is_nothing_to_rescue() -> None:
    report = rescue_channels(model("0.1, zero_point = 100"))
    assert (report.rescued, report.left) == ([], [])


def test_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RescueChannelsPass(report=str(tmp_path / "report.json")).run(model(norm=False))
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["rescued"] == []
    assert "train with one scale" in written["left"][0]["reason"]
    assert "rescue-channels" in capsys.readouterr().err
