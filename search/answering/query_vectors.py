"""The meaning of a request, as one direction in the model's space to search in."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pixtide.schemas.errors import QueryCode, RequestError, TransientError
from pixtide.schemas.queries import SearchRequest, Term
from pixtide.search.port import Vector, VectorIndex

logger = logging.getLogger(__name__)

#: What searchers see when an index does not answer; its addresses go only to the log.
INDEX_UNWELL = "the index does not answer now"

Vectors = NDArray[np.float32]
#: The result for each image id, text or picture: its vector, or why there is none.
Found = Mapping[str, Vector | RequestError]

#: A sum of unit vectors shorter than this is rounding, not a direction.
_NO_LENGTH = 1e-4


class TextEncoder(Protocol):
    """The part of an encoder that queries need."""

    @property
    def fingerprint(self) -> str:
        """Identifies weights, tokenizer and preprocessing; compare vectors only if it is equal."""

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Encode n texts to (n, dimension), each row of unit length or all NaN.

        Raises:
            TransientError: the device is busy or out of memory.
            FatalError: the device is lost.
        """

    def check_text(self, text: str) -> None:
        """Raises RequestError QUERY_TOO_LONG for a text that the model would truncate."""


#: Fetches, decodes and encodes the picture of a term; raises RequestError.
PictureReader = Callable[[Term], Vector]


def texts_of(request: SearchRequest) -> list[str]:
    """The texts to encode for a request."""
    own = [request.text] if request.text else []
    return own + [term.text for term in request.terms if term.text is not None]


def encode_texts(texts: Iterable[str], encoder: TextEncoder) -> Found:
    """The vector of each distinct text, all encoded at once."""
    vectors: dict[str, Vector | RequestError] = {}
    readable: list[str] = []
    for text in dict.fromkeys(texts):
        try:
            encoder.check_text(text)
            readable.append(text)
        except RequestError as error:
            vectors[text] = error
    if not readable:
        return vectors
    try:
        encoded = encoder.encode_texts(readable)
    except TransientError as error:
        logger.warning("the text encoder is busy: %s", error)
        busy = RequestError(QueryCode.OVERLOADED, "the text encoder is busy")
        return vectors | dict.fromkeys(readable, busy)
    for text, vector in zip(readable, encoded, strict=True):
        useless = RequestError(QueryCode.INTERNAL, "the model gave no usable vector for the text")
        vectors[text] = vector if np.isfinite(vector).all() else useless
    return vectors


def look_up(requests: Iterable[SearchRequest], index: VectorIndex) -> Found:
    """The vectors of the indexed pictures that the requests name."""
    ids = {term.image_id for request in requests for term in request.terms if term.image_id}
    if not ids:
        return {}
    try:
        rows = index.get(ids)
    except TransientError as error:
        logger.warning("the index is unwell: %s", error)
        unwell = RequestError(QueryCode.INDEX_UNAVAILABLE, INDEX_UNWELL)
        return dict.fromkeys(ids, unwell)
    found: dict[str, Vector | RequestError] = {}
    for image_id in ids:
        row = rows.get(image_id)
        vector = row.vector if row is not None else None
        unknown = RequestError(QueryCode.UNKNOWN_IMAGE, f"no picture {image_id!r} is indexed")
        found[image_id] = unknown if vector is None else vector
    return found


def direction_of(
    request: SearchRequest, texts: Found, images: Found, read_picture: PictureReader
) -> Vector:
    """The weighted sum of what the request names, of unit length; float32 (dimension,).

    Raises:
        RequestError: a part of it has no vector, or they cancel each other out.
    """
    parts = [(1.0, _got(texts[request.text]))] if request.text else []
    for term in request.terms:
        if term.text is not None:
            vector = _got(texts[term.text])
        elif term.image_id is not None:
            vector = _got(images[term.image_id])
        else:
            vector = read_picture(term)
        parts.append((term.weight, vector))
    if len(parts) == 1 and parts[0][0] > 0:
        return parts[0][1]
    total = np.sum([weight * vector for weight, vector in parts], axis=0)
    length = float(np.linalg.norm(total))
    if length < _NO_LENGTH:
        raise RequestError(QueryCode.MALFORMED_REQUEST, "the terms cancel each other out")
    return np.asarray(total / length, np.float32)


def _got(found: Vector | RequestError) -> Vector:
    if isinstance(found, RequestError):
        raise found
    return found
