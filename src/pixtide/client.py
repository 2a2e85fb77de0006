"""What a service needs to search over Kafka, and to be told what went wrong."""

from pixtide.schemas.errors import (
    FatalError,
    PixtideError,
    RequestError,
    TransientError,
    UsageError,
)
from pixtide.schemas.queries import (
    AttributeFilter,
    Filters,
    SearchReply,
    SearchRequest,
    SearchResult,
)
from pixtide.streams.client.asynchronous import AsyncSearchClient
from pixtide.streams.client.blocking import SearchClient
from pixtide.streams.kafka.connection import KafkaConnection, Sasl, Tls, Tokens

__all__ = [
    "AsyncSearchClient",
    "AttributeFilter",
    "FatalError",
    "Filters",
    "KafkaConnection",
    "PixtideError",
    "RequestError",
    "Sasl",
    "SearchClient",
    "SearchReply",
    "SearchRequest",
    "SearchResult",
    "Tls",
    "Tokens",
    "TransientError",
    "UsageError",
    "connection",
]


def connection() -> KafkaConnection:
    """Where Kafka is, as the command line finds it: PIXTIDE_ variables, or a running `pixtide up`.

    Raises UsageError: a setting is wrong, or there is neither.
    """
    from pixtide.streams.settings import load_settings  # takes a third of a client's import

    return load_settings().kafka_connection()
