"""The functions of a compiled model, by name: real numbers to codes, codes to codes, codes to real numbers."""

from collections.abc import Sequence

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp

QUANTIZE_INPUTS, MAIN, DEQUANTIZE_OUTPUTS = "quantize_inputs", "main", "dequantize_outputs"
INTEGER_ONLY = "qvit.integer_only"
"""Attribute of the function that is promised to be free of floats."""


def stages(module: ModuleOp) -> Sequence[FuncOp]:
    """The functions that make up a whole run, in their order: @main, between its ends where they are functions of their own."""
    functions = {op.sym_name.data: op for op in module.ops if isinstance(op, FuncOp)}
    return [functions[name] for name in (QUANTIZE_INPUTS, MAIN, DEQUANTIZE_OUTPUTS) if name in functions]
