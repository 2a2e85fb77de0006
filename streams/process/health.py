"""Whether a process does its work: the basis of `/live`, `/ready` and `--ready-file`.

Parts report their problems as they meet them. Checks ask regularly for problems that no part would
meet. A process is ready while no part has a problem. It is live while its main loop turns, its
threads are alive, and work gets done if there is any.
"""

import contextlib
import faulthandler
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from pixtide.schemas.errors import PixtideError
from pixtide.streams.process.signals import VitalThread

logger = logging.getLogger("pixtide")

#: Kafka also gives up on a consumer that hasn't polled for this long.
LIVE_S = 120.0
_CHECK_S, _CHECK_UNREADY_S = 5.0, 0.5
#: How long a running check may delay the end of a process.
_LEAVE_S = 1.0
#: After this long, a main loop that hangs can no longer end the process itself.
_HANGS_S = 2 * LIVE_S

Check = Callable[[], str | None]


class Health:
    """The current problems of each part. Safe to share between threads.

    Args:
        unproven: the parts that must report before the process is ready, and why they aren't ready
            yet.
        on_change: called, in order, with whether the process is ready now.
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
        self._asked_at: float | None = None
        self._hung_since: float | None = None
        self._broken: str | None = None
        self._stalled: Callable[[], str | None] = lambda: None

    def beat(self) -> None:
        """The main loop turns."""
        self._beat_at = self._clock()

    def report(self, part: str, problem: str | None) -> None:
        """Report a part's problem, or None for no problem."""
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
            try:
                self._on_change(is_ready)
            except OSError:  # such as a full disk with the ready file on it
                logger.exception("whether it is ready could not be told")

    def check(self, part: str, check: Check) -> None:
        """Ask for a part's problem every 5 s, and more often while not ready.

        A `PixtideError` that the check raises is a problem, too.
        """
        with self._lock:
            self._checks[part] = check

    def broke(self, part: str, why: str) -> None:
        """Report that an essential part has ended; nothing restarts it."""
        self._broken = self._broken or f"{part}: {why}"

    def watch(self, stalled: Callable[[], str | None]) -> None:
        """Also ask this function whether the process is live."""
        self._stalled = stalled

    @property
    def stuck(self) -> str | None:
        """The main loop's problem. Before its first turn there is none."""
        if self._beat_at is None or (age := self._clock() - self._beat_at) <= LIVE_S:
            return None
        return f"has not turned for {age:.0f} s"

    @property
    def lost(self) -> str | None:
        """Why only a restart helps, as far as the main loop can tell; the process then ends."""
        return self._broken or self._stalled()

    @property
    def problems(self) -> dict[str, str]:
        """Each part with a problem, and the problem; empty means ready."""
        with self._lock:
            problems = dict(self._problems)
        if self._asked_at is not None and (age := self._clock() - self._asked_at) > LIVE_S:
            problems["checks"] = f"have not come back for {age:.0f} s"
        return problems

    def ask_checks(self) -> None:
        """Run each check once, and check whether the main loop turns."""
        self.report("main loop", self.stuck)
        self.report("work", self.lost)
        with self._lock:
            checks = list(self._checks.items())
        for part, check in checks:
            try:
                self.report(part, check())
            except PixtideError as error:
                self.report(part, str(error))
            except Exception as error:  # it proves nothing, and the other checks go on
                logger.exception("the check of %s failed", part)
                self.report(part, f"can't be looked at: {error!r}")

    def end_if_hung(self, end: Callable[[int], object] = os._exit) -> None:
        """End the process if its main loop hasn't turned for long and can't end it itself.

        It must hang in two checks: a process that was stopped and resumes turns again before the
        second one.
        """
        seen, self._hung_since = self._hung_since, None
        if self._beat_at is None or self._clock() - self._beat_at <= _HANGS_S:
            return
        self._hung_since = self._beat_at
        if seen != self._beat_at:
            return
        logger.critical("the main loop %s: ending, to be started again", self.stuck)
        faulthandler.dump_traceback(all_threads=True)
        end(1)

    @contextlib.contextmanager
    def checked(self) -> Iterator[None]:
        """Run the checks in their own thread meanwhile."""
        ended = threading.Event()

        def ask() -> None:
            while not ended.wait(_CHECK_UNREADY_S if self.problems else _CHECK_S):
                self._asked_at = self._clock()
                self.ask_checks()
            self._asked_at = None

        def see() -> None:
            """Run in its own thread: a check may hang, too."""
            while not ended.wait(_CHECK_S):
                self.end_if_hung()

        thread = VitalThread(ask, "health")
        thread.start()
        VitalThread(see, "hung").start()
        try:
            yield
        finally:
            ended.set()
            thread.join(_LEAVE_S)
