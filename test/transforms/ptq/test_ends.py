"""Layers at the ends keep their bits, and a softmax may take the sums of a product as they are."""

from dataclasses import replace

from float_exports import batch, read
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from qvit.dialects.ops.nonlinear import SoftmaxOp
from qvit.dialects.ops.products import Conv2dOp, LinearOp
from qvit.dialects.ops.quantization import DequantizeOp
from qvit.dialects.types import integer_of
from qvit.tools.compiler import quantize
from qvit.transforms.pipelines import SCHEMES, at_bits
from qvit.transforms.ptq.scheme import Quantization


def quantized(name: str, quantization: Quantization) -> ModuleOp:
    module = read(name)
    quantize(module, [batch(name, 1), batch(name, 2)], quantization)
    return module


def bits(value: SSAValue) -> int:
    """Of the codes that a tensor is moved from."""
    while not isinstance(dq := value.owner, DequantizeOp):
        assert isinstance(dq, Operation)
        value = dq.operands[0]
    codes = integer_of(dq.input)
    assert codes is not None
    return codes.bits


def widths(module: ModuleOp) -> list[tuple[int, int]]:
    """(bits of the operand, bits of the weights) of each layer, in program order."""
    layers = [op for op in module.walk() if isinstance(op, LinearOp | Conv2dOp)]
    return [(bits(op.input), bits(op.weight)) for op in layers]


def test_ends() -> None:
    """Of a ViT, the patches' convolution and the classifier, behind a normalisation and a slice."""
    narrow = at_bits(SCHEMES["best"], 3, 3).quantization
    found = widths(quantized("vit_dynamo20", narrow))
    assert found[0] == found[-1] == (8, 8)
    assert set(found[1:-1]) == {(3, 3)}
    found = widths(quantized("vit_dynamo20", replace(narrow, ends=0)))
    assert found[0] == (8, 3)  # pixels have a quantizer of their own
    assert set(found[1:]) == {(3, 3)}


def scores(module: ModuleOp) -> list[bool]:
    """Whether what each softmax takes has codes."""
    return [isinstance(op.input.owner, DequantizeOp) for op in module.walk() if isinstance(op, SoftmaxOp)]


def test_raw_scores() -> None:
    lin_shah = SCHEMES["lin-shah"].quantization
    assert scores(quantized("vit_dynamo20", lin_shah)) == [False, False]
    assert scores(quantized("vit_dynamo20", replace(lin_shah, raw_scores=False))) == [True, True]
    # Swin adds a bias of positions to them
    assert scores(quantized("swin_dynamo20", lin_shah)) == [True] * 4
