"""The real functions that elementwise approximations are built from and measured against, in float64."""

from collections.abc import Callable

import numpy as np

from qvit.dialects.approximations.base import Codes, FunctionApproximation, FunctionSpec, require
from qvit.dialects.semantics.elementwise import erf, relu, sigmoid
from qvit.dialects.semantics.integers import Array, widen
from qvit.dialects.semantics.nonlinear import gelu

FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": lambda x: gelu(x, tanh=True),
    "silu": lambda x: x * sigmoid(x),
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "erf": erf,
    "relu": relu,
    "identity": lambda x: x,
}
"""name -> function of a float64 array."""


def function_of(spec: FunctionSpec) -> Callable[[Array], Array]:
    """The real function; RangeError for a name that is none."""
    require(spec.function in FUNCTIONS, f"no function {spec.function}; there are {', '.join(FUNCTIONS)}")
    return FUNCTIONS[spec.function]


def largest_error(
    approximation: FunctionApproximation, tables: list[Array], spec: FunctionSpec, output: Codes
) -> float:
    """max |y - real| in units of `output`, over every code of the operand; beyond the type the real number saturates.

    RangeError where it is more than one unit of 8 bits: then the codes of the operand are too coarse for the method.
    """
    codes = spec.input.type
    x = np.arange(codes.lo, codes.hi + 1)
    y = widen(approximation.apply(x - spec.input.zero_point * approximation.centred, tables, output.type))
    real = function_of(spec)(spec.input.real()) / float(output.scale) + output.zero_point
    error = float(np.abs(y - np.clip(real, output.type.lo, output.type.hi)).max())
    most = 1 << max(output.type.bits - 8, 0)
    require(
        error <= most,
        f"{approximation.name} of {spec.function} is off by {error:.3g} units of {output.type}, at most {most} may be:"
        f" codes of scale {float(spec.input.scale):.3g} are too coarse for its pieces, use smaller ones",
    )
    return error
