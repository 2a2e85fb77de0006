"""The connections that are open: how many, and how long each may take over a request.

uvicorn limits how long an idle connection is kept, and nothing else: a client that never ends its
headers or its body, or never reads its answer, would hold its connection for ever.
"""

import ipaddress
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from pixtide.streams.web.rates import client_at

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class ConnectionLimits:
    """What a client may take. Times in seconds, `body_rate` in bytes a second.

    `head_s` is for a request's headers, from the connection's start or the last answer's end;
    `body_s` for the body, beside what it takes at `body_rate`; `read_s` for reading some of the
    answer. `connections` may be open in all, `each` of them by one address that is no proxy.
    """

    head_s: float = 10.0
    body_s: float = 30.0
    body_rate: int = 32 * 1024
    read_s: float = 30.0
    connections: int = 512
    each: int = 128


class Connections:
    """All of one server, in its event loop."""

    def __init__(
        self,
        patience: ConnectionLimits,
        proxies: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._patience = patience
        self._proxies = [_network(proxy) for proxy in proxies]
        self._clock = clock
        self._open: dict[BoundedProtocol, None] = {}
        self._of: Counter[str] = Counter()

    def protocol(self, **arguments: Any) -> "BoundedProtocol":
        """What serves a new connection; uvicorn calls it."""
        return BoundedProtocol(self, **arguments)

    def opened(self, connection: "BoundedProtocol") -> None:
        """Count it. Where there are too many, one that waits for a request has to go."""
        connection.began(self._clock())
        self._open[connection] = None
        self._of[connection.peer] += 1
        if self._of[connection.peer] > self._patience.each and not self._is_proxy(
            connection.address
        ):
            self._let_go_one_of(connection.peer, connection)
        elif len(self._open) > self._patience.connections:
            self._let_go_one_of(self._of.most_common(1)[0][0], connection)

    def closed(self, connection: "BoundedProtocol") -> None:
        """Forget it."""
        if connection in self._open:
            del self._open[connection]
            self._of[connection.peer] -= 1
            if not self._of[connection.peer]:
                del self._of[connection.peer]

    def look(self) -> None:
        """Close those that take too long; to be called every second or so."""
        now = self._clock()
        for connection in list(self._open):
            connection.look(now, self._patience)

    def _let_go_one_of(self, peer: str, new: "BoundedProtocol") -> None:
        """That which has waited for longest for a request, or else the new one."""
        waiting = [c for c in self._open if c.peer == peer and c is not new and c.is_waiting]
        min(waiting, key=lambda connection: connection.since, default=new).let_go()

    def _is_proxy(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return host in self._proxies
        return "*" in self._proxies or any(
            address in network for network in self._proxies if not isinstance(network, str)
        )


class BoundedProtocol(H11Protocol):
    """One connection."""

    def __init__(self, connections: Connections, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._connections = connections
        self.address = self.peer = ""
        self._seen: RequestResponseCycle | None = None
        self._was_waiting = True
        self.since = 0.0
        self._looked = 0.0
        self._body_s = 0.0
        self._received = 0
        self._blocked_since: float | None = None
        self._closing_since: float | None = None

    def began(self, now: float) -> None:
        """It is open since now."""
        self.address = str(self.client[0]) if self.client else ""
        self.peer = client_at(self.address)
        self.since = self._looked = now

    @property
    def is_waiting(self) -> bool:
        """Whether no request is being served: none has come whole, or it is answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        """As the base; and count it."""
        super().connection_made(transport)
        self._connections.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """As the base; and forget it."""
        self._connections.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """As the base; and count it."""
        self._received += len(data)
        super().data_received(data)

    def let_go(self) -> None:
        """End it now, whatever is yet to be sent."""
        self._connections.closed(self)
        self.transport.abort()

    def look(self, now: float, patience: ConnectionLimits) -> None:
        """Let it go if it takes too long."""
        passed, self._looked = now - self._looked, now
        if self.cycle is not self._seen or self.is_waiting is not self._was_waiting:
            self._seen, self._was_waiting, self.since = self.cycle, self.is_waiting, now
            self._body_s, self._received = 0.0, 0
        if self._takes_too_long(now, passed, patience):
            self.let_go()

    def _takes_too_long(self, now: float, passed: float, patience: ConnectionLimits) -> bool:
        self._closing_since = self._first(self._closing_since, now, self.transport.is_closing())
        self._blocked_since = self._first(self._blocked_since, now, self.flow.write_paused)
        for since in (self._closing_since, self._blocked_since):
            if since is not None:
                return now - since > patience.read_s
        if self.is_waiting:
            # refused before its body was read, a client may go on sending that for a while
            sends = self.conn.their_state is h11.SEND_BODY
            return now - self.since > (patience.body_s if sends else patience.head_s)
        if self.cycle.more_body and not self.flow.read_paused:  # else it is us who take long
            self._body_s += passed
            return self._body_s > patience.body_s + self._received / patience.body_rate
        return False

    @staticmethod
    def _first(since: float | None, now: float, still: bool) -> float | None:
        return None if not still else now if since is None else since


def _network(proxy: str) -> Network | str:
    try:
        return ipaddress.ip_network(proxy, strict=False)
    except ValueError:
        return proxy
