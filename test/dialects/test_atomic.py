"""Folders are replaced whole, or stay as they were."""

from pathlib import Path

import pytest

from qvit.dialects.atomic import replacing_folder


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def fill(folder: Path, name: str) -> None:
    (folder / name).write_text(name)


def test_a_new_folder(tmp_path: Path) -> None:
    with replacing_folder(tmp_path / "out") as folder:
        fill(folder, "a")
        assert not (tmp_path / "out").exists()
    assert names(tmp_path) == ["out", "out/a"]


def test_an_old_folder_goes_with_all_that_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "out" / "deep").mkdir(parents=True)
    fill(tmp_path / "out", "old")
    with replacing_folder(tmp_path / "out") as folder:
        fill(folder, "a")
        assert "out/old" in names(tmp_path)
    assert names(tmp_path) == ["out", "out/a"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_changed_by_an_error(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out", "old")
    with pytest.raises(error), replacing_folder(tmp_path / "out") as folder:
        fill(folder, "a")
        raise error
    assert names(tmp_path) == ["out", "out/old"]


def test_what_was_there_comes_back_where_the_new_one_cannot_be_moved(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out", "old")
    with pytest.raises(FileNotFoundError), replacing_folder(tmp_path / "out") as folder:
        folder.rmdir()  # as if somebody had taken it away
    assert names(tmp_path) == ["out", "out/old"]
