"""How Kafka's clients bear a broker that has died."""

import time
import uuid

import pytest

from schemas import topics
from schemas.errors import TransientError
from streams import kafka as kafka_clients
from streams.kafka_connection import KafkaConnection
from tests.contracts.proxy import BrokerProxy
from tests.servers import KafkaServer
from tests.servers.runners import free_ports


def test_to_wait_for_a_dead_broker_takes_no_processor(
    kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, [table, *_] = f"log-{uuid.uuid4().hex[:10]}", topics.topics(embedded=False)
    alive = kafka_clients.admin(KafkaConnection(kafka.bootstrap))
    kafka_clients.create_topics(alive, [(topic, table)], replication=1)
    monkeypatch.setattr(kafka_clients, "REQUEST_TIMEOUT_S", 2.0)
    [nowhere] = free_ports(1)
    with BrokerProxy(kafka.port, advertised=nowhere) as proxy:
        client = kafka_clients.admin(KafkaConnection(f"127.0.0.1:{proxy.port}"))
        began, used = time.monotonic(), time.process_time()
        with pytest.raises(TransientError):
            kafka_clients.ends(client, topic, [0])
        waited = time.monotonic() - began
        assert waited > 1.5
        assert time.process_time() - used < waited / 4
