"""Reads a record: its source record in the log, its picture, and what to do."""

from collections.abc import Callable

from pixtide.schemas.codec import image_id_of
from pixtide.schemas.dead_letters import LATEST_MS, SourceRecord
from pixtide.schemas.errors import PoisonError, ReasonCode
from pixtide.schemas.events import ImageDeleted, ImageUploaded, PictureAt
from pixtide.schemas.identity import Partitioner, partition_of
from pixtide.schemas.trace import trace_of
from pixtide.search.generations import LogIdentity
from pixtide.streams.ingest.retry import Retry
from pixtide.streams.ingest.unexpected import is_unexpected
from pixtide.streams.ingest.work import Work
from pixtide.streams.kafka.clients import LIBRDKAFKA_PARTITIONERS
from pixtide.streams.kafka.log_guard import LogGuard
from pixtide.streams.kafka.record_event import event_of
from pixtide.streams.kafka.records import Record
from pixtide.streams.process.tracing import begin


class RecordReader:
    """Reads records of the log and of the retry topic. Safe to share between threads."""

    def __init__(
        self, guard: LogGuard, retries: LogIdentity, partitioner: Partitioner, patiently: Retry
    ) -> None:
        self._guard = guard
        self._log = guard.log
        self._retries = retries
        self._partitioner: Partitioner = partitioner
        self._patiently = patiently

    def begin(self, record: Record) -> Work:
        """The work for a record; until it is read, the record counts as its own source."""
        is_retry = record.topic == self._retries.topic
        place = SourceRecord(
            topic=record.topic,
            topic_id=(self._retries if is_retry else self._log).topic_id,
            partition=record.partition,
            offset=record.offset,
            timestamp_ms=min(max(record.timestamp_ms, 0), LATEST_MS),
        )
        about = {
            "messaging.system": "kafka",
            "messaging.destination.name": record.topic,
            "messaging.destination.partition.id": str(record.partition),
            "messaging.kafka.offset": record.offset,
        }
        span = begin(f"ingest {record.topic}", "consumer", trace_of(record.headers), about)
        return Work(record, place, self._log.epoch, is_retry=is_retry, span=span)

    def read(self, work: Work) -> None:
        """Find its source record, its picture, and whether it is an upload or a delete.

        Raises:
            PoisonError: with the code of the error.
            StoppedError: the worker is stopping while the broker can't be reached.
        """
        record = work.record
        if work.is_retry:
            self._trace(work)
        if "key" in record.unreadable:
            raise PoisonError(ReasonCode.UNREADABLE_RECORD, record.unreadable["key"])
        work.image_id = image_id_of(record.key)
        wanted = partition_of(record.key or b"", self._log.partitions, self._partitioner)
        if wanted not in (None, work.source.partition):
            raise PoisonError(
                ReasonCode.WRONG_PARTITION,
                f"the key belongs to partition {wanted}; set the producer's partitioner "
                f"to {self._partitioner} (in librdkafka: "
                f"{LIBRDKAFKA_PARTITIONERS[self._partitioner]})",
            )
        event = event_of(record, work.source.timestamp_ms)
        if isinstance(event, ImageDeleted):
            work.ask_delete(event.image_id)
        else:
            work.upload = event

    def names_original(self, work: Work, owns: Callable[[str], bool]) -> bool:
        """Whether it names an original for which `owns` is true; ignores errors in the record."""
        try:
            event = event_of(work.record, work.source.timestamp_ms)
        except BaseException as error:
            if not (isinstance(error, PoisonError) or is_unexpected(error)):
                raise
            return False
        picture = event.picture if isinstance(event, ImageUploaded) else None
        return isinstance(picture, PictureAt) and owns(picture.uri)

    def _trace(self, work: Work) -> None:
        source = SourceRecord.from_headers(work.record.headers)
        self._patiently("read", lambda: self._guard.check_source(source))
        if source.partition != work.partition:
            raise PoisonError(
                ReasonCode.INVALID_RETRY,
                f"it comes from partition {source.partition}, and so belongs there",
            )
        work.source = source
