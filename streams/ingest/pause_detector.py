"""Notices that this process was stopped for a while, so that its assignment may be out of date."""

import time
from collections.abc import Callable

from pixtide.schemas.errors import TransientError

#: As a share of the session timeout: after a shorter stop, the partitions are still ours.
_LONGEST = 1 / 3
#: How long to poll after a stop before the assignment is trusted: librdkafka notices an expired
#: session at its next heartbeat, every 3 s at the latest.
SETTLE_S = 4.0


class PauseDetector:
    """The main thread reports each poll; writers check before each write.

    A process that was stopped (SIGSTOP, a suspended machine) or starved continues where it was. It
    may still hold rows for partitions that have a new owner by now. So its writers wait until it
    has polled for a while and has learned which partitions it lost.
    """

    def __init__(self, session_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._longest_s = session_s * _LONGEST
        self._clock = clock
        self._polled_at = clock()
        self._trusted_from = self._polled_at

    def polled(self) -> None:
        """Report that a poll has just handled the group's events."""
        now = self._clock()
        if now - self._polled_at > self._longest_s:
            self._trusted_from = now + SETTLE_S
        self._polled_at = now

    def check(self) -> None:
        """Raises TransientError while it is unclear whether the partitions are still ours."""
        now = self._clock()
        if now - self._polled_at > self._longest_s or now < self._trusted_from:
            raise TransientError("this worker stood still: finding out what is still its own")
