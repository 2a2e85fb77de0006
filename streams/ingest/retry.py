"""Retries after transient errors: with growing pauses and jitter, until told to stop."""

import logging
import random
import threading
from collections.abc import Callable
from typing import TypeVar

from pixtide.schemas.errors import TransientError
from pixtide.streams.ingest.telemetry import IngestWatch, Step

T = TypeVar("T")

logger = logging.getLogger(__name__)

_FIRST_S, _LAST_S = 0.2, 10.0


class StoppedError(Exception):
    """The worker is stopping, so this work stays uncommitted."""


class Retry:
    """Shared by the threads of a worker; `give_up` ends every retry."""

    def __init__(self, watch: IngestWatch) -> None:
        self._watch = watch
        self._over = threading.Event()

    @property
    def is_over(self) -> bool:
        """Whether `give_up` has been called."""
        return self._over.is_set()

    def give_up(self) -> None:
        """End all retries."""
        self._over.set()

    def rest(self, seconds: float) -> None:
        """Wait this long. Raises StoppedError if `give_up` was called meanwhile."""
        if self._over.wait(seconds):
            raise StoppedError

    def __call__(self, step: Step, attempt: Callable[[], T]) -> T:
        """Try until it succeeds or fails with an error that isn't transient.

        Raises:
            StoppedError: `give_up` was called meanwhile.
        """
        pause = _FIRST_S
        with self._watch.trying(step) as failed:
            while True:
                try:
                    return attempt()
                except TransientError as error:
                    failed(error)
                    logger.warning("%s; trying again in about %.1f s", error, pause)
                self.rest(pause * random.uniform(0.5, 1.0))  # noqa: S311  # jitter
                pause = min(pause * 2, _LAST_S)
