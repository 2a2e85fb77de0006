"""Request and reply over Kafka: sends requests and receives their replies."""

import logging
import random
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from pydantic import ValidationError

from pixtide.schemas.base import explain
from pixtide.schemas.errors import PixtideError, TransientError
from pixtide.schemas.queries import SearchReply, SearchRequest
from pixtide.schemas.reply_address import (
    CORRELATION_ID,
    DEADLINE,
    DEFAULT_DEADLINE_MS,
    REPLY_PARTITION,
    REPLY_TOPIC,
)
from pixtide.schemas.topics import REPLIES, REQUESTS
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import errors as kafka_errors
from pixtide.streams.kafka import requests as kafka_requests
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.kafka.renewed_client import RenewedClient
from pixtide.streams.kafka.topic_reader import Told, taken
from pixtide.streams.process.tracing import NO_SPAN, Span, begin

logger = logging.getLogger(__name__)

#: How many replies to read at once.
_MOST = 256
#: After this much silence from a partition's leader, another partition is tried.
_LEADER_S = 2.5
_AGAIN_S = 0.1
#: The most bytes of requests that wait for the broker.
_QUEUE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Addresses:
    """Where requests go, and where replies should go."""

    connection: KafkaConnection
    request_topic: str = REQUESTS
    reply_topic: str = REPLIES


@dataclass(frozen=True)
class _Ends:
    """A producer, and a consumer of that reply partition."""

    producer: Producer
    consumer: Consumer
    partition: int


class Replies:
    """Sends requests and receives replies in one reply partition, which other clients may share.

    Connects again, perhaps to another partition, if no request has been answered for long.
    """

    def __init__(self, addresses: Addresses) -> None:
        """Connect, and find the end of a reply partition before anything is sent.

        Raises:
            TransientError: the broker can't be reached.
            UsageError: a topic is missing, or Kafka refuses the login or the access.
        """
        self._addresses = addresses
        client = kafka_clients.admin(addresses.connection)
        kafka_topics.partitions_of(client, addresses.request_topic)
        self._count = kafka_topics.partitions_of(client, addresses.reply_topic)
        self._asked: dict[bytes, tuple[int, Span]] = {}
        self._ends = RenewedClient(self._connected, lambda ends: ends.consumer.close())

    def _connected(self) -> _Ends:
        connection = self._addresses.connection
        # nobody wants a request any more after its deadline
        limits = kafka_clients.gives_up(DEFAULT_DEADLINE_MS / 1000, _QUEUE_BYTES)
        producer = kafka_clients.producer(connection, linger_ms=0, **limits)
        consumer = kafka_clients.tail_consumer(connection)
        first = random.randrange(self._count)  # noqa: S311  # spreads clients, no secret
        return _Ends(producer, consumer, self._listening(consumer, first))

    def answered(self, in_time: bool) -> None:
        """Report how a request went. Call it in the receiving thread: it may connect again."""
        if in_time:
            self._ends.worked()
            return
        try:
            self._ends.failed()
        except PixtideError as error:
            logger.warning("no reply comes, and a new client is not answered either: %s", error)

    def listen(self) -> None:
        """Receive what comes from now on, in a partition whose leader answers.

        Raises TransientError: no broker can be reached.
        """
        ends = self._ends.now
        self._ends.now = replace(ends, partition=self._listening(ends.consumer, ends.partition))

    def _listening(self, consumer: Consumer, partition: int) -> int:
        """Start receiving in that partition, or in the next whose leader answers; returns which."""
        deadline = time.monotonic() + kafka_requests.REQUEST_TIMEOUT_S
        topic = self._addresses.reply_topic
        while True:
            where = TopicPartition(topic, partition)
            try:
                with kafka_errors.translated():
                    _, end = consumer.get_watermark_offsets(where, timeout=_LEADER_S)
                    consumer.assign([TopicPartition(topic, partition, end)])
                return partition
            except TransientError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_AGAIN_S)
            partition = (partition + 1) % self._count  # mostly on another broker

    def rest(self) -> None:
        """Receive nothing, and ask the broker for nothing, until `listen`."""
        self._ends.now.consumer.unassign()

    def ask(self, request: SearchRequest, timeout_s: float) -> bytes:
        """Send a request that expires after so long; returns the correlation id of its reply.

        Raises:
            TransientError: too many requests wait for the broker, or it accepts none of this size.
        """
        ends, correlation_id = self._ends.now, uuid.uuid4().bytes
        now_ms = int(time.time() * 1000)
        deadline_ms = now_ms + int(timeout_s * 1000)
        about = {"messaging.system": "kafka"}
        span = begin(f"search {self._addresses.request_topic}", "client", None, about)
        if span.counts:
            self._give_up_before(now_ms)
            self._asked[correlation_id] = deadline_ms, span
        headers: list[tuple[str, bytes]] = [
            (REPLY_TOPIC, self._addresses.reply_topic.encode()),
            (REPLY_PARTITION, ends.partition.to_bytes(4, "big")),
            (CORRELATION_ID, correlation_id),
            (DEADLINE, str(deadline_ms).encode()),
            *span.headers(),
        ]
        try:
            ends.producer.produce(
                self._addresses.request_topic,
                request.to_json(),
                correlation_id,
                headers=headers,  # type: ignore[arg-type]  # the stub wants str | bytes
            )
        except (BufferError, KafkaException) as error:
            raise TransientError(f"the request can't be sent: {error}") from error
        ends.producer.poll(0)
        return correlation_id

    def heard(self, wait_s: float) -> Iterator[tuple[bytes, bytes]]:
        """Correlation ids and JSON of received replies; includes replies to other clients."""
        ends, connection = self._ends.now, self._addresses.connection
        ends.producer.poll(0)
        heard = taken(ends.consumer, connection, 1, wait_s)
        if heard:  # waiting for more would take the whole time, even if some came
            heard += taken(ends.consumer, connection, _MOST, 0)
        for record in heard:
            if isinstance(record, Told) or record.value is None:
                continue
            correlation_id = dict(record.headers).get(CORRELATION_ID)
            if correlation_id is not None:
                self._asked.pop(correlation_id, (0, NO_SPAN))[1].end()
                yield correlation_id, record.value

    def _give_up_before(self, now_ms: int) -> None:
        """End the spans of requests without a reply in time; the oldest requests come first."""
        for correlation_id, (deadline_ms, span) in list(self._asked.items()):
            if deadline_ms > now_ms:
                break
            span.end(error="no reply in time")
            self._asked.pop(correlation_id, None)

    def close(self) -> None:
        """Close the connections."""
        self._ends.now.consumer.close()
        for _, span in self._asked.values():
            span.end(error="no reply in time")


def pause_s(attempt: int) -> float:
    """The pause before a request is repeated: longer each time, with jitter."""
    share: float = random.uniform(0.5, 1)  # noqa: S311  # no secret
    return min(2.0, 0.05 * 1.5**attempt) * share


def reply_of(value: bytes) -> SearchReply | None:
    """The reply, or None if somebody else wrote something else to the reply topic."""
    try:
        return SearchReply.from_json(value)
    except ValidationError as error:
        logger.warning("passed what is no reply, on the reply topic: %s", explain(error))
        return None


def worth_repeating(reply: SearchReply) -> bool:
    """Whether the same request may succeed later."""
    return reply.error is not None and reply.error.retryable
