"""Which originals the image store keeps, and for how long.

The live generation may change while a record is on its way. So storing and removing don't depend on
which generation is live:

- Every generation's worker stores originals. The key contains the picture's digest, so storing a
  picture twice is the same as storing it once. A worker that is behind doesn't store a picture
  if another generation's row shows a newer record.
- Every generation's worker removes the originals that its record made obsolete. It keeps those
  named by the newest row of the picture in any generation over this log, since the same picture may
  have come back. So the generation that reads a delete first erases, and slower ones find nothing
  to do.

A file under an obsolete key may have been stored again for a record that is still on its way. So a
worker removes a file only if one of these is certain. Everything else is left to the sweep of
`index verify --repair`, which compares the whole log with the whole store.

- The file is unchanged since this worker stored it, or read it, for an earlier record. A file that
  was only read must also be older than the record: a publisher may have stored it again.
- The file was stored more than an hour before the record, so the record that it was stored for has
  been read.
- The file was stored before the record, and the log has no later record of the picture.

Files have the store's times. A record has its publisher's time, which never counts as later than
the store's clock. So a publisher whose clock is ahead erases nothing new. Only files in the
picture's own folder are removed, whatever a row names.
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
from pixtide.streams.originals.store import ON_ITS_WAY, ImageStore, Stored

#: Some stores' clocks have whole seconds only.
_TICK = timedelta(seconds=1)


@dataclass(frozen=True)
class _Obsolete:
    """What the record with that version made obsolete: one file, or all files of the picture."""

    image_id: str
    version: Version
    since: datetime
    kept: frozenset[str]
    uri: str | None = None


class Originals:
    """Stores and removes the originals of one generation's rows. Safe to share between threads.

    Args:
        keep_all: also store fetched pictures, not only inline ones.
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
        """Store the original if necessary, and return its permanent URI.

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
        """Whether that row's original is missing and this record could restore it.

        Raises:
            TransientError: the store can't be reached.
        """
        is_inline = isinstance(upload.picture, InlinePicture)
        return is_inline and self._store.owns(row.uri) and not self._store.holds(row.uri)

    def remove_obsolete(self, results: Mapping[Work, Written]) -> None:
        """Remove the originals that the new rows replaced.

        In three cases the old row doesn't name all originals: the old row is a dead letter's,
        records were skipped for a newer one, or the record is a delete, which erases everything.
        Then all originals of the picture are removed, except the one that its latest record names.

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
        """The URI if the original needs no storing; None if we store it.

        An original in another picture's folder is removed with that picture, so it is stored again.
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
        """Whether the record that the file was stored for has certainly been read."""
        if file.modified <= since - ON_ITS_WAY:
            return True
        tells_apart = file.modified.microsecond > 0 or file.modified + _TICK <= since
        if not tells_apart or self._store.seen(file.uri) != file.modified:
            return False
        # what was read may have been stored after this record, for a later one
        return self._store.has_put(file.uri) or file.modified <= since


def _kept(obsolete: _Obsolete, elsewhere: Elsewhere) -> frozenset[str] | None:
    """The keys that the newest record names; None if unknown: then nothing may be removed."""
    kept, newest = obsolete.kept | elsewhere.uris, elsewhere.newest
    if newest is not None and newest.version.newer_than(obsolete.version):
        if newest.state is RowState.DEAD_LETTERED:
            return None  # its original waits for a retry, and no row names it
        kept |= {newest.uri}
    return frozenset(map(original_key_in, kept))
