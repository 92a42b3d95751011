"""IPTQ-ViT's functions: `poly_gelu`, and `bit_softmax` with its literal form `bit_softmax_published`."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log, sqrt
from typing import ClassVar

import numpy as np

from qvit.dialects.approximations.base import (
    Built,
    FunctionApproximation,
    FunctionSpec,
    Interval,
    SoftmaxApproximation,
    SoftmaxSpec,
    bit_length,
    from_maximum,
    require,
    require_options,
)
from qvit.dialects.semantics.elementwise import erf
from qvit.dialects.semantics.integers import Array, Int64, IntType, fit

_A, _B = -0.019913, -2.698088
"""erf(u) = sgn(u) (a (min(|u|, -b) + b)^4 + 1), over the whole line."""

_FINE = 1024
"""So many steps has what the sound forms divide (an octave, the polynomial's domain): fewer would show."""

_WORD = 31


def _refinement(steps: float) -> int:
    """The least up for which steps * 2^up is at least _FINE; RangeError where that takes more than 24 bits."""
    up = 0
    while steps * (1 << up) < _FINE:
        up += 1
        require(up <= 24, "the operand's scale is too coarse, its codes are hardly numbers: use a smaller scale")
    return up


def fit_polynomial(reach: float) -> tuple[float, float]:
    """(a, b) with the least mean squared error of GELU on [-reach, reach]: b by a grid, a by least squares."""
    x = np.linspace(0, min(reach, 8.0), 1025)  # beyond, both functions are x or 0
    u = x / sqrt(2)
    real = erf(u)

    def best(bs: Array) -> tuple[float, float]:
        powers = (np.minimum(u, -bs[:, None]) + bs[:, None]) ** 4 * x
        # (a power + x (1 - erf))^2 is least at a = sum(power x (erf - 1)) / sum(power^2)
        a = (powers * (x * (real - 1))).sum(-1) / np.maximum(np.square(powers).sum(-1), 1e-300)
        errors = np.square(a[:, None] * powers + x * (1 - real)).sum(-1)
        least = int(np.argmin(errors))
        return float(a[least]), float(bs[least])

    _, b = best(np.linspace(-4.0, -1.0, 301))
    return best(np.linspace(b - 0.01, b + 0.01, 201))


@dataclass(frozen=True)
class PolyGelu(FunctionApproximation):
    """y = x ((sgn(x) (w + c) + c) >> drop), w = (v^2 >> shift)^2, v = min(|x| << up, -b) + b; the scale of y is negative.

    GELU(x) = x / 2 (1 + L(x / sqrt 2)), L(u) = sgn(u) (A (min(|u|, -B) + B)^4 + 1), A = -0.019913, B = -2.698088 as
    published or, with the option refit = 1, fitted to the range that the codes stand for. b and c are B and 1 / A in units
    of the refined scale S / 2^up, which has at least 1024 steps to b; shift and drop keep every product in 32 bits. L
    jumps by 0.055 at both sides of 0, where x is 0. The polynomial errs by up to 0.0093 (root mean square 0.0044 on
    [-4, 4]), the integers by little more.
    """

    up: int
    b: int
    c: int
    shift: int
    drop: int

    name: ClassVar[str] = "poly_gelu"
    source: ClassVar[str] = "IPTQ-ViT (arXiv 2511.15369), data-aware Poly-GELU"
    centred: ClassVar[bool] = True

    def verify(self) -> None:
        if not (-(1 << 31) < self.b < 0 and -(1 << 31) < self.c < 0):
            raise ValueError(f"poly_gelu: b and c must be in -2^31 + 1..-1, found {self.b} and {self.c}")
        if not (0 <= self.up <= 24 and 0 <= self.shift <= 62 and 0 <= self.drop <= 31):
            found = f"{self.up}, {self.shift}, {self.drop}"
            raise ValueError(f"poly_gelu: expected up in 0..24, shift in 0..62, drop in 0..31, found {found}")

    @classmethod
    def build(cls, spec: FunctionSpec, **options: int) -> Built:
        require_options(options, "refit")
        require_gelu(cls.name, spec.function)
        codes, zero_point, s = spec.input.type, spec.input.zero_point, float(spec.input.scale)
        most = max(codes.hi - zero_point, zero_point - codes.lo)
        a, b = fit_polynomial(most * s) if options.get("refit") else (_A, _B)
        up = _refinement(-b * sqrt(2) / s)
        unit = s / 2**up / sqrt(2)
        require(-b / unit < 1 << 31, f"scale {s:.4g} is too fine for 32 bits: use a larger one")
        # 1 / (a unit^4 4^shift) below 2^30, so that w + 2 c is a word
        shift = next(k for k in range(63) if -a * unit**4 * 4.0**k > 2.0**-30)
        c = round(1 / (a * unit**4 * 4.0**shift))
        drop = max(0, (most * -2 * c).bit_length() - _WORD)
        built = cls(up, round(b / unit), c, shift, drop)
        return Built(built, (), (IntType(32),), np.array(s / (2 * c) * 2**drop))

    def apply(self, x: Int64, tables: Sequence[Array], result: IntType) -> Array:
        v = np.minimum(np.abs(x) << self.up, -self.b) + self.b
        root = (v * v) >> self.shift
        return fit(x * ((np.sign(x) * (root * root + self.c) + self.c) >> self.drop), result)

    def intermediates(self, codes: Interval, tables: Sequence[Array], result: IntType) -> dict[str, Interval]:
        most = max(-codes[0], codes[1])
        root = (self.b * self.b) >> self.shift
        w = root * root
        # at x > 0 it is w + 2 c, at x < 0 it is -w, at 0 it is c
        total = (min(2 * self.c, -w), max(w + 2 * self.c, 0))
        factor = (total[0] >> self.drop, total[1] >> self.drop)
        return {
            "refined": (0, most << self.up),
            "v": (self.b, min((most << self.up) + self.b, 0)),
            "v^2": (0, self.b * self.b),
            "w": (0, w),
            "sum": total,
            "factor": factor,
            "y": (max(codes[1], 0) * (2 * self.c >> self.drop), min(codes[0], 0) * (-w >> self.drop)),
        }

    def check(self, codes: Interval, tables: Sequence[Array]) -> None:
        found = self.intermediates(codes, tables, IntType(32))
        w = found["w"][1]
        # as published it is 1.055 there, fitted to any range at most 1.12
        require(
            w <= -self.c * 9 // 8,
            f"the polynomial is {w / -self.c:.3f} at 0, it should be 1: b and c do not belong together",
        )
        for name, bits in (("refined", 62), ("v^2", 62), ("sum", 32), ("y", 32)):
            require_word(name, found[name], bits, "build it for these codes")


def require_gelu(name: str, function: str) -> None:
    """RangeError unless it is GELU, or its tanh form, which differs by less than 0.0005."""
    require(function in ("gelu", "gelu_tanh"), f"{name} approximates GELU, not {function}: use table, lin or quad")


def require_word(name: str, interval: Interval, bits: int, advice: str) -> None:
    """RangeError unless an intermediate fits a two's complement word."""
    lo, hi = interval
    fits = IntType(bits).lo <= lo and hi <= IntType(bits).hi
    require(fits, f"{name} reaches {max(-lo, hi)}, beyond {bits} bits: {advice}")


def slope(f: Int64) -> Int64:
    """(f >> 1) + (f >> 3) + (f >> 4): 0.1011 in binary, 0.6875 for ln 2, each term rounded down."""
    return (f >> 1) + (f >> 3) + (f >> 4)


def _octaves(difference: Int64, i0: int, last: int) -> tuple[Int64, Int64]:
    """(q, r) with 1.4375 * difference = q i0 + r, i0 < r <= 0, at most `last` octaves down."""
    p = np.maximum(difference + (difference >> 1) - (difference >> 4), last * i0)
    q = p // i0
    return q, p - i0 * q


@dataclass(frozen=True)
class BitSoftmaxPublished(SoftmaxApproximation):
    """y = (E F) >> (m - bits + 1), F = floor(2^m / sum E), E = max(0, -i0 + Phi(r)) << (n - q), Phi(r) = r>>1 + r>>3 + r>>4.

    1.4375 (x - max x), not below n i0, is q i0 + r. As published, with m = 28: 2^f is 1 + 0.6875 f on (-1, 0], which ends
    at 0.3125 where the next octave begins with 0.5. So it is off by up to 0.1875, and of two entries the lower one may
    get the larger result. n is I-ViT's 15; the paper's is not known.
    """

    i0: int
    n: int
    m: int
    bits: int

    name: ClassVar[str] = "bit_softmax_published"
    source: ClassVar[str] = "IPTQ-ViT (arXiv 2511.15369), bit-softmax"

    def verify(self) -> None:
        if not -(1 << 24) < self.i0 < 0:
            raise ValueError(f"bit_softmax_published: i0 must be in -2^24 + 1..-1, found {self.i0}")
        if not (1 <= self.n <= 24 and 1 <= self.m <= 31 and 2 <= self.bits <= min(16, self.m)):
            found = f"{self.n}, {self.m}, {self.bits}"
            raise ValueError(
                f"bit_softmax_published: expected n in 1..24, m in 1..31, bits in 2..min(16, m), found {found}"
            )

    @classmethod
    def build(cls, spec: SoftmaxSpec, **options: int) -> Built:
        require_options(options, "n", "m", "bits")
        i0 = floor(-1 / spec.scores.scale)
        require(i0 > -(1 << 24), f"scores of scale {float(spec.scores.scale):.4g} are too fine: use a larger scale")
        n, m, bits = options.get("n", 15), options.get("m", 28), options.get("bits", 16)
        return Built(cls(i0, n, m, bits), (), (IntType(bits, False),), np.array(2.0 ** (1 - bits)))

    def apply(
        self, x: Int64, tables: Sequence[Array], mask: Array | None, results: Sequence[IntType]
    ) -> tuple[Array, ...]:
        d, keep = from_maximum(x, mask)
        q, r = _octaves(-d, self.i0, self.n)
        e = np.where(keep, np.maximum(slope(r) - self.i0, 0) << (self.n - q), 0)
        factor = (1 << self.m) // np.maximum(e.sum(-1, keepdims=True), 1)
        return (fit((e * factor) >> (self.m - self.bits + 1), results[0]),)

    def intermediates(self, codes: Interval, length: int, tables: Sequence[Array]) -> dict[str, Interval]:
        most = -self.i0 << self.n
        difference = codes[0] - codes[1]
        return {
            "p": (difference + (difference >> 1) - (difference >> 4), 0),
            "r": (self.i0 + 1, 0),
            "e": (0, most),
            "sum": (most, length * most),
            "reciprocal": ((1 << self.m) // (length * most), (1 << self.m) // most),
            "product": (0, 1 << self.m),
            "y": (0, 1 << (self.bits - 1)),
        }

    def check(self, codes: Interval, length: int, tables: Sequence[Array]) -> None:
        require(
            self.i0 <= -16,
            f"i0 = {self.i0}: three floors are up to {3 / -self.i0:.2f} of an exponential: use bit-softmax, or scores of a"
            " scale of at most 1/16",
        )
        total = (length * -self.i0) << self.n
        require(
            total <= 1 << self.m,
            f"the sum reaches N |i0| 2^n = {length} * {-self.i0} * 2^{self.n} = {total}, beyond 2^{self.m}, where the"
            " reciprocal is 0, and the whole row: use bit-softmax, a smaller n or a larger scale",
        )


@dataclass(frozen=True)
class BitSoftmax(SoftmaxApproximation):
    """y = min(round(one E / sum E), top), half up; E = (t 2^n) >> q, t = max(2 (Phi(r) - i0), Phi(r - i0) - i0), Phi as published.

    1.4375 (x - max x) 2^up = q i0 + r; y stands for y / one. Sound: 2^f on (-1, 0] is the larger of its tangents at both
    ends, 1 + 0.6875 f and (1 + 0.6875 (f + 1)) / 2, in shifts and additions. They meet the neighbouring octaves, so a
    larger score never gets a smaller result, and are at most 6 % below 2^f. An octave has at least 1024 steps, the sum fits
    31 bits, an E below 1 is 0, and one reciprocal a row makes rows sum to 1 up to the rounding of their entries.
    """

    up: int
    i0: int
    n: int
    one: int
    top: int

    name: ClassVar[str] = "bit_softmax"
    source: ClassVar[str] = "bit-softmax (IPTQ-ViT), continuous, with a reciprocal as in sm8"

    def verify(self) -> None:
        if not (-(1 << 31) < self.i0 < 0 and 0 <= self.up <= 24):
            raise ValueError(f"bit_softmax: expected -2^31 < i0 < 0 and up in 0..24, found {self.i0}, {self.up}")
        if not 1 <= (-2 * self.i0).bit_length() + self.n <= _WORD:
            raise ValueError(f"bit_softmax: 2 |i0| 2^n must have 1 to 31 bits, found {-2 * self.i0} * 2^{self.n}")
        if not 1 <= self.top <= self.one <= 1 << 16:
            raise ValueError(f"bit_softmax: 1 <= top <= one <= 2^16 is expected, found {self.top} and {self.one}")

    @classmethod
    def build(cls, spec: SoftmaxSpec, **options: int) -> Built:
        """Codes as wanted where 1 stands for a whole number of them; else of `bits` bits: 8 or 16 unsigned, or 15."""
        require_options(options, "bits")
        octave = 1.4375 * log(2) / float(spec.scores.scale)
        up = _refinement(octave)
        i0 = -round(octave * 2**up)
        require(i0 > -(1 << 30), f"scores of scale {float(spec.scores.scale):.4g} are too fine: use a larger scale")
        require(spec.length < 1 << 15, f"rows of {spec.length} entries are too long for a sum of 31 bits")
        n = _WORD - (spec.length * -2 * i0).bit_length()
        if (output := spec.output) is not None and output.zero_point == 0 and "bits" not in options:
            one = round(1 / output.scale)
            # a scale such as float32(1/255) is meant to be 1/255
            if 1 <= one <= 1 << 16 and abs(one * output.scale - 1) <= 2.0**-20:
                top = min(one, output.type.hi)
                return Built(cls(up, i0, n, one, top), (), (output.type,), np.array(float(output.scale)))
        bits = options.get("bits", 8 if output is None or output.type.bits <= 8 else 16)
        types = {8: IntType(8, False), 15: IntType(16), 16: IntType(16, False)}
        require(bits in types, f"bits must be 8, 15 or 16, found {bits}")
        one = types[bits].hi
        return Built(cls(up, i0, n, one, one), (), (types[bits],), np.array(1 / one))

    @property
    def octaves(self) -> int:
        """From there on E is 0."""
        return self.n + (-2 * self.i0).bit_length()

    @property
    def most(self) -> int:
        """The largest E."""
        return (-2 * self.i0 << max(self.n, 0)) >> max(-self.n, 0)

    def apply(
        self, x: Int64, tables: Sequence[Array], mask: Array | None, results: Sequence[IntType]
    ) -> tuple[Array, ...]:
        d, keep = from_maximum(x, mask)
        q, r = _octaves(-d << self.up, self.i0, self.octaves)
        t = np.maximum(2 * (slope(r) - self.i0), slope(r - self.i0) - self.i0)
        shift = self.n - q
        e = np.where(keep, (t << np.maximum(shift, 0)) >> np.maximum(-shift, 0), 0)
        total = np.maximum(e.sum(-1, keepdims=True), 1)
        k = bit_length(total) + 7
        reciprocal = ((self.one << k) + (total >> 1)) // total
        return (fit(np.minimum((e * reciprocal + (1 << (k - 1))) >> k, self.top), results[0]),)

    def intermediates(self, codes: Interval, length: int, tables: Sequence[Array]) -> dict[str, Interval]:
        difference = (codes[0] - codes[1]) << self.up
        total = length * self.most
        # the reciprocal is one 2^k / sum, rounded, and 2^k <= 2^8 sum; e <= sum
        reciprocal = (self.one << 8) + 1
        return {
            "p": (difference + (difference >> 1) - (difference >> 4), 0),
            "r": (self.i0 + 1, 0),
            "t": (-self.i0, -2 * self.i0),
            "e": (0, self.most),
            "sum": (self.most, total),
            "dividend": (0, (self.one << (total.bit_length() + 7)) + total),
            "reciprocal": (0, reciprocal),
            "product": (0, self.most * reciprocal + (1 << (total.bit_length() + 6))),
            "y": (0, self.top),
        }

    def check(self, codes: Interval, length: int, tables: Sequence[Array]) -> None:
        found = self.intermediates(codes, length, tables)
        require(
            length * self.most < 1 << _WORD,
            f"the sum of {length} entries reaches {length * self.most}, beyond 31 bits: build it for rows of this length",
        )
        for name in ("p", "dividend", "product"):
            require_word(name, found[name], 63, "use narrower codes")
