"""Raw records and raw requests against running workers, on real servers and on embedded parts."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pixtide.schemas import topics
from tests.servers import KafkaServer, WeaviateServer
from tests.strangers.deployment import SECRET, Besieged
from tests.strangers.generated import Sent, requests, uploads
from tests.support.deployments import Embedded, OnServers, on_servers
from tests.support.models import tiny_clip
from tests.support.raw_records import RawRecord

#: Records that each example sends; and how many examples.
_AT_ONCE = 12
_EXAMPLES = 400 if os.environ.get("PIXTIDE_TEST_STRANGERS") == "long" else 12
#: To find it smaller would need processes that are still alive.
_unshrunk = settings(
    max_examples=_EXAMPLES,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)

#: What once ended or silenced a process; failing examples are kept here.
CASES = [
    Sent(RawRecord(b"k", b"{}", [(b"\xff\xfe", b"1")])),
    Sent(RawRecord(b"k", b'{"uri": "http://store.invalid/x/./y.jpg"}')),
    Sent(RawRecord(b"k", None), transaction="commit"),
    *(
        Sent(RawRecord(b"k", b'{"text": "a"}'), codec)
        for codec in ("gzip", "snappy", "lz4", "zstd")
    ),
    *(
        Sent(RawRecord(b"k", b'{"text": "a", "filters": {"attributes": %s}}' % odd))
        for odd in (b"5", b"true", b"1.5", b"[1]", b'{"a": {"b": {}}}')
    ),
    Sent(RawRecord(b"k", b'{"text": "a"}'), transaction="commit"),
    Sent(RawRecord(b"k", b'{"text": "a"}'), transaction="abort"),
]


def _quiet(folder: Path) -> dict[str, str]:
    return {
        "PIXTIDE_BREAKER_WINDOW": "0",  # nearly all that comes is bad
        "PIXTIDE_WEB_TOKEN": SECRET,
        "PIXTIDE_FETCH_TIMEOUT_S": "2",
        "PIXTIDE_IMAGE_STORE": (folder / "originals").as_uri(),
    }


@pytest.fixture(scope="module")
def besieged_servers(
    tmp_path_factory: pytest.TempPathFactory, kafka: KafkaServer, weaviate: WeaviateServer
) -> Iterator[Besieged]:
    folder = tmp_path_factory.mktemp("besieged")
    made = on_servers(folder, kafka, weaviate, real_model=False, **_quiet(folder))
    try:
        made.start()
        yield Besieged(made)
    finally:
        made.stop()


@pytest.fixture(scope="module")
def besieged_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    folder = tmp_path_factory.mktemp("besieged")
    model = tiny_clip(folder / "model")
    made = Embedded(folder / "home", PIXTIDE_MODEL=model, **_quiet(folder))
    try:
        made.start()
        yield Besieged(made)
    finally:
        made.stop()


def send_uploads(besieged: Besieged, sent: list[Sent]) -> None:
    """Whatever comes: the workers live, and everybody's records have their outcomes."""
    places = besieged.upload(sent)
    besieged.await_outcomes(places + besieged.upload_good())


def send_requests(besieged: Besieged, sent: list[Sent]) -> None:
    """Whatever is asked: the consumer lives, and everybody who can be answered is."""
    asked = besieged.ask(sent)
    good = besieged.ask_good()
    besieged.await_replies(asked)
    assert all("error" not in reply for reply in besieged.await_replies(good))


def read_to_the_end(besieged: Besieged) -> None:
    besieged.await_read(topics.UPLOADED, "ingest.v1")
    besieged.await_read(topics.REQUESTS, "query")


class TestOnServers:
    def test_cases(self, besieged_servers: Besieged) -> None:
        send_uploads(besieged_servers, CASES)
        send_requests(besieged_servers, CASES)

    @_unshrunk
    @given(sent=st.lists(uploads(), min_size=_AT_ONCE, max_size=_AT_ONCE))
    def test_uploads(self, besieged_servers: Besieged, sent: list[Sent]) -> None:
        send_uploads(besieged_servers, sent)

    @_unshrunk
    @given(sent=st.lists(requests(), min_size=_AT_ONCE, max_size=_AT_ONCE))
    def test_requests(self, besieged_servers: Besieged, sent: list[Sent]) -> None:
        send_requests(besieged_servers, sent)

    def test_all_is_read_and_the_index_is_the_logs(self, besieged_servers: Besieged) -> None:
        read_to_the_end(besieged_servers)
        assert isinstance(besieged_servers.deployment, OnServers)
        besieged_servers.deployment.run("index", "verify", "v1")


@pytest.mark.slow
class TestEmbedded:
    def test_cases(self, besieged_stack: Besieged) -> None:
        send_uploads(besieged_stack, _plain(CASES))
        send_requests(besieged_stack, _plain(CASES))

    @_unshrunk
    @given(sent=st.lists(uploads(), min_size=_AT_ONCE, max_size=_AT_ONCE))
    def test_uploads(self, besieged_stack: Besieged, sent: list[Sent]) -> None:
        send_uploads(besieged_stack, _plain(sent))

    @_unshrunk
    @given(sent=st.lists(requests(), min_size=_AT_ONCE, max_size=_AT_ONCE))
    def test_requests(self, besieged_stack: Besieged, sent: list[Sent]) -> None:
        send_requests(besieged_stack, _plain(sent))

    def test_all_is_read_and_the_index_is_the_logs(self, besieged_stack: Besieged) -> None:
        read_to_the_end(besieged_stack)
        besieged_stack.deployment.run("index", "verify", "v1")


def _plain(sent: list[Sent]) -> list[Sent]:
    """Outside transactions: the embedded broker has none."""
    return [Sent(one.record, one.codec, astray=one.astray) for one in sent]
