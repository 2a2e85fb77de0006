"""A dump is loaded whole; what can't be read, or isn't taken, is named and costs itself alone."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import Producer

from pixtide.schemas import topics
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.kafka.records import Record
from pixtide.streams.kafka.topic_reader import records_of
from pixtide.streams.publish.log_dump import dump, load
from pixtide.streams.settings import Settings
from tests.servers import KafkaServer
from tests.support.raw_records import RawRecord, batch, produce

LARGE = 3 * 2**20
LIKE = topics.topics(embedded=False)[0]


@pytest.fixture
def namespace() -> Iterator[str]:
    yield f"copy{uuid.uuid4().hex[:8]}"


def log_of(kafka: KafkaServer, namespace: str, **like: Any) -> Settings:
    """Settings that reach a new log."""
    settings = Settings(kafka=kafka.bootstrap, namespace=namespace)
    client = kafka_clients.admin(settings.kafka_connection())
    name = settings.named(topics.UPLOADED)
    kafka_topics.create_topics(client, [(name, replace(LIKE, **like))], replication=1)
    return settings


def held(settings: Settings) -> dict[bytes | None, Record]:
    found = records_of(settings.kafka_connection(), settings.named(topics.UPLOADED))
    return {record.key: record for record in found}


@pytest.mark.fault("a log with records that can't be read, or that another log doesn't take")
def test_a_record_that_can_not_be_copied_costs_itself(kafka: KafkaServer, namespace: str) -> None:
    old = log_of(kafka, namespace, partitions=1)
    topic = old.named(topics.UPLOADED)
    packing = Producer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "compression.type": "zstd",
            "message.max.bytes": 2**26,
        }
    )
    packing.produce(topic, b"first", b"small", headers=[("name", b"value")], timestamp=5000)
    packing.produce(topic, bytes(LARGE), b"packed")
    assert packing.flush(30) == 0
    bomb = batch([RawRecord(b"bomb", bytes(40_000_000))] * 3, codec=4)
    assert produce(kafka.bootstrap, topic, 0, bomb) == (0, 2)
    packing.produce(topic, os.urandom(700_000), b"dense")
    packing.produce(topic, None, b"deleted")
    assert packing.flush(30) == 0

    undumped: list[str] = []
    lines = list(dump(old, undumped.append))
    assert [each.partition(" ")[0] for each in undumped] == ["0@2"]
    assert lines[-1] == '{"records":4}'

    whole = log_of(kafka, f"{namespace}whole", partitions=2)
    unloaded: list[str] = []
    assert (load(whole, lines, unloaded.append), unloaded) == (4, [])
    found, was = held(whole), held(old)
    assert found.keys() == {b"small", b"packed", b"dense", b"deleted"}
    for key, record in found.items():
        assert (record.value, record.headers) == (was[key].value, was[key].headers)
        assert record.timestamp_ms == was[key].timestamp_ms

    tight = log_of(kafka, f"{namespace}tight", partitions=1, max_message_bytes=100_000)
    keyless = '{"value":"eA==","headers":[],"timestamp_ms":1}'
    more = [keyless, *lines[:-1], '{"records":5}']
    assert load(tight, more, unloaded.append) == 3
    assert sorted(each.partition(" can't be loaded")[0] for each in unloaded) == ["0@5", "line 1"]
    assert held(tight).keys() == {b"small", b"packed", b"deleted"}


HUNGRY = """
import resource, sys, time
from pixtide.streams.kafka import clients
from pixtide.streams.kafka.connection import KafkaConnection
from confluent_kafka import TopicPartition
consumer = getattr(clients, sys.argv[3])(KafkaConnection(sys.argv[1]), *sys.argv[4:])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
consumer.assign([TopicPartition(sys.argv[2], 0, 0)])
read = 0
while read < 60:
    message = consumer.poll(1)
    read += message is not None and message.error() is None
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("consumer", [["tail_consumer"], ["ingest_consumer", "pixtide.none"]])
def test_a_consumer_unpacks_little_at_a_time(
    kafka: KafkaServer, namespace: str, consumer: list[str]
) -> None:
    """A megabyte of small batches may unpack to 30 GB; here they are of half a GB."""
    settings = log_of(kafka, namespace, partitions=1)
    topic = settings.named(topics.UPLOADED)
    made = batch([RawRecord(b"key", bytes(8 * 2**20) + os.urandom(20_000))], codec=4)
    for _ in range(60):
        assert produce(kafka.bootstrap, topic, 0, made)[0] == 0
    asked = [sys.executable, "-c", HUNGRY, kafka.bootstrap, topic, *consumer]
    taken = subprocess.run(asked, capture_output=True, text=True, timeout=120, check=True)
    assert int(taken.stdout) < 200_000, "KiB"
