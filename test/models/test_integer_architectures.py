"""Every float export of docs/import.md becomes integers: nothing is left in float, and the outputs stay close."""

import ir_text
import numpy as np
import pytest
from float_exports import FLOAT, ONCE, batch, compiled, read
from numpy.typing import NDArray

from qvit.backends.interpreter import find_function, run, run_model
from qvit.dialects.ops.approximated import IntSoftmaxOp
from qvit.dialects.types import integer_of
from qvit.tools.compiler import compile_model
from qvit.transforms.pipelines import SCHEMES
from qvit.transforms.verify_integer_only import floats_left


def cosine(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def check(name: str) -> None:
    found = compiled(name)  # range-analysis and verify-integer-only are passes of the scheme, and raise
    found.module.verify()
    assert not floats_left(found.module)
    assert all(integer_of(value) for op in find_function(found.module).walk() for value in op.results)
    inputs = batch(name, 77)
    expected, integers = run(read(name), inputs), run_model(found.module, inputs)
    assert expected.keys() == integers.keys()
    for key, array in expected.items():
        assert cosine(array, integers[key]) > 0.99, key


@pytest.mark.parametrize("name", [name for name in FLOAT if name in ONCE])
def test_an_architecture(name: str) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FLOAT if name not in ONCE])
def test_an_exporter(name: str) -> None:
    check(name)


@pytest.mark.parametrize("scheme", sorted(SCHEMES.keys() - {"best"}))
def test_other_schemes(scheme: str) -> None:
    """Convolutions, windows, masks known at run time."""
    for name in ("swin_dynamo20", "bert_dynamo20"):
        found, inputs = compiled(name, scheme), batch(name, 77)
        for key, array in run(read(name), inputs).items():
            assert cosine(array, run_model(found.module, inputs)[key]) > 0.9, (name, key)


def test_window_masks_are_no_scores() -> None:
    """Swin's -100 is a mask of truth values, and takes no codes of the scores."""
    softmaxes = [op for op in compiled("swin_legacy17").module.walk() if isinstance(op, IntSoftmaxOp)]
    assert [op.mask is not None for op in softmaxes] == [False, True, False, True]


@pytest.mark.parametrize("name", ["bert_dynamo20", "bert_legacy17", "bert_dynamo23"])
def test_hidden_tokens_change_nothing(name: str) -> None:
    """Masks that are inputs stay exact: what other tokens a hidden place has is not seen."""
    module, inputs = compiled(name).module, batch(name, 5)
    inputs["attention_mask"][..., 4:] = 0
    other = {**inputs, "input_ids": inputs["input_ids"].copy()}
    other["input_ids"][..., 4:] = (other["input_ids"][..., 4:].astype(np.int64) + 3) % 10
    for key, array in run_model(module, inputs).items():
        np.testing.assert_array_equal(array, run_model(module, other)[key])


def numbers(name: str, *shape: int, low: float = -0.5) -> str:
    values = np.random.default_rng(len(name) + sum(shape)).uniform(low, 0.5 if low < 0 else 2, shape)
    return f"%{name} = qvit.constant dense<{values.tolist()}> : tensor<{'x'.join(map(str, shape))}xf32>"


I8, I4, ROW = "tensor<1x8x8x8xf32>", "tensor<1x8x4x4xf32>", "tensor<1x8xf32>"
PARAMETERS = ", ".join(["tensor<8xf32>"] * 4)
CONVOLUTIONS = [
    numbers("w", 8, 3, 3, 3),
    numbers("d", 8, 1, 3, 3),
    numbers("e", 8, 8, 1, 1),
    *(numbers(name, 8) for name in ("g", "be", "mea")),
    numbers("varia", 8, low=0.5),
    numbers("head", 5, 8),
    f"%c1 = qvit.conv2d %x, %w {{padding = array<i64: 1, 1, 1, 1>}} : (tensor<1x3x8x8xf32>, tensor<8x3x3x3xf32>) -> {I8}",
    f"%n1 = qvit.batch_norm %c1, %g, %be, %mea, %varia epsilon 1.0e-5 : ({I8}, {PARAMETERS}) -> {I8}",
    f"%r1 = qvit.relu %n1 : {I8}",
    f"%c2 = qvit.conv2d %r1, %d {{strides = array<i64: 2, 2>, padding = array<i64: 1, 1, 1, 1>, groups = 8 : i64}}"
    f" : ({I8}, tensor<8x1x3x3xf32>) -> {I4}",
    f"%r2 = qvit.clip %c2 {{low = 0.0 : f64, high = 6.0 : f64}} : {I4}",
    f"%c3 = qvit.conv2d %r2, %e : ({I4}, tensor<8x8x1x1xf32>) -> {I4}",
    f"%s = qvit.add %r2, %c3 : ({I4}, {I4}) -> {I4}",
    f"%p = qvit.reduce_mean %s {{axes = array<i64: 2, 3>, keepdims = false}} : {I4} -> {ROW}",
    f"%y = qvit.linear %p, %head : ({ROW}, tensor<5x8xf32>) -> tensor<1x5xf32>",
    "%k = qvit.argmax %y {axis = 1 : i64, keepdims = false} : tensor<1x5xf32> -> tensor<1xi64>",
]


def test_a_convolutional_network_with_several_outputs() -> None:
    """Batch normalisation, ReLU, a bounded ReLU, depthwise convolution, pooling; features, logits and the class."""
    types = (I4, "tensor<1x5xf32>", "tensor<1xi64>")
    body = "\n".join([*CONVOLUTIONS, f"func.return %s, %y, %k : {', '.join(types)}"])
    text = f"func.func @main(%x: tensor<1x3x8x8xf32>) -> ({', '.join(types)}) {{\n{body}\n}}"
    rng = np.random.default_rng(0)
    samples = [{"input0": rng.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(40)]
    reference = ir_text.parse(text)
    found = compile_model(ir_text.parse(text), samples[:8], SCHEMES["best"])
    assert not floats_left(found.module)
    right = 0
    for inputs in samples[8:]:
        expected, integers = run(reference, inputs), run_model(found.module, inputs)
        assert cosine(expected["output0"], integers["output0"]) > 0.99
        assert cosine(expected["output1"], integers["output1"]) > 0.99
        assert integers["output2"].dtype == np.int64
        right += int((expected["output2"] == integers["output2"]).all())
        assert (integers["output2"] == integers["output1"].argmax(1)).all()
    assert right >= 31


def test_causal_attention() -> None:
    """What is ahead of a token does not reach it, not even by a code."""
    t, n = "tensor<6x8xf32>", "tensor<6x6xf32>"
    ahead = np.where(np.tri(6) > 0, 0, np.finfo(np.float32).min).astype(np.float32)
    mask = f'%m = qvit.constant dense<"0x{ahead.tobytes().hex().upper()}"> : {n}'
    layers = [f"%{name} = qvit.linear %x, %w{name} : ({t}, tensor<8x8xf32>) -> {t}" for name in "qkv"]
    lines = [
        *(numbers(f"w{name}", 8, 8) for name in "qkv"),
        mask,
        *layers,
        f"%t = qvit.transpose %k [1, 0] : {t} -> tensor<8x6xf32>",
        f"%s = qvit.matmul %q, %t : ({t}, tensor<8x6xf32>) -> {n}",
        f"%a = qvit.add %s, %m : ({n}, {n}) -> {n}",
        f"%p = qvit.softmax %a axis 1 : {n}",
        f"%o = qvit.matmul %p, %v : ({n}, {t}) -> {t}",
    ]
    text = ir_text.function(lines, {"%x": t})
    rng = np.random.default_rng(0)
    samples = [{"input0": rng.normal(size=(6, 8)).astype(np.float32)} for _ in range(8)]
    found = compile_model(ir_text.parse(text), samples[1:], SCHEMES["best"])
    first, other = samples[0], {"input0": samples[0]["input0"].copy()}
    other["input0"][3:] = 1
    expected, one, two = run(ir_text.parse(text), first), run_model(found.module, first), run_model(found.module, other)
    assert cosine(expected["output0"], one["output0"]) > 0.999
    np.testing.assert_array_equal(one["output0"][:3], two["output0"][:3])
