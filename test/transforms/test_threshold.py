"""--threshold: the codes of comparators are those of requantize, for every operand; and its report."""

import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from ir_text import function, parse
from xdsl.dialects.builtin import ModuleOp

from qvit.backends.interpreter import run
from qvit.dialects.ops.quantization import ThresholdOp
from qvit.dialects.semantics.integers import IntType, Rounding, round_fraction
from qvit.transforms.requant.thresholds import thresholds
from qvit.transforms.threshold import ThresholdPass, to_thresholds

FACTORS = [Fraction(1, 3), Fraction(7, 2), Fraction(1, 1000), Fraction(np.float32(0.1).item()), Fraction(5)]
TYPES = [IntType(2), IntType(3), IntType(3, False), IntType(8), IntType(1, False)]


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("result", TYPES, ids=str)
def test_every_operand(result: IntType, rounding: Rounding) -> None:
    """All x of 9 bits, as exact rational numbers say; several channels with zero points of their own."""
    z_in, z_out = [0, 3, -5, 100, 1], [min(max(z, result.lo), result.hi) for z in (0, 1, -1, 2, 0)]
    found = thresholds(FACTORS, (z_in, z_out), rounding, result)
    assert found.shape == (5, result.hi - result.lo)
    for factor, a, b, row in zip(FACTORS, z_in, z_out, found.tolist(), strict=True):
        for x in range(-256, 256):
            exact = min(max(round_fraction((x - a) * factor, rounding) + b, result.lo), result.hi)
            assert result.lo + sum(x >= t for t in row) == exact


def test_thresholds_that_are_integers_or_far() -> None:
    """Where floats cannot tell, rational numbers do; what no operand reaches stays in int64."""
    factor = Fraction(1, 3)
    (row,) = thresholds([factor], ([0], [0]), Rounding.FLOOR, IntType(2)).tolist()
    assert row == [-3, 0, 3]
    tiny, huge = Fraction(1, 10**30), Fraction(10**30)
    far, near = thresholds([tiny, huge], ([0, 0], [0, 0]), Rounding.HALF_UP, IntType(2)).tolist()
    assert far == [-(1 << 62), -(1 << 62), 1 << 62]
    assert near == [0, 0, 1]


def module_of(form: str, result: str, shape: str = "64x3", rest: str = "rounding half_up") -> ModuleOp:
    body = f"%y = qvit.requantize %x by {form} {rest} : tensor<{shape}xi32> -> tensor<{shape}x{result}>"
    return parse(function([body], {"%x": f"tensor<{shape}xi32>"}))


FORMS = [
    ("#qvit.real<0.01>", ""),
    ("#qvit.real<[0.01, 0.3, 1.7]>", "axis 1"),
    ("#qvit.dyadic<1234567, 27>", "zero_point <2>"),
    ("#qvit.dyadic<[1234567, 99, 5], [27, 12, 3]>", "input_zero_point <[1, -2, 3]> axis 1"),
    ("#qvit.pot<4>", ""),
]


@pytest.mark.parametrize(("form", "rest"), FORMS, ids=str)
@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("result", ["i3", "ui4", "i8"])
def test_before_and_after(form: str, rest: str, rounding: Rounding, result: str) -> None:
    module = module_of(form, result, rest=f"{rest} rounding {rounding}")
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.integers(-2000, 2000, (63, 3)), [[-(1 << 31), (1 << 31) - 1, 0]]]).astype(np.int32)
    before = run(module, [x])["output0"]
    report = to_thresholds(module)
    module.verify()
    assert report.rewritten == 1
    assert any(isinstance(op, ThresholdOp) for op in module.walk())
    np.testing.assert_array_equal(run(module, [x], integers_only=True)["output0"], before)


BOUNDS = [
    "{low = -2 : i64}",
    "{low = -1 : i64, high = 1 : i64}",
    "{high = dense<[3, -4, 0]> : tensor<3xi64>, axis = 1 : i64}",
    "{low = dense<[-2, -1, 3]> : tensor<3xi64>, high = dense<[1, 2, 3]> : tensor<3xi64>, axis = 1 : i64}",
]


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("vector", [False, True], ids=["one set", "a set for each"])
@pytest.mark.parametrize("product", ["sums", "codes"])
def test_bounds_of_codes(bounds: str, vector: bool, product: str) -> None:
    form, axis = ("[0.01, 0.3, 1.7]", "axis 1") if vector else ("0.3", "")
    inputs, body = {"%x": "tensor<64x3xi16>"}, []
    if product == "sums":  # of 32 bits: how large they are is known from what makes them
        inputs, source, held = {"%a": "tensor<64x5xi8>", "%w": "tensor<3x5xi8>"}, "%x", "i32"
        body = [
            "%b = qvit.constant dense<[1000, -1000, 0]> : tensor<3xi32>",
            "%x = qvit.linear %a, %w, %b : (tensor<64x5xi8>, tensor<3x5xi8>, tensor<3xi32>) -> tensor<64x3xi32>",
        ]
    else:
        source, held = "%x", "i16"
    body += [
        f"%y = qvit.requantize {source} by #qvit.real<{form}> {axis} rounding half_up : tensor<64x3x{held}> -> tensor<64x3xi3>",
        f"%z = qvit.clip %y {bounds} : tensor<64x3xi3>",
    ]
    module = parse(function(body, inputs))
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-128, 128, s).astype(np.int8) for s in ((64, 5), (3, 5))]
    arrays = arrays if product == "sums" else [rng.integers(-40, 40, (64, 3)).astype(np.int16)]
    before = run(module, arrays)["output0"]
    assert to_thresholds(module).rewritten == 1
    names = [op.name for op in module.walk()]
    assert "qvit.clip" not in names
    np.testing.assert_array_equal(run(module, arrays, integers_only=True)["output0"], before)


@pytest.mark.parametrize(
    ("held", "form", "axis", "why"),
    [
        ("i32", "0.25", "", "thresholds that none reaches are 1073741824"),
        ("i16", "[0.5, 0.25]", "axis 0", r"thresholds and bounds lie along different axes, \[0, 1\]"),
    ],
)
def test_bounds_that_stay(held: str, form: str, axis: str, why: str) -> None:
    body = [
        f"%y = qvit.requantize %x by #qvit.real<{form}> {axis} : tensor<2x3x{held}> -> tensor<2x3xi3>",
        "%z = qvit.clip %y {high = dense<[3, -4, 0]> : tensor<3xi64>, axis = 1 : i64} : tensor<2x3xi3>",
    ]
    module = parse(function(body, {"%x": f"tensor<2x3x{held}>"}))
    x = np.arange(-3, 3).reshape(2, 3).astype(f"int{held[1:]}")
    before = run(module, [x])["output0"]
    found = to_thresholds(module)
    assert found.rewritten == 1
    (remark,) = found.left
    assert remark.rule == "clip-of-threshold"
    assert re.search(why, remark.reason)
    np.testing.assert_array_equal(run(module, [x], integers_only=True)["output0"], before)


def test_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = module_of("#qvit.real<0.01>", "i16")
    found = ThresholdPass(report=str(tmp_path / "report.json")).run(module)
    assert found.rewritten == 0
    assert found.left[0].reason == "codes of 16 bits would need 65,535 comparators for each"
    assert json.loads((tmp_path / "report.json").read_text())["left"][0]["rule"] == "requantize-to-threshold"
    assert "codes of 16 bits" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "bits", "reason"),
    [
        (module_of("#qvit.real<0.01>", "i4"), 3, "codes of 4 bits would need 15 comparators for each"),
        (module_of("#qvit.real<-0.5>", "i4"), 8, "its factor -0.5 is not positive: codes would fall"),
        (module_of("#qvit.real<0.0>", "i4"), 8, "its factor 0 is not positive: codes would fall"),
    ],
    ids=["bits", "negative", "zero"],
)
def test_what_stays(module: ModuleOp, bits: int, reason: str) -> None:
    assert [remark.reason for remark in to_thresholds(module, bits).left] == [reason]


def test_bits() -> None:
    with pytest.raises(ValueError, match=r"bits must be in 1..8, found 9"):
        ThresholdPass(bits=9).run(module_of("#qvit.real<0.01>", "i4"))
