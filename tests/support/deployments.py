"""Whole deployments for end-to-end tests: real processes, on real servers or embedded parts."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from pixtide.search.port import StoredImage, VectorIndex
from pixtide.streams.cli.main import cli
from pixtide.streams.settings import Settings, load_settings
from pixtide.streams.wiring.adapters import open_catalog
from pixtide.streams.wiring.generations import generation_to_work_for
from tests.servers import KafkaServer, WeaviateServer
from tests.support import numpy_model

PIXTIDE = (sys.executable, "-m", "pixtide.streams.cli.main")
#: Of a process that imports a model's libraries, on a machine with much else to do.
READY_S = 280.0
#: Held by whoever changes what this process inherited, its environment or its folder.
_ENVIRONMENT = threading.RLock()


class Deployment:
    """Processes of pixtide that tests start, stop and kill, and the commands to use them."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.home = home
        self.folder = home.parent
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PIXTIDE_")}
        self.env = inherited | {"PIXTIDE_HOME": str(home), "OMP_NUM_THREADS": "2"} | settings
        #: What processes are started as, and commands, whatever a test has processes started as.
        self.program: tuple[str, ...] = PIXTIDE
        self.commands = PIXTIDE
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        home.mkdir(parents=True, exist_ok=True)

    def take_numpy_model(self) -> None:
        """Have processes and commands use a model that imports neither torch nor open_clip."""
        self.program = self.commands = numpy_model.PROGRAM
        self.env["PIXTIDE_MODEL"] = numpy_model.numpy_clip(self.folder / "model")

    def start(self) -> None:
        """Start every process and wait until it is ready."""
        raise NotImplementedError  # each kind of deployment has its own way

    def stop(self) -> None:
        """Stop every process, as an operator would; each must end well."""
        for name in list(self.processes):
            self.stop_process(name)

    def stop_process(self, name: str) -> None:
        """SIGTERM; it must end with 0 within its grace."""
        process = self.processes.pop(name)
        process.terminate()
        assert process.wait(60) == 0, self.log(name)

    def kill(self, name: str) -> None:
        """SIGKILL one process of ours."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def spawn(self, name: str, *arguments: str, ready: Path | None = None, **settings: str) -> None:
        """Start one process, with settings of its own; with `ready`, wait for that file."""
        if ready is not None:
            ready.unlink(missing_ok=True)
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*self.program, *arguments],
                env=self.env | settings,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        deadline = time.monotonic() + READY_S
        while ready is not None and not ready.exists():
            assert self.processes[name].poll() is None, self.log(name)
            assert time.monotonic() < deadline, f"{name} is not ready: {self.log(name)}"
            time.sleep(0.05)

    def log(self, name: str) -> str:
        """What a process has said."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-6000:]

    def run(self, *arguments: str, stdin: str = "", code: int = 0) -> str:
        """Run a command; its standard output."""
        done = subprocess.run(
            [*self.commands, *arguments],
            env=self.env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            cwd=self.folder,
        )
        assert done.returncode == code, (
            f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done.stdout

    def run_here(self, *arguments: str) -> str:
        """Run a command in this process, which has imported the model's libraries already."""
        if self.commands != PIXTIDE:
            return self.run(*arguments)
        with _ENVIRONMENT:
            before = Path.cwd()
            try:
                os.chdir(self.folder)
                done = CliRunner().invoke(cli, arguments, env=self.env, catch_exceptions=False)
            finally:
                os.chdir(before)
        assert done.exit_code == 0, f"{arguments}: {done.exit_code}\n{done.output}"
        return done.stdout

    def publish(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """`pixtide publish … --wait --json`, and its summary."""
        summary: dict[str, Any] = json.loads(
            self.run("publish", *arguments, "--wait", "--json", code=code)
        )
        return summary

    def search(self, text: str, *arguments: str) -> list[dict[str, Any]]:
        """`pixtide search … --json`, and its results."""
        results: list[dict[str, Any]] = json.loads(self.run("search", text, "--json", *arguments))[
            "results"
        ]
        return results

    def settings(self) -> Settings:
        """The settings that this deployment's commands run under."""
        with _ENVIRONMENT:
            before = dict(os.environ)
            try:
                os.environ.clear()
                os.environ.update(self.env)
                return load_settings()
            finally:
                os.environ.clear()
                os.environ.update(before)

    @contextlib.contextmanager
    def index(self) -> Iterator[VectorIndex]:
        """The live generation's collection, looked at directly."""
        with contextlib.closing(open_catalog(self.settings())) as catalog:
            yield catalog.open(generation_to_work_for(catalog, None))

    def rows(self) -> dict[str, StoredImage]:
        """Every row of the live generation by image id; each id has exactly one."""
        with self.index() as index:
            rows = list(index.scan())
        by_id = {row.image_id: row for row in rows}
        assert len(by_id) == len(rows), "an image id has two rows"
        return by_id


class OnServers(Deployment):
    """Real Kafka and real Weaviate, with topics and collections of its own on them."""

    def __init__(
        self, home: Path, *, kafka: str, weaviate_url: str, grpc_port: int | str, **settings: str
    ) -> None:
        super().__init__(
            home,
            PIXTIDE_KAFKA=kafka,
            PIXTIDE_WEAVIATE_URL=weaviate_url,
            PIXTIDE_WEAVIATE_GRPC_PORT=str(grpc_port),
            PIXTIDE_NAMESPACE=f"t{uuid.uuid4().hex[:10]}",
            **settings,
        )
        self._created = False

    def start(self) -> None:
        """Topics and a first generation once, then a worker and a query consumer."""
        self.create()
        self.start_process("ingest")
        self.start_process("query")

    def create(self) -> None:
        """Topics and a first generation, once."""
        if not self._created:
            self.run_here("topics", "create")
            self.run_here("index", "create", "v1")
            self._created = True

    def start_process(self, name: str) -> None:
        """Start `ingest` or `query`, and wait until it is ready."""
        self.spawn(name, name, "--ready-file", str(self.home / name), ready=self.home / name)


def on_servers(
    folder: Path,
    kafka: KafkaServer,
    weaviate: WeaviateServer,
    *,
    real_model: bool = True,
    **settings: str,
) -> OnServers:
    """A deployment on the test servers with a tiny model of its own, all in that folder.

    Without `real_model` that is one of numpy, whose processes start in a tenth of the time.
    """
    made = OnServers(
        folder / "home",
        kafka=kafka.bootstrap,
        weaviate_url=weaviate.http_url,
        grpc_port=weaviate.grpc_port,
        **settings,
    )
    if real_model:
        from tests.support.models import (
            tiny_clip,  # benchmarks, which use the rest here, need no torch
        )

        made.env["PIXTIDE_MODEL"] = tiny_clip(folder / "model")
    else:
        made.take_numpy_model()
    return made


@contextlib.contextmanager
def killed_in_the_end(made: OnServers) -> Iterator[OnServers]:
    """Whatever a test did to its processes, none outlives it."""
    try:
        yield made
    finally:
        for name in list(made.processes):
            made.kill(name)


class Embedded(Deployment):
    """`pixtide up` in a home of its own."""

    def start(self) -> None:
        """Start the stack and wait until both workers are ready."""
        ready = self.home / "run" / "query.ready"
        ready.unlink(missing_ok=True)
        self.spawn("up", "up")
        deadline = time.monotonic() + READY_S
        while not (ready.exists() and "ready: Kafka" in self.log("up")):
            assert self.processes["up"].poll() is None, self.log("up")
            assert time.monotonic() < deadline, self.log("up")
            time.sleep(0.1)
