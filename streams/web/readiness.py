"""Whether searches can be served: looked at in threads of its own, all the time.

A probe is answered with what was seen last, and so at once, however much other work waits. What
hasn't answered for long doesn't answer: a look that hangs is a failure too.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping

from pixtide.schemas.errors import PixtideError
from pixtide.streams.process.signals import VitalThread
from pixtide.streams.web.live_index import NothingLiveError

logger = logging.getLogger(__name__)

_LOOK_S = 2.0
#: A look is in vain after so long; one through a client that waits patiently takes ten seconds.
_SILENT_S = 12.0
#: How long a probe waits for the first look.
_FIRST_S = 3.0


class PartsWatch:
    """Looks at each part of `parts`, by its name; a look raises where its part doesn't answer."""

    def __init__(
        self,
        parts: Mapping[str, Callable[[], object]],
        *,
        every_s: float = _LOOK_S,
        silent_s: float = _SILENT_S,
    ) -> None:
        self._looks = [_Look(name, look, every_s, silent_s) for name, look in parts.items()]

    def start(self) -> None:
        """Begin to look."""
        for look in self._looks:
            look.thread.start()

    def close(self) -> None:
        """Stop looking; a look that hangs ends with the process."""
        for look in self._looks:
            look.ending.set()

    async def problem(self) -> str | None:
        """Why searches can't be served, or None. It names no address: anybody may ask."""
        until = time.monotonic() + _FIRST_S
        while time.monotonic() < until and any(look.is_first for look in self._looks):
            await asyncio.sleep(0.02)
        problems = [problem for look in self._looks if (problem := look.problem())]
        return "; ".join(problems) or None


class _Look:
    """One part, looked at by one thread."""

    def __init__(
        self, name: str, look: Callable[[], object], every_s: float, silent_s: float
    ) -> None:
        self.ending = threading.Event()
        self.thread = VitalThread(self._run, f"readiness of {name}")
        self._name = name
        self._look = look
        self._every_s = every_s
        self._silent_s = silent_s
        self._seen_at: float | None = None
        self._problem: str | None = None

    @property
    def is_first(self) -> bool:
        """Whether nothing is known yet."""
        return self._seen_at is None

    def problem(self) -> str | None:
        """What was wrong at the last look, or that it is too long ago."""
        if self._seen_at is None:
            return f"{self._name} has not answered yet"
        if time.monotonic() - self._seen_at > self._silent_s + self._every_s:
            return f"{self._name} has not answered for {self._silent_s:g} s"
        return self._problem

    def _run(self) -> None:
        while not self.ending.is_set():
            problem = None
            try:
                self._look()
            except NothingLiveError as error:
                problem = str(error)
            except Exception as error:
                problem = f"{self._name} does not answer"
                if problem != self._problem:
                    known = isinstance(error, PixtideError)
                    logger.warning("%s: %s", problem, error, exc_info=None if known else error)
            self._problem, self._seen_at = problem, time.monotonic()
            self.ending.wait(self._every_s)
