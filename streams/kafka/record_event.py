"""The event in a consumed record, for everything that reads the log as the ingest path does."""

from pixtide.schemas.codec import decode_event
from pixtide.schemas.errors import PoisonError, ReasonCode
from pixtide.schemas.events import ImageEvent
from pixtide.streams.kafka.records import Record


def event_of(record: Record, timestamp_ms: int) -> ImageEvent:
    """The record's event. A null value is a delete, even if the headers can't be read.

    Raises:
        PoisonError: with the code of the error.
    """
    needed = {"key", "value"} if record.value is None else {"key", "value", "headers"}
    for part, problem in record.unreadable.items():
        if part in needed:
            raise PoisonError(
                ReasonCode.UNREADABLE_RECORD, f"the record's {part} can't be read: {problem}"
            )
    return decode_event(record.key, record.value, record.headers, timestamp_ms)
