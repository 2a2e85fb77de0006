"""Answering search requests, with an encoder and an index of a few lines."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pixtide.schemas.errors import FatalError, QueryCode, RequestError, TransientError, UsageError
from pixtide.schemas.identity import Version
from pixtide.schemas.queries import Filters, SearchReply, SearchRequest, checked
from pixtide.search.answering.answer import Snapshot, answer
from pixtide.search.generations import Generation, LogIdentity
from pixtide.search.port import Hit, Query, RowState, StoredImage, WordHit, WordQuery, Written

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
DIRECTIONS = {"east": (1.0, 0.0), "north": (0.0, 1.0), "north-east": (0.6, 0.8)}


class Encoder:
    """Knows the words of `DIRECTIONS`; anything else is NaN, and long texts are too long."""

    fingerprint = "sha256:abc"

    def __init__(self, error: Exception | None = None):
        self.error = error
        self.asked: list[list[str]] = []

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked.append(list(texts))
        if self.error:
            raise self.error
        return np.array([DIRECTIONS.get(text, (np.nan, np.nan)) for text in texts], np.float32)

    def check_text(self, text: str) -> None:
        if len(text) > 20:
            raise RequestError(QueryCode.QUERY_TOO_LONG, "too long")


class Index:
    """Rows in memory, one in each direction; a filter for tag "bad" is more than it can take."""

    def __init__(self, error: Exception | None = None):
        self.error = error
        self.asked: list[Sequence[Query]] = []
        self.rows = [
            StoredImage(
                name,
                RowState.LIVE,
                Version(1, 0, n),
                uri=f"file:///{name}.jpg",
                caption=name.upper(),
                tags=("t",),
                attributes={"n": n},
                uploaded_at=NOON,
                width=n + 1,
                height=2,
                format="PNG",
                bytes=3,
                vector=np.array(direction, np.float32),
            )
            for n, (name, direction) in enumerate(DIRECTIONS.items())
        ]

    def search(self, queries: Sequence[Query]) -> list[list[Hit]]:
        self.asked.append(queries)
        if self.error:
            raise self.error
        return [self._nearest(query) for query in queries]

    def _nearest(self, query: Query) -> list[Hit]:
        if "bad" in query.filters.tags_any:
            raise ValueError("no such filter")
        hits = [
            Hit(row.without_vector(), float(row.vector @ query.vector))
            for row in self.rows
            if row.vector is not None and row.width >= (query.filters.min_width or 0)
        ]
        return sorted(hits, key=lambda hit: -hit.similarity)[: query.limit]

    def get(self, image_ids: Collection[str]) -> dict[str, StoredImage]:
        raise NotImplementedError

    def with_content(self, digests: Collection[str]) -> dict[str, StoredImage]:
        raise NotImplementedError

    def write(self, rows: Sequence[StoredImage]) -> list[Written]:
        raise NotImplementedError

    def remove(self, rows: Mapping[str, Version]) -> None:
        raise NotImplementedError

    def search_words(self, queries: Sequence[WordQuery]) -> list[list[WordHit]]:
        raise NotImplementedError

    def scan(self, *, with_vectors: bool = False) -> Iterator[StoredImage]:
        raise NotImplementedError

    def sample(self, most: int, random: np.random.Generator) -> NDArray[np.float32]:
        raise NotImplementedError

    def count(self) -> dict[RowState, int]:
        raise NotImplementedError

    def tidy(self) -> None:
        raise NotImplementedError

    def data_version(self) -> str | None:
        raise NotImplementedError


@pytest.fixture
def generation() -> Generation:
    return Generation(
        name="v1",
        model="starter",
        fingerprint="sha256:abc",
        dimension=2,
        collection="images_v1",
        group="ingest.v1",
        log=LogIdentity(topic="images.uploaded", topic_id="t", partitions=1),
        created_at=NOON,
    )


@pytest.fixture
def snapshot(generation: Generation) -> Snapshot:
    return Snapshot(generation, Index(), Encoder())


def ask(snapshot: Snapshot, *requests: dict[str, Any]) -> list[SearchReply]:
    return answer([checked(SearchRequest(**request)) for request in requests], snapshot)


def ids(reply: SearchReply) -> list[str]:
    assert reply.results is not None, reply.error
    return [result.image_id for result in reply.results]


def code(reply: SearchReply) -> QueryCode:
    assert reply.results is None
    assert reply.error is not None
    return reply.error.code


def test_a_reply_has_all_that_is_known_of_a_picture(snapshot: Snapshot) -> None:
    [reply] = ask(snapshot, {"text": "north", "limit": 1})
    assert reply.results is not None
    [result] = reply.results
    assert result.model_dump() == {
        "image_id": "north",
        "uri": "file:///north.jpg",
        "similarity": 1.0,
        "caption": "NORTH",
        "tags": ("t",),
        "attributes": {"n": 1},
        "uploaded_at": NOON,
        "width": 2,
        "height": 2,
        "format": "PNG",
        "bytes": 3,
        "sha256": "",
        "duplicates": (),
        "vector": None,
        "score": None,
    }
    assert reply.generation == "v1"
    assert set(reply.took_ms) == {"encode", "search", "rank"}
    assert reply.error is None


def test_each_request_is_answered_its_own_way_and_in_order(snapshot: Snapshot) -> None:
    replies = ask(
        snapshot,
        {"text": "north"},
        {"text": "east", "limit": 1},
        {"text": "north", "filters": Filters(min_width=3)},
        {"text": "north", "min_similarity": 0.5},
        {"text": "north", "min_similarity": 1},
    )
    assert [ids(reply) for reply in replies] == [
        ["north", "north-east", "east"],
        ["east"],
        ["north-east"],
        ["north", "north-east"],
        ["north"],
    ]


def test_equal_requests_and_texts_are_worked_on_once(generation: Generation) -> None:
    index, encoder = Index(), Encoder()
    replies = ask(
        Snapshot(generation, index, encoder),
        {"text": "north"},
        {"text": "  north\n"},
        {"text": "north", "limit": 1},
        {"text": "nor\u200bth"},
        {"text": "east"},
    )
    assert encoder.asked == [["north", "east"]]
    assert [len(queries) for queries in index.asked] == [3]
    assert replies[0] == replies[1] == replies[3]
    assert len(ids(replies[2])) == 1


def test_one_request_fails_alone(snapshot: Snapshot) -> None:
    replies = ask(
        snapshot,
        {"text": "x" * 21},
        {"text": "north"},
        {"text": "gibberish"},
        {"text": "east", "filters": Filters(tags_any=("bad",))},
        {"text": "east", "limit": 1},
    )
    assert code(replies[0]) is QueryCode.QUERY_TOO_LONG
    assert ids(replies[1])[0] == "north"
    assert code(replies[2]) is QueryCode.INTERNAL
    assert code(replies[3]) is QueryCode.MALFORMED_REQUEST
    assert ids(replies[4]) == ["east"]


def test_an_unwell_index_is_a_typed_reply(generation: Generation) -> None:
    snapshot = Snapshot(generation, Index(TransientError("connection refused")), Encoder())
    replies = ask(snapshot, {"text": "north"}, {"text": "x" * 21}, {"text": "east"})
    assert [code(reply) for reply in replies] == [
        QueryCode.INDEX_UNAVAILABLE,
        QueryCode.QUERY_TOO_LONG,
        QueryCode.INDEX_UNAVAILABLE,
    ]
    assert replies[0].error is not None
    assert replies[0].error.retryable


def test_a_busy_device_is_a_typed_reply(generation: Generation) -> None:
    snapshot = Snapshot(generation, Index(), Encoder(TransientError("out of memory")))
    replies = ask(snapshot, {"text": "north"}, {"text": "x" * 21})
    assert [code(reply) for reply in replies] == [QueryCode.OVERLOADED, QueryCode.QUERY_TOO_LONG]


@pytest.mark.parametrize("error", [UsageError("gone"), FatalError("lost")])
def test_what_a_new_snapshot_must_mend_is_raised(generation: Generation, error: Exception) -> None:
    with pytest.raises(type(error)):
        ask(Snapshot(generation, Index(error), Encoder()), {"text": "north"})


def test_nothing_to_answer(generation: Generation) -> None:
    index, encoder = Index(), Encoder()
    snapshot = Snapshot(generation, index, encoder)
    assert answer([], snapshot) == []
    ask(snapshot, {"text": "x" * 21})
    assert (index.asked, encoder.asked) == ([], [])


def test_a_row_without_an_upload_time(snapshot: Snapshot) -> None:
    index = snapshot.index
    assert isinstance(index, Index)
    index.rows = [replace(index.rows[0], uploaded_at=None)]
    assert ids(ask(snapshot, {"text": "east"})[0]) == ["east"]


def test_models_are_never_mixed(generation: Generation) -> None:
    other = generation.model_copy(update={"fingerprint": "sha256:other"})
    with pytest.raises(FatalError, match="sha256:other"):
        Snapshot(other, Index(), Encoder())


def test_a_page_has_as_many_results_as_a_reply_takes_and_the_next_goes_on(
    generation: Generation,
) -> None:
    index = Index()
    like = index.rows[0]
    told: dict[str, Any] = {"text": "x" * 16_000}
    index.rows = [replace(like, image_id=f"{n:03}", attributes=told) for n in range(150)]
    large = Snapshot(generation, index, Encoder())
    text = next(iter(DIRECTIONS))
    seen: list[str] = []
    cursor, sizes = None, list[int]()
    while cursor is not None or not seen:
        [reply] = ask(large, {"text": text, "limit": 120, "cursor": cursor})
        assert len(reply.to_json()) < 950_000
        seen += ids(reply)
        sizes.append(len(reply.results or ()))
        cursor = reply.next_cursor
    assert seen == [f"{n:03}" for n in range(150)], "each comes once"
    assert min(sizes[:-1]) > 40 and len(sizes) < 5
