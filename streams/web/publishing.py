"""Uploads and deletes: each becomes an event in the log, and an outcome some time later.

1. receive  the form, which beyond a megabyte lies on disk; its bytes are counted beforehand
2. check    decode the picture, whatever it claims to be
3. send     queue the event; a picture that is too large for one goes to the image store first
4. confirm  wait for the delivery of this very event, in no thread
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import FailFast, Field, TypeAdapter, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pixtide.encoders.pictures.decoder_pool import DecoderPool
from pixtide.encoders.pictures.images import extension_of, sniff_content_type
from pixtide.schemas.base import Contract, explain
from pixtide.schemas.errors import PoisonError, ReasonCode, TransientError
from pixtide.schemas.identity import MAX_IMAGE_ID_BYTES
from pixtide.streams.process.signals import VitalThread
from pixtide.streams.publish.publisher import Delivered, Description, PublishedPosition, Publisher
from pixtide.streams.publish.sources import Source
from pixtide.streams.web.guard import announced
from pixtide.streams.web.lanes import Budget, Lane, busy, in_thread
from pixtide.streams.web.pictures import checked_id
from pixtide.streams.web.problems import ApiError, json_response
from pixtide.streams.web.rates import Rate, client_of
from pixtide.streams.web.shared import Lazily

logger = logging.getLogger(__name__)

PREFIX = "web/"
#: How long the page keeps an event that the broker doesn't take, and how much of them all.
DELIVER_S, QUEUE_BYTES = 10.0, 128 * 1024 * 1024
_MAX_CAPTION = 2000
_TAGS_BYTES = 64 * 1024
_TAGS = TypeAdapter(Annotated[tuple[str, ...], FailFast()])
_CHECK_SIDE = 64
_POLL_S = 0.1
#: How much later than the producer gives up the page does.
_SPARE_S = 3.0


class Accepted(Contract):
    """An event is in the log; its outcome has these coordinates or later ones of the same id."""

    image_id: str
    partition: int
    offset: int = Field(ge=0)


class UploadLanes:
    """How many uploads are worked on at once, and how many bytes of them there may be.

    `uploads` is for who holds a whole picture in memory, `deletes` for who doesn't, and `checks`
    for the decoders of uploads.
    """

    def __init__(self, decoders: int, upload_bytes: int, patience_s: float = 60.0) -> None:
        self.received = Budget("uploads", 4 * upload_bytes)
        self.uploads = Lane("uploads", 4, waiting=64, patience_s=patience_s)
        self.checks = Lane("checks of uploads", decoders, waiting=16, patience_s=patience_s)
        self.deletes = Lane("deletes", 4, waiting=64, patience_s=patience_s)


class Publishing:
    """Takes pictures and deletes; connects to the broker when first needed."""

    def __init__(
        self,
        publisher: Callable[[], Publisher],
        decoders: DecoderPool,
        rate: Rate,
        lanes: UploadLanes,
        *,
        max_bytes: int,
        read_only: bool,
    ) -> None:
        self._publisher = Lazily(publisher, patience_s=DELIVER_S)
        self._decoders = decoders
        self._rate = rate
        self._lanes = lanes
        self._max_bytes = max_bytes
        self._read_only = read_only
        self._ending = threading.Event()
        self._poller = VitalThread(self._poll, "deliveries")

    def start(self) -> None:
        """Begin to hear of deliveries."""
        self._poller.start()

    def close(self) -> None:
        """Stop hearing of them."""
        self._ending.set()

    def routes(self) -> list[Route]:
        """What this serves; ids have slashes, so these stand before what takes any path."""
        return [
            Route("/api/images", self._upload, methods=["POST"]),
            Route("/api/images/{image_id:path}", self._delete, methods=["DELETE"]),
        ]

    async def _upload(self, request: Request) -> Response:
        self._may_change(request)
        client = client_of(request)
        size = announced(request.headers, self._max_bytes)
        with contextlib.ExitStack() as held:
            held.callback(self._lanes.received.take(client, size))
            async with _form(request) as form:
                file, image_id = self._picture(form)
                description = _described(form)
                send = partial(self._checked, client, file, image_id, description)
                queued = await self._lanes.uploads.run(client, send)
        return await _confirmed(queued)

    async def _delete(self, request: Request) -> Response:
        self._may_change(request)
        image_id = checked_id(request.path_params["image_id"])
        client = client_of(request)

        async def send() -> "asyncio.Future[PublishedPosition]":
            return await self._queued(lambda to, told: to.delete(image_id, delivered=told))

        return await _confirmed(await self._lanes.deletes.run(client, send))

    def _may_change(self, request: Request) -> None:
        if self._read_only:
            raise ApiError(403, "READ_ONLY", "this page only searches (PIXTIDE_WEB_READ_ONLY)")
        self._rate.spend(request)

    def _picture(self, form: FormData) -> tuple[UploadFile, str]:
        file = form.get("picture")
        if not isinstance(file, UploadFile):
            raise ApiError(400, "NO_PICTURE", "the form's field `picture` must be a file")
        if (file.size or 0) > self._max_bytes:
            raise PoisonError(
                ReasonCode.TOO_LARGE, f"a picture has at most {self._max_bytes} bytes here"
            )
        image_id = PREFIX + file_name(file.filename or "")
        if len(image_id.encode()) > MAX_IMAGE_ID_BYTES:
            raise ApiError(400, "INVALID_ID", "the file's name is too long")
        return file, image_id

    async def _checked(
        self, client: str, file: UploadFile, image_id: str, description: Description
    ) -> "asyncio.Future[PublishedPosition]":
        """Decode it, as an ingest worker would, and queue its event. Raises PoisonError."""
        data = await in_thread(file.file.read)
        check = partial(self._decoders.thumbnail, data, _CHECK_SIDE)
        await self._lanes.checks.call(client, check)
        named = Path(f"picture.{extension_of(sniff_content_type(data) or '')}")
        source = Source(image_id, named, data)
        return await self._queued(
            lambda to, told: to.upload(source, description, inline=True, delivered=told)
        )

    async def _queued(
        self, send: Callable[[Publisher, Delivered], None]
    ) -> "asyncio.Future[PublishedPosition]":
        """The place in the log that this event will have; its delivery alone decides it."""
        loop = asyncio.get_running_loop()
        place: asyncio.Future[PublishedPosition] = loop.create_future()

        def told(what: PublishedPosition | TransientError) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(_settle, place, what)

        def queue() -> None:
            send(self._publisher.get(), told)

        await in_thread(queue)
        return place

    def _poll(self) -> None:
        """Hear of deliveries while there is a publisher; a broken one must not end this."""
        while not self._ending.is_set():
            publisher = self._publisher.peek()
            if publisher is None:
                self._ending.wait(_POLL_S)
                continue
            try:
                publisher.poll(_POLL_S)
            except Exception:
                logger.exception("deliveries can't be heard of")
                self._ending.wait(_POLL_S)


async def _confirmed(queued: "asyncio.Future[PublishedPosition]") -> Response:
    """The answer, once this event is in the log. Raises ApiError 503: nobody says that it is."""
    done, _ = await asyncio.wait({queued}, timeout=DELIVER_S + _SPARE_S)
    try:
        if not done:
            raise TransientError("the broker says nothing of it")
        return json_response(_accepted(queued.result()), 202)
    except TransientError as error:
        logger.warning("an event is not acknowledged: %s", error)
        raise ApiError(
            503,
            "NOT_ACKNOWLEDGED",
            "the broker has not acknowledged it, and it may be in the log or not: send it again",
            {"retry-after": "5"},
        ) from error


def _settle(
    place: "asyncio.Future[PublishedPosition]", what: PublishedPosition | TransientError
) -> None:
    if place.done():
        return
    if isinstance(what, PublishedPosition):
        place.set_result(what)
    else:
        place.set_exception(what)


@contextlib.asynccontextmanager
async def _form(request: Request) -> AsyncIterator[FormData]:
    """The form that was sent. Raises ApiError 400, whatever is wrong with it."""
    kind, _ = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        raise ApiError(400, "MALFORMED_REQUEST", "an upload is multipart/form-data")
    try:
        form = await request.form(max_files=1, max_fields=4, max_part_size=_TAGS_BYTES)
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        # what the parsers raise for headers and character sets that nobody sends by mistake
        raise ApiError(400, "MALFORMED_REQUEST", "the form can't be read") from error
    except OSError as error:
        logger.error("an upload can't be kept: %s", error)
        raise busy("there is no room for uploads now", retry_after_s=30) from error
    try:
        yield form
    finally:
        await form.close()


def file_name(name: str) -> str:
    """The last part of a file's name as a browser sent it, without what can't be seen.

    Raises:
        ApiError: nothing is left of it.
    """
    last = name.replace("\\", "/").rpartition("/")[2]
    visible = "".join(char for char in last if char.isprintable() and _is_text(char)).strip()
    if visible.strip(".") == "":
        raise ApiError(400, "NO_NAME", "the file needs a name")
    return visible


def _is_text(text: str) -> bool:
    """Whether it can be written: a form may name a character set that makes half a character."""
    try:
        text.encode()
    except UnicodeError:
        return False
    return True


def _described(form: FormData) -> Description:
    caption, tags = form.get("caption", ""), form.get("tags", "[]")
    if (
        not isinstance(caption, str)
        or not isinstance(tags, str)
        or len(caption) > _MAX_CAPTION
        or not _is_text(caption)
        or not _is_text(tags)
    ):
        raise ApiError(
            400, "INVALID_DATA", f"caption is a text of up to {_MAX_CAPTION}, tags a JSON array"
        )
    try:
        return Description(caption=caption, tags=_TAGS.validate_json(tags))
    except ValidationError as error:
        raise ApiError(400, "INVALID_DATA", f"tags: {explain(error)}") from error


def _accepted(position: PublishedPosition) -> Accepted:
    return Accepted(
        image_id=position.image_id, partition=position.partition, offset=position.offset
    )
