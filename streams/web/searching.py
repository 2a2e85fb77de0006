"""Searches: the JSON of a request in, the JSON of its reply out, over Kafka."""

import asyncio
import contextlib
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pixtide.schemas.errors import TransientError, UsageError
from pixtide.schemas.queries import SearchReply, SearchRequest, read_request
from pixtide.streams.client.asynchronous import AsyncSearchClient
from pixtide.streams.web.bodies import json_body
from pixtide.streams.web.guard import announced
from pixtide.streams.web.lanes import Budget
from pixtide.streams.web.problems import ApiError, json_response, status_of, unavailable
from pixtide.streams.web.rates import Rate, client_of
from pixtide.streams.web.shared import Shared

#: Longest JSON of a request; the embedded broker takes no longer message.
MAX_REQUEST_BYTES = 900 * 1024
#: Of requests that are under way: each is held some three times.
_BYTES = 64 * 1024 * 1024
_FOR_EVER = float("inf")


class Searches:
    """Connects to the broker when first asked, so that the page is there before it."""

    def __init__(
        self, client: Callable[[], AsyncSearchClient], rate: Rate, *, patience_s: float
    ) -> None:
        self._make = client
        self._rate = rate
        self._patience_s = patience_s
        self._held = Budget("searches", _BYTES)
        self._client = Shared(
            "connecting", self._connected, fresh_s=_FOR_EVER, patience_s=patience_s
        )
        self._open = contextlib.AsyncExitStack()

    def routes(self) -> list[Route]:
        """What this serves."""
        return [Route("/api/search", self._search, methods=["POST"])]

    def connect_early(self) -> None:
        """Begin to connect, so that the first search need not; a failure is tried again by it."""

        async def attempt() -> None:
            with contextlib.suppress(TransientError, UsageError, ApiError):
                await self._client.get()

        self._early = asyncio.create_task(attempt())

    async def close(self) -> None:
        """Let the connections go."""
        await self._open.aclose()

    async def _search(self, request: Request) -> Response:
        self._rate.spend(request)
        size = min(announced(request.headers, MAX_REQUEST_BYTES), MAX_REQUEST_BYTES)
        give_back = self._held.take(client_of(request), size)
        try:
            asked = read_request(await json_body(request, MAX_REQUEST_BYTES))
            _refuse_local_pictures(asked)
            reply = await self._ask(asked)
        finally:
            give_back()
        if reply.error is None:
            return json_response(reply)
        status = status_of(reply.error)
        return json_response(reply, status, {"retry-after": "1"} if status == 503 else None)

    async def _ask(self, asked: SearchRequest) -> SearchReply:
        try:
            async with asyncio.timeout(self._patience_s):
                return await (await self._client.get()).search(asked)
        except (TransientError, UsageError, TimeoutError) as error:
            what = "searches are not answered (is a query consumer running?)"
            raise unavailable(error, "SEARCH_UNAVAILABLE", what) from error

    async def _connected(self) -> AsyncSearchClient:
        """The connected client. Raises TransientError: the broker can't be reached."""
        return await self._open.enter_async_context(self._make())


def _refuse_local_pictures(asked: SearchRequest) -> None:
    """Files and buckets are the workers' own; who asks over the web has no say over them."""
    for term in asked.terms:
        if term.uri is not None and not term.uri.lower().startswith(("http://", "https://")):
            raise ApiError(400, "SCHEME_NOT_ALLOWED", "a picture's address is http or https here")
