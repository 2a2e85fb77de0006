"""LanceDB as the index: one table per generation, in a folder, with no server.

Any number of processes read. Writers of a table hold its file lock while they read the versions and
merge the rows, because LanceDB's own concurrent merges may duplicate a key.
"""

import contextlib
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute
from filelock import FileLock, Timeout
from lancedb.query import MatchQuery
from lancedb.table import Table
from numpy.typing import NDArray

from pixtide.schemas.errors import TransientError
from pixtide.schemas.identity import Version
from pixtide.schemas.queries import Filters
from pixtide.search.generations import Generation
from pixtide.search.lancedb.readers import Readers
from pixtide.search.lancedb.table import attempt, condition, literals, nearest_exactly, to_arrow
from pixtide.search.lancedb.vector_indexing import Indexing
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
from pixtide.search.rows import (
    FIELDS,
    WORDS,
    check_vector,
    from_record,
    is_text,
    may_stand,
    similarity_of,
    write_each,
)

T = TypeVar("T")

_LOCK_TIMEOUT_S = 30
#: Ids or rows in one statement: bounds its size and its memory.
_CHUNK = 1000
#: Rows read for each content that is looked up: if one has more copies, another may be missed.
_COPIES = 4
_MIN_FRAGMENTS = 24
#: Rows looked at together for a sample.
_SAMPLED = 1024
#: Partitions to search. In them, twice as many rows as asked for are found by their 8-bit numbers
#: and then compared exactly. With 100,000 rows in 1,000 clusters and 316 partitions, this finds
#: 99.9 % of the true ten nearest. LanceDB's own refining reads the vectors at twice the cost.
_PROBES, _REFINED = 40, 2
#: Beyond this rank, and if filters leave few rows, the index would miss too many.
_INDEX_DEPTH = 100
_COLUMNS = list(FIELDS)

_log = logging.getLogger(__name__)


class LanceIndex:
    """The `VectorIndex` over one LanceDB table. Safe to share between threads.

    Search is exact: every live vector that meets the filters is compared. The exception is a search
    without filters for at most the 100 nearest of 10,000 rows or more, for which an index finds the
    rows. Similarities are always exact. Every method raises TransientError if the disk fails or is
    full, and CollectionGoneError if the table is gone.
    """

    def __init__(self, *, table: Table, generation: Generation, lock_file: Path):
        self._table = table
        self._generation = generation
        self._lock = FileLock(lock_file, timeout=_LOCK_TIMEOUT_S)
        self._settled = 0
        self._readers = Readers(lock_file.with_suffix(".readers"))
        self._indexing = Indexing(table, self._lock, self._readers)

    def get(self, image_ids: Collection[str]) -> dict[str, StoredImage]:
        """The existing rows of these ids, with vectors."""
        return self._rows(image_ids, [*_COLUMNS, "vector"])

    def with_content(self, digests: Collection[str]) -> dict[str, StoredImage]:
        """For each sha256 that is found, a live row with that content, with its vector."""
        wanted = list(filter(is_text, digests))
        where = f"sha256 IN ({literals(wanted)}) AND state = {literals([RowState.LIVE])}"

        def fetch() -> list[dict[str, Any]]:
            query = self._table.search().where(where).select([*_COLUMNS, "vector"])
            records: list[dict[str, Any]] = query.limit(_COPIES * len(wanted)).to_list()
            return records

        return {record["sha256"]: _row(record) for record in self._ask(fetch)} if wanted else {}

    def write(self, rows: Sequence[StoredImage]) -> list[Written]:
        """Write what `may_replace` allows, 1,000 rows at a time: first changed rows, then new ones.

        Raises:
            ValueError: an id occurs twice.
            TransientError: also if the write lock isn't free within 30 s.
        """

        def write(fit: Sequence[StoredImage]) -> list[Written]:
            written: list[Written] = []
            for start in range(0, len(fit), _CHUNK):
                with self._alone():
                    written += self._write(fit[start : start + _CHUNK])
            return written

        return write_each(rows, self._generation.dimension, write)

    def remove(self, rows: Mapping[str, Version]) -> None:
        """Remove the rows of these ids that still have these versions."""
        wanted = [one for one in rows.items() if may_stand(*one)]
        for start in range(0, len(wanted), _CHUNK):
            each = [_at_version(*one) for one in wanted[start : start + _CHUNK]]
            with self._alone():
                self._ask(_remover(self._table, " OR ".join(each)))

    def search(self, queries: Sequence[Query]) -> list[list[Hit]]:
        """Answer queries with the same filters and limit by one call of LanceDB.

        Raises:
            ValueError: a query's vector or attribute filter is wrong.
        """
        alike: dict[tuple[Filters, int, bool], list[int]] = defaultdict(list)
        for position, query in enumerate(queries):
            check_vector(query.vector, self._generation.dimension)
            alike[query.filters, query.limit, query.with_vectors].append(position)
        hits: list[list[Hit]] = [[] for _ in queries]
        for (filters, limit, with_vectors), positions in alike.items():
            vectors = np.stack([queries[position].vector for position in positions])
            for number, record, similarity in self._nearest(vectors, filters, limit, with_vectors):
                hits[positions[number]].append(Hit(_row(record), similarity))
        return hits

    def search_words(self, queries: Sequence[WordQuery]) -> list[list[WordHit]]:
        """Answer each query by one call of LanceDB.

        Raises:
            ValueError: an attribute filter is wrong.
        """
        return [
            [WordHit(_row(record), record["_score"]) for record in self._worded(query)]
            for query in queries
        ]

    def scan(self, *, with_vectors: bool = False) -> Iterator[StoredImage]:
        """Every row as of the start; the files stay until the last row is read."""
        columns = _COLUMNS + ["vector"] * with_vectors
        with self._readers.reading() as go_on:
            with self._alone():  # whoever removes files now doesn't know this reader
                batches = self._ask(lambda: self._table.search().select(columns).to_batches())
            while (batch := self._ask(lambda: next(batches, None))) is not None:
                for record in batch.to_pylist():
                    yield _row(record)
                go_on()

    def sample(self, most: int, random: np.random.Generator) -> NDArray[np.float32]:
        """Look at rows at random places of the table until enough live ones are found."""
        rows = self._ask(self._table.count_rows)
        places: list[int] = random.permutation(rows).tolist()
        some: list[int] = []
        found: list[NDArray[np.float32]] = []

        def fetch() -> pa.Table:
            return self._table.take_offsets(some).select(["state", "vector"]).to_arrow()

        wanted = most
        for start in range(0, rows, _SAMPLED):
            some = places[start : start + _SAMPLED]
            taken = self._ask(fetch)
            live = taken.filter(pa.compute.equal(taken["state"], RowState.LIVE))["vector"]
            vectors = _stacked(live, self._generation.dimension)
            # they come in the table's order, not in that of the random places
            found.append(vectors[random.permutation(len(vectors))[:wanted]])
            wanted -= len(found[-1])
            if not wanted:
                break
        return np.concatenate([_stacked(None, self._generation.dimension), *found])

    def count(self) -> dict[RowState, int]:
        """How many rows there are in each state."""
        return {state: self._ask(_counter(self._table, state)) for state in RowState}

    def tidy(self) -> None:
        """Merge small fragments, and add missing vectors to the vectors' index."""
        with self._alone():
            self._tidy()

    def data_version(self) -> str:
        """The number of the table's newest transaction."""
        return str(self._ask(lambda: self._table.version))

    def _ask(self, ask: Callable[[], T]) -> T:
        return attempt(ask, f"the LanceDB table {self._generation.collection}")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            self._lock.acquire()
        except (Timeout, OSError) as error:
            raise TransientError(f"no write lock: {error}") from error
        try:
            yield
        finally:
            self._lock.release()

    def _rows(self, image_ids: Collection[str], columns: list[str]) -> dict[str, StoredImage]:
        ids = list(dict.fromkeys(filter(is_text, image_ids)))
        some: list[str] = []

        def fetch() -> list[dict[str, Any]]:
            query = self._table.search().where(f"image_id IN ({literals(some)})")
            records: list[dict[str, Any]] = (
                query.select(columns).limit(_COPIES * len(some)).to_list()
            )
            return records

        rows: dict[str, StoredImage] = {}
        for start in range(0, len(ids), _CHUNK):
            some = ids[start : start + _CHUNK]
            for record in self._ask(fetch):
                rows[record["image_id"]] = _row(record)
        return rows

    def _write(self, rows: Sequence[StoredImage]) -> list[Written]:
        """Write under the lock; a row that LanceDB refuses fails alone."""
        try:
            return self._write_all(rows)
        except (ValueError, TypeError, OverflowError) as error:  # Arrow raises these, too
            if len(rows) == 1:
                return [Written(applied=False, error=f"LanceDB: {error}")]
            return [written for row in rows for written in self._write([row])]

    def _write_all(self, rows: Sequence[StoredImage]) -> list[Written]:
        """Write under the lock: nobody else writes between this read and this merge."""
        stored = self._rows([row.image_id for row in rows], _COLUMNS)
        written = [
            Written(may_replace(row, stored.get(row.image_id)), stored.get(row.image_id))
            for row in rows
        ]
        newer = [row for row, outcome in zip(rows, written, strict=True) if outcome.applied]
        # "null" stands for the missing vectors of rows that aren't live; the others were checked.
        if changed := [row for row in newer if row.image_id in stored]:
            merge = self._table.merge_insert("image_id").when_matched_update_all()
            data = to_arrow(changed, self._generation)
            self._ask(lambda: merge.execute(data, on_bad_vectors="null"))
        if new := [row for row in newer if row.image_id not in stored]:
            # a merge would compare them with the ids of all rows once more
            added = to_arrow(new, self._generation)
            self._ask(lambda: self._table.add(added, on_bad_vectors="null"))
        if newer:
            self._tidy()
        return written

    def _nearest(
        self, vectors: NDArray[np.float32], filters: Filters, limit: int, with_vectors: bool
    ) -> Iterator[tuple[int, dict[str, Any], float]]:
        """For n queries: a query's number, a record and its similarity; nearest first for each."""
        where = condition(filters, self._generation)
        indexed = where is None and limit <= _INDEX_DEPTH
        columns = [*_COLUMNS, "_distance"] + ["vector"] * (indexed or with_vectors)

        def fetch() -> pa.Table:
            # For a single query LanceDB returns no query_index anyway, so pass it plainly.
            wanted = vectors if len(vectors) > 1 else vectors[0]
            search: Any = self._table.search(wanted, vector_column_name="vector")
            search = search.distance_type("cosine").select(columns)
            if indexed:
                return search.nprobes(_PROBES).limit(limit * _REFINED).to_arrow()
            if where is not None:
                search = search.where(where, prefilter=True)
            return search.bypass_vector_index().limit(limit).to_arrow()

        found = self._ask(fetch)
        if indexed:
            found = nearest_exactly(found, vectors, limit)
        if not with_vectors and indexed:
            found = found.drop_columns("vector")
        for record in found.to_pylist():
            yield record.get("query_index", 0), record, similarity_of(record["_distance"])

    def _worded(self, query: WordQuery) -> list[dict[str, Any]]:
        def fetch() -> list[dict[str, Any]]:
            match_any: Any = MatchQuery  # its stub lacks the defaults
            search: Any = self._table.search(match_any(query.words, WORDS))
            if where := condition(query.filters, self._generation):
                search = search.where(where, prefilter=True)
            search = search.select([*_COLUMNS, "vector", "_score"])
            records: list[dict[str, Any]] = search.limit(query.limit).to_list()
            return records

        return self._ask(fetch)

    def _tidy(self) -> None:
        """Merge the small fragments that small writes leave, if there are too many.

        A write pays for each fragment and a compaction for each row. With the measured costs of
        both, about the square root of rows / 20 fragments are cheapest.
        """
        try:
            stats: Any = self._table.stats()
            fragments = stats["fragment_stats"]["num_fragments"]
            self._settled = min(self._settled, fragments)
            allowed = max(_MIN_FRAGMENTS, math.isqrt(stats["num_rows"] // 20))
            if fragments - self._settled > allowed:
                self._table.optimize(cleanup_older_than=self._readers.keep())
                stats = self._table.stats()
                self._settled = stats["fragment_stats"]["num_fragments"]
            self._indexing.wrote(stats["num_rows"])
        except (RuntimeError, OSError) as error:
            # The rows are safely written; the next write tries again.
            _log.warning("%s stays untidy: %s", self._generation.collection, error)


def _row(record: Mapping[str, Any]) -> StoredImage:
    """The row of a record that may have a vector."""
    vector = record.get("vector")
    return from_record(record, None if vector is None else np.asarray(vector, dtype=np.float32))


def _stacked(vectors: pa.ChunkedArray | None, dimension: int) -> NDArray[np.float32]:
    """A column of vectors as (n, dimension)."""
    if vectors is None or not len(vectors):
        return np.empty((0, dimension), np.float32)
    flat: NDArray[np.float32] = vectors.combine_chunks().flatten().to_numpy()
    return flat.reshape(-1, dimension)


def _counter(table: Table, state: RowState) -> Callable[[], int]:
    return lambda: table.count_rows(f"state = {literals([state])}")


def _at_version(image_id: str, version: Version) -> str:
    """The SQL condition that a row of this id has this version."""
    parts = " AND ".join(f"{part} = {value}" for part, value in version._asdict().items())
    return f"(image_id = {literals([image_id])} AND {parts})"


def _remover(table: Table, where: str) -> Callable[[], object]:
    return lambda: table.delete(where)
