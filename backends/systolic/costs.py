"""What the vector unit does for a row of each approximation: passes over it, divisions, and steps that are not pipelined."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class FunctionCost:
    """passes: times that all elements of a row run through the lanes; what a pass keeps for the next (exponentials,
    deviations) stays in the unit. row_divisions: of the row, one after another. element_divisions: of each element, one a
    lane at a time. row_steps, element_steps: cycles of what is not pipelined, of a row and of an element.
    """

    passes: int
    row_divisions: int = 0
    element_divisions: int = 0
    row_steps: int = 0
    element_steps: int = 0


QUOTIENT = 5
"""Steps of comparing and subtracting for a quotient below 32: the octaves below a row's maximum."""
WIDE_QUOTIENT = 6
"""The same below 64."""
RECIPROCAL_ROOT = 7
"""A look-up, and two Newton steps of three products: `ln.reciprocal_sqrt`."""
ROOT_62 = 7
"""Newton steps, a division each, for the root of a number below 2^62, the one included that finds it unchanged."""
ROOT_32 = 6
"""The same below 2^32."""

_DIVIDED = FunctionCost(3, row_divisions=1)
_OCTAVES = FunctionCost(3, row_divisions=1, element_steps=QUOTIENT)
_LOGARITHM = FunctionCost(3, element_divisions=1, element_steps=WIDE_QUOTIENT)
_ELEMENTWISE = FunctionCost(1)

FUNCTION_COSTS: Mapping[str, FunctionCost] = {
    # maximum; exponentials and their sum; times the reciprocal of the sum
    "sm8": _DIVIDED,
    "sw": _DIVIDED,
    # without the last: that division comes behind the next product
    "sm8_late": FunctionCost(2),
    "sw_late": FunctionCost(2),
    # the exponential divides by an octave
    "shiftmax": _OCTAVES,
    "shiftmax_published": _OCTAVES,
    "i_softmax": _OCTAVES,
    "i_softmax_published": _OCTAVES,
    "bit_softmax": FunctionCost(3, row_divisions=1, element_steps=WIDE_QUOTIENT),
    "bit_softmax_published": _OCTAVES,
    # the sum is divided by each exponential
    "lis": _LOGARITHM,
    "lis_published": _LOGARITHM,
    # maximum; exponentials and their sum; comparing with multiples of the sum
    "threshold_softmax": FunctionCost(3),
    # maximum and sum together, as the row streams in
    "ita": FunctionCost(2, row_divisions=1),
    # look-ups and products, all pipelined
    "table": _ELEMENTWISE,
    "lin": _ELEMENTWISE,
    "quad": _ELEMENTWISE,
    "i_gelu": _ELEMENTWISE,
    "i_gelu_published": _ELEMENTWISE,
    "poly_gelu": _ELEMENTWISE,
    "ita_gelu": _ELEMENTWISE,
    # a sigmoid is a division; as published there is the maximum before it, and its exponential
    "shiftgelu": FunctionCost(1, element_divisions=1, element_steps=QUOTIENT),
    "shiftgelu_published": FunctionCost(2, element_divisions=1, row_steps=QUOTIENT, element_steps=QUOTIENT),
    # sum and sum of squares; scale and offset
    "ln": FunctionCost(2, row_steps=RECIPROCAL_ROOT),
    "ptf_layernorm": FunctionCost(2, row_steps=RECIPROCAL_ROOT),
    # sum and sum of squares; squares of deviations, compared with multiples of the variance
    "threshold_layernorm": FunctionCost(2),
    "i_layernorm": FunctionCost(2, row_divisions=ROOT_62 + 1),
    "ibert_layernorm": FunctionCost(2, row_divisions=ROOT_32 + 1),
    # mean, squares of deviations, scale: the mean is a division too; ten Newton steps
    "i_layernorm_published": FunctionCost(3, row_divisions=1 + 10 + 1),
    "ibert_layernorm_published": FunctionCost(3, row_divisions=1 + ROOT_62 + 1),
    # a mantissa and an offset of each channel of each row, a root and a division each
    "ptf_layernorm_published": FunctionCost(2, element_divisions=2 * (ROOT_62 + 1)),
}
"""By the names of attributes."""
