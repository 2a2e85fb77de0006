"""Pictures on the web: every redirect is checked, every byte counted, with one deadline for all."""

import ipaddress
import re
import socket
import ssl
import zlib
from collections.abc import Callable, Iterator
from urllib.parse import quote, urljoin, urlsplit

import certifi
import httpcore

from pixtide.schemas.errors import PoisonError, ReasonCode, TransientError
from pixtide.schemas.events import PictureAt
from pixtide.streams.originals.body import Fetched, require_pinned
from pixtide.streams.originals.public_dialler import CheckedBackend, UnknownHostError

_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = (
    ("User-Agent", "pixtide"),
    ("Accept", "image/*"),
    ("Accept-Encoding", "identity"),
)
#: Content encodings that are understood, whether asked for or not; zlib (`wbits`) detects the
#: header.
_ZLIB = frozenset({b"gzip", b"x-gzip", b"deflate"})
_ANY_HEADER = 32 + zlib.MAX_WBITS
#: A gzip body may have several members, one after the other (RFC 1952, 2.2).
_GZIP_MEMBER = b"\x1f\x8b"
#: How much larger than its content a compressed body may be: a little, for random content.
_SPARE = 64 * 1024
_MOST_MEMBERS = 1000
_NAME = re.compile(r"[0-9A-Za-z_-]{1,63}(\.[0-9A-Za-z_-]{1,63})*\.?")
_LONGEST_NAME = 253
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
#: The characters of URLs; `quote` leaves these and escapes all others.
_URL_CHARACTERS = "%/:=&?~#+!$,;'@()*[]|"


class NoSuchHostError(TransientError):
    """A name that doesn't exist, or not yet."""


class HttpSource:
    """Fetches http and https URLs. Ignores the environment, including its proxy settings."""

    def __init__(
        self, *, max_bytes: int, allowed_hosts: frozenset[str], clock: Callable[[], float]
    ) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl.create_default_context(cafile=certifi.where()),
            max_connections=64,
            keepalive_expiry=10,
            network_backend=CheckedBackend(allowed_hosts, clock),
        )

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def get(self, picture: PictureAt, until: float) -> bytes:
        """The picture's bytes, before that time of the clock.

        Raises:
            PoisonError: with the code that says why it can't be fetched.
            TransientError: trying again may help.
        """
        uri = picture.uri
        for _ in range(_MAX_REDIRECTS + 1):
            url = _checked_url(uri)
            timeouts = dict.fromkeys(("connect", "read", "write"), until)  # see public_dialler.py
            timeouts["pool"] = max(0.0, until - self._clock())
            try:
                with self._pool.stream(
                    "GET", url, headers=_HEADERS, extensions={"timeout": timeouts}
                ) as response:
                    location = _header(response, b"location")
                    if response.status not in _REDIRECTS or location is None:
                        return self._body(picture, response)
            except UnknownHostError as error:
                raise NoSuchHostError(f"{uri}: {error}") from error
            except httpcore.LocalProtocolError as error:  # we would send invalid HTTP
                raise PoisonError(ReasonCode.INVALID_URL, f"{uri!r}: {error}") from error
            except (
                httpcore.NetworkError,
                httpcore.TimeoutException,
                httpcore.ProtocolError,
                zlib.error,
            ) as error:
                raise TransientError(f"{uri}: {type(error).__name__} {error}") from error
            uri = _hop(uri, quote(location, safe=_URL_CHARACTERS))
        raise PoisonError(ReasonCode.REDIRECT_LIMIT, f"more than {_MAX_REDIRECTS} redirects")

    def _body(self, picture: PictureAt, response: httpcore.Response) -> bytes:
        _check_status(picture.uri, response.status)
        require_pinned(picture, (_header(response, b"etag") or b"").decode("latin-1"))
        fetched = Fetched(self._max_bytes)
        length = _header(response, b"content-length") or b""
        if length.isdigit():
            fetched.expect(int(length[:18]))  # with more digits it is too large anyway
        for chunk in _plain(response, self._max_bytes):
            fetched.add(chunk)
        return fetched.whole()


def _plain(response: httpcore.Response, max_bytes: int) -> Iterator[bytes]:
    """The body, decompressed if necessary; never much more than `max_bytes`.

    Bytes on the wire are counted as well: a compressed body may go on for ever after its end, or
    inside it without giving any output.
    """
    encoding = (_header(response, b"content-encoding") or b"identity").strip().lower()
    if encoding == b"identity":
        yield from response.iter_stream()
        return
    if encoding not in _ZLIB:
        raise PoisonError(
            ReasonCode.SOURCE_UNAVAILABLE,
            f"it came with Content-Encoding {encoding.decode('latin-1')}, which wasn't asked for",
        )
    arrived = Fetched(max_bytes + _SPARE)
    members = 1
    inflating = zlib.decompressobj(_ANY_HEADER)
    for chunk in response.iter_stream():
        size = len(chunk)
        while chunk:
            if inflating.eof:
                if not chunk.startswith(_GZIP_MEMBER[: len(chunk)]):
                    return  # the rest is padding or unknown: don't wait for it
                if members == _MOST_MEMBERS:
                    raise zlib.error("the compressed body has too many members")
                members += 1
                inflating = zlib.decompressobj(_ANY_HEADER)
            yield inflating.decompress(chunk, max_bytes + 1)  # this much is too much already
            chunk = inflating.unused_data
        arrived.count(size)
    if not inflating.eof:
        raise zlib.error("the compressed body ends early")


def _check_status(uri: str, status: int) -> None:
    if status == 200:
        return
    if status in (404, 410):
        raise PoisonError(ReasonCode.SOURCE_GONE, f"{uri}: HTTP {status}")
    if status in (401, 403, 407, 451):
        raise PoisonError(ReasonCode.SOURCE_FORBIDDEN, f"{uri}: HTTP {status}")
    if status in (408, 425, 429) or status >= 500:
        raise TransientError(f"{uri}: HTTP {status}")
    raise PoisonError(ReasonCode.SOURCE_UNAVAILABLE, f"{uri}: HTTP {status}")


def _header(response: httpcore.Response, wanted: bytes) -> bytes | None:
    return next((value for name, value in response.headers if name.lower() == wanted), None)


def _hop(uri: str, location: str) -> str:
    try:
        target = urljoin(uri, location)
        scheme = urlsplit(target).scheme
    except ValueError as error:
        raise PoisonError(ReasonCode.INVALID_URL, f"redirected to {location!r}") from error
    if scheme not in ("http", "https"):
        raise PoisonError(ReasonCode.SCHEME_NOT_ALLOWED, f"redirected to {target}")
    return target


def _checked_url(uri: str) -> httpcore.URL:
    """The URL in ASCII, without its fragment, in parts that nothing parses again.

    Raises:
        PoisonError: INVALID_URL, for a URL that no honest publisher writes.
    """
    try:
        parts = urlsplit(uri)
        name, port = parts.hostname or "", parts.port
        host = name.encode("ascii" if ":" in name else "idna")
        path = quote(parts.path or "/", safe=_URL_CHARACTERS)
        query = quote(parts.query, safe=_URL_CHARACTERS)
    except ValueError as error:
        raise PoisonError(ReasonCode.INVALID_URL, f"{uri!r}: {error}") from error
    bad = any(ord(char) <= 0x20 or ord(char) == 0x7F for char in uri)
    if bad or not _is_host(host.decode("ascii")) or "@" in parts.netloc or port == 0:
        raise PoisonError(ReasonCode.INVALID_URL, f"{uri!r} is no plain http(s) URL")
    target = f"{path}?{query}" if query else path
    return httpcore.URL(scheme=parts.scheme.lower(), host=host, port=port, target=target)


def _is_host(host: str) -> bool:
    """Whether it may be a host's name or address; otherwise it isn't looked up again and again.

    As in browsers, a name whose last part is a number is an IPv4 address.
    """
    try:
        if ":" in host:
            ipaddress.IPv6Address(host)
        elif _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
            socket.inet_aton(host)
        else:
            return _NAME.fullmatch(host) is not None and len(host) <= _LONGEST_NAME
    except (OSError, ValueError):
        return False
    return True
