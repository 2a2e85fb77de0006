"""What a long-running process owes its surroundings: logs, readiness, and heeding signals."""

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path


def log_to_stderr() -> None:
    """Our own words from INFO on, libraries' from WARNING on."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for package in ("streams", "search", "encoders", "pixtide"):
        logging.getLogger(package).setLevel(logging.INFO)


@contextlib.contextmanager
def readiness(file: Path | None) -> Iterator[Callable[[], None]]:
    """A callback that says that we are ready, and takes it back in the end."""

    def ready() -> None:
        logging.getLogger("pixtide").info("ready")
        if file is not None:
            file.touch()

    try:
        yield ready
    finally:
        if file is not None:
            file.unlink(missing_ok=True)


def interrupt_on_signals() -> None:
    """SIGTERM and SIGHUP end us as Ctrl-C does, by KeyboardInterrupt, so that all is closed."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
