"""Which originals the image store keeps for the rows of one generation, and until when."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from encoders.images import extension_of
from schemas.events import ImageUploaded, PictureAt
from search.port import RowState, Written
from streams.image_store import ImageStore
from streams.work import Work


class Originals:
    """Puts and removes originals; only the live generation's workers do either.

    Args:
        keep_all: fetched pictures are stored too, not only those sent inline.
    """

    def __init__(self, store: ImageStore, is_live: Callable[[], bool], *, keep_all: bool) -> None:
        self._store = store
        self._is_live = is_live
        self._keep_all = keep_all

    def keep(self, upload: ImageUploaded, picture_format: str, data: bytes) -> str:
        """The URI under which the original lies for good, once it does.

        Raises:
            TransientError: the store can't be reached.
        """
        picture = upload.picture
        if isinstance(picture, PictureAt) and (self._store.owns(picture.uri) or not self._keep_all):
            return picture.uri
        extension = extension_of(picture_format)
        if self._is_live():
            return self._store.put(upload.image_id, data, extension)
        return self._store.uri_of(upload.image_id, data, extension)

    def remove_obsolete(self, results: Mapping[Work, Written]) -> None:
        """Remove the originals that the rows written have replaced.

        A dead letter's row doesn't say where its original lies, and a delete erases all there
        is: then every original of the picture goes but the one that its latest record names.

        Raises:
            TransientError: the store can't be reached.
        """
        for work, result in results.items():
            row, previous = work.row, result.previous
            if not result.applied or row is None or not self._is_live():
                continue
            since = datetime.fromtimestamp(work.source.timestamp_ms / 1000, UTC)
            kept = row.uri or work.original
            if row.state is RowState.DELETED or (
                previous is not None and previous.state is RowState.DEAD_LETTERED
            ):
                self._store.remove_all(row.image_id, since, but=kept)
            elif previous is not None and previous.uri != kept and self._store.owns(previous.uri):
                self._store.remove(previous.uri, since)
