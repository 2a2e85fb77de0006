"""`/live`, `/ready` and `/metrics` over HTTP, for probes and for Prometheus."""

import contextlib
import json
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from pixtide.schemas.errors import UsageError
from pixtide.streams.process.health import Health
from pixtide.streams.process.signals import VitalThread

_JSON = "application/json"


class _HealthServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], health: Health, metrics: CollectorRegistry):
        self.health = health
        self.metrics = metrics
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _HealthServer
    timeout = 10  # seconds within which a client must have sent its request

    def do_GET(self) -> None:
        """Answer one of the three paths; 503 means no."""
        match self.path.partition("?")[0]:
            case "/live":
                stuck, lost = self.server.health.stuck, self.server.health.lost
                live = stuck is None and lost is None
                told = {"work": lost} if lost else {}
                self._say(live, {"live": live, "main loop": stuck or "turns", **told})
            case "/ready":
                problems = self.server.health.problems
                self._say(not problems, {"ready": not problems, "problems": problems})
            case "/metrics":
                content = generate_latest(self.server.metrics)
                self._send(HTTPStatus.OK, CONTENT_TYPE_PLAIN_0_0_4, content)
            case _:
                self.send_error(HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET  # noqa: N815  # the base's name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        """Don't log probes."""

    def _say(self, well: bool, answer: dict[str, object]) -> None:
        status = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
        self._send(status, _JSON, json.dumps(answer).encode() + b"\n")

    def _send(self, status: HTTPStatus, content_type: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextlib.contextmanager
def serving(
    host: str, port: int, health: Health, metrics: CollectorRegistry
) -> Iterator[tuple[str, int]]:
    """Serve meanwhile, from separate threads; yields the address. Port 0 means any free one.

    Raises:
        UsageError: the process can't listen on that address.
    """
    try:
        server = _HealthServer((host, port), health, metrics)
    except OSError as error:
        raise UsageError(
            f"PIXTIDE_HEALTH_HOST, PIXTIDE_HEALTH_PORT: {host}:{port}: {error.strerror}; "
            "choose another port, or 0 for none"
        ) from error
    thread = VitalThread(server.serve_forever, "health-http")
    thread.start()
    try:
        yield host, int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
