"""Limits parallel fetches from one host, so that a slow host doesn't take all threads."""

import contextlib
import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial

Task = Callable[[], None]


@dataclass
class _Lane:
    running: int = 0
    waiting: deque[Task] = field(default_factory=deque)


class HostLimit:
    """Runs tasks on an executor; waiting tasks use none of its threads.

    A task waits for a free place at its host, or for the time of its next attempt.

    Args:
        wide: other limits, for the hosts named there.
    """

    def __init__(
        self,
        executor: Executor,
        per_host: int,
        *,
        wide: Mapping[str, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._executor = executor
        self._per_host = per_host
        self._wide = wide or {}
        self._clock = clock
        self._lock = threading.Lock()
        self._lanes: dict[str, _Lane] = {}
        self._later: list[tuple[float, int, str, Task]] = []
        self._numbers = itertools.count()

    def run(self, host: str | None, task: Task, *, again: bool = False) -> None:
        """Run the task here if its host has room, else later; a task without a host runs here.

        Tasks of one host start in the order in which they came. A task that was started before goes
        first.
        """
        if host is None:
            task()
            return
        with self._lock:
            lane = self._lanes.setdefault(host, _Lane())
            if lane.running >= self._wide.get(host, self._per_host):
                (lane.waiting.appendleft if again else lane.waiting.append)(task)
                return
            lane.running += 1
        self._go(host, task)

    def run_later(self, host: str, task: Task, pause_s: float) -> None:
        """Run the task after this pause, if `wake` is called by then."""
        with self._lock:
            due = self._clock() + pause_s
            heapq.heappush(self._later, (due, next(self._numbers), host, task))

    def wake(self) -> None:
        """Hand tasks that are due to the executor; never waits."""
        while True:
            with self._lock:
                if not self._later or self._later[0][0] > self._clock():
                    return
                *_, host, task = heapq.heappop(self._later)
            self._submit(partial(self.run, host, task, again=True))

    def _go(self, host: str, task: Task) -> None:
        try:
            task()
        finally:
            self._leave(host)

    def _leave(self, host: str) -> None:
        """Give the place to the task that has waited longest."""
        with self._lock:
            lane = self._lanes[host]
            if not lane.waiting:
                lane.running -= 1
                if not lane.running:
                    del self._lanes[host]
                return
            following = lane.waiting.popleft()
        self._submit(partial(self._go, host, following))

    def _submit(self, task: Task) -> None:
        with contextlib.suppress(RuntimeError):  # the executor is shut down: the worker is ending
            self._executor.submit(task)
