"""A broker that is slow, or comes back from a standstill, on a real Kafka."""

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from pixtide.schemas import topics
from pixtide.schemas.errors import TransientError
from pixtide.schemas.queries import SearchReply, SearchRequest
from pixtide.schemas.reply_address import CORRELATION_ID, REPLY_PARTITION
from pixtide.streams.client.asynchronous import AsyncSearchClient
from pixtide.streams.ingest.assignment import Assignment
from pixtide.streams.ingest.in_flight import InFlight
from pixtide.streams.ingest.start_positions import Positions
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import errors as kafka_errors
from pixtide.streams.kafka import log_guard, renewed_client
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.kafka.log_guard import LogGuard
from pixtide.streams.kafka.records import Record
from pixtide.streams.query.faust_app import died_of, faust_app
from tests.contracts.proxy import Api, ApiProxy
from tests.servers import KafkaServer

#: Far longer than any turn may take, and that on a busy machine.
DELAY_S, LONGEST_TURN_S = 8.0, 4.0
IN_TIME_S = 120.0
LATE = (Api.Metadata, Api.ListOffsets, Api.OffsetFetch, Api.OffsetCommit)


@pytest.fixture
def way(kafka: KafkaServer) -> Iterator[ApiProxy]:
    with ApiProxy(kafka.port) as proxy:
        yield proxy


@pytest.fixture
def name(kafka: KafkaServer) -> str:
    """Of a log and, with `-retry`, its retry topic."""
    name, [table, *_] = f"log-{uuid.uuid4().hex[:10]}", topics.topics(embedded=False)
    client = kafka_clients.admin(KafkaConnection(kafka.bootstrap))
    both = [(name, table), (f"{name}-retry", table)]
    kafka_topics.create_topics(client, both, replication=1)
    connection = KafkaConnection(kafka.bootstrap)
    beginning = dict.fromkeys(range(table.partitions), 0)
    for topic, _ in both:
        kafka_offsets.commit_beginning(connection, name, topic, beginning)
    return name


@pytest.mark.fault("a broker that comes back says for a moment that there are no brokers")
def test_a_client_that_has_forgotten_all_brokers_is_made_anew(
    way: ApiProxy, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # librdkafka starts over by itself mostly, and by chance not at all: here never
    never = kafka_clients._QUIET | {"metadata.recovery.strategy": "none"}
    monkeypatch.setattr(kafka_clients, "_QUIET", never)
    monkeypatch.setattr(renewed_client, "PATIENCE_S", 3.0)
    client = kafka_clients.admin(KafkaConnection(f"127.0.0.1:{way.port}"))
    assert kafka_topics.partitions_of(client, name)
    way.knows_no_brokers = True
    with contextlib.suppress(TransientError):
        client.list_topics(name, timeout=2)
    with pytest.raises(TransientError), kafka_errors.translated(client):
        client.list_topics(name, timeout=2)
    way.knows_no_brokers = False
    assert awaited(lambda: answers(client, name)), "for good"


@pytest.mark.fault("a broker that comes back says for a moment that there are no brokers")
def test_a_search_client_that_has_forgotten_all_brokers_connects_again(
    way: ApiProxy, name: str, kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgets = {"metadata.recovery.strategy": "none", "topic.metadata.refresh.interval.ms": 200}
    monkeypatch.setattr(kafka_clients, "_QUIET", kafka_clients._QUIET | forgets)
    monkeypatch.setattr(renewed_client, "PATIENCE_S", 3.0)
    topics_of = {"request_topic": name, "reply_topic": f"{name}-retry", "timeout_s": 5.0}

    async def main() -> None:
        client = AsyncSearchClient(KafkaConnection(f"127.0.0.1:{way.port}"), **topics_of)  # type: ignore[arg-type]

        async def is_answered() -> bool:
            with contextlib.suppress(TransientError):
                return (await client.search(SearchRequest(text="a"))).results == ()
            return False

        async def awaited_answer(wanted: bool) -> None:
            async with asyncio.timeout(IN_TIME_S):
                while await is_answered() != wanted:
                    pass

        async with client:
            await awaited_answer(True)
            way.knows_no_brokers = True
            await awaited_answer(False)
            way.knows_no_brokers = False
            await awaited_answer(True)

    with answering(KafkaConnection(kafka.bootstrap), name):
        asyncio.run(main())


@contextlib.contextmanager
def answering(connection: KafkaConnection, name: str) -> Iterator[None]:
    """A service that finds nothing, whatever it is asked."""
    ended, producer = threading.Event(), kafka_clients.producer(connection, linger_ms=0)
    consumer = kafka_clients.tail_consumer(connection)
    numbers = range(kafka_topics.partitions_of(kafka_clients.admin(connection), name))
    consumer.assign([TopicPartition(name, number, 0) for number in numbers])
    nothing = SearchReply(results=()).to_json()

    def answer() -> None:
        while not ended.is_set():
            message = consumer.poll(0.05)
            if message is None or message.error() is not None:
                continue
            headers = dict(message.headers() or [])
            partition = int.from_bytes(headers[REPLY_PARTITION], "big")  # type: ignore[arg-type]
            own = [(CORRELATION_ID, headers[CORRELATION_ID])]
            producer.produce(f"{name}-retry", nothing, b"k", partition, headers=own)
            producer.poll(0)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    yield
    ended.set()
    thread.join(IN_TIME_S)
    consumer.close()


def answers(client: Any, name: str) -> bool:
    try:
        return kafka_topics.partitions_of(client, name) > 0
    except TransientError:
        return False


def awaited(look: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + IN_TIME_S
    while time.monotonic() < deadline:
        if look():
            return True
        time.sleep(0.1)
    return False


class Member:
    """A worker's main thread, as far as the broker is concerned, and how long its turns take."""

    def __init__(self, connection: KafkaConnection, name: str) -> None:
        self.flight: InFlight[Record] = InFlight()
        self.longest_s = 0.0
        self.has: set[int] = set()
        client = kafka_clients.admin(connection)
        self._guard = LogGuard(client, kafka_topics.log_identity(client, name))
        self.assignment = Assignment(
            lambda more: kafka_clients.ingest_consumer(
                connection, name, **kafka_clients.session(60), **more
            ),
            Positions(connection, client, name, self._guard),
            self.flight,
            retry_topic=f"{name}-retry",
            settle=lambda: None,
        )
        self.error: BaseException | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ending.set()
        self._thread.join(IN_TIME_S)
        self.has = set()
        assert not self._thread.is_alive() and self.error is None, self.error

    def _run(self) -> None:
        try:
            self.assignment.join()
            while not self._ending.is_set():
                began = time.monotonic()
                self._turn()
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                self.has = {p.partition for p in self.assignment._consumer.assignment()}
            self.assignment.leave()
        except BaseException as error:  # noqa: BLE001  # told in the end
            self.error = error

    def _turn(self) -> None:
        if (record := self.assignment.poll(0.05)) is not None:
            self.flight.admit(record)
            self.flight.finish(record)
        self.assignment.commit_now_and_then()
        self._guard.check_now_and_then()


@pytest.fixture
def members() -> Iterator[Callable[[KafkaConnection, str], Member]]:
    made: list[Member] = []

    def make(connection: KafkaConnection, name: str) -> Member:
        made.append(Member(connection, name))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.mark.fault("a broker that answers each kind of request late")
@pytest.mark.slow
def test_the_main_thread_waits_for_no_broker(
    way: ApiProxy,
    name: str,
    kafka: KafkaServer,
    members: Callable[[KafkaConnection, str], Member],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_guard, "_EVERY_S", 1.0)
    slow = members(KafkaConnection(f"127.0.0.1:{way.port}"), name)
    way.late = dict.fromkeys(LATE, DELAY_S)  # before the group gives it anything
    way.seen.clear()
    assert awaited(lambda: len(slow.has) > 0)
    producer = kafka_clients.producer(KafkaConnection(kafka.bootstrap), linger_ms=0)
    for number in range(60):
        producer.produce(name, b"x", str(number).encode())
    assert producer.flush(30) == 0
    other = members(KafkaConnection(kafka.bootstrap), name)
    assert awaited(lambda: len(other.has) > 0), "partitions are let go"
    # where Metadata is as late, nobody comes to ask for the ends
    asked = set(LATE) - {Api.ListOffsets}
    assert awaited(lambda: set(way.seen) >= asked), "each kind of request was made"
    way.late = {}
    assert slow.longest_s < LONGEST_TURN_S


@pytest.mark.fault("partitions are taken away while a row is being written")
def test_partitions_are_let_go_when_rows_are_written_and_polling_goes_on(
    name: str, kafka: KafkaServer, members: Callable[[KafkaConnection, str], Member]
) -> None:
    first = members(KafkaConnection(kafka.bootstrap), name)
    assert awaited(lambda: len(first.has) > 0)
    count = len(first.has)
    with first.assignment.lock:  # as a writer holds it
        second = members(KafkaConnection(kafka.bootstrap), name)
        time.sleep(DELAY_S)
        assert len(first.has) == count and not second.has, "nothing changes hands meanwhile"
    assert awaited(lambda: len(first.has) + len(second.has) == count and len(second.has) > 0)
    assert first.longest_s < LONGEST_TURN_S
    assert first.has.isdisjoint(second.has)


@pytest.mark.fault("the fetching task of a query consumer ends")
def test_a_fetcher_that_has_ended_is_found_out(name: str, kafka: KafkaServer) -> None:
    async def main() -> None:
        app = faust_app(KafkaConnection(kafka.bootstrap), f"{name}-q", buffered=16)
        topic = app.topic(name, key_serializer="raw", value_serializer="raw")

        async def take(stream: Any) -> None:
            async for _ in stream.events():
                pass

        app.agent(topic, concurrency=1, name="take")(take)
        await app.start()
        try:
            thread = app.consumer._thread
            assert died_of(app) is None
            task = thread._consumer._fetcher._fetch_task
            thread.thread_loop.call_soon_threadsafe(task.cancel)
            deadline = time.monotonic() + IN_TIME_S
            while died_of(app) is None and time.monotonic() < deadline:
                await asyncio.sleep(0.1)
            assert died_of(app) is not None
        finally:
            await app.stop()

    asyncio.run(main())
