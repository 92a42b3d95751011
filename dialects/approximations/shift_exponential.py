"""The exponential of I-ViT, a shift by whole octaves and a straight line between two: as published, and sound."""

from fractions import Fraction
from math import floor, frexp, log

import numpy as np

from qvit.dialects.approximations.base import require, require_positive
from qvit.dialects.semantics.integers import Int64

_SHIFTS = 31

_UP_LEAST, _UP_MOST = -40, 30


# --- as published (I-ViT, section 3.3) ---


def published_i0(scale: Fraction) -> int:
    """I0 = floor(-1 / S); RangeError unless S > 0."""
    require_positive(scale)
    return floor(-1 / scale)


def published_exponent(x: Int64) -> Int64:
    """x + (x >> 1) - (x >> 4), about x log2(e): 23/16 for 1.4427. It does not decrease with x."""
    return x + (x >> 1) - (x >> 4)


def published_exponential(x: Int64, i0: int, n: int) -> Int64:
    """About |I0| 2^n e^(S x): p = max(x log2(e), n I0), q = floor(p / I0), (p - q I0 - 2 I0) 2^(n - q - 1), floored.

    It does not decrease with x. At the clamp it is |I0|, not 0. A positive x gives results beyond 2^31; from 2^32 on they
    are only right in being beyond it, for whoever takes them clamps. |I0| <= 2^30, n <= 30.
    """
    p = np.maximum(published_exponent(x), n * i0)
    q = p // i0
    line = p - q * i0 - 2 * i0  # |I0| < line <= 2 |I0|
    left = n - q - 1  # -1 at the clamp
    return np.where(left < 0, line >> 1, line << np.clip(left, 0, _SHIFTS))


def verify_published(name: str, i0: int, n: int) -> None:
    """ValueError if I0 or n is out of range."""
    if not -(1 << 30) <= i0 <= -1:
        raise ValueError(f"{name}: i0 must be in -2^30..-1, found {i0}")
    if not 1 <= n <= 30:
        raise ValueError(f"{name}: n must be in 1..30, found {n}")


# --- sound ---

FINE = 11
"""An octave has 2^11 .. 2^12 - 1 steps: its length is rounded by at most 2^-12 of itself."""


def octave_of(scale: Fraction, bits: int = FINE) -> tuple[int, int]:
    """(up, octave): a code is 2^up steps, and `octave`, 2^bits .. 2^(bits + 1) - 1 steps, halve e^-(scale code).

    RangeError for a scale out of all reason.
    """
    require_positive(scale)
    fraction, exponent = frexp(log(2) / float(scale))
    octave = round(fraction * (2 << bits))
    up = bits + 1 - exponent
    if octave == 2 << bits:
        octave, up = 1 << bits, up - 1
    require(
        _UP_LEAST <= up <= _UP_MOST, f"a scale of {float(scale):.4g} is out of the range 2^-43..2^18 of exponentials"
    )
    return up, octave


def octaves_below(d: Int64, up: int, octave: int) -> tuple[Int64, Int64]:
    """(q, r), q octaves and r < octave steps, for d codes below the maximum; from 31 octaves on q is 31 or more."""
    last = end(up, octave)
    steps = np.minimum(d, last) << up if up >= 0 else np.minimum(d, last) >> -up
    q = steps // octave
    return q, steps - q * octave


def end(up: int, octave: int) -> int:
    """The first d that is 31 octaves or more below the maximum."""
    return -((-_SHIFTS * octave) >> up) if up >= 0 else (_SHIFTS * octave) << -up


def shift_exponential(d: Int64, up: int, octave: int, n: int) -> Int64:
    """floor(2^n (2 octave - r) / 2^q), about 2^n 2 octave e^-(S d), for d >= 0; it does not increase with d.

    Between two octaves the line lies up to 6.15 % above the exponential, and never below it, up to the octave's rounding.
    From 31 octaves on it is 0: 2^n 2 octave < 2^31.
    """
    q, r = octaves_below(d, up, octave)
    return ((2 * octave - r) << n) >> np.minimum(q, _SHIFTS)


def verify_octave(name: str, up: int, octave: int) -> None:
    """ValueError if one is out of range."""
    if not _UP_LEAST <= up <= _UP_MOST:
        raise ValueError(f"{name}: up must be in {_UP_LEAST}..{_UP_MOST}, found {up}")
    if not 1 <= octave < 2 << FINE:
        raise ValueError(f"{name}: octave must be in 1..4095, found {octave}")


def check_octave(octave: int) -> None:
    """RangeError if an octave has so few steps that rounding it spoils the exponential."""
    require(octave >= 16, f"an octave of {octave} steps is too coarse: at least 16 are expected, see `up`")
