"""Training on integers: what is trained is what is deployed, down to every code of every quantizer."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training import BATCH, images, prepared, steps, vit
from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.exceptions import DiagnosticException

from qvit.backends.c import load
from qvit.backends.interpreter import run, run_model
from qvit.backends.torch.fake_quant import fake_quantize
from qvit.dialects.functions import QUANTIZE_INPUTS
from qvit.dialects.ops.products import Conv2dOp, LinearOp
from qvit.dialects.ops.quantization import RequantizeOp, ThresholdOp
from qvit.dialects.types import integer_of, shape_of
from qvit.tools.qat import convert, prepare_qat
from qvit.tools.qat.template import code_name
from qvit.transforms.pipelines import SCHEMES, at_bits


def observed(module: ModuleOp, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """What the deployed program makes of each operation, by its name; before the first of equal names."""
    seen: dict[str, np.ndarray] = {}

    def observe(op: Any, array: np.ndarray) -> None:
        for name in (str(s.data) for s in op.attributes.get("qvit.src", [])):
            seen[name] = array

    codes = run(module, inputs, function=QUANTIZE_INPUTS)
    run(module, list(codes.values()), integers_only=True, observe=observe)
    return seen


WAYS = [(name, 8) for name in SCHEMES] + [("best", 4), ("best", 2), ("lin-shah", 3), ("lin-shah", 2), ("p2-vit", 4)]


@pytest.mark.parametrize(("scheme", "bits"), WAYS)
def test_what_is_trained_is_deployed(scheme: str, bits: int) -> None:
    """Logits of training, of the interpreter and of C, after steps that change every weight and scale."""
    model = prepared(scheme, bits)
    learned = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in learned]
    steps(model, 3)
    assert not any(torch.equal(p, q) for p, q in zip(before, learned, strict=True))
    module, x = convert(model.eval()), images(seed=3)
    trained = model(x)  # with gradients, as in training
    with torch.inference_mode():
        torch.testing.assert_close(model(x), trained.detach(), rtol=0, atol=0)
    (deployed,) = run_model(module, [x.numpy()]).values()
    np.testing.assert_array_equal(trained.detach().numpy(), deployed.astype(np.float32))
    codes = run(module, [x.numpy()], function=QUANTIZE_INPUTS)
    (by_c,) = load(module)(*codes.values())
    np.testing.assert_array_equal(by_c, model.integers([x.numpy()])[1][model.template.outputs[0]])


@pytest.mark.parametrize(("scheme", "bits"), WAYS)
def test_every_intermediate_is_deployed(scheme: str, bits: int) -> None:
    """The codes of each quantizer are those of some operation of the deployed program that stands for the same node."""
    model = prepared(scheme, bits)
    steps(model, 2)
    module, x = convert(model), images(seed=3).numpy()
    made: list[np.ndarray] = []
    codes = run(module, [x], function=QUANTIZE_INPUTS)
    run(module, list(codes.values()), integers_only=True, observe=lambda _, array: made.append(array))
    made += codes.values()
    contents = {(array.size, array.astype(np.int64).ravel().tobytes()) for array in made}
    _, trained = model.integers([x])
    assert len(model.template.quantizers) >= 8
    for i, quantizer in enumerate(model.template.quantizers):
        array = trained[code_name(i)]
        assert (array.size, array.astype(np.int64).ravel().tobytes()) in contents, quantizer


def test_accumulators_beyond_floats() -> None:
    """Sums above 2^24, which float32 cannot hold: 3,000 products of two codes near their ends, and one more or less."""
    torch.manual_seed(0)
    layer = nn.Linear(3000, 4)
    nn.init.uniform_(layer.weight, 0.9, 1.0)
    model = prepare_qat(layer, [torch.rand(2, 3000) * 0.1 + 0.9])
    x = torch.rand(2, 3000) * 0.1 + 0.9
    x[1] = x[0]
    x[1, :7] -= 0.02
    _, codes = model.integers([x.numpy()])
    sums = codes[model.template.outputs[0]].astype(object)
    assert min(sums.ravel()) > 1 << 24
    weight = next(v for v in model.template.values if v.step is not None)
    stored = model.codes(model.template.values.index(weight)).numpy().astype(np.int64).astype(object)
    (inputs,) = [codes[code_name(0)].astype(np.int64)]
    zero = model.template.step_of[model.template.quantizers[0]].zero_point
    bias = sums[0] - (inputs[0].astype(object) - zero) @ stored.T
    assert (sums[1] == (inputs[1].astype(object) - zero) @ stored.T + bias).all()
    assert (sums[0] != sums[1]).all()
    by_c = load(convert(model))(codes[code_name(0)])[0]
    np.testing.assert_array_equal(by_c.astype(object), sums)


def test_the_loss_falls() -> None:
    losses = steps(prepared("lin-shah", 3), 30, rate=3e-3)
    assert losses[-1] < 0.5 * losses[0]


# --- gradients ---


def test_lsq_by_hand() -> None:
    """Equations 3 and 5 of LSQ, for one value below, two inside and one above."""
    x = torch.tensor([-9.0, 0.6, -1.3, 7.7], requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    codes = torch.tensor([-4, 1, -3, 3])
    y = fake_quantize(x, codes, scale, 0, -4, 3)
    assert y.tolist() == [-2.0, 0.5, -1.5, 1.5]
    y.backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 0.0]
    expected = (1 * -4 + 2 * (1 - 1.2) + 3 * (-3 + 2.6) + 4 * 3) / np.sqrt(4 * 3)
    assert scale.grad is not None
    np.testing.assert_allclose(scale.grad.item(), expected, rtol=1e-6)


def test_the_gradient_is_that_of_the_float_model() -> None:
    """Where nothing is clipped, quantizers of 8 bits hardly change the gradient of the loss by the weights."""
    model, reference = prepared(), vit()
    x, labels = images(seed=0), torch.arange(BATCH)
    F.cross_entropy(model.train()(x), labels).backward()
    F.cross_entropy(reference(x), labels).backward()
    head = next(i for i, v in enumerate(model.template.values) if v.initial.shape == (10, 24))
    mine, theirs = model.values[head].grad, reference.head.weight.grad
    assert mine is not None
    assert theirs is not None
    assert F.cosine_similarity(mine.ravel(), theirs.ravel(), 0) > 0.999


def test_all_that_is_learned_has_a_gradient() -> None:
    model = prepared("lin-shah", 3)
    model.train()(images()).square().sum().backward()
    for value, p in zip(model.template.values, model.values, strict=True):
        assert p.grad is not None, value.src
    for step, p in zip(model.template.steps, model.steps, strict=True):
        assert (p.grad is not None) == (not step.fixed), step.src


# --- scales ---


def test_powers_of_two_stay() -> None:
    model = prepared("p2-vit", 4)
    steps(model, 3)
    for step in model.template.steps:
        mantissa, _ = np.frexp(model.scale(step).detach().numpy())
        assert (mantissa == 0.5).all(), step.src


def test_moving_averages() -> None:
    """i-vit: scales of activations follow what is seen in training, not in evaluation; those of weights their largest."""
    model = prepared("i-vit")
    assert not any(p.requires_grad for p in model.steps)
    index = next(i for i, s in enumerate(model.template.steps) if not s.weights and not s.fixed)
    scale = model.get_buffer(f"scale_{index}")
    before = scale.clone()
    model.eval()(3 * images(seed=9))
    assert torch.equal(scale, before)
    model.train()(3 * images(seed=9))
    assert not torch.equal(scale, before)
    weight = next(i for i, v in enumerate(model.template.values) if v.step is not None and v.step.weights)
    step = model.template.values[weight].step
    assert step is not None
    with torch.no_grad():
        model.values[weight][0] *= 3
    largest = model.values[weight].detach().abs().flatten(1).amax(1)
    torch.testing.assert_close(model.scale(step), largest / 127)


def test_wide_scales_stay() -> None:
    """Of the residual stream, and those that a scheme gives itself."""
    model = prepared()
    initial = [s.initial.copy() for s in model.template.steps]
    steps(model, 2)
    fixed = 0
    for step, first in zip(model.template.steps, initial, strict=True):
        if step.fixed:
            np.testing.assert_array_equal(model.scale(step).detach().numpy(), first)
            fixed += 1
    assert fixed >= 5


def test_widths() -> None:
    """The first and the last layer keep 8 bits, all between have what was asked for."""
    module = convert(prepared("best", 3))
    layers = [op for op in module.walk() if isinstance(op, LinearOp | Conv2dOp)]
    found = [(integer_of(op.input), integer_of(op.weight)) for op in layers]
    widths = [(a.bits, w.bits) for a, w in found if a is not None and w is not None]
    assert widths[0] == widths[-1] == (8, 8)
    assert set(widths[1:-1]) == {(3, 3)}


def test_lin_shah_compares() -> None:
    """Every quantizer into few bits is one of comparators; only the residual stream is requantized."""
    module = convert(prepared("lin-shah", 3))
    assert sum(isinstance(op, ThresholdOp) for op in module.walk()) >= 5
    for op in module.walk():
        if isinstance(op, RequantizeOp):
            result = integer_of(op.result)
            assert result is not None
            assert result.bits == 16


# --- batches, checkpoints ---


def test_other_batch_sizes() -> None:
    model = prepared().eval()
    x = images(11, seed=5)
    with torch.inference_mode():
        whole = model(x)
        apart = torch.cat([model(x[i : i + 1]) for i in range(11)])
    assert whole.shape == (11, 10)
    assert torch.equal(whole, apart)


def test_elements_of_a_batch_are_alike() -> None:
    """After training too: a class token, which frontends repeat for each element, is one parameter."""
    model = prepared("best", 4)
    assert max(p.shape[0] for v, p in zip(model.template.values, model.values, strict=True) if "expand" in v.src) == 1
    steps(model, 3)
    x = images(1, seed=5).expand(BATCH, -1, -1, -1)
    with torch.inference_mode():
        logits = model.eval()(x)
    assert (logits == logits[:1]).all()


def test_checkpoints(tmp_path: Path) -> None:
    """All that was learned, zero points too: the samples of the model that reads it do not matter."""
    model, x = prepared("best", 4), images(seed=3)
    steps(model, 2)
    model.save(tmp_path / "model.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    other = prepare_qat(vit(), [images() * 0.2 - 0.8], weights=4, activations=4)
    other.program()
    other.restore(tmp_path / "model.safetensors")
    with torch.inference_mode():
        assert torch.equal(model.eval()(x), other.eval()(x))
    assert str(convert(model)) == str(convert(other))


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: prepared("i-vit"), "trained with the scheme best, and this model is of i-vit"),
        (lambda: prepare_qat(vit(dim=32), [images()]), r"has the shape \[24\], expected \[32\]"),
        (lambda: prepare_qat(vit(depth=2), [images()]), "prepare the model as it was for training"),
    ],
    ids=["scheme", "width", "depth"],
)
def test_other_checkpoints(made: Any, says: str, tmp_path: Path) -> None:
    prepared().save(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=says):
        made().restore(tmp_path / "model.safetensors")


def test_two_runs_are_equal() -> None:
    first, second = prepared("best", 4), prepared("best", 4)
    assert steps(first, 3) == steps(second, 3)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("options", [{}, {"learn_widths": True}], ids=["", "widths"])
def test_a_copy_is_apart(options: dict[str, Any]) -> None:
    """As a moving average of the weights needs it."""
    model, x = prepared("best", 4, **options), images(seed=3)
    steps(model, 1)
    model.values[0].requires_grad_(False)
    average = torch.optim.swa_utils.AveragedModel(model.eval())
    with torch.inference_mode():
        first = model(x)
        assert torch.equal(average(x), first)
    assert [p.requires_grad for p in average.module.parameters()] == [p.requires_grad for p in model.parameters()]
    before = str(convert(average.module))
    assert before == str(convert(model))
    steps(model, 2)
    assert str(convert(average.module)) == before
    average.update_parameters(model)  # the first takes the model's own
    assert str(convert(average.module)) == str(convert(model)) != before
    steps(model, 2)
    average.update_parameters(model)
    assert str(convert(average.module)) not in (before, str(convert(model)))


def test_compiled_once() -> None:
    """What did not change is not compiled again."""
    model = prepared().eval()
    program = model.program()
    assert model.program() is program
    with torch.no_grad():
        model.values[0].add_(0.1)
    assert model.program() is not program


class Plain(nn.Module):
    """A product of matrices, which have no heads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) @ self.b(x).transpose(0, 1)


@pytest.mark.parametrize("per_head", [False, True])
def test_a_product_of_matrices(per_head: bool) -> None:
    x = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    model = prepare_qat(Plain(), [x], per_head=per_head)
    (deployed,) = run_model(convert(model.eval()), [x.numpy()]).values()
    np.testing.assert_array_equal(model(x).detach().numpy(), deployed.astype(np.float32))


# --- bad input ---


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scheme": "worst"}, "the scheme is one of best, .*; found 'worst'"),
        ({"weights": 1}, "weights have 2 to 8 bits, found 1"),
        ({"activations": 9}, "activations have 2 to 8 bits, found 9"),
    ],
)
def test_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        prepare_qat(vit(), [images()], **options)


def test_no_samples() -> None:
    with pytest.raises(ValueError, match="samples are needed"):
        prepare_qat(vit(), [])


def test_what_stays_in_float() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x + 3).sqrt() * x

    model = prepare_qat(Odd(), [images()])
    with pytest.raises(DiagnosticException, match="operations stay in float"):
        model(images())


def test_other_bits_of_a_scheme() -> None:
    narrow = at_bits(SCHEMES["best"], 4, 5)
    assert narrow.quantization.weights.bits == 4
    assert {q.bits for q in narrow.quantization.roles.values()} == {5, 8, 16}
    assert replace(narrow, quantization=SCHEMES["best"].quantization) == SCHEMES["best"]


def test_shapes_of_codes() -> None:
    model = prepared()
    _, codes = model.integers([images().numpy()])
    for i, quantizer in enumerate(model.template.quantizers):
        assert codes[code_name(i)].size == np.prod(shape_of(quantizer.result))


class NormedAttention(nn.Module):
    """Q-ViT's: queries and keys are normalised over the head before they are quantized."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.qkv, self.proj = nn.LayerNorm(24), nn.Linear(24, 72), nn.Linear(24, 10)
        self.q_norm, self.k_norm = nn.LayerNorm(12), nn.LayerNorm(12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).reshape(-1, 7, 3, 2, 12).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.proj(attended.transpose(1, 2).reshape(-1, 7, 24)).mean(1)


@pytest.mark.parametrize(("scheme", "bits"), [("best", 8), ("lin-shah", 3), ("i-vit", 8)])
def test_normed_queries_and_keys(scheme: str, bits: int) -> None:
    x = torch.randn(4, 7, 24, generator=torch.Generator().manual_seed(1))
    model = prepare_qat(NormedAttention(), [x], scheme, weights=bits, activations=bits)
    optimizer = torch.optim.AdamW(model.parameter_groups(1e-2, 0.05))
    for _ in range(2):
        F.cross_entropy(model.train()(x), torch.arange(4)).backward()
        optimizer.step()
    module = convert(model.eval())
    (deployed,) = run_model(module, [x.numpy()]).values()
    np.testing.assert_array_equal(model(x).detach().numpy(), deployed.astype(np.float32))
    codes = run(module, [x.numpy()], function=QUANTIZE_INPUTS)
    (by_c,) = load(module)(*codes.values())
    np.testing.assert_array_equal(by_c, model.integers([x.numpy()])[1][model.template.outputs[0]])


@pytest.mark.parametrize(("scheme", "bits", "tensors"), [("best", 4, 2), ("lin-shah", 3, 3), ("i-vit", 8, 3)])
def test_scales_of_heads(scheme: str, bits: int, tensors: int) -> None:
    """One for each of two heads of queries and keys (and values), learned apart, and deployed bit for bit."""
    model = prepared(scheme, bits, per_head=True, learn=True)
    heads = [step for step in model.template.steps if step.learned == (2,)]
    assert len(heads) == tensors
    before = [model.scale(step).detach().clone() for step in heads]
    steps(model, 3)
    for step, first in zip(heads, before, strict=True):
        now = model.scale(step).detach()
        assert len(now.unique()) == 2
        ratios = (now / first).unique()
        assert len(ratios) >= 2  # rounding may add some
    module, x = convert(model.eval()), images(seed=3).numpy()
    (deployed,) = run_model(module, [x]).values()
    np.testing.assert_array_equal(model(torch.from_numpy(x)).detach().numpy(), deployed.astype(np.float32))
    codes = run(module, [x], function=QUANTIZE_INPUTS)
    (by_c,) = load(module)(*codes.values())
    np.testing.assert_array_equal(by_c, model.integers([x])[1][model.template.outputs[0]])
