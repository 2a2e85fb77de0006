"""The status of each generation: what it holds, how far it has read the log, and how fast."""

import time
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from rich.table import Table

from pixtide.schemas import topics
from pixtide.search.generations import Generation, GenerationState
from pixtide.search.port import GenerationCatalog, RowState
from pixtide.streams import terminal
from pixtide.streams.ingest.commit_metadata import moved_since
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka.groups import workers_in
from pixtide.streams.settings import Settings

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
#: A rate is the average of this time: workers commit every few seconds.
_RATE_S = 30.0


@dataclass(frozen=True)
class GenerationProgress:
    """One generation at one moment. `done` of `total` events of the log are committed.

    `retry_lag` is how many retries of dead letters it still has to read. `rate` is in events a
    second over the last half minute, and `eta_s` is in seconds; both are None while they are
    unknown. `workers` is None if they were not counted. `moved` are the partitions whose positions
    were moved by hand, perhaps past events, and not verified since.
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
    workers: int | None
    rate: float | None = None
    moved: tuple[int, ...] = ()

    @property
    def lag(self) -> int:
        """Events that aren't committed yet."""
        return self.total - self.done

    @property
    def eta_s(self) -> float | None:
        """Seconds until it has read everything, at the current rate."""
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


class Rates:
    """How fast each generation reads, from one look to the next."""

    def __init__(self) -> None:
        self._looks: defaultdict[str, deque[tuple[float, int]]] = defaultdict(deque)

    def of(self, name: str, at: float, done: int) -> float | None:
        """Events a second over the looks of the last half minute; None at the first look."""
        looks = self._looks[name]
        looks.append((at, done))
        while looks[0][0] < at - _RATE_S:
            looks.popleft()
        began, before = looks[0]
        return round((done - before) / (at - began), 1) if at > began else None


class Watch:
    """Looks at all generations, and computes their rates from one look to the next.

    A process that must not end should not count workers: librdkafka aborts it if the connection
    breaks during that request (confluentinc/librdkafka#4605).
    """

    def __init__(
        self, settings: Settings, catalog: GenerationCatalog, *, counts_workers: bool = False
    ) -> None:
        self._counts_workers = counts_workers
        self._settings = settings
        self._catalog = catalog
        self._client = kafka_clients.admin(settings.kafka_connection())
        self._rates = Rates()

    def look(self) -> list[GenerationProgress]:
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

    def _standing(self, generation: Generation, *, is_live: bool) -> GenerationProgress:
        done, total, moved = self._read(generation, generation.log.topic)
        at = time.monotonic()
        retried, to_retry, _ = self._read(generation, self._settings.named(topics.RETRY))
        counts = self._catalog.open(generation).count()
        return GenerationProgress(
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
            workers=workers_in(self._client, generation.group) if self._counts_workers else None,
            rate=self._rates.of(generation.name, at, done),
            moved=tuple(moved),
        )

    def _read(self, generation: Generation, topic: str) -> tuple[int, int, list[int]]:
        """For a topic: how many records the generation's group has committed, of how many.

        Third, the partitions whose positions were moved by hand.
        """
        numbers = range(generation.log.partitions)
        first = kafka_offsets.beginnings(self._client, topic, numbers)
        ends = kafka_offsets.ends(self._client, topic, numbers)
        committed = kafka_offsets.positions(
            self._settings.kafka_connection(), generation.group, topic, numbers
        )
        done = sum(max(0, at.offset - first[p]) for p, at in committed.items())
        moved = moved_since(committed, first, generation.verified_at)
        return done, max(done, sum(ends[p] - first[p] for p in numbers)), moved


def warnings(standings: Sequence[GenerationProgress]) -> list[str]:
    """What else a person should know about them."""
    return [
        f"{s.generation}: positions of partitions {list(s.moved)} were moved by hand, or "
        "committed by an older version; if they passed events, those aren't indexed, though the "
        f"lag is 0: `pixtide index verify {s.generation} --repair`"
        for s in standings
        if s.moved
    ]


def table(standings: Sequence[GenerationProgress]) -> Table:
    """The status table for a person."""
    return terminal.table(
        [*_HEADINGS, *_MOVING],
        [
            (
                "live" if s.is_live else "",
                s.generation,
                "not verified" if s.is_live and s.verified_at is None else s.state,
                f"{s.live:,}",
                f"{s.deleted:,}",
                f"{s.dead_lettered:,}",
                f"{s.done:,} of {s.total:,}",
                f"{s.lag:,}",
                f"{s.retry_lag:,}",
                "" if s.rate is None else f"{s.rate:,.0f}/s",
                "" if s.eta_s is None or not s.lag else terminal.duration(s.eta_s),
                s.workers,
            )
            for s in standings
        ],
    )
