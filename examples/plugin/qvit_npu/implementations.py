"""How the interpreter executes the dialect's operations."""

import numpy as np

from qvit.backends.interpreter import Implementation, Machine
from qvit.dialects.semantics.integers import Array, IntType
from qvit.dialects.semantics.products import matmul
from qvit_npu.dialect import TileMatmulOp


def _tile_matmul(_: Machine, op: TileMatmulOp, a: Array, b: Array) -> Array:
    return matmul(a, np.swapaxes(b, -1, -2), result=IntType(32))


IMPLEMENTATIONS: dict[type[TileMatmulOp], Implementation] = {TileMatmulOp: _tile_matmul}
