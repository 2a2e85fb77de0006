"""Getting a picture's bytes from where its event says they are, safely and within a deadline.

fetch.py           which source; files under allowed roots; patience until the deadline
fetch_http.py      http and https
dialling.py        the addresses that those dial, and the deadline of each wait
fetch_buckets.py   s3, gs and az
fetched.py         what they share: the byte cap, and a pinned ETag
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
#: The "hosts" of what is ours: the image store, and this machine's disks.
OUR_STORE, OUR_DISKS = "store:", "file:"
#: What an operating system says of a file that it has not, and of one that we may not read.
_GONE = (errno.ENOENT, errno.ENOTDIR)
_DENIED = (errno.EACCES, errno.EPERM)


class OriginalGoneError(PixtideError):
    """An original is missing from our own store: a newer record of its picture exists."""


@dataclass(frozen=True)
class FetchLimits:
    """What may be fetched.

    `roots` are resolved folders, `allowed_hosts` those that may be private, `allowed_buckets`
    look like `s3://bucket`; `timeout_s` covers a whole fetch, looking up names and all retries
    included. After `give_up_s` a file, or an original of our own store, is given up that can't
    be read though the store answers.
    """

    max_bytes: int
    timeout_s: float
    roots: tuple[Path, ...] = ()
    allowed_hosts: frozenset[str] = frozenset()
    allowed_buckets: frozenset[str] = frozenset()
    give_up_s: float = 300.0


@dataclass
class Trial:
    """The attempts at one picture: how long they may still go on, and the next pause, in seconds.

    What a picture waits for others of its host doesn't count.
    """

    whole_s: float
    left_s: float
    pause_s: float = 0.2

    def next_pause_while_away(self) -> float:
        """As `next_pause`, while nothing of where it lies answers: that time doesn't count."""
        self.left_s = self.whole_s
        self.pause_s = min(2 * self.pause_s, _LONGEST_PAUSE_S)
        return self.pause_s * random.uniform(0.5, 1.0)  # noqa: S311  # jitter, no secret

    def next_pause(self, error: TransientError) -> float:
        """How long to wait until the next attempt; longer each time.

        Raises:
            PoisonError: SOURCE_UNAVAILABLE, where no time is left for another.
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
        """Let connections go."""
        self._http.close()

    def fetch(self, picture: InlinePicture | PictureAt, until: float | None = None) -> bytes:
        """The picture's bytes; waits and tries again where others' servers are unwell.

        Sooner than by its own limit where `until` says so, by the clock.

        Raises:
            PoisonError: with the code that says why they can't be had.
            OriginalGoneError: it was in our own store and is no longer.
            TransientError: our own store, or this machine's disk, is unwell.
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
                    # at once, as what is blocked: else the time would tell which names exist here
                    raise PoisonError(ReasonCode.SOURCE_UNAVAILABLE, str(error)) from error
                pause = trial.next_pause(error)
            time.sleep(pause)

    def trial(self, picture: InlinePicture | PictureAt) -> Trial:
        """For how long this picture may be tried."""
        others = self._is_others(picture)
        whole_s = self._limits.timeout_s if others else self._limits.give_up_s
        return Trial(whole_s, whole_s)

    def attempt(self, picture: InlinePicture | PictureAt, trial: Trial) -> bytes:
        """The picture's bytes, from one attempt, whose time is taken off the trial's.

        Raises:
            PoisonError: with the code that says why they can't be had.
            OriginalGoneError: it was in our own store and is no longer.
            TransientError: trying again may help.
        """
        began = self._clock()
        try:
            return self._get(picture, began + trial.left_s)
        finally:
            trial.left_s -= self._clock() - began

    def is_away(self, picture: InlinePicture | PictureAt) -> bool:
        """Whether it is our own store's, and that answers nothing: then no picture is to blame."""
        if isinstance(picture, InlinePicture) or not self._store.owns(picture.uri):
            return False
        return not self._store.answers()

    def owns(self, uri: str) -> bool:
        """Whether it names an original in our own store."""
        return self._store.owns(uri)

    def host_of(self, picture: InlinePicture | PictureAt) -> str | None:
        """Which host, bucket, store or disk is asked; None for what lies in the event."""
        if isinstance(picture, InlinePicture):
            return None
        if self._store.owns(picture.uri):
            return OUR_STORE
        try:
            parts = urlsplit(picture.uri)
            name = parts.netloc if parts.scheme in SCHEMES else parts.hostname or ""
        except ValueError:
            return "nowhere:"  # which fails at once when it is fetched
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
            # a pipe that has taken the file's place meanwhile is not waited for
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
