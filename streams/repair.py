"""Repair: makes a generation's collection again what the log says, where a verification found not.

1. remove  rows that the log's record couldn't replace: extra ones, and those that stand at the
           record's own version or beyond it
2. replay  the log's latest records of all that differs, through an ordinary ingest worker: it
           stores the originals of inline pictures anew, too
3. rewrite the rows that searches don't find, as they are
4. look    again whether all agrees now; then let go of deletes that the log has forgotten, and of
           the originals that nothing names; values of dead letters that have expired go, too
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from pixtide.search.generations import Generation
from pixtide.search.port import VectorIndex
from pixtide.streams.kafka.acls import NO_GROUP
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.kafka.unreadable_batch import is_unreadable, offset_after
from pixtide.streams.ledger import Kind, Ledger
from pixtide.streams.process.health import Health
from pixtide.streams.settings import Settings
from pixtide.streams.verify import Verification, Verifier
from pixtide.streams.wiring.ingest import ingest_worker
from pixtide.streams.wiring.observed import Vitals

_IN_THE_WAY = (Kind.EXTRA, Kind.AHEAD, Kind.WRONG_STATE, Kind.WRONG_CONTENT)
_CHUNK = 500
#: Records up to so far on are reached by reading on, not by asking the broker anew.
_NEAR = 1_000


def repair(
    settings: Settings, generation: Generation, index: VectorIndex, verifier: Verifier
) -> Verification:
    """Mend what `verifier` has found, and verify that again. Safe to repeat.

    An original that was not sent inline can't be stored anew, and is found missing again.

    Raises as a verification and as an ingest worker do.
    """
    ledger = verifier.ledger
    if ledger.counts():
        _remove_what_is_in_the_way(index, ledger)
        _replay(settings, generation, ledger)
    verifier.rewrite()
    verifier.expire_values()
    verification = verifier.look_again()
    if verification.rows_agree:
        verification = verifier.sweep()
        while expired := ledger.expired_deletes():
            index.remove(expired)
            ledger.forget_rows(expired)
    return verification


def _remove_what_is_in_the_way(index: VectorIndex, ledger: Ledger) -> None:
    differences = ledger.differences(_IN_THE_WAY)
    while some := list(islice(differences, _CHUNK)):
        index.remove({d.image_id: d.found for d in some if d.found is not None})


def _replay(settings: Settings, generation: Generation, ledger: Ledger) -> None:
    places = (
        (difference.expected.partition, difference.expected.offset)
        for difference in ledger.differences()
        if difference.expected is not None
    )
    worker = ingest_worker(
        settings,
        generation.name,
        Vitals(Health({})),
        replay=lambda config: ReplayConsumer(
            config, settings.kafka_connection(), generation.log.topic, places, lambda: worker.stop()
        ),
    )
    worker.run()


class ReplayConsumer(Consumer):
    """Gives an ingest worker certain records of the log, and then no more.

    It joins no group and commits nothing: the generation's workers go on beside it.

    Args:
        places: partition and offset of each record, in the order of both; a record that
            compaction has removed meanwhile is left out.
        on_end: called when all have been given.
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
        """The next of the records, or None where it isn't here yet or there are no more."""
        message = super().poll(timeout)
        if message is None or self._wanted is None:
            return None
        error = message.error()
        place = (message.partition() or 0, message.offset() or 0)
        if is_unreadable(error):  # whose keys nobody knows, so that none of its records is wanted
            self._pass_to((place[0], offset_after(self._connection, self._topic, *place)))
            self._next = (-1, 0)  # not here, where it would come to that batch again
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
        """Nothing: these records are committed already."""

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
