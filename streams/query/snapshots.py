"""The snapshot that queries are served from: the live generation's collection and encoder.

The encoders of generations that may go live next are loaded in advance, so that they are served at
once when the alias moves. If one must still be loaded, the old snapshot answers meanwhile.
"""

import logging
import threading
from collections.abc import Callable

from pixtide.encoders.port import Encoder
from pixtide.schemas.errors import PixtideError, TransientError
from pixtide.search.answering.answer import Snapshot
from pixtide.search.answering.text_cache import CachedTexts
from pixtide.search.generations import Generation, GenerationState
from pixtide.search.port import CollectionGoneError, GenerationCatalog
from pixtide.streams.process.signals import pass_over_what_is_loaded

logger = logging.getLogger(__name__)

NONE_LIVE = "no generation is live yet: run `pixtide index create v1`"


class Snapshots:
    """Follows the alias. `current` changes in one step, and only to a loaded generation.

    `problem` says why nothing can be served, or that the index did not answer the last look.
    """

    def __init__(
        self, catalog: GenerationCatalog, load_encoder: Callable[[Generation], Encoder]
    ) -> None:
        self._catalog = catalog
        self._load_encoder = load_encoder
        self._encoders: dict[str, Encoder] = {}
        self._texts: dict[str, CachedTexts] = {}
        self._lock = threading.Lock()  # held while looking at the alias
        self._loading: threading.Thread | None = None
        self._unloadable: set[str] = set()
        self.current: Snapshot | None = None
        self.problem: str | None = "is not read yet"

    @property
    def texts_cached(self) -> int:
        """How many texts have cached vectors, of all encoders together."""
        return sum(len(texts) for texts in self._texts.values())

    def encoder(self, fingerprint: str) -> Encoder:
        """The encoder of a snapshot that is or was current."""
        return self._encoders[fingerprint]

    def refresh(self) -> None:
        """Look at the alias, serve its generation once that is loaded, and load what may be next.

        Raises:
            FatalError: nothing is served yet, and the encoder's fingerprint is not its
                generation's.
            UsageError: nothing is served yet, and the model can't be loaded, or its collection is
                gone.
        """
        with self._lock:
            self._refresh()

    def renewed(self, gone: Snapshot) -> Snapshot | None:
        """The snapshot to use instead of one whose collection is gone.

        Here requests wait until the encoder is loaded, since nothing else can answer them.
        """
        with self._lock:
            if self.current is gone:
                self.current = None
                self._refresh()
            return self.current

    def _refresh(self) -> None:
        try:
            live = self._catalog.live()
            self.problem = None if live or self.current else NONE_LIVE
            if live is None:
                return
            wanted = [live, *self._next(live)]
            if self.current is None and live.fingerprint not in self._encoders:
                self._load(live)
            if live.fingerprint in self._encoders:
                self._serve(live)
            self._load_ahead(wanted)
        except TransientError as error:
            self.problem = str(error)
            logger.warning("the live generation can't be looked up: %s", error)

    def _next(self, live: Generation) -> list[Generation]:
        """Generations that may go live next: verified ones, and the one for a rollback."""
        return [
            each
            for each in self._catalog.list()
            if each.state is GenerationState.READY
            or (each.name == live.previous and each.state is not GenerationState.RETIRED)
        ]

    def _serve(self, live: Generation) -> None:
        if self.current is not None and self.current.generation.is_same(live):
            return
        try:
            index = self._catalog.open(live)
        except CollectionGoneError:
            if self.current is None:
                raise
            return  # the alias is moving to another; the next look sees it
        self.current = Snapshot(live, index, self._texts[live.fingerprint])
        logger.info("serving generation %s", live.name)

    def _load_ahead(self, wanted: list[Generation]) -> None:
        """Load in a thread, one at a time; drop encoders that nobody needs any more."""
        if self._loading is not None and self._loading.is_alive():
            return
        kept = {generation.fingerprint for generation in wanted}
        if self.current is not None:
            kept.add(self.current.generation.fingerprint)
        for fingerprint in self._encoders.keys() - kept:
            logger.info("letting go of the encoder %s", fingerprint[:16])
            del self._encoders[fingerprint], self._texts[fingerprint]
        self._unloadable &= kept
        for generation in wanted:
            if generation.fingerprint not in self._encoders.keys() | self._unloadable:
                # a daemon, since a stopping consumer doesn't wait for a model
                self._loading = threading.Thread(
                    target=self._load_quietly, args=[generation], name="load", daemon=True
                )
                self._loading.start()
                return

    def _load_quietly(self, generation: Generation) -> None:
        try:
            self._load(generation)
        except TransientError as error:
            logger.warning("the model of generation %s: %s", generation.name, error)
        except PixtideError as error:
            # Searches go on with what is loaded. Whoever promotes this generation finds the error
            # in this log.
            self._unloadable.add(generation.fingerprint)
            logger.error("generation %s can't be served from here: %s", generation.name, error)

    def _load(self, generation: Generation) -> None:
        encoder = self._load_encoder(generation)
        encoder.warm_up()
        self._texts[generation.fingerprint] = CachedTexts(encoder)
        self._encoders[generation.fingerprint] = encoder
        pass_over_what_is_loaded()
        logger.info("loaded the encoder of generation %s", generation.name)
