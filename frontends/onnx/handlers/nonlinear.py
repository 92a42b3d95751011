"""Softmax, normalizations, activations, means and interpolation."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from xdsl.ir import SSAValue

from qvit.dialects.ops.elementwise import AddOp, MulOp, SigmoidOp
from qvit.dialects.ops.nonlinear import ArgmaxOp, BatchNormOp, GeluOp, LayerNormOp, ReduceMeanOp, ResizeOp, SoftmaxOp
from qvit.dialects.ops.products import Conv2dOp
from qvit.dialects.ops.shape import ReshapeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.semantics import nonlinear
from qvit.dialects.semantics.integers import Array
from qvit.dialects.semantics.products import conv2d
from qvit.dialects.types import element_dtype, element_of, shape_of
from qvit.frontends.builder import Value
from qvit.frontends.onnx.graph import Folder, Handler, Node
from qvit.frontends.onnx.handlers.products import padding, scaled, two_dimensional


def softmax(node: Node, x: SSAValue, coerced: bool) -> SSAValue:
    """Along one axis; `coerced`, as until opset 12, over all dimensions from the axis on, flattened."""
    shape = shape_of(x)
    axis = node.axis(node.attribute("axis", 1 if coerced else -1), len(shape))
    if not coerced or axis == len(shape) - 1:
        return node.emit(SoftmaxOp(x, axis))
    flat = node.graph.emit(ReshapeOp(x, [*shape[:axis], prod(shape[axis:])]))
    return node.emit(ReshapeOp(node.emit(SoftmaxOp(flat, axis)), shape))


def _softmax(node: Node) -> Value:
    return softmax(node, node.float_tensor(0), coerced=node.graph.opset < 13)


def _layer_normalization(node: Node) -> Value:
    if len(node.outputs) > 1:
        node.refuse("its mean or deviation is used", "export the model for inference")
    x = node.float_tensor(0)
    axis = node.axis(node.attribute("axis", -1), len(shape_of(x)))
    beta = node.float_tensor(2) if node.has(2) else None
    return node.emit(LayerNormOp(x, node.float_tensor(1), beta, node.attribute("epsilon", 1e-5), axis))


def _gelu(node: Node) -> Value:
    approximate = node.attribute("approximate", b"none")
    if approximate not in (b"none", b"tanh"):
        node.refuse(f"approximate is {approximate.decode()}, expected none or tanh", "the model is damaged")
    return node.emit(GeluOp(node.float_tensor(0), approximate == b"tanh"))


def _biased(node: Node) -> SSAValue:
    """The input, plus the bias if there is one (com.microsoft)."""
    x = node.float_tensor(0)
    return node.emit(AddOp(x, node.float_tensor(1))) if node.has(1) else x


def _bias_gelu(node: Node) -> Value:
    return node.emit(GeluOp(_biased(node)))


def _fast_gelu(node: Node) -> Value:
    return node.emit(GeluOp(_biased(node), tanh=True))


def _quick_gelu(node: Node) -> Value:
    """x sigmoid(alpha x)."""
    x = node.float_tensor(0)
    inner = scaled(node, x, node.attribute("alpha", 1.702))
    return node.emit(MulOp(x, node.emit(SigmoidOp(inner))))


def _skip_layer_normalization(node: Node) -> list[Value]:
    """layer_norm(input + skip + bias), and that sum as the fourth output (com.microsoft)."""
    if any(node.outputs[1:3]):
        node.refuse("its mean or deviation is used", "export the model for inference")
    total = node.emit(AddOp(node.float_tensor(0), node.float_tensor(1)))
    if node.has(4):
        total = node.emit(AddOp(total, node.float_tensor(4)))
    beta = node.float_tensor(3) if node.has(3) else None
    axis = len(shape_of(total)) - 1
    norm = node.emit(LayerNormOp(total, node.float_tensor(2), beta, node.attribute("epsilon", 1e-12), axis))
    return [norm, norm, norm, total]  # the two between are not used


def _batch_normalization(node: Node) -> Value:
    if node.attribute("training_mode", 0):
        node.refuse("training_mode is set", "export the model for inference")
    parameters = [node.float_tensor(i) for i in range(5)]
    x, gamma, beta, mean, variance = parameters
    return node.emit(BatchNormOp(x, gamma, beta, mean, variance, node.attribute("epsilon", 1e-5)))


def _reduce_mean(node: Node) -> Value:
    x = node.float_tensor(0)
    rank = len(shape_of(x))
    axes = node.integers(1, "axes") if node.has(1) else node.attribute("axes", None)
    if not axes:
        if node.attribute("noop_with_empty_axes", 0):
            return x
        axes = range(rank)
    return node.emit(ReduceMeanOp(x, sorted(node.axis(a, rank) for a in axes), bool(node.attribute("keepdims", 1))))


def _argmax(node: Node) -> Value:
    if node.attribute("select_last_index", 0):
        node.refuse(
            "select_last_index is not read", "export the model with select_last_index = 0: of equal ones, the first"
        )
    x = node.tensor(0)
    axis = node.axis(node.attribute("axis", 0), len(shape_of(x)))
    return node.emit(ArgmaxOp(x, axis, bool(node.attribute("keepdims", 1))))


def _global_average_pool(node: Node) -> Value:
    return global_average(node, node.float_tensor(0))


def global_average(node: Node, x: SSAValue) -> SSAValue:
    """The mean over all dimensions behind the channels, which keep length 1."""
    return node.emit(ReduceMeanOp(x, range(2, len(shape_of(x))), True))


def _average_pool(node: Node) -> Value:
    return average(node, node.float_tensor(0))


def average(node: Node, x: SSAValue) -> SSAValue:
    """Means over windows: a convolution that adds, times one over the number of elements that were added."""
    two_dimensional(node)
    if node.attribute("ceil_mode", 0):
        node.refuse("ceil_mode is not read", "export the model with explicit pads")
    kernel = node.attribute("kernel_shape", None)
    if kernel is None or len(kernel) != 2:
        node.refuse(f"kernel_shape is {kernel}, expected two numbers", "the model is damaged")
    channels, element = shape_of(x)[1], element_of(x)
    dtype = element_dtype(element)
    geometry = (
        node.attribute("strides", [1, 1]),
        padding(node, kernel, shape_of(x)),
        node.attribute("dilations", [1, 1]),
    )
    ones = node.graph.emit(ConstantOp(np.ones((channels, 1, *kernel), dtype), element), node.name)
    sums = node.emit(Conv2dOp(x, ones, None, *geometry, groups=channels))
    counts = np.array(prod(kernel), dtype)
    if any(geometry[1]) and not node.attribute("count_include_pad", 0):
        inside, window = np.ones((1, 1, *shape_of(x)[2:])), np.ones((1, 1, *kernel))
        counts = conv2d(inside, window, None, *geometry, 1).astype(dtype)
    return node.emit(MulOp(sums, node.graph.emit(ConstantOp(1 / counts, element), node.name)))


def _resize_options(node: Node, before: Sequence[int], sizes: Array | None, scales: Array | None) -> dict[str, Any]:
    mode = node.attribute("mode", b"nearest").decode()
    coordinates = node.attribute("coordinate_transformation_mode", b"half_pixel").decode()
    nearest = node.attribute("nearest_mode", b"round_prefer_floor").decode()
    policy = node.attribute("keep_aspect_ratio_policy", b"stretch").decode()
    if node.attribute("antialias", 0) or node.attribute("exclude_outside", 0) or "axes" in node.attributes:
        node.refuse("antialias, exclude_outside and axes are not read", "export the model without them")
    if policy != "stretch":
        node.refuse(f"keep_aspect_ratio_policy {policy} is not read", "export the model with explicit sizes")
    if mode == "nearest" and nearest == "floor":
        mode = "nearest_floor"
    if mode not in ResizeOp.MODES or coordinates not in ResizeOp.COORDINATES:
        node.refuse(f"mode {mode} with coordinates {coordinates} is not read", "export it as bilinear interpolation")
    if mode == "nearest" and nearest != "round_prefer_floor":
        node.refuse(f"nearest_mode {nearest} is not read", "only round_prefer_floor and floor are")
    if sizes is not None:
        after = [int(d) for d in sizes]
        factors = [b / a for a, b in zip(before, after, strict=True)]
    elif scales is not None:
        factors = [float(s) for s in scales]
        # ONNX takes this product in float32, where 3 * float32(5 / 3) is 5
        after = [int(np.float32(a) * np.float32(s)) for a, s in zip(before, factors, strict=True)]
    else:
        node.refuse("it has neither sizes nor scales", "the model is damaged")
    if len(before) < 2 or after[:-2] != list(before[:-2]):
        node.refuse(f"it changes {list(before)} to {after}", "only the last two dimensions can be resized")
    return {
        "sizes": after[-2:],
        "scales": factors[-2:],
        "mode": mode,
        "coordinates": coordinates,
        "cubic_a": node.attribute("cubic_coeff_a", -0.75),
    }


def _resize(node: Node) -> Value:
    x = node.float_tensor(0)
    scales, sizes = node.optional_constant(2, "scales"), node.optional_constant(3, "sizes")
    scales = None if scales is None or scales.size == 0 else scales
    return node.emit(ResizeOp(x, **_resize_options(node, shape_of(x), sizes, scales)))


def _fold_resize(node: Node, arrays: Sequence[Array | None]) -> Array:
    """A resized position table: the semantics are some hundred times faster than the reference evaluator."""
    x, _, scales, sizes = (*arrays, None, None, None)[:4]
    assert x is not None
    scales = None if scales is None or scales.size == 0 else scales
    return nonlinear.resize(x.astype(np.float64), **_resize_options(node, x.shape, sizes, scales)).astype(x.dtype)


NONLINEAR: dict[tuple[str, str], Handler] = {
    ("", "Softmax"): _softmax,
    ("", "LayerNormalization"): _layer_normalization,
    ("", "Gelu"): _gelu,
    ("", "BatchNormalization"): _batch_normalization,
    ("", "ReduceMean"): _reduce_mean,
    ("", "ArgMax"): _argmax,
    ("", "GlobalAveragePool"): _global_average_pool,
    ("", "AveragePool"): _average_pool,
    ("", "Resize"): _resize,
    ("com.microsoft", "Gelu"): _gelu,
    ("com.microsoft", "BiasGelu"): _bias_gelu,
    ("com.microsoft", "FastGelu"): _fast_gelu,
    ("com.microsoft", "QuickGelu"): _quick_gelu,
    ("com.microsoft", "SkipLayerNormalization"): _skip_layer_normalization,
}

FOLDERS: dict[tuple[str, str], Folder] = {("", "Resize"): _fold_resize}
"""Operators that are folded by the dialect's own semantics instead of the reference evaluator."""
