"""A query consumer's metrics and health."""

from collections.abc import Iterable

from pixtide.schemas.errors import FatalError, QueryCode
from pixtide.search.generations import Generation
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.kafka.consumer_position import ConsumerPosition
from pixtide.streams.process.health import Health
from pixtide.streams.process.metrics import QueryMetrics
from pixtide.streams.process.progress import Progress
from pixtide.streams.query.snapshots import Snapshots


class QueryWatch:
    """Safe to share between the consumer's threads."""

    def __init__(
        self, health: Health, metrics: QueryMetrics, progress: Progress | None = None
    ) -> None:
        self._health = health
        self._progress = progress or Progress(0, "request has been taken")
        health.watch(lambda: self._progress.stalled)
        self.metrics = metrics
        self._lagging: set[int] = set()
        self._serving: Generation | None = None
        self._partitions: frozenset[int] | None = None
        self._taken: dict[int, int] = {}
        for code in ("OK", *QueryCode):  # so that there is a 0 before there is a 1
            metrics.replies.labels(code)

    def took(self, partition: int, offset: int) -> None:
        """A request has come from the log."""
        self._progress.did()
        self._taken = self._taken | {partition: offset + 1}

    def taken(self, partition: int) -> int:
        """The offset up to which that partition has been read; 0 if nothing has come yet."""
        return self._taken.get(partition, 0)

    def reached(self, partition: int, offset: int) -> None:
        """The partition has been read up to here; no request reports it."""
        self._taken = self._taken | {partition: offset}

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions that the group has assigned to this consumer."""
        return self._partitions or frozenset()

    def assigned(self, partitions: Iterable[int]) -> None:
        """The group has assigned these partitions to this consumer, and no others."""
        self._partitions = frozenset(partitions)

    def standing(self, group: "GroupOffsets") -> ConsumerPosition:
        """Where the consumer is; it reads on even while it has work."""
        if self._partitions is None:
            return ConsumerPosition()
        return ConsumerPosition(self._partitions, group.committed(self._partitions), self._taken)

    def turned(self) -> None:
        """The event loop has turned.

        Raises:
            FatalError: only a restart helps.
        """
        self._health.beat()
        if (why := self._health.lost) is not None:
            raise FatalError(f"{why}: starting again is what helps")

    def broke(self, part: str, why: str) -> None:
        """An essential part of the consumer has ended."""
        self._health.broke(part, why)

    def waits(self, requests: int | None) -> None:
        """The broker answers: so many requests wait; None if the group hasn't let it in."""
        self._progress.saw(requests)

    def late(self, partitions: dict[int, float]) -> None:
        """For how long no requests of these partitions have come."""
        self._progress.late(partitions)

    def looked(self, snapshots: Snapshots) -> None:
        """Note a look at the alias."""
        self._health.report("index", snapshots.problem)
        self.metrics.texts.set(snapshots.texts_cached)
        if snapshots.current is not None and snapshots.current.generation != self._serving:
            of = self._serving = snapshots.current.generation
            self.metrics.snapshot.clear()
            self.metrics.snapshot.labels(of.name, of.model, of.fingerprint).set(1)

    def lags(self, lags: dict[int, int]) -> None:
        """How far this consumer's partitions are behind the log; other partitions are left out."""
        for partition in self._lagging - lags.keys():
            self.metrics.lag.remove(str(partition))
        for partition, lag in lags.items():
            self.metrics.lag.labels(str(partition)).set(lag)
        self._lagging = set(lags)

    def consumes(self, problem: str | None) -> None:
        """Whether records are fetched, or why not."""
        self._health.report("fetcher", problem)

    def stopping(self) -> None:
        """No more requests are taken."""
        self._health.report("consumer", "is stopping")


class GroupOffsets:
    """A group's committed offsets of a topic, asked over a connection that stays open."""

    def __init__(self, connection: KafkaConnection, group: str, topic: str) -> None:
        self._topic = topic
        self._consumer = kafka_clients.ingest_consumer(connection, group)  # it never joins

    def committed(self, partitions: Iterable[int]) -> dict[int, int]:
        """The offsets by partition; partitions without a commit are left out.

        Raises:
            TransientError: the broker can't be reached.
        """
        return kafka_offsets.committed(self._consumer, self._topic, partitions)
