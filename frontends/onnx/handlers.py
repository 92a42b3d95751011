"""One handler for each ONNX operator: from a node to operations of the dialect."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from xdsl.dialects.builtin import IntegerType, Signedness
from xdsl.ir import SSAValue

from qvit.dialects.attributes import QParamsAttr
from qvit.dialects.ops.elementwise import (
    AddOp,
    ArithmeticOp,
    DivOp,
    ErfOp,
    FloatBinaryOp,
    FloatUnaryOp,
    MulOp,
    PowOp,
    ReluOp,
    SigmoidOp,
    SqrtOp,
    SubOp,
    TanhOp,
)
from qvit.dialects.ops.nonlinear import BatchNormOp, GeluOp, LayerNormOp, ReduceMeanOp, ResizeOp, SoftmaxOp
from qvit.dialects.ops.products import Conv2dOp, ConvTranspose2dOp, LinearOp, MatmulOp
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.ops.shape import BroadcastOp, ConcatOp, GatherOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.semantics import nonlinear
from qvit.dialects.semantics.integers import Array, Rounding
from qvit.dialects.semantics.quantization import along, quantize
from qvit.dialects.types import element_dtype, element_of, element_type, int_type, is_float, shape_of
from qvit.frontends.onnx.graph import Constant, Node, Value

Handler = Callable[[Node], "Value | list[Value]"]


def _binary(op: type[ArithmeticOp] | type[FloatBinaryOp]) -> Handler:
    return lambda node: node.emit(op(node.float_tensor(0), node.float_tensor(1)))


def _unary(op: type[FloatUnaryOp]) -> Handler:
    return lambda node: node.emit(op(node.float_tensor(0)))


def _matmul(node: Node) -> Value:
    lhs, rhs = node.float_tensor(0), node.float_tensor(1)
    if min(len(shape_of(lhs)), len(shape_of(rhs))) < 2:
        node.refuse("a product with a vector is not read", "give it two dimensions with Unsqueeze and Squeeze")
    return node.emit(MatmulOp(lhs, rhs))


def _scaled(node: Node, value: SSAValue, factor: float, what: str) -> SSAValue:
    if factor == 1.0:
        return value
    number = np.array(factor, element_dtype(element_of(value)))
    constant = node.graph.ssa(Constant(f"{node.name}.{what}", number))
    return node.emit(MulOp(value, constant))


def _gemm(node: Node) -> Value:
    """alpha A' B' + beta C as a linear layer, whose weight is B'^T."""
    a, b = node.float_tensor(0), node.float_tensor(1)
    if node.attribute("transA", 0):
        a = node.graph.emit(TransposeOp(a, [1, 0]))
    if not node.attribute("transB", 0):
        b = node.graph.emit(TransposeOp(b, [1, 0]))
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    if not node.has(2):
        return _scaled(node, node.emit(LinearOp(a, b)), alpha, "alpha")
    c = _scaled(node, node.float_tensor(2), beta, "beta")
    if alpha == 1.0 and shape_of(c) == (shape_of(b)[0],):
        return node.emit(LinearOp(a, b, c))
    return node.emit(AddOp(_scaled(node, node.emit(LinearOp(a, b)), alpha, "alpha"), c))


def _padding(node: Node, kernel: Sequence[int]) -> list[int]:
    stated = node.attribute("kernel_shape", list(kernel))
    if list(stated) != list(kernel):
        node.refuse(f"kernel_shape is {list(stated)}, the weight's is {list(kernel)}", "the model is damaged")
    mode = node.attribute("auto_pad", b"NOTSET")
    if mode == b"VALID":
        return [0, 0, 0, 0]
    if mode != b"NOTSET":
        node.refuse(f"auto_pad {mode.decode()} is not read", "export the model with explicit pads")
    return list(node.attribute("pads", [0] * 2 * len(kernel)))


def _two_dimensional(node: Node) -> None:
    if (rank := len(node.shape(0))) != 4:
        node.refuse(f"its input has {rank} dimensions, expected 4 (NCHW)", "only 2-D convolutions are read")


def _conv(node: Node) -> Value:
    _two_dimensional(node)
    weight = node.float_tensor(1)
    return node.emit(
        Conv2dOp(
            node.float_tensor(0),
            weight,
            node.float_tensor(2) if node.has(2) else None,
            strides=node.attribute("strides", [1, 1]),
            padding=_padding(node, shape_of(weight)[2:]),
            dilations=node.attribute("dilations", [1, 1]),
            groups=node.attribute("group", 1),
        )
    )


def _conv_transpose(node: Node) -> Value:
    _two_dimensional(node)
    if "output_shape" in node.attributes:
        node.refuse("output_shape is not read", "export the model with explicit pads")
    weight = node.float_tensor(1)
    return node.emit(
        ConvTranspose2dOp(
            node.float_tensor(0),
            weight,
            node.float_tensor(2) if node.has(2) else None,
            strides=node.attribute("strides", [1, 1]),
            padding=_padding(node, shape_of(weight)[2:]),
            dilations=node.attribute("dilations", [1, 1]),
            groups=node.attribute("group", 1),
            output_padding=node.attribute("output_padding", [0, 0]),
        )
    )


def _softmax(node: Node) -> Value:
    x = node.float_tensor(0)
    return node.emit(SoftmaxOp(x, node.axis(node.attribute("axis", -1), len(shape_of(x)))))


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


def _shape(node: Node) -> Value:
    whole = node.shape(0)
    part = whole[node.attribute("start", 0) : node.attribute("end", len(whole))]
    return Constant(node.outputs[0], np.array(part, np.int64))


def _to_shape(node: Node, shape: Sequence[int]) -> Value:
    return node.emit(ReshapeOp(node.tensor(0), shape))


def _reshape(node: Node) -> Value:
    before = node.shape(0)
    sizes = [int(d) for d in node.constant(1, "the new shape")]
    if not node.attribute("allowzero", 0):
        sizes = [before[i] if d == 0 and i < len(before) else d for i, d in enumerate(sizes)]
    if sizes.count(-1) > 1:
        node.refuse(f"the new shape {sizes} leaves two dimensions open", "the model is damaged")
    if -1 in sizes:
        known = int(np.prod([d for d in sizes if d != -1]))
        sizes[sizes.index(-1)] = int(np.prod(before)) // max(known, 1)
    return _to_shape(node, sizes)


def _squeeze(node: Node) -> Value:
    before = node.shape(0)
    given = node.optional_constant(1, "axes")
    axes = [i for i, d in enumerate(before) if d == 1] if given is None else [node.axis(a, len(before)) for a in given]
    return _to_shape(node, [d for i, d in enumerate(before) if i not in axes])


def _unsqueeze(node: Node) -> Value:
    shape = list(node.shape(0))
    axes = np.atleast_1d(node.constant(1, "axes")).tolist()  # some writers give one axis as a scalar
    for axis in sorted(node.axis(a, len(shape) + len(axes)) for a in axes):
        shape.insert(axis, 1)
    return _to_shape(node, shape)


def _flatten(node: Node) -> Value:
    before = node.shape(0)
    axis = node.attribute("axis", 1)
    axis = axis if axis == len(before) else node.axis(axis, len(before))
    return _to_shape(node, [int(np.prod(before[:axis])), int(np.prod(before[axis:]))])


def _transpose(node: Node) -> Value:
    rank = len(node.shape(0))
    return node.emit(TransposeOp(node.tensor(0), node.attribute("perm", list(reversed(range(rank))))))


def _slice(node: Node) -> Value:
    value = node.tensor(0)
    starts, ends = node.constant(1, "starts").tolist(), node.constant(2, "ends").tolist()
    rank = len(shape_of(value))
    axes = node.optional_constant(3, "axes")
    steps = node.optional_constant(4, "steps")
    axes = list(range(len(starts))) if axes is None else [node.axis(a, rank) for a in axes.tolist()]
    steps = [1] * len(starts) if steps is None else steps.tolist()
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        extent = range(shape_of(value)[axis])[start:end:step]  # Python's slices clamp as ONNX's do
        if len(extent) == 0:
            node.refuse(f"nothing is left of axis {axis}", "the model is damaged")
        value = node.emit(SliceOp(value, axis, extent.start, len(extent), extent.step))
    return value


def _split(node: Node) -> list[Value]:
    value = node.tensor(0)
    axis = node.axis(node.attribute("axis", 0), len(shape_of(value)))
    length = shape_of(value)[axis]
    if node.has(1):
        sizes = node.constant(1, "the sizes of the parts").tolist()
    elif "split" in node.attributes:
        sizes = list(node.attributes["split"])
    else:
        count = node.attribute("num_outputs", len(node.outputs))
        if count != len(node.outputs) or (node.graph.opset < 18 and length % count):
            node.refuse(f"{length} elements do not fall into {len(node.outputs)} parts", "the model is damaged")
        part = -(-length // count)
        sizes = [min(part, length - i * part) for i in range(count)]
    if sum(sizes) != length or len(sizes) != len(node.outputs):
        outputs = f"{len(node.outputs)} outputs"
        node.refuse(
            f"parts {sizes} do not add up to the {length} elements of axis {axis}, or to {outputs}", "it is damaged"
        )
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    return [node.emit(SliceOp(value, axis, start, size)) for start, size in zip(starts, sizes, strict=True)]


def _concat(node: Node) -> Value:
    tensors = [node.tensor(i) for i in range(len(node.inputs))]
    return node.emit(ConcatOp(tensors, node.axis(node.attribute("axis", 0), len(shape_of(tensors[0])))))


def _gather(node: Node) -> Value:
    value = node.tensor(0)
    axis = node.axis(node.attribute("axis", 0), len(shape_of(value)))
    indices = node.constant(1, "indices")
    length = shape_of(value)[axis]
    if indices.size and not (-length <= indices.min() and indices.max() < length):
        node.refuse(f"indices reach outside the {length} elements of axis {axis}", "the model is damaged")
    indices = np.where(indices < 0, indices + length, indices)
    if indices.ndim == 0:
        part = node.emit(SliceOp(value, axis, int(indices), 1))
        shape = shape_of(part)
        return node.emit(ReshapeOp(part, (*shape[:axis], *shape[axis + 1 :])))
    constant = node.graph.ssa(Constant(f"{node.name}.indices", indices.astype(np.int32)))
    return node.emit(GatherOp(value, constant, axis))


def _expand(node: Node) -> Value:
    value = node.tensor(0)
    shape = [int(d) for d in node.constant(1, "the new shape")]
    return node.emit(BroadcastOp(value, np.broadcast_shapes(shape_of(value), tuple(shape))))


def _cast(node: Node) -> Value:
    from onnx import helper

    value = node.tensor(0)
    target = element_type(np.dtype(helper.tensor_dtype_to_np_dtype(node.attributes["to"])))
    if target != element_of(value):
        node.refuse(f"a cast from {element_of(value)} to {target} is not read", "only casts that change nothing are")
    return value


def _resize_options(node: Node, before: Sequence[int], sizes: Array | None, scales: Array | None) -> dict[str, Any]:
    mode = node.attribute("mode", b"nearest").decode()
    coordinates = node.attribute("coordinate_transformation_mode", b"half_pixel").decode()
    nearest = node.attribute("nearest_mode", b"round_prefer_floor").decode()
    policy = node.attribute("keep_aspect_ratio_policy", b"stretch").decode()
    if node.attribute("antialias", 0) or node.attribute("exclude_outside", 0) or "axes" in node.attributes:
        node.refuse("antialias, exclude_outside and axes are not read", "export the model without them")
    if policy != "stretch":
        node.refuse(f"keep_aspect_ratio_policy {policy} is not read", "export the model with explicit sizes")
    if mode not in ResizeOp.MODES or coordinates not in ResizeOp.COORDINATES:
        node.refuse(f"mode {mode} with coordinates {coordinates} is not read", "export it as bilinear interpolation")
    if mode == "nearest" and nearest != "round_prefer_floor":
        node.refuse(f"nearest_mode {nearest} is not read", "only round_prefer_floor is")
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


def _identity(node: Node) -> Value:
    return node.value(0)


def _dropout(node: Node) -> Value:
    if len(node.outputs) > 1:
        node.refuse(f"its mask {node.outputs[1]!r} is used", "export the model for inference")
    if node.has(2) and node.constant(2, "training_mode").any():
        node.refuse("it drops elements at random (training_mode)", "export the model for inference")
    return node.value(0)


def _parameters(node: Node, rank: int) -> tuple[Array, Array, int | None]:
    """Scale, zero point (int64) and axis of a Q or DQ node: vectors along the axis, or numbers without one."""
    if node.attribute("block_size", 0):
        node.refuse("scales of blocks (block_size) are not read", "quantize per tensor or per channel")
    scale = node.constant(1, "the scale")
    zero = node.optional_constant(2, "the zero point")
    if scale.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        node.refuse(f"its scale is {scale.dtype}", "only float32 scales are read")
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        node.refuse("its scale is not positive and finite", "calibrate the model again: a range is empty or missing")
    zero = np.zeros((), np.int64) if zero is None else zero.astype(np.int64)
    if scale.size == 0 or zero.size not in (1, scale.size):
        node.refuse(
            f"scale and zero point have different lengths: {scale.size} and {zero.size}", "the model is damaged"
        )
    if scale.size == 1:
        return scale.reshape(()), zero.reshape(()), None
    if scale.ndim != 1:
        node.refuse(f"its scale has shape {scale.shape}", "quantize per tensor or per channel")
    return scale, zero.reshape(-1) if zero.size > 1 else zero.reshape(()), node.axis(node.attribute("axis", 1), rank)


def _quantize(node: Node) -> Value:
    zero = node.optional_constant(2, "the zero point")
    if zero is None and node.attribute("output_dtype", 0):
        node.refuse("output_dtype without a zero point is not read", "give the node a zero point")
    element = IntegerType(8, Signedness.UNSIGNED) if zero is None else _codes(node, zero)
    value = node.value(0)
    scale, zero_point, axis = _parameters(node, len(node.shape(0)))
    codes = int_type(element)
    if isinstance(value, Constant) and value.array.dtype == np.float32 and codes is not None:
        # a weight that is quantized in the graph: fold it, in float32 as ONNX has it
        laid_scale, laid_zero = (along(v, axis, value.array.ndim) for v in (scale, zero_point))
        return Constant(node.name, quantize(value.array, laid_scale, laid_zero, Rounding.HALF_EVEN, codes))
    return node.emit(QuantizeOp(node.float_tensor(0), QParamsAttr.of(scale, zero_point, axis), element))


def _codes(node: Node, zero: Array) -> Any:
    if zero.dtype.kind not in "iu" or zero.dtype.itemsize > 4:
        node.refuse(f"codes of type {zero.dtype} are not read", "quantize to int8, uint8, int16 or uint16")
    return element_type(zero.dtype)


def _dequantize(node: Node) -> Value:
    codes = node.tensor(0)
    if is_float(element_of(codes)):
        node.refuse(f"its input has elements of type {element_of(codes)}, expected integers", "the model is damaged")
    return node.emit(DequantizeOp(codes, QParamsAttr.of(*_parameters(node, len(shape_of(codes))))))


HANDLERS: dict[tuple[str, str], Handler] = {
    ("", "Add"): _binary(AddOp),
    ("", "Sub"): _binary(SubOp),
    ("", "Mul"): _binary(MulOp),
    ("", "Div"): _binary(DivOp),
    ("", "Pow"): _binary(PowOp),
    ("", "Sqrt"): _unary(SqrtOp),
    ("", "Erf"): _unary(ErfOp),
    ("", "Tanh"): _unary(TanhOp),
    ("", "Sigmoid"): _unary(SigmoidOp),
    ("", "Relu"): _unary(ReluOp),
    ("", "MatMul"): _matmul,
    ("", "Gemm"): _gemm,
    ("", "Conv"): _conv,
    ("", "ConvTranspose"): _conv_transpose,
    ("", "Softmax"): _softmax,
    ("", "LayerNormalization"): _layer_normalization,
    ("", "Gelu"): _gelu,
    ("", "BatchNormalization"): _batch_normalization,
    ("", "ReduceMean"): _reduce_mean,
    ("", "Resize"): _resize,
    ("", "Shape"): _shape,
    ("", "Reshape"): _reshape,
    ("", "Squeeze"): _squeeze,
    ("", "Unsqueeze"): _unsqueeze,
    ("", "Flatten"): _flatten,
    ("", "Transpose"): _transpose,
    ("", "Slice"): _slice,
    ("", "Split"): _split,
    ("", "Concat"): _concat,
    ("", "Gather"): _gather,
    ("", "Expand"): _expand,
    ("", "Cast"): _cast,
    ("", "Identity"): _identity,
    ("", "Dropout"): _dropout,
    ("", "QuantizeLinear"): _quantize,
    ("", "DequantizeLinear"): _dequantize,
    ("com.microsoft", "QuantizeLinear"): _quantize,
    ("com.microsoft", "DequantizeLinear"): _dequantize,
    ("com.microsoft", "Gelu"): _gelu,
}
"""(domain, operator) -> handler. A node whose inputs are all constants is folded and never gets here."""

FOLDERS: dict[tuple[str, str], Callable[[Node, Sequence[Array | None]], Array]] = {("", "Resize"): _fold_resize}
"""Operators that are folded by the dialect's own semantics instead of the reference evaluator."""
