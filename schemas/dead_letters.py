"""The headers of a dead letter, and of one that is tried again.

Both name the record of the log that they stand for, their *source*: a retry is applied under
its source's version, and outcomes and renewed dead letters name it, never the retry.
"""

from collections.abc import Sequence
from typing import Self

from pydantic import Field, ValidationError

from pixtide.schemas.base import Contract, explain
from pixtide.schemas.errors import PoisonError, ReasonCode
from pixtide.schemas.outcomes import DeadLetterReason

Headers = list[tuple[str, bytes | None]]

REASON = "pixtide-reason"
GENERATION = "pixtide-generation"
#: Where the value lies that the dead-letter topic refused as too large.
VALUE_URI = "pixtide-value-uri"
#: Why the record's value is nowhere. A letter without a value and without this is one of a delete.
VALUE_MISSING = "pixtide-value-missing"
STAGE = "__connect.errors.stage"
EXCEPTION = "__connect.errors.exception.class.name"
MESSAGE = "__connect.errors.exception.message"

#: The last moment that Python's calendar knows, in epoch milliseconds.
LATEST_MS = 253_402_300_799_999

_SOURCE = "pixtide-source-"
_OURS = (_SOURCE, "__connect.errors.", REASON, GENERATION, VALUE_URI, VALUE_MISSING)
#: Longest text put into a header, in bytes of UTF-8: all headers of it stay well below
#: `topics.DEAD_LETTER_ROOM`.
_MAX_TEXT = 2048


class SourceRecord(Contract):
    """Where a record came from: which log (by its topic's id), and where in it.

    `timestamp_ms` is the record's own, in epoch milliseconds. A generation knows its own epoch of
    a log by the topic id, so that none is carried along.
    """

    topic: str
    topic_id: str
    partition: int = Field(ge=0)
    offset: int = Field(ge=0)
    timestamp_ms: int = Field(ge=0, le=LATEST_MS)

    def headers(self) -> Headers:
        """The coordinates as `pixtide-source-*` headers, in ASCII but for the topic's name."""
        return [
            (_SOURCE + name.replace("_", "-"), str(value).encode())
            for name, value in self.model_dump().items()
        ]

    @classmethod
    def from_headers(cls, headers: Sequence[tuple[str, bytes | None]]) -> Self:
        """Read what `headers` wrote; of a header that occurs twice the last counts.

        Raises:
            PoisonError: INVALID_RETRY, where a coordinate is missing or can't be one.
        """
        found = {
            name.removeprefix(_SOURCE).replace("-", "_"): (value or b"").decode(errors="replace")
            for name, value in headers
            if name.startswith(_SOURCE)
        }
        try:
            return cls.model_validate(found, extra="ignore")
        except ValidationError as error:
            raise PoisonError(
                ReasonCode.INVALID_RETRY, f"{_SOURCE}* headers: {explain(error)}"
            ) from error


def dead_letter_headers(
    source: SourceRecord,
    reason: DeadLetterReason,
    generation: str,
    original: Sequence[tuple[str, bytes | None]],
) -> Headers:
    """The original headers, then the source, and the reason under Kafka Connect's names and ours.

    Ours stay below the room that the dead-letter topic has beyond a source record.
    """
    ours = {
        "__connect.errors.topic": source.topic,
        "__connect.errors.partition": str(source.partition),
        "__connect.errors.offset": str(source.offset),
        "__connect.errors.timestamp": str(source.timestamp_ms),
        STAGE: reason.stage,
        EXCEPTION: reason.exception,
        MESSAGE: reason.message,
        REASON: str(reason.code),
        GENERATION: generation,
    }
    return [
        *original_headers(original),
        *((name, _cut(text)) for name, text in ours.items()),
        *source.headers(),
    ]


def retry_headers(source: SourceRecord, letter: Sequence[tuple[str, bytes | None]]) -> Headers:
    """The headers of a letter that is tried again: the original ones and the source."""
    return [*original_headers(letter), *source.headers()]


def original_headers(headers: Sequence[tuple[str, bytes | None]]) -> Headers:
    """The headers without those that dead letters and retries add."""
    return [header for header in headers if not header[0].startswith(_OURS)]


def headers_of_ours(headers: Sequence[tuple[str, bytes | None]]) -> Headers:
    """Those headers that dead letters and retries add, and no others."""
    return [header for header in headers if header[0].startswith(_OURS)]


def _cut(text: str) -> bytes:
    return text.encode(errors="replace")[:_MAX_TEXT].decode(errors="ignore").encode()
