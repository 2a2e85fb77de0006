"""Consumer groups: access, members and deletion."""

from confluent_kafka import (
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
)
from confluent_kafka.admin import AdminClient

from pixtide.streams.kafka import requests as kafka_requests
from pixtide.streams.kafka.errors import translated
from pixtide.streams.kafka.requests import ANSWERED_S, REQUEST_TIMEOUT_S


def require_group(client: AdminClient, group: str) -> None:
    """Raises KafkaDeniedError if this login may not use that consumer group."""
    asked = [ConsumerGroupTopicPartitions(group)]
    with translated(client):
        found = client.list_consumer_group_offsets(asked, request_timeout=REQUEST_TIMEOUT_S)
        found[group].result(ANSWERED_S)


def groups_with_members(client: AdminClient) -> frozenset[str]:
    """The consumer groups that have members. Raises TransientError if no broker answers."""
    with translated(client):
        asked = client.list_consumer_groups(request_timeout=REQUEST_TIMEOUT_S)
        found = asked.result(ANSWERED_S)
    without = (ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD)
    return frozenset(group.group_id for group in found.valid if group.state not in without)


def workers_in(client: AdminClient, group: str) -> int:
    """How many consumers the group has now; 0 if there is no such group.

    Raises:
        TransientError: the broker can't be reached.
        KafkaDeniedError: this login may not ask.
    """
    with translated(client):
        try:
            described = client.describe_consumer_groups(
                [group], request_timeout=kafka_requests.REQUEST_TIMEOUT_S
            )[group].result(kafka_requests.REQUEST_TIMEOUT_S + 2)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return 0
            raise
    return 0 if described.state == ConsumerGroupState.DEAD else len(described.members)


def delete_group(client: AdminClient, group: str) -> None:
    """Delete a group and its offsets. Safe to repeat.

    Raises:
        TransientError: the group has members, or the broker can't be reached.
        KafkaDeniedError: the broker refuses it.
    """
    with translated(client):
        try:
            client.delete_consumer_groups(
                [group], request_timeout=kafka_requests.REQUEST_TIMEOUT_S
            )[group].result(kafka_requests.REQUEST_TIMEOUT_S + 2)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
                raise
