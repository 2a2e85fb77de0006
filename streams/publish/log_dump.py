"""The log as lines of JSON: to store it elsewhere, and to create another log from it.

Each line is a record: its key and value in base64, its headers and its timestamp. The lines of a
key keep their order. Offsets are not kept, since a log made from lines is another log. The last
line says how many there are, which shows whether the dump is complete.
"""

import base64
import logging
from collections.abc import Callable, Iterable, Iterator

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka.admin import AdminClient
from pydantic import Base64Bytes, ValidationError

from pixtide.schemas import topics
from pixtide.schemas.base import Contract, explain
from pixtide.schemas.errors import TransientError, UsageError
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.kafka.errors import KafkaDeniedError
from pixtide.streams.kafka.topic_reader import records_of
from pixtide.streams.settings import Settings

logger = logging.getLogger(__name__)

_LINGER_MS = 50
_DELIVER_S = 60.0
#: The largest record in bytes; only the broker knows what the topic accepts.
_LARGEST = 2**26
#: The size of batches, unless the topic accepts less.
_BATCH = 512 * 1024
_AGAIN = "Delete the topic, and begin again with a whole dump"
#: The errors of a broker or of the client for a record that it will never accept.
_REFUSED = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD)

#: Called with a line about each record that is left out.
LeaveOut = Callable[[str], None]


class LoggedRecord(Contract):
    """One line. `place` is the record's old position, `partition@offset`, for messages."""

    key: Base64Bytes | None = None
    value: Base64Bytes | None = None
    headers: tuple[tuple[str, Base64Bytes | None], ...] = ()
    timestamp_ms: int
    place: str = ""


class End(Contract):
    """The last line."""

    records: int


def dump(settings: Settings, leave_out: LeaveOut) -> Iterator[str]:
    """Everything in the log up to its end at the call, each partition in order.

    Unreadable records are left out. Unreadable headers are left out of their line, and the
    process's log says for which record.

    Raises as `records_of`.
    """
    count = 0
    for record in records_of(settings.kafka_connection(), settings.named(topics.UPLOADED)):
        place = f"{record.partition}@{record.offset}"
        if "key" in record.unreadable:
            leave_out(f"{place} can't be dumped: {record.unreadable['key']}")
            continue
        for part, problem in record.unreadable.items():
            logger.warning("the %s of %s can't be read, and are left out: %s", part, place, problem)
        line = LoggedRecord(
            key=_encoded(record.key),
            value=_encoded(record.value),
            headers=tuple((name, _encoded(value)) for name, value in record.headers),
            timestamp_ms=record.timestamp_ms,
            place=place,
        )
        yield line.to_json().decode()
        count += 1
    yield End(records=count).to_json().decode()


def _encoded(data: bytes | None) -> bytes | None:
    return None if data is None else base64.b64encode(data)


def load(settings: Settings, lines: Iterable[str], leave_out: LeaveOut) -> int:
    """Put these lines into a log that has never held anything; returns how many it accepted.

    Each record goes to the partition of its key, however many partitions there are. Records are
    compressed, so that those which came compressed fit again. A record that the topic still refuses
    is left out.

    Raises:
        UsageError: the log isn't new, so that older records would count as newer than its own; or
            it isn't known where its keys belong; or a line is no record; or the last line is
            missing.
        TransientError: the broker can't be reached, or accepts no more.
    """
    topic, connection = settings.named(topics.UPLOADED), settings.kafka_connection()
    if settings.partitioner == "unchecked":
        raise UsageError(
            "a log with PIXTIDE_PARTITIONER=unchecked can't be loaded: where its keys belong is "
            "not known"
        )
    client = kafka_clients.admin(connection)
    ends = kafka_offsets.ends(client, topic, range(kafka_topics.partitions_of(client, topic)))
    if any(ends.values()):
        raise UsageError(
            f"{topic} is not new: what is loaded now would count as newer than what it has held. "
            "Make new topics, in another PIXTIDE_NAMESPACE"
        )
    loading = _Loading(settings, topic, _batch_bytes(settings, client, topic), leave_out)
    count, told = 0, None
    for line in lines:
        if told is not None or loading.failed:
            break
        read = _read(count + 1, line)
        if isinstance(read, End):
            told = read.records
        else:
            count += 1
            loading.send(read, read.place or f"line {count}")
    loading.finish()
    if loading.failed:
        raise TransientError(f"not everything was loaded: {loading.failed}. {_AGAIN}")
    if told != count:
        raise UsageError(f"the dump breaks off after {count:,} records. {_AGAIN}")
    return count - loading.left_out


def _batch_bytes(settings: Settings, client: AdminClient, topic: str) -> int:
    """So few bytes that a batch which the topic refuses as too large is a single record."""
    if settings.embedded_log:
        return _BATCH
    try:
        takes = int(kafka_topics.topic_config(client, topic)["max.message.bytes"])
    except KafkaDeniedError:  # a publisher may write the topic, but not read its configuration
        return 1
    return max(1, min(_BATCH, takes // 2))


def _read(number: int, line: str) -> LoggedRecord | End:
    try:
        if line.startswith('{"records"'):
            return End.from_json(line.encode())
        return LoggedRecord.from_json(line.encode())
    except ValidationError as error:
        problem = f"line {number} is no record of a log: {explain(error)}"
        raise UsageError(f"{problem}. {_AGAIN if number > 1 else ''}".rstrip()) from error


class _Loading:
    """Sends records; `failed` says why no more can be sent."""

    def __init__(
        self, settings: Settings, topic: str, batch_bytes: int, leave_out: LeaveOut
    ) -> None:
        self._producer = kafka_clients.producer(
            settings.kafka_connection(),
            linger_ms=_LINGER_MS,
            max_bytes=_LARGEST,
            partitioner=settings.partitioner,
            **{"batch.size": batch_bytes, "compression.type": "zstd"},
        )
        self._topic = topic
        self._leave_out = leave_out
        self.left_out = 0
        self.failed = ""

    def send(self, record: LoggedRecord, name: str) -> None:
        """Queue a record; `name` is for messages. A record that the client refuses is left out."""
        if record.key is None:  # a compacted topic refuses a whole batch because of one
            self._refused(name, "it has no key, and so is of no picture")
            return

        def heard(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                self._heard(name, error)

        while True:
            try:
                self._producer.produce(
                    self._topic,
                    record.value,
                    record.key,
                    headers=list(record.headers),
                    timestamp=record.timestamp_ms,
                    on_delivery=heard,
                )
                self._producer.poll(0)
                return
            except BufferError:
                self._producer.poll(0.1)  # the queue is full: let some go first
            except KafkaException as error:
                self._heard(name, error.args[0])
                return

    def finish(self) -> None:
        """Wait until all are acknowledged, as long as some progress is made."""
        left = len(self._producer)
        while (before := left) and not self.failed:
            left = self._producer.flush(_DELIVER_S)
            if left == before:
                self.failed = f"{left} are not acknowledged"

    def _heard(self, name: str, error: KafkaError) -> None:
        if error.code() in _REFUSED:
            self._refused(name, error.str())
        else:
            self.failed = self.failed or f"{name}: {error.str()}"

    def _refused(self, name: str, why: str) -> None:
        self.left_out += 1
        self._leave_out(f"{name} can't be loaded: {why}")
