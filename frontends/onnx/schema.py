"""What ONNX's own schemas say of a node: that its operator exists at this opset, and takes inputs of these types."""

from functools import cache

from xdsl.ir import SSAValue

from qvit.dialects.types import BOOLEAN, element_of, int_type
from qvit.frontends.builder import Constant, Value
from qvit.frontends.onnx.graph import Node

_OLDER = ("LayerNormalization",)
"""Before they were standard, onnxruntime's optimizers wrote these into the default domain already."""

_REAL_NUMBERS = ("MatMulInteger", "ConvInteger")
"""They may get what their quantizer did not quantize: while ranges are measured."""


@cache
def _inputs(op_type: str, opset: int) -> tuple[tuple[frozenset[str], ...], int, int] | str | None:
    """(the types of each input, the last one's of all that follow; fewest; most), the problem, or None if unknown."""
    from onnx import defs

    if not defs.has(op_type, domain=""):
        return None
    try:
        schema = defs.get_schema(op_type, opset, "")
    except defs.SchemaError:
        return f"ONNX has this operator only from opset {defs.get_schema(op_type, domain='').since_version} on"
    return tuple(frozenset(i.types) for i in schema.inputs), schema.min_input, schema.max_input


def _types(value: Value) -> set[str]:
    """The names in ONNX that a value's element type can have; codes may be stored in more bits than they need.

    Empty for a constant of strings, which is refused by its own name where it is used.
    """
    from onnx import TensorProto, helper

    if isinstance(value, Constant) and value.array.dtype.kind == "O":
        return set()
    if isinstance(value, Constant):
        return {TensorProto.DataType.Name(helper.np_dtype_to_tensor_dtype(value.array.dtype)).lower()}
    assert isinstance(value, SSAValue)
    element = element_of(value)
    codes = int_type(element)
    if codes is None:
        return {"float" if str(element) == "f32" else "double"}
    widths = [w for w in (2, 4, 8) if w >= codes.bits] or [next(w for w in (16, 32, 64) if w >= codes.bits)]
    names = {f"{'' if codes.signed else 'u'}int{width}" for width in widths}
    return names | {"bool"} if element == BOOLEAN else names


def require_schema(node: Node) -> None:
    """ImportRefused where a node of the default domain breaks its schema; unknown operators are left to others."""
    known = _inputs(node.op_type, node.graph.opset)
    if known is None or node.op_type in _OLDER:
        return
    if isinstance(known, str):
        node.refuse(f"{known}, and the model is of opset {node.graph.opset}", "the model is damaged")
    types, fewest, most = known
    if not fewest <= len(node.inputs) <= most:
        node.refuse(f"it has {len(node.inputs)} inputs, expected {fewest} to {most}", "the model is damaged")
    for i, value in enumerate(node.inputs):
        if value is None or node.op_type in _REAL_NUMBERS:
            continue
        expected = {name.removeprefix("tensor(").removesuffix(")") for name in types[min(i, len(types) - 1)]}
        if (found := _types(value)) and not found & expected:
            names = ", ".join(sorted(expected))
            node.refuse(
                f"input {i} has elements of type {min(found, key=len)}, expected {names}", "the model is damaged"
            )
