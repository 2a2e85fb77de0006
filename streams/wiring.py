"""Where the parts are put together: the only file that names adapters."""

import contextlib
import os
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from confluent_kafka import Consumer

from schemas import topics
from schemas.errors import FatalError, UsageError
from search.generations import Generation
from search.port import GenerationCatalog
from streams import kafka
from streams.image_store import ImageStore
from streams.settings import Settings

if TYPE_CHECKING:
    from encoders.port import Encoder
    from streams.client import SearchClient
    from streams.fetch import Fetcher
    from streams.ingest import IngestWorker
    from streams.query import QueryConsumer
    from streams.vitals import Vitals

_LIVE_CACHED_S = 2.0


def open_catalog(settings: Settings) -> GenerationCatalog:
    """The index: Weaviate where its address is set, else LanceDB in the home."""
    if settings.weaviate_url is None:
        with _extra("embedded"):
            from search.lancedb_catalog import LanceCatalog

        return LanceCatalog(folder=settings.home / "index" / (settings.namespace or "default"))
    # Authlib, which weaviate-client imports, insists on telling users about its own future.
    with _extra("weaviate"), warnings.catch_warnings(record=True):
        from search.weaviate_catalog import WeaviateCatalog

    key = settings.weaviate_api_key
    return WeaviateCatalog(
        http_url=settings.weaviate_url,
        grpc_port=settings.weaviate_grpc_port,
        api_key=key.get_secret_value() if key else None,
        namespace=settings.namespace,
    )


def load_encoder(settings: Settings, model: str) -> "Encoder":
    """The encoder that a model setting names."""
    # Before torch is imported. Threads that spin while they wait take the cores from the other
    # processes here: two of them on two busy cores made a text of 8 ms take half a second.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if settings.threads:
        os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    if model == "starter":
        with _extra("starter"):
            from encoders.starter import StarterEncoder

        return StarterEncoder.load(
            device=settings.device, precision=settings.precision, batch_size=settings.batch_size
        )
    with _extra("worker"):
        from encoders.open_clip_encoder import OpenClipEncoder

    return OpenClipEncoder.load(
        model,
        device=settings.device,
        precision=settings.precision,
        batch_size=settings.batch_size,
    )


def generation_to_work_for(catalog: GenerationCatalog, name: str | None) -> Generation:
    """The generation of that name, or the live one. Raises UsageError where there is none."""
    generation = catalog.get(name) if name else catalog.live()
    if generation is None:
        which = f"no generation {name}" if name else "no generation is live"
        raise UsageError(f"{which}: run `pixtide index create {name or 'v1'}`")
    return generation


def ingest_worker(
    settings: Settings, generation_name: str | None, vitals: "Vitals"
) -> "IngestWorker":
    """An ingest worker, its decoding processes started before its Kafka clients."""
    from encoders.decoding import DecoderPool
    from encoders.images import Limits
    from streams.embedded_fetch import RestingConsumer
    from streams.ingest import IngestLimits, IngestParts, IngestWorker
    from streams.ingest_watch import IngestWatch
    from streams.log_guard import LogGuard
    from streams.membership import Membership
    from streams.metrics import IngestMetrics
    from streams.reporter import Reporter
    from streams.standing import Statistics

    connection = settings.kafka_connection()
    decoders = DecoderPool(
        settings.decoders, settings.decode_timeout_s, Limits(max_pixels=settings.max_pixels)
    )
    decoders.start()
    catalog = open_catalog(settings)
    generation = generation_to_work_for(catalog, generation_name)
    encoder = load_encoder(settings, generation.model)
    check_fingerprint(encoder, generation)
    encoder.warm_up()
    vitals.health.report("encoder", None)
    watch = IngestWatch(vitals.health, IngestMetrics(vitals.instruments), generation.name)
    store = ImageStore(settings.image_store_url)
    client = kafka.admin(connection)
    guard = LogGuard(client, generation.log)
    guard.check()
    for topic in (topics.INDEXED, topics.DEAD_LETTERS):
        kafka.partitions_of(client, settings.named(topic))  # or it would wait for it, full
    kafka.require_group(client, generation.group)
    largest = max(t.max_message_bytes for t in topics.topics(embedded=settings.embedded_log))
    vitals.health.check("index", lambda: _look_at(catalog))
    statistics = Statistics(generation.log.topic)
    membership = Membership(
        client,
        generation.log.topic,
        look=lambda: statistics.standing(idle=watch.idle),
        on_lags=watch.lags,
    )
    vitals.health.check("log", membership.check)
    parts = IngestParts(
        consumer=kafka.ingest_consumer(
            connection,
            generation.group,
            RestingConsumer if settings.embedded_log else Consumer,
            **statistics.configuration(),
        ),
        guard=guard,
        fetcher=_fetcher(settings, store),
        store=store,
        decoders=decoders,
        encoder=encoder,
        index=catalog.open(generation),
        generation=generation,
        is_live=_cached(lambda: catalog.live() == generation),
        reporter=Reporter(
            kafka.producer(connection, linger_ms=5, max_bytes=largest + topics.DEAD_LETTER_ROOM),
            store,
            generation,
            outcomes_topic=settings.named(topics.INDEXED),
            dead_letters_topic=settings.named(topics.DEAD_LETTERS),
        ),
        watch=watch,
    )
    return IngestWorker(
        parts,
        IngestLimits(
            records=settings.in_flight_records,
            bytes=settings.in_flight_bytes,
            batch=settings.batch_size,
            fetchers=settings.fetchers,
            fetchers_per_host=settings.fetchers_per_host,
            keep_all_originals=settings.keep_originals == "all",
            partitioner=settings.partitioner,
        ),
    )


def query_consumer(settings: Settings, vitals: "Vitals") -> "QueryConsumer":
    """A query consumer that follows the alias."""
    from encoders.decoding import DecoderPool
    from encoders.images import Limits
    from streams.answers import Answers
    from streams.embedded_fetch import rest_between_fetches
    from streams.membership import Membership
    from streams.metrics import QueryMetrics
    from streams.query import QueryConsumer, QueryParts
    from streams.query_pictures import QueryPictures
    from streams.query_watch import GroupOffsets, QueryWatch
    from streams.reply_cache import ReplyCache
    from streams.snapshots import Snapshots

    connection = settings.kafka_connection()
    decoders = DecoderPool(1, settings.decode_timeout_s, Limits(max_pixels=settings.max_pixels))
    decoders.start()
    topic = settings.named(topics.REQUESTS)
    client, group = kafka.admin(connection), settings.named("query")
    kafka.partitions_of(client, topic)  # a clear error where it is missing
    kafka.require_group(client, group)

    def load(generation: Generation) -> "Encoder":
        encoder = load_encoder(settings, generation.model)
        check_fingerprint(encoder, generation)
        return encoder

    prefix = f"{settings.namespace}\\." if settings.namespace else ""
    pictures = QueryPictures(_fetcher(settings, ImageStore(settings.image_store_url)), decoders)
    snapshots = Snapshots(open_catalog(settings), load)
    metrics = QueryMetrics(vitals.instruments)
    watch = QueryWatch(vitals.health, metrics)
    committed = GroupOffsets(connection, group, topic)
    membership = Membership(
        client, topic, look=lambda: watch.standing(committed), on_lags=watch.lags
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
            producer=kafka.reply_producer(connection),
            queue=settings.query_queue,
            on_started=rest_between_fetches if settings.embedded_log else lambda _: None,
            watch=watch,
        )
    )


def _fetcher(settings: Settings, store: ImageStore) -> "Fetcher":
    from streams.fetch import Fetcher, FetchLimits

    limits = FetchLimits(
        max_bytes=settings.max_picture_bytes,
        timeout_s=settings.fetch_timeout_s,
        roots=settings.roots,
        allowed_hosts=frozenset(settings.allowed_hosts),
        allowed_buckets=frozenset(settings.allowed_buckets),
    )
    return Fetcher(store, limits)


def search_client(settings: Settings, *, timeout_s: float = 10.0) -> "SearchClient":
    """A client of the search service that these settings reach."""
    from streams.client import SearchClient

    return SearchClient(
        settings.kafka_connection(),
        request_topic=settings.named(topics.REQUESTS),
        reply_topic=settings.named(topics.REPLIES),
        timeout_s=timeout_s,
    )


def check_fingerprint(encoder: "Encoder", generation: Generation) -> None:
    """Raises FatalError where vectors of this encoder don't belong into that collection."""
    if encoder.fingerprint != generation.fingerprint:
        raise FatalError(
            f"model {generation.model} has the fingerprint {encoder.fingerprint}, and generation "
            f"{generation.name} was made with {generation.fingerprint}: the model's files "
            "changed; create a generation for it (`pixtide index create`)"
        )


@contextlib.contextmanager
def _extra(name: str) -> Iterator[None]:
    """Turn a package that is not installed into what to do about it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed: pip install 'pixtide[{name}]'") from error


def _look_at(catalog: GenerationCatalog) -> str | None:
    """Whether the index answers; what it doesn't is told by the error."""
    catalog.live()
    return None


def _cached(look: Callable[[], bool]) -> Callable[[], bool]:
    """Ask again only when the answer is 2 s old: it changes once in a promotion."""
    asked_at, answer = 0.0, False

    def cached() -> bool:
        nonlocal asked_at, answer
        if time.monotonic() - asked_at > _LIVE_CACHED_S:
            answer = look()
            asked_at = time.monotonic()
        return answer

    return cached
