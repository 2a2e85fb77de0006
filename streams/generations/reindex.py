"""Reindexing: builds a new generation beside the live one, from the log, with ordinary workers.

1. begin    create the generation, or find the one that an earlier run created
2. build    run a worker for it until it has read the log to where it ended at the start
3. verify   check that it holds what the log says
4. ask      ask whether to promote it
5. promote  promote it

Each step finds what is done already. So a new run continues one that was interrupted.
"""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from pixtide.schemas.errors import PixtideError, UsageError
from pixtide.search.generations import Compression, Generation, GenerationState
from pixtide.search.port import GenerationCatalog
from pixtide.streams.generations.create import create_generation
from pixtide.streams.generations.progress import Tell, await_group
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import offsets as kafka_offsets
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
    """The generation to build: one that an earlier run created for the same, or a new one.

    It may be live already, if an earlier run finished. If the model's files have changed since, it
    is not the same.

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
    """Wait until it has read the log to its current end.

    Raises:
        NotReadError: no progress for `timeout_s`.
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
    """Run a low-priority ingest worker for it, unless the stack has its own workers.

    Gives a callable that raises PixtideError once the worker has ended.
    """
    if settings.embedded_log:
        if max_rate is not None:
            raise UsageError("--max-rate: the embedded stack builds it by a worker of its own")
        yield lambda: None
        return
    log = settings.home / "logs" / f"reindex-{generation.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pixtide.streams.cli.main", "ingest", "--background"]
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
