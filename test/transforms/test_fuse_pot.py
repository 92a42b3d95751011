"""--fuse-pot: scales and codes before and after, the bounds it states, and that every requantize behind it is a shift."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import ir_text
import numpy as np
import pytest
from numpy.typing import NDArray
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from qvit.backends.interpreter import find_function, input_names, run
from qvit.dialects.attributes import PotAttr
from qvit.dialects.ops.products import LinearOp
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp, RequantizeOp
from qvit.dialects.semantics.integers import IntType
from qvit.dialects.types import shape_of
from qvit.dialects.weights import Weights
from qvit.frontends.onnx.reader import import_onnx, load_onnx
from qvit.transforms.delay_dequant import DelayDequantPass
from qvit.transforms.fuse_pot import FusePotPass, fuse_pot
from qvit.transforms.lower_requant import LowerRequantPass
from qvit.transforms.pot.factors import fold_factors
from qvit.transforms.ptq.weights import Grid
from qvit.transforms.requant.multipliers import pot_shift
from qvit.transforms.rule import Exactness

Array = NDArray[Any]
EXPORTS = Path(__file__).parents[1] / "data/exports"
ROUNDINGS = ("nearest", "floor", "ceil", "adaptive")


def linear(
    codes: str, scale: str, shape: tuple[int, int] = (2, 3), element: str = "i8", source: str = "weights"
) -> str:
    """A linear layer with quantized input, weights and result."""
    n, k = shape
    return f"""func.func @main(%x: tensor<4x{k}xf32>) -> tensor<4x{n}xf32> {{
  %q = qvit.quantize %x <0.1> {{qvit.src = ["x"]}} : tensor<4x{k}xf32> -> tensor<4x{k}xi8>
  %v = qvit.dequantize %q <0.1> : tensor<4x{k}xi8> -> tensor<4x{k}xf32>
  %c = qvit.constant dense<{codes}> : tensor<{n}x{k}x{element}>
  %w = qvit.dequantize %c <{scale}> {{qvit.src = ["{source}"]}} : tensor<{n}x{k}x{element}> -> tensor<{n}x{k}xf32>
  %y = qvit.linear %v, %w : (tensor<4x{k}xf32>, tensor<{n}x{k}xf32>) -> tensor<4x{n}xf32>
  %r = qvit.quantize %y <0.7> {{qvit.src = ["y"]}} : tensor<4x{n}xf32> -> tensor<4x{n}xi8>
  %z = qvit.dequantize %r <0.7> : tensor<4x{n}xi8> -> tensor<4x{n}xf32>
  func.return %z : tensor<4x{n}xf32>
}}"""


def weights_of(module: ModuleOp) -> tuple[Array, Array]:
    """(codes, real numbers) of the one layer's weights."""
    layer = next(op for op in module.walk() if isinstance(op, LinearOp))
    dq, weights = layer.weight.owner, Weights(module)
    assert isinstance(dq, DequantizeOp)
    codes = weights.array(dq.input)
    assert codes is not None
    scale, zero = weights.scale(dq.params.scale), weights.zero_point(dq.params.zero_point)
    if dq.params.axis_index == 0:
        scale, zero = scale.reshape(-1, 1), zero.reshape(-1, 1)
    return codes, (codes.astype(np.int64) - zero) * scale


def scales(module: ModuleOp) -> list[Fraction]:
    weights, quantizers = Weights(module), DequantizeOp | QuantizeOp
    return [s for op in module.walk() if isinstance(op, quantizers) for s in weights.exact_scale(op.params.scale)]


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("scale", ["0.3", "[0.3, 0.011], axis = 0", "0.3 * 0.7 / 0.013"])
def test_scales_are_powers_of_two_and_weights_move_by_half_a_unit(rounding: str, scale: str) -> None:
    rng = np.random.default_rng(5)
    # small enough for a unit of half the size: nothing saturates but under "adaptive", which looks further
    module = ir_text.parse(linear(str(rng.integers(-60, 61, (2, 3)).tolist()), scale))
    before = weights_of(module)[1]
    report = fuse_pot(module, rounding)
    module.verify()
    assert all(pot_shift(s) is not None for s in scales(module))
    codes, after = weights_of(module)
    (entry,) = (s for s in report.scales if s.kind == "weights")
    inside = (codes > -128) & (codes < 127)
    assert inside.all() or rounding == "adaptive"
    assert (np.abs(after - before)[inside] <= entry.bound).all()
    assert report.exactness is Exactness.BOUNDED
    assert report.left == []


def test_zero_points_stay_and_are_one_for_each_row() -> None:
    text = linear("[[10, 20, 30], [250, 5, 128]]", "0.3, zero_point = [20, 128], axis = 0", element="ui8")
    module = ir_text.parse(text)
    before = weights_of(module)[1]
    assert fuse_pot(module, "ceil").left == []
    codes, after = weights_of(module)
    assert codes.tolist() == [[14, 20, 26], [201, 54, 128]]
    assert np.abs(after - before).max() <= 0.25


def test_powers_of_two_change_nothing() -> None:
    text = (
        linear("[[1, -128, 3], [4, 5, 127]]", "[0.25, 0.5], axis = 0").replace("0.1>", "0.125>").replace("0.7>", "0.5>")
    )
    before = str(ir_text.parse(text))
    for rounding in ROUNDINGS:
        module = ir_text.parse(text)
        report = fuse_pot(module, rounding)
        assert str(module) == before
        assert [s.octaves for s in report.scales] == [()] * 3


def test_adaptive_rounding_has_the_least_error_of_four() -> None:
    """Of the weights, and with second moments of the layer's output; then it is not above that of the nearest."""
    rng = np.random.default_rng(7)
    codes = rng.integers(-127, 128, (6, 8))
    scale = rng.uniform(0.01, 1, 6).astype(np.float32)
    text = linear(str(codes.tolist()), f"{[float(s) for s in scale]}, axis = 0", (6, 8))
    x = rng.standard_normal((50, 8)) * np.arange(1, 9)
    for moments in (None, x.T @ x):
        module = ir_text.parse(text)
        real = weights_of(module)[1]
        fuse_pot(module, "adaptive", lambda _, m=moments: m)
        off = real - weights_of(module)[1]
        found = ((off @ (np.eye(8) if moments is None else moments)) * off).sum(1)
        floor = np.floor(np.log2(np.array(scale, np.float64)))
        for shift in (-1, 0, 1, 2):
            unit = 2.0 ** (floor + shift)[:, None]
            other = real - np.clip(np.rint(real / unit), -128, 127) * unit
            error = ((other @ (np.eye(8) if moments is None else moments)) * other).sum(1)
            assert (found <= error * (1 + 1e-12)).all()


def test_moments_of_another_size_are_not_taken() -> None:
    text = linear("[[1, 100, 3], [4, 5, 127]]", "0.3")
    with_moments, without = ir_text.parse(text), ir_text.parse(text)
    fuse_pot(with_moments, "adaptive", lambda _: np.eye(7))
    fuse_pot(without, "adaptive")
    assert str(with_moments) == str(without)


def test_one_scale_for_all_rows_is_chosen_by_their_sum() -> None:
    rows = np.array([[100.0, 3.0], [0.1, 0.2]])
    grid = Grid(IntType(8), False)
    scale = grid.powers(rows, np.full(2, 0.8), "adaptive", None)
    assert scale.tolist() == [1.0, 1.0]
    assert Grid(IntType(8), True).powers(rows, np.full(2, 0.8), "adaptive", None).tolist() == [1.0, 0.25]


BIAS = """func.func @main(%x: tensor<1x2xi8>) -> tensor<1x2xf32> {{
  %v = qvit.dequantize %x <{x}> : tensor<1x2xi8> -> tensor<1x2xf32>
  %c = qvit.constant dense<[[1, 2], [3, 4]]> : tensor<2x2xi8>
  %w = qvit.dequantize %c <{w}> : tensor<2x2xi8> -> tensor<2x2xf32>
  %d = qvit.constant dense<{codes}> : tensor<2x{element}>
  %b = qvit.dequantize %d <{b}> {{qvit.src = ["bias"]}} : tensor<2x{element}> -> tensor<2xf32>
  %y = qvit.linear %v, %w, %b : (tensor<1x2xf32>, tensor<2x2xf32>, tensor<2xf32>) -> tensor<1x2xf32>
  func.return %y : tensor<1x2xf32>
}}"""


def bias(codes: str, x: str = "0.1", w: str = "0.3", b: str = "0.1 * 0.3", element: str = "i32") -> ModuleOp:
    return ir_text.parse(BIAS.format(codes=codes, x=x, w=w, b=b, element=element))


@pytest.mark.parametrize(("w", "b"), [("0.3", "0.1 * 0.3"), ("[0.3, 0.9], axis = 0", "0.1 * [0.3, 0.9], axis = 0")])
def test_a_bias_lies_at_the_product_of_the_scales(w: str, b: str) -> None:
    module = bias("[1000, -77]", w=w, b=b)
    report = fuse_pot(module)
    (entry,) = (s for s in report.scales if s.kind == "bias")
    assert entry.src == "bias"
    delayed = DelayDequantPass().run(module)  # nothing bounded is allowed: the bias joins the accumulator as it is
    assert "round-bias" not in delayed.rules
    assert [len(op.operands) for op in module.walk() if isinstance(op, LinearOp)] == [3]
    assert all(pot_shift(s) is not None for s in scales(module))


def test_a_bias_that_does_not_fit_is_left() -> None:
    module = bias("[127, 0]", x="0.6", b="1.0", element="i8")
    report = fuse_pot(module, "floor")  # 127 units of 1/8
    assert [(r.src, r.reason) for r in report.left] == [
        ("bias", "the bias needs codes up to 1016 at the scales of input and weights, beyond i8")
    ]


def test_a_bias_behind_what_is_not_quantized_has_its_own_scale() -> None:
    text = BIAS.format(codes="[100, 3]", x="0.1", w="0.3", b="0.3", element="i32")
    text = text.replace("%x: tensor<1x2xi8>", "%v: tensor<1x2xf32>").replace(
        "  %v = qvit.dequantize %x <0.1> : tensor<1x2xi8> -> tensor<1x2xf32>\n", ""
    )
    module = ir_text.parse(text)
    assert fuse_pot(module).left == []
    assert all(pot_shift(s) is not None for s in scales(module))


def factor(body: str, types: str = "tensor<4x3xf32>") -> ModuleOp:
    return ir_text.parse(f"""func.func @main(%x: tensor<4x3xf32>, %q: tensor<4x3xi8>, %p: tensor<4x3xf32>) -> {types} {{
  %c = qvit.constant dense<[[1, 2, 3], [4, 5, 6], [7, 8, 9]]> : tensor<3x3xi8>
  %w = qvit.dequantize %c <0.5> {{qvit.src = ["w"]}} : tensor<3x3xi8> -> tensor<3x3xf32>
  %s = qvit.constant dense<0.3> : tensor<f32>
  %t = qvit.constant dense<[0.3, 0.4, 0.6]> : tensor<3xf32>
  %y = qvit.linear %x, %w {{qvit.src = ["fc"]}} : (tensor<4x3xf32>, tensor<3x3xf32>) -> tensor<4x3xf32>
  {body}
}}""")


MUL = '%z = qvit.mul %y, %s {qvit.src = ["mul"]} : (tensor<4x3xf32>, tensor<f32>) -> tensor<4x3xf32>\n'
CHANNELS = '%z = qvit.mul %y, %t {qvit.src = ["mul"]} : (tensor<4x3xf32>, tensor<3xf32>) -> tensor<4x3xf32>\n'
RETURN = "func.return %z : tensor<4x3xf32>"


@pytest.mark.parametrize(
    "body",
    [
        MUL + RETURN,
        CHANNELS + RETURN,
        MUL.replace("qvit.mul", "qvit.div") + RETURN,
        MUL.replace("%y, %s", "%s, %y").replace("(tensor<4x3xf32>, tensor<f32>)", "(tensor<f32>, tensor<4x3xf32>)")
        + RETURN,
        "%u = qvit.transpose %y [1, 0] : tensor<4x3xf32> -> tensor<3x4xf32>\n"
        "%a = qvit.reshape %u : tensor<3x4xf32> -> tensor<4x3xf32>\n" + MUL.replace("%y", "%a") + RETURN,
        "%a = qvit.add %y, %t : (tensor<4x3xf32>, tensor<3xf32>) -> tensor<4x3xf32>\n"
        + CHANNELS.replace("%y", "%a")
        + RETURN,
        "%a = qvit.add %t, %y : (tensor<3xf32>, tensor<4x3xf32>) -> tensor<4x3xf32>\n"
        + MUL.replace("%y", "%a")
        + RETURN,
        "%u = qvit.quantize %y <0.2> : tensor<4x3xf32> -> tensor<4x3xi8>\n"
        "%a = qvit.dequantize %u <0.2> : tensor<4x3xi8> -> tensor<4x3xf32>\n" + CHANNELS.replace("%y", "%a") + RETURN,
    ],
)
def test_factors_go_into_weights(body: str) -> None:
    """Before scales are rounded, what is computed is the same but for float constants, which are rounded to 32 bits."""
    module = factor(body)
    x = np.random.default_rng(3).standard_normal((4, 3)).astype(np.float32)
    inputs = [x, np.zeros((4, 3), np.int8), x]
    (before,) = run(module, inputs).values()
    folded, left = fold_factors(module, Weights(module))
    module.verify()
    assert (folded, left) == (["mul"], [])
    assert not any(op.name in ("qvit.mul", "qvit.div") for op in module.walk())
    (after,) = run(module, inputs).values()
    np.testing.assert_allclose(after, before, rtol=2e-7)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            MUL
            + "%o = qvit.add %y, %z : (tensor<4x3xf32>, tensor<4x3xf32>) -> tensor<4x3xf32>\n"
            + RETURN.replace("%z", "%o"),
            "fc is used elsewhere too",
        ),
        (
            MUL.replace("%y", "%p") + RETURN,
            "no weights stand in front of it: an argument of the function",
        ),
        (
            '%a = qvit.add %y, %p {qvit.src = ["sum"]} : (tensor<4x3xf32>, tensor<4x3xf32>) -> tensor<4x3xf32>\n'
            + MUL.replace("%y", "%a")
            + RETURN,
            "no weights stand in front of it: sum is qvit.add",
        ),
        (
            '%a = qvit.relu %y {qvit.src = ["relu"]} : tensor<4x3xf32>\n' + MUL.replace("%y", "%a") + RETURN,
            "no weights stand in front of it: relu is qvit.relu",
        ),
        (
            '%a = qvit.dequantize %q <0.2> {qvit.src = ["dq"]} : tensor<4x3xi8> -> tensor<4x3xf32>\n'
            + MUL.replace("%y", "%a")
            + RETURN,
            "dq dequantizes what is no quantize's result",
        ),
        (
            '%a = qvit.linear %x, %x {qvit.src = ["open"]} : (tensor<4x3xf32>, tensor<4x3xf32>) -> tensor<4x4xf32>\n'
            + MUL.replace("%y", "%a").replace("4x3", "4x4")
            + "func.return %y : tensor<4x3xf32>",
            "the weights of open are not quantized constants",
        ),
        (
            '%a = qvit.reshape %y {qvit.src = ["shape"]} : tensor<4x3xf32> -> tensor<4x3xf32>\n'
            + CHANNELS.replace("%y", "%a")
            + RETURN,
            "it varies along an axis of shape, a reshape",
        ),
        (
            "%e = qvit.constant dense<[0.3, 0.0, 0.6]> : tensor<3xf32>\n" + CHANNELS.replace("%t", "%e") + RETURN,
            "the factor qvit.constant holds 0, expected positive numbers",
        ),
    ],
)
def test_factors_that_stay(body: str, reason: str) -> None:
    module = factor(body)
    text = str(module)
    folded, left = fold_factors(module, Weights(module))
    assert [r.reason for r in left] == [reason]
    assert folded == []
    assert str(module) == text


@pytest.mark.parametrize("name", ["qdq_u8s8_tensor_17.onnx", "qdq_s8s8_channel_everything_18.onnx", "pt2e_x86_20.onnx"])
def test_every_requantize_of_an_exported_model_is_a_shift(name: str) -> None:
    module = import_onnx(load_onnx(EXPORTS / name))[0]
    function = find_function(module)
    rng = np.random.default_rng(1)
    inputs = {
        n: rng.standard_normal(shape_of(a)).astype(np.float32)
        for n, a in zip(input_names(function), function.args, strict=True)
    }
    before = next(iter(run(module, inputs).values()))
    report = fuse_pot(module, "adaptive")
    module.verify()
    after = next(iter(run(module, inputs).values()))
    assert np.linalg.norm(after - before) < 0.2 * np.linalg.norm(before)
    assert len(report.scales) > 10
    DelayDequantPass(allow_bounded=True).run(module)
    lowered = LowerRequantPass(form="pot").run(module)
    assert lowered.left == []
    assert all(isinstance(op.form, PotAttr) for op in module.walk() if isinstance(op, RequantizeOp))


def test_the_report_is_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = ir_text.parse(linear("[[1, 2, 3], [4, 5, 127]]", "0.3"))
    FusePotPass(rounding="ceil", report=str(tmp_path / "r.json")).apply(Context(), module)
    report = json.loads((tmp_path / "r.json").read_text())
    assert [(s["src"], s["kind"]) for s in report["scales"]] == [
        ("x", "activation"),
        ("weights", "weights"),
        ("y", "activation"),
    ]
    weights = report["scales"][1]
    assert weights["octaves"] == [pytest.approx(np.log2(0.5 / np.float32(0.3)))]
    assert weights["bound"] == 0.25
    assert weights["noise"] == pytest.approx(20 * np.log10(0.5 / np.float32(0.3)))
    assert weights["sqnr_before"] > weights["sqnr_after"]
    out, err = capsys.readouterr()
    assert out == ""
    assert "weights          1 tensors, 1 scales moved by +0.74 .. +0.74 octaves" in err


@pytest.mark.parametrize("rounding", ["", "up"])
def test_an_unknown_rounding_is_refused(rounding: str) -> None:
    with pytest.raises(ValueError, match="fuse-pot: rounding must be floor, ceil, nearest, adaptive, found"):
        fuse_pot(ir_text.parse(linear("[[1, 2, 3], [4, 5, 6]]", "0.3")), rounding)
