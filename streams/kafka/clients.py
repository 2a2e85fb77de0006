"""The configuration of every Kafka client here."""

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

    It connects to every broker. One that connects on demand (librdkafka 2.16) keeps a CPU core busy
    as long as it asks for something that a dead broker leads.
    """
    made = Admin(connection, **_QUIET, **{"enable.sparse.connections": False})
    return cast(AdminClient, made)  # it has all methods of one


#: librdkafka's name of each partitioner. With these, empty keys also go to the right partition.
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
    """A producer that neither loses nor reorders; `partitioner` chooses the partition of a key.

    `more` is additional configuration, in librdkafka's names.
    """
    return Producer(
        {
            **connection.librdkafka(),
            "enable.idempotence": True,
            "partitioner": LIBRDKAFKA_PARTITIONERS[partitioner],
            "linger.ms": linger_ms,
            "message.max.bytes": max_bytes,
            "batch.size": 512 * 1024,  # a topic's limit applies to a batch, not to a message
            "compression.type": "none",  # pictures are compressed already
            **_QUIET,
            **more,
        }
    )


def reply_producer(connection: KafkaConnection) -> Producer:
    """A producer for replies. It gives up on a reply when a request without a deadline has expired.

    When a broker dies, another one becomes leader some seconds later.
    """
    return Producer(
        {
            **connection.librdkafka(),
            "linger.ms": 1,  # a batch's replies go together; a single one hardly waits
            "batch.size": 256 * 1024,  # a topic's limit applies to a batch, not to a message
            # Replies to similar requests are similar: gzip leaves an eighth of them. Every client
            # reads gzip without extra packages, and KafkaJS reads nothing else.
            "compression.type": "gzip",
            "compression.level": 1,
            "delivery.timeout.ms": DEFAULT_DEADLINE_MS,
            "queue.buffering.max.messages": 1_000_000,  # the consumer limits them by topic
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
    """A consumer that never resets its position automatically and commits only when told to.

    `more` is additional configuration, in librdkafka's names.
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
    """Producer configuration: for how long, and how many bytes, it keeps what it can't deliver."""
    return {
        "delivery.timeout.ms": int(seconds * 1000),
        "queue.buffering.max.kbytes": max_bytes // 1024,
    }


def session(seconds: float) -> dict[str, Any]:
    """Consumer configuration: the group removes it after so many seconds of silence."""
    return {
        "session.timeout.ms": int(seconds * 1000),
        "heartbeat.interval.ms": int(seconds * 100),
    }


def tail_consumer(connection: KafkaConnection, *, tells_ends: bool = False) -> Consumer:
    """A consumer of explicitly assigned partitions, in no group, that gets new records quickly.

    With `tells_ends` it returns a message with the error `_PARTITION_EOF` at a partition's end.
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


#: Memory limits of a consumer. librdkafka decompresses everything in a response at once, and one
#: byte may become 30,000. So responses are small. A batch that is larger comes alone.
_ANSWER_BYTES = 32 * 1024

_FETCHED = {
    "message.max.bytes": _ANSWER_BYTES,  # for a consumer only the minimum of the next setting
    "fetch.max.bytes": _ANSWER_BYTES,
    "fetch.message.max.bytes": _ANSWER_BYTES,
    "queued.max.messages.kbytes": 32 * 1024,  # decompressed; one response may exceed it
}

_QUIET = {
    "log_level": 2,  # errors reach us as errors; its own lines would flood a terminal
    "socket.keepalive.enable": True,
    "allow.auto.create.topics": False,
}
