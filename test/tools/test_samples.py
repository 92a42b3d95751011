"""Samples: what the files hold is what the model gets, and what does not fit is named."""

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qvit.tools.samples import IMAGENET, BadSamples, Pixels, image_samples, npz_samples

GREY, COLOUR = {"image": (2, 1, 4, 6)}, {"image": (2, 3, 4, 6)}
RNG = np.random.default_rng(3)


def save(folder: Path, name: str, array: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    Image.fromarray(array).save(folder / name)
    return folder


@pytest.fixture
def greys(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """Three grey images in the model's size."""
    arrays = RNG.integers(0, 256, (3, 4, 6), np.uint8)
    for i, array in enumerate(arrays):
        save(tmp_path / "grey", f"{i}.png", array)
    return tmp_path / "grey", arrays


# --- batches ---


def test_the_last_batch_is_filled_up_with_the_first_samples(tmp_path: Path) -> None:
    array = np.arange(5, dtype=np.float32).reshape(5, 1)
    np.savez(tmp_path / "s.npz", x=array)
    samples = npz_samples(tmp_path / "s.npz", {"x": (2, 1)})
    assert [batch["x"].ravel().tolist() for batch in samples] == [[0, 1], [2, 3], [4, 0]]
    assert (len(samples), samples.total) == (3, 5)
    assert [batch["x"].ravel().tolist() for batch in samples[1:]] == [[2, 3], [4, 0]]


def test_fewer_samples_than_a_batch(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", x=np.arange(2.0)[:, None])
    (batch,) = npz_samples(tmp_path / "s.npz", {"x": (5, 1)})
    assert batch["x"].ravel().tolist() == [0, 1, 0, 1, 0]


def test_several_inputs_keep_together(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", b=np.arange(4), a=np.arange(8.0).reshape(4, 2))
    samples = npz_samples(tmp_path / "s.npz", {"a": (2, 2), "b": (2,)}, limit=3)
    assert [batch["b"].tolist() for batch in samples] == [[0, 1], [2, 0]]
    assert [batch["a"][:, 0].tolist() for batch in samples] == [[0, 2], [4, 0]]


def test_the_digest_is_of_values_order_and_batches(tmp_path: Path) -> None:
    def digest(array: np.ndarray, shape: tuple[int, ...] = (2, 1)) -> str:
        np.savez(tmp_path / "s.npz", x=array)
        return npz_samples(tmp_path / "s.npz", {"x": shape}).digest

    first = np.arange(4.0)[:, None]
    others = [first[::-1], first + 1, first.astype(np.float32), first[:3]]
    assert digest(first) == digest(first.copy())
    found = {digest(first), *map(digest, others), digest(first, (4, 1))}
    assert len(found) == len(others) + 2


# --- arrays that do not fit ---

ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "another name": ({"y": np.zeros((2, 3))}, "holds y, expected one array for each input: x"),
    "nothing": ({}, "holds nothing"),
    "one too many": ({"x": np.zeros((2, 3)), "y": np.zeros(2)}, "holds x, y, expected one array"),
    "shape": ({"x": np.zeros((2, 4))}, "'x' has shape (2, 4), expected ('N', 3) with N at least 1"),
    "rank": ({"x": np.zeros(3)}, "'x' has shape (3,), expected ('N', 3)"),
    "a number": ({"x": np.zeros(())}, "'x' has shape (), expected ('N', 3)"),
    "no samples": ({"x": np.zeros((0, 3))}, "with N at least 1"),
    "text": ({"x": np.full((2, 3), "a")}, "'x' holds <U1, expected numbers"),
    "complex numbers": ({"x": np.zeros((2, 3), complex)}, "'x' holds complex128, expected numbers"),
    "NaN": ({"x": np.array([[0, 0, 0], [1, np.nan, 1]])}, "'x': sample 1 holds NaN or infinity"),
    "infinity": ({"x": np.array([[np.inf, 0, 0]])}, "'x': sample 0 holds NaN or infinity"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_do_not_fit(tmp_path: Path, name: str) -> None:
    arrays, says = ARRAYS[name]
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(BadSamples) as caught:
        npz_samples(tmp_path / "s.npz", {"x": (2, 3)})
    assert says in str(caught.value)


def test_inputs_with_different_numbers_of_samples(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", a=np.zeros((4, 1)), b=np.zeros((6, 1)))
    with pytest.raises(BadSamples, match="as many batches for each input; a has 2, b has 3"):
        npz_samples(tmp_path / "s.npz", {"a": (2, 1), "b": (2, 1)})


# --- images ---


def test_grey_images(greys: tuple[Path, np.ndarray]) -> None:
    folder, arrays = greys
    first, second = image_samples(folder, GREY)
    expected = (arrays[:, None].astype(np.float32) / 255 - 0.5) / 0.5
    np.testing.assert_array_equal(first["image"], expected[:2])
    np.testing.assert_array_equal(second["image"], expected[[2, 0]])
    assert first["image"].dtype == np.float32


def test_colours_are_normalized_channel_by_channel(tmp_path: Path) -> None:
    array = RNG.integers(0, 256, (4, 6, 3), np.uint8)
    samples = image_samples(save(tmp_path / "photos", "a.png", array), COLOUR)
    mean, deviation = (np.array(v, np.float32)[:, None, None] for v in IMAGENET)
    expected = (array.transpose(2, 0, 1).astype(np.float32) / 255 - mean) / deviation
    np.testing.assert_array_equal(samples[0]["image"][0], expected)
    assert "normalized by mean 0.485, 0.456, 0.406 and deviation 0.229, 0.224, 0.225 (ImageNet's)" in samples.note


def test_other_means(greys: tuple[Path, np.ndarray]) -> None:
    folder, arrays = greys
    samples = image_samples(folder, GREY, Pixels((0.25,), (2.0,)))
    np.testing.assert_array_equal(samples[0]["image"][0, 0], (arrays[0].astype(np.float32) / 255 - 0.25) / 2)
    assert "mean 0.25 and deviation 2 (as asked for)" in samples.note
    assert samples.digest != image_samples(folder, GREY).digest


def test_images_of_another_size(tmp_path: Path) -> None:
    """The whole image or its middle: left half black, right half white, three times as wide as the model's images."""
    array = np.zeros((8, 36), np.uint8)
    array[:, 18:] = 255
    folder = save(tmp_path / "wide", "a.png", array)
    whole, middle = (
        image_samples(folder, GREY, Pixels((0.0,), (1.0,), crop))[0]["image"][0, 0] for crop in (False, True)
    )
    for image in (whole, middle):
        assert image.shape == (4, 6)
        assert (image[:, 0] < 0.1).all()
        assert (image[:, 5] > 0.9).all()
    bright = np.zeros((8, 36), np.uint8)
    bright[:, :12] = bright[:, 24:] = 255  # all but the middle
    folder = save(tmp_path / "ends", "a.png", bright)
    assert image_samples(folder, GREY, Pixels((0.0,), (1.0,), True))[0]["image"][0].max() < 0.1
    assert image_samples(folder, GREY, Pixels((0.0,), (1.0,)))[0]["image"][0].max() > 0.9


def test_order_hidden_files_and_limit(greys: tuple[Path, np.ndarray]) -> None:
    folder, arrays = greys
    (folder / ".DS_Store").write_bytes(b"?")
    Image.fromarray(arrays[0]).save(folder / "00.PNG")  # before 1.png, whatever the file system says
    samples = image_samples(folder, GREY, limit=2)
    np.testing.assert_array_equal(samples.arrays["image"][:, 0], arrays[[0, 0]])
    assert samples.note.startswith("2 images of grey, whole, resized to 6 x 4")


# --- folders that do not fit ---


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(BadSamples, match="has no images"):
        image_samples(tmp_path, GREY)


def test_other_files_among_images(greys: tuple[Path, np.ndarray]) -> None:
    folder, _ = greys
    (folder / "notes.txt").write_text("hello")
    with pytest.raises(BadSamples, match="notes.txt is no image: expected images alone"):
        image_samples(folder, GREY)
    (folder / "notes.txt").unlink()
    (folder / "more").mkdir()
    with pytest.raises(BadSamples, match="more is a folder: expected images alone"):
        image_samples(folder, GREY)


@pytest.mark.parametrize("damage", ["cut off", "text", "empty"])
def test_corrupt_images(greys: tuple[Path, np.ndarray], damage: str) -> None:
    folder, _ = greys
    content = (folder / "0.png").read_bytes()
    (folder / "1.png").write_bytes({"cut off": content[: len(content) // 2], "text": b"hello", "empty": b""}[damage])
    with pytest.raises(BadSamples, match=r"1.png cannot be read as an image"):
        image_samples(folder, GREY)


@pytest.mark.parametrize(
    ("mode", "fits"), [("L", GREY), ("RGB", COLOUR), ("RGBA", {}), ("I;16", {}), ("P", {}), ("CMYK", {})]
)
def test_modes(tmp_path: Path, mode: str, fits: dict[str, Any]) -> None:
    (tmp_path / "m").mkdir()
    Image.new(mode, (6, 4)).save(tmp_path / "m" / f"a.{'tif' if mode == 'CMYK' else 'png'}")
    for shapes, wanted in ((GREY, r"1 channel of 8 bits \(L\)"), (COLOUR, r"3 channels of 8 bits \(RGB\)")):
        if shapes is fits:
            assert len(image_samples(tmp_path / "m", shapes)) == 1
        else:
            with pytest.raises(BadSamples, match=f"is an image of mode {mode}, the model takes {wanted}"):
                image_samples(tmp_path / "m", shapes)


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({"a": (1, 1, 4, 6), "b": (1, 8)}, r"the model has 2 inputs \(a, b\): give FILE.npz"),
        ({"tokens": (1, 17)}, r"'tokens' has \(1, 17\): give FILE.npz"),
        ({"x": (1, 4, 6, 3)}, r"images fit an input of shape \(N, 1 or 3, H, W\)"),
        ({"x": (1, 2, 6, 3)}, r"images fit an input of shape \(N, 1 or 3, H, W\)"),
    ],
)
def test_models_that_take_no_images(greys: tuple[Path, np.ndarray], shapes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadSamples, match=says):
        image_samples(greys[0], shapes)


def test_means_of_another_number_of_channels(greys: tuple[Path, np.ndarray]) -> None:
    with pytest.raises(BadSamples, match="--mean has 3 numbers, expected 1, for channels of the model's images"):
        image_samples(greys[0], GREY, Pixels(IMAGENET[0]))
    with pytest.raises(BadSamples, match="--std has 2 numbers, expected 1 or 3"):
        image_samples(greys[0], COLOUR, Pixels(None, (1.0, 2.0)))


def test_without_pillow(greys: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "PIL":
            raise ModuleNotFoundError(name)
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BadSamples, match=r"needs Pillow: pip install 'qvit\[images\]', or give FILE.npz"):
        image_samples(greys[0], GREY)
