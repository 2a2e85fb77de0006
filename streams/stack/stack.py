"""The embedded stack: broker, ingest workers, query consumer and page, children of one process."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from filelock import FileLock, Timeout

from pixtide.schemas import topics
from pixtide.schemas.errors import TransientError, UsageError
from pixtide.search.generations import Generation, GenerationState
from pixtide.search.port import GenerationCatalog
from pixtide.streams.kafka import clients as kafka_clients
from pixtide.streams.kafka import topics as kafka_topics
from pixtide.streams.kafka.embedded_broker import Retention
from pixtide.streams.process.signals import undisturbed
from pixtide.streams.settings import Settings
from pixtide.streams.stack.child import STOP_S, Child, StackError, command_of, end
from pixtide.streams.stack.ports import free_port, is_free
from pixtide.streams.wiring.adapters import open_catalog
from pixtide.streams.wiring.generations import generation_to_work_for

_BROKER_READY_S = 30.0

_WORKER_READY_S = 180.0

_WATCH_S = 0.3

#: The workers that there is one of.
_WORKERS = ("query", "web")

#: How the ingest workers' names begin.
_INGEST = "ingest-"

#: How often it looks for new and for retired generations.
_TEND_S = 2.0


class Stack:
    """Starts the parts in order, watches them, and stops them in the opposite order."""

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self._home = settings.home
        self._settings = settings
        self._say = say
        self._children: list[Child] = []
        self._given_up: set[str] = set()
        self._unserved: Generation | None = None
        self._catalog: GenerationCatalog | None = None
        self._retention: Retention | None = None
        self._lock = FileLock(self._home / "stack.lock")
        roots = settings.file_roots or (str(Path.home()), str(Path.cwd()))
        self._roots = [str(Path(root).expanduser().resolve()) for root in roots]

    def start(self) -> Settings:
        """Start everything and wait until it is ready.

        Returns:
            The settings by which the stack is reached.

        Raises:
            UsageError: a stack is running in this home already, or the port that was asked for
                is taken.
            StackError: a part did not start.
        """
        self._make_home()
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UsageError(
                f"a stack is running in {self._home}: use it, stop it, or set PIXTIDE_HOME "
                "to another folder"
            ) from error
        except OSError as error:
            raise self._unusable(error) from error
        try:
            self._end_leftovers()
        except BaseException:
            self._lock.release()  # and keep the record of what could not be ended
            raise
        web_port = self._pick_web_port()
        self._say("starting the broker")
        port = self._pick_port("port", 9092)
        settings = self._settings = self._settings.changed(
            kafka=f"127.0.0.1:{port}", web_port=web_port
        )
        self._start_broker(port)
        client = kafka_clients.admin(settings.kafka_connection())
        table = [(settings.named(t.name), t) for t in topics.topics(embedded=True)]
        kafka_topics.create_topics(client, table, replication=1)
        self._retention = Retention(
            client,
            {
                name: (topic.retention_ms or 0) / 1000
                for name, topic in table
                if topic.name in (topics.REQUESTS, topics.REPLIES)
            },
        )
        catalog = self._catalog = open_catalog(settings)
        live = catalog.live()
        if live is None:
            self._say(f"creating the index for model {settings.model}")
            self._run("index", "create", "v1")
            live = generation_to_work_for(catalog, None)
        elif live.model != settings.model and "model" in settings.model_fields_set:
            self._say(
                f"NOTE: this home's index is of model {live.model}; PIXTIDE_MODEL="
                f"{settings.model} is not used. To use it run `pixtide reindex --model "
                f"{settings.model}`, or set PIXTIDE_HOME to a new folder."
            )
        self._say("starting the ingest worker, the query consumer and the page")
        self._spawn_ingest(live)
        for name in _WORKERS:
            self._spawn_worker(name, name)
        self._tend_generations()
        for name in (_worker_of(live), *_WORKERS):
            self._await_ready(name)
        return settings

    @property
    def page(self) -> str:
        """The page's address on this machine."""
        return f"http://localhost:{self._settings.web_port}"

    def serve(self, invitation: str) -> None:
        """Say how to use it, and watch over the parts until Ctrl-C.

        Raises:
            StackError: a part has ended by itself.
        """
        with contextlib.suppress(KeyboardInterrupt):
            self._say(invitation)
            tended = time.monotonic()
            while True:
                self._watch()
                if time.monotonic() - tended > _TEND_S:
                    with contextlib.suppress(TransientError):  # the workers wait for it, too
                        self._tend_generations()
                        if self._retention is not None:
                            self._retention.enforce()
                    tended = time.monotonic()
                time.sleep(_WATCH_S)

    def stop(self) -> None:
        """Stop the workers, then the broker, each given time to finish what it has begun.

        A second Ctrl-C doesn't break it off, nor does a terminal that is closed.
        """
        if not self._lock.is_locked:
            return
        with undisturbed():
            with contextlib.suppress(OSError):
                self._say("stopping")
            for child in sorted(self._children, key=lambda c: c.name == "broker"):
                end(child.process)
            self._children.clear()
            if self._catalog is not None:
                self._catalog.close()
            self._settings.stack_file.unlink(missing_ok=True)
            self._lock.release()

    def _watch(self) -> None:
        for child in list(self._children):
            if child.process.poll() is None:
                continue
            if self._can_do_without(child):
                self._children.remove(child)
                if child.process.returncode:
                    self._given_up.add(child.name)
                    self._say(
                        f"{child.complain()}\nthe rest goes on; `pixtide up` anew tries again"
                    )
            elif problem := child.needs_another_index():
                with contextlib.suppress(TransientError):  # the next look is soon
                    self._wait_for_another_index(child, problem)
                    self._children.remove(child)
            else:
                raise child.complain()

    def _wait_for_another_index(self, child: Child, problem: str) -> None:
        """Go on without it, so that there is a stack to make another index with."""
        if self._catalog is not None and self._unserved is None:
            self._unserved = self._catalog.live()
            self._say(f"NOTE: no search is answered until the index is made anew. {problem}")
        self._given_up.add(child.name)

    def _can_do_without(self, child: Child) -> bool:
        """Whether it is the worker of a generation that isn't live; one that is retired ends."""
        if self._catalog is None or not child.name.startswith(_INGEST):
            return False
        try:
            live = self._catalog.live()
        except TransientError:
            return False
        return live is not None and child.name != _worker_of(live)

    def _tend_generations(self) -> None:
        """An ingest worker for each generation that isn't retired."""
        known = {child.name for child in self._children} | self._given_up
        for generation in self._catalog.list() if self._catalog is not None else ():
            retired = generation.state is GenerationState.RETIRED
            if not retired and _worker_of(generation) not in known:
                self._say(f"starting an ingest worker for generation {generation.name}")
                self._spawn_ingest(generation, "--background")
        if "query" in self._given_up and self._catalog is not None:
            live = self._catalog.live()
            if live is not None and not live.is_same(self._unserved):
                self._say(f"starting the query consumer for generation {live.name}")
                self._given_up.remove("query")
                self._spawn_worker("query", "query")

    def _pick_port(self, kept_in: str, usual: int) -> int:
        """That of the last time, so that programs find it again; else the usual one; else any."""
        file = self._home / kept_in
        last = int(file.read_text()) if file.exists() else usual
        port = last if is_free(last) else free_port()
        file.write_text(str(port))
        return port

    def _pick_web_port(self) -> int:
        """The one that was asked for and no other, where one was."""
        port = self._settings.web_port
        if "web_port" not in self._settings.model_fields_set:
            return self._pick_port("web.port", port)
        if not is_free(port):
            raise UsageError(f"port {port} is taken: set PIXTIDE_WEB_PORT to another")
        return port

    def _start_broker(self, port: int) -> None:
        binary = files("noida_db").joinpath("noida-db")
        self._spawn(
            "broker",
            [
                *(str(binary), "start", "--only", "kafka", "--host", "127.0.0.1"),
                *("--data-dir", str(self._home / "broker"), "--kafka-port", str(port)),
            ],
            dict(os.environ),
        )
        deadline = time.monotonic() + _BROKER_READY_S
        while True:
            self._watch()
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            time.sleep(0.05)
            if time.monotonic() > deadline:
                raise StackError(f"the broker did not answer within {_BROKER_READY_S:g} s")

    def _spawn_ingest(self, generation: Generation, *arguments: str) -> None:
        name = _worker_of(generation)
        self._spawn_worker(name, "ingest", "--generation", generation.name, *arguments)

    def _spawn_worker(self, name: str, *command: str) -> None:
        ready = self._home / "run" / f"{name}.ready"
        ready.unlink(missing_ok=True)
        self._spawn(name, [*_PIXTIDE, *command, "--ready-file", str(ready)], self._env())

    def _make_home(self) -> None:
        """Have the folders, for this user alone: they hold pictures, their vectors and the log."""
        os.umask(0o077)  # for what is written from now on, by the parts too
        kept = ("logs", "run", "broker", "index", "originals")
        try:
            for folder in (self._home, self._home / "logs", self._home / "run"):
                folder.mkdir(parents=True, exist_ok=True)
            for folder in (self._home / name for name in kept):
                if folder.exists():  # an earlier release made it readable by all
                    folder.chmod(0o700)
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> UsageError:
        return UsageError(
            f"PIXTIDE_HOME={self._home} can't be used: {error.filename or ''} {error.strerror}; "
            "set it to a folder of your own"
        )

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(
            [*_PIXTIDE, *arguments],
            env=self._env(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = done.stderr.strip() or done.stdout.strip()
            raise StackError(said.removeprefix("pixtide: "))

    def _env(self) -> dict[str, str]:
        settings = self._settings
        return {
            **os.environ,
            "PIXTIDE_HOME": str(settings.home),
            "PIXTIDE_KAFKA": settings.bootstrap(),
            "PIXTIDE_MODEL": settings.model,
            "PIXTIDE_WEB_PORT": str(settings.web_port),
            "PIXTIDE_HEALTH_PORT": "0",  # one port can't be both workers'
            # a worker that ends would end all the rest, which one batch of bad records could bring
            "PIXTIDE_BREAKER_WINDOW": os.environ.get("PIXTIDE_BREAKER_WINDOW", "0"),
        }

    def _spawn(self, name: str, command: list[str], env: dict[str, str]) -> None:
        log = self._home / "logs" / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches us alone; we stop them in order
            )
        self._children.append(Child(name, process, log))
        self._record()

    def _await_ready(self, name: str) -> None:
        ready = self._home / "run" / f"{name}.ready"
        deadline = time.monotonic() + _WORKER_READY_S
        while not ready.exists() and name not in self._given_up:
            self._watch()
            if time.monotonic() > deadline:
                raise StackError(f"{name} was not ready within {_WORKER_READY_S:g} s")
            time.sleep(0.05)

    def _record(self) -> None:
        stack = {
            "pid": os.getpid(),
            "kafka": self._settings.bootstrap(),
            "web": self.page,
            "roots": self._roots,
            "children": [child.process.pid for child in self._children],
        }
        partial = self._settings.stack_file.with_suffix(".partial")
        partial.write_text(json.dumps(stack))
        partial.replace(self._settings.stack_file)

    def _end_leftovers(self) -> None:
        """End the children of a stack in this home whose parent was killed."""
        try:
            pids = json.loads(self._settings.stack_file.read_text())["children"]
        except (OSError, ValueError, KeyError):
            return
        for pid in reversed(pids):  # the broker, which the others still talk to, last
            if str(self._home) in command_of(pid):
                with contextlib.suppress(OSError):
                    self._say(f"ending process {pid}, left over from an earlier run")
                self._end_leftover(pid)

    def _end_leftover(self, pid: int) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            deadline = time.monotonic() + STOP_S
            while time.monotonic() < deadline:
                if str(self._home) not in command_of(pid):
                    return
                time.sleep(0.1)
        raise StackError(f"process {pid} of an earlier run does not end: kill -9 {pid}")


def _worker_of(generation: Generation) -> str:
    return f"{_INGEST}{generation.name}"


_PIXTIDE = (sys.executable, "-m", "pixtide.streams.cli.main")
