"""`shiftgelu`: I-ViT's GELU, x sigma(1.702 x) with shifts for the exponential; and `shiftgelu_published`, to the letter."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np

from qvit.dialects.approximations.base import (
    Built,
    FunctionApproximation,
    FunctionSpec,
    Interval,
    require,
    require_options,
)
from qvit.dialects.approximations.gelu import centred_codes, reached, require_gelu, signed_bits, word
from qvit.dialects.approximations.normalised import LARGEST
from qvit.dialects.approximations.shift_exponential import (
    check_octave,
    octave_of,
    published_exponent,
    published_exponential,
    published_i0,
    shift_exponential,
    verify_octave,
    verify_published,
)
from qvit.dialects.semantics.integers import Array, Int64, IntType, fit

SLOPE = Fraction(1702, 1000)
"""GELU(x) is about x sigma(1.702 x): off by at most 0.0204, at |x| = 2.27, whatever the integers."""


@dataclass(frozen=True)
class ShiftgeluPublished(FunctionApproximation):
    """y = x sigma, sigma = (E F) >> (32 - bits), F = floor((2^31 - 1) / min(E + E0, 2^31 - 1)), of scale S / 2^(bits - 1).

    E = published_exponential(x - M), E0 = published_exponential(-M), M the maximum over the last axis: equal codes have
    different results in different rows. Once M S > n / 2.4466 (9.40 for n = 23) both exponentials are clamped for all that
    is far below M, and their y is x / 2: `check` refuses that. In rows all of whose codes are negative E0 may reach the
    clamp of the sum; sigma is then too large, by at most |I0| 2^n / 2^31. F has few digits: sigma errs by 4 to 9 %.
    """

    i0: int
    n: int
    bits: int

    name: ClassVar[str] = "shiftgelu_published"
    source: ClassVar[str] = "I-ViT (arXiv 2207.01405), section 3.4: ShiftGELU, as published"
    rowwise: ClassVar[bool] = True
    centred: ClassVar[bool] = True

    def verify(self) -> None:
        verify_published(self.name, self.i0, self.n)
        if not 2 <= self.bits <= 16:
            raise ValueError(f"{self.name}: bits must be in 2..16, found {self.bits}")

    @property
    def peak(self) -> int:
        """E of a row's maximum."""
        return -self.i0 << self.n

    @classmethod
    def build(cls, spec: FunctionSpec, **options: int) -> Built:
        """Options: n (23 in the published code), bits (8 there)."""
        require_options(options, "n", "bits")
        require_gelu("shiftgelu-published", spec)
        n, bits = options.get("n", 23), options.get("bits", 8)
        approximation = cls(published_i0(SLOPE * spec.input.scale), n, bits)
        scale = np.array(float(spec.input.scale) * 2.0 ** (1 - bits))
        return Built(approximation, (), (word(signed_bits(centred_codes(spec)) + bits - 1),), scale)

    def apply(self, x: Int64, tables: Sequence[Array], result: IntType) -> Array:
        top = x.max(-1, keepdims=True)
        e = published_exponential(x - top, self.i0, self.n)
        denominator = np.minimum(e + published_exponential(-top, self.i0, self.n), LARGEST)
        return fit(x * ((e * (LARGEST // denominator)) >> (32 - self.bits)), result)

    def intermediates(self, codes: Interval, tables: Sequence[Array], result: IntType) -> dict[str, Interval]:
        (lo, hi), peak = codes, self.peak
        ends = np.array([lo - hi, -hi, -lo])
        lowest, least, most = map(int, published_exponential(ends, self.i0, self.n))
        p, *p0 = (max(int(end), self.n * self.i0) for end in published_exponent(ends))
        denominator = min(lowest + least, LARGEST), min(peak + most, LARGEST)
        # E F <= (2^31 - 1) E / (E + E0), which grows with E and falls with E0; where the clamp binds F is 1
        product = max(LARGEST * peak // (peak + least), peak)
        sigma = product >> (32 - self.bits)
        return {
            "p": (p, 0),
            "p0": (p0[0], p0[1]),
            "e": (lowest, peak),
            "e0": (min(least, LARGEST), min(most, LARGEST)),
            "denominator": denominator,
            "reciprocal": (LARGEST // denominator[1], LARGEST // denominator[0]),
            "product": (0, product),
            "sigma": (0, sigma),
            "y": (min(lo, 0) * sigma, max(hi, 0) * sigma),
        }

    def check(self, codes: Interval, tables: Sequence[Array]) -> None:
        require(
            self.i0 <= -2,
            f"i0 = {self.i0} leaves no code between two powers of two: use inputs of a scale below 0.58, or shiftgelu",
        )
        require(
            2 * self.peak <= LARGEST,
            f"the denominator reaches 2 * {-self.i0} * 2^{self.n} = {2 * self.peak}, beyond 2^31 - 1: use inputs of a larger"
            f" scale, a smaller n, or shiftgelu",
        )
        reach = -int(published_exponent(np.array(min(-codes[1], 0))))
        require(
            reach <= -self.n * self.i0,
            f"a row maximum of {codes[1]} lies beyond n / 2.4466 = {self.n / 2.4466:.4g}: sigma collapses to 1/2 (the"
            f" exponent {reach} passes {-self.n * self.i0} = n |i0|); use a larger n, a narrower range, or shiftgelu",
        )


_GUARD = 3
_ONE = 15
"""Fraction bits of sigma: 2 octave 2^3 2^15 < 2^31, so the division is one of 32 bits."""


@dataclass(frozen=True)
class Shiftgelu(FunctionApproximation):
    """y = x sigma(x), sigma(x) = round(2^15 K / (K + E)) for x >= 0, sigma(-x) = 2^15 - sigma(x); of scale S / 2^15.

    E = shift_exponential(|x|) <= K = 2^3 2 octave: no exponent is positive, so no row's maximum is needed, and what is far
    from 0 goes to x or to 0. sigma errs by at most 0.0150 (the line's 6.15 %), and sigma(1.702 x) itself makes x sigma err
    by up to 0.0204 against GELU.
    """

    up: int
    octave: int

    name: ClassVar[str] = "shiftgelu"
    source: ClassVar[str] = "after I-ViT's ShiftGELU: exponents below 0 only, no row maximum, 15 bits of sigma"
    centred: ClassVar[bool] = True

    def verify(self) -> None:
        verify_octave(self.name, self.up, self.octave)

    @property
    def peak(self) -> int:
        """E of 0."""
        return 2 * self.octave << _GUARD

    @classmethod
    def build(cls, spec: FunctionSpec, **options: int) -> Built:
        require_options(options)
        require_gelu("shiftgelu", spec)
        bits = signed_bits(centred_codes(spec)) + _ONE
        require(
            bits <= 32, f"codes of at most 17 bits with their sign are expected, found {bits - _ONE}: requantize them"
        )
        up, octave = octave_of(SLOPE * spec.input.scale)
        return Built(cls(up, octave), (), (IntType(32),), np.array(float(spec.input.scale) * 2.0**-_ONE))

    def _sigma(self, magnitude: Int64) -> Int64:
        """sigma of |x|, 2^14 .. 2^15."""
        denominator = self.peak + shift_exponential(magnitude, self.up, self.octave, _GUARD)
        return ((self.peak << _ONE) + (denominator >> 1)) // denominator

    def _product(self, x: Int64) -> Int64:
        """x sigma(x)."""
        sigma = self._sigma(np.abs(x))
        return x * np.where(x < 0, (1 << _ONE) - sigma, sigma)

    def apply(self, x: Int64, tables: Sequence[Array], result: IntType) -> Array:
        return fit(self._product(x), result)

    def intermediates(self, codes: Interval, tables: Sequence[Array], result: IntType) -> dict[str, Interval]:
        (lo, hi), peak, half = codes, self.peak, 1 << (_ONE - 1)
        return {
            "line": (self.octave + 1, 2 * self.octave),
            "e": (0, peak),
            "denominator": (peak, 2 * peak),
            "dividend": ((peak << _ONE) + (peak >> 1), (peak << _ONE) + peak),
            "sigma": (0 if lo < 0 else half, 2 * half if hi > 0 else half),
            # sigma is at most 1/2 below 0
            "y": reached(self._product, codes, (min(lo, 0) * half, max(hi, 0) * 2 * half)),
        }

    def check(self, codes: Interval, tables: Sequence[Array]) -> None:
        check_octave(self.octave)
        most = max(-codes[0], codes[1])
        require(most < 1 << 16, f"the inputs reach {most}, beyond 16 bits: y needs more than 32 bits; requantize them")
