"""Checks that the records of the log reach a consumer.

A consumer may die silently and still look healthy from inside. So this asks the broker how far the
log goes. When the log grows, the consumer must follow.

librdkafka's admin client could say who is in a group. A worker must not ask it: if the connection
to the group's coordinator breaks meanwhile, it aborts the process (confluentinc/librdkafka#4605).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from confluent_kafka.admin import AdminClient

from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.kafka.consumer_position import ConsumerPosition

#: How long records of a partition may wait without any coming before that is reported.
_COME_S = 30.0
#: A full consumer drops what it had fetched, and fetches from its partitions in turn. Each
#: partition should have had its turn after this many rounds of all.
_TURNS = 10


@dataclass
class _Waiting:
    """One partition since its last record: how long, by the clock and without the pauses."""

    reads: int
    at: float
    resumed: int
    whole_s: float = 0.0
    open_s: float = 0.0


class ConsumerCheck:
    """Checks one consumer, in the group that reads a topic. `check` is a health check.

    Args:
        look: returns where the consumer is.
        on_lags: called at each check with how far behind each of its partitions is.
        on_waiting: called at each check with how many records wait to be read or finished; None if
            the group has not let it in.
        on_late: called at each check with the partitions whose records don't come, and for how
            long; other partitions don't matter.
        markers: how many of the offsets before an end may be transaction markers, which are never
            delivered; 0 if the consumer knows the ends that it has reached.
    """

    def __init__(
        self,
        client: AdminClient,
        topic: str,
        look: Callable[[], ConsumerPosition],
        on_lags: Callable[[dict[int, int]], None],
        *,
        on_waiting: Callable[[int | None], None] = lambda _: None,
        on_late: Callable[[dict[int, float]], None] = lambda _: None,
        markers: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._on_waiting = on_waiting
        self._topic = topic
        self._look = look
        self._on_lags = on_lags
        self._clock = clock
        self._on_late = on_late
        self._markers = markers
        self._waiting: dict[int, _Waiting] = {}

    def check(self) -> str | None:
        """What is wrong, if anything.

        Raises:
            TransientError: the broker can't be reached.
        """
        numbers = range(kafka_topics.partitions_of(self._client, self._topic))
        ends = kafka_offsets.ends(self._client, self._topic, numbers)
        beginnings = kafka_offsets.beginnings(self._client, self._topic, numbers)
        now = self._look()
        if now.partitions is None:
            self._on_waiting(None)
            return "the group has not let this consumer in"
        lags, late, waiting = dict[int, int](), dict[int, float](), 0 if now.idle else 1
        for partition in now.partitions & ends.keys():
            end = ends[partition]
            stands = max(beginnings[partition], now.committed.get(partition, 0))
            reads = max(stands, now.read.get(partition, 0))
            # Markers, and records at the end that compaction removed, are read and never committed.
            lags[partition] = max(0, end - (reads if now.idle else stands))
            unread = max(0, end - reads - self._markers)
            waiting += unread if now.idle else lags[partition]
            if (late_s := self._late_s(partition, reads, now, waits=unread > 0)) > _COME_S:
                late[partition] = late_s
        for gone in self._waiting.keys() - now.partitions:
            del self._waiting[gone]
        self._on_lags(lags)
        self._on_late(late)
        self._on_waiting(waiting)
        if not late:
            return None
        longest = max(late, key=lambda partition: late[partition])
        return f"records of partition {longest} do not come, for {late[longest]:.0f} s by now"

    def _late_s(
        self, partition: int, reads: int, stands: ConsumerPosition, *, waits: bool
    ) -> float:
        """For how long its records could have come, and none has."""
        now = self._clock()
        before = self._waiting.pop(partition, None)
        if not waits:
            return 0.0
        if before is None or before.reads != reads:
            self._waiting[partition] = _Waiting(reads, now, stands.resumed)
            return 0.0
        before.whole_s += now - before.at
        before.open_s += 0.0 if stands.full else now - before.at
        before.at = now
        self._waiting[partition] = before
        turns = (stands.resumed - before.resumed) / max(1, len(stands.partitions or ()))
        return before.whole_s if turns >= _TURNS else before.open_s
