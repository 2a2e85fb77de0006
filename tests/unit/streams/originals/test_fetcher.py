"""Inline pictures, files, our own store, and what is fetched from nowhere."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pixtide.schemas.errors import PoisonError, TransientError
from pixtide.schemas.events import InlinePicture, PictureAt
from pixtide.streams.originals.fetcher import Fetcher, FetchLimits, OriginalGoneError
from pixtide.streams.originals.store import ImageStore

LIMIT = 10_000
PICTURE = b"p" * 1000


@pytest.fixture
def fetcher(tmp_path: Path) -> Iterator[Fetcher]:
    (tmp_path / "root").mkdir()
    store = ImageStore((tmp_path / "originals").as_uri())
    limits = FetchLimits(max_bytes=LIMIT, timeout_s=60.0, roots=((tmp_path / "root").resolve(),))
    made = Fetcher(store, limits)
    yield made
    made.close()


def test_only_what_put_returns_is_of_our_store(fetcher: Fetcher, tmp_path: Path) -> None:
    """All else that begins with the store's address is a file like any other, and none of ours."""
    base = (tmp_path / "originals").as_uri()
    store = ImageStore(base)
    uri = store.put("a", PICTURE, "x#1")
    assert store.owns(uri) and store.get(uri, LIMIT) == PICTURE
    for path in ("/x/./y.jpg", "//x", "/", "/a\0b", "/a\nb", "/a#1", "/" + "a" * 300, "/x/../y"):
        assert not store.owns(base + path), path
        assert code_of(fetcher, base + path) == "PATH_NOT_ALLOWED", path
    for odd in (f"{uri}/", f"{uri}#1", f"{uri}?x", uri.upper(), f"{base}/dead-letters/{'0' * 64}"):
        assert not store.owns(odd), odd


def test_what_no_key_can_be_is_poison(tmp_path: Path) -> None:
    store = ImageStore((tmp_path / "originals").as_uri())
    (tmp_path / "originals" / "file").write_bytes(b"")
    (tmp_path / "originals" / "loop").symlink_to("loop")
    for key in ("x/./y", "a//b", "a\0b", "a" * 300, "a#1", "file/x", "loop", "..", "\udcff"):
        with pytest.raises(PoisonError, match="INVALID_URL"):
            store.get_raw(key, LIMIT)


def test_a_disk_that_fails_is_given_up_in_the_end(
    fetcher: Fetcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "root" / "a.jpg").write_bytes(PICTURE)
    picture = PictureAt(uri=(tmp_path / "root" / "a.jpg").as_uri())

    def failing(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "open", failing)
    trial = fetcher.trial(picture)
    attempts = 0
    with pytest.raises(PoisonError, match="SOURCE_UNAVAILABLE") as caught:
        while attempts < 1000:
            attempts += 1
            try:
                fetcher.attempt(picture, trial)
            except TransientError as error:
                trial.next_pause(error)
    assert 20 < attempts < 100, "pauses grow up to some seconds"
    assert "given up after 300 s" in caught.value.message


def code_of(fetcher: Fetcher, uri: str) -> str:
    with pytest.raises(PoisonError) as caught:
        fetcher.fetch(PictureAt(uri=uri))
    return caught.value.code


@pytest.mark.parametrize(
    "uri", ["ftp://example.org/a.jpg", "data:image/png;base64,AA==", "no-scheme.jpg", "://"]
)
def test_other_schemes_are_not_fetched(fetcher: Fetcher, uri: str) -> None:
    assert code_of(fetcher, uri) == "SCHEME_NOT_ALLOWED"


def test_files_under_a_root_and_no_others(fetcher: Fetcher, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "ä b.jpg").write_bytes(PICTURE)
    assert fetcher.fetch(PictureAt(uri=(root / "ä b.jpg").as_uri())) == PICTURE
    (tmp_path / "outside.jpg").write_bytes(PICTURE)
    (root / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    os.mkfifo(root / "pipe")
    (root / "huge").write_bytes(b"x" * (LIMIT + 1))
    for uri, code in {
        (tmp_path / "outside.jpg").as_uri(): "PATH_NOT_ALLOWED",
        (root / "link.jpg").as_uri(): "PATH_NOT_ALLOWED",
        f"{root.as_uri()}/../outside.jpg": "PATH_NOT_ALLOWED",
        f"{root.as_uri()}/%2e%2e/outside.jpg": "PATH_NOT_ALLOWED",
        (root / "pipe").as_uri(): "PATH_NOT_ALLOWED",
        root.as_uri(): "PATH_NOT_ALLOWED",
        "file:///proc/self/environ": "PATH_NOT_ALLOWED",
        f"file://elsewhere{root}/link.jpg": "PATH_NOT_ALLOWED",
        "file:///a%00b": "PATH_NOT_ALLOWED",
        (root / "huge").as_uri(): "TOO_LARGE",
        (root / "missing.jpg").as_uri(): "SOURCE_GONE",
        "file://[": "PATH_NOT_ALLOWED",
    }.items():
        assert code_of(fetcher, uri) == code, uri
    with pytest.raises(PoisonError, match="SOURCE_CHANGED"):  # a file has no ETag to keep
        fetcher.fetch(PictureAt(uri=(root / "ä b.jpg").as_uri(), etag="v1"))


def test_inline_pictures_have_the_same_limit(fetcher: Fetcher) -> None:
    assert fetcher.fetch(InlinePicture(data=PICTURE)) == PICTURE
    with pytest.raises(PoisonError, match="TOO_LARGE"):
        fetcher.fetch(InlinePicture(data=b"x" * (LIMIT + 1)))


def test_an_original_that_is_gone_was_superseded(fetcher: Fetcher, tmp_path: Path) -> None:
    store = ImageStore((tmp_path / "originals").as_uri())
    uri = store.put("a", PICTURE, "jpg")
    assert fetcher.fetch(PictureAt(uri=uri)) == PICTURE
    with pytest.raises(OriginalGoneError):
        fetcher.fetch(PictureAt(uri=uri + "x"))
    assert code_of(fetcher, f"{(tmp_path / 'originals').as_uri()}/../outside") == "PATH_NOT_ALLOWED"
