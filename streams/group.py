"""A generation's consumer group: how far it has read, who is in it, and its end."""

import time
from collections.abc import Callable, Mapping

from confluent_kafka import ConsumerGroupState, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from pixtide.schemas.errors import PixtideError
from pixtide.search.generations import Generation
from pixtide.streams import kafka
from pixtide.streams.kafka_errors import translated
from pixtide.streams.settings import Settings

#: Tells how far a step is: its name, what is done and what there is to do.
Tell = Callable[[str, int, int], None]

_ASK_AGAIN_S = 0.5


class NotReadError(PixtideError):
    """The workers have not come as far as the log did when it was asked."""


def await_group(
    settings: Settings,
    generation: Generation,
    ends: Mapping[int, int],
    timeout_s: float,
    *,
    tell: Tell,
    what: str = "waiting for the workers",
) -> None:
    """Wait until a generation's workers have committed up to these offsets.

    Raises:
        NotReadError: they got nowhere for `timeout_s`.
        TransientError: the broker can't be reached.
    """
    first = left = lag_behind(settings, generation, ends)
    deadline = time.monotonic() + timeout_s
    while left:
        tell(what, first - left, first)
        if time.monotonic() > deadline:
            raise NotReadError(
                f"{left} records are not read yet and nothing moved for {timeout_s:g} s: does "
                f"`pixtide ingest --generation {generation.name}` run?"
            )
        time.sleep(_ASK_AGAIN_S)
        before, left = left, lag_behind(settings, generation, ends)
        if left < before:
            deadline = time.monotonic() + timeout_s
    tell(what, first, first)


def lag_behind(settings: Settings, generation: Generation, ends: Mapping[int, int]) -> int:
    """How many records below these offsets the group has not committed yet."""
    committed = kafka.committed_offsets(
        settings.kafka_connection(), generation.group, generation.log.topic, ends
    )
    return sum(max(0, end - committed.get(partition, 0)) for partition, end in ends.items())


def workers_in(client: AdminClient, group: str) -> int:
    """How many consumers the group has now; 0 where there is no such group.

    Raises:
        TransientError: the broker can't be reached.
        KafkaDeniedError: it refuses to say.
    """
    with translated(client):
        try:
            described = client.describe_consumer_groups(
                [group], request_timeout=kafka.REQUEST_TIMEOUT_S
            )[group].result(kafka.REQUEST_TIMEOUT_S + 2)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return 0
            raise
    return 0 if described.state == ConsumerGroupState.DEAD else len(described.members)


def delete_group(client: AdminClient, group: str) -> None:
    """Forget a group and its offsets. Safe to repeat.

    Raises:
        TransientError: somebody is in it, or the broker can't be reached.
        KafkaDeniedError: the broker refuses it.
    """
    with translated(client):
        try:
            client.delete_consumer_groups([group], request_timeout=kafka.REQUEST_TIMEOUT_S)[
                group
            ].result(kafka.REQUEST_TIMEOUT_S + 2)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
                raise
