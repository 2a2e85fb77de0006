"""Everything that a search request can ask, with the same answers on both indexes.

Vectors are directions in a space of eight axes, so that what is near is plain to see.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pixtide.schemas.errors import QueryCode, RequestError
from pixtide.schemas.queries import SearchReply, SearchRequest, Term, checked, read_request
from pixtide.search.answering.answer import Snapshot, answer
from pixtide.search.port import Vector, VectorIndex
from tests.contracts.samples import DIMENSION, NOON, deleted, generation, live, towards

AXES = ("beach", "people", "car", "night", "snow", "else")
HOUR = timedelta(hours=1)


def of(**axes: float) -> Vector:
    return towards(*(axes.get(name, 0.0) for name in AXES))


class Words:
    """Each axis has a name; several words are their sum, and unknown ones something else."""

    fingerprint = "sha256:abc"

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        known = [[w if w in AXES else "else" for w in text.split()] for text in texts]
        return np.stack([of(**dict.fromkeys(words, 1.0)) for words in known])

    def check_text(self, text: str) -> None:
        if len(text) > 100:
            raise RequestError(QueryCode.QUERY_TOO_LONG, "too long")


ROWS = [
    live("empty beach", 1, of(beach=1, snow=0.02), caption="sand and sea", tags=("summer",)),
    live("full beach", 2, of(beach=1, people=0.6), caption="a summer party", sha256="b" * 64),
    live("crowd", 3, of(people=1, beach=0.1), caption="concert at the beach"),
    live("car", 4, of(car=1), caption="red car", attributes={"price": 10}),
    live("car at night", 5, of(car=1, night=0.5), attributes={"price": 30}),
    live("night", 6, of(night=1), caption="stars"),
]  # fmt: skip


@pytest.fixture
def snapshot(index: VectorIndex) -> Snapshot:
    index.write([replace(row, uploaded_at=NOON + n * HOUR) for n, row in enumerate(ROWS)])
    return Snapshot(generation(), index, Words())


def ask(snapshot: Snapshot, read_picture: Any = None, **request: Any) -> SearchReply:
    asked = checked(SearchRequest.model_validate(request))
    [reply] = answer([asked], snapshot, *([read_picture] if read_picture else []))
    return reply


def ids(reply: SearchReply) -> list[str]:
    assert reply.results is not None, reply.error
    return [result.image_id for result in reply.results]


def code(reply: SearchReply) -> QueryCode:
    assert reply.error is not None
    assert reply.results is None
    return reply.error.code


def test_a_negative_term_pushes_away(snapshot: Snapshot) -> None:
    assert ids(ask(snapshot, text="beach", limit=2)) == ["empty beach", "full beach"]
    without = ask(snapshot, text="beach", terms=[{"text": "people", "weight": -1}], limit=6)
    assert ids(without)[0] == "empty beach"
    assert ids(without)[-1] == "crowd"


def test_weights_shift_the_direction(snapshot: Snapshot) -> None:
    for weight, first in ((10, "car"), (0.1, "night")):
        terms = [{"text": "night"}, {"text": "car", "weight": weight}]
        assert ids(ask(snapshot, terms=terms, limit=1)) == [first]
    even = ask(snapshot, terms=[{"text": "car"}, {"text": "night", "weight": 0.5}], limit=1)
    assert ids(even) == ["car at night"]
    assert even.results is not None
    assert even.results[0].similarity == pytest.approx(1, abs=1e-4)


def test_like_this_image(snapshot: Snapshot) -> None:
    reply = ask(snapshot, terms=[{"image_id": "full beach"}], limit=2)
    assert ids(reply) == ["empty beach", "crowd"]
    mixed = ask(snapshot, text="night", terms=[{"image_id": "car"}], limit=1)
    assert ids(mixed) == ["car at night"]
    assert code(ask(snapshot, terms=[{"image_id": "nobody"}])) is QueryCode.UNKNOWN_IMAGE


def test_a_picture_as_the_query(snapshot: Snapshot) -> None:
    def read(term: Term) -> Vector:
        if term.data_base64 is None:
            raise RequestError(QueryCode.BAD_PICTURE, "TRUNCATED_IMAGE: cut off")
        return of(night=1)

    found = ask(snapshot, read, terms=[{"data_base64": "aGVsbG8="}], limit=2)
    assert ids(found) == ["night", "car at night"]
    mixed = ask(snapshot, read, text="car", terms=[{"data_base64": "aGVsbG8="}], limit=1)
    assert ids(mixed) == ["car at night"]
    bad = ask(snapshot, read, terms=[{"uri": "https://pictures.example/a.jpg"}])
    assert code(bad) is QueryCode.BAD_PICTURE
    assert code(ask(snapshot, terms=[{"data_base64": "aGVsbG8="}])) is QueryCode.BAD_PICTURE


def test_what_cancels_out_has_no_direction(snapshot: Snapshot) -> None:
    reply = ask(snapshot, text="car", terms=[{"text": "car", "weight": -1}])
    assert code(reply) is QueryCode.MALFORMED_REQUEST


def test_words_find_what_meaning_does_not(snapshot: Snapshot) -> None:
    assert ids(ask(snapshot, text="summer", mode="keyword")) == ["full beach", "empty beach"]
    assert ids(ask(snapshot, text="beach", mode="keyword")) == ["crowd"]
    assert ids(ask(snapshot, text="people", mode="keyword")) == []
    hybrid = ask(snapshot, text="beach", mode="hybrid", limit=3, explain=True)
    assert ids(hybrid)[0] == "crowd"  # third by meaning, but first by words
    assert set(ids(hybrid)) == {"crowd", "empty beach", "full beach"}
    assert hybrid.results is not None
    first = hybrid.results[0].score
    assert first is not None
    assert (first.keyword_rank, first.meaning_rank) == (1, 3)
    assert first.fused == pytest.approx(0.5 / 61 + 0.5 / 63)
    mostly_meaning = ask(snapshot, text="beach", mode="hybrid", keyword_weight=0.01, limit=1)
    assert ids(mostly_meaning) == ["empty beach"]


def test_similarity_is_the_cosine_however_a_picture_was_found(snapshot: Snapshot) -> None:
    [by_words] = ask(snapshot, text="beach", mode="keyword").results or ()
    assert by_words.similarity == pytest.approx(0.1 / 1.01**0.5, abs=1e-4)
    by_meaning = {r.image_id: r for r in ask(snapshot, text="beach").results or ()}
    assert by_meaning["crowd"].similarity == pytest.approx(by_words.similarity, abs=1e-4)


def test_filters_compose_in_every_mode(snapshot: Snapshot) -> None:
    cheap = {"attributes": [{"name": "price", "lt": 20}]}
    assert ids(ask(snapshot, text="night", filters=cheap)) == ["car"]
    later = {"uploaded_after": NOON + HOUR}
    assert ids(ask(snapshot, text="summer", mode="keyword", filters=later)) == ["full beach"]
    both = ask(snapshot, text="beach", mode="hybrid", filters=later, limit=2)
    assert set(ids(both)) == {"crowd", "full beach"}
    for wrong in ({"name": "colour", "eq": 1}, {"name": "shop", "gt": "a"}):
        reply = ask(snapshot, text="beach", filters={"attributes": [wrong]})
        assert code(reply) is QueryCode.INVALID_FILTER


def test_newest_among_the_relevant(snapshot: Snapshot) -> None:
    reply = ask(snapshot, text="car", sort="newest", min_similarity=0.5)
    assert ids(reply) == ["car at night", "car"]
    reply = ask(snapshot, text="beach", sort="newest", min_similarity=0.5, limit=1)
    assert ids(reply) == ["full beach"]
    assert reply.next_cursor is not None


def test_no_good_match_is_an_answer(index: VectorIndex) -> None:
    """Of 200 unrelated pictures about one may pass for a match; those that match all do."""
    rng = np.random.default_rng(7)
    others = rng.normal(size=(200, DIMENSION)) * 0.1
    others[:, 5:] += 1 / 3**0.5
    cars = [live(f"car {n}", 900 + n, of(car=1, night=0.1 * n)) for n in range(3)]
    index.write([live(f"other {n}", n, towards(*axes)) for n, axes in enumerate(others)] + cars)
    snapshot = Snapshot(generation(), index, Words())
    found = ask(snapshot, text="car", cutoff="auto", limit=50, explain=True)
    assert ids(found)[:3] == ["car 0", "car 1", "car 2"]
    assert len(ids(found)) <= 6
    assert found.next_cursor is None
    assert found.explanation is not None
    assert found.explanation.cutoff == pytest.approx(0.25, abs=0.1)
    assert len(ids(ask(snapshot, text="car", limit=50))) == 50
    newest = ask(snapshot, text="car", sort="newest", limit=50)
    assert ids(newest) == ids(found)  # they are all of one time
    assert len(ids(ask(snapshot, text="snow", cutoff="auto", limit=50))) <= 3
    assert ids(ask(snapshot, text="snow", cutoff="auto", min_similarity=0.9)) == []


def test_too_few_pictures_to_tell_are_not_cut(snapshot: Snapshot) -> None:
    assert len(ids(ask(snapshot, text="snow", cutoff="auto"))) == len(ROWS)


def test_near_duplicates_collapse_into_the_best(index: VectorIndex) -> None:
    index.write(
        [
            live("a", 1, of(car=1), sha256="1" * 64),
            live("a resized", 2, of(car=1, night=0.05), sha256="2" * 64),
            live("a copied", 3, of(car=1), sha256="1" * 64),
            live("b", 4, of(car=1, night=0.5), sha256="3" * 64),
        ]
    )
    snapshot = Snapshot(generation(), index, Words())
    assert len(ids(ask(snapshot, text="car"))) == 4
    reply = ask(snapshot, text="car", collapse_above=0.98)
    assert reply.results is not None
    groups = {r.image_id: set(r.duplicates) for r in reply.results}
    assert groups in ({"a": {"a resized", "a copied"}, "b": set()},)


def test_pages_fit_together(index: VectorIndex) -> None:
    index.write([live(f"{n:02}", n, of(car=1, night=n / 20)) for n in range(23)])
    snapshot = Snapshot(generation(), index, Words())
    for mode in ("meaning", "hybrid"):
        seen: list[str] = []
        cursor = None
        for size in itertools.repeat(5):
            reply = ask(snapshot, text="car", mode=mode, limit=size, cursor=cursor)
            seen += ids(reply)
            cursor = reply.next_cursor
            if cursor is None:
                break
        assert seen == [f"{n:02}" for n in range(23)]
    whole = ask(snapshot, text="car", limit=23)
    assert whole.next_cursor is None
    first = ask(snapshot, text="car", limit=22)
    assert first.next_cursor is not None
    assert ids(ask(snapshot, text="car", limit=9, cursor=first.next_cursor)) == ["22"]


def test_a_cursor_is_good_for_one_search_of_one_generation(snapshot: Snapshot) -> None:
    cursor = ask(snapshot, text="car", limit=1).next_cursor
    for wrong in ("", "nonsense", "é", "eyJ4IjoxfQ", cursor and cursor[:-4]):
        assert code(ask(snapshot, text="car", cursor=wrong)) is QueryCode.INVALID_CURSOR
    assert code(ask(snapshot, text="beach", cursor=cursor)) is QueryCode.INVALID_CURSOR
    other = Snapshot(generation("v2"), snapshot.index, Words())
    assert code(ask(other, text="car", cursor=cursor)) is QueryCode.CURSOR_EXPIRED


def test_the_window_ends(index: VectorIndex) -> None:
    vectors = np.random.default_rng(3).normal(size=(1005, DIMENSION))
    index.write([live(f"{n}", n, towards(*axes)) for n, axes in enumerate(vectors)])
    snapshot = Snapshot(generation(), index, Words())
    first = ask(snapshot, text="car", limit=999)
    assert first.next_cursor is not None
    last = ask(snapshot, text="car", limit=10, cursor=first.next_cursor)
    assert len(ids(last)) == 1
    assert last.next_cursor is None


def test_vectors_and_explanations_where_asked(snapshot: Snapshot) -> None:
    plain = ask(snapshot, text="car", limit=1)
    assert plain.results is not None
    assert plain.results[0].vector is None
    assert plain.results[0].score is None
    assert plain.explanation is None
    told = ask(snapshot, text="car", limit=1, with_vectors=True, explain=True)
    assert told.results is not None
    assert told.results[0].vector == pytest.approx(of(car=1), abs=1e-5)
    assert told.results[0].score is not None
    assert told.results[0].score.meaning_rank == 1
    assert told.explanation is not None
    assert (told.explanation.model, told.explanation.fingerprint) == ("starter", "sha256:abc")
    assert set(told.took_ms) == {"encode", "search", "rank"}


def test_all_of_it_in_one_batch(snapshot: Snapshot) -> None:
    asked: list[dict[str, Any]] = [
        {"text": "car", "limit": 1},
        {"text": "x" * 101},
        {"text": "summer", "mode": "keyword"},
        {"terms": [{"image_id": "nobody"}]},
        {"text": "car", "limit": 1},
        {"text": "car", "cursor": "?"},
        {"text": "beach", "filters": {"attributes": [{"name": "x", "eq": 1}]}},
        {"terms": [{"image_id": "night"}], "limit": 1, "collapse_above": 0.9},
    ]
    requests = [checked(SearchRequest.model_validate(request)) for request in asked]
    together = answer(requests, snapshot)
    alone = [answer([request], snapshot)[0] for request in requests]
    assert [r.error or ids(r) for r in together] == [r.error or ids(r) for r in alone]
    assert [r.error and r.error.code for r in together] == [
        None,
        QueryCode.QUERY_TOO_LONG,
        None,
        QueryCode.UNKNOWN_IMAGE,
        None,
        QueryCode.INVALID_CURSOR,
        QueryCode.INVALID_FILTER,
        None,
    ]


def test_only_live_rows(snapshot: Snapshot) -> None:
    index = snapshot.index
    index.write([deleted("car", 99)])
    assert "car" not in ids(ask(snapshot, text="car", limit=100))
    assert ids(ask(snapshot, text="red", mode="keyword")) == []
    assert code(ask(snapshot, terms=[{"image_id": "car"}])) is QueryCode.UNKNOWN_IMAGE


#: What clients of all kinds send as a filter.
EXTREME: list[dict[str, Any]] = [
    {"min_width": 2**31 - 1, "max_height": 1},
    {"uploaded_before": "9999-12-31T23:59:59-14:00", "uploaded_after": "0001-01-01T00:00:00+14:00"},
    {"uploaded_before": "1600-01-01", "uploaded_after": 1e11},
    {"tags_any": ["", "\x00", "' OR 1=1 --", "\n", "%", "*", "\u2028"], "formats": ["\\"]},
    {"tags_none": ["x" * 1000] * 100},
    *(
        {"attributes": [{"name": "price", comparison: value}]}
        for comparison in ("eq", "gt", "lte")
        for value in (2**53 + 1, 2**63, -(2**63) - 1, 10**300, 1.7e308, -1.7e308, 5e-324, -0.0)
    ),
    {"attributes": [{"name": "price", "one_of": [1, 2**70, 1e300] * 33}]},
    *(
        {"attributes": [{"name": "made", comparison: value}]}
        for comparison in ("eq", "gte", "lt")
        for value in ("9999-12-31", "0001-01-01T00:00:00+14:00", "2300-01-01")
    ),
    {"attributes": [{"name": "shop", "one_of": ["", "\x00", "'", '"', "x" * 1000]}]},
]


@pytest.mark.parametrize("mode", ["meaning", "keyword"])
def test_an_extreme_filter_is_a_filter(snapshot: Snapshot, mode: str) -> None:
    asked = [
        read_request(json.dumps({"text": "beach", "mode": mode, "filters": each}).encode())
        for each in EXTREME
    ]
    for each, reply in zip(EXTREME, answer(asked, snapshot), strict=True):
        assert reply.error is None, (each, reply.error)
