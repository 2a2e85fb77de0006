"""Pictures in Azure's and Google's buckets, and originals in Azure's, against servers of theirs."""

import uuid
from collections.abc import Iterator

import obstore
import pytest
from obstore.store import from_url

from pixtide.schemas.errors import PoisonError
from pixtide.schemas.events import PictureAt
from pixtide.streams.originals.fetcher import Fetcher, FetchLimits
from pixtide.streams.originals.store import ImageStore
from tests.servers.buckets import BucketServer, azurite, fake_gcs
from tests.support.hostile import PICTURE

pytestmark = pytest.mark.slow

LIMIT = 10_000


@pytest.fixture(scope="module", params=[azurite, fake_gcs], ids=["azure", "google"])
def buckets(
    request: pytest.FixtureRequest,
    bucket_servers: None,  # noqa: ARG001  # names what is to be at hand
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[BucketServer]:
    server: BucketServer = request.param(tmp_path_factory.mktemp("buckets"), lambda _: None)
    server.start()
    yield server
    server.close()


@pytest.fixture
def bucket(buckets: BucketServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty one, which the environment lets us into."""
    for name, value in buckets.environment.items():
        monkeypatch.setenv(name, value)
    return buckets.create_bucket(f"pictures-{uuid.uuid4().hex[:12]}")


def test_allowed_buckets_are_fetched_from_and_no_others(bucket: str, buckets: BucketServer) -> None:
    key, uri = "a folder/ä.jpg", f"{bucket}/a%20folder/%C3%A4.jpg"
    etags = []
    for data in (b"first", PICTURE):
        buckets.put(bucket, key, data)
        etags.append(obstore.head(from_url(bucket), key)["e_tag"])
    buckets.put(bucket, "huge", b"x" * (LIMIT + 1))
    originals = ImageStore(f"{bucket}/originals")
    fetcher = Fetcher(originals, FetchLimits(LIMIT, 10.0, allowed_buckets=frozenset([bucket])))
    try:
        assert fetcher.fetch(PictureAt(uri=uri)) == PICTURE
        assert fetcher.fetch(PictureAt(uri=uri, etag=etags[1])) == PICTURE
        for refused, code in {
            PictureAt(uri=uri, etag=etags[0]): "SOURCE_CHANGED",
            PictureAt(uri=f"{bucket}/huge"): "TOO_LARGE",
            PictureAt(uri=f"{bucket}/missing"): "SOURCE_GONE",
            PictureAt(uri=f"{bucket}-2/a"): "BUCKET_NOT_ALLOWED",
        }.items():
            with pytest.raises(PoisonError) as caught:
                fetcher.fetch(refused)
            assert caught.value.code == code, refused
    finally:
        fetcher.close()


@pytest.mark.parametrize("buckets", [azurite], indirect=True, ids=["azure"])
def test_a_refused_login_is_forbidden(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "d3Jvbmc=")
    limits = FetchLimits(LIMIT, 10.0, allowed_buckets=frozenset([bucket]))
    fetcher = Fetcher(ImageStore(f"{bucket}/originals"), limits)
    with pytest.raises(PoisonError, match="SOURCE_FORBIDDEN"):
        fetcher.fetch(PictureAt(uri=f"{bucket}/a.jpg"))
    fetcher.close()


@pytest.mark.parametrize("buckets", [azurite], indirect=True, ids=["azure"])
def test_originals_are_put_got_and_removed(bucket: str) -> None:
    url = f"{bucket}/originals"
    worker, publisher = ImageStore(url), ImageStore(url)
    uri = publisher.put("an id", PICTURE, "jpg")
    assert uri == worker.uri_of("an id", PICTURE, "jpg") and worker.owns(uri)
    assert worker.get(uri, len(PICTURE)) == PICTURE
    assert worker.get(uri + "x", 10) is None
    assert [each.uri for each in worker.files()] == [uri]
    modified = worker.modified(uri)
    assert modified is not None and worker.seen(uri) == modified <= worker.now()
    assert worker.discard(uri, modified)
    assert worker.get(uri, len(PICTURE)) is None
    assert worker.discard(uri, modified), "gone already is gone"
