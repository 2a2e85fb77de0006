"""The log as lines of JSON: to keep them elsewhere, and to make another log of them.

A line is a record: its key and value in base64, its headers and its timestamp. The lines of one key
keep their order; positions aren't kept, for a log that is made of lines is another log. The last
line says how many there are, so that one can tell whether that is all.
"""

import base64
import logging
from collections.abc import Iterable, Iterator
from functools import partial

from confluent_kafka import KafkaError, Message, Producer
from pydantic import Base64Bytes, ValidationError

from schemas import topics
from schemas.base import Contract, explain
from schemas.errors import TransientError, UsageError
from streams import kafka
from streams.settings import Settings
from streams.topic_reading import records_of

logger = logging.getLogger(__name__)

_LINGER_MS = 50
_DELIVER_S = 60.0
#: Of a record, in bytes; what the topic takes the broker knows.
_LARGEST = 2**26
_AGAIN = "Delete the topic, and begin again with a whole dump"


class LoggedRecord(Contract):
    """One line."""

    key: Base64Bytes | None = None
    value: Base64Bytes | None = None
    headers: tuple[tuple[str, Base64Bytes | None], ...] = ()
    timestamp_ms: int


class End(Contract):
    """The last line."""

    records: int


def dump(settings: Settings) -> Iterator[str]:
    """Everything in the log up to its end at the call, each partition in order.

    Headers that can't be read are left out of their line; which record's, the log tells.

    Raises as `records_of`.
    """
    count = 0
    for record in records_of(settings.kafka_connection(), settings.named(topics.UPLOADED)):
        for part, problem in record.unreadable.items():
            logger.warning(
                "the %s of %d@%d can't be read, and are left out: %s",
                *(part, record.partition, record.offset, problem),
            )
        line = LoggedRecord(
            key=_encoded(record.key),
            value=_encoded(record.value),
            headers=tuple((name, _encoded(value)) for name, value in record.headers),
            timestamp_ms=record.timestamp_ms,
        )
        yield line.to_json().decode()
        count += 1
    yield End(records=count).to_json().decode()


def _encoded(data: bytes | None) -> bytes | None:
    return None if data is None else base64.b64encode(data)


def load(settings: Settings, lines: Iterable[str]) -> int:
    """Put these lines into a log that has never held anything; how many they were.

    Each goes where its key belongs, however many partitions there are.

    Raises:
        UsageError: the log isn't new, so that older records would count as newer than its own; its
            keys' places aren't ours to know; a line is no record; or the end is missing.
        TransientError: the broker doesn't take them all.
    """
    topic, connection = settings.named(topics.UPLOADED), settings.kafka_connection()
    if settings.partitioner != "murmur2":
        raise UsageError("only a log with PIXTIDE_PARTITIONER=murmur2 can be loaded")
    client = kafka.admin(connection)
    ends = kafka.ends(client, topic, range(kafka.partitions_of(client, topic)))
    if any(ends.values()):
        raise UsageError(
            f"{topic} is not new: what is loaded now would count as newer than what it has held. "
            "Make new topics, in another PIXTIDE_NAMESPACE"
        )
    producer = kafka.producer(connection, linger_ms=_LINGER_MS, max_bytes=_LARGEST)
    failed: list[str] = []
    count, told = 0, None
    for line in lines:
        if told is not None or failed:
            break
        read = _read(count + 1, line)
        if isinstance(read, End):
            told = read.records
        else:
            _produce(producer, topic, read, failed)
            count += 1
    left = len(producer)
    while (before := left) and not failed:
        left = producer.flush(_DELIVER_S)
        if left == before:
            failed.append(f"{left} are not acknowledged")
    if failed:
        raise TransientError(f"not everything was loaded: {failed[0]}. {_AGAIN}")
    if told != count:
        raise UsageError(f"the dump breaks off after {count:,} records. {_AGAIN}")
    return count


def _read(number: int, line: str) -> LoggedRecord | End:
    try:
        if line.startswith('{"records"'):
            return End.from_json(line.encode())
        return LoggedRecord.from_json(line.encode())
    except ValidationError as error:
        problem = f"line {number} is no record of a log: {explain(error)}"
        raise UsageError(f"{problem}. {_AGAIN if number > 1 else ''}".rstrip()) from error


def _produce(producer: Producer, topic: str, record: LoggedRecord, failed: list[str]) -> None:
    send = partial(
        producer.produce,
        topic,
        record.value,
        record.key,
        headers=list(record.headers),
        timestamp=record.timestamp_ms,
        on_delivery=partial(_heard, failed),
    )
    while True:
        try:
            send()
            producer.poll(0)
            return
        except BufferError:
            producer.poll(0.1)  # the queue is full: let some go first


def _heard(failed: list[str], error: KafkaError | None, message: Message) -> None:
    if error is not None:
        key = bytes(message.key() or b"").decode(errors="replace")
        failed.append(f"{key}: {error.str()}")
