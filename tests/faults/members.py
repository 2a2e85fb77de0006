"""Members of a worker's group that do nothing but take part: so rebalances cost no start of one."""

import contextlib

from schemas import topics
from streams import kafka as kafka_clients
from streams.wiring import generation_to_work_for, open_catalog
from tests.deployments import Deployment
from tests.faults.oracle import topic
from tests.traffic import Background


class Passenger(Background):
    """Joins, takes its share of the partitions, reads on and commits nothing; leaves at the end."""

    def __init__(self, stack: Deployment) -> None:
        super().__init__()
        settings = stack.settings()
        with contextlib.closing(open_catalog(settings)) as catalog:
            self._group = generation_to_work_for(catalog, None).group
        self._connection = settings.kafka_connection()
        self._topics = [topic(stack), topic(stack, topics.RETRY)]
        self.shares: list[int] = []

    def loop(self) -> None:
        """Poll, and forget what comes."""
        consumer = kafka_clients.ingest_consumer(self._connection, self._group)
        consumer.subscribe(self._topics, on_assign=lambda _, taken: self.shares.append(len(taken)))
        with contextlib.closing(consumer):
            while not self._stopping.is_set():
                consumer.poll(0.1)

    @property
    def has_partitions(self) -> bool:
        """Whether it was given any."""
        return any(self.shares)
