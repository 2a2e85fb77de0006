"""What the embedded broker needs and Kafka doesn't: pauses between fetches, and retention.

It answers an empty fetch at once, where Kafka waits until `fetch.wait.max.ms`. An idle client asked
it 12,000 times a second, and client and broker together took a CPU core from the encoder. It also
keeps every record in memory and saves all of them again and again, whatever a topic's
`retention.ms` says. After 100,000 searches that was 1.5 GB and half a core.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka import topics as kafka_topics

#: An idle consumer fetches for the first time, then pauses for the second.
_LISTEN_S, _REST_S = 0.025, 0.1

_WAKE_S = 0.2


class RestingConsumer(Consumer):
    """A consumer that pauses for a moment after each poll that found nothing."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._paused_by_caller = False
        self._ends: dict[tuple[str | None, int | None], int | None] = {}

    def pause(self, partitions: list[TopicPartition]) -> None:
        """The caller's pause, which our own short pauses don't end."""
        self._paused_by_caller = True
        super().pause(partitions)

    def resume(self, partitions: list[TopicPartition]) -> None:
        """The caller's resume."""
        self._paused_by_caller = False
        super().resume(partitions)

    def poll(self, timeout: float = -1) -> Message | None:
        """Poll; if nothing came, pause fetching for a moment, and still handle group events."""
        if self._paused_by_caller:
            return self._news(timeout)
        message = self._news(_LISTEN_S if timeout < 0 else min(timeout, _LISTEN_S))
        if message is None and (partitions := self.assignment()) and not self._awaits(partitions):
            super().pause(partitions)
            message = self._news(_REST_S)
            # ask again: that poll may have handled a rebalance
            partitions = self.assignment()
            super().resume(partitions)
            if partitions:
                self._wake(partitions[0].topic)
        return message

    def _awaits(self, partitions: list[TopicPartition]) -> bool:
        """Whether there are records that haven't arrived yet: a pause would drop them.

        A record compressed to a hundredth takes seconds to decompress.
        """
        for place in self.position(partitions):
            known = self.get_watermark_offsets(place, cached=True)
            end = known[1] if known is not None else -1
            if max(place.offset, self._at_end(place)) < end:
                return True
        return False

    def _at_end(self, place: TopicPartition) -> int:
        """The last reported end, which may lie behind transaction markers."""
        return self._ends.get((place.topic, place.partition)) or 0

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        """Assign as usual; ends of partitions that are read again count as new."""
        for place in partitions:
            self._ends.pop((place.topic, place.partition), None)
        super().incremental_assign(partitions)

    def _news(self, timeout: float) -> Message | None:
        """Poll; drop repeated reports of the same end.

        After each pause every partition reports its end again.
        """
        until = time.monotonic() + timeout
        while True:
            message = super().poll(max(0.0, until - time.monotonic()) if timeout >= 0 else -1)
            error = None if message is None else message.error()
            if message is None or error is None or error.code() != KafkaError._PARTITION_EOF:
                return message
            place = (message.topic(), message.partition())
            if self._ends.get(place) != message.offset():
                self._ends[place] = message.offset()
                return message

    def _wake(self, topic: str) -> None:
        """Make librdkafka fetch now: on its own it checks for resumed partitions once a second."""
        with contextlib.suppress(KafkaException):  # the broker is away: nothing to fetch either
            self.list_topics(topic, timeout=_WAKE_S)


#: The least time between two checks; records may stay this much longer than their retention.
_LOOK_S = 10.0


class Retention:
    """Enforces the retention of some topics, by where they ended that long ago.

    Args:
        retention_s: for each topic, how long a record is kept.
    """

    def __init__(
        self,
        client: AdminClient,
        retention_s: Mapping[str, float],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._retention_s = retention_s
        self._clock = clock
        self._ends: dict[str, list[tuple[float, dict[int, int]]]] = {t: [] for t in retention_s}
        self._looked_at = -_LOOK_S

    def enforce(self) -> None:
        """Delete what is too old. May be called as often as you like.

        Raises:
            TransientError: the broker can't be reached.
        """
        now = self._clock()
        if now - self._looked_at < _LOOK_S:
            return
        self._looked_at = now
        for topic, retention_s in self._retention_s.items():
            numbers = range(kafka_topics.partitions_of(self._client, topic))
            looks = self._ends[topic]
            looks.append((now, kafka_offsets.ends(self._client, topic, numbers)))
            old = [ends for at, ends in looks if at <= now - retention_s]
            if old:
                kafka_offsets.delete_before(self._client, topic, old[-1])
                del looks[: len(old)]
