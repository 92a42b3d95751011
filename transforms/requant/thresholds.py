"""Where each code of a requantize begins: its comparator form (Lin & Shah). Numbers alone, exact."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from qvit.dialects.semantics.integers import Array, IntType, Rounding
from qvit.transforms.requant.equality import threshold

_FAR = 1 << 62
"""In the place of what no operand reaches."""


def thresholds(
    factors: Sequence[Fraction],
    zero_points: tuple[Sequence[int], Sequence[int]],
    rounding: Rounding,
    result: IntType,
) -> Array:
    """int64 [channels, levels]: the least x with saturate(round((x - z_in) factor) + z_out) >= lo + 1 + m, levels = hi - lo.

    factors: positive, one for each channel; zero_points: of the operand and of the result, likewise. Comparing with these
    gives the codes of the exact real factor, for every x.
    """
    z_in, z_out = (np.array(z, np.int64)[:, None] for z in zero_points)
    codes = np.arange(result.lo + 1, result.hi + 1, dtype=np.int64) - z_out
    boundary = codes - (0.0 if rounding is Rounding.FLOOR else 0.5)
    with np.errstate(over="ignore", divide="ignore"):
        near = boundary / np.array([_float(f) for f in factors])[:, None]
    far = ~(np.abs(near) < 2.0**52)
    # the quotient is off by less than 2^-51 relative: where an integer is that close, rational numbers decide
    undecided = far | (np.abs(near - np.rint(near)) <= np.abs(near) * 2.0**-50)
    found = np.ceil(np.where(far, 0.0, near)).astype(np.int64)
    for channel, level in np.argwhere(undecided).tolist():
        exact = threshold(factors[channel], int(codes[channel, level]), rounding)
        found[channel, level] = min(max(exact, -_FAR), _FAR)
    return found + z_in


def _float(factor: Fraction) -> float:
    try:
        return float(factor)
    except OverflowError:
        return float("inf")
