"""What a query is served from: the live generation's collection and encoder, as one snapshot."""

import logging
from collections.abc import Callable

from encoders.port import Encoder
from schemas.errors import TransientError
from search.answer import Snapshot
from search.generations import Generation
from search.port import GenerationCatalog
from search.text_cache import CachedTexts

logger = logging.getLogger(__name__)

NONE_LIVE = "no generation is live yet: run `pixtide index create v1`"


class Snapshots:
    """Follows the alias. `current` changes in one step, and only to what is loaded.

    `problem` says why nothing can be served, or that the index did not answer the last look.
    """

    def __init__(
        self, catalog: GenerationCatalog, load_encoder: Callable[[Generation], Encoder]
    ) -> None:
        self._catalog = catalog
        self._load_encoder = load_encoder
        self._encoders: dict[str, Encoder] = {}
        self._texts: dict[str, CachedTexts] = {}
        self.current: Snapshot | None = None
        self.problem: str | None = "is not read yet"

    @property
    def texts_cached(self) -> int:
        """How many texts have their vectors remembered, of all encoders together."""
        return sum(len(texts) for texts in self._texts.values())

    def encoder(self, fingerprint: str) -> Encoder:
        """The encoder of a snapshot that is or was current."""
        return self._encoders[fingerprint]

    def refresh(self) -> None:
        """Look where the alias points; load what it needs; then serve from there.

        Raises:
            FatalError: the encoder's fingerprint is not its generation's.
            UsageError: its model can't be loaded, or its collection is gone.
        """
        try:
            live = self._catalog.live()
            self.problem = None if live or self.current else NONE_LIVE
            if live is None or (self.current and self.current.generation == live):
                return
            if live.fingerprint not in self._encoders:
                encoder = self._load_encoder(live)
                encoder.warm_up()
                self._encoders[live.fingerprint] = encoder
                self._texts[live.fingerprint] = CachedTexts(encoder)
            self.current = Snapshot(live, self._catalog.open(live), self._texts[live.fingerprint])
            logger.info("serving generation %s", live.name)
        except TransientError as error:
            self.problem = str(error)
            logger.warning("the live generation can't be looked up: %s", error)
