"""Reading a stretch of the log, and what its records ask of the index."""

import contextlib
from collections.abc import Iterator, Mapping

from confluent_kafka import KafkaError, TopicPartition

from schemas.codec import decode_event, image_id_of
from schemas.errors import PoisonError, TransientError
from schemas.events import ImageUploaded
from schemas.identity import Partitioner, Version, partition_of
from search.generations import LogIdentity
from search.port import RowState
from streams import kafka
from streams.kafka import Record, record_of
from streams.kafka_connection import KafkaConnection
from streams.kafka_errors import verdict
from streams.ledger import Expected

#: Records taken at once; one may be a picture of a megabyte.
_TAKEN = 64
_POLL_S = 0.5
#: How often nothing may come, though there is something to read.
_EMPTY_POLLS = 60


def read_log(
    connection: KafkaConnection, topic: str, first: Mapping[int, int], ends: Mapping[int, int]
) -> Iterator[Record]:
    """Every record that is left of each partition's offsets from `first` up to `ends`.

    Raises:
        TransientError: the broker stops answering.
        FatalError: the log doesn't hold these offsets any more.
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
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    raise verdict(error)
                end = open_partitions.get(partition, 0)
                if error is None and offset < end:
                    yield record_of(message)
                # the end itself, or a gap that compaction has left there
                if error is not None or offset >= end - 1:
                    open_partitions.pop(partition, None)


def expected_row(record: Record, log: LogIdentity, partitioner: Partitioner) -> Expected | None:
    """What a record asks of the index, read as the ingest path reads it; None where of no row."""
    version = Version(log.epoch, record.partition, record.offset)
    try:
        image_id = image_id_of(record.key)
    except PoisonError:
        return None
    if partition_of(record.key or b"", log.partitions, partitioner) not in (None, record.partition):
        return None
    try:
        event = decode_event(record.key, record.value, record.headers, record.timestamp_ms)
    except PoisonError:
        return Expected(image_id, version, RowState.DEAD_LETTERED)
    if isinstance(event, ImageUploaded):
        return Expected(image_id, version, RowState.LIVE, event.sha256 or "")
    return Expected(image_id, version, RowState.DELETED)
