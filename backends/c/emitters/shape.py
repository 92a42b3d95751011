"""Operations that only move elements, as copies; a reshape is none, for its result is the operand's memory."""

from math import prod

from xdsl.ir import SSAValue

from qvit.backends.c.loops import Access, At, broadcast, dense, of_elements, part, shared
from qvit.backends.c.step import Context, Share, Step, literal, refusal, size_of, type_of
from qvit.dialects.ops.shape import BroadcastOp, ConcatOp, GatherOp, SliceOp, TransposeOp
from qvit.dialects.types import shape_of


def transpose(_: Context, op: TransposeOp) -> Step:
    strides = dense(shape_of(op.input)).strides
    return _copy(op, op.input, Access(tuple(strides[p] for p in op.order)))


def slice_(_: Context, op: SliceOp) -> Step:
    axis, start, _size, step = op.extent
    strides = list(dense(shape_of(op.input)).strides)
    offset = start * strides[axis]
    strides[axis] *= step
    return _copy(op, op.input, Access(tuple(strides), offset))


def broadcast_to(_: Context, op: BroadcastOp) -> Step:
    return _copy(op, op.input, broadcast(shape_of(op.input), shape_of(op.result)))


def _copy(op: TransposeOp | SliceOp | BroadcastOp, x: SSAValue, access: Access) -> Step:
    type_of(x)
    shape = shape_of(op.result)
    body, share = shared(shape, {"y": dense(shape), "x": access}, lambda at: f"y[{at['y']}] = x[{at['x']}];")
    return Step((op,), {"x": x}, {"y": op.result}, body, share=share)


def concat(_: Context, op: ConcatOp) -> Step:
    type_of(op.result)
    shape, axis = shape_of(op.result), op.axis.value.data
    rows, whole = prod(shape[:axis]), prod(shape[axis:])
    parts = {f"x{k}": value for k, value in enumerate(op.inputs)}
    copies: list[str] = []
    start = 0
    for name, value in parts.items():
        size = size_of(value) // rows
        if not size:
            continue
        if rows == 1:  # begin..end are elements of the result
            copies.append(
                f"for (size_t i = begin > {start} ? begin : {start}; i < end && i < {start + size}; ++i) {{\n"
                f"    y[i] = {name}[i - {start}];\n}}"
            )
        else:
            copies.append(f"memcpy(y + i * {whole} + {start}, {name} + i * {size}, {size} * sizeof *y);")
        start += size
    text = "\n".join(copies)
    if rows == 1:
        return Step((op,), parts, {"y": op.result}, text, share=of_elements(whole))
    return Step((op,), parts, {"y": op.result}, part("i", text), share=Share(rows))


def gather(ctx: Context, op: GatherOp) -> Step:
    """An index outside the axis, which only a wrong input has, is taken as the nearest inside it."""
    type_of(op.input)
    shape, axis, held = shape_of(op.input), op.axis.value.data, type_of(op.indices)
    known, last = ctx.constant(op.indices), shape[axis] - 1
    if known is not None and known.size and (known.min() < 0 or known.max() > last):
        found = f"indices reach {known.min()}..{known.max()}, axis {axis} has {shape[axis]}"
        raise refusal(op, found, "correct the model's indices")
    inside = known is not None or (held.lo >= 0 and held.hi <= last)
    strides, count = dense(shape).strides, len(shape_of(op.indices))
    before, after = strides[:axis], strides[axis + 1 :]
    accesses = {
        "y": dense(shape_of(op.result)),
        "x": Access((*before, *[0] * count, *after)),
        "at": Access((*[0] * axis, *dense(shape_of(op.indices)).strides, *[0] * len(after))),
    }

    def body(at: At) -> str:
        index = f"at[{at['at']}]"
        index = f"(size_t){index}" if inside else f"(size_t)qk_clamp((int64_t){index}, 0, {literal(last)})"
        step = "" if strides[axis] == 1 else f" * {strides[axis]}"
        first = "" if at["x"] == "0" else f"{at['x']} + "
        return f"y[{at['y']}] = x[{first}{index}{step}];"

    operands: dict[str, SSAValue] = {"x": op.input, "at": op.indices}
    text, share = shared(shape_of(op.result), accesses, body)
    return Step((op,), operands, {"y": op.result}, text, share=share)
