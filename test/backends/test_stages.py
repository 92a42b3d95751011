"""A whole model runs stage by stage, its integer function without any float."""

import ir_text
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from xdsl.ir import Operation

from qvit.backends.interpreter import ExecutionError, run, run_model

QUANTIZE = """
func.func @quantize_inputs(%x: tensor<3xf32> {qvit.name = "image"}) -> (tensor<3xi8> {qvit.name = "image"}) {
  %q = qvit.quantize %x <0.5> : tensor<3xf32> -> tensor<3xi8>
  func.return %q : tensor<3xi8>
}
"""
MAIN = """
func.func @main(%q: tensor<3xi8> {qvit.name = "image"}) -> (tensor<3xi8> {qvit.name = "logits"}) attributes {qvit.integer_only} {
  %y = qvit.requantize %q by #qvit.pot<1> {qvit.src = ["half"]} : tensor<3xi8> -> tensor<3xi8>
  func.return %y : tensor<3xi8>
}
"""
DEQUANTIZE = """
func.func @dequantize_outputs(%q: tensor<3xi8> {qvit.name = "logits"}) -> (tensor<3xf32> {qvit.name = "logits"}) {
  %y = qvit.dequantize %q <0.25> : tensor<3xi8> -> tensor<3xf32>
  func.return %y : tensor<3xf32>
}
"""
X = np.array([-3.0, 0.4, 5.0], np.float32)
Q = np.array([-6, 1, 10])
Y = np.array([-3, 0, 5])


def test_stages_one_after_another_whatever_their_place() -> None:
    for text in (QUANTIZE + MAIN + DEQUANTIZE, DEQUANTIZE + MAIN + QUANTIZE):
        (name,), (found,) = zip(*run_model(ir_text.parse(text), {"image": X}).items(), strict=True)
        assert name == "logits"
        assert_array_equal(found, Y * 0.25)


def test_stages_that_are_not_there() -> None:
    assert_array_equal(run_model(ir_text.parse(MAIN), [Q])["logits"], Y)
    assert_array_equal(run_model(ir_text.parse(QUANTIZE + MAIN), [X])["logits"], Y)
    assert_array_equal(run_model(ir_text.parse(MAIN + DEQUANTIZE), [Q])["logits"], Y * 0.25)
    with pytest.raises(ExecutionError, match="no function @main"):
        run_model(ir_text.parse(QUANTIZE), [X])


def test_every_stage_is_observed() -> None:
    seen: list[str] = []

    def observe(op: Operation, result: np.ndarray) -> None:
        seen.append(op.name)

    run_model(ir_text.parse(QUANTIZE + MAIN + DEQUANTIZE), [X], observe=observe)
    assert seen == ["qvit.quantize", "qvit.requantize", "qvit.dequantize"]


def test_single_precision_reaches_all_stages() -> None:
    (found,) = run_model(ir_text.parse(QUANTIZE + MAIN + DEQUANTIZE), [X], float_dtype=np.float32).values()
    assert found.dtype == np.float32


def test_promised_functions_run_on_integers_alone() -> None:
    """The same operation, with the promise and without."""
    real = MAIN.replace("#qvit.pot<1>", "#qvit.real<0.5>")
    with pytest.raises(ExecutionError, match="^half .qvit.requantize.: multiplies by the real number"):
        run_model(ir_text.parse(real), [Q])
    assert_array_equal(run_model(ir_text.parse(real.replace(" attributes {qvit.integer_only}", "")), [Q])["logits"], Y)


POISONED = {
    "float constant": (
        ["%a = qvit.add %x, %x : (tensor<3xi8>, tensor<3xi8>) -> tensor<3xi32>", "%y = qvit.constant dense<0.5> : tensor<3xf32>"],
        r"qvit.constant \(qvit.constant\): makes float64\[3\]",
    ),
    "dequantize": (
        ["%y = qvit.dequantize %x <0.5> : tensor<3xi8> -> tensor<3xf32>"],
        r"qvit.dequantize \(qvit.dequantize\): has a scale",
    ),
    "requantize by a real factor": (
        ["%y = qvit.requantize %x by #qvit.real<2.0> : tensor<3xi8> -> tensor<3xi16>"],
        r"multiplies by the real number",
    ),
    "one of two factors": (
        ["%y = qvit.add_requant %x by #qvit.pot<1>, %x by #qvit.real<0.5> : (tensor<3xi8>, tensor<3xi8>) -> tensor<3xi16>"],
        r"multiplies by the real number",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", POISONED)
def test_integers_only(name: str) -> None:
    lines, says = POISONED[name]
    module = ir_text.parse(ir_text.function(lines, {"%x": "tensor<3xi8>"}))
    run(module, [Q])
    with pytest.raises(ExecutionError, match=says):
        run(module, [Q], integers_only=True)


def test_float_operands() -> None:
    module = ir_text.parse(ir_text.function("%y = qvit.erf %x : tensor<3xf32>"))
    with pytest.raises(ExecutionError, match="input 'input0': it takes floats, in a run of integers only"):
        run(module, [X], integers_only=True)


def test_integers_are_no_poison() -> None:
    """Codes, truth values and 64-bit sums."""
    lines = [
        '%c = qvit.compare %x, %x {predicate = "lt"} : (tensor<3xi8>, tensor<3xi8>) -> tensor<3xui1>',
        "%s = qvit.add %x, %x : (tensor<3xi8>, tensor<3xi8>) -> tensor<3xi64>",
        "%y = qvit.requantize %s by #qvit.dyadic<3, 1> : tensor<3xi64> -> tensor<3xi8>",
    ]
    module = ir_text.parse(ir_text.function(lines, {"%x": "tensor<3xi8>"}))
    (found,) = run(module, [Q], integers_only=True).values()
    assert_array_equal(found, Q * 3)
