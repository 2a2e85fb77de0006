"""The address of Weaviate, or the addresses of the nodes of one cluster.

With several nodes, gRPC spreads the calls over those that it is connected to, and repeats a search
on another one if a node died during it. REST uses one node as long as that answers.
"""

import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from weaviate.connect import ConnectionParams

from pixtide.schemas.errors import TransientError, UsageError

_SERVICE = "weaviate.v1.Weaviate"
_READS = [{"service": _SERVICE, "method": method} for method in ("Search", "Aggregate")]
#: Never for writes: a repeated write must differ (see `WeaviateIndex`).
_RETRY = {
    "maxAttempts": 3,
    "initialBackoff": "0.05s",
    "maxBackoff": "0.5s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


@dataclass(frozen=True)
class Node:
    """One node; `url` is for REST."""

    url: str
    scheme: str
    host: str
    port: int
    grpc_host: str
    grpc_port: int


def nodes_at(urls: str, grpc_host: str | None, grpc_ports: Sequence[int]) -> list[Node]:
    """The nodes at these URLs, separated by commas; one gRPC port for all, or one for each.

    Raises:
        UsageError: they are invalid.
    """
    each = [url.strip().rstrip("/") for url in urls.split(",")]
    ports = list(grpc_ports) * (len(each) if len(grpc_ports) == 1 else 1)
    if len(ports) != len(each):
        raise UsageError(f"Weaviate has {len(each)} addresses and {len(ports)} gRPC ports")
    nodes = [_node(url, grpc_host, port) for url, port in zip(each, ports, strict=True)]
    if len(nodes) > 1 and any(node.scheme == "https" for node in nodes):
        raise UsageError("several addresses of Weaviate are http ones: put one in front for TLS")
    return nodes


def _node(url: str, grpc_host: str | None, grpc_port: int) -> Node:
    try:
        address = urlsplit(url)
        port = address.port or (443 if address.scheme == "https" else 80)
    except ValueError as error:
        raise UsageError(f"the Weaviate address {url!r}: {error}") from error
    if address.scheme not in ("http", "https") or not address.hostname:
        raise UsageError(f"the Weaviate address {url!r} is no http or https URL")
    host = address.hostname
    return Node(url, address.scheme, host, port, grpc_host or host, grpc_port)


class _Spread(ConnectionParams):
    """Parameters whose gRPC uses all these addresses; the client supports only one."""

    target: str

    @property
    def _grpc_target(self) -> str:
        return self.target


def connection_params(node: Node, nodes: Sequence[Node]) -> ConnectionParams:
    """To use that node by REST, and all nodes by gRPC.

    Raises:
        TransientError: no name can be resolved.
    """
    secure = node.scheme == "https"
    params = ConnectionParams.from_params(
        http_host=node.host,
        http_port=node.port,
        http_secure=secure,
        grpc_host=node.grpc_host,
        grpc_port=node.grpc_port,
        grpc_secure=secure,
    )
    if len(nodes) == 1:
        return params
    target = "ipv4:" + ",".join(_addresses(nodes))
    return _Spread(http=params.http, grpc=params.grpc, target=target)


def _addresses(nodes: Sequence[Node]) -> list[str]:
    found, trouble = [], ""
    for node in nodes:
        try:
            found.append(f"{socket.gethostbyname(node.grpc_host)}:{node.grpc_port}")
        except OSError as error:
            trouble = f"{node.grpc_host}: {error}"
    if not found:
        raise TransientError(f"Weaviate: {trouble}")
    return found


def channel_options() -> list[tuple[str, str | int]]:
    """gRPC options, for one node or several.

    Without `waitForReady`, the client's own retries sleep for up to a minute while the server is
    away. With it, a call waits for the channel, but no longer than its deadline.
    """
    config = {
        "methodConfig": [
            {"name": _READS, "waitForReady": True, "retryPolicy": _RETRY},
            {"name": [{}], "waitForReady": True},
        ],
        "loadBalancingConfig": [{"round_robin": {}}],
    }
    return [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2000),
    ]
