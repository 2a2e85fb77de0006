"""How far the page reads the outcomes, on a real Kafka."""

import contextlib
import uuid

import pytest
from confluent_kafka import Producer

from pixtide.schemas import topics
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.web.outcomes import Outcomes
from tests.contracts.conftest import await_ends
from tests.servers import KafkaServer


@pytest.mark.fault("a transaction's markers end the outcomes")
def test_outcomes_that_end_in_a_marker_are_read_to_their_end(kafka: KafkaServer) -> None:
    topic, connection = f"outcomes-{uuid.uuid4().hex[:10]}", KafkaConnection(kafka.bootstrap)
    client = kafka_clients.admin(connection)
    [like] = [each for each in topics.topics(embedded=False) if each.name == topics.INDEXED]
    kafka_topics.create_topics(client, [(topic, like)], replication=1)
    producer = Producer({**connection.librdkafka(), "transactional.id": topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b"no outcome", b"k", 0)
    producer.commit_transaction(30)
    outcomes = Outcomes(connection, topic, lambda _: None)
    end = {0: 2}
    await_ends(client, topic, end)
    with contextlib.closing(kafka_clients.tail_consumer(connection, tells_ends=True)) as consumer:
        outcomes._read(consumer, {0: 0}, end)  # or it says that the broker gives none
