"""--smooth-pot: equal results bit for bit, the factors, and what it declines."""

from pathlib import Path
from typing import Any

import ir_text
import numpy as np
import pytest
from numpy.typing import NDArray
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from qvit.backends.interpreter import run
from qvit.dialects.attributes import dense
from qvit.dialects.ops.nonlinear import LayerNormOp
from qvit.dialects.ops.products import LinearOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.weights import Weights
from qvit.transforms.smooth_pot import SmoothPotPass, read_statistics, smooth_pot

Array = NDArray[Any]
CHANNELS, OUTPUTS = 16, 5


def block(gamma: Array, beta: Array, matrix: Array) -> ModuleOp:
    """A normalisation and two layers behind it, one behind a reshape."""
    rows, vector = f"tensor<6x{CHANNELS}xf32>", f"tensor<{CHANNELS}xf32>"
    module = ir_text.parse(f"""func.func @main(%x: tensor<6x{CHANNELS}xf32>) -> (tensor<6x{OUTPUTS}xf32>, tensor<2x3x{OUTPUTS}xf32>) {{
  %g = qvit.constant dense<1.0> : tensor<{CHANNELS}xf32>
  %b = qvit.constant dense<1.0> : tensor<{CHANNELS}xf32>
  %w = qvit.constant dense<1.0> : tensor<{OUTPUTS}x{CHANNELS}xf32>
  %y = qvit.layer_norm %x, %g, %b axis 1 epsilon 1.0e-06 {{qvit.src = ["norm"]}} : ({rows}, {vector}, {vector}) -> {rows}
  %u = qvit.linear %y, %w : (tensor<6x{CHANNELS}xf32>, tensor<{OUTPUTS}x{CHANNELS}xf32>) -> tensor<6x{OUTPUTS}xf32>
  %r = qvit.reshape %y : tensor<6x{CHANNELS}xf32> -> tensor<2x3x{CHANNELS}xf32>
  %v = qvit.linear %r, %w : (tensor<2x3x{CHANNELS}xf32>, tensor<{OUTPUTS}x{CHANNELS}xf32>) -> tensor<2x3x{OUTPUTS}xf32>
  func.return %u, %v : tensor<6x{OUTPUTS}xf32>, tensor<2x3x{OUTPUTS}xf32>
}}""")
    constants = [op for op in module.walk() if isinstance(op, ConstantOp)]
    for op, array in zip(constants, (gamma, beta, matrix), strict=True):
        op.properties["value"] = dense(array.astype(np.float32))
    return module


def sample(seed: int) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    spread = np.exp(rng.normal(0, 2, CHANNELS))
    return (
        rng.standard_normal(CHANNELS) * spread,
        rng.standard_normal(CHANNELS),
        rng.standard_normal((OUTPUTS, CHANNELS)),
    )


def norm_of(module: ModuleOp) -> tuple[Array, ...]:
    norm, weights = next(op for op in module.walk() if isinstance(op, LayerNormOp)), Weights(module)
    return tuple(array for v in norm.operands[1:] if (array := weights.array(v)) is not None)


def matrices(module: ModuleOp) -> list[Array]:
    weights = Weights(module)
    found = [weights.array(op.weight) for op in module.walk() if isinstance(op, LinearOp)]
    return [array for array in found if array is not None]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("told", [False, True])
def test_results_are_equal_bit_for_bit(dtype: Any, seed: int, told: bool) -> None:
    gamma, beta, matrix = sample(seed)
    module = block(gamma, beta, matrix)
    x = np.random.default_rng(seed).standard_normal((6, CHANNELS)).astype(np.float32)
    before = run(module, [x], float_dtype=dtype)
    known = {"norm": np.abs(gamma) * 2 + 0.5} if told else {}
    report = smooth_pot(module, 0.5, known)
    module.verify()
    assert [(s.src, report.guessed) for s in report.smoothed] == [("norm", int(not told))]
    assert report.smoothed[0].low < report.smoothed[0].high
    after = run(module, [x], float_dtype=dtype)
    for name, values in before.items():
        assert values.tobytes() == after[name].tobytes()


def test_factors_are_the_nearest_powers_of_two() -> None:
    gamma, beta, matrix = sample(11)
    module = block(gamma, beta, matrix)
    largest = np.random.default_rng(0).uniform(0.1, 50, CHANNELS)
    largest[3] = 0  # a silent channel stays
    smooth_pot(module, 0.3, {"norm": largest})
    column = np.abs(matrix.astype(np.float32)).max(0).astype(np.float64)
    ideal = np.ones(CHANNELS)
    alive = largest > 0
    ideal[alive] = largest[alive] ** 0.3 / column[alive] ** 0.7
    ideal[alive] /= np.exp(np.log(ideal[alive]).mean())
    floor = 2.0 ** np.floor(np.log2(ideal))
    expected = np.where(ideal > 1.5 * floor, 2 * floor, floor)
    assert expected[3] == 1
    for before, after in zip((gamma, beta), norm_of(module), strict=True):
        assert np.array_equal(after, before.astype(np.float32) / expected)
    assert len(matrices(module)) == 2
    for found in matrices(module):
        assert np.array_equal(found, matrix.astype(np.float32) * expected)


def test_without_statistics_channels_reach_three_deviations() -> None:
    gamma, beta, matrix = sample(2)
    guessed, told = block(gamma, beta, matrix), block(gamma, beta, matrix)
    reach = np.abs(beta.astype(np.float32).astype(np.float64)) + 3 * np.abs(gamma.astype(np.float32).astype(np.float64))
    assert smooth_pot(guessed).guessed == 1
    assert smooth_pot(told, largest={"norm": reach}).guessed == 0
    assert str(guessed) == str(told)


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        (np.ones(3), "its statistics have the shape [3], expected [16]"),
        (np.full(CHANNELS, np.nan), "its statistics are not all finite and at least 0"),
        (np.full(CHANNELS, -1.0), "its statistics are not all finite and at least 0"),
    ],
)
def test_statistics_that_do_not_fit_are_told(known: Array, reason: str) -> None:
    module = block(*sample(1))
    text = str(module)
    report = smooth_pot(module, 0.5, {"norm": known})
    assert [(r.src, r.reason) for r in report.left] == [("norm", reason)]
    assert (str(module), report.smoothed) == (text, [])


@pytest.mark.parametrize("where", ["gamma", "weights"])
def test_nothing_leaves_the_normal_floats(where: str) -> None:
    gamma, beta, matrix = sample(1)
    if where == "gamma":
        gamma[:] = np.float32(1.1754945e-38)  # dividing the smallest normal number loses bits
    else:
        matrix[0, :] = 3e38
        matrix[1:, :] = 1e-3
    module = block(gamma, beta, matrix)
    text = str(module)
    report = smooth_pot(module, 1.0, {"norm": 2.0 ** np.arange(CHANNELS)})
    assert [r.reason for r in report.left] == [
        "a power of two would take some of its constants beyond the normal floats"
    ]
    assert str(module) == text


def test_a_quantizer_is_in_the_way() -> None:
    module = ir_text.parse("""func.func @main(%x: tensor<6x2xf32>, %g: tensor<2xf32>) -> tensor<6x2xf32> {
  %c = qvit.constant dense<1.0> : tensor<2xf32>
  %y = qvit.layer_norm %x, %c axis 1 epsilon 1.0e-06 {qvit.src = ["norm"]} : (tensor<6x2xf32>, tensor<2xf32>) -> tensor<6x2xf32>
  %q = qvit.quantize %y <0.5> {qvit.src = ["q"]} : tensor<6x2xf32> -> tensor<6x2xi8>
  %v = qvit.dequantize %q <0.5> : tensor<6x2xi8> -> tensor<6x2xf32>
  func.return %v : tensor<6x2xf32>
}""")
    assert [r.reason for r in smooth_pot(module).left] == ["q takes it, a qvit.quantize: expected linear layers alone"]


@pytest.mark.parametrize("alpha", [-0.1, 1.01, float("nan")])
def test_alpha_is_between_0_and_1(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"smooth-pot: alpha must be in 0\.\.1"):
        smooth_pot(block(*sample(0)), alpha)


def test_statistics_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    np.savez(path, norm=np.arange(1.0, CHANNELS + 1))
    by_pass, by_hand = block(*sample(4)), block(*sample(4))
    SmoothPotPass(statistics=str(path)).apply(Context(), by_pass)
    smooth_pot(by_hand, 0.5, {"norm": np.arange(1.0, CHANNELS + 1)})
    assert str(by_pass) == str(by_hand)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"text"])
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"smooth-pot: .*s\.npz cannot be read as an \.npz file of vectors"):
        read_statistics(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_statistics(tmp_path / "missing.npz")
