"""What the page may see of the index: the rows of the generation that is live, read only."""

import threading
import time

from pixtide.schemas.errors import TransientError, UsageError
from pixtide.search.generations import Generation
from pixtide.search.port import GenerationCatalog, StoredImage, VectorIndex

_ALIAS_S = 2.0


class LiveIndex:
    """Follows the alias. Its methods block; safe to share between threads.

    No lock is held while the index is asked: while one thread looks where the alias points, the
    others go on with what it saw last.
    """

    def __init__(self, catalog: GenerationCatalog) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._current: tuple[Generation, VectorIndex] | None = None
        self._looked_at = float("-inf")

    def generations(self) -> tuple[Generation | None, list[Generation]]:
        """The live generation, and all. Raises TransientError: the index can't be reached."""
        return self._catalog.live(), self._catalog.list()

    def open(self, generation: Generation) -> VectorIndex:
        """The collection of a generation. Raises UsageError: it is gone."""
        return self._catalog.open(generation)

    def current(self) -> tuple[Generation, VectorIndex]:
        """The live generation and its collection.

        Raises:
            NothingLiveError: no generation is live.
            TransientError: the index can't be reached.
        """
        with self._lock:
            now, known = time.monotonic(), self._current
            if known is not None and now - self._looked_at <= _ALIAS_S:
                return known
            self._looked_at = now  # by this thread
        try:
            found = self._look(known)
        except TransientError:
            with self._lock:
                self._current = None  # nobody goes on with what may be gone
            raise
        with self._lock:
            self._current = found
        return found

    def probe(self) -> None:
        """Ask the index, whatever is known. Raises as `current`."""
        self._look(self._current)

    def row(self, image_id: str) -> StoredImage | None:
        """The live generation's row of an image id. Raises as `current`."""
        try:
            return self.current()[1].get([image_id]).get(image_id)
        except UsageError as error:  # retired just now; the next look finds its successor
            with self._lock:
                self._current = None
            raise TransientError(str(error)) from error

    def close(self) -> None:
        """Let the connections go."""
        self._catalog.close()

    def _look(self, known: tuple[Generation, VectorIndex] | None) -> tuple[Generation, VectorIndex]:
        live = self._catalog.live()
        if live is None:
            raise NothingLiveError("no generation is live yet")
        if known is not None and known[0] == live:
            return known
        try:
            return live, self._catalog.open(live)
        except UsageError as error:
            raise TransientError(str(error)) from error


class NothingLiveError(TransientError):
    """There is no index to read yet."""
