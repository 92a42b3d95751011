"""A vision transformer of two blocks with random weights, written as exporters write it, in several variants.

The sizes are odd on purpose: 6 patches and a class token make 7 tokens, 2 heads of 5 make 10 features. The batch is
dynamic. `quantized` puts it through onnxruntime's static quantizer.
"""

import itertools
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod, sqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from data.onnx_build import IR_VERSION
from onnx import helper, numpy_helper

CHANNELS, HEIGHT, WIDTH, PATCH = 2, 4, 6, 2
HEADS, HEAD = 2, 5
FEATURES, HIDDEN, CLASSES = HEADS * HEAD, 12, 3
PATCHES = HEIGHT // PATCH * WIDTH // PATCH
TOKENS = PATCHES + 1


@dataclass(frozen=True)
class Variant:
    """How one exporter writes what another writes differently."""

    opset: Literal[14, 17, 20] = 17
    """14 has neither LayerNormalization nor Gelu, 17 has the first, 20 has both."""
    qkv: Literal["split", "gather", "separate"] = "split"
    """One projection, cut by Split or by Gather on a permuted tensor, or three."""
    linear: Literal["matmul", "gemm"] = "matmul"
    """MatMul and Add, or Gemm between Reshapes."""
    scale: Literal["mul", "div", "both"] = "mul"
    """Keys times 1 / sqrt(head), scores over sqrt(head), or queries and keys times the fourth root."""

    def __str__(self) -> str:
        return f"{self.opset}-{self.qkv}-{self.linear}-{self.scale}"


VARIANTS = [
    Variant(*choice)
    for choice in itertools.product(
        (14, 17, 20), ("split", "gather", "separate"), ("matmul", "gemm"), ("mul", "div", "both")
    )
]

# Each value of each choice at least twice: quantizing takes longer than importing.
QUANTIZED = [
    Variant(14, "gather", "matmul", "both"),
    Variant(14, "separate", "gemm", "mul"),
    Variant(17, "split", "gemm", "both"),
    Variant(17, "separate", "matmul", "div"),
    Variant(20, "gather", "gemm", "div"),
    Variant(20, "split", "matmul", "mul"),
]


@dataclass
class _Writer:
    """Nodes and initializers so far; every method returns the name of the tensor that it adds."""

    variant: Variant
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    def add(self, op: str, name: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        node = f"{name}/{op}" if name[-1] != "/" else name + op
        names = [f"{node}_output_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, node, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, name: str, *shape: int, mean: float = 0.0) -> str:
        deviation = 1 / sqrt(shape[0]) if len(shape) > 1 else 0.3
        return self.constant(name, mean + self.random.normal(0, deviation, shape))

    def shape(self, name: str, x: str, *sizes: int) -> str:
        return self.add("Reshape", name, x, self.constant(f"{name}/shape", sizes, np.int64))

    def linear(self, name: str, x: str, inputs: int, outputs: int) -> str:
        weight, bias = self.weight(f"{name}.weight", inputs, outputs), self.weight(f"{name}.bias", outputs)
        if self.variant.linear == "matmul":
            return self.add("Add", name, bias, self.add("MatMul", name, x, weight))
        rows = self.shape(f"{name}/rows", x, -1, inputs)
        return self.shape(f"{name}/tokens", self.add("Gemm", name, rows, weight, bias), -1, TOKENS, outputs)

    def layer_norm(self, name: str, x: str) -> str:
        gamma, beta = self.weight(f"{name}.weight", FEATURES, mean=1), self.weight(f"{name}.bias", FEATURES)
        if self.variant.opset >= 17:
            return self.add("LayerNormalization", name, x, gamma, beta, epsilon=1e-6)
        centred = self.add("Sub", name, x, self.add("ReduceMean", name, x, axes=[-1]))
        square = self.add("Pow", name, centred, self.constant(f"{name}/two", 2))
        variance = self.add("ReduceMean", f"{name}/var", square, axes=[-1])
        root = self.add("Sqrt", name, self.add("Add", name, variance, self.constant(f"{name}/eps", 1e-6)))
        scaled = self.add("Mul", name, self.add("Div", name, centred, root), gamma)
        return self.add("Add", f"{name}/beta", scaled, beta)

    def gelu(self, name: str, x: str) -> str:
        if self.variant.opset >= 20:
            return self.add("Gelu", name, x)
        erf = self.add("Erf", name, self.add("Div", name, x, self.constant(f"{name}/sqrt2", sqrt(2))))
        plus = self.add("Add", name, erf, self.constant(f"{name}/one", 1))
        return self.add("Mul", f"{name}/half", self.add("Mul", name, x, plus), self.constant(f"{name}/0.5", 0.5))

    def heads(self, name: str, x: str, permutation: Sequence[int]) -> str:
        return self.add("Transpose", name, self.shape(name, x, -1, TOKENS, HEADS, HEAD), perm=permutation)

    def queries_keys_values(self, name: str, x: str) -> tuple[str, str, str]:
        """[batch, heads, tokens, head] each."""
        if self.variant.qkv == "separate":
            parts = [self.linear(f"{name}/{p}", x, FEATURES, FEATURES) for p in ("query", "key", "value")]
        else:
            fused = self.linear(f"{name}/qkv", x, FEATURES, 3 * FEATURES)
            if self.variant.qkv == "gather":
                cut = self.shape(f"{name}/cut", fused, -1, TOKENS, 3, HEADS, HEAD)
                moved = self.add("Transpose", f"{name}/cut", cut, perm=[2, 0, 3, 1, 4])
                q, k, v = (
                    self.add("Gather", f"{name}/{p}", moved, self.constant(f"{name}/{p}/index", i, np.int64), axis=0)
                    for i, p in enumerate("qkv")
                )
                return q, k, v
            sizes = self.constant(f"{name}/sizes", [FEATURES] * 3, np.int64)
            parts = self.add("Split", name, fused, sizes, outputs=3, axis=-1)
        q, k, v = (self.heads(f"{name}/{p}", part, [0, 2, 1, 3]) for p, part in zip("qkv", parts, strict=True))
        return q, k, v

    def attention(self, name: str, x: str) -> str:
        q, k, v = self.queries_keys_values(name, x)
        if self.variant.scale == "both":
            q = self.add("Mul", f"{name}/q", q, self.constant(f"{name}/q/root", HEAD**-0.25))
            k = self.add("Mul", f"{name}/k", k, self.constant(f"{name}/k/root", HEAD**-0.25))
        elif self.variant.scale == "mul":
            k = self.add("Mul", f"{name}/k", k, self.constant(f"{name}/k/scale", HEAD**-0.5))
        scores = self.add("MatMul", f"{name}/qk", q, self.add("Transpose", f"{name}/kt", k, perm=[0, 1, 3, 2]))
        if self.variant.scale == "div":
            scores = self.add("Div", f"{name}/qk", scores, self.constant(f"{name}/sqrt", sqrt(HEAD)))
        mixed = self.add("MatMul", f"{name}/pv", self.add("Softmax", name, scores, axis=-1), v)
        merged = self.shape(
            f"{name}/merge", self.add("Transpose", f"{name}/merge", mixed, perm=[0, 2, 1, 3]), -1, TOKENS, FEATURES
        )
        return self.linear(f"{name}/proj", merged, FEATURES, FEATURES)

    def embedding(self, x: str) -> str:
        weight = self.weight("patch.weight", FEATURES, CHANNELS, PATCH, PATCH)
        patches = self.add("Conv", "/patch", x, weight, self.weight("patch.bias", FEATURES), strides=[PATCH, PATCH])
        tokens = self.add("Transpose", "/patch", self.shape("/patch", patches, 0, FEATURES, PATCHES), perm=[0, 2, 1])
        # the class token, expanded by shape arithmetic as traced models do
        batch = self.add(
            "Gather", "/cls", self.add("Shape", "/cls", x), self.constant("/cls/index", 0, np.int64), axis=0
        )
        batch = self.add("Unsqueeze", "/cls", batch, self.constant("/cls/axis", [0], np.int64))
        shape = self.add("Concat", "/cls", batch, self.constant("/cls/tail", [1, FEATURES], np.int64), axis=0)
        token = self.add("Expand", "/cls", self.weight("cls", 1, 1, FEATURES), shape)
        return self.add(
            "Add", "/pos", self.add("Concat", "/tokens", token, tokens, axis=1), self.weight("pos", 1, TOKENS, FEATURES)
        )

    def block(self, name: str, x: str) -> str:
        x = self.add("Add", name, x, self.attention(f"{name}/attn", self.layer_norm(f"{name}/norm1", x)))
        hidden = self.linear(f"{name}/fc1", self.layer_norm(f"{name}/norm2", x), FEATURES, HIDDEN)
        return self.add(
            "Add", f"{name}/mlp", x, self.linear(f"{name}/fc2", self.gelu(f"{name}/act", hidden), HIDDEN, FEATURES)
        )


def vit(variant: Variant) -> onnx.ModelProto:
    """image [batch, 2, 4, 6] -> logits [batch, 3]."""
    w = _Writer(variant)
    x = w.embedding("image")
    for i in range(2):
        x = w.block(f"/blocks.{i}", x)
    first = w.add("Gather", "/head", w.layer_norm("/norm", x), w.constant("/head/index", 0, np.int64), axis=1)
    w.add("Gemm", "/head", first, w.weight("head.weight", CLASSES, FEATURES), w.weight("head.bias", CLASSES), transB=1)
    w.nodes[-1].output[0] = "logits"
    shape = ["batch", CHANNELS, HEIGHT, WIDTH]
    graph = helper.make_graph(
        w.nodes,
        "vit",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", CLASSES])],
        w.initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", variant.opset)], ir_version=IR_VERSION)


def images(batch: int, seed: int = 0) -> np.ndarray:
    shape = (batch, CHANNELS, HEIGHT, WIDTH)
    return np.random.default_rng([seed, prod(shape)]).normal(0, 1, shape).astype(np.float32)


class _Calibration:
    """Hands out a few batches, then None."""

    def __init__(self) -> None:
        self._batches: Iterator[np.ndarray] = iter([images(4, seed) for seed in (101, 102)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch}


def quantized(variant: Variant, activations: Literal["QUInt8", "QInt8"], add: bool = False) -> onnx.ModelProto:
    """The products quantized (and the additions), weights int8 per channel, by onnxruntime's static quantizer."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    logging.getLogger().setLevel(logging.ERROR)  # it logs a hint at every model
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "quantized.onnx")
        quantize_static(
            vit(variant),
            target,
            _Calibration(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm", "Conv", *(["Add"] if add else [])],
            per_channel=True,
            activation_type=QuantType[activations],
            weight_type=QuantType.QInt8,
        )
        return onnx.load(target)
