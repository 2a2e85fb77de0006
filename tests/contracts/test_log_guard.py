"""What is noticed of a log that changed, on a real Kafka."""

import contextlib
import time
import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, TopicPartition

from schemas import topics
from schemas.errors import FatalError
from streams import kafka as kafka_clients
from streams.kafka_connection import KafkaConnection
from streams.log_guard import LogGuard
from tests.servers import KafkaServer

RECORDS = 5


@pytest.fixture
def connection(kafka: KafkaServer) -> KafkaConnection:
    return KafkaConnection(kafka.bootstrap)


@pytest.fixture
def guard(connection: KafkaConnection) -> LogGuard:
    """Of a log that has some records in its partition 0, and isn't compacted: may be cut short."""
    name = f"log-{uuid.uuid4().hex[:10]}"
    client = kafka_clients.admin(connection)
    [table] = [each for each in topics.topics(embedded=False) if each.name == topics.RETRY]
    kafka_clients.create_topics(client, [(name, table)], replication=1)
    producer = kafka_clients.producer(connection, linger_ms=5)
    for _ in range(RECORDS):
        producer.produce(name, b"x", b"key", 0)
    assert producer.flush(30) == 0
    return LogGuard(client, kafka_clients.log_identity(client, name))


@pytest.fixture
def consumer(connection: KafkaConnection, guard: LogGuard) -> Iterator[Consumer]:
    with contextlib.closing(kafka_clients.ingest_consumer(connection, f"g-{guard.log.topic}")) as c:
        yield c


def test_nothing_is_vouched_for_that_was_read_after_the_topic_was_made_anew(
    guard: LogGuard, connection: KafkaConnection
) -> None:
    before = time.monotonic()
    guard.vouch(before)
    client = kafka_clients.admin(connection)
    client.delete_topics([guard.log.topic])[guard.log.topic].result()
    while guard.log.topic in client.list_topics(timeout=10).topics:
        time.sleep(0.05)
    guard.vouch(before - 1)  # read while it was still there
    with pytest.raises(FatalError, match="the log changed"):
        guard.vouch(time.monotonic())


@pytest.mark.parametrize(
    ("stands_at", "removed_before", "said"),
    [
        (0, 0, None),
        (RECORDS, 0, None),
        (3, 3, None),
        (3, 4, "holds offsets 4 to 5, and its group stands at 3"),
        (RECORDS + 1, 0, "holds offsets 0 to 5, and its group stands at 6"),
        (None, 0, "its group has no position"),
    ],
)
def test_a_log_cut_short_at_either_end_is_not_read_on(
    connection: KafkaConnection,
    guard: LogGuard,
    consumer: Consumer,
    stands_at: int | None,
    removed_before: int,
    said: str | None,
) -> None:
    topic = guard.log.topic
    if stands_at is not None:
        kafka_clients.commit_beginning(connection, f"g-{topic}", topic, {0: stands_at})
    if removed_before:
        client = kafka_clients.admin(connection)
        kafka_clients.delete_before(client, topic, {0: removed_before})
    expected = pytest.raises(FatalError, match=said) if said else contextlib.nullcontext()
    with expected:
        guard.check_assigned(consumer, [TopicPartition(topic, 0)])
