"""The partitions that a worker owns: taken, paused, committed and let go.

The main thread never waits for a broker or for a writer here: what may take long is done aside,
and an answer to the group is put off until it is done.

Partition n of the retry topic always goes with partition n of the log: the group assigns the
log's partitions, and each worker reads the retries that belong to its own. So one worker alone
writes the rows of a key, whether for a new record or for an old one that is tried again.
"""

import contextlib
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

from schemas.errors import FatalError, PixtideError
from streams.aside import Aside, within
from streams.kafka import REQUEST_TIMEOUT_S, Record, record_of, verdict
from streams.log_guard import LogGuard
from streams.offsets import InFlight, Place

logger = logging.getLogger(__name__)

_COMMIT_EVERY_S = 1.0
_RENEW_EVERY_S = 3600.0
#: How long the end of a worker waits for each: a call under way, a writer, the broker's goodbye.
_LEAVE_S = 10.0
#: How long partitions that are let go wait for their last commit; what it misses is read again.
_COMMIT_S = 10.0
_NOWHERE = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)


class Assignment:
    """One consumer's part of its group's partitions, for the main thread.

    `lock` is held while partitions change; other threads take it to write rows for them.
    Partitions are let go when those rows are written and what is done is committed: until then the
    group waits, and polling goes on.
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
        self._aside = Aside("assignment")
        self._letting_go = Aside("let-go")  # apart: the group waits for it
        self._unchecked: set[int] = set()  # assigned, and held until the guard has looked at them
        self._leaving: list[TopicPartition] = []
        self._sent: dict[Place, int] = {}
        self._closing = False

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
        leaving = {(p.topic, p.partition) for p in self._leaving}
        held = [
            p
            for p in partitions
            if self._paused or p.partition in self._unchecked or (p.topic, p.partition) in leaving
        ]
        self._consumer.pause(held)
        self._consumer.resume([p for p in partitions if p not in held])

    def commit_now_and_then(self) -> None:
        """Commit what can be, once a second; also go on with what is done aside."""
        self._aside.turn()
        self._letting_go.turn()
        self._look_at_assigned()
        self._let_go()
        now = time.monotonic()
        if now - self._committed_at < _COMMIT_EVERY_S:
            return
        self._committed_at = now
        if now >= self._renew_at:
            self._renew_at = now + _RENEW_EVERY_S
            self._renew()
        self._commit(self._flight.committable())

    def _renew(self) -> None:
        """Commit once more where the group stands in the retry topic.

        Positions of a topic that a group doesn't subscribe to expire, after a week by default,
        and for longer than that there may be nothing to retry.
        """
        retries = [p for p in self._consumer.assignment() if p.topic == self._retry]
        if not retries:
            return

        def ask() -> list[TopicPartition]:
            try:
                stand = self._consumer.committed(retries, timeout=REQUEST_TIMEOUT_S)
            except KafkaException as error:
                logger.warning("positions of retries stay as old: %s", error.args[0].str())
                return []
            return [place for place in stand if place.error is None and place.offset >= 0]

        if not self._aside.begin(ask, self._commit_again):
            self._renew_at = 0.0  # in a moment

    def _commit_again(self, stand: list[TopicPartition]) -> None:
        ours = {(p.topic, p.partition) for p in self._consumer.assignment()}
        known = {(p.topic, p.partition): p.offset for p in stand}
        # never back behind what was committed while the broker was asked
        still = {p: max(known[p], self._sent.get(p, -1)) for p in known.keys() & ours}
        self._commit(still)

    def leave(self) -> None:
        """Commit, let all partitions go, and leave the group, as far as the brokers answer."""
        self._closing = True
        for each in (self._letting_go, self._aside):
            with contextlib.suppress(PixtideError):
                each.end(_LEAVE_S)
        if self._leaving:
            self._let_go_now(self._leaving)
        if not within(_LEAVE_S, self._consumer.close):  # commits through _revoked
            logger.warning("the broker does not answer our leave")

    def _commit(self, offsets: dict[Place, int]) -> None:
        if not offsets:
            return
        positions = [TopicPartition(*place, offset) for place, offset in offsets.items()]
        try:
            self._consumer.commit(offsets=positions)
            self._sent |= offsets
            self._flight.committed(offsets)
        except KafkaException as error:
            # Not lost: the next commit says more, and a record read twice changes nothing.
            logger.warning("commit failed: %s", error.args[0].str())

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        ours = [p for p in partitions if p.topic == self._log]
        self._unchecked |= self._numbers(ours)
        ours += self._retries(ours)
        consumer.incremental_assign(ours)
        self._hold(ours)
        self._look_at_assigned()
        self._renew_at = 0.0

    def _look_at_assigned(self) -> None:
        """Have the guard look at what was just assigned, which is read after that."""
        numbers = frozenset(self._unchecked)
        if not numbers or self._error is not None:
            return
        places = [TopicPartition(self._log, number) for number in sorted(numbers)]

        def look() -> FatalError | None:
            try:
                self._guard.check_assigned(self._consumer, places)
            except FatalError as error:
                return error
            return None

        self._aside.begin(look, lambda error: self._looked_at(numbers, error))

    def _looked_at(self, numbers: frozenset[int], error: FatalError | None) -> None:
        if error is not None:
            self._error = error
            return
        self._unchecked -= numbers
        self._hold([p for p in self._consumer.assignment() if p.partition in numbers])

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._closing:
            self._let_go_now(partitions)
            return
        self._leaving += partitions
        self._hold(partitions)
        _put_off(consumer)

    def _let_go(self) -> None:
        """Go on letting go what was revoked: once no row is being written, commit, then answer.

        A row of a partition that is another's by now might stand above a newer one of theirs.
        """
        if not self._leaving or self._letting_go.is_busy:
            return
        if not self.lock.acquire(blocking=False):
            return
        numbers = self._numbers(self._leaving)
        try:
            self._settle()
            offsets = self._flight.committable(numbers)
            self._flight.forget(numbers)
        finally:
            self.lock.release()
        leaving = list(self._leaving)
        self._letting_go.begin(
            lambda: within(_COMMIT_S, lambda: self._commit_last(offsets)),
            lambda _: self._answer(leaving),
        )

    def _answer(self, leaving: list[TopicPartition]) -> None:
        """Let go, unless they were lost meanwhile: then they may be ours anew already."""
        still = [p for p in leaving if any(p is each for each in self._leaving)]
        if still:
            self._unassign(still)

    def _commit_last(self, offsets: dict[Place, int]) -> None:
        """Wait for the broker's word on partitions that are no longer in flight here."""
        if not offsets:
            return
        try:
            positions = [TopicPartition(*place, offset) for place, offset in offsets.items()]
            self._consumer.commit(offsets=positions, asynchronous=False)
        except KafkaException as error:
            logger.warning("commit failed: %s", error.args[0].str())

    def _let_go_now(self, partitions: list[TopicPartition]) -> None:
        """At the end, where nothing writes any more, or a writer that hangs is left behind."""
        numbers = self._numbers(partitions)
        held = self.lock.acquire(timeout=_LEAVE_S)
        try:
            self._settle()
            offsets = self._flight.committable(numbers)
            self._flight.forget(numbers)
        finally:
            if held:
                self.lock.release()
        within(_COMMIT_S, lambda: self._commit_last(offsets))
        self._unassign(partitions)

    def _lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = self._numbers(partitions)
        logger.warning("lost %d partitions: the session expired", len(numbers))
        # whatever is being written is too late already: nobody waits for it
        self._flight.forget(numbers)
        self._unassign(partitions)

    def _unassign(self, partitions: Iterable[TopicPartition]) -> None:
        numbers = self._numbers(partitions)
        self._unchecked -= numbers
        self._sent = {
            place: offset for place, offset in self._sent.items() if place[1] not in numbers
        }
        self._leaving = [p for p in self._leaving if p.partition not in numbers]
        ours = [p for p in self._consumer.assignment() if p.partition in numbers]
        if ours:  # else they were lost meanwhile
            self._consumer.incremental_unassign(ours)

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


def _put_off(consumer: Consumer) -> None:
    """Let a rebalance callback return without its answer, which `incremental_unassign` gives later.

    confluent-kafka answers by itself where a callback has not tried to. Having tried, even in vain,
    is enough; librdkafka then waits for the answer, and the group with it.
    """
    with contextlib.suppress(KafkaException):
        consumer.incremental_unassign([TopicPartition("", 0)])
