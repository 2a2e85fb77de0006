"""The servers of one test run."""

import signal
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from tests.servers import buckets, deploy_tools, kafka, toxiproxy, weaviate
from tests.servers.install import (
    Say,
    SetupError,
    check_kafka,
    check_weaviate,
    kafka_jars,
    weaviate_binary,
)
from tests.servers.kafka import KafkaServer, kafka_server
from tests.servers.server import Server
from tests.servers.toxiproxy import Toxiproxy, toxiproxy_server
from tests.servers.weaviate import WeaviateServer, weaviate_server

#: What a run may ask for: how each is checked for at once, and prepared.
SERVERS: dict[str, tuple[Callable[[], None], Callable[[Say], None]]] = {
    "kafka": (kafka.check, kafka.prepare),
    "weaviate": (weaviate.check, weaviate.prepare),
}


def _check_cluster() -> None:
    check_kafka()
    check_weaviate()


def _prepare_cluster(say: Say) -> None:
    say(f"a cluster: {kafka_jars(say)}, {weaviate_binary(say)}")


#: What only slow tests ask for, so that `make setup-servers` doesn't build it.
TOOLS: dict[str, tuple[Callable[[], None], Callable[[Say], None]]] = {
    "bucket_servers": (buckets.check, buckets.prepare),
    "cluster": (_check_cluster, _prepare_cluster),
    "deploy_tools": (deploy_tools.check, deploy_tools.prepare),
    "toxiproxy": (toxiproxy.check, toxiproxy.prepare),
}


def prepare(names: Collection[str], say: Say) -> None:
    """Have these servers' programs at hand, side by side: one waits for the network, one computes.

    Raises:
        SetupError: one can't be had.
        ServerError: Docker couldn't pull an image.
    """
    lacking = []
    for name in sorted(names):
        try:
            (SERVERS | TOOLS)[name][0]()
        except SetupError as error:
            lacking.append(str(error))
    if lacking:
        raise SetupError("\n".join(lacking))
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit((SERVERS | TOOLS)[name][1], say) for name in sorted(names)]:
            done.result()


class Servers:
    """Starts each server when it is first asked for, and with it the others the run will need.

    Args:
        folder: where data and logs go; logs are left there.
        needed: the names, of `SERVERS`, of those that the run will ask for.
        say: told what goes on where a server must be fetched or built first.
    """

    def __init__(self, folder: Path, needed: Collection[str], say: Say):
        self._folder = folder
        self._needed = needed
        self._say = say
        self._kafka: KafkaServer | None = None
        self._weaviate: WeaviateServer | None = None
        self._toxiproxy: Toxiproxy | None = None
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            previous = signal.getsignal(signal.SIGTERM)
            if previous is signal.SIG_DFL:  # which would end the run without closing anything
                signal.signal(signal.SIGTERM, _interrupt)
                self._closing.callback(signal.signal, signal.SIGTERM, previous)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.__exit__(kind, error, traceback)

    def kafka(self) -> KafkaServer:
        """Kafka, serving."""
        self._launch({"kafka", *self._needed})
        assert self._kafka is not None
        self._kafka.start()
        return self._kafka

    def weaviate(self) -> WeaviateServer:
        """Weaviate, serving."""
        self._launch({"weaviate", *self._needed})
        assert self._weaviate is not None
        self._weaviate.start()
        return self._weaviate

    def toxiproxy(self) -> Toxiproxy:
        """Toxiproxy, serving."""
        if self._toxiproxy is None:
            self._toxiproxy = toxiproxy_server(self._own_folder("toxiproxy"), self._say)
            self._begin(self._toxiproxy)
        self._toxiproxy.start()
        return self._toxiproxy

    def heal(self) -> None:
        """Have those serve again that a test left stopped or paused."""
        for server in (self._kafka, self._weaviate):
            if server is not None:
                server.heal()

    def _launch(self, names: Collection[str]) -> None:
        # Weaviate first: setting up Kafka's storage takes a second in which it can start.
        if "weaviate" in names and self._weaviate is None:
            self._weaviate = weaviate_server(self._own_folder("weaviate"), self._say)
            self._begin(self._weaviate)
        if "kafka" in names and self._kafka is None:
            self._kafka = kafka_server(self._own_folder("kafka"), self._say)
            self._begin(self._kafka)

    def _begin(self, server: Server) -> None:
        self._closing.callback(server.close)
        server.launch()

    def _own_folder(self, name: str) -> Path:
        folder = self._folder / name
        (folder / "data").mkdir(parents=True)
        return folder


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt("SIGTERM")
