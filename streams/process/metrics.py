"""Every metric of pixtide, by name. docs/metrics.md is generated from here.

Times are in seconds, sizes in bytes. Nothing is registered globally: each process creates its own
`Instruments`, with a registry of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Described:
    """A metric as the docs describe it; a counter has the name that scrapers see."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


class Instruments:
    """Creates a process's metrics in one registry, and remembers what they mean."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.described: list[Described] = []

    def counter(self, name: str, meaning: str, *labels: str) -> Counter:
        """A value that grows while the process lives."""
        self.described.append(Described(f"{name}_total", "counter", labels, meaning))
        return Counter(name, meaning, labels, registry=self.registry)

    def gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        """A current value."""
        self.described.append(Described(name, "gauge", labels, meaning))
        return Gauge(name, meaning, labels, registry=self.registry)

    def histogram(
        self, name: str, meaning: str, *labels: str, buckets: Sequence[float] = _SECONDS
    ) -> Histogram:
        """Counts values by size."""
        self.described.append(Described(name, "histogram", labels, meaning))
        return Histogram(name, meaning, labels, buckets=buckets, registry=self.registry)


class ProcessMetrics:
    """The metrics of every worker, besides the usual `process_…` for memory, CPU and start time."""

    def __init__(self, make: Instruments) -> None:
        ProcessCollector(registry=make.registry)
        self.ready = make.gauge(
            "pixtide_ready", "1 while the process is ready, as /ready says it; else 0"
        )


class IngestMetrics:
    """The metrics of an ingest worker."""

    def __init__(self, make: Instruments) -> None:
        self.outcomes = make.counter(
            "pixtide_ingest_outcomes",
            "records finished, by what became of them",
            *("generation", "outcome"),
        )
        self.dead_letters = make.counter(
            "pixtide_ingest_dead_letters",
            "records dead-lettered, by reason code",
            *("generation", "code"),
        )
        self.stage_seconds = make.histogram(
            "pixtide_ingest_stage_seconds",
            "time per record in fetch, look_up, decode, store, encode, write and report; "
            "of those that take several records at once its share",
            *("generation", "stage"),
        )
        self.batch_pictures = make.histogram(
            "pixtide_ingest_batch_pictures",
            "pictures encoded at once",
            "generation",
            buckets=_COUNTS,
        )
        self.retries = make.counter(
            "pixtide_ingest_retries",
            "attempts that failed for now and are made again; the steps look_up and write are "
            "the index's, report the broker's, fetch and store the image store's",
            *("generation", "step"),
        )
        self.retrying = make.gauge(
            "pixtide_ingest_retrying",
            "threads that wait to try a step again; above 0 the worker is not ready",
            *("generation", "step"),
        )
        self.lag = make.gauge(
            "pixtide_ingest_lag_records",
            "offsets between the partition's end and what the group has committed",
            *("generation", "partition"),
        )
        self.retry_lag = make.gauge(
            "pixtide_ingest_retry_lag_records",
            "dead letters sent to be tried again, and not yet tried, in this worker's partitions",
            "generation",
        )
        self.in_flight_records = make.gauge(
            "pixtide_ingest_in_flight_records", "records taken on and not finished", "generation"
        )
        self.in_flight_bytes = make.gauge(
            "pixtide_ingest_in_flight_bytes", "bytes of these records", "generation"
        )
        self.paused = make.gauge(
            "pixtide_ingest_paused",
            "1 while no records are taken on: it is full, its breaker is open, or it is stopping",
            *("generation", "reason"),
        )


class QueryMetrics:
    """The metrics of a query consumer."""

    def __init__(self, make: Instruments) -> None:
        self.replies = make.counter(
            "pixtide_query_replies", "replies sent, by code; OK is no error", "code"
        )
        self.expired = make.counter(
            "pixtide_query_expired", "requests dropped because their deadline had passed"
        )
        self.undelivered = make.counter(
            "pixtide_query_undelivered_replies", "replies that the broker did not take"
        )
        self.unreadable = make.counter(
            "pixtide_query_unreadable_records",
            "records passed because they can't be read as such: an unknown codec, a wrong checksum",
        )
        self.forbidden = make.counter(
            "pixtide_query_forbidden_reply_topics",
            "requests dropped because their reply topic is missing or not allowed",
        )
        self.stage_seconds = make.histogram(
            "pixtide_query_stage_seconds",
            "time per batch in encode, search and rank",
            *("generation", "stage"),
        )
        self.batch_requests = make.histogram(
            "pixtide_query_batch_requests", "requests answered at once", buckets=_COUNTS
        )
        self.cached = make.counter(
            "pixtide_query_cached_replies", "distinct requests answered from remembered replies"
        )
        self.queue = make.gauge("pixtide_query_queue_requests", "requests that wait")
        self.texts = make.gauge("pixtide_query_texts_cached", "texts whose vectors are remembered")
        self.snapshot = make.gauge(
            "pixtide_query_snapshot",
            "1 for the generation that requests are served from",
            *("generation", "model", "fingerprint"),
        )
        self.lag = make.gauge(
            "pixtide_query_lag_records",
            "offsets between the partition's end and what the group has committed",
            "partition",
        )
