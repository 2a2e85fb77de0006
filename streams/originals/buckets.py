"""Pictures in object stores: s3, gs and az, from the buckets that a setting allows."""

import asyncio
from collections.abc import Callable
from urllib.parse import parse_qs, unquote, urlsplit

import obstore
from obstore.exceptions import (
    BaseError,
    InvalidPathError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import ObjectStore, from_url

from pixtide.schemas.errors import PoisonError, ReasonCode, TransientError, UsageError
from pixtide.schemas.events import PictureAt
from pixtide.streams.originals.body import Fetched, require_pinned
from pixtide.streams.originals.store import said

SCHEMES = frozenset({"s3", "gs", "az"})
#: The longest key in bytes of UTF-8, for S3 and Google; Azure accepts no more either.
_LONGEST_KEY = 1024


class BucketSource:
    """Fetches `s3://bucket/key` and the like, with `?versionId=` for one version of it.

    Credentials and endpoints come from the environment, as for the stores' own tools.
    """

    def __init__(
        self, *, max_bytes: int, allowed_buckets: frozenset[str], clock: Callable[[], float]
    ) -> None:
        """Open the buckets; sends no request yet.

        Raises:
            UsageError: the environment lacks something that is needed to open one.
        """
        self._max_bytes = max_bytes
        self._clock = clock
        self._stores = {bucket: _opened(bucket) for bucket in allowed_buckets}

    def get(self, picture: PictureAt, until: float) -> bytes:
        """The picture's bytes, before that time of the clock.

        Raises:
            PoisonError: with the code that says why it can't be fetched.
            TransientError: trying again may help.
        """
        bucket, key, version = _address(picture.uri)
        store = self._stores.get(bucket)
        if store is None:
            raise PoisonError(
                ReasonCode.BUCKET_NOT_ALLOWED, f"PIXTIDE_ALLOWED_BUCKETS does not name {bucket}"
            )
        try:
            return asyncio.run(
                asyncio.wait_for(
                    self._read(store, key, version, picture), max(0.0, until - self._clock())
                )
            )
        except (NotFoundError, FileNotFoundError) as error:
            raise PoisonError(ReasonCode.SOURCE_GONE, said(error)) from error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise PoisonError(ReasonCode.SOURCE_FORBIDDEN, said(error)) from error
        except (InvalidPathError, ValueError) as error:  # such as a key with `..`
            raise PoisonError(ReasonCode.INVALID_URL, f"{picture.uri}: {said(error)}") from error
        except TimeoutError as error:
            raise TransientError(f"{picture.uri}: too slow") from error
        except (BaseError, OSError) as error:
            raise TransientError(f"{picture.uri}: {said(error)}") from error

    async def _read(
        self, store: ObjectStore, key: str, version: str | None, picture: PictureAt
    ) -> bytes:
        found = await obstore.get_async(store, key, options={"version": version} if version else {})
        require_pinned(picture, found.meta["e_tag"])
        fetched = Fetched(self._max_bytes)
        fetched.expect(found.meta["size"])
        async for chunk in found.stream():
            fetched.add(bytes(chunk))
        return fetched.whole()


def _opened(bucket: str) -> ObjectStore:
    try:
        # Without its own retries: the caller repeats, within its deadline.
        return from_url(bucket, retry_config={"max_retries": 0})
    except (BaseError, ValueError) as error:
        raise UsageError(f"PIXTIDE_ALLOWED_BUCKETS: {bucket}: {said(error)}") from error


def _address(uri: str) -> tuple[str, str, str | None]:
    """The bucket's URL, the key, and the version if the URI names one.

    Raises:
        PoisonError: INVALID_URL.
    """
    try:
        parts = urlsplit(uri)
        query = parse_qs(parts.query, strict_parsing=bool(parts.query))
        key = unquote(parts.path, errors="strict").removeprefix("/")
    except ValueError as error:
        raise PoisonError(ReasonCode.INVALID_URL, f"{uri!r}: {error}") from error
    versions = query.pop("versionId", [])
    if len(key.encode(errors="replace")) > _LONGEST_KEY:
        raise PoisonError(ReasonCode.INVALID_URL, f"a key has at most {_LONGEST_KEY} bytes")
    if query or len(versions) > 1 or parts.fragment or not key or not parts.netloc:
        raise PoisonError(
            ReasonCode.INVALID_URL, f"{uri!r} is not {parts.scheme}://bucket/key[?versionId=…]"
        )
    return f"{parts.scheme.lower()}://{parts.netloc}", key, versions[0] if versions else None
