"""Thumbnails are kept while there is room, and go with their picture."""

from pathlib import Path

from pixtide.schemas.identity import Version
from pixtide.search.port import RowState, StoredImage
from pixtide.streams.web.thumbnails import Thumbnails


def row(image_id: str, sha256: str = "a") -> StoredImage:
    return StoredImage(image_id, RowState.LIVE, Version(1, 0, 0), sha256=sha256)


def test_one_is_kept_for_each_content_and_size(tmp_path: Path) -> None:
    thumbnails = Thumbnails(tmp_path, 10**6)
    assert thumbnails.get(row("x"), 16) is None
    thumbnails.keep(row("x"), 16, b"small")
    assert thumbnails.get(row("x"), 16) == b"small"
    assert thumbnails.get(row("x"), 32) is None
    assert thumbnails.get(row("x", "bb"), 16) is None
    assert thumbnails.get(row("y"), 16) is None


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    thumbnails = Thumbnails(tmp_path, 20)
    for image_id in ("x", "y"):
        thumbnails.keep(row(image_id), 16, b"0123456789")
    assert thumbnails.get(row("x"), 16)
    thumbnails.keep(row("z"), 16, b"0123456789")
    kept = {name for name in "xyz" if thumbnails.get(row(name), 16)}
    assert kept == {"x", "z"}
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.jpg")) == 20


def test_a_forgotten_picture_leaves_nothing(tmp_path: Path) -> None:
    thumbnails = Thumbnails(tmp_path, 10**6)
    for image_id in ("../../x", "y"):
        for side in (16, 32):
            thumbnails.keep(row(image_id), side, b"small")
    thumbnails.forget("../../x")
    assert thumbnails.get(row("../../x"), 16) is None
    assert len(list(tmp_path.rglob("*.jpg"))) == 2
    assert list(tmp_path.parent.glob("x*")) == []
    thumbnails.forget("never seen")
