"""Checkpoints of I-ViT's own training (arXiv 2207.01405, the published code's ViT and DeiT) as integer-only modules.

A state dict has integers (`weight_integer`, `bias_integer`) and scales (`act_scaling_factor`, `fc_scaling_factor` ...). From
scales follow the multipliers and shifts of QuantAct, and the constants of Shiftmax, ShiftGELU and I-LayerNorm; with them
the program is the published one, operation by operation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import floor, frexp, isqrt, sqrt
from typing import Any, Protocol

import numpy as np
from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    FunctionType,
    ModuleOp,
    StringAttr,
    TensorType,
    UnitAttr,
    f32,
)
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Operation, Region, SSAValue

from qvit.dialects.approximations.base import Codes, FunctionSpec, SoftmaxSpec
from qvit.dialects.approximations.i_layernorm import ILayerNormPublished
from qvit.dialects.approximations.shiftgelu import ShiftgeluPublished
from qvit.dialects.approximations.shiftmax import ShiftmaxPublished
from qvit.dialects.attributes import DyadicAttr, QParamsAttr, ScaleAttr, float_value
from qvit.dialects.functions import DEQUANTIZE_OUTPUTS, INTEGER_ONLY, MAIN, QUANTIZE_INPUTS
from qvit.dialects.ops.approximated import IntFunctionOp, IntLayerNormOp, IntSoftmaxOp
from qvit.dialects.ops.products import Conv2dOp, LinearOp, MatmulOp
from qvit.dialects.ops.quantization import AddRequantOp, DequantizeOp, QuantizeOp, RequantizeOp
from qvit.dialects.ops.shape import ConcatOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import NAME, set_sources
from qvit.dialects.semantics.integers import Array, IntType, Rounding
from qvit.dialects.types import integer_element, shape_of
from qvit.frontends.errors import ImportRefused, did_you_mean

EPS = float(np.finfo(np.float32).eps)
HEAD_SIZE = 64
"""Of every published model."""
NARROW, WIDE, WORD = IntType(8), IntType(16), IntType(32)

SOFTMAX_OCTAVES, SOFTMAX_BITS, GELU_OCTAVES, GELU_BITS = 15, 16, 23, 8
"""n and output_bit in the published code."""


def dyadic(ratio: float) -> tuple[int, int]:
    """(m, e) with m / 2^e next to a ratio, as QuantAct has it: |m| in 2^30 .. 2^31 - 1, half away from zero.

    A multiplier that rounds to 2^31 is 2^30 at one shift less.
    """
    mantissa, exponent = frexp(ratio)
    size = floor(abs(Fraction(mantissa)) * (1 << 31) + Fraction(1, 2))
    shift = 31 - exponent
    if size == 1 << 31:
        size, shift = size >> 1, shift - 1
    return (size if ratio >= 0 else -size), shift


class Constants(Protocol):
    """What the program is made of; names are those of modules: `blocks.0.attn.qkv`."""

    def layer(self, name: str) -> tuple[Array, Array | None]:
        """Weight and bias codes of a linear layer or convolution: int8, and int32 [outputs]."""
        ...

    def requant(self, name: str, residual: bool = False) -> tuple[Array, Array]:
        """(multipliers, shifts) of a QuantAct: one, or one a channel. residual: of its second operand."""
        ...

    def norm_bias(self, name: str) -> Array:
        """int32 [channels] of an I-LayerNorm."""
        ...

    def i0(self, name: str) -> int:
        """Of a Shiftmax or ShiftGELU."""
        ...

    def embeddings(self) -> tuple[Array, Array]:
        """Codes of the class token [channels] and of the positions [tokens, channels]."""
        ...


@dataclass(frozen=True)
class Sizes:
    """Of a model: image [3, side, side], `tokens` with the class token, each of `channels` numbers."""

    batch: int
    side: int
    tokens: int
    channels: int
    heads: int
    depth: int


class _Program:
    """@main under construction."""

    def __init__(self, constants: Constants, sizes: Sizes) -> None:
        self.constants, self.sizes = constants, sizes
        self.block = Block(arg_types=[TensorType(integer_element(NARROW), [sizes.batch, 3, sizes.side, sizes.side])])

    def emit(self, op: Operation, name: str) -> SSAValue:
        set_sources(op, [name])
        self.block.add_op(op)
        return op.results[0]

    def constant(self, array: Array, codes: IntType, name: str) -> SSAValue:
        if array.size and not (codes.lo <= int(array.min()) and int(array.max()) <= codes.hi):
            raise ImportRefused(f"{name} holds {array.min()}..{array.max()}, expected numbers of {codes.bits} bits")
        return self.emit(ConstantOp(array.astype(codes.dtype), integer_element(codes)), name)

    def quantize(self, x: SSAValue, name: str, codes: IntType, axis: int | None = None) -> SSAValue:
        """QuantAct without a second operand; multipliers along `axis`, the last where there are several."""
        form, along = self.form(name, x, axis)
        return self.emit(RequantizeOp(x, form, integer_element(codes), axis=along, rounding=Rounding.HALF_EVEN), name)

    def form(
        self, name: str, x: SSAValue, axis: int | None = None, residual: bool = False
    ) -> tuple[DyadicAttr, int | None]:
        multiplier, shift = self.constants.requant(name, residual)
        if shift.max() > 62 or shift.min() < 0:
            raise ImportRefused(
                f"{name}: its scales differ by 2^-{int(shift.max()) - 31}, expected 2^-31 to 2^31; retrain it, or check the"
                " scale of what comes before"
            )
        if multiplier.size == 1:
            return DyadicAttr.of(int(multiplier.reshape(-1)[0]), int(shift.reshape(-1)[0])), None
        return DyadicAttr.of(multiplier, shift), len(shape_of(x)) - 1 if axis is None else axis

    def add(self, x: SSAValue, identity: SSAValue, name: str) -> SSAValue:
        """QuantAct with a second operand: both are rounded, their sum is clipped once."""
        (lhs, axis), (rhs, _) = self.form(name, x), self.form(name, identity, residual=True)
        op = AddRequantOp(x, lhs, identity, rhs, integer_element(WIDE), (0, 0, 0), Rounding.HALF_EVEN, True, axis)
        return self.emit(op, name)

    def linear(self, x: SSAValue, name: str) -> SSAValue:
        weight, bias = self.constants.layer(name)
        stored = None if bias is None else self.constant(bias, WORD, f"{name}.bias_integer")
        return self.emit(LinearOp(x, self.constant(weight, NARROW, f"{name}.weight_integer"), stored), name)

    def norm(self, x: SSAValue, name: str) -> SSAValue:
        bias = self.constant(self.constants.norm_bias(name), WORD, f"{name}.bias_integer")
        return self.emit(IntLayerNormOp(x, ILayerNormPublished(), [bias], integer_element(WORD)), name)

    def patches(self) -> SSAValue:
        """Image -> tokens [batch, tokens - 1, channels] of 16 bits."""
        sizes, name = self.sizes, "patch_embed.proj"
        weight, bias = self.constants.layer(name)
        stored = None if bias is None else self.constant(bias, WORD, f"{name}.bias_integer")
        kernel = self.constant(weight, NARROW, f"{name}.weight_integer")
        made = self.emit(Conv2dOp(self.block.args[0], kernel, stored, weight.shape[2:]), name)
        codes = self.quantize(made, "patch_embed.qact", WIDE, axis=1)
        rows = self.emit(ReshapeOp(codes, [sizes.batch, sizes.channels, sizes.tokens - 1]), "patch_embed")
        return self.emit(TransposeOp(rows, [0, 2, 1]), "patch_embed")

    def tokens(self) -> SSAValue:
        sizes = self.sizes
        cls, positions = self.constants.embeddings()
        repeated = np.broadcast_to(cls, (sizes.batch, 1, sizes.channels))
        joined = self.emit(ConcatOp([self.constant(repeated, WIDE, "cls_token"), self.patches()], 1), "cat")
        wide = np.broadcast_to(positions, (sizes.batch, sizes.tokens, sizes.channels))
        return self.add(joined, self.constant(wide, WIDE, "pos_embed"), "qact1")

    def attention(self, x: SSAValue, name: str) -> SSAValue:
        sizes = self.sizes
        size = sizes.channels // sizes.heads
        qkv = self.quantize(self.linear(x, f"{name}.qkv"), f"{name}.qact1", NARROW)
        apart = self.emit(ReshapeOp(qkv, [sizes.batch, sizes.tokens, 3, sizes.heads, size]), name)
        turned = self.emit(TransposeOp(apart, [2, 0, 3, 1, 4]), name)

        def part(i: int) -> SSAValue:
            one = self.emit(SliceOp(turned, 0, i, 1), name)
            return self.emit(ReshapeOp(one, [sizes.batch, sizes.heads, sizes.tokens, size]), name)

        q, k, v = part(0), self.emit(TransposeOp(part(1), [0, 1, 3, 2]), name), part(2)
        scores = self.quantize(self.emit(MatmulOp(q, k), f"{name}.matmul_1"), f"{name}.qact_attn1", NARROW)
        shiftmax = ShiftmaxPublished(self.constants.i0(f"{name}.int_softmax"), SOFTMAX_OCTAVES, SOFTMAX_BITS)
        rows = self.emit(IntSoftmaxOp(scores, shiftmax, [], [integer_element(WIDE)]), f"{name}.int_softmax")
        mixed = self.quantize(self.emit(MatmulOp(rows, v), f"{name}.matmul_2"), f"{name}.qact2", NARROW)
        back = self.emit(TransposeOp(mixed, [0, 2, 1, 3]), name)
        joined = self.emit(ReshapeOp(back, [sizes.batch, sizes.tokens, sizes.channels]), name)
        return self.quantize(self.linear(joined, f"{name}.proj"), f"{name}.qact3", WIDE)

    def mlp(self, x: SSAValue, name: str) -> SSAValue:
        hidden = self.quantize(self.linear(x, f"{name}.fc1"), f"{name}.qact_gelu", NARROW)
        gelu = ShiftgeluPublished(self.constants.i0(f"{name}.act"), GELU_OCTAVES, GELU_BITS)
        active = self.emit(IntFunctionOp(hidden, gelu, [], integer_element(WIDE)), f"{name}.act")
        return self.quantize(
            self.linear(self.quantize(active, f"{name}.qact1", NARROW), f"{name}.fc2"), f"{name}.qact2", WIDE
        )

    def result(self) -> SSAValue:
        """The sums of the classifier [batch, classes]."""
        sizes, x = self.sizes, self.tokens()
        for i in range(sizes.depth):
            name = f"blocks.{i}"
            branch = self.attention(
                self.quantize(self.norm(x, f"{name}.norm1"), f"{name}.qact1", NARROW), f"{name}.attn"
            )
            x = self.add(branch, x, f"{name}.qact2")
            branch = self.mlp(self.quantize(self.norm(x, f"{name}.norm2"), f"{name}.qact3", NARROW), f"{name}.mlp")
            x = self.add(branch, x, f"{name}.qact4")
        first = self.emit(SliceOp(x, 1, 0, 1), "norm")
        token = self.emit(ReshapeOp(first, [sizes.batch, sizes.channels]), "norm")
        return self.linear(self.quantize(self.norm(token, "norm"), "qact2", NARROW), "head")


def build(constants: Constants, sizes: Sizes) -> FuncOp:
    """@main: image codes i8 [batch, 3, side, side] -> sums i32 [batch, classes]."""
    program = _Program(constants, sizes)
    result = program.result()
    program.block.add_op(ReturnOp(result))
    types = [argument.type for argument in program.block.args], [result.type]
    return _named(FuncOp(MAIN, types, Region(program.block)), {INTEGER_ONLY: UnitAttr()})


def _named(function: FuncOp, attributes: Mapping[str, Any] | None = None) -> FuncOp:
    for key, name in (
        ("arg_attrs", "image"),
        ("res_attrs", "image" if function.sym_name.data == QUANTIZE_INPUTS else "logits"),
    ):
        function.properties[key] = ArrayAttr([DictionaryAttr({NAME: StringAttr(name)})])
    if function.sym_name.data == DEQUANTIZE_OUTPUTS:
        function.properties["arg_attrs"] = function.properties["res_attrs"]
    function.attributes.update(attributes or {})
    return function


# --- the checkpoint ---


class Checkpoint:
    """A state dict, names -> arrays; ImportRefused says what is missing or is not what training leaves."""

    def __init__(self, state: Mapping[str, Array], heads: int | None = None) -> None:
        self.state = state
        self.tokens, self.channels = self.get("pos_embed").shape[-2:]
        self.heads = heads or self.channels // HEAD_SIZE
        if self.heads < 1 or self.channels % self.heads:
            raise ImportRefused(
                f"{self.channels} channels do not fall into {self.heads} heads: say how many, heads=..."
            )
        self.depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})

    def sizes(self, batch: int) -> Sizes:
        rows = isqrt(self.tokens - 1)
        if rows * rows != self.tokens - 1:
            raise ImportRefused(f"pos_embed has {self.tokens} rows: expected one more than a square number of patches")
        patch = self.get("patch_embed.proj.weight_integer").shape[-1]
        return Sizes(batch, rows * patch, self.tokens, self.channels, self.heads, self.depth)

    def get(self, name: str) -> Array:
        if name not in self.state:
            raise ImportRefused(
                f"the checkpoint has no {name!r}{did_you_mean(name, self.state)}; expected a state dict of I-ViT's quantized ViT"
            )
        return np.asarray(self.state[name])

    def scale(self, name: str, channels: int | None = None) -> Array:
        """Scales as float32: one, or `channels` of them."""
        scale = self.get(name).astype(np.float32).reshape(-1)
        expected = channels or 1
        if scale.size != expected:
            raise ImportRefused(f"{name} has {scale.size} numbers, expected {expected}")
        if not np.isfinite(scale).all() or not scale.all():
            raise ImportRefused(f"{name} is 0 or not finite: the model was saved before any batch ran through it")
        if (scale == np.float32(EPS)).any() and name.endswith("act_scaling_factor"):
            raise ImportRefused(
                f"{name} is {EPS:.4g}, the smallest that I-ViT sets: its running ranges are not stored, and evaluating a"
                " reloaded checkpoint overwrites the scales; save the state dict in the run that trained it, before it is"
                " reloaded"
            )
        return scale

    def act(self, name: str) -> Array:
        return self.scale(f"{name}.act_scaling_factor")

    # --- what each operation makes: its scale, in float32 as the published code computes it ---

    def _layer_scale(self, name: str, before: Array) -> Array:
        kind = "conv" if name == "patch_embed.proj" else "fc"
        outputs = len(self.get(f"{name}.weight_integer"))
        return self.scale(f"{name}.{kind}_scaling_factor", outputs) * before

    def _norm_scale(self, name: str) -> Array:
        return np.float32(sqrt(self.channels)) / np.float32(1 << 30) * self.get(f"{name}.weight").astype(np.float32)

    def _before(self, name: str) -> Array:
        """The scale of a QuantAct's operand."""
        head, _, last = name.rpartition(".")
        parent = f"{head}." if head else ""
        attention, mlp = head.endswith("attn"), head.endswith("mlp")
        match last:
            case "qact":
                return self._layer_scale("patch_embed.proj", self.act("qact_input"))
            case "qact1" if attention:
                return self._layer_scale(f"{parent}qkv", self.act(f"{head.rpartition('.')[0]}.qact1"))
            case "qact_attn1":
                both = self.act(f"{parent}qact1") * self.act(f"{parent}qact1")
                return both * np.float32((self.channels // self.heads) ** -0.5)
            case "qact2" if attention:
                return np.float32(2.0 ** (1 - SOFTMAX_BITS)) * self.act(f"{parent}qact1")
            case "qact3" if attention:
                return self._layer_scale(f"{parent}proj", self.act(f"{parent}qact2"))
            case "qact_gelu":
                return self._layer_scale(f"{parent}fc1", self.act(f"{head.rpartition('.')[0]}.qact3"))
            case "qact1" if mlp:
                return self.act(f"{parent}qact_gelu") * np.float32(2.0 ** (1 - GELU_BITS))
            case "qact2" if mlp:
                return self._layer_scale(f"{parent}fc2", self.act(f"{parent}qact1"))
            case "qact1" if not head:
                return self.act("patch_embed.qact")
            case "qact2" if not head:
                return self._norm_scale("norm")
            case "qact1":
                return self._norm_scale(f"{parent}norm1")
            case "qact3":
                return self._norm_scale(f"{parent}norm2")
            case "qact2":
                return self.act(f"{parent}attn.qact3")
            case _:
                return self.act(f"{parent}mlp.qact2")

    def _identity(self, name: str) -> Array:
        """The scale of a QuantAct's second operand."""
        head, _, last = name.rpartition(".")
        if not head:
            return self.act("qact_pos")
        if last == "qact4":
            return self.act(f"{head}.qact2")
        index = int(head.rpartition(".")[2])
        return self.act(f"blocks.{index - 1}.qact4" if index else "qact1")

    # --- constants ---

    def layer(self, name: str) -> tuple[Array, Array | None]:
        weight, bias = self.get(f"{name}.weight_integer"), self.state.get(f"{name}.bias_integer")
        for array in (weight, bias):
            if array is not None and (np.asarray(array) != np.rint(array)).any():
                raise ImportRefused(f"{name}: its integers are not whole; it is no quantized checkpoint")
        if not weight.any():
            raise ImportRefused(f"{name}.weight_integer is 0: the model was saved before any batch ran through it")
        return weight, None if bias is None else np.asarray(bias).astype(np.int64)

    def requant(self, name: str, residual: bool = False) -> tuple[Array, Array]:
        before, after = self._identity(name) if residual else self._before(name), self.act(name)
        pairs = [dyadic(float(b) / float(after[0])) for b in before.astype(np.float64).tolist()]
        multiplier, shift = np.array(pairs, np.int64).T
        return multiplier, shift

    def norm_bias(self, name: str) -> Array:
        gamma, beta = (self.get(f"{name}.{key}").astype(np.float64) for key in ("weight", "bias"))
        if not gamma.all():
            zero = int(np.flatnonzero(gamma == 0)[0])
            raise ImportRefused(
                f"{name}.weight is 0 in channel {zero}: I-LayerNorm divides by it; remove the channel, or use the scheme best"
            )
        return np.floor(beta / gamma / (sqrt(self.channels) / (1 << 30))).astype(np.int64)

    def i0(self, name: str) -> int:
        head, _, last = name.rpartition(".")
        softmax = last == "int_softmax"
        codes = Codes(Fraction(float(self.act(f"{head}.{'qact_attn1' if softmax else 'qact_gelu'}")[0])), 0, NARROW)
        if softmax:
            made = ShiftmaxPublished.build(SoftmaxSpec(codes, self.tokens)).approximation
            assert isinstance(made, ShiftmaxPublished)
            return made.i0
        gelu = ShiftgeluPublished.build(FunctionSpec("gelu", codes, codes)).approximation
        assert isinstance(gelu, ShiftgeluPublished)
        return gelu.i0

    def embeddings(self) -> tuple[Array, Array]:
        """The class token has the scale of the patches, and is rounded where it is first requantized."""
        cls = np.rint(self.get("cls_token").astype(np.float32).reshape(-1) / self.act("patch_embed.qact"))
        inverse = np.float32(1) / self.act("qact_pos")
        positions = np.rint(self.get("pos_embed").astype(np.float32).reshape(self.tokens, -1) * inverse)
        return cls.astype(np.int64), np.clip(positions, WIDE.lo, WIDE.hi).astype(np.int64)


def import_ivit(state: Mapping[str, Any], heads: int | None = None, batch: int = 1) -> ModuleOp:
    """A state dict of I-ViT's quantized ViT or DeiT (`vit_quant.py`) as an integer-only module.

    state: names -> arrays or CPU tensors, as torch.load gives it (the entry "model" of a training checkpoint). heads: of the
    attention, one for every 64 channels where it is not given. The module has @quantize_inputs, @main and
    @dequantize_outputs; its operations are the published ones, with multipliers of 31 bits as QuantAct has them, products of
    64 bits and ties to even. ImportRefused for a checkpoint whose scales were overwritten when it was reloaded, for one
    without statistics, and for missing or misshapen tensors, each by name.
    """
    arrays = {name: np.asarray(value) for name, value in state.items()}
    checkpoint = Checkpoint(arrays, heads)
    sizes = checkpoint.sizes(batch)
    main = build(checkpoint, sizes)
    image = TensorType(f32, shape_of(main.args[0]))
    module = ModuleOp([_inputs(checkpoint, image), main, _outputs(checkpoint, main)])
    module.verify()
    return module


def _inputs(checkpoint: Checkpoint, image: TensorType[Any]) -> FuncOp:
    """Codes by a multiplication with the float32 reciprocal of the scale."""
    inverse = float(np.float32(1) / checkpoint.act("qact_input")[0])
    block = Block(arg_types=[image])
    params = QParamsAttr.of(ScaleAttr.of(over=[float_value(inverse)]))
    codes = QuantizeOp(block.args[0], params, integer_element(NARROW))
    block.add_ops([codes, ReturnOp(codes.result)])
    return _named(FuncOp(QUANTIZE_INPUTS, ([image], [codes.result.type]), Region(block)))


def _outputs(checkpoint: Checkpoint, main: FuncOp) -> FuncOp:
    (sums,) = FunctionType.from_lists([], main.function_type.outputs.data).outputs.data
    block = Block(arg_types=[sums])
    scale = checkpoint.scale("head.fc_scaling_factor", shape_of(block.args[0])[-1]) * checkpoint.act("qact2")
    logits = DequantizeOp(block.args[0], QParamsAttr.of(scale, 0, 1))
    block.add_ops([logits, ReturnOp(logits.result)])
    return _named(FuncOp(DEQUANTIZE_OUTPUTS, ([sums], [logits.result.type]), Region(block)))
