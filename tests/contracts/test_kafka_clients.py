"""What Kafka's clients say where brokers die and take over, and where others write."""

import threading
import time
import uuid

import pytest
from confluent_kafka import Producer

from pixtide.schemas import topics
from pixtide.schemas.errors import TransientError
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka import requests as kafka_requests
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.kafka.topic_reader import records_at, records_between, records_of
from pixtide.streams.publish.publisher import PublishedPosition, Publisher
from pixtide.streams.settings import Settings
from tests.contracts.conftest import await_ends
from tests.contracts.proxy import BrokerProxy
from tests.servers import KafkaServer
from tests.servers.runners import free_ports


def test_to_wait_for_a_dead_broker_takes_no_processor(
    kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, [table, *_] = f"log-{uuid.uuid4().hex[:10]}", topics.topics(embedded=False)
    alive = kafka_clients.admin(KafkaConnection(kafka.bootstrap))
    kafka_topics.create_topics(alive, [(topic, table)], replication=1)
    monkeypatch.setattr(kafka_requests, "REQUEST_TIMEOUT_S", 2.0)
    [nowhere] = free_ports(1)
    with BrokerProxy(kafka.port, advertised=nowhere) as proxy:
        client = kafka_clients.admin(KafkaConnection(f"127.0.0.1:{proxy.port}"))
        began, used = time.monotonic(), time.process_time()
        with pytest.raises(TransientError):
            kafka_offsets.ends(client, topic, [0])
        waited = time.monotonic() - began
        assert waited > 1.5
        assert time.process_time() - used < waited / 4


@pytest.mark.fault("a new leader says for a moment that a partition ends earlier")
def test_a_topic_is_read_up_to_the_end_that_was_asked_for(kafka: KafkaServer) -> None:
    """As after an election, when a new leader doesn't know at once how much all have."""
    topic, [table, *_] = f"log-{uuid.uuid4().hex[:10]}", topics.topics(embedded=False)
    connection = KafkaConnection(kafka.bootstrap)
    kafka_topics.create_topics(kafka_clients.admin(connection), [(topic, table)], replication=1)
    producer = kafka_clients.producer(connection, linger_ms=0)
    producer.produce(topic, b"first", b"k", 0)
    assert producer.flush(30) == 0
    records = records_between(connection, topic, {0: 0}, {0: 2})
    assert next(records).value == b"first"
    later = threading.Timer(2, producer.produce, (topic, b"second", b"k", 0))
    later.start()
    assert [record.value for record in records] == [b"second"]


@pytest.mark.fault("a transaction of another publisher stays open")
def test_a_topic_ends_where_a_transaction_is_open(kafka: KafkaServer) -> None:
    topic, [table, *_] = f"log-{uuid.uuid4().hex[:10]}", topics.topics(embedded=False)
    connection = KafkaConnection(kafka.bootstrap)
    client = kafka_clients.admin(connection)
    kafka_topics.create_topics(client, [(topic, table)], replication=1)
    producer = Producer({**connection.librdkafka(), "transactional.id": topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b"open", b"k", 0)
    assert producer.flush(30) == 0
    assert kafka_offsets.ends(client, topic, [0]) == {0: 0}
    producer.commit_transaction(30)
    await_ends(client, topic, {0: 2})
    [record] = records_of(connection, topic)
    assert (record.offset, record.value) == (0, b"open")


def test_a_record_is_read_by_its_place_alone(kafka: KafkaServer) -> None:
    topic, [table, *_] = f"log-{uuid.uuid4().hex[:10]}", topics.topics(embedded=False)
    connection = KafkaConnection(kafka.bootstrap)
    client = kafka_clients.admin(connection)
    kafka_topics.create_topics(client, [(topic, table)], replication=1)
    producer = Producer({**connection.librdkafka(), "transactional.id": topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    for value in (b"first", b"second"):
        producer.produce(topic, value, b"k", 0)
    producer.commit_transaction(30)
    await_ends(client, topic, {0: 3})

    def at(partition: int, offset: int) -> list[bytes | None]:
        return [each.value for each in records_at(connection, topic, partition, offset)]

    assert at(0, 0) == [b"first"]
    assert at(0, 1) == [b"second"]
    # the transaction's marker, the end, and what there is none of
    for place in ((0, 2), (0, 3), (0, 10**17), (1, 0), (10**8, 0)):
        assert at(*place) == []


def test_an_event_that_no_broker_takes_is_given_up_and_told_to_its_own_sender(
    kafka: KafkaServer,
) -> None:
    namespace = f"t{uuid.uuid4().hex[:10]}"
    table = {topic.name: topic for topic in topics.topics(embedded=False)}[topics.UPLOADED]
    alive = kafka_clients.admin(KafkaConnection(kafka.bootstrap))
    name = f"{namespace}.{topics.UPLOADED}"
    kafka_topics.create_topics(alive, [(name, table)], replication=1)
    [nowhere] = free_ports(1)
    with BrokerProxy(kafka.port, advertised=nowhere) as proxy:
        settings = Settings(kafka=f"127.0.0.1:{proxy.port}", namespace=namespace)
        publisher = Publisher(settings, **kafka_clients.gives_up(1.0, 2**20))
        told: list[PublishedPosition | TransientError] = []
        publisher.delete("a", delivered=told.append)
        deadline = time.monotonic() + 60
        while not told and time.monotonic() < deadline:
            publisher.poll(0.1)
    [failed] = told
    assert isinstance(failed, TransientError)
    assert publisher.positions == []
    publisher.flush()  # it is nobody else's failure
