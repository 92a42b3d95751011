"""Vision transformers of the usual sizes as ONNX files with random weights: what bench/cpu.py times.

The graph is timm's vit_*_patch16_224 as torch exports it at opset 17: patch embedding by a convolution, class token,
positions, blocks of pre-norm attention (one projection for queries, keys and values) and MLP with the exact GELU, the
class token's normalisation and head. Batch 1, float32. Nothing but onnx and NumPy is needed.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

REVISION = 1  # raise it when what is written changes
OPSET = 17  # the first that has LayerNormalization
EPSILON = 1e-6
INPUT, OUTPUT = "image", "logits"
MLP_RATIO = 4


@dataclass(frozen=True)
class Vit:
    """The numbers of one model."""

    dim: int
    heads: int
    depth: int = 12
    image: int = 224
    patch: int = 16
    classes: int = 1000

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of an input."""
        return 1, 3, self.image, self.image

    @property
    def patches(self) -> int:
        return (self.image // self.patch) ** 2

    @property
    def tokens(self) -> int:
        """The patches and the class token."""
        return self.patches + 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all linear layers, the patch embedding and both products of attention, for an image."""
        embedding = self.patches * 3 * self.patch**2 * self.dim
        linear = self.tokens * (4 + 2 * MLP_RATIO) * self.dim**2
        attention = 2 * self.tokens**2 * self.dim
        return embedding + self.depth * (linear + attention) + self.dim * self.classes

    @property
    def weights(self) -> int:
        """Elements of the weight matrices: their bytes in 8 bits."""
        return (3 * self.patch**2 + self.classes + self.depth * (4 + 2 * MLP_RATIO) * self.dim) * self.dim


MODELS = {"deit-t": Vit(192, 3), "deit-s": Vit(384, 6), "vit-b": Vit(768, 12)}
SMALL = Vit(64, 2, depth=2, image=64, classes=10)
"""For instruction counts: every kind of operation, few of each."""


class _Graph:
    """Nodes and initializers as they are made; each method returns the name of its result."""

    def __init__(self, vit: Vit, seed: int) -> None:
        self.vit = vit
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def tensor(self, name: str, values: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(values, name))
        return name

    def integers(self, name: str, *values: int) -> str:
        return self.tensor(name, np.array(values, np.int64))

    def normal(self, name: str, deviation: float, *shape: int) -> str:
        return self.tensor(name, self.rng.normal(0, deviation, shape).astype(np.float32))

    def linear(self, x: str, name: str, inputs: int, outputs: int) -> str:
        # deviation 1/sqrt(inputs): as large a result as operand, so no activation dies over 12 blocks
        weight = self.normal(f"{name}.weight", inputs**-0.5, inputs, outputs)
        product = self.node("MatMul", [x, weight], f"{name}/MatMul")
        return self.node("Add", [self.normal(f"{name}.bias", 0.02, outputs), product], f"{name}/Add")

    def layer_norm(self, x: str, name: str) -> str:
        gamma = self.tensor(f"{name}.weight", self.rng.uniform(0.5, 1.5, self.vit.dim).astype(np.float32))
        beta = self.normal(f"{name}.bias", 0.1, self.vit.dim)
        return self.node("LayerNormalization", [x, gamma, beta], f"{name}/LayerNormalization", axis=-1, epsilon=EPSILON)

    def scalar(self, name: str, value: float) -> str:
        return self.tensor(name, np.array(value, np.float32))

    def gelu(self, x: str, name: str) -> str:
        quotient = self.node("Div", [x, self.scalar(f"{name}.sqrt2", math.sqrt(2))], f"{name}/Div")
        erf = self.node("Erf", [quotient], f"{name}/Erf")
        one = self.node("Add", [erf, self.scalar(f"{name}.one", 1)], f"{name}/Add")
        product = self.node("Mul", [x, one], f"{name}/Mul")
        return self.node("Mul", [product, self.scalar(f"{name}.half", 0.5)], f"{name}/Mul_1")

    def attention(self, x: str, name: str) -> str:
        vit = self.vit
        width = vit.dim // vit.heads
        joint = self.linear(x, f"{name}.qkv", vit.dim, 3 * vit.dim)
        shape = self.integers(f"{name}.split", 1, vit.tokens, 3, vit.heads, width)
        parts = self.node("Reshape", [joint, shape], f"{name}/Reshape")
        parts = self.node("Transpose", [parts], f"{name}/Transpose", perm=[2, 0, 3, 1, 4])
        q, k, v = (
            self.node("Gather", [parts, self.tensor(f"{name}.{part}", np.array(i))], f"{name}/{part}/Gather", axis=0)
            for i, part in enumerate("qkv")
        )
        q = self.node("Mul", [q, self.scalar(f"{name}.scale", width**-0.5)], f"{name}/Mul")
        k = self.node("Transpose", [k], f"{name}/Transpose_1", perm=[0, 1, 3, 2])
        scores = self.node("MatMul", [q, k], f"{name}/MatMul")
        mixed = self.node("MatMul", [self.node("Softmax", [scores], f"{name}/Softmax", axis=-1), v], f"{name}/MatMul_1")
        mixed = self.node("Transpose", [mixed], f"{name}/Transpose_2", perm=[0, 2, 1, 3])
        merged = self.integers(f"{name}.merge", 1, vit.tokens, vit.dim)
        return self.linear(self.node("Reshape", [mixed, merged], f"{name}/Reshape_1"), f"{name}.proj", vit.dim, vit.dim)

    def block(self, x: str, name: str) -> str:
        dim, hidden = self.vit.dim, MLP_RATIO * self.vit.dim
        x = self.node("Add", [x, self.attention(self.layer_norm(x, f"{name}.norm1"), f"{name}.attn")], f"{name}/Add")
        inner = self.linear(self.layer_norm(x, f"{name}.norm2"), f"{name}.mlp.fc1", dim, hidden)
        outer = self.linear(self.gelu(inner, f"{name}.mlp.act"), f"{name}.mlp.fc2", hidden, dim)
        return self.node("Add", [x, outer], f"{name}/Add_1")

    def embedding(self, image: str) -> str:
        vit = self.vit
        kernel = self.normal("patch_embed.proj.weight", (3 * vit.patch**2) ** -0.5, vit.dim, 3, vit.patch, vit.patch)
        bias = self.normal("patch_embed.proj.bias", 0.02, vit.dim)
        size, zero = [vit.patch, vit.patch], [0, 0, 0, 0]
        x = self.node("Conv", [image, kernel, bias], "patch_embed/Conv", kernel_shape=size, strides=size, pads=zero)
        flat = self.integers("patch_embed.shape", 1, vit.dim, vit.patches)
        x = self.node("Reshape", [x, flat], "patch_embed/Reshape")
        x = self.node("Transpose", [x], "patch_embed/Transpose", perm=[0, 2, 1])
        x = self.node("Concat", [self.normal("cls_token", 1.0, 1, 1, vit.dim), x], "Concat", axis=1)
        return self.node("Add", [x, self.normal("pos_embed", 0.5, 1, vit.tokens, vit.dim)], "Add")


def model(vit: Vit, seed: int = 0) -> onnx.ModelProto:
    """Input `image` [1, 3, image, image], output `logits` [1, classes]; the weights are the seed's."""
    graph = _Graph(vit, seed)
    x = graph.embedding(INPUT)
    for i in range(vit.depth):
        x = graph.block(x, f"blocks.{i}")
    x = graph.layer_norm(x, "norm")
    x = graph.node("Gather", [x, graph.tensor("cls_index", np.array(0))], "Gather", axis=1)
    weight = graph.normal("head.weight", vit.dim**-0.5, vit.classes, vit.dim)
    graph.node("Gemm", [x, weight, graph.normal("head.bias", 0.02, vit.classes)], OUTPUT, transB=1)
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        graph.nodes,
        "vit",
        [value(INPUT, TensorProto.FLOAT, vit.shape)],
        [value(OUTPUT, TensorProto.FLOAT, [1, vit.classes])],
        graph.initializers,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def write(vit: Vit, path: Path, seed: int = 0) -> None:
    onnx.save(model(vit, seed), path)


def images(vit: Vit, count: int, seed: int) -> np.ndarray:
    """Random inputs, float32 [count, 1, 3, image, image], of mean 0 and deviation 1 as normalised photos have."""
    return np.random.default_rng(seed).standard_normal((count, *vit.shape), np.float32)
