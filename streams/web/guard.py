"""What every request passes before anything else looks at it, and what every answer carries.

1. host    the name asked for is one of ours, so that no other site's name can be pointed at us
2. origin  what changes something comes from our own page or from no page at all
3. token   where one is set, data is for those who have it
4. size    no body is longer than it may be
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streams.web.problems import ApiError, respond

#: Everything from ourselves, nothing inline, no markup from strings, and no framing.
PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
#: A picture opened by itself can do nothing at all.
PICTURE_POLICY = "default-src 'none'; sandbox; frame-ancestors 'none'"
SECURITY_HEADERS = {
    "content-security-policy": PAGE_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
COOKIE = "pixtide"
_DATA = ("/api/", "/thumbnails/", "/originals/")
_SIGN_IN = "/api/session"
_SAFE = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class Access:
    """Who may ask for what.

    `hosts` are names that we are reached under besides localhost and bare addresses; `token`
    is what data is only given for, and `max_body` the bytes that a request may bring.
    """

    hosts: Collection[str]
    token: str | None
    max_body: int

    def cookie(self) -> str:
        """What a browser that has shown the token keeps; the token can't be told from it."""
        return hmac.new((self.token or "").encode(), b"pixtide page", hashlib.sha256).hexdigest()

    def knows(self, token: str) -> bool:
        """Whether this is the token, told in a time that says nothing of it."""
        return self.token is not None and _same(token, self.token)


class Guard:
    """The checks and the headers, around the application."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check(scope)
        except ApiError as problem:
            await respond(problem)(scope, receive, send_guarded)
            return
        await self._app(scope, self._bounded(receive), send_guarded)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_ours(host):
            raise ApiError(
                421, "WRONG_HOST", f"{host!r} is no name of this page: PIXTIDE_WEB_HOSTS adds names"
            )
        if scope["method"] not in _SAFE and not _same_site(headers, host):
            raise ApiError(403, "WRONG_ORIGIN", "another site's page may not change anything here")
        if scope["path"].startswith(_DATA) and scope["path"] != _SIGN_IN:
            self._check_token(headers)
        if int(_digits(headers.get("content-length", "0"))) > self._access.max_body:
            raise _too_large(self._access.max_body)

    def _is_ours(self, host: str) -> bool:
        """A bare address can't be another site's name, whoever's page the request comes from."""
        name = urlsplit(f"//{host}").hostname or ""
        if name == "localhost" or name in self._access.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _check_token(self, headers: Headers) -> None:
        if self._access.token is None:
            return
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._access.knows(token.strip()):
            return
        if _same(_cookie(headers), self._access.cookie()):
            return
        raise ApiError(
            401,
            "TOKEN_NEEDED",
            "send the token as Authorization: Bearer …",
            {"www-authenticate": "Bearer"},
        )

    def _bounded(self, receive: Receive) -> Receive:
        """Count what comes: a body in chunks doesn't say its length beforehand."""
        had = 0

        async def counted() -> Message:
            nonlocal had
            message = await receive()
            had += len(message.get("body", b""))
            if had > self._access.max_body:
                raise _too_large(self._access.max_body)
            return message

        return counted


def _too_large(limit: int) -> ApiError:
    return ApiError(413, "TOO_LARGE", f"at most {limit} bytes are taken", {"connection": "close"})


def _same_site(headers: Headers, host: str) -> bool:
    """Browsers say where a request comes from; other programs say nothing."""
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        return False
    return headers.get("sec-fetch-site", "none") in ("same-origin", "none")


def _cookie(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def _digits(text: str) -> str:
    return text if text.isascii() and text.isdigit() else "0"
