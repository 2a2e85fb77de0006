"""Notices that the log under a generation is no longer the one that it was created on."""

import contextlib
import time
from collections.abc import Callable

from confluent_kafka.admin import AdminClient

from pixtide.schemas.dead_letters import SourceRecord
from pixtide.schemas.errors import FatalError, PoisonError, ReasonCode, TransientError, UsageError
from pixtide.search.generations import LogIdentity
from pixtide.streams.kafka.errors import KafkaDeniedError
from pixtide.streams.kafka.offsets import ends
from pixtide.streams.kafka.side_calls import SideCall
from pixtide.streams.kafka.topics import log_identity

_EVERY_S = 15.0
#: What to do when the log has been replaced.
ADVICE = "create a generation for the new log (`pixtide index create`)"


class LogGuard:
    """Compares the log's identity; streams/ingest/start_positions.py checks how far it reaches."""

    def __init__(
        self,
        client: AdminClient,
        expected: LogIdentity,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self.log = expected
        self._clock = clock
        self._next_check = clock()
        self._aside = SideCall("log-guard")
        self._seen_at = float("-inf")

    def check(self) -> None:
        """Look at the topic.

        Raises:
            FatalError: it was created again or got more partitions.
            KafkaDeniedError: this login may not look at it.
            TransientError: the broker can't be reached.
        """
        expected, began = self.log, self._clock()
        try:
            found = log_identity(self._client, expected.topic)
        except KafkaDeniedError:
            raise  # this says nothing about the log
        except UsageError as error:
            raise FatalError(f"the log changed: {error}; then {ADVICE}") from error
        if (found.topic_id, found.partitions) != (expected.topic_id, expected.partitions):
            raise FatalError(
                f"the log changed: {expected.topic} was {expected.topic_id} with "
                f"{expected.partitions} partitions and is {found.topic_id} with "
                f"{found.partitions}; {ADVICE}"
            )
        self._seen_at = began

    def vouch(self, read_at: float) -> None:
        """Check that everything read by that time of the clock is from this log.

        When a topic is created again, fetching goes on by name, from the old topic's offset.

        Raises:
            FatalError, KafkaDeniedError, TransientError: as `check`.
        """
        if read_at >= self._seen_at:
            self.check()

    def check_source(self, source: SourceRecord) -> None:
        """Check that a record which claims to come from this log may come from it.

        Raises:
            PoisonError: INVALID_RETRY, if it names another log or an offset that doesn't exist yet.
                Its version would be newer than all records until then.
            TransientError: the broker can't be reached.
        """
        if source.topic_id != self.log.topic_id:
            raise PoisonError(
                ReasonCode.INVALID_RETRY,
                f"it comes from topic id {source.topic_id}; that of {self.log.topic} is "
                f"{self.log.topic_id}",
            )
        if source.partition >= self.log.partitions:
            raise PoisonError(
                ReasonCode.INVALID_RETRY, f"the log has no partition {source.partition}"
            )
        end = ends(self._client, self.log.topic, [source.partition])[source.partition]
        if source.offset >= end:
            raise PoisonError(
                ReasonCode.INVALID_RETRY,
                f"it comes from offset {source.offset}; partition {source.partition} of the log "
                f"ends at {end}",
            )

    def check_now_and_then(self) -> None:
        """Call `check` every 15 s in another thread; returns at once, and raises the last result.

        A broker that can't be reached says nothing about the log.
        """
        self._aside.turn()
        if self._clock() < self._next_check:
            return
        self._next_check = self._clock() + _EVERY_S
        self._aside.begin(self._look)

    def _look(self) -> None:
        with contextlib.suppress(TransientError):
            self.check()
