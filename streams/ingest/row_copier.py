"""Another generation of the same model, whose rows needn't be made again."""

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

    A record makes the same row in both, so that its row there is its row here: nothing is
    fetched, decoded or encoded. Safe to share between threads.
    """

    def __init__(self, name: str, index: VectorIndex) -> None:
        self._name = name
        self._index: VectorIndex | None = index

    def row_of(self, image_id: str, version: Version) -> StoredImage | None:
        """The live row of that very record, with its vector, where the sibling has it.

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
    """The newest other generation that has rows to give."""
    for other in reversed(catalog.list()):
        if (
            not other.is_same(generation)
            and other.created_at < generation.created_at
            and other.state is not GenerationState.RETIRED
            and (other.fingerprint, other.log) == (generation.fingerprint, generation.log)
        ):
            return RowCopier(other.name, catalog.open(other))
    return None
