"""Three brokers, three nodes of Weaviate, and workers that can do without any one of each.

`make cluster` runs it to be tried, with the page. All of it is on loopback and in one folder,
which is removed at the end. What is killed is started again after a while.
"""

import contextlib
import json
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from pixtide.streams.process.signals import interrupt_on_signals, undisturbed
from tests.servers.install import Say, SetupError
from tests.servers.kafka import kafka_brokers
from tests.servers.runners import ServerError, bound_to_parent, free_ports
from tests.servers.server import Server
from tests.servers.weaviate import weaviate_nodes
from tests.support.deployments import PIXTIDE, OnServers

COPIES = 3
#: What each worker's name begins with is its command.
WORKERS = ("ingest-1", "ingest-2", "query-1", "query-2")
_AGAIN_AFTER_S = 10.0
_GRACE_S = 30.0
_http = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Cluster:
    """The servers by name, started, and a deployment of pixtide on them that isn't."""

    def __init__(self, folder: Path, say: Say, model: str, **settings: str) -> None:
        names = [f"{kind}-{n}" for kind in ("kafka", "weaviate") for n in range(COPIES)]
        folders = {name: folder / name for name in names}
        for each in folders.values():
            (each / "data").mkdir(parents=True)
        self._brokers = kafka_brokers([folders[name] for name in names[:COPIES]], say)
        self._nodes = weaviate_nodes([folders[name] for name in names[COPIES:]], say)
        self._folders = folders
        (folder / "tmp").mkdir()  # killed workers leave things there
        self.servers: Mapping[str, Server] = dict(
            zip(names, [*self._brokers, *self._nodes], strict=True)
        )
        self.stack = OnServers(
            folder / "home",
            kafka=",".join(broker.bootstrap for broker in self._brokers),
            weaviate_url=",".join(node.http_url for node in self._nodes),
            grpc_port=",".join(str(node.grpc_port) for node in self._nodes),
            PIXTIDE_REPLICATION=str(COPIES),
            PIXTIDE_WEAVIATE_REPLICATION=str(COPIES),
            PIXTIDE_MODEL=model,
            TMPDIR=str(folder / "tmp"),
            **settings,
        )
        self.stack.program = tuple(bound_to_parent(PIXTIDE))

    def start(self) -> None:
        """The servers; back when all of them know each other."""
        for server in self.servers.values():
            server.launch()
        for server in self.servers.values():
            server.await_ready()
        self.await_whole()

    def kill(self, name: str) -> None:
        """SIGKILL a server or a worker."""
        if name in self.servers:
            self.servers[name].kill()
        else:
            self.stack.kill(name)

    def start_again(self, name: str) -> None:
        """Begin to start a server or a worker, without waiting."""
        if name in self.servers:
            self.servers[name].launch()
        else:
            self.begin_worker(name)

    def begin_worker(self, name: str) -> Path:
        """Begin to start a worker; the file is there once it is ready."""
        ready = self.stack.home / name
        ready.unlink(missing_ok=True)
        self.stack.spawn(name, name.partition("-")[0], "--ready-file", str(ready))
        return ready

    def start_workers(self, *names: str) -> None:
        """Start workers side by side, and wait until they are ready."""
        files = {name: self.begin_worker(name) for name in names}
        deadline = time.monotonic() + 120
        while not all(file.exists() for file in files.values()):
            for name in names:
                assert self.stack.processes[name].poll() is None, self.stack.log(name)
            assert time.monotonic() < deadline, f"{files}: {self.stack.log(names[0])}"
            time.sleep(0.05)

    def wipe(self, name: str) -> None:
        """Take a killed server's disk away."""
        shutil.rmtree(self._folders[name] / "data")
        (self._folders[name] / "data").mkdir()

    def await_whole(self, seconds: float = 120) -> None:
        """Wait until each broker has all, and each node is ready and knows all the others."""
        deadline = time.monotonic() + seconds
        while missing := (self._out_of_sync() or self._apart()):
            if time.monotonic() > deadline:
                raise ServerError(f"not whole after {seconds} s: {missing}")
            time.sleep(0.2)

    def _out_of_sync(self) -> str:
        addresses = ",".join(broker.bootstrap for broker in self._brokers)
        try:
            client = AdminClient({"bootstrap.servers": addresses, "log_level": 0})
            found = client.list_topics(timeout=5)
        except KafkaException as error:
            return str(error)
        if len(found.brokers) < COPIES:
            return f"{len(found.brokers)} brokers"
        behind = [
            f"{topic.topic}-{number}"
            for topic in found.topics.values()
            for number, partition in topic.partitions.items()
            if len(partition.isrs) < len(partition.replicas)
        ]
        return f"out of sync: {behind}" if behind else ""

    def _apart(self) -> str:
        for node in self._nodes:
            try:  # not ready, it may say of itself that it is healthy
                _http.open(f"{node.http_url}/v1/.well-known/ready", timeout=5).close()
                with _http.open(f"{node.http_url}/v1/nodes", timeout=5) as answer:
                    states = [each["status"] for each in json.load(answer)["nodes"]]
            except (OSError, ValueError) as error:
                return f"{node.name}: {error}"
            if states != ["HEALTHY"] * COPIES:
                return f"{node.name} sees {states}"
        return ""

    def close(self) -> None:
        """End everything, workers first; a second Ctrl-C doesn't break it off."""
        with undisturbed():
            for process in self.stack.processes.values():
                process.terminate()
            for process in self.stack.processes.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_GRACE_S)
                process.kill()
                process.wait()
            for server in self.servers.values():
                server.close()


@contextlib.contextmanager
def cluster(folder: Path, say: Say, model: str, **settings: str) -> Iterator[Cluster]:
    """One with its servers started, topics and a first generation created."""
    made = Cluster(folder, say, model, **settings)
    try:
        made.start()
        made.stack.create()
        yield made
    finally:
        made.close()


def _main() -> int:
    interrupt_on_signals()
    folder = Path(tempfile.mkdtemp(prefix="pixtide-cluster-"))
    try:
        with cluster(folder, _say, "starter") as made:
            _run(made)
    except KeyboardInterrupt:
        pass
    except (SetupError, ServerError) as error:
        _say(str(error))
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _run(made: Cluster) -> None:
    """Start the workers and the page, say how to use them, and start again what ends."""
    [port] = free_ports(1)
    made.stack.env |= {"PIXTIDE_WEB_PORT": str(port)}
    _say("starting two ingest workers, two query consumers and the page")
    made.start_workers(*WORKERS)
    made.stack.spawn("web", "web")
    env = made.stack.folder / "env"
    ours = {name: value for name, value in made.stack.env.items() if name.startswith("PIXTIDE_")}
    env.write_text("".join(f"{name}={value}\n" for name, value in ours.items()))
    parts = [*made.servers, *WORKERS]
    _say(
        f"\nThe page is at http://localhost:{port}. In another shell, in this folder:\n\n"
        f"  . .venv/bin/activate; export $(cat {env})\n"
        "  pixtide publish streams/demo/pictures --wait\n  pixtide search 'a white car'\n\n"
        f"Kill -9 one by typing its name here: {', '.join(parts)}.\n"
        f"It is started again after {_AGAIN_AFTER_S:g} s. Ctrl-C ends it all.\n"
    )
    wanted: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=[wanted], daemon=True).start()
    gone: dict[str, float] = {}
    while True:
        with contextlib.suppress(queue.Empty):
            name = wanted.get(timeout=0.5)
            if name in parts and name not in gone:
                made.kill(name)
            else:
                _say(f"there is no {name}, or not now: {', '.join(parts)}")
        now = time.monotonic()
        for name in parts:
            if not _runs(made, name) and name not in gone:
                _say(f"{name} is gone")
                gone[name] = now
            elif name in gone and now - gone[name] > _AGAIN_AFTER_S:
                _say(f"starting {name} again")
                made.start_again(name)
                del gone[name]


def _runs(made: Cluster, name: str) -> bool:
    if name in made.servers:
        return made.servers[name].runs
    process = made.stack.processes.get(name)
    return process is not None and process.poll() is None


def _read(wanted: queue.Queue[str]) -> None:
    for line in sys.stdin:
        if line.strip():
            wanted.put(line.strip())


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(_main())
