"""Scales and ranges follow from where a module states them."""

import ir_text
import numpy as np
import pytest

from qvit.dialects.provenance import describe
from qvit.tools.page.codes import codes_of

TEXT = """func.func @main(%x: tensor<2x3xf32>) -> tensor<1x4xf32> {
  %q = qvit.quantize %x <0.5, zero_point = 3> {qvit.src = ["q"]} : tensor<2x3xf32> -> tensor<2x3xui8>
  %t = qvit.transpose %q [1, 0] {qvit.src = ["moved"]} : tensor<2x3xui8> -> tensor<3x2xui8>
  %m = qvit.matmul %q, %t lhs_zero_point <3> rhs_zero_point <3> {qvit.src = ["qk"]} : (tensor<2x3xui8>, tensor<3x2xui8>) -> tensor<2x2xi32>
  %r = qvit.requantize %m by #qvit.real<0.5 * 0.5 / 2.0> zero_point <-1> {qvit.src = ["after"]} : tensor<2x2xi32> -> tensor<2x2xi8>
  %f = qvit.reshape %r {qvit.src = ["flat"]} : tensor<2x2xi8> -> tensor<1x4xi8>
  %w = qvit.constant dense<1> : tensor<4x4xi8> {qvit.src = ["weight"]}
  %b = qvit.constant dense<7> : tensor<4xi32> {qvit.src = ["bias"]}
  %y = qvit.linear %f, %w, %b input_zero_point <-1> {qvit.src = ["fc"]} : (tensor<1x4xi8>, tensor<4x4xi8>, tensor<4xi32>) -> tensor<1x4xi32>
  %z = qvit.requantize %y by #qvit.dyadic<[3, 1, 5, 7], 2> axis 1 {qvit.src = ["dyadic"]} : tensor<1x4xi32> -> tensor<1x4xi8>
  %p = qvit.requantize %z by #qvit.pot<1> {qvit.src = ["pot"]} : tensor<1x4xi8> -> tensor<1x4xi4>
  %d = qvit.dequantize %p <8.0> {qvit.src = ["dq"]} : tensor<1x4xi4> -> tensor<1x4xf32>
  func.return %d : tensor<1x4xf32>
}"""

EXPECTED = {
    # name: (scale, zero point, axis)
    "q": (0.5, 3, None),
    "moved": (0.5, 3, None),
    "qk": (0.25, 0, None),
    "after": (2.0, -1, None),  # forwards: 0.25 / (0.25 / 2)
    "flat": (2.0, -1, None),
    "pot": (8.0, 0, None),
    "dyadic": (4.0, 0, None),  # backwards: 8 * 2^-1
    "fc": ([3.0, 1.0, 5.0, 7.0], 0, 1),  # backwards: 4 * m / 4
    "weight": ([1.5, 0.5, 2.5, 3.5], 0, 0),  # what the layer's scale is, over that of its input
    "bias": ([3.0, 1.0, 5.0, 7.0], 0, 0),
}


def test_codes_go_forwards_and_backwards() -> None:
    found = {describe(value): codes for value, codes in codes_of(ir_text.parse(TEXT)).items()}
    assert {name: (c.scale.tolist(), c.zero_point.tolist(), c.axis) for name, c in found.items()} == EXPECTED


@pytest.mark.parametrize(
    ("name", "codes", "reals"),
    [("q", (0, 255), (-1.5, 126.0)), ("after", (-128, 127), (-254.0, 256.0)), ("weight", (-128, 127), (-448.0, 444.5))],
)
def test_ranges(name: str, codes: tuple[int, int], reals: tuple[float, float]) -> None:
    found = {describe(value): codes for value, codes in codes_of(ir_text.parse(TEXT)).items()}
    assert found[name].real_range(*codes) == reals


def test_a_negative_scale_turns_the_range_around() -> None:
    text = """func.func @main(%q: tensor<2xi8>) -> tensor<2xf32> {
      %y = qvit.dequantize %q <[-0.5, 0.25], zero_point = [1, -3], axis = 0> : tensor<2xi8> -> tensor<2xf32>
      func.return %y : tensor<2xf32>
    }"""
    (codes,) = codes_of(ir_text.parse(text)).values()
    assert codes.real_range(-128, 127) == (-63.0, 64.5)


def test_nothing_is_made_up() -> None:
    """A factor of 0 loses the scale, different parts have no common one, a divisor changes what is meant, and floats have
    none at all."""
    text = """func.func @main(%x: tensor<2xf32>, %a: tensor<2xi8>) -> (tensor<2xi8>, tensor<4xi8>) {
      %q = qvit.quantize %x <0.5> : tensor<2xf32> -> tensor<2xi8>
      %r = qvit.quantize %x <0.25> : tensor<2xf32> -> tensor<2xi8>
      %z = qvit.requantize %q by #qvit.real<0.0> : tensor<2xi8> -> tensor<2xi8>
      %c = qvit.concat %q, %r axis 0 : (tensor<2xi8>, tensor<2xi8>) -> tensor<4xi8>
      %n = qvit.constant dense<3> : tensor<1xi32>
      %v = qvit.requantize %q by #qvit.real<0.5> divided_by %n : (tensor<2xi8>, tensor<1xi32>) -> tensor<2xi8>
      func.return %z, %c : tensor<2xi8>, tensor<4xi8>
    }"""
    module = ir_text.parse(text)
    assert [float(np.max(codes.scale)) for codes in codes_of(module).values()] == [0.5, 0.25]
