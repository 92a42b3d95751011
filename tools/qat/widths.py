"""Bits that are learned, those of each head (Q-ViT, arXiv 2201.07703): whose they are, and what they cost."""

from collections.abc import Callable, Iterator, Mapping
from math import prod

import numpy as np
from xdsl.ir import SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from qvit.dialects.ops.elementwise import ClipOp
from qvit.dialects.ops.products import LinearOp, MatmulOp
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.provenance import inherit
from qvit.dialects.types import shape_of
from qvit.tools.qat.template import Step, Template
from qvit.transforms.ptq.sites import MOVES

LEAST = 2
"""Bits of a head at least."""


def give_widths(template: Template, at_bits: Callable[[int], Template]) -> None:
    """Let the heads of a template have widths of their own, in place: of queries, keys (and values), and of the weights
    that make them.

    at_bits: the same model with weights and operands of attention of so many bits; its scales are those with which a head
    begins that has so many (a switchable scale for each width). Its other tensors may be quantized in other places, so
    scales are found by the layers that they belong to. ValueError where no width is to be learned.
    """
    chosen = {step: step.heads for step in template.steps if _of_heads(step)}
    for step in template.steps:
        if step.weights and step.axis == 0 and step.codes.bits > LEAST and (heads := _behind(step, template, chosen)):
            chosen[step] = heads
    if not chosen:
        raise ValueError(
            "no head has a width that could be learned: more than 2 bits are needed, and queries and keys that linear"
            " layers make, in a scheme with symmetric codes"
        )
    most = max(step.codes.bits for step in chosen)
    places = {step: place for place, step in _by_layer(template).items()}
    others = [_by_layer(at_bits(bits)) for bits in range(LEAST, most)]
    for step, heads in chosen.items():
        step.heads = heads
        step.narrower = np.stack([steps[places[step]].initial for steps in others[: step.codes.bits - LEAST]])
        for op in step.ops:
            if isinstance(op, QuantizeOp):
                step.clips.append(clip := _bounded(op))
                template.quantizers[template.quantizers.index(op)] = clip


def _by_layer(template: Template) -> dict[tuple[int, str], Step]:
    """The steps of the weights and of the result of each linear layer, by its number in program order."""
    found: dict[tuple[int, str], Step] = {}
    layers = [op for op in template.operations() if isinstance(op, LinearOp)]
    for i, op in enumerate(layers):
        made = [template.step_of.get(use.operation) for use in op.result.uses if isinstance(use.operation, QuantizeOp)]
        steps = {"weights": _step_of(op.weight, template), "result": made[0] if made else None}
        found |= {(i, what): step for what, step in steps.items() if step is not None}
    return found


def _bounded(op: QuantizeOp) -> ClipOp:
    """q => clip(q) for all users; the bounds are still to come."""
    clip = ClipOp(op.result, None, None)
    inherit(clip, op)
    op.result.replace_uses_with_if(clip.result, lambda use: use.operation is not clip)
    Rewriter.insert_op(clip, InsertPoint.after(op))
    return clip


def _of_heads(step: Step) -> bool:
    """Whether an activation has symmetric codes and a scale for each head."""
    made = all(isinstance(op.input.owner, QuantizeOp) for op in step.ops if isinstance(op, DequantizeOp))
    many = step.heads > 0 and not step.fixed
    return many and made and step.codes.signed and not step.zero_point and step.codes.bits > LEAST


def _behind(step: Step, template: Template, chosen: Mapping[Step, int]) -> int | None:
    """The heads into which the results of a layer with these weights fall; None where they do not."""
    layers = [use.operation for op in step.ops for use in op.results[0].uses]
    takers = [use.operation for layer in layers if isinstance(layer, LinearOp) for use in layer.result.uses]
    quantizers = [template.step_of.get(op) for op in takers if isinstance(op, QuantizeOp)]
    found = {chosen.get(made) for made in quantizers if made is not None}
    return found.pop() if len(found) == 1 and len(quantizers) == len(takers) else None


def products(template: Template) -> Iterator[tuple[int, Step, Step]]:
    """(multiply-accumulates, both operands' steps) of the products that take a head of a learned width."""
    for op in template.operations():
        match op:
            case LinearOp():
                operands, depth = (op.input, op.weight), shape_of(op.input)[-1]
            case MatmulOp():
                operands, depth = (op.lhs, op.rhs), shape_of(op.lhs)[-1]
            case _:
                continue
        a, b = (_step_of(value, template) for value in operands)
        if a is not None and b is not None and (a.narrower is not None or b.narrower is not None):
            yield depth * prod(shape_of(op.result)), a, b


def _step_of(value: SSAValue, template: Template) -> Step | None:
    """That of the codes which a value stands for."""
    while isinstance(value.owner, MOVES):
        value = value.owner.operands[0]
    return template.step_of.get(value.owner) if isinstance(value.owner, DequantizeOp) else None
