"""Toxiproxy: links to the other servers that can be cut, slowed down or made deaf, by its HTTP API.

https://github.com/Shopify/toxiproxy says what each toxic does.
"""

import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path

from tests.servers.install import Say, check_toxiproxy, toxiproxy_binary
from tests.servers.runners import ChildProcess, Runner, ServerError, free_ports
from tests.servers.server import Server

check = check_toxiproxy


class Toxiproxy(Server):
    """Forwards ports of this machine, all of them on the loopback interface."""

    def __init__(self, port: int, runner: Runner):
        super().__init__(f"Toxiproxy at port {port}", runner)
        self._port = port

    def link(self, name: str, target: int, *, listen: int | None = None) -> "Link":
        """A link from `listen`, by default a free port, to the port `target`."""
        port = listen or free_ports(1)[0]
        self.ask(
            "POST",
            "/proxies",
            {
                "name": name,
                "listen": f"127.0.0.1:{port}",
                "upstream": f"127.0.0.1:{target}",
                "enabled": True,
            },
        )
        return Link(self, name, port)

    def ask(self, method: str, path: str, body: object = None) -> None:
        """Ask its API. Raises ServerError where it refuses."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._port, 60)) as asked:
            asked.request(method, path, None if body is None else json.dumps(body))
            answer = asked.getresponse()
            said = answer.read().decode()
        if answer.status >= http.client.BAD_REQUEST:
            raise ServerError(f"{method} {path}: {answer.status} {said}")

    def _serves(self) -> bool:
        try:
            self.ask("GET", "/version")
        except OSError:
            return False
        return True


class Link:
    """One forwarded port, to which clients connect at `port`."""

    def __init__(self, toxiproxy: Toxiproxy, name: str, port: int):
        self.port = port
        self._toxiproxy = toxiproxy
        self._path = f"/proxies/{name}"

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """Break all connections and refuse new ones, for the block."""
        self._toxiproxy.ask("POST", self._path, {"enabled": False})
        try:
            yield
        finally:
            self._toxiproxy.ask("POST", self._path, {"enabled": True})

    @contextlib.contextmanager
    def deaf(self) -> Iterator[None]:
        """A black hole: connections stand, and new ones are let in, but nothing passes."""
        up, down = (self._toxic("timeout", way, timeout=0) for way in ("upstream", "downstream"))
        with up, down:
            yield

    @contextlib.contextmanager
    def slow_answers(self, seconds: float) -> Iterator[None]:
        """What is asked arrives at once, and its answer so much later."""
        with self._toxic("latency", "downstream", latency=int(seconds * 1000)):
            yield

    @contextlib.contextmanager
    def _toxic(self, kind: str, stream: str, **attributes: int) -> Iterator[None]:
        name = f"{kind}_{stream}"
        toxic = {"name": name, "type": kind, "stream": stream, "attributes": attributes}
        self._toxiproxy.ask("POST", f"{self._path}/toxics", toxic)
        try:
            yield
        finally:
            self._toxiproxy.ask("DELETE", f"{self._path}/toxics/{name}")


def prepare(say: Say) -> None:
    """Do what takes long: build it."""
    say(f"Toxiproxy: {toxiproxy_binary(say)}")


def toxiproxy_server(folder: Path, say: Say) -> Toxiproxy:
    """A Toxiproxy that isn't launched yet, with its log in `folder`."""
    [port] = free_ports(1)
    command = [str(toxiproxy_binary(say)), "-host", "127.0.0.1", "-port", str(port)]
    return Toxiproxy(port, ChildProcess(command, {}, folder))
