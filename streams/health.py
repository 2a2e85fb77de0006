"""Whether a process does its work: the truth behind `/live`, `/ready` and `--ready-file`.

Parts report what is wrong with them as they meet it; checks ask, now and then, what no part
would meet by itself. A process is ready while no part has a problem, and live while its main
loop turns.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from schemas.errors import PixtideError

logger = logging.getLogger("pixtide")

#: Kafka, too, gives up on a consumer that hasn't polled for so long.
LIVE_S = 120.0
_CHECK_S, _CHECK_UNREADY_S = 5.0, 0.5
#: How long a check that is under way may hold up the end of a process.
_LEAVE_S = 1.0

Check = Callable[[], str | None]


class Health:
    """What is wrong now, part by part. Safe to share between threads.

    Args:
        unproven: the parts that a process isn't ready before, and why they aren't yet.
        on_change: told, in order, whether the process is ready now.
        clock: in seconds, monotonic.
    """

    def __init__(
        self,
        unproven: Mapping[str, str],
        on_change: Callable[[bool], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._problems = dict(unproven)
        self._on_change = on_change
        self._clock = clock
        self._checks: dict[str, Check] = {}
        self._lock = threading.Lock()
        self._beat_at: float | None = None

    def beat(self) -> None:
        """The main loop turns."""
        self._beat_at = self._clock()

    def report(self, part: str, problem: str | None) -> None:
        """Say what is wrong with a part, or that nothing is."""
        with self._lock:
            was_ready = not self._problems
            if problem is None:
                self._problems.pop(part, None)
            else:
                self._problems[part] = problem
            is_ready = not self._problems
            if is_ready == was_ready:
                return
            if not is_ready:
                logger.warning("not ready: %s: %s", part, problem)
            self._on_change(is_ready)

    def check(self, part: str, check: Check) -> None:
        """Ask for a part's problem every 5 s, and oftener while not ready.

        A `PixtideError` that the check raises is a problem, too.
        """
        with self._lock:
            self._checks[part] = check

    @property
    def stuck(self) -> str | None:
        """What is wrong with the main loop. Before its first turn nothing is."""
        if self._beat_at is None or (age := self._clock() - self._beat_at) <= LIVE_S:
            return None
        return f"has not turned for {age:.0f} s"

    @property
    def problems(self) -> dict[str, str]:
        """Each part that is not well, and why; empty means ready."""
        with self._lock:
            return dict(self._problems)

    def ask_checks(self) -> None:
        """Ask each check once, and whether the main loop turns."""
        self.report("main loop", self.stuck)
        with self._lock:
            checks = list(self._checks.items())
        for part, check in checks:
            try:
                self.report(part, check())
            except PixtideError as error:
                self.report(part, str(error))

    @contextlib.contextmanager
    def checked(self) -> Iterator[None]:
        """Ask the checks in a thread of their own meanwhile."""
        ended = threading.Event()

        def ask() -> None:
            while not ended.wait(_CHECK_UNREADY_S if self.problems else _CHECK_S):
                self.ask_checks()

        thread = threading.Thread(target=ask, name="health", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(_LEAVE_S)
