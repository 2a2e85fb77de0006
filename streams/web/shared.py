"""Answers that all who ask share: whoever comes while one is being made waits for that one.

No lock is held while it is made, and nobody waits longer than the patience.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from pixtide.schemas.errors import TransientError
from pixtide.streams.web.lanes import busy

T = TypeVar("T")


class Shared(Generic[T]):
    """An answer for callers in one event loop, made anew when it is older than `fresh_s`.

    One that took longer to make is good for as long, so that no more than half of the time goes
    into making it.
    """

    def __init__(
        self, what: str, make: Callable[[], Awaitable[T]], *, fresh_s: float, patience_s: float
    ) -> None:
        self._what = what
        self._make = make
        self._fresh_s = fresh_s
        self._patience_s = patience_s
        self._task: asyncio.Task[T] | None = None
        self._made: T | None = None
        self._good_until = float("-inf")

    async def get(self) -> T:
        """The answer. Raises what making it raised, and ApiError 503 where it takes too long."""
        if self._made is not None and time.monotonic() <= self._good_until:
            return self._made
        if self._task is None:
            self._task = asyncio.create_task(self._make_it())
            self._task.add_done_callback(self._over)
        task = self._task
        done, _ = await asyncio.wait({task}, timeout=self._patience_s)
        if not done:
            raise busy(f"{self._what} took longer than {self._patience_s:g} s", retry_after_s=5)
        return task.result()

    def outdated(self) -> None:
        """Whoever asks from now on gets a new one."""
        self._made = None
        self._task = None

    async def _make_it(self) -> T:
        began = time.monotonic()
        made = await self._make()
        if self._task is asyncio.current_task():
            now = time.monotonic()
            self._made, self._good_until = made, now + max(self._fresh_s, now - began)
        return made

    def _over(self, task: "asyncio.Task[T]") -> None:
        if self._task is task:
            self._task = None
        if not task.cancelled():
            task.exception()  # seen, also where nobody waits any more


class Lazily(Generic[T]):
    """Something that takes long to make: made when first needed, by one thread for all.

    After a failure it is made again when next needed.
    """

    def __init__(self, make: Callable[[], T], *, patience_s: float) -> None:
        self._make = make
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._made: Future[T] | None = None

    def get(self) -> T:
        """It. Raises what making it raised, and TransientError where that takes too long."""
        with self._lock:
            made, mine = self._made, self._made is None
            if made is None:
                made = self._made = Future()
        if mine:
            self._make_for(made)
        try:
            return made.result(self._patience_s)
        except TimeoutError as error:
            raise TransientError(f"not there within {self._patience_s:g} s") from error

    def peek(self) -> T | None:
        """It, if it is there."""
        made = self._made
        return made.result() if made is not None and made.done() and not made.exception() else None

    def _make_for(self, made: "Future[T]") -> None:
        try:
            made.set_result(self._make())
        except BaseException as error:
            with self._lock:
                self._made = None
            made.set_exception(error)
            raise
