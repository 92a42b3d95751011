"""One handler for each aten operator: from a call to operations of the dialect. A file a theme."""

from qvit.frontends.torch.graph import Handler
from qvit.frontends.torch.handlers.arithmetic import ARITHMETIC
from qvit.frontends.torch.handlers.nonlinear import NONLINEAR
from qvit.frontends.torch.handlers.products import PRODUCTS
from qvit.frontends.torch.handlers.quantization import QUANTIZATION
from qvit.frontends.torch.handlers.shape import SHAPES

__all__ = ["DROPPED", "HANDLERS"]

HANDLERS: dict[str, Handler] = {**ARITHMETIC, **PRODUCTS, **NONLINEAR, **SHAPES, **QUANTIZATION}
"""Overload -> handler. A call whose tensors are all constants is folded and never gets here."""

DROPPED = (
    "aten._assert_tensor_metadata.default",
    "aten._assert_async.msg",
    "aten._assert_scalar.default",
    "aten.sym_constrain_range_for_size.default",
)
"""Checks that export has written, which make nothing."""
