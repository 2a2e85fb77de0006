"""A retryable error is asked again, for as long as the time lasts."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from pixtide.schemas.errors import QueryCode, RequestError
from pixtide.schemas.queries import SearchReply, SearchRequest
from pixtide.streams.client import asynchronous as async_client_module
from pixtide.streams.client import blocking as client_module
from pixtide.streams.client.asynchronous import AsyncSearchClient
from pixtide.streams.client.blocking import SearchClient


class Wire:
    """Answers each request with the next of a list."""

    def __init__(self, replies: list[SearchReply]) -> None:
        self.replies = replies
        self.asked = self.told = 0

    def ask(self, request: SearchRequest, timeout_s: float) -> bytes:
        assert timeout_s > 0 and request.text
        self.asked += 1
        return b"%d" % self.asked

    def heard(self, wait_s: float) -> Iterator[tuple[bytes, bytes]]:
        assert wait_s > 0
        yield b"another client's", b"{}"
        if self.asked > self.told:
            self.told = self.asked
            yield b"%d" % self.asked, self.replies.pop(0).to_json()

    def answered(self, in_time: bool) -> None:
        assert in_time

    def close(self) -> None:
        pass


def failed(code: QueryCode) -> SearchReply:
    return SearchReply.failed(RequestError(code, "no"))


CASES = pytest.mark.parametrize(
    ("codes", "asked", "error"),
    [
        ([QueryCode.OVERLOADED, QueryCode.INDEX_UNAVAILABLE], 3, None),
        ([QueryCode.EMPTY_QUERY], 1, QueryCode.EMPTY_QUERY),
    ],
)


@CASES
def test_repeats(
    monkeypatch: pytest.MonkeyPatch, codes: list[QueryCode], asked: int, error: QueryCode | None
) -> None:
    wire: Any = Wire([*map(failed, codes), SearchReply(results=())])
    monkeypatch.setattr(client_module, "Replies", lambda _: wire)
    monkeypatch.setattr(client_module, "pause_s", lambda _: 0.0)
    reply = SearchClient("nowhere:1").search(SearchRequest(text="a"))
    assert (reply.error.code if reply.error else None) == error
    assert wire.asked == asked


@CASES
def test_the_asyncio_client_repeats(
    monkeypatch: pytest.MonkeyPatch, codes: list[QueryCode], asked: int, error: QueryCode | None
) -> None:
    wire: Any = Wire([*map(failed, codes), SearchReply(results=())])
    monkeypatch.setattr(async_client_module, "Replies", lambda _: wire)
    monkeypatch.setattr(async_client_module, "pause_s", lambda _: 0.0)

    async def ask() -> SearchReply:
        async with AsyncSearchClient("nowhere:1") as client:
            return await client.search(SearchRequest(text="a"))

    reply = asyncio.run(ask())
    assert (reply.error.code if reply.error else None) == error
    assert wire.asked == asked


class StrangersOnIt(Wire):
    """Others write to the reply topic what is no reply, under our correlation ids, too."""

    def heard(self, wait_s: float) -> Iterator[tuple[bytes, bytes]]:
        for stranger in (b"", b"\xff", b"[]", b"{", b'{"results": 5}', b'{"error": {"code": "?"}}'):
            yield b"%d" % self.asked, stranger
        yield from super().heard(wait_s)


def test_what_is_no_reply_is_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    wire: Any = StrangersOnIt([SearchReply(results=())])
    monkeypatch.setattr(client_module, "Replies", lambda _: wire)
    assert SearchClient("nowhere:1").search(SearchRequest(text="a")).results == ()


def test_the_asyncio_client_passes_it_and_outlives_a_poll_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Failing(StrangersOnIt):
        polls = 0

        def heard(self, wait_s: float) -> Iterator[tuple[bytes, bytes]]:
            self.polls += 1
            if self.polls % 2:
                raise RuntimeError("the broker has gone away")
            yield from super().heard(wait_s)

    wire: Any = Failing([SearchReply(results=())])
    monkeypatch.setattr(async_client_module, "Replies", lambda _: wire)

    async def ask() -> SearchReply:
        async with AsyncSearchClient("nowhere:1") as client:
            return await client.search(SearchRequest(text="a"))

    assert asyncio.run(ask()).results == ()
