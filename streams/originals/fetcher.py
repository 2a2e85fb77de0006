"""Gets a picture's bytes from where its event says, safely and within a deadline.

fetcher.py          chooses the source; files under allowed roots; retries until the deadline
http.py             http and https public_dialler.py   which addresses http.py may connect to, and
the deadline of each wait buckets.py          s3, gs and az body.py             what they share: the
byte limit, and the pinned ETag
"""

import errno
import os
import random
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pixtide.schemas.errors import PixtideError, PoisonError, ReasonCode, TransientError
from pixtide.schemas.events import InlinePicture, PictureAt
from pixtide.streams.originals.body import Fetched, require_pinned
from pixtide.streams.originals.buckets import SCHEMES, BucketSource
from pixtide.streams.originals.http import HttpSource, NoSuchHostError
from pixtide.streams.originals.store import NEVER_A_FILE, ImageStore

_LONGEST_PAUSE_S = 10.0
#: The "hosts" of our own sources: the image store, and this machine's disks.
OUR_STORE, OUR_DISKS = "store:", "file:"
#: The operating system's errors for a missing file, and for one that we may not read.
_GONE = (errno.ENOENT, errno.ENOTDIR)
_DENIED = (errno.EACCES, errno.EPERM)


class OriginalGoneError(PixtideError):
    """An original is missing from our own store: a newer record of its picture exists."""


@dataclass(frozen=True)
class FetchLimits:
    """Limits of fetching.

    `roots` are resolved folders. `allowed_hosts` may have private addresses. `allowed_buckets` look
    like `s3://bucket`. `timeout_s` covers a whole fetch, with name lookups and all retries. After
    `give_up_s`, a file or an original of our own store is given up if it can't be read although the
    store answers.
    """

    max_bytes: int
    timeout_s: float
    roots: tuple[Path, ...] = ()
    allowed_hosts: frozenset[str] = frozenset()
    allowed_buckets: frozenset[str] = frozenset()
    give_up_s: float = 300.0


@dataclass
class Trial:
    """The attempts at one picture: how much time is left, and the next pause, in seconds.

    Time in which the picture waits for others of its host doesn't count.
    """

    whole_s: float
    left_s: float
    pause_s: float = 0.2

    def next_pause_while_away(self) -> float:
        """As `next_pause`, while nothing at its source answers: that time doesn't count."""
        self.left_s = self.whole_s
        self.pause_s = min(2 * self.pause_s, _LONGEST_PAUSE_S)
        return self.pause_s * random.uniform(0.5, 1.0)  # noqa: S311  # jitter, no secret

    def next_pause(self, error: TransientError) -> float:
        """How long to wait until the next attempt; longer each time.

        Raises:
            PoisonError: SOURCE_UNAVAILABLE, if no time is left for another attempt.
        """
        pause = self.pause_s * random.uniform(0.5, 1.0)  # noqa: S311  # jitter, no secret
        if pause >= self.left_s:
            raise PoisonError(
                ReasonCode.SOURCE_UNAVAILABLE, f"{error}; given up after {self.whole_s:.3g} s"
            ) from error
        self.left_s -= pause
        self.pause_s = min(2 * self.pause_s, _LONGEST_PAUSE_S)
        return pause


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
        """Close the connections."""
        self._http.close()

    def fetch(self, picture: InlinePicture | PictureAt, until: float | None = None) -> bytes:
        """The picture's bytes; waits and retries if somebody else's server has a problem.

        `until`, by the clock, may end this before the usual limit.

        Raises:
            PoisonError: with the code that says why it can't be fetched.
            OriginalGoneError: it was in our own store and is missing now.
            TransientError: our own store, or this machine's disk, has a problem.
        """
        trial = self.trial(picture)
        if until is not None:
            trial.left_s = trial.whole_s = min(trial.whole_s, max(0.0, until - self._clock()))
        while True:
            try:
                return self.attempt(picture, trial)
            except TransientError as error:
                if not self._is_others(picture):
                    raise
                if isinstance(error, NoSuchHostError):
                    # at once, as for blocked names: otherwise the time would reveal which names
                    # exist here
                    raise PoisonError(ReasonCode.SOURCE_UNAVAILABLE, str(error)) from error
                pause = trial.next_pause(error)
            time.sleep(pause)

    def trial(self, picture: InlinePicture | PictureAt) -> Trial:
        """For how long this picture may be tried."""
        others = self._is_others(picture)
        whole_s = self._limits.timeout_s if others else self._limits.give_up_s
        return Trial(whole_s, whole_s)

    def attempt(self, picture: InlinePicture | PictureAt, trial: Trial) -> bytes:
        """The picture's bytes, from one attempt, which uses up the trial's time.

        Raises:
            PoisonError: with the code that says why it can't be fetched.
            OriginalGoneError: it was in our own store and is missing now.
            TransientError: trying again may help.
        """
        began = self._clock()
        try:
            return self._get(picture, began + trial.left_s)
        finally:
            trial.left_s -= self._clock() - began

    def is_away(self, picture: InlinePicture | PictureAt) -> bool:
        """Whether it is in our own store and that doesn't answer: then no picture is to blame."""
        if isinstance(picture, InlinePicture) or not self._store.owns(picture.uri):
            return False
        return not self._store.answers()

    def owns(self, uri: str) -> bool:
        """Whether it names an original in our own store."""
        return self._store.owns(uri)

    def host_of(self, picture: InlinePicture | PictureAt) -> str | None:
        """The host, bucket, store or disk to ask; None if the picture is in the event."""
        if isinstance(picture, InlinePicture):
            return None
        if self._store.owns(picture.uri):
            return OUR_STORE
        try:
            parts = urlsplit(picture.uri)
            name = parts.netloc if parts.scheme in SCHEMES else parts.hostname or ""
        except ValueError:
            return "nowhere:"  # the fetch will fail at once
        scheme = "http" if parts.scheme == "https" else parts.scheme
        return f"{scheme}:{name.lower().rstrip('.')}"

    def _is_others(self, picture: InlinePicture | PictureAt) -> bool:
        if isinstance(picture, InlinePicture) or self._store.owns(picture.uri):
            return False
        return _scheme(picture.uri) != "file"

    def _get(self, picture: InlinePicture | PictureAt, until: float) -> bytes:
        if isinstance(picture, InlinePicture):
            Fetched(self._limits.max_bytes).expect(len(picture.data))
            return picture.data
        uri = picture.uri
        if self._store.owns(uri):
            data = self._store.get(uri, self._limits.max_bytes)
            if data is None:
                raise OriginalGoneError(uri)
            return data
        scheme = _scheme(uri)
        if scheme == "file":
            require_pinned(picture, None)
            return self._file(uri)
        if scheme in ("http", "https"):
            return self._http.get(picture, until)
        if scheme in SCHEMES:
            return self._buckets.get(picture, until)
        raise PoisonError(ReasonCode.SCHEME_NOT_ALLOWED, f"scheme {scheme[:40]!r} is not fetched")

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
            # don't wait for a pipe that has replaced the file meanwhile
            descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                fetched.add(file.read(self._limits.max_bytes + 1))
            return fetched.whole()
        except (ValueError, RuntimeError) as error:
            raise PoisonError(ReasonCode.PATH_NOT_ALLOWED, f"{uri}: {error}") from error
        except OSError as error:
            if error.errno in _GONE:
                raise PoisonError(ReasonCode.SOURCE_GONE, f"{uri}: no such file") from error
            if error.errno in _DENIED or error.errno in NEVER_A_FILE:
                raise PoisonError(ReasonCode.PATH_NOT_ALLOWED, f"{uri}: {error}") from error
            raise TransientError(f"{uri}: {error}") from error


def _scheme(uri: str) -> str:
    return uri.partition(":")[0].lower()
