"""One reply for each request, whatever is raised while it is made."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from pixtide.schemas.errors import FatalError, QueryCode, RequestError, TransientError
from pixtide.schemas.queries import SearchReply, SearchRequest, checked
from pixtide.search.answering.answer import Snapshot
from pixtide.search.port import Hit, Query, VectorIndex
from pixtide.streams.process.metrics import Instruments, QueryMetrics
from pixtide.streams.query.answerer import Answers
from pixtide.streams.query.pictures import QueryPictures
from pixtide.streams.query.reply_cache import ReplyCache
from pixtide.streams.query.snapshots import Snapshots
from tests.contracts.samples import generation, live, towards


class Words:
    fingerprint = "sha256:abc"

    def __init__(self) -> None:
        self.error: Exception | None = None

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self.error is not None:
            raise self.error
        return np.stack([towards(1, len(text)) for text in texts])

    def check_text(self, text: str) -> None:
        pass


class Index:
    """Trips over some vectors, with all that it was asked beside them."""

    def __init__(self) -> None:
        self.bad = towards(1, len("culprit"))
        self.error: Exception = RuntimeError("at http://weaviate.internal:8080")
        self.row = live("found", attributes={"score": float("inf"), "deep": [{"n": float("nan")}]})

    def data_version(self) -> None:
        return None

    def search(self, queries: Sequence[Query]) -> list[list[Hit]]:
        if any(np.allclose(query.vector, self.bad) for query in queries):
            raise self.error
        return [[Hit(self.row, 0.5)] for _ in queries]

    def search_words(self, _: object) -> list[Any]:
        raise NotImplementedError


class Live:
    def __init__(self, snapshot: Snapshot) -> None:
        self.current = snapshot

    def encoder(self, _: str) -> None:
        return None


@pytest.fixture
def index() -> Index:
    return Index()


@pytest.fixture
def words() -> Words:
    return Words()


@pytest.fixture
def answers(index: Index, words: Words) -> Answers:
    snapshot = Snapshot(generation(), cast(VectorIndex, index), words)
    return Answers(
        cast(Snapshots, Live(snapshot)),
        QueryPictures(cast(Any, None), cast(Any, None)),
        ReplyCache(0),
        QueryMetrics(Instruments()),
    )


def asked(*texts: str) -> list[SearchRequest | RequestError]:
    return [checked(SearchRequest(text=text)) for text in texts]


def test_one_that_raises_costs_itself(answers: Answers) -> None:
    replies = answers.to([*asked("a", "culprit", "bb"), RequestError(QueryCode.BAD_DEADLINE, "no")])
    assert [reply.code for reply in replies] == ["OK", "INTERNAL", "OK", "BAD_DEADLINE"]
    told = SearchReply.from_json(replies[1].value).error
    assert told is not None and not told.retryable


@pytest.mark.parametrize(
    ("error", "code"),
    [(TransientError("at http://weaviate.internal:8080"), "INDEX_UNAVAILABLE"),
     (ValueError("where name = 'x'"), "MALFORMED_REQUEST"), (MemoryError(), "INTERNAL")],
)  # fmt: skip
def test_nothing_of_ours_is_told(answers: Answers, index: Index, error: Any, code: str) -> None:
    index.error = error
    [reply] = answers.to(asked("culprit"))
    assert reply.code == code
    assert b"weaviate" not in reply.value and b"name" not in reply.value


def test_what_is_fatal_ends_the_service(answers: Answers, words: Words) -> None:
    words.error = FatalError("the device is lost")
    with pytest.raises(FatalError):
        answers.to(asked("a", "b"))


def test_a_reply_is_json_whatever_is_stored(answers: Answers) -> None:
    [reply] = answers.to(asked("a"))
    assert reply.code == "OK"
    assert b'"attributes":{"score":null,"deep":[{"n":null}]}' in reply.value
