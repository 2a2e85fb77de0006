"""Who is in a worker's group; and members that do nothing but take part, which cost no start."""

import contextlib

from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import requests as kafka_requests
from pixtide.streams.wiring.adapters import open_catalog
from pixtide.streams.wiring.generations import generation_to_work_for
from tests.faults.oracle import topic
from tests.support.deployments import Deployment
from tests.support.traffic import Background


def shares(stack: Deployment) -> list[int]:
    """How many of the log's partitions each ingest worker of the first generation has."""
    settings = stack.settings()
    group, log = settings.named("ingest.v1"), topic(stack)
    client = kafka_clients.admin(settings.kafka_connection())
    described = client.describe_consumer_groups(
        [group], request_timeout=kafka_requests.REQUEST_TIMEOUT_S
    )
    members = described[group].result().members
    taken = [member.assignment.topic_partitions for member in members]
    return sorted(sum(p.topic == log for p in each) for each in taken)


class Passenger(Background):
    """Joins, takes its share of the partitions, reads on and commits nothing; leaves at the end."""

    def __init__(self, stack: Deployment) -> None:
        super().__init__()
        settings = stack.settings()
        with contextlib.closing(open_catalog(settings)) as catalog:
            self._group = generation_to_work_for(catalog, None).group
        self._connection = settings.kafka_connection()
        self._topics = [topic(stack)]
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
