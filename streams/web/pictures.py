"""Pictures that are indexed: their rows, thumbnails of them, and their originals.

An id never becomes a path here: thumbnails are kept under names made of digests, and an original
is asked for by the address that its row has. What is no live row has no picture.
"""

import asyncio
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from encoders.images import extension_of, sniff_content_type
from schemas.base import Contract
from schemas.errors import PoisonError, ReasonCode
from schemas.events import PictureAt
from schemas.identity import MAX_IMAGE_ID_BYTES
from search.generations import Generation
from search.port import RowState, StoredImage
from streams.fetch import Fetcher, OriginalGoneError
from streams.web.guard import PICTURE_POLICY
from streams.web.live_index import LiveIndex
from streams.web.problems import ApiError, json_response
from streams.web.thumbnails import Thumbnails

#: Longest side of a thumbnail in pixels; a free choice would let anyone fill the cache.
SIDES = (400, 800, 1600)
#: Thumbnails that may wait to be made; more are refused, retryably.
_WAITING = 256
_FOR_EVER = "private, max-age=31536000, immutable"
_ASK_AGAIN = "private, no-cache"


class ImageView(Contract):
    """What the index knows of one picture, and where in the log that stands."""

    image_id: str
    state: RowState
    uri: str
    sha256: str
    width: int
    height: int
    format: str
    bytes: int
    caption: str
    tags: tuple[str, ...]
    attributes: dict[str, JsonValue]
    uploaded_at: datetime | None
    reason: ReasonCode | None
    generation: str
    model: str
    topic: str
    epoch: int
    partition: int
    offset: int

    @classmethod
    def of(cls, row: StoredImage, generation: Generation) -> "ImageView":
        """A row as the API tells it."""
        fields: dict[str, Any] = {name: getattr(row, name) for name in _ROW_FIELDS}
        return cls(
            **fields,
            **row.version._asdict(),
            generation=generation.name,
            model=generation.model,
            topic=generation.log.topic,
        )


_ROW_FIELDS = (
    *("image_id", "state", "uri", "sha256", "width", "height", "format", "bytes", "caption"),
    *("tags", "attributes", "uploaded_at", "reason"),
)


def original_of(row: StoredImage, fetcher: Fetcher) -> bytes:
    """The very bytes that were indexed.

    Raises:
        ApiError: they are gone, or something else lies there now.
        TransientError: the image store is unwell.
    """
    try:
        data = fetcher.fetch(PictureAt(uri=row.uri))
    except (PoisonError, OriginalGoneError) as error:
        raise ApiError(404, "ORIGINAL_GONE", "the original can't be had any more") from error
    if hashlib.sha256(data).hexdigest() != row.sha256:
        raise ApiError(404, "ORIGINAL_CHANGED", "the original is another picture by now")
    return data


class Pictures:
    """What the API serves of indexed pictures."""

    def __init__(self, index: LiveIndex, fetcher: Fetcher, thumbnails: Thumbnails) -> None:
        self._index = index
        self._fetcher = fetcher
        self._thumbnails = thumbnails
        # apart from other work: pictures that are slow to come must not hold up the rest
        self._makers = ThreadPoolExecutor(4, thread_name_prefix="thumbnail")
        self._waiting = 0

    def routes(self) -> list[Route]:
        """What this serves."""
        return [
            Route("/api/images/{image_id:path}", self._image, methods=["GET"]),
            Route("/thumbnails/{image_id:path}", self._thumbnail, methods=["GET"]),
            Route("/originals/{image_id:path}", self._original, methods=["GET"]),
        ]

    def close(self) -> None:
        """Stop making thumbnails."""
        self._makers.shutdown(wait=False, cancel_futures=True)

    async def _image(self, request: Request) -> Response:
        image_id = checked_id(request.path_params["image_id"])
        row = await asyncio.to_thread(self._index.row, image_id)
        if row is None:
            raise _unknown(image_id)
        generation, _ = await asyncio.to_thread(self._index.current)
        return json_response(ImageView.of(row, generation))

    async def _thumbnail(self, request: Request) -> Response:
        side = request.query_params.get("side", str(SIDES[0]))
        if side not in map(str, SIDES):
            raise ApiError(400, "INVALID_SIDE", f"side is one of {', '.join(map(str, SIDES))}")
        row = await self._live_row(request)
        headers = _caching(request, row, side)
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        thumbnail = await self._made(self._thumbnails.get, row, int(side))
        return Response(thumbnail, headers=headers, media_type="image/jpeg")

    async def _original(self, request: Request) -> Response:
        row = await self._live_row(request)
        headers = _caching(request, row, "original")
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        data = await self._made(original_of, row, self._fetcher)
        kind = sniff_content_type(data) or "application/octet-stream"
        name = Path(row.image_id).stem or "picture"
        file_name = quote(f"{name}.{extension_of(kind)}", safe="")
        headers["content-disposition"] = f"inline; filename*=UTF-8''{file_name}"
        return Response(data, headers=headers, media_type=kind)

    async def _live_row(self, request: Request) -> StoredImage:
        image_id = checked_id(request.path_params["image_id"])
        row = await asyncio.to_thread(self._index.row, image_id)
        if row is None or row.state is not RowState.LIVE:
            raise _unknown(image_id)
        return row

    async def _made(self, make: Callable[..., bytes], *arguments: Any) -> bytes:
        if self._waiting >= _WAITING:
            raise ApiError(503, "BUSY", "too many pictures are asked for", {"retry-after": "1"})
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._makers, make, *arguments)
        finally:
            self._waiting -= 1


def checked_id(image_id: str) -> str:
    """An image id that may be one. Raises ApiError 400."""
    if not 0 < len(image_id.encode(errors="replace")) <= MAX_IMAGE_ID_BYTES:
        raise ApiError(400, "INVALID_ID", f"an image id has 1 to {MAX_IMAGE_ID_BYTES} bytes")
    return image_id


def _unknown(image_id: str) -> ApiError:
    return ApiError(404, "UNKNOWN_IMAGE", f"{image_id!r} is not in the index")


def _caching(request: Request, row: StoredImage, what: str) -> dict[str, str]:
    """Who asks for the version by its digest may keep the answer; others ask each time."""
    asked = request.query_params.get("sha256")
    return {
        "etag": f'"{row.sha256}-{what}"',
        "cache-control": _FOR_EVER if asked == row.sha256 else _ASK_AGAIN,
        "content-security-policy": PICTURE_POLICY,
    }
