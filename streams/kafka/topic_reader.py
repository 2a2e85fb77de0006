"""Reads a topic, or a part of it, without a group.

Such readers get their records from `taken`, which skips what can't be decompressed.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, TopicPartition

from pixtide.schemas.errors import FatalError, TransientError
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.kafka.errors import verdict
from pixtide.streams.kafka.records import Record, record_of
from pixtide.streams.kafka.unreadable_batch import is_unreadable, pass_batch, record_in_place_of

#: Records taken at once; one may be a picture of a megabyte.
_TAKEN = 64
_POLL_S = 0.5
#: How many empty polls in a row are allowed while there is something to read.
_EMPTY_POLLS = 60


@dataclass(frozen=True)
class Told:
    """A message about a partition that is no record: its end, or an error."""

    partition: int
    offset: int
    error: KafkaError

    @property
    def is_end(self) -> bool:
        """Whether there are no more records for now."""
        return self.error.code() == KafkaError._PARTITION_EOF


def taken(
    consumer: Consumer, connection: KafkaConnection, most: int, wait_s: float
) -> list[Record | Told]:
    """The next records and messages of a consumer without a group, up to a number and a time.

    One record without content stands for a batch that can't be decompressed. It is skipped, which
    may take some seconds.
    """
    heard: list[Record | Told] = []
    for message in consumer.consume(most, timeout=wait_s):
        error = message.error()
        if error is None:
            heard.append(record_of(message))
        elif is_unreadable(error):
            pass_batch(consumer, connection, message)
            heard.append(record_in_place_of(message))
        else:
            heard.append(Told(message.partition() or 0, message.offset() or 0, error))
    return heard


def records_of(connection: KafkaConnection, topic: str) -> Iterator[Record]:
    """Every record that the topic holds, up to its end at the call; each partition in order.

    Raises:
        UsageError: there is no such topic.
        TransientError: the broker can't be reached, or retention removed records before they were
            read.
    """
    client = kafka_clients.admin(connection)
    numbers = range(kafka_topics.partitions_of(client, topic))
    first, ends = (
        ask(client, topic, numbers) for ask in (kafka_offsets.beginnings, kafka_offsets.ends)
    )
    yield from _retained(connection, topic, first, ends)


def records_at(
    connection: KafkaConnection, topic: str, partition: int, offset: int
) -> Iterator[Record]:
    """The record there, or the next one if it is missing; nothing if the topic doesn't reach there.

    Raises:
        UsageError: there is no such topic.
        TransientError: the broker can't be reached, or retention removed records before they were
            read.
    """
    client = kafka_clients.admin(connection)
    if partition >= kafka_topics.partitions_of(client, topic):
        return
    first, ends = (
        ask(client, topic, [partition]) for ask in (kafka_offsets.beginnings, kafka_offsets.ends)
    )
    if not first[partition] <= offset < ends[partition]:
        return
    yield from _retained(connection, topic, {partition: offset}, {partition: offset + 1})


def records_between(
    connection: KafkaConnection, topic: str, first: Mapping[int, int], ends: Mapping[int, int]
) -> Iterator[Record]:
    """The records that still exist in each partition from offset `first` up to `ends`.

    Raises:
        TransientError: the broker stops answering.
        FatalError: the topic doesn't hold these offsets any more.
    """
    open_partitions = {p: end for p, end in ends.items() if first.get(p, 0) < end}
    empty = 0
    with contextlib.closing(kafka_clients.tail_consumer(connection, tells_ends=True)) as consumer:
        consumer.assign([TopicPartition(topic, p, first.get(p, 0)) for p in open_partitions])
        while open_partitions:
            heard = taken(consumer, connection, _TAKEN, _POLL_S)
            empty = 0 if heard else empty + 1
            if empty > _EMPTY_POLLS:
                raise TransientError(f"the broker gives nothing of {topic}")
            for each in heard:
                end = open_partitions.get(each.partition, 0)
                if isinstance(each, Record):
                    if each.offset < end:
                        yield each
                elif not each.is_end:
                    raise verdict(each.error)
                # A new leader may say for a moment that everything ends earlier. So only our own
                # end counts. It is reported as an end if compaction has left a gap before it.
                if each.offset >= (end - isinstance(each, Record)):
                    open_partitions.pop(each.partition, None)


def _retained(
    connection: KafkaConnection, topic: str, first: Mapping[int, int], ends: Mapping[int, int]
) -> Iterator[Record]:
    """As `records_between`, for topics that retention may shorten meanwhile."""
    try:
        yield from records_between(connection, topic, first, ends)
    except FatalError as error:  # in the log it would mean a change; here it is retention
        raise TransientError(f"reading {topic}: {error}") from error
