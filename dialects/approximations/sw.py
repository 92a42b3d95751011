"""`sw` and `sw_late`: softmax of scores of up to 32 bits, of any spread, through a piecewise linear power of two."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import e, floor, log2
from typing import ClassVar

import numpy as np

from qvit.dialects.approximations.base import (
    Built,
    Interval,
    SoftmaxApproximation,
    SoftmaxSpec,
    bit_length,
    from_maximum,
    look_up,
    require,
    require_options,
)
from qvit.dialects.semantics.integers import Array, Int64, IntType, fit, widen

_FRACTION = 16
"""Fraction bits of the binary logarithm t."""


@dataclass(frozen=True)
class _WideSoftmax(SoftmaxApproximation):
    """The exponential that both share: of d = row maximum - x, with `bits` fraction bits.

    t = min(d, last) rate >> bits of last    -log2(e^(-S d)), 16 fraction bits
    j, q = the upper `index` bits of t's fraction, the lower 16 - index ones
    E = ((nodes[j] - (slopes[j] q >> 16 - index - drop)) >> (t >> 16)) + 1 >> 1

    It does not increase in d, E(0) = 2^bits, and E = 0 from d = last on. It is too large by a factor of at most 1 + 2.4e-4
    (index = 4), 6.0e-5 (5), 1.5e-5 (6); what is common to a row cancels.
    """

    bits: int
    index: int
    rate: int
    last: int
    drop: int

    tables: ClassVar[tuple[str, ...]] = ("nodes", "slopes")
    LEAST_BITS: ClassVar[int]
    SUM_BITS: ClassVar[int]

    def verify(self) -> None:
        limits = {
            "bits": (self.LEAST_BITS, 24),
            "index": (4, 6),
            "rate": (0, (1 << 32) - 1),
            "last": (1, (1 << 32) - 1),
            "drop": (0, _FRACTION - self.index),
        }
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"{self.name}: {name} must be in {least}..{most}, found {value}")
        octaves = self.logarithm(self.last) >> _FRACTION
        if octaves > 31:
            raise ValueError(
                f"{self.name}: at last = {self.last} the exponential shifts by {octaves}, at most 31 can be"
            )

    def logarithm(self, d: int) -> int:
        """t at a difference d of at most `last`."""
        return d * self.rate >> self.last.bit_length()

    @classmethod
    def exponential(cls, spec: SoftmaxSpec, index: int) -> tuple[dict[str, int], tuple[tuple[Array, IntType], ...]]:
        """(fields, tables) of the exponential for such scores."""
        codes, scale, length = spec.scores.type, float(spec.scores.scale), spec.length
        require(codes.bits <= 32, f"scores of at most 32 bits are expected, found {codes}: requantize them")
        require(scale > 0, f"the scale of scores must be positive, found {scale:.4g}")
        require(4 <= index <= 6, f"index must be in 4..6, found {index}")
        longest = ((1 << cls.SUM_BITS) - 1) >> cls.LEAST_BITS
        require(1 <= length <= longest, f"rows of 1..{longest} scores are possible, found {length}")
        bits = min(24, (((1 << cls.SUM_BITS) - 1) // length).bit_length() - 1)
        octaves = scale * log2(e)
        last = min(floor((bits + 1.02) / octaves) + 1, (1 << 32) - 1)
        shift = last.bit_length()
        rate = round(octaves * 2.0 ** (_FRACTION + shift))
        require(
            last * rate >> (shift + _FRACTION) <= 31,
            f"scores of scale {scale:.4g} are too coarse: from one code to the next the exponential falls beyond 31 bits",
        )
        nodes = [round(2.0 ** (bits + 1 - j / (1 << index))) for j in range((1 << index) + 1)]
        falls = [nodes[j] - nodes[j + 1] for j in range(1 << index)]
        drop = max(0, falls[0].bit_length() - 15)
        slopes = [fall >> drop for fall in falls]
        fields = {"bits": bits, "index": index, "rate": rate, "last": last, "drop": drop}
        return fields, ((np.array(nodes[:-1]), IntType(32)), (np.array(slopes), IntType(16)))

    def exponentials(self, x: Int64, tables: Sequence[Array], mask: Array | None) -> tuple[Int64, Int64]:
        """(E, sum E); 0 where the mask is 0. The sum of a row without any entry counts as 2^bits."""
        d, keep = from_maximum(x, mask)
        nodes, slopes = tables
        t = (np.minimum(d, self.last) * self.rate) >> self.last.bit_length()
        rest = _FRACTION - self.index
        j, q = (t >> rest) & ((1 << self.index) - 1), t & ((1 << rest) - 1)
        mantissa = look_up(nodes, j) - ((look_up(slopes, j) * q) >> (rest - self.drop))
        exponential = np.where(keep, ((mantissa >> (t >> _FRACTION)) + 1) >> 1, 0)
        total = exponential.sum(-1, keepdims=True)
        return exponential, np.where(total == 0, 1 << self.bits, total)

    def exponential_intermediates(self, codes: Interval, length: int, tables: Sequence[Array]) -> dict[str, Interval]:
        difference = codes[1] - codes[0]
        furthest = min(difference, self.last)
        q = (1 << (_FRACTION - self.index)) - 1
        return {
            "difference": (0, difference),
            "d rate": (0, furthest * self.rate),
            "t": (0, self.logarithm(furthest)),
            "slope q": (0, int(tables[1].max()) * q),
            "mantissa": (1 << self.bits, 1 << (self.bits + 1)),
            "e": (0, 1 << self.bits),
            "sum": (1 << self.bits, length << self.bits),
        }

    def check(self, codes: Interval, length: int, tables: Sequence[Array]) -> None:
        nodes, slopes = map(widen, tables)
        count = 1 << self.index
        for name, table in (("nodes", nodes), ("slopes", slopes)):
            require(len(table) == count, f"{name}: expected {count}, found {len(table)}")
        require(nodes[0] == 2 << self.bits, f"nodes start with {nodes[0]}, expected {2 << self.bits}, twice e^0")
        require((slopes >= 0).all() and (slopes < 1 << 15).all(), "slopes must be in 0..32767")
        rest = _FRACTION - self.index
        ends = nodes - ((slopes * ((1 << rest) - 1)) >> (rest - self.drop))
        require((ends >= np.append(nodes[1:], 1 << self.bits)).all(), "the exponential must not increase")
        furthest = codes[1] - codes[0]
        require(furthest < 1 << 32, f"scores differ by up to {furthest}, beyond 32 bits: requantize them")
        zero_from = (self.bits + 1) << _FRACTION
        require(
            furthest <= self.last or self.logarithm(self.last) > zero_from,
            f"the exponential is held from a difference of {self.last} on, where it is not 0; scores differ by {furthest}",
        )
        total, most = length << self.bits, (1 << self.SUM_BITS) - 1
        require(
            total <= most, f"the sum of {length} exponentials reaches {total}, beyond {most}: build it for such rows"
        )


@dataclass(frozen=True)
class Sw(_WideSoftmax):
    """y = (E R + 2^(n + 13)) >> n + 14, R = (top 2^(n + 14) + Z / 2) // Z, Z = sum E, n the bits of Z: half up, once.

    At most 1/2 + top (p (1 - p) (e + 3e-5) + N / 2^(bits + 1)) + 0.01 units from the real softmax of the scores, e the
    error of the exponential above. It never orders two entries the wrong way.
    """

    top: int

    name: ClassVar[str] = "sw"
    source: ClassVar[str] = "piecewise linear power of two, one reciprocal a row"
    LEAST_BITS: ClassVar[int] = 19
    SUM_BITS: ClassVar[int] = 32

    def verify(self) -> None:
        super().verify()
        if not 1 <= self.top <= 65535:
            raise ValueError(f"sw: top, the result for a probability of 1, must be in 1..65535, found {self.top}")

    @classmethod
    def build(cls, spec: SoftmaxSpec, **options: int) -> Built:
        """Option `index`: 2^index pieces, 4..6; 4 for results of 8 bits, else 6. Results have at most 16 bits."""
        require_options(options, "index")
        wanted = spec.output.type if spec.output is not None else IntType(8, False)
        result = wanted if wanted.bits <= 16 else IntType(16, False)
        fields, tables = cls.exponential(spec, options.get("index", 4 if result.bits <= 8 else 6))
        return Built(cls(**fields, top=result.hi), tables, (result,), np.array(1 / result.hi))

    def apply(
        self, x: Int64, tables: Sequence[Array], mask: Array | None, results: Sequence[IntType]
    ) -> tuple[Array, ...]:
        exponential, total = self.exponentials(x, tables, mask)
        n = bit_length(total)
        reciprocal = ((self.top << (n + 14)) + (total >> 1)) // total
        return (fit((exponential * reciprocal + (1 << (n + 13))) >> (n + 14), results[0]),)

    def intermediates(self, codes: Interval, length: int, tables: Sequence[Array]) -> dict[str, Interval]:
        found = self.exponential_intermediates(codes, length, tables)
        total = found["sum"][1]
        n = total.bit_length()
        # total >= 2^(n - 1), so R <= floor(top 2^15 + 1/2); E R <= top 2^(n + 14) + total / 2, so y <= top
        reciprocal = self.top << 15
        product = min(reciprocal << self.bits, (self.top << (n + 14)) + (total >> 1))
        return found | {
            "dividend": (0, (self.top << (n + 14)) + (total >> 1)),
            "reciprocal": (0, reciprocal),
            "product": (0, product),
            "rounded": (0, product + (1 << (n + 13))),
            "y": (0, self.top),
        }


@dataclass(frozen=True)
class SwLate(_WideSoftmax):
    """Weights relative to the row's maximum, y = (255 E + 2^(bits - 1)) >> bits, and the row's sum of E.

    The probability is 2^bits / 255 y / sum, up to the rounding of y; the division comes behind the product with the values,
    as for `sm8_late`. But here the sum is that before the rounding: a long tail of entries below half a weight, each 0, still
    takes its share from the others. The maximum of a row is always 255. `bits` is what lets the sum fit 31 bits: 23 for rows
    of 197.
    """

    name: ClassVar[str] = "sw_late"
    source: ClassVar[str] = "piecewise linear power of two, division behind the product with the values"
    late: ClassVar[bool] = True
    LEAST_BITS: ClassVar[int] = 16
    SUM_BITS: ClassVar[int] = 31

    @classmethod
    def build(cls, spec: SoftmaxSpec, **options: int) -> Built:
        """Option `index`: 2^index pieces, 4..6; 4 unless given."""
        require_options(options, "index")
        fields, tables = cls.exponential(spec, options.get("index", 4))
        results = (IntType(8, False), IntType(32))
        return Built(cls(**fields), tables, results, np.array(2.0 ** fields["bits"] / 255))

    def apply(
        self, x: Int64, tables: Sequence[Array], mask: Array | None, results: Sequence[IntType]
    ) -> tuple[Array, ...]:
        exponential, total = self.exponentials(x, tables, mask)
        weights = (255 * exponential + (1 << (self.bits - 1))) >> self.bits
        return fit(weights, results[0]), fit(total, results[1])

    def intermediates(self, codes: Interval, length: int, tables: Sequence[Array]) -> dict[str, Interval]:
        found = self.exponential_intermediates(codes, length, tables)
        return found | {"255 e": (0, (255 << self.bits) + (1 << (self.bits - 1))), "y": (0, 255)}
