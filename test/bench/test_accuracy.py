"""What the accuracy benchmark is made of: scores of known results, files of others, both ways to run a model."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import accuracy
import evaluation
import models
import numpy as np
import onnx
import onnxruntime
import peers
import pytest
from evaluation import SALIENCY, TOKENS, Score

from qvit.frontends.onnx import import_onnx, load_onnx

DIGITS = Path(__file__).parents[2] / "examples/digits"


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return evaluation.digits.data.normalize(np.load(DIGITS / "test_images.npz")["images"])


# --- scores ----------------------------------------------------------------------------------------------------------


def test_top_1() -> None:
    labels = np.array([0, 1, 1, 0])
    right = np.eye(2)[labels]
    theirs, ours = {"logits": right.copy()}, {"logits": right.copy()}
    theirs["logits"][0] = [0, 1]  # wrong in one, ours in two others
    ours["logits"][[1, 3]] = [[1, 0], [0, 1]]
    assert evaluation.top_1(labels, ours, theirs) == [Score("top-1 %", 50.0, 75.0, 0.25)]


def test_likeness() -> None:
    tokens = np.array([[[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [0.0, 1.0]]])  # two photos of two tokens
    turned = tokens.copy()
    turned[1, 0] = [0.0, 5.0]  # a right angle: the mean of that photo is half
    reference = {TOKENS: tokens, SALIENCY: np.zeros((2, 1, 2, 2))}
    results = {TOKENS: turned, SALIENCY: np.array([0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5]).reshape(2, 1, 2, 2)}
    assert evaluation.likeness(results, reference) == [
        Score("token cosine mean", 0.75, 1.0),
        Score("token cosine worst", 0.5, 1.0),
        Score("saliency MAE", 0.125, 0.0),
    ]


def test_the_probe_is_at_its_minimum() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(3.0, [0.1, 1.0, 10.0], (40, 3))
    y = (x[:, 1] + rng.normal(size=40) > 3).astype(int)
    assert 0 < y.sum() < 40
    weights = evaluation.logistic(x, y)
    deviation = x.std(axis=0)
    error = 1 / (1 + np.exp(-(x @ weights[:-1] + weights[-1]))) - y
    standardized = (x - x.mean(axis=0)) / deviation
    # where the gradient vanishes, the penalty being on the weights of the standardized features
    np.testing.assert_allclose(standardized.T @ error, -weights[:-1] * deviation, atol=1e-9)
    np.testing.assert_allclose(error.sum(), 0, atol=1e-9)


def test_probed() -> None:
    first = np.array([1.0, -1.0, 1.0, -1.0])
    rest = np.array([0.0, 0.0, 3.0, 0.0])
    tokens = np.stack([first, rest, rest], axis=1)[..., None]
    turned = np.stack([first, -rest, -rest], axis=1)[..., None]
    # log-odds: the class token's feature and the mean of the others, so 1, -1, 4, -1 against 1, -1, -2, -1
    weights, labels = np.array([1.0, 1.0, 0.0]), np.array([1, 0, 1, 1])
    assert evaluation.probed(weights, labels, {TOKENS: turned}, {TOKENS: tokens}) == [
        Score("lfw probe %", 50.0, 75.0, 0.75),
        Score("lfw log-odds error", 3 / np.std([1, -1, 4, -1]), 0.0),
    ]


def test_token_error_ratio() -> None:
    rows = [accuracy.Row("vits", "ort", "8/8", accuracy.COSINE, 0.75, 1.0, None)]
    scores = [Score(accuracy.COSINE, 0.875, 1.0), Score("saliency MAE", 0.5, 0.0)]
    assert accuracy.token_error_ratio(scores, rows, "vits") == [Score(accuracy.RATIO, 0.5, 0.0)]
    assert accuracy.token_error_ratio(scores, [], "vits") == []


# --- running ---------------------------------------------------------------------------------------------------------


def test_the_last_batch_is_filled_up() -> None:
    shapes = []

    def double(batch: np.ndarray) -> dict[str, np.ndarray]:
        shapes.append(batch.shape)
        return {"twice": 2 * batch}

    numbers = np.arange(14).reshape(7, 2)
    np.testing.assert_array_equal(peers.predict_batches(double, numbers, 3)["twice"], 2 * numbers)
    assert shapes == 3 * [(3, 2)]


def test_interpreter_and_onnxruntime_predict_alike(images: np.ndarray) -> None:
    module, _ = import_onnx(load_onnx(DIGITS / "vit.onnx"), (), {"batch": 20})
    ours = accuracy.predict(module, images[:50])["logits"]
    theirs = peers.predictor(DIGITS / "vit.onnx", ["logits"], 20)(images[:50])["logits"]
    assert ours.shape == (50, 10)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


# --- other people's files --------------------------------------------------------------------------------------------


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_peers_are_made_once_from_the_same_images(images: np.ndarray, tmp_path: Path) -> None:
    model = DIGITS / "vit.onnx"
    made = {name: peers.quantized(name, model, images[:64], 32, tmp_path) for name in ("ort", "ort-float-softmax")}
    counts = {name: operators(path) for name, path in made.items()}
    # the quantizers behind the three softmaxes, and nothing else
    assert counts["ort"] - counts["ort-float-softmax"] == Counter(QuantizeLinear=3, DequantizeLinear=3)
    for path in made.values():
        predicted = peers.predictor(path, ["logits"], 100)(images)["logits"].argmax(axis=1)
        floats = peers.predictor(model, ["logits"], 100)(images)["logits"].argmax(axis=1)
        assert (predicted == floats).mean() > 0.98

    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.onnx")}
    assert peers.quantized("ort", model, images[:64], 32, tmp_path) == made["ort"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.onnx")} == times
    assert peers.quantized("ort", model, images[1:65], 32, tmp_path) != made["ort"]
    assert peers.quantized("float", model, images[:64], 32, tmp_path) == model


def test_a_model_without_softmax_is_refused(images: np.ndarray, tmp_path: Path) -> None:
    graph = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[n, 1, 28, 28] image) => (float[n, 1, 28, 28] y)'
        "{ y = Relu (image) }"
    )
    onnx.save(graph, tmp_path / "relu.onnx")
    onnxruntime.InferenceSession(tmp_path / "relu.onnx")
    with pytest.raises(models.Unavailable, match="output of no Softmax"):
        peers.quantized("ort-float-softmax", tmp_path / "relu.onnx", images[:4], 1, tmp_path / "cache")
    assert not list(tmp_path.glob("cache/peers/*.onnx"))


# --- the whole -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.xdist_group("vits")
def test_the_real_vit(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    command = [sys.executable, accuracy.__file__, "--models", "vits", "--schemes", "ort-float-softmax,float,ort"]
    done = subprocess.run([*command, "--images", "2", "--json", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())
    assert len(done.stdout.splitlines()) == len(rows) + 1
    values = {(row["scheme"], row["metric"]): row["value"] for row in rows}
    assert all(row["value"] == pytest.approx(row["float_value"]) for row in rows if row["scheme"] == "float")
    assert 0.95 < values["ort", accuracy.COSINE] < values["ort-float-softmax", accuracy.COSINE] < 1
    assert values["ort-float-softmax", accuracy.RATIO] < values["ort", accuracy.RATIO] == 1
    assert values["ort-float-softmax", "lfw probe %"] == 100
