"""The headers of search requests and replies: where a reply goes, and until when it is wanted.

The header names are those of Spring Kafka's ReplyingKafkaTemplate (NestJS uses the same),
and those of SmallRye's KafkaRequestReply, which are answered in kind.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pixtide.schemas.errors import QueryCode, RequestError
from pixtide.schemas.trace import Trace, trace_of

REPLY_TOPIC = "kafka_replyTopic"
REPLY_PARTITION = "kafka_replyPartition"
CORRELATION_ID = "kafka_correlationId"
NEST_IS_DISPOSED = "kafka_nest-is-disposed"
DEADLINE = "pixtide-deadline"
SMALLRYE_REPLY_TOPIC = "REPLY_TOPIC"
SMALLRYE_REPLY_PARTITION = "REPLY_PARTITION"
SMALLRYE_CORRELATION_ID = "REPLY_CORRELATION_ID"

MAX_CORRELATION_ID_BYTES = 256
#: What Kafka takes as a topic's name, whatever the allow-list says.
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
#: Of what isn't allowed, so much is told.
_SHOWN = 100
#: After its record's timestamp a request without a deadline expires.
DEFAULT_DEADLINE_MS = 30_000
#: How long our clients wait by default: until others do what a broker or a consumer did that died.
CLIENT_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class ReplyAddress:
    """Where and how a request wants its reply."""

    topic: str
    partition: int | None
    correlation_id: bytes
    smallrye: bool
    trace: Trace | None = None

    def headers(self) -> list[tuple[str, bytes]]:
        """The reply's headers; the correlation id and the trace are echoed untouched."""
        traced = [self.trace.header()] if self.trace else []
        if self.smallrye:
            return [(SMALLRYE_CORRELATION_ID, self.correlation_id), *traced]
        return [(CORRELATION_ID, self.correlation_id), (NEST_IS_DISPOSED, b"\x00"), *traced]


def reply_address(headers: Sequence[tuple[str, bytes]], allowed: re.Pattern[str]) -> ReplyAddress:
    """Read where the reply goes.

    A bad correlation id is told by `check_correlation`, since such a request can still be
    answered; a reply topic that is missing or not allowed cannot.

    Raises:
        PermissionError: the reply topic is missing, unreadable or not in the allow-list.
    """
    named = dict(headers)
    smallrye = REPLY_TOPIC not in named and SMALLRYE_REPLY_TOPIC in named
    names = (
        (SMALLRYE_REPLY_TOPIC, SMALLRYE_REPLY_PARTITION, SMALLRYE_CORRELATION_ID)
        if smallrye
        else (REPLY_TOPIC, REPLY_PARTITION, CORRELATION_ID)
    )
    topic = named.get(names[0], b"").decode(errors="replace")
    if not (_TOPIC.fullmatch(topic) and allowed.fullmatch(topic)):
        raise PermissionError(f"reply topic {topic[:_SHOWN]!r} is not allowed")
    return ReplyAddress(
        topic=topic,
        partition=_partition(named.get(names[1])),
        correlation_id=named.get(names[2], b""),
        smallrye=smallrye,
        trace=trace_of(headers),
    )


def check_correlation(address: ReplyAddress) -> None:
    """Raises RequestError BAD_CORRELATION_ID for one that is missing or longer than 256 bytes."""
    size = len(address.correlation_id)
    if not 1 <= size <= MAX_CORRELATION_ID_BYTES:
        raise RequestError(
            QueryCode.BAD_CORRELATION_ID,
            f"the correlation id has {size} bytes; it needs 1 to {MAX_CORRELATION_ID_BYTES}",
        )


def check_names(headers: Sequence[tuple[str, bytes]]) -> None:
    """Raises RequestError MALFORMED_REQUEST where a header's name isn't UTF-8.

    Such names are read with `surrogateescape`, so that the request can be answered.
    """
    for name, _ in headers:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            message = "the name of a header is not UTF-8"
            raise RequestError(QueryCode.MALFORMED_REQUEST, message) from error


def deadline_ms(headers: Sequence[tuple[str, bytes]], default_ms: int) -> int:
    """When the request expires, epoch milliseconds: its header says it, or the default holds.

    Raises:
        RequestError: BAD_DEADLINE where the header is no positive whole number.
    """
    raw = dict(headers).get(DEADLINE)
    if raw is None:
        return default_ms
    if not re.fullmatch(rb"[0-9]{1,15}", raw):
        raise RequestError(
            QueryCode.BAD_DEADLINE, f"{DEADLINE} is not epoch milliseconds in ASCII digits"
        )
    return int(raw)


def _partition(raw: bytes | None) -> int | None:
    """ASCII digits as NestJS writes them, or Spring's 4 bytes big-endian."""
    if not raw:
        return None
    if re.fullmatch(rb"[0-9]{1,9}", raw):
        return int(raw)
    number = int.from_bytes(raw, "big", signed=True) if len(raw) == 4 else -1
    return number if number >= 0 else None
