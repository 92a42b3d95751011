"""Requantize, the residual add and products against what I-ViT's and I-BERT's own code computes."""

import golden
import numpy as np
import pytest

from qvit.dialects.semantics import products
from qvit.dialects.semantics.integers import Array, IntType, Rounding
from qvit.dialects.semantics.quantization import add_requant, requantize_dyadic

ZERO, NONE = np.array(0), np.zeros((), np.int64)
I32 = IntType(32)


def per_channel(case: golden.Case, name: str) -> Array:
    """One number, or one for each channel, the last axis."""
    values = case[name]
    return values if values.size > 1 else values.reshape(())


def scaled(case: golden.Case) -> Array:
    """clip(round(z1 m1 / 2^e1) + round(z2 m2 / 2^e2)), the published QuantAct and fixedpoint_mul."""
    result, rounding = IntType(case.params["bits"]), Rounding.HALF_EVEN
    m1, e1 = per_channel(case, "m1"), per_channel(case, "e1")
    if not case.params["residual"]:
        return requantize_dyadic(case["z1"], m1, e1, (ZERO, ZERO), rounding, result)
    m2, e2 = per_channel(case, "m2"), per_channel(case, "e2")
    return add_requant(case["z1"], case["z2"], (m1, m2), (e1, e2), (ZERO, ZERO, ZERO), rounding, True, result)


@pytest.mark.parametrize("name", ["ivit_quantact", "ibert_requant"])
def test_requantization(name: str) -> None:
    """4, 8 and 16 bits, a factor for each channel, exact ties, negative factors, residual operands."""
    found = golden.cases(name)
    for case in found:
        case.check(scaled(case))
    assert {case.params["residual"] for case in found} == {False, True}
    assert {case.params["per"] for case in found} == {"tensor", "channel"}
    assert min(int(case["m1"].min()) for case in found) < 0


def test_ties_go_to_even_there() -> None:
    """With another rounding the vectors are not met."""
    case = next(case for case in golden.cases("ivit_quantact") if case.id == "c12")
    m1, e1 = per_channel(case, "m1"), per_channel(case, "e1")
    for rounding in Rounding:
        y = requantize_dyadic(case["z1"], m1, e1, (ZERO, ZERO), rounding, IntType(case.params["bits"]))
        assert np.array_equal(y, case["y_exact"]) == (rounding is Rounding.HALF_EVEN)


def test_products() -> None:
    """Linear, convolution, Q K^T, and one whose float32 sums have rounded."""
    seen: set[str] = set()
    for case in golden.cases("ivit_linear_matmul"):
        seen.add(op := case.params["op"])
        if op == "linear":
            y = products.linear(case["x"], case["w"], case["b"], (NONE, NONE), I32)
        elif op == "conv":
            w = case["w"].reshape(-1, 3, 4, 4)
            y = products.conv2d(case["x"], w, case["b"], (4, 4), (0, 0, 0, 0), (1, 1), 1, (NONE, NONE), I32)
            y = y.reshape(len(w), -1).T  # a row is a position
        else:
            y = products.matmul(case["a"], case["b_op"], (NONE, NONE), I32)
        case.check(y, "acc_exact", "acc_peer")
    assert seen == {"linear", "conv", "matmul"}
