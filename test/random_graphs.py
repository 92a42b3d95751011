"""Random graphs of the dialect, and what a graph computes over the rational numbers.

`rational_run` reads the module's text and nothing else: no attribute class, no semantics of the compiler helps it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np
import oracle
from hypothesis import strategies as st
from numpy.typing import NDArray
from xdsl.dialects.builtin import FunctionType, IntegerType, ModuleOp, Signedness, TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Operation, Region, SSAValue

from qvit.dialects.attributes import QParamsAttr, ScaleAttr, float_value
from qvit.dialects.ops.elementwise import AddOp, DivOp, MulOp, ReluOp
from qvit.dialects.ops.products import Conv2dOp, LinearOp, MatmulOp
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.ops.shape import BroadcastOp, ConcatOp, GatherOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import set_sources
from qvit.dialects.semantics.integers import Rounding
from qvit.dialects.types import element_of, int_type, shape_of

Array = NDArray[Any]

# --- the rational numbers that a module computes -----------------------------------------------------------------------


def rational_run(text: str, inputs: Sequence[Array]) -> list[Array]:
    """The results of @main, exactly: object arrays of Fractions (float tensors) and ints (integer tensors)."""
    head = re.search(r"func\.func @main\((.*?)\) ->", text)
    assert head is not None
    names = re.findall(r"%(\w+) *:", head[1])
    values: dict[str, Array] = {n: x.astype(object) for n, x in zip(names, inputs, strict=True)}
    for line in map(str.strip, text[head.end() :].splitlines()):
        if found := re.fullmatch(r"func\.return (.*) : .*", line):
            return [values[name] for name in re.findall(r"%(\w+)", found[1])]
        if found := re.fullmatch(r"%(\w+) = qvit\.(\w+) (.*) : (.*)", line):
            name, op, body, types = found.groups()
            operands = [values[n] for n in re.findall(r"%(\w+)", body)]
            shape, element = _type(re.findall(r"tensor<(\w+)>", types)[-1])
            result = np.asarray(_OPERATIONS[op](body, shape, element, *operands), dtype=object)
            assert result.shape == shape, line
            values[name] = result
    raise AssertionError("no func.return")


def _type(text: str) -> tuple[tuple[int, ...], str]:
    """ "3x4xi8" -> (3, 4), "i8"."""
    *shape, element = text.split("x")
    return tuple(map(int, shape)), element


def _range(element: str) -> oracle.Range:
    signed, bits = element.startswith("i"), int(element.lstrip("ui"))
    return oracle.signed(bits) if signed else oracle.unsigned(bits)


def _real(text: str, element: str) -> Fraction:
    if text.startswith("0x"):
        return Fraction(float(np.array(int(text, 16), np.uint32).view(np.float32)))
    return Fraction(float(text) if element == "f64" else float(np.float32(text)))


def _each(function: Callable[..., Any], *operands: Any) -> Array:
    broadcast = np.broadcast_arrays(*(np.asarray(o, dtype=object) for o in operands))
    result = np.empty(broadcast[0].shape, dtype=object)
    for index in np.ndindex(result.shape):
        result[index] = function(*(o[index] for o in broadcast))
    return result


def _scale(text: str) -> Array:
    """`0.1 * [0.5, 2.0] : f64 / 0.3`."""
    value = np.array(Fraction(1), dtype=object)
    for sign, numbers, element in re.findall(r"(^|[*/]) ?(\[[^\]]*\]|[^ */\[\]]+)(?: : (f64))?", text):
        parts = [_real(n, element) for n in re.findall(r"[-+.\w]+", numbers)]
        factor = np.array(parts if numbers.startswith("[") else parts[0], dtype=object)
        value = value / factor if sign == "/" else value * factor
    return np.asarray(value, dtype=object)


def _integers(text: str | None) -> Array:
    if text is None:
        return np.array(0, dtype=object)
    numbers = [int(n) for n in re.findall(r"-?\d+", text)]
    return np.array(numbers if "[" in text else numbers[0], dtype=object)


def _along(values: Array, axis: int | None, rank: int) -> Array:
    return values if values.ndim == 0 else values.reshape([-1 if i == axis else 1 for i in range(rank)])


def _first(pattern: str, body: str) -> str | None:
    found = re.search(pattern, body)
    return found[1] if found else None


def _number(name: str, body: str) -> int:
    found = _first(rf"\b{name} (?:= )?(-?\d+)", body)
    assert found is not None, (name, body)
    return int(found)


def _params(body: str, rank: int) -> tuple[Array, Array]:
    """Scale and zero point of `<0.1 * [0.5, 2.0], zero_point = 3, axis = 1>`, laid along the axis."""
    text = _first(r"%\w+ <([^<>]*)>", body)
    assert text is not None
    scale, *fields = re.split(r", (?=zero_point|axis)", text)
    values = dict(f.split(" = ") for f in fields)
    axis = int(values["axis"]) if "axis" in values else None
    return _along(_scale(scale), axis, rank), _along(_integers(values.get("zero_point")), axis, rank)


def _to_code(body: str, element: str, x: Any, zero_point: Any) -> Array:
    mode, limits = _first(r"rounding (\w+)", body) or "half_even", _range(element)
    return _each(lambda v, z: oracle.saturated(oracle.rounded(Fraction(v), mode) + z, limits), x, zero_point)


def _quantize(body: str, shape: Sequence[int], element: str, x: Array) -> Array:
    scale, zero_point = _params(body, len(shape))
    return _to_code(body, element, x / scale, zero_point)


def _dequantize(body: str, shape: Sequence[int], element: str, q: Array) -> Array:
    scale, zero_point = _params(body, len(shape))
    return (q - zero_point) * scale


def _requantize(body: str, shape: Sequence[int], element: str, x: Array) -> Array:
    axis = _first(r" axis (\d+)", body)
    before, after = (_first(rf" {name} <([^<>]*)>", body) for name in ("input_zero_point", "zero_point"))
    factor = _scale(_first(r"#qvit\.real<([^<>]*)>", body) or "")
    factor, before, after = (
        _along(v, None if axis is None else int(axis), len(shape))
        for v in (factor, _integers(before), _integers(after))
    )
    return _to_code(body, element, (x - before) * factor, after)


def _add_requant(body: str, shape: Sequence[int], element: str, a: Array, b: Array) -> Array:
    axis, after = _first(r" axis (\d+)", body), _integers(_first(r" zero_point <([^<>]*)>", body))
    terms = [
        (x - zero) * _along(_scale(factor), None if axis is None else int(axis), len(shape))
        for x, factor, zero in zip(
            (a, b), re.findall(r"#qvit\.real<([^<>]*)>", body), _zero_points(body, ("lhs", "rhs")), strict=True
        )
    ]
    if "round_each" in body:
        mode = _first(r"rounding (\w+)", body) or "half_even"
        terms = [_each(lambda v: oracle.rounded(Fraction(v), mode), term) for term in terms]
    return _to_code(body, element, terms[0] + terms[1], after)


def _clip(body: str, shape: Sequence[int], element: str, x: Array) -> Array:
    for name, choose in (("low", max), ("high", min)):
        if (bound := _first(rf"\b{name} = ([-+.\w]+)", body)) is not None:
            x = _each(choose, x, Fraction(bound))
    return x


def _axes(body: str) -> tuple[int, ...]:
    return tuple(int(n) for n in (_first(r"axes = array<i64: ([^>]*)>", body) or "").split(","))


def _argmax(body: str, shape: Sequence[int], element: str, x: Array) -> Array:
    rows = np.moveaxis(x, _number("axis", body), -1)
    return np.array([oracle.argmax(row) for row in rows.reshape(-1, rows.shape[-1])], object).reshape(shape)


def _zero_points(body: str, names: Sequence[str]) -> list[Array]:
    return [_integers(_first(rf"{name}_zero_point <([^<>]*)>", body)) for name in names]


def _matmul(body: str, shape: Sequence[int], element: str, a: Array, b: Array) -> Array:
    za, zb = _zero_points(body, ("lhs", "rhs"))
    return np.matmul(a - za, b - zb)


def _linear(body: str, shape: Sequence[int], element: str, x: Array, w: Array, bias: Array | int = 0) -> Array:
    zx, zw = _zero_points(body, ("input", "weight"))
    return np.matmul(x - zx, (w - _along(zw, 0, 2)).T) + bias


def _conv2d(body: str, shape: Sequence[int], element: str, x: Array, w: Array, bias: Array | None = None) -> Array:
    """Every output is a sum over one group's channels and the kernel's positions; outside the image there are zeros."""
    zx, zw = _zero_points(body, ("input", "weight"))
    x, w = x - zx, w - _along(zw, 0, 4)
    stride, padding, dilation = (
        [int(n) for n in (_first(rf"{name} = array<i64: ([^>]*)>", body) or default).split(",")]
        for name, default in (("strides", "1, 1"), ("padding", "0, 0, 0, 0"), ("dilations", "1, 1"))
    )
    groups = int(_first(r"groups = (\d+)", body) or 1)
    y = np.empty(shape, dtype=object)
    for n, o, i, j in np.ndindex(*shape):
        total = Fraction(0) if bias is None else bias[o]
        for c, k, m in np.ndindex(*w.shape[1:]):
            row, column = i * stride[0] + k * dilation[0] - padding[0], j * stride[1] + m * dilation[1] - padding[1]
            if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
                channel = o // (w.shape[0] // groups) * w.shape[1] + c
                total += x[n, channel, row, column] * w[o, c, k, m]
        y[n, o, i, j] = total
    return y


def _constant(body: str, shape: Sequence[int], element: str) -> Array:
    words = re.findall(r"[-+.\w]+", body.removeprefix("dense"))
    numbers = [_real(w, element) if element.startswith("f") else int(w) for w in words]
    return np.array(numbers * (prod(shape) // len(numbers)), dtype=object).reshape(shape)


def _slice(body: str, shape: Sequence[int], element: str, x: Array) -> Array:
    axis, start, size, step = (_number(name, body) for name in ("axis", "start", "size", "step"))
    return np.stack([x.take(start + i * step, axis) for i in range(size)], axis)


def _transpose(body: str, shape: Sequence[int], element: str, x: Array) -> Array:
    return x.transpose(_integers(_first(r"%\w+ (\[[^\]]*\])", body)).tolist())


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "quantize": _quantize,
    "dequantize": _dequantize,
    "requantize": _requantize,
    "matmul": _matmul,
    "linear": _linear,
    "conv2d": _conv2d,
    "constant": _constant,
    "add": lambda body, shape, element, a, b: a + b,
    "mul": lambda body, shape, element, a, b: a * b,
    "div": lambda body, shape, element, a, b: _each(Fraction, a, b),
    "sub": lambda body, shape, element, a, b: a - b,
    "add_requant": _add_requant,
    "clip": _clip,
    "reduce_sum": lambda body, shape, element, x: np.reshape(x.sum(_axes(body)), shape),
    "reduce_mean": lambda body, shape, element, x: (
        np.reshape(x.sum(_axes(body)), shape) / Fraction(x.size, prod(shape))
    ),
    "argmax": _argmax,
    "relu": lambda body, shape, element, x: _each(lambda v: max(v, 0), x),
    "reshape": lambda body, shape, element, x: x.reshape(shape),
    "transpose": _transpose,
    "slice": _slice,
    "gather": lambda body, shape, element, x, i: x.take(i.astype(int), _number("axis", body)),
    "broadcast": lambda body, shape, element, x: np.broadcast_to(x, shape),
    "concat": lambda body, shape, element, *parts: np.concatenate(parts, _number("axis", body)),
}

# --- random graphs -----------------------------------------------------------------------------------------------------

_TYPES = [IntegerType(n) for n in (2, 4, 8, 16)] + [IntegerType(n, Signedness.UNSIGNED) for n in (4, 8)]
_EXACT = (0.5, 0.125, 2.0)

# Apart from powers of two no list has a number of another one, and 0.2 is 0.1 times a power of two: what is halfway
# between two codes occurs only where float64 is exact, so that codes can be compared with equality.
_SCALES = (0.1, 0.3, 0.007, *_EXACT)
_STEPS = (0.2, 0.06, 0.011, *_EXACT)
_FACTORS = (0.7, -1.3, *_EXACT)
_DIVISORS = (0.9, 1.7, *_EXACT)

_LARGEST = 64  # elements of a tensor


@dataclass
class Graph:
    """A module with one function @main, and inputs for it."""

    module: ModuleOp
    inputs: list[Array]

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What hypothesis shows of a graph that fails."""
        printer.text(f"{self.module}\ninputs: {self.inputs}")


@dataclass
class _Builder:
    """Grows a graph: every step adds operations to float tensors that are there already."""

    draw: Any
    block: Block = field(default_factory=Block)
    inputs: list[Array] = field(default_factory=list[Array])
    pool: list[SSAValue] = field(default_factory=list[SSAValue])
    biases: list[SSAValue] = field(default_factory=list[SSAValue])
    count: int = 0

    def __post_init__(self) -> None:
        self.numbers = np.random.default_rng(self.draw(st.integers(0, 2**32 - 1)))

    def one(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def maybe(self, often: int = 2) -> bool:
        """True one time in `often`."""
        return self.draw(st.integers(1, often)) == often

    def emit(self, op: Operation) -> SSAValue:
        self.count += 1
        set_sources(op, [f"{op.name.removeprefix('qvit.')}{self.count}"])
        self.block.add_op(op)
        return op.results[0]

    def keep(self, value: SSAValue) -> None:
        self.pool.append(value)

    def value(self) -> SSAValue:
        """One of the newest tensors, now and then an older one: those have several users."""
        return self.pool[-1] if self.maybe() else self.one(*self.pool)

    def number(self, choices: Sequence[float], n: int | None) -> float | Array:
        if n is None:
            return self.one(*choices)
        return np.array(self.numbers.choice(choices, n), np.float32)

    def params(self, shape: Sequence[int], element: IntegerType, choices: Sequence[float] = _SCALES) -> QParamsAttr:
        """Per tensor or per axis, the scale, the zero point, or both; one factor or two."""
        axis = self.one(*range(len(shape))) if shape and self.maybe() else None
        length = None if axis is None else shape[axis]
        vector_scale, vector_zero = (
            (True, False) if length is None or self.maybe() else self.one((True, True), (False, True))
        )
        scale = ScaleAttr.of(self.factor(choices, length if vector_scale else None))
        if choices is _SCALES and self.maybe(4):
            scale = scale.times(self.factor(_EXACT, None))
        limits = int_type(element)
        assert limits is not None
        # close to the lowest code, so that |q - z| is not symmetric
        zero = self.numbers.integers(limits.lo, limits.lo + 4, length if vector_zero and length is not None else None)
        return QParamsAttr.of(scale, zero if vector_zero or self.maybe() else 0, axis)

    def factor(self, choices: Sequence[float], n: int | None) -> Any:
        number = self.number(choices, n)
        return float_value(np.float32(number) if n is None else number)

    def codes(self, shape: Sequence[int], element: IntegerType, constant: bool) -> SSAValue:
        limits = int_type(element)
        assert limits is not None
        array = self.numbers.integers(limits.lo, limits.hi, shape, endpoint=True).astype(limits.dtype)
        if constant:
            return self.emit(ConstantOp(array, element))
        self.inputs.append(array)
        return self.block.insert_arg(TensorType(element, shape), len(self.block.args))

    def fresh(self, shape: Sequence[int], constant: bool = False) -> SSAValue:
        """dq of an argument or a constant."""
        element = self.one(*_TYPES)
        return self.emit(DequantizeOp(self.codes(shape, element, constant), self.params(shape, element)))

    def constant(self, shape: Sequence[int], choices: Sequence[float]) -> SSAValue:
        return self.emit(ConstantOp(np.array(self.numbers.choice(choices, shape), np.float32)))

    # --- steps ---

    def transpose(self) -> None:
        x = self.value()
        self.keep(self.emit(TransposeOp(x, self.draw(st.permutations(range(len(shape_of(x))))))))

    def reshape(self) -> None:
        """Merges neighbours, splits dimensions, puts in and drops ones."""
        x = self.value()
        shape = [d for d in shape_of(x) if d != 1 or self.maybe()]
        for _ in range(self.one(0, 1, 2)):
            i = self.one(*range(len(shape))) if shape else 0
            match self.one("merge", "split", "one"):
                case "merge" if len(shape) > i + 1:
                    shape[i : i + 2] = [shape[i] * shape[i + 1]]
                case "split" if shape and shape[i] % 2 == 0:
                    shape[i : i + 1] = [2, shape[i] // 2] if self.maybe() else [shape[i] // 2, 2]
                case _:
                    shape.insert(i, 1)
        if len(shape) <= 5:
            self.keep(self.emit(ReshapeOp(x, shape)))

    def slice(self) -> None:
        x = self.value()
        if shape := shape_of(x):
            axis = self.one(*range(len(shape)))
            taken = sorted(self.draw(st.sets(st.integers(0, shape[axis] - 1), min_size=1, max_size=2)))
            start, last = taken[0], taken[-1]
            step = self.one(1, last - start) if last > start else 1
            size = (last - start) // step + 1
            back = self.maybe()
            self.keep(self.emit(SliceOp(x, axis, last if back else start, size, -step if back else step)))

    def gather(self) -> None:
        x = self.value()
        if shape := shape_of(x):
            axis = self.one(*range(len(shape)))
            where = self.numbers.integers(0, shape[axis], self.one((), (1,), (3,), (2, 2))).astype(np.int32)
            if prod(shape) // shape[axis] * where.size <= _LARGEST:
                if self.maybe(3):
                    self.inputs.append(where)
                    indices = self.block.insert_arg(TensorType(IntegerType(32), where.shape), len(self.block.args))
                else:
                    indices = self.emit(ConstantOp(where))
                self.keep(self.emit(GatherOp(x, indices, axis)))

    def broadcast(self) -> None:
        x = self.value()
        shape = [self.one(1, 2, 3) if d == 1 else d for d in shape_of(x)]
        shape = [self.one(1, 2), *shape] if self.maybe() else shape
        if prod(shape) <= _LARGEST and len(shape) <= 5:
            self.keep(self.emit(BroadcastOp(x, shape)))

    def concat(self) -> None:
        x = self.value()
        shape = list(shape_of(x))
        if shape and prod(shape) <= _LARGEST // 2:
            axis = self.one(*range(len(shape)))
            other = next((v for v in self.pool if list(shape_of(v)) == shape), x) if self.maybe() else None
            if other is None:
                shape[axis] = self.one(1, shape[axis])
                other = self.fresh(shape, self.maybe())
            parts = [x, other] if self.maybe() else [other, x]
            self.keep(self.emit(ConcatOp(parts, axis)))

    def multiply(self) -> None:
        x = self.value()
        rank, op, choices = len(shape_of(x)), *self.one((MulOp, _FACTORS), (DivOp, _DIVISORS))
        wide = self.draw(st.sets(st.integers(0, rank - 1), max_size=2)) if rank else set[int]()
        shape = [d if i in wide else 1 for i, d in enumerate(shape_of(x))]
        if self.maybe():
            shape = shape[min(wide, default=rank) :]
        c = self.constant(shape, choices)
        self.keep(self.emit(op(c, x) if op is MulOp and self.maybe() else op(x, c)))

    def add_bias(self) -> None:
        """A constant, in float or dequantized, is added, and sometimes the sum multiplied."""
        x = self.value()
        shape = shape_of(x)[-1:]
        c = self.fresh(shape, constant=True) if self.maybe() else self.constant(shape, _FACTORS)
        y = self.emit(AddOp(x, c) if self.maybe() else AddOp(c, x))
        self.keep(self.emit(MulOp(y, self.constant(self.one((), shape), _FACTORS))) if self.maybe() else y)

    def add(self) -> None:
        x = self.value()
        same = [v for v in self.pool if v.type == x.type]
        self.keep(self.emit(AddOp(x, self.one(*same))))

    def relu(self) -> None:
        self.keep(self.emit(ReluOp(self.value())))

    def requantize(self) -> None:
        """q, and dq with the same parameters or others."""
        x, element = self.value(), self.one(*_TYPES)
        if self.maybe():
            x = next((v for v in reversed(self.pool) if isinstance(v.owner, DequantizeOp)), x)
        params = self.params(shape_of(x), element, _STEPS)
        if isinstance(dq := x.owner, DequantizeOp) and self.maybe():
            params, element = dq.params, element_of(dq.input)
        q = self.emit(QuantizeOp(x, params, element, self.one(*Rounding)))
        self.keep(self.emit(DequantizeOp(q, params if self.maybe() else self.params(shape_of(x), element))))

    def matmul(self) -> None:
        x = self.value()
        shape = list(shape_of(x))
        if len(shape) < 2:
            return
        batch = [d if self.maybe() else 1 for d in shape[:-2]][self.one(0, len(shape) - 2) :]
        if self.maybe():
            other = self.fresh([*batch, shape[-1], self.one(1, 2, 3)], self.maybe())
            self.keep(self.emit(MatmulOp(x, other)))
        else:
            other = self.fresh([*batch, self.one(1, 2, 3), shape[-2]], self.maybe())
            self.keep(self.emit(MatmulOp(other, x)))

    def bias(self, x: SSAValue, weight: SSAValue, channels: int) -> SSAValue | None:
        """None, a new one, or the one of a layer before."""
        old = [b for b in self.biases if shape_of(b) == (channels,)]
        bias = self.one(*old) if old and self.maybe() else self.new_bias(x, weight, channels)
        if bias is not None:
            self.biases.append(bias)
        return bias

    def new_bias(self, x: SSAValue, weight: SSAValue, channels: int) -> SSAValue | None:
        owners = x.owner, weight.owner
        match self.one("none", "float", "codes", "exact"):
            case "float":
                return self.constant((channels,), _FACTORS)
            case "codes":
                return self.fresh((channels,), constant=True)
            case "exact" if isinstance(owners[0], DequantizeOp) and isinstance(owners[1], DequantizeOp):
                s, t = (o.params for o in owners)
                if s.scale.length is None and t.axis_index in (None, 0):
                    limit = 1 << self.one(4, 31)  # the large ones leave no room in the accumulator
                    codes = self.emit(ConstantOp(self.numbers.integers(-limit, limit, channels).astype(np.int32)))
                    params = QParamsAttr.of(s.scale.times(*t.scale.above, over=t.scale.below), 0, 0)
                    return self.emit(DequantizeOp(codes, params))
        return None

    def linear(self) -> None:
        x = self.value()
        if shape := shape_of(x):
            channels = self.one(1, 2, 3)
            weight = self.fresh((channels, shape[-1]), constant=not self.maybe(3))
            self.keep(self.emit(LinearOp(x, weight, self.bias(x, weight, channels))))

    def conv2d(self) -> None:
        x = self.value()
        if len(shape_of(x)) != 4:
            x = (
                self.fresh((self.one(1, 2), 2, 3, 2))
                if self.maybe()
                else self.emit(ReshapeOp(x, (1, 1, prod(shape_of(x)), 1)))
            )
        _, channels, height, width = shape_of(x)
        groups = channels if self.maybe() else 1
        outputs = groups * self.one(1, 2)
        kernel = min(height, 2), min(width, 2)
        weight = self.fresh((outputs, channels // groups, *kernel), constant=not self.maybe(3))
        padding, strides, dilations = (
            self.one((0, 0, 0, 0), (1, 0, 1, 2)),
            self.one((1, 1), (2, 1)),
            self.one((1, 1), (1, 2)),
        )
        if width + padding[1] + padding[3] <= dilations[1]:
            dilations = (1, 1)
        geometry = strides, padding, dilations, groups
        if outputs * height * width <= _LARGEST:
            self.keep(self.emit(Conv2dOp(x, weight, self.bias(x, weight, outputs), *geometry)))


_STEPS_OF_A_GRAPH = (
    _Builder.transpose,
    _Builder.reshape,
    _Builder.slice,
    _Builder.gather,
    _Builder.broadcast,
    _Builder.concat,
    _Builder.multiply,
    _Builder.add_bias,
    _Builder.add,
    _Builder.relu,
    _Builder.requantize,
    _Builder.matmul,
    _Builder.matmul,
    _Builder.linear,
    _Builder.linear,
    _Builder.conv2d,
)


@st.composite
def graphs(draw: Any, steps: int = 8) -> Graph:
    """Chains of what delay-dequant knows, and of what it does not, with codes and floats among the results."""
    b = _Builder(draw)
    b.keep(b.fresh(b.one((3,), (2, 3), (1, 4), (2, 3, 4), (1, 2, 2, 3))))
    for _ in range(draw(st.integers(1, steps))):
        b.one(*_STEPS_OF_A_GRAPH)(b)
    results = [b.pool[-1], *draw(st.lists(st.sampled_from(b.pool), max_size=2))]
    for i, x in enumerate(results):
        if i == 0 or b.maybe():
            element = b.one(*_TYPES)
            results[i] = b.emit(QuantizeOp(x, b.params(shape_of(x), element, _STEPS), element))
    b.block.add_op(ReturnOp(*results))
    type_ = FunctionType.from_lists([a.type for a in b.block.args], [r.type for r in results])
    module = ModuleOp([FuncOp("main", type_, Region(b.block))])
    module.verify()
    return Graph(module, b.inputs)
