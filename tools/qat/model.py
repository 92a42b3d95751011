"""The model that trains: each forward pass compiles what was learned so far and runs the integers; torch has the gradients."""

from collections.abc import Mapping, Sequence
from math import e, log2, prod
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import ReturnOp
from xdsl.ir import SSAValue
from xdsl.utils.exceptions import DiagnosticException

from qvit.backends.interpreter import find_function, input_names, run
from qvit.backends.torch.fake_quant import fake_quantize
from qvit.backends.torch.float_ops import FLOAT_OPS
from qvit.dialects.functions import DEQUANTIZE_OUTPUTS, QUANTIZE_INPUTS
from qvit.dialects.ops.elementwise import ClipOp
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import describe
from qvit.dialects.semantics.integers import Array, Rounding
from qvit.dialects.types import integer_of, shape_of
from qvit.tools.qat.template import Step, Template, code_name, constant_of
from qvit.tools.qat.widths import LEAST, products
from qvit.transforms.delay_dequant import DelayDequantPass
from qvit.transforms.integerize import IntegerizePass, IntegerReport
from qvit.transforms.lower_requant import LowerRequantPass
from qvit.transforms.pipelines import Scheme, left_in_float
from qvit.transforms.threshold import ThresholdPass

MOMENTUM = 0.95
"""Of the moving averages of ranges (I-ViT)."""


class QuantizedModel(nn.Module):
    """What `prepare_qat` returns. Inputs and results are those of the model that it was made of.

    Parameters: `values`, the weights, biases and what else is constant, as the compiler folded them (LayerScale and the
    attention's scale are in the weights); `steps`, log2 of each learned scale over its first value. In training mode and
    in evaluation mode alike the result is that of the integers: the compiled program runs in the interpreter, so training
    and deployment cannot differ. Its gradient is that of the float model through straight-through quantizers.

    learn: scales are parameters (LSQ). Otherwise those of weights follow their largest, and those of activations the moving
    average of the ranges that are seen in training mode (I-ViT).

    The first dimension of every input is a batch. Of another size than the compiled one it is run in parts, the last one
    padded with its last element.
    """

    def __init__(self, template: Template, scheme: Scheme, layers: Mapping[str, tuple[str, ...]], learn: bool) -> None:
        super().__init__()
        self.template, self.scheme, self.layers, self.learn = template, scheme, dict(layers), learn
        self.values = nn.ParameterList([nn.Parameter(torch.as_tensor(v.initial.copy())) for v in template.values])
        self.steps = nn.ParameterList(
            [nn.Parameter(torch.zeros(s.learned), requires_grad=learn and not s.fixed) for s in template.steps]
        )
        for i, step in enumerate(template.steps):
            self.register_buffer(f"scale_{i}", torch.as_tensor(step.first.copy()))
        self._headed = [step for step in template.steps if step.narrower is not None]
        self.widths = nn.ParameterList(
            [nn.Parameter(torch.full((s.heads,), float(s.codes.bits))) for s in self._headed]
        )
        self._products = list(products(template))
        self.zero_points: Tensor
        self.register_buffer("zero_points", torch.tensor([step.zero_point for step in template.steps]))
        self._index = {step: i for i, step in enumerate(template.steps)}
        self._of_step = {v.step: i for i, v in enumerate(template.values) if v.step is not None and v.step.weights}
        self._compiled: tuple[tuple[int, ...], ModuleOp] | None = None
        self._inputs = input_names(template.function)
        self._batch = shape_of(template.function.args[0])[0]

    def __deepcopy__(self, memo: dict[int, Any]) -> "QuantizedModel":
        """As of any module (moving averages of weights need it): what is learned, in a template of its own."""
        copy = QuantizedModel(self.template.clone(), self.scheme, self.layers, self.learn)
        copy.load_state_dict(self.state_dict())
        for mine, its in zip(self.parameters(), copy.parameters(), strict=True):
            its.requires_grad_(mine.requires_grad)
        memo[id(self)] = copy
        return copy.train(self.training)

    def parameter_groups(
        self, rate: float, step_rate: float = 0.01, width_rate: float = 0.01, weight_decay: float = 0.0
    ) -> list[dict[str, Any]]:
        """For an optimizer: matrices with `rate` and decay, other values with `rate`, learned scales and widths with theirs.

        step_rate: of log2 of the scales; 0.01 moves one by at most 0.7 % in a step of Adam. width_rate: in bits; 0.01 takes
        50 steps of Adam at least from one width to the next.
        """
        matrices = [p for p in self.values if p.ndim > 1]
        vectors = [p for p in self.values if p.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "lr": rate, "weight_decay": weight_decay},
            {"params": vectors, "lr": rate, "weight_decay": 0.0},
        ]
        if learned := [p for p in self.steps if p.requires_grad]:
            groups.append({"params": learned, "lr": step_rate, "weight_decay": 0.0})
        if len(self.widths):
            groups.append({"params": list(self.widths), "lr": width_rate, "weight_decay": 0.0})
        return groups

    # --- on disk ---

    def save(self, path: Path) -> None:
        """Write all that was learned as safetensors, whole or not at all."""
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(save(tensors, {"scheme": self.scheme.name}))
        temporary.replace(path)

    def restore(self, path: Path) -> None:
        """Read what `save` wrote of a model of the same architecture, scheme and widths; its samples do not matter.

        ValueError for another scheme, and for tensors that are missing or of other shapes.
        """
        with cast(Any, safe_open)(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}
        if (scheme := metadata.get("scheme")) != self.scheme.name:
            raise ValueError(f"{path} was trained with the scheme {scheme}, and this model is of {self.scheme.name}")
        own: dict[str, Tensor] = self.state_dict()
        for name in {**own, **tensors}:
            expected, found = (list(held[name].shape) if name in held else "none" for held in (own, tensors))
            if expected != found:
                raise ValueError(
                    f"{path}: {name} has the shape {found}, expected {expected}: prepare the model as it was for training,"
                    " with the same architecture and bits"
                )
        self.load_state_dict(tensors)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As of any module; zero points go to where they are used."""
        result = super().load_state_dict(state_dict, *args, **kwargs)
        zero_points = cast(list[int], cast(Any, self.zero_points).tolist())
        for step, zero_point in zip(self.template.steps, zero_points, strict=True):
            step.zero_point = zero_point
        return result

    # --- what was learned so far ---

    def scale(self, step: Step) -> Tensor:
        """The scale of a step, float32; with a gradient where it is learned."""
        index = self._index[step]
        first: Tensor = getattr(self, f"scale_{index}")
        if not self.learn and step.weights:
            return self._largest(step)
        log = self.steps[index]
        if step.narrower is not None:  # a scale for each width: that of the width of the moment
            row = self.width(step).detach().long() - LEAST
            log, first = (_chosen(table, row) for table in (log, first))
        if log.ndim and log.numel() != first.numel():  # one for each head
            log = log.repeat_interleave(first.numel() // log.numel())
        if not self._power_of_two(step):
            return first * log.exp2()
        exponent = (first.log2() + log).round().detach()
        # the gradient of 2^x, at an x that is rounded
        return torch.ldexp(torch.ones_like(exponent), exponent.int()) * (1 + (log - log.detach()) * log2(e) ** -1)

    def width(self, step: Step) -> Tensor:
        """The bits of a step's codes, of each head where they are learned: whole numbers, with a straight-through gradient."""
        if step.narrower is None:
            return torch.tensor(float(step.codes.bits))
        width = self.widths[self._headed.index(step)]
        return width + (width.clamp(LEAST, step.codes.bits).round() - width).detach()

    def bit_operations(self) -> Tensor:
        """Multiply-accumulates times the bits of both operands, over those of the widest codes: at most 1.

        Of the products that take heads of a learned width; 1 where there are none. Its gradient goes to `widths`, so that
        it can be a part of the loss.
        """
        found, most = torch.tensor(0.0), 0.0
        for count, a, b in self._products:
            found = found + count * (self.width(a) * self.width(b)).mean()
            most += count * a.codes.bits * b.codes.bits
        return found / most if most else torch.tensor(1.0)

    def head_widths(self) -> list[tuple[str, list[int]]]:
        """(source node, the bits of each head) of queries, keys, values and the weights that make them."""
        return [(step.src, cast(Any, self.width(step).int()).tolist()) for step in self._headed]

    def _channel_widths(self, step: Step) -> Tensor | None:
        """The bits of each channel, None where all have those of the type."""
        return None if step.narrower is None else self.width(step).repeat_interleave(len(step.initial) // step.heads)

    def _ends(self, step: Step, rank: int) -> tuple[Tensor | int, Tensor | int]:
        """The least and the largest code; of a vector along the step's axis where heads have widths, with a gradient."""
        widths = self._channel_widths(step)
        if widths is None:
            return step.codes.lo, step.codes.hi
        half = self._along((widths - 1).exp2(), step, rank)
        return -half, half - 1

    def _largest(self, step: Step) -> Tensor:
        """The scale at which the largest weight, of each channel where there are several, takes the last code."""
        weight = self.values[self._of_step[step]].detach().abs()
        largest = weight.flatten(1).amax(1) if step.axis is not None else weight.max()
        return torch.where(largest > 0, largest / step.codes.hi, torch.ones_like(largest))

    def _power_of_two(self, step: Step) -> bool:
        weights = self.scheme.quantization.weights
        return bool(weights.power_of_two) if step.weights else self.scheme.lower.form == "pot"

    def _observe(self, step: Step, x: Tensor) -> None:
        """Move an activation's scale towards what `x` needs."""
        if step.fixed or step.initial.ndim:
            return
        low, high = x.detach().min().clamp(max=0), x.detach().max().clamp(min=0)
        needed = torch.maximum(-low, high) / step.codes.hi if step.codes.signed else (high - low) / step.codes.hi
        scale: Tensor = getattr(self, f"scale_{self._index[step]}")
        scale.mul_(MOMENTUM).add_(needed, alpha=1 - MOMENTUM)

    def codes(self, index: int) -> Tensor:
        """The codes of a constant, as whole float32 numbers without gradient."""
        value = self.template.values[index]
        step = value.step
        assert step is not None
        x = self.values[index].detach()
        ratio = x / self._divided(step, x.ndim).detach()
        rounded = ratio.round() if value.rounding is Rounding.HALF_EVEN else (ratio + 0.5).floor()
        low, high = (torch.as_tensor(end).detach() for end in self._ends(step, x.ndim))
        return (rounded + step.zero_point).clamp(low, high)

    def _along(self, numbers: Tensor, step: Step, rank: int) -> Tensor:
        """One number, or one for each index of the step's axis, to broadcast."""
        return numbers if step.axis is None else numbers.reshape([-1 if i == step.axis else 1 for i in range(rank)])

    def _divided(self, step: Step, rank: int) -> Tensor:
        """The scale as quantizers have it, to broadcast."""
        scale = self._along(self.scale(step), step, rank)
        return scale / prod(step.below) if step.below else scale

    def write(self) -> None:
        """Put what was learned into the template's module."""
        for step in self.template.steps:
            widths = self._channel_widths(step)
            step.write(
                self.scale(step).detach().cpu().numpy(),
                None if widths is None else widths.detach().cpu().numpy().astype(np.int64),
            )
        for i, (value, parameter) in enumerate(zip(self.template.values, self.values, strict=True)):
            if value.step is None:
                value.write(parameter.detach().cpu().numpy())
            else:
                value.write(self.codes(i).cpu().numpy().astype(value.step.codes.dtype))

    # --- the integers ---

    def program(self) -> ModuleOp:
        """The integer program of what was learned so far, whose @main also returns the codes of every quantizer."""
        versions = tuple(p._version for p in (*self.parameters(), *self.buffers()))
        if self._compiled is not None and self._compiled[0] == versions:
            return self._compiled[1]
        self.write()
        module = self.template.observed()
        to_integers(module, self.scheme, self.layers)
        self._compiled = versions, module
        return module

    def integers(self, inputs: Sequence[Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """(results of the model, codes) of one batch: real numbers by name, and every result of @main by name."""
        program = self.program()
        quantized = run(program, list(inputs), function=QUANTIZE_INPUTS)
        codes = run(program, list(quantized.values()), integers_only=True)
        names = self.template.outputs
        ends = find_function(program, DEQUANTIZE_OUTPUTS)
        results = run(program, dict(zip(input_names(ends), codes.values(), strict=True)), function=DEQUANTIZE_OUTPUTS)
        return {name: results[name] for name in names}, codes

    # --- forward ---

    def forward(self, *inputs: Tensor) -> Any:
        """A tensor, or a tuple of them where the model has several results."""
        if self.training:
            with torch.no_grad():  # an optimizer's step may lead beyond the ends, from where no gradient leads back
                for step, width in zip(self._headed, self.widths, strict=True):
                    width.clamp_(LEAST, step.codes.bits)
        batches = list(self.batches(inputs))
        made = [self._run(part) for part, _ in batches]
        counts = [count for _, count in batches]
        results = [
            torch.cat([result[:count] for result, count in zip(column, counts, strict=True)])
            for column in zip(*made, strict=True)
        ]
        return results[0] if len(results) == 1 else tuple(results)

    def batches(self, inputs: Sequence[Tensor]) -> list[tuple[list[Tensor], int]]:
        """Batches of the compiled size, and how many elements of each are not padding."""
        size, total = self._batch, len(inputs[0])
        parts: list[tuple[list[Tensor], int]] = []
        for start in range(0, total, size):
            part = [x[start : start + size] for x in inputs]
            count = len(part[0])
            if count < size:
                part = [torch.cat([x, x[-1:].expand(size - count, *x.shape[1:])]) for x in part]
            parts.append((part, count))
        return parts

    def _run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        results, codes = self.integers([x.detach().cpu().numpy() for x in inputs])
        device = inputs[0].device
        exact = [torch.as_tensor(np.asarray(r, np.float32)).to(device) for r in results.values()]
        if not torch.is_grad_enabled():
            return exact
        surrogate = self._surrogate(inputs, codes)
        # the value of the integers, the gradient of the floats
        return [s + (x - s).detach() for s, x in zip(surrogate, exact, strict=True)]

    def _surrogate(self, inputs: Sequence[Tensor], codes: Mapping[str, Array]) -> list[Tensor]:
        """The float model on what the integers stand for."""
        template, device = self.template, inputs[0].device
        values: dict[SSAValue, Tensor] = dict(zip(template.function.args, inputs, strict=True))
        trained = {value.constant: i for i, value in enumerate(template.values)}
        positions = {op: i for i, op in enumerate(template.quantizers)}
        for op in template.operations():
            match op:
                case ReturnOp():
                    return [values[v] for v in op.operands]
                case ConstantOp():
                    index = trained.get(op)
                    if index is None:
                        values[op.result] = torch.as_tensor(constant_of(op).copy()).to(device)
                    else:
                        values[op.result] = self.values[index].expand(template.values[index].shape)
                case QuantizeOp() | ClipOp() if integer_of(op.result) is not None:
                    values[op.result] = values[op.input]  # what was quantized; the codes come with its dequantize
                case DequantizeOp():
                    values[op.result] = self._dequantized(op, values, codes, trained, positions, device)
                case _:
                    function = FLOAT_OPS.get(type(op))
                    if function is None:
                        raise DiagnosticException(
                            f"{describe(op)} ({op.name}) cannot be trained: torch has no gradient for it"
                        )
                    values[op.results[0]] = function(op, [values[v] for v in op.operands])
        raise AssertionError("a function ends with a return")

    def _dequantized(
        self,
        op: DequantizeOp,
        values: Mapping[SSAValue, Tensor],
        codes: Mapping[str, Array],
        trained: Mapping[Any, int],
        positions: Mapping[Any, int],
        device: torch.device,
    ) -> Tensor:
        made, step = op.input.owner, self.template.step_of.get(op)
        x = values[op.input]
        if step is None:
            raise DiagnosticException(f"{describe(op)}: a scale of several factors is not trained")
        scale = self._divided(step, x.ndim)
        if made in positions:
            if self.training and not self.learn:
                self._observe(step, x)
            exact = torch.as_tensor(codes[code_name(positions[made])]).to(device)
        elif isinstance(made, ConstantOp) and made in trained:
            exact = self.codes(trained[made]).expand(x.shape)
        else:
            centred = x.to(scale.dtype) - step.zero_point
            return centred * scale
        return fake_quantize(x, exact, scale, step.zero_point, *self._ends(step, x.ndim))


def _chosen(table: Tensor, row: Tensor) -> Tensor:
    """Of each column of [rows, columns], the element in the row that the column's head has."""
    columns = table.shape[1]
    return table[row.repeat_interleave(columns // len(row)), torch.arange(columns)]


def to_integers(module: ModuleOp, scheme: Scheme, layers: Mapping[str, tuple[str, ...]]) -> IntegerReport | None:
    """The passes that make integers, without those that only tidy up or prove; DiagnosticException where floats are left."""
    found: IntegerReport | None = None
    for step in scheme.passes():
        match step:
            case DelayDequantPass() | ThresholdPass() | LowerRequantPass():
                step.run(module)
            case IntegerizePass():
                found = step.run(module, layers)
                if found.left:
                    raise DiagnosticException(left_in_float(found))
            case _:
                break
    return found
