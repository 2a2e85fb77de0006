"""Pictures that search requests bring along: fetched, decoded and encoded like any other."""

import base64
import binascii

import numpy as np

from encoders.decoding import DecoderPool
from encoders.port import Encoder
from schemas.errors import PoisonError, QueryCode, ReasonCode, RequestError, TransientError
from schemas.events import InlinePicture, PictureAt
from schemas.queries import Term
from search.port import Vector
from streams.fetch import Fetcher, OriginalGoneError

#: Whoever searches is not told what a name means within our network, or whether it means anything,
#: nor what this machine says of its files.
_VEILED = {
    ReasonCode.ADDRESS_BLOCKED: ReasonCode.SOURCE_UNAVAILABLE,
    ReasonCode.SOURCE_UNAVAILABLE: ReasonCode.SOURCE_UNAVAILABLE,
    ReasonCode.PATH_NOT_ALLOWED: ReasonCode.PATH_NOT_ALLOWED,
    ReasonCode.BUCKET_NOT_ALLOWED: ReasonCode.BUCKET_NOT_ALLOWED,
}


class QueryPictures:
    """Makes the vector of a term's picture. Safe to share between threads."""

    def __init__(self, fetcher: Fetcher, decoders: DecoderPool) -> None:
        self._fetcher = fetcher
        self._decoders = decoders

    def read(self, term: Term, encoder: Encoder) -> Vector:
        """Float32 of shape (dimension,) and unit length.

        Raises:
            RequestError: BAD_PICTURE with what is wrong, OVERLOADED where it may do later.
        """
        try:
            data = self._fetcher.fetch(_source(term))
            picture = self._decoders.decode(data, encoder.crop)
            [vector] = encoder.encode_pictures(picture.pixels[np.newaxis])
        except PoisonError as error:
            raise RequestError(QueryCode.BAD_PICTURE, _told(error)) from error
        except OriginalGoneError as error:
            raise RequestError(QueryCode.BAD_PICTURE, f"{ReasonCode.SOURCE_GONE}") from error
        except TransientError as error:
            raise RequestError(QueryCode.OVERLOADED, "the picture can't be read now") from error
        if not np.isfinite(vector).all():
            raise RequestError(QueryCode.BAD_PICTURE, f"{ReasonCode.INVALID_VECTOR}")
        return np.asarray(vector, np.float32)


def _told(error: PoisonError) -> str:
    code = _VEILED.get(error.code)
    return str(error) if code is None else f"{code}: no picture can be had from there"


def _source(term: Term) -> InlinePicture | PictureAt:
    if term.uri is not None:
        return PictureAt(uri=term.uri)
    try:
        data = base64.b64decode(term.data_base64 or "", validate=True)
    except binascii.Error as error:
        raise PoisonError(ReasonCode.INVALID_DATA, f"data_base64: {error}") from error
    return InlinePicture(data=data)
