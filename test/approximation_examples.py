"""Every integer approximation, with constants for ordinary codes: tests that go over all of them need nothing of one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from qvit.dialects.approximations import FUNCTION, LAYER_NORM, SOFTMAX
from qvit.dialects.approximations.base import (
    Built,
    Codes,
    FunctionApproximation,
    FunctionSpec,
    Interval,
    LayerNormApproximation,
    LayerNormSpec,
    RangeError,
    SoftmaxApproximation,
    SoftmaxSpec,
)
from qvit.dialects.approximations.functions import FUNCTIONS
from qvit.dialects.semantics.integers import Array, Int64, IntType

CHANNELS = 6
"""The length of a row, of layer normalisation's vectors too."""

NARROW, WIDE = Codes(Fraction(1, 20), 0, IntType(8)), Codes(Fraction(1, 4096), 0, IntType(16))
FINE = Codes(Fraction(1, 32), 0, IntType(8))


@dataclass(frozen=True)
class Example:
    """An approximation under its name, its constants, and the codes that it takes."""

    name: str
    built: Built
    codes: Codes


def _first(name: str, candidates: list[tuple[type, object, Codes]]) -> Example:
    """The first of (approximation, specification, codes) that can be built and whose conditions hold."""
    errors: list[RangeError] = []
    for kind, spec, codes in candidates:
        try:
            example = Example(name, kind.build(spec), codes)  # pyright: ignore
            _check(example)
            return example
        except RangeError as error:
            errors.append(error)
    raise AssertionError(f"{name} takes none of the ordinary codes: {errors}")


def _check(example: Example) -> None:
    """RangeError unless its conditions hold for all of its codes."""
    approximation, codes = example.built.approximation, (example.codes.type.lo, example.codes.type.hi)
    tables = [values for values, _ in example.built.tables]
    if isinstance(approximation, FunctionApproximation):
        approximation.check(codes, tables)
    else:
        assert isinstance(approximation, SoftmaxApproximation | LayerNormApproximation)
        approximation.check(codes, CHANNELS, tables)


def _softmax(name: str) -> Example:
    """Of scores of a scale that it takes."""
    kind = SOFTMAX[name]
    scores = (replace(codes, scale=kind.preferred_scale(codes.scale)) for codes in (NARROW, WIDE))
    return _first(name, [(kind, SoftmaxSpec(codes, CHANNELS), codes) for codes in scores])


def _function(name: str) -> Example:
    return _first(
        name,
        [
            (FUNCTION[name], FunctionSpec(function, codes, Codes(Fraction(1, 20), 0, IntType(8))), codes)
            for codes in (NARROW, FINE, WIDE)
            for function in FUNCTIONS
        ],
    )


def _layer_norm(name: str) -> Example:
    gamma, beta = np.array([1.0, -0.5, 0.75, 2.0, 1.5, 0.25]), np.array([0.0, 0.5, -1.0, 0.25, 0.125, 0.0])
    output = Codes(Fraction(1, 30), 0, IntType(8))
    candidates = (Codes(Fraction(1, 100), 0, IntType(16)), NARROW)
    return _first(
        name,
        [(LAYER_NORM[name], LayerNormSpec(gamma, beta, 1e-5, codes, output), codes) for codes in candidates],
    )


EXAMPLES: list[Example] = [
    *map(_softmax, SOFTMAX),
    *map(_function, FUNCTION),
    *map(_layer_norm, LAYER_NORM),
]


# --- what tests of one approximation share ---


def rows(rng: np.random.Generator, codes: Interval, length: int, count: int) -> Int64:
    """Rows of codes, `count` of each kind: even, bell-shaped, flat at either end, one apart from the others, two levels."""
    lo, hi = codes
    shape = (count, length)
    one = np.full(shape, lo)
    one[:, rng.integers(length)] = hi
    spread = rng.integers(0, hi - lo, (count, 1), endpoint=True)
    kinds = [
        rng.integers(lo, hi, shape, np.int64, endpoint=True),
        rng.normal((lo + hi) / 2, (hi - lo) / rng.choice([4, 8, 64], (count, 1)), shape).round().clip(lo, hi),
        np.full((1, length), lo),
        np.full((1, length), hi),
        one,
        lo + hi - one,
        hi - spread * (rng.random(shape) < 0.5),
    ]
    return np.concatenate(kinds).astype(np.int64)


def masks(rng: np.random.Generator, x: Int64) -> Array:
    """uint8 like x: everything, nothing, one entry, or any."""
    kind = rng.integers(4, size=(len(x), 1))
    any_, one = rng.random(x.shape) < 0.6, np.arange(x.shape[-1]) == rng.integers(x.shape[-1])
    return np.select([kind == 0, kind == 1, kind == 2], [np.ones_like(any_), ~np.ones_like(any_), one], any_).astype(
        np.uint8
    )


def lists(x: Int64, mask: Array | None) -> Iterator[tuple[list[int], list[int]]]:
    """(codes, which take part) of each row, as Python's numbers."""
    return zip(x.tolist(), (np.ones_like(x) if mask is None else mask).tolist(), strict=True)


class Measured:
    """The extent of every intermediate that an oracle has returned."""

    def __init__(self) -> None:
        self.extent: dict[str, Interval] = {}

    def add(self, seen: Mapping[str, Sequence[int]]) -> None:
        for name, values in seen.items():
            low, high = self.extent.get(name, (values[0], values[0]))
            self.extent[name] = (min(low, min(values)), max(high, max(values)))

    def check(self, stated: Mapping[str, Interval], *reached: str) -> None:
        """All are stated, and inside; the highest of those in `reached` is at least 0.9 of what is stated."""
        assert set(self.extent) == set(stated)
        for name, (low, high) in self.extent.items():
            assert stated[name][0] <= low, name
            assert high <= stated[name][1], name
        for name in reached:
            assert self.extent[name][1] >= 0.9 * stated[name][1], name


def arrays(built: Built) -> list[Array]:
    """The tables as the operation gets them."""
    for values, element in built.tables:
        assert values.min() >= element.lo
        assert values.max() <= element.hi
    return [values.astype(element.dtype) for values, element in built.tables]
