"""What became of an event: the outcome record, and the headers of a dead letter."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from pydantic import Field

from schemas.base import Contract
from schemas.errors import ReasonCode


class OutcomeKind(StrEnum):
    """Each event ends in exactly one of these, once per generation and source coordinates."""

    INDEXED = "indexed"
    REPLACED = "replaced"
    DELETED = "deleted"
    UNCHANGED = "unchanged"
    SUPERSEDED = "superseded"
    DEAD_LETTERED = "dead_lettered"


class Outcome(Contract):
    """A record of `images.indexed`.

    Delivered at least once: deduplicate by (generation, topic_id, partition, offset).
    """

    image_id: str
    outcome: OutcomeKind
    generation: str
    topic: str
    topic_id: str
    partition: int
    offset: int
    at: datetime
    reason: ReasonCode | None = None
    message: str | None = None
    took_ms: dict[str, float] = Field(default_factory=dict)


class SourceRecord(Contract):
    """Where a record came from."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


class DeadLetterReason(Contract):
    """Why a record was dead-lettered, and at which step."""

    code: ReasonCode
    stage: str
    exception: str
    message: str


#: Longest text put into a header, in bytes of UTF-8: nine headers of it stay well below
#: `topics.DEAD_LETTER_ROOM`.
_MAX_MESSAGE = 2048


def dead_letter_headers(
    source: SourceRecord,
    reason: DeadLetterReason,
    generation: str,
    original: Sequence[tuple[str, bytes | None]],
) -> list[tuple[str, bytes | None]]:
    """The original headers, then the reason under Kafka Connect's names and `pixtide-reason`.

    Ours stay below the room that the dead-letter topic has beyond a source record.
    """
    ours = {
        "__connect.errors.topic": source.topic,
        "__connect.errors.partition": str(source.partition),
        "__connect.errors.offset": str(source.offset),
        "__connect.errors.timestamp": str(source.timestamp_ms),
        "__connect.errors.stage": reason.stage,
        "__connect.errors.exception.class.name": reason.exception,
        "__connect.errors.exception.message": reason.message,
        "pixtide-reason": str(reason.code),
        "pixtide-generation": generation,
    }
    return [*original, *((name, _cut(text)) for name, text in ours.items())]


def _cut(text: str) -> bytes:
    return text.encode(errors="replace")[:_MAX_MESSAGE].decode(errors="ignore").encode()
