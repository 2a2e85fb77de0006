"""Publishes pictures: each sent inline, by its path, or through our store."""

import hashlib
import mimetypes
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, Message, Producer
from pydantic import JsonValue

from pixtide.schemas import topics
from pixtide.schemas.codec import encode_event
from pixtide.schemas.errors import PixtideError, TransientError
from pixtide.schemas.events import ImageUploaded, InlinePicture, PictureAt
from pixtide.schemas.identity import MAX_IMAGE_ID_BYTES
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.originals.store import ImageStore
from pixtide.streams.process.tracing import Span, begin
from pixtide.streams.publish.sources import Source
from pixtide.streams.settings import Settings

SOURCE = "/pixtide/publish"

_DELIVER_S = 30.0


@dataclass(frozen=True)
class Description:
    """The metadata of a picture."""

    caption: str = ""
    tags: tuple[str, ...] = ()
    attributes: Mapping[str, JsonValue] | None = None


@dataclass(frozen=True)
class PublishedPosition:
    """The position of a published record in the log."""

    image_id: str
    partition: int
    offset: int


class NoImageIdError(PixtideError):
    """One file or URL can't be published: its name can't be an image id."""


def image_key(image_id: str) -> bytes:
    """The key of a picture's records. Raises NoImageIdError if this can't be an image id."""
    try:
        key = image_id.encode()
    except UnicodeEncodeError as error:  # bytes of a file's name that are not UTF-8
        raise NoImageIdError("its name is not UTF-8: rename it") from error
    if not 0 < len(key) <= MAX_IMAGE_ID_BYTES:
        raise NoImageIdError(
            f"its image id would have {len(key)} bytes; the limit is {MAX_IMAGE_ID_BYTES}: "
            "publish the folder that it is in"
        )
    return key


#: Called with the position of one record, or with the error that kept it out of the log.
Delivered = Callable[["PublishedPosition | TransientError"], None]


class Publisher:
    """Sends upload and delete events; `flush` returns once all are acknowledged.

    With `delivered`, each event is reported on its own, and doesn't appear in `flush` or
    `positions`. Then threads may share a publisher, and one of them calls `poll`.
    """

    def __init__(self, settings: Settings, **producer: Any) -> None:
        """Connect; `producer` is additional configuration, in librdkafka's names.

        Raises:
            TransientError: the broker can't be reached.
            UsageError: the topic is missing, or Kafka refuses the login or the access.
        """
        connection = settings.kafka_connection()
        self._topic = settings.named(topics.UPLOADED)
        self._inline_limit = settings.inline_limit
        self._roots = settings.roots
        self._store_url = settings.image_store_url
        self._store: ImageStore | None = None
        self._producer: Producer = kafka_clients.producer(
            connection, linger_ms=5, partitioner=settings.partitioner, **producer
        )
        self._failed: list[str] = []
        self.positions: list[PublishedPosition] = []
        kafka_topics.partitions_of(kafka_clients.admin(connection), self._topic)

    def upload(
        self,
        source: Source,
        description: Description,
        *,
        inline: bool = False,
        delivered: Delivered | None = None,
    ) -> None:
        """Queue one upload.

        Raises:
            NoImageIdError: its id can't be an image id.
            OSError: the file can't be read.
            TransientError: the image store can't be reached, or too much waits for the broker.
        """
        image_key(source.image_id)
        picture, sha256 = self._picture(source, inline=inline)
        event = ImageUploaded(
            image_id=source.image_id,
            event_id=str(uuid.uuid4()),
            source=SOURCE,
            uploaded_at=datetime.now(UTC),
            picture=picture,
            caption=description.caption,
            tags=description.tags,
            attributes=dict(description.attributes or {}),
            sha256=sha256,
        )
        key, value, headers = encode_event(event)
        self._produce(key, value, headers, delivered)

    def delete(self, image_id: str, *, delivered: Delivered | None = None) -> None:
        """Queue one delete: a null value.

        Raises:
            NoImageIdError: that can't be an image id.
            TransientError: too much waits for the broker.
        """
        self._produce(image_key(image_id), None, [], delivered)

    def poll(self, wait_s: float) -> None:
        """Handle delivery reports, for at most so long."""
        self._producer.poll(wait_s)

    def flush(self) -> None:
        """Wait for the acknowledgements. Raises TransientError if one is missing."""
        left = self._producer.flush(_DELIVER_S)
        failed, self._failed = self._failed, []
        if failed or left:
            why = failed[0] if failed else f"{left} events are not acknowledged"
            raise TransientError(f"not everything was published: {why}")

    def _picture(
        self, source: Source, *, inline: bool
    ) -> tuple[InlinePicture | PictureAt, str | None]:
        if isinstance(source.at, str):
            return PictureAt(uri=source.at), None
        path, data = source.at, source.data
        if data is None:
            if not inline and any(path.is_relative_to(root) for root in self._roots):
                return PictureAt(uri=path.as_uri()), None
            data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        if inline and len(data) <= self._inline_limit:
            content_type = mimetypes.guess_type(path.name)[0]
            return InlinePicture(data=data, content_type=content_type), sha256
        if self._store is None:
            self._store = ImageStore(self._store_url)
        extension = path.suffix.lower().lstrip(".") or "bin"
        return PictureAt(uri=self._store.put(source.image_id, data, extension)), sha256

    def _produce(
        self,
        key: bytes,
        value: bytes | None,
        headers: list[tuple[str, bytes]],
        delivered: Delivered | None,
    ) -> None:
        about = {"messaging.system": "kafka", "messaging.destination.name": self._topic}
        span = begin(f"publish {self._topic}", "producer", None, about)
        deadline = time.monotonic() + _DELIVER_S
        while True:
            try:
                self._producer.produce(
                    self._topic,
                    value,
                    key,
                    headers=headers + span.headers(),  # type: ignore[arg-type]  # the stub wants str | bytes
                    on_delivery=partial(self._delivered, span, delivered or self._noted),
                )
                self._producer.poll(0)
                return
            except BufferError as error:
                if time.monotonic() > deadline:
                    raise TransientError("too many events wait for the broker") from error
                self._producer.poll(0.1)  # the queue is full: let some go first

    def _delivered(
        self, span: Span, tell: Delivered, error: KafkaError | None, message: Message
    ) -> None:
        key = bytes(message.key() or b"").decode(errors="replace")
        span.end(error=error.str() if error else None, image_id=key)
        if error is not None:
            tell(TransientError(f"{key}: {error.str()}"))
        else:
            tell(PublishedPosition(key, message.partition() or 0, message.offset() or 0))

    def _noted(self, what: "PublishedPosition | TransientError") -> None:
        if isinstance(what, TransientError):
            self._failed.append(str(what))
        else:
            self.positions.append(what)
