"""Whether the records of the log reach a consumer.

A consumer may die without a word, and go on looking well from inside. So the broker is asked how
far the log goes, and where that moves on the consumer must follow.

Librdkafka's admin client could say who is in a group. It must not be asked from a worker: where
the connection to a group's coordinator breaks meanwhile, it aborts the process
(confluentinc/librdkafka#4605).
"""

import time
from collections.abc import Callable

from confluent_kafka.admin import AdminClient

from streams import kafka
from streams.consumer_standing import Standing

#: How long records may lie there before a consumer that does nothing is taken for dead.
_COME_S = 30.0
#: A transaction's end takes an offset that is never delivered; more than that should have been.
_MARKER = 1


class Membership:
    """Of one consumer, in the group that reads a topic. `check` is a health check.

    Args:
        look: where the consumer stands.
        on_lags: told, at each check, how far behind each of its partitions is.
        on_waiting: told, at each check, how many records wait to be read or finished; None where
            the group has not let it in.
    """

    def __init__(
        self,
        client: AdminClient,
        topic: str,
        look: Callable[[], Standing],
        on_lags: Callable[[dict[int, int]], None],
        *,
        on_waiting: Callable[[int | None], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._on_waiting = on_waiting
        self._topic = topic
        self._look = look
        self._on_lags = on_lags
        self._clock = clock
        self._waiting: dict[int, tuple[float, int]] = {}

    def check(self) -> str | None:
        """What is wrong, if anything.

        Raises:
            TransientError: the broker can't be reached.
        """
        numbers = range(kafka.partitions_of(self._client, self._topic))
        ends = kafka.ends(self._client, self._topic, numbers)
        beginnings = kafka.beginnings(self._client, self._topic, numbers)
        now = self._look()
        if now.partitions is None:
            self._on_waiting(None)
            return "the group has not let this consumer in"
        lags, late, waiting = {}, None, 0 if now.idle else 1
        for partition in now.partitions & ends.keys():
            end = ends[partition]
            stands = max(beginnings[partition], now.committed.get(partition, 0))
            reads = max(stands, now.read.get(partition, 0))
            # Markers, and records at the end that compaction took, are read and never committed.
            lags[partition] = max(0, end - (reads if now.idle else stands))
            unread = max(0, end - reads - _MARKER)
            waiting += unread if now.idle else lags[partition]
            if self._is_late(partition, reads, waits=now.idle and unread > 0):
                late = f"records of partition {partition} do not come, for {_COME_S:g} s by now"
        self._on_lags(lags)
        self._on_waiting(waiting)
        return late

    def _is_late(self, partition: int, reads: int, *, waits: bool) -> bool:
        now = self._clock()
        since, stood = self._waiting.get(partition, (now, -1))
        self._waiting[partition] = (since if waits and stood == reads else now, reads)
        return now - self._waiting[partition][0] > _COME_S
