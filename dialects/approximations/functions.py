"""The real functions that elementwise approximations are built from and measured against, in float64."""

from collections.abc import Callable

import numpy as np

from qvit.dialects.semantics.elementwise import erf, relu, sigmoid
from qvit.dialects.semantics.integers import Array
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
