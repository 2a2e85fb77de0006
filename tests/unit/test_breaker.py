"""A worker that dead-letters nearly everything stops, and no other."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import FatalError, ReasonCode
from streams.breaker import Breaker

GONE = ReasonCode.SOURCE_GONE


def tripped_after(breaker: Breaker, failures: Sequence[ReasonCode | None]) -> int | None:
    for number, failure in enumerate(failures, 1):
        breaker.count(failure)
        try:
            breaker.check()
        except FatalError:
            return number
    return None


def test_bad_input_throughout_stops_it_with_the_codes() -> None:
    breaker = Breaker(200)
    assert tripped_after(breaker, [GONE] * 150 + [ReasonCode.EMPTY_IMAGE] * 150) == 190
    with pytest.raises(FatalError, match=r"190 of the last 190 .*SOURCE_GONE 150, EMPTY_IMAGE 40"):
        breaker.check()


def test_a_few_good_ones_keep_it_going() -> None:
    assert tripped_after(Breaker(20), ([GONE] * 9 + [None]) * 50) is None
    assert tripped_after(Breaker(20), [None, *[GONE] * 19]) == 20


def test_what_is_long_past_does_not_count() -> None:
    assert tripped_after(Breaker(20), [None] * 10_000 + [GONE] * 30) == 10_019


def test_none_never_stops() -> None:
    assert tripped_after(Breaker(0), [GONE] * 1000) is None


@given(window=st.integers(1, 30), failures=st.lists(st.sampled_from([GONE, None]), max_size=100))
def test_it_stops_at_the_first_window_of_nearly_all(
    window: int, failures: list[ReasonCode | None]
) -> None:
    expected = None
    for end in range(1, len(failures) + 1):
        dead = sum(failure is not None for failure in failures[max(0, end - window) : end])
        if dead >= 0.95 * window:
            expected = end
            break
    assert tripped_after(Breaker(window), failures) == expected
