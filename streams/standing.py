"""Where each generation stands: what it holds, how far it has read the log, and how fast."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from rich.table import Table

from schemas import topics
from search.generations import Generation, GenerationState
from search.port import GenerationCatalog, RowState
from streams import console, kafka
from streams.group import workers_in
from streams.settings import Settings

_HEADINGS = (
    "",
    "generation",
    "state",
    "pictures",
    "deleted",
    "dead letters",
    "events",
    "lag",
    "retries",
)
_MOVING = ("rate", "left", "workers")


@dataclass(frozen=True)
class Standing:
    """One generation at one moment. `done` of `total` events of the log are committed.

    `retry_lag` is how many dead letters sent to be tried again it has yet to try. `rate` is in
    events a second since the last look, `eta_s` in seconds; both are None where there is nothing
    to say yet.
    """

    generation: str
    state: GenerationState
    is_live: bool
    verified_at: datetime | None
    live: int
    deleted: int
    dead_lettered: int
    done: int
    total: int
    retry_lag: int
    workers: int
    rate: float | None = None

    @property
    def lag(self) -> int:
        """Events that aren't committed yet."""
        return self.total - self.done

    @property
    def eta_s(self) -> float | None:
        """Seconds until it has read all, if it goes on like this."""
        if not self.lag:
            return 0.0
        return round(self.lag / self.rate, 1) if self.rate else None

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        verified_at = self.verified_at and self.verified_at.isoformat()
        return {
            **asdict(self),
            "verified_at": verified_at,
            "lag": self.lag,
            "eta_s": self.eta_s,
        }


class Watch:
    """Looks at all generations, and tells their rates from one look to the next."""

    def __init__(self, settings: Settings, catalog: GenerationCatalog) -> None:
        self._settings = settings
        self._catalog = catalog
        self._client = kafka.admin(settings.kafka_connection())
        self._before: dict[str, tuple[float, int]] = {}

    def look(self) -> list[Standing]:
        """Every generation that isn't retired, oldest first.

        Raises:
            TransientError: a server can't be reached.
            UsageError: the log is gone.
        """
        live = self._catalog.live()
        return [
            self._standing(generation, is_live=generation.is_same(live))
            for generation in self._catalog.list()
            if generation.state is not GenerationState.RETIRED
        ]

    def _standing(self, generation: Generation, *, is_live: bool) -> Standing:
        done, total = self._read(generation, generation.log.topic)
        at = time.monotonic()
        retried, to_retry = self._read(generation, self._settings.named(topics.RETRY))
        counts = self._catalog.open(generation).count()
        return Standing(
            generation=generation.name,
            state=generation.state,
            is_live=is_live,
            verified_at=generation.verified_at,
            live=counts[RowState.LIVE],
            deleted=counts[RowState.DELETED],
            dead_lettered=counts[RowState.DEAD_LETTERED],
            done=done,
            total=total,
            retry_lag=to_retry - retried,
            workers=workers_in(self._client, generation.group),
            rate=self._rate(generation.name, at, done),
        )

    def _read(self, generation: Generation, topic: str) -> tuple[int, int]:
        """Of what a topic holds: how many records the generation's group has committed, of all."""
        numbers = range(generation.log.partitions)
        first = kafka.beginnings(self._client, topic, numbers)
        ends = kafka.ends(self._client, topic, numbers)
        committed = kafka.committed_offsets(
            self._settings.kafka_connection(), generation.group, topic, numbers
        )
        done = sum(max(0, committed.get(p, 0) - first[p]) for p in numbers)
        return done, max(done, sum(ends[p] - first[p] for p in numbers))

    def _rate(self, name: str, at: float, done: int) -> float | None:
        before = self._before.get(name)
        self._before[name] = (at, done)
        if before is None or at <= before[0]:
            return None
        return round((done - before[1]) / (at - before[0]), 1)


def table(standings: Sequence[Standing]) -> Table:
    """The standings for a person."""
    return console.table(
        [*_HEADINGS, *_MOVING],
        [
            (
                "live" if s.is_live else "",
                s.generation,
                s.state,
                f"{s.live:,}",
                f"{s.deleted:,}",
                f"{s.dead_lettered:,}",
                f"{s.done:,} of {s.total:,}",
                f"{s.lag:,}",
                f"{s.retry_lag:,}",
                "" if s.rate is None else f"{s.rate:,.0f}/s",
                "" if s.eta_s is None or not s.lag else console.duration(s.eta_s),
                s.workers,
            )
            for s in standings
        ],
    )
