"""Places for slow work: so many at once, shared fairly between clients, refused when full.

Each kind of slow work has a lane of its own, so that no kind can take another's threads. Work
that outlasts its patience keeps its place until it ends: a thread can't be stopped, and so no
more of them hang than there are places.
"""

import asyncio
import contextvars
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pixtide.streams.web.problems import ApiError

T = TypeVar("T")


class Lane:
    """Work of one kind. Used from one event loop.

    Clients take turns. One client has at most half of the places and half of the queue.

    Args:
        what: what is refused, for the message.
        places: how much is worked on at once.
        waiting: how much more may wait.
        patience_s: how long a caller waits for its result.
    """

    def __init__(self, what: str, places: int, *, waiting: int, patience_s: float) -> None:
        self._what = what
        self._places = places
        self._waiting = waiting
        self._patience_s = patience_s
        self._working: Counter[str] = Counter()
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def call(self, client: str, work: Callable[[], T]) -> T:
        """The result of a function that blocks, run in a thread. Raises ApiError 503 as `run`."""
        return await self.run(client, lambda: in_thread(work))

    async def run(self, client: str, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work`, begun when it is this client's turn.

        Raises:
            ApiError: 503, when too much waits already, or it takes longer than the patience.
        """
        task = asyncio.create_task(self._in_turn(client, self._turn(client), work))
        task.add_done_callback(_seen)
        done, _ = await asyncio.wait({task}, timeout=self._patience_s)
        if not done:
            raise busy(f"{self._what} took longer than {self._patience_s:g} s", retry_after_s=5)
        return task.result()

    def _turn(self, client: str) -> "asyncio.Future[None]":
        """A place, or the promise of one."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._is_free(client):
            self._working[client] += 1
            place.set_result(None)
            return place
        waiting = sum(map(len, self._queues.values()))
        mine = len(self._queues.get(client, ()))
        if waiting >= self._waiting or mine >= max(1, self._waiting // 2):
            raise busy(f"too many {self._what} are under way")
        self._queues.setdefault(client, deque()).append(place)
        return place

    async def _in_turn(
        self, client: str, place: "asyncio.Future[None]", work: Callable[[], Awaitable[T]]
    ) -> T:
        given, _ = await asyncio.wait({place}, timeout=self._patience_s)
        if not given:  # nobody waits for it any more
            self._leave_queue(client, place)
            raise busy(f"{self._what} waited longer than {self._patience_s:g} s", retry_after_s=5)
        try:
            return await work()
        finally:
            self._leave(client)

    def _is_free(self, client: str) -> bool:
        each = max(1, self._places // 2)
        return self._working.total() < self._places and self._working[client] < each

    def _leave_queue(self, client: str, place: "asyncio.Future[None]") -> None:
        queue = self._queues[client]
        queue.remove(place)
        if not queue:
            del self._queues[client]

    def _leave(self, client: str) -> None:
        self._working[client] -= 1
        if not self._working[client]:
            del self._working[client]
        for name in list(self._queues):
            if not self._is_free(name):
                continue
            queue = self._queues.pop(name)
            queue.popleft().set_result(None)
            self._working[name] += 1
            if queue:
                self._queues[name] = queue  # at the end: it is the others' turn


class Budget:
    """Bytes that requests may hold together; one client at most half of them."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._taken: Counter[str] = Counter()

    def take(self, client: str, amount: int) -> Callable[[], None]:
        """Take so many, and return what gives them back. Raises ApiError 503: not now."""
        amount = min(amount, self._total // 2)  # else one of the largest size never could
        if (
            self._taken.total() + amount > self._total
            or self._taken[client] + amount > self._total // 2
        ):
            raise busy(f"too many bytes of {self._what} are under way", retry_after_s=2)
        self._taken[client] += amount
        given_back = False

        def give_back() -> None:
            nonlocal given_back
            if not given_back:
                given_back = True
                self._taken[client] -= amount
                if not self._taken[client]:
                    del self._taken[client]

        return give_back


def busy(message: str, retry_after_s: int = 1) -> ApiError:
    """That there is too much to do, and when to come again."""
    return ApiError(503, "BUSY", message, {"retry-after": str(retry_after_s)})


async def in_thread(work: Callable[[], T]) -> T:
    """The result of a function that blocks, run in a thread of its own.

    A daemon: what hangs doesn't hinder the process from ending. Whoever calls bounds how many.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def tell(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # it is one, where there is no error

    def run() -> None:
        result, error = None, None
        try:
            result = context.run(work)
        except BaseException as raised:  # noqa: BLE001  # it is the caller's to handle
            error = RuntimeError(repr(raised)) if isinstance(raised, StopIteration) else raised
        try:
            loop.call_soon_threadsafe(tell, result, error)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    try:
        threading.Thread(target=run, name="page", daemon=True).start()
    except RuntimeError as error:  # the system gives no thread now
        raise busy("the system starts no thread now") from error
    return await done


def _seen(task: "asyncio.Task[T]") -> None:
    """Take the error of a task that nobody waits for any more."""
    if not task.cancelled():
        task.exception()
