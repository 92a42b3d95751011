"""`sm8` and `sm8_late`: softmax through a table of exponentials of 8-bit differences.

The difference of a score from its row's maximum, 255 at most, is looked up in a table of 256 entries of 16 bits, each off by
at most half a unit. Scores of 8 bits never differ by more. Of wider scores, which are as fine as needed whatever the range
of a layer, all that is farther from the maximum counts as 255: nothing, if the scale is not too fine.
"""

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
    look_up,
    require,
    require_options,
)
from qvit.dialects.semantics.integers import Array, Int64, IntType, fit, widen

_ONE = 65535
"""The table's first entry, and its largest: e^0."""


def _table(spec: SoftmaxSpec) -> Array:
    """round(65535 e^(-S d)) for d = 0..255."""
    codes = spec.scores.type
    require(spec.scores.scale > 0, f"the scale of scores must be positive, found {float(spec.scores.scale):.4g}")
    require(codes.bits <= 16, f"scores of at most 16 bits are expected, found {codes}: requantize them, or use sw")
    return np.floor(_ONE * np.exp(-float(spec.scores.scale) * np.arange(256)) + 0.5).astype(np.int64)


def _exponentials(x: Int64, table: Array, mask: Array | None) -> tuple[Int64, Int64]:
    """(E, sum E): table[min(row maximum - x, 255)], 0 where the mask is 0. The sum of a row without any entry counts as
    65535."""
    d, keep = from_maximum(x, mask)
    e = np.where(keep, look_up(table, np.minimum(d, len(table) - 1)), 0)
    total = e.sum(-1, keepdims=True)
    return e, np.where(total == 0, _ONE, total)


@dataclass(frozen=True)
class _TableSoftmax(SoftmaxApproximation):
    """What both share: the table, and its conditions."""

    tables: ClassVar[tuple[str, ...]] = ("exponentials",)

    def check(self, codes: Interval, length: int, tables: Sequence[Array]) -> None:
        (table,) = tables
        spread = codes[1] - codes[0]
        require(len(table) == 256, f"the table has {len(table)} entries, expected one for each difference 0..255")
        require(
            spread < len(table) or length * int(table[-1]) * 100 <= _ONE,
            f"scores differ by up to {spread}, and {length} of them beyond 255 would count as {int(table[-1])} each, more than"
            " 1 % of the largest: use a larger scale of scores",
        )
        require(table[0] >= _ONE - 1, f"the table starts with {table[0]}, expected 65534 or 65535 for e^0")
        require((np.diff(widen(table)) <= 0).all(), "the table must not increase")
        require(table[-1] >= 0, "the table must not be negative")
        word = IntType(31 if self.late else 32, False)
        total = length * (255 if self.late else _ONE)
        require(total <= word.hi, f"the sum over {length} entries reaches {total}, beyond {word.bits} bits: use sw")


@dataclass(frozen=True)
class Sm8(_TableSoftmax):
    """y = round(top E / sum E), half up, E = table[max - x]: one reciprocal a row, of 15 to 16 bits.

    At most 1/2 + 255 (N - 1) / 131070 + 0.004 units from the real softmax of the scores (top = 255): less than one for
    N <= 255. It never orders two entries the wrong way, for the table does not increase.
    """

    top: int

    name: ClassVar[str] = "sm8"
    source: ClassVar[str] = "exact table, one reciprocal a row"

    def verify(self) -> None:
        if not 1 <= self.top <= 255:
            raise ValueError(f"sm8: top, the result for a probability of 1, must be in 1..255, found {self.top}")

    @classmethod
    def build(cls, spec: SoftmaxSpec, **options: int) -> Built:
        require_options(options)
        wanted = spec.output.type if spec.output is not None else IntType(8, False)
        result = wanted if wanted.bits <= 8 else IntType(8, False)
        return Built(cls(result.hi), ((_table(spec), IntType(16, False)),), (result,), np.array(1 / result.hi))

    def apply(
        self, x: Int64, tables: Sequence[Array], mask: Array | None, results: Sequence[IntType]
    ) -> tuple[Array, ...]:
        e, total = _exponentials(x, tables[0], mask)
        n = np.maximum(bit_length(total), 10)  # a table that `check` accepts makes it at least 16
        reciprocal = ((self.top << (n + 7)) + (total >> 1)) // total
        # by nested floors (e R >> 16) rounded at n - 9 bits is e R rounded at n + 7 bits
        return (fit(((((e * reciprocal) >> 16) >> (n - 10)) + 1) >> 1, results[0]),)

    def intermediates(self, codes: Interval, length: int, tables: Sequence[Array]) -> dict[str, Interval]:
        total = _ONE * length
        # total >= 2^(n - 1), so R <= floor(top 2^8 + 1/2); e R <= top 2^(n + 7) + total / 2, so y <= top
        reciprocal = self.top << 8
        return {
            "e": (0, _ONE),
            "sum": (_ONE - 1, total),
            "dividend": (0, (self.top << (total.bit_length() + 7)) + (total >> 1)),
            "reciprocal": (0, reciprocal),
            "product": (0, _ONE * reciprocal),
            "y": (0, self.top),
        }


@dataclass(frozen=True)
class Sm8Late(_TableSoftmax):
    """Weights relative to the row's maximum, y = round(E / 257), and the row's sum of y: the division comes later.

    E = table[max - x]. The probability is y / sum; `qvit.requantize` divides by the sum behind the product with the values.
    A probability scale common to all rows would lose the attention of diffuse rows, whose entries are below half a step;
    here every row uses all codes. The sum is that of the rounded weights: the probabilities of a row then sum to 1, where
    the sum of E would keep the share of entries that round to 0 from all others (on a real ViT-S this is the smaller error,
    0.07 against 0.085 of what 8-bit probabilities lose; a maximum over a long tail just below 1/510 is the worse case).
    """

    name: ClassVar[str] = "sm8_late"
    late: ClassVar[bool] = True
    source: ClassVar[str] = "exact table, division behind the product with the values"

    def verify(self) -> None:
        """It has no fields."""

    @classmethod
    def build(cls, spec: SoftmaxSpec, **options: int) -> Built:
        require_options(options)
        results = (IntType(8, False), IntType(32))
        return Built(cls(), ((_table(spec), IntType(16, False)),), results, np.array(1.0))

    def apply(
        self, x: Int64, tables: Sequence[Array], mask: Array | None, results: Sequence[IntType]
    ) -> tuple[Array, ...]:
        e, _ = _exponentials(x, tables[0], mask)
        y = (e - (e >> 8) + 128) >> 8
        total = y.sum(-1, keepdims=True)
        return fit(y, results[0]), fit(np.where(total == 0, 255, total), results[1])

    def intermediates(self, codes: Interval, length: int, tables: Sequence[Array]) -> dict[str, Interval]:
        return {"e": (0, _ONE), "y": (0, 255), "sum": (255, 255 * length)}
