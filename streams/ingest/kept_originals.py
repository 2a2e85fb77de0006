"""Which originals the image store keeps, and until when.

Who stores and who removes doesn't depend on which generation is live, since that may change
between a record's being stored by one and its being read by another:

- Every generation's worker stores. The key holds the picture's digest, so that to store it twice
  is to store it once. A worker that is behind doesn't store what is obsolete already, as another
  generation's row of a newer record says.
- Every generation's worker removes what a record of its own has made obsolete, unless the newest
  row of the picture in any generation over this log names it: the same picture may have come back.
  So the generation that reads a delete first erases, and one that is behind finds nothing to do.

Of a file under an obsolete key nobody can tell whether it was put again for a record that is still
on its way. So a file is removed at once only where one of these is sure, and else left for the
sweep of `index verify --repair`, which compares the whole log with the whole store:

- it is as it was when this worker put or read it, for a record before the one that it applies; or
- it was put an hour before that record, so that the record for which it was put has come; or
- it was put before that record, and the log holds no later record of the picture.

The times of files are the store's; that of a record is its publisher's, and never taken for later
than the store's clock, so that a publisher whose clock is ahead erases nothing that is new. Only
files in the picture's own folder are removed, whatever a row names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pixtide.encoders.pictures.images import extension_of
from pixtide.schemas.events import ImageUploaded, InlinePicture
from pixtide.schemas.identity import Version, original_folder, original_key_in
from pixtide.search.port import RowState, StoredImage, Written
from pixtide.streams.ingest.other_generations import Elsewhere, OtherGenerations
from pixtide.streams.ingest.work import Work
from pixtide.streams.kafka.later_records import LaterRecords
from pixtide.streams.originals.store import ImageStore, Stored

#: The longest that an original lies in the store before the record is published that names it.
ON_ITS_WAY = timedelta(hours=1)
#: Some stores' clocks tell whole seconds.
_TICK = timedelta(seconds=1)


@dataclass(frozen=True)
class _Obsolete:
    """What the record of that version has made obsolete: one file, or all of the picture's."""

    image_id: str
    version: Version
    since: datetime
    kept: frozenset[str]
    uri: str | None = None


class Originals:
    """Puts and removes the originals of one generation's rows. Safe to share between threads.

    Args:
        keep_all: fetched pictures are stored too, not only those sent inline.
    """

    def __init__(
        self,
        store: ImageStore,
        others: OtherGenerations,
        later: LaterRecords,
        *,
        keep_all: bool,
    ) -> None:
        self._store = store
        self._others = others
        self._later = later
        self._keep_all = keep_all

    def keep(
        self, upload: ImageUploaded, version: Version, picture_format: str, data: bytes
    ) -> str:
        """The URI under which the original lies for good, once it does.

        Raises:
            TransientError: the store can't be reached.
        """
        if (elsewhere := self._elsewhere(upload)) is not None:
            return elsewhere
        image_id, extension = upload.image_id, extension_of(picture_format)
        uri = self._store.uri_of(image_id, data, extension)
        newest = self._others.know([image_id]).get(image_id, Elsewhere()).newest
        if newest is not None and newest.version.newer_than(version):
            return uri  # obsolete already
        is_named = newest is not None and (newest.version, newest.uri) == (version, uri)
        if not (is_named and self._store.holds(uri)):
            self._store.put(image_id, data, extension)
        return uri

    def lacks(self, upload: ImageUploaded, row: StoredImage) -> bool:
        """Whether the original of that row is gone, and the record could bring it back.

        Raises:
            TransientError: the store can't be reached.
        """
        is_inline = isinstance(upload.picture, InlinePicture)
        return is_inline and self._store.owns(row.uri) and not self._store.holds(row.uri)

    def remove_obsolete(self, results: Mapping[Work, Written]) -> None:
        """Remove the originals that the rows written have replaced.

        A dead letter's row doesn't say where its original lies, nor does any row say it of a record
        that was passed over for a newer one, and a delete erases all there is: then every original
        of the picture goes but the one that its latest record names.

        Raises:
            TransientError: the store, the index or the broker can't be reached.
        """
        found = [self._obsolete(work, result) for work, result in results.items()]
        obsolete = [each for each in found if each is not None]
        known = self._others.know({each.image_id for each in obsolete})
        unsure: list[tuple[_Obsolete, Stored]] = []
        for each in obsolete:
            kept = _kept(each, known.get(each.image_id, Elsewhere()))
            for file in self._files(each) if kept is not None else ():
                if file.key in (kept or ()):
                    continue
                since = min(each.since, self._store.now())
                if self._is_past(file, since):
                    self._store.discard(file.uri, file.modified)
                elif file.modified <= since:
                    unsure.append((each, file))
        later = self._later.of({each.image_id: each.version for each, _ in unsure})
        for each, file in unsure:
            if each.image_id not in later:
                self._store.discard(file.uri, file.modified)

    def _elsewhere(self, upload: ImageUploaded) -> str | None:
        """Where it lies without our doing; None where we store it.

        What lies in another picture's folder goes when that picture does, so it is stored again.
        """
        picture = upload.picture
        if isinstance(picture, InlinePicture):
            return None
        if self._store.owns(picture.uri):
            return picture.uri if self._is_own(upload.image_id, picture.uri) else None
        return None if self._keep_all else picture.uri

    def _is_own(self, image_id: str, uri: str) -> bool:
        key = self._store.original_of(uri)
        return key.startswith(original_folder(image_id) + "/") and key == original_key_in(key)

    def _obsolete(self, work: Work, result: Written) -> _Obsolete | None:
        row, previous = work.row, result.previous
        if row is None or result.error is not None:
            return None
        since = datetime.fromtimestamp(work.source.timestamp_ms / 1000, UTC)
        if not result.applied:
            return self._in_vain(work, row, previous, since)
        kept = frozenset({row.uri or work.original})
        if (
            work.strays
            or row.state is RowState.DELETED
            or (previous is not None and previous.state is RowState.DEAD_LETTERED)
        ):
            return _Obsolete(row.image_id, row.version, since, kept)
        if previous is not None and previous.uri not in kept:
            return self._one(row, since, kept, previous.uri)
        return None

    def _in_vain(
        self, work: Work, row: StoredImage, stands: StoredImage | None, since: datetime
    ) -> _Obsolete | None:
        """What was stored for a row that came too late."""
        if stands is None or stands.state is RowState.DEAD_LETTERED or row.uri == work.original:
            return None
        return self._one(stands, since, frozenset({stands.uri}), row.uri)

    def _one(
        self, row: StoredImage, since: datetime, kept: frozenset[str], uri: str
    ) -> _Obsolete | None:
        if uri in kept or not self._is_own(row.image_id, uri):
            return None
        return _Obsolete(row.image_id, row.version, since, kept, uri)

    def _files(self, obsolete: _Obsolete) -> list[Stored]:
        if obsolete.uri is None:
            return list(self._store.files(original_folder(obsolete.image_id)))
        modified = self._store.modified(obsolete.uri)
        key = self._store.original_of(obsolete.uri)
        return [] if modified is None else [Stored(key, obsolete.uri, modified)]

    def _is_past(self, file: Stored, since: datetime) -> bool:
        """Whether the record for which it was put has certainly been read."""
        if file.modified <= since - ON_ITS_WAY:
            return True
        tells_apart = file.modified.microsecond > 0 or file.modified + _TICK <= since
        return tells_apart and self._store.seen(file.uri) == file.modified


def _kept(obsolete: _Obsolete, elsewhere: Elsewhere) -> frozenset[str] | None:
    """The keys that the newest record names; None where nobody can say, so that nothing may go."""
    kept, newest = obsolete.kept | elsewhere.uris, elsewhere.newest
    if newest is not None and newest.version.newer_than(obsolete.version):
        if newest.state is RowState.DEAD_LETTERED:
            return None  # whose original waits for a retry, and no row says which it is
        kept |= {newest.uri}
    return frozenset(map(original_key_in, kept))
