"""Commits: each offset is sent again until the broker has confirmed it.

librdkafka sends a commit once. If the broker refuses it, as during a rebalance, nothing repeats it,
and maybe no later record would include it. So an offset counts as committed only when the broker
has confirmed it, for each partition.
"""

import logging
import time
from collections.abc import Callable, Collection
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from pixtide.streams.ingest.commit_metadata import Marks
from pixtide.streams.ingest.in_flight import InFlight

logger = logging.getLogger(__name__)

_EVERY_S = 1.0
#: How often to commit everything, even offsets that haven't moved. This repairs the effect of a
#: commit that arrived late. It also keeps positions from expiring: in a topic that the group
#: doesn't subscribe to, they expire after a week by default.
_ALL_EVERY_S = 60.0
#: A commit without an answer for this long counts as lost; librdkafka answers each one in time.
_LOST_S = 90.0
#: A rebalance may get commits refused for this long.
_PROBLEM_S = 60.0


class Commits:
    """The commits of one consumer, for its main thread, whose polls call `answered`."""

    def __init__(
        self, flight: InFlight[Any], marks: Marks, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._flight = flight
        self._marks = marks
        self._clock = clock
        self._looked_at = self._all_at = clock()
        self._sent_at: float | None = None
        self._failing_since: float | None = None
        self._failure = ""

    @property
    def problem(self) -> str | None:
        """Why nothing has been committed for a while, though there is something to commit."""
        since = self._failing_since
        if since is None or self._clock() - since < _PROBLEM_S:
            return None
        return f"nothing can be committed: {self._failure}"

    def now_and_then(self, consumer: Consumer) -> None:
        """Once a second, send what the broker hasn't confirmed. Doesn't wait for the answer."""
        now = self._clock()
        if now - self._looked_at < _EVERY_S or not self._is_answered(now):
            return
        self._looked_at = now
        again = now - self._all_at >= _ALL_EVERY_S
        if again:
            self._all_at = now
        offsets = self._flight.committable(again=again)
        if not offsets:
            return
        self._sent_at = now
        try:
            consumer.commit(offsets=[self._marks.position(*each) for each in offsets.items()])
        except KafkaException as error:
            self.answered(error.args[0], [])

    def _is_answered(self, now: float) -> bool:
        return self._sent_at is None or now - self._sent_at > _LOST_S

    def answered(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        """Handle the broker's answer to a commit; librdkafka's `on_commit`."""
        self._sent_at = None
        refused = [place for place in places if place.error is not None]
        if error is not None and not refused:
            refused = places  # all of them: the error is about the whole request
        done = [place for place in places if place not in refused]
        self._flight.committed({(p.topic, p.partition): p.offset for p in done})
        problem = error or next((place.error for place in refused), None)
        if problem is None:
            self._failing_since = None
            return
        self._failure = problem.str()
        if self._failing_since is None:
            self._failing_since = self._clock()
            logger.warning("a commit failed, and is sent again: %s", self._failure)

    def take(self, partitions: Collection[int]) -> list[TopicPartition]:
        """What is left to commit for partitions that are being released. Forgets them."""
        offsets = self._flight.committable(partitions)
        positions = [self._marks.position(*each) for each in offsets.items()]
        self.forget(partitions)
        return positions

    def forget(self, partitions: Collection[int]) -> None:
        """Forget these partitions: they are no longer ours."""
        self._flight.forget(partitions)
        self._marks.forget(partitions)


def commit_last(consumer: Consumer, positions: list[TopicPartition], *, wait: bool = True) -> None:
    """Commit the result of `take`, and wait for the broker's answer.

    If the broker refuses, the next owner reads some records again, which changes nothing. While a
    consumer closes, waiting is impossible; librdkafka then sends the commit before it leaves.
    """
    if not positions:
        return
    try:
        if not wait:
            consumer.commit(offsets=positions)
            return
        for place in consumer.commit(offsets=positions, asynchronous=False):
            if place.error is not None:
                raise KafkaException(place.error)
    except KafkaException as error:
        logger.warning("the last commit failed: %s", error.args[0].str())
