"""Operations that the fast kernels (kernels/qk_gemm.h) take together: what follows a product is computed while its sums are at
hand, and attention keeps its scores to itself. The results are the same integers.

A fusion looks at the operation that comes last, and back from there. It returns a step, or None where the kernels do not
apply: those take 8-bit operands, round half up, and have 32-bit sums, of which no order of additions may overflow.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias, TypeVar

import numpy as np
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, SSAValue

from qvit.backends.c import packing
from qvit.backends.c.emitters.quantization import factor, whole
from qvit.backends.c.loops import of_elements, row_major
from qvit.backends.c.plan import aligned
from qvit.backends.c.step import CompileError, Context, Share, Step, literal, size_of, type_of
from qvit.dialects.approximations import Ln, Quad, Sm8Late, Table
from qvit.dialects.approximations.base import RangeError, look_up
from qvit.dialects.attributes import Form
from qvit.dialects.ops.approximated import IntFunctionOp, IntLayerNormOp, IntSoftmaxOp
from qvit.dialects.ops.products import Conv2dOp, LinearOp, MatmulOp
from qvit.dialects.ops.quantization import AddRequantOp, RequantizeOp
from qvit.dialects.ops.shape import ReshapeOp, TransposeOp
from qvit.dialects.semantics.integers import Array, IntType, Rounding, magnitude, widen
from qvit.dialects.types import shape_of

HEADERS = ("qk_gemm.h",)
I16, I32 = IntType(16), IntType(32)


def fuse(ctx: Context, function: FuncOp) -> tuple[Mapping[Operation, Step], set[Operation]]:
    """(the step in the place of an operation, those operations that the steps of others compute)."""
    steps: dict[Operation, Step] = {}
    taken: set[Operation] = set()
    # from the end, so that the longest chain is tried first
    for op in reversed(list(function.body.block.ops)):
        if op in taken:
            continue
        for fusion in FUSIONS:
            step = fusion(ctx, op)
            if step is not None and not taken.intersection(step.ops):
                steps[op] = step
                taken.update(step.ops[:-1])
                break
    return steps, taken


# --- what kernels take ---

Op = TypeVar("Op", bound=Operation)


def _only(value: SSAValue, kind: type[Op]) -> Op | None:
    """The operation of that kind that makes a value which is used once."""
    return value.owner if isinstance(value.owner, kind) and value.has_one_use() else None


def _behind_reshapes(value: SSAValue, kind: type[Op]) -> tuple[Op, list[Operation]] | None:
    """As `_only`, with the reshapes in between, the last first."""
    reshapes: list[Operation] = []
    while (reshape := _only(value, ReshapeOp)) is not None:
        reshapes.append(reshape)
        value = reshape.input
    found = _only(value, kind)
    return None if found is None else (found, reshapes)


def _element(held: IntType) -> str | None:
    """The kernels' name of a result's type."""
    if held.bits <= 8:
        return "s8" if held.signed else "u8"
    if not held.signed or held.bits > 32:
        return None
    return "s16" if held.bits <= 16 else "s32"


def _number(ctx: Context, op: RequantizeOp | AddRequantOp, form: Form) -> tuple[Array, Array] | None:
    """(multiplier, shift) as the kernels take them."""
    try:
        found = whole(factor(ctx, op, form))
    except CompileError:
        return None
    fits = magnitude(found.multiplier) < 1 << 31 and magnitude(found.shift) <= 62
    return (found.multiplier, found.shift) if fits else None


def _scalar(ctx: Context, op: RequantizeOp | AddRequantOp, form: Form) -> tuple[int, int] | None:
    found = _number(ctx, op, form)
    return None if found is None or found[0].ndim or found[1].ndim else (int(found[0]), int(found[1]))


@dataclass(frozen=True)
class _Codes:
    """What becomes of sums: clip(round((sum - before) mult / 2^shift) + zero), in `type`."""

    mult: Array
    shift: Array
    before: Array
    zero: int
    type: IntType


def _codes(ctx: Context, op: RequantizeOp, axis: int) -> _Codes | None:
    """A requantize by one factor, or one for each index along `axis`."""
    form, zero, held = _number(ctx, op, op.form), ctx.zero_point(op.zero_point), type_of(op.result)
    along = axis if op.axis is None else op.axis.value.data
    if form is None or op.divisor is not None or op.rounding.data is not Rounding.HALF_UP or along != axis:
        return None
    if zero.ndim or magnitude(zero) >= 1 << 16 or type_of(op.input) != I32 or _element(held) is None:
        return None
    return _Codes(*form, ctx.zero_point(op.input_zero_point), int(zero), held)


# --- linear layers ---


@dataclass(frozen=True)
class _Function:
    """What follows the codes of a layer: its C declarations, how the layer points to it, constants, and the result's type."""

    declaration: str
    quad: str
    table: str
    constants: Mapping[str, Array]
    type: IntType


_NOTHING = ("NULL", "NULL")


def _function(ctx: Context, op: IntFunctionOp) -> _Function | None:
    codes, result = type_of(op.input), type_of(op.result)
    tables = [ctx.constant(value) for value in op.tables]
    zero, approximation = int(ctx.zero_point(op.input_zero_point)), op.approximation.data
    known = [table for table in tables if table is not None]
    if len(known) != len(tables):
        return None
    reached = (codes.lo - zero, codes.hi - zero)
    try:
        match approximation:
            case Quad() if codes.signed and 8 < codes.bits <= 16:
                approximation.check(reached, known)
                return _quad(approximation, known, zero, result)
            case Table() if codes.bits <= 8 and result.bits <= 8:
                approximation.check(reached, known)
                return _table(approximation, known[0], zero, codes, result)
            case _:
                return None
    except RangeError:
        return None


def _quad(approximation: Quad, tables: Sequence[Array], zero: int, result: IntType) -> _Function | None:
    pieces, element = len(tables[0]), _element(result)
    if pieces > 64 or element is None or result.bits > 16 or (approximation.form and zero):
        return None
    if any(magnitude(table) >= 1 << 15 for table in tables):
        return None
    numbers = (
        *(approximation.form, approximation.lowest + zero, approximation.segment, approximation.guard),
        *(approximation.offset, pieces, result.lo, result.hi),
    )
    names = ("constant", "linear", "square")
    padded = {n: np.pad(t.astype(np.int16), (0, 64 - pieces)) for n, t in zip(names, tables, strict=True)}
    declaration = f"const qk_quad f = {{{', '.join((*map(literal, numbers), *names))}}};\n"
    return _Function(declaration, "&f", "NULL", padded, result)


def _table(approximation: Table, table: Array, zero: int, codes: IntType, result: IntType) -> _Function:
    reached = np.arange(codes.lo, codes.hi + 1)
    values = np.zeros(256, np.uint8)
    # what does not fit the result's type, an error in the interpreter, is the nearest that fits
    values[reached & 255] = look_up(table, reached - zero - approximation.lowest).clip(result.lo, result.hi) & 255
    return _Function("", "NULL", "table", {"table": values}, result)


@dataclass(frozen=True)
class _Layer:
    """A layer as C: `layer` is declared, of `constants`; written: the qk_type of its result; scratch: what computing it takes;
    type: of its result."""

    declaration: str
    constants: Mapping[str, Array]
    written: str
    scratch: int
    type: IntType


def _layer(
    weight: Array,
    kept: IntType,
    bias: Array | None,
    zero_point: int,
    signed: bool,
    codes: _Codes | None,
    function: _Function | None,
) -> _Layer | None:
    """weight [n, k], kept: its type. codes None: the sums themselves."""
    n, k = weight.shape
    if not n or not k or weight.min() < -128 or weight.max() > 127:
        return None
    mult, shift, before = (codes.mult, codes.shift, codes.before) if codes else (np.array(1), np.array(0), np.array(0))
    offset = (np.zeros(n, np.int64) if bias is None else widen(bias)) - before
    packed = packing.layer(weight, offset, zero_point, signed, mult, shift, kept)
    if packed is None:
        return None
    held = codes.type if codes else I32
    quad, table = (function.quad, function.table) if function else _NOTHING
    declaration = (
        (function.declaration if function else "")
        + f"const qk_layer layer = {{{n}, {k}, panels, bias, {'mult, shift' if codes else 'NULL, NULL'},"
        + f" {codes.zero if codes else 0}, {literal(held.lo)}, {literal(held.hi)}, {quad}, {table},"
        + f" {packed.held.bits}, {packed.sign}}};\n"
    )
    constants = {"panels": packed.panels, "bias": packed.bias, **(function.constants if function else {})}
    if codes:
        constants |= {"mult": packed.mult, "shift": packed.shift}
    result = function.type if function else held
    if (element := _element(result)) is None:
        return None
    scratch = linear_scratch(k) if packed.held.bits == 8 else packed_scratch(k)
    return _Layer(declaration, constants, f"QK_{(element if codes else 'acc').upper()}", scratch, result)


def linear_scratch(k: int) -> int:
    """qk_linear_scratch."""
    return 16 * 64 * 6 + aligned(16 * (k + 4))


def packed_scratch(k: int) -> int:
    """qk_packed_scratch."""
    return linear_scratch(k) + 64 * -(-k // 4) * 4


def linear(ctx: Context, op: Operation) -> Step | None:
    """linear, requantize and a function of the codes; or less of it."""
    ops: list[Operation] = [op]
    function: _Function | None = None
    if isinstance(op, IntFunctionOp):
        found = _behind_reshapes(op.input, RequantizeOp)
        function = _function(ctx, op)
        if found is None or function is None:
            return None
        last, ops = found[0], [found[0], *reversed(found[1]), op]
    else:
        last = op
    codes: _Codes | None = None
    if isinstance(last, RequantizeOp):
        found = _behind_reshapes(last.input, LinearOp)
        codes = _codes(ctx, last, len(shape_of(last.result)) - 1)
        if found is None or codes is None or shape_of(last.result)[-1] != shape_of(found[0].result)[-1]:
            return None
        product, ops = found[0], [found[0], *reversed(found[1]), *ops]
    elif isinstance(last, LinearOp) and type_of(last.result) == I32:
        product = last
    else:
        return None
    weight, bias = ctx.constant(product.weight), None if product.bias is None else ctx.constant(product.bias)
    held, zero, shape = type_of(product.input), ctx.zero_point(product.input_zero_point), shape_of(product.input)
    if weight is None or (product.bias is not None and bias is None) or ctx.zero_point(product.weight_zero_point).any():
        return None
    if held.bits > 8 or zero.ndim:
        return None
    layer = _layer(weight, type_of(product.weight), bias, int(zero), held.signed, codes, function)
    if layer is None:
        return None
    n, k = weight.shape
    rows, work, x, before = prod(shape[:-1]), layer.scratch, "x", ""
    if held.signed:
        before, x, work = _unsigned(rows * k, work), "rows", work + aligned(rows * k)
    body = (
        f"{layer.declaration}{before}qk_linear(&layer, {rows}, {x}, {k}, y, {n}, {layer.written}, scratch, begin, end);"
    )
    share = Share(rows * len(packing.panels(n)))
    return Step(tuple(ops), {"x": product.input}, {"y": op.results[0]}, body, layer.constants, work, HEADERS, share)


def _unsigned(size: int, at: int) -> str:
    """Signed codes x, 128 more, in scratch."""
    return (
        f"uint8_t *const rows = (uint8_t *)scratch + {at};\n"
        f"for (size_t i = 0; i < {size}; ++i) {{\n    rows[i] = (uint8_t)(x[i] + 128);\n}}\n"
    )


def patches(ctx: Context, op: Operation) -> Step | None:
    """A convolution and its requantize to 16 bits: rows of patches times weights, the result transposed."""
    if not isinstance(op, RequantizeOp) or (product := _only(op.input, Conv2dOp)) is None:
        return None
    codes, held, zero = _codes(ctx, op, 1), type_of(product.input), ctx.zero_point(product.input_zero_point)
    weight, bias = ctx.constant(product.weight), None if product.bias is None else ctx.constant(product.bias)
    if codes is None or weight is None or (product.bias is not None and bias is None) or product.groups.value.data != 1:
        return None
    if ctx.zero_point(product.weight_zero_point).any() or held.bits > 8 or zero.ndim or _element(codes.type) != "s16":
        return None
    padding = product.padding.get_values()
    if any(padding) and not held.lo <= int(zero) <= held.hi:
        return None
    rows, kept = weight.reshape(len(weight), -1), type_of(product.weight)
    layer = _layer(rows, kept, bias, int(zero), held.signed, codes, None)
    if layer is None:
        return None
    (batch, channels, height, width), (outputs, _, kh, kw) = shape_of(product.input), weight.shape
    high, wide = shape_of(product.result)[2:]
    k, places = channels * kh * kw, high * wide
    work = layer.scratch
    turned = work + aligned(places * k)
    # threads divide the rows of the result; for one that begins further down, the padding above is less (modulo 2^64)
    strides, dilations = product.strides.get_values(), product.dilations.get_values()
    numbers = (
        channels,
        height,
        width,
        kh,
        kw,
        *strides,
        *dilations,
        f"{padding[0]} - begin * {strides[0]}",
        padding[1],
    )
    shape = ", ".join(map(str, (*numbers, "end - begin", wide)))
    planes = f"(const uint8_t *)x + b * {channels * height * width}"
    body = f"""\
{layer.declaration}uint8_t *const rows = (uint8_t *)scratch + {work};
int16_t *const codes = (int16_t *)(void *)((uint8_t *)scratch + {turned});
const size_t places = (end - begin) * {wide};
for (size_t b = 0; b < {batch}; ++b) {{
    qk_im2col({shape}, {planes}, {int(zero) & 255}, {128 if held.signed else 0}, rows);
    qk_chosen->linear(&layer, places, rows, {k}, codes, {outputs}, QK_S16, scratch);
    qk_transpose_s16(places, {outputs}, codes, {outputs}, y + b * {places * outputs} + begin * {wide}, {places});
}}"""
    scratch, ends = turned + aligned(2 * places * outputs), ({"x": product.input}, {"y": op.result})
    return Step((product, op), *ends, body, layer.constants, scratch, HEADERS, Share(high))


# --- attention ---


@dataclass(frozen=True)
class _View:
    """A tensor as another that lies in memory, met in another order; strides in its elements; via: what moved it, if nothing
    else uses that."""

    source: SSAValue
    strides: tuple[int, ...]
    via: tuple[Operation, ...] = ()


def _view(value: SSAValue, alone: bool = True) -> _View:
    """A value behind transposes and reshapes, as far as strides can say it."""
    op, alone = value.owner, alone and value.has_one_use()
    strides: tuple[int, ...] | None = None
    if isinstance(op, TransposeOp):
        before = _view(op.input, alone)
        strides = tuple(before.strides[i] for i in op.order)
    elif isinstance(op, ReshapeOp):
        before = _view(op.input, alone)
        strides = _reshaped(shape_of(op.input), before.strides, shape_of(value))
    else:
        return _View(value, row_major(shape_of(value)))
    if strides is None:
        return _View(value, row_major(shape_of(value)))
    return _View(before.source, strides, (*before.via, op) if alone else before.via)


def _reshaped(shape: Sequence[int], strides: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...] | None:
    """The strides of the same elements in another shape. None where there are none, or dimensions would have to merge."""
    left = [(size, stride) for size, stride in zip(shape, strides, strict=True) if size != 1]
    found: list[int] = []
    size, stride = 1, 0  # of what is left of the dimension that is being split
    for d in wanted:
        if d == 1:
            found.append(0)
            continue
        if size == 1 and left:
            size, stride = left.pop(0)
        if size % d:
            return None
        size //= d
        found.append(stride * size)
    return tuple(found) if size == 1 and not left else None


def _plain_product(ctx: Context, op: MatmulOp) -> bool:
    """Without zero points, into 32 bits."""
    zeros = (ctx.zero_point(op.lhs_zero_point), ctx.zero_point(op.rhs_zero_point))
    return not any(zero.any() for zero in zeros) and type_of(op.result) == I32


def attention(ctx: Context, op: Operation) -> Step | None:
    """softmax(q k^T) v of every head by sm8_late, and the transpose behind it: no scores in memory but a few rows'."""
    ops: list[Operation] = [op]
    turned = isinstance(op, TransposeOp) and list(op.order) == [0, 2, 1, 3]
    output = _only(op.input, RequantizeOp) if isinstance(op, TransposeOp) and turned else op
    if not isinstance(output, RequantizeOp) or output.divisor is None:
        return None
    ops = [output, op] if turned else [op]
    late = _only(output.input, MatmulOp)
    softmax = _only(late.lhs, IntSoftmaxOp) if late else None
    scores = _only(softmax.input, RequantizeOp) if softmax else None
    early = _only(scores.input, MatmulOp) if scores else None
    if late is None or softmax is None or scores is None or early is None:
        return None
    if not isinstance(softmax.approximation.data, Sm8Late) or softmax.mask is not None:
        return None
    if output.divisor is not softmax.outputs[1] or not softmax.outputs[1].has_one_use():
        return None
    first, last = _codes(ctx, scores, -1), _scalar(ctx, output, output.form)
    exponentials, zero, held = (
        ctx.constant(softmax.tables[0]),
        ctx.zero_point(output.zero_point),
        type_of(output.result),
    )
    if (
        first is None
        or last is None
        or exponentials is None
        or first.mult.ndim
        or first.shift.ndim
        or first.before.any()
    ):
        return None
    if not first.type.signed or first.type.bits > 16 or held.bits > 8 or zero.ndim or magnitude(zero) >= 1 << 16:
        return None
    if output.rounding.data is not Rounding.HALF_UP or ctx.zero_point(output.input_zero_point).any():
        return None
    q, k, v = views = [_view(value) for value in (early.lhs, early.rhs, late.rhs)]
    if not all(_plain_product(ctx, product) for product in (early, late)) or len(shape_of(early.lhs)) != 4:
        return None
    if len(exponentials) != 256 or any(type_of(view.source) != IntType(8) for view in views):
        return None
    batch, heads, tokens, depth = shape_of(early.lhs)
    (keys, width) = shape_of(late.rhs)[2:]
    same = shape_of(early.rhs) == (batch, heads, depth, keys) and shape_of(late.rhs)[:2] == (batch, heads)
    # the elements of a row lie side by side: of q and v along the last axis, of k, which is transposed, along the one before
    side_by_side = all(
        s == 1 or n == 1 for s, n in ((q.strides[3], depth), (k.strides[2], depth), (v.strides[3], width))
    )
    if not same or not side_by_side:
        return None
    # |q| <= 255 as an unsigned byte, and 128 sum k are subtracted; weights are of 0..255
    if (255 + 128) * 128 * depth >= 1 << 31 or 255 * 128 * keys >= 1 << 31:
        return None
    e = widen(exponentials)
    weights = ((e - (e >> 8) + 128) >> 8).astype(np.uint8)
    y = (tokens * heads * width, width, heads * width) if turned else (heads * tokens * width, tokens * width, width)
    numbers = (
        *(tokens, keys, depth, width, int(first.mult), int(first.shift), first.zero, first.type.lo, first.type.hi),
        *("weights", *last, int(zero), held.lo, held.hi),
    )
    values = ", ".join(n if isinstance(n, str) else literal(n) for n in numbers)
    cast = "(uint8_t *)" if held.signed else ""
    strides = {"q": q.strides, "k": (*k.strides[:2], k.strides[3]), "v": v.strides, "y": y}
    at = {name: f"{name} + b * {s[0]} + h * {s[1]}" for name, s in strides.items()}
    # threads divide the rows of all heads
    body = f"""\
qk_attention head = {{{values}}};
for (size_t i = begin; i < end; i += head.tokens) {{
    const size_t b = i / {heads * tokens}, h = i / {tokens} % {heads}, row = i % {tokens};
    head.tokens = end - i < {tokens} - row ? end - i : {tokens} - row;
    qk_chosen->attention(
        &head, {at["q"]} + row * {q.strides[2]}, {q.strides[2]}, {at["k"]}, {k.strides[3]}, {at["v"]}, {v.strides[2]},
        {cast}({at["y"]} + row * {y[2]}), {y[2]}, scratch);
}}"""
    return Step(
        (*(moved for view in views for moved in view.via), early, scores, softmax, late, *ops),
        {"q": q.source, "k": k.source, "v": v.source},
        {"y": op.results[0]},
        body,
        {"weights": weights},
        attention_scratch(keys, depth, width),
        HEADERS,
        Share(batch * heads * tokens),
    )


def attention_scratch(keys: int, depth: int, width: int) -> int:
    """qk_attention_scratch."""
    columns, k4, outputs = -(-keys // 64) * 64, -(-depth // 4) * 4, -(-width // 64) * 64
    rows = 36 * (aligned(k4) + 3 * columns + 4 * outputs)
    return columns * k4 + 12 * columns + outputs * columns + 4 * outputs + rows + 256 + linear_scratch(max(columns, k4))


# --- one operation ---


def function(ctx: Context, op: Operation) -> Step | None:
    """A function of codes that follows no product."""
    if not isinstance(op, IntFunctionOp) or (found := _function(ctx, op)) is None:
        return None
    n, element = size_of(op.result), _element(found.type)
    if found.quad == "NULL":
        body = "qk_chosen->table(table, end - begin, (const uint8_t *)x + begin, (uint8_t *)y + begin);"
    else:
        kind = f"QK_{(element or '').upper()}"
        body = f"{found.declaration}qk_chosen->quad(&f, 1, end - begin, x + begin, 0, y + begin, 0, {kind});"
    return Step((op,), {"x": op.input}, {"y": op.result}, body, found.constants, 0, HEADERS, of_elements(n))


def layer_norm(ctx: Context, op: Operation) -> Step | None:
    if not isinstance(op, IntLayerNormOp):
        return None
    found = op.approximation.data
    if not isinstance(found, Ln) or type(found) is not Ln:  # others are derived from it
        return None
    codes, result, channels = type_of(op.input), type_of(op.result), shape_of(op.input)[-1]
    tables = [ctx.constant(value) for value in op.tables]
    known = [table for table in tables if table is not None]
    if codes.dtype != np.int16 or result.bits > 16 or _element(result) is None or len(known) != 2:
        return None
    if any(magnitude(table) >= 1 << 31 for table in known):
        return None
    try:
        found.check((codes.lo, codes.hi), channels, known)
    except RangeError:
        return None
    rows = size_of(op.input) // channels
    numbers = ", ".join(map(literal, (channels, found.guard, result.lo, result.hi, found.epsilon)))
    body = (
        f"const qk_ln f = {{{numbers}, gain, offset}};\n"
        f"qk_chosen->ln(&f, end - begin, x + begin * {channels}, {channels}, y + begin * {channels}, {channels},"
        f" QK_{(_element(result) or '').upper()});"
    )
    constants = {name: table.astype(np.int32) for name, table in zip(("gain", "offset"), known, strict=True)}
    return Step((op,), {"x": op.input}, {"y": op.result}, body, constants, 0, HEADERS, Share(rows))


def residual(ctx: Context, op: Operation) -> Step | None:
    """add_requant of 16-bit tensors of one shape, by two numbers, rounded once."""
    if not isinstance(op, AddRequantOp) or op.round_each is not None or op.rounding.data is not Rounding.HALF_UP:
        return None
    a, b = (_scalar(ctx, op, form) for form in (op.lhs_form, op.rhs_form))
    zeros = [ctx.zero_point(zero) for zero in (op.lhs_zero_point, op.rhs_zero_point, op.zero_point)]
    held = type_of(op.result)
    if a is None or b is None or any(zero.ndim or magnitude(zero) >= 1 << 16 for zero in zeros):
        return None
    if any(type_of(value).dtype != np.int16 for value in (op.lhs, op.rhs, op.result)):
        return None
    if shape_of(op.lhs) != shape_of(op.rhs) or shape_of(op.lhs) != shape_of(op.result):
        return None
    shift = max(a[1], b[1])
    mults = (a[0] << (shift - a[1]), b[0] << (shift - b[1]))
    if any(abs(mult) >= 1 << 31 for mult in mults):
        return None
    numbers = ", ".join(map(literal, (*mults, shift, *(int(zero) for zero in zeros), held.lo, held.hi)))
    body = f"const qk_add f = {{{numbers}}};\nqk_chosen->add(&f, end - begin, a + begin, b + begin, y + begin);"
    share = of_elements(size_of(op.result))
    return Step((op,), {"a": op.lhs, "b": op.rhs}, {"y": op.result}, body, {}, 0, HEADERS, share)


Fusion: TypeAlias = Callable[[Context, Operation], Step | None]

FUSIONS: tuple[Fusion, ...] = (attention, linear, patches, function, layer_norm, residual)
"""In the order in which they are tried."""
