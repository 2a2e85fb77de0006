"""LanceDB's index of vectors: it appears with the rows, and finds what comparing all would."""

import time
from pathlib import Path

import numpy as np
import pytest

from pixtide.schemas.queries import Filters
from pixtide.search.lancedb import vector_indexing
from pixtide.search.lancedb.catalog import LanceCatalog
from pixtide.search.lancedb.index import LanceIndex
from pixtide.search.port import Query, StoredImage
from tests.contracts.samples import deleted, generation, live

_DIMENSION = 32


def rows(first: int, count: int) -> list[StoredImage]:
    random = np.random.default_rng(first)
    vectors = random.normal(size=(count, _DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [live(f"i{first + n}", first + n, vector) for n, vector in enumerate(vectors)]


def test_an_index_is_made_kept_and_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_indexing, "_INDEX_FROM", 2000)
    catalog = LanceCatalog(folder=tmp_path / "index")
    made = generation(dimension=_DIMENSION)
    catalog.create(made)
    index = catalog.open(made)
    expected = rows(0, 3000)
    index.write(expected[:1000])
    assert left_of(index) is None, "few rows need no index"
    index.write(expected[1000:2500])
    index.write(expected[2500:])
    wait_until_indexed(index)
    index.write([deleted("i7", 9000), *rows(9000, 50)])
    expected = [row for row in expected if row.image_id != "i7"] + rows(9000, 50)

    vectors = np.stack([row.vector for row in expected if row.vector is not None])
    asked = vectors[::20]
    found = index.search([Query(vector, 10) for vector in asked])
    right = 0
    for vector, hits in zip(asked, found, strict=True):
        best = np.argsort(-(vectors @ vector), kind="stable")[:10]
        assert hits[0].row.image_id == expected[best[0]].image_id
        right += len({expected[n].image_id for n in best} & {hit.row.image_id for hit in hits})
    assert right >= 0.9 * 10 * len(asked)

    [all_of_them] = index.search([Query(asked[0], 1000)])
    best = np.argsort(-(vectors @ asked[0]))[:1000]
    assert {hit.row.image_id for hit in all_of_them} == {expected[n].image_id for n in best}
    [few] = index.search([Query(asked[0], 10, Filters(uploaded_before=expected[0].uploaded_at))])
    assert few == []
    [first, *_] = found[0]
    index.write([live(first.row.image_id, 9999, vectors[1])])
    [newest] = index.search([Query(vectors[1], 2)])
    assert first.row.image_id in {hit.row.image_id for hit in newest}
    [older] = index.search([Query(asked[0], 10)])
    assert all(hit.similarity < 0.99 for hit in older), "a row that was replaced was remembered"

    again = catalog.open(made)
    again.write([*rows(20_000, 100), *(deleted(f"i{n}", 9000) for n in range(1000))])
    wait_until_indexed(again)
    [hit, *_] = index.search([Query(asked[-1], 10)])[0]
    assert hit.row.image_id == expected[20 * (len(asked) - 1)].image_id


def left_of(index: LanceIndex) -> int | None:
    """How many rows are not in the index of vectors; None where there is none."""
    known = [each for each in index._table.list_indices() if each.columns == ["vector"]]
    return known[0].num_unindexed_rows if known else None


def wait_until_indexed(index: LanceIndex) -> None:
    deadline = time.monotonic() + 120
    while left_of(index) != 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)
