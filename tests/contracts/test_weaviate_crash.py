"""What Weaviate has confirmed, or was told again, is found after it was killed."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pixtide.schemas.errors import TransientError
from pixtide.search.port import Query, RowState, StoredImage, VectorIndex, Written
from pixtide.search.weaviate.catalog import WeaviateCatalog
from pixtide.streams.generations.comparison_store import ComparisonStore
from pixtide.streams.generations.search_check import SearchCheck
from tests.contracts.samples import deleted, generation, live
from tests.servers import WeaviateServer
from tests.servers.weaviate import URL, weaviate_server

_DIMENSION = 64
_BATCH = 32
_PATIENCE_S = 90


@pytest.fixture
def mortal(weaviate: WeaviateServer, tmp_path: Path) -> Iterator[WeaviateServer]:  # noqa: ARG001
    """A Weaviate of this test's own; naming the shared one sees to it that there is a binary."""
    if URL in os.environ:
        pytest.skip("the Weaviate that the environment gives can't be killed")
    folder = tmp_path / "mortal"
    folder.mkdir()
    server = weaviate_server(folder, lambda _: None)
    try:
        server.start()
        yield server
    finally:
        server.close()


def test_killed_in_mid_write(mortal: WeaviateServer) -> None:
    with contextlib.closing(
        WeaviateCatalog(
            http_url=mortal.http_url, grpc_port=mortal.grpc_port, namespace="Crash", timeout_s=3
        )
    ) as catalog:
        _kill_in_mid_write(mortal, catalog)


def _kill_in_mid_write(mortal: WeaviateServer, catalog: WeaviateCatalog) -> None:
    catalog.create(generation(dimension=_DIMENSION))
    index = catalog.open(generation(dimension=_DIMENSION))
    random = np.random.default_rng(0)
    vectors = random.normal(size=(2, 50 * _BATCH, _DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    batches = [
        [_row(turn, n, vectors[turn][n]) for n in range(start, start + _BATCH)]
        for turn in range(2)
        for start in range(0, len(vectors[turn]), _BATCH)
    ]
    stopped = threading.Event()
    killer = threading.Thread(target=_kill_now_and_then, args=(mortal, stopped))
    killer.start()
    try:
        for batch in batches:
            assert all(written.applied for written in _patiently(index, batch))
    finally:
        stopped.set()
        killer.join()

    expected = {row.image_id: row for batch in batches[50:] for row in batch}
    assert {row.image_id: row for row in index.scan()} == {
        image_id: row.without_vector() for image_id, row in expected.items()
    }
    live_ones = sum(row.state is RowState.LIVE for row in expected.values())
    assert index.count()[RowState.LIVE] == live_ones
    for image_id, row in expected.items():
        if row.vector is not None:
            [[best, *_]] = index.search([Query(row.vector, 1)])
            assert (best.row.image_id, best.row.state) == (image_id, RowState.LIVE)


def _row(turn: int, n: int, vector: np.ndarray[tuple[int], np.dtype[np.float32]]) -> StoredImage:
    """Each id twice, with another vector the second time, where some are deletes."""
    if turn == 1 and n % 7 == 0:
        return deleted(f"i{n}", 1)
    return live(f"i{n}", turn, vector)


def _patiently(index: VectorIndex, rows: list[StoredImage]) -> list[Written]:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return index.write(rows)
        except TransientError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _kill_now_and_then(server: WeaviateServer, stopped: threading.Event) -> None:
    for wait_s in (0.7, 1.1):
        if stopped.wait(wait_s):
            return
        server.kill()
        server.start()


def test_rows_that_a_damaged_index_does_not_find_are_told_and_mended(
    mortal: WeaviateServer, tmp_path: Path
) -> None:
    """Its rows are whole, but the last bytes of what searches look into never reached the disk."""
    with contextlib.closing(
        WeaviateCatalog(
            http_url=mortal.http_url, grpc_port=mortal.grpc_port, namespace="Cut", timeout_s=10
        )
    ) as catalog:
        made = generation(dimension=_DIMENSION)
        catalog.create(made)
        index = catalog.open(made)
        vectors = np.random.default_rng(1).normal(size=(60, _DIMENSION)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        rows = [
            live(f"i{n}", n, vector, caption=f"number {n}", tags=("all",))
            for n, vector in enumerate(vectors)
        ]
        index.write(rows)
        mortal.kill()
        for path in (tmp_path / "mortal").rglob("*"):
            if path.is_file() and ("searchable" in str(path) or "commitlog" in str(path)):
                os.truncate(path, path.stat().st_size * 2 // 3)
        mortal.start()
        with contextlib.closing(ComparisonStore()) as ledger:
            ledger.note_rows(index.scan())
            assert ledger.rows() == len(rows)
            finding = SearchCheck(index, None)
            finding.search(ledger, lambda *_: None)
            assert finding.searched == len(rows)
            unfound = ledger.count_unfound()
            assert min(unfound.values()) > 3 and len(unfound) == 2, unfound
            finding.rewrite(ledger)
            assert ledger.count_unfound() == {}
        assert {row.image_id: row for row in index.scan()} == {
            row.image_id: row.without_vector() for row in rows
        }
        for row in rows:
            assert row.vector is not None
            [[best, *_]] = index.search([Query(row.vector, 1)])
            assert best.row.image_id == row.image_id
