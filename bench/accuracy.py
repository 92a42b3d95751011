"""What each way to integers keeps of three real vision transformers, beside float and what other quantizers make.

    python bench/accuracy.py [--models fashion,digits,vits] [--schemes ort,best,...] [--images N] [--json FILE]

One row for each model, scheme and metric; what is measured is in bench/evaluation.py, the other quantizers in
bench/peers.py. All are calibrated on the same images and tested on the same images in one run. A row is printed when it
is known and FILE is written after each scheme, so nothing is lost when the run is interrupted; quantized files of
others are kept. "token error / ort" is the sum of 1 - token cosine over that of `ort`.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported

import argparse
import json
import logging
import resource
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import models
import numpy as np
import onnx.utils
from evaluation import SALIENCY, TASKS, TOKENS, Score, Task
from peers import PEERS, Predict, predict_batches, predictor, quantized
from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.exceptions import DiagnosticException

from qvit.backends.interpreter import find_function, find_stages, input_names, run_model
from qvit.dialects.types import shape_of
from qvit.frontends.onnx import import_onnx, load_onnx
from qvit.tools.compiler import compile_model
from qvit.tools.progress import progress
from qvit.transforms.pipelines import SCHEMES

BITS = {"fq-vit": "8/8/4", "p2-vit": "8/8/4", "p2-vit-mixed": "4/8/4", "lin-shah": "3/3"}
"""Weights/activations, /attention where it differs; 8/8 for the others."""
PUBLISHED = "-published"
OURS = [*SCHEMES, *(name + PUBLISHED for name, scheme in SCHEMES.items() if scheme.published)]
"""Our schemes, also with functions as the papers print them, whether their conditions hold or not."""
SLOW = ("fq-vit" + PUBLISHED,)
"""Only where asked for by name: the published normalisation finds mantissas with integers of any size, 0.5 s an image."""

COSINE, RATIO = "token cosine mean", "token error / ort"


@dataclass(frozen=True)
class Row:
    model: str
    scheme: str
    bits: str
    metric: str
    value: float
    float_value: float
    agreement: float | None


# --- our schemes -----------------------------------------------------------------------------------------------------


def integer_module(
    model: Path, calibration: np.ndarray, scheme: str, batch: int, outputs: Sequence[str] = ()
) -> ModuleOp:
    """A float ONNX model as integers, calibrated on images [N, C, H, W]; for inputs [batch, C, H, W].

    outputs: tensors to end at instead of the model's own outputs. The module has @quantize_inputs, @main and
    @dequantize_outputs. Unavailable if the scheme cannot be had for this model.
    """
    module, _ = import_onnx(load_onnx(model), outputs, {"batch": batch} if batch > 1 else {})
    (name,) = input_names(find_function(module))
    filled = np.concatenate(
        [calibration, calibration[: -len(calibration) % batch]]
    )  # the last batch, from the first images
    samples = [{name: images} for images in filled.reshape(-1, batch, *calibration.shape[1:])]
    published = scheme.endswith(PUBLISHED)
    kind = SCHEMES[scheme.removesuffix(PUBLISHED)]
    try:
        return compile_model(module, samples, kind, published=published, unchecked=published).module
    except DiagnosticException as error:
        raise models.Unavailable(f"scheme {scheme}: {error}") from error


def with_decoder(predict: Predict, cache: Path) -> Predict:
    """The saliency too: what follows the tokens is convolutions for another purpose, and stays in float."""
    decoder = cache / "vits-decoder.onnx"
    if not decoder.exists():
        folded = models.make(["vits-static"], cache)["vits-static"]  # without sizes that are read from the input
        with models.replacing(decoder) as temporary:
            onnx.utils.extract_model(str(folded), str(temporary), [TOKENS], [SALIENCY])
    saliency = predictor(decoder, [SALIENCY], 1)

    def both(images: np.ndarray) -> dict[str, np.ndarray]:
        results = predict(images)
        return results | saliency(results[TOKENS].astype(np.float32))

    return both


def predict(module: ModuleOp, images: np.ndarray) -> dict[str, np.ndarray]:
    """Run a module in the interpreter, batch by batch: images [N, C, H, W] -> its results by name, each [N, ...].

    A function that is promised to be free of floats runs on integers alone.
    """
    size = shape_of(find_stages(module)[0].args[0])[0]

    def of_batch(batch: np.ndarray) -> dict[str, np.ndarray]:
        results = run_model(module, [batch])
        step.done += size
        return results

    with progress("interpreting", total=len(images)) as step:
        return predict_batches(of_batch, images, size)


# --- the benchmark ---------------------------------------------------------------------------------------------------


def cpu_seconds() -> float:
    """Of this process and of those it has waited for."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def prepare(task: Task, scheme: str, cache: Path) -> Predict:
    """What the scheme makes of the task's model, ready to run."""
    if scheme in PEERS:
        path = quantized(scheme, task.model, task.calibration, task.calibration_batch, cache)
        return predictor(path, task.outputs, task.batch)
    outputs = [name for name in task.outputs if name != SALIENCY]
    module = integer_module(task.model, task.calibration, scheme, task.batch, outputs)
    run_all = partial(predict, module)
    return with_decoder(run_all, cache) if SALIENCY in task.outputs else run_all


def measure(task: Task, scheme: str, cache: Path) -> dict[str, np.ndarray]:
    """The scheme's results on all test images of the task; says on stderr what it took."""
    start = cpu_seconds()
    predictions = prepare(task, scheme, cache)
    ready = cpu_seconds()
    results = predictions(task.images)
    models.say(
        f"{task.name}, {scheme}: {ready - start:.1f} CPU s to prepare, "
        f"{cpu_seconds() - ready:.1f} CPU s for {len(task.images):,} images of {task.images.shape[-1]} x "
        f"{task.images.shape[-2]}"
    )
    return results


def token_error_ratio(scores: Iterable[Score], rows: Iterable[Row], name: str) -> list[Score]:
    """The token error over that of `ort` on the same photos, where both are known."""
    ort = [row for row in rows if (row.model, row.scheme, row.metric) == (name, "ort", COSINE)]
    return [Score(RATIO, (1 - s.value) / (1 - row.value), 0.0) for s in scores if s.metric == COSINE for row in ort]


def show(row: Row) -> None:
    agreement = "-" if row.agreement is None else f"{row.agreement:.2%}"
    print(
        f"{row.model:<9}{row.scheme:<19}{row.bits:<8}{row.metric:<20}{row.value:>9.4f}{row.float_value:>13.4f}"
        f"{agreement:>11}",
        flush=True,
    )


def write_json(rows: Iterable[Row], path: Path) -> None:
    with models.replacing(path) as temporary:
        temporary.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


def names(known: Iterable[str], what: str, text: str) -> list[str]:
    """A comma-separated choice among known names; ArgumentTypeError for another."""
    chosen = [name for name in text.split(",") if name]
    if unknown := [name for name in chosen if name not in known]:
        raise argparse.ArgumentTypeError(f"no such {what}: {', '.join(unknown)} (there are {', '.join(known)})")
    return chosen


def count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, found {number}")
    return number


def main() -> None:
    schemes = [*PEERS, *OURS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=partial(names, list(TASKS), "model"), default=list(TASKS), metavar="NAME,...")
    usual = [scheme for scheme in schemes if scheme not in SLOW]
    parser.add_argument("--schemes", type=partial(names, schemes, "scheme"), default=usual, metavar="NAME,...")
    parser.add_argument("--images", type=count, metavar="N", help="test on at most so many images of each model")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--cache", type=Path, metavar="DIR", default=models.default_cache())
    args = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)  # ONNX Runtime's quantizer logs hints at every model
    chosen = [scheme for scheme in schemes if scheme in args.schemes]  # `ort` before what is compared with it
    rows: list[Row] = []
    failed = False
    print("model    scheme             bits    metric                  value  float_value  agreement")
    try:
        for task in (make(args.images, args.cache) for name in args.models for make in TASKS[name]):
            reference = measure(task, "float", args.cache)
            for scheme in chosen:
                try:
                    results = reference if scheme == "float" else measure(task, scheme, args.cache)
                except models.Unavailable as error:
                    models.say(f"error: {error}")
                    failed = True
                    continue
                scores = task.score(results, reference)
                bits = PEERS[scheme].bits if scheme in PEERS else BITS.get(scheme.removesuffix(PUBLISHED), "8/8")
                new = [Row(task.name, scheme, bits, **asdict(score)) for score in scores]
                new += [
                    Row(task.name, scheme, bits, **asdict(score))
                    for score in token_error_ratio(scores, [*rows, *new], task.name)
                ]
                rows += new
                for row in new:
                    show(row)
                if args.json:
                    write_json(rows, args.json)
    except models.Unavailable as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        models.say("interrupted; what is printed above is complete")
        sys.exit(130)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
