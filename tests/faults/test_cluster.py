"""Three brokers, three nodes of Weaviate and two workers of each kind lose one of each, and nobody
notices: not the publisher, whose every event ends in the index, nor those who search meanwhile.

Each test runs under an unceasing publisher and an unceasing searcher and ends in the oracle.
"""

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import pytest
from confluent_kafka import KafkaError, Message

from pixtide.encoders.port import Encoder
from pixtide.schemas import topics
from pixtide.schemas.errors import TransientError
from pixtide.schemas.identity import Version
from pixtide.schemas.queries import SearchRequest
from pixtide.search.port import Query, VectorIndex
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.wiring.adapters import load_encoder, open_catalog
from pixtide.streams.wiring.clients import search_client
from pixtide.streams.wiring.generations import generation_to_work_for
from tests.faults.members import shares
from tests.faults.oracle import Coordinates, check_against_the_log, committed, read_topic, topic
from tests.faults.test_chaos import SEED, Event, events
from tests.faults.test_ingest_faults import produce, wait_until, wait_until_read
from tests.support.cluster import WORKERS, Cluster
from tests.support.cluster import cluster as running_cluster
from tests.support.models import tiny_clip
from tests.support.traffic import Publishing, Searching

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

#: How long a search may take: recovering takes seconds, but all of this may share two cores.
SEARCH_S = 60.0
#: The part of the searches that may fail, retryably.
MAY_FAIL = 0.001
#: How long Weaviate may take to make copies equal, mostly a minute.
EQUAL_S = 400.0
#: Rows of a node that are told of where it isn't equal.
TOLD = 3
#: Rows that are searched for on each node in the end.
SAMPLE = 40
Record = Callable[[str, object], None]
UnderLoad = Callable[[], contextlib.AbstractContextManager["Load"]]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """All of it, running."""
    folder = tmp_path_factory.mktemp("cluster")
    with running_cluster(
        folder,
        lambda _: None,
        tiny_clip(folder / "model"),
        PIXTIDE_SESSION_TIMEOUT_S="15",  # longer than it takes to give up a broker
        PIXTIDE_BREAKER_WINDOW="0",  # much is bad on purpose
    ) as made:
        made.start_workers(*WORKERS)
        yield made
        for name in list(made.stack.processes):
            made.stack.stop_process(name)


@pytest.fixture(scope="module")
def encoder(cluster: Cluster) -> Encoder:
    """That of the one generation."""
    return load_encoder(cluster.stack.settings(), cluster.stack.env["PIXTIDE_MODEL"])


@pytest.fixture(scope="module")
def course() -> Iterator[Event]:
    """What happens, from one test to the next."""
    return events(random.Random(SEED), 10**6)


@dataclass
class Load:
    """What goes on while something fails."""

    cluster: Cluster
    searching: Searching
    publishing: Publishing
    began: float = 0.0
    took_s: float = 0.0

    def fails(self, *names: str) -> None:
        """SIGKILL all of these at once; from now on it is counted."""
        self.searching.phase = "failed"
        self.began = time.monotonic()
        for name in names:
            self.cluster.kill(name)

    def newcomer_is_answered(self) -> None:
        """A client that connects only now finds a broker and a partition that answer."""
        with search_client(self.cluster.stack.settings(), timeout_s=SEARCH_S) as client:
            assert client.search(SearchRequest(text="news")).error is None

    def recovered(self) -> None:
        """Whatever was published since the fault is read, and searches are answered again."""
        published = self.publishing.published
        wait_until(lambda: self.publishing.published > published + 10)
        wait_until(partial(has_read, self.cluster, ends_of(self.cluster)))
        self.took_s = time.monotonic() - self.began
        self.searching.phase = "recovered"
        self.searching.await_searches(20, SEARCH_S)


def places_in_log(cluster: Cluster) -> list[Coordinates]:
    """Of everything that the log holds now."""
    return [(r.partition, r.offset) for r in read_topic(cluster.stack, topics.UPLOADED)]


def ends_of(cluster: Cluster) -> dict[int, int]:
    """Where each partition of the log ends, once each has a leader again."""
    client = kafka_clients.admin(cluster.stack.settings().kafka_connection())
    numbers = range(topics.topics(embedded=False)[0].partitions)
    deadline = time.monotonic() + SEARCH_S
    while True:
        try:
            return kafka_offsets.ends(client, topic(cluster.stack), numbers)
        except TransientError:
            if time.monotonic() > deadline:
                raise


def has_read(cluster: Cluster, ends: dict[int, int]) -> bool:
    """Whether all below these offsets is committed; nobody knows while there is no coordinator."""
    with contextlib.suppress(TransientError):
        done = committed(cluster.stack)
        return all(done.get(number, 0) >= end for number, end in ends.items())
    return False


@pytest.fixture
def under_load(
    cluster: Cluster, encoder: Encoder, course: Iterator[Event], record_property: Record
) -> UnderLoad:
    """A publisher and a searcher; in the end nothing is lost, and hardly a search has failed."""
    settings = cluster.stack.settings()
    producer = kafka_clients.producer(settings.kafka_connection(), linger_ms=5)
    uploaded = topic(cluster.stack)
    delivered: list[Coordinates] = []
    lost: list[str] = []

    def reported(error: KafkaError | None, message: Message) -> None:
        if error is None:
            delivered.append((message.partition() or 0, message.offset() or 0))
        else:
            lost.append(f"{message.key()!r}: {error.str()}")

    def publish(_: int) -> None:
        produce(producer, uploaded, *next(course), reported)
        producer.poll(0)

    @contextlib.contextmanager
    def loaded() -> Iterator[Load]:
        before = places_in_log(cluster)
        with (
            Searching(settings, {"v1": encoder}, SEARCH_S) as searching,
            Publishing(publish, 0.05) as publishing,
        ):
            searching.await_searches(20, SEARCH_S)
            load = Load(cluster, searching, publishing)
            yield load
        assert producer.flush(60) == 0
        assert not lost
        assert len(delivered) == publishing.published
        heard = searching.heard
        failed = f"{len(heard.failed)} failed, slowest {heard.slowest_s:.1f} s"
        record_property("searches", f"{heard.asked:,}, {failed}")
        assert not heard.mixed
        assert len(heard.failed) <= MAY_FAIL * heard.asked, heard.failed
        wait_until_read(cluster.stack)
        now = places_in_log(cluster)
        told = {place for place in delivered if place[1] >= 0}  # who leads anew may not tell
        assert {*before, *told} - set(now) == set()
        assert len(set(now)) == len(now) == len(before) + publishing.published
        cluster.await_whole()
        check_each_node(cluster)
        equal_s = time.monotonic() - load.began
        recovery = f"{load.took_s:.1f} s, copies equal after {equal_s:.0f}"
        record_property("recovery_s", recovery)
        check_against_the_log(cluster.stack)

    return loaded


@contextlib.contextmanager
def each_node(cluster: Cluster) -> Iterator[list[VectorIndex]]:
    """The live generation as each node of Weaviate alone sees it."""
    settings = cluster.stack.settings()
    urls = (settings.weaviate_url or "").split(",")
    with contextlib.closing(open_catalog(settings)) as catalog:
        generation = generation_to_work_for(catalog, None)
    with contextlib.ExitStack() as opened:
        catalogs = [
            open_catalog(settings.changed(weaviate_url=url, weaviate_grpc_port=(port,)))
            for url, port in zip(urls, settings.weaviate_grpc_port, strict=True)
        ]
        for catalog in catalogs:
            opened.enter_context(contextlib.closing(catalog))
        yield [catalog.open(generation) for catalog in catalogs]


def check_each_node(cluster: Cluster) -> None:
    """Each node soon has what the log says, and finds the pictures that it is asked for."""
    records = sorted(read_topic(cluster.stack, topics.UPLOADED), key=lambda record: record.offset)
    latest = {
        (record.key or b"").decode(): Version(1, record.partition, record.offset)
        for record in records
    }
    with each_node(cluster) as nodes:
        deadline = time.monotonic() + EQUAL_S
        while any(apart := [differences(node, latest) for node in nodes]):
            assert time.monotonic() < deadline, [
                (len(rows), dict(islice(rows.items(), TOLD))) for rows in apart
            ]
            time.sleep(1)
        for node in nodes:
            some = random.Random(SEED).sample(sorted(latest), min(SAMPLE, len(latest)))
            rows = node.get(some).values()
            asked = {row.sha256: row.vector for row in rows if row.vector is not None}
            queries = [Query(vector=vector, limit=100) for vector in asked.values()]
            for sha256, near in zip(asked, node.search(queries), strict=True):
                # others of the same content are as near
                assert sha256 in {hit.row.sha256 for hit in near}


def differences(
    node: VectorIndex, latest: dict[str, Version]
) -> dict[str, tuple[Version | None, Version | None]]:
    """By image id, the version that a node has and the one that it should have."""
    has = {row.image_id: row.version for row in node.scan()}
    wrong = {image_id for image_id, _ in has.items() ^ latest.items()}
    return {image_id: (has.get(image_id), latest.get(image_id)) for image_id in wrong}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            "kafka-0", marks=pytest.mark.fault("kill -9 of one of three brokers"), id="broker"
        ),
        pytest.param(
            "weaviate-0",  # the one whose address is the first
            marks=pytest.mark.fault("kill -9 of one of three nodes of Weaviate"),
            id="node-of-weaviate",
        ),
    ],
)
def test_a_server_is_killed(under_load: UnderLoad, name: str) -> None:
    with under_load() as load:
        load.fails(name)
        load.newcomer_is_answered()
        load.recovered()
        load.cluster.start_again(name)
        load.cluster.await_whole()


@pytest.mark.fault("kill -9 of one of two ingest workers and of one of two query consumers")
def test_a_worker_of_each_kind_is_killed(under_load: UnderLoad) -> None:
    with under_load() as load:
        wait_until(lambda: shares(load.cluster.stack) == [3, 3])
        load.fails("ingest-1", "query-1")
        load.recovered()
        load.cluster.start_workers("ingest-1", "query-1")


@pytest.mark.fault("kill -9 of a broker, a node of Weaviate and a worker of each kind at once")
def test_one_of_each_is_killed_at_once(under_load: UnderLoad) -> None:
    with under_load() as load:
        killed = ("kafka-1", "weaviate-1", "ingest-2", "query-2")
        load.fails(*killed)
        load.recovered()
        for name in killed[:2]:
            load.cluster.start_again(name)
        load.cluster.start_workers(*killed[2:])
        load.cluster.await_whole()


@pytest.mark.fault("a node of Weaviate loses its disk")
def test_a_node_of_weaviate_comes_back_with_an_empty_disk(under_load: UnderLoad) -> None:
    with under_load() as load:
        load.fails("weaviate-2")
        load.cluster.wipe("weaviate-2")
        load.cluster.start_again("weaviate-2")
        load.cluster.await_whole()
        load.recovered()


@pytest.mark.fault("each server and each worker is restarted in its turn")
def test_no_search_fails_while_everything_is_restarted(under_load: UnderLoad) -> None:
    with under_load() as load:
        load.fails()
        for server in load.cluster.servers.values():
            server.stop()
            server.start()
            load.cluster.await_whole()
        for pair in (("ingest-1", "query-1"), ("ingest-2", "query-2")):
            for name in pair:
                load.cluster.stack.stop_process(name)
            load.cluster.start_workers(*pair)
        load.recovered()
        assert load.searching.heard.failed == []


@pytest.mark.fault("a worker is added")
def test_a_worker_that_is_added_takes_partitions_over(under_load: UnderLoad) -> None:
    with under_load() as load:
        load.searching.phase = "added"
        load.cluster.start_workers("ingest-3")
        load.fails()  # counts from when it is ready
        wait_until(lambda: shares(load.cluster.stack) == [2, 2, 2])
        load.recovered()
        load.cluster.stack.stop_process("ingest-3")
