"""The partitions of a worker: how they are assigned, paused, committed and released.

The main thread never waits for a broker or for a writer here. Slow calls run in other threads, and
an answer to the group is delayed until they are done.

Partition n of the retry topic always belongs to the owner of partition n of the log: the group
assigns the log's partitions, and each worker reads the retries for its own. So only one worker
writes the rows of a key, both for new records and for retries of old ones.
"""

import contextlib
import logging
import threading
import time
from collections import deque
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

from pixtide.schemas.errors import FatalError, PixtideError, TransientError
from pixtide.streams.ingest.commit_metadata import Marks
from pixtide.streams.ingest.commits import Commits, commit_last
from pixtide.streams.ingest.in_flight import InFlight
from pixtide.streams.ingest.start_positions import Begin, Positions
from pixtide.streams.kafka.errors import verdict
from pixtide.streams.kafka.records import Record, record_of
from pixtide.streams.kafka.side_calls import SideCall, within
from pixtide.streams.kafka.unreadable_batch import is_unreadable, offset_after, record_in_place_of

logger = logging.getLogger(__name__)

#: How often to ask who leads the partitions that reached their end without a record.
_EPOCHS_EVERY_S = 30.0
#: How long a stopping worker waits for each of these: a running call, a writer, the broker's
#: goodbye.
_LEAVE_S = 10.0
#: How long released partitions wait for their last commit; what it misses is read again.
_COMMIT_S = 10.0
_NOWHERE = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)


class Assignment:
    """One consumer's partitions, for the main thread.

    `lock` is held while partitions change; other threads take it to write rows for them. Partitions
    are released when those rows are written and the finished offsets are committed. Until then the
    group waits, and polling goes on.
    """

    def __init__(
        self,
        connect: Callable[[dict[str, Any]], Consumer],
        positions: Positions,
        flight: InFlight[Any],
        *,
        retry_topic: str,
        settle: Callable[[], None],
    ) -> None:
        """Joins no group yet.

        Args:
            connect: makes the consumer; the argument is additional configuration.
            settle: finishes in `flight` what other threads have done; called before the commit that
                releases partitions.
        """
        self.lock = threading.Lock()
        self._positions = positions
        self._flight = flight
        self._marks = Marks()
        self._commits = Commits(flight, self._marks)
        # partition ends are reported, since no record may precede them
        self._consumer = connect(
            {"on_commit": self._commits.answered, "enable.partition.eof": True}
        )
        self._log, self._retry = positions.topic, retry_topic
        self._settle = settle
        self._paused = False
        self.resumed = 0  # how often fetching was resumed
        self._aside = SideCall("assignment")
        self._letting_go = SideCall("let-go")  # separate: the group waits for it
        self._asking_epochs = SideCall("epochs")
        self._passing = SideCall("unreadable batch")
        self._passed: deque[Record] = deque()
        self._ask_epochs_at = 0.0
        self._unchecked: set[int] = set()  # assigned, start not yet known
        self._ours: set[int] = set()
        self._leaving: list[TopicPartition] = []
        self._closing = False

    def join(self) -> None:
        """Join the group; partitions come with later polls."""
        self._consumer.subscribe(
            # Subscribe to the log only. With both topics, the group would balance the sum of all
            # partitions: one worker might get all retries, which it doesn't read, and another the
            # whole log.
            [self._log],
            on_assign=self._assigned,
            on_revoke=self._revoked,
            on_lost=self._lost,
        )

    def poll(self, timeout_s: float) -> Record | None:
        """The next record, if there is one; also handles group events.

        Raises:
            FatalError: the log is no longer the one that this generation was created on.
        """
        if self._passed:
            return self._passed.popleft()
        message = self._consumer.poll(timeout_s)
        if message is None:
            return None
        error, number = message.error(), message.partition()
        if error is None:
            if number in self._numbers(self._leaving):
                return None
            record = record_of(message)
            self._marks.read(record)
            return record
        if error.code() == KafkaError._PARTITION_EOF:
            if number in self._ours:
                self._flight.reached((message.topic() or "", number), message.offset() or 0)
            return None
        if message.topic() == self._retry and error.code() in _NOWHERE:
            self._restart(message)
            return None
        if is_unreadable(error):
            self._pass_batch(message)
            return None
        problem = verdict(error)
        if isinstance(problem, FatalError):
            raise problem
        logger.warning("%s", problem)
        return None

    def _pass_batch(self, message: Message) -> None:
        """Skip a batch that can't be decompressed; one empty record stands for it.

        Another thread asks where the batch ends. Until that is known, the same error comes again.
        """
        record = record_in_place_of(message)
        place = (record.topic, record.partition)

        def go_on(after: int) -> None:
            where = TopicPartition(*place, after)
            if record.partition not in self._ours:
                return
            with contextlib.suppress(KafkaException):  # not fetched yet, or lost: it comes again
                self._consumer.seek(where)
                logger.error("%s %d: %d to %d can't be read", *place, record.offset, after - 1)
                self._passed.append(record)

        self._passing.begin(
            lambda: offset_after(self._positions.connection, *place, record.offset), go_on
        )

    def pause(self, *, wanted: bool) -> None:
        """Pause or resume fetching; polls go on either way."""
        if wanted != self._paused:
            self._paused = wanted
            self.resumed += not wanted
            self._hold(self._consumer.assignment())

    @property
    def is_paused(self) -> bool:
        """Whether fetching is paused."""
        return self._paused

    def _hold(self, partitions: list[TopicPartition]) -> None:
        """Pause or resume these partitions, as the others are now.

        Also those just assigned: librdkafka remembers that a partition was paused when it was
        released, and would never fetch it again.
        """
        leaving = {(p.topic, p.partition) for p in self._leaving}
        held = [p for p in partitions if self._paused or (p.topic, p.partition) in leaving]
        self._consumer.pause(held)
        self._consumer.resume([p for p in partitions if p not in held])

    @property
    def problem(self) -> str | None:
        """Why commits fail, if they have failed for a while."""
        return self._commits.problem

    def commit_now_and_then(self) -> None:
        """Commit what is finished, once a second; also handle finished calls of other threads.

        Raises:
            FatalError: the log is no longer the one that this generation was created on.
        """
        self._aside.turn()
        self._asking_epochs.turn()
        self._passing.turn()
        self._letting_go.turn()
        self._look_at_assigned()
        self._let_go()
        self._ask_epochs()
        self._commits.now_and_then(self._consumer)

    def _ask_epochs(self) -> None:
        """Ask for the leader epoch of partitions whose end was reached without a record.

        Without the epoch, a log that is cut there later and grows again might go unnoticed.
        """
        if time.monotonic() < self._ask_epochs_at:
            return
        ends = self._flight.committable(again=True).items()
        numbers = {p for topic, p in self._marks.lacking(ends) if topic == self._log}
        if numbers and self._asking_epochs.begin(lambda: self._epochs(numbers), self._vouch):
            self._ask_epochs_at = time.monotonic() + _EPOCHS_EVERY_S

    def _epochs(self, numbers: set[int]) -> dict[int, tuple[int, int]]:
        with contextlib.suppress(TransientError):
            return self._positions.epochs(numbers)
        return {}

    def _vouch(self, epochs: dict[int, tuple[int, int]]) -> None:
        for number, (epoch, end) in epochs.items():
            if number in self._ours:
                self._marks.vouch((self._log, number), epoch, end)

    def leave(self) -> None:
        """Commit, release all partitions and leave the group, as far as the brokers answer."""
        self._closing = True
        for each in (self._letting_go, self._aside):
            with contextlib.suppress(PixtideError):
                each.end(_LEAVE_S)
        if self._leaving:
            self._let_go_now(self._leaving)
        if not within(_LEAVE_S, self._consumer.close):  # commits through _revoked
            logger.warning("the broker does not answer our leave")

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._unchecked |= self._numbers(partitions)
        consumer.incremental_assign([])  # until the start position is known
        self._look_at_assigned()

    def _look_at_assigned(self) -> None:
        """Find out where to start reading the assigned partitions."""
        numbers = sorted(self._unchecked)
        if numbers and not self._leaving:
            self._aside.begin(lambda: self._begins(numbers), self._begin)

    def _begins(self, numbers: list[int]) -> list[Begin]:
        try:
            return self._positions.begins(numbers)
        except TransientError as error:
            logger.warning("where reading begins is not known yet: %s", error)
            return []

    def _begin(self, begins: list[Begin]) -> None:
        """Read these partitions, and the retries that belong to them."""
        begins = [begin for begin in begins if begin.where.partition in self._unchecked]
        if not begins or self._leaving:
            return  # or again, when those are released
        for where, committed in begins:
            if committed is not None:
                self._marks.begin((self._log, where.partition), committed)
        places = [begin.where for begin in begins]
        self._ours |= self._numbers(places)
        self._unchecked -= self._numbers(places)
        places += self._retries(places)
        self._consumer.incremental_assign(places)
        self._hold(places)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._closing:
            self._let_go_now(partitions)
            return
        self._leaving += partitions
        self._ours -= self._numbers(partitions)
        self._hold([p for p in consumer.assignment() if p.partition in self._numbers(partitions)])
        _put_off(consumer)

    def _let_go(self) -> None:
        """Release revoked partitions: when no row is being written, commit, then answer the group.

        Otherwise a late row for a partition with a new owner might replace a newer row of that
        owner.
        """
        if not self._leaving or self._letting_go.is_busy:
            return
        if not self.lock.acquire(blocking=False):
            return
        numbers = self._numbers(self._leaving)
        try:
            self._settle()
            last = self._commits.take(numbers)
        finally:
            self.lock.release()
        leaving = list(self._leaving)
        self._letting_go.begin(
            lambda: within(_COMMIT_S, lambda: commit_last(self._consumer, last)),
            lambda _: self._answer(leaving),
        )

    def _answer(self, leaving: list[TopicPartition]) -> None:
        """Release them, unless they were lost meanwhile: then they may be ours again already."""
        still = [p for p in leaving if any(p is each for each in self._leaving)]
        if still:
            self._unassign(still)

    def _let_go_now(self, partitions: list[TopicPartition]) -> None:
        """Release at the end: nothing writes any more, or a hanging writer is left behind."""
        numbers = self._numbers(partitions)
        held = self.lock.acquire(timeout=_LEAVE_S)
        try:
            self._settle()
            last = self._commits.take(numbers)
        finally:
            if held:
                self.lock.release()
        commit_last(self._consumer, last, wait=False)
        self._unassign(partitions)

    def _lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = self._numbers(partitions)
        logger.warning("lost %d partitions: the session expired", len(numbers))
        # rows that are being written are too late already: don't wait for them
        self._commits.forget(numbers)
        self._unassign(partitions)

    def _unassign(self, partitions: Iterable[TopicPartition]) -> None:
        """Answer the group: release those of these partitions that were read."""
        numbers = self._numbers(partitions)
        self._unchecked -= numbers
        self._ours -= numbers
        self._leaving = [p for p in self._leaving if p.partition not in numbers]
        ours = [p for p in self._consumer.assignment() if p.partition in numbers]
        self._consumer.incremental_unassign(ours)

    def _numbers(self, partitions: Iterable[TopicPartition]) -> set[int]:
        return {p.partition for p in partitions if p.topic == self._log}

    def _retries(self, ours: Iterable[TopicPartition]) -> list[TopicPartition]:
        return [TopicPartition(self._retry, p.partition) for p in ours]

    def _restart(self, message: Message) -> None:
        """Read a partition of the retry topic from the oldest record that it still holds.

        Retention may have removed records that the group had not read, or its position has expired.
        Unlike in the log, that is no sign of a changed topic, and reading a retry twice changes
        nothing.
        """
        place = TopicPartition(self._retry, message.partition() or 0, OFFSET_BEGINNING)
        logger.warning("%s %d is read from its beginning", place.topic, place.partition)
        self._consumer.incremental_unassign([place])
        self._consumer.incremental_assign([place])
        self._hold([place])


def _put_off(consumer: Consumer) -> None:
    """Let a rebalance callback return without an answer; `incremental_unassign` gives it later.

    confluent-kafka answers automatically if a callback has not tried to. A failed try is enough to
    prevent that; librdkafka and the group then wait for the answer.
    """
    with contextlib.suppress(KafkaException):
        consumer.incremental_unassign([TopicPartition("", 0)])
