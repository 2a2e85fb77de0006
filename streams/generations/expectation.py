"""What a record of the log requires of the index."""

from pixtide.schemas.codec import image_id_of
from pixtide.schemas.errors import PoisonError
from pixtide.schemas.events import ImageUploaded, PictureAt
from pixtide.schemas.identity import Partitioner, Version, partition_of
from pixtide.search.generations import LogIdentity
from pixtide.search.port import RowState
from pixtide.streams.generations.comparison_store import Expected
from pixtide.streams.kafka.record_event import event_of
from pixtide.streams.kafka.records import Record


def expected_row(record: Record, log: LogIdentity, partitioner: Partitioner) -> Expected | None:
    """The row that it requires, read as the ingest path reads it; None if it requires none."""
    version = Version(log.epoch, record.partition, record.offset)
    try:
        image_id = image_id_of(record.key)
    except PoisonError:
        return None
    if partition_of(record.key or b"", log.partitions, partitioner) not in (None, record.partition):
        return None
    try:
        event = event_of(record, record.timestamp_ms)
    except PoisonError:
        return Expected(image_id, version, RowState.DEAD_LETTERED)
    if isinstance(event, ImageUploaded):
        uri = event.picture.uri if isinstance(event.picture, PictureAt) else ""
        return Expected(image_id, version, RowState.LIVE, event.sha256 or "", uri)
    return Expected(image_id, version, RowState.DELETED)
