"""What every request passes before anything else looks at it, and what every answer carries.

1. path    it is UTF-8, or else no id in it would be the one that was meant
2. host    the name asked for is one of ours, so that no other site's name can be pointed at us
3. origin  what changes something comes from our own page or from no page at all
4. token   where one is set, data is for those who have it
5. size    no body is longer than it may be
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pixtide.streams.web.problems import ApiError, respond

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
#: The one path that takes pictures, and the most bytes that any other takes.
_UPLOADS = "/api/images"
_OTHER_BODIES = 1024 * 1024
_DIGITS = 18


@dataclass(frozen=True)
class Access:
    """Who may ask for what.

    `hosts` are names that we are reached under besides localhost and bare addresses; `token`
    is what data is only given for, and `max_body` the bytes that a request may bring.
    """

    hosts: Collection[str]
    token: str | None
    max_body: int

    def __post_init__(self) -> None:
        """Raises ValueError: an empty token would be everybody's."""
        if self.token is not None and not self.token.strip():
            raise ValueError("the token is empty")

    def most_bytes(self, path: str) -> int:
        """How long the body of a request to that path may be."""
        return self.max_body if path == _UPLOADS else min(self.max_body, _OTHER_BODIES)

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
        most = self._access.most_bytes(scope["path"])
        await self._app(scope, _bounded(receive, most), send_guarded)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        _check_path(scope)
        if not self._is_ours(host):
            raise ApiError(
                421, "WRONG_HOST", f"{host!r} is no name of this page: PIXTIDE_WEB_HOSTS adds names"
            )
        if scope["method"] not in _SAFE and not _same_site(headers, host):
            raise ApiError(403, "WRONG_ORIGIN", "another site's page may not change anything here")
        if scope["path"].startswith(_DATA) and scope["path"] != _SIGN_IN:
            self._check_token(headers)
        most = self._access.most_bytes(scope["path"])
        if announced(headers, most) > most:
            raise _too_large(most)

    def _is_ours(self, host: str) -> bool:
        """A bare address can't be another site's name, whoever's page the request comes from."""
        name = _hostname(host)
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


def _bounded(receive: Receive, most: int) -> Receive:
    """Count what comes: a body in chunks doesn't say its length beforehand."""
    had = 0

    async def counted() -> Message:
        nonlocal had
        message = await receive()
        had += len(message.get("body", b""))
        if had > most:
            raise _too_large(most)
        return message

    return counted


def announced(headers: Headers, unknown: int) -> int:
    """How many bytes the body has, by its header; `unknown` where it doesn't say."""
    length = headers.get("content-length")
    if length is None:
        return unknown if "transfer-encoding" in headers else 0
    if not (length.isascii() and length.isdigit() and len(length) <= _DIGITS):
        raise ApiError(400, "MALFORMED_REQUEST", "Content-Length is no number of bytes")
    return int(length)


def _too_large(limit: int) -> ApiError:
    return ApiError(413, "TOO_LARGE", f"at most {limit} bytes are taken", {"connection": "close"})


def _same_site(headers: Headers, host: str) -> bool:
    """Browsers say where a request comes from; other programs say nothing."""
    origin = headers.get("origin")
    if origin is not None:
        try:
            netloc = urlsplit(origin).netloc
        except ValueError as error:
            raise ApiError(400, "MALFORMED_REQUEST", "Origin is no origin") from error
        if netloc != host:
            return False
    return headers.get("sec-fetch-site", "none") in ("same-origin", "none")


def _cookie(headers: Headers) -> str:
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return ""


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def _check_path(scope: Scope) -> None:
    """Bytes that are no UTF-8 would be replaced, and the path become another one."""
    try:
        unquote_to_bytes(scope.get("raw_path") or scope["path"]).decode()
    except UnicodeError as error:
        raise ApiError(400, "MALFORMED_PATH", "the path is not UTF-8") from error


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError as error:
        raise ApiError(400, "MALFORMED_REQUEST", "Host is no host") from error
