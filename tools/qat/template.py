"""A quantized module whose scales and constants change: what training learns, and where it stands in the module."""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FloatAttr, FunctionType, ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Operation, SSAValue

from qvit.backends.interpreter import find_function, output_names
from qvit.dialects.attributes import QParamsAttr, ScaleAttr, dense, dense_array, float_value
from qvit.dialects.ops.elementwise import ClipOp
from qvit.dialects.ops.nonlinear import LayerNormOp
from qvit.dialects.ops.products import Conv2dOp, LinearOp, MatmulOp
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.ops.shape import ConcatOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import NAME, describe
from qvit.dialects.semantics.integers import Array, IntType, Rounding
from qvit.dialects.types import element_of, integer_of, is_float, shape_of
from qvit.dialects.weights import Weights
from qvit.transforms.ptq.sites import MOVES


@dataclass(eq=False)
class Step:
    """A scale, common to the quantizers and dequantizers `ops`.

    initial: float32, one number or one for each index along `axis`; the scale is `initial` times 2^(what was learned),
    and divided by the factors `below`, which stay. codes: of what it quantizes; zero_point: one number. weights: whether
    it is the scale of a layer's weights: of these each is learned, of activations one for each head, and where channels
    have scales of their own only what these have in common. fixed: whether it keeps its first value, as the scheme gave
    it, or as its codes have bits to spare. src: the source node. heads: into how many the elements along `axis` fall, where each
    has a scale, or, of weights, a width; else 0.

    narrower: where each head has bits of its own, which are learned: the scales of 2, 3, ... bits, [codes.bits - 2, elements of
    `initial`]; `initial` is that of all bits. clips: what holds codes of activations in these bits.
    """

    src: str
    ops: list[QuantizeOp | DequantizeOp]
    initial: Array
    axis: int | None
    zero_point: int
    codes: IntType
    weights: bool = False
    fixed: bool = False
    heads: int = 0
    narrower: Array | None = None
    clips: list[ClipOp] = field(default_factory=list[ClipOp])

    @property
    def learned(self) -> tuple[int, ...]:
        """The shape of what is learned."""
        each = self.initial.shape if self.weights else (self.heads,) if self.heads else ()
        return each if self.narrower is None else (len(self.narrower) + 1, *each)

    @property
    def first(self) -> Array:
        """The scales with which training begins: `initial`, or of each width one, [widths, elements of `initial`]."""
        return self.initial if self.narrower is None else np.stack([*self.narrower, self.initial])

    @property
    def below(self) -> tuple[float, ...]:
        factors = self.ops[0].params.scale.below
        return tuple(float(f.value.data) for f in factors if isinstance(f, FloatAttr))

    def write(self, scale: Array, widths: Array | None) -> None:
        """Put a float32 scale, the zero point, and the widths of all channels, if they have any, into the operations."""
        for op in self.ops:
            made = ScaleAttr.of(float_value(scale if scale.ndim else float(scale)), over=op.params.scale.below)
            op.properties["params"] = QParamsAttr.of(made, self.zero_point, op.params.axis_index)
        for clip in self.clips:
            assert widths is not None
            bound = ClipOp(clip.input, -(1 << (widths - 1)), (1 << (widths - 1)) - 1, self.axis)
            clip.properties.update(bound.properties)
            bound.drop_all_references()


@dataclass(eq=False)
class Value:
    """A constant that is trained. initial: float32; step: that of its codes, None for one that stays in float.

    shape: of the constant; along its first axis `initial` may be one, for what a frontend repeated for each element of the
    batch (a class token): it is one parameter, or training would tell the elements of a batch apart.
    """

    src: str
    constant: ConstantOp
    initial: Array
    step: Step | None = None
    rounding: Rounding = Rounding.HALF_EVEN

    @property
    def shape(self) -> tuple[int, ...]:
        return shape_of(self.constant.result)

    def write(self, array: Array) -> None:
        """Put codes (or floats, where there is no step) into the module."""
        wide = np.broadcast_to(array, self.shape)
        self.constant.properties["value"] = dense(np.ascontiguousarray(wide), element_of(self.constant.result))


@dataclass
class Template:
    """A module of floats, quantizers and dequantizers, with what can be learned of it.

    quantizers: those of activations, or the bounds behind them, in program order: results of @main behind its own ones, so
    that the integers of each are seen wherever the passes move them. steps, values: see there.
    """

    module: ModuleOp
    quantizers: list[QuantizeOp | ClipOp]
    steps: list[Step]
    values: list[Value]
    outputs: list[str]
    step_of: Mapping[Operation, Step] = field(default_factory=dict[Operation, Step])

    @property
    def function(self) -> FuncOp:
        return find_function(self.module)

    def operations(self) -> Iterator[Operation]:
        yield from self.function.body.block.ops

    def clone(self) -> "Template":
        """The same with a module of its own."""
        module = self.module.clone()
        twins: dict[Operation, Any] = dict(zip(self.module.walk(), module.walk(), strict=True))
        steps = {
            step: replace(step, ops=[twins[op] for op in step.ops], clips=[twins[op] for op in step.clips])
            for step in self.steps
        }
        values = [
            replace(v, constant=twins[v.constant], step=None if v.step is None else steps[v.step]) for v in self.values
        ]
        step_of = {twins[op]: steps[step] for op, step in self.step_of.items()}
        quantizers = [twins[op] for op in self.quantizers]
        return Template(module, quantizers, list(steps.values()), values, self.outputs, step_of)

    def observed(self) -> ModuleOp:
        """A copy that also returns the codes of every quantizer."""
        copy = self.module.clone()
        function = find_function(copy)
        positions = {op: i for i, op in enumerate(self.operations())}
        ops = list(function.body.block.ops)
        codes = [ops[positions[q]].results[0] for q in self.quantizers]
        returned = function.body.block.last_op
        assert isinstance(returned, ReturnOp)
        returned.operands = [*returned.operands, *codes]
        names = [*self.outputs, *(code_name(i) for i in range(len(codes)))]
        function.properties["res_attrs"] = ArrayAttr([DictionaryAttr({NAME: StringAttr(name)}) for name in names])
        function.properties["function_type"] = FunctionType.from_lists(
            [a.type for a in function.args], [v.type for v in returned.operands]
        )
        return copy


def code_name(index: int) -> str:
    """How `Template.observed` calls the codes of a quantizer."""
    return f"codes.{index}"


WIDE = 12
"""Scales of codes with so many bits are not learned: rounding costs nothing there, and what saturates is lost."""


def make_template(module: ModuleOp, reference: ModuleOp, given: Set[float] = frozenset()) -> Template:
    """The template of a module that `quantize` made.

    reference: the same in float, in front of quantization. given: scales that the scheme itself gives, which stay.
    """
    function = find_function(module)
    ops = list(function.body.block.ops)
    quantizers: list[QuantizeOp | ClipOp] = [op for op in ops if isinstance(op, QuantizeOp)]
    template = Template(module, quantizers, [], [], output_names(function))
    steps: dict[Operation, Step] = {}
    for group in _groups(ops):
        step = _step(group)
        if step is not None:
            numbers = {float(np.float32(scale)) for scale in given}
            step.fixed = step.codes.bits >= WIDE or (not step.weights and float(step.initial.max()) in numbers)
            template.steps.append(step)
            steps.update((op, step) for op in step.ops)
    weights = Weights(module)
    originals = _originals(ops, list(find_function(reference).body.block.ops), Weights(reference))
    for op in ops:
        if not isinstance(op, ConstantOp):
            continue
        users = [use.operation for use in op.result.uses]
        if len(users) == 1 and isinstance(users[0], DequantizeOp) and op in originals:
            step = steps.get(users[0])
            if step is not None:
                rounding = next((q.rounding.data for q in step.ops if isinstance(q, QuantizeOp)), Rounding.HALF_EVEN)
                initial = originals[op] if step.weights else _once(originals[op], shape_of(function.args[0])[0])
                template.values.append(Value(describe(op), op, initial, step, rounding))
        elif is_float(element_of(op.result)) and any(_trains(user, op.result) for user in users):
            array = weights.array(op.result)
            assert array is not None
            template.values.append(Value(describe(op), op, array.astype(np.float32)))
    template.step_of = steps
    return template


def _once(array: Array, batch: int) -> Array:
    """What is the same for each element of the batch, for one of them."""
    repeated = array.ndim > 1 and len(array) == batch and (array == array[:1]).all()
    return array[:1] if repeated else array


def _trains(op: Operation, value: SSAValue) -> bool:
    """Whether a float constant is a parameter to an operation: a bias, gamma or beta; masks and the like are none."""
    match op:
        case LinearOp() | Conv2dOp():
            return op.bias is value
        case LayerNormOp():
            return value in (op.gamma, op.beta)
        case _:
            return False


def _groups(ops: Sequence[Operation]) -> list[list[QuantizeOp | DequantizeOp]]:
    """Quantizers and dequantizers that share one scale: of a tensor, and of all that meet in a concatenation."""
    found = [op for op in ops if isinstance(op, DequantizeOp)]
    leader = {op: op for op in found}

    def find(op: DequantizeOp) -> DequantizeOp:
        while leader[op] is not op:
            op = leader[op]
        return op

    for op in ops:
        if isinstance(op, ConcatOp):
            first, *others = [source for v in op.operands for source in _sources_of(v)] or [None]
            for other in others:
                assert first is not None
                assert other is not None
                leader[find(other)] = find(first)
    groups: dict[DequantizeOp, list[QuantizeOp | DequantizeOp]] = {}
    for op in found:
        group = groups.setdefault(find(op), [])
        group.append(op)
        if isinstance(made := op.input.owner, QuantizeOp):
            group.append(made)
    return list(groups.values())


def _sources_of(value: SSAValue) -> list[DequantizeOp]:
    """The dequantizers whose results operations that only move elements put into a tensor."""
    if isinstance(value.owner, DequantizeOp):
        return [value.owner]
    if isinstance(value.owner, MOVES):
        return [source for operand in value.owner.operands for source in _sources_of(operand)]
    return []


def _step(group: list[QuantizeOp | DequantizeOp]) -> Step | None:
    """None for scales that stay: with several factors, or with zero points for channels."""
    params = group[0].params
    if any(op.params != params for op in group) or params.zero_point.number is None or len(params.scale.above) != 1:
        return None
    (factor,) = params.scale.above
    dequantize = next(op for op in group if isinstance(op, DequantizeOp))
    codes = integer_of(dequantize.input)
    assert codes is not None
    if isinstance(factor, FloatAttr):
        initial = np.array(factor.value.data, np.float32)
    else:
        array = Weights.of(dequantize).values(factor)
        initial = array.astype(np.float32)
    weights = any(
        isinstance(use.operation, LinearOp | Conv2dOp) and use.index == 1 for use in dequantize.result.uses
    ) and isinstance(dequantize.input.owner, ConstantOp)
    quantizer = next((op for op in group if isinstance(op, QuantizeOp)), dequantize)
    zero_point, heads = params.zero_point.number, 0 if weights else _heads(dequantize, initial)
    return Step(describe(quantizer), group, initial, params.axis_index, zero_point, codes, weights, heads=heads)


def _heads(dequantize: DequantizeOp, scale: Array) -> int:
    """Into how many heads products take the channels of a tensor, 0 for none, and where their scales differ inside a head."""
    if not scale.ndim:
        return 0
    reached = [dequantize.result]
    for value in reached:  # grows while it is walked
        reached += [r for use in value.uses if isinstance(use.operation, MOVES) for r in use.operation.results]
    taken = [shape_of(v) for v in reached if any(isinstance(use.operation, MatmulOp) for use in v.uses)]
    counts = {shape[-3] if len(shape) > 2 else 1 for shape in taken}
    if len(counts) != 1 or len(scale) % (heads := counts.pop()):
        return 0
    return heads if (np.ptp(scale.reshape(heads, -1), axis=1) == 0).all() else 0


def _originals(
    quantized: Sequence[Operation], floats: Sequence[Operation], weights: Weights
) -> dict[ConstantOp, Array]:
    """The floats of each constant that became codes, found by walking both modules in step."""
    skipped = (ConstantOp, QuantizeOp, DequantizeOp)
    pairs = zip(
        (op for op in quantized if not isinstance(op, skipped)),
        (op for op in floats if not isinstance(op, skipped)),
        strict=True,
    )
    found: dict[ConstantOp, Array] = {}
    for op, original in pairs:
        assert op.name == original.name
        for operand, before in zip(op.operands, original.operands, strict=True):
            if isinstance(dq := operand.owner, DequantizeOp) and isinstance(constant := dq.input.owner, ConstantOp):
                array = weights.array(before)
                if array is not None and is_float(element_of(before)):
                    found[constant] = array.astype(np.float32)
    return found


def constant_of(op: ConstantOp) -> Array:
    """A constant's array."""
    return dense_array(op.value)
