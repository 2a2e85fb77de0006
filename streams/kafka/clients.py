"""How every client of Kafka here is configured."""

from collections.abc import Callable, Mapping
from typing import Any, cast

from confluent_kafka import (
    Consumer,
    Producer,
)
from confluent_kafka.admin import AdminClient

from pixtide.schemas.identity import Partitioner
from pixtide.schemas.reply_address import DEFAULT_DEADLINE_MS
from pixtide.streams.kafka.acls import NO_GROUP
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.kafka.errors import Admin


def admin(connection: KafkaConnection) -> AdminClient:
    """An admin client.

    Connected to every broker: one that connects on demand (librdkafka 2.16) keeps a processor
    busy for as long as it asks for what a dead broker leads.
    """
    made = Admin(connection, **_QUIET, **{"enable.sparse.connections": False})
    return cast(AdminClient, made)  # it has all that one has


#: What librdkafka calls each way to choose partitions. Empty keys, too, land where they belong.
LIBRDKAFKA_PARTITIONERS: Mapping[Partitioner, str] = {
    "murmur2": "murmur2_random",
    "crc32": "consistent_random",
    "unchecked": "murmur2_random",
}


def producer(
    connection: KafkaConnection,
    *,
    linger_ms: int,
    max_bytes: int = 2**20,
    partitioner: Partitioner = "murmur2",
    **more: Any,
) -> Producer:
    """A producer that neither loses nor reorders; keys land where `partitioner` puts them.

    `more` is configuration besides, in librdkafka's names.
    """
    return Producer(
        {
            **connection.librdkafka(),
            "enable.idempotence": True,
            "partitioner": LIBRDKAFKA_PARTITIONERS[partitioner],
            "linger.ms": linger_ms,
            "message.max.bytes": max_bytes,
            "batch.size": 512 * 1024,  # a topic's limit is that of a batch, not of a message
            "compression.type": "none",  # pictures are compressed already
            **_QUIET,
            **more,
        }
    )


def reply_producer(connection: KafkaConnection) -> Producer:
    """A producer for replies; it gives up on one when a request without a deadline has expired.

    A broker that has died is replaced as leader some seconds later.
    """
    return Producer(
        {
            **connection.librdkafka(),
            "linger.ms": 1,  # a batch's replies go together, and one alone hardly waits
            "batch.size": 256 * 1024,  # a topic's limit is that of a batch, not of a message
            # Replies to alike requests are alike: an eighth is left of them. Every client reads
            # gzip by itself; KafkaJS does nothing else.
            "compression.type": "gzip",
            "compression.level": 1,
            "delivery.timeout.ms": DEFAULT_DEADLINE_MS,
            "queue.buffering.max.messages": 1_000_000,  # the consumer bounds them by topic
            "topic.metadata.propagation.max.ms": 2_000,  # a missing reply topic fails soon
            **_QUIET,
        }
    )


def ingest_consumer(
    connection: KafkaConnection,
    group: str,
    kind: Callable[[dict[str, Any]], Consumer] = Consumer,
    **more: Any,
) -> Consumer:
    """A consumer that never resets its position by itself and commits only when told.

    `more` is configuration besides, in librdkafka's names.
    """
    return kind(
        {
            **connection.librdkafka(),
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "partition.assignment.strategy": "cooperative-sticky",
            "max.poll.interval.ms": 120_000,
            "fetch.wait.max.ms": 50,
            # by default it fetches nothing for a second once its queue is full
            "fetch.queue.backoff.ms": 50,
            **_FETCHED,
            **_QUIET,
            **more,
        }
    )


def gives_up(seconds: float, max_bytes: int) -> dict[str, Any]:
    """Configuration of a producer that keeps what it can't deliver for so long, up to so much."""
    return {
        "delivery.timeout.ms": int(seconds * 1000),
        "queue.buffering.max.kbytes": max_bytes // 1024,
    }


def session(seconds: float) -> dict[str, Any]:
    """Configuration of a consumer whose group gives it up after a silence of so long."""
    return {
        "session.timeout.ms": int(seconds * 1000),
        "heartbeat.interval.ms": int(seconds * 100),
    }


def tail_consumer(connection: KafkaConnection, *, tells_ends: bool = False) -> Consumer:
    """A consumer of explicitly assigned partitions, in no group, quick to hear of news.

    With `tells_ends` it gives a message with the error `_PARTITION_EOF` at a partition's end.
    """
    return Consumer(
        {
            **connection.librdkafka(),
            "group.id": NO_GROUP,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": tells_ends,
            "fetch.wait.max.ms": 100,
            **_FETCHED,
            **_QUIET,
        }
    )


#: What a consumer holds. librdkafka unpacks all that an answer holds at once, and 30,000 bytes may
#: come out of one; so an answer is small. A batch that is larger comes alone.
_ANSWER_BYTES = 32 * 1024

_FETCHED = {
    "message.max.bytes": _ANSWER_BYTES,  # of a consumer, only the least that the next one may be
    "fetch.max.bytes": _ANSWER_BYTES,
    "fetch.message.max.bytes": _ANSWER_BYTES,
    "queued.max.messages.kbytes": 32 * 1024,  # unpacked; what one answer brings may exceed it
}

_QUIET = {
    "log_level": 2,  # errors reach us as errors; its own lines would flood a terminal
    "socket.keepalive.enable": True,
    "allow.auto.create.topics": False,
}
