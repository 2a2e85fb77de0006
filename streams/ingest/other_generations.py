"""What the other generations of an index know about a picture."""

import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from pixtide.search.generations import Generation, GenerationState
from pixtide.search.port import (
    CollectionGoneError,
    GenerationCatalog,
    RowState,
    StoredImage,
    VectorIndex,
)

_LOOK_EVERY_S = 5.0


@dataclass(frozen=True)
class Elsewhere:
    """One picture in other generations.

    `newest` is its newest row over the same log. `uris` are those of live rows over other logs,
    whose versions can't be compared.
    """

    newest: StoredImage | None = None
    uris: frozenset[str] = frozenset()


class OtherGenerations:
    """All other generations that are not retired. Safe to share between threads."""

    def __init__(
        self,
        generation: Generation,
        catalog: GenerationCatalog,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._generation = generation
        self._catalog = catalog
        self._clock = clock
        self._lock = threading.Lock()
        self._looked_at = float("-inf")
        self._opened: list[tuple[Generation, VectorIndex]] = []

    def know(self, image_ids: Collection[str]) -> dict[str, Elsewhere]:
        """What they know about these pictures; unknown pictures are left out.

        Raises:
            TransientError: the index can't be reached.
        """
        known: dict[str, Elsewhere] = {}
        for other, index in self._others() if image_ids else ():
            try:
                rows = index.get(image_ids)
            except CollectionGoneError:
                continue
            for image_id, row in rows.items():
                before = known.get(image_id, Elsewhere())
                known[image_id] = _and(before, row, same_log=other.log == self._generation.log)
        return known

    def uris(self) -> Iterator[str]:
        """The picture URIs in their live rows. Raises TransientError."""
        for _, index in self._others(at_once=True):
            try:
                yield from (row.uri for row in index.scan() if row.state is RowState.LIVE)
            except CollectionGoneError:
                continue

    def _others(self, *, at_once: bool = False) -> list[tuple[Generation, VectorIndex]]:
        with self._lock:
            if at_once or self._clock() - self._looked_at > _LOOK_EVERY_S:
                known = {other.name: index for other, index in self._opened}
                self._opened = [
                    (other, known.get(other.name) or self._catalog.open(other))
                    for other in self._catalog.list()
                    if not other.is_same(self._generation)
                    and other.state is not GenerationState.RETIRED
                ]
                self._looked_at = self._clock()
            return self._opened


def _and(before: Elsewhere, row: StoredImage, *, same_log: bool) -> Elsewhere:
    if not same_log:
        uris = {row.uri} if row.state is RowState.LIVE else set()
        return Elsewhere(before.newest, before.uris | uris)
    if before.newest is not None and not row.version.newer_than(before.newest.version):
        return before
    return Elsewhere(row, before.uris)
