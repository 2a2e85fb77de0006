"""Offsets: where partitions begin and end, and what groups have committed."""

import contextlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    IsolationLevel,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, not in __all__
    AdminClient,
    ListOffsetsResultInfo,
    OffsetSpec,
)

from pixtide.schemas.errors import TransientError
from pixtide.streams.kafka.clients import ingest_consumer
from pixtide.streams.kafka.connection import KafkaConnection
from pixtide.streams.kafka.errors import translated
from pixtide.streams.kafka.requests import ANSWERED_S, REQUEST_TIMEOUT_S, STEP_S, patiently
from pixtide.streams.kafka.topics import partitions_of

#: The metadata of all our own commits; commits by an operator's tools don't have it.
OURS = "pixtide"


def beginnings(client: AdminClient, topic: str, partitions: Iterable[int]) -> dict[int, int]:
    """The oldest offset that each partition still holds."""
    return _offsets(client, topic, partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]


def ends(client: AdminClient, topic: str, partitions: Iterable[int]) -> dict[int, int]:
    """The offset that each partition's next record will get."""
    return _offsets(client, topic, partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]


def leader_epochs(
    client: AdminClient, topic: str, partitions: Iterable[int]
) -> dict[int, tuple[int, int]]:
    """For each partition, its leader's epoch and its end; those without an epoch are left out."""
    spec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    found = _listed(client, topic, partitions, spec)
    return {
        partition: (each.leader_epoch, int(each.offset))
        for partition, each in found.items()
        if each.leader_epoch is not None and each.leader_epoch >= 0
    }


def delete_before(client: AdminClient, topic: str, offsets: Mapping[int, int]) -> None:
    """For each partition, delete the records below that offset. Raises TransientError."""
    where = [TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]
    with translated(client):
        for deleted in client.delete_records(where, request_timeout=REQUEST_TIMEOUT_S).values():
            deleted.result(ANSWERED_S)


def newest_timestamp(client: AdminClient, topic: str) -> int:
    """The latest timestamp of a topic's records, epoch milliseconds; -1 if it has none.

    Raises as `partitions_of`.
    """
    numbers = range(partitions_of(client, topic))
    found = _listed(client, topic, numbers, OffsetSpec.max_timestamp())  # type: ignore[no-untyped-call]
    return max(int(each.timestamp) for each in found.values())


def _offsets(
    client: AdminClient, topic: str, partitions: Iterable[int], spec: OffsetSpec
) -> dict[int, int]:
    found = _listed(client, topic, partitions, spec)
    return {partition: int(each.offset) for partition, each in found.items()}


def _listed(
    client: AdminClient, topic: str, partitions: Iterable[int], spec: OffsetSpec
) -> dict[int, ListOffsetsResultInfo]:
    """Offsets for each partition. Asks in short steps, each of which looks up the leaders again.

    What a transaction hasn't committed yet doesn't count, as for every consumer.

    Raises:
        TransientError: also when a leader can't be reached; the client then only reports an invalid
            offset.
    """
    wanted = {TopicPartition(topic, partition): spec for partition in partitions}

    def ask() -> dict[int, ListOffsetsResultInfo]:
        with translated(client):
            client.list_topics(topic, timeout=STEP_S)
            futures = client.list_offsets(
                wanted, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=STEP_S
            )
            found = {
                where.partition: future.result(ANSWERED_S) for where, future in futures.items()
            }
        if missing := [p for p, each in found.items() if each.offset == OFFSET_INVALID]:
            raise TransientError(f"Kafka: {topic}: no leader of partitions {missing} answers")
        return found

    return patiently(ask)


def commit_beginning(
    connection: KafkaConnection, group: str, topic: str, beginning: Mapping[int, int]
) -> None:
    """Give a group its first position, so that no worker of it ever has to guess one."""
    positions = [TopicPartition(topic, p, offset, metadata=OURS) for p, offset in beginning.items()]

    def commit() -> None:
        with translated():
            consumer.commit(offsets=positions, asynchronous=False)

    with contextlib.closing(ingest_consumer(connection, group)) as consumer:
        patiently(commit)


def committed_offsets(
    connection: KafkaConnection, group: str, topic: str, partitions: Iterable[int]
) -> dict[int, int]:
    """What a group has committed; partitions without a commit are left out."""
    with contextlib.closing(ingest_consumer(connection, group)) as consumer:
        return patiently(lambda: committed(consumer, topic, partitions))


def committed(consumer: Consumer, topic: str, partitions: Iterable[int]) -> dict[int, int]:
    """What that consumer's group has committed; partitions without a commit are left out.

    Raises:
        TransientError: no broker answers, even for one partition only.
    """
    found = _committed(consumer, [TopicPartition(topic, p) for p in partitions])
    return {where.partition: where.offset for where in found if where.offset >= 0}


def _committed(
    consumer: Consumer, wanted: list[TopicPartition], timeout_s: float = REQUEST_TIMEOUT_S
) -> list[TopicPartition]:
    with translated():
        found = consumer.committed(wanted, timeout=timeout_s)
        for where in found:
            if where.error is not None:
                raise KafkaException(where.error)
    return found


class CommittedPosition(NamedTuple):
    """A group's committed position in a partition: the offset, and what was committed with it.

    `leader_epoch` is None if there was none. `metadata` is the committer's own.
    """

    offset: int
    leader_epoch: int | None
    metadata: str


def positions(
    connection: KafkaConnection, group: str, topic: str, partitions: Iterable[int]
) -> dict[int, CommittedPosition]:
    """A group's committed positions with metadata; partitions without a commit are left out.

    Raises:
        TransientError: no broker answers, even for one partition only.
    """
    with contextlib.closing(ingest_consumer(connection, group)) as consumer:
        return positions_of(consumer, topic, partitions)


def positions_of(
    consumer: Consumer,
    topic: str,
    partitions: Iterable[int],
    timeout_s: float = REQUEST_TIMEOUT_S,
) -> dict[int, CommittedPosition]:
    """The same for that consumer's group; `timeout_s` is for each try."""
    wanted = [TopicPartition(topic, p) for p in partitions]
    return {
        each.partition: CommittedPosition(each.offset, each.leader_epoch, each.metadata or "")
        for each in patiently(lambda: _committed(consumer, wanted, timeout_s))
        if each.offset >= 0
    }
