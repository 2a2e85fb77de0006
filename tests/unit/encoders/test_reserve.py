"""A reserve is never overdrawn, whoever comes when, and nobody waits for ever."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pixtide.encoders.reserve import Reserve
from pixtide.schemas.errors import FatalError


def test_many_threads_never_take_more_than_there_is() -> None:
    reserve = Reserve(100)
    held, most, lock = 0, 0, threading.Lock()

    def work(seed: int) -> None:
        nonlocal held, most
        chance = random.Random(seed)
        for _ in range(200):
            amount = chance.randint(1, 60)
            with reserve.of(amount):
                with lock:
                    held += amount
                    most = max(most, held)
                with lock:
                    held -= amount

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert 60 <= most <= 100
    assert reserve.taken == 0


def test_part_of_what_was_taken_can_go_back_early_and_from_elsewhere() -> None:
    reserve = Reserve(10)
    reserve.take(10)
    waiting = threading.Thread(target=reserve.take, args=(4,))
    waiting.start()
    reserve.give_back(3)
    assert reserve.taken == 7
    reserve.give_back(1)
    waiting.join(60)
    assert not waiting.is_alive()
    assert reserve.taken == 10


def test_closing_wakes_everybody() -> None:
    reserve = Reserve(1)
    reserve.take(1)
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(reserve.take, 1) for _ in range(3)]
        reserve.close()
        for each in waiting:
            with pytest.raises(FatalError, match="closed"):
                each.result(60)
