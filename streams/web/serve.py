"""Serves the page with uvicorn until a signal."""

import logging
import socket
from collections.abc import Callable, Sequence
from types import FrameType

import uvicorn

from pixtide.schemas.errors import UsageError
from pixtide.streams.web.app import Site
from pixtide.streams.web.connections import ConnectionLimits, Connections

_GRACE_S = 5
#: The server ticks ten times a second.
_TICKS = 10


class _WebServer(uvicorn.Server):
    """Says when it listens, and lets listeners go before it waits for answers to end."""

    def __init__(
        self,
        config: uvicorn.Config,
        site: Site,
        connections: Connections,
        on_ready: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._site = site
        self._connections = connections
        self._on_ready = on_ready

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS == 0:
            self._connections.look()
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._site.end_streams()
        super().handle_exit(sig, frame)


def serve(
    site: Site,
    listener: socket.socket,
    *,
    proxies: Sequence[str],
    on_ready: Callable[[], None],
) -> None:
    """Serve until SIGTERM or SIGINT. Who asks is believed of `proxies` alone."""
    server_of(site, proxies=proxies, on_ready=on_ready).run(sockets=[listener])


def server_of(
    site: Site,
    *,
    proxies: Sequence[str],
    on_ready: Callable[[], None],
    patience: ConnectionLimits | None = None,
) -> uvicorn.Server:
    """What serves it."""
    # a line for each malformed request would let anybody fill the log
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    connections = Connections(patience or ConnectionLimits(), proxies)
    config = uvicorn.Config(
        site.app,
        http=connections.protocol,  # type: ignore[arg-type]  # uvicorn only calls it
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
        timeout_graceful_shutdown=_GRACE_S,
        lifespan="on",
    )
    return _WebServer(config, site, connections, on_ready)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UsageError where the address can't be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise UsageError(
            f"can't listen on {host}:{port} ({error.strerror}): set PIXTIDE_WEB_PORT or _WEB_HOST"
        ) from error
    # Accepted sockets inherit it. asyncio sets it on sockets of its own making alone; without it
    # each answer on a kept connection waits 40 ms for the client's acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
