"""Starting while a server is away: waits for it, and reports what it waits for."""

import logging
import signal
import time
from collections.abc import Callable
from typing import TypeVar

from pixtide.schemas.errors import TransientError
from pixtide.streams.process.health import Health

T = TypeVar("T")

logger = logging.getLogger("pixtide")

_FIRST_S, _LAST_S = 0.5, 10.0


class Starting:
    """Runs the steps of a start; repeats each until the server that it needs answers.

    A server that is away comes back. A wrong password or a missing topic doesn't change, and ends
    the process. So does any other error, which the next start would find again.
    """

    def __init__(
        self, health: Health, rest: Callable[[float], None] = time.sleep, *, waits: bool = True
    ) -> None:
        """Args: `waits` is false in a command, which reports at once what is away."""
        self._health = health
        self._waits = waits
        self._rest = rest

    def __call__(self, step: Callable[[], T]) -> T:
        """The result of the step. Raises what it raises, except TransientError."""
        pause = _FIRST_S
        while True:
            try:
                done = step()
            except TransientError as error:
                if not self._waits:
                    raise
                self._health.report("start", f"waits: {error}")
                logger.warning("waiting to start: %s", error)
            else:
                self._health.report("start", None)
                return done
            self._rest(pause)
            pause = min(pause * 2, _LAST_S)


def end_at_signals() -> None:
    """SIGTERM and SIGINT end this process at once with exit code 0: it has nothing to save yet.

    The code that runs next sets its own handlers.
    """

    def end(*_: object) -> None:
        raise SystemExit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
