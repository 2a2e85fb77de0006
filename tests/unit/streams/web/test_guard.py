"""Who may ask, how often and how much: the guard around an application that answers anything."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pixtide.streams.web.guard import COOKIE, Access, Guard
from pixtide.streams.web.problems import ApiError, problem_handler
from pixtide.streams.web.rates import Rate, client_of

TOKEN = "a long secret"


async def _echo(request: Request) -> Response:
    return PlainTextResponse(await request.body())


def app(**access: Any) -> Starlette:
    given = Access(**{"hosts": {"pictures.example"}, "token": None, "max_body": 10} | access)
    anything = Route("/{path:path}", _echo, methods=["GET", "POST", "DELETE"])
    handlers: dict[Any, Any] = {ApiError: problem_handler}
    made = Starlette(routes=[anything], exception_handlers=handlers)
    made.add_middleware(Guard, access=given)
    return made


def ask(made: Starlette, method: str = "GET", path: str = "/", **request: Any) -> httpx.Response:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(made)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **request)

    return asyncio.run(asked())


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(("localhost:8080", 200), ("127.0.0.1", 200), ("[::1]:8080", 200), ("10.1.2.3", 200)),
        *(("pictures.example", 200), ("evil.example", 421), ("", 421), ("localhost.evil", 421)),
        ("127.0.0.1.evil.example", 421),
    ],
)
def test_only_our_own_names_are_answered_to(host: str, status: int) -> None:
    assert ask(app(), headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://localhost"}, 200),
        ({"sec-fetch-site": "same-origin", "origin": "http://localhost"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:99"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_another_sites_page_changes_nothing(headers: dict[str, str], status: int) -> None:
    for method in ("POST", "DELETE"):
        assert ask(app(), method, "/api/images", headers=headers).status_code == status


def test_data_is_for_those_with_the_token_and_the_page_for_all() -> None:
    made = app(token=TOKEN)
    for path in ("/api/search", "/thumbnails/a", "/originals/a", "/api/outcomes"):
        refused = ask(made, path=path)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        assert ask(made, path=path, headers={"authorization": "Bearer wrong"}).status_code == 401
        assert ask(made, path=path, headers={"cookie": f"{COOKIE}={TOKEN}"}).status_code == 401
        assert ask(made, path=path, headers={"authorization": f"Bearer {TOKEN}"}).is_success
        kept = Access(hosts=(), token=TOKEN, max_body=1).cookie()
        assert TOKEN not in kept
        assert ask(made, path=path, headers={"cookie": f"{COOKIE}={kept}"}).is_success
    for path in ("/", "/static/main.js", "/live", "/ready", "/openapi.json", "/api/session"):
        assert ask(made, path=path).is_success


def test_a_cookie_of_no_token_opens_nothing() -> None:
    empty = Access(hosts=(), token=None, max_body=1).cookie()
    made = app(token=TOKEN)
    assert ask(made, path="/api/x", headers={"cookie": f"{COOKIE}={empty}"}).status_code == 401


def test_no_body_is_longer_than_it_may_be_whether_it_says_so_or_not() -> None:
    async def in_chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"1234"

    assert ask(app(), "POST", content=b"0123456789").is_success
    for content in (b"0123456789a", in_chunks()):
        refused = ask(app(), "POST", content=content)
        assert refused.status_code == 413
        assert refused.json()["error"]["code"] == "TOO_LARGE"


def test_every_answer_carries_the_headers_even_a_refusal() -> None:
    for answer in (ask(app()), ask(app(), headers={"host": "evil.example"})):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"


def _from(host: str) -> Request:
    return Request({"type": "http", "client": (host, 1), "headers": []})


def test_a_client_that_asks_too_often_is_told_when_to_come_again() -> None:
    now = 0.0
    rate = Rate("searches", 2, clock=lambda: now)
    for _ in range(2):
        rate.spend(_from("192.0.2.1"))
    with pytest.raises(ApiError) as refused:
        rate.spend(_from("192.0.2.1"))
    assert refused.value.status == 429
    assert refused.value.headers == {"retry-after": "30"}
    rate.spend(_from("192.0.2.2"))
    now = 29.0
    with pytest.raises(ApiError):
        rate.spend(_from("192.0.2.1"))
    now = 30.1
    rate.spend(_from("192.0.2.1"))


def test_one_client_does_not_become_many_by_its_many_addresses() -> None:
    rate = Rate("searches", 1, clock=lambda: 0.0)
    rate.spend(_from("2001:db8:1:2::1"))
    with pytest.raises(ApiError):
        rate.spend(_from("2001:db8:1:2:ffff::9"))
    rate.spend(_from("2001:db8:1:3::1"))


def test_an_empty_token_opens_no_page() -> None:
    for token in ("", " \n"):
        with pytest.raises(ValueError, match="empty"):
            Access(hosts=(), token=token, max_body=1)


@pytest.mark.parametrize(
    "headers",
    [{"host": "["}, {"host": "[::1"}, {"host": "a]"}, {"origin": "http://["}, {"origin": "//[x"}],
)
def test_a_malformed_host_or_origin_is_the_clients_mistake(headers: dict[str, str]) -> None:
    assert ask(app(), "POST", headers=headers).status_code in (400, 403, 421)


def test_pictures_may_be_large_and_nothing_else() -> None:
    access = Access(hosts=(), token=None, max_body=10**8)
    assert access.most_bytes("/api/images") == 10**8
    for path in ("/api/search", "/api/session", "/api/images/a", "/"):
        assert access.most_bytes(path) <= 2**20


def test_a_client_is_told_by_its_address_however_that_is_written() -> None:
    assert client_of(_from("::ffff:192.0.2.1")) == client_of(_from("192.0.2.1"))
    assert client_of(_from("fe80::1%eth0")) == client_of(_from("fe80::2"))
    assert len(client_of(_from("x" * 60_000))) <= 64
