"""Has the embedded broker forget requests and replies that nobody waits for any more.

It keeps every record in memory and saves all of them again and again, whatever a topic's
`retention.ms` says: after 100,000 searches that was 1.5 GB and half of a core.
"""

import time
from collections.abc import Callable, Mapping

from confluent_kafka.admin import AdminClient

from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka import topics as kafka_topics

#: How often it looks, at most: so much longer than their retention records may stay.
_LOOK_S = 10.0


class Retention:
    """Enforces the retention of some topics by where they ended that long ago.

    Args:
        retention_s: by topic, how long a record is kept.
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
        """Delete what is too old. May be called as often as one likes.

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
