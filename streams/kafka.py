"""Kafka through confluent-kafka: how every client here is configured, and the log's identity."""

import contextlib
import operator
import time
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar, cast

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, not in __all__
    AdminClient,
    ConfigResource,
    ListOffsetsResultInfo,
    NewTopic,
    OffsetSpec,
    ResourceType,
    TopicMetadata,
)

from pixtide.schemas.errors import TransientError, UsageError
from pixtide.schemas.identity import Partitioner
from pixtide.schemas.reply_address import DEFAULT_DEADLINE_MS
from pixtide.schemas.topics import Topic
from pixtide.search.generations import LogIdentity
from pixtide.streams.acls import NO_GROUP
from pixtide.streams.kafka_connection import KafkaConnection
from pixtide.streams.kafka_errors import Admin, require_granted
from pixtide.streams.kafka_errors import translated as translated
from pixtide.streams.kafka_errors import verdict as verdict

Headers = list[tuple[str, bytes | None]]
REQUEST_TIMEOUT_S = 10.0
#: After that a client has lost a request: it answers each, or says that it can't, in time.
_ANSWERED_S = REQUEST_TIMEOUT_S + 2
_CREATED_S = 62.0
_STEP_S = 2.0
_AGAIN_S = 0.1
#: How often a topic is looked for: of a new one, one broker hears a moment after another.
_LOOKS = 5
T = TypeVar("T")

#: What all that we commit is committed with; what an operator's tools commit is not.
OURS = "pixtide"


@dataclass(frozen=True, eq=False)
class Record:
    """A consumed record. Two are equal only if they are the same object.

    `unreadable` says which parts of it can't be read, and why, such as headers with a name that is
    not UTF-8; such a part is empty, as if it had not been sent.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    leader_epoch: int | None = None
    unreadable: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Its bytes in memory, near enough: payload, headers and a little of our own."""
        return (
            len(self.key or b"")
            + len(self.value or b"")
            + sum(len(name) + len(value or b"") for name, value in self.headers)
            + 512
        )

    def bounded(self, most_bytes: int) -> "Record":
        """Without those of its parts that are larger: nobody reads them, and their memory is free.

        A few kilobytes may unpack to parts of any size.
        """
        sizes = {
            "key": len(self.key or b""),
            "value": len(self.value or b""),
            "headers": sum(len(name) + len(value or b"") for name, value in self.headers),
        }
        large = {
            part: f"{size} bytes; at most {most_bytes} are read"
            for part, size in sizes.items()
            if size > most_bytes
        }
        if not large:
            return self
        return replace(
            self,
            key=None if "key" in large else self.key,
            value=None if "value" in large else self.value,
            headers=[] if "headers" in large else self.headers,
            unreadable={**self.unreadable, **large},
        )


def record_of(message: Message) -> Record:
    """Our view of a message without error. Never raises, whatever a producer has sent."""
    unreadable: dict[str, str] = {}

    def part(name: str, read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except Exception as error:  # noqa: BLE001  # librdkafka's binding raises what it likes
            cause = error.__cause__ or error
            unreadable[name] = f"{type(cause).__name__}: {cause}"
            return otherwise

    return Record(
        topic=message.topic() or "",
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        timestamp_ms=part("timestamp", lambda: message.timestamp()[1], 0),
        key=part("key", lambda: _bytes(message.key()), None),
        value=part("value", lambda: _bytes(message.value()), None),
        headers=part("headers", lambda: _headers(_ask_headers(message) or []), []),
        leader_epoch=part("leader epoch", message.leader_epoch, None),
        unreadable=unreadable,
    )


#: `message.headers()`, and never so written: of a name that is not UTF-8 it returns a list with a
#: hole in it and an exception beside. Called from C that is a SystemError; called from bytecode
#: that Python (3.11 to 3.13) has specialised nobody looks for the exception, and the hole ends the
#: process. For the same reason a message is asked once only.
_ask_headers: Callable[[Message], Iterable[Any] | None] = operator.methodcaller("headers")


def _headers(found: Iterable[Any]) -> Headers:
    return [(str(header[0]), _bytes(header[1])) for header in found]


def _bytes(value: object) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    return str(value).encode()


def admin(connection: KafkaConnection) -> AdminClient:
    """An admin client.

    Connected to every broker: one that connects on demand (librdkafka 2.16) keeps a processor
    busy for as long as it asks for what a dead broker leads.
    """
    made = Admin(connection, **_QUIET, **{"enable.sparse.connections": False})
    return cast(AdminClient, made)  # it has all that one has


#: What librdkafka calls each way to choose partitions. Empty keys, too, land where they belong.
LIBRDKAFKA_PARTITIONERS: Mapping[Partitioner, str] = {
    "murmur2": "murmur2_random",
    "crc32": "consistent_random",
    "unchecked": "murmur2_random",
}


def producer(
    connection: KafkaConnection,
    *,
    linger_ms: int,
    max_bytes: int = 2**20,
    partitioner: Partitioner = "murmur2",
    **more: Any,
) -> Producer:
    """A producer that neither loses nor reorders; keys land where `partitioner` puts them.

    `more` is configuration besides, in librdkafka's names.
    """
    return Producer(
        {
            **connection.librdkafka(),
            "enable.idempotence": True,
            "partitioner": LIBRDKAFKA_PARTITIONERS[partitioner],
            "linger.ms": linger_ms,
            "message.max.bytes": max_bytes,
            "batch.size": 512 * 1024,  # a topic's limit is that of a batch, not of a message
            "compression.type": "none",  # pictures are compressed already
            **_QUIET,
            **more,
        }
    )


def reply_producer(connection: KafkaConnection) -> Producer:
    """A producer for replies; it gives up on one when a request without a deadline has expired.

    A broker that has died is replaced as leader some seconds later.
    """
    return Producer(
        {
            **connection.librdkafka(),
            "linger.ms": 1,  # a batch's replies go together, and one alone hardly waits
            "batch.size": 256 * 1024,  # a topic's limit is that of a batch, not of a message
            # Replies to alike requests are alike: an eighth is left of them. Every client reads
            # gzip by itself; KafkaJS does nothing else.
            "compression.type": "gzip",
            "compression.level": 1,
            "delivery.timeout.ms": DEFAULT_DEADLINE_MS,
            "queue.buffering.max.messages": 1_000_000,  # the consumer bounds them by topic
            "topic.metadata.propagation.max.ms": 2_000,  # a missing reply topic fails soon
            **_QUIET,
        }
    )


def ingest_consumer(
    connection: KafkaConnection,
    group: str,
    kind: Callable[[dict[str, Any]], Consumer] = Consumer,
    **more: Any,
) -> Consumer:
    """A consumer that never resets its position by itself and commits only when told.

    `more` is configuration besides, in librdkafka's names.
    """
    return kind(
        {
            **connection.librdkafka(),
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "partition.assignment.strategy": "cooperative-sticky",
            "max.poll.interval.ms": 120_000,
            "fetch.wait.max.ms": 50,
            # by default it fetches nothing for a second once its queue is full
            "fetch.queue.backoff.ms": 50,
            **_FETCHED,
            **_QUIET,
            **more,
        }
    )


def gives_up(seconds: float, max_bytes: int) -> dict[str, Any]:
    """Configuration of a producer that keeps what it can't deliver for so long, up to so much."""
    return {
        "delivery.timeout.ms": int(seconds * 1000),
        "queue.buffering.max.kbytes": max_bytes // 1024,
    }


def session(seconds: float) -> dict[str, Any]:
    """Configuration of a consumer whose group gives it up after a silence of so long."""
    return {
        "session.timeout.ms": int(seconds * 1000),
        "heartbeat.interval.ms": int(seconds * 100),
    }


def tail_consumer(connection: KafkaConnection, *, tells_ends: bool = False) -> Consumer:
    """A consumer of explicitly assigned partitions, in no group, quick to hear of news.

    With `tells_ends` it gives a message with the error `_PARTITION_EOF` at a partition's end.
    """
    return Consumer(
        {
            **connection.librdkafka(),
            "group.id": NO_GROUP,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": tells_ends,
            "fetch.wait.max.ms": 100,
            **_FETCHED,
            **_QUIET,
        }
    )


#: What a consumer holds. librdkafka unpacks all that an answer holds at once, and 30,000 bytes may
#: come out of one; so an answer is small. A batch that is larger comes alone.
_ANSWER_BYTES = 32 * 1024
_FETCHED = {
    "message.max.bytes": _ANSWER_BYTES,  # of a consumer, only the least that the next one may be
    "fetch.max.bytes": _ANSWER_BYTES,
    "fetch.message.max.bytes": _ANSWER_BYTES,
    "queued.max.messages.kbytes": 32 * 1024,  # unpacked; what one answer brings may exceed it
}
_QUIET = {
    "log_level": 2,  # errors reach us as errors; its own lines would flood a terminal
    "socket.keepalive.enable": True,
    "allow.auto.create.topics": False,
}


def partitions_of(client: AdminClient, topic: str) -> int:
    """How many partitions a topic has.

    Raises:
        UsageError: there is no such topic; KafkaDeniedError where we may not look.
        TransientError: the broker can't be reached.
    """
    for _ in range(_LOOKS):
        metadata = _topics(client, topic).get(topic)
        if metadata is not None:
            require_granted(metadata.error, f"topic {topic}")
            if metadata.error is None and metadata.partitions:
                return len(metadata.partitions)
        time.sleep(_AGAIN_S)
    raise UsageError(f"topic {topic} doesn't exist: run `pixtide topics create`")


def _topics(client: AdminClient, topic: str | None = None) -> dict[str, TopicMetadata]:
    """Look in short steps: that a login is refused is heard between them."""

    def look() -> dict[str, TopicMetadata]:
        with translated(client):
            found: dict[str, TopicMetadata] = client.list_topics(topic, timeout=_STEP_S).topics
            return found

    return _patiently(look)


def _patiently(ask: Callable[[], T]) -> T:
    """Ask again, for a while, what can't be answered.

    A new topic's partition has no leader for a moment, and a group no coordinator where the
    broker that was it is restarted.
    """
    deadline = time.monotonic() + REQUEST_TIMEOUT_S
    while True:
        try:
            return ask()
        except TransientError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_AGAIN_S)


def require_group(client: AdminClient, group: str) -> None:
    """Raises KafkaDeniedError where this login may not use that consumer group."""
    asked = [ConsumerGroupTopicPartitions(group)]
    with translated(client):
        found = client.list_consumer_group_offsets(asked, request_timeout=REQUEST_TIMEOUT_S)
        found[group].result(_ANSWERED_S)


def topic_config(client: AdminClient, topic: str) -> dict[str, str]:
    """A topic's effective configuration. Raises TransientError if the broker is out of reach."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    with translated(client):
        asked = client.describe_configs([resource], request_timeout=REQUEST_TIMEOUT_S)
        found = asked[resource].result(_ANSWERED_S)
    return {name: str(entry.value) for name, entry in found.items()}


def log_identity(client: AdminClient, topic: str) -> LogIdentity:
    """Which log this topic is now. Raises as `partitions_of`."""
    partitions = partitions_of(client, topic)
    with translated(client):
        asked = client.describe_topics(TopicCollection([topic]), request_timeout=REQUEST_TIMEOUT_S)
        described = asked[topic].result(_ANSWERED_S)
    return LogIdentity(topic=topic, topic_id=str(described.topic_id), partitions=partitions)


def retries_of(client: AdminClient, topic: str, log: LogIdentity) -> LogIdentity:
    """The retry topic of that log. Raises as `partitions_of`, also where it has too few."""
    found = log_identity(client, topic)
    if found.partitions < log.partitions:
        raise UsageError(
            f"topic {topic} has {found.partitions} partitions and {log.topic} {log.partitions}: "
            "retries go to their source's partition; give it as many"
        )
    return found


def beginnings(client: AdminClient, topic: str, partitions: Iterable[int]) -> dict[int, int]:
    """The first offset that each partition still holds."""
    return _offsets(client, topic, partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]


def ends(client: AdminClient, topic: str, partitions: Iterable[int]) -> dict[int, int]:
    """The offset that each partition's next record will have."""
    return _offsets(client, topic, partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]


def leader_epochs(
    client: AdminClient, topic: str, partitions: Iterable[int]
) -> dict[int, tuple[int, int]]:
    """By partition, the epoch of its leader, and its end there; those without are left out."""
    spec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    found = _listed(client, topic, partitions, spec)
    return {
        partition: (each.leader_epoch, int(each.offset))
        for partition, each in found.items()
        if each.leader_epoch is not None and each.leader_epoch >= 0
    }


def delete_before(client: AdminClient, topic: str, offsets: Mapping[int, int]) -> None:
    """Delete the records below these offsets, by partition. Raises TransientError."""
    where = [TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]
    with translated(client):
        for deleted in client.delete_records(where, request_timeout=REQUEST_TIMEOUT_S).values():
            deleted.result(_ANSWERED_S)


def newest_timestamp(client: AdminClient, topic: str) -> int:
    """The latest timestamp of a topic's records, epoch milliseconds; -1 where it has none.

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
    """By partition, in short steps; each asks first who leads, which the client else remembers.

    What a transaction hasn't committed yet is not there, as for every consumer.

    Raises:
        TransientError: also where a leader is out of reach, of which the client says nothing but
            an invalid offset.
    """
    wanted = {TopicPartition(topic, partition): spec for partition in partitions}

    def ask() -> dict[int, ListOffsetsResultInfo]:
        with translated(client):
            client.list_topics(topic, timeout=_STEP_S)
            futures = client.list_offsets(
                wanted, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=_STEP_S
            )
            found = {
                where.partition: future.result(_ANSWERED_S) for where, future in futures.items()
            }
        if missing := [p for p, each in found.items() if each.offset == OFFSET_INVALID]:
            raise TransientError(f"Kafka: {topic}: no leader of partitions {missing} answers")
        return found

    return _patiently(ask)


def commit_beginning(
    connection: KafkaConnection, group: str, topic: str, beginning: Mapping[int, int]
) -> None:
    """Give a group its first position, so that no worker of it ever has to guess one."""
    positions = [TopicPartition(topic, p, offset, metadata=OURS) for p, offset in beginning.items()]

    def commit() -> None:
        with translated():
            consumer.commit(offsets=positions, asynchronous=False)

    with contextlib.closing(ingest_consumer(connection, group)) as consumer:
        _patiently(commit)


def committed_offsets(
    connection: KafkaConnection, group: str, topic: str, partitions: Iterable[int]
) -> dict[int, int]:
    """What a group has committed; partitions without a commit are left out."""
    with contextlib.closing(ingest_consumer(connection, group)) as consumer:
        return _patiently(lambda: committed(consumer, topic, partitions))


def committed(consumer: Consumer, topic: str, partitions: Iterable[int]) -> dict[int, int]:
    """What that consumer's group has committed; partitions without a commit are left out.

    Raises:
        TransientError: no broker says, be it of one partition.
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


class Position(NamedTuple):
    """What a group has committed of a partition: an offset, and what was committed with it.

    `leader_epoch` is None where none was. `metadata` is the committer's own.
    """

    offset: int
    leader_epoch: int | None
    metadata: str


def positions(
    connection: KafkaConnection, group: str, topic: str, partitions: Iterable[int]
) -> dict[int, Position]:
    """What a group has committed, whole; partitions without a commit are left out.

    Raises:
        TransientError: no broker says, be it of one partition.
    """
    with contextlib.closing(ingest_consumer(connection, group)) as consumer:
        return positions_of(consumer, topic, partitions)


def positions_of(
    consumer: Consumer,
    topic: str,
    partitions: Iterable[int],
    timeout_s: float = REQUEST_TIMEOUT_S,
) -> dict[int, Position]:
    """The same, of that consumer's group; each try may take so long."""
    wanted = [TopicPartition(topic, p) for p in partitions]
    return {
        each.partition: Position(each.offset, each.leader_epoch, each.metadata or "")
        for each in _patiently(lambda: _committed(consumer, wanted, timeout_s))
        if each.offset >= 0
    }


def groups_with_members(client: AdminClient) -> frozenset[str]:
    """The consumer groups that somebody is in. Raises TransientError where no broker answers."""
    with translated(client):
        asked = client.list_consumer_groups(request_timeout=REQUEST_TIMEOUT_S)
        found = asked.result(_ANSWERED_S)
    without = (ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD)
    return frozenset(group.group_id for group in found.valid if group.state not in without)


class Created(NamedTuple):
    """Whether a topic is new, and how many partitions it has."""

    new: bool
    partitions: int


def create_topics(
    client: AdminClient, table: Iterable[tuple[str, Topic]], replication: int
) -> dict[str, Created]:
    """Create the topics that are missing. Existing ones stay as they are.

    Raises:
        UsageError: the broker refused one.
        TransientError: the broker can't be reached.
    """
    wanted = [
        NewTopic(name, topic.partitions, replication, config=topic.config())
        for name, topic in table
    ]
    created = {}
    _topics(client)  # a clear error where there is no broker
    for name, future in client.create_topics(wanted).items():
        try:
            future.result(_CREATED_S)
            created[name] = True
        except KafkaException as error:
            require_granted(error.args[0], f"topic {name}")
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise UsageError(f"topic {name} can't be created: {error.args[0].str()}") from error
            created[name] = False
        except TimeoutError as error:
            raise TransientError(f"Kafka: topic {name} isn't created: no answer") from error
    partitions = _patiently(lambda: _partitions_of_all(client, created.keys()))
    return {name: Created(new, partitions[name]) for name, new in created.items()}


def _partitions_of_all(client: AdminClient, names: Set[str]) -> dict[str, int]:
    """How many partitions each has, once the broker that is asked knows all.

    Of new topics the controller alone knows at first, and then one broker before the other.

    Raises:
        TransientError: it doesn't know all.
    """
    there = _topics(client)
    if missing := sorted(names - there.keys()):
        raise TransientError(f"Kafka: the brokers don't show {', '.join(missing)} yet: try again")
    return {name: len(there[name].partitions) for name in names}
