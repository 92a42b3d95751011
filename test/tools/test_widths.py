"""Bits of heads that are learned: what they are worth, what they cost, and that what is trained is what is deployed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training import BATCH, images, prepared, steps, vit

from qvit.backends.c import load
from qvit.backends.interpreter import run, run_model
from qvit.backends.systolic.lowering.lower import lower
from qvit.backends.systolic.machine import load_machine
from qvit.backends.systolic.simulator import simulate
from qvit.backends.torch.fake_quant import fake_quantize
from qvit.dialects.functions import QUANTIZE_INPUTS
from qvit.dialects.ops.quantization import ThresholdOp
from qvit.tools.qat import convert, prepare_qat
from qvit.tools.qat.model import QuantizedModel
from qvit.tools.qat.template import Step, code_name

WAYS = [("best", 4), ("lin-shah", 3), ("lin-shah", 4), ("i-vit", 8), ("p2-vit", 4)]


def headed(model: QuantizedModel) -> list[Step]:
    return [step for step in model.template.steps if step.narrower is not None]


def with_widths(scheme: str = "best", bits: int = 4, seed: int = 0) -> QuantizedModel:
    """A model whose heads have random widths: each of a tensor another one."""
    model, rng = prepared(scheme, bits, learn=True, learn_widths=True), np.random.default_rng(seed)
    with torch.no_grad():
        for width in model.widths:
            width.copy_(torch.as_tensor(rng.choice(np.arange(2, bits + 1), len(width), replace=False)))
    return model


@pytest.mark.parametrize(("scheme", "bits"), WAYS)
def test_what_is_trained_is_deployed(scheme: str, bits: int) -> None:
    """By the interpreter, C and the systolic array, after steps that change every scale that is used."""
    model = with_widths(scheme, bits)
    before = [model.scale(step).detach().clone() for step in headed(model)]
    steps(model, 3, rate=2e-3)
    moved = [(model.scale(step) != old).any() for step, old in zip(headed(model), before, strict=True)]
    assert all(moved) or scheme == "p2-vit"  # whose scales move by octaves
    module, x = convert(model.eval()), images(seed=3).numpy()
    (deployed,) = run_model(module, [x]).values()
    np.testing.assert_array_equal(model(torch.from_numpy(x)).detach().numpy(), deployed.astype(np.float32))
    _, trained = model.integers([x])
    logits, inputs = trained[model.template.outputs[0]], list(run(module, [x], function=QUANTIZE_INPUTS).values())
    np.testing.assert_array_equal(load(module)(*inputs)[0], logits)
    program = lower(module, load_machine("small"))
    found = simulate(program, {port.name: array for port, array in zip(program.inputs, inputs, strict=True)})
    np.testing.assert_array_equal(next(iter(found.outputs.values())), logits)


@pytest.mark.parametrize(("scheme", "bits"), WAYS)
def test_codes_have_the_bits_of_their_head(scheme: str, bits: int) -> None:
    """Those of activations and of weights; each head has a code that takes all its bits."""
    model = with_widths(scheme, bits, seed=1)
    _, codes = model.integers([images(seed=3).numpy()])
    positions = {op: i for i, op in enumerate(model.template.quantizers)}
    values = {id(value.step): i for i, value in enumerate(model.template.values)}
    for step in headed(model):
        if step.weights:
            (heads,) = [model.codes(values[id(step)]).reshape(step.heads, -1).numpy()]
        else:
            array = codes[code_name(positions[step.clips[0]])]
            heads = np.moveaxis(array.reshape(*array.shape[:-1], step.heads, -1), -2, 0).reshape(step.heads, -1)
        for width, head in zip(model.width(step).tolist(), heads, strict=True):
            low, high = -(2 ** (width - 1)), 2 ** (width - 1) - 1
            assert low <= head.min()
            assert head.max() <= high
            assert head.min() < low / 2 or head.max() > high / 2 - 1


def test_lin_shah_has_comparators_alone() -> None:
    module = convert(with_widths("lin-shah", 3))
    names = [op.name for op in module.walk()]
    assert "qvit.clip" not in names
    assert any(isinstance(op, ThresholdOp) and op.axis is not None for op in module.walk())


def test_all_bits_need_no_bounds() -> None:
    model = prepared("best", 4, learn_widths=True)
    assert "qvit.clip" not in [op.name for op in convert(model).walk()]
    plain, x = prepared("best", 4, per_head=True), images(seed=3)
    with torch.inference_mode():
        assert torch.equal(model.eval()(x), plain.eval()(x))


# --- scales, one for each width ---


@pytest.mark.parametrize("bits", [2, 3])
def test_a_width_begins_with_its_scales(bits: int) -> None:
    """Those that the samples give for so many bits everywhere."""
    model, plain = prepared("best", 4, learn_widths=True), prepared("best", bits, per_head=True)
    with torch.no_grad():
        for width in model.widths:
            width.fill_(bits)
    for step, other in zip(model.template.steps, plain.template.steps, strict=True):
        if step.narrower is not None:
            np.testing.assert_array_equal(model.scale(step).detach(), plain.scale(other).detach())


class Shared(nn.Module):
    """A tensor that a product, a layer and a function take: with fewer bits for the product, the function's need none."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.qk, self.last = (
            nn.Linear(24, 24),
            nn.LayerNorm(24),
            nn.Linear(24, 48),
            nn.Linear(24, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        x = self.norm(x + torch.softmax(z @ z.transpose(1, 2), -1) @ F.gelu(z))
        q, k = self.qk(x).reshape(-1, 7, 2, 2, 12).permute(2, 0, 3, 1, 4)
        attended = torch.softmax(q @ k.transpose(-1, -2), -1) @ x.reshape(-1, 7, 2, 12).transpose(1, 2)
        return self.last(attended.transpose(1, 2).reshape(-1, 7, 24)).mean(1)


def test_other_bits_are_quantized_in_other_places() -> None:
    """Scales for narrower heads are still those of the same tensor: each of a width more is finer."""
    x = torch.randn(4, 7, 24, generator=torch.Generator().manual_seed(1))
    model = prepare_qat(Shared(), [x], "lin-shah", weights=6, activations=6, learn_widths=True)
    counts = {len(prepare_qat(Shared(), [x], "lin-shah", weights=6, activations=b).template.steps) for b in (2, 6)}
    assert len(counts) == 2
    assert len(headed(model)) == 4
    for step in headed(model):
        assert step.first.shape == (5, 24)
        assert (np.diff(step.first, axis=0) < 0).all()
        plain = prepare_qat(Shared(), [x], "lin-shah", weights=6, activations=6, per_head=True)
        assert any(np.array_equal(step.initial, other.initial) for other in plain.template.steps)


def test_a_step_trains_the_scales_in_use() -> None:
    model = with_widths()
    F.cross_entropy(model.train()(images()), torch.arange(BATCH)).backward()
    for step in headed(model):
        grad = model.steps[model.template.steps.index(step)].grad
        assert grad is not None
        for head, columns in enumerate(grad.tensor_split(step.heads, 1)):
            row = int(model.width(step)[head]) - 2
            assert columns[row].any()
            assert not columns[torch.arange(len(columns)) != row].any()


def test_equal_scales_are_heads_all_the_same() -> None:
    """Powers of two of neighbouring heads are often equal."""
    model = prepared("p2-vit", 4, per_head=True)
    assert [step.learned for step in model.template.steps if step.heads] == [(2,)] * 2


# --- gradients ---


def test_bounds_by_hand() -> None:
    """One value below, one inside and two above, of which one has a bound of its own."""
    x = torch.tensor([-9.0, 0.6, 7.7, 7.7])
    low, high = torch.tensor(-4.0, requires_grad=True), torch.tensor([3.0, 3.0, 3.0, 7.0], requires_grad=True)
    y = fake_quantize(x, torch.tensor([-4, 1, 3, 7]), torch.tensor(0.5), 0, low, high)
    assert y.tolist() == [-2.0, 0.5, 1.5, 3.5]
    y.backward(torch.tensor([1.0, 2.0, 4.0, 8.0]))
    assert low.grad is not None
    assert high.grad is not None
    assert low.grad.item() == 0.5
    assert high.grad.tolist() == [0.0, 0.0, 2.0, 4.0]


def test_bounds_are_of_codes() -> None:
    """-1.2 / 0.5 + 3 = 0.6 lies in 0..4, without the zero point it would not."""
    x, high = torch.tensor([-1.2, 1.2]), torch.tensor(4.0, requires_grad=True)
    low = torch.tensor(0.0, requires_grad=True)
    fake_quantize(x, torch.tensor([1, 4]), torch.tensor(0.5), 3, low, high).sum().backward()
    assert low.grad is not None
    assert high.grad is not None
    assert (low.grad.item(), high.grad.item()) == (0.0, 0.5)


def test_a_width_by_hand() -> None:
    """d low / d w = -2^(w - 1) log 2 and d high / d w = 2^(w - 1) log 2, of a width that is rounded."""
    model = prepared("best", 4, learn_widths=True)
    step = next(s for s in headed(model) if not s.weights)
    width = model.widths[headed(model).index(step)]
    with torch.no_grad():
        width.copy_(torch.tensor([2.6, 3.4]))
    assert model.width(step).tolist() == [3.0, 3.0]
    low, high = model._ends(step, 3)
    assert isinstance(low, torch.Tensor)
    assert isinstance(high, torch.Tensor)
    assert low.shape == high.shape == (1, 1, 24)
    (3 * high[..., :12].mean() - low[..., :12].mean()).backward()
    assert width.grad is not None
    np.testing.assert_allclose(width.grad.numpy(), [4 * 4 * np.log(2), 0], rtol=1e-6)


def test_widths_stay_between_their_ends() -> None:
    model = prepared("lin-shah", 3, learn_widths=True)
    with torch.no_grad():
        for width in model.widths:
            width.copy_(torch.tensor([-7.0, 9.0]))
    assert all(bits == [2, 3] for _, bits in model.head_widths())
    model.train()(images())
    assert all(width.tolist() == [2.0, 3.0] for width in model.widths)


# --- what they cost ---


def test_bit_operations_by_hand() -> None:
    """Of a ViT of 5 tokens: queries and keys of 2 x 12, each from 24 channels, and their product."""
    model = prepared("best", 4, learn_widths=True)
    assert model.bit_operations().item() == 1
    by_kind = {(step.weights, i): step for i, step in enumerate(headed(model))}
    bits = {key: torch.tensor([2.0, 4.0]) if key[0] else torch.tensor([3.0, 2.0]) for key in by_kind}
    with torch.no_grad():
        for key, step in by_kind.items():
            model.widths[headed(model).index(step)].copy_(bits[key])
    layers, scores = 2 * BATCH * 5 * 24 * 24, BATCH * 2 * 5 * 5 * 12
    found = layers * 4 * (2 + 4) / 2 + scores * (3 * 3 + 2 * 2) / 2
    np.testing.assert_allclose(model.bit_operations().item(), found / (16 * (layers + scores)), rtol=1e-6)


def test_a_price_makes_heads_narrower() -> None:
    model = prepared("best", 4, learn_widths=True)
    optimizer = torch.optim.AdamW(model.parameter_groups(0.0, 0.0, width_rate=0.2))
    for _ in range(20):
        optimizer.zero_grad()
        F.relu(model.train().bit_operations() - 0.7).backward()
        optimizer.step()
    assert 0.45 < model.bit_operations().item() <= 0.7


def test_without_learned_widths() -> None:
    model = prepared()
    assert model.bit_operations().item() == 1
    assert model.head_widths() == []


# --- on disk, and bad input ---


def test_checkpoints(tmp_path: Path) -> None:
    model = with_widths()
    steps(model, 2)
    model.save(tmp_path / "model.safetensors")
    other = prepared("best", 4, learn_widths=True)
    other.restore(tmp_path / "model.safetensors")
    assert other.head_widths() == model.head_widths()
    assert str(convert(model)) == str(convert(other))
    with pytest.raises(ValueError, match=r"prepare the model as it was for training"):
        prepared("best", 4, per_head=True).restore(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        (vit(), {"learn": False}, "learn=False leaves nothing"),
        (vit(), {"scheme": "i-vit"}, "pass learn=True"),
        (vit(), {"activations": 2, "weights": 8}, "more than 2 bits are needed"),
        (vit(), {"scheme": "fq-vit"}, "symmetric codes"),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.GELU(), nn.Linear(10, 10)), {}, "no head has a width"),
    ],
    ids=["learn", "i-vit", "bits", "codes", "heads"],
)
def test_refused(model: nn.Module, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        prepare_qat(model, [images()], **options, learn_widths=True)
