"""What a consumed record says, for all who read the log as the ingest path does."""

from pixtide.schemas.codec import decode_event
from pixtide.schemas.errors import PoisonError, ReasonCode
from pixtide.schemas.events import ImageEvent
from pixtide.streams.kafka.records import Record


def event_of(record: Record, timestamp_ms: int) -> ImageEvent:
    """Its event. A null value is a delete, also where the headers can't be read.

    Raises:
        PoisonError: with the code that says what is wrong.
    """
    needed = {"key", "value"} if record.value is None else {"key", "value", "headers"}
    for part, problem in record.unreadable.items():
        if part in needed:
            raise PoisonError(
                ReasonCode.UNREADABLE_RECORD, f"the record's {part} can't be read: {problem}"
            )
    return decode_event(record.key, record.value, record.headers, timestamp_ms)
