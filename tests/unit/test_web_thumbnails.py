"""Thumbnails are kept while there is room, and go with their picture."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from encoders.decoding import DecoderPool
from encoders.images import Limits
from schemas.identity import Version
from search.port import RowState, StoredImage
from streams.web.thumbnails import Thumbnails
from tests.pictures import jpeg


@pytest.fixture(scope="module")
def decoders() -> Iterator[DecoderPool]:
    pool = DecoderPool(1, 20, Limits())
    pool.start()
    yield pool
    pool.close()


class Originals:
    """Counts how often an original was needed."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, row: StoredImage) -> bytes:
        self.read.append(row.image_id)
        return jpeg(len(row.sha256))


def row(image_id: str, sha256: str = "a") -> StoredImage:
    return StoredImage(image_id, RowState.LIVE, Version(1, 0, 0), sha256=sha256)


def test_one_is_made_once_for_each_content_and_size(tmp_path: Path, decoders: DecoderPool) -> None:
    originals = Originals()
    thumbnails = Thumbnails(tmp_path, 10**6, originals, decoders)
    first = thumbnails.get(row("x"), 16)
    assert thumbnails.get(row("x"), 16) == first
    assert originals.read == ["x"]
    thumbnails.get(row("x"), 32)
    assert thumbnails.get(row("x", "bb"), 16) != first
    assert len(originals.read) == 3


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path, decoders: DecoderPool) -> None:
    originals = Originals()
    size = len(Thumbnails(tmp_path, 1, originals, decoders).get(row("x"), 16))
    thumbnails = Thumbnails(tmp_path, 2 * size, originals, decoders)
    for image_id in ("x", "y", "x", "z"):
        thumbnails.get(row(image_id), 16)
    originals.read.clear()
    for image_id in ("x", "z", "y"):
        thumbnails.get(row(image_id), 16)
    assert originals.read == ["y"]
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.jpg")) <= 2 * size


def test_a_forgotten_picture_leaves_nothing(tmp_path: Path, decoders: DecoderPool) -> None:
    thumbnails = Thumbnails(tmp_path, 10**6, Originals(), decoders)
    for image_id in ("../../x", "y"):
        for side in (16, 32):
            thumbnails.get(row(image_id), side)
    thumbnails.forget("../../x")
    assert len(list(tmp_path.rglob("*.jpg"))) == 2
    assert list(tmp_path.parent.glob("x*")) == []
    thumbnails.forget("never seen")
