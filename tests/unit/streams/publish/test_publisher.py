"""Which pictures a path names, and under which ids."""

from pathlib import Path

import pytest

from pixtide.schemas.errors import UsageError
from pixtide.streams.publish.sources import find_sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    holiday = tmp_path / "holiday"
    for name in ("b.jpg", "sub/a.PNG", "notes.txt", ".hidden/c.jpg", ".d.jpg"):
        (holiday / name).parent.mkdir(parents=True, exist_ok=True)
        (holiday / name).touch()
    return holiday


def ids(*names: str, prefix: str | None = None) -> list[str]:
    return [source.image_id for source in find_sources(names, prefix)]


def test_a_folder_is_walked_for_pictures(folder: Path) -> None:
    assert ids(str(folder)) == ["holiday/b.jpg", "holiday/sub/a.PNG"]
    assert ids(str(folder), prefix="2026") == ["2026/b.jpg", "2026/sub/a.PNG"]


def test_a_file_that_is_named_is_taken_whatever_it_is_called(folder: Path) -> None:
    assert ids(str(folder / "notes.txt")) == ["holiday/notes.txt"]


def test_urls() -> None:
    assert ids("https://example.org/x/a.jpg?v=2") == ["example.org/x/a.jpg?v=2"]
    assert ids("https://example.org/x/a.jpg?v=2", prefix="p") == ["p/a.jpg"]


def test_two_pictures_never_share_an_id(folder: Path) -> None:
    with pytest.raises(UsageError, match="--prefix"):
        find_sources([str(folder / "b.jpg"), str(folder)], None)


def test_what_is_not_there_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        find_sources([str(folder / "missing")], None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no picture"):
        find_sources([str(tmp_path / "empty")], None)
