"""Builds the ingest worker from the settings."""

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer

from pixtide.encoders.port import is_eight_bit
from pixtide.schemas import topics
from pixtide.search.port import GenerationCatalog
from pixtide.streams.ingest.kept_originals import Originals
from pixtide.streams.ingest.other_generations import OtherGenerations
from pixtide.streams.ingest.reporter import Reporter
from pixtide.streams.ingest.retirement import stop_when_retired
from pixtide.streams.ingest.row_copier import sibling_of
from pixtide.streams.ingest.start_positions import Positions
from pixtide.streams.ingest.telemetry import IngestWatch
from pixtide.streams.ingest.worker import IngestLimits, IngestParts, IngestWorker
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import groups as kafka_groups
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.kafka.consumer_check import ConsumerCheck
from pixtide.streams.kafka.consumer_position import Statistics
from pixtide.streams.kafka.embedded_broker import RestingConsumer
from pixtide.streams.kafka.later_records import LaterRecords
from pixtide.streams.kafka.log_guard import LogGuard
from pixtide.streams.kafka.renewed_client import RenewedClient
from pixtide.streams.originals.store import ImageStore
from pixtide.streams.process.metrics import IngestMetrics
from pixtide.streams.process.progress import Progress
from pixtide.streams.process.starting import Starting
from pixtide.streams.settings import Settings
from pixtide.streams.wiring.adapters import open_catalog
from pixtide.streams.wiring.generations import encoder_of, generation_to_work_for
from pixtide.streams.wiring.observed import Vitals
from pixtide.streams.wiring.pictures import decoder_pool, picture_fetcher

if TYPE_CHECKING:
    pass


#: Default records in flight, and the least number of batches in flight.
_RECORDS, _BATCHES = 256, 4


def threads_of(settings: Settings) -> int:
    """How many cores the encoder may use when it computes on the CPU."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    capped = int(told) if told.isdigit() else 0
    return settings.threads or capped or len(os.sched_getaffinity(0))


def records_of(settings: Settings) -> int:
    """How many records an ingest worker takes on: some are decoded while others are encoded."""
    return settings.in_flight_records or max(_RECORDS, _BATCHES * settings.batch_size)


#: A worker with a rate limit should finish a record within the time that this many take at that
#: rate; otherwise it is stuck.
_RECORDS_DONE = 10


#: How many batches a CPU encodes in parallel, each on its share of the cores. Cores that encode one
#: batch together wait for each other in every layer.
_BATCHES_AT_ONCE = 4


#: On a GPU, one batch is computed while the other is copied to it or back.
_BATCHES_OF_A_GPU = 2


def ingest_worker(
    settings: Settings,
    generation_name: str | None,
    vitals: Vitals,
    *,
    max_rate: float | None = None,
    replay: Callable[[dict[str, Any]], Consumer] | None = None,
) -> IngestWorker:
    """An ingest worker. Its decoding processes start before its Kafka clients.

    Args:
        max_rate: the most records a second.
        replay: makes a consumer that gives chosen latest records instead of the log.

    Raises:
        UsageError: there is no such generation, it is retired, or its model can't be loaded.
        FatalError: its model or its log isn't the one that it was created with.
    """

    connection = settings.kafka_connection()
    starting = Starting(vitals.health, waits=replay is None)
    decoders = decoder_pool(settings, settings.decoders)
    catalog = open_catalog(settings)
    generation = starting(lambda: generation_to_work_for(catalog, generation_name))
    threads = threads_of(settings)
    # OpenVINO spreads one batch well over the cores, and takes one at a time
    at_once = 1 if is_eight_bit(generation.fingerprint) else min(threads, _BATCHES_AT_ONCE)
    share = settings.changed(threads=-(-threads // at_once))
    encoder = starting(lambda: encoder_of(share, generation))
    encoder.warm_up()
    vitals.health.report("encoder", None)
    progress = Progress(_stalled_s(settings, max_rate), "record has finished")
    watch = IngestWatch(vitals.health, IngestMetrics(vitals.instruments), generation.name, progress)
    store = ImageStore(settings.image_store_url)
    client = kafka_clients.admin(connection)
    guard = LogGuard(client, generation.log)
    starting(guard.check)
    for topic in (topics.INDEXED, topics.DEAD_LETTERS):  # else it would wait for them when full
        starting(partial(kafka_topics.partitions_of, client, settings.named(topic)))
    starting(lambda: kafka_groups.require_group(client, generation.group))
    retry_topic = settings.named(topics.RETRY)
    retries = starting(lambda: kafka_topics.retries_of(client, retry_topic, generation.log))
    largest = max(t.max_message_bytes for t in topics.topics(embedded=settings.embedded_log))
    statistics = Statistics(generation.log.topic, retry_topic, on_retry_lag=watch.retry_lag)
    membership = ConsumerCheck(
        client,
        generation.log.topic,
        look=lambda: watch.standing(statistics),
        on_lags=watch.lags,
        on_late=watch.late,
        on_waiting=lambda records: watch.waits(records, cut_off=statistics.cut_off),
    )
    vitals.health.check("log", membership.check)
    originals = Originals(
        store,
        OtherGenerations(generation, catalog),
        LaterRecords(connection, client, generation.log.topic),
        keep_all=settings.keep_originals == "all",
    )
    index = starting(lambda: catalog.open(generation))
    starting(index.tidy)
    vitals.health.check("index", lambda: _look_at(catalog))
    parts = IngestParts(
        connect=lambda more: kafka_clients.ingest_consumer(
            connection,
            generation.group,
            replay or (RestingConsumer if settings.embedded_log else Consumer),
            **kafka_clients.session(settings.session_timeout_s),
            **statistics.configuration(),
            **more,
        ),
        positions=Positions(connection, client, generation.group, guard),
        guard=guard,
        retries=retries,
        partitioner=settings.partitioner,
        fetcher=picture_fetcher(settings, store),
        originals=originals,
        decoders=decoders,
        encoder=encoder,
        index=index,
        reporter=Reporter(
            RenewedClient(
                partial(
                    kafka_clients.producer,
                    connection,
                    linger_ms=5,
                    max_bytes=largest + topics.DEAD_LETTER_ROOM,
                )
            ),
            store,
            generation,
            outcomes_topic=settings.named(topics.INDEXED),
            dead_letters_topic=settings.named(topics.DEAD_LETTERS),
        ),
        watch=watch,
        sibling=starting(lambda: sibling_of(generation, catalog)),
    )
    worker = IngestWorker(
        parts,
        IngestLimits(
            records=records_of(settings),
            bytes=settings.in_flight_bytes,
            picture_bytes=settings.max_picture_bytes,
            batch=settings.batch_size,
            decoders=settings.decoders,
            encoders=at_once if encoder.device == "cpu" else _BATCHES_OF_A_GPU,
            fetchers=settings.fetchers,
            fetchers_per_host=settings.fetchers_per_host,
            breaker_window=0 if replay else settings.breaker_window,
            session_s=settings.session_timeout_s,
            max_rate=max_rate,
            only_latest=replay is not None,
        ),
    )
    stop_when_retired(catalog, generation, worker.stop)
    return worker


def _look_at(catalog: GenerationCatalog) -> str | None:
    """Check that the index answers and accepts writes; an index that is away raises its error."""
    catalog.live()
    if closed := catalog.read_only():
        return (
            f"{', '.join(closed)} take no writes, as Weaviate has it at a full disk, and keeps it: "
            "free some, then run `pixtide index writable`"
        )
    return None


def _stalled_s(settings: Settings, max_rate: float | None) -> float:
    """How long nothing may finish. More for a worker with a rate limit, and for slow fetches."""
    if not settings.stalled_s:
        return 0
    slow_s = _RECORDS_DONE / max_rate if max_rate else 0
    return max(settings.stalled_s, slow_s, 2 * settings.fetch_timeout_s)
