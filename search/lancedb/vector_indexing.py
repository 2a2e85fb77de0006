"""Keeps the index of a LanceDB table's vectors up to date with what is written to it."""

import logging
import math
import threading
import time

from filelock import FileLock, Timeout
from lancedb.index import IvfSq
from lancedb.table import Table

from pixtide.search.lancedb.readers import Readers

#: With fewer rows, comparing with every vector is as quick.
_INDEX_FROM = 10_000
#: Rows that aren't in the index are compared one by one, file by file: 960 new rows in 60 files
#: make a search among 100,000 eight times as slow. While the writing goes on, so large a share is
#: left so.
_SHARE_LEFT = 0.02
#: It waits for a pause of the writing, but no longer than this after the first write.
_PAUSE_S, _AT_LATEST_S = 1.0, 60.0
#: Of the time, so much may go into indexing: where few pictures come, each would bring it on.
_SHARE_OF_TIME = 0.05
#: Enough to place the partitions' centres: with the defaults it takes four times as long, and
#: no more of the nearest are found.
_SAMPLED_OF_EACH, _ITERATIONS = 32, 10

_log = logging.getLogger(__name__)


class Indexing:
    """Indexes the vectors in a thread of its own, in the pauses of the writing.

    To index all rows anew takes 3 s for 100,000, as long as to add a few to the index, and
    leaves one index to search rather than many. `lock` is the table's write lock. The thread
    begins with the first write to a table that is large enough, and ends with the process.
    """

    def __init__(self, table: Table, lock: FileLock, readers: Readers) -> None:
        self._table = table
        self._lock = lock
        self._readers = readers
        self._wrote = threading.Event()
        self._started = threading.Lock()
        self._thread: threading.Thread | None = None

    def wrote(self, rows: int) -> None:
        """Something was written to the table, which has so many rows now."""
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
        self._table.optimize(cleanup_older_than=self._readers.keep())  # the words' index too
        partitions = IvfSq(
            distance_type="cosine",
            num_partitions=math.isqrt(rows),
            sample_rate=_SAMPLED_OF_EACH,
            max_iterations=_ITERATIONS,
        )
        self._table.create_index("vector", config=partitions)
