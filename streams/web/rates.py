"""How often one client may ask: a bucket of tokens each, refilled as time passes."""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.requests import Request

from pixtide.streams.web.problems import ApiError

#: Clients remembered; one that is forgotten starts anew, with a full bucket.
_CLIENTS = 10_000
_NAME = 64


class Rate:
    """At most so many requests a minute by one client, of which all may come at once."""

    def __init__(
        self, what: str, per_minute: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what = what
        self._per_minute = per_minute
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def spend(self, request: Request) -> None:
        """Count one request. Raises ApiError 429, which says when to come again."""
        client = client_of(request)
        now = self._clock()
        left, since = self._left.pop(client, (float(self._per_minute), now))
        left = min(self._per_minute, left + (now - since) * self._per_minute / 60)
        allowed = left >= 1
        self._left[client] = (left - 1 if allowed else left, now)
        if len(self._left) > _CLIENTS:
            self._left.popitem(last=False)
        if not allowed:
            wait_s = math.ceil((1 - left) * 60 / self._per_minute)
            raise ApiError(
                429,
                "TOO_MANY_REQUESTS",
                f"at most {self._per_minute} {self._what} a minute; try again in {wait_s} s",
                {"retry-after": str(wait_s)},
            )


def client_of(request: Request) -> str:
    """Who asks, as `client_at`."""
    return client_at(request.client.host if request.client else "")


def client_at(host: str) -> str:
    """An IPv4 address, or the network of an IPv6 one, of which a client has many."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host[:_NAME]  # of a proxy's own making: none is remembered at length
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return str(address)
