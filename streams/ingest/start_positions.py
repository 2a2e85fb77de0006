"""Where reading starts in the partitions that a worker is assigned.

1. ask      what the group has committed, and what the log holds
2. compare  the log with the metadata of the committed offset: the log may have been cut, and have
            grown again since
3. expired  if the committed position has expired but the log is the same, start at its beginning

All of this waits for the broker, so it doesn't run in the thread that polls.
"""

import contextlib
import logging
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from pixtide.schemas.errors import FatalError, TransientError
from pixtide.streams.ingest.commit_metadata import Mark, is_ours, moved
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.kafka.errors import verdict
from pixtide.streams.kafka.log_guard import ADVICE, LogGuard
from pixtide.streams.kafka.offsets import CommittedPosition
from pixtide.streams.kafka.topic_reader import Told, taken

logger = logging.getLogger(__name__)

_POLL_S = 0.5
_READ_S = 30.0
#: A new leader may say for a moment that a partition ends earlier than it does: look again.
_LOOKS, _LOOK_AGAIN_S = 4, 2.0


class Begin(NamedTuple):
    """Where to start in a partition; `committed` is None if no position was left."""

    where: TopicPartition
    committed: CommittedPosition | None


class Positions:
    """The start positions of one generation's group in its log, the `topic`."""

    def __init__(
        self, connection: KafkaConnection, client: AdminClient, group: str, guard: LogGuard
    ) -> None:
        self.connection = connection
        self._client = client
        self._group = group
        self._guard = guard
        self.topic = guard.log.topic
        self._asking: Consumer | None = None

    def begins(self, partitions: Collection[int]) -> list[Begin]:
        """Where to start in each of these partitions.

        Includes the leader epoch of the committed offset, so that librdkafka compares it with the
        broker's. It doesn't do that when it uses the group's position on its own.

        Raises:
            FatalError: the log is no longer the one that was read.
            TransientError: the broker can't be reached.
        """
        committed = self._committed(partitions)
        by_hand = {number for number, position in committed.items() if not is_ours(position)}
        with contextlib.suppress(TransientError):  # librdkafka finds it, too, in other words
            by_hand -= self._check_reach(committed)
        self._check_marks(committed)
        now = datetime.now(UTC)
        committed |= {number: moved(committed[number], now) for number in by_hand}
        expired = [number for number in partitions if number not in committed]
        if expired:
            self._guard.check()
            logger.warning(
                "group %s has no position in partitions %s any more, as after a week without a "
                "worker (offsets.retention.minutes). The log is the same, so it is read again from "
                "its beginning, which changes no row that is right; of pictures whose delete the "
                "log has forgotten meanwhile, `pixtide index verify --repair` removes the rows",
                self._group,
                expired,
            )
        return [self._begin(number, committed.get(number)) for number in partitions]

    def epochs(self, partitions: Collection[int]) -> dict[int, tuple[int, int]]:
        """For each partition, its leader's epoch, and the end that it has reached.

        Raises:
            TransientError: the broker can't be reached.
        """
        return kafka_offsets.leader_epochs(self._client, self.topic, partitions)

    def _committed(self, partitions: Collection[int]) -> dict[int, CommittedPosition]:
        """Ask over a connection that stays open until the broker answers, however slowly."""
        if self._asking is None:
            self._asking = kafka_clients.ingest_consumer(
                self.connection, self._group
            )  # it never joins
        committed = kafka_offsets.positions_of(self._asking, self.topic, partitions, _READ_S)
        self._asking.close()
        self._asking = None
        return committed

    def _begin(self, number: int, committed: CommittedPosition | None) -> Begin:
        if committed is None:
            return Begin(TopicPartition(self.topic, number, OFFSET_BEGINNING), None)
        return Begin(self._place(number, committed.offset, committed.leader_epoch), committed)

    def _place(self, number: int, offset: int, leader_epoch: int | None) -> TopicPartition:
        epoch = -1 if leader_epoch is None else leader_epoch
        return TopicPartition(self.topic, number, offset, leader_epoch=epoch)

    def _check_reach(self, committed: Mapping[int, CommittedPosition]) -> set[int]:
        """The partitions in which nothing lies before the group's position.

        Raises FatalError if the log doesn't contain that position.
        """
        low = kafka_offsets.beginnings(self._client, self.topic, committed)
        for number, position in committed.items():
            if position.offset < low[number]:
                raise FatalError(
                    f"the log changed: partition {number} of {self.topic} begins at "
                    f"{low[number]}, and its group stands at {position.offset}; {ADVICE}"
                )
            if position.offset > low[number] and not is_ours(position):
                logger.warning(
                    "the position %d in partition %d was committed by an older version or by hand; "
                    "if it was moved past events, `pixtide index verify --repair` finds them",
                    position.offset,
                    number,
                )
        ends = self._ends_of(committed)
        for number, end in ends.items():
            raise FatalError(
                f"the log was cut short: partition {number} of {self.topic} ends at {end}, and "
                f"its group stands at {committed[number].offset}; {ADVICE}"
            )
        return {number for number, position in committed.items() if position.offset == low[number]}

    def _ends_of(self, committed: Mapping[int, CommittedPosition]) -> dict[int, int]:
        """Ends of the partitions that end before the committed offset, after several looks."""
        short, ends = list(committed), dict[int, int]()
        for look in range(_LOOKS if short else 0):
            time.sleep(_LOOK_AGAIN_S if look else 0)
            ends = kafka_offsets.ends(self._client, self.topic, short)
            short = [number for number in short if ends[number] < committed[number].offset]
            if not short:
                break
        return {number: ends[number] for number in short}

    def _check_marks(self, committed: Mapping[int, CommittedPosition]) -> None:
        """Raises FatalError if a record that was read has been replaced by another one."""
        marks = {n: m for n, p in committed.items() if (m := Mark.read(p.metadata)) is not None}
        places = [self._place(n, m.offset, committed[n].leader_epoch) for n, m in marks.items()]
        silent_since = time.monotonic()
        with contextlib.closing(
            kafka_clients.tail_consumer(self.connection, tells_ends=True)
        ) as consumer:
            consumer.assign(places)
            while marks:
                heard = taken(consumer, self.connection, len(marks), _POLL_S)
                if not heard and time.monotonic() - silent_since > _READ_S:
                    raise TransientError(f"the broker gives nothing of {self.topic}")
                for each in heard:
                    if isinstance(each, Told) and not each.is_end:
                        raise verdict(each.error)
                    mark = marks.pop(each.partition, None)
                    # a batch that can't be decompressed was never read, so it has no mark
                    if mark is None or isinstance(each, Told) or "key" in each.unreadable:
                        continue
                    found = Mark.of(each)
                    if found.offset == mark.offset and found != mark:  # else compaction removed it
                        raise FatalError(
                            f"the log was cut short and has grown again: offset {mark.offset} of "
                            f"partition {each.partition} of {self.topic} holds another record "
                            f"than the one that was read; {ADVICE}"
                        )
