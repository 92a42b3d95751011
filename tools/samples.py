"""Sample inputs of a model: arrays from an .npz file, or the images of a folder, in batches as the model takes them."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, overload
from zipfile import BadZipFile, ZipFile

import numpy as np
from xdsl.dialects.builtin import ModuleOp

from qvit.backends.interpreter import ExecutionError, find_stages, input_names
from qvit.dialects.semantics.integers import Array
from qvit.dialects.types import shape_of

if TYPE_CHECKING:
    from PIL.Image import Image

Shape: TypeAlias = tuple[int, ...]

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MODES = {1: "L", 3: "RGB"}
"""Pillow's name of images with so many channels."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of the channels of ImageNet's photos, by which most vision transformers are trained."""


class BadSamples(ExecutionError):
    """Samples that do not fit the model, or cannot be read; the message names the file or array."""


def _unchanged(array: Array) -> Array:
    return array


@dataclass(frozen=True)
class Samples(Sequence[Mapping[str, Array]]):
    """Batches of a model's inputs by name.

    arrays: all samples of each input along the first axis; batches: how many of them it takes at once; note: what they are,
    for people; prepare: from stored samples to the model's numbers. What does not fill the last batch is filled up with the
    first samples: to ranges that is nothing, and no sample is lost.
    """

    arrays: Mapping[str, Array]
    batches: Mapping[str, int]
    note: str
    prepare: Callable[[Array], Array] = field(default=_unchanged, repr=False)

    @property
    def total(self) -> int:
        """Samples, of the input that has most."""
        return max(map(len, self.arrays.values()))

    def __len__(self) -> int:
        return max(-(-len(self.arrays[name]) // size) for name, size in self.batches.items())

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Array]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Mapping[str, Array]]: ...
    def __getitem__(self, index: int | slice) -> Mapping[str, Array] | Sequence[Mapping[str, Array]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        found: dict[str, Array] = {}
        for name, size in self.batches.items():
            array = self.arrays[name]
            found[name] = self.prepare(array[np.arange(index * size, (index + 1) * size) % len(array)])
        return found

    @property
    def digest(self) -> str:
        """SHA-256 of the samples and of what is done to them."""
        total = hashlib.sha256(self.note.encode())
        for name, array in self.arrays.items():
            total.update(f"{name} {array.dtype} {array.shape} {self.batches[name]}".encode())
            total.update(np.ascontiguousarray(array).tobytes())
        return total.hexdigest()


def input_shapes(module: ModuleOp) -> dict[str, Shape]:
    """The shapes of the model's inputs by name."""
    first = find_stages(module)[0]
    return dict(zip(input_names(first), map(shape_of, first.args), strict=True))


# --- arrays ---


def npz_samples(path: Path, shapes: Mapping[str, Shape], limit: int | None = None) -> Samples:
    """An .npz file with one array for each input, samples along the first axis; `limit`: the first so many of them."""
    try:
        with ZipFile(path), np.load(path, allow_pickle=False) as file:
            arrays: dict[str, Array] = {name: file[name] for name in file.files}
    except (ValueError, EOFError, BadZipFile) as error:
        raise BadSamples(f"--calibrate: {path} is not an .npz file of arrays: {error}") from error
    if set(arrays) != set(shapes):
        known, found = ", ".join(shapes), ", ".join(arrays) or "nothing"
        raise BadSamples(f"--calibrate: {path} holds {found}, expected one array for each input: {known}")
    for name, shape in shapes.items():
        _require_array(name, arrays[name], shape)
    arrays = {name: arrays[name][:limit] for name in shapes}
    batches = {name: shape[0] for name, shape in shapes.items()}
    counts = {name: -(-len(array) // batches[name]) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise BadSamples(f"--calibrate: {path}: expected as many batches for each input; {found}")
    count = max(map(len, arrays.values()))
    return Samples(arrays, batches, f"{count} of {path.name}, {', '.join(arrays)}")


def _require_array(name: str, array: Array, shape: Shape) -> None:
    if not shape or array.ndim == 0 or array.shape[1:] != shape[1:] or not len(array):
        wanted = ("N", *shape[1:])
        raise BadSamples(f"--calibrate: {name!r} has shape {array.shape}, expected {wanted} with N at least 1")
    if array.dtype.kind not in "fiub":
        raise BadSamples(f"--calibrate: {name!r} holds {array.dtype}, expected numbers")
    if array.dtype.kind == "f" and not (finite := np.isfinite(array.reshape(len(array), -1)).all(1)).all():
        raise BadSamples(f"--calibrate: {name!r}: sample {int(np.argmin(finite))} holds NaN or infinity")


# --- images ---


@dataclass(frozen=True)
class Pixels:
    """From images to a model's numbers: the whole image, or with `crop` its middle, in the model's size (bicubic), then
    (pixel / 255 - mean) / deviation for each channel; None takes those of most models."""

    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None
    crop: bool = False

    def numbers(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of so many channels; BadSamples where others were given."""
        means, deviations = IMAGENET if channels == 3 else ((0.5,), (0.5,))
        found = self.mean or means, self.deviation or deviations
        for option, values in zip(("--mean", "--std"), found, strict=True):
            if len(values) not in (1, channels):
                expected = "1 or 3" if channels == 3 else "1"
                raise BadSamples(
                    f"{option} has {len(values)} numbers, expected {expected}, for channels of the model's images"
                )
        return found[0], found[1]


def image_samples(
    folder: Path, shapes: Mapping[str, Shape], pixels: Pixels | None = None, limit: int | None = None
) -> Samples:
    """The images of a folder, in the order of their names; `limit`: the first so many of them. Needs Pillow."""
    pixels = pixels or Pixels()
    if len(shapes) != 1:
        advice = "give FILE.npz with one array for each input"
        raise BadSamples(f"--calibrate: the model has {len(shapes)} inputs ({', '.join(shapes)}): {advice}")
    ((name, shape),) = shapes.items()
    if len(shape) != 4 or shape[1] not in MODES:
        advice = "give FILE.npz with an array"
        raise BadSamples(f"--calibrate: images fit an input of shape (N, 1 or 3, H, W), {name!r} has {shape}: {advice}")
    batch, channels, height, width = shape
    mean, deviation = pixels.numbers(channels)
    paths = _image_files(folder)[:limit]
    stored = np.stack([_read(path, channels, (width, height), pixels.crop) for path in paths])
    offset, factor = (np.array(v, np.float32).reshape(1, -1, 1, 1) for v in (mean, deviation))

    def normalized(images: Array) -> Array:
        return (images.astype(np.float32) / np.float32(255) - offset) / factor

    given = "as asked for" if pixels.mean or pixels.deviation else "ImageNet's" if channels == 3 else "the usual ones"
    numbers = f"mean {_listed(mean)} and deviation {_listed(deviation)} ({given})"
    cut = "their middles" if pixels.crop else "whole"
    note = f"{len(paths)} images of {folder.name}, {cut}, resized to {width} x {height}, normalized by {numbers}"
    return Samples({name: stored}, {name: batch}, note, normalized)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{v:g}" for v in values)


def _image_files(folder: Path) -> list[Path]:
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in paths:
        if path.is_dir() or path.suffix.lower() not in SUFFIXES:
            what = "a folder" if path.is_dir() else "no image"
            raise BadSamples(f"--calibrate: {path} is {what}: expected images alone ({' '.join(SUFFIXES)})")
    if not paths:
        raise BadSamples(f"--calibrate: {folder} has no images ({' '.join(SUFFIXES)})")
    return paths


def _read(path: Path, channels: int, size: tuple[int, int], crop: bool) -> Array:
    """uint8 [channels, height, width]."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise BadSamples("reading images needs Pillow: pip install 'qvit[images]', or give FILE.npz") from None
    try:
        with Image.open(path) as image:
            image.load()
            mode = image.mode
            array = np.asarray(_resized(image, size, crop)) if mode == MODES[channels] else None
    except Exception as error:  # decoders raise whatever the file makes them
        reason = str(error) or type(error).__name__
        raise BadSamples(f"--calibrate: {path} cannot be read as an image: {reason}") from error
    if array is None:
        wanted = f"{channels} channel{'s' if channels > 1 else ''} of 8 bits ({MODES[channels]})"
        raise BadSamples(f"--calibrate: {path} is an image of mode {mode}, the model takes {wanted}: convert it")
    return array.reshape(size[1], size[0], channels).transpose(2, 0, 1)


def _resized(image: "Image", size: tuple[int, int], crop: bool) -> "Image":
    from PIL import Image

    box: tuple[float, float, float, float] = (0, 0, *image.size)
    if crop:  # the largest part in the middle that has the model's proportions
        scale = min(image.width / size[0], image.height / size[1])
        width, height = size[0] * scale, size[1] * scale
        left, top = (image.width - width) / 2, (image.height - height) / 2
        box = (left, top, left + width, top + height)
    return image.resize(size, Image.Resampling.BICUBIC, box)


def read_samples(path: Path, module: ModuleOp, pixels: Pixels, limit: int | None = None) -> Samples:
    """--calibrate DIR|FILE.npz; BadSamples where it does not fit the module's inputs."""
    if not path.exists():
        raise FileNotFoundError(f"--calibrate: {path}: no such file or folder")
    shapes = input_shapes(module)
    return image_samples(path, shapes, pixels, limit) if path.is_dir() else npz_samples(path, shapes, limit)
