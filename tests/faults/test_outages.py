"""The broker, the index and the way to them fail, and one worker lives through it all.

It reaches both servers over links of Toxiproxy; this file looks at them directly. Each test ends in
the oracle over the whole log.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, not in __all__
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from pixtide.schemas import topics
from pixtide.search.port import RowState
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.wiring.adapters import open_catalog
from pixtide.streams.wiring.generations import generation_to_work_for
from tests.faults.oracle import (
    POISON,
    check_against_the_log,
    check_commits,
    outcomes_by_record,
    read_topic,
    topic,
)
from tests.faults.test_ingest_faults import publish, wait_until, wait_until_read
from tests.servers import KafkaServer, Link, Toxiproxy, WeaviateServer
from tests.support.deployments import OnServers, on_servers
from tests.support.pictures import jpeg

pytestmark = pytest.mark.slow

#: Longer than the group waits for a silent member.
UNREACHABLE_S = 15
SESSION_S = 9
Record = Callable[[str, object], None]


@dataclass
class Outages:
    """A deployment, its one worker, and the links that this worker has to its servers."""

    stack: OnServers
    kafka: Link
    http: Link
    grpc: Link

    @contextlib.contextmanager
    def seen_to_fail(self, what: str = "trying again") -> Iterator[None]:
        """At the block's end, wait until the worker has said once more that this fails for now."""
        before = self.log().count(what)
        yield
        wait_until(lambda: self.log().count(what) > before)

    def log(self) -> str:
        """All that the worker has said."""
        return (self.stack.folder / "ingest.log").read_text(errors="replace")

    def recovered(self, record_property: Record) -> None:
        """All is read, by the same worker; note how long that takes from now."""
        began = time.monotonic()
        wait_until_read(self.stack)
        record_property("recovery_s", round(time.monotonic() - began, 1))
        check_against_the_log(self.stack)
        assert self.stack.processes["ingest"].poll() is None, self.stack.log("ingest")


@pytest.fixture(scope="module")
def outages(
    tmp_path_factory: pytest.TempPathFactory,
    kafka: KafkaServer,
    weaviate: WeaviateServer,
    toxiproxy: Toxiproxy,
) -> Iterator[Outages]:
    folder = tmp_path_factory.mktemp("outages")
    stack = on_servers(
        folder,
        kafka,
        weaviate,
        real_model=False,
        PIXTIDE_SESSION_TIMEOUT_S=str(SESSION_S),
        PIXTIDE_BREAKER_WINDOW="0",
    )
    stack.create()
    proxied = kafka.proxied
    made = Outages(
        stack,
        kafka=toxiproxy.link("kafka", proxied.port, listen=proxied.advertised),
        http=toxiproxy.link("weaviate-http", weaviate.port),
        grpc=toxiproxy.link("weaviate-grpc", weaviate.grpc_port),
    )
    ways = {
        "PIXTIDE_KAFKA": f"127.0.0.1:{made.kafka.port}",
        "PIXTIDE_WEAVIATE_URL": f"http://127.0.0.1:{made.http.port}",
        "PIXTIDE_WEAVIATE_GRPC_PORT": str(made.grpc.port),
    }
    ready = stack.home / "ingest"
    try:
        stack.spawn("ingest", "ingest", "--ready-file", str(ready), ready=ready, **ways)
        publish(stack, {f"first-{n}": jpeg(n) for n in range(10)})
        wait_until_read(stack)
        yield made
        stack.stop_process("ingest")
    finally:
        for name in list(stack.processes):
            stack.kill(name)


@pytest.mark.fault("the broker can't be reached")
def test_an_unreachable_broker_is_waited_for(outages: Outages, record_property: Record) -> None:
    publish(outages.stack, {f"unreachable-{n}": jpeg(n) for n in range(50)})
    with outages.kafka.cut():
        publish(outages.stack, {f"unreachable-{n}": jpeg(n + 100) for n in range(25, 75)})
        time.sleep(UNREACHABLE_S)  # so that the group gives it up
    outages.recovered(record_property)


@pytest.mark.fault("the broker is killed and starts again")
def test_a_broker_that_is_killed(
    outages: Outages, kafka: KafkaServer, record_property: Record
) -> None:
    publish(outages.stack, {f"broker-{n}": jpeg(n) for n in range(100)})
    wait_until(lambda: "broker-9" in outages.stack.rows())
    kafka.kill()
    kafka.start()
    publish(outages.stack, {f"broker-{n}": jpeg(n + 200) for n in range(50, 150)})
    outages.recovered(record_property)


@pytest.mark.fault("a write is applied and its answer lost")
def test_a_write_whose_answer_is_lost_is_made_once(
    outages: Outages, record_property: Record
) -> None:
    stack = outages.stack
    with outages.grpc.slow_answers(6):
        publish(stack, {"unanswered": jpeg(300)})
        wait_until(lambda: "unanswered" in stack.rows())
        with outages.grpc.cut():  # and so the answer never comes
            with outages.seen_to_fail():
                pass
            assert "unanswered" not in {o[0].image_id for o in outcomes_by_record(stack).values()}
    outages.recovered(record_property)
    [told] = [o for o in outcomes_by_record(stack).values() if o[0].image_id == "unanswered"]
    assert [outcome.outcome for outcome in told] == ["indexed"]


@pytest.mark.fault("the connection to the index is a black hole")
def test_a_black_hole_is_left_at_the_deadline(outages: Outages, record_property: Record) -> None:
    with outages.http.deaf(), outages.grpc.deaf(), outages.seen_to_fail():  # after 10 s
        publish(outages.stack, {f"unheard-{n}": jpeg(n + 400) for n in range(20)})
    outages.recovered(record_property)


@pytest.mark.fault("the index is away")
def test_an_index_that_is_away(
    outages: Outages, weaviate: WeaviateServer, record_property: Record
) -> None:
    letters = len(read_topic(outages.stack, topics.DEAD_LETTERS))
    weaviate.stop()
    with outages.seen_to_fail():
        publish(outages.stack, {f"away-{n}": jpeg(n + 500) for n in range(50)} | {"first-3": None})
    weaviate.start()
    outages.recovered(record_property)
    assert len(read_topic(outages.stack, topics.DEAD_LETTERS)) == letters


@pytest.mark.fault("the index is killed at random during an import")
def test_an_index_that_is_killed_again_and_again(
    outages: Outages, weaviate: WeaviateServer, record_property: Record
) -> None:
    for turn in range(3):
        ids = [f"import-{n}" for n in range(40 * turn, 40 * turn + 80)]
        publish(outages.stack, {i: jpeg(turn * 1000 + n) for n, i in enumerate(ids)})
        wait_until(lambda last=ids[30]: last in outages.stack.rows())  # type: ignore[misc]
        weaviate.kill()
        weaviate.start()
    outages.recovered(record_property)


@pytest.mark.fault("the index is read-only, its disk full")
def test_a_read_only_index_is_waited_for(outages: Outages, record_property: Record) -> None:
    letters = len(read_topic(outages.stack, topics.DEAD_LETTERS))
    set_shards(outages.stack, "READONLY")
    try:
        with outages.seen_to_fail("read-only"):
            publish(outages.stack, {f"read-only-{n}": jpeg(n + 600) for n in range(20)})
        check_commits(outages.stack)
    finally:
        set_shards(outages.stack, "READY")
    outages.recovered(record_property)
    assert len(read_topic(outages.stack, topics.DEAD_LETTERS)) == letters


def set_shards(stack: OnServers, status: str) -> None:
    """Make the live collection's shards READONLY, or READY again."""
    with contextlib.closing(open_catalog(stack.settings())) as found:
        catalog: Any = found
        name = catalog._named(generation_to_work_for(catalog, None).collection)
        catalog._connection.call(
            lambda client: client.collections.use(name).config.update_shards(status)
        )


@pytest.mark.fault("the dead-letter topic takes nothing")
def test_the_source_waits_for_the_dead_letter_topic(
    outages: Outages, record_property: Record
) -> None:
    stack = outages.stack
    letters = len(read_topic(stack, topics.DEAD_LETTERS))
    set_largest(stack, 1)
    try:
        with outages.seen_to_fail("dead letters are refused"):
            publish(stack, {"undeliverable": POISON} | {f"beside-{n}": jpeg(n) for n in range(20)})
        check_commits(stack)
        assert len(read_topic(stack, topics.DEAD_LETTERS)) == letters
    finally:
        largest = topics.topics(embedded=False)[0].max_message_bytes
        set_largest(stack, largest + topics.DEAD_LETTER_ROOM)
    outages.recovered(record_property)
    assert len(read_topic(stack, topics.DEAD_LETTERS)) == letters + 1


@pytest.mark.fault("a bad record as large as the topic takes")
def test_a_dead_letter_of_the_largest_record_fits(
    outages: Outages, record_property: Record
) -> None:
    stack = outages.stack
    largest = topics.topics(embedded=False)[0].max_message_bytes
    value = POISON * ((largest - 1024) // len(POISON))
    publish(stack, {"largest": value})
    outages.recovered(record_property)
    [letter] = [r for r in read_topic(stack, topics.DEAD_LETTERS) if r.key == b"largest"]
    assert letter.value == value
    assert stack.rows()["largest"].state is RowState.DEAD_LETTERED


def set_largest(stack: OnServers, size: int) -> None:
    """How many bytes a dead letter may have."""
    client = kafka_clients.admin(stack.settings().kafka_connection())
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(
        ResourceType.TOPIC, topic(stack, topics.DEAD_LETTERS), incremental_configs=[entry]
    )
    client.incremental_alter_configs([resource])[resource].result()
