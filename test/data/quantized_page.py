"""The page about a small quantized vision transformer, with blocked products, declined patterns and all forms."""

from dataclasses import dataclass

import ir_text
import numpy as np
import onnx
from data.small_vit import Variant, quantized
from xdsl.dialects.builtin import ModuleOp

from qvit.frontends.onnx import import_onnx
from qvit.tools.page.facts import ModuleFacts, module_facts
from qvit.transforms.delay_dequant import Report, delay_dequant


@dataclass(frozen=True)
class Example:
    """A module behind --delay-dequant, what the pass reported, and the facts about both."""

    module: ModuleOp
    report: Report
    facts: ModuleFacts


def example(rename: tuple[str, str] = ("", "")) -> Example:
    """LayerNorm and GELU cut by quantizers; the second block's softmax not quantized.

    rename: a part of the names of all nodes and tensors, and what stands there instead.
    """
    model = _unquantized(
        quantized(Variant(14, "split", "matmul", "div"), "QUInt8", add=True), "/blocks.1/attn/pv/MatMul"
    )
    if rename[0]:
        rename_nodes(model, *rename)
    module, declined = import_onnx(model, dims={"batch": 1})
    report = delay_dequant(module)
    return Example(module, report, module_facts(module, "vit.onnx", ("delay-dequant",), report, declined))


def _unquantized(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The first operand of a product taken from before its quantizer."""
    producers = {output: node for node in model.graph.node for output in node.output}
    (product,) = (node for node in model.graph.node if node.name == name)
    product.input[0] = producers[producers[product.input[0]].input[0]].input[0]
    return model


def rename_nodes(model: onnx.ModelProto, old: str, new: str) -> None:
    """Of all nodes and tensors."""
    graph = model.graph
    for node in graph.node:
        node.name = node.name.replace(old, new)
        for names in (node.input, node.output):
            names[:] = [name.replace(old, new) for name in names]
    for tensor in graph.initializer:
        tensor.name = tensor.name.replace(old, new)


def wide_example(blocks: int, width: int) -> ModuleFacts:
    """As large as a real model in what a page shows: blocks of 60 operations, scales along `width` channels."""
    lines = ["func.func @main(%x0: tensor<1x4xf32>) -> tensor<1x4xf32> {"]
    scales = f"tensor<{width}x4xi8>"
    vector = ", ".join(f"{k}" for k in np.linspace(0.001, 0.009, width).round(9))
    for b in range(blocks):
        for i in range(12):
            x, n = 12 * b + i, f"/backbone/encoder/layer.{b}/attention/attention/part_{i}"
            src = f'{{qvit.src = ["{n}/MatMul_output_0_DequantizeLinear", "{n}/MatMul"]}}'
            lines += [
                f"%w{x} = qvit.constant dense<1> : {scales}",
                f"%q{x} = qvit.quantize %x{x} <0.02, zero_point = 117> {src} : tensor<1x4xf32> -> tensor<1x4xui8>",
                f"%y{x} = qvit.linear %q{x}, %w{x} {src} : (tensor<1x4xui8>, {scales}) -> tensor<1x{width}xi32>",
                f"%s{x} = qvit.slice %y{x} axis 1 start 0 size 4 step 1 {src} : tensor<1x{width}xi32> -> tensor<1x4xi32>",
                f"%d{x} = qvit.dequantize %y{x} <[{vector}], axis = 1> {src} : tensor<1x{width}xi32> -> tensor<1x{width}xf32>",
                f"%x{x + 1} = qvit.slice %d{x} axis 1 start 0 size 4 step 1 {src} : tensor<1x{width}xf32> -> tensor<1x4xf32>",
            ]
    lines += [f"func.return %x{12 * blocks} : tensor<1x4xf32>", "}"]
    return module_facts(ir_text.parse("\n".join(lines)), "wide.mlir")
