"""Builds the query consumer from the settings."""

from functools import partial

from pixtide.schemas import topics
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import groups as kafka_groups
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.kafka.consumer_check import ConsumerCheck
from pixtide.streams.kafka.renewed_client import RenewedClient
from pixtide.streams.originals.store import ImageStore
from pixtide.streams.process.metrics import QueryMetrics
from pixtide.streams.process.progress import Progress
from pixtide.streams.process.starting import Starting
from pixtide.streams.query.answerer import Answers
from pixtide.streams.query.consumer import QueryConsumer, QueryParts
from pixtide.streams.query.faust_app import rest_between_fetches
from pixtide.streams.query.pictures import QueryPictures
from pixtide.streams.query.reply_cache import ReplyCache
from pixtide.streams.query.snapshots import Snapshots
from pixtide.streams.query.telemetry import GroupOffsets, QueryWatch
from pixtide.streams.settings import Settings
from pixtide.streams.wiring.adapters import open_catalog
from pixtide.streams.wiring.generations import encoder_of
from pixtide.streams.wiring.observed import Vitals
from pixtide.streams.wiring.pictures import decoder_pool, picture_fetcher

#: Longer than a producer of replies keeps trying to deliver a reply.
_LET_GO_S = 60.0


def query_consumer(settings: Settings, vitals: Vitals) -> QueryConsumer:
    """A query consumer that follows the alias."""

    connection, starting = settings.kafka_connection(), Starting(vitals.health)
    decoders = decoder_pool(settings, 1)
    topic = settings.named(topics.REQUESTS)
    client, group = kafka_clients.admin(connection), settings.named("query")
    starting(lambda: kafka_topics.partitions_of(client, topic))  # a clear error if it is missing
    starting(lambda: kafka_groups.require_group(client, group))

    prefix = f"{settings.namespace}\\." if settings.namespace else ""
    pictures = QueryPictures(
        picture_fetcher(settings, ImageStore(settings.image_store_url)), decoders
    )
    snapshots = Snapshots(open_catalog(settings), partial(encoder_of, settings))
    metrics = QueryMetrics(vitals.instruments)
    progress = Progress(settings.stalled_s, "request has been taken")
    watch = QueryWatch(vitals.health, metrics, progress)
    committed = GroupOffsets(connection, group, topic)
    membership = ConsumerCheck(
        client,
        topic,
        look=lambda: watch.standing(committed),
        on_lags=watch.lags,
        on_waiting=watch.waits,
        on_late=watch.late,
        markers=1,
    )
    vitals.health.check("log", membership.check)
    return QueryConsumer(
        QueryParts(
            connection=connection,
            group=group,
            topic=topic,
            reply_topics=f"{prefix}({settings.reply_topics})",
            snapshots=snapshots,
            answers=Answers(snapshots, pictures, ReplyCache(settings.reply_cache_bytes), metrics),
            # a replaced producer still reports what happens to the replies that it holds
            producer=RenewedClient(
                partial(kafka_clients.reply_producer, connection), lambda old: old.flush(_LET_GO_S)
            ),
            queue=settings.query_queue,
            on_started=rest_between_fetches if settings.embedded_log else lambda _: None,
            watch=watch,
        )
    )
