"""A whole I-ViT of two blocks, 17 tokens and 48 channels, as an integer module: its authors' weights and constants.

`build()` makes the module from data/golden; every stage is an operation that bears its name, and STAGES has the exact
values of all of them for the image IMAGE. A backend that runs the module meets all of them bit for bit, or is wrong.
"""

from typing import Any

import golden
from numpy.typing import NDArray
from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    IntegerType,
    ModuleOp,
    StringAttr,
    TensorType,
    UnitAttr,
    i8,
    i16,
    i32,
)
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Operation, Region, SSAValue

from qvit.dialects.approximations.i_layernorm import ILayerNormPublished
from qvit.dialects.approximations.shiftgelu import ShiftgeluPublished
from qvit.dialects.approximations.shiftmax import ShiftmaxPublished
from qvit.dialects.attributes import DyadicAttr
from qvit.dialects.ops.approximated import IntFunctionOp, IntLayerNormOp, IntSoftmaxOp
from qvit.dialects.ops.products import Conv2dOp, LinearOp, MatmulOp
from qvit.dialects.ops.quantization import AddRequantOp, RequantizeOp
from qvit.dialects.ops.shape import ConcatOp, ReshapeOp, SliceOp, TransposeOp
from qvit.dialects.ops.weights import ConstantOp
from qvit.dialects.provenance import NAME, set_sources
from qvit.dialects.types import shape_of

Array = NDArray[Any]

CASE = golden.cases("ivit_model_float64")[0]

IMAGE: Array = CASE.arrays["image"]
"""Codes [1, 3, 16, 16], int8."""

STAGES: dict[str, Array] = {
    name.removesuffix(".y_exact"): array for name, array in CASE.arrays.items() if name.endswith(".y_exact")
}
"""Requantizers, softmax, GELU and the head's accumulators: rows are tokens, for scores those of head after head."""

HEADS, HEAD_SIZE = CASE.params["num_heads"], CASE.params["embed_dim"] // CASE.params["num_heads"]


class _Network:
    """The operations so far; every method appends what it is named after, and returns the result."""

    def __init__(self) -> None:
        self.block = Block(arg_types=[TensorType(i8, IMAGE.shape)])

    def add(self, name: str, op: Operation) -> SSAValue:
        set_sources(op, [name])
        self.block.add_op(op)
        return op.results[0]

    def constant(self, key: str, element: IntegerType) -> SSAValue:
        return self.add(key, ConstantOp(CASE[key], element))

    def linear(self, name: str, x: SSAValue) -> SSAValue:
        return self.add(name, LinearOp(x, self.constant(f"{name}.w", i8), self.constant(f"{name}.b", i32)))

    def form(self, name: str, part: str = "") -> DyadicAttr:
        """A number, or one for each channel."""
        m, e = CASE[f"{name}.m{part}"], CASE[f"{name}.e{part}"]
        return DyadicAttr.of(m, e) if m.size > 1 else DyadicAttr.of(int(m[0]), int(e[0]))

    def element(self, name: str) -> IntegerType:
        return IntegerType(CASE.params["bits"][name])

    def requantize(self, name: str, x: SSAValue) -> SSAValue:
        return self.add(name, RequantizeOp(x, self.form(name), self.element(name), axis=len(shape_of(x)) - 1))

    def residual(self, name: str, x: SSAValue, residual: SSAValue) -> SSAValue:
        forms = self.form(name), self.form(name, "2")
        return self.add(name, AddRequantOp(x, forms[0], residual, forms[1], self.element(name), round_each=True))

    def layer_norm(self, name: str, x: SSAValue) -> SSAValue:
        return self.add(name, IntLayerNormOp(x, ILayerNormPublished(), [self.constant(f"{name}.B", i32)], i32))

    def transpose(self, name: str, x: SSAValue, *order: int) -> SSAValue:
        return self.add(name, TransposeOp(x, order))

    def reshape(self, name: str, x: SSAValue, *shape: int) -> SSAValue:
        return self.add(name, ReshapeOp(x, shape))

    def embed(self, image: SSAValue) -> SSAValue:
        """Patches, the class token in front, positions."""
        name = "patch_embed.proj"
        weight, bias = self.constant(f"{name}.w", i8), self.constant(f"{name}.b", i32)
        patch = CASE.params["patch_size"]
        x = self.add(name, Conv2dOp(image, weight, bias, (patch, patch)))
        channels, height, width = shape_of(x)[1:]
        x = self.transpose(name, self.reshape(name, x, channels, height * width), 1, 0)
        x = self.requantize("patch_embed.qact", x)
        x = self.add("cls", ConcatOp([self.constant("cls_code", i16), x], 0))
        return self.residual("qact1", x, self.constant("pos", i16))

    def attention(self, name: str, x: SSAValue) -> SSAValue:
        tokens = shape_of(x)[0]
        x = self.requantize(f"{name}.qact1", self.linear(f"{name}.qkv", x))
        x = self.transpose(f"{name}.heads", self.reshape(f"{name}.split", x, tokens, 3, HEADS, HEAD_SIZE), 1, 2, 0, 3)
        q, k, v = (
            self.reshape(f"{name}.{part}", self.add(f"{name}.{part}", SliceOp(x, 0, i, 1)), HEADS, tokens, HEAD_SIZE)
            for i, part in enumerate("qkv")
        )
        scores = self.add(f"{name}.scores", MatmulOp(q, self.transpose(f"{name}.k^T", k, 0, 2, 1)))
        scores = self.requantize(f"{name}.qact_attn1", scores)
        softmax = f"{name}.int_softmax"
        shiftmax = ShiftmaxPublished(CASE.params["i0"][softmax], 15, 16)
        weights = self.add(softmax, IntSoftmaxOp(scores, shiftmax, [], [i16]))
        x = self.transpose(f"{name}.back", self.add(f"{name}.values", MatmulOp(weights, v)), 1, 0, 2)
        x = self.requantize(f"{name}.qact2", self.reshape(f"{name}.join", x, tokens, HEADS * HEAD_SIZE))
        return self.requantize(f"{name}.qact3", self.linear(f"{name}.proj", x))

    def mlp(self, name: str, x: SSAValue) -> SSAValue:
        x = self.requantize(f"{name}.qact_gelu", self.linear(f"{name}.fc1", x))
        gelu = ShiftgeluPublished(CASE.params["i0"][f"{name}.act"], 23, 8)
        x = self.add(f"{name}.act", IntFunctionOp(x, gelu, [], i16))
        return self.requantize(f"{name}.qact2", self.linear(f"{name}.fc2", self.requantize(f"{name}.qact1", x)))

    def transformer_block(self, name: str, x: SSAValue) -> SSAValue:
        y = self.requantize(f"{name}.qact1", self.layer_norm(f"{name}.norm1", x))
        x = self.residual(f"{name}.qact2", self.attention(f"{name}.attn", y), x)
        y = self.requantize(f"{name}.qact3", self.layer_norm(f"{name}.norm2", x))
        return self.residual(f"{name}.qact4", self.mlp(f"{name}.mlp", y), x)

    def head(self, x: SSAValue) -> SSAValue:
        """Of the class token."""
        x = self.requantize("qact2", self.add("cls", SliceOp(self.layer_norm("norm", x), 0, 0, 1)))
        return self.linear("head", x)


def build() -> ModuleOp:
    """The network as @main, from the codes of an image to the accumulators of ten classes."""
    network = _Network()
    x = network.embed(network.block.args[0])
    for i in range(CASE.params["depth"]):
        x = network.transformer_block(f"blocks.{i}", x)
    y = network.head(x)
    network.block.add_op(ReturnOp(y))
    names = [ArrayAttr([DictionaryAttr({NAME: StringAttr(name)})]) for name in ("image", "head")]
    types = [network.block.args[0].type], [y.type]
    main = FuncOp("main", types, Region(network.block), arg_attrs=names[0], res_attrs=names[1])
    main.attributes["qvit.integer_only"] = UnitAttr()
    return ModuleOp([main])
