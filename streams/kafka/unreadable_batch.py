"""Batches that librdkafka can't decompress: finds where each ends, so that it can be skipped.

librdkafka gives up on a damaged batch, and on one that zstd decompresses to more than it allows
(100 MB, for which a few kilobytes are enough). It would then ask for the same batch for ever. Only
the head of a batch, which is never compressed, says where the next one begins.
"""

import asyncio
import contextlib
import importlib.util

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from pixtide.streams.kafka import aiokafka, batch_head
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.kafka.records import Record

#: librdkafka's errors for such a batch; they come with the offset that it asked for.
_CODES = (KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG)
_WITHIN_S = 10.0
_MOST_BYTES = 2**21


def is_unreadable(error: KafkaError | None) -> bool:
    """Whether the error means one unreadable batch, rather than a problem of the broker."""
    return error is not None and error.code() in _CODES


def record_in_place_of(message: Message) -> Record:
    """A record without content that stands for the batch which the error is about."""
    error = message.error()
    why = f"its batch can't be unpacked: {error.str() if error is not None else ''}"
    return Record(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        timestamp_ms=0,
        key=None,
        value=None,
        headers=[],
        unreadable={"key": why, "value": why, "headers": why},
    )


def offset_after(connection: KafkaConnection, topic: str, partition: int, offset: int) -> int:
    """The first offset after the batch that contains this one; the next offset if nobody says.

    Without aiokafka, as in an installation of only the client, it is always the next offset: then
    the batch is skipped step by step.
    """
    if importlib.util.find_spec("aiokafka") is None:
        return offset + 1
    batch = asyncio.run(_batch_at(connection, topic, partition, offset))
    return max(offset + 1, batch_head.offset_after(batch) or 0)


def pass_batch(consumer: Consumer, connection: KafkaConnection, message: Message) -> None:
    """Make a consumer go on after the batch which the error is about. May take some seconds."""
    topic, partition, offset = (
        message.topic() or "",
        message.partition() or 0,
        message.offset() or 0,
    )
    after = offset_after(connection, topic, partition, offset)
    with contextlib.suppress(KafkaException):  # it has lost the partition meanwhile
        consumer.seek(TopicPartition(topic, partition, after))


async def _batch_at(connection: KafkaConnection, topic: str, partition: int, offset: int) -> bytes:
    """What the broker sends from that offset on; nothing if the partition has no leader now."""
    from aiokafka.client import AIOKafkaClient
    from aiokafka.errors import KafkaError as AiokafkaError
    from aiokafka.protocol.fetch import FetchRequest
    from aiokafka.structs import TopicPartition as Where

    client = AIOKafkaClient(
        request_timeout_ms=int(_WITHIN_S * 1000), **aiokafka.arguments(connection)
    )
    asked = FetchRequest(
        500, 1, _MOST_BYTES, 0, [(topic, [(partition, offset, _MOST_BYTES)])], rack_id=""
    )
    try:
        async with asyncio.timeout(_WITHIN_S):
            await client.bootstrap()
            client.add_topic(topic)
            await client.force_metadata_update()
            leader = client.cluster.leader_for_partition(Where(topic, partition))
            answer = await client.send(leader, asked)
        return answer.topics[0][1][0][-1] or b""
    except (AiokafkaError, TimeoutError, OSError, LookupError, AttributeError):
        return b""
    finally:
        await client.close()
