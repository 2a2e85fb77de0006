"""What every `VectorIndex` finds: nearest first, true similarities, and each of the filters."""

import contextlib
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta, timezone
from typing import Any

import numpy as np
import pytest

from pixtide.schemas.queries import AttributeFilter, Filters
from pixtide.search.port import Query, StoredImage, VectorIndex, WordQuery
from tests.contracts.samples import DIMENSION, NOON, deleted, live, poisoned, towards

HOUR = timedelta(hours=1)


def test_nothing_is_found_in_an_empty_collection(index: VectorIndex) -> None:
    assert index.search([Query(towards(1), 5), Query(towards(1), 5, Filters(min_width=1))]) == [
        [],
        [],
    ]
    assert index.search([]) == []


def test_nearest_first_with_cosine_similarity(index: VectorIndex) -> None:
    angles = {"same": 0.0, "near": 0.4, "far": 1.2, "across": 1.57, "opposite": 3.14159265}
    index.write(
        [live(name, vector=towards(np.cos(angle), np.sin(angle))) for name, angle in angles.items()]
    )
    [hits] = index.search([Query(towards(1), 10)])
    assert [hit.row.image_id for hit in hits] == list(angles)
    assert [hit.similarity for hit in hits] == pytest.approx(
        [np.cos(angle) for angle in angles.values()], abs=1e-5
    )
    assert all(-1 <= hit.similarity <= 1 for hit in hits)


def test_a_hit_is_the_whole_row_without_its_vector(index: VectorIndex) -> None:
    row = live("a", caption="猫", tags=("x",), attributes={"n": [1]}, bytes=7, sha256="ab")
    index.write([row])
    [[hit]] = index.search([Query(towards(1), 1)])
    assert hit.row == row
    assert hit.row.vector is None


def test_exact_among_many(index: VectorIndex) -> None:
    vectors = np.random.default_rng(1).normal(size=(500, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index.write([live(str(n), n, vector) for n, vector in enumerate(vectors)])
    answers = index.search([Query(vectors[n], 10) for n in range(40)])
    for n, hits in enumerate(answers):
        similarities = vectors @ vectors[n]
        best = np.argsort(-similarities)[:10]
        assert [hit.row.image_id for hit in hits] == [str(i) for i in best]
        assert [hit.similarity for hit in hits] == pytest.approx(similarities[best], abs=1e-4)


@pytest.mark.fault("rows are replaced while they are searched for")
def test_similarities_are_true_while_rows_are_replaced(index: VectorIndex) -> None:
    directions = np.random.default_rng(3).normal(size=(4099, DIMENSION)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    enough = threading.Event()

    def row(n: int, offset: int) -> StoredImage:
        return live(f"i{n}", offset, directions[(n + 321 * offset) % len(directions)])

    def replace_some_again_and_again() -> int:
        chosen = np.random.default_rng(4)
        for offset in itertools.count(1):
            if enough.is_set():
                return offset
            index.write([row(n, offset) for n in chosen.choice(320, 32, replace=False)])
        return 0

    index.write([row(n, 0) for n in range(320)])
    with ThreadPoolExecutor(1) as other, contextlib.ExitStack() as in_the_end:
        in_the_end.callback(enough.set)
        replacing = other.submit(replace_some_again_and_again)
        for turn, query in enumerate(directions[:300]):
            [hits] = index.search([Query(query, 10, with_vectors=turn % 2 == 0)])
            written = [row(int(h.row.image_id[1:]), h.row.version.offset).vector for h in hits]
            expected = [vector @ query for vector in written if vector is not None]
            assert [hit.similarity for hit in hits] == pytest.approx(expected, abs=1e-3)
            assert expected == pytest.approx(sorted(expected, reverse=True), abs=1e-3)
        enough.set()
        assert replacing.result(30) > 20


def test_a_batch_answers_each_query_its_own_way(index: VectorIndex) -> None:
    rows = [live(f"i{n}", n, towards(1, n / 10), width=100 * (n + 1)) for n in range(20)]
    index.write(rows)
    wide = Filters(min_width=1001)
    queries = [
        Query(towards(1), 3),
        Query(towards(0, 1), 1),
        Query(towards(1), 100),
        Query(towards(1), 3, wide),
        Query(towards(0, 1), 3),
        Query(towards(1), 2, wide),
    ]
    found = [[hit.row.image_id for hit in hits] for hits in index.search(queries)]
    assert found[0] == ["i0", "i1", "i2"]
    assert found[1] == ["i19"]
    assert found[2] == [f"i{n}" for n in range(20)]
    assert found[3] == ["i10", "i11", "i12"]
    assert found[4] == ["i19", "i18", "i17"]
    assert found[5] == ["i10", "i11"]
    assert found == [[hit.row.image_id for hit in index.search([one])[0]] for one in queries]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, "abcde"),
        ({"tags_all": ["red", "car"]}, "a"),
        ({"tags_any": ["red", 'it\'s "x"']}, "abd"),
        ({"tags_any": ["RED", "re", "car red"]}, ""),
        ({"tags_none": ["red"]}, "cde"),
        ({"tags_none": ["red", 'it\'s "x"', "the"]}, "e"),
        ({"tags_any": ["the"]}, "c"),
        ({"tags_all": ["two words"]}, "b"),
        ({"tags_any": ["red"], "tags_none": ["car"]}, "b"),
        ({"uploaded_after": NOON}, "abcd"),
        ({"uploaded_after": NOON + HOUR / 60}, "bcd"),
        ({"uploaded_before": NOON + 2 * HOUR}, "abe"),
        ({"uploaded_after": NOON + HOUR, "uploaded_before": NOON + 3 * HOUR}, "bc"),
        ({"uploaded_after": (NOON + HOUR).astimezone(timezone(5 * HOUR))}, "bcd"),
        ({"uploaded_after": (NOON + HOUR).replace(tzinfo=None)}, "bcd"),
        ({"formats": ["PNG"]}, "b"),
        ({"formats": ["PNG", "WEBP", "'"]}, "bc"),
        ({"min_width": 800}, "cd"),
        ({"min_height": 480}, "abd"),
        ({"min_width": 640, "min_height": 480, "formats": ["JPEG"], "tags_none": ["car"]}, "d"),
        ({"max_width": 640}, "abe"),
        ({"min_width": 2, "max_height": 480}, "abc"),
        ({"orientations": ["portrait", "square"]}, "de"),
    ],
)
def test_each_filter(index: VectorIndex, filters: dict[str, Any], expected: str) -> None:
    index.write(
        [
            live("a", 1, tags=("red", "car")),
            live("b", 2, tags=("red", "two words"), format="PNG", uploaded_at=NOON + HOUR),
            live("c", 3, tags=("the",), format="WEBP", width=800, height=100,
                 uploaded_at=NOON + 2 * HOUR),
            live("d", 4, tags=("it's \"x\"",), width=4000, height=3000, orientation="portrait",
                 uploaded_at=NOON + 3 * HOUR),
            live("e", 5, width=1, height=1, uploaded_at=NOON - HOUR, format="GIF",
                 orientation="square"),
            live("f", 6, tags=("red", "car", "the", "two words"), width=4000, height=4000),
            live("g", 7, tags=("red",)),
        ]
    )  # fmt: skip
    index.write([deleted("f", 8), poisoned("g", 9)])
    [hits] = index.search([Query(towards(1), 100, Filters(**filters))])
    assert {hit.row.image_id for hit in hits} == set(expected)
    [hits] = index.search([Query(towards(1), 2, Filters(**filters))])
    assert len(hits) == min(2, len(expected))


@pytest.mark.parametrize("tag", ["' OR state = 'deleted", '"', "\\", "%", "\x00", "猫", " x ", ""])
def test_a_filter_is_only_ever_a_value(index: VectorIndex, tag: str) -> None:
    index.write([live("a", 1, tags=(tag,)), live("b", 2, tags=("other",))])
    for name, expected in (("tags_any", "a"), ("tags_all", "a"), ("tags_none", "b")):
        [hits] = index.search([Query(towards(1), 10, Filters(**{name: [tag]}))])
        assert [hit.row.image_id for hit in hits] == [expected]


def test_as_many_results_as_a_request_may_ask_for(index: VectorIndex) -> None:
    vectors = np.random.default_rng(2).normal(size=(1100, DIMENSION))
    index.write([live(f"i{n}", n, towards(*vector)) for n, vector in enumerate(vectors)])
    hits, filtered = index.search(
        [Query(towards(1), 1000), Query(towards(1), 1000, Filters(min_width=1))]
    )
    assert len({hit.row.image_id for hit in hits}) == 1000
    assert len({hit.row.image_id for hit in filtered}) == 1000


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"name": "shop", "eq": "Müller & 'Söhne'"}, "a"),
        ({"name": "shop", "one_of": ["Müller & 'Söhne'", "B"]}, "ab"),
        ({"name": "shop", "eq": "b"}, ""),
        ({"name": "price", "eq": 12}, "a"),
        ({"name": "price", "gte": 12, "lt": 1e300}, "ab"),
        ({"name": "price", "gt": 12}, "bc"),
        ({"name": "price", "lte": -1.5}, "d"),
        ({"name": "sold", "eq": True}, "a"),
        ({"name": "sold", "one_of": [True, False]}, "ab"),
        ({"name": "made", "gt": "2026-01-01", "lte": "2026-02-03T06:05:06+02:00"}, "a"),
        ({"name": "made", "eq": "2026-02-03T04:05:06Z"}, "a"),
    ],
)
def test_declared_attributes(index: VectorIndex, condition: dict[str, Any], expected: str) -> None:
    attributes: dict[str, dict[str, Any]] = {
        "a": {
            "shop": "Müller & 'Söhne'",
            "price": 12,
            "sold": True,
            "made": "2026-02-03T04:05:06Z",
        },
        "b": {"shop": "B", "price": 12.5, "sold": False, "made": "2026-03-01"},
        "c": {"price": 1e300, "shop": 7},
        "d": {"price": -1.5, "made": "never"},
        "e": {},
    }
    index.write([live(name, n, attributes=attributes[name]) for n, name in enumerate(attributes)])
    filters = Filters(attributes=(AttributeFilter(**condition),))
    [hits] = index.search([Query(towards(1), 10, filters)])
    assert {hit.row.image_id for hit in hits} == set(expected)


@pytest.mark.parametrize(
    "condition",
    [
        {"name": "colour", "eq": "red"},
        {"name": "shop", "gt": "A"},
        {"name": "sold", "lt": 1},
        {"name": "shop", "eq": 7},
        {"name": "price", "eq": "7"},
        {"name": "price", "eq": True},
        {"name": "made", "gte": "yesterday"},
    ],
)
def test_a_wrong_attribute_filter(index: VectorIndex, condition: dict[str, Any]) -> None:
    filters = Filters(attributes=(AttributeFilter(**condition),))
    with pytest.raises(ValueError, match="attribute"):
        index.search([Query(towards(1), 10, filters)])
    with pytest.raises(ValueError, match="attribute"):
        index.search_words([WordQuery("a", 10, filters)])


def test_hits_come_with_vectors_where_asked(index: VectorIndex) -> None:
    index.write([live("a", 1, towards(1, 2)), live("b", 2, towards(2, 1)), deleted("c", 3)])
    with_them, without = index.search(
        [Query(towards(1), 10, with_vectors=True), Query(towards(1), 10)]
    )
    assert [hit.row.image_id for hit in with_them] == ["b", "a"]
    found = [hit.row.vector for hit in with_them]
    assert np.asarray(found) == pytest.approx(np.stack([towards(2, 1), towards(1, 2)]), abs=1e-6)
    assert all(hit.row.vector is None for hit in without)
    scanned = {row.image_id: row.vector for row in index.scan(with_vectors=True)}
    assert scanned["c"] is None
    assert scanned["a"] == pytest.approx(towards(1, 2), abs=1e-6)


def words_found(index: VectorIndex, words: str, **filters: Any) -> list[str]:
    [hits] = index.search_words([WordQuery(words, 10, Filters(**filters))])
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(hit.row.vector is not None and hit.score > 0 for hit in hits)
    return [hit.row.image_id for hit in hits]


def test_words_of_captions_and_tags(index: VectorIndex) -> None:
    assert words_found(index, "anything") == []
    index.write(
        [
            live("a", 1, caption="Ein roter Wagen, im Regen", tags=("car",), width=10),
            live("b", 2, caption="boat", tags=("red boat", "sea"), width=20),
            live("c", 3, caption="a red, red house with a very long description of it", width=30),
            live("d", 4, caption="猫"),
            live("e", 5),
            live("gone", 6, caption="red boat"),
            live("bad", 7, caption="red boat"),
        ]
    )
    index.write([deleted("gone", 8), poisoned("bad", 9)])
    assert words_found(index, "WAGEN") == ["a"]
    assert words_found(index, "car") == ["a"]
    assert words_found(index, "red boat")[0] == "b"
    assert set(words_found(index, "red boat")) == {"b", "c"}
    assert words_found(index, "red sea", min_width=25) == ["c"]
    assert words_found(index, "boa") == []
    assert words_found(index, "zebra") == []
    index.write([live("b", 10, caption="a green tree")])
    assert words_found(index, "boat") == []
    assert words_found(index, "tree") == ["b"]
    assert [hit.row.caption for hit in index.search_words([WordQuery("TREE", 1)])[0]] == [
        "a green tree"
    ]


@pytest.mark.parametrize(
    "words", ['"', "+a -b", "a:b AND (", "*", "\\", "' OR 1=1", "a" * 5000, "\x00"]
)
def test_words_are_only_ever_words(index: VectorIndex, words: str) -> None:
    index.write([live("z", 1, caption="nothing of the kind")])
    assert words_found(index, words) == []


def test_the_data_version_changes_with_each_write_or_there_is_none(index: VectorIndex) -> None:
    before = index.data_version()
    assert index.data_version() == before
    index.write([live("a", 1)])
    assert before is None or index.data_version() != before
