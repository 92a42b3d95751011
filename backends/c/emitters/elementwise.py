"""Elementwise arithmetic, choices, sums and the largest element."""

from collections.abc import Callable, Sequence

import numpy as np
from xdsl.ir import SSAValue

from qvit.backends.c.emitters.products import Wrapping
from qvit.backends.c.loops import Access, At, broadcast, dense, nest, shared, vector
from qvit.backends.c.step import Context, Share, Step, c_type, literal, type_of
from qvit.dialects.ops.elementwise import AddOp, ClipOp, CompareOp, MulOp, SelectOp, SubOp
from qvit.dialects.ops.nonlinear import ArgmaxOp, ReduceSumOp
from qvit.dialects.types import shape_of

_SIGNS: dict[type[AddOp | SubOp | MulOp], str] = {AddOp: "+", SubOp: "-", MulOp: "*"}
_RELATIONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


def arithmetic(_: Context, op: AddOp | SubOp | MulOp) -> Step:
    """Modulo the size of the result, so what fits is exact."""
    sums = Wrapping.of(type_of(op.result))

    def body(at: At) -> str:
        a, b = f"{sums.to}(a[{at['a']}])", f"{sums.to}(b[{at['b']}])"
        return f"y[{at['y']}] = {sums.back}({a} {_SIGNS[type(op)]} {b});"

    return _elementwise(op, {"a": op.lhs, "b": op.rhs}, op.result, body)


def clip(_: Context, op: ClipOp) -> Step:
    held, shape = type_of(op.input), shape_of(op.result)
    axis = None if op.axis is None else op.axis.value.data
    ends = {"low": held.lo, "high": held.hi}
    bounds = {name: ends[name] if bound is None else bound for name, bound in zip(ends, op.bounds, strict=True)}
    vectors = {
        name: bound.ravel().astype(held.dtype) for name, bound in bounds.items() if isinstance(bound, np.ndarray)
    }

    def body(at: At) -> str:
        low, high = (f"{n}[{at[n]}]" if n in vectors else literal(int(bounds[n])) for n in ends)
        return f"y[{at['y']}] = ({c_type(held)})qk_clamp((int64_t)x[{at['x']}], {low}, {high});"

    accesses = {"x": dense(shape), "y": dense(shape), **dict.fromkeys(vectors, vector(axis, len(shape)))}
    text, share = shared(shape, accesses, body)
    return Step((op,), {"x": op.input}, {"y": op.result}, text, vectors, share=share)


def compare(_: Context, op: CompareOp) -> Step:
    type_of(op.lhs)
    relation = _RELATIONS[op.predicate.data]
    return _elementwise(
        op, {"a": op.lhs, "b": op.rhs}, op.result, lambda at: f"y[{at['y']}] = a[{at['a']}] {relation} b[{at['b']}];"
    )


def select(_: Context, op: SelectOp) -> Step:
    type_of(op.lhs)
    return _elementwise(
        op,
        {"c": op.condition, "a": op.lhs, "b": op.rhs},
        op.result,
        lambda at: f"y[{at['y']}] = c[{at['c']}] ? a[{at['a']}] : b[{at['b']}];",
    )


def _elementwise(
    op: AddOp | SubOp | MulOp | CompareOp | SelectOp,
    operands: dict[str, SSAValue],
    result: SSAValue,
    body: Callable[[At], str],
) -> Step:
    shape = shape_of(result)
    accesses = {name: broadcast(shape_of(value), shape) for name, value in operands.items()}
    text, share = shared(shape, {**accesses, "y": dense(shape)}, body)
    return Step((op,), operands, {"y": result}, text, share=share)


def reduce_sum(_: Context, op: ReduceSumOp) -> Step:
    """Sums modulo the size of the result, so what fits is exact."""
    sums = Wrapping.of(type_of(op.result))
    shape, axes = shape_of(op.input), op.axes.get_values()
    kept, summed = _split(shape, axes)
    inner = nest(
        [shape[i] for i in summed],
        {"x": Access(tuple(dense(shape).strides[i] for i in summed))},
        lambda at: f"sum += {sums.to}(from[{at['x']}]);",
        "k",
    )

    def body(at: At) -> str:
        start = f"const {c_type(type_of(op.input))} *from = x + {at['x']};\n" if inner else ""
        return f"{start}{sums.type} sum = 0;\n{inner}\ny[{at['y']}] = {sums.back}(sum);"

    text, share = _outer(shape, kept, body)
    return Step((op,), {"x": op.input}, {"y": op.result}, text, share=share)


def argmax(_: Context, op: ArgmaxOp) -> Step:
    """The first of the largest elements."""
    shape, axis = shape_of(op.input), op.axis.value.data
    kept, _axis = _split(shape, [axis])
    stride, held = dense(shape).strides[axis], c_type(type_of(op.input))

    def body(at: At) -> str:
        index = "k" if stride == 1 else f"k * {stride}"
        return (
            f"const {held} *from = x + {at['x']};\nint64_t best = 0;\n{held} largest = from[0];\n"
            f"for (size_t k = 1; k < {shape[axis]}; ++k) {{\n"
            f"    if (from[{index}] > largest) {{\n        largest = from[{index}];\n        best = (int64_t)k;\n    }}\n}}\n"
            f"y[{at['y']}] = best;"
        )

    text, share = _outer(shape, kept, body)
    return Step((op,), {"x": op.input}, {"y": op.result}, text, share=share)


def _split(shape: Sequence[int], axes: Sequence[int]) -> tuple[list[int], list[int]]:
    """(the axes that are kept, those that are reduced)."""
    return [i for i in range(len(shape)) if i not in axes], [i for i in range(len(shape)) if i in axes]


def _outer(shape: Sequence[int], kept: Sequence[int], body: Callable[[At], str]) -> tuple[str, Share | None]:
    """A nest over the axes that are kept, of what is reduced: x there is its first element, y the result."""
    sizes = [shape[i] for i in kept]
    return shared(sizes, {"x": Access(tuple(dense(shape).strides[i] for i in kept)), "y": dense(sizes)}, body)
