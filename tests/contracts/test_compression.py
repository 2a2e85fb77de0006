"""Compression of vectors in Weaviate, and what an exact search says of it on both indexes."""

import time
from collections.abc import Iterator

import numpy as np
import pytest

from pixtide.schemas.errors import TransientError
from pixtide.search.exact import recalls
from pixtide.search.generations import Generation, GenerationState
from pixtide.search.port import GenerationCatalog, Query, StoredImage, VectorIndex
from pixtide.search.weaviate.catalog import WeaviateCatalog
from tests.contracts.conftest import weaviate_catalog
from tests.contracts.samples import deleted, generation, live, towards
from tests.servers import WeaviateServer

#: Weaviate trains product quantization on no fewer than its 256 centroids.
ROWS = 300


def scattered(count: int, seed: int = 0) -> list[StoredImage]:
    """Rows in all directions."""
    directions = np.random.default_rng(seed).normal(size=(count, 8))
    return [live(f"row {n}", n, towards(*each)) for n, each in enumerate(directions)]


def top(index: VectorIndex, rows: list[StoredImage], limit: int) -> list[list[str]]:
    """What a search near each of these rows finds."""
    queries = [Query(row.vector, limit) for row in rows if row.vector is not None]
    return [[hit.row.image_id for hit in hits] for hits in index.search(queries)]


@pytest.fixture
def in_weaviate(weaviate: WeaviateServer) -> Iterator[WeaviateCatalog]:
    yield from weaviate_catalog(weaviate)


@pytest.mark.parametrize("compression", ["rq8", "rq1", "pq"])
def test_what_is_ready_is_compressed(in_weaviate: WeaviateCatalog, compression: str) -> None:
    building = generation(compression=compression)
    in_weaviate.create(building)
    index, rows = in_weaviate.open(building), scattered(ROWS)
    index.write(rows)
    for _ in range(2):  # safe to repeat
        in_weaviate.change(
            building.name, lambda now: now.model_copy(update={"state": GenerationState.READY})
        )
    await_compressed(in_weaviate, building)
    write_when_trained(index, live("one more", ROWS, towards(1, 1)))
    asked = [live("", vector=towards(1, 1))]
    assert top(index, asked, limit=1) == [["one more"]]
    first = [row.image_id for row in rows[:20]]
    assert top(index, rows[:20], limit=1) == [[image_id] for image_id in first]


def await_compressed(catalog: WeaviateCatalog, wanted: Generation) -> None:
    """Wait until the server says of that collection that its vectors are compressed."""
    name = catalog._named(wanted.collection)

    def compressed() -> bool:
        [node] = catalog._connection.call(
            lambda client: client.cluster.nodes(name, output="verbose")
        )
        return all(shard.compressed for shard in node.shards)

    deadline = time.monotonic() + 120
    while not compressed():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def write_when_trained(index: VectorIndex, row: StoredImage) -> None:
    """While Weaviate trains it refuses writes, and workers wait: so do we."""
    deadline = time.monotonic() + 120
    while True:
        try:
            [written] = index.write([row])
            assert written.applied
            return
        except TransientError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_recall_is_the_share_of_the_true_nearest(catalog: GenerationCatalog) -> None:
    catalog.create(generation())
    index = catalog.open(generation())
    index.write([live(f"{n}", n, towards(4.0 - n, float(n))) for n in range(5)])
    index.write([live("like 1", 5, towards(3.0, 1.0)), deleted("gone", 6)])
    asked = np.stack([towards(1), towards(0, 1), towards(3, 1)])
    found = [["0", "1"], ["4", "0"], ["1"]]
    assert recalls(index, asked, found, limit=2) == [1.0, 0.5, 0.5]
    # as near as the last of them is as good; and no more can be found than there are
    assert recalls(index, asked[:1], [["0", "like 1"]], limit=2) == [1.0]
    assert recalls(index, asked[:1], [["0", "1", "2"]], limit=50) == [0.5]


def test_an_empty_collection_misses_nothing(index: VectorIndex) -> None:
    assert recalls(index, np.stack([towards(1)]), [[]], limit=3) == [1.0]


def test_recall_over_more_rows_than_are_compared_at_once(
    index: VectorIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pixtide.search.exact._CHUNK", 7)
    rows = scattered(50)
    index.write(rows)
    asked = np.stack([row.vector for row in rows[:5] if row.vector is not None])
    assert recalls(index, asked, top(index, rows[:5], limit=10), limit=10) == [1.0] * 5
