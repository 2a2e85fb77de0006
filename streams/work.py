"""One record on its way through the ingest path, and what the steps have found out about it."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from encoders.images import Picture
from schemas.errors import PoisonError, ReasonCode
from schemas.events import ImageUploaded
from schemas.identity import Version
from schemas.outcomes import DeadLetterReason, OutcomeKind
from schemas.trace import Trace, trace_of
from search.port import RowState, StoredImage, Vector, Written
from streams.kafka import Record


@dataclass(eq=False)
class Work:
    """A record, and the row that it asks for as far as that is known.

    `row` is None where the record names no picture of this partition, or nothing is to be
    written. `picture` is there while its vector is wanted.
    """

    record: Record
    version: Version
    image_id: str | None = None
    picture: Picture | None = None
    row: StoredImage | None = None
    failure: DeadLetterReason | None = None
    superseded: bool = False
    took_ms: dict[str, float] = field(default_factory=dict)

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
    def trace(self) -> Trace | None:
        """The trace that its record belongs to."""
        return trace_of(self.record.headers)

    def names(self) -> dict[str, object]:
        """What a log line calls it."""
        return {
            "image_id": self.image_id or (self.record.key or b"").decode(errors="replace"),
            "partition": self.partition,
            "offset": self.offset,
            "code": self.failure.code.value if self.failure else None,
            **(self.trace.names() if self.trace else {}),
        }

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Note how long a stage took."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.took_ms[stage] = round((time.perf_counter() - started) * 1000, 2)

    def ask_delete(self, image_id: str) -> None:
        """The row to write is a deleted one: no vector, no text."""
        self.row = StoredImage(image_id, RowState.DELETED, self.version)

    def ask_live(
        self, upload: ImageUploaded, picture: Picture, *, uri: str, sha256: str, size: int
    ) -> None:
        """The row to write is a live one; its vector is still wanted."""
        self.picture = picture
        self.row = StoredImage(
            image_id=upload.image_id,
            state=RowState.LIVE,
            version=self.version,
            uri=uri,
            sha256=sha256,
            width=picture.width,
            height=picture.height,
            format=picture.format,
            orientation=picture.orientation,
            bytes=size,
            caption=upload.caption,
            tags=upload.tags,
            attributes=upload.attributes,
            uploaded_at=upload.uploaded_at,
        )

    def give_vector(self, vector: Vector) -> None:
        """The row to write is complete; the pixels are let go."""
        self.picture = None
        if self.row is not None:
            self.row = replace(self.row, vector=vector)

    def fail(self, stage: str, error: PoisonError) -> None:
        """Poison: the record becomes a dead letter, and its picture's row says so.

        A record of no picture, or in a partition that its key doesn't belong to, has no row.
        """
        cause = type(error.__cause__ or error)
        self.failure = DeadLetterReason(
            code=error.code,
            stage=stage,
            exception=f"{cause.__module__}.{cause.__qualname__}",
            message=error.message,
        )
        self.picture = self.row = None
        if self.image_id is not None and error.code is not ReasonCode.WRONG_PARTITION:
            self.row = StoredImage(
                self.image_id, RowState.DEAD_LETTERED, self.version, reason=error.code
            )

    def outcome(self, written: Written | None) -> OutcomeKind:
        """What became of the record, given what the index said of its row."""
        if self.row is None and self.failure is not None:
            return OutcomeKind.DEAD_LETTERED
        if self.superseded or self.row is None or written is None or not written.applied:
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
