"""At most so many fetches from one host at a time, so that a slow one doesn't take all threads."""

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
    """Runs tasks on an executor; those that must wait occupy none of its threads.

    They wait for their host, or for the time to try it again.

    Args:
        wide: how many at a time of the hosts that are named there.
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
        """Run it here where its host has room, else when it has; without a host always here.

        Tasks of one host begin in the order in which they came; one that was begun before goes
        before the others.
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
        """Run it when so much time has passed, as far as `wake` is called then."""
        with self._lock:
            due = self._clock() + pause_s
            heapq.heappush(self._later, (due, next(self._numbers), host, task))

    def wake(self) -> None:
        """Hand over to the executor what is due; never waits."""
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
        """Hand the place to who waits longest."""
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
        with contextlib.suppress(RuntimeError):  # the executor is shut down: all ends here
            self._executor.submit(task)
