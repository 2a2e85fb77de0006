"""Pictures that searches bring along: until when they are tried, and what is told of them."""

import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from pixtide.encoders.pictures.decoder_pool import DecoderPool
from pixtide.encoders.pictures.images import Picture
from pixtide.encoders.port import Crop, Encoder
from pixtide.schemas.errors import PoisonError, QueryCode, ReasonCode, RequestError, TransientError
from pixtide.schemas.queries import Term
from pixtide.streams.originals.fetcher import Fetcher, FetchLimits
from pixtide.streams.originals.store import ImageStore
from pixtide.streams.query.pictures import QueryPictures
from tests.support.hostile import hostile_server

PICTURE = Term(data_base64="aGVsbG8=")


class Decoders:
    """Decode when they may."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.asked = threading.Event()

    def decode(self, _: bytes, crop: Crop) -> Picture:
        self.asked.set()
        assert self.may.wait(60)
        return cast(Picture, type("Decoded", (), {"pixels": np.zeros((crop.size, crop.size, 3))}))


class Towers:
    crop = Crop(8, 8)

    def encode_pictures(self, pixels: Any) -> Any:
        return np.ones((len(pixels), 4), np.float32) / 2


class Refusing:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def fetch(self, *_: object) -> bytes:
        raise self.error


ENCODER = cast(Encoder, Towers())


def fetcher(tmp_path: Any, *hosts: str) -> Fetcher:
    limits = FetchLimits(max_bytes=10_000, timeout_s=600, allowed_hosts=frozenset(hosts))
    return Fetcher(ImageStore((tmp_path / "store").as_uri()), limits)


def test_a_slow_address_is_given_up_when_nobody_waits_any_more(tmp_path: Any) -> None:
    with hostile_server() as server:
        pictures = QueryPictures(fetcher(tmp_path, server.address), cast(Any, Decoders()))
        began = time.monotonic()
        with pytest.raises(RequestError) as caught:
            pictures.read(Term(uri=f"http://{server.address}/trickled-body"), ENCODER, began + 1)
    assert caught.value.code is QueryCode.BAD_PICTURE
    assert caught.value.message == "SOURCE_UNAVAILABLE: the address gave no picture in time"
    assert time.monotonic() - began < 15, "and not after the 600 s of the fetcher"


def test_who_waits_for_a_decoder_waits_no_longer_than_its_client(tmp_path: Any) -> None:
    decoders = Decoders()
    pictures = QueryPictures(fetcher(tmp_path), cast(DecoderPool, decoders))
    first = threading.Thread(target=pictures.read, args=[PICTURE, ENCODER])
    first.start()
    assert decoders.asked.wait(60)
    with pytest.raises(RequestError) as caught:
        pictures.read(PICTURE, ENCODER, time.monotonic() + 0.1)
    assert caught.value.code is QueryCode.OVERLOADED
    decoders.may.set()
    first.join(60)
    assert pictures.read(PICTURE, ENCODER, time.monotonic() + 60).shape == (4,)


@pytest.mark.parametrize(
    "error",
    [
        PoisonError(ReasonCode.ADDRESS_BLOCKED, "db.internal is the private address 10.0.0.7"),
        PoisonError(ReasonCode.SOURCE_UNAVAILABLE, "http://10.0.0.7/x: ConnectError"),
        PoisonError(ReasonCode.SOURCE_GONE, "/mnt/10.0.0.7: no such file"),
        TransientError("the store at s3://10.0.0.7: refused"),
    ],
)
def test_what_is_behind_an_address_is_not_told(error: Exception) -> None:
    pictures = QueryPictures(cast(Any, Refusing(error)), cast(Any, Decoders()))
    with pytest.raises(RequestError) as caught:
        pictures.read(Term(uri="http://pictures.example/1.jpg"), ENCODER)
    assert "10.0.0.7" not in caught.value.message
    assert "internal" not in caught.value.message


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
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "large").write_bytes(bytes(1001))
    names = ("secret", "missing", "loop", "root/missing", "root/large", "root", "root/large/x")
    messages = {told(pictures, (tmp_path / name).as_uri()) for name in names}
    original = f"{uuid.uuid4()}/{'0' * 64}.jpg"
    messages |= {
        told(pictures, f"{(tmp_path / 'originals').as_uri()}/{original}"),
        told(pictures, "s3://bucket/key"),
    }
    assert len(messages) == 1
