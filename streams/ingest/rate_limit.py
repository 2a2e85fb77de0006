"""A rate limit: so many a second and no more, for any number of threads."""

import threading
import time
from collections.abc import Callable

#: How many seconds' worth may be caught up at once after a pause.
_BURST_S = 0.5


class RateLimit:
    """Says how long to wait before each item. Safe to share between threads.

    Args:
        rate: how many a second; None: no limit.
    """

    def __init__(self, rate: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._step_s = 1 / rate if rate else 0.0
        self._clock = clock
        self._next = clock()
        self._lock = threading.Lock()

    def wait_s(self) -> float:
        """The seconds to wait before going on; the call also takes a place in the queue."""
        if not self._step_s:
            return 0.0
        with self._lock:
            now = self._clock()
            turn = max(self._next, now - _BURST_S)
            self._next = turn + self._step_s
            return max(0.0, turn - now)
