"""Finds records that are stuck in a worker while others go on.

The steps of the ingest path are queues, so records leave in almost the order in which they came. A
record that is still there long after later ones have finished is stuck, however busy the worker is.
Time in which a record waits for its source, or for an older record of its key, doesn't count.
"""

import time
from collections.abc import Callable, Iterable
from typing import Protocol


class InSteps(Protocol):
    """What this needs to know about a record in flight."""

    #: Since when it has been in the steps, by the monotonic clock; None while it waits outside.
    since: float | None

    @property
    def partition(self) -> int:
        """The partition it was read from."""

    @property
    def offset(self) -> int:
        """Its offset there."""


#: For each partition, how long a record has been overtaken, and its offset.
Late = dict[int, tuple[float, int]]


class Overtaken:
    """For a worker's main thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._latest = float("-inf")
        self._noticed: dict[InSteps, tuple[float, float]] = {}

    def finished(self, record: InSteps) -> None:
        """Note that this record has left the steps."""
        if record.since is not None:
            self._latest = max(self._latest, record.since)

    def look(self, records: Iterable[InSteps], *, excused: bool) -> Late:
        """The overtaken records: for each partition, the one that has been overtaken longest.

        Args:
            excused: a failing step is reported elsewhere; meanwhile time doesn't count.
        """
        now, noticed, late = self._clock(), dict[InSteps, tuple[float, float]](), Late()
        for record in () if excused else records:
            since = record.since
            if since is None or since >= self._latest:
                continue
            before, at = self._noticed.get(record, (since, now))
            noticed[record] = (since, at if before == since else now)
            longest, _ = late.get(record.partition, (-1.0, 0))
            if (seconds := now - noticed[record][1]) > longest:
                late[record.partition] = (seconds, record.offset)
        self._noticed = noticed
        return late
