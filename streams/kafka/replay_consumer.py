"""A consumer that returns chosen records of the log, and then no more."""

from collections.abc import Callable, Iterator
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from pixtide.streams.kafka.acls import NO_GROUP
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.kafka.unreadable_batch import is_unreadable, offset_after

#: To reach a record at most this far ahead, read on instead of asking the broker to seek.
_NEAR = 1_000


class ReplayConsumer(Consumer):
    """Gives an ingest worker chosen records of the log, and then no more.

    It joins no group and commits nothing: the generation's own workers keep running.

    Args:
        places: partition and offset of each record, sorted; a record that compaction has removed
            meanwhile is left out.
        on_end: called when all have been returned.
    """

    def __init__(
        self,
        config: dict[str, Any],
        connection: KafkaConnection,
        topic: str,
        places: Iterator[tuple[int, int]],
        on_end: Callable[[], None],
    ) -> None:
        super().__init__({**config, "group.id": NO_GROUP, "enable.partition.eof": True})
        self._connection = connection
        self._topic = topic
        self._places = places
        self._on_end = on_end
        self._wanted: tuple[int, int] | None = None
        self._next = (-1, 0)

    def subscribe(self, *_: object, **__: object) -> None:
        """Begin with the first record."""
        self._wanted = next(self._places, None)
        self._go_to_wanted()

    def poll(self, timeout: float = -1) -> Message | None:
        """The next of the records; None if it isn't here yet or there are no more."""
        message = super().poll(timeout)
        if message is None or self._wanted is None:
            return None
        error = message.error()
        place = (message.partition() or 0, message.offset() or 0)
        if is_unreadable(error):  # nobody knows its keys, so none of its records is wanted
            self._pass_to((place[0], offset_after(self._connection, self._topic, *place)))
            self._next = (-1, 0)  # not here, where that batch would come again
            self._go_to_wanted()
            return None
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            return message
        self._pass_to(place)
        is_wanted = error is None and self._wanted == place
        if is_wanted:
            self._wanted = next(self._places, None)
        self._next = (place[0], place[1] + (error is None))
        self._go_to_wanted()
        return message if is_wanted else None

    def commit(self, *_: object, **__: object) -> None:  # type: ignore[override]
        """Do nothing: these records are committed already."""

    def _pass_to(self, place: tuple[int, int]) -> None:
        while self._wanted is not None and self._wanted < place:
            self._wanted = next(self._places, None)

    def _go_to_wanted(self) -> None:
        if self._wanted is None:
            self.unassign()
            self._on_end()
            return
        partition, offset = self._wanted
        if not (partition == self._next[0] and 0 <= offset - self._next[1] < _NEAR):
            self.assign([TopicPartition(self._topic, partition, offset)])
            self._next = (partition, offset)
