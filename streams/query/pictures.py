"""Pictures in search requests: fetched, decoded and encoded like any other."""

import base64
import contextlib
import logging
import threading
import time
from collections.abc import Iterator

import numpy as np

from pixtide.encoders.pictures.decoder_pool import DecoderPool
from pixtide.encoders.port import Encoder
from pixtide.schemas.base import shortened
from pixtide.schemas.errors import PoisonError, QueryCode, ReasonCode, RequestError, TransientError
from pixtide.schemas.events import InlinePicture, PictureAt
from pixtide.schemas.queries import Term
from pixtide.search.port import Vector
from pixtide.streams.originals.fetcher import Fetcher, OriginalGoneError

logger = logging.getLogger(__name__)

#: Pictures that are decoded, and encoded, at once; many more may be fetched.
_DECODED, _ENCODED = 1, 2
#: All that a searcher learns about a picture's address. Details may be private: what is behind it,
#: who was asked for it, where it redirected to, and what this machine says about its files.
_OF_ADDRESSES = {
    ReasonCode.SCHEME_NOT_ALLOWED: "such addresses are not fetched",
    ReasonCode.REDIRECT_LIMIT: "the address redirects too often",
    ReasonCode.INVALID_URL: "the address is no plain http(s) URL",
    ReasonCode.SOURCE_GONE: "there is nothing at that address",
    ReasonCode.SOURCE_CHANGED: "the address holds something else by now",
    ReasonCode.SOURCE_FORBIDDEN: "access to that address is refused",
    ReasonCode.SOURCE_UNAVAILABLE: "the address gave no picture in time",
}

#: The same message for everything on our disks, in our buckets and in our store.
_OURS = f"{ReasonCode.PATH_NOT_ALLOWED}: there is no picture at that address that may be read"


class QueryPictures:
    """Makes the vector of a term's picture. Safe to share between threads."""

    def __init__(self, fetcher: Fetcher, decoders: DecoderPool) -> None:
        self._fetcher = fetcher
        self._decoders = decoders
        self._decoding = threading.Semaphore(_DECODED)
        self._encoding = threading.Semaphore(_ENCODED)

    def read(self, term: Term, encoder: Encoder, until: float | None = None) -> Vector:
        """The picture's vector: float32 of shape (dimension,) and unit length.

        Args:
            until: when nobody waits for it any more, by the monotonic clock.

        Raises:
            RequestError: BAD_PICTURE with what is wrong; OVERLOADED if a later try may work.
            FatalError: the device is lost.
        """
        try:
            data = self._fetcher.fetch(_source(term), until)
            with _turn(self._decoding, until):
                picture = self._decoders.decode(data, encoder.crop)
            with _turn(self._encoding, until):
                [vector] = encoder.encode_pictures(picture.pixels[np.newaxis])
        except PoisonError as error:
            logger.info("a searched picture can't be had: %s", shortened(str(error)))
            raise RequestError(QueryCode.BAD_PICTURE, _told(error, term)) from error
        except OriginalGoneError as error:
            raise RequestError(QueryCode.BAD_PICTURE, _OURS) from error
        except TransientError as error:
            logger.warning("a searched picture can't be read now: %s", error)
            raise RequestError(QueryCode.OVERLOADED, "the picture can't be read now") from error
        if not np.isfinite(vector).all():
            raise RequestError(QueryCode.BAD_PICTURE, f"{ReasonCode.INVALID_VECTOR}")
        return np.asarray(vector, np.float32)


def _told(error: PoisonError, term: Term) -> str:
    code = error.code
    if term.uri is not None and not term.uri.lower().startswith(("http:", "https:")):
        return _OURS  # or it would reveal which files and objects exist
    if code is ReasonCode.ADDRESS_BLOCKED:
        # or it would reveal which names exist in our network
        code = ReasonCode.SOURCE_UNAVAILABLE
    return f"{code}: {_OF_ADDRESSES.get(code, shortened(error.message))}"


@contextlib.contextmanager
def _turn(places: threading.Semaphore, until: float | None) -> Iterator[None]:
    """Hold one of those places. Raises RequestError OVERLOADED if none is free in time."""
    left_s = None if until is None else max(0.0, until - time.monotonic())
    if not places.acquire(timeout=left_s):
        raise RequestError(QueryCode.OVERLOADED, "more pictures wait than can be read in time")
    try:
        yield
    finally:
        places.release()


def _source(term: Term) -> InlinePicture | PictureAt:
    if term.uri is not None:
        return PictureAt(uri=term.uri)
    try:
        data = base64.b64decode(term.data_base64 or "", validate=True)
    except ValueError as error:  # binascii.Error, and text that isn't ASCII
        raise PoisonError(ReasonCode.INVALID_DATA, f"data_base64: {error}") from error
    return InlinePicture(data=data)
