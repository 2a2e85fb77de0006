"""Pictures that are indexed: their rows, thumbnails of them, and their originals.

An id never becomes a path here: thumbnails are kept under names made of digests, and an original
is asked for by the address that its row has. What is no live row has no picture.
"""

import hashlib
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pixtide.encoders.pictures.decoder_pool import DecoderPool
from pixtide.encoders.pictures.images import extension_of, sniff_content_type
from pixtide.schemas.base import Contract
from pixtide.schemas.errors import PoisonError, ReasonCode
from pixtide.schemas.events import PictureAt
from pixtide.schemas.identity import MAX_IMAGE_ID_BYTES
from pixtide.search.generations import Generation
from pixtide.search.port import RowState, StoredImage
from pixtide.streams.originals.fetcher import Fetcher, OriginalGoneError
from pixtide.streams.web.guard import PICTURE_POLICY
from pixtide.streams.web.lanes import Budget, Lane, in_thread
from pixtide.streams.web.live_index import LiveIndex
from pixtide.streams.web.problems import ApiError, json_response
from pixtide.streams.web.rates import client_of
from pixtide.streams.web.thumbnails import Thumbnails

#: Longest side of a thumbnail in pixels; a free choice would let anyone fill the cache.
SIDES = (400, 800, 1600)
#: Bytes of an original that are sent at once, so that a slow reader holds up nobody.
_PIECE = 64 * 1024
#: What a browser shows by itself; anything else is only ever saved.
_SHOWN = frozenset(
    {"image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff"}
    | {"image/heic", "image/heif", "image/avif"}
)
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
    uploaded_at: datetime | None = None
    reason: ReasonCode | None = None
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


class PictureLanes:
    """What slow work there is with pictures: how much of each at once, and how much may wait.

    `rows` are looked up in the index; `pictures` are fetched, sent or decoded, and held in memory
    meanwhile; `decoding` is for who has a picture and needs one of the decoders.
    """

    def __init__(self, decoders: int, original_bytes: int, patience_s: float = 60.0) -> None:
        self.rows = Lane("looks into the index", 8, waiting=256, patience_s=min(15.0, patience_s))
        self.pictures = Lane("pictures", 4, waiting=256, patience_s=patience_s)
        self.decoding = Lane("decodings", decoders, waiting=16, patience_s=patience_s)
        self.originals = Budget("originals", original_bytes)


class Pictures:
    """What the API serves of indexed pictures."""

    def __init__(
        self,
        index: LiveIndex,
        fetcher: Fetcher,
        decoders: DecoderPool,
        thumbnails: Thumbnails,
        lanes: PictureLanes,
    ) -> None:
        self._index = index
        self._fetcher = fetcher
        self._decoders = decoders
        self._thumbnails = thumbnails
        self._lanes = lanes

    def routes(self) -> list[Route]:
        """What this serves."""
        return [
            Route("/api/images/{image_id:path}", self._image, methods=["GET"]),
            Route("/thumbnails/{image_id:path}", self._thumbnail, methods=["GET"]),
            Route("/originals/{image_id:path}", self._original, methods=["GET"]),
        ]

    async def _image(self, request: Request) -> Response:
        image_id = checked_id(request.path_params["image_id"])

        def known() -> ImageView | None:
            row = self._index.row(image_id)
            return None if row is None else ImageView.of(row, self._index.current()[0])

        view = await self._lanes.rows.call(client_of(request), known)
        if view is None:
            raise _unknown(image_id)
        return json_response(view)

    async def _thumbnail(self, request: Request) -> Response:
        side = request.query_params.get("side", str(SIDES[0]))
        if side not in map(str, SIDES):
            raise ApiError(400, "INVALID_SIDE", f"side is one of {', '.join(map(str, SIDES))}")
        row = await self._live_row(request)
        headers = _caching(request, row, side)
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        client = client_of(request)
        small = await self._lanes.rows.call(
            client, partial(self._thumbnails.get, row, int(side))
        ) or await self._lanes.pictures.run(client, lambda: self._made(client, row, int(side)))
        return Response(small, headers=headers, media_type="image/jpeg")

    async def _made(self, client: str, row: StoredImage, side: int) -> bytes:
        data = await in_thread(partial(original_of, row, self._fetcher))
        small = await self._lanes.decoding.call(
            client, partial(self._decoders.thumbnail, data, side)
        )
        await in_thread(partial(self._thumbnails.keep, row, side, small))
        return small

    async def _original(self, request: Request) -> Response:
        row = await self._live_row(request)
        headers = _caching(request, row, "original")
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        client = client_of(request)
        give_back = self._lanes.originals.take(client, row.bytes)
        try:
            fetch = partial(original_of, row, self._fetcher)
            data = await self._lanes.pictures.call(client, fetch)
            kind, headers["content-disposition"] = _shown_as(row, data)
        except BaseException:
            give_back()
            raise
        return _InPieces(data, headers, kind, give_back)

    async def _live_row(self, request: Request) -> StoredImage:
        image_id = checked_id(request.path_params["image_id"])
        look = partial(self._index.row, image_id)
        row = await self._lanes.rows.call(client_of(request), look)
        if row is None or row.state is not RowState.LIVE:
            raise _unknown(image_id)
        return row


class _InPieces(Response):
    """An answer sent piece by piece, as fast as its reader takes them; `over` is told the end."""

    def __init__(
        self, data: bytes, headers: dict[str, str], kind: str, over: Callable[[], None]
    ) -> None:
        super().__init__(data, headers=headers, media_type=kind)
        self._over = over

    async def __call__(
        self,
        scope: Scope,  # noqa: ARG002  # the base's signature
        receive: Receive,  # noqa: ARG002
        send: Send,
    ) -> None:
        """Send it."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            whole = memoryview(self.body)
            for start in range(0, len(whole), _PIECE):
                piece = bytes(whole[start : start + _PIECE])
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._over()


def _shown_as(row: StoredImage, data: bytes) -> tuple[str, str]:
    """Its type, by its bytes alone, and how a browser is to take it, under which name."""
    sniffed = sniff_content_type(data) or ""
    kind = sniffed if sniffed in _SHOWN else "application/octet-stream"
    how = "inline" if kind == sniffed else "attachment"
    name = Path(row.image_id).stem or "picture"
    file_name = quote(f"{name}.{extension_of(kind)}", safe="", errors="replace")
    return kind, f"{how}; filename*=UTF-8''{file_name}"


def checked_id(image_id: str) -> str:
    """An image id that may be one. Raises ApiError 400."""
    try:
        size = len(image_id.encode())
    except UnicodeError:
        size = 0  # half of a surrogate pair: no text
    if not 0 < size <= MAX_IMAGE_ID_BYTES:
        message = f"an image id has 1 to {MAX_IMAGE_ID_BYTES} bytes of UTF-8"
        raise ApiError(400, "INVALID_ID", message)
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
