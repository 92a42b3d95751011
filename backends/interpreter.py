"""The interpreter: whole tensors through the semantics, one operation after another.

Float operations run in float64 unless asked otherwise: in float32 an int8 vision transformer is chaotic, and two
correct summation orders end far apart.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import DTypeLike
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, ModuleOp, StringAttr, TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Operation, SSAValue
from xdsl.utils.hints import isa

from qvit.dialects.approximations.base import FunctionApproximation, LayerNormApproximation, SoftmaxApproximation
from qvit.dialects.attributes import DyadicAttr, Form, PotAttr, RealAttr, ScaleAttr, ZeroPointAttr
from qvit.dialects.functions import INTEGER_ONLY, stages
from qvit.dialects.ops.approximated import IntFunctionOp, IntLayerNormOp, IntSoftmaxOp
from qvit.dialects.ops.elementwise import (
    AddOp,
    ClipOp,
    CompareOp,
    DivOp,
    ErfOp,
    MulOp,
    PowOp,
    ReluOp,
    SelectOp,
    SigmoidOp,
    SqrtOp,
    SubOp,
    TanhOp,
)
from qvit.dialects.ops.nonlinear import (
    ArgmaxOp,
    BatchNormOp,
    GeluOp,
    LayerNormOp,
    ReduceMeanOp,
    ReduceSumOp,
    ResizeOp,
    SoftmaxOp,
)
from qvit.dialects.ops.products import Conv2dOp, ConvTranspose2dOp, LinearOp, MatmulOp, ShiftMatmulOp
from qvit.dialects.ops.quantization import AddRequantOp, DequantizeOp, QuantizeOp, RequantizeOp, ThresholdOp
from qvit.dialects.ops.shape import BroadcastOp, ConcatOp, GatherOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp, WeightOp
from qvit.dialects.provenance import NAME, describe, sources
from qvit.dialects.semantics import elementwise, nonlinear, products, quantization, shape
from qvit.dialects.semantics.integers import Array, IntType, minus, widen
from qvit.dialects.types import BOOLEAN, element_dtype, element_of, integer_of, shape_of
from qvit.dialects.weights import Weights

OpT = TypeVar("OpT", bound=Operation)


class ExecutionError(Exception):
    """The program cannot run on these inputs; the message names the operation."""


Observer = Callable[[Operation, Array], None]


@dataclass
class Machine:
    """What the operations of one run share. integers_only: whatever would take or make a float is a ValueError."""

    weights: Weights
    float_dtype: np.dtype[Any]
    integers_only: bool = False

    def no_float(self, what: str) -> None:
        """Called where a float is about to be used."""
        if self.integers_only:
            raise ValueError(f"{what}, in a run of integers only")

    def require_integers(self, what: str, arrays: Sequence[Array]) -> None:
        for array in arrays:
            if array.dtype.kind not in "iub":
                self.no_float(f"{what} {array.dtype}{list(array.shape)}")

    def exact_factors(self, form: Form) -> list[Fraction]:
        if isinstance(form, RealAttr):
            self.no_float(f"multiplies by the real number {form.scale}")
        return self.weights.exact_factors(form)

    def scale(self, scale: ScaleAttr, axis: int | None, rank: int) -> Array:
        self.no_float("has a scale")
        return quantization.along(self.weights.scale(scale, self.float_dtype), axis, rank)

    def zero_point(self, zero_point: ZeroPointAttr | None, axis: int | None, rank: int) -> Array:
        return quantization.along(self.weights.zero_point(zero_point), axis, rank)


def _integer_result(op: Operation) -> IntType | None:
    return integer_of(op.results[0])


def _quantize(m: Machine, op: QuantizeOp, x: Array) -> Array:
    axis, result = op.params.axis_index, _integer_result(op)
    assert result is not None
    zero, inverse = m.zero_point(op.params.zero_point, axis, x.ndim), op.params.scale.inverse
    scale = m.scale(op.params.scale if inverse is None else inverse, axis, x.ndim)
    return quantization.quantize(x, scale, zero, op.rounding.data, result, inverse is not None)


def _dequantize(m: Machine, op: DequantizeOp, q: Array) -> Array:
    axis = op.params.axis_index
    scale, zero = m.scale(op.params.scale, axis, q.ndim), m.zero_point(op.params.zero_point, axis, q.ndim)
    return quantization.dequantize(q, scale, zero)


def _requantize(m: Machine, op: RequantizeOp, x: Array, divisor: Array | None = None) -> Array:
    axis = op.axis.value.data if op.axis is not None else None
    result = _integer_result(op)
    assert result is not None
    zero_points = (m.zero_point(op.input_zero_point, axis, x.ndim), m.zero_point(op.zero_point, axis, x.ndim))
    rounding, form = op.rounding.data, op.form
    if isinstance(form, PotAttr):
        shift = quantization.along(m.weights.values(form.shift), axis, x.ndim)
        return quantization.requantize_pot(x, shift, zero_points, rounding, result, divisor)
    if isinstance(form, DyadicAttr):
        multiplier, shift = _dyadic(m, form, axis, x.ndim)
        return quantization.requantize_dyadic(x, multiplier, shift, zero_points, rounding, result, divisor)
    factors = m.exact_factors(form)
    vector = axis if form.scale.length is not None else None
    return quantization.requantize_real(x, factors, vector, zero_points, rounding, result, divisor)


def _dyadic(m: Machine, form: DyadicAttr | PotAttr, axis: int | None, rank: int) -> tuple[Array, Array]:
    """(multiplier, shift), laid along the axis; a power of two is multiplier 1."""
    shift = quantization.along(m.weights.values(form.shift).astype(np.int64), axis, rank)
    if isinstance(form, PotAttr):
        return np.array(1, np.int64), shift
    return quantization.along(m.weights.values(form.multiplier).astype(np.int64), axis, rank), shift


def _add_requant(m: Machine, op: AddRequantOp, a: Array, b: Array) -> Array:
    axis = op.axis.value.data if op.axis is not None else None
    result = _integer_result(op)
    assert result is not None
    z_a, z_b, z = (m.weights.zero_point(z) for z in (op.lhs_zero_point, op.rhs_zero_point, op.zero_point))
    rest = ((z_a, z_b, z), op.rounding.data, op.round_each is not None, result)
    left, right = op.lhs_form, op.rhs_form
    if isinstance(left, RealAttr) or isinstance(right, RealAttr):
        factors = m.exact_factors(left), m.exact_factors(right)
        axis_a, axis_b = (axis if form.length is not None else None for form in (left, right))
        return quantization.add_requant_real(a, b, factors, (axis_a, axis_b), *rest)
    (m_a, s_a), (m_b, s_b) = _dyadic(m, left, axis, a.ndim), _dyadic(m, right, axis, a.ndim)
    return quantization.add_requant(a, b, (m_a, m_b), (s_a, s_b), *rest)


def _threshold(_: Machine, op: ThresholdOp, x: Array, thresholds: Array) -> Array:
    result = _integer_result(op)
    assert result is not None
    axis = op.axis.value.data if op.axis is not None else None
    return quantization.threshold(x, thresholds, axis, op.lowest.value.data, result)


def _matmul(m: Machine, op: MatmulOp, a: Array, b: Array) -> Array:
    zero_points = (m.weights.zero_point(op.lhs_zero_point), m.weights.zero_point(op.rhs_zero_point))
    return products.matmul(a, b, zero_points, _integer_result(op))


def _shift_matmul(m: Machine, op: ShiftMatmulOp, q: Array, b: Array) -> Array:
    result = _integer_result(op)
    assert result is not None
    return products.shift_matmul(q, b, m.weights.zero_point(op.rhs_zero_point), result)


def _linear(m: Machine, op: LinearOp, x: Array, weight: Array, bias: Array | None = None) -> Array:
    zero_points = (m.weights.zero_point(op.input_zero_point), m.weights.zero_point(op.weight_zero_point))
    return products.linear(x, weight, bias, zero_points, _integer_result(op))


def _conv2d(m: Machine, op: Conv2dOp, x: Array, weight: Array, bias: Array | None = None) -> Array:
    zero_points = (m.weights.zero_point(op.input_zero_point), m.weights.zero_point(op.weight_zero_point))
    return products.conv2d(x, weight, bias, *op.geometry, zero_points, _integer_result(op))


def _conv_transpose2d(_: Machine, op: ConvTranspose2dOp, x: Array, weight: Array, bias: Array | None = None) -> Array:
    return products.conv_transpose2d(x, weight, bias, *op.geometry)


def _constant(m: Machine, op: ConstantOp | WeightOp) -> Array:
    array = m.weights.array(op.result)
    assert array is not None
    return array.astype(m.float_dtype) if array.dtype.kind == "f" else array


def _resize(_: Machine, op: ResizeOp, x: Array) -> Array:
    sizes = shape_of(op.result)[-2:]
    options = (op.mode.data, op.coordinates.data, op.cubic_a.value.data)
    return nonlinear.resize(x, sizes, op.scales.get_values(), *options)


def _layer_norm(_: Machine, op: LayerNormOp, x: Array, gamma: Array, beta: Array | None = None) -> Array:
    return nonlinear.layer_norm(x, gamma, beta, op.epsilon.value.data, op.axis.value.data)


def _batch_norm(_: Machine, op: BatchNormOp, x: Array, gamma: Array, beta: Array, mean: Array, var: Array) -> Array:
    return nonlinear.batch_norm(x, gamma, beta, mean, var, op.epsilon.value.data)


def _softmax(_: Machine, op: SoftmaxOp, x: Array, mask: Array | None = None) -> Array:
    return nonlinear.softmax(x, op.axis.value.data, mask)


def _reduce_sum(_: Machine, op: ReduceSumOp, x: Array) -> Array:
    result = _integer_result(op)
    assert result is not None
    return elementwise.total(x, op.axes.get_values(), op.keeps, result)


def _select(_: Machine, op: SelectOp, condition: Array, a: Array, b: Array) -> Array:
    return elementwise.select(condition, a, b)


def _concat(_: Machine, op: ConcatOp, *parts: Array) -> Array:
    return shape.concat(parts, op.axis.value.data)


def _int_softmax(_: Machine, op: IntSoftmaxOp, x: Array, *constants: Array) -> tuple[Array, ...]:
    approximation = op.approximation.data
    assert isinstance(approximation, SoftmaxApproximation)
    count = len(op.tables)
    mask = constants[count] if op.mask is not None else None
    results = [integer for result in op.results if (integer := integer_of(result)) is not None]
    return approximation.apply(widen(x), constants[:count], mask, results)


TABULATED = 2
"""An elementwise function of more elements than this times the codes of its operand is computed once for each code."""


def _int_function(m: Machine, op: IntFunctionOp, x: Array, *tables: Array) -> Array:
    approximation, result = op.approximation.data, _integer_result(op)
    assert isinstance(approximation, FunctionApproximation)
    assert result is not None
    zero_point, codes = m.weights.zero_point(op.input_zero_point), integer_of(op.input)
    assert codes is not None
    if not approximation.rowwise and x.size >> codes.bits > TABULATED:
        every = np.arange(codes.lo, codes.hi + 1)
        with suppress(OverflowError):  # of a code that x need not have
            return approximation.apply(minus(every, zero_point), tables, result)[widen(x) - codes.lo]
    return approximation.apply(minus(widen(x), zero_point), tables, result)


def _int_layer_norm(_: Machine, op: IntLayerNormOp, x: Array, *tables: Array) -> Array:
    approximation, result = op.approximation.data, _integer_result(op)
    assert isinstance(approximation, LayerNormApproximation)
    assert result is not None
    return approximation.apply(widen(x), tables, result)


Implementation: TypeAlias = Callable[..., Array | tuple[Array, ...]]
"""(machine, op, operands...) -> its result, or all of them"""


# A dict's type cannot say that its values fit their keys; these two say it for one row.
def _unary(kind: type[OpT], body: Callable[[Machine, OpT, Array], Array]) -> tuple[type[OpT], Implementation]:
    return kind, body


def _binary(kind: type[OpT], body: Callable[[Machine, OpT, Array, Array], Array]) -> tuple[type[OpT], Implementation]:
    return kind, body


IMPLEMENTATIONS: dict[type[Operation], Implementation] = dict(
    (
        (QuantizeOp, _quantize),
        (DequantizeOp, _dequantize),
        (RequantizeOp, _requantize),
        (AddRequantOp, _add_requant),
        (ThresholdOp, _threshold),
        (MatmulOp, _matmul),
        (ShiftMatmulOp, _shift_matmul),
        (LinearOp, _linear),
        (Conv2dOp, _conv2d),
        (ConvTranspose2dOp, _conv_transpose2d),
        _binary(AddOp, lambda _, op, a, b: elementwise.add(a, b, _integer_result(op))),
        _binary(SubOp, lambda _, op, a, b: elementwise.sub(a, b, _integer_result(op))),
        _binary(MulOp, lambda _, op, a, b: elementwise.mul(a, b, _integer_result(op))),
        _binary(DivOp, lambda _, op, a, b: a / b),
        _binary(PowOp, lambda _, op, a, b: np.power(a, b)),
        _unary(SqrtOp, lambda _, op, x: np.sqrt(x)),
        _unary(ErfOp, lambda _, op, x: elementwise.erf(x)),
        _unary(TanhOp, lambda _, op, x: np.tanh(x)),
        _unary(SigmoidOp, lambda _, op, x: elementwise.sigmoid(x)),
        _unary(ReluOp, lambda _, op, x: elementwise.relu(x)),
        _unary(ClipOp, lambda _, op, x: elementwise.clip(x, *op.bounds)),
        _binary(CompareOp, lambda _, op, a, b: elementwise.compare(a, b, op.predicate.data)),
        (SelectOp, _select),
        (SoftmaxOp, _softmax),
        _unary(GeluOp, lambda _, op, x: nonlinear.gelu(x, op.tanh is not None)),
        (LayerNormOp, _layer_norm),
        (BatchNormOp, _batch_norm),
        _unary(ReduceMeanOp, lambda _, op, x: x.mean(axis=op.axes.get_values(), keepdims=op.keeps)),
        (ReduceSumOp, _reduce_sum),
        _unary(ArgmaxOp, lambda _, op, x: elementwise.argmax(x, op.axis.value.data, op.keeps)),
        (ResizeOp, _resize),
        (IntSoftmaxOp, _int_softmax),
        (IntFunctionOp, _int_function),
        (IntLayerNormOp, _int_layer_norm),
        _unary(ReshapeOp, lambda _, op, x: shape.reshape(x, shape_of(op.result))),
        _unary(TransposeOp, lambda _, op, x: shape.transpose(x, op.order)),
        _unary(SliceOp, lambda _, op, x: shape.slice_(x, *op.extent)),
        (ConcatOp, _concat),
        _binary(GatherOp, lambda _, op, x, indices: shape.gather(x, indices, op.axis.value.data)),
        _unary(BroadcastOp, lambda _, op, x: shape.broadcast(x, shape_of(op.result))),
        (ConstantOp, _constant),
        (WeightOp, _constant),
    )
)
"""How to execute every operation of the dialect. Operations of extensions have such tables of their own."""

EXTENSIONS = "qvit.interpreter"
"""The group of entry points that name the tables of extensions."""


@cache
def _of_extensions() -> dict[type[Operation], Implementation]:
    from importlib.metadata import entry_points

    tables: dict[type[Operation], Implementation] = {}
    for entry in entry_points(group=EXTENSIONS):
        try:
            tables |= entry.load()
        except Exception as error:  # an extension may raise anything
            raise ExecutionError(f"the extension {entry.name} ({entry.value}) cannot be loaded: {error}") from error
    return tables


def implementation_of(op: Operation) -> Implementation | None:
    """How to execute an operation of the dialect or of an installed extension; None if nobody says."""
    return IMPLEMENTATIONS.get(type(op)) or _of_extensions().get(type(op))


def _require_implementation(op: Operation) -> Implementation:
    if (implementation := implementation_of(op)) is None:
        raise ExecutionError(f"{describe(op)}: the interpreter does not know {op.name}")
    return implementation


def find_function(module: ModuleOp, name: str = "main") -> FuncOp:
    """The function called `name`; ExecutionError if the module has none."""
    for op in module.ops:
        if isinstance(op, FuncOp) and op.sym_name.data == name:
            if op.body.first_block is None:
                raise ExecutionError(f"@{name} is a declaration without a body")
            return op
    raise ExecutionError(f"the module has no function @{name}")


def find_stages(module: ModuleOp) -> list[FuncOp]:
    """The functions that `run_model` executes, in their order; ExecutionError if there is no @main among them."""
    find_function(module)
    return [find_function(module, function.sym_name.data) for function in stages(module)]


def value_names(attributes: ArrayAttr[DictionaryAttr] | None, count: int, default: str) -> list[str]:
    """The names of a function's arguments or results (`qvit.name`), `default` and a number where there is none."""
    names = [f"{default}{i}" for i in range(count)]
    for i, attribute in enumerate(attributes or ()):
        if isinstance(name := attribute.data.get(NAME), StringAttr):
            names[i] = name.data
    for name in names:
        if names.count(name) > 1:
            raise ExecutionError(f"two {default}s are called {name!r}")
    return names


def input_names(function: FuncOp) -> list[str]:
    return value_names(function.arg_attrs, len(function.args), "input")


def output_names(function: FuncOp) -> list[str]:
    return value_names(function.res_attrs, len(function.function_type.outputs), "output")


def _check_input(machine: Machine, name: str, array: Array, argument: SSAValue) -> Array:
    if not isa(argument.type, TensorType):
        raise ExecutionError(f"input {name!r}: expected a tensor, found {argument.type}")
    expected = shape_of(argument)
    if array.shape != expected:
        raise ExecutionError(f"input {name!r}: expected shape {expected}, found {array.shape}")
    integer = integer_of(argument)
    if integer is None:
        if machine.integers_only:
            raise ExecutionError(f"input {name!r}: it takes floats, in a run of integers only")
        if array.dtype.kind not in "fiu":
            raise ExecutionError(f"input {name!r}: expected floats, found {array.dtype}")
        return array.astype(machine.float_dtype)
    if array.dtype.kind not in ("iub" if element_of(argument) == BOOLEAN else "iu"):
        raise ExecutionError(f"input {name!r}: expected {integer}, found {array.dtype}")
    if array.size and (array.min() < integer.lo or array.max() > integer.hi):
        raise ExecutionError(f"input {name!r}: values {array.min()}..{array.max()} do not fit {integer}")
    return array.astype(element_dtype(element_of(argument)))


def run(
    module: ModuleOp,
    inputs: Mapping[str, Array] | Sequence[Array],
    *,
    function: str = "main",
    float_dtype: DTypeLike = np.float64,
    integers_only: bool = False,
    observe: Observer | None = None,
) -> dict[str, Array]:
    """Execute a function and return its results by name.

    inputs: arrays by name, or in order; float inputs become `float_dtype` (float64 or float32), the precision of all
    float operations. `observe` is called with every operation and its first result. integers_only: an operation that
    takes or makes a float, or has a real number as its factor, is an error. ExecutionError if an input does not fit, an
    operation is unknown, or a value leaves its type.
    """
    body = find_function(module, function)
    names = input_names(body)
    if not isinstance(inputs, Mapping):
        if len(inputs) != len(names):
            raise ExecutionError(f"expected {len(names)} inputs ({', '.join(names)}), found {len(inputs)}")
        inputs = dict(zip(names, inputs, strict=True))
    if set(inputs) != set(names):
        raise ExecutionError(f"expected inputs {', '.join(names)}; found {', '.join(inputs) or 'none'}")
    machine = Machine(Weights(module), np.dtype(float_dtype), integers_only)
    values: dict[SSAValue, Array] = {
        argument: _check_input(machine, name, np.asarray(inputs[name]), argument)
        for name, argument in zip(names, body.args, strict=True)
    }
    operations = list(body.body.block.ops)
    last_use = {operand: i for i, op in enumerate(operations) for operand in op.operands}
    for i, op in enumerate(operations):
        if isinstance(op, ReturnOp):
            return dict(zip(output_names(body), (values[v] for v in op.operands), strict=True))
        try:
            operands = [values[v] for v in op.operands]
            machine.require_integers("takes", operands)
            result = _require_implementation(op)(machine, op, *operands)
            results = result if isinstance(result, tuple) else (result,)
            machine.require_integers("makes", results)
        except (OverflowError, ValueError, IndexError) as error:
            raise ExecutionError(f"{describe(op)} ({op.name}): {error}") from error
        if observe is not None:
            observe(op, results[0])
        values.update(zip(op.results, results, strict=True))
        for operand in op.operands:
            if last_use[operand] == i:
                values.pop(operand, None)
    raise ExecutionError(f"@{function} has no func.return")


def run_model(
    module: ModuleOp,
    inputs: Mapping[str, Array] | Sequence[Array],
    *,
    float_dtype: DTypeLike = np.float64,
    observe: Observer | None = None,
) -> dict[str, Array]:
    """Execute a whole model: @quantize_inputs, @main and @dequantize_outputs, each on the results of the one before.

    Those that the module lacks are left out. A function that is promised to be free of floats (`qvit.integer_only`) runs
    with integers alone. Otherwise as `run`.
    """
    results: dict[str, Array] = {}
    for function in find_stages(module):
        integers_only = INTEGER_ONLY in function.attributes
        name = function.sym_name.data
        results = run(
            module, inputs, function=name, float_dtype=float_dtype, integers_only=integers_only, observe=observe
        )
        inputs = list(results.values())
    return results


def evaluate(module: ModuleOp, op: Operation, operands: Sequence[Array], float_dtype: DTypeLike = np.float64) -> Array:
    """One operation's first result on given operands; floats become `float_dtype`. `module` has its weights."""
    machine = Machine(Weights(module), np.dtype(float_dtype))
    values = [v.astype(machine.float_dtype) if v.dtype.kind == "f" else v for v in operands]
    result = _require_implementation(op)(machine, op, *values)
    return result[0] if isinstance(result, tuple) else result


def trace_names(module: ModuleOp) -> dict[Operation, list[str]]:
    """The names under which a trace keeps the integer tensors that operations make (constants are not made).

    A tensor goes under the last of its operation's source nodes, which names its value, and under the others where no
    other operation claims them: so a quantize that a rewrite found to change nothing keeps its name.
    """
    ours = [op for op in module.walk() if implementation_of(op) and not isinstance(op, ConstantOp | WeightOp)]
    makers = [op for op in ours if _integer_result(op)]
    claims = Counter(name for op in makers for name in sources(op))
    owners = {sources(op)[-1]: op for op in makers if sources(op)}  # of equal names, the last one's
    return {
        op: [n for n in sources(op) if owners.get(n) is op or (claims[n] == 1 and n not in owners)] for op in makers
    }
