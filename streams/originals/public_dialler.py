"""Connections to unknown servers: checks the address that is dialled, and enforces a deadline.

Where httpcore has a `timeout` for connecting, reading or writing, this code passes a *time* of the
clock instead. Each wait on the socket ends by that time at the latest. So a server that sends a
byte now and then gains no time.
"""

import ipaddress
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from typing import Any

import httpcore

from pixtide.schemas.errors import PoisonError, ReasonCode

Address = str
_Found = list[Address] | OSError


class UnknownHostError(httpcore.ConnectError):
    """The name system says that there is no such host."""


class CheckedBackend(httpcore.NetworkBackend):
    """Dials public addresses, and private ones only of allowed hosts.

    A name is looked up once and the result is dialled, so that it can't be rebound in between. If
    only one of a name's addresses is private, the name is refused.
    """

    def __init__(self, allowed: frozenset[str], clock: Callable[[], float]) -> None:
        self._allowed = allowed
        self._clock = clock
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Dial each address in turn, with an equal share of the time left.

        Raises:
            PoisonError: ADDRESS_BLOCKED.
        """
        addresses = self._look_up(host, port, self._left(timeout))
        if not ({host, f"{host}:{port}"} & self._allowed):
            _require_public(host, port, addresses)
        for untried in range(len(addresses), 0, -1):
            try:
                share = self._left(timeout) / untried
                stream = self._sockets.connect_tcp(
                    addresses[-untried], port, share, local_address, socket_options
                )
                return _TimedStream(stream, self._left)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if untried == 1:
                    raise
        raise httpcore.ConnectError(f"{host} has no address")

    def connect_unix_socket(self, *_: object, **__: object) -> httpcore.NetworkStream:
        """Never allowed."""
        raise httpcore.ConnectError("unix sockets are not fetched from")

    def sleep(self, seconds: float) -> None:
        """Sleep, as httpcore requires."""
        self._sockets.sleep(seconds)

    def _left(self, until: float | None) -> float:
        left = (until or 0.0) - self._clock()
        if left <= 0:
            raise httpcore.ReadTimeout("the deadline is over")
        return left

    def _look_up(self, host: str, port: int, left: float) -> list[Address]:
        """Look up a name in a thread that can be left behind: the resolver has no deadline."""
        found: queue.SimpleQueue[_Found] = queue.SimpleQueue()
        looking = threading.Thread(target=_look_up, args=(host, port, found), daemon=True)
        try:
            looking.start()
        except RuntimeError as error:  # this machine can start no thread
            raise httpcore.ConnectError(f"{host} is not looked up: {error}") from error
        try:
            answer = found.get(timeout=left)
        except queue.Empty:
            raise httpcore.ConnectTimeout(f"{host} was not resolved in time") from None
        if isinstance(answer, socket.gaierror) and answer.errno == socket.EAI_NONAME:
            raise UnknownHostError(f"{host}: {answer}") from answer
        if isinstance(answer, OSError):
            raise httpcore.ConnectError(f"{host}: {answer}") from answer
        return answer


class _TimedStream(httpcore.NetworkStream):
    """A stream whose timeouts are times of the clock."""

    def __init__(
        self, stream: httpcore.NetworkStream, left: Callable[[float | None], float]
    ) -> None:
        self._stream = stream
        self._left = left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        secure = self._stream.start_tls(ssl_context, server_hostname, self._left(timeout))
        return _TimedStream(secure, self._left)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _look_up(host: str, port: int, found: "queue.SimpleQueue[_Found]") -> None:
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # not a valid name, such as one of 64 letters
        found.put(OSError(str(error)))
    except OSError as error:
        found.put(error)
    else:
        found.put(list(dict.fromkeys(str(entry[4][0]) for entry in entries)))


def _require_public(host: str, port: int, addresses: Iterable[Address]) -> None:
    for address in addresses:
        if not is_public(address):
            raise PoisonError(
                ReasonCode.ADDRESS_BLOCKED,
                f"{host} is the private address {address}; "
                f"PIXTIDE_ALLOWED_HOSTS={host}:{port} would allow it",
            )


def is_public(address: Address) -> bool:
    """Whether an address is on the public internet, whatever it is wrapped in."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour
        if inner is not None:
            parsed = inner
        elif parsed in _NAT64:
            parsed = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        elif parsed not in _GLOBAL_UNICAST:  # such as ::127.0.0.1, which Python calls global
            return False
    if any(parsed in network for network in _NOT_PUBLIC if network.version == parsed.version):
        return False
    return parsed.is_global and not parsed.is_multicast


_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
#: Addresses that IANA's registries of special-purpose addresses (IPv4 and IPv6) don't call globally
#: reachable, and those that stand for another address or that the machine's own provider answers.
#: Each is listed even if this version of Python knows it.
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
            *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.168.0.0/16"),
            "192.31.196.0/24",  # AS112: the nearest one answers
            "192.52.193.0/24",  # AMT relays, the same
            "192.88.99.0/24",  # relays of 6to4, deprecated
            "192.175.48.0/24",  # AS112
            *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
            "168.63.129.16/32",  # Azure's own services, in every virtual network
            "2001::/23",  # protocol assignments, Teredo, benchmarking and ORCHID among them
            "2001:db8::/32",
            "2620:4f:8000::/48",  # AS112
            "3ffe::/16",  # the 6bone's, returned
            "3fff::/20",
            "5f00::/16",  # segment routing
        ),
    )
)
