"""Thumbnails that were made, kept for who asks next."""

import contextlib
import logging
import threading
from collections import OrderedDict
from pathlib import Path

from pixtide.schemas.identity import original_folder
from pixtide.search.port import StoredImage

logger = logging.getLogger(__name__)


class Thumbnails:
    """Keeps the thumbnails that were used last, in a folder of its own.

    The folder must be empty at first, and nobody else's. Safe to share between threads.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._sizes: OrderedDict[Path, int] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, row: StoredImage, side: int) -> bytes | None:
        """The JPEG of this content and size, None where it isn't kept."""
        file = self._file(row, side)
        with self._lock:
            if file not in self._sizes:
                return None
            self._sizes.move_to_end(file)
        try:
            return file.read_bytes()
        except OSError:  # forgotten just now, or the disk is unwell: it is made again
            return None

    def keep(self, row: StoredImage, side: int, thumbnail: bytes) -> None:
        """Keep it, for as long as there is room, and where the disk takes it."""
        file = self._file(row, side)
        partial = file.with_name(f"{file.name}.{threading.get_ident()}")
        try:
            file.parent.mkdir(exist_ok=True)
            partial.write_bytes(thumbnail)
        except OSError as error:
            logger.warning("a thumbnail is not kept: %s", error)
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            return
        with self._lock:
            partial.replace(file)
            self._bytes += len(thumbnail) - self._sizes.pop(file, 0)
            self._sizes[file] = len(thumbnail)
            while self._bytes > self._max_bytes and len(self._sizes) > 1:
                self._remove(next(iter(self._sizes)))

    def forget(self, image_id: str) -> None:
        """Remove what was made of this picture, so that a deleted one leaves nothing behind."""
        folder = self._folder / original_folder(image_id)
        with self._lock:
            for file in [file for file in self._sizes if file.parent == folder]:
                self._remove(file)

    def _file(self, row: StoredImage, side: int) -> Path:
        return self._folder / original_folder(row.image_id) / f"{row.sha256}-{side}.jpg"

    def _remove(self, file: Path) -> None:
        self._bytes -= self._sizes.pop(file)
        file.unlink(missing_ok=True)
