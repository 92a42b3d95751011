"""--rescue-channels: activation scales of channels behind a layer normalisation become one, and gamma and weights take the rest.

Checkpoints of Q-ViT give what a linear layer takes a scale for each channel, along the axis that the product sums over: no
dequantization passes it. Behind a layer normalisation the scales can move, as RepQ-ViT (arXiv 2212.08254, section 3.2) does:
with r_c = s_c / s for one scale s, gamma and beta are divided by r_c, and column c of the weights is multiplied by it.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from qvit.dialects.atomic import write_text
from qvit.dialects.attributes import QParamsAttr
from qvit.dialects.ops.nonlinear import LayerNormOp
from qvit.dialects.ops.products import LinearOp, MatmulOp
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import Remark, describe, grouped, set_sources, sources
from qvit.dialects.semantics.integers import Array, minus, widen
from qvit.dialects.types import element_dtype, element_of, integer_element, integer_of, is_float, shape_of
from qvit.dialects.weights import Weights
from qvit.transforms.ptq.weights import WeightQuantizer, quantize_weights
from qvit.transforms.rule import Declined, Exactness, require

RULE = "rescue-channels"


@dataclass(frozen=True)
class Rescued:
    """A quantizer with one scale now. layers: what takes its codes; bounded: by how much a weight of them can be off, at most,
    where they were quantized and had to be again; 0 for weights in float."""

    src: str
    channels: int
    scale: float
    layers: tuple[str, ...]
    exactness: Exactness
    bounded: float


@dataclass(frozen=True)
class RescueReport:
    """What --rescue-channels did, and which scales of channels still stand in front of a product, and why."""

    rescued: list[Rescued] = field(default_factory=list[Rescued])
    left: list[Remark] = field(default_factory=list[Remark])

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    def table(self) -> str:
        """A short summary for people."""
        return "\n".join([RULE, f"  rescued {len(self.rescued):>36,}", *grouped("left", self.left)]) + "\n"


def rescue_channels(module: ModuleOp, allow_bounded: bool = False) -> RescueReport:
    """Give every quantizer with scales for channels behind a layer normalisation one scale, in place.

    The codes stay, every one, over the real numbers; weights in float stay real-exact, quantized ones are quantized again to
    as many bits, which is bounded, and done where allow_bounded.
    """
    report = RescueReport()
    weights = Weights(module)
    for op in list(module.walk()):
        if not isinstance(op, DequantizeOp) or not _blocks(op):
            continue
        try:
            report.rescued.append(_Rescue.of(op, weights, allow_bounded).apply())
        except Declined as declined:
            report.left.append(Remark(describe(op), RULE, str(declined)))
    return report


def _blocks(op: DequantizeOp) -> bool:
    """Whether a product sums over the axis along which the scale or the zero point varies; weights have theirs elsewhere."""
    axis = op.params.axis_index
    if axis is None or isinstance(op.input.owner, ConstantOp):
        return False
    last = axis == len(shape_of(op.result)) - 1
    for use in op.result.uses:
        match use.operation:
            case LinearOp() if last and use.index == 0:
                return True
            case MatmulOp() if use.index == 0 and last:
                return True
            case MatmulOp() if use.index == 1 and axis == len(shape_of(op.result)) - 2:
                return True
            case _:
                pass
    return False


def _constant(value: SSAValue, weights: Weights, what: str) -> Array:
    array = weights.array(value)
    require(array is not None, f"{what} is no constant")
    assert array is not None
    return array.astype(np.float64)


@dataclass
class _Rescue:
    """One of them, matched. norm -> quantize -> dequantize -> layers."""

    norm: LayerNormOp
    quantize: QuantizeOp
    dequantize: DequantizeOp
    layers: Sequence[LinearOp]
    weights: Weights
    allow_bounded: bool

    @staticmethod
    def of(op: DequantizeOp, weights: Weights, allow_bounded: bool) -> "_Rescue":
        """Declined says which condition fails."""
        quantize = op.input.owner
        if not isinstance(quantize, QuantizeOp):
            name = describe(quantize) if isinstance(quantize, Operation) else "an argument of the function"
            raise Declined(f"its codes are made by {name}, not by a quantizer")
        norm = quantize.input.owner
        if not isinstance(norm, LayerNormOp):
            name = f"{norm.name} at {describe(norm)}" if isinstance(norm, Operation) else "an argument of the function"
            raise Declined(
                f"what is quantized is made by {name}: only gamma and beta of a layer normalisation can take its scales;"
                " train with one scale for the tensor"
            )
        require(quantize.params == op.params, "it has other parameters than its quantizer")
        require(len(list(quantize.result.uses)) == 1, "its codes have other users")
        require(len(list(norm.result.uses)) == 1, f"{describe(norm)} has users that its quantizer does not see")
        users = [use.operation for use in op.result.uses]
        layers = [user for user in users if isinstance(user, LinearOp) and user.input is op.result]
        others = [describe(user) for user in users if user not in layers]
        require(not others, f"{', '.join(others[:3])} takes it too, and cannot take the scales into weights")
        require(norm.axis.value.data == len(shape_of(norm.input)) - 1, "it normalises over more than the last axis")
        scales = weights.scale(op.params.scale)
        require((scales > 0).all(), "a scale is not positive")
        for layer in layers:
            require(
                layer.bias is None or weights.array(layer.bias) is not None,
                f"the bias of {describe(layer)} is no constant",
            )
            if isinstance(layer.weight.owner, DequantizeOp):
                require(
                    allow_bounded,
                    f"the weights of {describe(layer)} are quantized: they would be quantized again (--allow-bounded)",
                )
                require(
                    weights.array(layer.weight.owner.input) is not None,
                    f"the weight of {describe(layer)} is no constant",
                )
            else:
                require(weights.array(layer.weight) is not None, f"the weight of {describe(layer)} is no constant")
        _constant(norm.gamma, weights, "gamma")
        if norm.beta is not None:
            _constant(norm.beta, weights, "beta")
        return _Rescue(norm, quantize, op, layers, weights, allow_bounded)

    def apply(self) -> Rescued:
        params, norm = self.dequantize.params, self.norm
        channels = shape_of(norm.input)[-1]
        scales = np.broadcast_to(self.weights.scale(params.scale), channels)
        zeros = np.broadcast_to(widen(self.weights.zero_point(params.zero_point)), channels)
        scale = float(np.float32(scales.mean()))
        zero = round(float(zeros.mean()))
        ratio, moved = scales / scale, scale * (zeros - zero)
        gamma = _constant(norm.gamma, self.weights, "gamma") / ratio
        beta = np.zeros(channels) if norm.beta is None else _constant(norm.beta, self.weights, "beta")
        element = element_of(norm.result)
        new_gamma, new_beta = (self._new(v, norm.gamma, norm) for v in (gamma, beta / ratio + moved))
        made = LayerNormOp(norm.input, new_gamma, new_beta, norm.epsilon.value.data, norm.axis.value.data)
        set_sources(made, sources(norm))
        Rewriter.replace_op(norm, [made])
        assert element_of(made.result) == element
        shared = QParamsAttr.of(np.array(scale, np.float32), zero)
        for op in (self.quantize, self.dequantize):
            op.properties["params"] = shared
        off = max((self._layer(layer, ratio, moved) for layer in self.layers), default=0.0)
        names = tuple(describe(layer) for layer in self.layers)
        exactness = Exactness.BOUNDED if off else Exactness.REAL_EXACT
        return Rescued(describe(self.quantize), channels, scale, names, exactness, off)

    def _new(self, values: Array, like: SSAValue, before: Operation) -> SSAValue:
        """A constant in the float type of `like`, with its source."""
        element = element_of(like)
        dtype = element_dtype(element) if is_float(element) else np.dtype(np.float32)
        constant = ConstantOp(values.astype(dtype))
        if isinstance(like.owner, Operation):
            set_sources(constant, sources(like.owner))
        Rewriter.insert_op(constant, InsertPoint.before(before))
        return constant.result

    def _layer(self, layer: LinearOp, ratio: Array, moved: Array) -> float:
        """Weights times the ratios, what zero points moved out of the bias; returns by how much a weight is off."""
        stored = layer.weight.owner
        if isinstance(stored, DequantizeOp):
            codes = self.weights.array(stored.input)
            assert codes is not None
            axis = stored.params.axis_index
            zero, scale = self.weights.zero_point(stored.params.zero_point), self.weights.scale(stored.params.scale)
            if axis is not None:
                zero, scale = (v.reshape(-1, 1) if v.ndim and axis == 0 else v for v in (zero, scale))
            real = minus(widen(codes), zero) * scale
        else:
            real = _constant(layer.weight, self.weights, "weight")
        wanted = real * ratio
        bias = np.zeros(len(real)) if layer.bias is None else _constant(layer.bias, self.weights, "bias")
        off = 0.0
        if isinstance(stored, DequantizeOp):
            integer = integer_of(stored.input)
            assert integer is not None
            made = quantize_weights(wanted, WeightQuantizer(min(integer.bits, 8)))
            off = float(np.abs(made.real() - wanted).max())
            constant = ConstantOp(made.codes, integer_element(WeightQuantizer(min(integer.bits, 8)).type))
            again = DequantizeOp(constant.result, QParamsAttr.of(made.scale, 0, 0))
            for op in (constant, again):
                set_sources(op, sources(stored))
            Rewriter.insert_op([constant, again], InsertPoint.before(layer))
            layer.operands[1], wanted = again.result, made.real()
        else:
            layer.operands[1] = self._new(wanted, layer.weight, layer)
        like = layer.bias if layer.bias is not None else layer.input
        changed = self._new(bias - wanted @ moved, like, layer)
        replaced = LinearOp(layer.input, layer.weight, changed)
        set_sources(replaced, sources(layer))
        Rewriter.replace_op(layer, [replaced])
        return off


@dataclass(frozen=True)
class RescueChannelsPass(ModulePass):
    """Give quantizers with a scale for each channel behind a layer normalisation one scale, so that they block no product.

    RepQ-ViT's re-parametrisation: gamma, beta and the weights behind take the ratios of the scales. Legal on modules
    with quantize and dequantize operations, in front of --delay-dequant, which such scales block. The codes of the
    quantizer stay; weights in float are real-exact, quantized ones are quantized again with `allow-bounded` alone.
    `report=FILE` writes what was done, and what still blocks and why, as JSON, and prints a short table on stderr.
    """

    name: ClassVar[str] = RULE

    allow_bounded: bool = False
    report: str = ""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        self.run(op)

    def run(self, module: ModuleOp) -> RescueReport:
        """`apply`, which cannot return what was done."""
        result = rescue_channels(module, self.allow_bounded)
        if self.report:
            write_text(Path(self.report), result.to_json())
            sys.stderr.write(result.table())
        return result
