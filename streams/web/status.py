"""How the system stands: its generations, what they hold and how far behind they are."""

from collections.abc import Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pixtide.schemas.base import Contract
from pixtide.search.generations import Generation, GenerationState
from pixtide.streams.generations.status import GenerationProgress
from pixtide.streams.web.lanes import in_thread
from pixtide.streams.web.live_index import LiveIndex
from pixtide.streams.web.problems import json_response
from pixtide.streams.web.readiness import PartsWatch
from pixtide.streams.web.shared import Shared

#: Counting takes a while and asks the broker: all who look share one answer of this age.
_FRESH_S = 1.5
_PATIENCE_S = 20.0


class GenerationStatus(Contract):
    """One generation. `done` of `total` events of the log are read, and `lag` are yet to come.

    `rate` is events a second, `eta_s` the seconds until all are read; null where nothing is known.
    """

    name: str
    state: GenerationState
    is_live: bool
    model: str
    dimension: int
    created_at: str
    live: int
    deleted: int
    dead_lettered: int
    done: int
    total: int
    lag: int
    rate: float | None = None
    eta_s: float | None = None


class Status(Contract):
    """All generations that aren't retired, oldest first, and what this page may do."""

    generations: tuple[GenerationStatus, ...]
    read_only: bool


class Readiness(Contract):
    """Whether searches can be served; `problem` says why not."""

    ready: bool
    problem: str | None = None


class StatusApi:
    """Answers from the index and the broker; `stand` looks at every generation."""

    def __init__(
        self,
        index: LiveIndex,
        stand: Callable[[], Sequence[GenerationProgress]],
        parts: PartsWatch,
        *,
        read_only: bool,
    ) -> None:
        self._index = index
        self._stand = stand
        self._parts = parts
        self._read_only = read_only
        self._status = Shared(
            "counting", lambda: in_thread(self._look), fresh_s=_FRESH_S, patience_s=_PATIENCE_S
        )

    def start(self) -> None:
        """Begin to look whether the parts answer."""
        self._parts.start()

    def close(self) -> None:
        """Stop looking."""
        self._parts.close()

    def routes(self) -> list[Route]:
        """What this serves."""
        return [
            Route("/api/status", self._answer, methods=["GET"]),
            Route("/live", self._live, methods=["GET"]),
            Route("/ready", self._ready, methods=["GET"]),
        ]

    async def _answer(self, _: Request) -> Response:
        return json_response(await self._status.get())

    async def _live(self, _: Request) -> Response:
        return json_response(Readiness(ready=True))

    async def _ready(self, _: Request) -> Response:
        problem = await self._parts.problem()
        answer = Readiness(ready=problem is None, problem=problem)
        return json_response(answer, 200 if problem is None else 503)

    def _look(self) -> Status:
        generations = {each.name: each for each in self._index.generations()[1]}
        return Status(
            generations=tuple(
                _status_of(each, generations[each.generation])
                for each in self._stand()
                if each.generation in generations  # made just now: next time
            ),
            read_only=self._read_only,
        )


def _status_of(standing: GenerationProgress, generation: Generation) -> GenerationStatus:
    return GenerationStatus(
        name=generation.name,
        state=standing.state,
        is_live=standing.is_live,
        model=generation.model,
        dimension=generation.dimension,
        created_at=generation.created_at.isoformat(),
        live=standing.live,
        deleted=standing.deleted,
        dead_lettered=standing.dead_lettered,
        done=standing.done,
        total=standing.total,
        lag=standing.lag,
        rate=standing.rate,
        eta_s=standing.eta_s,
    )
