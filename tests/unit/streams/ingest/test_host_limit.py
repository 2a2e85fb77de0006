"""A slow host takes its own lanes, and never all threads."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from pixtide.streams.ingest.host_limit import HostLimit

WAIT_S = 10.0


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def test_others_go_on_while_a_slow_host_is_waited_for(threads: ThreadPoolExecutor) -> None:
    lanes = HostLimit(threads, per_host=2)
    release, inside, order = threading.Event(), threading.Semaphore(0), []
    together, most = 0, 0
    lock = threading.Lock()

    def slow(number: int) -> None:
        nonlocal together, most
        with lock:
            order.append(number)
            together += 1
            most = max(most, together)
        inside.release()
        assert release.wait(WAIT_S)
        with lock:
            together -= 1

    tasks = [threads.submit(lanes.run, "slow", partial(slow, number)) for number in range(20)]
    assert inside.acquire(timeout=WAIT_S) and inside.acquire(timeout=WAIT_S)
    done = threading.Event()
    threads.submit(lanes.run, "quick", done.set)
    assert done.wait(WAIT_S)
    done.clear()
    threads.submit(lanes.run, None, done.set)
    assert done.wait(WAIT_S)
    release.set()
    for _ in range(18):
        assert inside.acquire(timeout=WAIT_S)
    for task in tasks:
        task.result()
    assert sorted(order) == list(range(20))
    # who waits longest goes first; threads that come or begin at once may overtake one another
    assert all(abs(place - number) <= 4 for place, number in enumerate(order)), order
    assert most == 2


def test_a_task_that_fails_gives_its_place_on(threads: ThreadPoolExecutor) -> None:
    lanes = HostLimit(threads, per_host=1)
    begun, go = threading.Event(), threading.Event()

    def fail() -> None:
        begun.set()
        assert go.wait(WAIT_S)
        raise ValueError

    failing = threads.submit(lanes.run, "host", fail)
    assert begun.wait(WAIT_S)
    after = threading.Event()
    lanes.run("host", after.set)
    go.set()
    assert after.wait(WAIT_S)
    with pytest.raises(ValueError):
        failing.result()


def test_nobody_waits_for_a_pool_that_is_shut_down() -> None:
    executor = ThreadPoolExecutor(1)
    lanes = HostLimit(executor, per_host=1)
    begun, go = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert go.wait(WAIT_S)

    running = executor.submit(lanes.run, "host", slow)
    assert begun.wait(WAIT_S)
    ran = threading.Event()
    lanes.run("host", ran.set)
    executor.shutdown(wait=False)
    go.set()
    running.result()
    assert not ran.is_set()


def test_who_rests_holds_no_thread_and_no_place(threads: ThreadPoolExecutor) -> None:
    now = 0.0
    lanes = HostLimit(threads, per_host=1, clock=lambda: now)
    order, done = [], threading.Event()

    def attempt(name: str) -> None:
        order.append(name)
        done.set()

    for number in range(20):  # more than there are threads
        lanes.run_later("host", partial(attempt, f"again-{number}"), pause_s=10 + number)
    lanes.wake()
    lanes.run("host", partial(attempt, "new"))
    assert order == ["new"], "neither a thread nor the host's only place is taken"
    done.clear()
    now = 10.5
    lanes.wake()
    assert done.wait(WAIT_S)
    assert order == ["new", "again-0"]


def test_who_was_there_before_goes_first(threads: ThreadPoolExecutor) -> None:
    lanes = HostLimit(threads, per_host=1)
    begun, go, order = threading.Event(), threading.Event(), []
    last = threading.Event()

    def slow() -> None:
        begun.set()
        assert go.wait(WAIT_S)

    running = threads.submit(lanes.run, "host", slow)
    assert begun.wait(WAIT_S)
    lanes.run("host", lambda: order.append("new"))
    lanes.run("host", last.set)
    lanes.run("host", lambda: order.append("again"), again=True)
    go.set()
    running.result()
    assert last.wait(WAIT_S)
    assert order == ["again", "new"]


def test_some_hosts_may_have_more(threads: ThreadPoolExecutor) -> None:
    lanes = HostLimit(threads, per_host=1, wide={"ours": 3})
    inside, go = threading.Semaphore(0), threading.Event()

    def slow() -> None:
        inside.release()
        assert go.wait(WAIT_S)

    tasks = [threads.submit(lanes.run, "ours", slow) for _ in range(3)]
    assert all(inside.acquire(timeout=WAIT_S) for _ in range(3))
    go.set()
    for task in tasks:
        task.result()
