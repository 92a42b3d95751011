"""The demo's model, a real ViT quantized by ONNX Runtime: read, rewritten, run, against ONNX Runtime."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from model_trace import trace
from xdsl.dialects.builtin import ModuleOp

from qvit.backends.interpreter import run
from qvit.frontends.onnx import import_onnx, load_onnx
from qvit.transforms.delay_dequant import delay_dequant
from qvit.transforms.statistics import macs_integer, macs_total

FOLDER = Path(__file__).parents[2] / "examples/fashion_mnist"
BATCH = 50


def read(name: str, batch: int = BATCH) -> ModuleOp:
    return import_onnx(load_onnx(FOLDER / name), (), {"batch": batch})[0]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.load(FOLDER / "test_images.npz")["images"]


def normalized(images: np.ndarray) -> np.ndarray:
    return (images[:, None].astype(np.float32) / 255 - 0.5) / 0.5


def test_the_float_model_computes_what_onnxruntime_does(images: np.ndarray) -> None:
    batch = normalized(images[:BATCH])
    (theirs,) = onnxruntime.InferenceSession(FOLDER / "vit.onnx").run(None, {"image": batch})
    ours = run(read("vit.onnx"), [batch])["logits"]
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_all_products_move_and_every_code_stays(images: np.ndarray) -> None:
    module = read("vit_int8.onnx")
    batch = normalized(images[:BATCH])
    logits, codes = trace(module, batch)
    report = delay_dequant(module)
    module.verify()
    assert macs_integer(module) == macs_total(module) == report.macs_total > 0
    moved_logits, moved = trace(module, batch)
    assert len(codes) > 50
    for name, array in codes.items():
        np.testing.assert_array_equal(array, moved[name], err_msg=name)
    np.testing.assert_allclose(moved_logits, logits, rtol=1e-12)
    # what is left is said: the class token, a float constant, is concatenated with the patches
    assert [(b.src, b.rule) for b in report.blocked] == [("/Concat_2", "concat-of-dequantize")]


def test_predictions_on_real_images(images: np.ndarray) -> None:
    labels = np.load(FOLDER / "test_images.npz")["labels"]
    module = read("vit_int8.onnx", len(images))
    delay_dequant(module)
    ours = run(module, [normalized(images)])["logits"].argmax(axis=1)
    session = onnxruntime.InferenceSession(FOLDER / "vit_int8.onnx")
    theirs = session.run(None, {"image": normalized(images)})[0].argmax(axis=1)
    assert (ours == labels).mean() > 0.9
    assert (ours == theirs).mean() > 0.98  # int8 is chaotic: float32 and float64 differ near the decision
