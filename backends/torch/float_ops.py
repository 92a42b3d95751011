"""Float operations of the dialect in torch, with gradients."""

from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from xdsl.ir import Operation

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
from qvit.dialects.ops.nonlinear import ArgmaxOp, GeluOp, LayerNormOp, ReduceMeanOp, ReduceSumOp, SoftmaxOp
from qvit.dialects.ops.products import Conv2dOp, LinearOp, MatmulOp
from qvit.dialects.ops.shape import BroadcastOp, ConcatOp, GatherOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.types import shape_of

OpT = TypeVar("OpT", bound=Operation)
FloatOp: TypeAlias = Callable[..., Tensor]
"""(operation, operands) -> its result. Operands are float32, or integers where they are indices."""


def _conv2d(op: Conv2dOp, x: list[Tensor]) -> Tensor:
    top, left, bottom, right = op.padding.get_values()
    padded = F.pad(x[0], (left, right, top, bottom)) if any((top, left, bottom, right)) else x[0]
    bias = x[2] if len(x) > 2 else None
    strides, dilations = op.strides.get_values(), op.dilations.get_values()
    return F.conv2d(padded, x[1], bias, list(strides), 0, list(dilations), op.groups.value.data)


def _linear(_: LinearOp, x: list[Tensor]) -> Tensor:
    return F.linear(x[0], x[1], x[2] if len(x) > 2 else None)


def _softmax(op: SoftmaxOp, x: list[Tensor]) -> Tensor:
    axis = op.axis.value.data
    if op.mask is None:
        return x[0].softmax(axis)
    keep = x[1] != 0
    # the lowest float, not minus infinity, so that a row without an entry has gradients
    kept = torch.where(keep, x[0], torch.finfo(x[0].dtype).min)
    return kept.softmax(axis) * keep


def _gelu(op: GeluOp, x: list[Tensor]) -> Tensor:
    return F.gelu(x[0], approximate="none" if op.tanh is None else "tanh")


def _layer_norm(op: LayerNormOp, x: list[Tensor]) -> Tensor:
    dims = shape_of(op.input)[op.axis.value.data :]
    beta = x[2] if len(x) > 2 else None
    return F.layer_norm(x[0], dims, x[1], beta, op.epsilon.value.data)


def _clip(op: ClipOp, x: list[Tensor]) -> Tensor:
    low, high = (None if bound is None else float(bound) for bound in op.bounds)
    return x[0].clamp(low, high)


def _slice(op: SliceOp, x: list[Tensor]) -> Tensor:
    axis, start, size, step = op.extent
    if step == 1:
        return x[0].narrow(axis, start, size)
    return x[0].index_select(axis, torch.arange(size, device=x[0].device) * step + start)


def _gather(op: GatherOp, x: list[Tensor]) -> Tensor:
    return x[0][(slice(None),) * op.axis.value.data + (x[1].long(),)]


def _concat(op: ConcatOp, x: list[Tensor]) -> Tensor:
    return torch.cat(x, op.axis.value.data)


def _compare(op: CompareOp, x: list[Tensor]) -> Tensor:
    a, b = x
    relations = {"eq": a.eq, "ne": a.ne, "lt": a.lt, "le": a.le, "gt": a.gt, "ge": a.ge}
    return relations[op.predicate.data](b)


def _select(_: SelectOp, x: list[Tensor]) -> Tensor:
    return torch.where(x[0].bool(), x[1], x[2])


# A dict's type cannot say that its values fit their keys; this says it for one row.
def _row(kind: type[OpT], body: Callable[[OpT, list[Tensor]], Tensor]) -> tuple[type[OpT], FloatOp]:
    return kind, body


FLOAT_OPS: Mapping[type[Operation], FloatOp] = dict(
    (
        _row(Conv2dOp, _conv2d),
        _row(LinearOp, _linear),
        _row(MatmulOp, lambda _, x: x[0] @ x[1]),
        _row(SoftmaxOp, _softmax),
        _row(GeluOp, _gelu),
        _row(LayerNormOp, _layer_norm),
        _row(AddOp, lambda _, x: x[0] + x[1]),
        _row(SubOp, lambda _, x: x[0] - x[1]),
        _row(MulOp, lambda _, x: x[0] * x[1]),
        _row(DivOp, lambda _, x: x[0] / x[1]),
        _row(PowOp, lambda _, x: x[0] ** x[1]),
        _row(SqrtOp, lambda _, x: x[0].sqrt()),
        _row(ErfOp, lambda _, x: x[0].erf()),
        _row(TanhOp, lambda _, x: x[0].tanh()),
        _row(SigmoidOp, lambda _, x: x[0].sigmoid()),
        _row(ReluOp, lambda _, x: x[0].relu()),
        _row(ClipOp, _clip),
        _row(CompareOp, _compare),
        _row(SelectOp, _select),
        _row(ReduceMeanOp, lambda op, x: x[0].mean(op.axes.get_values(), keepdim=op.keeps)),
        _row(ReduceSumOp, lambda op, x: x[0].sum(op.axes.get_values(), keepdim=op.keeps)),
        _row(ArgmaxOp, lambda op, x: x[0].argmax(op.axis.value.data, keepdim=op.keeps)),
        _row(ReshapeOp, lambda op, x: x[0].reshape(shape_of(op.result))),
        _row(TransposeOp, lambda op, x: x[0].permute(op.order)),
        _row(SliceOp, _slice),
        _row(ConcatOp, _concat),
        _row(GatherOp, _gather),
        _row(BroadcastOp, lambda op, x: x[0].expand(shape_of(op.result))),
    )
)
"""How torch computes each float operation that a prepared model has."""
