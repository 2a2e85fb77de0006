"""Keeps the vector index of a LanceDB table up to date with its writes."""

import logging
import math
import threading
import time

from filelock import FileLock, Timeout
from lancedb.index import IvfSq
from lancedb.table import Table

from pixtide.search.lancedb.readers import Readers

#: With fewer rows, comparing with every vector is as fast.
_INDEX_FROM = 10_000
#: Rows that aren't in the index are compared one by one, file by file: 960 new rows in 60 files
#: make a search among 100,000 eight times as slow. During continuous writing, this share of rows
#: may stay out of the index.
_SHARE_LEFT = 0.02
#: Indexing waits for a pause in the writing, but at most this long after the first write.
_PAUSE_S, _AT_LATEST_S = 1.0, 60.0
#: Indexing may take this share of the time; otherwise a few pictures now and then would each start
#: it.
_SHARE_OF_TIME = 0.05
#: Enough to place the partitions' centres: with the defaults it takes four times as long, and finds
#: no more of the nearest.
_SAMPLED_OF_EACH, _ITERATIONS = 32, 10

_log = logging.getLogger(__name__)


class Indexing:
    """Indexes the vectors in its own thread, in pauses of the writing.

    Indexing all rows again takes 3 s for 100,000, as long as adding a few to the index, and leaves
    one index to search rather than many. `lock` is the table's write lock. The thread starts with
    the first write to a large enough table, and ends with the process.
    """

    def __init__(self, table: Table, lock: FileLock, readers: Readers) -> None:
        self._table = table
        self._lock = lock
        self._readers = readers
        self._wrote = threading.Event()
        self._started = threading.Lock()
        self._thread: threading.Thread | None = None

    def wrote(self, rows: int) -> None:
        """Note a write to the table, which has so many rows now."""
        if rows < _INDEX_FROM:
            return
        self._wrote.set()
        with self._started:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="indexing")
                self._thread.start()

    def _run(self) -> None:
        while True:
            self._wrote.wait()
            latest = time.monotonic() + _AT_LATEST_S
            while self._wrote.is_set() and time.monotonic() < latest:
                self._wrote.clear()
                time.sleep(_PAUSE_S)
            began = time.monotonic()
            try:
                with self._lock:
                    self._index(paused=not self._wrote.is_set())
            except (Timeout, RuntimeError, OSError) as error:
                # Searches go on, only more slowly; the next write tries again.
                _log.warning("the vectors of %s stay unindexed: %s", self._table.name, error)
            except Exception:  # noqa: BLE001  # logged; else no later write would be indexed
                _log.exception("the vectors of %s stay unindexed", self._table.name)
            time.sleep((time.monotonic() - began) / _SHARE_OF_TIME)

    def _index(self, *, paused: bool) -> None:
        rows = self._table.count_rows()
        known = [index for index in self._table.list_indices() if index.columns == ["vector"]]
        left = (known[0].num_unindexed_rows or 0) if known else rows
        if not left or (left <= rows * _SHARE_LEFT and not paused):
            return
        self._table.optimize(cleanup_older_than=self._readers.keep())  # also the index of words
        partitions = IvfSq(
            distance_type="cosine",
            num_partitions=math.isqrt(rows),
            sample_rate=_SAMPLED_OF_EACH,
            max_iterations=_ITERATIONS,
        )
        self._table.create_index("vector", config=partitions)
