"""--integerize: attention by powers of two, and normalisation of channels whose scales differ by powers of two."""

from typing import Any

import ir_text
import numpy as np
import pytest
from numpy.typing import NDArray
from xdsl.dialects.builtin import ModuleOp

from qvit.backends.interpreter import run
from qvit.dialects.ops.approximated import IntLayerNormOp, IntSoftmaxOp
from qvit.dialects.ops.products import ShiftMatmulOp
from qvit.dialects.ops.quantization import AddRequantOp
from qvit.dialects.types import integer_of
from qvit.transforms.integer.rules import Asked
from qvit.transforms.integerize import IntegerReport, integerize
from qvit.transforms.lower_requant import LowerRequantPass

Array = NDArray[Any]


def attention(scores: str = "0.125", values: str = "0.25", result: str = "0.5", quantized: str = "") -> ModuleOp:
    """softmax(dq(s)) dq(v), quantized; the probabilities too where that is asked."""
    p = "%r"
    body = ""
    if quantized:
        body = f"""%pq = qvit.quantize %r <{quantized}> : tensor<2x5x7xf32> -> tensor<2x5x7xui8>
  %pd = qvit.dequantize %pq <{quantized}> : tensor<2x5x7xui8> -> tensor<2x5x7xf32>"""
        p = "%pd"
    return ir_text.parse(f"""func.func @main(%s: tensor<2x5x7xi8>, %v: tensor<2x7x3xi8>) -> tensor<2x5x3xi8> {{
  %x = qvit.dequantize %s <{scores}> : tensor<2x5x7xi8> -> tensor<2x5x7xf32>
  %r = qvit.softmax %x axis 2 {{qvit.src = ["softmax"]}} : tensor<2x5x7xf32>
  %w = qvit.dequantize %v <{values}> : tensor<2x7x3xi8> -> tensor<2x7x3xf32>
  {body}
  %y = qvit.matmul {p}, %w {{qvit.src = ["pv"]}} : (tensor<2x5x7xf32>, tensor<2x7x3xf32>) -> tensor<2x5x3xf32>
  %z = qvit.quantize %y <{result}> rounding half_up {{qvit.src = ["out"]}} : tensor<2x5x3xf32> -> tensor<2x5x3xi8>
  func.return %z : tensor<2x5x3xi8>
}}""")


def integers(module: ModuleOp, **asked: Any) -> IntegerReport:
    return integerize(module, Asked(**asked))


def codes(seed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.integers(-128, 128, (2, 5, 7), np.int8), rng.integers(-128, 128, (2, 7, 3), np.int8)


@pytest.mark.parametrize("zero_point", [0, -3])
def test_the_product_is_one_of_shifts(zero_point: int) -> None:
    module = attention(
        values=f"0.25, zero_point = {zero_point}" if zero_point else "0.25", result="0.5, zero_point = 4"
    )
    report = integers(module, softmax=("lis",))
    module.verify()
    assert report.left == []
    assert report.rules["logarithmic-attention"]["exactness"] == "bounded"
    assert report.approximations == {"softmax": "lis"}
    (softmax,) = (op for op in module.walk() if isinstance(op, IntSoftmaxOp))
    (product,) = (op for op in module.walk() if isinstance(op, ShiftMatmulOp))
    assert str(integer_of(product.result)) == "i32"
    assert LowerRequantPass(form="pot").run(module).left == []
    for seed in range(5):
        s, v = codes(seed)
        q = np.asarray(
            softmax.approximation.data.apply(s.astype(np.int64), [], None, [integer_of(softmax.outputs[0])])[0]
        )
        sums = np.matmul((1 << 15) >> q.astype(np.int64), v.astype(np.int64) - zero_point)
        # sums are in units of 0.25 / 2^15, the result in units of 0.5: a shift by 16, half up
        expected = np.clip(((sums + (1 << 15)) >> 16) + 4, -128, 127)
        (found,) = run(module, [s, v]).values()
        assert np.array_equal(found, expected)


def test_it_is_near_the_real_attention() -> None:
    """Each weight is within 3/4 and 3/2 of what it stands for, those below 2^-15 are lost."""
    module, real = attention(scores="0.03125"), attention(scores="0.03125")
    integers(module, softmax=("lis",))
    s, v = codes(3)
    v = np.abs(v.astype(np.int64)).clip(0, 127).astype(np.int8)
    (found,), (expected,) = run(module, [s, v]).values(), run(real, [s, v]).values()
    assert (found >= np.floor(expected * 0.74) - 1).all()
    assert (found <= np.ceil(expected * 1.51) + 1).all()


def test_wide_values_take_64_bits() -> None:
    text = str(attention()).replace("tensor<2x7x3xi8>", "tensor<2x7x3xi32>")
    module = ir_text.parse(text)
    integers(module, softmax=("lis",))
    (product,) = (op for op in module.walk() if isinstance(op, ShiftMatmulOp))
    assert str(integer_of(product.result)) == "i64"


@pytest.mark.parametrize(
    ("module", "softmax", "reason"),
    [
        (
            attention(quantized="0.00390625"),
            ("lis",),
            "its probabilities are quantized, and none of lis divides in front",
        ),
        (attention(), ("sm8",), "its probabilities are not quantized, and none of sm8 divides behind the product"),
        (attention(scores="0.000000001"), ("lis",), "lis: scores of scale 1e-09 are too fine"),
    ],
)
def test_where_it_does_not_fit(module: ModuleOp, softmax: tuple[str, ...], reason: str) -> None:
    report = integers(module, softmax=softmax)
    assert any(reason in remark.reason for remark in report.left)
    assert not any(isinstance(op, ShiftMatmulOp) for op in module.walk())


def test_values_must_be_quantized() -> None:
    text = str(attention()).replace("%v: tensor<2x7x3xi8>", "%w: tensor<2x7x3xf32>").splitlines()
    module = ir_text.parse("\n".join(line for line in text if "%w = qvit.dequantize" not in line))
    report = integers(module, softmax=("lis",))
    assert any("operand not quantized: values is an argument" in remark.reason for remark in report.left)


# --- channels ----------------------------------------------------------------------------------------------------------


def norm(scale: str, input: str = "ui8") -> ModuleOp:
    rows, vector = "tensor<6x4xf32>", "tensor<4xf32>"
    return ir_text.parse(f"""func.func @main(%q: tensor<6x4x{input}>) -> tensor<6x4xi8> {{
  %x = qvit.dequantize %q <{scale}> : tensor<6x4x{input}> -> {rows}
  %g = qvit.constant dense<[1.5, -0.5, 2.0, 1.0]> : {vector}
  %b = qvit.constant dense<[0.5, 1.0, 0.0, -2.0]> : {vector}
  %y = qvit.layer_norm %x, %g, %b axis 1 epsilon 1.0e-06 {{qvit.src = ["norm"]}} : ({rows}, {vector}, {vector}) -> {rows}
  %z = qvit.quantize %y <0.03125> : {rows} -> tensor<6x4xi8>
  func.return %z : tensor<6x4xi8>
}}""")


def test_factors_of_channels_are_shifts_in_the_normalisation() -> None:
    """As if the codes had been shifted to the smallest scale before."""
    channels = norm("[0.1, 0.4, 0.2, 0.8], zero_point = 7, axis = 1")
    aligned = norm("0.1", "i16")
    for module in (channels, aligned):
        assert integers(module, layer_norm=("ptf-layernorm",)).left == []
    assert len([op for op in channels.walk() if isinstance(op, IntLayerNormOp)]) == 1
    q = np.random.default_rng(2).integers(0, 256, (6, 4))
    (found,) = run(channels, [q.astype(np.uint8)]).values()
    (expected,) = run(aligned, [((q - 7) << np.array([0, 2, 1, 3])).astype(np.int16)]).values()
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("scale", "kinds", "reason"),
    [
        (
            "[0.1, 0.3, 0.2, 0.8], axis = 1",
            ("ptf-layernorm",),
            "scales for its channels that differ by more than powers of two",
        ),
        (
            "[0.1, 0.2, 0.4, 0.8], axis = 1",
            ("ln",),
            "ln: it takes one scale for all channels, and there is one for each",
        ),
        ("[0.1, 0.2, 0.1, 51.2], axis = 1", ("ptf-layernorm",), "ptf-layernorm: factors must be in 0..7, found 0..9"),
        (
            "[0.1, -0.2, 0.1, 0.1], axis = 1",
            ("ptf-layernorm",),
            "operand has the scale -0.2, expected positive numbers",
        ),
        ("0.1, zero_point = [1, 2, 3, 4], axis = 1", ("ptf-layernorm",), "operand has a zero point for each channel"),
        ("[0.1, 0.2, 0.1, 0.2, 0.1, 0.1], axis = 0", ("ptf-layernorm",), "operand has a scale along axis 0"),
    ],
)
def test_channels_that_no_normalisation_takes(scale: str, kinds: tuple[str, ...], reason: str) -> None:
    report = integers(norm(scale), layer_norm=kinds)
    assert any(reason in remark.reason for remark in report.left), [r.reason for r in report.left]


def test_additions_give_channels_their_scales() -> None:
    module = ir_text.parse("""func.func @main(%a: tensor<6x4xi8>, %b: tensor<6x4xi8>) -> tensor<6x4xui8> {
  %x = qvit.dequantize %a <0.5> : tensor<6x4xi8> -> tensor<6x4xf32>
  %y = qvit.dequantize %b <[0.25, 0.5, 1.0, 2.0], axis = 1> : tensor<6x4xi8> -> tensor<6x4xf32>
  %s = qvit.add %x, %y {qvit.src = ["sum"]} : (tensor<6x4xf32>, tensor<6x4xf32>) -> tensor<6x4xf32>
  %z = qvit.quantize %s <[1.0, 2.0, 1.0, 4.0], zero_point = 128, axis = 1> rounding half_up : tensor<6x4xf32> -> tensor<6x4xui8>
  func.return %z : tensor<6x4xui8>
}""")
    text = str(module)
    assert integers(module).left == []
    assert len([op for op in module.walk() if isinstance(op, AddRequantOp)]) == 1
    assert LowerRequantPass(form="pot").run(module).left == []
    rng = np.random.default_rng(0)
    inputs = [rng.integers(-128, 128, (6, 4)).astype(np.int8) for _ in range(2)]
    (found,) = run(module, inputs).values()
    (expected,) = run(ir_text.parse(text), inputs).values()  # exact in floats: powers of two
    assert np.array_equal(found, expected)
