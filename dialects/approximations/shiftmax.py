"""`shiftmax`: I-ViT's softmax, whose exponential is a shift; and `shiftmax_published`, to the letter."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qvit.dialects.approximations.base import (
    Built,
    Interval,
    SoftmaxApproximation,
    SoftmaxSpec,
    from_maximum,
    require,
    require_options,
)
from qvit.dialects.approximations.normalised import (
    LARGEST,
    check_sum,
    normalise,
    normalised_intermediates,
    probabilities,
    verify_probabilities,
)
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


@dataclass(frozen=True)
class ShiftmaxPublished(SoftmaxApproximation):
    """y = (E F) >> (32 - bits), F = floor((2^31 - 1) / sum E), the sum clamped at 2^31 - 1; y stands for y / 2^(bits - 1).

    E = published_exponential(x - max). F has few digits where the sum is large: a flat row of 197 at S = 0.01 sums to 0.90.
    Scores at or below the clamp keep a weight of 2^-n. A row without entries is 0.
    """

    i0: int
    n: int
    bits: int

    name: ClassVar[str] = "shiftmax_published"
    source: ClassVar[str] = "I-ViT (arXiv 2207.01405), section 3.3: Shiftmax, as published"

    def verify(self) -> None:
        verify_published(self.name, self.i0, self.n)
        if not 2 <= self.bits <= 16:
            raise ValueError(f"{self.name}: bits must be in 2..16, found {self.bits}")

    @property
    def peak(self) -> int:
        """E of a row's maximum."""
        return -self.i0 << self.n

    @classmethod
    def build(cls, spec: SoftmaxSpec, **options: int) -> Built:
        """Options: n (15 in the published code), bits (16 there for ViT and DeiT, 8 for Swin)."""
        require_options(options, "n", "bits")
        n, bits = options.get("n", 15), options.get("bits", 16)
        approximation = cls(published_i0(spec.scores.scale), n, bits)
        return Built(approximation, (), (IntType(bits),), np.array(2.0 ** (1 - bits)))

    def apply(
        self, x: Int64, tables: Sequence[Array], mask: Array | None, results: Sequence[IntType]
    ) -> tuple[Array, ...]:
        d, keep = from_maximum(x, mask)
        e = np.where(keep, published_exponential(-d, self.i0, self.n), 0)
        # clamping each term first does not change the clamped sum; the peak is in it unless a row has no entry
        total = np.maximum(np.minimum(e, LARGEST).sum(-1, keepdims=True), min(self.peak, LARGEST))
        reciprocal = LARGEST // np.minimum(total, LARGEST)
        return (fit((e * reciprocal) >> (32 - self.bits), results[0]),)

    def intermediates(self, codes: Interval, length: int, tables: Sequence[Array]) -> dict[str, Interval]:
        lowest, peak = codes[0] - codes[1], self.peak
        p = max(int(published_exponent(np.array(lowest))), self.n * self.i0)
        total = min(peak, LARGEST), min(length * peak, LARGEST)
        # E F <= sum F <= 2^31 - 1 unless the clamp binds, and then F is 1
        product = LARGEST if length * peak <= LARGEST else max(peak, LARGEST)
        return {
            "p": (p, 0),
            "q": (0, p // self.i0),
            "line": (1 - self.i0, -2 * self.i0),
            "e": (0, peak),
            "total": (min(peak, LARGEST), length * min(peak, LARGEST)),
            "sum": total,
            "reciprocal": (LARGEST // total[1], LARGEST // total[0]),
            "product": (0, product),
            "y": (0, product >> (32 - self.bits)),
        }

    def check(self, codes: Interval, length: int, tables: Sequence[Array]) -> None:
        require(
            self.i0 <= -2,
            f"i0 = {self.i0} leaves no code between two powers of two: use scores of a scale below 1, or shiftmax",
        )
        require(
            length * self.peak <= LARGEST,
            f"the sum of {length} exponentials reaches {length} * {-self.i0} * 2^{self.n} = {length * self.peak}, beyond"
            f" 2^31 - 1: use scores of a larger scale, a smaller n, or shiftmax",
        )


@dataclass(frozen=True)
class Shiftmax(SoftmaxApproximation):
    """y = round(one E / sum E), at most top, as `normalise` divides; E = shift_exponential(max - x); y stands for y / one.

    In the spirit of I-ViT: an octave is a shift, between two there is a straight line. Its length in codes is kept to 12
    bits at any scale; what is far below the maximum is 0; n is the largest that lets a row's sum fit 31 bits. A probability
    p is off by at most 0.0152 (the line's 6.15 %) + N / peak + 1 / (2 one). It never orders two entries the wrong way.
    """

    up: int
    octave: int
    n: int
    one: int
    top: int

    name: ClassVar[str] = "shiftmax"
    source: ClassVar[str] = (
        "after I-ViT's Shiftmax: finer octaves, no floor of the exponentials, a normalised reciprocal"
    )

    def verify(self) -> None:
        verify_octave(self.name, self.up, self.octave)
        if not 0 <= self.n <= 29 or self.peak > LARGEST:
            raise ValueError(f"{self.name}: n must be in 0..29 and 2^n 2 octave below 2^31, found n = {self.n}")
        verify_probabilities(self.name, self.one, self.top)

    @property
    def peak(self) -> int:
        """E of a row's maximum."""
        return 2 * self.octave << self.n

    @classmethod
    def build(cls, spec: SoftmaxSpec, **options: int) -> Built:
        """Options: bits of the probabilities, see `probabilities`."""
        require_options(options, "bits")
        up, octave = octave_of(spec.scores.scale)
        room = LARGEST // (2 * octave * spec.length)
        require(room >= 1, f"rows of {spec.length} scores are too long: {LARGEST // (2 * octave)} are possible")
        one, top, type, scale = probabilities(spec, options)
        return Built(cls(up, octave, min(room.bit_length() - 1, 29), one, top), (), (type,), scale)

    def apply(
        self, x: Int64, tables: Sequence[Array], mask: Array | None, results: Sequence[IntType]
    ) -> tuple[Array, ...]:
        d, keep = from_maximum(x, mask)
        e = np.where(keep, shift_exponential(d, self.up, self.octave, self.n), 0)
        return (normalise(e, self.peak, self.one, self.top, results[0]),)

    def intermediates(self, codes: Interval, length: int, tables: Sequence[Array]) -> dict[str, Interval]:
        line = {"line": (self.octave + 1, 2 * self.octave)}
        return line | normalised_intermediates(self.peak, length, self.one, self.top)

    def check(self, codes: Interval, length: int, tables: Sequence[Array]) -> None:
        check_octave(self.octave)
        check_sum(self.peak, length)
