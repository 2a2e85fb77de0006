"""Publishing pictures: folders walked, each picture sent inline, by its path, or by our store."""

import hashlib
import logging
import mimetypes
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from confluent_kafka import KafkaError, Message, Producer, TopicPartition
from pydantic import JsonValue, ValidationError

from pixtide.schemas import topics
from pixtide.schemas.base import explain
from pixtide.schemas.codec import encode_event
from pixtide.schemas.errors import PixtideError, TransientError, UsageError
from pixtide.schemas.events import ImageUploaded, InlinePicture, PictureAt
from pixtide.schemas.identity import MAX_IMAGE_ID_BYTES
from pixtide.schemas.outcomes import Outcome
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.kafka.topic_reader import Told, taken
from pixtide.streams.originals.store import ImageStore
from pixtide.streams.process.tracing import Span, begin
from pixtide.streams.settings import Settings

logger = logging.getLogger(__name__)

SOURCE = "/pixtide/publish"
_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
    | {".heic", ".heif", ".avif"}
)
_DELIVER_S = 30.0


@dataclass(frozen=True)
class Source:
    """One picture to publish: its id, and the file or the URL that it is.

    Where the bytes are at hand as `data`, the path is only a name that says their kind.
    """

    image_id: str
    at: Path | str
    data: bytes | None = None


@dataclass(frozen=True)
class Description:
    """What is said of a picture besides itself."""

    caption: str = ""
    tags: tuple[str, ...] = ()
    attributes: Mapping[str, JsonValue] | None = None


@dataclass(frozen=True)
class Position:
    """Where a published record came to stand in the log."""

    image_id: str
    partition: int
    offset: int


class NoImageIdError(PixtideError):
    """One file or URL can't be published: its name makes no image id."""


def image_key(image_id: str) -> bytes:
    """The key of a picture's records. Raises NoImageIdError where this can't be an image id."""
    try:
        key = image_id.encode()
    except UnicodeEncodeError as error:  # bytes of a file's name that are no UTF-8
        raise NoImageIdError("its name is not UTF-8: rename it") from error
    if not 0 < len(key) <= MAX_IMAGE_ID_BYTES:
        raise NoImageIdError(
            f"its image id would have {len(key)} bytes; the limit is {MAX_IMAGE_ID_BYTES}: "
            "publish the folder that it is in"
        )
    return key


def find_sources(names: Sequence[str], prefix: str | None) -> list[Source]:
    """The pictures that paths and URLs name; folders are walked, hidden files left out.

    A file's id is the folder's name and the path within it; `prefix` stands for the name.

    Raises:
        UsageError: a path doesn't exist, a folder holds no picture, or an id would repeat.
    """
    sources = [source for name in names for source in _sources_of(name, prefix)]
    seen: dict[str, Source] = {}
    for source in sources:
        if (other := seen.setdefault(source.image_id, source)) is not source:
            raise UsageError(
                f"{other.at} and {source.at} would both be {source.image_id}: publish them "
                "apart, each with its own --prefix"
            )
    return sources


def _sources_of(name: str, prefix: str | None) -> Iterator[Source]:
    if "://" in name:
        url = urlsplit(name)
        whole = f"{url.hostname or ''}{url.path}" + (f"?{url.query}" if url.query else "")
        yield Source(f"{prefix}/{Path(url.path).name}" if prefix else whole, name)
        return
    named = Path(name).expanduser().resolve()
    if named.is_file():
        yield Source(f"{prefix or named.parent.name}/{named.name}", named)
        return
    if not named.is_dir():
        raise UsageError(f"{name}: no such file or folder")
    found = [path for path in sorted(named.rglob("*")) if _is_picture(path, named)]
    if not found:
        raise UsageError(f"{name} holds no picture (looked for {', '.join(sorted(_SUFFIXES))})")
    for path in found:
        yield Source(f"{prefix or named.name}/{path.relative_to(named).as_posix()}", path)


def _is_picture(path: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return path.suffix.lower() in _SUFFIXES and not hidden and path.is_file()


#: Told of one record where it came to stand, or the error that kept it out of the log.
Delivered = Callable[["Position | TransientError"], None]


class Publisher:
    """Sends upload and delete events; `flush` returns once all are acknowledged.

    With `delivered` an event is followed by itself, and by no `flush` or `positions`: then
    threads may share a publisher, of which one calls `poll`.
    """

    def __init__(self, settings: Settings, **producer: Any) -> None:
        """Connect; `producer` is more of its configuration, in librdkafka's names.

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
        self.positions: list[Position] = []
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
            NoImageIdError: its id can't be one.
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
            NoImageIdError: that can't be an id.
            TransientError: too much waits for the broker.
        """
        self._produce(image_key(image_id), None, [], delivered)

    def poll(self, wait_s: float) -> None:
        """Hear of deliveries, for so long at most."""
        self._producer.poll(wait_s)

    def flush(self) -> None:
        """Wait for the acknowledgements. Raises TransientError where one is missing."""
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
            tell(Position(key, message.partition() or 0, message.offset() or 0))

    def _noted(self, what: "Position | TransientError") -> None:
        if isinstance(what, TransientError):
            self._failed.append(str(what))
        else:
            self.positions.append(what)


class OutcomeWatch:
    """Follows `images.indexed` from the moment it is made, for one generation."""

    def __init__(self, settings: Settings, generation: str) -> None:
        connection = settings.kafka_connection()
        topic = settings.named(topics.INDEXED)
        client = kafka_clients.admin(connection)
        numbers = range(kafka_topics.partitions_of(client, topic))
        ends = kafka_offsets.ends(client, topic, numbers)
        self._generation = generation
        self._connection = connection
        self._consumer = kafka_clients.tail_consumer(connection)
        self._consumer.assign([TopicPartition(topic, p, end) for p, end in ends.items()])

    def close(self) -> None:
        """Let the connection go."""
        self._consumer.close()

    def outcomes_of(self, positions: Iterable[Position], *, stalled_s: float) -> Iterator[Outcome]:
        """One outcome for each published record: at its own offset or a later one of its id.

        Raises:
            TransientError: none has come for `stalled_s` seconds.
        """
        waiting: dict[tuple[int, str], list[int]] = {}
        for position in positions:
            waiting.setdefault((position.partition, position.image_id), []).append(position.offset)
        heard = time.monotonic()
        while waiting:
            left = sum(map(len, waiting.values()))
            if time.monotonic() - heard > stalled_s:
                raise TransientError(
                    f"no outcome for {stalled_s:g} s with {left} outstanding: is an ingest "
                    f"worker of generation {self._generation} running?"
                )
            for outcome in self._new_outcomes(left):
                name = (outcome.partition, outcome.image_id)
                offsets = waiting.pop(name, [])
                if later := [offset for offset in offsets if offset > outcome.offset]:
                    waiting[name] = later
                for _ in range(len(offsets) - len(later)):
                    heard = time.monotonic()
                    yield outcome

    def _new_outcomes(self, left: int) -> Iterator[Outcome]:
        for each in taken(self._consumer, self._connection, 500, 0.1):
            if isinstance(each, Told):
                if each.error.code() == KafkaError._ALL_BROKERS_DOWN:
                    raise TransientError(
                        f"the broker went away with {left} outcomes outstanding; what was "
                        "published is in the log, and is indexed once everything runs again"
                    )
            elif each.value is not None:
                try:
                    outcome = Outcome.from_json(each.value)
                except ValidationError as wrong:  # of a later version, say, or somebody else's
                    logger.warning("an outcome is not understood: %s", explain(wrong))
                    continue
                if outcome.generation == self._generation:
                    yield outcome
