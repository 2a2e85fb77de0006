"""Erasing is exact, and never takes what a later record has put there again."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from schemas.errors import PoisonError
from streams.image_store import ImageStore


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore((tmp_path / "a folder").as_uri())


def path_of(uri: str) -> Path:
    return Path(uri.removeprefix("file://").replace("%20", " "))


def test_what_is_put_is_got(store: ImageStore) -> None:
    uri = store.put("id", b"data", "jpg")
    assert store.owns(uri) and path_of(uri).read_bytes() == b"data"
    assert store.get(uri, 4) == b"data"
    assert store.get(uri + "x", 4) is None
    with pytest.raises(PoisonError, match="TOO_LARGE"):
        store.get(uri, 3)


def test_the_key_is_the_same_for_the_same_picture_only(store: ImageStore) -> None:
    assert store.uri_of("id", b"1", "jpg") == store.put("id", b"1", "jpg")
    others = {store.uri_of(i, d, "jpg") for i in ("id", "other") for d in (b"1", b"2")}
    assert len(others) == 4


def test_other_folders_are_not_ours(store: ImageStore, tmp_path: Path) -> None:
    assert not store.owns((tmp_path / "a folder2" / "x").as_uri())
    assert not store.owns(store.uri_of("id", b"1", "jpg") + "/../../../x")


def test_our_own_put_is_removed_however_late_it_was(store: ImageStore) -> None:
    uri = store.put("id", b"1", "jpg")
    store.remove(uri, obsolete_since=datetime.now(UTC) - timedelta(hours=1))
    assert not path_of(uri).exists()
    store.remove(uri, obsolete_since=datetime.now(UTC))  # gone already: no error


def test_what_was_put_again_for_a_later_record_stays(tmp_path: Path) -> None:
    url = (tmp_path / "store").as_uri()
    worker, publisher = ImageStore(url), ImageStore(url)
    uri = publisher.put("id", b"1", "jpg")
    assert worker.get(uri, 10) == b"1"
    deleted_at = datetime.now(UTC)
    publisher.put("id", b"1", "jpg")
    os.utime(path_of(uri), (deleted_at.timestamp() + 5,) * 2)  # no need to wait for the clock
    worker.remove(uri, obsolete_since=deleted_at)
    assert path_of(uri).exists()


def test_after_a_restart_the_records_time_decides(tmp_path: Path) -> None:
    url = (tmp_path / "store").as_uri()
    uri = ImageStore(url).put("id", b"1", "jpg")
    ImageStore(url).remove(uri, obsolete_since=datetime.now(UTC) + timedelta(seconds=1))
    assert not path_of(uri).exists()


def test_a_delete_erases_every_original_of_the_picture(store: ImageStore, tmp_path: Path) -> None:
    for data in (b"1", b"2", b"3"):
        store.put("id", data, "jpg")
    neighbour = store.put("id2", b"1", "jpg")
    kept = store.uri_of("id", b"2", "jpg")
    store.remove_all("id", datetime.now(UTC), but=kept)
    left = [p for p in (tmp_path / "a folder").rglob("*") if p.is_file()]
    assert sorted(left) == sorted([path_of(kept), path_of(neighbour)])
    store.remove_all("id", datetime.now(UTC))
    store.remove_all("id", datetime.now(UTC))  # nothing left: no error
    store.remove_all("never put", datetime.now(UTC))
    assert [p for p in (tmp_path / "a folder").rglob("*") if p.is_file()] == [path_of(neighbour)]


def test_an_erasure_leaves_what_a_later_record_has_put(tmp_path: Path) -> None:
    url = (tmp_path / "store").as_uri()
    later = ImageStore(url).put("id", b"later", "jpg")
    deleted_at = datetime.now(UTC) - timedelta(seconds=5)
    ImageStore(url).remove_all("id", deleted_at)
    assert path_of(later).exists()
