"""Turns, places and queues of the page's slow work, and answers that are shared."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from pixtide.schemas.errors import TransientError
from pixtide.streams.web.lanes import Budget, Lane, in_thread
from pixtide.streams.web.problems import ApiError
from pixtide.streams.web.shared import Lazily, Shared

T = TypeVar("T")
_LONG_S = 60.0


def in_loop(work: Callable[[], Awaitable[T]]) -> T:
    async def run() -> T:
        return await work()

    return asyncio.run(run())


def test_clients_take_turns() -> None:
    async def work() -> list[str]:
        lane, gate, order = Lane("works", 1, waiting=20, patience_s=_LONG_S), asyncio.Event(), []

        async def one(name: str) -> None:
            await gate.wait()
            order.append(name)

        asked = [
            asyncio.create_task(lane.run(client, lambda name=f"{client}{n}": one(name)))  # type: ignore[misc]
            for client, count in (("a", 4), ("b", 2), ("c", 1))
            for n in range(count)
        ]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*asked)
        return order

    assert in_loop(work) == ["a0", "a1", "b0", "c0", "a2", "b1", "a3"]


def test_one_client_has_half_of_the_places_and_of_the_queue() -> None:
    async def work() -> None:
        lane, gate = Lane("works", 4, waiting=4, patience_s=_LONG_S), asyncio.Event()
        began: list[str] = []

        async def one(name: str) -> None:
            began.append(name)
            await gate.wait()

        async def ask(client: str) -> "asyncio.Task[None]":
            task = asyncio.create_task(lane.run(client, lambda: one(client)))
            for _ in range(20):
                await asyncio.sleep(0)
            return task

        mine = [await ask("a") for _ in range(5)]
        assert began == ["a", "a"]
        with pytest.raises(ApiError) as refused:
            await mine[4]
        assert (refused.value.status, refused.value.code) == (503, "BUSY")
        assert "retry-after" in refused.value.headers
        others = [await ask("b")]
        assert began == ["a", "a", "b"]
        gate.set()
        await asyncio.gather(*mine[:4], *others)
        assert began.count("a") == 4

    in_loop(work)


def test_work_that_hangs_keeps_its_place_and_others_are_told() -> None:
    async def work() -> None:
        lane, gate = Lane("works", 2, waiting=4, patience_s=0.05), threading.Event()
        for _ in range(2):
            with pytest.raises(ApiError, match="took longer"):
                await lane.call("a", lambda: gate.wait(_LONG_S))
        assert await lane.call("b", lambda: 5) == 5
        gate.set()
        while True:
            try:
                assert await lane.call("a", lambda: 6) == 6
                return
            except ApiError:
                await asyncio.sleep(0.01)

    in_loop(work)


def test_what_fails_gives_its_place_back() -> None:
    async def work() -> None:
        lane = Lane("works", 1, waiting=1, patience_s=_LONG_S)
        for error in (ValueError, StopIteration):

            def fail(error: type[BaseException] = error) -> None:
                raise error

            with pytest.raises(RuntimeError if error is StopIteration else error):
                await in_thread(fail)
        for _ in range(3):
            with pytest.raises(TransientError):
                await lane.call("a", lambda: _raise(TransientError("away")))
        assert await lane.call("a", lambda: 1) == 1

    in_loop(work)


def _raise(error: Exception) -> None:
    raise error


def test_bytes_are_given_back_once() -> None:
    budget = Budget("things", 100)
    first, second = budget.take("a", 30), budget.take("b", 50)
    with pytest.raises(ApiError):
        budget.take("a", 30)
    first()
    first()
    budget.take("a", 50)
    with pytest.raises(ApiError):
        budget.take("c", 1)
    second()
    budget.take("c", 1000)()  # more than anybody may have: as much as one may have


def test_all_share_one_answer_and_a_failure_is_not_kept() -> None:
    async def work() -> None:
        made = 0
        gate = asyncio.Event()

        async def make() -> int:
            nonlocal made
            made += 1
            await gate.wait()
            if made == 1:
                raise TransientError("away")
            return made

        shared = Shared("looking", make, fresh_s=_LONG_S, patience_s=_LONG_S)
        asked = [asyncio.create_task(shared.get()) for _ in range(9)]
        await asyncio.sleep(0)
        gate.set()
        for each in asked:
            with pytest.raises(TransientError):
                await each
        assert made == 1
        assert await asyncio.gather(*(shared.get() for _ in range(9))) == [2] * 9
        shared.outdated()
        assert await shared.get() == 3

    in_loop(work)


def test_an_answer_that_takes_too_long_is_waited_for_by_nobody() -> None:
    async def work() -> None:
        gate = asyncio.Event()

        async def make() -> int:
            await gate.wait()
            return 1

        shared = Shared("looking", make, fresh_s=_LONG_S, patience_s=0.01)
        for _ in range(2):
            with pytest.raises(ApiError, match="looking took longer"):
                await shared.get()
        gate.set()
        for _ in range(100):
            await asyncio.sleep(0)
        assert await shared.get() == 1

    in_loop(work)


def test_what_is_made_lazily_is_made_once_and_again_after_a_failure() -> None:
    made: list[int] = []
    gate = threading.Event()

    def make() -> int:
        made.append(1)
        gate.wait(_LONG_S)
        if len(made) == 1:
            raise TransientError("away")
        return len(made)

    lazily = Lazily(make, patience_s=_LONG_S)
    assert lazily.peek() is None
    failures: list[TransientError] = []

    def get() -> None:
        try:
            lazily.get()
        except TransientError as error:
            failures.append(error)

    threads = [threading.Thread(target=get) for _ in range(4)]
    for thread in threads:
        thread.start()
    while not made:
        pass
    gate.set()
    for thread in threads:
        thread.join(_LONG_S)
    assert failures
    assert lazily.get() == lazily.peek()
    assert lazily.get() == lazily.peek()
