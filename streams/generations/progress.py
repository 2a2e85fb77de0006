"""How far a generation's workers have read the log, and waiting for them."""

import time
from collections.abc import Callable, Mapping

from pixtide.schemas.errors import PixtideError
from pixtide.search.generations import Generation
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.settings import Settings

#: Reports the progress of a step: its name, what is done and what there is to do.
Tell = Callable[[str, int, int], None]

_ASK_AGAIN_S = 0.5


class NotReadError(PixtideError):
    """The workers have not read as far as the log's end at the time of the call."""


def await_group(
    settings: Settings,
    generation: Generation,
    ends: Mapping[int, int],
    timeout_s: float,
    *,
    tell: Tell,
    what: str = "waiting for the workers",
) -> None:
    """Wait until a generation's workers have committed up to these offsets.

    Raises:
        NotReadError: they made no progress for `timeout_s`.
        TransientError: the broker can't be reached.
    """
    first = left = lag_behind(settings, generation, ends)
    deadline = time.monotonic() + timeout_s
    while left:
        tell(what, first - left, first)
        if time.monotonic() > deadline:
            raise NotReadError(
                f"{left} records are not read yet and nothing moved for {timeout_s:g} s: does "
                f"`pixtide ingest --generation {generation.name}` run?"
            )
        time.sleep(_ASK_AGAIN_S)
        before, left = left, lag_behind(settings, generation, ends)
        if left < before:
            deadline = time.monotonic() + timeout_s
    tell(what, first, first)


def lag_behind(settings: Settings, generation: Generation, ends: Mapping[int, int]) -> int:
    """How many records below these offsets the group has not committed yet."""
    committed = kafka_offsets.committed_offsets(
        settings.kafka_connection(), generation.group, generation.log.topic, ends
    )
    return sum(max(0, end - committed.get(partition, 0)) for partition, end in ends.items())
