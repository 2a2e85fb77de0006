"""Whoever searches by a picture's address hears nothing of our network and our files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from schemas.errors import QueryCode, RequestError
from schemas.queries import Term
from streams.fetch import Fetcher, FetchLimits
from streams.image_store import ImageStore
from streams.query_pictures import QueryPictures


@pytest.fixture
def pictures(tmp_path: Path) -> Iterator[QueryPictures]:
    limits = FetchLimits(max_bytes=1000, timeout_s=30.0, roots=(tmp_path / "root",))
    fetcher = Fetcher(ImageStore((tmp_path / "originals").as_uri()), limits)
    nothing = cast(Any, None)  # no picture comes so far
    yield QueryPictures(fetcher, nothing)
    fetcher.close()


def told(pictures: QueryPictures, uri: str) -> str:
    with pytest.raises(RequestError) as caught:
        pictures.read(Term(uri=uri), cast(Any, None))
    assert caught.value.code is QueryCode.BAD_PICTURE
    return caught.value.message


def test_a_private_name_is_told_like_one_that_there_is_not(pictures: QueryPictures) -> None:
    private = told(pictures, "http://localhost:9/")
    assert private == told(pictures, "http://127.0.0.1:9/")
    assert private == told(pictures, "http://no-such-host.invalid/")
    assert "127.0.0.1" not in private and "private" not in private


def test_files_that_may_not_be_read_are_all_told_alike(
    pictures: QueryPictures, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    messages = {
        told(pictures, (tmp_path / name).as_uri()) for name in ("secret", "missing", "loop")
    }
    assert len(messages) == 1
