"""A proxy before a broker that knows Kafka's protocol: it can hold up any one API by name."""

import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import Self

#: https://kafka.apache.org/protocol#protocol_api_keys
APIS = {
    "Produce": 0,
    "Fetch": 1,
    "ListOffsets": 2,
    "Metadata": 3,
    "OffsetCommit": 8,
    "OffsetFetch": 9,
    "FindCoordinator": 10,
    "JoinGroup": 11,
    "Heartbeat": 12,
    "LeaveGroup": 13,
    "SyncGroup": 14,
}
#: From which version on Metadata is written with compact arrays.
_FLEXIBLE_METADATA = 9


class KafkaProxy:
    """Forwards a port of this machine to a broker, which clients then know by that port."""

    def __init__(self, broker_port: int) -> None:
        #: Seconds by API: so much later a request of that kind reaches the broker.
        self.slow: dict[str, float] = {}
        #: Answer as a broker does that has just come back: there are no brokers.
        self.knows_no_brokers = False
        self.asked: list[str] = []
        self._broker_port = broker_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                broker = socket.create_connection(("127.0.0.1", self._broker_port))
                self._sockets += [client, broker]
                asked: dict[bytes, tuple[int, int]] = {}
                for pump in (self._ask, self._answer):
                    threading.Thread(target=pump, args=(client, broker, asked), daemon=True).start()

    def _ask(
        self, client: socket.socket, broker: socket.socket, asked: dict[bytes, tuple[int, int]]
    ) -> None:
        names = {key: name for name, key in APIS.items()}
        with contextlib.suppress(OSError):
            while frame := _frame_of(client):
                key, version = (int.from_bytes(frame[at : at + 2], "big") for at in (0, 2))
                asked[frame[4:8]] = key, version
                name = names.get(key, str(key))
                self.asked.append(name)
                time.sleep(self.slow.get(name, 0))
                broker.sendall(len(frame).to_bytes(4, "big") + frame)
            broker.shutdown(socket.SHUT_RDWR)

    def _answer(
        self, client: socket.socket, broker: socket.socket, asked: dict[bytes, tuple[int, int]]
    ) -> None:
        theirs, ours = (port.to_bytes(4, "big") for port in (self._broker_port, self.port))
        with contextlib.suppress(OSError):
            while frame := _frame_of(broker):
                key, version = asked.pop(frame[:4])
                frame = frame.replace(theirs, ours)
                if key == APIS["Metadata"] and self.knows_no_brokers:
                    frame = _without_brokers(frame, version)
                client.sendall(len(frame).to_bytes(4, "big") + frame)
            client.shutdown(socket.SHUT_RDWR)


def _frame_of(source: socket.socket) -> bytes:
    """The next message; nothing where the other side has ended."""
    size = _exactly(source, 4)
    return _exactly(source, int.from_bytes(size, "big")) if size else b""


def _exactly(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = source.recv(size - len(data))
        if not more:
            return b""
        data += more
    return data


def _without_brokers(answer: bytes, version: int) -> bytes:
    """A MetadataResponse whose list of brokers is empty, and that knows no controller.

    Correlation id, tags, throttle time, brokers (id, host, port, rack, tags), cluster id and so on.
    """
    assert version >= _FLEXIBLE_METADATA
    at = first = 4 + 1 + 4
    count, at = answer[at] - 1, at + 1
    for _ in range(count):
        at += 4
        at += answer[at]  # a compact string: its length and one, then that
        at += 4
        at += max(1, answer[at])  # 0 is null
        at += 1
    return answer[:first] + b"\x01" + answer[at:]
