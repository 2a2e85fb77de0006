"""A server on loopback that behaves as badly as its path says."""

import contextlib
import gzip
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from tests.support.pictures import jpeg

PICTURE = b"p" * 1000
_STEP_S = 0.1
#: How long a trickle goes on; longer than any deadline of a test.
_TRICKLE_S = 20.0


class HostileServer(socketserver.ThreadingTCPServer):
    """Answers one request a connection; `asked` counts them by path."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: Counter[str] = Counter()
        self.closing = threading.Event()

    @property
    def address(self) -> str:
        """As `host:port`."""
        return f"127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """Whoever hung up had enough."""


@contextlib.contextmanager
def hostile_server() -> Iterator[HostileServer]:
    """One that serves until the end."""
    with HostileServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


class _Handler(socketserver.BaseRequestHandler):
    request: socket.socket
    server: HostileServer

    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            chunk = self.request.recv(4096)
            if not chunk:
                return
            head += chunk
        path = head.split()[1].decode()
        self.server.asked[path] += 1
        name, _, argument = path.removeprefix("/").partition("/")
        behave = _BEHAVIOURS[name]
        with contextlib.suppress(OSError):
            behave(self, argument)

    def answer(self, status: int, body: bytes = b"", **headers: object) -> None:
        headers.setdefault("Content_Length", len(body))
        headers.setdefault("Last_Modified", "Thu, 01 Jan 2026 00:00:00 GMT")  # S3 always has it
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.request.sendall(
            "\r\n".join([f"HTTP/1.1 {status} X", "Connection: close", *lines, "", ""]).encode()
            + body
        )

    def trickle(self, byte: bytes) -> None:
        until = time.monotonic() + _TRICKLE_S
        while time.monotonic() < until and not self.server.closing.wait(_STEP_S):
            self.request.sendall(byte)

    def silent(self) -> None:
        self.server.closing.wait()


def _trickled_headers(handler: _Handler, _: str) -> None:
    handler.request.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    handler.trickle(b"x")


def _trickled_body(handler: _Handler, _: str) -> None:
    handler.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
    handler.trickle(b"x")


def _slow_redirect(handler: _Handler, left: str) -> None:
    handler.server.closing.wait(0.4)
    handler.answer(302, Location=f"/slow-redirect/{int(left) - 1}")


def _flaky(handler: _Handler, failures: str) -> None:
    failed = handler.server.asked[f"/flaky/{failures}"] > int(failures)
    handler.answer(200 if failed else 503, PICTURE)


def _endless(handler: _Handler, _: str) -> None:
    handler.request.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while not handler.server.closing.is_set():
        handler.request.sendall(b"x" * 100_000)


def _endless_headers(handler: _Handler, _: str) -> None:
    handler.request.sendall(b"HTTP/1.1 200 OK\r\n")
    while not handler.server.closing.is_set():
        handler.request.sendall(b"X-More: " + b"x" * 10_000 + b"\r\n")


def _raw(text: bytes) -> "Callable[[_Handler, str], None]":
    return lambda handler, _: handler.request.sendall(text)


def _gzip_tail(handler: "_Handler", _: str) -> None:
    """A short body, and then no end of bytes that are not of it."""
    handler.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")
    handler.request.sendall(_compressed(PICTURE))
    while not handler.server.closing.is_set():
        handler.request.sendall(bytes(65536))


def _gzip_hollow(handler: "_Handler", _: str) -> None:
    """No end of members that hold nothing."""
    handler.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")
    while not handler.server.closing.is_set():
        handler.request.sendall(_compressed(b"") * 1000)


def _gzip_nothing(handler: "_Handler", _: str) -> None:
    """No end of blocks that hold nothing."""
    handler.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\n\r\n\x78\x9c")
    while not handler.server.closing.is_set():
        handler.request.sendall(b"\x00\x00\x00\xff\xff" * 10000)  # stored blocks of no bytes


def _compressed(data: bytes) -> bytes:
    return gzip.compress(data, compresslevel=9)


_BEHAVIOURS: "dict[str, Callable[[_Handler, str], Any]]" = {
    "ok": lambda handler, _: handler.answer(200, PICTURE, ETag='"v1"'),
    "weak": lambda handler, _: handler.answer(200, PICTURE, ETag='W/"v1"'),
    "picture": lambda handler, number: handler.answer(200, jpeg(int(number))),
    "no-etag": lambda handler, _: handler.answer(200, PICTURE),
    "status": lambda handler, status: handler.answer(int(status)),
    "size": lambda handler, size: handler.answer(200, b"x" * int(size)),
    "announced": lambda handler, size: handler.answer(200, PICTURE, Content_Length=size),
    "flaky": _flaky,
    "endless": _endless,
    "endless-headers": _endless_headers,
    "trickled-headers": _trickled_headers,
    "trickled-body": _trickled_body,
    "silent": lambda handler, _: handler.silent(),
    "hang-up": lambda *_: None,
    "no-http": _raw(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "two-lengths": _raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 9\r\n\r\nx"),
    "redirect": lambda handler, to: handler.answer(302, Location=to),
    "slow-redirect": _slow_redirect,
    "no-location": lambda handler, _: handler.answer(302),
    "gzip": lambda handler, size: handler.answer(
        200, _compressed(b"x" * int(size)), Content_Encoding="gzip"
    ),
    "gzip-cut": lambda handler, _: handler.answer(
        200, _compressed(PICTURE)[:-9], Content_Encoding="gzip"
    ),
    "gzip-members": lambda handler, number: handler.answer(
        200, _compressed(b"x") * int(number), Content_Encoding="gzip"
    ),
    "gzip-hollow": _gzip_hollow,
    "gzip-padded": lambda handler, _: handler.answer(
        200, _compressed(PICTURE) + bytes(1000), Content_Encoding="gzip"
    ),
    "gzip-tail": _gzip_tail,
    "gzip-nothing": _gzip_nothing,
    "gzip-no": lambda handler, _: handler.answer(200, PICTURE, Content_Encoding="gzip"),
    "brotli": lambda handler, _: handler.answer(200, PICTURE, Content_Encoding="br"),
}
