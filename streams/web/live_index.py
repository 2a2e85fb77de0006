"""What the page may see of the index: the rows of the generation that is live, read only."""

import threading
import time

from schemas.errors import TransientError, UsageError
from search.generations import Generation
from search.port import GenerationCatalog, StoredImage, VectorIndex

_ALIAS_S = 2.0


class LiveIndex:
    """Follows the alias. Its methods block; safe to share between threads."""

    def __init__(self, catalog: GenerationCatalog) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._current: tuple[Generation, VectorIndex] | None = None
        self._looked_at = 0.0

    def generations(self) -> tuple[Generation | None, list[Generation]]:
        """The live generation, and all. Raises TransientError: the index can't be reached."""
        return self._catalog.live(), self._catalog.list()

    def open(self, generation: Generation) -> VectorIndex:
        """The collection of a generation. Raises UsageError: it is gone."""
        return self._catalog.open(generation)

    def current(self) -> tuple[Generation, VectorIndex]:
        """The live generation and its collection.

        Raises:
            TransientError: no generation is live, or the index can't be reached.
        """
        with self._lock:
            if self._current is None or time.monotonic() - self._looked_at > _ALIAS_S:
                live = self._catalog.live()
                if live is None:
                    self._current = None
                    raise TransientError("no generation is live yet")
                if self._current is None or self._current[0] != live:
                    self._current = (live, self._open(live))
                self._looked_at = time.monotonic()
            return self._current

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

    def _open(self, generation: Generation) -> VectorIndex:
        try:
            return self._catalog.open(generation)
        except UsageError as error:
            raise TransientError(str(error)) from error
