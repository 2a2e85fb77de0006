"""Clients built from the settings: for searches, for dead letters and for their retries."""

from typing import TYPE_CHECKING

from pixtide.schemas import topics
from pixtide.schemas.reply_address import CLIENT_TIMEOUT_S
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.originals.store import ImageStore
from pixtide.streams.settings import Settings

if TYPE_CHECKING:
    from pixtide.streams.client.asynchronous import AsyncSearchClient
    from pixtide.streams.client.blocking import SearchClient
    from pixtide.streams.dead_letters.letters import DeadLetters
    from pixtide.streams.dead_letters.retry import Retrier
from pixtide.streams.wiring.adapters import open_catalog


def dead_letters(settings: Settings) -> "DeadLetters":
    """Access to the dead letters; close it after use."""
    from pixtide.streams.dead_letters.letters import DeadLetters

    return DeadLetters(
        connection=settings.kafka_connection(),
        topic=settings.named(topics.DEAD_LETTERS),
        catalog=open_catalog(settings),
        store=ImageStore(settings.image_store_url),
    )


def retrier(settings: Settings, letters: "DeadLetters") -> "Retrier":
    """Sends dead letters to the retry topic."""
    from pixtide.streams.dead_letters.retry import Retrier

    connection = settings.kafka_connection()
    largest = max(t.max_message_bytes for t in topics.topics(embedded=settings.embedded_log))
    return Retrier(
        letters,
        kafka_clients.producer(connection, linger_ms=5, max_bytes=largest),
        connection=connection,
        dead_letters_topic=settings.named(topics.DEAD_LETTERS),
        retry_topic=settings.named(topics.RETRY),
    )


def search_client(settings: Settings, *, timeout_s: float = CLIENT_TIMEOUT_S) -> "SearchClient":
    """A blocking client of the search service that these settings name."""
    from pixtide.streams.client.blocking import SearchClient

    return SearchClient(
        settings.kafka_connection(),
        request_topic=settings.named(topics.REQUESTS),
        reply_topic=settings.named(topics.REPLIES),
        timeout_s=timeout_s,
    )


def async_search_client(
    settings: Settings, *, timeout_s: float = CLIENT_TIMEOUT_S
) -> "AsyncSearchClient":
    """The same client for asyncio."""
    from pixtide.streams.client.asynchronous import AsyncSearchClient

    return AsyncSearchClient(
        settings.kafka_connection(),
        request_topic=settings.named(topics.REQUESTS),
        reply_topic=settings.named(topics.REPLIES),
        timeout_s=timeout_s,
        rests=settings.embedded_log,
    )
