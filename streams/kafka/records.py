"""Consumed records, in our own type, whatever a producer has sent."""

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from confluent_kafka import Message

T = TypeVar("T")

Headers = list[tuple[str, bytes | None]]


@dataclass(frozen=True, eq=False)
class Record:
    """A consumed record. Two are equal only if they are the same object.

    `unreadable` says which parts of it can't be read, and why: for example headers with a name that
    is not UTF-8. Such a part is empty, as if it had not been sent.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    leader_epoch: int | None = None
    unreadable: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Its size in memory, approximately: payload, headers and a little overhead."""
        return (
            len(self.key or b"")
            + len(self.value or b"")
            + sum(len(name) + len(value or b"") for name, value in self.headers)
            + 512
        )

    def bounded(self, most_bytes: int) -> "Record":
        """The record without parts that are larger: nobody reads them, and their memory is freed.

        A few kilobytes may decompress to parts of any size.
        """
        sizes = {
            "key": len(self.key or b""),
            "value": len(self.value or b""),
            "headers": sum(len(name) + len(value or b"") for name, value in self.headers),
        }
        large = {
            part: f"{size} bytes; at most {most_bytes} are read"
            for part, size in sizes.items()
            if size > most_bytes
        }
        if not large:
            return self
        return replace(
            self,
            key=None if "key" in large else self.key,
            value=None if "value" in large else self.value,
            headers=[] if "headers" in large else self.headers,
            unreadable={**self.unreadable, **large},
        )


def record_of(message: Message) -> Record:
    """The record of a message without error. Never raises, whatever a producer has sent."""
    unreadable: dict[str, str] = {}

    def part(name: str, read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except Exception as error:  # noqa: BLE001  # librdkafka's binding may raise anything
            cause = error.__cause__ or error
            unreadable[name] = f"{type(cause).__name__}: {cause}"
            return otherwise

    return Record(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        timestamp_ms=part("timestamp", lambda: message.timestamp()[1], 0),
        key=part("key", lambda: _bytes(message.key()), None),
        value=part("value", lambda: _bytes(message.value()), None),
        headers=part("headers", lambda: _headers(_ask_headers(message) or []), []),
        leader_epoch=part("leader epoch", message.leader_epoch, None),
        unreadable=unreadable,
    )


#: Calls `message.headers()`, and must stay written like this. For a header name that is not UTF-8,
#: it returns a list with a hole in it and also sets an exception. When called from C, that is a
#: SystemError. When called from bytecode that Python (3.11 to 3.13) has specialised, nobody checks
#: for the exception, and the hole crashes the process. For the same reason each message is asked
#: only once.
_ask_headers: Callable[[Message], Iterable[Any] | None] = operator.methodcaller("headers")


def _headers(found: Iterable[Any]) -> Headers:
    return [(str(header[0]), _bytes(header[1])) for header in found]


def _bytes(value: object) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    return str(value).encode()
