"""A limited amount, such as bytes of memory, that threads take from and give back to."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pixtide.schemas.errors import FatalError


class Reserve:
    """`total` units. A thread that asks for more than is free waits; waiting threads go in order.

    Without that order, small requests would always overtake a large one.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._closed = False
        self._turn = threading.Lock()
        self._changed = threading.Condition()

    @property
    def taken(self) -> int:
        """How much is in use now."""
        return self.total - self._free

    def take(self, amount: int, timeout_s: float | None = None) -> bool:
        """Take this amount, at most `total`; blocks until it is free.

        Returns:
            False if it was not free within that many seconds.

        Raises:
            FatalError: the reserve is closed.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        if not self._turn.acquire(timeout=-1 if timeout_s is None else max(0, timeout_s)):
            return False
        try:
            with self._changed:
                left = None if until is None else max(0, until - time.monotonic())
                free = self._changed.wait_for(lambda: self._free >= amount or self._closed, left)
                if self._closed:
                    raise FatalError("the reserve is closed")
                if free:
                    self._free -= amount
                return free
        finally:
            self._turn.release()

    def give_back(self, amount: int) -> None:
        """Give this amount back; from any thread."""
        with self._changed:
            self._free += amount
            self._changed.notify()

    @contextmanager
    def of(self, amount: int) -> Iterator[None]:
        """Hold this amount inside the block."""
        self.take(amount)
        try:
            yield
        finally:
            self.give_back(amount)

    def close(self) -> None:
        """End all waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify()
