"""Kafka clients that are replaced when they fail for long.

A broker that was stopped for a while and resumes answers, for a moment, that there are no brokers.
librdkafka then forgets all that it knew, and may never ask its bootstrap servers again
(confluentinc/librdkafka#5301, open in 2.16). Every call of that client then fails with "Broker
transport failure", while a new client is answered at once.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

C = TypeVar("C")

logger = logging.getLogger(__name__)

#: Longer than a broker takes to restart, or a partition to get another leader.
PATIENCE_S = 30.0


class RenewedClient(Generic[C]):
    """The client to use now. Safe to share between threads; its users report success and failure.

    Args:
        make: makes a client.
        let_go: called with a replaced client, in a thread of its own: closing may take long.
    """

    def __init__(
        self,
        make: Callable[[], C],
        let_go: Callable[[C], object] = lambda _: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make = make
        self._let_go = let_go
        self._clock = clock
        self._lock = threading.Lock()
        self._failing_since: float | None = None
        self.now = make()

    def worked(self) -> None:
        """Report that it did what it was asked, or that a broker refused it."""
        self._failing_since = None

    def failed(self) -> bool:
        """Report that it reached no broker; returns whether it was replaced for failing so long."""
        with self._lock:
            if self._failing_since is None:
                self._failing_since = self._clock()
            failing_s = self._clock() - self._failing_since
            if failing_s < PATIENCE_S:
                return False
            self._failing_since = self._clock()
            old, self.now = self.now, self._make()
        logger.warning("a client of Kafka failed for %.0f s and is made anew", failing_s)
        threading.Thread(target=self._let_go, args=[old], name="let-go", daemon=True).start()
        return True
