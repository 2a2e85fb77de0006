"""Notices that this process stood still, so that its view of the group may be out of date."""

import time
from collections.abc import Callable

from pixtide.schemas.errors import TransientError

#: Of the session timeout: whoever stood still for less has kept its partitions.
_LONGEST = 1 / 3
#: After that, how long to go on polling before the view is trusted: librdkafka finds an expired
#: session at its next heartbeat, every 3 s at the latest.
SETTLE_S = 4.0


class PauseDetector:
    """The main thread tells each of its polls; writers ask before each write.

    A process that was stopped (SIGSTOP, a suspended machine) or starved goes on where it was,
    with rows at hand for partitions that somebody else may own by now. Its writers then wait
    until it has polled for a while, and has been told what it has lost.
    """

    def __init__(self, session_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._longest_s = session_s * _LONGEST
        self._clock = clock
        self._polled_at = clock()
        self._trusted_from = self._polled_at

    def polled(self) -> None:
        """The group's events have just been served."""
        now = self._clock()
        if now - self._polled_at > self._longest_s:
            self._trusted_from = now + SETTLE_S
        self._polled_at = now

    def check(self) -> None:
        """Raises TransientError while it isn't known whether partitions are still ours."""
        now = self._clock()
        if now - self._polled_at > self._longest_s or now < self._trusted_from:
            raise TransientError("this worker stood still: finding out what is still its own")
