"""`make bench-search`: searches over Kafka, on the embedded parts, against a plain Faust agent.

Broker, query consumer, ingest worker and load driver share the machine. Each contender serves
the same collection with the same model; contenders take turns, forwards and then backwards. What
a reply can't be quicker than is measured too: an agent that answers without searching, and a
search without Kafka. In between pixtide is measured, once, on Apache Kafka and Weaviate.
"""

import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
from confluent_kafka.cimpl import NewTopic

from pixtide.schemas import topics
from pixtide.schemas.codec import encode_event
from pixtide.schemas.events import ImageUploaded, InlinePicture
from pixtide.search.port import Query
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.wiring.adapters import load_encoder
from tests.benchmarks import plain_faust
from tests.benchmarks.load import Load, Measured
from tests.benchmarks.machine import describe, matrix_product_gflops
from tests.benchmarks.search_rows import fill
from tests.benchmarks.words import phrases, zipf
from tests.servers import Servers
from tests.support.deployments import Deployment, Embedded, OnServers, killed_in_the_end
from tests.support.pictures import jpeg

_DISTINCT = 5000
_MOST = 8000
#: Requests under way at once.
_WINDOW, _FEW = 256, 16
_CALM, _BRISK = 20, 1500
_WARM_UP_S = 5.0
#: What no cache makes quicker with time needs less of it.
_STEADY_SHARE = 1 / 3
#: More than the starter model encodes on two cores.
_PICTURES_PER_S, _BATCH = 200, 100


@dataclass(frozen=True)
class Result:
    """One contender in one round."""

    contender: str
    queries: str
    replies_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    errors: int
    lost: int
    sentinel_gflops: float


class Benchmark:
    """The measurements so far, and what they share."""

    def __init__(self, folder: Path, rows: int, seconds: float) -> None:
        self.results: list[Result] = []
        self._folder = folder
        self._rows = rows
        self._seconds = seconds
        every = phrases(_MOST)
        self._distinct = every[:_DISTINCT]
        self._repeated = [every[n] for n in zipf(_DISTINCT, 200_000)]
        self._unique = [f"{text} {n}" for n in range(50) for text in every]

    def pixtide(self) -> None:
        """With all that it has by default; in the end while its ingest worker is busy."""
        with _stack(self._folder, self._rows) as stack, _load(stack, topics.REQUESTS) as load:
            self._closed("pixtide", load, {"Zipf": self._repeated})
            for rate in (_CALM, _BRISK):
                self._open("pixtide", load, rate)
            with _busy_ingest(stack):
                self._open("pixtide, while it ingests", load, _CALM)

    def pixtide_without_reply_cache(self) -> None:
        """Each distinct request of a batch is searched for."""
        off = {"PIXTIDE_REPLY_CACHE_BYTES": "0"}
        with (
            _stack(self._folder, self._rows, **off) as stack,
            _load(stack, topics.REQUESTS) as load,
        ):
            kinds = {"Zipf": self._repeated, "unique": self._unique}
            self._closed("pixtide, no reply cache", load, kinds)

    def on_servers(self) -> None:
        """Weaviate names no state of its data, so that no reply is remembered."""
        with _servers(self._folder, self._rows) as stack:
            settings = stack.settings()
            with _load(stack, settings.named(topics.REQUESTS)) as load:
                kinds = {"Zipf": self._repeated, "unique": self._unique}
                self._closed("pixtide on Kafka and Weaviate", load, kinds, steady=True)
                self._open("pixtide on Kafka and Weaviate", load, _CALM)

    def plain_faust(self) -> None:
        """A request at a time; and the echo, which shares its process."""
        with _stack(self._folder, self._rows) as stack, _plain(stack):
            with _load(stack, plain_faust.TOPIC) as load:
                kinds = {"Zipf": self._repeated, "unique": self._unique}
                self._closed("plain Faust agent", load, kinds, window=_FEW)
            with _load(stack, plain_faust.ECHO) as load:
                self._open("an echo, without a search", load, _CALM)

    def no_kafka(self) -> None:
        """What encoding and searching take, one text after the other."""
        with _stack(self._folder, self._rows) as stack, stack.index() as index:
            encoder = load_encoder(stack.settings(), "starter")

            def measure() -> Measured:
                measured, started = Measured(), time.perf_counter()
                for text in self._unique[: int(_CALM * self._seconds * _STEADY_SHARE)]:
                    begun = time.perf_counter()
                    index.search([Query(encoder.encode_texts([text])[0], 11)])
                    measured.latencies_ms.append((time.perf_counter() - begun) * 1000)
                measured.seconds = time.perf_counter() - started
                return measured

            self._note("a search without Kafka", "unique, one by one", measure)

    def _closed(
        self,
        contender: str,
        load: Load,
        kinds: dict[str, list[str]],
        *,
        window: int = _WINDOW,
        steady: bool = False,
    ) -> None:
        if window == _WINDOW:
            load.once(self._distinct, window=window)
        load.closed(self._repeated, seconds=_WARM_UP_S, window=window)
        for queries, texts in kinds.items():
            short = steady or texts is self._unique or window == _FEW
            seconds = self._seconds * (_STEADY_SHARE if short else 1)
            self._note(contender, queries, partial(
                load.closed, texts, seconds=seconds, window=window
            ))  # fmt: skip

    def _open(self, contender: str, load: Load, rate: int) -> None:
        """Calm, no text is asked twice, so that each is encoded and searched for."""
        kind, texts = ("unique", self._unique) if rate == _CALM else ("Zipf", self._repeated)
        self._note(contender, f"{kind} at {rate:,}/s", partial(
            load.open, texts, seconds=self._seconds * _STEADY_SHARE, rate=rate
        ))  # fmt: skip

    def _note(self, contender: str, queries: str, measure: Callable[[], Measured]) -> None:
        sentinel = matrix_product_gflops()
        measured = measure()
        result = Result(
            contender=contender,
            queries=queries,
            replies_per_s=round(measured.per_second, 1),
            p50_ms=round(measured.percentile(50), 1),
            p95_ms=round(measured.percentile(95), 1),
            p99_ms=round(measured.percentile(99), 1),
            errors=measured.errors,
            lost=measured.lost,
            sentinel_gflops=sentinel,
        )
        click.echo(result, err=True)
        self.results.append(result)


def run(rows: int, seconds: float, rounds: int, out: Path) -> None:
    """Measure, and write the results as JSON and as a Markdown table."""
    with tempfile.TemporaryDirectory(prefix="pixtide-bench-") as folder:
        benchmark = Benchmark(Path(folder), rows, seconds)
        turns = [
            benchmark.pixtide,
            benchmark.pixtide_without_reply_cache,
            benchmark.plain_faust,
            benchmark.no_kafka,
        ]
        for number in range(rounds):
            for turn in reversed(turns) if number % 2 else turns:
                turn()
            if number == 0:
                benchmark.on_servers()
    out.mkdir(parents=True, exist_ok=True)
    machine = describe()
    raw = {"machine": machine, "rows": rows, "seconds": seconds}
    raw["results"] = [asdict(result) for result in benchmark.results]
    (out / "search.json").write_text(json.dumps(raw, indent=1) + "\n")
    (out / "search.md").write_text(table(benchmark.results, machine, rows, seconds, rounds))
    click.echo((out / "search.md").read_text())


@contextlib.contextmanager
def _plain(stack: Embedded) -> Iterator[None]:
    ready = stack.folder / "plain.ready"
    ready.unlink(missing_ok=True)
    kafka_clients.admin(stack.settings().kafka_connection()).create_topics(
        [NewTopic(name, 6, 1) for name in (plain_faust.TOPIC, plain_faust.ECHO)]
    )
    process = subprocess.Popen(
        [sys.executable, "-m", plain_faust.__name__, str(ready)],
        env=stack.env | {"PIXTIDE_KAFKA": stack.settings().bootstrap()},
    )
    try:
        while not ready.exists():
            time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _stack(folder: Path, rows: int, **settings: str) -> Iterator[Embedded]:
    """The embedded stack over a collection that is filled the first time."""
    home = folder / "home"
    new = not home.exists()
    stack = Embedded(home, PIXTIDE_HOME=str(home), **settings)
    try:
        stack.start()
        if new:
            with stack.index() as index:
                fill(index, load_encoder(stack.settings(), "starter"), rows)
            stack.stop()
            stack.start()  # a worker that starts puts what isn't in the vectors' index into it
        yield stack
    finally:
        stack.stop()


@contextlib.contextmanager
def _servers(folder: Path, rows: int) -> Iterator[OnServers]:
    """A query consumer on Apache Kafka and Weaviate, over a collection like the other."""
    home = folder / "on-servers"
    home.mkdir()
    with Servers(home, {"kafka", "weaviate"}, partial(click.echo, err=True)) as servers:
        kafka_server, weaviate = servers.kafka(), servers.weaviate()
        stack = OnServers(
            home / "home",
            kafka=kafka_server.bootstrap,
            weaviate_url=weaviate.http_url,
            grpc_port=weaviate.grpc_port,
            PIXTIDE_MODEL="starter",
        )
        with killed_in_the_end(stack):
            stack.create()
            with stack.index() as index:
                fill(index, load_encoder(stack.settings(), "starter"), rows)
            stack.start_process("query")
            yield stack


@contextlib.contextmanager
def _busy_ingest(stack: Embedded) -> Iterator[None]:
    """The worker has pictures to encode all the while."""
    stop = threading.Event()
    settings = stack.settings()
    producer = kafka_clients.producer(settings.kafka_connection(), linger_ms=5)

    def publish() -> None:
        for start in itertools.count(0, _BATCH):
            if stop.wait(_BATCH / _PICTURES_PER_S):
                return
            for number in range(start, start + _BATCH):
                key, value, headers = encode_event(_uploaded(number))
                producer.produce(settings.named(topics.UPLOADED), value, key, headers=list(headers))
            producer.flush(30)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    # what is left of it would be worked on beside whoever is next
    while json.loads(stack.run("index", "status", "--json"))["lag"]:
        time.sleep(1)


def _uploaded(number: int) -> ImageUploaded:
    return ImageUploaded(
        image_id=f"busy/{number % 1000}.jpg",
        event_id=str(number),
        source="/benchmark",
        uploaded_at=datetime.now(UTC),
        picture=InlinePicture(data=jpeg(number, 320), content_type="image/jpeg"),
    )


@contextlib.contextmanager
def _load(stack: Deployment, requests: str) -> Iterator[Load]:
    settings = stack.settings()
    load = Load(settings.bootstrap(), requests, settings.named(topics.REPLIES))
    try:
        yield load
    finally:
        load.close()


def table(
    results: list[Result], machine: dict[str, Any], rows: int, seconds: float, rounds: int
) -> str:
    """The medians of the rounds."""
    lines = [
        "# Searches over Kafka",
        "",
        f"{rows:,} vectors of 384 dimensions in LanceDB, starter model, embedded broker; "
        f"{seconds:g} s each, a third of that where caches don't matter, when each of the "
        f"{_DISTINCT:,} texts of the Zipf distribution has been asked for once; "
        + (f"the median of {rounds} rounds. " if rounds > 1 else "one round. ")
        + "Made by `make bench-search` on: "
        + ", ".join(f"{name} {value}" for name, value in machine.items())
        + ".",
        "",
        "| | queries | replies/s | p50 ms | p95 ms | p99 ms | errors | lost |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.contender, result.queries), []).append(result)
    for (contender, queries), each in groups.items():
        middle = [
            statistics.median(getattr(one, name) for one in each)
            for name in ("replies_per_s", "p50_ms", "p95_ms", "p99_ms")
        ]
        total = [sum(getattr(one, name) for one in each) for name in ("errors", "lost")]
        lines.append(
            f"| {contender} | {queries} | "
            + " | ".join([f"{middle[0]:,.0f}", *(f"{m:.1f}" for m in middle[1:]), *map(str, total)])
            + " |"
        )
    return "\n".join(lines) + "\n"
