"""What the query consumer remembers, and for how long."""

import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pixtide.schemas.errors import QueryCode, RequestError, TransientError
from pixtide.schemas.queries import SearchReply, SearchRequest, Term
from pixtide.search.answering.answer import Snapshot
from pixtide.search.answering.text_cache import CachedTexts
from pixtide.streams.query.reply_cache import ReplyCache
from tests.contracts.samples import generation


class Encoder:
    fingerprint = "sha256:abc"

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.error: Exception | None = None

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked.append(list(texts))
        if self.error:
            raise self.error
        return np.array([[np.nan if t == "bad" else len(t), 0] for t in texts], np.float32)

    def check_text(self, text: str) -> None:
        if len(text) > 9:
            raise RequestError(QueryCode.QUERY_TOO_LONG, text)


def test_each_text_is_encoded_once() -> None:
    encoder = Encoder()
    cached = CachedTexts(encoder)
    assert cached.encode_texts(["a", "bb", "a"])[:, 0].tolist() == [1, 2, 1]
    assert cached.encode_texts(["bb", "ccc"])[:, 0].tolist() == [2, 3]
    assert encoder.asked == [["a", "bb"], ["ccc"]]


def test_the_least_used_texts_are_forgotten_and_useless_vectors_too() -> None:
    encoder = Encoder()
    cached = CachedTexts(encoder, max_bytes=2 * 350)
    for text in ("a", "bb", "a", "ccc", "a", "bb"):
        cached.encode_texts([text])
    assert encoder.asked == [["a"], ["bb"], ["ccc"], ["bb"]]
    for _ in range(2):
        assert np.isnan(cached.encode_texts(["bad"])).any()
    assert encoder.asked[4:] == [["bad"], ["bad"]]


def test_texts_and_whole_batches_of_vectors_do_not_stay() -> None:
    cached = CachedTexts(Encoder(), max_bytes=100_000)
    cached.encode_texts([f"{n} " + "x" * 5000 for n in range(100)])
    assert 0 < len(cached) < 100_000 // 5000
    assert all(vector.base is None for vector in cached._vectors.values())


def test_what_fails_is_not_remembered() -> None:
    encoder = Encoder()
    cached = CachedTexts(encoder)
    with pytest.raises(RequestError):
        cached.check_text("x" * 10)
    encoder.error = TransientError("busy")
    with pytest.raises(TransientError):
        cached.encode_texts(["a"])
    encoder.error = None
    assert cached.encode_texts(["a"])[:, 0].tolist() == [1]


class Index:
    def __init__(self) -> None:
        self.version: str | None = "1"

    def data_version(self) -> str | None:
        return self.version


class Service:
    """Counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, requests: Sequence[SearchRequest]) -> list[SearchReply]:
        self.asked += [request.text for request in requests]
        failed = SearchReply.failed(RequestError(QueryCode.INTERNAL, "no"))
        return [
            failed if r.text == "bad" else SearchReply(results=(), took_ms={"search": 9.0})
            for r in requests
        ]


def snapshot(index: Any, name: str = "v1") -> Snapshot:
    return Snapshot(generation(name), index, Encoder())


def requests(*texts: str) -> list[SearchRequest]:
    return [SearchRequest(text=text) for text in texts]


def test_replies_are_remembered_while_the_index_stays() -> None:
    cache, index, ask = ReplyCache(10_000), Index(), Service()
    first = cache.answer(requests("a", "b", "a"), snapshot(index), ask)
    assert first[0] == first[2]
    again = cache.answer(requests("b", "c"), snapshot(index), ask)
    assert ask.asked == ["a", "b", "c"]
    assert SearchReply.from_json(first[1].value).took_ms == {"search": 9.0}
    assert SearchReply.from_json(again[0].value).took_ms == {"cached": 0.0}
    index.version = "2"
    cache.answer(requests("b"), snapshot(index), ask)
    cache.answer(requests("b"), snapshot(index, "v2"), ask)
    assert ask.asked == ["a", "b", "c", "b", "b"]


def test_errors_are_asked_again() -> None:
    cache, ask = ReplyCache(10_000), Service()
    for _ in range(2):
        [reply] = cache.answer(requests("bad"), snapshot(Index()), ask)
        assert reply.code == "INTERNAL"
    assert ask.asked == ["bad", "bad"]


@pytest.mark.parametrize(("size", "version"), [(0, "1"), (10_000, None)])
def test_nothing_is_remembered_where_it_is_off_or_there_is_no_version(
    size: int, version: str | None
) -> None:
    cache, index, ask = ReplyCache(size), Index(), Service()
    index.version = version
    for _ in range(2):
        cache.answer(requests("a", "a"), snapshot(index), ask)
    assert ask.asked == ["a", "a"]


def test_memory_is_bounded() -> None:
    size, each = 3000, 256
    cache, ask = ReplyCache(size), Service()
    one = len(cache.answer(requests("0"), snapshot(Index()), ask)[0].value) + each
    for n in range(1, 50):
        cache.answer(requests(str(n)), snapshot(Index()), ask)
    ask.asked.clear()
    cache.answer(requests(*map(str, range(50))), snapshot(Index()), ask)
    assert 50 - size // (one - 10) <= len(ask.asked) < 50
    assert "49" not in ask.asked


def test_a_request_is_not_kept_for_its_reply() -> None:
    cache, ask = ReplyCache(1_000_000), Service()
    tracemalloc.start()
    for n in range(100):
        term = Term(data_base64=f"{n}" * 500_000)
        cache.answer([SearchRequest(terms=(term,))], snapshot(Index()), ask)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(ask.asked) == 100
    assert kept < 5_000_000
