"""What a long-running process needs: logs, readiness, and signal handling.

It must also end if one of its parts has ended: a dead thread would leave it alive but useless.
"""

import contextlib
import gc
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from pixtide.streams.process.logs import LogFormat, handler_of


def log_to_stderr(written_as: LogFormat = "text") -> None:
    """Log our own lines from INFO on, and libraries' from WARNING on."""
    logging.basicConfig(level=logging.WARNING, handlers=[handler_of(written_as)])
    logging.getLogger("pixtide").setLevel(logging.INFO)


@contextlib.contextmanager
def readiness(file: Path | None) -> Iterator[Callable[[bool], None]]:
    """A callback that reports whether the process is ready; at the end it isn't."""

    def keep(ready: bool = True) -> None:
        if ready:
            logging.getLogger("pixtide").info("ready")
        if file is not None and ready:
            file.touch()
        elif file is not None:
            file.unlink(missing_ok=True)

    keep(False)  # a file of a killed process says nothing about this one
    try:
        yield keep
    finally:
        keep(False)


class VitalThread(threading.Thread):
    """An essential background thread: if it fails, the process ends.

    Whatever runs the process starts it again. Nothing is lost: uncommitted records are read again.
    """

    def __init__(self, target: Callable[[], object], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._does = target

    def run(self) -> None:
        """Run the thread's work."""
        try:
            self._does()
        except BaseException:
            logging.getLogger("pixtide").critical(
                "the thread %r has failed: ending, to be started again", self.name, exc_info=True
            )
            os._exit(1)


def interrupt_on_signals() -> None:
    """Make SIGTERM and SIGHUP raise KeyboardInterrupt like Ctrl-C, so that everything is closed."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


def pass_over_what_is_loaded() -> None:
    """Make the garbage collector skip objects that stay for good.

    A model and its libraries are some 300,000 objects. Each full collection walks all of them while
    every thread waits, and busy searches cause about one full collection a second.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore signals that end the process: an interrupted shutdown would leave things behind."""
    before = {
        number: signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
