"""What the approximations of GELU share."""

from collections.abc import Callable

import numpy as np

from qvit.dialects.approximations.base import FunctionSpec, Interval, require
from qvit.dialects.semantics.integers import Int64, IntType


def require_gelu(name: str, spec: FunctionSpec) -> None:
    """RangeError unless the function is a GELU."""
    require(
        spec.function in ("gelu", "gelu_tanh"),
        f"{name} approximates gelu alone, the function is {spec.function}: use table, lin or quad",
    )


def centred_codes(spec: FunctionSpec) -> Interval:
    """The range of code - zero point."""
    return spec.input.type.lo - spec.input.zero_point, spec.input.type.hi - spec.input.zero_point


def signed_bits(interval: Interval) -> int:
    """The bits of a two's complement number that holds the interval."""
    return max((-interval[0] - 1).bit_length() if interval[0] < 0 else 0, interval[1].bit_length()) + 1


def word(bits: int) -> IntType:
    """The narrowest signed type of 8, 16, 32 or 64 bits that has `bits`."""
    return IntType(next(width for width in (8, 16, 32, 64) if width >= bits))


def reached(f: Callable[[Int64], Int64], codes: Interval, bound: Interval) -> Interval:
    """The least and the largest f(x) for x in `codes`, each tried; `bound`, which holds them, where these are too many."""
    if codes[1] - codes[0] >= 1 << 17:
        return bound
    y = f(np.arange(codes[0], codes[1] + 1))
    return int(y.min()), int(y.max())
