"""What the Weaviate adapter does when Weaviate, the network or one object is at fault."""

import contextlib
import time
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from weaviate.classes.config import VectorDistances

from pixtide.schemas.errors import TransientError
from pixtide.schemas.identity import object_id
from pixtide.search.port import Query, RowState
from pixtide.search.weaviate.catalog import WeaviateCatalog
from tests.contracts.conftest import weaviate_catalog
from tests.contracts.samples import DIMENSION, deleted, full_row, generation, live, towards
from tests.servers import WeaviateServer


@pytest.fixture
def catalog(weaviate: WeaviateServer) -> Iterator[WeaviateCatalog]:
    yield from weaviate_catalog(weaviate)


def test_the_collection_is_made_as_the_record_says(catalog: WeaviateCatalog) -> None:
    catalog.create(generation("v1"))
    catalog.create(generation("v2", compression="none"))

    def config(name: str) -> Any:
        full = catalog._named(generation(name).collection)
        return catalog._connection.call(lambda client: client.collections.use(full).config.get())

    compressed, plain = config("v1"), config("v2")
    vectors = compressed.vector_config["default"].vector_index_config
    assert vectors.distance_metric is VectorDistances.COSINE
    assert type(vectors.quantizer).__name__ == "_RQConfig"
    assert plain.vector_config["default"].vector_index_config.quantizer is None
    fields = {each.name: each for each in compressed.properties}
    assert fields["words"].index_searchable
    assert not fields["caption"].index_searchable  # its words are among `words`
    assert fields["tags"].index_filterable
    assert not fields["uri"].index_filterable
    assert not fields["attributes_json"].index_searchable
    assert fields["uploaded_at"].index_range_filters
    assert fields["attr_price"].index_range_filters


def test_a_live_generation_whose_record_nobody_has_may_come_back(catalog: WeaviateCatalog) -> None:
    catalog.create(generation())
    catalog.promote("v1")
    catalog._connection.call(
        lambda client: client.collections.use(catalog._records).data.delete_by_id(object_id("v1"))
    )
    with pytest.raises(TransientError, match="no record knows"):
        catalog.live()


@pytest.mark.parametrize("stands_still", ["_rows", "_insert"])
def test_who_stood_still_in_mid_write_overwrites_nothing_newer(
    catalog: WeaviateCatalog, monkeypatch: pytest.MonkeyPatch, stands_still: str
) -> None:
    catalog.create(generation())
    slow, other = catalog.open(generation()), catalog.open(generation())
    now = [0.0]
    do = getattr(slow, stands_still)

    def stand_still(*given: Any, **named: Any) -> Any:
        done = do(*given, **named)
        if not now[0]:  # the first time, a minute passes before the answer is heard of
            now[0] = 60.0
            other.write([live("p", 2)])
        return done

    monkeypatch.setattr(slow, "_clock", lambda: now[0])
    monkeypatch.setattr(slow, stands_still, stand_still)
    slow.write([live("p", 1)])
    assert other.get(["p"])["p"].version == live("p", 2).version


def test_declared_attributes_are_copied_where_their_type_is_right(
    catalog: WeaviateCatalog,
) -> None:
    catalog.create(generation())
    index = catalog.open(generation())
    right = {"shop": "Müller", "price": 3, "sold": True, "made": "2026-02-03", "more": 1}
    wrong = {"shop": 1, "price": "3", "sold": 0, "made": "soon", "more": [2]}
    index.write([live("right", 1, attributes=right), live("wrong", 2, attributes=wrong)])

    def stored(image_id: str) -> dict[str, Any]:
        name = catalog._named(generation().collection)
        found: Any = catalog._connection.call(
            lambda client: client.collections.use(name).query.fetch_object_by_id(
                object_id(image_id)
            )
        )
        return {k: v for k, v in found.properties.items() if k.startswith("attr_")}

    found = stored("right")
    assert (found["attr_shop"], found["attr_price"], found["attr_sold"]) == ("Müller", 3, True)
    assert found["attr_made"].isoformat() == "2026-02-03T00:00:00+00:00"
    assert set(stored("wrong").values()) <= {None}
    assert index.get(["wrong"])["wrong"].attributes == wrong


@pytest.mark.fault("one object of a batch is refused")
def test_one_refused_object_fails_alone(catalog: WeaviateCatalog) -> None:
    catalog.create(generation())
    index = catalog.open(generation())
    longer = np.append(towards(1), np.float32(0))
    wider = catalog.open(generation(dimension=DIMENSION + 1))
    wider.write([live("first", 0, longer)])  # from here on Weaviate takes nine numbers

    refused, kept, older = index.write([live("a", 1), deleted("b", 1), deleted("first", 0)])
    assert not refused.applied
    assert refused.error is not None
    assert "length" in refused.error
    assert (kept.applied, kept.error) == (True, None)
    assert (older.applied, older.error) == (False, None)
    assert set(index.get(["a", "b"])) == {"b"}

    alone, both = index.write([live("c", 1), live("d", 1)])
    assert alone.error
    assert both.error
    assert index.count()[RowState.LIVE] == 1


def test_a_row_that_a_query_misses_is_read_by_its_id(
    catalog: WeaviateCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog.create(generation())
    index = catalog.open(generation())
    rows = [full_row(), deleted("gone", 1), live("a", 1, uploaded_at=None)]
    index.write(rows)
    # As when it is replaced between the search for its id and the reading of its place.
    monkeypatch.setattr(index, "_look_up", lambda *_, **__: {})
    found = index.get([*(row.image_id for row in rows), "nobody"])
    assert found == {row.image_id: row for row in rows}
    vector = found[full_row().image_id].vector
    assert vector is not None
    assert np.abs(vector - towards(1, 2, 3)).max() < 1e-6


def test_read_only_is_weaviates_trouble_not_the_objects(catalog: WeaviateCatalog) -> None:
    catalog.create(generation())
    index = catalog.open(generation())

    def shards(status: str) -> None:
        name = catalog._named(generation().collection)
        catalog._connection.call(
            lambda client: client.collections.use(name).config.update_shards(status)  # type: ignore[arg-type]
        )

    shards("READONLY")
    for rows in ([live("a", 1)], [live("a", 1), live("b", 1)]):
        with pytest.raises(TransientError, match="read-only"):
            index.write(rows)
    shards("READY")
    assert index.write([live("a", 1)])[0].applied


def test_a_write_cut_off_by_its_deadline_is_found_once_repeated(
    catalog: WeaviateCatalog, weaviate: WeaviateServer
) -> None:
    wide = generation(dimension=256)
    catalog.create(wide)
    index = catalog.open(wide)
    vectors = np.random.default_rng(0).normal(size=(100, 256)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cut_off, timeout_s = 0, 0.04
    while cut_off < 3:  # ever shorter, until it is too short for how fast this machine is
        rows = [live(f"{timeout_s} {n}", 1, vector) for n, vector in enumerate(vectors)]
        hasty = WeaviateCatalog(
            http_url=weaviate.http_url,
            grpc_port=weaviate.grpc_port,
            namespace=catalog._namespace,
            timeout_s=timeout_s,
        )
        with contextlib.closing(hasty):
            try:
                hasty.open(wide).write(rows)
            except TransientError:
                cut_off += 1
        time.sleep(0.5)  # let the server finish, or give up
        assert all(written.applied for written in index.write(rows))
        for query, hits in zip(rows, index.search([Query(v, 16) for v in vectors]), strict=True):
            assert query.image_id in {hit.row.image_id for hit in hits}
        timeout_s *= 0.75


def test_stacks_share_a_server_by_namespace(
    catalog: WeaviateCatalog, weaviate: WeaviateServer
) -> None:
    catalog.create(generation())
    catalog.promote("v1")
    for other in weaviate_catalog(weaviate):
        assert other.list() == []
        assert other.live() is None
        other.create(generation())
        other.open(generation()).write([live(uuid.uuid4().hex)])
    assert catalog.open(generation()).count()[RowState.LIVE] == 0
    assert catalog.live() == generation()
