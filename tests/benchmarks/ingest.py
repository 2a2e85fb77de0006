"""`make bench-ingest`: how near ingest comes to what the machine allows, however much is indexed.

Everything shares the machine: broker, index, worker, and the publisher, which rests while its
pictures are indexed. Stretches of new pictures, stretches with duplicates, and the stages one by
one on one core take turns. In `docs/benchmarks/ingest.json` each part keeps what its last run
measured.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from confluent_kafka.cimpl import NewTopic

from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka.connection import KafkaConnection
from tests.benchmarks import ingest_growth, ingest_loop, ingest_stages
from tests.benchmarks.contender import Contender, capped
from tests.benchmarks.ingest_parts import (
    Measured,
    Traffic,
    altered,
    embedded,
    on_servers,
)
from tests.benchmarks.ingest_report import GROWN, plot, table
from tests.benchmarks.machine import describe
from tests.benchmarks.pairs import PAIRS, Turns, take_turns
from tests.servers import Servers
from tests.support.deployments import PIXTIDE

PARTS = ("embedded", "servers", "growth", "growth-servers", "loop", "start")
_ROOT = Path(__file__).parents[2]
_DUPLICATES = 0.3
#: Pictures.
_STRETCH, _STAGE_BATCHES, _WARM_UP = 400, 4, 1000
_PARTITIONS = 6
#: Records that a loop takes in a run: small ones name a picture, large ones hold one. The slowest
#: takes fewer, which take it seconds as well. Who takes longer than this is left out from then on.
_LOOP = {"names": (200_000, 400), "pictures": (6_000, 43_000)}
_SLOW = {"faust": 5}
_LOOP_S = 30.0
_QUIXSTREAMS = "quixstreams==3.28.1"
#: All that a search imports and makes before it speaks to a broker.
_SEARCH = (
    "import pixtide.streams.cli.main, pixtide.streams.terminal;"
    "from pixtide.streams.settings import load_settings;"
    "from pixtide.streams.wiring.clients import search_client;"
    "import pixtide.streams.client.blocking, pixtide.schemas.queries; load_settings()"
)


def run(only: Sequence[str], pictures: int, note: str, out: Path) -> None:
    """Measure these parts, and write all parts' results as JSON and as Markdown."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "ingest.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    results |= {"machine": describe() | ({"note": note} if note else {})}
    measure: dict[str, Callable[[Path], dict[str, Any]]] = {
        "embedded": lambda folder: _end_to_end(embedded(folder), folder),
        "servers": lambda folder: _end_to_end(_on_servers(folder), folder),
        "growth": lambda folder: _growth(embedded, pictures, folder),
        "growth-servers": lambda folder: _growth(_on_servers, pictures, folder),
        "loop": _loop,
        "start": lambda _: _start(),
    }
    for part in only:
        with tempfile.TemporaryDirectory(prefix="pixtide-bench-") as folder:
            results[part] = measure[part](Path(folder))
        file.write_text(json.dumps(results, indent=1) + "\n")
    (out / "ingest.md").write_text(table(results))
    if results.keys() & GROWN.keys():
        (out / "ingest.svg").write_text(plot(results))
    click.echo((out / "ingest.md").read_text())


@contextmanager
def _on_servers(folder: Path, **settings: str) -> Iterator[Measured]:
    (folder / "servers").mkdir()
    with Servers(folder / "servers", {"kafka", "weaviate"}, lambda said: click.echo(said)) as made:
        deployment = on_servers(folder, made.kafka(), made.weaviate(), **settings)
        try:
            yield deployment
        finally:
            for name in list(deployment.processes):
                deployment.kill(name)


def _end_to_end(deployed: AbstractContextManager[Measured], folder: Path) -> dict[str, Any]:
    """Turns, once it is warm, then what the worker's profile says."""
    with deployed as deployment:
        deployment.run("index", "create", ingest_stages.GENERATION)
        started = time.perf_counter()
        deployment.start_worker()
        ready_s = time.perf_counter() - started
        traffic = Traffic(deployment, altered())
        with _stages(deployment, folder) as stages:
            traffic.rate(_WARM_UP)
            each_ms: list[dict[str, float]] = []
            at = deployment.pictures and str(deployment.pictures)

            def limit() -> float:
                each_ms.append(stages.ask(batches=_STAGE_BATCHES, folder=at))
                cores = len(os.sched_getaffinity(0))
                return cores / sum(each_ms[-1].values()) * 1000

            turns = take_turns(
                {
                    "new": lambda: traffic.rate(_STRETCH),
                    "duplicates": lambda: traffic.rate(_STRETCH, _DUPLICATES),
                    "limit": limit,
                }
            )
        profile = deployment.stop_worker()
    return {
        "ready_s": round(ready_s, 1),
        "stages_ms": {
            stage: round(statistics.median(each[stage] for each in each_ms), 2)
            for stage in ingest_stages.STAGES
        },
        "share_of_limit": asdict(turns.ratio("new", "limit")),
        "duplicates": {"share": _DUPLICATES} | asdict(turns.ratio("duplicates", "new")),
        "profile": profile,
        **_raw(turns),
    }


def _growth(
    deployed: Callable[..., AbstractContextManager[Measured]], pictures: int, folder: Path
) -> dict[str, Any]:
    with deployed(folder, **ingest_growth.settings(folder)) as deployment:
        return ingest_growth.grow(deployment, pictures)


def _stages(deployment: Measured, folder: Path) -> Contender:
    settings = {k: v for k, v in deployment.env.items() if k.startswith("PIXTIDE_")}
    command = [sys.executable, "-m", ingest_stages.__name__]
    return Contender("stages", command, threads=1, log=folder / "stages.log", env=settings)


def _raw(turns: Turns) -> dict[str, Any]:
    figures = {name: [round(f, 1) for f in each] for name, each in turns.figures.items()}
    return {"turns": figures, "sentinels_gflops": turns.sentinels}


def _loop(folder: Path) -> dict[str, Any]:
    """Consumers of the same records on Apache Kafka, which do nothing with them."""
    (folder / "servers").mkdir()
    found = {}
    with Servers(folder / "servers", {"kafka"}, lambda said: click.echo(said)) as servers:
        bootstrap = servers.kafka().bootstrap
        for kind, (count, size) in _LOOP.items():
            _fill(bootstrap, kind, count, size)
            failed: dict[str, str] = {}
            turns = take_turns(
                {
                    name: _consume(name, bootstrap, kind, count, failed)
                    for name in ingest_loop.CONTENDERS
                }
            )
            ratios = {
                name: asdict(turns.ratio("pixtide", name))
                for name in ingest_loop.CONTENDERS
                if name != "pixtide" and not failed.keys() & {name, "pixtide"}
            }
            found[kind] = {"bytes": size, "ratios": ratios, "failed": failed, **_raw(turns)}
    return found


def _fill(bootstrap: str, topic: str, count: int, size: int) -> None:
    connection = KafkaConnection(bootstrap)
    client = kafka_clients.admin(connection)
    new = [NewTopic(name, _PARTITIONS, 1) for name in (topic, f"{topic}.retry")]
    for made in client.create_topics(new).values():
        made.result()
    producer = kafka_clients.producer(connection, linger_ms=50)
    value = os.urandom(size)
    for number in range(count):
        headers = [(f"ce_{name}", b"x" * 20) for name in ("id", "source", "type", "time")]
        while True:
            try:
                producer.produce(topic, value, f"pictures/{number}.jpg", headers=list(headers))
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(60) == 0


def _consume(
    name: str, bootstrap: str, topic: str, count: int, failed: dict[str, str]
) -> Callable[[], float]:
    """Has a contender read; 0 from where it is found in, or comes into, `failed`."""

    def measure() -> float:
        if name in failed:
            return 0.0
        some = str(count // _SLOW.get(name, 1))
        try:
            python = quixstreams_python() if name == "quixstreams" else sys.executable
            done = subprocess.run(
                [python, "-P", ingest_loop.__file__, name, bootstrap, topic, some],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                timeout=_LOOP_S,
                env=capped(1) | {"PYTHONPATH": f"{_ROOT / 'src'}:{_ROOT}"},
            )
        except subprocess.TimeoutExpired:
            failed[name] = f"did not finish in {_LOOP_S:.0f} s"
        except subprocess.CalledProcessError as error:
            failed[name] = f"ended with code {error.returncode}"
        else:
            return float(json.loads(done.stdout.splitlines()[-1])["per_second"])
        click.echo(f"{name} {failed[name]}", err=True)
        return 0.0

    return measure


def quixstreams_python() -> Path:
    """The interpreter of its own environment, kept in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "pixtide" / "bench-peers" / _QUIXSTREAMS
    python, uv = folder / "bin" / "python", Path(sys.executable).parent / "uv"
    if not python.exists():
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    subprocess.run([uv, "pip", "install", "-q", "--python", python, _QUIXSTREAMS], check=True)
    return python


def _start() -> dict[str, Any]:
    """Seconds until a command has imported what it needs before it can do its work."""
    commands = {
        "pixtide --help": [*PIXTIDE, "--help"],
        "pixtide search": [sys.executable, "-c", _SEARCH],
    }
    took: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(PAIRS):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            took[name].append(time.perf_counter() - started)
    return {name: round(statistics.median(each), 2) for name, each in took.items()}
