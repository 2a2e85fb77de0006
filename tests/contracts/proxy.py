"""A TCP proxy that can fail: freeze (connections stay, nothing passes) or cut (all refused).

In front of a broker it can fail one kind of Kafka's requests alone.
"""

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable
from enum import IntEnum
from types import TracebackType
from typing import Self

_CHUNK = 65536
#: From which version on Metadata is written with compact arrays.
_FLEXIBLE_METADATA = 9


class Proxy:
    """Forwards a port of this machine to `target` until it is told to fail."""

    def __init__(self, target: tuple[str, int]):
        self._target = target
        self._flowing = threading.Event()
        self._flowing.set()
        self._sockets: list[socket.socket] = []
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.cut()

    def freeze(self) -> None:
        """Let nothing pass, in either direction."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Let what was held back pass."""
        self._flowing.set()

    def cut(self) -> None:
        """Break all connections and refuse new ones."""
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._sockets.clear()
        self._flowing.set()

    def mend(self) -> None:
        """Accept connections again, at the same port."""
        self._listener = self._listen(self.port)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                inner, _ = listener.accept()
                outer = socket.create_connection(self._target)
                self._sockets += [inner, outer]
                for pump, pair in ((self._ask, (inner, outer)), (self._pump, (outer, inner))):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        """Pass on what a client sends."""
        self._pump(client, server)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                self._flowing.wait()
                sink.sendall(self._passed(data))
            sink.shutdown(socket.SHUT_RDWR)

    def _passed(self, data: bytes) -> bytes:
        """What becomes of data on its way, in either direction."""
        return data


class BrokerProxy(Proxy):
    """In front of the one broker of a Kafka, which then advertises another port.

    By default that of the proxy, so that clients stay with it.
    """

    def __init__(self, broker_port: int, *, advertised: int | None = None):
        super().__init__(("127.0.0.1", broker_port))
        self._ports = (broker_port.to_bytes(4, "big"), (advertised or self.port).to_bytes(4, "big"))

    def _passed(self, data: bytes) -> bytes:
        return data.replace(*self._ports)


class Api(IntEnum):
    """Kinds of requests, by Kafka's names and keys (https://kafka.apache.org/protocol)."""

    Produce = 0
    Fetch = 1
    ListOffsets = 2
    Metadata = 3
    OffsetCommit = 8
    OffsetFetch = 9
    FindCoordinator = 10
    JoinGroup = 11
    Heartbeat = 12
    LeaveGroup = 13
    SyncGroup = 14
    DescribeGroups = 15
    ListGroups = 16
    OffsetForLeaderEpoch = 23
    DescribeConfigs = 32
    DescribeTopicPartitions = 75


class ApiProxy(BrokerProxy):
    """In front of the one broker of a Kafka: holds back, delays or cuts off some kinds of requests.

    A connection whose request is held back passes nothing after it, as where a broker is slow with
    that one: its requests are answered in order. `seen` counts what has come of each kind. `late`
    says by how many seconds each kind is delayed. With `knows_no_brokers` it answers as a broker
    does that has just come back: there are none.
    """

    def __init__(self, broker_port: int):
        self.seen: Counter[int] = Counter()
        self.late: dict[Api, float] = {}
        self.knows_no_brokers = False
        #: The API and its version, by the connection to the broker and the correlation id.
        self._asked: dict[tuple[socket.socket, bytes], tuple[int, int]] = {}
        self._held: frozenset[int] = frozenset()
        self._cut: frozenset[int] = frozenset()
        self._changed = threading.Condition()
        super().__init__(broker_port)

    def hold(self, *apis: Api) -> None:
        """Hold back requests of these kinds, and of no others, from now on; none lets all pass."""
        with self._changed:
            self._held = frozenset(apis)
            self._changed.notify_all()

    def cut_at(self, *apis: Api) -> None:
        """Break each connection that such a request comes by, from now on; it isn't passed on."""
        with self._changed:
            self._cut = frozenset(apis)

    def await_seen(self, api: Api, count: int = 1, *, seconds: float = 60) -> None:
        """Wait until so many requests of that kind have come."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.seen[api] >= count, seconds), api.name

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for request in _frames(client):
                self._flowing.wait()
                api, version = (int.from_bytes(request[at : at + 2], "big") for at in (4, 6))
                self._asked[server, request[8:12]] = api, version
                self._admit(api)
                server.sendall(request)
        for each in (client, server):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for answer in _frames(source):
                self._flowing.wait()
                api, version = self._asked.pop((source, answer[4:8]))
                if api == Api.Metadata and self.knows_no_brokers:
                    answer = _without_brokers(answer, version)
                sink.sendall(self._passed(answer))
            sink.shutdown(socket.SHUT_RDWR)

    def _admit(self, api: int) -> None:
        """Return when such a request may pass. Raises ConnectionError where it is cut off."""
        with self._changed:
            self.seen[api] += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: api not in self._held)
            if api in self._cut:
                raise ConnectionError(f"cut off at {api}")
        time.sleep(self.late.get(Api(api), 0) if api in set(Api) else 0)


def _frames(source: socket.socket) -> Iterable[bytes]:
    """Requests or answers, each with the four bytes of its length before it."""
    data = b""
    while more := source.recv(_CHUNK):
        data += more
        while len(data) >= 4 and len(data) >= (size := 4 + int.from_bytes(data[:4], "big")):
            yield data[:size]
            data = data[size:]


def _without_brokers(answer: bytes, version: int) -> bytes:
    """A MetadataResponse whose list of brokers is empty.

    Length, correlation id, tags, throttle time, brokers (id, host, port, rack, tags), and so on.
    """
    assert version >= _FLEXIBLE_METADATA
    at = first = 4 + 4 + 1 + 4
    count, at = answer[at] - 1, at + 1
    for _ in range(count):
        at += 4
        at += answer[at]  # a compact string: its length and one, then that
        at += 4
        at += max(1, answer[at])  # 0 is null
        at += 1
    made = answer[4:first] + b"\x01" + answer[at:]
    return len(made).to_bytes(4, "big") + made
