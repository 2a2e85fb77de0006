"""Erasing is exact, and never takes what a later record has put there again."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pixtide.schemas.errors import PoisonError
from pixtide.schemas.identity import original_folder
from pixtide.streams.originals.store import ImageStore


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


def test_a_file_is_discarded_as_it_was_and_no_other(store: ImageStore) -> None:
    uri = store.put("id", b"1", "jpg")
    was = store.modified(uri)
    assert was is not None and store.seen(uri) == was
    os.utime(path_of(uri), (was.timestamp() + 5,) * 2)  # as if it were put again
    assert not store.discard(uri, was) and path_of(uri).exists()
    now = store.modified(uri)
    assert now is not None and store.discard(uri, now) and not path_of(uri).exists()
    assert store.discard(uri, now), "gone already is gone"
    assert store.modified(uri) is None and store.seen(uri) is None and not store.holds(uri)


def test_what_another_process_put_is_not_seen_before_it_is_read(tmp_path: Path) -> None:
    url = (tmp_path / "store").as_uri()
    worker, publisher = ImageStore(url), ImageStore(url)
    uri = publisher.put("id", b"1", "jpg")
    assert worker.seen(uri) is None
    assert worker.get(uri, 10) == b"1" and worker.seen(uri) == worker.modified(uri)
    os.utime(path_of(uri), (1e9, 1e9))
    assert worker.seen(uri) != worker.modified(uri)
    assert worker.holds(uri) and worker.seen(uri) == worker.modified(uri)


def test_all_files_are_listed_and_those_of_one_folder(store: ImageStore) -> None:
    mine = {store.put("id", data, "jpg") for data in (b"1", b"2")}
    other = store.put("id2", b"1", "jpg")
    assert {each.uri for each in store.files(original_folder("id"))} == mine
    found = {each.uri: each for each in store.files()}
    assert found.keys() == mine | {other}
    each = found[other]
    assert (each.key, store.uri_at(each.key)) == (store.original_of(other), other)
    assert store.original_of("https://elsewhere.example/a") == ""
    assert list(store.files(original_folder("never put"))) == []


def test_the_stores_own_clock_is_told(store: ImageStore) -> None:
    assert abs(store.now() - datetime.now(UTC)) < timedelta(minutes=5)


def test_who_shares_the_store_is_told(store: ImageStore) -> None:
    assert store.claims() == set()
    store.put_raw("logs/moving", b"")
    assert store.claims() == {"logs/moving"}
