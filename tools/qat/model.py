"""The model that trains: each forward pass compiles what was learned so far and runs the integers; torch has the gradients."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import ReturnOp
from xdsl.ir import SSAValue
from xdsl.utils.exceptions import DiagnosticException

from qvit.backends.interpreter import find_function, input_names, run
from qvit.backends.torch.fake_quant import fake_quantize
from qvit.backends.torch.float_ops import FLOAT_OPS
from qvit.dialects.functions import DEQUANTIZE_OUTPUTS, QUANTIZE_INPUTS
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import describe
from qvit.dialects.semantics.integers import Array, Rounding
from qvit.dialects.types import shape_of
from qvit.tools.qat.template import Step, Template, Value, code_name, constant_of
from qvit.transforms.delay_dequant import DelayDequantPass
from qvit.transforms.integerize import IntegerizePass, IntegerReport
from qvit.transforms.lower_requant import LowerRequantPass
from qvit.transforms.pipelines import Scheme, left_in_float


class QuantizedModel(nn.Module):
    """What `prepare_qat` returns. Inputs and results are those of the model that it was made of.

    Parameters: `values`, the weights, biases and what else is constant, as the compiler folded them (LayerScale and the
    attention's scale are in the weights); `steps`, log2 of each learned scale over its first value. In training mode and
    in evaluation mode alike the result is that of the integers: the compiled program runs in the interpreter, so training
    and deployment cannot differ. Its gradient is that of the float model through straight-through quantizers.

    The first dimension of every input is a batch. Of another size than the compiled one it is padded with its last
    element, or run in parts.
    """

    def __init__(self, template: Template, scheme: Scheme, layers: Mapping[str, tuple[str, ...]], learn: bool) -> None:
        super().__init__()
        self.template, self.scheme, self.layers, self.learn = template, scheme, dict(layers), learn
        self.values = nn.ParameterList([nn.Parameter(torch.as_tensor(v.initial.copy())) for v in template.values])
        self.steps = nn.ParameterList(
            [nn.Parameter(torch.zeros(s.learned), requires_grad=learn) for s in template.steps]
        )
        for i, step in enumerate(template.steps):
            self.register_buffer(f"scale_{i}", torch.as_tensor(step.initial.copy()))
        self._index = {id(step): i for i, step in enumerate(template.steps)}
        self._compiled: tuple[tuple[int, ...], ModuleOp] | None = None
        function = template.function
        self._inputs = input_names(function)
        self._batch = shape_of(function.args[0])[0]

    def parameter_groups(self, rate: float, step_rate: float | None = None, weight_decay: float = 0.0) -> list[Any]:
        """For an optimizer: values with `rate` and decay of matrices alone, steps with `step_rate` and none.

        step_rate: of log2 of the scales; 0.01 by default, which moves a scale by at most 0.7 % in a step of Adam.
        """
        matrices = [p for p in self.values if p.ndim > 1]
        vectors = [p for p in self.values if p.ndim <= 1]
        groups = [
            {"params": matrices, "lr": rate, "weight_decay": weight_decay},
            {"params": vectors, "lr": rate, "weight_decay": 0.0},
        ]
        if self.learn:
            groups.append({"params": list(self.steps), "lr": step_rate or 0.01, "weight_decay": 0.0})
        return groups

    # --- what was learned so far ---

    def scale(self, step: Step) -> Tensor:
        """The scale of a step, float32, with a gradient."""
        index = self._index[id(step)]
        initial: Tensor = getattr(self, f"scale_{index}")
        log = self.steps[index]
        if not self._power_of_two(step):
            return initial * log.exp2()
        exponent = (initial.log2() + log).round().detach()
        # the gradient of 2^x, at an x that is rounded
        return torch.ldexp(torch.ones_like(exponent), exponent.int()) * (1 + (log - log.detach()) * np.log(2))

    def _power_of_two(self, step: Step) -> bool:
        quantization = self.scheme.quantization
        if step.weights:
            return bool(quantization.weights.power_of_two)
        return self.scheme.lower.form == "pot"

    def codes(self, value: Value) -> Tensor:
        """The codes of a constant, as whole float32 numbers without gradient."""
        assert value.step is not None
        step = value.step
        x = self.values[self.template.values.index(value)].detach()
        ratio = x / self._along(self.scale(step).detach(), step, x.ndim)
        rounded = ratio.round() if value.rounding is Rounding.HALF_EVEN else (ratio + 0.5).floor()
        return (rounded + step.zero_point).clamp(step.codes.lo, step.codes.hi)

    def _along(self, scale: Tensor, step: Step, rank: int) -> Tensor:
        over = 1.0
        for factor in step.below:
            over *= factor
        if step.axis is not None:
            scale = scale.reshape([-1 if i == step.axis else 1 for i in range(rank)])
        return scale / over if step.below else scale

    def write(self) -> None:
        """Put what was learned into the template's module."""
        for step in self.template.steps:
            step.write(self.scale(step).detach().cpu().numpy())
        for value, parameter in zip(self.template.values, self.values, strict=True):
            if value.step is None:
                value.write(parameter.detach().cpu().numpy())
            else:
                value.write(self.codes(value).cpu().numpy().astype(value.step.codes.dtype))

    # --- the integers ---

    def program(self) -> ModuleOp:
        """The integer program of what was learned so far, whose @main also returns the codes of every quantizer."""
        versions = tuple(p._version for p in self.parameters())
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

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        batches = list(self._parts(inputs))
        made = [self._run(part) for part, _ in batches]
        counts = [count for _, count in batches]
        results = [
            torch.cat([result[:count] for result, count in zip(column, counts, strict=True)])
            for column in zip(*made, strict=True)
        ]
        return results[0] if len(results) == 1 else tuple(results)

    def _parts(self, inputs: Sequence[Tensor]) -> list[tuple[list[Tensor], int]]:
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
        return [s + (e - s).detach() for s, e in zip(surrogate, exact, strict=True)]

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
                        values[op.result] = self.values[index]
                case QuantizeOp():
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
        scale = self._along(self.scale(step), step, x.ndim)
        if isinstance(made, QuantizeOp):
            exact = torch.as_tensor(codes[code_name(positions[made])]).to(device)
        elif isinstance(made, ConstantOp) and made in trained:
            exact = self.codes(self.template.values[trained[made]])
        else:
            centred = x.to(scale.dtype) - step.zero_point
            return centred * scale
        return fake_quantize(x, exact, scale, step.zero_point, step.codes.lo, step.codes.hi)


def to_integers(module: ModuleOp, scheme: Scheme, layers: Mapping[str, tuple[str, ...]]) -> IntegerReport | None:
    """The passes that make integers, without those that only tidy up or prove; DiagnosticException where floats are left."""
    found: IntegerReport | None = None
    for step in scheme.passes():
        match step:
            case DelayDequantPass() | LowerRequantPass():
                step.run(module)
            case IntegerizePass():
                found = step.run(module, layers)
                if found.left:
                    raise DiagnosticException(left_in_float(found))
            case _:
                break
    return found
