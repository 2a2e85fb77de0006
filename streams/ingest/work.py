"""One record on its way through the ingest path, and what the steps know about it."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from pixtide.encoders.pictures.images import Picture
from pixtide.encoders.port import Pixels
from pixtide.schemas.dead_letters import SourceRecord
from pixtide.schemas.errors import PoisonError, ReasonCode, TransientError
from pixtide.schemas.events import ImageUploaded, PictureAt
from pixtide.schemas.identity import Version
from pixtide.schemas.outcomes import DeadLetterReason, OutcomeKind
from pixtide.schemas.trace import Trace, trace_of
from pixtide.search.port import RowState, StoredImage, Vector, Written
from pixtide.streams.kafka.records import Record
from pixtide.streams.originals.fetcher import Trial
from pixtide.streams.process.tracing import Span

#: The longest failure message; it may contain somebody else's text.
_MOST_CHARACTERS = 2000
#: Errors of a record that must not change its picture's row.
_NO_ROW = (ReasonCode.WRONG_PARTITION, ReasonCode.INVALID_RETRY)


@dataclass(eq=False)
class Work:
    """A record, and the row to write for it, as far as known.

    `source` is the record of the log that it stands for: itself, or for a retry the record that is
    tried again. With the generation's `epoch` it makes the version. `data` is set until `row` is.
    `twin` is set if the index has the same content already. `row` is None if the record names no
    picture of this partition, or nothing is to be written. `pixels` are set while a vector is
    needed. `reserved` is the memory reserved for it, in bytes. `passed` are older records of its
    picture. They are superseded when its row, or a newer one, is in the index; `row_stands` says
    whether it is. `strays` is true if originals of theirs may be left over. `trial` counts the
    attempts to fetch its picture. `tell` gets the failures that happen because our own store is
    away, and closing `trouble` ends that. `read_at` is by the monotonic clock, and so is `since`:
    when it last entered a step, or None while it waits for its key or its source.
    """

    record: Record
    source: SourceRecord
    epoch: int
    is_retry: bool = False
    image_id: str | None = None
    upload: ImageUploaded | None = None
    data: bytes | None = field(default=None, repr=False)
    sha256: str = ""
    twin: StoredImage | None = None
    pixels: Pixels | None = None
    row: StoredImage | None = None
    failure: DeadLetterReason | None = None
    superseded: bool = False
    row_stands: bool = False
    passed: "list[Work]" = field(default_factory=list, repr=False)
    strays: bool = False
    reserved: int = 0
    trial: Trial | None = None
    tell: Callable[[TransientError], None] | None = None
    trouble: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    span: Span | None = None
    took_ms: dict[str, float] = field(default_factory=dict)
    read_at: float = field(default_factory=time.monotonic)
    since: float | None = None

    @property
    def topic(self) -> str:
        """The topic of its record."""
        return self.record.topic

    @property
    def partition(self) -> int:
        """The partition of its record."""
        return self.record.partition

    @property
    def offset(self) -> int:
        """The offset of its record."""
        return self.record.offset

    @property
    def key(self) -> bytes | None:
        """The key of its record."""
        return self.record.key

    @property
    def size(self) -> int:
        """The bytes of its record."""
        return self.record.size

    @property
    def version(self) -> Version:
        """The version of its row: its source's place in the log."""
        return Version(self.epoch, self.source.partition, self.source.offset)

    @property
    def wants_row(self) -> bool:
        """Whether a row is to be written for it, as far as known."""
        return self.data is not None or self.row is not None

    @property
    def is_live(self) -> bool:
        """Whether its row will be live."""
        return self.row is not None and self.row.state is RowState.LIVE

    def has_content(self, stored: StoredImage | None) -> bool:
        """Whether that row has the vector of exactly this picture."""
        return stored is not None and stored.vector is not None and stored.sha256 == self.sha256

    @property
    def original(self) -> str:
        """Where the record says that its picture is stored; empty if it doesn't say."""
        picture = self.upload.picture if self.upload else None
        return picture.uri if isinstance(picture, PictureAt) else ""

    @property
    def trace(self) -> Trace | None:
        """The trace of its record; its own span in that trace, if there is one."""
        return self.span.trace if self.span else trace_of(self.record.headers)

    def names(self) -> dict[str, object]:
        """What log lines call it."""
        return {
            "image_id": self.image_id or (self.record.key or b"").decode(errors="replace"),
            "partition": self.source.partition,
            "offset": self.source.offset,
            "code": self.failure.code.value if self.failure else None,
            **(self.trace.names() if self.trace else {}),
        }

    def enter(self) -> None:
        """Note that it is in a step, or in a step's queue, from now on."""
        self.since = time.monotonic()

    def ask_delete(self, image_id: str) -> None:
        """Write a deleted row: no vector, no text."""
        self.row = StoredImage(image_id, RowState.DELETED, self.version)

    def ask_live(self, upload: ImageUploaded, seen: Picture | StoredImage, uri: str) -> None:
        """Write a live row; its vector is the twin's, or still to be computed."""
        self.row = StoredImage(
            image_id=upload.image_id,
            state=RowState.LIVE,
            version=self.version,
            uri=uri,
            sha256=self.sha256,
            width=seen.width,
            height=seen.height,
            format=seen.format,
            orientation=seen.orientation,
            bytes=len(self.data or b""),
            caption=upload.caption,
            tags=upload.tags,
            attributes=upload.attributes,
            uploaded_at=upload.uploaded_at,
        )
        self.data = None
        if isinstance(seen, Picture):
            self.pixels = seen.pixels
        elif seen.vector is not None:
            self.give_vector(seen.vector)

    def ask_same(self, row: StoredImage) -> None:
        """Write a complete row that comes from a generation of the same model."""
        self.row, self.upload = row, None

    def give_vector(self, vector: Vector) -> None:
        """Complete the row to write; drops the pixels."""
        self.pixels = None
        if self.row is not None:
            self.row = replace(self.row, vector=vector)

    def supersede(self) -> None:
        """Write nothing: a newer record of its picture exists."""
        self.superseded = True
        self.data = self.pixels = self.row = None

    def fail(self, stage: str, error: PoisonError) -> None:
        """Poison: the record becomes a dead letter, and its picture's row says so.

        A record without a picture, or in a partition that its key doesn't belong to, gets no row.
        """
        cause = type(error.__cause__ or error)
        self.failure = DeadLetterReason(
            code=error.code,
            stage=stage,
            exception=f"{cause.__module__}.{cause.__qualname__}",
            message=error.message[:_MOST_CHARACTERS].encode(errors="replace").decode(),
        )
        self.data = self.pixels = self.row = None
        if self.image_id is not None and error.code not in _NO_ROW:
            self.row = StoredImage(
                self.image_id, RowState.DEAD_LETTERED, self.version, reason=error.code
            )

    def fail_without_row(self) -> None:
        """Write no row, not even a dead-lettered one, since the index refuses both."""
        self.row = None

    def outcome(self, written: Written | None) -> OutcomeKind:
        """The outcome of the record, given the index's answer for its row."""
        if self.superseded:
            return OutcomeKind.SUPERSEDED
        if self.row is None and self.failure is not None:
            return OutcomeKind.DEAD_LETTERED
        if self.row is None or written is None or not written.applied:
            return OutcomeKind.SUPERSEDED
        if self.row.state is RowState.DEAD_LETTERED:
            return OutcomeKind.DEAD_LETTERED
        if self.row.state is RowState.DELETED:
            return OutcomeKind.DELETED
        previous = written.previous
        if previous is None or previous.state is not RowState.LIVE:
            return OutcomeKind.INDEXED
        if previous.version == self.version:
            return OutcomeKind.INDEXED  # our own write, repeated after a crash
        same = previous.sha256 == self.row.sha256
        return OutcomeKind.UNCHANGED if same else OutcomeKind.REPLACED


@contextlib.contextmanager
def timed(stage: str, *works: Work) -> Iterator[None]:
    """Note how long a stage took; records in one batch get an equal share each."""
    started = time.perf_counter()
    try:
        yield
    finally:
        took_ms = (time.perf_counter() - started) * 1000
        for work in works:
            work.took_ms[stage] = round(took_ms / len(works), 3)
