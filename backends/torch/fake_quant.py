"""The straight-through quantizer: forward what given codes stand for, backward the gradients of LSQ."""

from typing import Any, cast

import torch
from torch import Tensor


def fake_quantize(
    x: Tensor, codes: Tensor, scale: Tensor, zero_point: int, low: Tensor | int, high: Tensor | int
) -> Tensor:
    """(codes - zero_point) * scale, with gradients as if the codes were x / scale + zero_point, rounded and clipped.

    x: float32, what was quantized; codes: its codes, whole numbers of any dtype in low..high; scale: float32, broadcasts
    against x; low, high: whole numbers, or float32 that broadcasts against x. The codes need not be those that x itself
    would get: they are what the integer program computed.

    Backward (Esser et al., Learned Step Size Quantization, equations 3 and 5): x takes the gradient where x / scale +
    zero_point lies in low..high, and 0 elsewhere; the scale takes codes - zero_point, less x / scale inside, divided by
    sqrt(elements of a scale * high). A bound takes the scale where x is beyond it, by which widths are learned (Li et al.,
    Q-ViT, arXiv 2201.07703).
    """
    function = cast(Any, _FakeQuantize)
    return function.apply(x, codes, scale, zero_point, torch.as_tensor(low), torch.as_tensor(high))


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, codes: Tensor, scale: Tensor, zero_point: int, low: Tensor, high: Tensor
    ) -> Tensor:
        centred = codes.to(x.dtype) - zero_point
        ctx.save_for_backward(x, centred, scale, low, high)
        ctx.zero_point = zero_point
        return centred * scale

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        x, centred, scale, low, high = ctx.saved_tensors
        ratio, low, high = x / scale, low - ctx.zero_point, high - ctx.zero_point
        below, above = ratio < low, ratio > high
        inside = ~(below | above)
        to_x = grad * inside if ctx.needs_input_grad[0] else None
        to_scale = None
        if ctx.needs_input_grad[2]:
            each = grad * (centred - ratio * inside)
            elements = x.numel() // scale.numel()
            to_scale = each.sum_to_size(scale.shape) * (elements * high.clamp(min=1)) ** -0.5
        to_low, to_high = (
            (grad * scale * beyond).sum_to_size(end.shape) if needed else None
            for end, beyond, needed in ((low, below, ctx.needs_input_grad[4]), (high, above, ctx.needs_input_grad[5]))
        )
        return to_x, None, to_scale, None, to_low, to_high
