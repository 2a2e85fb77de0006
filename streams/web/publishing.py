"""Uploads and deletes: each becomes an event in the log, and an outcome some time later."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from encoders.decoding import DecoderPool
from encoders.images import extension_of, sniff_content_type
from schemas.base import Contract, explain
from schemas.errors import PoisonError, ReasonCode
from schemas.identity import MAX_IMAGE_ID_BYTES
from streams.publish import Description, Position, Publisher, Source
from streams.web.pictures import checked_id
from streams.web.problems import ApiError, json_response
from streams.web.rates import Rate

PREFIX = "web/"
_MAX_CAPTION = 2000
_TAGS = TypeAdapter(tuple[str, ...])
_CHECK_SIDE = 64


class Accepted(Contract):
    """An event is in the log; its outcome has these coordinates or later ones of the same id."""

    image_id: str
    partition: int
    offset: int = Field(ge=0)


class Publishing:
    """Takes pictures and deletes; connects to the broker when first needed."""

    def __init__(
        self,
        publisher: Callable[[], Publisher],
        decoders: DecoderPool,
        rate: Rate,
        *,
        max_bytes: int,
        read_only: bool,
    ) -> None:
        self._make = publisher
        self._decoders = decoders
        self._rate = rate
        self._max_bytes = max_bytes
        self._read_only = read_only
        self._lock = threading.Lock()  # a publisher serves one thread at a time
        self._publisher: Publisher | None = None

    def routes(self) -> list[Route]:
        """What this serves; ids have slashes, so these stand before what takes any path."""
        return [
            Route("/api/images", self._upload, methods=["POST"]),
            Route("/api/images/{image_id:path}", self._delete, methods=["DELETE"]),
        ]

    async def _upload(self, request: Request) -> Response:
        self._may_change(request)
        async with request.form(max_files=1, max_fields=4, max_part_size=64 * 1024) as form:
            data, source_name = await self._picture(form)
            description = _described(form)
        image_id = PREFIX + source_name
        if len(image_id.encode()) > MAX_IMAGE_ID_BYTES:
            raise ApiError(400, "INVALID_ID", "the file's name is too long")
        await asyncio.to_thread(self._check_picture, data)
        position = await asyncio.to_thread(self._send_upload, image_id, data, description)
        return json_response(_accepted(position), 202)

    async def _delete(self, request: Request) -> Response:
        self._may_change(request)
        image_id = checked_id(request.path_params["image_id"])
        position = await asyncio.to_thread(self._send_delete, image_id)
        return json_response(_accepted(position), 202)

    def _may_change(self, request: Request) -> None:
        if self._read_only:
            raise ApiError(403, "READ_ONLY", "this page only searches (PIXTIDE_WEB_READ_ONLY)")
        self._rate.spend(request)

    async def _picture(self, form: FormData) -> tuple[bytes, str]:
        file = form.get("picture")
        if not isinstance(file, UploadFile):
            raise ApiError(400, "NO_PICTURE", "the form's field `picture` must be a file")
        name = file_name(file.filename or "")
        if (file.size or 0) > self._max_bytes:
            raise PoisonError(
                ReasonCode.TOO_LARGE, f"a picture has at most {self._max_bytes} bytes here"
            )
        return await file.read(), name

    def _check_picture(self, data: bytes) -> None:
        """Decode it, whatever it claims to be. Raises PoisonError, as an ingest worker would."""
        self._decoders.thumbnail(data, _CHECK_SIDE)

    def _send_upload(self, image_id: str, data: bytes, description: Description) -> Position:
        named = Path(f"picture.{extension_of(sniff_content_type(data) or '')}")
        with self._connected() as publisher:
            publisher.upload(Source(image_id, named, data), description, inline=True)
            publisher.flush()
            return publisher.positions[-1]

    def _send_delete(self, image_id: str) -> Position:
        with self._connected() as publisher:
            publisher.delete(image_id)
            publisher.flush()
            return publisher.positions[-1]

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Publisher]:
        with self._lock:
            if self._publisher is None:
                self._publisher = self._make()
            try:
                yield self._publisher
            finally:
                self._publisher.positions.clear()


def file_name(name: str) -> str:
    """The last part of a file's name as a browser sent it, without what can't be seen.

    Raises:
        ApiError: nothing is left of it.
    """
    last = name.replace("\\", "/").rpartition("/")[2]
    visible = "".join(char for char in last if char.isprintable()).strip()
    if visible.strip(".") == "":
        raise ApiError(400, "NO_NAME", "the file needs a name")
    return visible


def _described(form: FormData) -> Description:
    caption, tags = form.get("caption", ""), form.get("tags", "[]")
    if not isinstance(caption, str) or not isinstance(tags, str) or len(caption) > _MAX_CAPTION:
        raise ApiError(
            400, "INVALID_DATA", f"caption is a text of up to {_MAX_CAPTION}, tags a JSON array"
        )
    try:
        return Description(caption=caption, tags=_TAGS.validate_json(tags))
    except ValidationError as error:
        raise ApiError(400, "INVALID_DATA", f"tags: {explain(error)}") from error


def _accepted(position: Position) -> Accepted:
    return Accepted(
        image_id=position.image_id, partition=position.partition, offset=position.offset
    )
