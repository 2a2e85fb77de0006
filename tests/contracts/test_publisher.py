"""What our publisher sends to a real Kafka: where keys land, and names that make no image id."""

import os
import uuid
from pathlib import Path

import pytest

from pixtide.schemas import topics
from pixtide.schemas.identity import Partitioner, partition_of
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.kafka.topic_reader import records_of
from pixtide.streams.publish.bulk import delete_all, publish_all
from pixtide.streams.publish.publisher import Description
from pixtide.streams.publish.sources import find_sources
from pixtide.streams.settings import Settings
from tests.servers import KafkaServer
from tests.support.pictures import jpeg


@pytest.fixture
def settings(kafka: KafkaServer, tmp_path: Path) -> Settings:
    made = Settings(
        kafka=kafka.bootstrap, namespace=f"p{uuid.uuid4().hex[:10]}", home=tmp_path / "home"
    )
    client = kafka_clients.admin(KafkaConnection(kafka.bootstrap))
    table = [(made.named(t.name), t) for t in topics.topics(embedded=True)]
    kafka_topics.create_topics(client, table, replication=1)
    return made


@pytest.mark.parametrize("partitioner", ["murmur2", "crc32"])
def test_keys_land_where_the_topics_partitioner_puts_them(
    settings: Settings, partitioner: Partitioner
) -> None:
    settings = settings.changed(partitioner=partitioner)
    ids = [f"holiday/{n}.jpg" for n in range(40)] + ["é", "猫.png", "x" * 512]
    assert delete_all(settings, ids).published == len(ids)
    records = list(records_of(settings.kafka_connection(), settings.named(topics.UPLOADED)))
    partitions = max(record.partition for record in records) + 1
    assert partitions > 1
    assert sorted((r.key or b"").decode() for r in records) == sorted(ids)
    for record in records:
        assert record.partition == partition_of(record.key or b"", partitions, partitioner)


def test_a_name_that_makes_no_image_id_costs_that_file_alone(
    settings: Settings, tmp_path: Path
) -> None:
    folder, deep = tmp_path / "holiday", "/".join(["d" * 200] * 3)
    (folder / deep).mkdir(parents=True)
    odd = os.fsencode(folder) + b"/caf\xe9.jpg"
    for path in (os.fsencode(folder / "a.jpg"), odd, os.fsencode(folder / deep / "b.jpg")):
        with open(path, "wb") as file:  # noqa: PTH123  # a Path is text
            file.write(jpeg(1))
    summary = publish_all(settings, find_sources([str(folder)], None), lambda _: Description())
    assert summary.published == 1
    assert summary.failed
    told = sorted(summary.unreadable)
    assert len(told) == 2
    assert "not UTF-8" in told[0] + told[1] and "limit is 512" in told[0] + told[1]
