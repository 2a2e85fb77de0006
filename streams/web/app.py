"""The application: every route, what serves it, and what is started and ended with it."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from pixtide.schemas.errors import PixtideError
from pixtide.streams.web.dead_letters import DeadLetterApi
from pixtide.streams.web.guard import Access, Guard
from pixtide.streams.web.live_index import LiveIndex
from pixtide.streams.web.openapi import openapi_document
from pixtide.streams.web.outcomes import Outcomes
from pixtide.streams.web.pictures import Pictures
from pixtide.streams.web.problems import problem_handler
from pixtide.streams.web.publishing import Publishing
from pixtide.streams.web.searching import Searches
from pixtide.streams.web.session import Session
from pixtide.streams.web.status import StatusApi

STATIC = Path(__file__).parent / "static"


@dataclass(frozen=True)
class SiteParts:
    """What the page is made of."""

    access: Access
    index: LiveIndex
    searches: Searches
    pictures: Pictures
    publishing: Publishing
    outcomes: Outcomes
    status: StatusApi
    dead_letters: DeadLetterApi
    session: Session


class Site:
    """The page and its API as an ASGI application."""

    def __init__(self, parts: SiteParts) -> None:
        self._parts = parts
        handled = (PixtideError, ValidationError, HTTPException, ClientDisconnect, Exception)
        self.app = Starlette(
            routes=self._routes(),
            middleware=[Middleware(Guard, parts.access)],
            exception_handlers=dict.fromkeys(handled, problem_handler),
            lifespan=self._lifespan,
        )

    def end_streams(self) -> None:
        """Let go of who listens for outcomes, so that the server can end."""
        self._parts.outcomes.end_streams()

    def _routes(self) -> list[BaseRoute]:
        parts = self._parts
        return [
            Route("/", _page),
            Mount("/static", StaticFiles(directory=STATIC)),
            Route("/openapi.json", _openapi),
            *parts.session.routes(),
            *parts.searches.routes(),
            *parts.outcomes.routes(),
            *parts.status.routes(),
            *parts.dead_letters.routes(),
            *parts.publishing.routes(),
            *parts.pictures.routes(),
        ]

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        parts = self._parts
        parts.status.start()
        parts.publishing.start()
        parts.outcomes.start()
        parts.searches.connect_early()
        yield
        parts.status.close()
        parts.publishing.close()
        await parts.outcomes.close()
        await parts.searches.close()
        parts.dead_letters.close()
        parts.index.close()


async def _page(_: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})


async def _openapi(_: Request) -> Response:
    return Response(openapi_document(), media_type="application/json")
