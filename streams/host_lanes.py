"""At most so many fetches from one host at a time, so that a slow one doesn't take all threads."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

Task = Callable[[], None]


@dataclass
class _Lane:
    running: int = 0
    waiting: deque[Task] = field(default_factory=deque)


class HostLanes:
    """Runs tasks on an executor; those that must wait for their host occupy none of its threads."""

    def __init__(self, executor: Executor, per_host: int) -> None:
        self._executor = executor
        self._per_host = per_host
        self._lock = threading.Lock()
        self._lanes: dict[str, _Lane] = {}

    def run(self, host: str | None, task: Task) -> None:
        """Run it here where its host has room, else when it has; without a host always here.

        Tasks of one host begin in the order in which they came.
        """
        if host is None:
            task()
            return
        with self._lock:
            lane = self._lanes.setdefault(host, _Lane())
            if lane.running >= self._per_host:
                lane.waiting.append(task)
                return
            lane.running += 1
        self._go(host, task)

    def _go(self, host: str, task: Task) -> None:
        try:
            task()
        finally:
            self._leave(host)

    def _leave(self, host: str) -> None:
        """Hand the place to who waits longest."""
        with self._lock:
            lane = self._lanes[host]
            if not lane.waiting:
                lane.running -= 1
                if not lane.running:
                    del self._lanes[host]
                return
            following = lane.waiting.popleft()
        with contextlib.suppress(RuntimeError):  # the executor is shut down: all ends here
            self._executor.submit(self._go, host, following)
