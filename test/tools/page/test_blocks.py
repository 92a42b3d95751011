"""Blocks are found by the names that exporters write, and without such names by their structure."""

import pytest
from data.small_vit import Variant, vit

from qvit.dialects.provenance import SRC, sources
from qvit.frontends.onnx import import_onnx
from qvit.tools.page.blocks import ALL, EMBEDDINGS, HEAD, assign_blocks, block_path, block_title, constants

NAMES = {
    "/blocks.3/norm1/Add": ("blocks.3", "Block 3"),
    "/blocks/blocks.3/norm1/Add": ("blocks.3", "Block 3"),
    "/backbone/encoder/layer.11/attention/MatMul_output_0_QuantizeLinear": ("backbone.encoder.layer.11", "Block 11"),
    "/encoder/layers/encoder_layer_0/self_attention/Gather": ("encoder.layers.encoder_layer_0", "Block 0"),
    "/stages/stages.1/blocks/blocks.0/mlp/layers.4/Gemm": ("stages.1.blocks.0", "Block 1.0"),
    "layers.2": ("layers.2", "Block 2"),
    "/transformer/h.7/mlp/Tanh": ("transformer.h.7", "Block 7"),
    "Transformer/encoderblock_5/LayerNorm_0": ("Transformer.encoderblock_5", "Block 5"),
}


@pytest.mark.parametrize(("name", "expected"), NAMES.items())
def test_names_of_blocks(name: str, expected: tuple[str, str]) -> None:
    path = block_path(name)
    assert path is not None
    assert (path, block_title(path)) == expected


@pytest.mark.parametrize(
    "name", ["/norm/LayerNormalization_1", "/patch.1/Conv", "/MatMul_12", "fc1.bias", "", "/a.0/b"]
)
def test_names_of_no_block(name: str) -> None:
    assert block_path(name) is None


@pytest.mark.parametrize("named", [True, False], ids=["names", "structure"])
def test_blocks_of_a_vit(named: bool) -> None:
    module, _ = import_onnx(vit(Variant(opset=17)), dims={"batch": 1})
    ops = [op for op in module.walk() if op.name.startswith("qvit.")]
    names = {op: sources(op)[-1] for op in ops}
    for op in ops if not named else ():
        op.attributes.pop(SRC, None)
    blocks = assign_blocks(ops, constants(ops))
    assert set(blocks) == set(ops)
    first, second = ("blocks.0", "blocks.1") if named else ("block.0", "block.1")
    assert list(dict.fromkeys(blocks.values())) == [EMBEDDINGS, first, second, HEAD]
    expected = {
        "/blocks.0/": first,
        "/blocks.1/": second,
        "/norm/": HEAD,
        "/head/": HEAD,
        "head.": HEAD,
        "patch": EMBEDDINGS,
    }
    for op, name in names.items():
        for start, block in expected.items():
            if name.startswith(start) and op.name not in ("qvit.constant", "qvit.weight"):
                assert blocks[op] == block, name
    for op in constants(ops):  # each beside what uses it
        assert blocks[op] in {blocks[use.operation] for use in op.results[0].uses}


def test_without_names_and_attention_there_is_one_block() -> None:
    module, _ = import_onnx(vit(Variant()), ["/patch/Transpose_output_0"], {"batch": 1})
    ops = [op for op in module.walk() if op.name.startswith("qvit.")]
    assert set(assign_blocks(ops, constants(ops)).values()) == {ALL}
