"""A worker whose parts seem to be broken takes on no more, and goes on by itself."""

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixtide.encoders.self_check import check_parts
from pixtide.schemas.errors import FatalError, ReasonCode
from pixtide.streams.ingest.breaker import FIRST_S, LONGEST_S, OF_OURS, Breaker

CRASHED, STRANGE = ReasonCode.DECODER_CRASHED, ReasonCode.UNEXPECTED
WITHIN_S = 60.0


class Watched:
    """A breaker, its clock, and what its check is to find."""

    def __init__(self, window: int = 20) -> None:
        self.now, self.found, self.checks = 1000.0, None, 0
        self.breaker = Breaker(window, self._check, lambda: self.now)
        self.keys = 0

    found: str | None

    def _check(self) -> str | None:
        self.checks += 1
        return self.found

    def count(self, code: ReasonCode | None, times: int = 1, key: bytes | None = None) -> None:
        for _ in range(times):
            self.keys += 1
            self.breaker.count(key or b"%d" % self.keys, code)

    def awaited(self, is_so: Callable[[], bool]) -> bool:
        """Whether it becomes so in the turns of a main loop, while the clock stands."""
        until = time.monotonic() + WITHIN_S
        while time.monotonic() < until:
            self.breaker.turn()
            if is_so():
                return True
            time.sleep(0.001)
        return False


@pytest.mark.parametrize("code", sorted(set(ReasonCode) - OF_OURS))
def test_what_is_wrong_with_records_never_pauses_it(code: ReasonCode) -> None:
    watched = Watched()
    watched.count(code, 1000)
    assert watched.breaker.turn() is None and watched.checks == 0


def test_one_key_is_one_record() -> None:
    watched = Watched()
    watched.count(STRANGE, 1000, key=b"one")
    assert watched.breaker.turn() is None


def test_pictures_that_crash_decoders_hold_nobody_up_where_decoders_do_well() -> None:
    watched = Watched()
    for times in range(1, 6):
        watched.count(CRASHED, 20)
        assert "DECODER_CRASHED 20" in (watched.breaker.turn() or "")
        assert watched.awaited(lambda: watched.breaker.problem is None), "the clock stands"
        assert watched.checks == times


def test_a_broken_part_is_waited_for_however_long_and_told() -> None:
    watched = Watched()
    watched.found = "the decoder: OSError"
    watched.count(CRASHED, 20)
    pause_s = FIRST_S
    for times in range(1, 9):
        assert watched.awaited(lambda: "the decoder: OSError" in (watched.breaker.problem or ""))
        assert watched.awaited(lambda: not watched.breaker._checking.is_busy)
        assert watched.checks == times, "it is looked at again after the pause, and not before"
        watched.now += pause_s - 1
        watched.breaker.turn()
        assert not watched.breaker._checking.is_busy
        watched.now += 1
        pause_s = min(2 * pause_s, LONGEST_S)
        if times == 7:
            watched.found = None
            assert watched.awaited(lambda: watched.breaker.problem is None)
            return


def test_what_no_check_can_tell_costs_a_pause_and_then_it_goes_past_it() -> None:
    watched = Watched()
    for pause_s in (FIRST_S, 2 * FIRST_S, 4 * FIRST_S):
        watched.count(STRANGE, 20)
        assert "pixtide dlq retry" in (watched.breaker.turn() or "")
        watched.now += pause_s - 1
        watched.breaker.turn()
        assert not watched.breaker._checking.is_busy
        watched.now += 1
        assert watched.awaited(lambda: watched.breaker.problem is None)
    watched.count(None)
    watched.count(STRANGE, 20)
    watched.breaker.turn()
    watched.now += FIRST_S
    assert watched.awaited(lambda: watched.breaker.problem is None), "short again after a success"


def test_a_lost_device_ends_the_worker() -> None:
    def lost() -> str | None:
        raise FatalError("the device is lost")

    breaker = Breaker(1, lost)
    breaker.count(b"x", CRASHED)
    deadline = time.monotonic() + WITHIN_S
    with pytest.raises(FatalError, match="lost"):
        while time.monotonic() < deadline:
            breaker.turn()


def test_none_never_pauses() -> None:
    watched = Watched(0)
    watched.count(CRASHED, 1000)
    assert watched.breaker.turn() is None


@given(window=st.integers(1, 30), failures=st.lists(st.sampled_from([CRASHED, None]), max_size=90))
def test_it_pauses_at_the_first_window_of_nearly_all(
    window: int, failures: list[ReasonCode | None]
) -> None:
    breaker = Breaker(window, lambda: "broken")
    for end, failure in enumerate(failures, 1):
        breaker.count(b"%d" % end, failure)
        dead = sum(each is not None for each in failures[max(0, end - window) : end])
        wanted = dead >= 0.95 * window
        assert (breaker.turn() is not None) == wanted
        if wanted:
            return


def test_the_check_finds_what_is_broken() -> None:
    """On decoders and a model of which one fails; that both do well is tried on real ones."""

    class Broken:
        crop = None

        def decode(self, *_: object) -> object:
            raise OSError("no plug-in for JPEG")

    broken: object = Broken()
    assert check_parts(broken, broken) == "the decoder: OSError: no plug-in for JPEG"  # type: ignore[arg-type]
