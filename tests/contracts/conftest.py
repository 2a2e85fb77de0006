"""Each test of the index ports runs over both adapters: real Weaviate, and LanceDB."""

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from weaviate import connect_to_custom

from pixtide.search.lancedb.catalog import LanceCatalog
from pixtide.search.port import GenerationCatalog, VectorIndex
from pixtide.search.weaviate.catalog import WeaviateCatalog
from pixtide.streams.kafka import offsets as kafka_offsets
from tests.contracts.samples import generation
from tests.servers import WeaviateServer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ask for the Weaviate server by name: it is started for the tests that name it."""
    for item in items:
        call = getattr(item, "callspec", None)
        if call is not None and call.params.get("catalog") == "weaviate":
            getattr(item, "fixturenames").append("weaviate")  # noqa: B009


@pytest.fixture(params=["lancedb", "weaviate"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GenerationCatalog]:
    """An empty catalog."""
    if request.param == "lancedb":
        made: GenerationCatalog = LanceCatalog(folder=tmp_path / "index")
        yield made
        made.close()
    else:
        yield from weaviate_catalog(request.getfixturevalue("weaviate"))


@pytest.fixture
def another(catalog: GenerationCatalog) -> Iterator[Callable[[], GenerationCatalog]]:
    """Makes further catalogs of the same index, as other processes have them."""
    with contextlib.ExitStack() as made:

        def make() -> GenerationCatalog:
            if isinstance(catalog, LanceCatalog):
                other: GenerationCatalog = LanceCatalog(folder=catalog._folder)
            else:
                assert isinstance(catalog, WeaviateCatalog)
                [node], namespace = catalog._connection._nodes, catalog._namespace
                other = WeaviateCatalog(
                    http_url=node.url, grpc_port=node.grpc_port, namespace=namespace
                )
            made.callback(other.close)
            return other

        yield make


@pytest.fixture
def index(catalog: GenerationCatalog) -> VectorIndex:
    """The empty collection of one generation."""
    catalog.create(generation())
    return catalog.open(generation())


def weaviate_catalog(server: WeaviateServer) -> Iterator[WeaviateCatalog]:
    """An empty catalog in a namespace of its own, which is removed afterwards."""
    namespace = f"T{uuid.uuid4().hex[:8]}"
    catalog = WeaviateCatalog(
        http_url=server.http_url, grpc_port=server.grpc_port, namespace=namespace
    )
    yield catalog
    catalog.close()
    with connect_to_custom(
        http_host=server.host,
        http_port=server.port,
        http_secure=False,
        grpc_host=server.host,
        grpc_port=server.grpc_port,
        grpc_secure=False,
        skip_init_checks=True,
    ) as client:
        for alias in ("Images", "PixtideTurn"):
            client.alias.delete(alias_name=f"{namespace}{alias}")
        for name in client.collections.list_all():
            if name.startswith(namespace):
                client.collections.delete(name)


def await_ends(client: AdminClient, topic: str, wanted: dict[int, int]) -> None:
    """A transaction's markers may come a moment after it has been committed."""
    deadline = time.monotonic() + 60
    while (found := kafka_offsets.ends(client, topic, wanted)) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
