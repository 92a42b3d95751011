"""Integer approximations of softmax, elementwise functions and layer normalisation: a file each, NumPy alone.

`base` says what an approximation states. The three tables have them by the names that passes and tools know: those of the
attributes, with dashes.
"""

from qvit.dialects.approximations.base import (
    Approximation,
    FunctionApproximation,
    LayerNormApproximation,
    SoftmaxApproximation,
)
from qvit.dialects.approximations.comparators import ThresholdLayerNorm, ThresholdSoftmax
from qvit.dialects.approximations.i_layernorm import ILayerNorm, ILayerNormPublished
from qvit.dialects.approximations.ibert_gelu import IGelu, IGeluPublished
from qvit.dialects.approximations.ibert_layernorm import IbertLayerNorm, IbertLayerNormPublished
from qvit.dialects.approximations.ibert_softmax import ISoftmax, ISoftmaxPublished
from qvit.dialects.approximations.iptq import BitSoftmax, BitSoftmaxPublished, PolyGelu
from qvit.dialects.approximations.ita import Ita, ItaGelu
from qvit.dialects.approximations.lin import Lin
from qvit.dialects.approximations.lis import Lis, LisPublished
from qvit.dialects.approximations.ln import Ln
from qvit.dialects.approximations.ptf import PtfLayerNorm, PtfLayerNormPublished
from qvit.dialects.approximations.quad import Quad
from qvit.dialects.approximations.shiftgelu import Shiftgelu, ShiftgeluPublished
from qvit.dialects.approximations.shiftmax import Shiftmax, ShiftmaxPublished
from qvit.dialects.approximations.sm8 import Sm8, Sm8Late
from qvit.dialects.approximations.sw import Sw, SwLate
from qvit.dialects.approximations.table import Table

SOFTMAX: dict[str, type[SoftmaxApproximation]] = {
    "sm8": Sm8,
    "sm8-late": Sm8Late,
    "sw": Sw,
    "sw-late": SwLate,
    "shiftmax": Shiftmax,
    "shiftmax-published": ShiftmaxPublished,
    "i-softmax": ISoftmax,
    "lis": Lis,
    "lis-published": LisPublished,
    "bit-softmax": BitSoftmax,
    "bit-softmax-published": BitSoftmaxPublished,
    "ita": Ita,
    "i-softmax-published": ISoftmaxPublished,
    "threshold-softmax": ThresholdSoftmax,
}
"""Softmax."""

FUNCTION: dict[str, type[FunctionApproximation]] = {
    "table": Table,
    "lin": Lin,
    "quad": Quad,
    "shiftgelu": Shiftgelu,
    "shiftgelu-published": ShiftgeluPublished,
    "i-gelu": IGelu,
    "i-gelu-published": IGeluPublished,
    "poly-gelu": PolyGelu,
    "ita-gelu": ItaGelu,
}
"""Functions of each element."""

LAYER_NORM: dict[str, type[LayerNormApproximation]] = {
    "ln": Ln,
    "i-layernorm": ILayerNorm,
    "i-layernorm-published": ILayerNormPublished,
    "ibert-layernorm": IbertLayerNorm,
    "ibert-layernorm-published": IbertLayerNormPublished,
    "ptf-layernorm": PtfLayerNorm,
    "ptf-layernorm-published": PtfLayerNormPublished,
    "threshold-layernorm": ThresholdLayerNorm,
}
"""Layer normalisation."""

APPROXIMATIONS: tuple[type[Approximation], ...] = (*SOFTMAX.values(), *FUNCTION.values(), *LAYER_NORM.values())
"""All of them; each has an attribute `#qvit.<name>`."""
