"""Copies rows from another generation of the same model, instead of making them again."""

import logging

from pixtide.schemas.identity import Version
from pixtide.search.generations import Generation, GenerationState
from pixtide.search.port import (
    CollectionGoneError,
    GenerationCatalog,
    RowState,
    StoredImage,
    VectorIndex,
)

logger = logging.getLogger(__name__)


class RowCopier:
    """The collection of a generation with the same fingerprint over the same log.

    A record makes the same row in both, so its row there can be used here: nothing is fetched,
    decoded or encoded. Safe to share between threads.
    """

    def __init__(self, name: str, index: VectorIndex) -> None:
        self._name = name
        self._index: VectorIndex | None = index

    def row_of(self, image_id: str, version: Version) -> StoredImage | None:
        """The live row of exactly that record, with its vector, if the other generation has it.

        Raises:
            TransientError: the index can't be reached.
        """
        if self._index is None:
            return None
        try:
            row = self._index.get([image_id]).get(image_id)
        except CollectionGoneError:
            logger.info("generation %s is gone: pictures are encoded from here on", self._name)
            self._index = None
            return None
        if row is None or row.state is not RowState.LIVE or row.version != version:
            return None
        return row if row.vector is not None else None


def sibling_of(generation: Generation, catalog: GenerationCatalog) -> RowCopier | None:
    """The newest other generation that has rows to copy, if any."""
    for other in reversed(catalog.list()):
        if (
            not other.is_same(generation)
            and other.created_at < generation.created_at
            and other.state is not GenerationState.RETIRED
            and (other.fingerprint, other.log) == (generation.fingerprint, generation.log)
        ):
            return RowCopier(other.name, catalog.open(other))
    return None
