"""Intervals of tensors, exact however large their ends, and what an analysis notes down about them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
from xdsl.ir import Operation, SSAValue

from qvit.dialects.approximations.base import Interval
from qvit.dialects.provenance import Remark, describe
from qvit.dialects.semantics.integers import Array, IntType, magnitude, minus, multiply, plus, widen
from qvit.dialects.types import integer_of
from qvit.dialects.weights import Weights

WORD = IntType(64)
"""What holds the products of a requantize and the intermediates of an approximation."""

_MOST = 1 << 13
"""How many intervals a tensor may have that vary along several axes; beyond, leading axes are summed up."""


@dataclass(frozen=True, eq=False)
class Range:
    """lo <= x <= hi for every element x; the ends are integers, in arrays of one shape that broadcasts to the tensor's.

    An axis of length 1, or a leading one that is missing, has one interval for all of its indices. Numbers that are known
    have one array for both ends.
    """

    lo: Array
    hi: Array

    @staticmethod
    def of(lo: Any, hi: Any) -> "Range":
        """From what NumPy makes of arrays without dimensions, too: numbers of its own, or Python's."""
        return Range(np.asarray(lo), np.asarray(hi))

    @staticmethod
    def of_type(type: IntType) -> "Range":
        return Range.of(type.lo, type.hi)

    @staticmethod
    def exactly(values: Array) -> "Range":
        """The numbers themselves; 0 for an empty tensor, which has no element to speak of."""
        wide = widen(values) if values.size else np.array(0)
        return Range(wide, wide)

    @staticmethod
    def around(*ends: Array) -> "Range":
        """The smallest intervals around the numbers of all arrays, which are broadcast."""
        return Range.of(reduce(np.minimum, ends), reduce(np.maximum, ends))

    @property
    def is_exact(self) -> bool:
        return self.lo is self.hi

    @property
    def ends(self) -> Interval:
        """The interval of the whole tensor."""
        return int(self.lo.min()), int(self.hi.max())

    def fits(self, type: IntType) -> bool:
        lo, hi = self.ends
        return type.lo <= lo and hi <= type.hi

    def each(self, change: Callable[[Array], Array]) -> "Range":
        """Both ends, changed alike by what never decreases, or moves elements."""
        lo = np.asarray(change(self.lo))
        return Range.of(lo, lo if self.is_exact else change(self.hi))

    def moved(self, shape: Sequence[int], move: Callable[[Array], Array]) -> "Range":
        """The intervals after `move`, which moves the elements of a tensor of this shape."""
        return self.each(lambda end: move(np.broadcast_to(end, tuple(shape))))

    def within(self, type: IntType) -> "Range":
        """What is left of it in a type: what is beyond either saturates or ends the run."""
        return self.each(lambda end: np.asarray(np.clip(end, type.lo, type.hi)).astype(np.int64))

    def common(self, other: "Range") -> "Range":
        """What is in both, for both are proven."""
        return Range.of(np.maximum(self.lo, other.lo), np.minimum(self.hi, other.hi))

    def with_zero(self) -> "Range":
        return Range.of(np.minimum(self.lo, 0), np.maximum(self.hi, 0))

    def plus(self, other: "Range") -> "Range":
        return Range.of(plus(self.lo, other.lo), plus(self.hi, other.hi))

    def minus(self, other: "Range") -> "Range":
        lo = np.asarray(minus(self.lo, other.hi))
        return Range.of(lo, lo if self.is_exact and other.is_exact else minus(self.hi, other.lo))

    def times(self, other: "Range") -> "Range":
        mine, others = ([r.lo] if r.is_exact else [r.lo, r.hi] for r in (self, other))
        return Range.around(*(multiply(x, y) for x in mine for y in others))

    def only_along(self, axes: Sequence[int], rank: int) -> "Range":
        """One interval for all indices of the other axes, in arrays of `rank` dimensions."""
        others = tuple(axis for axis in range(rank) if axis not in axes)
        lo, hi = (end.reshape((1,) * (rank - end.ndim) + end.shape) for end in (self.lo, self.hi))
        return Range.of(lo.min(others, keepdims=True), hi.max(others, keepdims=True))

    def settled(self) -> "Range":
        """The same without the axes along which nothing varies, and of a bearable size."""
        lo, hi = np.broadcast_arrays(self.lo, self.hi)
        for axis, length in enumerate(lo.shape):
            first = [end.take([0], axis) for end in (lo, hi)]
            if length > 1 and (lo == first[0]).all() and (hi == first[1]).all():
                lo, hi = first
        while lo.size > _MOST and len(wide := [i for i, d in enumerate(lo.shape) if d > 1]) > 1:
            lo, hi = lo.min(wide[0], keepdims=True), hi.max(wide[0], keepdims=True)
        return Range(lo.copy(), hi.copy())


def total(terms: Range, axes: tuple[int, ...]) -> Range:
    """The sums along axes."""
    return terms.each(lambda end: _sum(end, axes))


def _sum(x: Array, axes: tuple[int, ...]) -> Array:
    wide = magnitude(x) * x.size >= 1 << 63
    return np.asarray((x.astype(object) if wide else x).sum(axes))


def signed_bits(interval: Interval) -> int:
    """The width of the narrowest two's complement type that holds an interval."""
    return max((~end if end < 0 else end).bit_length() for end in interval) + 1


@dataclass(frozen=True)
class Quantity:
    """An accumulator, a sum or an intermediate that something of limited width has to hold.

    src: the source node; op: its operation; what: which of its numbers, in lo..hi; bits: the width of the narrowest signed
    type that is safe; type: the one there is; headroom: how many bits of that stay unused, negative where it is too narrow.
    """

    src: str
    op: str
    what: str
    lo: int
    hi: int
    bits: int
    type: str
    headroom: int


@dataclass
class Analysis:
    """What is known of the values so far, in program order, and all that has to fit somewhere.

    failures: what may not fit, or is not known to; conditions: those of approximations that do not hold.
    """

    weights: Weights
    ranges: dict[SSAValue, Range] = field(default_factory=dict[SSAValue, Range])
    quantities: list[Quantity] = field(default_factory=list[Quantity])
    failures: list[Remark] = field(default_factory=list[Remark])
    conditions: list[Remark] = field(default_factory=list[Remark])

    def of(self, value: SSAValue) -> Range:
        """What is known of an integer tensor: at least its type."""
        if value not in self.ranges:
            type = integer_of(value)
            assert type is not None
            self.ranges[value] = Range.of_type(type)
        return self.ranges[value]

    def contents(self, value: SSAValue) -> Range:
        """Every element of a constant, however many; of other values what is known."""
        array = self.weights.array(value)
        return self.of(value) if array is None else Range.exactly(array)

    def measure(self, op: Operation, what: str, found: Range, type: IntType, advice: str) -> None:
        """Note a number that `type` has to hold: a failure, with what to do, where it cannot."""
        lo, hi = found.ends
        bits = signed_bits((lo, hi))
        needed = hi.bit_length() if not type.signed and lo >= 0 else bits
        self.quantities.append(Quantity(describe(op), op.name, what, lo, hi, bits, str(type), type.bits - needed))
        if not found.fits(type):
            self.fail(op, f"its {what} is in {lo}..{hi}, which takes {bits} bits, and {type} has to hold it: {advice}")

    def fail(self, op: Operation, reason: str) -> None:
        self.failures.append(Remark(describe(op), op.name, reason))


def wider(type: IntType) -> str:
    """What to do where an accumulator or a sum does not fit."""
    return (
        "use narrower codes" if type.bits == WORD.bits else "accumulate in i64 (accumulator=64), or use narrower codes"
    )
