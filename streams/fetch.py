"""Getting a picture's bytes from where its event says they are, safely and within a deadline.

fetch.py           which source; files under allowed roots; patience until the deadline
fetch_http.py      http and https
dialling.py        the addresses that those dial, and the deadline of each wait
fetch_buckets.py   s3, gs and az
fetched.py         what they share: the byte cap, and a pinned ETag
"""

import random
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from schemas.errors import PixtideError, PoisonError, ReasonCode, TransientError
from schemas.events import InlinePicture, PictureAt
from streams.fetch_buckets import SCHEMES, BucketSource
from streams.fetch_http import HttpSource
from streams.fetched import Fetched, require_pinned
from streams.image_store import ImageStore


class OriginalGoneError(PixtideError):
    """An original is missing from our own store: a newer record of its picture exists."""


@dataclass(frozen=True)
class FetchLimits:
    """What may be fetched.

    `roots` are resolved folders, `allowed_hosts` those that may be private, `allowed_buckets`
    look like `s3://bucket`; `timeout_s` covers a whole fetch, looking up names and all retries
    included.
    """

    max_bytes: int
    timeout_s: float
    roots: tuple[Path, ...] = ()
    allowed_hosts: frozenset[str] = frozenset()
    allowed_buckets: frozenset[str] = frozenset()


class Fetcher:
    """Fetches inline pictures, files, http(s) URLs, allowed buckets, and our own image store.

    Safe to share between threads.
    """

    def __init__(
        self, store: ImageStore, limits: FetchLimits, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._limits = limits
        self._clock = clock
        self._http = HttpSource(
            max_bytes=limits.max_bytes, allowed_hosts=limits.allowed_hosts, clock=clock
        )
        self._buckets = BucketSource(
            max_bytes=limits.max_bytes, allowed_buckets=limits.allowed_buckets, clock=clock
        )

    def close(self) -> None:
        """Let connections go."""
        self._http.close()

    def fetch(self, picture: InlinePicture | PictureAt, until: float | None = None) -> bytes:
        """The picture's bytes, sooner than by its own limit where `until` says so by the clock.

        Raises:
            PoisonError: with the code that says why they can't be had.
            OriginalGoneError: it was in our own store and is no longer.
            TransientError: our own store, or this machine's disk, is unwell.
        """
        if isinstance(picture, InlinePicture):
            Fetched(self._limits.max_bytes).expect(len(picture.data))
            return picture.data
        uri = picture.uri
        if self._store.owns(uri):
            data = self._store.get(uri, self._limits.max_bytes)
            if data is None:
                raise OriginalGoneError(uri)
            return data
        scheme = uri.partition(":")[0].lower()
        if scheme == "file":
            require_pinned(picture, None)
            return self._file(uri)
        if scheme in ("http", "https"):
            return self._patiently(picture, self._http.get, until)
        if scheme in SCHEMES:
            return self._patiently(picture, self._buckets.get, until)
        raise PoisonError(ReasonCode.SCHEME_NOT_ALLOWED, f"scheme {scheme!r} is not fetched")

    def host_of(self, picture: InlinePicture | PictureAt) -> str | None:
        """Which host or bucket of others is asked; None for what lies in the event or with us."""
        if isinstance(picture, InlinePicture) or self._store.owns(picture.uri):
            return None
        try:
            parts = urlsplit(picture.uri)
        except ValueError:
            return None  # which fails at once when it is fetched
        return f"{parts.scheme}://{parts.netloc}" if parts.netloc else None

    def _file(self, uri: str) -> bytes:
        try:
            parts = urlsplit(uri)
            real = Path(unquote(parts.path)).resolve()
            allowed = parts.netloc in ("", "localhost") and any(
                real.is_relative_to(root) for root in self._limits.roots
            )
            if not allowed or (real.exists() and not stat.S_ISREG(real.stat().st_mode)):
                raise PoisonError(
                    ReasonCode.PATH_NOT_ALLOWED,
                    f"{uri} is no regular file under PIXTIDE_FILE_ROOTS",
                )
            fetched = Fetched(self._limits.max_bytes)
            with real.open("rb") as file:
                fetched.add(file.read(self._limits.max_bytes + 1))
            return fetched.whole()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise PoisonError(ReasonCode.SOURCE_GONE, f"{uri}: no such file") from error
        except (PermissionError, ValueError, RuntimeError) as error:
            raise PoisonError(ReasonCode.PATH_NOT_ALLOWED, f"{uri}: {error}") from error
        except OSError as error:
            raise TransientError(f"{uri}: {error}") from error

    def _patiently(
        self, picture: PictureAt, get: Callable[[PictureAt, float], bytes], latest: float | None
    ) -> bytes:
        """Try again, with growing pauses, until the deadline; then the source is unavailable."""
        began = self._clock()
        until = began + self._limits.timeout_s
        if latest is not None:
            until = min(until, latest)
        pause = 0.2
        while True:
            try:
                return get(picture, until)
            except TransientError as error:
                if self._clock() + pause >= until:
                    raise PoisonError(
                        ReasonCode.SOURCE_UNAVAILABLE,
                        f"{error}; given up after {max(0.0, until - began):.3g} s",
                    ) from error
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, no secret
            pause *= 2
