"""Integer approximations of softmax, elementwise functions and layer normalisation: a file each, NumPy alone.

`base` says what an approximation states. The three tables are the names that passes and tools know.
"""

from qvit.dialects.approximations.base import (
    Approximation,
    FunctionApproximation,
    LayerNormApproximation,
    SoftmaxApproximation,
)
from qvit.dialects.approximations.lis import Lis, LisPublished
from qvit.dialects.approximations.ln import Ln
from qvit.dialects.approximations.sm8 import Sm8, Sm8Late
from qvit.dialects.approximations.table import Table

SOFTMAX: dict[str, type[SoftmaxApproximation]] = {
    "sm8": Sm8,
    "sm8-late": Sm8Late,
    "lis": Lis,
    "lis-published": LisPublished,
}
FUNCTION: dict[str, type[FunctionApproximation]] = {"table": Table}
LAYER_NORM: dict[str, type[LayerNormApproximation]] = {"ln": Ln}

APPROXIMATIONS: tuple[type[Approximation], ...] = (*SOFTMAX.values(), *FUNCTION.values(), *LAYER_NORM.values())
"""All of them; each has an attribute `#qvit.<name>`."""
