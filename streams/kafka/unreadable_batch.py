"""Batches of records that librdkafka can't unpack: where each ends, so that one can be passed.

It gives up on a batch that is damaged, or that zstd unpacks to more than it takes at once (100 MB:
a few kilobytes are enough for that), and would ask for the same one again for ever. Only the head
of a batch, which is never packed, says where the next one begins.
"""

import asyncio
import contextlib
import importlib.util

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from pixtide.streams.kafka import aiokafka, batch_head
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.kafka.records import Record

#: What librdkafka says of such a batch, with the offset that it asked for.
_CODES = (KafkaError._BAD_COMPRESSION, KafkaError._BAD_MSG)
_WITHIN_S = 10.0
_MOST_BYTES = 2**21


def is_unreadable(error: KafkaError | None) -> bool:
    """Whether it is one batch that can't be read, and not the broker."""
    return error is not None and error.code() in _CODES


def record_in_place_of(message: Message) -> Record:
    """A record without content that stands for the batch which that error is about."""
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
    """The first offset behind the batch that holds this one; the next one where nobody says.

    Without aiokafka, as in a client alone, it is always the next one: the batch is left in steps.
    """
    if importlib.util.find_spec("aiokafka") is None:
        return offset + 1
    batch = asyncio.run(_batch_at(connection, topic, partition, offset))
    return max(offset + 1, batch_head.offset_after(batch) or 0)


def pass_batch(consumer: Consumer, connection: KafkaConnection, message: Message) -> None:
    """Have a consumer go on behind the batch which that error is about. May take some seconds."""
    topic, partition, offset = (
        message.topic() or "",
        message.partition() or 0,
        message.offset() or 0,
    )
    after = offset_after(connection, topic, partition, offset)
    with contextlib.suppress(KafkaException):  # it has lost the partition meanwhile
        consumer.seek(TopicPartition(topic, partition, after))


async def _batch_at(connection: KafkaConnection, topic: str, partition: int, offset: int) -> bytes:
    """What the broker sends from there on; nothing where nobody leads it just now."""
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
