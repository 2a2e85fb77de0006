"""The servers that the other tests rely on: they are what they say, and outlive a restart."""

import json
import subprocess
import sys
import urllib.request
import uuid
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.servers import KafkaServer, Servers, WeaviateServer
from tests.servers.runners import free_ports
from tests.servers.weaviate import VERSION

ROOT = Path(__file__).parents[2]


@pytest.fixture
def topic(kafka: KafkaServer) -> str:
    name = f"servers-{uuid.uuid4()}"
    client = AdminClient({"bootstrap.servers": kafka.bootstrap})
    client.create_topics([NewTopic(name, 1)])[name].result(30)
    return name


@pytest.mark.slow
def test_kafka_keeps_what_was_sent_through_a_restart_and_a_kill(
    kafka: KafkaServer, topic: str
) -> None:
    _send(kafka, topic, b"before")
    bootstrap = kafka.bootstrap
    kafka.stop()
    kafka.start()
    _send(kafka, topic, b"between")
    kafka.kill()
    kafka.start()
    _send(kafka, topic, b"after")
    assert kafka.bootstrap == bootstrap
    assert _read(kafka, topic, 3) == [b"before", b"between", b"after"]


def test_kafka_creates_no_topic_by_itself(kafka: KafkaServer) -> None:
    client = AdminClient({"bootstrap.servers": kafka.bootstrap})
    name = f"never-{uuid.uuid4()}"
    assert client.list_topics(name, timeout=10).topics[name].error is not None
    assert name not in client.list_topics(timeout=10).topics


def test_weaviate_is_the_pinned_version_and_keeps_its_schema_through_a_restart_and_a_kill(
    weaviate: WeaviateServer,
) -> None:
    assert _json(weaviate, "GET", "/v1/meta")["version"] == VERSION
    name = f"Servers{uuid.uuid4().hex}"
    _json(weaviate, "POST", "/v1/schema", {"class": name, "vectorizer": "none"})
    weaviate.stop()
    weaviate.start()
    assert _json(weaviate, "GET", f"/v1/schema/{name}")["class"] == name
    weaviate.kill()
    weaviate.start()
    assert _json(weaviate, "GET", f"/v1/schema/{name}")["class"] == name


@pytest.mark.slow
def test_servers_that_a_test_left_killed_or_frozen_serve_the_next_one(
    servers: Servers, kafka: KafkaServer, weaviate: WeaviateServer, topic: str
) -> None:
    kafka.kill()
    weaviate.pause()
    servers.heal()
    _send(kafka, topic, b"after")
    assert _json(weaviate, "GET", "/v1/meta")["version"] == VERSION


def test_a_port_is_given_once_and_to_one_run_alone() -> None:
    asked = 250  # of several blocks
    ours = free_ports(asked) + free_ports(asked, in_a_row=2)
    assert len({*ours, *(port + 1 for port in ours[asked:])}) == 3 * asked
    code = f"from tests.servers.runners import free_ports; print(*free_ports({asked}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    theirs = {int(port) for port in done.stdout.split()}
    assert len(theirs) == asked and theirs.isdisjoint(ours)


def _send(kafka: KafkaServer, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    producer.produce(topic, value)
    assert producer.flush(30) == 0


def _read(kafka: KafkaServer, topic: str, count: int) -> list[bytes | None]:
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": topic})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        messages = consumer.consume(count, timeout=30)
    finally:
        consumer.close()
    assert [message.error() for message in messages] == [None] * count
    return [message.value() for message in messages]


def _json(weaviate: WeaviateServer, method: str, path: str, body: object = None) -> dict[str, str]:
    request = urllib.request.Request(
        weaviate.http_url + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        answer: dict[str, str] = json.load(response)
        return answer
