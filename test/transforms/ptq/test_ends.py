"""Layers at the ends keep their bits, and a softmax may take the sums of a product as they are."""

from dataclasses import replace

import numpy as np
from float_exports import batch, read
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from qvit.backends.interpreter import run, run_model
from qvit.dialects.ops.nonlinear import SoftmaxOp
from qvit.dialects.ops.products import Conv2dOp, LinearOp
from qvit.dialects.ops.quantization import DequantizeOp, QuantizeOp
from qvit.dialects.types import integer_of
from qvit.dialects.weights import Weights
from qvit.tools.compiler import quantize
from qvit.transforms.pipelines import SCHEMES, at_bits, run_scheme
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


def head_scales(module: ModuleOp) -> list[int]:
    """How many scales the quantizers with one for each head have, in program order."""
    found: list[int] = []
    for op in module.walk():
        if isinstance(op, QuantizeOp) and op.params.axis_index is not None:
            found.append(len(np.unique(Weights(module).scale(op.params.scale))))
    return found


def test_scales_of_heads() -> None:
    """Three heads: of queries and keys, and of values where nothing divides behind their product."""
    for name, count in (("best", 4), ("lin-shah", 6)):
        quantization = replace(SCHEMES[name].quantization, raw_scores=False)
        assert head_scales(quantized("vit_dynamo20", quantization)) == []
        assert head_scales(quantized("vit_dynamo20", replace(quantization, per_head=True))) == [3] * count
    for name in ("best", "lin-shah"):
        changed = replace(SCHEMES[name].quantization, per_head=True, raw_scores=False)
        module = quantized("vit_dynamo20", changed)
        run_scheme(module, replace(SCHEMES[name], quantization=changed))
        inputs = batch("vit_dynamo20", 5)
        (expected,), (found,) = run(read("vit_dynamo20"), inputs).values(), run_model(module, inputs).values()
        x, y = expected.ravel(), found.ravel()
        assert x @ y / np.sqrt((x @ x) * (y @ y)) > (0.99 if name == "best" else 0.9)
