"""The connection to Weaviate: opened when first needed, and opened again after a failure.

Every call goes through `Connection.call`, which turns each of the client's errors into ours.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import grpc  # type: ignore[import-untyped]
import httpx
from weaviate import WeaviateClient
from weaviate.auth import Auth
from weaviate.config import AdditionalConfig, GrpcConfig, Timeout
from weaviate.exceptions import WeaviateBaseError

from pixtide.schemas.errors import TransientError
from pixtide.search.port import CollectionGoneError
from pixtide.search.weaviate.errors import verdict_of
from pixtide.search.weaviate.nodes import Node, channel_options, connection_params, nodes_at
from pixtide.search.weaviate.rest import fetch, require_collection, require_ready, require_version
from pixtide.search.weaviate.tls import Trust

S = TypeVar("S")
T = TypeVar("T")

_SIDE_BY_SIDE = 8


@dataclass
class _Held:
    """A client and how many calls use it; a replaced one is closed after its last call."""

    client: WeaviateClient
    http: httpx.Client
    users: int = 0
    condemned: bool = False


class Connection:
    """A connection that threads share.

    Args:
        http_url: `http://host:port` or `https://…`, which then also applies to gRPC; or several of
            the first kind, with commas.
        grpc_ports: one for all of them, or one for each.
        grpc_host: the gRPC host; the host of `http_url` by default.
        ca_file: the CA bundle (PEM) for an https server; certifi's by default.
        timeout_s: how long one request may take.
    """

    def __init__(
        self,
        *,
        http_url: str,
        grpc_ports: Sequence[int],
        grpc_host: str | None,
        api_key: str | None,
        ca_file: Path | None,
        timeout_s: float,
    ):
        self._nodes = nodes_at(http_url, grpc_host, grpc_ports)
        self._trust = Trust(ca_file)
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._held: _Held | None = None
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_SIDE_BY_SIDE, thread_name_prefix="weaviate")
        # The client logs each refused object completely, with its vector; callers get the error
        # instead.
        logging.getLogger("weaviate-client").setLevel(logging.CRITICAL)

    def call(self, ask: Callable[[WeaviateClient], T]) -> T:
        """Make a call to Weaviate.

        Raises:
            TransientError: it can't be reached, is too slow, is starting or has a problem.
            UsageError: the collection is gone, the key is refused, or Weaviate is too old.
            FatalError: the request is invalid.
        """
        try:
            return self._of_any(ask)
        except CollectionGoneError:
            return self.call_ready(ask)  # or is it only starting?

    def call_ready(self, ask: Callable[[WeaviateClient], T]) -> T:
        """Make a call once the server is ready; while starting, it denies that anything exists."""
        with self._borrowed() as held:
            try:
                require_ready(held.http)
            except TransientError:
                held.condemned = True
                raise
        return self._of_any(ask)

    def side_by_side(self, ask: Callable[[WeaviateClient, S], T], items: Sequence[S]) -> list[T]:
        """Make one call for each item, in parallel; raises as `call` does."""
        if len(items) == 1:
            return [self.call(lambda client: ask(client, items[0]))]
        self.call(lambda _: None)  # connect once, not from every thread
        calls = [
            self._pool.submit(self.call, lambda client, item=item: ask(client, item))
            for item in items
        ]
        return [each.result() for each in calls]

    def fetch_objects(self, name: str, uuids: Sequence[UUID]) -> list[dict[str, Any]]:
        """The existing ones of these objects, read by id one by one, with vectors, as JSON."""
        with self._borrowed() as held:
            side_by_side = map if len(uuids) == 1 else self._pool.map
            try:
                answers = list(side_by_side(lambda uuid: fetch(held.http, name, uuid), uuids))
                if len(self._nodes) > 1 and None in answers:
                    require_collection(held.http, name)  # a node just back may not know it yet
            except TransientError:
                held.condemned = True
                raise
        return [found for found in answers if found is not None]

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        with self._lock:
            held, self._held = self._held, None
            if held is not None:
                held.condemned = True
                _close_unused(held)

    def _of_any(self, ask: Callable[[WeaviateClient], T]) -> T:
        """Ask other nodes, too: one that has just come back may not know yet what exists."""
        for _ in range(2 * (len(self._nodes) - 1)):  # the turns are shared with other threads
            with contextlib.suppress(CollectionGoneError):
                return self._once(ask)
        return self._once(ask)

    def _once(self, ask: Callable[[WeaviateClient], T]) -> T:
        with self._borrowed() as held:
            try:
                return ask(held.client)
            except (WeaviateBaseError, httpx.HTTPError, grpc.RpcError) as error:
                verdict = verdict_of(error)
                # A client may be closed for good, or may wait on a dead connection without
                # noticing. A new one notices at once.
                if isinstance(verdict, TransientError):
                    held.condemned = True
                raise verdict from error

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[_Held]:
        with self._lock:
            if self._held is None or self._held.condemned:
                if self._held is not None:  # it may answer only that it is ready
                    self._next_node()
                self._held = self._connect()
            held = self._held
            held.users += 1
        try:
            yield held
        finally:
            with self._lock:
                held.users -= 1
                _close_unused(held)

    def _connect(self) -> _Held:
        """Connect to the first node, else to the next one that answers."""
        for _ in self._nodes[1:]:
            with contextlib.suppress(TransientError):
                return self._connect_to(self._nodes[0])
            self._next_node()
        return self._connect_to(self._nodes[0])

    def _next_node(self) -> None:
        self._nodes = [*self._nodes[1:], self._nodes[0]]

    def _connect_to(self, node: Node) -> _Held:
        client = self._client(node)
        key = {"authorization": f"Bearer {self._api_key}"} if self._api_key else None
        http = httpx.Client(
            base_url=node.url,
            headers=key,
            timeout=self._timeout_s,
            verify=self._trust.verify,
            trust_env=False,
        )
        try:
            require_ready(http)
            require_version(http)
            client.connect()
        except (WeaviateBaseError, httpx.HTTPError, KeyError) as error:
            raise TransientError(f"Weaviate at {node.url}: {error!r}") from error
        finally:
            if not client.is_connected():
                client.close()
                http.close()
        return _Held(client, http)

    def _client(self, node: Node) -> WeaviateClient:
        timeout = Timeout(init=self._timeout_s, query=self._timeout_s, insert=self._timeout_s)
        client = WeaviateClient(
            connection_params=connection_params(node, self._nodes),
            auth_client_secret=Auth.api_key(self._api_key) if self._api_key else None,
            additional_config=AdditionalConfig(
                timeout=timeout,
                grpc_config=GrpcConfig(
                    channel_options=channel_options(), credentials=self._trust.credentials
                ),
            ),
            skip_init_checks=True,  # they ask PyPI for the newest client
        )
        self._trust.have_of(client)
        _insert_once(client)
        return client


def _insert_once(client: WeaviateClient) -> None:
    """Stop the client from sending a batch again when its connection breaks.

    Weaviate would treat the second batch as what it already has, though it may not have put the
    vectors into its index yet: a repeated batch must differ (see `WeaviateIndex`). There is no
    setting for this. A failed call waits a second before it reports the error.
    """
    connection = client._connection
    insert = connection.grpc_batch_objects

    def once(request: Any, timeout: float, max_retries: float) -> Any:  # noqa: ARG001
        return insert(request, timeout, -1)

    setattr(connection, insert.__name__, once)


def _close_unused(held: _Held) -> None:
    if held.condemned and not held.users:
        held.client.close()
        held.http.close()
