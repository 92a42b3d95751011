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
    bit_length,
    from_maximum,
    require,
    require_options,
)
from qvit.dialects.approximations.shift_exponential import (
    LARGEST,
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
    """y = min(round(E R / 2^s), top), half up, R = round(one 2^s / sum E), s = 14 + bits of the sum: R has 15 bits or more.

    E = shift_exponential(max - x), and y stands for y / one.
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
        if not 1 <= self.top <= self.one <= 1 << 16:
            raise ValueError(f"{self.name}: 1 <= top <= one <= 2^16 is expected, found {self.top} and {self.one}")

    @property
    def peak(self) -> int:
        """E of a row's maximum."""
        return 2 * self.octave << self.n

    @classmethod
    def build(cls, spec: SoftmaxSpec, **options: int) -> Built:
        """Codes as wanted where 1 stands for a whole number of them; else of `bits` bits: 8 or 16 unsigned, or 15."""
        require_options(options, "bits")
        up, octave = octave_of(spec.scores.scale)
        room = LARGEST // (2 * octave * spec.length)
        require(room >= 1, f"rows of {spec.length} scores are too long: {LARGEST // (2 * octave)} are possible")
        n = min(room.bit_length() - 1, 29)
        if (output := spec.output) is not None and output.zero_point == 0 and "bits" not in options:
            one = round(1 / output.scale)
            # a scale such as float32(1/255) is meant to be 1/255
            if 1 <= one <= 1 << 16 and abs(one * output.scale - 1) <= 2.0**-20:
                approximation = cls(up, octave, n, one, min(one, output.type.hi))
                return Built(approximation, (), (output.type,), np.array(float(output.scale)))
        bits = options.get("bits", 8 if output is None or output.type.bits <= 8 else 16)
        types = {8: IntType(8, False), 15: IntType(16), 16: IntType(16, False)}
        require(bits in types, f"bits must be 8, 15 or 16, found {bits}")
        one = types[bits].hi
        return Built(cls(up, octave, n, one, one), (), (types[bits],), np.array(1 / one))

    def apply(
        self, x: Int64, tables: Sequence[Array], mask: Array | None, results: Sequence[IntType]
    ) -> tuple[Array, ...]:
        d, keep = from_maximum(x, mask)
        e = np.where(keep, shift_exponential(d, self.up, self.octave, self.n), 0)
        # the peak is in the sum unless a row has no entry
        total = fit(np.maximum(e.sum(-1, keepdims=True), self.peak), IntType(32)).astype(np.int64)
        shift = bit_length(total) + 14
        reciprocal = ((self.one << shift) + (total >> 1)) // total
        y = (e * reciprocal + (1 << (shift - 1))) >> shift
        return (fit(np.minimum(y, self.top), results[0]),)

    def intermediates(self, codes: Interval, length: int, tables: Sequence[Array]) -> dict[str, Interval]:
        total = length * self.peak
        shift = total.bit_length() + 14
        dividend = (self.one << shift) + (total >> 1)
        return {
            "line": (self.octave + 1, 2 * self.octave),
            "e": (0, self.peak),
            "sum": (self.peak, total),
            "dividend": (self.one << (self.peak.bit_length() + 14), dividend),
            # 2^(bits - 1) <= sum < 2^bits
            "reciprocal": (self.one << 14, self.one << 15),
            # E <= sum, and the reciprocal is rounded by at most 1/2
            "product": (0, dividend),
            "rounded": (0, dividend + (1 << (shift - 1))),
            "y": (0, self.top),
        }

    def check(self, codes: Interval, length: int, tables: Sequence[Array]) -> None:
        check_octave(self.octave)
        require(
            length * self.peak <= LARGEST,
            f"the sum of {length} exponentials reaches {length * self.peak}, beyond 2^31 - 1: n = {self.n} is for shorter rows",
        )
