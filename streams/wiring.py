"""Where the parts are put together: the only file that names adapters."""

import contextlib
import os
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer

from schemas import topics
from schemas.errors import FatalError, PoisonError, TransientError, UsageError
from schemas.events import PictureAt
from search.generations import Generation, GenerationState
from search.port import GenerationCatalog
from streams import kafka
from streams.image_store import ImageStore
from streams.settings import Settings

if TYPE_CHECKING:
    from encoders.port import Encoder
    from streams.async_client import AsyncSearchClient
    from streams.client import SearchClient
    from streams.dead_letters import DeadLetters
    from streams.fetch import Fetcher
    from streams.ingest import IngestWorker
    from streams.query import QueryConsumer
    from streams.retrying import Retrier
    from streams.vitals import Vitals

_LIVE_CACHED_S = 2.0

#: Replies that wait to see whether their topic exists.
_UNTRIED_KIB = 32 * 1024


def open_catalog(settings: Settings) -> GenerationCatalog:
    """The index: Weaviate where its address is set, else LanceDB in the home."""
    if settings.weaviate_url is None:
        with extra("embedded"):
            from search.lancedb_catalog import LanceCatalog

        return LanceCatalog(folder=settings.home / "index" / (settings.namespace or "default"))
    # Authlib, which weaviate-client imports, insists on telling users about its own future.
    with extra("weaviate"), warnings.catch_warnings(record=True):
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
        with extra("starter"):
            from encoders.starter import StarterEncoder

        return StarterEncoder.load(
            device=settings.device, precision=settings.precision, batch_size=settings.batch_size
        )
    with extra("worker"):
        from encoders.open_clip_encoder import OpenClipEncoder

    return OpenClipEncoder.load(
        model,
        device=settings.device,
        precision=settings.precision,
        batch_size=settings.batch_size,
    )


def encoder_of(settings: Settings, generation: Generation) -> "Encoder":
    """The encoder of a generation.

    Raises:
        FatalError: its model isn't the one that the generation was made with.
        UsageError: it can't be loaded.
    """
    encoder = load_encoder(settings, generation.model)
    check_fingerprint(encoder, generation)
    return encoder


def generation_to_work_for(catalog: GenerationCatalog, name: str | None) -> Generation:
    """The generation of that name, or the live one.

    Raises:
        UsageError: there is none, or it is retired.
    """
    generation = catalog.get(name) if name else catalog.live()
    if generation is None:
        which = f"no generation {name}" if name else "no generation is live"
        raise UsageError(f"{which}: run `pixtide index create {name or 'v1'}`")
    if generation.state is GenerationState.RETIRED:
        raise UsageError(f"generation {generation.name} is retired")
    return generation


def ingest_worker(
    settings: Settings,
    generation_name: str | None,
    vitals: "Vitals",
    *,
    max_rate: float | None = None,
    replay: Callable[[dict[str, Any]], Consumer] | None = None,
) -> "IngestWorker":
    """An ingest worker, its decoding processes started before its Kafka clients.

    Args:
        max_rate: records a second, and no more.
        replay: makes a consumer that gives certain latest records instead of the log.

    Raises:
        UsageError: there is no such generation, it is retired, or its model can't be loaded.
        FatalError: its model or its log isn't what it was created with.
    """
    from encoders.decoding import DecoderPool
    from encoders.images import Limits
    from streams.consumer_standing import Statistics
    from streams.embedded_fetch import RestingConsumer
    from streams.ingest import IngestLimits, IngestParts, IngestWorker
    from streams.ingest_watch import IngestWatch
    from streams.log_guard import LogGuard
    from streams.membership import Membership
    from streams.metrics import IngestMetrics
    from streams.originals import Originals
    from streams.reporter import Reporter
    from streams.retirement import stop_when_retired
    from streams.sibling import sibling_of

    connection = settings.kafka_connection()
    decoders = DecoderPool(
        settings.decoders, settings.decode_timeout_s, Limits(max_pixels=settings.max_pixels)
    )
    decoders.start()
    catalog = open_catalog(settings)
    generation = generation_to_work_for(catalog, generation_name)
    encoder = encoder_of(settings, generation)
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
            replay or (RestingConsumer if settings.embedded_log else Consumer),
            **statistics.configuration(),
        ),
        guard=guard,
        retries=kafka.retries_of(client, settings.named(topics.RETRY), generation.log),
        partitioner=settings.partitioner,
        fetcher=picture_fetcher(settings, store),
        originals=Originals(
            store,
            _cached(lambda: generation.is_same(catalog.live())),
            keep_all=settings.keep_originals == "all",
        ),
        decoders=decoders,
        encoder=encoder,
        index=catalog.open(generation),
        reporter=Reporter(
            kafka.producer(connection, linger_ms=5, max_bytes=largest + topics.DEAD_LETTER_ROOM),
            store,
            generation,
            outcomes_topic=settings.named(topics.INDEXED),
            dead_letters_topic=settings.named(topics.DEAD_LETTERS),
        ),
        watch=watch,
        sibling=sibling_of(generation, catalog),
    )
    worker = IngestWorker(
        parts,
        IngestLimits(
            records=settings.in_flight_records,
            bytes=settings.in_flight_bytes,
            picture_bytes=settings.max_picture_bytes,
            batch=settings.batch_size,
            fetchers=settings.fetchers,
            fetchers_per_host=settings.fetchers_per_host,
            breaker_window=0 if replay else settings.breaker_window,
            max_rate=max_rate,
            only_latest=replay is not None,
        ),
    )
    stop_when_retired(catalog, generation, worker.stop)
    return worker


def dead_letters(settings: Settings) -> "DeadLetters":
    """The dead letters; close them after use."""
    from streams.dead_letters import DeadLetters

    return DeadLetters(
        connection=settings.kafka_connection(),
        topic=settings.named(topics.DEAD_LETTERS),
        catalog=open_catalog(settings),
        store=ImageStore(settings.image_store_url),
    )


def retrier(settings: Settings, letters: "DeadLetters") -> "Retrier":
    """What sends those letters to the retry topic."""
    from streams.retrying import Retrier

    connection = settings.kafka_connection()
    largest = max(t.max_message_bytes for t in topics.topics(embedded=settings.embedded_log))
    return Retrier(
        letters,
        kafka.producer(connection, linger_ms=5, max_bytes=largest),
        connection=connection,
        dead_letters_topic=settings.named(topics.DEAD_LETTERS),
        retry_topic=settings.named(topics.RETRY),
    )


def thumbnail(settings: Settings, picture: bytes, side: int) -> bytes:
    """A JPEG of that picture, decoded in a process of its own. Raises as `DecoderPool.decode`."""
    from encoders.decoding import DecoderPool
    from encoders.images import Limits

    decoders = DecoderPool(1, settings.decode_timeout_s, Limits(max_pixels=settings.max_pixels))
    decoders.start()
    with contextlib.closing(decoders):
        return decoders.thumbnail(picture, side)


def query_consumer(settings: Settings, vitals: "Vitals") -> "QueryConsumer":
    """A query consumer that follows the alias."""
    from encoders.decoding import DecoderPool
    from encoders.images import Limits
    from streams.answers import Answers
    from streams.embedded_fetch import rest_between_fetches
    from streams.membership import Membership
    from streams.metrics import QueryMetrics
    from streams.outbox import Outbox
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

    prefix = f"{settings.namespace}\\." if settings.namespace else ""
    pictures = QueryPictures(
        picture_fetcher(settings, ImageStore(settings.image_store_url)), decoders
    )
    snapshots = Snapshots(open_catalog(settings), partial(encoder_of, settings))
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
            producer=Outbox(
                proven=kafka.reply_producer(connection),
                untried=kafka.reply_producer(connection, max_waiting_kib=_UNTRIED_KIB),
            ),
            queue=settings.query_queue,
            on_started=rest_between_fetches if settings.embedded_log else lambda _: None,
            watch=watch,
        )
    )


@contextlib.contextmanager
def thumbnails(settings: Settings, side: int) -> "Iterator[Callable[[str], bytes | None]]":
    """A callable that makes a small JPEG of the original at a URI, None where it can't be had."""
    from encoders.decoding import DecoderPool
    from encoders.images import Limits
    from streams.fetch import OriginalGoneError

    limits = Limits(max_pixels=settings.max_pixels)
    decoders = DecoderPool(settings.decoders, settings.decode_timeout_s, limits)
    decoders.start()
    fetcher = picture_fetcher(settings, ImageStore(settings.image_store_url))

    def thumbnail(uri: str) -> bytes | None:
        try:
            return decoders.thumbnail(fetcher.fetch(PictureAt(uri=uri)), side)
        except (PoisonError, TransientError, OriginalGoneError):
            return None

    with contextlib.closing(decoders), contextlib.closing(fetcher):
        yield thumbnail


def picture_fetcher(settings: Settings, store: ImageStore) -> "Fetcher":
    """What gets pictures from where their events say, under these settings' limits."""
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


def async_search_client(settings: Settings, *, timeout_s: float = 10.0) -> "AsyncSearchClient":
    """Its twin for asyncio."""
    from streams.async_client import AsyncSearchClient

    return AsyncSearchClient(
        settings.kafka_connection(),
        request_topic=settings.named(topics.REQUESTS),
        reply_topic=settings.named(topics.REPLIES),
        timeout_s=timeout_s,
        rests=settings.embedded_log,
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
def extra(name: str) -> Iterator[None]:
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
