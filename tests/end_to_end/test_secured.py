"""The whole system with every door locked: SCRAM and TLS, least grants, a key for Weaviate."""

import contextlib
import copy
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pixtide.schemas import topics
from pixtide.search.port import RowState
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.query.telemetry import GroupOffsets
from tests.servers import KafkaServer, WeaviateServer
from tests.servers.certificates import make_certificates
from tests.servers.tls import TlsFront
from tests.servers.weaviate import weaviate_server
from tests.support.deployments import OnServers
from tests.support.models import tiny_clip
from tests.support.pictures import jpeg
from tests.support.principals import Principals

pytestmark = pytest.mark.slow

API_KEY = uuid.uuid4().hex


@dataclass(frozen=True)
class Secured:
    """One deployment, of which each process and command is its own principal."""

    everything: OnServers
    principals: Principals

    def by(self, process: str) -> OnServers:
        """The deployment as that principal uses it."""
        mine = copy.copy(self.everything)
        mine.env = self.everything.env | self.principals.environment(process)
        return mine


@pytest.fixture(scope="module")
def locked_weaviate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeaviateServer]:
    folder = tmp_path_factory.mktemp("locked-weaviate")
    (folder / "data").mkdir()
    server = weaviate_server(folder, lambda _: None, api_key=API_KEY)
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def doors() -> Iterator[contextlib.ExitStack]:
    """What stands before a server is closed after all that goes through it."""
    with contextlib.ExitStack() as made:
        yield made


@pytest.fixture(scope="module")
def secured(
    tmp_path_factory: pytest.TempPathFactory,
    kafka: KafkaServer,
    locked_weaviate: WeaviateServer,
    doors: contextlib.ExitStack,
) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    key = folder / "weaviate-key"
    key.write_text(API_KEY + "\n")
    certificates = make_certificates(folder)
    http = doors.enter_context(TlsFront(locked_weaviate.port, certificates))
    grpc = doors.enter_context(TlsFront(locked_weaviate.grpc_port, certificates))
    deployment = OnServers(
        folder / "home",
        kafka=kafka.secured.bootstrap,
        weaviate_url=f"https://127.0.0.1:{http.port}",
        grpc_port=grpc.port,
        PIXTIDE_WEAVIATE_CA_FILE=str(certificates.authority),
        PIXTIDE_WEAVIATE_API_KEY_FILE=str(key),
        PIXTIDE_MODEL=tiny_clip(folder / "model"),
    )
    made = Secured(deployment, Principals(kafka, deployment.env["PIXTIDE_NAMESPACE"]))
    made.by("operator").run("topics", "create")
    made.by("operator").run("index", "create", "v1")
    try:
        for process in ("ingest", "query"):
            made.by(process).start_process(process)
        yield made
    finally:
        deployment.stop()


def test_each_process_works_with_no_more_than_its_grants(secured: Secured) -> None:
    pictures = secured.everything.folder / "pictures"
    pictures.mkdir()
    for number in range(4):
        (pictures / f"{number}.jpg").write_bytes(jpeg(number))
    (pictures / "bad.jpg").write_bytes(jpeg(9)[:-100])
    publisher, operator = secured.by("publisher"), secured.by("operator")

    summary = publisher.publish(str(pictures), "--inline", "--prefix", "p", code=1)
    assert summary["outcomes"] == {"indexed": 4, "dead_lettered": 1}
    gone = json.loads(publisher.run("delete", "p/3.jpg", "--wait", "--json"))
    assert gone["outcomes"] == {"deleted": 1}

    found = secured.by("client").search("a picture", "-k", "10")
    assert {result["image_id"] for result in found} == {"p/0.jpg", "p/1.jpg", "p/2.jpg"}
    assert [row.state for row in operator.rows().values()].count(RowState.LIVE) == 3
    assert "v1" in operator.run("index", "status")
    assert operator.run_here("topics", "dump").endswith('{"records":6}\n')
    operator.run("doctor")


def test_who_adds_workers_by_their_lag_sees_it(secured: Secured) -> None:
    mine = secured.by("scaler").settings()
    for topic, group in ((topics.UPLOADED, "ingest.v1"), (topics.REQUESTS, "query")):
        connection, name = mine.kafka_connection(), mine.named(topic)
        ends = kafka_offsets.ends(kafka_clients.admin(connection), name, range(6))
        offsets = GroupOffsets(connection, mine.named(group), name).committed(range(6))
        assert all(offsets[partition] <= ends[partition] for partition in offsets)
        assert topic == topics.REQUESTS or len(offsets) == 6


@pytest.mark.parametrize(
    ("principal", "command"),
    [
        ("client", ("publish", ".")),
        ("publisher", ("search", "a picture")),
        ("publisher", ("ingest",)),
        ("ingest", ("query",)),
        ("query", ("ingest",)),
        ("client", ("topics", "create")),
    ],
)
def test_who_lacks_a_grant_ends_and_says_so(
    secured: Secured, principal: str, command: tuple[str, ...]
) -> None:
    mine = secured.by(principal)
    (mine.folder / "x.jpg").write_bytes(jpeg(1))
    with pytest.raises(AssertionError, match=r": 2\n.*docs/security\.md"):
        mine.run(*command)


def test_a_wrong_key_for_weaviate_ends_and_says_so(secured: Secured) -> None:
    mine = secured.by("ingest")
    mine.env = {k: v for k, v in mine.env.items() if not k.endswith("KEY_FILE")}
    mine.env["PIXTIDE_WEAVIATE_API_KEY"] = "wrong"
    with pytest.raises(AssertionError, match=r": 2\n.*refuses the API key"):
        mine.run("ingest")
