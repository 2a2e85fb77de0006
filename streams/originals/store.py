"""The image store: an object store, or a folder, through obstore.

The key of an original is `<uuid5 of image id>/<sha256>.<ext>`. So a picture can be erased exactly,
and two pictures never share a file.
"""

import errno
import hashlib
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import (
    BaseError,
    InvalidPathError,
    NotFoundError,
    PermissionDeniedError,
)
from obstore.store import LocalStore, ObjectStore, from_url

from pixtide.schemas.errors import PoisonError, ReasonCode, TransientError, UsageError
from pixtide.schemas.identity import original_key


def said(error: Exception) -> str:
    """The first line of an object store's error; pages of its internals follow."""
    return str(error).partition("\n")[0]


#: The key of an original as `put` writes it.
_ORIGINAL = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/[0-9a-f]{64}\.[0-9a-z]{1,16}")
_NO_EXTENSION = re.compile(r"[^0-9a-z]")
#: The operating system's errors for a path where no file can be, now or later.
NEVER_A_FILE = frozenset(
    {errno.ENAMETOOLONG, errno.EINVAL, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO}
)
#: The longest time from storing an original to publishing the record that names it.
ON_ITS_WAY = timedelta(hours=1)
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_PROBE = "probe"
#: For how many originals to remember the time; see `seen`.
_REMEMBERED = 100_000
#: A file that is written to learn the store's time.
_CLOCK = "clock"
_CLOCK_KEPT_S = 600.0
#: The folder of markers which say that rows over other logs name originals here, too.
_LOGS = "logs"


class Stored(NamedTuple):
    """A file in the store; `modified` is by the store's own clock."""

    key: str
    uri: str
    modified: datetime


class _Seen(NamedTuple):
    """The time of a file that was stored or read, and whether it was stored here."""

    modified: datetime
    is_put: bool


class ImageStore:
    """The originals under one URL: `file:`, `s3:`, `gs:`, `az:`."""

    def __init__(self, url: str) -> None:
        """Open the store; creates a missing folder.

        Raises:
            UsageError: the folder can't be created, or the environment lacks something that is
                needed to open a bucket.
        """
        self._url = url
        parts = urlsplit(url)
        if parts.scheme == "file":
            folder = Path(unquote(parts.path))
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(
                    f"PIXTIDE_IMAGE_STORE: {folder} can't be made: {error.strerror}"
                ) from error
            self._store: ObjectStore = LocalStore(folder)
        else:
            try:
                self._store = from_url(url)
            except (BaseError, ValueError) as error:
                raise UsageError(f"PIXTIDE_IMAGE_STORE={url}: {said(error)}") from error
        self._seen: OrderedDict[str, _Seen] = OrderedDict()
        self._clock: tuple[float, datetime] | None = None

    def put(self, image_id: str, data: bytes, extension: str) -> str:
        """Store an original and return its URI.

        Raises:
            TransientError: the store can't be reached or is full.
        """
        uri = self.uri_of(image_id, data, extension)
        key = self._key(uri)
        try:
            obstore.put(self._store, key, data)
            self._remember(uri, obstore.head(self._store, key)["last_modified"], is_put=True)
        except (BaseError, OSError) as error:
            raise TransientError(f"the image store {self._url}: {said(error)}") from error
        return uri

    def put_raw(self, key: str, data: bytes) -> str:
        """Store bytes that are no picture's original, under a key that the caller chooses."""
        try:
            obstore.put(self._store, key, data)
        except (BaseError, OSError) as error:
            raise TransientError(f"the image store {self._url}: {said(error)}") from error
        return f"{self._url}/{key}"

    def uri_of(self, image_id: str, data: bytes, extension: str) -> str:
        """The URI where that original is or would be."""
        extension = _NO_EXTENSION.sub("", extension.lower())[:16] or "bin"
        key = original_key(image_id, hashlib.sha256(data).hexdigest(), extension)
        return f"{self._url}/{key}"

    def owns(self, uri: str) -> bool:
        """Whether a URI names an original in this store, as `put` returns it.

        Anything else under the store's URL was not written by us: it is a file or an object like
        any other.
        """
        return uri.startswith(self._url + "/") and _ORIGINAL.fullmatch(self._key(uri)) is not None

    def answers(self) -> bool:
        """Whether the store answers at all, even if only that it has no such object."""
        try:
            obstore.head(self._store, _PROBE)
        except (NotFoundError, FileNotFoundError):
            return True
        except (BaseError, OSError):
            return False
        return True

    def get(self, uri: str, max_bytes: int) -> bytes | None:
        """Read an original; None if it is missing.

        Raises:
            PoisonError: TOO_LARGE, SOURCE_FORBIDDEN, or INVALID_URL for an impossible key.
            TransientError: the store can't be reached.
        """
        return self.get_raw(self._key(uri), max_bytes)

    def get_raw(self, key: str, max_bytes: int) -> bytes | None:
        """As `get`, by key, as in `put_raw`."""
        try:
            found = obstore.get(self._store, key)
            if found.meta["size"] > max_bytes:
                raise PoisonError(
                    ReasonCode.TOO_LARGE,
                    f"the picture has {found.meta['size']} bytes; the limit is {max_bytes}",
                )
            self._remember(f"{self._url}/{key}", found.meta["last_modified"])
            return bytes(found.bytes())
        except (NotFoundError, FileNotFoundError):
            return None
        except PermissionDeniedError as error:
            raise PoisonError(ReasonCode.SOURCE_FORBIDDEN, said(error)) from error
        except (InvalidPathError, ValueError) as error:
            raise PoisonError(ReasonCode.INVALID_URL, f"{key!r}: {said(error)}") from error
        except (BaseError, OSError) as error:
            if _never_heals(error):
                raise PoisonError(ReasonCode.INVALID_URL, f"{key!r}: {said(error)}") from error
            raise TransientError(f"the image store {self._url}: {said(error)}") from error

    def modified(self, uri: str) -> datetime | None:
        """When it was last stored, by the store's own clock; None if it is missing.

        Raises:
            TransientError: the store can't be reached.
        """
        try:
            return obstore.head(self._store, self._key(uri))["last_modified"]
        except (NotFoundError, FileNotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise TransientError(f"the image store {self._url}: {said(error)}") from error

    def seen(self, uri: str) -> datetime | None:
        """The `modified` time when it was last stored or read here, if it ever was."""
        seen = self._seen.get(uri)
        return None if seen is None else seen.modified

    def has_put(self, uri: str) -> bool:
        """Whether the file that was last seen there was stored by this process."""
        seen = self._seen.get(uri)
        return seen is not None and seen.is_put

    def holds(self, uri: str) -> bool:
        """Whether it exists; if so, it counts as read here. Raises TransientError."""
        modified = self.modified(uri)
        if modified is not None:
            self._remember(uri, modified)
        return modified is not None

    def files(self, folder: str | None = None) -> Iterator[Stored]:
        """The files in the store, or in one of its folders, in any order.

        Raises:
            TransientError: the store can't be reached.
        """
        try:
            for page in obstore.list(self._store, folder):
                for each in page:
                    uri = f"{self._url}/{each['path']}"
                    yield Stored(each["path"], uri, each["last_modified"])
        except (BaseError, OSError) as error:
            raise TransientError(f"the image store {self._url}: {said(error)}") from error

    def discard(self, uri: str, was: datetime) -> bool:
        """Remove it, unless it was stored again since that time; returns whether it is gone.

        A store can't compare and remove in one step: a file stored in between is removed, too.

        Raises:
            TransientError: the store can't be reached.
        """
        if self.modified(uri) not in (was, None):
            return False
        try:
            obstore.delete(self._store, self._key(uri))
        except (NotFoundError, FileNotFoundError):
            pass
        except (BaseError, OSError) as error:
            raise TransientError(f"the image store {self._url}: {said(error)}") from error
        self._seen.pop(uri, None)
        return True

    def now(self) -> datetime:
        """The time by the store's own clock, within seconds. Raises TransientError."""
        asked_at, answer = self._clock or (float("-inf"), datetime.min)
        if time.monotonic() - asked_at > _CLOCK_KEPT_S:
            asked_at = time.monotonic()
            answer = self._ask_the_time()
            self._clock = asked_at, answer
        return answer + timedelta(seconds=time.monotonic() - asked_at)

    def _ask_the_time(self) -> datetime:
        """Ask the store for its time, by writing to it; a folder has this machine's time."""
        if isinstance(self._store, LocalStore):
            return datetime.now(UTC)
        uri = self.put_raw(f"{_CLOCK}/{uuid.uuid4()}", b"")
        now = self.modified(uri) or datetime.min.replace(tzinfo=UTC)  # then nothing is old
        self.discard(uri, now)
        return now

    def claims(self) -> set[str]:
        """The keys of the markers that operators put here when another log shares the store.

        Raises:
            TransientError: the store can't be reached.
        """
        return {each.key for each in self.files(_LOGS)}

    def uri_at(self, key: str) -> str:
        """The URI of that key."""
        return f"{self._url}/{key}"

    def original_of(self, uri: str) -> str:
        """The key in this store that a URI names; empty if it is somewhere else."""
        return self._key(uri) if self.owns(uri) else ""

    def _key(self, uri: str) -> str:
        return uri.removeprefix(self._url + "/")

    def _remember(self, uri: str, modified: datetime, *, is_put: bool = False) -> None:
        same = self.seen(uri) == modified
        self._seen[uri] = _Seen(modified, is_put or (same and self.has_put(uri)))
        self._seen.move_to_end(uri)
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)


def _never_heals(error: Exception) -> bool:
    """Whether an object store's error is about the key and not about the store.

    For a folder, obstore passes only the error's text, which includes the operating system's
    number.
    """
    number = _OS_ERROR.search(str(error))
    return (number is not None and int(number[1]) in NEVER_A_FILE) or "Filenames containing" in str(
        error
    )


#: The image store's folder for values that the dead-letter topic refused as too large.
VALUES = "dead-letters"
