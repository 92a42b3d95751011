"""Weight-only forms, written over a float export: int8 weights that become floats in front of each MatMul.

cast_mul_*: Cast and Mul by a scale. weight_dq_*: DequantizeLinear, with what exporters put around it.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from base_vit import Dims, Fixture, main, vit
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

# From the name of a weight and its values [in, out] to initializers by name, and to the nodes that compute "<name>_float".
Form = Callable[[str, np.ndarray], tuple[dict[str, np.ndarray], list[NodeProto]]]


def symmetric(weight: np.ndarray, axis: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Codes in [-127, 127] and f32 scales: one, or one for each index of `axis` with the other axis kept as 1."""
    largest = np.abs(weight).max(axis=None if axis is None else 1 - axis, keepdims=True)
    scale = (largest / np.float32(127)).astype(np.float32)
    return np.rint(weight / scale).astype(np.int8), scale


def asymmetric(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """u8 codes, and scale and zero point for each index of `axis`."""
    low, high = (np.minimum(weight.min(1 - axis), 0), np.maximum(weight.max(1 - axis), 0))
    scale = ((high - low) / np.float32(255)).astype(np.float32)
    zero = np.rint(-low / scale).astype(np.uint8)
    along = (-1, 1) if axis == 0 else (1, -1)
    codes = np.rint(weight / scale.reshape(along)) + zero.reshape(along)
    return np.clip(codes, 0, 255).astype(np.uint8), scale, zero


def cast_mul(name: str, weight: np.ndarray, *, per_channel: bool = True, subtract: bool = False, swap: bool = False):
    """Cast [- zero point] * scale; `swap` has the scale as the first operand."""
    arrays, nodes = (
        {},
        [helper.make_node("Cast", [name + "_q"], [name + "_cast"], name + "_Cast", to=TensorProto.FLOAT)],
    )
    value = name + "_cast"
    if subtract:
        codes, scale, zero = asymmetric(weight, 1)
        scale, zero = scale[None], zero[None].astype(np.float32)
        arrays[name + "_zero"] = zero
        nodes.append(helper.make_node("Sub", [value, name + "_zero"], [name + "_centred"], name + "_Sub"))
        value = name + "_centred"
    else:
        codes, scale = symmetric(weight, 1 if per_channel else None)
        scale = scale if per_channel else scale.reshape(())
    arrays |= {name + "_q": codes, name + "_scale": scale}
    operands = [name + "_scale", value] if swap else [value, name + "_scale"]
    return arrays, [*nodes, helper.make_node("Mul", operands, [name + "_float"], name + "_Mul")]


def transposed(name: str, weight: np.ndarray, *, zero_points: bool = False):
    """[out, in] weights as torch stores them, DequantizeLinear per row, then Transpose."""
    if zero_points:
        codes, scale, zero = asymmetric(weight.T, 0)
    else:
        codes, scale = symmetric(weight.T, 0)
        scale, zero = scale[:, 0], np.zeros(len(scale), np.int8)
    arrays = {name + "_q": codes, name + "_scale": scale, name + "_zero": zero}
    nodes = [
        helper.make_node("DequantizeLinear", list(arrays), [name + "_rows"], name + "_DequantizeLinear", axis=0),
        helper.make_node("Transpose", [name + "_rows"], [name + "_float"], name + "_Transpose", perm=[1, 0]),
    ]
    return arrays, nodes


def dequantized(name: str, weight: np.ndarray, *, zero_points: bool, axis: int):
    """DequantizeLinear; a negative axis, or scales along the rows, which are what the product sums over."""
    positive = axis % 2
    if zero_points:
        codes, scale, zero = asymmetric(weight, positive)
        arrays = {name + "_q": codes, name + "_scale": scale, name + "_zero": zero}
    else:
        codes, scale = symmetric(weight, positive)
        arrays = {name + "_q": codes, name + "_scale": scale.reshape(-1)}
    node = helper.make_node("DequantizeLinear", list(arrays), [name + "_float"], name + "_DequantizeLinear", axis=axis)
    return arrays, [node]


def rewritten(model: ModelProto, form: Form) -> ModelProto:
    """`model` with the constant right operand of each MatMul stored in `form`."""
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type == "MatMul" and (tensor := stored.get(node.input[1])) is not None:
            name = tensor.name
            arrays, before = form(name, numpy_helper.to_array(tensor))
            graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in arrays.items())
            graph.initializer.remove(tensor)
            nodes += before
            node.input[1] = name + "_float"
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def fixtures() -> dict[str, Fixture]:
    def fixture(form: Form, holds: str, opset: int = 18, **choices: bool) -> Fixture:
        def make(dims: Dims) -> ModelProto:
            return rewritten(vit(dims, opset, dynamo=opset >= 18, **choices), form)

        return Fixture(make, holds)

    return {
        "cast_mul_channel_18": fixture(cast_mul, "Cast Mul"),
        "cast_mul_tensor_13": fixture(partial(cast_mul, per_channel=False, swap=True), "Cast Mul", 13),
        "cast_sub_mul_channel_20": fixture(partial(cast_mul, subtract=True), "Cast Sub Mul", 20, fused_qkv=True),
        "weight_dq_transposed_20": fixture(transposed, "DequantizeLinear Transpose", 20),
        "weight_dq_transposed_zero_point_17": fixture(
            partial(transposed, zero_points=True), "DequantizeLinear Transpose", 17, fused_qkv=True
        ),
        "weight_dq_zero_point_18": fixture(
            partial(dequantized, zero_points=True, axis=-1), "DequantizeLinear", fused_qkv=True
        ),
        "weight_dq_reduction_axis_20": fixture(partial(dequantized, zero_points=False, axis=0), "DequantizeLinear", 20),
    }


if __name__ == "__main__":
    main(fixtures(), __doc__)
