"""Weaviate, reached over HTTP and gRPC: a cluster of one node, or of several."""

import os
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.servers.install import WEAVIATE_VERSION, Say, check_weaviate, weaviate_binary
from tests.servers.runners import (
    ChildProcess,
    Container,
    Elsewhere,
    NotOurServerError,
    Runner,
    docker,
    docker_answers,
    free_ports,
)
from tests.servers.server import Server

URL = "PIXTIDE_TEST_WEAVIATE_URL"
GRPC_PORT = "PIXTIDE_TEST_WEAVIATE_GRPC_PORT"
IMAGE = f"semitechnologies/weaviate:{WEAVIATE_VERSION}"
VERSION = WEAVIATE_VERSION

#: Never through a proxy that the environment may name.
_http = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class WeaviateServer(Server):
    """A Weaviate for tests, at `http_url` and, on the same host, `grpc_port`."""

    def __init__(self, http_url: str, grpc_port: int, runner: Runner):
        super().__init__(f"Weaviate at {http_url}", runner)
        self.http_url = http_url
        self.grpc_port = grpc_port
        address = urllib.parse.urlsplit(http_url)
        self.host = address.hostname or ""
        self.port = address.port or (443 if address.scheme == "https" else 80)

    def _serves(self) -> bool:
        try:
            with _http.open(f"{self.http_url}/v1/.well-known/ready", timeout=2):
                socket.create_connection((self.host, self.grpc_port), timeout=2).close()
                return True
        except (OSError, urllib.error.URLError):
            return False


def check() -> None:
    """Raises SetupError where Weaviate can't be had."""
    if URL not in os.environ and not docker_answers():
        check_weaviate()


def prepare(say: Say) -> None:
    """Do what takes long: nothing with an address, else pull the image or build the server."""
    if URL in os.environ:
        say(f"Weaviate: the one at {URL}")
    elif docker_answers():
        say(f"Weaviate: {docker(['docker', 'pull', '--quiet', IMAGE])}")
    else:
        say(f"Weaviate: {weaviate_binary(say)}")


def weaviate_server(folder: Path, say: Say, *, api_key: str | None = None) -> WeaviateServer:
    """A Weaviate that isn't launched yet, with its data and log in `folder`.

    With an `api_key`, one of ours that lets in nobody else.

    Raises:
        NotOurServerError: a key is asked for where the environment gives the server.
    """
    if api_key and URL in os.environ:
        raise NotOurServerError(f"this test needs a Weaviate of ours: unset {URL}")
    if url := os.environ.get(URL):
        return WeaviateServer(
            url.rstrip("/"), int(os.environ.get(GRPC_PORT, "50051")), Elsewhere(URL)
        )
    port, grpc_port, *others = free_ports(6)
    url = f"http://127.0.0.1:{port}"
    if docker_answers():
        inside = _environment(api_key) | _stored("/var/lib/weaviate", "/var/lib/backups")
        container = Container(IMAGE, inside, {port: 8080, grpc_port: 50051})
        return WeaviateServer(url, grpc_port, container)
    return _child(folder, say, _Ports(port, grpc_port, *others), _environment(api_key))


def weaviate_nodes(folders: Sequence[Path], say: Say) -> list[WeaviateServer]:
    """A cluster with a node in each folder that isn't launched yet; always the kept program."""
    # On one machine a node takes the ports after the gossip and the raft port of another for those
    # of its data and its calls.
    [*clients], [*others] = free_ports(2 * len(folders)), free_ports(2 * len(folders), in_a_row=2)
    nodes = [
        _Ports(clients.pop(), clients.pop(), gossip, gossip + 1, raft, raft + 1)
        for gossip, raft in zip(others[::2], others[1::2], strict=True)
    ]
    names = [f"weaviate-{number}" for number in range(len(nodes))]
    everywhere = _environment(None) | {
        "CLUSTER_IN_LOCALHOST": "true",
        "CLUSTER_JOIN": ",".join(f"127.0.0.1:{ports.gossip}" for ports in nodes),
        "RAFT_BOOTSTRAP_EXPECT": str(len(nodes)),
        "RAFT_JOIN": ",".join(f"{name}:{p.raft}" for name, p in zip(names, nodes, strict=True)),
        "ASYNC_REPLICATION_FREQUENCY": "5s",  # as deploy/kubernetes/weaviate-production.yaml has it
        "GOMEMLIMIT": "400MiB",
    }
    say(f"Weaviate: {len(nodes)} nodes of {weaviate_binary(say)}")
    return [
        _child(folder, say, ports, everywhere | {"CLUSTER_HOSTNAME": name})
        for folder, ports, name in zip(folders, nodes, names, strict=True)
    ]


class _Ports(NamedTuple):
    http: int
    grpc: int
    gossip: int
    data: int
    raft: int
    raft_rpc: int


def _child(folder: Path, say: Say, ports: _Ports, environment: dict[str, str]) -> WeaviateServer:
    command = [str(weaviate_binary(say)), "--host", "127.0.0.1", "--port", str(ports.http)]
    command += ["--scheme", "http"]
    environment |= _stored(str(folder / "data"), str(folder / "backups")) | {
        # Weaviate opens the gRPC port and the data port on every interface; no setting binds them.
        "GRPC_PORT": str(ports.grpc),
        "CLUSTER_ADVERTISE_ADDR": "127.0.0.1",
        "CLUSTER_BIND_ADDR": "127.0.0.1",
        "CLUSTER_GOSSIP_BIND_PORT": str(ports.gossip),
        "CLUSTER_DATA_BIND_PORT": str(ports.data),
        "RAFT_PORT": str(ports.raft),
        "RAFT_INTERNAL_RPC_PORT": str(ports.raft_rpc),
    }
    url = f"http://127.0.0.1:{ports.http}"
    return WeaviateServer(url, ports.grpc, ChildProcess(command, environment, folder))


def _stored(data: str, backups: str) -> dict[str, str]:
    return {
        "PERSISTENCE_DATA_PATH": data,
        "ENABLE_MODULES": "backup-filesystem",
        "BACKUP_FILESYSTEM_PATH": backups,
    }


def _environment(api_key: str | None) -> dict[str, str]:
    keys = {
        "AUTHENTICATION_APIKEY_ENABLED": "true",
        "AUTHENTICATION_APIKEY_ALLOWED_KEYS": api_key or "",
        "AUTHENTICATION_APIKEY_USERS": "pixtide",
    }
    return (keys if api_key else {}) | {
        "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "false" if api_key else "true",
        "AUTOSCHEMA_ENABLED": "false",
        "CLUSTER_HOSTNAME": "node1",
        "RAFT_BOOTSTRAP_EXPECT": "1",
        "RAFT_TIMEOUTS_MULTIPLIER": "1",  # one node waits for no other before it leads again
        "DEFAULT_VECTORIZER_MODULE": "none",
        "DISABLE_TELEMETRY": "true",
        # A developer's disk may be rather full: by default that makes collections read-only.
        "DISK_USE_WARNING_PERCENTAGE": "0",
        "DISK_USE_READONLY_PERCENTAGE": "0",
        "GOMEMLIMIT": "1GiB",
        "GO_PROFILING_DISABLE": "true",
        "PROMETHEUS_MONITORING_ENABLED": "false",
    }
