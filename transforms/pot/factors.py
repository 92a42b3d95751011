"""Constant factors between dequantize and quantize that are no powers of two: into what makes the value in front of them.

LayerScale and the attention scale stand behind products. Left there, they would meet the scales around them in one
requantize, and no rounding of those scales would make it a shift.
"""

from dataclasses import dataclass, field

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from qvit.dialects.attributes import Factor, QParamsAttr
from qvit.dialects.ops.elementwise import AddOp, DivOp, MulOp
from qvit.dialects.ops.nonlinear import LayerNormOp, ReduceMeanOp
from qvit.dialects.ops.products import Conv2dOp, LinearOp, MatmulOp
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.ops.shape import ReshapeOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp, WeightOp
from qvit.dialects.provenance import Remark, describe, inherit
from qvit.dialects.semantics.integers import Array
from qvit.dialects.types import element_of, is_float, shape_of
from qvit.dialects.weights import Weights
from qvit.transforms.delay.folds import constant_factor
from qvit.transforms.ptq.prepare import constant_like, only_use
from qvit.transforms.rule import Declined, require

RULE = "fold-factor"


@dataclass
class _Route:
    """What the factor changes on its way to the weights in front of it."""

    scaled: list[tuple[DequantizeOp | QuantizeOp, int | None]] = field(
        default_factory=list[tuple[DequantizeOp | QuantizeOp, int | None]]
    )
    """Operations whose scale is multiplied, and the axis along which a vector lies there."""
    constants: list[tuple[Operation, int, Array]] = field(default_factory=list[tuple[Operation, int, Array]])
    """Float operands that are multiplied: (operation, index, numbers)."""


def fold_factors(module: ModuleOp, weights: Weights) -> tuple[list[str], list[Remark]]:
    """Fold every constant factor that is no power of two into weights, in place: (source nodes folded, what could not).

    value * c, value / c, c a number or one for each channel. Where a layer with quantized weights made the value, their scale
    takes c, as do the bias and all quantizers on the way: codes stay what they are. Behind a layer normalisation gamma and
    beta take it. Equal over the reals; float constants are rounded to their type.
    """
    folded: list[str] = []
    left: list[Remark] = []
    for op in list(module.walk()):
        try:
            if isinstance(op, MulOp | DivOp) and is_float(element_of(op.result)):
                if _fold(op, weights):
                    folded.append(describe(op))
            elif isinstance(op, ReduceMeanOp):
                require(op.count & (op.count - 1) == 0, f"it divides by {op.count}, which is no power of two")
        except Declined as declined:
            left.append(Remark(describe(op), RULE, str(declined)))
    return folded, left


def _fold(op: MulOp | DivOp, weights: Weights) -> bool:
    """Whether there was a factor to fold; Declined where it cannot be."""
    pairs = [(op.lhs, op.rhs)] if isinstance(op, DivOp) else [(op.lhs, op.rhs), (op.rhs, op.lhs)]
    found = [(v, c) for v, c in pairs if isinstance(c.owner, ConstantOp | WeightOp) and weights.array(v) is None]
    if not found:
        return False
    (value, constant), rank = found[0], len(shape_of(op.result))
    factor, axis = constant_factor(constant, rank, weights)
    numbers = weights.values(factor).astype(np.float64)
    if (np.frexp(numbers)[0] == 0.5).all():  # powers of two
        return False
    name = describe(constant)
    require(shape_of(value) == shape_of(op.result), f"the factor {name} enlarges the tensor")
    require((numbers > 0).all(), f"the factor {name} holds {float(numbers.min()):g}, expected positive numbers")
    route = _Route()
    _walk(value, axis, route, weights)
    _apply(route, factor, isinstance(op, DivOp), weights)
    if isinstance(value.owner, Operation):
        inherit(value.owner, op)
    Rewriter.replace_op(op, [], [value])
    return True


def _walk(value: SSAValue, axis: int | None, route: _Route, weights: Weights) -> None:
    """From the factor to the weights in front of it; `axis`: along which it varies."""
    owner = value.owner
    where = describe(value)
    require(only_use(value), f"{where} is used elsewhere too")
    match owner:
        case LinearOp() | Conv2dOp():
            channel = 1 if isinstance(owner, Conv2dOp) else len(shape_of(value)) - 1
            require(axis in (None, channel), f"it varies along axis {axis} of the result of {where}")
            _layer(owner, axis is not None, route, weights)
        case DequantizeOp():
            require(isinstance(owner.input.owner, QuantizeOp), f"{where} dequantizes what is no quantize's result")
            quantize = owner.input.owner
            assert isinstance(quantize, QuantizeOp)
            require(only_use(quantize.result), f"the codes of {where} are used elsewhere too")
            for op in (quantize, owner):
                require(axis is None or op.params.axis_index in (None, axis), f"{where} has scales along another axis")
                route.scaled.append((op, axis))
            _walk(quantize.input, axis, route, weights)
        case ReshapeOp():
            require(axis is None, f"it varies along an axis of {where}, a reshape")
            _walk(owner.input, None, route, weights)
        case TransposeOp():
            _walk(owner.input, None if axis is None else owner.order[axis], route, weights)
        case MatmulOp():
            require(axis is None, f"it varies along an axis of {where}, a product of activations")
            _walk(owner.lhs, None, route, weights)
        case AddOp() if any(weights.array(v) is not None for v in owner.operands):
            index = 0 if weights.array(owner.lhs) is not None else 1
            array = weights.array(owner.operands[index])
            assert array is not None
            require(axis in (None, len(shape_of(value)) - 1), f"it varies along axis {axis} of {where}")
            route.constants.append((owner, index, array))
            _walk(owner.operands[1 - index], axis, route, weights)
        case LayerNormOp():
            last = len(shape_of(value)) - 1
            require(axis in (None, last) and owner.axis.value.data == last, f"{where} normalises over other axes")
            for i, operand in enumerate(owner.operands[1:], start=1):
                array = weights.array(operand)
                if array is None:
                    raise Declined(f"gamma and beta of {where} are not float constants")
                route.constants.append((owner, i, array))
        case _:
            made = f"{where} is {owner.name}" if isinstance(owner, Operation) else where
            raise Declined(f"no weights stand in front of it: {made}")


def _layer(layer: LinearOp | Conv2dOp, per_channel: bool, route: _Route, weights: Weights) -> None:
    where, axis = describe(layer), 0 if per_channel else None
    for operand in layer.operands[1:]:
        dq = operand.owner
        array = weights.array(operand)
        if operand is not layer.weight and array is not None:
            route.constants.append((layer, 2, array))
            continue
        if not isinstance(dq, DequantizeOp) or weights.array(dq.input) is None:
            raise Declined(f"the weights of {where} are not quantized constants")
        require(only_use(operand), f"the weights of {where} are used elsewhere too")
        require(
            axis is None or dq.params.axis_index in (None, axis), f"the weights of {where} have scales along axis 1"
        )
        route.scaled.append((dq, axis))


def _apply(route: _Route, factor: Factor, divides: bool, weights: Weights) -> None:
    for op, axis in route.scaled:
        scale = op.params.scale.times(over=[factor]) if divides else op.params.scale.times(factor)
        along = op.params.axis_index if axis is None else axis
        op.properties["params"] = QParamsAttr.of(scale, op.params.zero_point, along)
    numbers = weights.values(factor).astype(np.float64)
    for op, index, array in route.constants:
        new = constant_like(op.operands[index], array / numbers if divides else array * numbers)
        Rewriter.insert_op(new, InsertPoint.before(op))
        op.operands[index] = new.result
