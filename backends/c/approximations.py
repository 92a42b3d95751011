"""Softmax, elementwise functions and layer normalisation by integer approximations, in C: a row at a time (qk_approx.h).

A step loads a row into words of 64 bits, changes it in place, and stores it with saturation. What the kernels take for
granted, that no intermediate overflows and no index leaves its table, is proven here from the types of the codes; what
cannot be proven is refused. Where a result does not fit its type, an error in the semantics, C saturates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from xdsl.ir import Operation, SSAValue

from qvit.backends.c.loops import broadcast, of_elements, part
from qvit.backends.c.step import Context, Emitter, Share, Step, c_type, literal, refusal, type_of
from qvit.dialects.approximations import (
    PtfLayerNorm,
    PtfLayerNormPublished,
    Quad,
    Sm8,
    Sm8Late,
    Sw,
    SwLate,
    Table,
    ThresholdLayerNorm,
)
from qvit.dialects.approximations.base import (
    Approximation,
    FunctionApproximation,
    Interval,
    LayerNormApproximation,
    RangeError,
    SoftmaxApproximation,
    require,
)
from qvit.dialects.ops.approximated import ApproximatedOp, IntFunctionOp, IntLayerNormOp, IntSoftmaxOp
from qvit.dialects.semantics.integers import Array, IntType
from qvit.dialects.types import shape_of

_HEADERS = ("qk_approx.h",)
_CHUNK = 512
"""Elements that a function takes at a time: they and their words fit any first-level cache."""
_BITS = 62
"""Of intermediates, without their sign."""
_SATURATED = IntType(8)
"""What a saturated result stays in: of any type, it is no intermediate."""
_OFFSET_BITS, _WIDE_BITS = 60, 2048
"""Of the offsets of ptf_layernorm_published, and of its numbers of many words (QK_WIDE_WORDS)."""

_READS_LENGTH = (Sm8, Sm8Late, Quad)
"""Those whose kernels take the length of their tables."""
_READS_VALUES = (Sw, SwLate, PtfLayerNorm, PtfLayerNormPublished, ThresholdLayerNorm)
"""Those whose intermediates are bounded by what is in their tables, not by its type alone."""

_TABLE_TYPES: dict[str, IntType] = {
    "exponentials": IntType(16, False),
    "nodes": IntType(16),
    "slopes": IntType(16),
    "constant": IntType(16),
    "linear": IntType(16),
    "square": IntType(16),
    "gain": IntType(32),
    "offset": IntType(32),
    "bias": IntType(32),
    "factor": IntType(8),
    "power": IntType(8),
    "sign": IntType(8),
    "thresholds": IntType(32),
    "gain_power": IntType(16),
    "offset_power": IntType(16),
}
"""What the kernels read, by the table's name, where `_table_type` does not say otherwise."""


def _table_type(approximation: Approximation, name: str) -> IntType:
    match approximation:
        case Sw() | SwLate() if name == "nodes":
            return IntType(32)
        case PtfLayerNormPublished() if name in ("gain", "offset"):
            return IntType(64)
        case _:
            return _TABLE_TYPES[name]


@dataclass(frozen=True)
class _Call:
    """A kernel and its arguments behind the row."""

    name: str
    arguments: tuple[str, ...]

    def on(self, length: str) -> str:
        return f"qk_row_{self.name}({', '.join((length, 'row', *self.arguments))})"


def _suffix(integer: IntType) -> str:
    """Of the functions that load and store a type: i8, u16 ..."""
    return f"{'i' if integer.signed else 'u'}{8 * integer.dtype.itemsize}"


def _call(op: ApproximatedOp) -> _Call:
    approximation = op.approximation.data
    name, tables = approximation.name, approximation.tables
    if isinstance(approximation, Table):
        name = f"{name}_{_suffix(type_of(op.tables[0]))}"
    else:
        for table, value in zip(tables, op.tables, strict=True):
            expected, found = _table_type(approximation, table), type_of(value)
            if found.dtype != expected.dtype:
                raise refusal(op, f"the table {table} is of {found}", f"C reads it as {expected}: store it as that")
    lengths = (str(shape_of(op.tables[0])[0]),) if isinstance(approximation, _READS_LENGTH) else ()
    return _Call(name, (*tables, *lengths, *map(literal, approximation.parameters.values())))


def _tables(ctx: Context, op: ApproximatedOp) -> list[Array]:
    """The values of the tables; of those known at run time only, the lowest of their type, which bounds the others."""
    found: list[Array] = []
    for name, value in zip(op.approximation.data.tables, op.tables, strict=True):
        table = ctx.constant(value)
        if table is None:
            if isinstance(op.approximation.data, _READS_VALUES):
                raise refusal(op, f"the table {name} is known at run time only", "make it a constant")
            integer = type_of(value)
            table = np.full(shape_of(value), integer.lo or integer.hi, integer.dtype)
        found.append(table)
    return found


def _prove(ctx: Context, op: ApproximatedOp, codes: Interval) -> None:
    """CompileError unless no intermediate overflows and no index leaves its table, for all codes of the type."""
    approximation, tables = op.approximation.data, _tables(ctx, op)
    length = shape_of(op.input)[-1] if shape_of(op.input) else 1
    try:
        match approximation:
            case Table():
                approximation.check(codes, tables)
            case Sw() | SwLate():
                approximation.check(codes, length, tables)
            case ThresholdLayerNorm():
                approximation.check(codes, length, tables)
            case PtfLayerNorm() | PtfLayerNormPublished():
                require(tables[0].min() >= 0 and tables[0].max() <= 7, "factors must be in 0..7")
            case Quad():
                require(len({len(table) for table in tables}) == 1, "the tables have different lengths")
            case _:
                pass
        match approximation:
            case SoftmaxApproximation():
                intermediates = approximation.intermediates(codes, length, tables)
            case FunctionApproximation():
                intermediates = approximation.intermediates(codes, tables, _SATURATED)
            case LayerNormApproximation():
                intermediates = approximation.intermediates(codes, length, tables, _SATURATED)
            case _:
                raise AssertionError(approximation)
    except RangeError as error:
        raise refusal(
            op, str(error), "requantize the operand, or build the approximation for codes of its type"
        ) from error
    for name, (lo, hi) in {"code": codes, **intermediates}.items():
        if max(-lo, hi) >= 1 << _BITS:
            reach = f"{name} reaches {max(-lo, hi)} for codes in {codes[0]}..{codes[1]}, beyond {_BITS} bits"
            raise refusal(op, reach, "requantize the operand to a narrower type")
    if isinstance(approximation, PtfLayerNormPublished):
        most, bits = intermediates["B"][1], _wide_bits(approximation, tables)
        if most >= 1 << _OFFSET_BITS or bits > _WIDE_BITS:
            found = (
                f"B reaches {most} (2^{_OFFSET_BITS} is possible), and comparing takes {bits} bits ({_WIDE_BITS} are)"
            )
            raise refusal(op, found, "gamma, beta and the scale are of very different sizes: use ptf-layernorm")


def _wide_bits(approximation: PtfLayerNormPublished, tables: Sequence[Array]) -> int:
    """The bits of the largest number that the kernel compares: all is scaled by 2^up until it is whole, and squared."""
    _, gains, gain_powers, offsets, offset_powers = (list(map(int, table)) for table in tables)
    most = 0
    for gain, gain_power, offset, offset_power in zip(gains, gain_powers, offsets, offset_powers, strict=True):
        powers = [p + 1 for value, p in ((gain, gain_power), (offset, offset_power)) if value]
        up, shift = max([0, *(-p for p in powers)]), max([0, *powers]) + 31
        # gamma sum X, of up to 126 bits; half a result times the denominator, 63 + 53 bits
        most = max(most, 126 + shift + up, 63 + approximation.denominator.bit_length() + up)
    # the variance, and a word for carries
    return 2 * (most + 1) + _BITS + 64


def _step(
    op: ApproximatedOp,
    results: Mapping[str, SSAValue],
    body: str,
    words: int,
    share: Share,
    mask: SSAValue | None = None,
) -> Step:
    operands: dict[str, SSAValue] = {"x": op.input, **dict(zip(op.approximation.data.tables, op.tables, strict=True))}
    if mask is not None:
        operands["mask"] = mask
    return Step((op,), operands, results, body, scratch=8 * words, headers=_HEADERS, share=share)


_ROW = "int64_t *row = (int64_t *)scratch;\n"


def _store(result: SSAValue, length: str, at: str) -> str:
    integer = type_of(result)
    return f"qk_store_{_suffix(integer)}({length}, row, {literal(integer.lo)}, {literal(integer.hi)}, y + {at});"


def _row_start(shape: Sequence[int], strides: Sequence[int]) -> str:
    """Where the i-th row over the leading dimensions of `shape` starts in a tensor of these strides."""
    terms: list[str] = []
    inner = prod(shape[:-1])
    for size, stride in zip(shape[:-1], strides, strict=False):
        outermost = inner == prod(shape[:-1])
        inner //= size
        if stride and size > 1:
            index = "i" if inner == 1 else f"i / {inner}"
            terms.append(f"{index if outermost else f'{index} % {size}'} * {stride}")
    return " + ".join(terms) or "0"


def _softmax(ctx: Context, op: IntSoftmaxOp) -> Step:
    approximation, codes, shape = op.approximation.data, type_of(op.input), shape_of(op.input)
    assert isinstance(approximation, SoftmaxApproximation)
    _prove(ctx, op, (codes.lo, codes.hi))
    n, call = str(shape[-1]), _call(op).on(str(shape[-1]))
    mask = "NULL, 0"
    if op.mask is not None:
        strides = broadcast(shape_of(op.mask), shape).strides
        mask = f"mask + {_row_start(shape, strides)}, {strides[-1]}"
    results: Mapping[str, SSAValue] = dict(zip(("y", "sum"), op.outputs, strict=False))
    if approximation.late:
        total = type_of(op.outputs[1])
        call = f"sum[i] = ({c_type(total)})qk_clamp({call}, {literal(total.lo)}, {literal(total.hi)})"
    lines = (
        f"qk_below_{_suffix(codes)}({n}, x + i * {n}, {mask}, row);",
        f"{call};",
        _store(op.outputs[0], n, f"i * {n}"),
    )
    body = _ROW + part("i", "\n".join(lines))
    return _step(op, results, body, shape[-1], Share(prod(shape[:-1])), op.mask)


def _function(ctx: Context, op: IntFunctionOp) -> Step:
    approximation, codes, shape = op.approximation.data, type_of(op.input), shape_of(op.input)
    assert isinstance(approximation, FunctionApproximation)
    zero_point = int(ctx.zero_point(op.input_zero_point))
    _prove(ctx, op, (codes.lo - zero_point, codes.hi - zero_point))
    if approximation.rowwise:
        return _rows(op, op.result, zero_point)
    size = prod(shape)
    lines = (
        f"const size_t n = end - i < {_CHUNK} ? end - i : {_CHUNK};",
        f"qk_load_{_suffix(codes)}(n, x + i, {literal(zero_point)}, row);",
        f"{_call(op).on('n')};",
        _store(op.result, "n", "i"),
    )
    chunks = part("i", "\n".join(lines), _CHUNK)
    return _step(op, {"y": op.result}, _ROW + chunks, min(size, _CHUNK), of_elements(size))


def _layer_norm(ctx: Context, op: IntLayerNormOp) -> Step:
    codes = type_of(op.input)
    _prove(ctx, op, (codes.lo, codes.hi))
    return _rows(op, op.result, 0)


def _rows(op: ApproximatedOp, result: SSAValue, zero_point: int) -> Step:
    """Of each row of the operand, one of the result."""
    shape = shape_of(op.input)
    n = str(shape[-1])
    lines = (
        f"qk_load_{_suffix(type_of(op.input))}({n}, x + i * {n}, {literal(zero_point)}, row);",
        f"{_call(op).on(n)};",
        _store(result, n, f"i * {n}"),
    )
    body = _ROW + part("i", "\n".join(lines))
    return _step(op, {"y": result}, body, shape[-1], Share(prod(shape[:-1])))


APPROXIMATION_EMITTERS: dict[type[Operation], Emitter] = {
    IntSoftmaxOp: _softmax,
    IntFunctionOp: _function,
    IntLayerNormOp: _layer_norm,
}
"""The operations that approximate."""
