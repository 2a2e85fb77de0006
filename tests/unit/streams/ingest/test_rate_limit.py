"""The pace of a worker that must not press ahead."""

import pytest

from pixtide.streams.ingest.rate_limit import RateLimit


def test_nobody_waits_without_a_rate() -> None:
    assert [RateLimit(None).wait_s() for _ in range(3)] == [0, 0, 0]


def test_so_many_a_second_and_a_little_to_catch_up_with() -> None:
    now = [100.0]
    pace = RateLimit(10, clock=lambda: now[0])
    assert [pace.wait_s() for _ in range(3)] == pytest.approx([0, 0.1, 0.2])
    now[0] += 60  # a rest, of which half a second counts
    waits = [pace.wait_s() for _ in range(8)]
    assert waits == pytest.approx([0, 0, 0, 0, 0, 0, 0.1, 0.2])
