"""requantize, the residual add, and the comparator form of a quantizer.

Every factor is multiplier / 2^shift with shift >= 0. Where the types and the constants prove that products, and sums of
them, stay within 64 bits, they are 64 bits wide, elsewhere 256 (`qk_big`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from xdsl.dialects.builtin import IntegerAttr
from xdsl.ir import Operation, SSAValue

from qvit.backends.c.emitters.products import less, limit
from qvit.backends.c.loops import Access, At, broadcast, dense, shared, vector
from qvit.backends.c.step import Context, Step, c_type, literal, narrowest, refusal, type_of
from qvit.dialects.attributes import DyadicAttr, Form, PotAttr
from qvit.dialects.ops.quantization import AddRequantOp, RequantizeOp, ThresholdOp
from qvit.dialects.semantics.integers import Array, Int64, IntType, Rounding, magnitude
from qvit.dialects.types import shape_of


@dataclass(frozen=True)
class Number:
    """A constant of a step: one number, or one for each index along the step's axis."""

    name: str
    values: Array

    def at(self, index: At) -> str:
        return f"{self.name}[{index[self.name]}]" if self.values.ndim else literal(int(self.values))

    @property
    def constant(self) -> dict[str, Array]:
        return {self.name: narrowest(self.values)} if self.values.ndim else {}


@dataclass(frozen=True)
class Factor:
    """multiplier / 2^shift, both int64, 0-d or vectors."""

    multiplier: Int64
    shift: Int64


def factor(ctx: Context, op: Operation, form: Form) -> Factor:
    """The factor of a form, as it stands: the shift of a power of two may be negative."""
    match form:
        case DyadicAttr():
            multiplier, shift = ctx.weights.values(form.multiplier), ctx.weights.values(form.shift)
            return Factor(multiplier.astype(np.int64), shift.astype(np.int64))
        case PotAttr():
            return Factor(np.array(1, np.int64), ctx.weights.values(form.shift).astype(np.int64))
        case _:
            raise refusal(op, "has a real number as its factor, which C does not compute with", "run --lower-requant")


def whole(found: Factor) -> Factor:
    """The same number with a shift that is not negative."""
    left = np.maximum(-found.shift, 0)
    return Factor(found.multiplier << left if left.any() else found.multiplier, np.maximum(found.shift, 0))


def mode(rounding: Rounding) -> str:
    return f"QK_{rounding.name}"


def axis_of(axis: IntegerAttr | None) -> int | None:
    return None if axis is None else axis.value.data


def centre(value: SSAValue, x: str, zero: Array, term: str) -> str:
    """x - zero, exactly: 64 bits wide where it fits, else a `qk_big`."""
    if limit(value, zero) < 1 << 31:
        return less(x, term)
    if limit(value, zero) < 1 << 63:
        return less(f"(int64_t){x}", term)
    return f"qk_big_add(qk_big_of({x}), qk_big_negate(qk_big_of({term})))"


def product(value: SSAValue, x: str, zero: Array, term: str, multiplier: str) -> str:
    """(x - zero) * multiplier, 64 bits wide, where it is known to fit."""
    small = limit(value, zero) < 1 << 31
    wide = f"(int64_t){centre(value, x, zero, term)}" if small else centre(value, x, zero, term)
    return wide if multiplier == "1" else f"{wide} * {multiplier}"


def big_product(value: SSAValue, x: str, zero: Array, term: str, multiplier: str) -> str:
    wide = centre(value, x, zero, term)
    wide = f"qk_big_of({wide})" if limit(value, zero) < 1 << 63 else wide
    return wide if multiplier == "1" else f"qk_big_times({wide}, {multiplier})"


def rounded(x: str, shift: str, rounding: Rounding) -> str:
    return x if shift == "0" else f"qk_round_shift({x}, (unsigned){shift}, {mode(rounding)})"


def big_rounded(x: str, shift: str, rounding: Rounding) -> str:
    return x if shift == "0" else f"qk_big_round_scale({x}, (int){shift}, {mode(rounding)})"


def stored(y: str, zero: str, result: IntType) -> str:
    """saturate(y + zero) of 64 bits, the sum of which fits."""
    y = y if zero == "0" else f"{y} + {zero}"
    return f"({c_type(result)})qk_clamp({y}, {literal(result.lo)}, {literal(result.hi)})"


def big_stored(y: str, zero: str, result: IntType) -> str:
    y = y if zero == "0" else f"qk_big_add({y}, qk_big_of({zero}))"
    return f"({c_type(result)})qk_big_clamp({y}, {literal(result.lo)}, {literal(result.hi)})"


def requantize(ctx: Context, op: RequantizeOp) -> Step:
    if op.divisor is not None:
        return _divided(ctx, op, op.divisor)
    axis, result = axis_of(op.axis), type_of(op.result)
    exact = whole(factor(ctx, op, op.form))
    before, after = Number("zx", ctx.zero_point(op.input_zero_point)), Number("zy", ctx.zero_point(op.zero_point))
    multiplier, shift = Number("mult", exact.multiplier), Number("shift", exact.shift)
    bound = limit(op.input, before.values) * magnitude(exact.multiplier)
    narrow = max(bound, limit(op.input, before.values)) + magnitude(after.values) < 1 << 63

    def body(at: At) -> str:
        x, term = f"x[{at['x']}]", before.at(at)
        if narrow:
            wide = product(op.input, x, before.values, term, multiplier.at(at))
            return f"y[{at['y']}] = {stored(rounded(wide, shift.at(at), op.rounding.data), after.at(at), result)};"
        wide = big_product(op.input, x, before.values, term, multiplier.at(at))
        return f"y[{at['y']}] = {big_stored(big_rounded(wide, shift.at(at), op.rounding.data), after.at(at), result)};"

    return _step(op, {"x": op.input}, op.result, axis, [before, after, multiplier, shift], body)


def _divided(ctx: Context, op: RequantizeOp, divisor: SSAValue) -> Step:
    """The multiplier becomes its reciprocal, once for every divisor that the innermost loop meets."""
    axis, result = axis_of(op.axis), type_of(op.result)
    exact = factor(ctx, op, op.form)
    if isinstance(op.form, PotAttr):
        exact = Factor(np.array(1 << 30, np.int64), exact.shift + 30)
    before, after = Number("zx", ctx.zero_point(op.input_zero_point)), Number("zy", ctx.zero_point(op.zero_point))
    multiplier, shift = Number("mult", exact.multiplier), Number("shift", exact.shift)
    # a reciprocal is at most its multiplier; a negative shift doubles what is to be rounded
    bound = limit(op.input, before.values) * magnitude(exact.multiplier) << max(0, -int(exact.shift.min()))
    narrow = bound + magnitude(after.values) < 1 << 63

    def body(at: At) -> str:
        x, term, more = f"x[{at['x']}]", before.at(at), shift.at(at)
        head = f"int k;\nconst int64_t r = qk_reciprocal({multiplier.at(at)}, (int64_t)d[{at['d']}], &k);\n"
        more = f"k + (int){more}" if multiplier.values.ndim or shift.values.ndim else f"k + {more}".replace("+ -", "- ")
        if narrow:
            wide = product(op.input, x, before.values, term, "r")
            scaled = f"qk_round_scale({wide}, {more}, {mode(op.rounding.data)})"
            return f"{head}y[{at['y']}] = {stored(scaled, after.at(at), result)};"
        wide = big_product(op.input, x, before.values, term, "r")
        scaled = f"qk_big_round_scale({wide}, {more}, {mode(op.rounding.data)})"
        return f"{head}y[{at['y']}] = {big_stored(scaled, after.at(at), result)};"

    operands = {"x": op.input, "d": divisor}
    return _step(op, operands, op.result, axis, [before, after, multiplier, shift], body)


def _step(
    op: RequantizeOp | AddRequantOp,
    operands: Mapping[str, SSAValue],
    result: SSAValue,
    axis: int | None,
    numbers: Sequence[Number],
    body: Callable[[At], str],
) -> Step:
    shape = shape_of(result)
    accesses: dict[str, Access] = {name: broadcast(shape_of(value), shape) for name, value in operands.items()}
    accesses["y"] = dense(shape)
    accesses |= {number.name: vector(axis, len(shape)) for number in numbers if number.values.ndim}
    constants = {name: array for number in numbers for name, array in number.constant.items()}
    text, share = shared(shape, accesses, body)
    return Step((op,), operands, {"y": result}, text, constants, share=share)


def add_requant(ctx: Context, op: AddRequantOp) -> Step:
    result = type_of(op.result)
    operands: dict[str, SSAValue] = {"a": op.lhs, "b": op.rhs}
    zeros = {"a": ctx.zero_point(op.lhs_zero_point), "b": ctx.zero_point(op.rhs_zero_point)}
    factors = {"a": whole(factor(ctx, op, op.lhs_form)), "b": whole(factor(ctx, op, op.rhs_form))}
    after = ctx.zero_point(op.zero_point)
    each = op.round_each is not None
    if each:
        shifts = {name: found.shift for name, found in factors.items()}
        lefts = {name: np.array(0, np.int64) for name in factors}
    else:
        common = np.maximum(factors["a"].shift, factors["b"].shift)
        shifts = {"a": common, "b": common}
        lefts = {name: common - found.shift for name, found in factors.items()}
    bounds = [
        max(limit(operands[name], zeros[name]), 1) * (magnitude(found.multiplier) << int(lefts[name].max()))
        for name, found in factors.items()
    ]
    rounding, term = op.rounding.data, {name: literal(int(zero)) for name, zero in zeros.items()}
    numbers = {name: Number(f"m{name}", found.multiplier) for name, found in factors.items()}
    narrow = sum(bounds) + magnitude(after) < 1 << 63
    if narrow:
        numbers = {n: Number(f"m{n}", np.asarray(f.multiplier << lefts[n])) for n, f in factors.items()}
    shift = {name: Number(f"s{name}" if each else "shift", values) for name, values in shifts.items()}
    left = {name: Number(f"l{name}", np.asarray(values)) for name, values in lefts.items()}

    def term_of(name: str, at: At) -> str:
        x, zero, multiplier = f"{name}[{at[name]}]", term[name], numbers[name].at(at)
        if narrow:
            wide = product(operands[name], x, zeros[name], zero, multiplier)
            return rounded(wide, shift[name].at(at), rounding) if each else wide
        wide = big_product(operands[name], x, zeros[name], zero, multiplier)
        if each:
            return big_rounded(wide, shift[name].at(at), rounding)
        return wide if left[name].at(at) == "0" else f"qk_big_shl({wide}, (unsigned){left[name].at(at)})"

    def body(at: At) -> str:
        a, b, zero, y = term_of("a", at), term_of("b", at), literal(int(after)), f"y[{at['y']}]"
        if narrow:
            total = f"{a} + {b}" if each else rounded(f"{a} + {b}", shift["a"].at(at), rounding)
            return f"{y} = {stored(total, zero, result)};"
        total = f"qk_big_add({a}, {b})"
        total = total if each else big_rounded(total, shift["a"].at(at), rounding)
        return f"{y} = {big_stored(total, zero, result)};"

    used = [*numbers.values(), *shift.values()]
    if not (narrow or each):
        used += left.values()
    return _step(op, operands, op.result, axis_of(op.axis), used, body)


def threshold(_: Context, op: ThresholdOp) -> Step:
    result, shape, axis = type_of(op.result), shape_of(op.input), axis_of(op.axis)
    type_of(op.thresholds)
    levels = shape_of(op.thresholds)[-1]
    strides = tuple(levels if i == axis else 0 for i in range(len(shape)))
    accesses = {"x": dense(shape), "y": dense(shape), "t": Access(strides)}

    def body(at: At) -> str:
        first = f"t + {at['t']}" if at["t"] != "0" else "t"
        count = (
            f"for (size_t k = 0; k < {levels}; ++k) {{\n    code += (int64_t)x[{at['x']}] >= (int64_t)levels[k];\n}}\n"
        )
        count = f"const {c_type(type_of(op.thresholds))} *levels = {first};\n{count}" if levels else ""
        return f"int64_t code = {op.lowest.value.data};\n{count}y[{at['y']}] = ({c_type(result)})code;"

    text, share = shared(shape, accesses, body)
    return Step((op,), {"x": op.input, "t": op.thresholds}, {"y": op.result}, text, share=share)
