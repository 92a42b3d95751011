"""One handler for each ONNX operator: from a node to operations of the dialect. A file a theme."""

from qvit.frontends.onnx.graph import Folder, Handler
from qvit.frontends.onnx.handlers import nonlinear, shape
from qvit.frontends.onnx.handlers.arithmetic import ARITHMETIC
from qvit.frontends.onnx.handlers.attention import ATTENTION
from qvit.frontends.onnx.handlers.dynamic import DYNAMIC
from qvit.frontends.onnx.handlers.nonlinear import NONLINEAR
from qvit.frontends.onnx.handlers.products import PRODUCTS
from qvit.frontends.onnx.handlers.qonnx import QONNX
from qvit.frontends.onnx.handlers.qoperator import QOPERATOR
from qvit.frontends.onnx.handlers.quantization import QUANTIZATION
from qvit.frontends.onnx.handlers.shape import SHAPES

__all__ = ["FOLDERS", "HANDLERS"]

HANDLERS: dict[tuple[str, str], Handler] = {
    **ARITHMETIC,
    **PRODUCTS,
    **NONLINEAR,
    **SHAPES,
    **ATTENTION,
    **QUANTIZATION,
    **QOPERATOR,
    **QONNX,
    **DYNAMIC,
}
"""(domain, operator) -> handler. A node whose inputs are all constants is folded and never gets here."""

FOLDERS: dict[tuple[str, str], Folder] = {**nonlinear.FOLDERS, **shape.FOLDERS}
"""Operators that are not folded by onnx's reference evaluator: it is slow for some, and does not know old forms of others."""
