"""The image store's part of a verification: are the originals there, and no others?

A file is left over if it was stored more than an hour before the verification started, and nothing
names it: neither a live row of a generation that is not retired, nor a picture's latest record. The
latest record of a dead letter's picture waits for a retry. A younger file may belong to a record
that is on its way. Times are the store's.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice

from pixtide.search.generations import Generation
from pixtide.search.port import GenerationCatalog
from pixtide.streams.generations.comparison_store import ComparisonStore
from pixtide.streams.ingest.other_generations import OtherGenerations
from pixtide.streams.originals.store import ON_ITS_WAY, VALUES, ImageStore, Stored

_CHUNK = 500


class StoreSide:
    """The store of originals, noted in a ledger. Every method raises TransientError."""

    def __init__(
        self, store: ImageStore, generation: Generation, catalog: GenerationCatalog
    ) -> None:
        self._store = store
        self._others = OtherGenerations(generation, catalog)
        self._old = datetime.min.replace(tzinfo=UTC)

    def original_of(self, uri: str) -> str:
        """As `ImageStore.original_of`."""
        return self._store.original_of(uri)

    def begin(self) -> None:
        """Read the store's clock, before the log is read."""
        self._old = self._store.now() - ON_ITS_WAY

    def note_all(
        self, ledger: ComparisonStore, passing: Callable[[Iterable[Stored]], Iterable[Stored]]
    ) -> None:
        """Note every file; `passing` sees them on their way."""
        ledger.note_originals(passing(self._store.files()), self._old)

    def look_again(self, ledger: ComparisonStore, image_ids: Sequence[str]) -> None:
        """Check again whether the originals of these rows exist."""
        for key in ledger.originals_of(image_ids):
            uri = self._store.uri_at(key)
            modified = self._store.modified(uri)
            if modified is None:
                ledger.forget_originals([key])
            else:
                ledger.note_originals([Stored(key, uri, modified)], self._old)

    def settle(self, ledger: ComparisonStore) -> str | None:
        """Drop files that others name; returns why nothing can be said about the rest, if so."""
        if not ledger.count_left():
            return None
        if foreign := self._foreign():
            left = [key for key, _ in ledger.left()]
            ledger.note_named(map(self._store.uri_at, left))
            return (
                f"{len(left)} originals are named by no row here, but the store is also that of "
                f"{', '.join(foreign)}: remove that from it once nobody else uses it"
            )
        ledger.note_named(self._others.uris())
        return None

    def sweep(self, ledger: ComparisonStore) -> None:
        """Remove the leftover files, unless they were stored again meanwhile."""
        left = ledger.left()
        while some := list(islice(left, _CHUNK)):
            for key, modified in some:
                self._store.discard(self._store.uri_at(key), modified)
            ledger.forget_originals(key for key, _ in some)

    def expire_values(self, kept: timedelta) -> None:
        """Remove the values of dead letters that are older than the dead letters are kept.

        If a record was dead-lettered again meanwhile, its value was stored again, too. In a store
        shared with another log nothing is removed: that log may keep its dead letters for longer.
        """
        if self._foreign():
            return
        expired = self._store.now() - kept
        for file in self._store.files(VALUES):
            if file.modified < expired:
                self._store.discard(file.uri, file.modified)

    def _foreign(self) -> list[str]:
        """What shows that another log shares the store."""
        return sorted(self._store.claims())
