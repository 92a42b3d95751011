"""Matrix products and convolutions.

Sums are exact: where a proof from the constants at hand is missing, they are kept modulo 2^32 or 2^64, so that one that
fits the result is right, whatever its parts are.
"""

from dataclasses import dataclass

import numpy as np
from xdsl.ir import SSAValue

from qvit.backends.c.loops import Access, At, broadcast, dense, loop, part, shared
from qvit.backends.c.step import Context, Share, Step, c_type, indented, literal, narrowest, type_of
from qvit.dialects.attributes import ZeroPointAttr
from qvit.dialects.ops.products import Conv2dOp, LinearOp, MatmulOp, ShiftMatmulOp
from qvit.dialects.semantics.integers import Array, Int64, IntType, magnitude, widen
from qvit.dialects.types import shape_of


@dataclass(frozen=True)
class Wrapping:
    """How C adds up modulo the size of a result: the unsigned type of sums, and the functions to it and back."""

    type: str
    to: str
    back: str

    @staticmethod
    def of(result: IntType) -> "Wrapping":
        bits = 64 if result.bits > 32 else 32
        return Wrapping(f"uint{bits}_t", f"qk_u{bits}", f"qk_i{bits}")


def zero_term(zero: Array, name: str, index: str) -> tuple[str, dict[str, Array]]:
    """(the C expression of a zero point at an index, the constant that it needs)."""
    if zero.ndim:
        return f"{name}[{index}]", {name: narrowest(zero)}
    return literal(int(zero)), {}


def less(x: str, zero: str) -> str:
    """x - zero, without what changes nothing."""
    return x if zero == "0" else f"({x} - {zero})" if not zero.startswith("-") else f"({x} + {zero[1:]})"


def limit(value: SSAValue, zero: Array) -> int:
    """What |x - zero| cannot exceed, by the type of x."""
    held = type_of(value)
    return max(-held.lo, held.hi) + magnitude(zero)


def centred(value: SSAValue, x: str, zero: Array, term: str, sums: Wrapping) -> str:
    """x - zero for sums that wrap; exact modulo their size."""
    if limit(value, zero) < 1 << 31:
        return f"{sums.to}({less(x, term).removeprefix('(').removesuffix(')')})"
    return f"{sums.to}({x})" if term == "0" else f"({sums.to}({x}) - {sums.to}({term}))"


def linear(ctx: Context, op: LinearOp) -> Step:
    result = type_of(op.result)
    zx, zw = ctx.zero_point(op.input_zero_point), ctx.zero_point(op.weight_zero_point)
    outputs, inputs = shape_of(op.weight)
    rows = int(np.prod(shape_of(op.input)[:-1], dtype=np.int64))
    operands = {"x": op.input, "w": op.weight}
    weight, bias = ctx.constant(op.weight), None if op.bias is None else ctx.constant(op.bias)
    if weight is not None and not zw.any() and (op.bias is None or bias is not None):
        folded = _folded(op, widen(weight), zx, bias)
        if folded is not None:
            dot = loop("k", inputs, "sum += x[k] * w[k];")
            body = f"int32_t sum = 0;\n{dot}\ny[n] = sum + b[n];"
            text, share = _rows(rows, outputs, inputs, body)
            return Step((op,), operands, {"y": op.result}, text, {"b": folded}, share=share)
    term, constants = zero_term(zw, "zw", "n")
    if op.bias is not None:
        operands["b"] = op.bias
    sums = Wrapping.of(result)
    start = f"{sums.to}(b[n])" if op.bias is not None else "0"
    left = centred(op.input, "x[k]", zx, literal(int(zx)), sums)
    right = centred(op.weight, "w[k]", zw, term, sums)
    dot = loop("k", inputs, f"sum += {left} * {right};")
    body = f"{sums.type} sum = {start};\n{dot}\ny[n] = {sums.back}(sum);"
    text, share = _rows(rows, outputs, inputs, body)
    return Step((op,), operands, {"y": op.result}, text, constants, share=share)


def _folded(op: LinearOp, weight: Int64, zx: Array, bias: Array | None) -> Array | None:
    """bias - zx * sum_k w, int32, where no sum of x w, nor one with it, can leave 32 bits; else None."""
    columns = np.abs(weight).sum(1)
    start = -zx * weight.sum(1) + (0 if bias is None else widen(bias))
    held = type_of(op.input)
    if type_of(op.result).bits > 32 or held.bits > 16 or magnitude(start) >= 1 << 31:
        return None
    largest = int(columns.max(initial=0)) * max(-held.lo, held.hi) + magnitude(start)
    return start.astype(np.int32) if largest < 1 << 31 else None


def _rows(rows: int, outputs: int, inputs: int, body: str) -> tuple[str, Share]:
    """For each row x of the input and y of the result, and each row w of the weights."""
    if rows == 1:
        return (
            f"w += begin * {inputs};\nfor (size_t n = begin; n < end; ++n, w += {inputs}) {{\n{indented(body)}}}",
            Share(outputs),
        )
    columns = f"for (size_t n = 0; n < {outputs}; ++n, w += {inputs}) {{\n{indented(body)}}}"
    start = f"x += begin * {inputs};\ny += begin * {outputs};\n"
    head = f"for (size_t m = begin; m < end; ++m, x += {inputs}, y += {outputs}, w -= {outputs * inputs}) {{"
    return f"{start}{head}\n{indented(columns)}}}", Share(rows)


def matmul(ctx: Context, op: MatmulOp) -> Step:
    zero = ctx.zero_point(op.lhs_zero_point)
    factor = centred(op.lhs, "left[{a}]", zero, literal(int(zero)), Wrapping.of(type_of(op.result)))
    return _matmul(ctx, op, op.lhs, op.rhs, op.rhs_zero_point, factor)


def shift_matmul(ctx: Context, op: ShiftMatmulOp) -> Step:
    sums = Wrapping.of(type_of(op.result))
    factor = f"{sums.to}(left[{{a}}] > 15 ? 0 : 32768 >> left[{{a}}])"
    return _matmul(ctx, op, op.lhs, op.rhs, op.rhs_zero_point, factor)


def _matmul(
    ctx: Context,
    op: MatmulOp | ShiftMatmulOp,
    lhs: SSAValue,
    rhs: SSAValue,
    rhs_zero_point: ZeroPointAttr | None,
    factor: str,
) -> Step:
    """Every row of the result is a sum of rows of rhs, each times a number of lhs."""
    result, shape = type_of(op.result), shape_of(op.result)
    (*batch, rows, columns), depth = shape, shape_of(lhs)[-1]
    zero = ctx.zero_point(rhs_zero_point)
    term, constants = zero_term(zero, "zb", "n")
    sums = Wrapping.of(result)
    b = centred(rhs, "row[n]", zero, term, sums)
    product = loop("n", columns, f"to[n] = {sums.back}({sums.to}(to[n]) + factor * {b});")
    left = broadcast(shape_of(lhs)[:-2], batch)
    right = broadcast(shape_of(rhs)[:-2], batch)
    accesses = {
        "a": Access((*[s * rows * depth for s in left.strides], depth)),
        "b": Access((*[s * depth * columns for s in right.strides], 0)),
        "y": Access(dense(shape).strides[:-1]),
    }
    types = {"a": c_type(type_of(lhs)), "b": c_type(type_of(rhs)), "y": c_type(result)}

    def body(at: At) -> str:
        cleared = f"{types['y']} *to = y + {at['y']};\nmemset(to, 0, {columns} * sizeof *to);\n"
        if not depth:
            return cleared
        number = f"const {sums.type} factor = {factor.format(a='k')};\n{product}"
        terms = loop("k", depth, number).replace("++k", f"++k, row += {columns}", 1)
        rows = f"const {types['a']} *left = a + {at['a']};\nconst {types['b']} *row = b + {at['b']};\n"
        return f"{rows}{cleared}{terms}"

    text, share = shared((*batch, rows), accesses, body)
    return Step((op,), {"a": lhs, "b": rhs}, {"y": op.result}, text, constants, share=share)


def conv2d(ctx: Context, op: Conv2dOp) -> Step:
    """Sums over the window of every pixel of the result; what is padding adds nothing."""
    result = type_of(op.result)
    zx, zw = ctx.zero_point(op.input_zero_point), ctx.zero_point(op.weight_zero_point)
    (sy, sx), (top, left, _, _), (dy, dx), groups = op.geometry
    batch, channels, height, width = shape_of(op.input)
    outputs, depth, kernel_h, kernel_w = shape_of(op.weight)
    _, _, out_h, out_w = shape_of(op.result)
    operands = {"x": op.input, "w": op.weight}
    if op.bias is not None:
        operands["b"] = op.bias
    sums = Wrapping.of(result)
    term, constants = zero_term(zw, "zw", "o")
    x = centred(op.input, f"x[plane + row * {width} + column]", zx, literal(int(zx)), sums)
    w = centred(op.weight, f"w[((o * {depth} + c) * {kernel_h} + p) * {kernel_w} + q]", zw, term, sums)
    # a pixel above or left of the image has a number that wraps to a large one
    inner = loop(
        "q",
        kernel_w,
        f"const size_t column = j * {sx} + q * {dx} - {left};\nif (column < {width}) {{\n    sum += {x} * {w};\n}}",
    )
    rows = loop(
        "p", kernel_h, f"const size_t row = i * {sy} + p * {dy} - {top};\nif (row < {height}) {{\n{indented(inner)}}}"
    )
    first = f"(n * {channels} + o / {outputs // groups} * {depth} + c) * {height * width}"
    planes = loop("c", depth, f"const size_t plane = {first};\n{rows}")
    start = f"{sums.to}(b[o])" if op.bias is not None else "0"
    target = f"y[((n * {outputs} + o) * {out_h} + i) * {out_w} + j]"
    body = f"{sums.type} sum = {start};\n{planes}\n{target} = {sums.back}(sum);"
    body = loop("n", batch, part("o", loop("i", out_h, loop("j", out_w, body))))
    return Step((op,), operands, {"y": op.result}, body, constants, share=Share(outputs))
