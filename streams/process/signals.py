"""What a long-running process owes its surroundings: logs, readiness, and heeding signals.

And that it ends where a part of it has: a thread that dies would leave it alive, and useless.
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
    """Our own words from INFO on, libraries' from WARNING on."""
    logging.basicConfig(level=logging.WARNING, handlers=[handler_of(written_as)])
    logging.getLogger("pixtide").setLevel(logging.INFO)


@contextlib.contextmanager
def readiness(file: Path | None) -> Iterator[Callable[[bool], None]]:
    """A callback that says whether we are ready; in the end we aren't."""

    def keep(ready: bool = True) -> None:
        if ready:
            logging.getLogger("pixtide").info("ready")
        if file is not None and ready:
            file.touch()
        elif file is not None:
            file.unlink(missing_ok=True)

    keep(False)  # a file that a killed process has left says nothing of this one
    try:
        yield keep
    finally:
        keep(False)


class VitalThread(threading.Thread):
    """A background thread that a process can't do without: where it fails, the process ends.

    Whoever runs the process starts it again. Nothing is lost: what isn't committed is read again.
    """

    def __init__(self, target: Callable[[], object], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._does = target

    def run(self) -> None:
        """Do it."""
        try:
            self._does()
        except BaseException:
            logging.getLogger("pixtide").critical(
                "the thread %r has failed: ending, to be started again", self.name, exc_info=True
            )
            os._exit(1)


def interrupt_on_signals() -> None:
    """SIGTERM and SIGHUP end us as Ctrl-C does, by KeyboardInterrupt, so that all is closed."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


def pass_over_what_is_loaded() -> None:
    """Keep the garbage collector from walking again and again what stays for good.

    A model and its libraries are some 300,000 objects. Each full collection walks all of them
    while every thread waits, and the rows and replies of busy searches bring one on a second.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Heed no signal that ends us: an ending that is broken off would leave things behind."""
    before = {
        number: signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
