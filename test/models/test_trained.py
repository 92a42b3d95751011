"""The models that were trained on integers, from their stored weights: what they predict, in training and in C."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fashion_mnist import qat
from multiplication import data, evaluate
from torch import Tensor

from qvit.tools.qat import prepare_qat
from qvit.tools.qat.model import QuantizedModel

EXAMPLES = Path(__file__).parents[2] / "examples"
IMAGES = np.load(EXAMPLES / "fashion_mnist/test_images.npz")
X = torch.from_numpy((IMAGES["images"][:, None].astype(np.float32) / 255 - 0.5) / 0.5)
LABELS = torch.from_numpy(IMAGES["labels"].astype(np.int64))


def restored(bits: int, learn_widths: bool) -> QuantizedModel:
    """Samples do not matter: scales and zero points are stored."""
    options = {"weights": bits, "activations": bits, "learn_widths": learn_widths}
    model = prepare_qat(qat.float_model(), [X[:100]], qat.RECIPES[bits].scheme, **options)
    model.restore(EXAMPLES / f"fashion_mnist/qat_{bits}{'_widths' if learn_widths else ''}.safetensors")
    return model.eval()


@pytest.mark.parametrize(
    ("bits", "learn_widths", "right"), [(8, False, 279), (4, False, 280), (3, False, 279), (4, True, 279)]
)
def test_images(bits: int, learn_widths: bool, right: int) -> None:
    """How many of 300 test images are right, and the integers of C at the logits."""
    model = restored(bits, learn_widths)
    integers, reals = qat.compiled_logits(model, X)
    np.testing.assert_array_equal(qat.trained_integers(model, X), integers)
    logits = qat.predict(model, X)
    np.testing.assert_array_equal(logits.numpy(), reals.astype(np.float32))
    assert int((logits.argmax(1) == LABELS).sum()) == right


def test_widths_of_heads() -> None:
    """Within the budget, and of several kinds."""
    model = restored(4, True)
    assert model.bit_operations().item() <= 0.735
    assert {bits for _, heads in model.head_widths() for bits in heads} == {2, 3, 4}


@pytest.fixture(scope="module")
def decoder() -> QuantizedModel:
    model = prepare_qat(evaluate.float_model(), [evaluate.batch(0, 64)[0]], "best")
    model.restore(EXAMPLES / "multiplication/decoder_8.safetensors")
    return model.eval()


def test_multiplication(decoder: QuantizedModel) -> None:
    """Problems that were never trained on, each digit behind the right ones and behind the model's own."""
    tokens, answers = evaluate.batch(5, 500, testing=True)
    in_c = evaluate.in_c(decoder)
    with torch.inference_mode():
        trained = decoder(tokens)
    np.testing.assert_array_equal(in_c(tokens).numpy().astype(np.float32), trained.numpy())
    assert (trained.argmax(-1) == answers).all()
    assert torch.equal(evaluate.greedy(in_c, tokens), answers)


def test_multiplication_in_float() -> None:
    tokens, answers = evaluate.batch(5, 500, testing=True)
    assert (evaluate.float_model()(tokens).argmax(-1) == answers).all()


def test_no_digit_is_seen_before_it_is_written(decoder: QuantizedModel) -> None:
    tokens, _ = evaluate.batch(6, 64, testing=True)
    other = tokens.clone()
    other[:, data.PROMPT + 2 :] = 9 - other[:, data.PROMPT + 2 :]
    with torch.inference_mode():
        first, second = decoder(tokens), decoder(other)
    assert torch.equal(first[:, :3], second[:, :3])
    assert not torch.equal(first, second)


# --- the data of the multiplication ---


def test_problems() -> None:
    a, b = np.array([12345, 99999, 0]), np.array([9, 9, 7])
    tokens, answers = data.encode(a, b)
    assert tokens[0].tolist() == [1, 2, 3, 4, 5, 10, 9, 11, 5, 0, 1, 1, 1]  # 111105, its last digit first
    assert answers[0].tolist() == [5, 0, 1, 1, 1, 1]
    assert (answers * 10 ** np.arange(6)).sum(1).tolist() == (a * b).tolist()


def test_test_problems_are_held_out() -> None:
    rng = np.random.default_rng(0)
    train, test = data.draw(rng, 5000, False), data.draw(rng, 5000, True)
    assert not set(zip(*(x.tolist() for x in train), strict=True)) & set(zip(*(x.tolist() for x in test), strict=True))
    every = np.arange(10**6)
    assert 0.095 < data.held_out(every // 10, every % 10).mean() < 0.105


def test_subtasks() -> None:
    """Of 20005 x 9 = 180045: 45, then 0 + 4, 0, 0, 18, 0 + 1; and of 11999 x 9 = 107991, where carries cascade."""
    parts = data.subtasks(np.array([20005, 11999]), np.array([9, 9]))
    names = [[name for name, mask in parts.items() if mask[row, i]] for row in range(2) for i in range(6)]
    assert names[:6] == [["BM"], ["CA"], ["BM"], ["BM"], ["BM"], ["CA"]]
    # 81; 81 + 8; 81 + 8; 9 + 8; 9 + 1: the carry into the digit of 10^4 is 1 for 9 + 8, not 0 as of 9 alone
    assert names[6:] == [["BM"], ["UC"], ["UC"], ["UC"], ["UCFC"], ["CA"]]
    assert all(len(found) == 1 for found in names)


def test_tensors_are_small() -> None:
    assert isinstance(X, Tensor)
    for path in (*EXAMPLES.glob("fashion_mnist/qat_*"), *EXAMPLES.glob("multiplication/*.safetensors")):
        assert path.stat().st_size < 2 << 20, path
