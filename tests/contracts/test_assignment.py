"""How far a worker's group has read, as the broker has it, on a real Kafka."""

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from confluent_kafka import Producer, TopicPartition

from pixtide.schemas import topics
from pixtide.schemas.errors import FatalError
from pixtide.streams.ingest.assignment import Assignment
from pixtide.streams.ingest.commit_metadata import Mark, moved_since
from pixtide.streams.ingest.in_flight import InFlight
from pixtide.streams.ingest.start_positions import Positions
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.kafka.log_guard import LogGuard
from pixtide.streams.kafka.offsets import CommittedPosition
from pixtide.streams.kafka.records import Record
from pixtide.streams.kafka.topic_reader import records_of
from tests.contracts.proxy import Api, ApiProxy
from tests.servers import KafkaServer
from tests.support.raw_records import RawRecord, batch, produce

PARTITIONS = 2


class Worker(threading.Thread):
    """Reads, finishes what it has read at once, and commits: the main loop of an ingest worker."""

    def __init__(self, log: "Log", connection: KafkaConnection | None = None) -> None:
        super().__init__(daemon=True)
        connection = connection or log.connection
        client = kafka_clients.admin(connection)
        guard = LogGuard(client, kafka_topics.log_identity(client, log.topic))
        self.flight: InFlight[Record] = InFlight()
        self.assignment = Assignment(
            lambda more: kafka_clients.ingest_consumer(
                connection, log.group, **kafka_clients.session(30), **more
            ),
            Positions(connection, client, log.group, guard),
            self.flight,
            retry_topic=log.retries,
            settle=lambda: None,
        )
        self.read: list[tuple[int, int]] = []
        self.error: Exception | None = None
        self._ending = threading.Event()

    def __enter__(self) -> "Worker":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self.join(60)

    def run(self) -> None:
        self.assignment.join()
        try:
            while not self._ending.is_set():
                if (record := self.assignment.poll(0.05)) is not None:
                    self.flight.admit(record)
                    self.read.append((record.partition, record.offset))
                    self.flight.finish(record)
                self.assignment.commit_now_and_then()
        except FatalError as error:
            self.error = error
        finally:
            self.assignment.leave()


class Log:
    """A log with its topic of retries, and a group that stands at its beginning."""

    def __init__(self, kafka: KafkaServer) -> None:
        self.connection = KafkaConnection(kafka.bootstrap)
        self.client = kafka_clients.admin(self.connection)
        self.topic = f"log-{uuid.uuid4().hex[:10]}"
        self.retries, self.group = f"{self.topic}.retry", f"g-{self.topic}"
        [like] = [each for each in topics.topics(embedded=False) if each.name == topics.RETRY]
        table = [(name, replace(like, partitions=PARTITIONS)) for name in self._names()]
        kafka_topics.create_topics(self.client, table, replication=1)
        for name in self._names():
            beginning = dict.fromkeys(range(PARTITIONS), 0)
            kafka_offsets.commit_beginning(self.connection, self.group, name, beginning)

    def _names(self) -> tuple[str, str]:
        return self.topic, self.retries

    def put(self, *partitions: int) -> None:
        """A record in each of these."""
        producer = kafka_clients.producer(self.connection, linger_ms=0)
        for partition in partitions:
            producer.produce(self.topic, b"value", b"key", partition)
        assert producer.flush(30) == 0

    @contextlib.contextmanager
    def transaction(self, *, aborts: bool = False) -> Iterator[Producer]:
        producer = Producer(
            {**self.connection.librdkafka(), "transactional.id": uuid.uuid4().hex, "linger.ms": 0}
        )
        producer.init_transactions(30)
        producer.begin_transaction()
        yield producer
        assert producer.flush(30) == 0
        (producer.abort_transaction if aborts else producer.commit_transaction)(30)

    def committed(self, topic: str | None = None) -> dict[int, CommittedPosition]:
        numbers = range(PARTITIONS)
        return kafka_offsets.positions(self.connection, self.group, topic or self.topic, numbers)

    def lags(self) -> dict[tuple[str, int], int]:
        """Of both topics, what is not committed."""
        lags: dict[tuple[str, int], int] = {}
        for name in self._names():
            ends = kafka_offsets.ends(self.client, name, range(PARTITIONS))
            stand = self.committed(name)
            lags |= {(name, n): ends[n] - stand[n].offset if n in stand else -1 for n in ends}
        return lags


def behind(proxy: ApiProxy) -> KafkaConnection:
    return KafkaConnection(f"127.0.0.1:{proxy.port}")


@pytest.fixture
def log(kafka: KafkaServer) -> Log:
    return Log(kafka)


def wait_until(true: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def has_no_lag(log: Log) -> bool:
    return not any(log.lags().values())


def shares(log: Log) -> list[int]:
    """How many partitions each member of the group has."""
    described = log.client.describe_consumer_groups([log.group])[log.group].result(30)
    return sorted(len(member.assignment.topic_partitions) for member in described.members)


@pytest.mark.fault("a transaction's markers end the log")
def test_what_ends_in_markers_is_read_to_its_end(log: Log) -> None:
    log.put(0)
    with log.transaction() as producer:
        producer.produce(log.topic, b"value", b"key", 0)
        producer.produce(log.retries, b"value", b"key", 1)
    with Worker(log) as worker:
        # a marker may come a moment after what it ends
        wait_until(lambda: has_no_lag(log) and log.committed()[0].offset == 3)
        assert sorted(worker.read) == [(0, 0), (0, 1), (1, 0)]
        with log.transaction(aborts=True) as producer:
            producer.produce(log.topic, b"never", b"key", 1)
        wait_until(lambda: has_no_lag(log) and log.committed()[1].offset == 2)
        assert sorted(worker.read) == [(0, 0), (0, 1), (1, 0)]


@pytest.mark.fault("a batch of records that can't be unpacked")
def test_a_batch_that_can_not_be_unpacked_is_passed_as_one_record(
    log: Log, kafka: KafkaServer
) -> None:
    """A few kilobytes that zstd unpacks to more than librdkafka takes at once."""
    log.put(0, 1)
    bomb = batch([RawRecord(b"key", bytes(40_000_000))] * 3, codec=4)
    assert produce(kafka.bootstrap, log.topic, 0, bomb) == (0, 1)
    log.put(0)
    wanted = [(0, 0), (0, 1), (0, 4), (1, 0)]
    with Worker(log) as worker:
        wait_until(lambda: has_no_lag(log))
        assert sorted(worker.read) == wanted
    read = list(records_of(log.connection, log.topic))
    assert sorted((record.partition, record.offset) for record in read) == wanted
    assert [record.offset for record in read if record.unreadable] == [1]


@pytest.mark.fault("a commit is refused in the middle of a rebalance, and no record follows")
def test_a_commit_that_is_refused_is_sent_again(
    log: Log, kafka: KafkaServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It comes to the broker in a rebalance that another worker, who leads it, is slow to join."""
    with ApiProxy(kafka.port) as slow, ApiProxy(kafka.port) as proxy, Worker(log, behind(slow)):
        slow.await_seen(Api.SyncGroup)
        with Worker(log, behind(proxy)) as worker:
            wait_until(lambda: shares(log) == [1, 1] and has_no_lag(log))
            joined, rejoined = slow.seen[Api.JoinGroup], proxy.seen[Api.JoinGroup]
            slow.hold(Api.JoinGroup)
            with Worker(log):
                slow.await_seen(Api.JoinGroup, joined + 1)
                proxy.await_seen(Api.JoinGroup, rejoined + 1)
                committed = proxy.seen[Api.OffsetCommit]
                log.put(0, 1)
                wait_until(lambda: bool(worker.read))
                proxy.await_seen(Api.OffsetCommit, committed + 1)
                slow.hold()
                wait_until(lambda: "a commit failed, and is sent again" in caplog.text)
                wait_until(lambda: has_no_lag(log))


@pytest.mark.fault("connections break under commits")
def test_a_commit_that_is_cut_off_is_sent_again(log: Log, kafka: KafkaServer) -> None:
    with ApiProxy(kafka.port) as proxy, Worker(log, behind(proxy)) as worker:
        wait_until(lambda: has_no_lag(log))
        proxy.cut_at(Api.OffsetCommit)
        seen = proxy.seen[Api.OffsetCommit]
        log.put(0, 1)
        wait_until(lambda: len(worker.read) == 2)
        proxy.await_seen(Api.OffsetCommit, seen + 2)
        proxy.cut_at()
        wait_until(lambda: has_no_lag(log))


@pytest.mark.fault("a group's offsets have expired")
def test_where_offsets_have_expired_the_same_log_is_read_again(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    log.put(0, 0, 1)
    with Worker(log):
        wait_until(lambda: has_no_lag(log))
    log.client.delete_consumer_groups([log.group])[log.group].result(30)
    assert log.committed() == {}
    with Worker(log) as worker:
        wait_until(lambda: has_no_lag(log))
        assert sorted(worker.read) == [(0, 0), (0, 1), (1, 0)]
    assert "has no position in partitions [0, 1] any more" in caplog.text


def commit(log: Log, offset: int, metadata: str = "pixtide", epoch: int = -1) -> None:
    """As somebody else would, in partition 0."""
    with contextlib.closing(kafka_clients.ingest_consumer(log.connection, log.group)) as consumer:
        where = TopicPartition(log.topic, 0, offset, metadata=metadata, leader_epoch=epoch)
        consumer.commit(offsets=[where], asynchronous=False)


@pytest.mark.fault("a group's positions were moved past events")
def test_positions_that_were_moved_past_events_are_told_though_a_worker_goes_on(log: Log) -> None:
    log.put(0, 0, 1)
    commit(log, 2, metadata="")
    first = dict.fromkeys(range(PARTITIONS), 0)
    with Worker(log) as worker:
        log.put(0)
        wait_until(lambda: has_no_lag(log))
    assert sorted(worker.read) == [(0, 2), (1, 0)]
    assert moved_since(log.committed(), first, verified_at=None) == [0]
    assert moved_since(log.committed(), first, datetime.now(UTC) + timedelta(minutes=1)) == []
    commit(log, 0, metadata="")  # back to the beginning: nothing is passed
    with Worker(log):
        wait_until(lambda: has_no_lag(log))
    assert moved_since(log.committed(), first, verified_at=None) == []


def test_what_is_committed_names_a_record_below_it_and_its_leader(log: Log) -> None:
    log.put(0, 0, 0)
    with Worker(log):
        wait_until(lambda: has_no_lag(log))
    stands = log.committed()
    assert stands[0].leader_epoch == 0
    mark = Mark.read(stands[0].metadata)
    assert mark is not None
    assert mark.offset == 2
    assert stands[1].metadata == "pixtide"  # nothing has been read there
    with Worker(log) as worker:  # goes on where that one was, and keeps what it committed
        log.put(1)
        wait_until(lambda: worker.read == [(1, 0)])
        wait_until(lambda: has_no_lag(log))
    assert log.committed()[0] == stands[0]


@pytest.mark.fault("the log was cut short, and has grown again")
def test_a_log_that_was_cut_short_and_has_grown_again_is_not_read_on(log: Log) -> None:
    """Its records are others than those that were read: as if of offset 1, another was read."""
    log.put(0, 0, 0)
    commit(log, 2, Mark(1, 1_800_000_000_000, "0" * 16).text)
    with Worker(log) as worker:
        wait_until(lambda: worker.error is not None)
    assert "the log was cut short and has grown again: offset 1 of partition 0" in str(worker.error)
    assert worker.read == []


@pytest.mark.parametrize(
    ("stands_at", "removed_before", "said"),
    [
        (3, 3, None),
        (2, 3, "the log changed: partition 0 of log-.* begins at 3, and its group stands at 2"),
        (4, 0, "the log was cut short: partition 0 of log-.* ends at 3, and its group stands at 4"),
    ],
)
def test_a_log_that_does_not_hold_its_groups_position_is_not_read_on(
    log: Log, stands_at: int, removed_before: int, said: str | None
) -> None:
    log.put(0, 0, 0)
    commit(log, stands_at)
    if removed_before:
        kafka_offsets.delete_before(log.client, log.topic, {0: removed_before})
    client = log.client
    guard = LogGuard(client, kafka_topics.log_identity(client, log.topic))
    positions = Positions(log.connection, client, log.group, guard)
    with pytest.raises(FatalError, match=said) if said else contextlib.nullcontext():
        [begin] = positions.begins([0])
        assert begin.where.offset == stands_at
