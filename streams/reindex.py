"""Reindexing: a new generation beside the live one, built from the log by ordinary ingest workers.

1. begin    create the generation, or find the one that an earlier run began
2. build    run a worker for it until it has read the log to where it ended when asked
3. verify   that it holds what the log says
4. ask      whether to promote it
5. promote  it

Each step finds done what was done before: a run that broke off is gone on with by another.
"""

import contextlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from pixtide.schemas import topics
from pixtide.schemas.errors import PixtideError, UsageError
from pixtide.search.generations import NAME, AttributeType, Compression, Generation, GenerationState
from pixtide.search.port import GenerationCatalog
from pixtide.streams.generations.progress import Tell, await_group
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.settings import Settings
from pixtide.streams.wiring.adapters import load_encoder

_STOP_S = 30.0


@dataclass(frozen=True)
class Reindex:
    """What is wanted: which model, under which name (None: the next free `v<number>`)."""

    model: str
    name: str | None = None
    compression: Compression = "rq8"
    max_rate: float | None = None


# 1. begin


def begin(settings: Settings, catalog: GenerationCatalog, wanted: Reindex) -> Generation:
    """The generation to build: the one that an earlier run began for the same, or a new one.

    It may be live already, where an earlier run came to its end. One whose model's files have
    changed since is not the same.

    Raises:
        UsageError: the name is taken by another generation; and as `create_generation`.
        TransientError: a server can't be reached.
    """
    live, known = catalog.live(), catalog.list()
    fingerprint = cache(lambda: load_encoder(settings, wanted.model).fingerprint)
    for generation in reversed(known):
        same = (generation.model, generation.compression, generation.replication) == (
            wanted.model,
            wanted.compression,
            settings.index_replication,
        ) and generation.fingerprint == fingerprint()
        retired = generation.state is GenerationState.RETIRED
        if generation.name == wanted.name and (retired or not same):
            raise UsageError(f"generation {wanted.name} is another one: choose another name")
        newer = live is None or generation.created_at >= live.created_at
        if same and newer and not retired and wanted.name in (None, generation.name):
            return generation
    name = wanted.name or _next_name({generation.name for generation in known})
    return create_generation(
        settings, catalog, name, model=wanted.model, compression=wanted.compression
    )


def _next_name(taken: set[str]) -> str:
    number = 1
    while f"v{number}" in taken:
        number += 1
    return f"v{number}"


# 2. build


def build(settings: Settings, generation: Generation, *, timeout_s: float, tell: Tell) -> None:
    """Wait until it has read the log to where it ends now.

    Raises:
        NotReadError: nothing moves for `timeout_s`.
        PixtideError: the worker ended.
        TransientError: the broker can't be reached.
    """
    log = generation.log
    ends = kafka_offsets.ends(
        kafka_clients.admin(settings.kafka_connection()), log.topic, range(log.partitions)
    )
    await_group(
        settings, generation, ends, timeout_s, tell=tell, what=f"building {generation.name}"
    )


@contextlib.contextmanager
def worker_for(
    settings: Settings, generation: Generation, max_rate: float | None
) -> Iterator[Callable[[], None]]:
    """Run an ingest worker for it that gives way to all else, but where the stack has its own.

    Gives a callable that raises PixtideError once the worker has ended.
    """
    if settings.embedded_log:
        if max_rate is not None:
            raise UsageError("--max-rate: the embedded stack builds it by a worker of its own")
        yield lambda: None
        return
    log = settings.home / "logs" / f"reindex-{generation.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pixtide.streams.cli", "ingest", "--background"]
    command += ["--generation", generation.name]
    command += ["--max-rate", str(max_rate)] if max_rate else []
    with log.open("wb") as output:
        worker = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    def check() -> None:
        if worker.poll() is not None:
            raise PixtideError(f"the worker ended with code {worker.returncode}: see {log}")

    try:
        yield check
    finally:
        worker.terminate()
        try:
            worker.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def create_generation(
    settings: Settings,
    catalog: GenerationCatalog,
    name: str,
    *,
    model: str,
    compression: Compression = "rq8",
    attributes: Mapping[str, AttributeType] | None = None,
) -> Generation:
    """Create an empty generation over today's log; the first one of an index goes live at once.

    The group's position is committed before the record is written, so that no worker of this
    generation ever has to guess where to begin.

    Raises:
        UsageError: the name is taken, the model can't be loaded, or a topic is missing.
        TransientError: a server can't be reached.
    """
    if not re.fullmatch(NAME, name):
        raise UsageError(f"{name!r}: a generation's name is a-z, 0-9 and _, starting with a letter")
    if catalog.get(name) is not None:
        raise UsageError(f"generation {name} exists: choose another name")
    connection = settings.kafka_connection()
    client = kafka_clients.admin(connection)
    log = kafka_topics.log_identity(client, settings.named(topics.UPLOADED))
    encoder = load_encoder(settings, model)
    generation = Generation(
        name=name,
        model=model,
        fingerprint=encoder.fingerprint,
        dimension=encoder.dimension,
        collection=f"images_{name}",
        group=settings.named(f"ingest.{name}"),
        log=log,
        compression=compression,
        replication=settings.index_replication,
        attributes=dict(attributes or {}),
        created_at=datetime.now(UTC),
    )
    beginning = kafka_offsets.beginnings(client, log.topic, range(log.partitions))
    kafka_offsets.commit_beginning(connection, generation.group, log.topic, beginning)
    retries = kafka_topics.retries_of(client, settings.named(topics.RETRY), log)
    # What was tried again so far, the log holds itself, if it still counts.
    so_far = kafka_offsets.ends(client, retries.topic, range(retries.partitions))
    kafka_offsets.commit_beginning(connection, generation.group, retries.topic, so_far)
    catalog.create(generation)
    if catalog.live() is None:
        catalog.promote(name)
    return generation
