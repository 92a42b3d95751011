"""Exponentials of a row, divided by their sum: the codes, and one reciprocal a row of 15 bits or more."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from qvit.dialects.approximations.base import Interval, SoftmaxSpec, bit_length, require
from qvit.dialects.semantics.integers import Array, Int64, IntType, fit, widen

LARGEST = (1 << 31) - 1
"""The largest sum of a row."""


class Probabilities(NamedTuple):
    """How probabilities are written: 1 is `one`, codes end at `top`, in `type`; a code stands for code * scale."""

    one: int
    top: int
    type: IntType
    scale: Array


def probabilities(spec: SoftmaxSpec, options: Mapping[str, int]) -> Probabilities:
    """Codes as wanted where 1 stands for a whole number of them; else of `bits` bits: 8 or 16 unsigned, or 15."""
    output = spec.output
    if output is not None and output.zero_point == 0 and "bits" not in options:
        one = round(1 / output.scale)
        # a scale such as float32(1/255) is meant to be 1/255
        if 1 <= one <= 1 << 16 and abs(one * output.scale - 1) <= 2.0**-20:
            return Probabilities(one, min(one, output.type.hi), output.type, np.array(float(output.scale)))
    bits = options.get("bits", 8 if output is None or output.type.bits <= 8 else 16)
    types = {8: IntType(8, False), 15: IntType(16), 16: IntType(16, False)}
    require(bits in types, f"bits must be 8, 15 or 16, found {bits}")
    top = types[bits].hi
    return Probabilities(top, top, types[bits], np.array(1 / top))


def verify_probabilities(name: str, one: int, top: int) -> None:
    """ValueError if one is out of range."""
    if not 1 <= top <= one <= 1 << 16:
        raise ValueError(f"{name}: 1 <= top <= one <= 2^16 is expected, found {top} and {one}")


def normalise(e: Int64, peak: int, one: int, top: int, result: IntType) -> Array:
    """min(round(e R / 2^s), top), half up, R = round(one 2^s / sum e), s = 14 + bits of the sum.

    e: [..., N], `peak` in every row that is not all 0. OverflowError if a sum is beyond 2^31 - 1.
    """
    # the peak is in the sum unless a row has no entry
    total = widen(fit(np.maximum(e.sum(-1, keepdims=True), peak), IntType(32)))
    shift = bit_length(total) + 14
    reciprocal = ((one << shift) + (total >> 1)) // total
    return fit(np.minimum((e * reciprocal + (1 << (shift - 1))) >> shift, top), result)


def normalised_intermediates(peak: int, length: int, one: int, top: int) -> dict[str, Interval]:
    """What `normalise` computes, for rows whose e are 0 .. peak."""
    total = length * peak
    shift = total.bit_length() + 14
    dividend = (one << shift) + (total >> 1)
    return {
        "e": (0, peak),
        "sum": (peak, total),
        "dividend": (one << (peak.bit_length() + 14), dividend),
        # 2^(bits - 1) <= sum < 2^bits
        "reciprocal": (one << 14, one << 15),
        # e <= sum, and the reciprocal is rounded by at most 1/2
        "product": (0, dividend),
        "rounded": (0, dividend + (1 << (shift - 1))),
        "y": (0, top),
    }


def check_sum(peak: int, length: int) -> None:
    """RangeError if a row's sum may leave 31 bits."""
    require(
        length * peak <= LARGEST,
        f"the sum of {length} exponentials reaches {length * peak}, beyond 2^31 - 1: the constants are for shorter rows",
    )
