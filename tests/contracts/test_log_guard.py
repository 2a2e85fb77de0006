"""What is noticed of a log that changed, on a real Kafka."""

import time
import uuid

import pytest

from pixtide.schemas import topics
from pixtide.schemas.errors import FatalError
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.kafka.log_guard import LogGuard
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
    kafka_topics.create_topics(client, [(name, table)], replication=1)
    producer = kafka_clients.producer(connection, linger_ms=5)
    for _ in range(RECORDS):
        producer.produce(name, b"x", b"key", 0)
    assert producer.flush(30) == 0
    return LogGuard(client, kafka_topics.log_identity(client, name))


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
