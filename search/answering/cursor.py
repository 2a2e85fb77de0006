"""Where the next page of a search begins: opaque to clients, and valid for one search only."""

import base64
import binascii
import hashlib

from pydantic import Field, ValidationError

from pixtide.schemas.base import Contract
from pixtide.schemas.errors import QueryCode, RequestError
from pixtide.schemas.queries import WINDOW, SearchRequest
from pixtide.search.generations import Generation


class _Cursor(Contract):
    generation: str
    request: str
    offset: int = Field(ge=1, lt=WINDOW)


def cursor_to(offset: int, request: SearchRequest, generation: Generation) -> str | None:
    """The cursor of the page that begins at that rank, or None beyond the window."""
    if offset >= WINDOW:
        return None
    cursor = _Cursor(
        generation=_name(generation), request=_digest(request), offset=offset
    ).to_json()
    return base64.urlsafe_b64encode(cursor).decode().rstrip("=")


def offset_of(request: SearchRequest, generation: Generation) -> int:
    """The rank, from 0, at which the page that a request asks for begins.

    Raises:
        RequestError: INVALID_CURSOR if it is not ours or from another search, CURSOR_EXPIRED if
            another generation has become live.
    """
    if request.cursor is None:
        return 0
    try:
        padded = request.cursor + "=" * (-len(request.cursor) % 4)
        cursor = _Cursor.from_json(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValidationError, binascii.Error, ValueError) as error:
        raise RequestError(QueryCode.INVALID_CURSOR, "the cursor is none of ours") from error
    if cursor.request != _digest(request):
        raise RequestError(
            QueryCode.INVALID_CURSOR,
            "the cursor is another search's; only `limit` may change",
        )
    if cursor.generation != _name(generation):
        raise RequestError(
            QueryCode.CURSOR_EXPIRED, "the index has changed to another generation: search anew"
        )
    return cursor.offset


def _name(generation: Generation) -> str:
    return f"{generation.name}@{generation.created_at.isoformat()}"


def _digest(request: SearchRequest) -> str:
    """Identifies a search, whatever its page and page size."""
    same = request.model_copy(update={"cursor": None, "limit": 1})
    return hashlib.sha256(same.to_json()).hexdigest()[:16]
