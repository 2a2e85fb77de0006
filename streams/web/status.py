"""How the system stands: its generations, what they hold and how far behind they are."""

import asyncio
import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from schemas.base import Contract
from schemas.errors import TransientError, UsageError
from search.generations import Generation
from search.port import RowState
from streams.web.live_index import LiveIndex
from streams.web.problems import json_response

#: Counting takes a while and asks the broker: all who look share one answer of this age.
_FRESH_S = 1.5


class GenerationStatus(Contract):
    """One generation. `rate` is outcomes a second; `lag` is records of the log yet to come."""

    name: str
    is_live: bool
    model: str
    dimension: int
    created_at: str
    live: int
    deleted: int
    dead_lettered: int
    lag: int
    rate: float


class Status(Contract):
    """All generations, oldest first, and what this page may do."""

    generations: tuple[GenerationStatus, ...]
    read_only: bool


class Readiness(Contract):
    """Whether searches can be served; `problem` says why not."""

    ready: bool
    problem: str | None = None


class StatusApi:
    """Answers from the index, the broker and what was heard of outcomes."""

    def __init__(
        self,
        index: LiveIndex,
        lag_of: Callable[[Generation], int],
        rate_of: Callable[[str], float],
        *,
        read_only: bool,
    ) -> None:
        self._index = index
        self._lag_of = lag_of
        self._rate_of = rate_of
        self._read_only = read_only
        self._looking = asyncio.Lock()
        self._status: Status | None = None
        self._looked_at = 0.0

    def routes(self) -> list[Route]:
        """What this serves."""
        return [
            Route("/api/status", self._answer, methods=["GET"]),
            Route("/live", self._live, methods=["GET"]),
            Route("/ready", self._ready, methods=["GET"]),
        ]

    async def _answer(self, _: Request) -> Response:
        async with self._looking:
            if self._status is None or time.monotonic() - self._looked_at > _FRESH_S:
                self._status = await asyncio.to_thread(self._look)
                self._looked_at = time.monotonic()
            return json_response(self._status)

    async def _live(self, _: Request) -> Response:
        return json_response(Readiness(ready=True))

    async def _ready(self, _: Request) -> Response:
        try:
            generation, _index = await asyncio.to_thread(self._index.current)
            await asyncio.to_thread(self._lag_of, generation)
        except (TransientError, UsageError) as error:
            return json_response(Readiness(ready=False, problem=str(error)), 503)
        return json_response(Readiness(ready=True))

    def _look(self) -> Status:
        live, generations = self._index.generations()
        return Status(
            generations=tuple(self._status_of(each, live) for each in generations),
            read_only=self._read_only,
        )

    def _status_of(self, generation: Generation, live: Generation | None) -> GenerationStatus:
        counts = self._index.open(generation).count()
        return GenerationStatus(
            name=generation.name,
            is_live=generation == live,
            model=generation.model,
            dimension=generation.dimension,
            created_at=generation.created_at.isoformat(),
            live=counts.get(RowState.LIVE, 0),
            deleted=counts.get(RowState.DELETED, 0),
            dead_lettered=counts.get(RowState.DEAD_LETTERED, 0),
            lag=self._lag_of(generation),
            rate=self._rate_of(generation.name),
        )
