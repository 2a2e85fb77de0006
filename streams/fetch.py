"""Getting a picture's bytes from where its event says they are, safely and within a deadline."""

import ipaddress
import random
import socket
import ssl
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import certifi
import httpcore

from schemas.errors import PixtideError, PoisonError, ReasonCode, TransientError
from schemas.events import InlinePicture, PictureAt
from streams.image_store import ImageStore

_MAX_REDIRECTS = 5
_CHUNK = 64 * 1024
_SOCKET_TIMEOUT_S = 10.0


class OriginalGoneError(PixtideError):
    """An original is missing from our own store: a newer record of its picture exists."""


@dataclass(frozen=True)
class FetchLimits:
    """What may be fetched. `roots` are resolved folders; `timeout_s` covers retries too."""

    max_bytes: int
    timeout_s: float
    roots: tuple[Path, ...]
    allowed_hosts: frozenset[str]


class Fetcher:
    """Fetches inline pictures, files under allowed roots, http(s), and our own image store."""

    def __init__(
        self, store: ImageStore, limits: FetchLimits, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._limits = limits
        self._clock = clock
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl.create_default_context(cafile=certifi.where()),
            max_connections=64,
            keepalive_expiry=10,
            network_backend=_CheckedAddresses(limits.allowed_hosts),
        )

    def close(self) -> None:
        """Let connections go."""
        self._pool.close()

    def fetch(self, picture: InlinePicture | PictureAt) -> bytes:
        """The picture's bytes.

        Raises:
            PoisonError: with the code that says why they can't be had.
            OriginalGoneError: it was in our own store and is no longer.
            TransientError: our own store is unwell.
        """
        if isinstance(picture, InlinePicture):
            return self._checked_size(picture.data)
        uri = picture.uri
        if self._store.owns(uri):
            data = self._store.get(uri, self._limits.max_bytes)
            if data is None:
                raise OriginalGoneError(uri)
            return data
        scheme = uri.partition(":")[0].lower()
        if scheme == "file":
            return self._file(uri)
        if scheme in ("http", "https"):
            return self._patient_http(uri)
        if scheme in ("s3", "gs", "az"):
            raise PoisonError(
                ReasonCode.BUCKET_NOT_ALLOWED,
                f"{uri} is not in the image store, the one bucket read",
            )
        raise PoisonError(ReasonCode.SCHEME_NOT_ALLOWED, f"scheme {scheme!r} is not fetched")

    def _checked_size(self, data: bytes) -> bytes:
        if len(data) > self._limits.max_bytes:
            raise PoisonError(
                ReasonCode.TOO_LARGE,
                f"the picture has more than {self._limits.max_bytes} bytes",
            )
        return data

    def _file(self, uri: str) -> bytes:
        parts = urlsplit(uri)
        path = Path(unquote(parts.path))
        try:
            real = path.resolve()
            allowed = parts.netloc in ("", "localhost") and any(
                real.is_relative_to(root) for root in self._limits.roots
            )
            if not allowed or (real.exists() and not stat.S_ISREG(real.stat().st_mode)):
                raise PoisonError(
                    ReasonCode.PATH_NOT_ALLOWED,
                    f"{uri} is no regular file under PIXTIDE_FILE_ROOTS",
                )
            with real.open("rb") as file:
                return self._checked_size(file.read(self._limits.max_bytes + 1))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise PoisonError(ReasonCode.SOURCE_GONE, f"{uri}: no such file") from error
        except (PermissionError, ValueError, RuntimeError) as error:
            raise PoisonError(ReasonCode.PATH_NOT_ALLOWED, f"{uri}: {error}") from error
        except OSError as error:
            raise TransientError(f"{uri}: {error}") from error

    def _patient_http(self, uri: str) -> bytes:
        """Try again, with growing pauses, until the deadline; then the source is unavailable."""
        deadline = self._clock() + self._limits.timeout_s
        pause = 0.2
        while True:
            try:
                return self._http(uri, deadline)
            except TransientError as error:
                if self._clock() + pause >= deadline:
                    raise PoisonError(
                        ReasonCode.SOURCE_UNAVAILABLE,
                        f"{error}; given up after {self._limits.timeout_s:g} s",
                    ) from error
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, no secret
            pause *= 2

    def _http(self, uri: str, deadline: float) -> bytes:
        for _ in range(_MAX_REDIRECTS + 1):
            url = _checked_url(uri)
            left = max(0.1, min(_SOCKET_TIMEOUT_S, deadline - self._clock()))
            timeouts = dict.fromkeys(("connect", "read", "write", "pool"), left)
            try:
                with self._pool.stream(
                    "GET",
                    url,
                    headers={
                        "User-Agent": "pixtide",
                        "Accept": "image/*",
                        "Accept-Encoding": "identity",
                    },
                    extensions={"timeout": timeouts},
                ) as response:
                    location = _redirect(response)
                    if location is None:
                        return self._body(uri, response, deadline)
            except (httpcore.NetworkError, httpcore.TimeoutException) as error:
                raise TransientError(f"{uri}: {type(error).__name__} {error}") from error
            except httpcore.ProtocolError as error:
                raise TransientError(f"{uri}: {error}") from error
            uri = urljoin(uri, location)
            if urlsplit(uri).scheme not in ("http", "https"):
                raise PoisonError(ReasonCode.SCHEME_NOT_ALLOWED, f"redirected to {uri}")
        raise PoisonError(ReasonCode.REDIRECT_LIMIT, f"more than {_MAX_REDIRECTS} redirects")

    def _body(self, uri: str, response: httpcore.Response, deadline: float) -> bytes:
        _check_status(uri, response.status)
        chunks = bytearray()
        for chunk in response.iter_stream():
            chunks += chunk
            if len(chunks) > self._limits.max_bytes:
                break
            if self._clock() > deadline:
                raise TransientError(f"{uri}: too slow")
        return self._checked_size(bytes(chunks))


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


def _redirect(response: httpcore.Response) -> str | None:
    if response.status not in (301, 302, 303, 307, 308):
        return None
    for name, value in response.headers:
        if name.lower() == b"location":
            return value.decode("latin-1")
    return None


def _checked_url(uri: str) -> str:
    """Raises PoisonError INVALID_URL for what no honest publisher writes."""
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as error:
        raise PoisonError(ReasonCode.INVALID_URL, f"{uri!r}: {error}") from error
    bad = any(ord(char) <= 0x20 or ord(char) == 0x7F for char in uri)
    if bad or not parts.hostname or "@" in parts.netloc or port == 0:
        raise PoisonError(ReasonCode.INVALID_URL, f"{uri!r} is no plain http(s) URL")
    return parts._replace(fragment="").geturl()


class _CheckedAddresses(httpcore.NetworkBackend):
    """Checks the address that is really dialled, so that a name can't be rebound in between."""

    def __init__(self, allowed: frozenset[str]) -> None:
        self._allowed = allowed
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(f"{host}: {error}") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not ({host, f"{host}:{port}"} & self._allowed):
            for address in addresses:
                if not _public(address):
                    raise PoisonError(
                        ReasonCode.ADDRESS_BLOCKED,
                        f"{host} is the private address {address}; "
                        f"PIXTIDE_ALLOWED_HOSTS={host}:{port} would allow it",
                    )
        return self._sockets.connect_tcp(addresses[0], port, timeout, local_address, socket_options)

    def connect_unix_socket(self, *_: object, **__: object) -> httpcore.NetworkStream:
        raise httpcore.ConnectError("unix sockets are not fetched from")

    def sleep(self, seconds: float) -> None:
        self._sockets.sleep(seconds)


def _public(address: str) -> bool:
    """Whether an address is of the public internet, whatever it is wrapped in."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if inner is not None:
            parsed = inner
        elif parsed in _NAT64:
            parsed = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
    return parsed.is_global and not parsed.is_multicast


_NAT64 = ipaddress.ip_network("64:ff9b::/96")
