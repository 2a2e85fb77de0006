"""Waits for the outcomes of published records."""

import logging
import time
from collections.abc import Iterable, Iterator

from confluent_kafka import KafkaError, TopicPartition
from pydantic import ValidationError

from pixtide.schemas import topics
from pixtide.schemas.base import explain
from pixtide.schemas.errors import TransientError
from pixtide.schemas.outcomes import Outcome
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.kafka.topic_reader import Told, taken
from pixtide.streams.publish.publisher import PublishedPosition
from pixtide.streams.settings import Settings

logger = logging.getLogger(__name__)


class OutcomeWatch:
    """Follows `images.indexed` from its creation on, for one generation."""

    def __init__(self, settings: Settings, generation: str) -> None:
        connection = settings.kafka_connection()
        topic = settings.named(topics.INDEXED)
        client = kafka_clients.admin(connection)
        numbers = range(kafka_topics.partitions_of(client, topic))
        ends = kafka_offsets.ends(client, topic, numbers)
        self._generation = generation
        self._connection = connection
        self._consumer = kafka_clients.tail_consumer(connection)
        self._consumer.assign([TopicPartition(topic, p, end) for p, end in ends.items()])

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()

    def outcomes_of(
        self, positions: Iterable[PublishedPosition], *, stalled_s: float
    ) -> Iterator[Outcome]:
        """One outcome for each published record: at its own offset or a later one of its id.

        Raises:
            TransientError: none has come for `stalled_s` seconds.
        """
        waiting: dict[tuple[int, str], list[int]] = {}
        for position in positions:
            waiting.setdefault((position.partition, position.image_id), []).append(position.offset)
        heard = time.monotonic()
        while waiting:
            left = sum(map(len, waiting.values()))
            if time.monotonic() - heard > stalled_s:
                raise TransientError(
                    f"no outcome for {stalled_s:g} s with {left} outstanding: is an ingest "
                    f"worker of generation {self._generation} running?"
                )
            for outcome in self._new_outcomes(left):
                name = (outcome.partition, outcome.image_id)
                offsets = waiting.pop(name, [])
                if later := [offset for offset in offsets if offset > outcome.offset]:
                    waiting[name] = later
                for _ in range(len(offsets) - len(later)):
                    heard = time.monotonic()
                    yield outcome

    def _new_outcomes(self, left: int) -> Iterator[Outcome]:
        for each in taken(self._consumer, self._connection, 500, 0.1):
            if isinstance(each, Told):
                if each.error.code() == KafkaError._ALL_BROKERS_DOWN:
                    raise TransientError(
                        f"the broker went away with {left} outcomes outstanding; what was "
                        "published is in the log, and is indexed once everything runs again"
                    )
            elif each.value is not None:
                try:
                    outcome = Outcome.from_json(each.value)
                except ValidationError as wrong:  # of a later version, say, or another program's
                    logger.warning("an outcome is not understood: %s", explain(wrong))
                    continue
                if outcome.generation == self._generation:
                    yield outcome
