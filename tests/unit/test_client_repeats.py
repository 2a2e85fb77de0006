"""A retryable error is asked again, for as long as the time lasts."""

from collections.abc import Iterator
from typing import Any

import pytest

from schemas.errors import QueryCode, RequestError
from schemas.queries import SearchReply, SearchRequest
from streams import client as client_module
from streams.client import SearchClient


class Wire:
    """Answers each request with the next of a list."""

    def __init__(self, replies: list[SearchReply]) -> None:
        self.replies = replies
        self.asked = 0

    def ask(self, request: SearchRequest, timeout_s: float) -> bytes:
        assert timeout_s > 0 and request.text
        self.asked += 1
        return b"%d" % self.asked

    def heard(self, wait_s: float) -> Iterator[tuple[bytes, bytes]]:
        assert wait_s > 0
        yield b"another client's", b"{}"
        yield b"%d" % self.asked, self.replies.pop(0).to_json()


def failed(code: QueryCode) -> SearchReply:
    return SearchReply.failed(RequestError(code, "no"))


@pytest.mark.parametrize(
    ("codes", "asked", "error"),
    [
        ([QueryCode.OVERLOADED, QueryCode.INDEX_UNAVAILABLE], 3, None),
        ([QueryCode.EMPTY_QUERY], 1, QueryCode.EMPTY_QUERY),
    ],
)
def test_repeats(
    monkeypatch: pytest.MonkeyPatch, codes: list[QueryCode], asked: int, error: QueryCode | None
) -> None:
    wire: Any = Wire([*map(failed, codes), SearchReply(results=())])
    monkeypatch.setattr(client_module, "Replies", lambda _: wire)
    monkeypatch.setattr(client_module, "pause_s", lambda _: 0.0)
    reply = SearchClient("nowhere:1").search(SearchRequest(text="a"))
    assert (reply.error.code if reply.error else None) == error
    assert wire.asked == asked
