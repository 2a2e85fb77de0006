"""Reading a whole topic, as it is now, from its beginning to its end."""

import contextlib
import time
from collections.abc import Iterator

from confluent_kafka import TopicPartition

from schemas.errors import TransientError
from streams import kafka
from streams.kafka import Record, record_of
from streams.kafka_connection import KafkaConnection

_AT_ONCE = 200
_STALLED_S = 30.0


def records_of(connection: KafkaConnection, topic: str) -> Iterator[Record]:
    """Every record that the topic holds, up to its end at the call; each partition in order.

    Raises:
        UsageError: there is no such topic.
        TransientError: the broker can't be reached, or retention overtook the reading.
    """
    client = kafka.admin(connection)
    numbers = range(kafka.partitions_of(client, topic))
    first, ends = (ask(client, topic, numbers) for ask in (kafka.beginnings, kafka.ends))
    left = {p: end for p, end in ends.items() if end > first[p]}
    with contextlib.closing(kafka.tail_consumer(connection)) as consumer:
        consumer.assign([TopicPartition(topic, p, first[p]) for p in left])
        heard_at = time.monotonic()
        while left:
            for message in consumer.consume(_AT_ONCE, timeout=0.2):
                heard_at = time.monotonic()
                if (error := message.error()) is not None:
                    raise TransientError(f"reading {topic}: {error.str()}")
                record = record_of(message)
                if record.offset < ends[record.partition]:
                    yield record
                if record.offset >= ends[record.partition] - 1:
                    left.pop(record.partition, None)
            if time.monotonic() - heard_at > _STALLED_S:
                raise TransientError(f"reading {topic}: nothing came for {_STALLED_S:g} s")
