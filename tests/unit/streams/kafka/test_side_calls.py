"""What is done beside the main thread, and when that hears of it."""

import threading

import pytest

from pixtide.schemas.errors import FatalError
from pixtide.streams.kafka.side_calls import SideCall, within

IN_TIME_S = 60.0


def test_the_main_thread_hears_of_it_when_it_asks() -> None:
    aside, may_end, heard = SideCall("t"), threading.Event(), list[int]()
    assert aside.begin(lambda: may_end.wait(IN_TIME_S) and 7, heard.append)
    aside.turn()
    assert heard == [] and aside.is_busy
    assert not aside.begin(lambda: 8, heard.append), "one at a time"
    may_end.set()
    aside.end(IN_TIME_S)
    assert heard == [7] and not aside.is_busy


def test_what_it_raises_is_raised_in_the_main_thread() -> None:
    aside = SideCall("t")

    def fail() -> None:
        raise FatalError("the log changed")

    aside.begin(fail)
    with pytest.raises(FatalError, match="the log changed"):
        aside.end(IN_TIME_S)
    assert aside.begin(lambda: None)
    aside.end(IN_TIME_S)


def test_a_call_that_never_returns_is_waited_for_no_longer_than_told() -> None:
    never = threading.Event()
    assert not within(0.05, never.wait)
    assert within(IN_TIME_S, lambda: None)
    never.set()
