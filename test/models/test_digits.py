"""The other small ViT: mean pooling, no class token, heads of 16; float, against ONNX Runtime."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from xdsl.dialects.builtin import ModuleOp

from qvit.backends.interpreter import run
from qvit.dialects.ops.nonlinear import ReduceMeanOp, SoftmaxOp
from qvit.dialects.types import shape_of
from qvit.frontends.onnx import import_onnx, load_onnx

FOLDER = Path(__file__).parents[2] / "examples/digits"
BATCH = 100


@pytest.fixture(scope="module")
def module() -> ModuleOp:
    module, declined = import_onnx(load_onnx(FOLDER / "vit.onnx"), (), {"batch": BATCH})
    assert not declined
    return module


@pytest.fixture(scope="module")
def tests() -> tuple[np.ndarray, np.ndarray]:
    """(images as the model takes them, labels)"""
    stored = np.load(FOLDER / "test_images.npz")
    return (stored["images"][:, None].astype(np.float32) / 255 - 0.5) / 0.5, stored["labels"]


def test_its_shape_is_another(module: ModuleOp) -> None:
    attention = [shape_of(op.result) for op in module.walk() if isinstance(op, SoftmaxOp)]
    assert attention == 3 * [(BATCH, 4, 49, 49)]
    assert [shape_of(op.result) for op in module.walk() if isinstance(op, ReduceMeanOp)] == [(BATCH, 64)]


def test_it_computes_what_onnxruntime_does(module: ModuleOp, tests: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = tests
    assert len(images) == 300
    assert np.bincount(labels, minlength=10).min() > 20
    session = onnxruntime.InferenceSession(FOLDER / "vit.onnx")
    ours = []
    for batch in np.split(images, 3):
        (theirs,) = session.run(None, {"image": batch})
        ours.append(run(module, [batch])["logits"])
        np.testing.assert_allclose(ours[-1], theirs, atol=1e-4)
    assert (np.concatenate(ours).argmax(axis=1) == labels).mean() > 0.95
