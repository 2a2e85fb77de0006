"""A TCP proxy that can fail: freeze (connections stay, nothing passes) or cut (all refused)."""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

_CHUNK = 65536


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
                for source, sink in ((inner, outer), (outer, inner)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

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
