"""How fast a generation reads, and how long it will take."""

from pixtide.search.generations import GenerationState
from pixtide.streams.generations.status import GenerationProgress, Rates


def standing(done: int, total: int, rate: float | None) -> GenerationProgress:
    return GenerationProgress(
        "v1", GenerationState.BUILDING, False, None, 0, 0, 0, done, total, 0, 1, rate
    )


def test_a_rate_is_over_the_last_half_minute() -> None:
    rates = Rates()
    assert rates.of("v1", 100.0, 0) is None
    assert rates.of("v1", 102.0, 40) == 20.0
    assert rates.of("v1", 104.0, 40) == 10.0  # between two commits it isn't 0
    assert rates.of("v2", 104.0, 7) is None
    assert rates.of("v1", 131.0, 330) == 10.0  # the first look is too long ago
    assert rates.of("v1", 500.0, 9000) is None  # nobody has looked for long


def test_time_left_where_it_can_be_told() -> None:
    assert standing(50, 250, 10.0).eta_s == 20.0
    assert standing(250, 250, None).eta_s == 0.0
    assert standing(50, 250, None).eta_s is None
    assert standing(50, 250, 0.0).eta_s is None
