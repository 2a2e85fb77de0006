"""A pace: so many a second and no more, however many threads keep to it."""

import threading
import time
from collections.abc import Callable

#: How much may be caught up with at once after a rest.
_BURST_S = 0.5


class RateLimit:
    """Tells each comer how long to wait. Safe to share between threads.

    Args:
        rate: how many a second; None: nobody waits.
    """

    def __init__(self, rate: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._step_s = 1 / rate if rate else 0.0
        self._clock = clock
        self._next = clock()
        self._lock = threading.Lock()

    def wait_s(self) -> float:
        """The seconds to wait before going on; a place in the row is taken with it."""
        if not self._step_s:
            return 0.0
        with self._lock:
            now = self._clock()
            turn = max(self._next, now - _BURST_S)
            self._next = turn + self._step_s
            return max(0.0, turn - now)
