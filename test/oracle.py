"""What the integer operations compute, over Python's own integers and fractions, one number at a time.

Written from the formulas in the operations' documentation, to hold the NumPy semantics to by equality. It imports
nothing of the compiler and no NumPy. Tensors are nested lists; a rounding mode is its name; an integer type is the pair
(lowest, highest).
"""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import product
from math import isinf, isnan, prod
from typing import Any, TypeAlias

Range: TypeAlias = tuple[int, int]
Nested: TypeAlias = Any
"""A number, or a list of Nested."""

MODES = ("half_even", "half_up", "half_away", "floor")


def signed(bits: int) -> Range:
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def unsigned(bits: int) -> Range:
    return 0, 2**bits - 1


# --- one number ---


def argmax(row: Sequence[int]) -> int:
    """The first index of the largest number."""
    return next(i for i, x in enumerate(row) if all(x >= y for y in row))


def rounded(x: Fraction, mode: str) -> int:
    """The integer that `mode` gives for the real number x."""
    below = x.numerator // x.denominator
    if mode == "floor":
        return below
    # |x - n| <= 1/2, times the denominator
    nearest = [n for n in (below, below + 1) if 2 * abs(x.numerator - n * x.denominator) <= x.denominator]
    match mode:
        case "half_even":
            return nearest[0] if len(nearest) == 1 else next(n for n in nearest if n % 2 == 0)
        case "half_up":
            return max(nearest)
        case "half_away":
            return max(nearest, key=abs)
        case _:
            raise AssertionError(mode)


def saturated(n: int, target: Range) -> int:
    lo, hi = target
    return lo if n < lo else hi if n > hi else n


def fitted(n: int, target: Range) -> int:
    """n, or OverflowError where `target` does not have it."""
    if n not in range(target[0], target[1] + 1):
        raise OverflowError(n)
    return n


def quantize(x: float, scale: float, zero_point: int, mode: str, target: Range) -> int:
    if isnan(x):
        raise ValueError("NaN has no code")
    if isinf(x):
        return target[1] if x > 0 else target[0]
    return saturated(rounded(Fraction(x) / Fraction(scale), mode) + zero_point, target)


def dequantize(q: int, scale: float, zero_point: int) -> Fraction:
    return (q - zero_point) * Fraction(scale)


def requantize(x: int, factor: Fraction, z_in: int, z_out: int, mode: str, target: Range) -> int:
    """All three forms: the factor is any real number."""
    return saturated(rounded((x - z_in) * factor, mode) + z_out, target)


def dyadic(multiplier: int, shift: int) -> Fraction:
    """The factor of the forms dyadic and, with multiplier 1, pot."""
    return Fraction(multiplier) / Fraction(2) ** shift


def reciprocal(multiplier: int, shift: int, divisor: int) -> Fraction:
    """What the form dyadic multiplies by in place of multiplier / 2^shift / divisor."""
    if divisor <= 0:
        raise ValueError(divisor)
    n = len(bin(divisor)) - 2
    sign = -1 if multiplier < 0 else 1
    return dyadic(sign * (abs(multiplier) * 2 ** (n - 1) // divisor), shift + n - 1)


def add_requant(
    terms: Sequence[tuple[int, int, Fraction]], z_out: int, mode: str, round_each: bool, target: Range
) -> int:
    """terms: (code, zero point, factor) of both operands."""
    reals = [(code - zero_point) * factor for code, zero_point, factor in terms]
    total = sum(rounded(r, mode) for r in reals) if round_each else rounded(sum(reals, Fraction(0)), mode)
    return saturated(total + z_out, target)


def threshold(x: int, levels: Sequence[int], lowest: int, target: Range) -> int:
    return fitted(lowest + len([level for level in levels if x >= level]), target)


# --- nested lists ---


def shape_of(x: Nested) -> tuple[int, ...]:
    return (len(x), *shape_of(x[0])) if isinstance(x, list) else ()


def at(x: Nested, index: Sequence[int]) -> Any:
    for i in index:
        x = x[i]
    return x


def build(shape: Sequence[int], element: Callable[..., Any]) -> Nested:
    """The tensor whose element at (i, j, ...) is element(i, j, ...)."""

    def inner(index: tuple[int, ...]) -> Nested:
        if len(index) == len(shape):
            return element(*index)
        return [inner((*index, i)) for i in range(shape[len(index)])]

    return inner(())


def indices(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All indices in row-major order."""
    return product(*map(range, shape))


def flat(x: Nested) -> list[Any]:
    return [at(x, i) for i in indices(shape_of(x))]


def broadcast_at(x: Nested, index: Sequence[int]) -> Any:
    """The element of x that stands at `index` after broadcasting: missing leading dimensions and ones repeat."""
    shape = shape_of(x)
    return at(x, [0 if d == 1 else i for d, i in zip(shape, index[len(index) - len(shape) :], strict=True)])


def broadcast_shape(*shapes: Sequence[int]) -> tuple[int, ...]:
    rank = max(map(len, shapes))
    aligned = [(1,) * (rank - len(s)) + tuple(s) for s in shapes]
    return tuple(next((d for d in column if d != 1), 1) for column in zip(*aligned, strict=True))


def elementwise(f: Callable[..., Any], *operands: Nested) -> Nested:
    shape = broadcast_shape(*map(shape_of, operands))
    return build(shape, lambda *i: f(*(broadcast_at(x, i) for x in operands)))


def per_axis(values: Nested, index: Sequence[int], axis: int | None) -> Any:
    """A parameter at `index`: a number, or the element of a vector along `axis`."""
    return values[index[axis]] if isinstance(values, list) and axis is not None else values


def matmul(a: Nested, b: Nested, za: int, zb: Nested, target: Range) -> Nested:
    """[..., M, K] x [..., K, N]; zb is a number or a list [N]."""
    *batch_a, rows, depth = shape_of(a)
    *batch_b, _, columns = shape_of(b)
    batch = broadcast_shape(batch_a, batch_b)

    def matrix(x: Nested, own_batch: Sequence[int], index: Sequence[int]) -> Nested:
        used = index[len(index) - len(own_batch) :]
        return at(x, [0 if d == 1 else i for d, i in zip(own_batch, used, strict=True)])

    def element(*index: int) -> int:
        left, right = (matrix(x, own, index[:-2]) for x, own in ((a, batch_a), (b, batch_b)))
        row, column = index[-2:]
        z = per_axis(zb, (column,), 0)
        return fitted(sum((left[row][k] - za) * (right[k][column] - z) for k in range(depth)), target)

    return build((*batch, rows, columns), element)


def shift_matmul(q: Nested, b: Nested, zb: Nested, target: Range) -> Nested:
    """As `matmul`; the code q stands for 2^15 / 2^q, and for nothing from 16 on."""
    powers = elementwise(lambda code: 2 ** (15 - code) if code < 16 else 0, q)
    return matmul(powers, b, 0, zb, target)


def linear(x: Nested, weight: Nested, bias: list[int] | None, zx: int, zw: Nested, target: Range) -> Nested:
    """[..., K] and [N, K] -> [..., N]; zw is a number or a list [N]."""
    *batch, depth = shape_of(x)

    def element(*index: int) -> int:
        row, n = at(x, index[:-1]), index[-1]
        z = per_axis(zw, (n,), 0)
        total = sum((row[k] - zx) * (weight[n][k] - z) for k in range(depth))
        return fitted(total + (bias[n] if bias else 0), target)

    return build((*batch, len(weight)), element)


def conv2d(
    x: Nested,
    weight: Nested,
    bias: list[Any] | None,
    strides: Sequence[int],
    padding: Sequence[int],
    dilations: Sequence[int],
    groups: int,
    zx: int = 0,
    zw: Nested = 0,
) -> Nested:
    """x [B, C, H, W], weight [O, C / groups, KH, KW]; what lies outside of x is the code of 0, and adds nothing."""
    batch, _, height, width = shape_of(x)
    outputs, group_channels, kh, kw = shape_of(weight)
    top, left, bottom, right = padding
    oh = (height + top + bottom - dilations[0] * (kh - 1) - 1) // strides[0] + 1
    ow = (width + left + right - dilations[1] * (kw - 1) - 1) // strides[1] + 1

    def element(b: int, o: int, i: int, j: int) -> Any:
        first_channel = o // (outputs // groups) * group_channels
        z = per_axis(zw, (o,), 0)
        total = bias[o] if bias else 0
        for c, p, q in indices((group_channels, kh, kw)):
            row, column = i * strides[0] - top + p * dilations[0], j * strides[1] - left + q * dilations[1]
            if 0 <= row < height and 0 <= column < width:
                total += (x[b][first_channel + c][row][column] - zx) * (weight[o][c][p][q] - z)
        return total

    return build((batch, outputs, oh, ow), element)


def conv_transpose2d(
    x: Nested,
    weight: Nested,
    bias: list[Any] | None,
    strides: Sequence[int],
    padding: Sequence[int],
    dilations: Sequence[int],
    groups: int,
    output_padding: Sequence[int],
) -> Nested:
    """x [B, C, H, W], weight [C, O / groups, KH, KW]: every pixel adds its multiple of the kernel to the result."""
    batch, channels, height, width = shape_of(x)
    _, group_outputs, kh, kw = shape_of(weight)
    top, left, bottom, right = padding
    oh = (height - 1) * strides[0] - top - bottom + dilations[0] * (kh - 1) + output_padding[0] + 1
    ow = (width - 1) * strides[1] - left - right + dilations[1] * (kw - 1) + output_padding[1] + 1
    y = build((batch, group_outputs * groups, oh, ow), lambda b, o, i, j: bias[o] if bias else 0)
    for b, c, h, w in indices((batch, channels, height, width)):
        group = c // (channels // groups)
        for o, p, q in indices((group_outputs, kh, kw)):
            row, column = h * strides[0] + p * dilations[0] - top, w * strides[1] + q * dilations[1] - left
            if 0 <= row < oh and 0 <= column < ow:
                y[b][group * group_outputs + o][row][column] += x[b][c][h][w] * weight[c][o][p][q]
    return y


# --- layouts ---


def reshape(x: Nested, shape: Sequence[int]) -> Nested:
    elements = flat(x)
    strides = [prod(shape[i + 1 :]) for i in range(len(shape))]
    return build(shape, lambda *index: elements[sum(i * s for i, s in zip(index, strides, strict=True))])


def transpose(x: Nested, permutation: Sequence[int]) -> Nested:
    shape = shape_of(x)

    def element(*index: int) -> Any:
        source = [0] * len(shape)
        for i, p in enumerate(permutation):
            source[p] = index[i]
        return at(x, source)

    return build([shape[p] for p in permutation], element)


def slice_(x: Nested, axis: int, start: int, size: int, step: int) -> Nested:
    shape = list(shape_of(x))
    shape[axis] = size
    return build(shape, lambda *i: at(x, (*i[:axis], start + i[axis] * step, *i[axis + 1 :])))


def concat(parts: Sequence[Nested], axis: int) -> Nested:
    lengths = [shape_of(p)[axis] for p in parts]
    homes = [(p, i) for p, length in enumerate(lengths) for i in range(length)]
    shape = list(shape_of(parts[0]))
    shape[axis] = len(homes)

    def element(*index: int) -> Any:
        part, inside = homes[index[axis]]
        return at(parts[part], (*index[:axis], inside, *index[axis + 1 :]))

    return build(shape, element)


def gather(x: Nested, where: Nested, axis: int) -> Nested:
    before, middle = shape_of(x), shape_of(where)
    end = axis + len(middle)
    shape = (*before[:axis], *middle, *before[axis + 1 :])
    return build(shape, lambda *i: at(x, (*i[:axis], at(where, i[axis:end]), *i[end:])))


def broadcast(x: Nested, shape: Sequence[int]) -> Nested:
    return build(shape, lambda *i: broadcast_at(x, i))
