"""Searches: the JSON of a request in, the JSON of its reply out, over Kafka."""

import asyncio
import contextlib
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from schemas.errors import TransientError, UsageError
from schemas.queries import SearchReply, SearchRequest, read_request
from streams.async_client import AsyncSearchClient
from streams.web.problems import ApiError, json_response, status_of
from streams.web.rates import Rate

#: Longest JSON of a request; the embedded broker takes no longer message.
MAX_REQUEST_BYTES = 900 * 1024


class Searches:
    """Connects to the broker when first asked, so that the page is there before it."""

    def __init__(self, client: Callable[[], AsyncSearchClient], rate: Rate) -> None:
        self._make = client
        self._rate = rate
        self._client: AsyncSearchClient | None = None
        self._connecting = asyncio.Lock()
        self._open = contextlib.AsyncExitStack()

    def routes(self) -> list[Route]:
        """What this serves."""
        return [Route("/api/search", self._search, methods=["POST"])]

    async def connect(self) -> AsyncSearchClient:
        """The connected client. Raises TransientError: the broker can't be reached."""
        async with self._connecting:
            if self._client is None:
                self._client = await self._open.enter_async_context(self._make())
            return self._client

    def connect_early(self) -> None:
        """Begin to connect, so that the first search need not; a failure is tried again by it."""

        async def attempt() -> None:
            with contextlib.suppress(TransientError, UsageError):
                await self.connect()

        self._early = asyncio.create_task(attempt())

    async def close(self) -> None:
        """Let the connections go."""
        await self._open.aclose()

    async def _search(self, request: Request) -> Response:
        self._rate.spend(request)
        body = await request.body()
        if len(body) > MAX_REQUEST_BYTES:
            raise ApiError(413, "TOO_LARGE", f"a search has at most {MAX_REQUEST_BYTES} bytes")
        asked = read_request(body)
        _refuse_local_pictures(asked)
        reply = await self._ask(asked)
        return json_response(reply, status_of(reply.error) if reply.error else 200)

    async def _ask(self, asked: SearchRequest) -> SearchReply:
        try:
            return await (await self.connect()).search(asked)
        except (TransientError, UsageError) as error:
            raise ApiError(
                503, "SEARCH_UNAVAILABLE", f"searches are not answered: {error}"
            ) from error


def _refuse_local_pictures(asked: SearchRequest) -> None:
    """Files and buckets are the workers' own; who asks over the web has no say over them."""
    for term in asked.terms:
        if term.uri is not None and not term.uri.lower().startswith(("http://", "https://")):
            raise ApiError(400, "SCHEME_NOT_ALLOWED", "a picture's address is http or https here")
