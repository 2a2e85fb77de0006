"""The partitions that a worker owns: taken, paused, committed and let go.

Partition n of the retry topic always goes with partition n of the log: the group assigns the
log's partitions, and each worker reads the retries that belong to its own. So one worker alone
writes the rows of a key, whether for a new record or for an old one that is tried again.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from schemas.errors import FatalError
from streams.kafka import REQUEST_TIMEOUT_S, Record, record_of, verdict
from streams.log_guard import LogGuard
from streams.offsets import InFlight, Place

logger = logging.getLogger(__name__)

_COMMIT_EVERY_S = 1.0
_RENEW_EVERY_S = 3600.0
_NOWHERE = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)


class Assignment:
    """One consumer's part of its group's partitions, for the main thread.

    `lock` is held while partitions change; other threads take it to write rows for them.
    """

    def __init__(
        self,
        consumer: Consumer,
        guard: LogGuard,
        flight: InFlight[Any],
        *,
        retry_topic: str,
        settle: Callable[[], None],
    ) -> None:
        """Joins no group yet.

        Args:
            settle: finishes in `flight` what other threads have done; called before a commit
                that lets partitions go.
        """
        self.lock = threading.Lock()
        self._consumer = consumer
        self._guard = guard
        self._flight = flight
        self._log, self._retry = guard.log.topic, retry_topic
        self._settle = settle
        self._paused = False
        self._committed_at = 0.0
        self._renew_at = 0.0
        self._error: FatalError | None = None

    def join(self) -> None:
        """Join the group; partitions come with later polls."""
        self._consumer.subscribe(
            # not to retries: what is shared out evenly is the sum, and one worker might get those
            # of all, which it doesn't read, and another the whole log
            [self._log],
            on_assign=self._assigned,
            on_revoke=self._revoked,
            on_lost=self._lost,
        )

    def poll(self, timeout_s: float) -> Record | None:
        """The next record, if there is one; group events are served meanwhile.

        Raises:
            FatalError: the log is no longer the one that this generation was made on.
        """
        message = self._consumer.poll(timeout_s)
        if self._error is not None:
            raise self._error
        if message is None:
            return None
        error = message.error()
        if error is None:
            return record_of(message)
        if message.topic() == self._retry and error.code() in _NOWHERE:
            self._restart(message)
            return None
        problem = verdict(error)
        if isinstance(problem, FatalError):
            raise problem
        logger.warning("%s", problem)
        return None

    def pause(self, *, wanted: bool) -> None:
        """Stop or go on fetching; polls go on either way."""
        if wanted != self._paused:
            self._paused = wanted
            self._hold(self._consumer.assignment())

    @property
    def is_paused(self) -> bool:
        """Whether fetching is paused."""
        return self._paused

    def _hold(self, partitions: list[TopicPartition]) -> None:
        """Have these paused, or not, as all are now.

        Those just assigned, too: librdkafka remembers of a partition that it was paused when it
        was let go, and would never fetch it again.
        """
        (self._consumer.pause if self._paused else self._consumer.resume)(partitions)

    def commit_now_and_then(self) -> None:
        """Commit what can be, once a second."""
        now = time.monotonic()
        if now - self._committed_at < _COMMIT_EVERY_S:
            return
        self._committed_at = now
        if now >= self._renew_at:
            self._renew_at = now + _RENEW_EVERY_S
            self._renew()
        self._commit(self._flight.committable(), asynchronous=True)

    def _renew(self) -> None:
        """Commit once more where the group stands in the retry topic.

        Positions of a topic that a group doesn't subscribe to expire, after a week by default,
        and for longer than that there may be nothing to retry.
        """
        try:
            retries = [p for p in self._consumer.assignment() if p.topic == self._retry]
            if not retries:
                return
            stand = self._consumer.committed(retries, timeout=REQUEST_TIMEOUT_S)
            known = [place for place in stand if place.error is None and place.offset >= 0]
            if known:
                self._consumer.commit(offsets=known)
        except KafkaException as error:
            logger.warning("positions of retries stay as old: %s", error.args[0].str())

    def leave(self) -> None:
        """Commit, let all partitions go, and leave the group."""
        self._consumer.close()  # commits through _revoked

    def _commit(self, offsets: dict[Place, int], *, asynchronous: bool) -> None:
        if not offsets:
            return
        positions = [TopicPartition(*place, offset) for place, offset in offsets.items()]
        try:
            if asynchronous:
                self._consumer.commit(offsets=positions)
            else:
                self._consumer.commit(offsets=positions, asynchronous=False)
            self._flight.committed(offsets)
        except KafkaException as error:
            # Not lost: the next commit says more, and a record read twice changes nothing.
            logger.warning("commit failed: %s", error.args[0].str())

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        ours = [p for p in partitions if p.topic == self._log]
        try:
            self._guard.check_assigned(consumer, ours)
        except FatalError as error:
            self._error = error
        ours += self._retries(ours)
        consumer.incremental_assign(ours)
        self._hold(ours)
        self._renew_at = 0.0

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = self._numbers(partitions)
        with self.lock:
            self._settle()
            self._commit(self._flight.committable(numbers), asynchronous=False)
            self._flight.forget(numbers)
        self._unassign(consumer, partitions)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = self._numbers(partitions)
        logger.warning("lost %d partitions: the session expired", len(numbers))
        with self.lock:
            self._flight.forget(numbers)
        self._unassign(consumer, partitions)

    def _unassign(self, consumer: Consumer, partitions: Iterable[TopicPartition]) -> None:
        ours = [p for p in partitions if p.topic == self._log]
        consumer.incremental_unassign(ours + self._retries(ours))

    def _numbers(self, partitions: Iterable[TopicPartition]) -> set[int]:
        return {p.partition for p in partitions if p.topic == self._log}

    def _retries(self, ours: Iterable[TopicPartition]) -> list[TopicPartition]:
        return [TopicPartition(self._retry, p.partition) for p in ours]

    def _restart(self, message: Message) -> None:
        """Read a partition of the retry topic from what it still holds.

        Retention may have removed what the group had yet to read, or its position is gone: other
        than in the log, that is no sign of a change, and a retry read twice changes nothing.
        """
        place = TopicPartition(self._retry, message.partition() or 0, OFFSET_BEGINNING)
        logger.warning("%s %d is read from its beginning", place.topic, place.partition)
        self._consumer.incremental_unassign([place])
        self._consumer.incremental_assign([place])
        self._hold([place])
