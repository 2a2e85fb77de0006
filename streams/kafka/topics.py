"""Topics: creating them, looking at them, and telling which log one is."""

import time
from collections.abc import Iterable, Set
from typing import NamedTuple

from confluent_kafka import (
    KafkaError,
    KafkaException,
    TopicCollection,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, not in __all__
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
    TopicMetadata,
)

from pixtide.schemas.errors import TransientError, UsageError
from pixtide.schemas.topics import Topic
from pixtide.search.generations import LogIdentity
from pixtide.streams.kafka.errors import require_granted, translated
from pixtide.streams.kafka.requests import AGAIN_S, ANSWERED_S, REQUEST_TIMEOUT_S, STEP_S, patiently

_CREATED_S = 62.0

#: How often to look for a topic: not all brokers know a new one at the same moment.
_LOOKS = 5


def partitions_of(client: AdminClient, topic: str) -> int:
    """How many partitions a topic has.

    Raises:
        UsageError: there is no such topic; KafkaDeniedError: this login may not look.
        TransientError: the broker can't be reached.
    """
    for _ in range(_LOOKS):
        metadata = _topics(client, topic).get(topic)
        if metadata is not None:
            require_granted(metadata.error, f"topic {topic}")
            if metadata.error is None and metadata.partitions:
                return len(metadata.partitions)
        time.sleep(AGAIN_S)
    raise UsageError(f"topic {topic} doesn't exist: run `pixtide topics create`")


def _topics(client: AdminClient, topic: str | None = None) -> dict[str, TopicMetadata]:
    """Look in short steps: a refused login is noticed between them."""

    def look() -> dict[str, TopicMetadata]:
        with translated(client):
            found: dict[str, TopicMetadata] = client.list_topics(topic, timeout=STEP_S).topics
            return found

    return patiently(look)


def topic_config(client: AdminClient, topic: str) -> dict[str, str]:
    """A topic's effective configuration. Raises TransientError if the broker can't be reached."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    with translated(client):
        asked = client.describe_configs([resource], request_timeout=REQUEST_TIMEOUT_S)
        found = asked[resource].result(ANSWERED_S)
    return {name: str(entry.value) for name, entry in found.items()}


def log_identity(client: AdminClient, topic: str) -> LogIdentity:
    """Which log this topic is now. Raises as `partitions_of`."""
    partitions = partitions_of(client, topic)
    with translated(client):
        asked = client.describe_topics(TopicCollection([topic]), request_timeout=REQUEST_TIMEOUT_S)
        described = asked[topic].result(ANSWERED_S)
    return LogIdentity(topic=topic, topic_id=str(described.topic_id), partitions=partitions)


def retries_of(client: AdminClient, topic: str, log: LogIdentity) -> LogIdentity:
    """The retry topic of that log. Raises as `partitions_of`, also if it has too few partitions."""
    found = log_identity(client, topic)
    if found.partitions < log.partitions:
        raise UsageError(
            f"topic {topic} has {found.partitions} partitions and {log.topic} {log.partitions}: "
            "retries go to their source's partition; give it as many"
        )
    return found


class Created(NamedTuple):
    """Whether a topic is new, and how many partitions it has."""

    new: bool
    partitions: int


def create_topics(
    client: AdminClient, table: Iterable[tuple[str, Topic]], replication: int
) -> dict[str, Created]:
    """Create the missing topics. Existing ones stay unchanged.

    Raises:
        UsageError: the broker refused one.
        TransientError: the broker can't be reached.
    """
    wanted = [
        NewTopic(name, topic.partitions, replication, config=topic.config())
        for name, topic in table
    ]
    created = {}
    _topics(client)  # a clear error if there is no broker
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
    partitions = patiently(lambda: _partitions_of_all(client, created.keys()))
    return {name: Created(new, partitions[name]) for name, new in created.items()}


def _partitions_of_all(client: AdminClient, names: Set[str]) -> dict[str, int]:
    """How many partitions each has, once the asked broker knows all of them.

    Of new topics only the controller knows at first; the brokers learn of them one by one.

    Raises:
        TransientError: the broker doesn't know all of them.
    """
    there = _topics(client)
    if missing := sorted(names - there.keys()):
        raise TransientError(f"Kafka: the brokers don't show {', '.join(missing)} yet: try again")
    return {name: len(there[name].partitions) for name in names}
