"""Runs slow calls in another thread, for a main thread that never waits."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class SideCall:
    """One call at a time, in its own thread; everything else here is for the main thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        self._outcome: list[Callable[[], None]] = []

    @property
    def is_busy(self) -> bool:
        """Whether a call is running, or its result isn't handled yet."""
        return self._thread is not None

    def begin(self, call: Callable[[], T], then: Callable[[T], None] = lambda _: None) -> bool:
        """Start that call in its thread; a later `turn` passes its result to `then`.

        Returns False and does nothing while another call is running.
        """
        if self.is_busy:
            return False

        def run() -> None:
            try:
                found = call()
            except BaseException as error:  # noqa: BLE001  # not lost: the main thread raises it
                self._outcome.append(_raiser(error))
            else:
                self._outcome.append(lambda: then(found))

        # a daemon: a call that never returns doesn't keep the process alive
        self._thread = threading.Thread(target=run, name=self._name, daemon=True)
        self._thread.start()
        return True

    def turn(self) -> None:
        """Handle the result of the call, if it is finished. Raises what it raised."""
        if self._outcome:
            self._thread = None
            self._outcome.pop()()

    def end(self, within_s: float) -> None:
        """Wait that long for the running call, and handle its result."""
        if self._thread is not None:
            self._thread.join(within_s)
        self.turn()


def within(seconds: float, call: Callable[[], object]) -> bool:
    """Make that call and wait for it that long at most; returns whether it finished.

    Raises what it raised.
    """
    aside = SideCall("bounded")
    aside.begin(call)
    aside.end(seconds)
    return not aside.is_busy


def _raiser(error: BaseException) -> Callable[[], Any]:
    def throw() -> None:
        raise error

    return throw
