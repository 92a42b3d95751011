"""What an integer approximation of softmax, of an elementwise function or of layer normalisation states.

An approximation is a frozen dataclass. Its fields are integers: they are the parameters of its attribute,
`#qvit.shiftmax<i0 = -20, n = 15, bits = 16>`. Tables and vectors are operands of the operation, in the order of `tables`.
`apply` is the semantics, in integers alone. `build` derives the integers from scales: it may use floats, for how constants
came about is no part of what they mean. `intermediates` is the proof that nothing overflows, `check` the conditions under
which the result means what it should.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np

from qvit.dialects.semantics.integers import Array, Int64, IntType, widen

Interval: TypeAlias = tuple[int, int]
"""(lowest, highest), both reached or not."""


class RangeError(ValueError):
    """A condition of an approximation does not hold; the message says which, with the numbers, and what to do."""


@dataclass(frozen=True)
class Codes:
    """How the codes of a tensor stand for real numbers: real = (code - zero_point) * scale, codes of type `type`."""

    scale: Fraction
    zero_point: int
    type: IntType

    def real(self) -> Array:
        """What each code of the type stands for, lowest first, in float64; for types of at most 16 bits."""
        return (np.arange(self.type.lo, self.type.hi + 1) - self.zero_point) * float(self.scale)


@dataclass(frozen=True)
class Built:
    """An approximation with its constants, and what its first result means: real = (code - zero_point) * scale.

    tables: operands, each with its element type. results: the element types of the results. scale: float64, one number or
    one for each channel (the last axis); it may be negative. error: in units of the result, the largest over all codes of
    the operand, where `build` has tried them all.
    """

    approximation: "Approximation"
    tables: tuple[tuple[Array, IntType], ...]
    results: tuple[IntType, ...]
    scale: Array
    zero_point: int = 0
    error: float | None = None


@dataclass(frozen=True)
class Approximation(ABC):
    """The base of all; a subclass has integer fields only."""

    name: ClassVar[str]
    """Of the attribute: `#qvit.<name>`."""
    source: ClassVar[str]
    """Where it is defined: paper and section."""
    tables: ClassVar[tuple[str, ...]] = ()
    """The names of its constant operands."""

    def __post_init__(self) -> None:
        self.verify()

    @abstractmethod
    def verify(self) -> None:
        """ValueError if a field is out of its range."""

    @property
    def parameters(self) -> dict[str, int]:
        """The fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def parameter_names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in fields(cls))

    @classmethod
    def of(cls, parameters: Mapping[str, int]) -> Self:
        """The approximation with these fields; ValueError where they are not its own or out of range."""
        if set(parameters) != set(cls.parameter_names()):
            expected, found = (", ".join(names) or "none" for names in (cls.parameter_names(), parameters))
            raise ValueError(f"{cls.name}: expected the parameters {expected}; found {found}")
        return cls(**parameters)


@dataclass(frozen=True)
class SoftmaxSpec:
    """What a softmax is asked for: scores and their codes, the length of a row, and the wanted output codes, if any."""

    scores: Codes
    length: int
    output: Codes | None = None


@dataclass(frozen=True)
class SoftmaxApproximation(Approximation):
    """Softmax over the last axis.

    Where `logarithmic`, a code q of the first result stands for 2^-q times the scale, from 16 on for 0, and the product
    behind is `qvit.shift_matmul`.
    """

    logarithmic: ClassVar[bool] = False

    @classmethod
    def preferred_scale(cls, scale: Fraction) -> Fraction:
        """The scale that the scores should have in the place of `scale`: this one, unless only some will do."""
        return scale

    late: ClassVar[bool] = False
    """Whether there is a second result, the row sums [..., 1]: the probability is scale * first / second."""

    @classmethod
    @abstractmethod
    def build(cls, spec: SoftmaxSpec, **options: int) -> Built:
        """The constants; RangeError where the conditions cannot be met."""

    @abstractmethod
    def apply(
        self, x: Int64, tables: Sequence[Array], mask: Array | None, results: Sequence[IntType]
    ) -> tuple[Array, ...]:
        """x: codes [..., N]; mask: broadcasts against x, entries where it is 0 take no part (their result is 0).

        Each result in its type of `results`; OverflowError if one does not fit.
        """

    @abstractmethod
    def intermediates(self, codes: Interval, length: int, tables: Sequence[Array]) -> dict[str, Interval]:
        """Every intermediate and result by name: the interval that holds it for all rows of `length` codes in `codes`."""

    @abstractmethod
    def check(self, codes: Interval, length: int, tables: Sequence[Array]) -> None:
        """RangeError unless the result is sound on all such rows."""


@dataclass(frozen=True)
class FunctionSpec:
    """What an elementwise function is asked for: its name in FUNCTIONS, the codes of its operand and of its result."""

    function: str
    input: Codes
    output: Codes


@dataclass(frozen=True)
class FunctionApproximation(Approximation):
    """A function of each element."""

    rowwise: ClassVar[bool] = False
    """Whether the result also depends on the other elements of the last axis."""
    centred: ClassVar[bool] = False
    """Whether `apply` takes x - zero point, which the operation subtracts; otherwise x itself, with the zero point of its
    codes in the constants."""

    @classmethod
    @abstractmethod
    def build(cls, spec: FunctionSpec, **options: int) -> Built:
        """The constants; RangeError where the conditions cannot be met."""

    @abstractmethod
    def apply(self, x: Int64, tables: Sequence[Array], result: IntType) -> Array:
        """x: codes of any shape; the result in the type `result`, OverflowError if one does not fit."""

    @abstractmethod
    def intermediates(self, codes: Interval, tables: Sequence[Array], result: IntType) -> dict[str, Interval]:
        """Every intermediate and result ("y") by name, as for softmax. A result that is saturated stays in `result`."""

    @abstractmethod
    def check(self, codes: Interval, tables: Sequence[Array]) -> None:
        """RangeError unless the result is sound for all such codes."""


@dataclass(frozen=True)
class LayerNormSpec:
    """What a layer normalisation is asked for. gamma, beta: float64 [C]; input and output codes.

    factors: int64 [C], the input's scale in channel c is input.scale * 2^factors[c]; None where one scale is common to all.
    """

    gamma: Array
    beta: Array
    epsilon: float
    input: Codes
    output: Codes
    factors: Array | None = None


@dataclass(frozen=True)
class LayerNormApproximation(Approximation):
    """Layer normalisation over the last axis, the affine transformation by gamma and beta included.

    Zero points of the operand do not matter: the mean is subtracted. Where `takes_factors`, channels may have scales that
    differ by powers of two, and what is built knows the operand's zero point; the others never see `factors`.
    """

    takes_factors: ClassVar[bool] = False

    def table_length(self, name: str, channels: int) -> int:
        """How many numbers a table has: one a channel, unless an approximation says otherwise."""
        return channels

    @classmethod
    @abstractmethod
    def build(cls, spec: LayerNormSpec, **options: int) -> Built:
        """The constants; RangeError where the conditions cannot be met."""

    @abstractmethod
    def apply(self, x: Int64, tables: Sequence[Array], result: IntType) -> Array:
        """x: codes [..., C]; the result in the type `result`, OverflowError if one does not fit."""

    @abstractmethod
    def intermediates(
        self, codes: Interval, channels: int, tables: Sequence[Array], result: IntType
    ) -> dict[str, Interval]:
        """Every intermediate and result ("y") by name, as for softmax. A result that is saturated stays in `result`."""

    @abstractmethod
    def check(self, codes: Interval, channels: int, tables: Sequence[Array]) -> None:
        """RangeError unless the result is sound on all such rows."""


def require(condition: object, message: str) -> None:
    """A condition of an approximation: RangeError with `message` unless it holds."""
    if not condition:
        raise RangeError(message)


def require_positive(scale: Fraction) -> None:
    """RangeError unless the scale of the operand is positive."""
    require(scale > 0, f"the scale of the input must be positive, found {float(scale):.4g}")


def require_options(options: Mapping[str, Any], *known: str) -> None:
    """RangeError for an option that an approximation does not take."""
    unknown = sorted(set(options) - set(known))
    require(not unknown, f"unknown options {', '.join(unknown)}; known are {', '.join(known) or 'none'}")


def from_maximum(x: Int64, mask: Array | None) -> tuple[Int64, Array]:
    """(d, keep): by how much each entry is below its row's maximum, of those that take part; 0 where it takes none."""
    if mask is None:
        return x.max(-1, keepdims=True) - x, np.ones((), bool)
    keep = np.broadcast_to(mask != 0, x.shape)
    top = np.where(keep, x, x.min(-1, keepdims=True)).max(-1, keepdims=True)
    return np.where(keep, top - x, 0), keep


def look_up(table: Array, index: Int64) -> Int64:
    """table[index] as int64; IndexError below 0 too."""
    if index.size and index.min() < 0:
        raise IndexError(f"a table of {len(table)} has no entry {index.min()}")
    return widen(table)[index]


def bit_length(x: Int64) -> Int64:
    """The bits of each |x|: 0 for 0. Exact for the whole of int64 but its lowest number."""
    magnitude = np.abs(x)
    exponent = np.frexp(magnitude.astype(np.float64))[1].astype(np.int64)
    # a conversion to float may round up to the next power of two
    return exponent - ((magnitude >> np.maximum(exponent - 1, 0)) == 0) * (magnitude > 0)
