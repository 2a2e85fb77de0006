"""A client that fails for long is made anew; one that a broker answers is kept."""

import threading

from pixtide.streams.kafka.renewed_client import PATIENCE_S, RenewedClient


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_client_that_fails_for_long_is_made_anew() -> None:
    clock, made, gone = Clock(), iter("abc"), threading.Event()
    let_go: list[str] = []

    def close(old: str) -> None:
        let_go.append(old)
        gone.set()

    lasting = RenewedClient(lambda: next(made), close, clock=clock)
    assert not lasting.failed()
    clock.now += PATIENCE_S - 1
    assert not lasting.failed() and lasting.now == "a"
    clock.now += 1
    assert lasting.failed() and lasting.now == "b"
    assert gone.wait(60) and let_go == ["a"]
    clock.now += PATIENCE_S - 1
    assert not lasting.failed(), "the new one is given as long"
    clock.now += 1
    assert lasting.failed() and lasting.now == "c"


def test_one_that_works_now_and_then_is_kept() -> None:
    clock = Clock()
    lasting = RenewedClient(lambda: object(), clock=clock)
    first = lasting.now
    for _ in range(20):
        assert not lasting.failed()
        clock.now += PATIENCE_S - 1
        lasting.worked()
        clock.now += PATIENCE_S
    assert lasting.now is first
