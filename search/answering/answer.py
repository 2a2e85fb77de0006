"""Turns search requests into replies, from one snapshot of the index; no Kafka in here.

1. check   each request's cursor and filters against the generation
2. encode  the distinct texts, all at once; look up the pictures that requests name
3. search  by vectors and by words, for all requests together
4. rank    the results: fuse, cut, collapse, sort
5. reply   to each request with its page of results, or with a typed error
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from pixtide.schemas.errors import FatalError, QueryCode, RequestError, TransientError
from pixtide.schemas.queries import (
    WINDOW,
    Explanation,
    SearchReply,
    SearchRequest,
    SearchResult,
    Term,
)
from pixtide.search.answering.cursor import cursor_to, offset_of
from pixtide.search.answering.query_vectors import (
    INDEX_UNWELL,
    PictureReader,
    TextEncoder,
    direction_of,
    encode_texts,
    look_up,
    texts_of,
)
from pixtide.search.answering.ranking import Ranked, rank
from pixtide.search.background import Background
from pixtide.search.conditions import conditions
from pixtide.search.generations import Generation
from pixtide.search.port import Hit, Query, Vector, VectorIndex, WordHit, WordQuery

logger = logging.getLogger(__name__)

Q = TypeVar("Q")
H = TypeVar("H")

#: The most bytes of a reply's results as JSON: a topic accepts about a MiB, a Kafka client sends a
#: MB.
_MOST_BYTES = 900_000
#: So many results always fit, if each is within the limits of events.
_FEW = 40
_UNKNOWN_TIME = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True)
class Snapshot:
    """What one batch of requests is served from.

    Raises:
        FatalError: the encoder isn't the one that made the collection's vectors.
    """

    generation: Generation
    index: VectorIndex
    encoder: TextEncoder
    background: Background = field(init=False)

    def __post_init__(self) -> None:
        if self.encoder.fingerprint != self.generation.fingerprint:
            raise FatalError(
                f"the generation {self.generation.name} is of {self.generation.fingerprint},"
                f" the encoder of {self.encoder.fingerprint}"
            )
        object.__setattr__(self, "background", Background(self.index))


@dataclass
class _Asked:
    """A request in progress, and what is known for it so far; one with an error is finished."""

    request: SearchRequest
    offset: int = 0
    direction: Vector | None = None
    hits: Sequence[Hit] = ()
    worded: Sequence[WordHit] = ()
    cutoff: float | None = None
    ranked: Sequence[Ranked] = ()
    error: RequestError | None = None

    @property
    def depth(self) -> int:
        """How many nearest rows its page needs: one more than it shows, to know if there are more.

        Whatever reorders or drops rows works on the whole window, so that pages are consistent.
        """
        request = self.request
        if request.mode == "hybrid" or request.sort == "newest" or request.collapse_above:
            return WINDOW
        named = sum(term.image_id is not None for term in request.terms)
        return min(self.offset + request.limit + 1, WINDOW) + named


def no_pictures(_: Term) -> Vector:
    """The reader of pictures where none can be read."""
    raise RequestError(QueryCode.BAD_PICTURE, "this service takes no pictures as queries")


def answer(
    requests: Sequence[SearchRequest],
    snapshot: Snapshot,
    read_picture: PictureReader = no_pictures,
) -> list[SearchReply]:
    """One reply for each request, in order; a request that fails fails alone.

    The requests are as `pixtide.schemas.queries.checked` returns them; equal ones are answered
    once. If the index or the device has a problem, replies have INDEX_UNAVAILABLE or OVERLOADED.

    Raises:
        UsageError: the collection is gone; take a new snapshot and ask again.
        FatalError: the device is lost.
    """
    asked = {request: _Asked(request) for request in requests}
    batch = list(asked.values())
    took: dict[str, float] = {}
    with _timed("encode", took):
        _check(batch, snapshot.generation)
        _encode(_going(batch), snapshot, read_picture)
    with _timed("search", took):
        _search(_going(batch), snapshot)
    with _timed("rank", took):
        _rank(_going(batch))
    replies = {one.request: _reply(one, snapshot.generation, took) for one in batch}
    return [replies[request] for request in requests]


def _going(batch: Sequence[_Asked]) -> list[_Asked]:
    return [asked for asked in batch if asked.error is None]


# 1. check


def _check(batch: Sequence[_Asked], generation: Generation) -> None:
    for asked in batch:
        try:
            asked.offset = offset_of(asked.request, generation)
            conditions(asked.request.filters, generation.attributes)
        except RequestError as error:
            asked.error = error
        except ValueError as error:
            asked.error = RequestError(QueryCode.INVALID_FILTER, str(error))


# 2. encode


def _encode(batch: Sequence[_Asked], snapshot: Snapshot, read_picture: PictureReader) -> None:
    requests = [asked.request for asked in batch]
    texts = encode_texts(
        (text for request in requests for text in texts_of(request)), snapshot.encoder
    )
    images = look_up(requests, snapshot.index)
    for asked in batch:
        try:
            asked.direction = direction_of(asked.request, texts, images, read_picture)
        except RequestError as error:
            asked.error = error


# 3. search


def _search(batch: Sequence[_Asked], snapshot: Snapshot) -> None:
    near = [a for a in batch if a.request.mode != "keyword"]
    for asked, hits in zip(near, _ask(_queries(near), snapshot.index.search), strict=True):
        if isinstance(hits, RequestError):
            asked.error = hits
        else:
            asked.hits = hits
    worded = [a for a in _going(batch) if a.request.mode != "meaning"]
    queries = [WordQuery(a.request.text, WINDOW, a.request.filters) for a in worded]
    for asked, found in zip(worded, _ask(queries, snapshot.index.search_words), strict=True):
        if isinstance(found, RequestError):
            asked.error = found
        else:
            asked.worded = found
    for asked in _going(batch):
        try:
            asked.cutoff = _cutoff(asked, snapshot.background)
        except TransientError as error:
            asked.error = _unavailable(error)


def _queries(batch: Sequence[_Asked]) -> list[Query]:
    return [
        Query(
            asked.direction,
            asked.depth,
            asked.request.filters,
            with_vectors=asked.request.with_vectors or asked.request.collapse_above is not None,
        )
        for asked in batch
        if asked.direction is not None
    ]


def _ask(
    queries: Sequence[Q], ask: Callable[[Sequence[Q]], list[list[H]]]
) -> Sequence[list[H] | RequestError]:
    """Ask for all together; if the index refuses that, one by one to find out which is wrong."""
    if not queries:
        return []
    try:
        return ask(queries)
    except TransientError as error:
        return [_unavailable(error)] * len(queries)
    except ValueError as error:
        if len(queries) == 1:
            logger.warning("the index refuses a search: %s", error)
            return [RequestError(QueryCode.MALFORMED_REQUEST, "the index can't search for this")]
        return [_ask([query], ask)[0] for query in queries]


def _unavailable(error: TransientError) -> RequestError:
    logger.warning("the index is unwell: %s", error)
    return RequestError(QueryCode.INDEX_UNAVAILABLE, INDEX_UNWELL)


def _cutoff(asked: _Asked, background: Background) -> float | None:
    """The lowest similarity that results may have, if there is a limit."""
    request = asked.request
    if request.min_similarity is not None:
        return request.min_similarity
    automatic = request.cutoff == "auto" or request.sort == "newest"
    if not automatic or asked.direction is None:
        return None
    return background.cutoff(asked.direction)


# 4. rank


def _rank(batch: Sequence[_Asked]) -> None:
    for asked in batch:
        if asked.direction is not None:
            asked.ranked = rank(
                asked.request, asked.direction, asked.hits, asked.worded, asked.cutoff
            )


# 5. reply


def _reply(asked: _Asked, generation: Generation, took_ms: dict[str, float]) -> SearchReply:
    request = asked.request
    if asked.error is not None:
        return SearchReply.failed(asked.error)
    end = min(asked.offset + request.limit, WINDOW)
    page = [_result(one, request) for one in asked.ranked[asked.offset : end]]
    results = page if len(page) <= _FEW and _is_short(request) else _fitting(page)
    if len(results) < len(page):
        end = asked.offset + len(results)
    return SearchReply(
        results=tuple(results),
        next_cursor=cursor_to(end, request, generation) if len(asked.ranked) > end else None,
        generation=generation.name,
        took_ms=took_ms,
        explanation=_explanation(asked, generation) if request.explain else None,
    )


def _is_short(request: SearchRequest) -> bool:
    """Whether each of its results is limited by what an event may say about its picture."""
    return not request.with_vectors and request.collapse_above is None


def _fitting(page: Sequence[SearchResult]) -> Sequence[SearchResult]:
    """As many results of a page as a reply topic accepts; the next cursor leads to the others."""
    left = _MOST_BYTES
    for number, result in enumerate(page):
        left -= len(result.to_json()) + 1
        if left < 0:
            return page[: max(1, number)]
    return page


def _explanation(asked: _Asked, generation: Generation) -> Explanation:
    found = {hit.row.image_id for hit in asked.hits} | {hit.row.image_id for hit in asked.worded}
    return Explanation(
        model=generation.model,
        fingerprint=generation.fingerprint,
        considered=len(found),
        cutoff=asked.cutoff,
    )


def _result(ranked: Ranked, request: SearchRequest) -> SearchResult:
    row = ranked.row
    vector = row.vector if request.with_vectors else None
    return SearchResult(
        image_id=row.image_id,
        uri=row.uri,
        similarity=ranked.similarity,
        caption=row.caption,
        tags=row.tags,
        attributes=row.attributes,
        uploaded_at=row.uploaded_at or _UNKNOWN_TIME,
        width=row.width,
        height=row.height,
        format=row.format,
        bytes=row.bytes,
        sha256=row.sha256,
        duplicates=ranked.duplicates,
        vector=None if vector is None else tuple(vector.tolist()),
        score=ranked.score if request.explain else None,
    )


@contextlib.contextmanager
def _timed(stage: str, took_ms: dict[str, float]) -> Iterator[None]:
    started = time.perf_counter()
    yield
    took_ms[stage] = round((time.perf_counter() - started) * 1000, 2)
