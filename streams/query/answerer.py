"""Answers a batch of requests from the current snapshot, with a cache of replies."""

import logging
from collections.abc import Sequence
from functools import partial

from pixtide.schemas.errors import FatalError, QueryCode, RequestError, TransientError
from pixtide.schemas.queries import SearchReply, SearchRequest
from pixtide.search.answering.answer import Snapshot, answer
from pixtide.search.answering.query_vectors import INDEX_UNWELL
from pixtide.search.port import CollectionGoneError
from pixtide.streams.process.metrics import QueryMetrics
from pixtide.streams.query.pictures import QueryPictures
from pixtide.streams.query.reply_cache import Encoded, ReplyCache
from pixtide.streams.query.snapshots import NONE_LIVE, Snapshots

logger = logging.getLogger(__name__)


class Answers:
    """Safe to share between threads."""

    def __init__(
        self,
        snapshots: Snapshots,
        pictures: QueryPictures,
        cache: ReplyCache,
        metrics: QueryMetrics,
    ) -> None:
        self._snapshots = snapshots
        self._pictures = pictures
        self._cache = cache
        self._metrics = metrics

    def to(
        self, asked: Sequence[SearchRequest | RequestError], until: float | None = None
    ) -> list[Encoded]:
        """One reply for each, in order, whatever happens; an error is its own reply.

        Args:
            until: when pictures must have been read, by the monotonic clock.

        Raises:
            FatalError: the device is lost, or going on would answer wrongly.
        """
        requests = [each for each in asked if isinstance(each, SearchRequest)]
        found = iter(self._found(requests, until) if requests else ())
        return [_failed(each) if isinstance(each, RequestError) else next(found) for each in asked]

    def _found(self, requests: Sequence[SearchRequest], until: float | None) -> list[Encoded]:
        snapshot = self._snapshots.current
        if snapshot is None:
            problem = RequestError(QueryCode.INDEX_UNAVAILABLE, NONE_LIVE)
            return [_failed(problem)] * len(requests)

        try:
            return self._answered(requests, snapshot, until)
        except TransientError as error:
            logger.warning("the index is unwell: %s", error)
            problem = RequestError(QueryCode.INDEX_UNAVAILABLE, INDEX_UNWELL)
        except FatalError:
            raise
        except Exception:
            # Faust acknowledges what its agent fails at, so nobody would ever notice.
            logger.exception("a batch of %d requests failed", len(requests))
            if len(requests) > 1:  # the bad request must not cost the others theirs
                return [reply for each in requests for reply in self._found([each], until)]
            problem = RequestError(QueryCode.INTERNAL, "the search failed; its log says why")
        return [_failed(problem)] * len(requests)

    def _answered(
        self, requests: Sequence[SearchRequest], snapshot: Snapshot, until: float | None
    ) -> list[Encoded]:
        try:
            return self._answered_from(snapshot, requests, until)
        except CollectionGoneError:
            renewed = self._snapshots.renewed(snapshot)
            if renewed is None:
                raise TransientError("its generation was taken down") from None
            return self._answered_from(renewed, requests, until)

    def _answered_from(
        self, snapshot: Snapshot, requests: Sequence[SearchRequest], until: float | None
    ) -> list[Encoded]:
        new = 0
        encoder = self._snapshots.encoder(snapshot.generation.fingerprint)

        def ask(some: Sequence[SearchRequest]) -> list[SearchReply]:
            nonlocal new
            new = len(some)
            read = partial(self._pictures.read, encoder=encoder, until=until)
            replies = answer(some, snapshot, read)
            self._note_times(replies, snapshot)
            return replies

        replies = self._cache.answer(requests, snapshot, ask)
        self._metrics.cached.inc(len(set(requests)) - new)
        return replies

    def _note_times(self, replies: Sequence[SearchReply], snapshot: Snapshot) -> None:
        """Note the batch's times; each of its replies without an error reports them."""
        took_ms = next((reply.took_ms for reply in replies if reply.error is None), {})
        for stage, milliseconds in took_ms.items():
            timed = self._metrics.stage_seconds.labels(snapshot.generation.name, stage)
            timed.observe(milliseconds / 1000)


def _failed(error: RequestError) -> Encoded:
    return Encoded.of(SearchReply.failed(error))
