"""Originals: an object store, or a folder, through obstore.

The key of an original is `<uuid5 of image id>/<sha256>.<ext>`, so that erasing a picture is
exact and two pictures never share a file.
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
    """What an object store's error says; pages of its inside follow the first line."""
    return str(error).partition("\n")[0]


#: The key of an original as `put` writes it.
_ORIGINAL = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/[0-9a-f]{64}\.[0-9a-z]{1,16}")
_NO_EXTENSION = re.compile(r"[^0-9a-z]")
#: What an operating system says of a path that no file can be at, now or later.
NEVER_A_FILE = frozenset(
    {errno.ENAMETOOLONG, errno.EINVAL, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO}
)
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_PROBE = "probe"
#: How many originals' times are remembered; see `seen`.
_REMEMBERED = 100_000
#: Written to hear what time it is there.
_CLOCK = "clock"
_CLOCK_KEPT_S = 600.0
#: The folder of what says that other logs' rows name originals here, too.
_LOGS = "logs"


class Stored(NamedTuple):
    """Something in the store; `modified` is by the store's own clock."""

    key: str
    uri: str
    modified: datetime


class ImageStore:
    """The originals under one URL: `file:`, `s3:`, `gs:`, `az:`."""

    def __init__(self, url: str) -> None:
        """Open it; a folder is created.

        Raises:
            UsageError: the folder can't be made, or the environment lacks what it takes to open
                a bucket.
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
        self._seen: OrderedDict[str, datetime] = OrderedDict()
        self._clock: tuple[float, datetime] | None = None

    def put(self, image_id: str, data: bytes, extension: str) -> str:
        """Keep an original and return its URI.

        Raises:
            TransientError: the store can't be reached or is full.
        """
        uri = self.uri_of(image_id, data, extension)
        key = self._key(uri)
        try:
            obstore.put(self._store, key, data)
            self._remember(uri, obstore.head(self._store, key)["last_modified"])
        except (BaseError, OSError) as error:
            raise TransientError(f"the image store {self._url}: {said(error)}") from error
        return uri

    def put_raw(self, key: str, data: bytes) -> str:
        """Keep bytes that are no picture's original, under a key of the caller's."""
        try:
            obstore.put(self._store, key, data)
        except (BaseError, OSError) as error:
            raise TransientError(f"the image store {self._url}: {said(error)}") from error
        return f"{self._url}/{key}"

    def uri_of(self, image_id: str, data: bytes, extension: str) -> str:
        """Where that original lies or would lie."""
        extension = _NO_EXTENSION.sub("", extension.lower())[:16] or "bin"
        key = original_key(image_id, hashlib.sha256(data).hexdigest(), extension)
        return f"{self._url}/{key}"

    def owns(self, uri: str) -> bool:
        """Whether a URI names an original in this store, as `put` returns it.

        What else begins with the store's URL was never written by us: it is a file or an object
        like any other.
        """
        return uri.startswith(self._url + "/") and _ORIGINAL.fullmatch(self._key(uri)) is not None

    def answers(self) -> bool:
        """Whether the store says anything, be it that it has no such object."""
        try:
            obstore.head(self._store, _PROBE)
        except (NotFoundError, FileNotFoundError):
            return True
        except (BaseError, OSError):
            return False
        return True

    def get(self, uri: str, max_bytes: int) -> bytes | None:
        """Read an original; None where it is gone.

        Raises:
            PoisonError: TOO_LARGE, SOURCE_FORBIDDEN, or INVALID_URL for what can't be a key.
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
        """When it was last put, by the store's own clock; None where it isn't there.

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
        """What `modified` would have said when it was last put or read here, if it ever was."""
        return self._seen.get(uri)

    def holds(self, uri: str) -> bool:
        """Whether it is there; then it counts as read here. Raises TransientError."""
        modified = self.modified(uri)
        if modified is not None:
            self._remember(uri, modified)
        return modified is not None

    def files(self, folder: str | None = None) -> Iterator[Stored]:
        """What lies in the store, or in a folder of it, in any order.

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
        """Remove it, unless it was put again since that time; whether it is gone.

        A store can't compare and remove in one step: what is put in between goes, too.

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
        """A folder has this machine's; of another store it is heard by writing to it."""
        if isinstance(self._store, LocalStore):
            return datetime.now(UTC)
        uri = self.put_raw(f"{_CLOCK}/{uuid.uuid4()}", b"")
        now = self.modified(uri) or datetime.min.replace(tzinfo=UTC)  # then nothing is old
        self.discard(uri, now)
        return now

    def claims(self) -> set[str]:
        """The keys of what operators have put where another log shares the store.

        Raises:
            TransientError: the store can't be reached.
        """
        return {each.key for each in self.files(_LOGS)}

    def uri_at(self, key: str) -> str:
        """The URI of that key."""
        return f"{self._url}/{key}"

    def original_of(self, uri: str) -> str:
        """The key in this store that a URI names; empty where it lies elsewhere."""
        return self._key(uri) if self.owns(uri) else ""

    def _key(self, uri: str) -> str:
        return uri.removeprefix(self._url + "/")

    def _remember(self, uri: str, written: datetime) -> None:
        self._seen[uri] = written
        self._seen.move_to_end(uri)
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)


def _never_heals(error: Exception) -> bool:
    """Whether an object store's error is about the key and not about the store.

    Of a folder's errors obstore gives but the text, with the operating system's number in it.
    """
    number = _OS_ERROR.search(str(error))
    return (number is not None and int(number[1]) in NEVER_A_FILE) or "Filenames containing" in str(
        error
    )


#: The image store's folder of values that the dead-letter topic refused as too large.
VALUES = "dead-letters"
