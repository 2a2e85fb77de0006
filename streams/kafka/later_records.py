"""Whether the log has a later record of a picture."""

from collections import defaultdict
from collections.abc import Mapping

from confluent_kafka.admin import AdminClient

from pixtide.schemas.errors import FatalError
from pixtide.schemas.identity import Version
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.kafka.topic_reader import records_between

#: How many records to look ahead. Reading the log to its end again and again would cost too much.
_FAR = 1_000


class LaterRecords:
    """Looks from a record's position towards the end of the log."""

    def __init__(self, connection: KafkaConnection, client: AdminClient, topic: str) -> None:
        self._connection = connection
        self._client = client
        self._topic = topic

    def of(self, places: Mapping[str, Version]) -> set[str]:
        """The pictures for which there is, or may be, a record after that position.

        Raises:
            TransientError: the broker can't be reached.
        """
        if not places:
            return set()
        by_partition: dict[int, list[str]] = defaultdict(list)
        for image_id, version in places.items():
            by_partition[version.partition].append(image_id)
        ends = kafka_offsets.ends(self._client, self._topic, by_partition)
        first = {p: min(places[i].offset for i in ids) + 1 for p, ids in by_partition.items()}
        far = {p for p in by_partition if ends[p] - first[p] > _FAR}
        later = {image_id for p in far for image_id in by_partition[p]}
        near = {p: end for p, end in ends.items() if p not in far}
        try:
            for record in records_between(self._connection, self._topic, first, near):
                image_id = (record.key or b"").decode(errors="replace")
                if image_id in places and record.offset > places[image_id].offset:
                    later.add(image_id)
        except FatalError:  # the log guard reports it better
            return set(places)
        return later
