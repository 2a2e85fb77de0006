"""Reading a topic, or a stretch of it, once and in no group."""

import contextlib
from collections.abc import Iterator, Mapping

from confluent_kafka import KafkaError, TopicPartition

from schemas.errors import FatalError, TransientError
from streams import kafka
from streams.kafka import Record, record_of
from streams.kafka_connection import KafkaConnection
from streams.kafka_errors import verdict
from streams.unreadable_batch import is_unreadable, pass_batch, record_in_place_of

#: Records taken at once; one may be a picture of a megabyte.
_TAKEN = 64
_POLL_S = 0.5
#: How often nothing may come, though there is something to read.
_EMPTY_POLLS = 60


def records_of(connection: KafkaConnection, topic: str) -> Iterator[Record]:
    """Every record that the topic holds, up to its end at the call; each partition in order.

    Raises:
        UsageError: there is no such topic.
        TransientError: the broker can't be reached, or retention overtook the reading.
    """
    client = kafka.admin(connection)
    numbers = range(kafka.partitions_of(client, topic))
    first, ends = (ask(client, topic, numbers) for ask in (kafka.beginnings, kafka.ends))
    try:
        yield from records_between(connection, topic, first, ends)
    except FatalError as error:  # of the log it would mean a change; here it is retention
        raise TransientError(f"reading {topic}: {error}") from error


def records_at(
    connection: KafkaConnection, topic: str, partition: int, offset: int
) -> Iterator[Record]:
    """The record there, or the next one where it is missing; none where the topic doesn't hold it.

    Raises:
        UsageError: there is no such topic.
        TransientError: the broker can't be reached, or retention overtook the reading.
    """
    client = kafka.admin(connection)
    if partition >= kafka.partitions_of(client, topic):
        return
    first, ends = (ask(client, topic, [partition]) for ask in (kafka.beginnings, kafka.ends))
    if not first[partition] <= offset < ends[partition]:
        return
    try:
        yield from records_between(connection, topic, {partition: offset}, {partition: offset + 1})
    except FatalError as error:
        raise TransientError(f"reading {topic}: {error}") from error


def records_between(
    connection: KafkaConnection, topic: str, first: Mapping[int, int], ends: Mapping[int, int]
) -> Iterator[Record]:
    """Every record that is left of each partition's offsets from `first` up to `ends`.

    Raises:
        TransientError: the broker stops answering.
        FatalError: the topic doesn't hold these offsets any more.
    """
    open_partitions = {p: end for p, end in ends.items() if first.get(p, 0) < end}
    empty = 0
    with contextlib.closing(kafka.tail_consumer(connection, tells_ends=True)) as consumer:
        consumer.assign([TopicPartition(topic, p, first.get(p, 0)) for p in open_partitions])
        while open_partitions:
            messages = consumer.consume(_TAKEN, timeout=_POLL_S)
            empty = 0 if messages else empty + 1
            if empty > _EMPTY_POLLS:
                raise TransientError(f"the broker gives nothing of {topic}")
            for message in messages:
                partition = message.partition() or 0
                error, offset = message.error(), message.offset() or 0
                end = open_partitions.get(partition, 0)
                if is_unreadable(error):
                    pass_batch(consumer, connection, message)
                    if offset < end:
                        yield record_in_place_of(message)
                    continue
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    raise verdict(error)
                if error is None and offset < end:
                    yield record_of(message)
                # A new leader may say for a moment that all ends earlier: only our end counts,
                # which is told where compaction has left a gap before it.
                if offset >= (end - 1 if error is None else end):
                    open_partitions.pop(partition, None)
