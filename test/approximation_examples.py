"""Every integer approximation, with constants for ordinary codes: tests that go over all of them need nothing of one."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from qvit.dialects.approximations import FUNCTION, LAYER_NORM, SOFTMAX
from qvit.dialects.approximations.base import Built, Codes, FunctionSpec, LayerNormSpec, RangeError, SoftmaxSpec
from qvit.dialects.approximations.functions import FUNCTIONS
from qvit.dialects.semantics.integers import IntType

CHANNELS = 6
"""The length of a row, of layer normalisation's vectors too."""

NARROW, WIDE = Codes(Fraction(1, 20), 0, IntType(8)), Codes(Fraction(1, 4096), 0, IntType(16))


@dataclass(frozen=True)
class Example:
    """An approximation under its name, its constants, and the codes that it takes."""

    name: str
    built: Built
    codes: Codes


def _first(name: str, candidates: list[tuple[type, object, Codes]]) -> Example:
    """The first of (approximation, specification, codes) that can be built."""
    errors: list[RangeError] = []
    for kind, spec, codes in candidates:
        try:
            return Example(name, kind.build(spec), codes)  # pyright: ignore
        except RangeError as error:
            errors.append(error)
    raise AssertionError(f"{name} takes none of the ordinary codes: {errors}")


def _softmax(name: str) -> Example:
    return _first(name, [(SOFTMAX[name], SoftmaxSpec(codes, CHANNELS), codes) for codes in (NARROW, WIDE)])


def _function(name: str) -> Example:
    return _first(
        name,
        [
            (FUNCTION[name], FunctionSpec(function, codes, Codes(Fraction(1, 20), 0, IntType(8))), codes)
            for codes in (NARROW, WIDE)
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
