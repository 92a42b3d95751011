"""Softmax, normalisations, GELU, means, pooling and interpolation."""

from math import prod

import numpy as np

from qvit.dialects.ops.elementwise import MulOp
from qvit.dialects.ops.nonlinear import (
    ArgmaxOp,
    BatchNormOp,
    GeluOp,
    LayerNormOp,
    ReduceMeanOp,
    ResizeOp,
    SoftmaxOp,
)
from qvit.dialects.ops.products import Conv2dOp
from qvit.dialects.ops.shape import ReshapeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.types import element_dtype, element_of, shape_of
from qvit.frontends.builder import Value
from qvit.frontends.torch.graph import Handler, Node


def _softmax(node: Node) -> Value:
    x = node.float_tensor("self")
    return node.emit(SoftmaxOp(x, node.axis("dim", len(shape_of(x)))))


def _layer_norm(node: Node) -> Value:
    x = node.float_tensor("input")
    dims: list[int] = node.argument("normalized_shape")
    element = element_of(x)
    gamma = node.optional("weight")
    if gamma is None:
        gamma = node.emit(ConstantOp(np.ones(dims, element_dtype(element)), element))
    return node.emit(LayerNormOp(x, gamma, node.optional("bias"), node.argument("eps"), len(shape_of(x)) - len(dims)))


def _native_layer_norm(node: Node) -> list[Value]:
    node.fake = node.fake[0]
    return [_layer_norm(node)]


def _gelu(node: Node) -> Value:
    return node.emit(GeluOp(node.float_tensor("self"), node.argument("approximate") == "tanh"))


def _batch_norm(node: Node) -> Value:
    if node.argument("training"):
        node.refuse("it takes the statistics of the batch", "call model.eval() before torch.export.export")
    x = node.float_tensor("input")
    names = ("weight", "bias", "running_mean", "running_var")
    if any(node.argument(name) is None for name in names):
        node.refuse("it has no weight, bias or statistics", "give the layer affine=True and track_running_stats=True")
    gamma, beta, mean, variance = (node.float_tensor(name) for name in names)
    return node.emit(BatchNormOp(x, gamma, beta, mean, variance, node.argument("eps")))


def _reduction(summed: bool = False) -> Handler:
    """The mean over some or all dimensions; a sum is the mean times what it is the mean of."""

    def handler(node: Node) -> Value:
        x = node.float_tensor("self")
        rank, dims = len(shape_of(x)), node.argument("dim")
        axes = list(range(rank)) if not dims and dims != 0 else [d % rank for d in np.atleast_1d(dims).tolist()]
        mean = node.emit(ReduceMeanOp(x, sorted(axes), bool(node.argument("keepdim"))))
        return node.emit(MulOp(mean, node.number(float(prod(shape_of(x)[a] for a in axes)), mean))) if summed else mean

    return handler


def _argmax(node: Node) -> Value:
    x = node.tensor("self")
    if node.argument("dim") is None:
        flat = node.emit(ReshapeOp(x, [prod(shape_of(x))]))
        return node.emit(ArgmaxOp(flat, 0, False))
    return node.emit(ArgmaxOp(x, node.axis("dim", len(shape_of(x))), bool(node.argument("keepdim"))))


def _adaptive_average(node: Node) -> Value:
    """Windows of equal size, else torch's own overlap."""
    x, sizes = node.float_tensor("self"), list(node.argument("output_size"))
    before = shape_of(x)[-len(sizes) :]
    if all(size == 1 for size in sizes):
        axes = range(len(shape_of(x)) - len(sizes), len(shape_of(x)))
        return node.emit(ReduceMeanOp(x, list(axes), True))
    if len(sizes) == 2 and all(b % s == 0 for b, s in zip(before, sizes, strict=True)):
        kernel = [b // s for b, s in zip(before, sizes, strict=True)]
        node.arguments |= {"kernel_size": kernel, "stride": kernel, "padding": [0, 0]}
        return _average(node)
    node.refuse(f"windows of {list(before)} into {sizes} parts overlap", "give it sizes that divide those of its input")


def _average(node: Node) -> Value:
    """Means over windows: a convolution that adds, times one over the number of elements that were added."""
    x = node.float_tensor("self")
    kernel, padding = node.argument("kernel_size"), node.argument("padding") or [0, 0]
    strides = node.argument("stride") or kernel
    kernel, padding, strides = ([*v] * 2 if len(v) == 1 else [*v] for v in (kernel, padding, strides))
    if node.argument("ceil_mode") or (any(padding) and not node.argument("count_include_pad")):
        node.refuse("ceil_mode and padding that is not counted are not read", "pad in front of it")
    channels, element = shape_of(x)[1], element_of(x)
    dtype = element_dtype(element)
    ones = node.emit(ConstantOp(np.ones((channels, 1, *kernel), dtype), element))
    sums = node.emit(Conv2dOp(x, ones, None, strides, [*padding, *padding], groups=channels))
    return node.emit(MulOp(sums, node.number(1 / prod(kernel), x)))


def _resize(mode: str) -> Handler:
    def handler(node: Node) -> Value:
        x = node.float_tensor("self" if node.argument("self") is not None else "input")
        before, after = shape_of(x)[-2:], node.shape[-2:]
        given = node.argument("scale_factors")
        scales = [b / a for a, b in zip(before, after, strict=True)] if given is None else [float(s) for s in given]
        coordinates = "align_corners" if node.argument("align_corners") else "half_pixel"
        kind = "nearest_floor" if mode == "nearest" else mode
        if kind == "nearest_floor":
            coordinates = "asymmetric"
        return node.emit(ResizeOp(x, list(after), scales, kind, coordinates))

    return handler


NONLINEAR: dict[str, Handler] = {
    "aten.softmax.int": _softmax,
    "aten._softmax.default": _softmax,
    "aten.layer_norm.default": _layer_norm,
    "aten.native_layer_norm.default": _native_layer_norm,
    "aten.gelu.default": _gelu,
    "aten.batch_norm.default": _batch_norm,
    "aten._native_batch_norm_legit_no_training.default": lambda node: [_batch_norm_of_core(node)],
    "aten.mean.dim": _reduction(),
    "aten.mean.default": _reduction(),
    "aten.sum.dim_IntList": _reduction(summed=True),
    "aten.sum.default": _reduction(summed=True),
    "aten.argmax.default": _argmax,
    "aten.adaptive_avg_pool1d.default": _adaptive_average,
    "aten.adaptive_avg_pool2d.default": _adaptive_average,
    "aten.avg_pool2d.default": _average,
    "aten.upsample_bilinear2d.vec": _resize("linear"),
    "aten.upsample_bicubic2d.vec": _resize("cubic"),
    "aten.upsample_nearest2d.vec": _resize("nearest"),
}


def _batch_norm_of_core(node: Node) -> Value:
    node.fake = node.fake[0]
    return _batch_norm(node)
