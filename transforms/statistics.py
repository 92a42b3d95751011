"""What a module computes, counted: multiply-accumulates, float elements, quantize and dequantize operations."""

from collections import Counter
from math import prod

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation

from qvit.dialects.ops.approximated import ApproximatedOp
from qvit.dialects.ops.products import Conv2dOp, ConvTranspose2dOp, LinearOp, MatmulOp, ShiftMatmulOp
from qvit.dialects.ops.quantization import AddRequantOp, DequantizeOp, QuantizeOp, RequantizeOp
from qvit.dialects.ops.weights import ConstantOp, WeightOp
from qvit.dialects.types import element_of, is_float, shape_of

PRODUCTS = (MatmulOp, ShiftMatmulOp, LinearOp, Conv2dOp, ConvTranspose2dOp)


def macs(op: Operation) -> int:
    """Multiply-accumulates of a product, 0 for other operations."""
    match op:
        case MatmulOp() | ShiftMatmulOp():
            return prod(shape_of(op.result)) * shape_of(op.lhs)[-1]
        case LinearOp():
            return prod(shape_of(op.result)) * shape_of(op.weight)[1]
        case Conv2dOp():
            return prod(shape_of(op.result)) * prod(shape_of(op.weight)[1:])
        case ConvTranspose2dOp():
            return prod(shape_of(op.input)) * prod(shape_of(op.weight)[1:])
        case _:
            return 0


def is_integer_product(op: Operation) -> bool:
    """Whether a product's operands are integers."""
    return isinstance(op, PRODUCTS) and not is_float(element_of(op.operands[0]))


def macs_total(module: ModuleOp) -> int:
    return sum(macs(op) for op in module.walk())


def macs_integer(module: ModuleOp) -> int:
    """Multiply-accumulates of products whose operands are both integers."""
    return sum(macs(op) for op in module.walk() if is_integer_product(op))


def float_elements(module: ModuleOp) -> int:
    """Elements of float tensors that operations make in one run; constants are not made."""
    return sum(
        prod(shape_of(result))
        for op in module.walk()
        if op.name.startswith("qvit.") and not isinstance(op, ConstantOp | WeightOp)
        for result in op.results
        if is_float(element_of(result))
    )


def qdq_ops(module: ModuleOp) -> int:
    return sum(isinstance(op, QuantizeOp | DequantizeOp) for op in module.walk())


def operation_kinds(function: FuncOp) -> Counter[str]:
    """How many operations of each kind a function has, the most frequent first.

    A kind is the name, with the approximation, the form of the factor, or the type of the weights where there is one.
    """
    kinds = Counter(_kind(op) for op in function.body.walk() if op.name.startswith("qvit."))
    return Counter(dict(kinds.most_common()))


def _kind(op: Operation) -> str:
    name = op.name.removeprefix("qvit.")
    match op:
        case ApproximatedOp():
            return f"{name} {op.approximation.data.name}"
        case RequantizeOp():
            return f"{name} {op.form.name.removeprefix('qvit.')}{'' if op.divisor is None else ' divided'}"
        case AddRequantOp():
            each = "" if op.round_each is None else " round_each"
            return f"{name} {op.lhs_form.name.removeprefix('qvit.')}{each}"
        case LinearOp() | Conv2dOp():
            return f"{name} {element_of(op.weight)}"
        case _:
            return name
