"""A worker that stood still writes nothing before it has heard what it lost meanwhile."""

import pytest

from pixtide.schemas.errors import TransientError
from pixtide.streams.ingest.pause_detector import SETTLE_S, PauseDetector

SESSION_S = 30.0


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_whoever_polls_may_write() -> None:
    clock = Clock()
    standstill = PauseDetector(SESSION_S, clock)
    for _ in range(100):
        clock.now += SESSION_S * 0.3
        standstill.check()
        standstill.polled()
        standstill.check()


def test_after_a_stop_it_polls_for_a_while_first() -> None:
    clock = Clock()
    standstill = PauseDetector(SESSION_S, clock)
    clock.now += SESSION_S * 0.4
    with pytest.raises(TransientError):
        standstill.check()  # a writer that goes on before the main thread does
    standstill.polled()
    for _ in range(4):
        with pytest.raises(TransientError):
            standstill.check()
        clock.now += SETTLE_S / 4
        standstill.polled()
    standstill.check()
