"""How the Weaviate adapter connects, and what it does when the network fails."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pixtide.schemas.errors import TransientError, UsageError
from pixtide.search.port import Query, RowState
from pixtide.search.weaviate.catalog import WeaviateCatalog
from tests.contracts.conftest import weaviate_catalog
from tests.contracts.proxy import Proxy
from tests.contracts.samples import generation, live, towards
from tests.servers import WeaviateServer
from tests.servers.certificates import make_certificates
from tests.servers.tls import TlsFront


@pytest.fixture
def catalog(weaviate: WeaviateServer) -> Iterator[WeaviateCatalog]:
    yield from weaviate_catalog(weaviate)


@pytest.mark.fault("the index's client has given up")
def test_a_lost_network_is_waited_out(catalog: WeaviateCatalog, weaviate: WeaviateServer) -> None:
    catalog.create(generation())
    http, grpc = Proxy((weaviate.host, weaviate.port)), Proxy((weaviate.host, weaviate.grpc_port))
    with http, grpc:
        far = WeaviateCatalog(
            http_url=f"http://127.0.0.1:{http.port}",
            grpc_port=grpc.port,
            namespace=catalog._namespace,
            timeout_s=1.5,
        )
        index = far.open(generation())
        assert index.write([live("a", 1)])[0].applied

        http.freeze()
        grpc.freeze()
        for attempt in (
            lambda: index.write([live("a", 2)]),
            lambda: index.search([Query(towards(1), 1)] * 3),
        ):
            started = time.monotonic()
            with pytest.raises(TransientError):
                attempt()
            assert time.monotonic() - started < 30
        http.thaw()
        grpc.thaw()
        assert index.write([live("a", 2)])[0].applied
        assert index.count()[RowState.LIVE] == 1

        http.cut()
        grpc.cut()
        with pytest.raises(TransientError):
            index.get(["a"])
        started = time.monotonic()
        with pytest.raises(TransientError):
            index.get(["a"])
        assert time.monotonic() - started < 15  # known to be away: said at once
        http.mend()
        grpc.mend()
        assert set(index.get(["a"])) == {"a"}
        far.close()


def test_many_threads_share_a_connection_that_fails(catalog: WeaviateCatalog) -> None:
    catalog.create(generation())
    index = catalog.open(generation())
    index.write([live("a", 1)])
    failed: list[Exception] = []

    def work() -> None:
        for _ in range(10):
            try:
                assert index.get(["a"])
            except TransientError as error:
                failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        catalog.close()  # as a failed call does: others still use the client
        time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert not failed


def test_an_authority_of_ones_own_vouches_for_rest_and_grpc(
    catalog: WeaviateCatalog, weaviate: WeaviateServer, tmp_path: Path
) -> None:
    catalog.create(generation())
    certificates = make_certificates(tmp_path)
    http = TlsFront(weaviate.port, certificates)
    grpc = TlsFront(weaviate.grpc_port, certificates)
    with http, grpc:

        def behind_tls(ca_file: Path | None) -> WeaviateCatalog:
            return WeaviateCatalog(
                http_url=f"https://127.0.0.1:{http.port}",
                grpc_port=grpc.port,
                namespace=catalog._namespace,
                ca_file=ca_file,
                timeout_s=5,
            )

        trusting, strange = behind_tls(certificates.authority), behind_tls(None)
        index = trusting.open(generation())
        assert index.write([live("a", 1)])[0].applied  # by gRPC
        assert set(index.get(["a"])) == {"a"}  # past the client, by REST
        assert [each.name for each in trusting.list()] == [generation().name]  # its own REST
        trusting.close()
        with pytest.raises(UsageError, match="_CA_FILE"):
            strange.list()
    with pytest.raises(UsageError, match="CA file"):
        behind_tls(Path(__file__))
    with pytest.raises(UsageError, match="CA file"):
        behind_tls(tmp_path / "none")


@pytest.mark.parametrize(
    ("status", "version", "error", "match"),
    [
        (200, "1.33.9", UsageError, "1.34"),
        (200, "0.1", UsageError, "1.34"),
        (401, "1.35.2", UsageError, "key"),
        (403, "1.35.2", UsageError, "key"),
        (503, "1.35.2", TransientError, "503"),
        (200, None, UsageError, "no Weaviate"),
    ],
)
def test_what_it_connects_to_is_looked_at(
    status: int, version: str | None, error: type[Exception], match: str
) -> None:
    class Meta(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({"version": version} if version else []).encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Meta) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        catalog = WeaviateCatalog(http_url=url, grpc_port=1, api_key="k", namespace="X")
        with pytest.raises(error, match=match):
            catalog.list()
        catalog.close()
        server.shutdown()


def test_nobody_there() -> None:
    with Proxy(("127.0.0.1", 1)) as proxy:
        port = proxy.port
    catalog = WeaviateCatalog(http_url=f"http://127.0.0.1:{port}", grpc_port=port + 1)
    with pytest.raises(TransientError):
        catalog.live()


@pytest.mark.parametrize("url", ["weaviate:8080", "ftp://x", "http://", "http://x:port"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(UsageError, match="address"):
        WeaviateCatalog(http_url=url, grpc_port=1)


@pytest.mark.parametrize("namespace", ["1a", "a-b", "_a", "a.b", "x" * 65])
def test_a_namespace_that_is_none(namespace: str) -> None:
    with pytest.raises(UsageError, match="namespace"):
        WeaviateCatalog(http_url="http://x", grpc_port=1, namespace=namespace)
