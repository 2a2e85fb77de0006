"""Object stores, against a server that speaks S3: as a source of pictures, and as our own."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from pixtide.schemas.errors import PoisonError, TransientError, UsageError
from pixtide.schemas.events import PictureAt
from pixtide.schemas.identity import Version
from pixtide.search.lancedb.catalog import LanceCatalog
from pixtide.search.port import RowState
from pixtide.streams.generations.comparison_store import ComparisonStore, Expected, Kind
from pixtide.streams.generations.originals_check import StoreSide
from pixtide.streams.originals.fetcher import Fetcher, FetchLimits
from pixtide.streams.originals.store import ImageStore
from tests.contracts.samples import generation, live
from tests.servers.s3 import S3Server
from tests.support.hostile import PICTURE, HostileServer, hostile_server

LIMIT = 10_000


@pytest.fixture(autouse=True)
def environment(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def name() -> str:
    return f"pictures-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def bucket(s3: S3Server, name: str) -> S3Store:
    return s3.create_bucket(name)


@pytest.fixture
def fetcher_of(tmp_path: Path) -> Iterator[Callable[..., Fetcher]]:
    made: list[Fetcher] = []

    def make(*buckets: str, timeout_s: float = 5.0) -> Fetcher:
        limits = FetchLimits(LIMIT, timeout_s, allowed_buckets=frozenset(buckets))
        made.append(Fetcher(ImageStore((tmp_path / "originals").as_uri()), limits))
        return made[-1]

    yield make
    for fetcher in made:
        fetcher.close()


def refusal(fetcher: Fetcher, uri: str, etag: str | None = None) -> PoisonError:
    with pytest.raises(PoisonError) as caught:
        fetcher.fetch(PictureAt(uri=uri, etag=etag))
    return caught.value


Make = Callable[..., Fetcher]


def test_allowed_buckets_are_fetched_from_and_no_others(
    fetcher_of: Make, bucket: S3Store, name: str
) -> None:
    obstore.put(bucket, "a folder/ä?.jpg", PICTURE)
    obstore.put(bucket, "huge", b"x" * (LIMIT + 1))
    fetcher = fetcher_of(f"s3://{name}")
    base = f"s3://{name}"
    assert fetcher.fetch(PictureAt(uri=f"{base}/a folder/%C3%A4%3F.jpg")) == PICTURE
    assert fetcher.fetch(PictureAt(uri=f"{base}/a%20folder/ä%3F.jpg")) == PICTURE
    for uri, code in {
        f"{base}/huge": "TOO_LARGE",
        f"{base}/missing": "SOURCE_GONE",
        f"{base}-2/a": "BUCKET_NOT_ALLOWED",
        f"s3://user@{name}/a": "BUCKET_NOT_ALLOWED",
        f"gs://{name}/a": "BUCKET_NOT_ALLOWED",
        f"az://{name}/a": "BUCKET_NOT_ALLOWED",
        base: "INVALID_URL",
        f"{base}/": "INVALID_URL",
        "s3:///a": "INVALID_URL",
        f"{base}/../x": "INVALID_URL",
        f"{base}/a%00b": "INVALID_URL",
        f"{base}/%ff": "INVALID_URL",
        f"{base}/a?acl": "INVALID_URL",
        f"{base}/a?versionId=1&versionId=2": "INVALID_URL",
        f"{base}/a#1": "INVALID_URL",
    }.items():
        assert refusal(fetcher, uri).code == code, uri


def test_a_version_or_an_etag_can_be_pinned(fetcher_of: Make, bucket: S3Store, name: str) -> None:
    fetcher = fetcher_of(f"s3://{name}")
    first = obstore.put(bucket, "a.jpg", b"first")
    second = obstore.put(bucket, "a.jpg", b"second")
    uri = f"s3://{name}/a.jpg"
    assert fetcher.fetch(PictureAt(uri=uri)) == b"second"
    assert fetcher.fetch(PictureAt(uri=f"{uri}?versionId={first['version']}")) == b"first"
    assert fetcher.fetch(PictureAt(uri=uri, etag=second["e_tag"])) == b"second"
    changed = refusal(fetcher, uri, first["e_tag"])
    assert changed.code == "SOURCE_CHANGED" and str(second["e_tag"]) in changed.message
    assert refusal(fetcher, f"{uri}?versionId=none").code == "SOURCE_GONE"


def test_a_denied_object_is_forbidden(
    fetcher_of: Make, s3: S3Server, bucket: S3Store, name: str
) -> None:
    obstore.put(bucket, "a.jpg", PICTURE)
    s3.deny(everyone=True)
    try:
        assert refusal(fetcher_of(f"s3://{name}"), f"s3://{name}/a.jpg").code == "SOURCE_FORBIDDEN"
    finally:
        s3.deny(everyone=False)


@pytest.fixture(scope="module")
def hostile() -> Iterator[HostileServer]:
    with hostile_server() as server:
        yield server


def test_a_store_that_recovers_is_waited_for_until_the_deadline(
    fetcher_of: Make, hostile: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its buckets are the first parts of the hostile server's paths."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{hostile.address}")
    buckets = ["s3://flaky", "s3://status", "s3://trickled-body", "s3://trickled-headers"]
    assert fetcher_of(*buckets).fetch(PictureAt(uri="s3://flaky/1")) == PICTURE
    fetcher = fetcher_of(*buckets, "s3://silent", timeout_s=1.0)
    for uri in (
        "s3://status/503",
        "s3://trickled-body/a",
        "s3://trickled-headers/a",
        "s3://silent/a",
    ):
        started = time.monotonic()
        error = refusal(fetcher, uri)
        assert error.code == "SOURCE_UNAVAILABLE", error
        assert "given up after 1 s" in error.message and "\n" not in error.message
        assert time.monotonic() - started < 30, uri


def test_a_bucket_that_cannot_be_opened_stops_the_start(
    fetcher_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UsageError, match="PIXTIDE_ALLOWED_BUCKETS: az://pictures"):
        fetcher_of("az://pictures")
    with pytest.raises(UsageError, match="PIXTIDE_IMAGE_STORE"):
        ImageStore("az://pictures/originals")


def test_originals_are_put_got_and_removed(s3: S3Server, bucket: S3Store, name: str) -> None:
    url = f"s3://{name}/originals"
    worker, publisher = ImageStore(url), ImageStore(url)
    uri = publisher.put("an id", PICTURE, "jpg")
    assert uri == worker.uri_of("an id", PICTURE, "jpg") and worker.owns(uri)
    assert not worker.owns(f"s3://{name}/elsewhere.jpg")
    assert s3.keys(bucket) == [uri.removeprefix(f"s3://{name}/")]
    assert worker.get(uri, len(PICTURE)) == PICTURE
    assert worker.get(uri + "x", 10) is None
    with pytest.raises(PoisonError, match="TOO_LARGE"):
        worker.get(uri, len(PICTURE) - 1)
    assert [each.uri for each in worker.files()] == [uri]
    modified = worker.modified(uri)
    assert modified is not None and worker.seen(uri) == modified
    assert worker.now() >= modified
    assert not worker.discard(uri, modified - timedelta(seconds=1)) and worker.holds(uri)
    assert worker.discard(uri, modified)
    assert worker.discard(uri, modified), "gone already is gone"
    assert not worker.holds(uri)
    worker.put_raw("logs/moving", b"")
    assert publisher.claims() == {"logs/moving"}


def test_originals_that_nothing_names_are_swept_and_no_others(
    s3: S3Server, bucket: S3Store, name: str, tmp_path: Path
) -> None:
    store = ImageStore(f"s3://{name}/originals")
    live_uri, others_uri = (store.put(image_id, PICTURE, "jpg") for image_id in ("a", "b"))
    store.put("a", b"replaced", "jpg")
    store.put("nobody knows it", PICTURE, "jpg")
    store.put_raw("dead-letters/" + "0" * 64, b"a letter's value")
    here, other = generation(), generation("v2")
    with (
        contextlib.closing(LanceCatalog(folder=tmp_path / "index")) as catalog,
        contextlib.closing(ComparisonStore(store.original_of)) as ledger,
    ):
        for each in (here, other):
            catalog.create(each)
        catalog.open(other).write([live("b", 1, uri=others_uri)])
        ledger.note_log([Expected("a", Version(1, 0, 1), RowState.LIVE)])
        ledger.note_rows([live("a", 1, uri=live_uri)])
        side = StoreSide(store, here, catalog)
        side.begin()
        side.note_all(ledger, lambda files: files)
        assert ledger.count_left() == 0, "nothing is an hour old"
        assert side.settle(ledger) is None and ledger.counts() == {}
        ledger.note_originals(store.files(), store.now() + timedelta(hours=1))
        assert side.settle(ledger) is None and ledger.count_left() == 2
        side.sweep(ledger)
        assert ledger.count_left() == 0
        left = {each.uri for each in store.files() if "-" in each.key.partition("/")[0][:9]}
        assert left >= {live_uri, others_uri} and len(s3.keys(bucket)) == 3
        modified = store.modified(live_uri)
        assert modified is not None and store.discard(live_uri, modified)
        ledger.forget_originals([store.original_of(live_uri)])
        side.look_again(ledger, ["a"])
        assert ledger.counts() == {Kind.ORIGINAL_MISSING: 1}
        store.put("a", PICTURE, "jpg")
        side.look_again(ledger, ["a"])
        assert ledger.counts() == {}


def test_a_store_out_of_reach_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    store = ImageStore("s3://nowhere/originals")
    with pytest.raises(TransientError):
        store.get("s3://nowhere/originals/a", 1)


def test_fetching_works_beside_a_running_event_loop(
    fetcher_of: Make, bucket: S3Store, name: str
) -> None:
    """Search requests that bring pictures are served in threads of an asyncio program."""
    obstore.put(bucket, "a.jpg", PICTURE)
    fetcher = fetcher_of(f"s3://{name}")

    async def serve() -> bytes:
        return await asyncio.to_thread(fetcher.fetch, PictureAt(uri=f"s3://{name}/a.jpg"))

    assert asyncio.run(serve()) == PICTURE
