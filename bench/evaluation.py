"""What the accuracy benchmark measures: models, images to calibrate on, images to test on, and how results are scored.

    fashion   examples/fashion_mnist: the 10,000 test images; calibrated on the first 512 training images
    digits    examples/digits: its 2,000 test images; calibrated on the first 512 training images
    vits      the real ViT-S of bench/models.py, calibrated on its four photos: final tokens and saliency of 16 other
              photos against float, and a linear probe on its features of 100 labelled crops (face or not) at 112 x 112

Every score compares with what the float model gave on the same images; see Score.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import models
import numpy as np
from peers import predictor
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.append(str(EXAMPLES))

import digits.data  # noqa: E402
import fashion_mnist.data  # noqa: E402

Results = dict[str, np.ndarray]

CALIBRATION_IMAGES = 512
CALIBRATION_BATCH = 64
TEST_BATCH = 100
TOKENS = "/backbone/layernorm/Add_1_output_0"  # [1, tokens, 384], class token first
SALIENCY = "output_importance"  # [1, 1, 224, 224], 0..1
CROPS = "skimage/data/lfw_subset.npy"
CROP_SIZE = 112


@dataclass(frozen=True)
class Score:
    """`value` of a scheme beside that of float; `agreement` is the share of predictions equal to float's, if any."""

    metric: str
    value: float
    float_value: float
    agreement: float | None = None


@dataclass(frozen=True)
class Task:
    """A float model and what is asked of it.

    calibration, images: float32 [N, C, H, W], model inputs; calibration_batch divides the number of the first; outputs:
    names of tensors that `score(results, float_results)` takes, arrays [N, ...] of all `images`.
    """

    name: str
    model: Path
    calibration: np.ndarray
    calibration_batch: int
    images: np.ndarray
    batch: int
    outputs: tuple[str, ...]
    score: Callable[[Results, Results], list[Score]]


# --- labelled images -------------------------------------------------------------------------------------------------


def fetched(example: ModuleType, cache: Path) -> Path:
    """The folder with an example's data, fetched by the example's own data.py if it is not there."""
    script = Path(str(example.__file__))
    folder = cache / script.parent.name
    if not folder.exists():
        models.say(f"fetching the images of examples/{folder.name}")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            complete = Path(scratch) / "data"
            command = [sys.executable, str(script), "--fetch", str(complete)]
            models.run(command, f"fetching the images of examples/{folder.name} into {folder} failed (see {script})")
            complete.rename(folder)
    return folder


def classification(name: str, example: ModuleType, test_split: str, limit: int | None, cache: Path) -> Task:
    """Top-1 of an example's ViT."""
    folder = fetched(example, cache)
    calibration, _ = example.load(folder, "train")
    images, labels = example.load(folder, test_split)
    return Task(
        name,
        EXAMPLES / folder.name / "vit.onnx",
        example.normalize(calibration[:CALIBRATION_IMAGES]),
        CALIBRATION_BATCH,
        example.normalize(images[:limit]),
        TEST_BATCH,
        ("logits",),
        partial(top_1, labels[:limit]),
    )


def top_1(labels: np.ndarray, results: Results, reference: Results) -> list[Score]:
    """Percent of the largest logits that are the label's."""
    ours, theirs = (r["logits"].argmax(axis=1) for r in (results, reference))
    return [Score("top-1 %", percent(ours == labels), percent(theirs == labels), float((ours == theirs).mean()))]


def percent(hits: np.ndarray) -> float:
    return 100 * float(hits.mean())


# --- photos ----------------------------------------------------------------------------------------------------------


def photos(limit: int | None, cache: Path) -> Task:
    """Final tokens and saliency of photos that nothing was calibrated on."""
    models.make(["vits-1x224"], cache)
    return Task(
        "vits",
        models.paths(cache)["vits-1x224"],
        models.calibration_photos(cache),
        1,
        np.concatenate([models.photo(name, cache=cache) for name in models.TEST_PHOTOS[:limit]]),
        1,
        (TOKENS, SALIENCY),
        likeness,
    )


def likeness(results: Results, reference: Results) -> list[Score]:
    """Cosine of a token with float's, mean over the tokens of a photo, then mean and worst of the photos; saliency."""
    ours, theirs = (r[TOKENS].astype(np.float64) for r in (results, reference))
    norms = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    cosines = ((ours * theirs).sum(axis=-1) / norms).mean(axis=-1)
    saliency = float(np.abs(results[SALIENCY].astype(np.float64) - reference[SALIENCY]).mean())
    return [
        Score("token cosine mean", float(cosines.mean()), 1.0),
        Score("token cosine worst", float(cosines.min()), 1.0),
        Score("saliency MAE", saliency, 0.0),
    ]


# --- the probe -------------------------------------------------------------------------------------------------------


def crops(cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """The 200 grey crops of scikit-image, 100 faces and 100 others in turn -> float32 [200, 3, 112, 112], 1 for a face."""
    stored = np.load(models.data_file(models.SKIMAGE, CROPS, cache))  # float64 [200, 25, 25] in 0..1, the faces first
    order = np.arange(200).reshape(2, 100).T.ravel()
    grey = np.rint(stored[order] * 255).astype(np.uint8)
    return np.concatenate([models.pixels(Image.fromarray(crop), CROP_SIZE) for crop in grey]), (order < 100).astype(int)


def features(results: Results) -> np.ndarray:
    """Class token and mean of the patch tokens, float64 [N, 768]."""
    tokens = results[TOKENS].astype(np.float64)
    return np.concatenate([tokens[:, 0], tokens[:, 1:].mean(axis=1)], axis=1)


def logistic(x: np.ndarray, y: np.ndarray, steps: int = 20) -> np.ndarray:
    """Logistic regression on standardized features: weights [F + 1], for [features, 1], that minimize
    sum log(1 + exp(-(2 y - 1) w x)) + |w|^2 / 2 (without the constant's weight), by Newton's method.

    x: [N, F]; y: [N], 0 or 1. Standardizing is folded into the weights.
    """
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    z = np.column_stack([(x - mean) / deviation, np.ones(len(x))])
    ridge = np.append(np.ones(x.shape[1]), 0.0)
    w = np.zeros(z.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-z @ w))
        hessian = (z.T * (p * (1 - p))) @ z + np.diag(ridge)
        w -= np.linalg.solve(hessian, z.T @ (p - y) + ridge * w)
    scaled = w[:-1] / deviation
    return np.append(scaled, w[-1] - scaled @ mean)


def probe(limit: int | None, cache: Path) -> Task:
    """Faces against other crops by a linear probe that was fitted to float features of the first half of the crops."""
    models.make(["vits-1x112"], cache)
    model = models.paths(cache)["vits-1x112"]
    images, labels = crops(cache)
    half = len(images) // 2
    models.say(f"float features of {half} crops, for the probe")
    weights = logistic(features(predictor(model, [TOKENS], 1)(images[:half])), labels[:half])
    tested = slice(half, None if limit is None else half + limit)
    return Task(
        "vits",
        model,
        models.calibration_photos(cache, CROP_SIZE),
        1,
        images[tested],
        1,
        (TOKENS,),
        partial(probed, weights, labels[tested]),
    )


def probed(weights: np.ndarray, labels: np.ndarray, results: Results, reference: Results) -> list[Score]:
    """Percent of the crops that the probe tells right; and, as that saturates, how far its log-odds are from float's:
    the root of their mean squared difference, in standard deviations of float's."""
    ours, theirs = (features(r) @ weights[:-1] + weights[-1] for r in (results, reference))
    told, by_float = ours > 0, theirs > 0
    return [
        Score("lfw probe %", percent(told == labels), percent(by_float == labels), float((told == by_float).mean())),
        Score("lfw log-odds error", float(np.sqrt(((ours - theirs) ** 2).mean()) / theirs.std()), 0.0),
    ]


TASKS: dict[str, tuple[Callable[[int | None, Path], Task], ...]] = {
    "fashion": (partial(classification, "fashion", fashion_mnist.data, "t10k"),),
    "digits": (partial(classification, "digits", digits.data, "test"),),
    "vits": (photos, probe),
}
"""Model name -> functions (most images to test on, cache) -> Task."""
