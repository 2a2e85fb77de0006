"""What every `GenerationCatalog` does."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from weaviate import WeaviateClient

from pixtide.schemas.errors import FatalError, TransientError, UsageError
from pixtide.search.generations import Generation, GenerationState
from pixtide.search.lancedb.catalog import LanceCatalog
from pixtide.search.port import CollectionGoneError, GenerationCatalog, Query, WordQuery
from pixtide.search.weaviate.catalog import WeaviateCatalog
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
    assert catalog.change("v1", lambda now: ready if now == generation() else now) == ready
    assert (catalog.get("v1"), catalog.live(), catalog.list()) == (ready, ready, [ready])
    with pytest.raises(UsageError, match="v2"):
        catalog.change("v2", lambda now: now)

    def refuse(_: Generation) -> Generation:
        raise FatalError("no")

    with pytest.raises(FatalError, match="no"):
        catalog.change("v1", refuse)
    assert catalog.change("v1", lambda now: now) == ready


def test_of_changes_made_at_once_none_is_lost(
    catalog: GenerationCatalog, another: Callable[[], GenerationCatalog]
) -> None:
    catalog.create(generation())
    catalog.create(generation("v2"))
    others = [another() for _ in range(3)]

    def change(turn: int, by: GenerationCatalog) -> None:
        for n in range(3):
            by.change(
                "v1",
                lambda now, n=n: now.model_copy(  # type: ignore[misc]
                    update={"attributes": now.attributes | {f"by{turn}_{n}": "text"}}
                ),
            )
            by.promote(("v1", "v2")[n % 2])

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(change, n, by) for n, by in enumerate([catalog, *others])]:
            done.result()
    found = catalog.get("v1")
    assert found is not None
    assert {f"by{turn}_{n}" for turn in range(4) for n in range(3)} <= found.attributes.keys()
    assert catalog.live() in (found, generation("v2"))


def test_what_is_retired_is_never_promoted(catalog: GenerationCatalog) -> None:
    catalog.create(generation())
    catalog.change("v1", lambda now: now.model_copy(update={"state": GenerationState.RETIRED}))
    with pytest.raises(UsageError, match="retired"):
        catalog.promote("v1")
    assert catalog.live() is None


@pytest.mark.parametrize("name", ["../v1", "", "v1\x00", "x" * 300, "V1", "\ud800"])
def test_what_can_name_no_generation_names_none(catalog: GenerationCatalog, name: str) -> None:
    catalog.create(generation())
    assert catalog.get(name) is None
    with pytest.raises(UsageError):
        catalog.promote(name)
    for collection in ("../elsewhere", "", "a/b", "a.b"):
        with pytest.raises(UsageError, match="name"):
            catalog.create(generation("v2", collection=collection))


def test_a_turn_that_somebody_died_in_is_over_in_time(
    catalog: GenerationCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog.create(generation())
    if isinstance(catalog, WeaviateCatalog):
        assert catalog._is_our_turn()
        monkeypatch.setattr("pixtide.search.weaviate.catalog._TURN_S", 0.2)
    elif isinstance(catalog, LanceCatalog):
        catalog._lock_file("generations").touch()  # a file alone holds nobody up
    catalog.promote("v1")
    assert catalog.live() == generation()


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


def test_what_was_closed_to_writes_is_opened_again(catalog: GenerationCatalog) -> None:
    assert catalog.read_only() == []
    catalog.create(generation())
    index = catalog.open(generation())
    assert (catalog.read_only(), catalog.make_writable()) == ([], [])
    if isinstance(catalog, WeaviateCatalog):  # as it does with all at 90 % of its disk
        names = (catalog._records, catalog._named(generation().collection))
        for name in names:
            catalog._connection.call(_closer(name))
        with pytest.raises(TransientError, match="read-only"):
            index.write([live("a", 1)])
        closed = catalog.read_only()
        assert [each.split("/")[0] for each in closed] == list(names)
        assert catalog.make_writable() == closed
        assert catalog.read_only() == []
    assert index.write([live("a", 1)])[0].applied
    assert catalog.change("v1", lambda now: now) == generation()


def _closer(name: str) -> Callable[[WeaviateClient], object]:
    return lambda client: client.collections.use(name).config.update_shards("READONLY")


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
