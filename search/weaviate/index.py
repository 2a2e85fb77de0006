"""Weaviate as the index: one collection per generation.

Weaviate has no compare-and-set, so two workers that write one id at the same moment may leave the
older row. The group's partition assignment prevents that. A worker that was stopped in the middle
of a write checks again before it sends. If it was stopped exactly while sending, `index verify
--repair` finds the wrong row.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from weaviate import WeaviateClient
from weaviate.classes.aggregate import GroupByAggregate
from weaviate.classes.config import ConsistencyLevel
from weaviate.classes.data import DataObject
from weaviate.exceptions import WeaviateInsertManyAllFailedError

from pixtide.schemas.errors import FatalError, TransientError
from pixtide.schemas.identity import Version, object_id
from pixtide.search.generations import Generation
from pixtide.search.port import (
    Hit,
    Query,
    RowState,
    StoredImage,
    WordHit,
    WordQuery,
    Written,
    may_replace,
)
from pixtide.search.rows import check_vector, is_text, size_of, to_record, write_each
from pixtide.search.weaviate.collection import in_state, row_of, with_any
from pixtide.search.weaviate.connection import Connection
from pixtide.search.weaviate.errors import TooMuchError, is_objects_fault
from pixtide.search.weaviate.queries import READ, Found, Objects, nearest, row_found, worded

#: Objects in one message, and bytes of their texts, which may be in it twice: gRPC accepts 100 MB.
_CHUNK, _CHUNK_BYTES = 100, 32 * 2**20
_FEW = 8
#: Rows read for each content that is looked up: if one has more copies, another may be missed.
_COPIES = 4
_COUNTED = 100_000
#: A sample is so many runs of rows in the order of object ids, and more if few are live.
_SAMPLE_RUNS, _SAMPLE_RUN, _SAMPLE_ROUNDS = 16, 40, 4
_MOVED = 16
#: After this long, somebody else may have written the row meanwhile.
_STALE_S = 2.0
_EITHER_WAY = np.array([-2, 2], np.float32)

_Page = list[Found]


class WeaviateIndex:
    """The `VectorIndex` over one Weaviate collection. Safe to share between threads.

    Every method raises TransientError while Weaviate is away, slow or read-only, and
    CollectionGoneError if the collection is gone.
    """

    def __init__(
        self,
        *,
        connection: Connection,
        name: str,
        generation: Generation,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._clock = clock
        self._connection = connection
        self._name = name
        self._generation = generation
        self._shards: int | None = None
        self._random = np.random.default_rng()

    def get(self, image_ids: Collection[str]) -> dict[str, StoredImage]:
        """The existing rows of these ids, with vectors."""
        return self._rows(image_ids, with_vectors=True)

    def with_content(self, digests: Collection[str]) -> dict[str, StoredImage]:
        """For each sha256 that is found, a live row with that content, with its vector."""
        texts = list(filter(is_text, digests))
        if not texts:
            return {}
        wanted = in_state(RowState.LIVE) & with_any("sha256", texts)

        def fetch(client: WeaviateClient) -> _Page:
            query = self._objects(client).query
            return query.fetch_objects(
                filters=wanted,
                limit=_COPIES * len(texts),
                include_vector=True,
                return_properties=READ,
            ).objects

        try:
            rows = map(row_found, self._connection.call(fetch))
        except TooMuchError:
            return {}
        # Weaviate ignores white space around texts
        return {row.sha256: row for row in rows if row.vector is not None and row.sha256 in texts}

    def write(self, rows: Sequence[StoredImage]) -> list[Written]:
        """Write what `may_replace` allows; an object that Weaviate refuses fails alone.

        Raises:
            ValueError: an id occurs twice.
        """

        def write(fit: Sequence[StoredImage]) -> list[Written]:
            return [written for some in _messages(fit) for written in self._write(some)]

        return write_each(rows, self._generation.dimension, write)

    def remove(self, rows: Mapping[str, Version]) -> None:
        """Remove the rows of these ids that still have these versions.

        Weaviate can't compare and remove in one step: a row written in between is removed too, and
        the next verification reports it missing.
        """
        stored = self._rows(rows, with_vectors=False)
        for image_id, version in rows.items():
            if image_id in stored and stored[image_id].version == version:
                self._connection.call(_remover(self._writable, object_id(image_id)))

    def search(self, queries: Sequence[Query]) -> list[list[Hit]]:
        """Answer all queries in parallel.

        Raises:
            ValueError: a query's vector or attribute filter is wrong.
        """
        for query in queries:
            check_vector(query.vector, self._generation.dimension)
        return self._connection.side_by_side(
            lambda client, query: nearest(self._objects(client), query, self._generation), queries
        )

    def search_words(self, queries: Sequence[WordQuery]) -> list[list[WordHit]]:
        """Answer all queries in parallel.

        Raises:
            ValueError: an attribute filter is wrong.
        """
        return self._connection.side_by_side(
            lambda client, query: worded(self._objects(client), query, self._generation), queries
        )

    def scan(self, *, with_vectors: bool = False) -> Iterator[StoredImage]:
        """Every row, in the order of object ids; each page as of when it is read."""
        after: UUID | None = None
        limit = _CHUNK

        def fetch(client: WeaviateClient) -> _Page:
            query = self._objects(client).query
            return query.fetch_objects(
                limit=limit, after=after, include_vector=with_vectors, return_properties=READ
            ).objects

        while True:
            try:
                page = self._connection.call(fetch)
            except TooMuchError:
                if limit == 1:
                    raise
                limit //= 2
                continue
            if not page:
                return
            yield from map(row_found, page)
            after = page[-1].uuid
            limit = _CHUNK

    def sample(self, most: int, random: np.random.Generator) -> NDArray[np.float32]:
        """Rows that follow random object ids; these are hashes, so their order is random.

        If few rows are live, the first rows of the collection fill the sample.
        """
        if self.count()[RowState.LIVE] <= most:
            return self._stacked(self._first_live(most), most)
        found: dict[str, StoredImage] = {}
        for _ in range(_SAMPLE_ROUNDS):
            starts = [UUID(bytes=random.bytes(16)) for _ in range(_SAMPLE_RUNS)]
            pages = self._connection.side_by_side(self._run_after, starts)
            rows = [row_found(each) for page in pages for each in page]
            found |= {row.image_id: row for row in rows if row.vector is not None}
            if len(found) >= most:
                break
        else:
            found |= {row.image_id: row for row in self._first_live(most)}
        rows = list(found.values())
        return self._stacked([rows[place] for place in random.permutation(len(rows))], most)

    def _run_after(self, client: WeaviateClient, after: UUID) -> _Page:
        query = self._objects(client).query
        return query.fetch_objects(
            limit=_SAMPLE_RUN, after=after, include_vector=True, return_properties=READ
        ).objects

    def _first_live(self, most: int) -> list[StoredImage]:
        def fetch(client: WeaviateClient) -> _Page:
            query = self._objects(client).query
            return query.fetch_objects(
                limit=most,
                filters=in_state(RowState.LIVE),
                include_vector=True,
                return_properties=READ,
            ).objects

        rows = map(row_found, self._connection.call(fetch))
        return [row for row in rows if row.vector is not None]

    def _stacked(self, rows: Sequence[StoredImage], most: int) -> NDArray[np.float32]:
        vectors = [row.vector for row in rows[:most] if row.vector is not None]
        return np.stack(vectors) if vectors else np.empty((0, self._generation.dimension), "f4")

    def count(self) -> dict[RowState, int]:
        """How many rows there are in each state.

        Up to 100,000 rows are counted one by one. Beyond, Weaviate's inverted index counts; after a
        crash it may still list a few rows under an earlier state.
        """

        def ask(client: WeaviateClient) -> dict[str, int]:
            aggregate = self._objects(client).aggregate
            if (aggregate.over_all().total_count or 0) > _COUNTED:
                totals = {s: aggregate.over_all(filters=in_state(s)) for s in RowState}
                return {state: total.total_count or 0 for state, total in totals.items()}
            groups = aggregate.over_all(group_by=GroupByAggregate(prop="state")).groups
            return {str(group.grouped_by.value): group.total_count or 0 for group in groups}

        counts = self._connection.call(ask)
        return {state: counts.get(state, 0) for state in RowState}

    def tidy(self) -> None:
        """Nothing: Weaviate does it automatically."""

    def data_version(self) -> None:
        """None: Weaviate has no such value."""
        return

    def _objects(self, client: WeaviateClient) -> Objects:
        """The collection, to query one replica.

        Never more than one: if Weaviate (1.35) finds two that differ, it overwrites the older one
        with what the query has read of the newer one, without the vector if the query didn't ask
        for it.
        """
        objects: Objects = client.collections.use(self._name)
        return objects.with_consistency_level(ConsistencyLevel.ONE)

    def _writable(self, client: WeaviateClient) -> Objects:
        """The collection; most replicas must have a write before it counts as done."""
        objects: Objects = client.collections.use(self._name)
        return objects.with_consistency_level(ConsistencyLevel.QUORUM)

    def _rows(self, image_ids: Collection[str], *, with_vectors: bool) -> dict[str, StoredImage]:
        wanted = {object_id(image_id): image_id for image_id in filter(is_text, image_ids)}
        if self._generation.replication > 1:
            # A query asks one replica, which may have been away; a read by id asks most of them.
            return self._by_id(list(wanted))
        rows = self._look_up(list(wanted), with_vectors=with_vectors)
        missed = [uuid for uuid, image_id in wanted.items() if image_id not in rows]
        if missed and len(missed) <= _FEW:
            # A query looks up an object's id and then its place. It misses an object that is
            # replaced in between. So a few missing ids are read again by id. Of many missing ids,
            # most are simply new.
            rows |= self._by_id(missed)
        return rows

    def _by_id(self, uuids: Sequence[UUID]) -> dict[str, StoredImage]:
        found = self._connection.fetch_objects(self._name, uuids)
        return {row.image_id: row for row in map(row_of, found)}

    def _look_up(self, uuids: Sequence[UUID], *, with_vectors: bool) -> dict[str, StoredImage]:
        rows: dict[str, StoredImage] = {}
        for start in range(0, len(uuids), _CHUNK):
            some = uuids[start : start + _CHUNK]
            for found in self._fetch_by_ids(some, with_vectors=with_vectors):
                row = row_found(found)
                rows[row.image_id] = row
        return rows

    def _fetch_by_ids(self, uuids: Sequence[UUID], *, with_vectors: bool) -> _Page:
        def fetch(client: WeaviateClient) -> _Page:
            query = self._objects(client).query
            return query.fetch_objects_by_ids(
                uuids, limit=len(uuids), include_vector=with_vectors, return_properties=READ
            ).objects

        try:
            return self._connection.call(fetch)
        except TooMuchError:
            if len(uuids) == 1:
                raise
            half = len(uuids) // 2
            return [
                found
                for some in (uuids[:half], uuids[half:])
                for found in self._fetch_by_ids(some, with_vectors=with_vectors)
            ]

    def _write(self, rows: Sequence[StoredImage]) -> list[Written]:
        ids = [row.image_id for row in rows]
        began = self._clock()
        stored = self._rows(ids, with_vectors=False)
        if self._clock() - began > _STALE_S:
            stored = self._rows(ids, with_vectors=False)
        pairs = [(row, stored.get(row.image_id)) for row in rows]
        allowed = [may_replace(row, before) for row, before in pairs]
        newer = [
            _findable(row, self._random)
            for (row, _), allow in zip(pairs, allowed, strict=True)
            if allow
        ]
        refused = self._insert_for_good(newer) if newer else {}
        return [
            Written(
                applied=allow and row.image_id not in refused,
                previous=before,
                error=refused.get(row.image_id),
            )
            for (row, before), allow in zip(pairs, allowed, strict=True)
        ]

    def _insert_for_good(self, rows: Sequence[StoredImage]) -> dict[str, str]:
        """Insert, and make sure that what Weaviate confirms survives a crash of Weaviate.

        At the end of a batch Weaviate (1.35) flushes its logs while the batch's vectors are still
        on their way into the index. So after a crash a confirmed object might not be found. Writing
        an object again unchanged has no effect except to flush its shard.
        """
        began = self._clock()
        refused = self._insert(rows)
        again = [row for row in rows if row.vector is not None and row.image_id not in refused]
        if again:
            if self._shards is None:
                self._shards = self._connection.call(
                    lambda client: len(self._objects(client).config.get_shards())
                )
            again = again[:1] if self._shards == 1 else again
            if self._clock() - began > _STALE_S:
                there = self._rows([row.image_id for row in again], with_vectors=False)
                again = [row for row in again if _stands(row, there.get(row.image_id))]
            refused |= self._insert(again) if again else {}
        return refused

    def _insert(self, rows: Sequence[StoredImage]) -> dict[str, str]:
        """Insert or overwrite; returns the ids of invalid objects, and what is wrong with each.

        An object that the client can't put into a message, or that Weaviate calls invalid, counts
        as invalid, too: of several, each is tried alone.
        """
        try:
            return self._insert_all(rows)
        except (FatalError, TooMuchError, UnicodeError, OverflowError) as error:
            if len(rows) == 1:
                return {rows[0].image_id: str(error)}
            return {key: text for row in rows for key, text in self._insert([row]).items()}

    def _insert_all(self, rows: Sequence[StoredImage]) -> dict[str, str]:
        objects = [
            DataObject(
                properties=to_record(row, self._generation.attributes),
                uuid=object_id(row.image_id),
                vector=None if row.vector is None else row.vector.tolist(),
            )
            for row in rows
        ]

        def insert(client: WeaviateClient) -> dict[int, str] | str:
            try:
                result = self._writable(client).data.insert_many(objects)
            except WeaviateInsertManyAllFailedError as error:
                return str(error)
            # Not `has_errors`, which may be false when errors are listed.
            return {position: error.message for position, error in result.errors.items()}

        errors = self._connection.call(insert)
        if isinstance(errors, str):
            if len(rows) > 1 and is_objects_fault(errors):
                # All failed, and the client has merged their messages: try one by one.
                return {key: text for row in rows for key, text in self._insert([row]).items()}
            errors = {0: errors}
        for text in errors.values():
            if not is_objects_fault(text):
                raise TransientError(f"Weaviate: {self._name}: {text}")
        return {rows[position].image_id: text for position, text in errors.items()}


def _messages(rows: Sequence[StoredImage]) -> Iterator[Sequence[StoredImage]]:
    """The rows in groups that fit into one message."""
    some: list[StoredImage] = []
    room = _CHUNK_BYTES
    for row in rows:
        size = size_of(row)
        if some and (len(some) == _CHUNK or size > room):
            yield some
            some, room = [], _CHUNK_BYTES
        some.append(row)
        room -= size
    if some:
        yield some


def _stands(row: StoredImage, stored: StoredImage | None) -> bool:
    return stored is None or stored.version == row.version


def _remover(
    objects: Callable[[WeaviateClient], Objects], uuid: UUID
) -> Callable[[WeaviateClient], bool]:
    return lambda client: objects(client).data.delete_by_id(uuid)


def _findable(row: StoredImage, random: np.random.Generator) -> StoredImage:
    """The row, changed so that it is in the vector index afterwards.

    Weaviate stores an object before it puts the vector into the index. If the object comes again
    with an equal vector, it leaves the index alone. So if a crash or a deadline interrupts the
    first write in between, the row would never be found. We can't ask whether it is in the index
    either, since a crash may also lose the link from its id to its place. So no vector is sent
    twice: some of its numbers change by one step of rounding, at random.
    """
    if row.vector is None:
        return row
    moved = row.vector.copy()
    some = random.integers(len(moved), size=_MOVED)
    moved[some] = np.nextafter(moved[some], random.choice(_EITHER_WAY, size=_MOVED))
    return replace(row, vector=moved)
