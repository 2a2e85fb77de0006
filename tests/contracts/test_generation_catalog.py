"""What every `GenerationCatalog` does."""

import json
from datetime import timedelta

import pytest

from schemas.errors import FatalError, UsageError
from search.generations import Generation, GenerationState
from search.lancedb_catalog import LanceCatalog
from search.port import CollectionGoneError, GenerationCatalog, Query, WordQuery
from search.weaviate_catalog import WeaviateCatalog
from tests.contracts.samples import NOON, generation, live, towards


def test_an_empty_catalog(catalog: GenerationCatalog) -> None:
    assert catalog.list() == []
    assert catalog.get("v1") is None
    assert catalog.live() is None
    with pytest.raises(UsageError, match="v1"):
        catalog.open(generation())
    with pytest.raises(UsageError, match="v1"):
        catalog.promote("v1")


def test_records_come_back_as_they_were_oldest_first(catalog: GenerationCatalog) -> None:
    newer = generation("v2", created_at=NOON + timedelta(days=1), compression="none")
    catalog.create(newer)
    older = generation("v1", attributes={}, dimension=3)
    catalog.create(older)
    assert catalog.list() == [older, newer]
    assert catalog.get("v2") == newer
    assert catalog.get("v3") is None


def test_a_name_is_taken_once(catalog: GenerationCatalog) -> None:
    catalog.create(generation())
    catalog.open(generation()).write([live("a")])
    with pytest.raises(UsageError, match="already"):
        catalog.create(generation())
    with pytest.raises(UsageError, match="v1"):
        catalog.create(generation("v2", collection=generation().collection))
    assert [row.image_id for row in catalog.open(generation()).scan()] == ["a"]


def test_a_crash_between_collection_and_record_is_made_good(
    catalog: GenerationCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CrashError(Exception):
        pass

    def crash(*_: object) -> None:
        raise CrashError

    step = "_replace" if isinstance(catalog, LanceCatalog) else "_record"
    with monkeypatch.context() as broken, pytest.raises(CrashError):
        broken.setattr(type(catalog), step, crash)
        catalog.create(generation(dimension=5))
    assert catalog.list() == []
    catalog.create(generation())
    assert catalog.open(generation()).write([live("a")])[0].applied


def test_a_collection_with_rows_is_never_taken_over(catalog: GenerationCatalog) -> None:
    catalog.create(generation())
    catalog.open(generation()).write([live("a")])
    _forget_record(catalog)
    with pytest.raises(UsageError, match="rows"):
        catalog.create(generation())


def test_promotion_moves_the_alias_and_back(catalog: GenerationCatalog) -> None:
    first, second = generation("v1"), generation("v2")
    catalog.create(first)
    catalog.create(second)
    assert catalog.live() is None
    for promoted in (first, second, second, first):
        catalog.promote(promoted.name)
        assert catalog.live() == promoted


def test_a_record_is_replaced_by_its_next_state(catalog: GenerationCatalog) -> None:
    catalog.create(generation())
    catalog.promote("v1")
    ready = generation(state=GenerationState.READY, verified_at=NOON, previous="v0")
    catalog.update(ready)
    assert (catalog.get("v1"), catalog.live(), catalog.list()) == (ready, ready, [ready])
    with pytest.raises(UsageError, match="v2"):
        catalog.update(generation("v2"))


def test_a_record_of_an_earlier_version_is_readable() -> None:
    fields = json.loads(generation().to_json())
    for added in ("state", "verified_at", "previous", "live_until"):
        fields.pop(added, None)
    old = Generation.from_json(json.dumps(fields | {"compression": "rq"}).encode())
    assert old == generation(compression="rq8", state=GenerationState.BUILDING)


@pytest.mark.parametrize("compression", ["rq8", "rq1", "pq", "none"])
def test_every_compression_finds_what_is_written(
    catalog: GenerationCatalog, compression: str
) -> None:
    squeezed = generation(compression=compression)
    catalog.create(squeezed)
    index = catalog.open(squeezed)
    index.write([live(f"row {n}", n, towards(1, n)) for n in range(20)])
    assert [hit.row.image_id for hit in index.search([Query(towards(1), 1)])[0]] == ["row 0"]


def test_a_dropped_generation_is_gone_and_its_record_stays(catalog: GenerationCatalog) -> None:
    first, second = generation("v1"), generation("v2", created_at=NOON + timedelta(days=1))
    for each in (first, second):
        catalog.create(each)
    catalog.promote("v2")
    with pytest.raises(UsageError, match="live"):
        catalog.drop(second)
    for _ in range(2):  # safe to repeat
        catalog.drop(first)
        assert catalog.list() == [first, second]
        with pytest.raises(CollectionGoneError):
            catalog.open(first)
    assert catalog.open(second).count()


def test_generations_keep_their_rows_apart(catalog: GenerationCatalog) -> None:
    for name in ("v1", "v2"):
        catalog.create(generation(name))
        catalog.open(generation(name)).write([live("a", caption=name)])
    assert catalog.open(generation("v1")).get(["a"])["a"].caption == "v1"


def test_a_collection_of_another_model_is_never_opened(catalog: GenerationCatalog) -> None:
    catalog.create(generation())
    with pytest.raises(FatalError, match="sha256:other"):
        catalog.open(generation(fingerprint="sha256:other"))


def test_an_index_whose_collection_was_dropped_says_so(catalog: GenerationCatalog) -> None:
    catalog.create(generation())
    index = catalog.open(generation())
    _drop_collection(catalog)
    for ask in (
        lambda: index.get(["a"]),
        lambda: index.write([live("a")]),
        lambda: list(index.scan()),
        lambda: index.search([Query(towards(1), 1)]),
        lambda: index.search([Query(towards(1), 1), Query(towards(2), 1)]),
        lambda: index.search_words([WordQuery("word", 1)]),
        lambda: index.remove({"a": live("a").version}),
        index.count,
        lambda: catalog.open(generation()),
    ):
        with pytest.raises(CollectionGoneError):
            ask()


def test_another_process_sees_everything_after_reopening(catalog: GenerationCatalog) -> None:
    catalog.create(generation())
    catalog.promote("v1")
    catalog.close()
    assert catalog.live() == generation()


def _forget_record(catalog: GenerationCatalog) -> None:
    if isinstance(catalog, LanceCatalog):
        catalog._record("v1").unlink()
    elif isinstance(catalog, WeaviateCatalog):
        catalog._connection.call(lambda client: client.collections.delete(catalog._records))


def _drop_collection(catalog: GenerationCatalog) -> None:
    if isinstance(catalog, LanceCatalog):
        catalog._connected().drop_table(generation().collection)
    elif isinstance(catalog, WeaviateCatalog):
        name = catalog._named(generation().collection)
        catalog._connection.call(lambda client: client.collections.delete(name))
